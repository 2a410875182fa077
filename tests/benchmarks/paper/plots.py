"""The figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.paper.detection import SHARES, Curve, ideal
from tests.benchmarks.paper.proof import Gain
from tests.benchmarks.paper.rankings import METHODS, RANDOM
from tests.benchmarks.paper.significance import mean_and_error

mpl.use("Agg")
from matplotlib import pyplot as plt  # the backend is chosen first
from matplotlib.ticker import MaxNLocator

STYLE: dict[Any, Any] = {  # matplotlib's own type is the literal names of all its settings
    "figure.dpi": 110,
    "savefig.bbox": "tight",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "eif",
}
COLORS = ("#1b6ca8", "#d1495b", "#66a182", "#8d6a9f", "#edae49", "#4a4a4a")


def gains_figure(path: Path, panels: Mapping[str, Sequence[Gain]], *, title: str) -> None:
    """A panel a way of retraining: mean gain in distance of every arm, with two standard errors."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(3.1 * len(panels) + 2.2, 3.9), sharey=True, squeeze=False)
        for axis, (name, gains) in zip(axes[0], panels.items(), strict=True):
            arms = [arm for arm in (*METHODS, RANDOM) if any(gain.arm == arm for gain in gains)]
            for place, arm in enumerate(arms):
                mean, error = mean_and_error([gain.distance_gain for gain in gains if gain.arm == arm])
                axis.barh(place, mean, xerr=2 * error, color=_color(arm), height=0.7, ecolor="#555555", capsize=2)
            axis.axvline(0, color="#333333", linewidth=0.8)
            axis.set_yticks(range(len(arms)), arms)
            axis.set_title(name, fontsize=9)
            axis.set_xlabel("gain in distance")
            axis.xaxis.set_major_locator(MaxNLocator(4))
        axes[0][0].invert_yaxis()
        figure.suptitle(title, fontsize=10)
        figure.tight_layout()
        figure.savefig(path)
        plt.close(figure)


def detection_figure(path: Path, panels: Mapping[str, Sequence[Sequence[Curve]]], *, share: float) -> None:
    """A panel a kind of flips; each curve is the mean over models, the band runs from the least to the most."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.8), sharey=True, squeeze=False)
        for axis, (name, models) in zip(axes[0], panels.items(), strict=True):
            axis.plot(SHARES, ideal(share), color="#222222", linestyle=":", label="ideal")
            for place, curve in enumerate(models[0] if models else []):
                found = np.array([model[place].found for model in models])
                color = COLORS[place % len(COLORS)]
                axis.plot(SHARES, found.mean(axis=0), color=color, label=curve.name)
                axis.fill_between(SHARES, found.min(axis=0), found.max(axis=0), color=color, alpha=0.15, linewidth=0)
            axis.plot(SHARES, SHARES, color="#999999", linestyle="--", label="random")
            axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="share of the training set checked", title=name)
        axes[0][0].set_ylabel("share of flipped labels found")
        axes[0][-1].legend(loc="lower right", fontsize=8)
        figure.tight_layout()
        figure.savefig(path)
        plt.close(figure)


def relabel_figure(
    path: Path, panels: Mapping[str, Mapping[str, NDArray[np.float64]]], shares: Sequence[float]
) -> None:
    """A panel a kind of flips: share of flipped samples that get their true label back, by share flipped."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.4), sharey=True, squeeze=False)
        for axis, (name, rules) in zip(axes[0], panels.items(), strict=True):
            for color, (rule, hits) in zip(COLORS, rules.items(), strict=False):
                axis.plot([f"{100 * share:g} %" for share in shares], hits, marker="o", color=color, label=rule)
            axis.set(ylim=(0, 1.02), xlabel="labels flipped", title=name)
        axes[0][0].set_ylabel("true label suggested")
        axes[0][-1].legend(loc="lower left", fontsize=8)
        figure.tight_layout()
        figure.savefig(path)
        plt.close(figure)


def _color(arm: str) -> str:
    if arm == RANDOM:
        return "#bbbbbb"
    return COLORS[2] if "kfac" in arm else COLORS[0] if arm.startswith("EIF") else COLORS[1]

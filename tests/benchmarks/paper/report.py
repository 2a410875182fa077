"""docs/results/paper.md: tables and figures as measured, and a reading by hand that survives the next run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.paper.detectors import ISSUES, KNN_EMBEDDING, KNN_PENULTIMATE
from tests.benchmarks.paper.flips import Noise
from tests.benchmarks.paper.plots import detection_figure, gains_figure, relabel_figure
from tests.benchmarks.paper.proof import DRAWS, TOP_K, Gain
from tests.benchmarks.paper.results import Results
from tests.benchmarks.paper.tables import LOSSES, detector_table, of, proof_table, relabel_table, runtime_table, table

READING = ("<!-- reading: by hand, kept by the next run -->", "<!-- end of reading -->")
RULES = (KNN_EMBEDDING, KNN_PENULTIMATE, ISSUES)
PROOF_NOTE = f"""\
Gain in the query's distance against retraining one epoch on the training set as it is, mean over queries and seeds ±
standard error. `all`: every harmful sample x0 and every helpful one x2, as published; `top {TOP_K}`: those at the two
ends. `apart`: share of queries with a gain above 0. `r@1`: gain in test recall@1. p-values are two-sided and paired by
query, both losses together; queries of one model are taken for independent, which they are only in part. Random: as
many samples of each weight as `EIF, published 50 steps`, mean of {DRAWS} draws (one for the network). kfac: damping is
0.01 where none is named."""
CURVES_NOTE = """\
Training samples in order of their influence (published 50 steps), from the harmful end, the helpful end, or both (by
absolute value); a pair's curve is the mean over the 20 closest. Bands: least and most over the models."""
RELABEL_NOTE = f"""\
Share of all flipped samples that the rule gives their true label, mean over {" and ".join(LOSSES.values())} and seeds ±
standard error."""
DETECTOR_NOTE = """\
Every detector on the models with the most flips. Precision: of as many samples as there are flips. Kept: share of the
other samples whose label the rule would leave. Seconds: median, of one model."""
RUNTIME_NOTE = """\
Seconds of processor time, all threads together. One model; features cached before, except in the first row. Its
confusions by pair, no sample in two."""
KINDS = {"pair": "confusion pairs", "group": "confusion groups (a class)"}


def write_report(out: Path, all_results: Sequence[Results], shares: Sequence[float], *, setting: Sequence[str]) -> Path:
    """Write the figures and the page; gives the page."""
    path = out / "paper.md"
    figures = out / "paper"
    figures.mkdir(parents=True, exist_ok=True)
    parts = ["# The paper's experiments, at the size of this data", "", *setting, "", *_reading(path), ""]
    for results in all_results:
        parts += _section(results, figures, shares)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def _reading(path: Path) -> list[str]:
    first, last = READING
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    if first in old and last in old:
        return [first + old.split(first, 1)[1].split(last, 1)[0] + last]
    return [first, last]


def _section(results: Results, figures: Path, shares: Sequence[float]) -> list[str]:
    counts = f"{results.train:,} training samples and {results.test:,} test samples of other classes"
    parts = [f"## {results.name}: {counts}", "", _recalls(results), ""]
    parts += _table_1(results, figures) + _figure_2(results, figures, shares) + _table_2(results, figures, shares)
    if results.timed:
        parts += ["### Table 3: run time", "", RUNTIME_NOTE, "", runtime_table(results.timed), ""]
    return parts


def _recalls(results: Results) -> str:
    by_kind: dict[str, list[float]] = {}
    for name, recall in results.recalls.items():
        by_kind.setdefault(name.rpartition("-seed")[0], []).append(recall)
    rows = [[kind, " ".join(f"{value:.3f}" for value in values)] for kind, values in by_kind.items()]
    return table(["model (loss, flips, percent)", "test recall@1, by seed"], rows)


def _table_1(results: Results, figures: Path) -> list[str]:
    parts = ["### Table 1: retraining as the ranking says", "", PROOF_NOTE, ""]
    settings = list(dict.fromkeys((gain.retrained, gain.kind, gain.optimizer) for gain in results.gains))
    for retrained in dict.fromkeys(setting[0] for setting in settings):
        panels = {
            f"{KINDS[kind]}, {optimizer}": _chosen(results.gains, retrained, kind, optimizer, "all")
            for which, kind, optimizer in settings
            if which == retrained
        }
        name = f"{results.name}-{retrained}.png"
        gains_figure(
            figures / name,
            panels,
            title=f"{retrained} retrained, all harmful x0 and helpful x2; whiskers: two standard errors",
        )
        parts += [f"![gain in distance, {retrained} retrained](paper/{name})", ""]
    for retrained, kind, optimizer in settings:
        chosen = _chosen(results.gains, retrained, kind, optimizer)
        queries = len({(gain.model, gain.query) for gain in chosen})
        parts += [f"**{retrained}, {KINDS[kind]}, {optimizer}**, {queries} queries", "", proof_table(chosen), ""]
    return parts


def _chosen(gains: Sequence[Gain], retrained: str, kind: str, optimizer: str, budget: str = "") -> list[Gain]:
    wanted = (retrained, kind, optimizer)
    return [
        gain for gain in gains if (gain.retrained, gain.kind, gain.optimizer) == wanted and budget in {"", gain.budget}
    ]


def _figure_2(results: Results, figures: Path, shares: Sequence[float]) -> list[str]:
    if not results.curves:
        return []
    name = f"{results.name}-detection.png"
    panels = {f"{noise} flips": results.curves[noise] for noise in results.curves}
    detection_figure(figures / name, panels, share=max(shares))
    return ["### Figure 2: wrong labels found, by rank", "", CURVES_NOTE, "", f"![detection curves](paper/{name})", ""]


def _table_2(results: Results, figures: Path, shares: Sequence[float]) -> list[str]:
    name = f"{results.name}-relabel.png"
    panels = {f"{noise} flips": {rule: _hits(results, noise, rule, shares) for rule in RULES} for noise in Noise}
    relabel_figure(figures / name, panels, sorted(shares))
    peers = [f"No peers: {results.no_peers}.", ""] if results.no_peers else []
    return [
        "### Table 2: relabelling",
        "",
        RELABEL_NOTE,
        "",
        relabel_table(results.detected, RULES, sorted(shares)),
        "",
        f"![relabelling](paper/{name})",
        "",
        "### Whose label is wrong: beside peers",
        "",
        DETECTOR_NOTE,
        "",
        detector_table(results.detected, max(shares)),
        "",
        *peers,
    ]


def _hits(results: Results, noise: Noise, rule: str, shares: Sequence[float]) -> NDArray[np.float64]:
    found = []
    for share in sorted(shares):
        hits = [
            each.hit for each in of(results.detected, noise, share) if each.detector == rule and each.hit is not None
        ]
        found.append(np.mean(hits) if hits else np.nan)
    return np.array(found)

"""Figures as cards, with the value of the previous audit; and what to do first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from eif_engine.audit_figures import FIGURES

SHARES = frozenset(
    {
        "map_at_r",
        "confusion_share",
        "label_issue_share",
        "estimated_noise",
        "canary_precision",
        "canary_recall",
        "harm_of_top_percent",
    }
)
GAINS = frozenset(name for name in FIGURES if name.startswith("proof_"))
HIGHER_IS_BETTER = frozenset({"map_at_r", "canary_precision", "canary_recall"})
NEITHER = frozenset({"train_samples", "test_samples", "classes", "reviewed", "harm_of_top_percent"}) | GAINS

CARDS = {
    "recall_at_1": "Recall@1",
    "confusion_pairs": "Confusions",
    "label_issues": "Label issues",
    "test_label_issues": "Test label issues",
    "map_at_r": "MAP@R",
    "estimated_noise": "Estimated wrong labels",
    "canary_precision": "Precision of flags",
    "harm_of_top_percent": "Harm by the worst 1 %",
    "leaks": "Train-test leaks",
    "label_conflicts": "Label conflicts",
    "near_duplicates": "Near duplicates",
    "outliers": "Outliers",
}
"""Shown large, in this order; the others stand in a table."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A figure for people.

    Attributes:
        change: Such as `+12`; empty where there is no previous value or it is the same.
        arrow: `up` or `down`; empty without a change.
        mood: `better`, `worse`, or empty where neither can be said.
    """

    name: str
    title: str
    value: str
    meaning: str
    previous: str = ""
    change: str = ""
    arrow: str = ""
    mood: str = ""


def key_cards(figures: Mapping[str, float], previous: Mapping[str, float]) -> list[Card]:
    """The figures that matter most, as far as the audit has them."""
    return [_card(name, title, figures, previous) for name, title in CARDS.items() if name in figures]


def other_cards(figures: Mapping[str, float], previous: Mapping[str, float]) -> list[Card]:
    """All other figures."""
    order = {name: place for place, name in enumerate(FIGURES)}
    names = sorted((name for name in figures if name not in CARDS), key=lambda name: (order.get(name, 999), name))
    return [_card(name, name.replace("_", " "), figures, previous) for name in names]


def _card(name: str, title: str, figures: Mapping[str, float], previous: Mapping[str, float]) -> Card:
    value, before = figures[name], previous.get(name)
    card = Card(name=name, title=title, value=write_figure(name, value), meaning=_meaning(name))
    if before is None:
        return card
    delta = value - before
    same = write_figure(name, value) == write_figure(name, before)
    return Card(
        name=name,
        title=title,
        value=card.value,
        meaning=card.meaning,
        previous=write_figure(name, before),
        change="" if same else _write_change(name, delta),
        arrow="" if same else ("up" if delta > 0 else "down"),
        mood="" if same else _mood(name, delta),
    )


def is_share(name: str) -> bool:
    """Whether the figure lies in [0, 1] and is written in percent."""
    return name in SHARES or name.startswith("recall_at_")


def write_figure(name: str, value: float) -> str:
    """For people: a share in percent, a gain with its sign, a count with its thousands."""
    if name in GAINS:
        return f"{value:+.4f}"
    if is_share(name):
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def _write_change(name: str, delta: float) -> str:
    written = f"{100 * delta:+.1f} points" if is_share(name) else f"{delta:+,.4g}"
    return (f"{delta:+.4f}" if name in GAINS else written).replace("-", "\N{MINUS SIGN}")


def _mood(name: str, delta: float) -> str:
    if name in NEITHER or (name not in FIGURES and not name.startswith("recall_at_")):
        return ""
    higher = name in HIGHER_IS_BETTER or name.startswith("recall_at_")
    return "better" if (delta > 0) == higher else "worse"


def _meaning(name: str) -> str:
    if name.startswith("recall_at_") and name not in FIGURES:
        k = name.removeprefix("recall_at_")
        return f"share of test samples with their label among their {k} nearest other test samples"
    return FIGURES.get(name, "")

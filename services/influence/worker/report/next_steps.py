"""What to do first, in the order in which it pays, from the figures of an audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.influence.worker.report.key_figures import write_figure


@dataclass(frozen=True, kw_only=True)
class Step:
    """Something to do, and the section that shows what it is about."""

    text: str
    why: str
    section: str


def next_steps(figures: Mapping[str, float]) -> list[Step]:
    """Only what there is something to do about."""
    return [step for name, step in _steps(figures).items() if figures.get(name, 0) > 0]


def _steps(figures: Mapping[str, float]) -> dict[str, Step]:
    def count(name: str, one: str, many: str) -> str:
        value = figures.get(name, 0)
        return f"{write_figure(name, value)} {one if value == 1 else many}"

    precision = figures.get("canary_precision")
    sure = "" if precision is None else f"about {100 * precision:.0f} in 100 of them are expected to be wrong; "
    return {
        "leaks": Step(
            text=f"Remove {count('leaks', 'image', 'images')} found in train and in test",
            why="until then every figure of the test set flatters the model",
            section="duplicates",
        ),
        "test_label_issues": Step(
            text=f"Check {count('test_label_issues', 'test label', 'test labels')}",
            why="a wrong test label makes a right model look wrong; such confusions blame no training sample here",
            section="test-labels",
        ),
        "label_issues": Step(
            text=f"Review {count('label_issues', 'training label', 'training labels')}",
            why=f"{sure}the most doubtful come first, each with a suggested label",
            section="label-issues",
        ),
        "label_conflicts": Step(
            text=f"Settle {count('label_conflicts', 'group', 'groups')} of duplicates with more than one label",
            why="the same image cannot be two things",
            section="duplicates",
        ),
        "classes_centralized": Step(
            text=f"Merge or rename {count('classes_centralized', 'class', 'classes')}",
            why="much of each belongs to one other class",
            section="class-advice",
        ),
        "classes_diversified": Step(
            text=f"Clean {count('classes_diversified', 'class', 'classes')}",
            why="much of each belongs to several others",
            section="class-advice",
        ),
        "confusion_classes": Step(
            text=f"Look at {count('confusion_classes', 'confused class', 'confused classes')}",
            why="each with the training samples that hold the confusion in place",
            section="confusions",
        ),
    }

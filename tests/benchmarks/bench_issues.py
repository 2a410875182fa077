"""Label issues on cases whose true labels are known: `python tests/benchmarks/bench_issues.py CASE.npz ...`.

Prints Markdown tables: detection and suggestions by case, the parts' average precision, and reliability over all cases.
Only this script reads `train_labels_clean`.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from eif_engine.cases import load_case
from eif_engine.issue_config import IssueConfig
from eif_engine.jobs.issues import IssueReport, find_issues

EDGES = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A report beside the truth."""

    name: str
    report: IssueReport
    given_N: NDArray[np.int64]
    right_N: NDArray[np.int64]
    cpu_seconds: float

    @property
    def wrong_N(self) -> NDArray[np.bool_]:
        wrong_N: NDArray[np.bool_] = self.given_N != self.right_N
        return wrong_N


def measure(path: Path, config: IssueConfig) -> Measured:
    case = load_case(path)
    z_ND = case.head.embed(case.train_features_NF)
    start = time.process_time()
    report = find_issues(
        features_NF=case.train_features_NF,
        embeddings_ND=z_ND,
        labels_N=case.train_labels_N,
        num_classes=case.loss.num_classes,
        loss_N=case.loss.per_sample(z_ND, case.train_labels_N),
        config=config,
    )
    seconds = time.process_time() - start
    with np.load(path, allow_pickle=False) as file:
        right_N = file["train_labels_clean"].astype(np.int64)
    return Measured(
        name=path.stem,
        report=report,
        given_N=case.train_labels_N.numpy(),
        right_N=right_N,
        cpu_seconds=seconds,
    )


def detection(found: Measured) -> list[str]:
    report, wrong = found.report, found.wrong_N
    flagged = report.issue_score_N >= report.flag_above
    values = [
        average_precision_score(wrong, report.issue_score_N),
        roc_auc_score(wrong, report.issue_score_N),
        (report.suggested_label_N == found.right_N)[wrong].mean(),
        (report.alternative_label_N == found.right_N)[wrong].mean(),
        wrong.mean(),
        report.estimated_noise,
        wrong[flagged].mean(),
        flagged[wrong].mean(),
        report.canary_recall,
        report.pulls["penultimate"],
        report.pulls["embedding"],
    ]
    return [found.name, *(f"{value:.3f}" for value in values), f"{found.cpu_seconds:.0f}"]


def reliability(probability: NDArray[np.float64], happened: NDArray[np.bool_]) -> list[list[str]]:
    rows = []
    for low, high in itertools.pairwise(EDGES):
        inside = (probability >= low) & ((probability < high) | (high == 1.0))
        if inside.any():
            said, was = probability[inside].mean(), happened[inside].mean()
            rows.append([f"{low:.2f} to {high:.2f}", f"{inside.sum()}", f"{said:.3f}", f"{was:.3f}"])
    return rows


def table(header: list[str], rows: list[list[str]]) -> None:
    for row in (header, ["---"] * len(header), *rows):
        sys.stdout.write("| " + " | ".join(row) + " |\n")
    sys.stdout.write("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", type=Path, nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = [measure(path, IssueConfig(seed=args.seed)) for path in args.cases]
    columns = "case AP AUROC hit hit-of-alternative noise estimated precision recall canary-recall pull-x pull-z cpu-s"
    table(columns.split(), [detection(one) for one in found])
    parts = list(found[0].report.parts)
    by_part = [
        [one.name, *(f"{average_precision_score(one.wrong_N, one.report.parts[part]):.3f}" for part in parts)]
        for one in found
    ]
    table(["case", *parts], by_part)
    wrong = np.concatenate([one.wrong_N for one in found])
    table(["issue_score", "samples", "said", "was"], reliability(_all(found, "issue_score_N"), wrong))
    right = np.concatenate([one.report.suggested_label_N == one.right_N for one in found])
    changed = np.concatenate([one.report.suggested_label_N != one.given_N for one in found])
    probability = _all(found, "suggested_probability_N")
    table(["suggested_probability", "samples", "said", "was"], reliability(probability, right))
    table(["of changed labels", "samples", "said", "was"], reliability(probability[changed], right[changed]))


def _all(found: list[Measured], name: str) -> NDArray[np.float64]:
    return np.concatenate([getattr(one.report, name) for one in found])


if __name__ == "__main__":
    main()

"""Seconds of each method on a case, and how its ranking agrees with that of empirical influence.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.baselines CASE.npz [--pairs 100] [--methods eif,loss] [--damping 0.1]

Prints a Markdown table. Seconds are those of the processor, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from eif_engine.cases import Case, load_case
from eif_engine.config import InfluenceConfig, QueryKind, UnitStep
from eif_engine.jobs.methods import rank_by
from eif_engine.jobs.queries import confusions, pair_query
from eif_engine.method_config import Method, MethodConfig
from eif_engine.types import Query

TOP = 20
REFERENCES = {
    "eif, one step of 1": InfluenceConfig(step=UnitStep(radius=1.0)),
    "eif, one step of 0.01": InfluenceConfig(step=UnitStep(radius=0.01)),
}
"""What rankings are compared with: a long step, and one short enough to be a derivative. The first is timed as eif."""


def timed(
    case: Case, method: Method, queries: Sequence[Query], settings: MethodConfig, config: InfluenceConfig | None = None
) -> tuple[float, NDArray[np.float64]]:
    """Processor seconds, and scores (Q, N)."""
    start = time.process_time()
    ranked = rank_by(
        method,
        head=case.head,
        loss=case.loss,
        train_features_NF=case.train_features_NF,
        train_labels_N=case.train_labels_N,
        test_features_MF=case.test_features_MF,
        queries=queries,
        config=config or next(iter(REFERENCES.values())),
        method_config=settings,
    )
    scores_QN = np.array([scores for _, scores in ranked])
    return time.process_time() - start, scores_QN


def agreement(scores_QN: NDArray[np.float64], reference_QN: NDArray[np.float64]) -> tuple[float, float]:
    """Mean over the queries of Spearman's correlation, and of the share of the top that both have."""
    pairs = list(zip(scores_QN, reference_QN, strict=True))
    spearman = [float(np.corrcoef(_ranks(mine), _ranks(other))[0, 1]) for mine, other in pairs]
    shared = [len(set(np.argsort(-mine)[:TOP]) & set(np.argsort(-other)[:TOP])) / TOP for mine, other in pairs]
    return float(np.mean(spearman)), float(np.mean(shared))


def write(line: str) -> None:
    """To standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _ranks(scores_N: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.argsort(np.argsort(scores_N, kind="stable"), kind="stable")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Seconds and agreement of all methods on a case.")
    parser.add_argument("case", type=Path)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--methods", default=",".join(Method))
    parser.add_argument("--damping", type=float, default=MethodConfig.damping)
    args = parser.parse_args()
    settings = MethodConfig(damping=args.damping)
    torch.set_num_threads(1)
    case = load_case(args.case)
    pairs = confusions(case.head.embed(case.test_features_MF), case.test_labels)[: args.pairs]
    queries = [pair_query(pair, case.test_ids, QueryKind.CONFUSION_PAIRS) for pair in pairs]
    references = [timed(case, Method.EIF, queries, settings, config)[1] for config in REFERENCES.values()]
    compared = "".join(f" Spearman, top {TOP} shared with {name} |" for name in REFERENCES)
    write(f"| method | damping | 1 pair, s | {len(queries)} pairs, s |{compared}")
    write("|---|---|---|---|---|---|")
    for method in (Method(name) for name in args.methods.split(",")):
        one, _ = timed(case, method, queries[:1], settings)
        many, scores_QN = timed(case, method, queries, settings)
        agreed = "".join(" {:+.3f}, {:.0%} |".format(*agreement(scores_QN, other_QN)) for other_QN in references)
        write(f"| {method.value} | {settings.damping:g} | {one:.2f} | {many:.1f} |{agreed}")


if __name__ == "__main__":
    main()

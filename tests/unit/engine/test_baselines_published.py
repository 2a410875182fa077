"""Agreement with the scores that the published influence-function baseline gives on a real model (../shared/cases).

Its scores are `-grad d^T H^-1 grad L`, the negative of ours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from eif_engine.cases import load_case
from eif_engine.cli.inputs import group_query
from eif_engine.config import InfluenceConfig, QueryKind
from eif_engine.jobs.methods import rank_by
from eif_engine.jobs.queries import pair_query, row_pairs
from eif_engine.method_config import Method

LIMIT = {torch.float64: 1e-5, torch.float32: 1e-3}


@pytest.fixture(scope="module")
def path(shared_dir: Path) -> Path:
    return shared_dir / "cases" / "omniglot_proxy_nca.npz"


@pytest.fixture(scope="module")
def published(path: Path) -> NDArray[np.float64]:
    with np.load(path, allow_pickle=False) as file:
        return np.array([file["published_if_pair0"], file["published_if_group"]], dtype=np.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_pair_and_group(path: Path, published: NDArray[np.float64], dtype: torch.dtype) -> None:
    case = load_case(path)
    with np.load(path, allow_pickle=False) as file:
        first, second = file["pairs"][0].tolist()
    (pair,) = row_pairs([(first, second)], case.head.embed(case.test_features_MF))
    ranked = rank_by(
        Method.PUBLISHED_IF,
        head=case.head,
        loss=case.loss,
        train_features_NF=case.train_features_NF,
        train_labels_N=case.train_labels_N,
        test_features_MF=case.test_features_MF,
        queries=[pair_query(pair, case.test_ids, QueryKind.CONFUSION_PAIRS), group_query(case, "200")],
        config=InfluenceConfig(),
        dtype=dtype,
    )
    for (_, found_N), published_N in zip(ranked, published, strict=True):
        assert np.abs(found_N + published_N).max() <= LIMIT[dtype] * np.abs(published_N).max()
        assert np.linalg.norm(found_N + published_N) <= LIMIT[dtype] * np.linalg.norm(published_N)

"""Agreement with the scores that the published EIF code gives on a real model (../shared/cases)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from eif_engine.cases import Case, load_case
from eif_engine.cli.inputs import group_query
from eif_engine.config import InfluenceConfig, PublishedSteps, QueryKind
from eif_engine.jobs.queries import confusions, pair_query, row_pairs
from eif_engine.jobs.rank import rank
from eif_engine.types import Query

LIMIT = {1: 2e-3, 50: 1e-4}


@pytest.fixture(scope="module")
def arrays(shared_dir: Path) -> dict[str, NDArray[np.float64]]:
    with np.load(shared_dir / "cases" / "omniglot_proxy_nca.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name.startswith("published_") or name == "pairs"}


@pytest.fixture(scope="module")
def case(shared_dir: Path) -> Case:
    return load_case(shared_dir / "cases" / "omniglot_proxy_nca.npz")


def scores(case: Case, queries: list[Query], *, steps: int, thetas: int, dtype: torch.dtype) -> NDArray[np.float64]:
    ranked = rank(
        head=case.head,
        loss=case.loss,
        train_features_NF=case.train_features_NF,
        train_labels_N=case.train_labels_N,
        test_features_MF=case.test_features_MF,
        queries=queries,
        config=InfluenceConfig(
            step=PublishedSteps(steps=steps, learning_rate=1e-3), num_thetas=thetas, normalize=False
        ),
        dtype=dtype,
    )
    return np.array([found for _, found in ranked])


def assert_agrees(found: NDArray[np.float64], published: NDArray[np.float64], limit: float) -> None:
    assert np.abs(found - published).max() <= limit * np.abs(published).max()
    assert np.linalg.norm(found - published) <= limit * np.linalg.norm(published)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("thetas", [1, 2])
@pytest.mark.parametrize("steps", [1, 50])
def test_pairs(case: Case, arrays: dict[str, NDArray[np.float64]], steps: int, thetas: int, dtype: torch.dtype) -> None:
    pairs = row_pairs([tuple(pair) for pair in arrays["pairs"].tolist()], case.head.embed(case.test_features_MF))
    queries = [pair_query(pair, case.test_ids, QueryKind.CONFUSION_PAIRS) for pair in pairs]
    found = scores(case, queries, steps=steps, thetas=thetas, dtype=dtype)
    for row, published in zip(found, arrays[f"published_pair_steps{steps}_k{thetas}"], strict=True):
        assert_agrees(row, published, LIMIT[steps])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("thetas", [1, 2])
def test_group(case: Case, arrays: dict[str, NDArray[np.float64]], thetas: int, dtype: torch.dtype) -> None:
    found = scores(case, [group_query(case, "200")], steps=50, thetas=thetas, dtype=dtype)
    assert_agrees(found[0], arrays[f"published_group_steps50_k{thetas}"], LIMIT[50])


def test_the_closest_confusions_are_the_published_ones(case: Case, arrays: dict[str, NDArray[np.float64]]) -> None:
    found = confusions(case.head.embed(case.test_features_MF), case.test_labels)
    assert len(found) == 629
    assert {(pair.row, pair.neighbor) for pair in found[:3]} == {tuple(pair) for pair in arrays["pairs"].tolist()}

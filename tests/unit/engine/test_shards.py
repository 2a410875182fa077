from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from eif_engine.config import InfluenceConfig, QueryKind
from eif_engine.data.shards import FeatureShards
from eif_engine.errors import InvalidInput
from eif_engine.jobs.queries import find_queries
from eif_engine.jobs.score import Scorer
from tests.toy import toy


def write(folder: Path, x_NF: NDArray[np.float32], sizes: list[int]) -> FeatureShards:
    paths = []
    for number, part in enumerate(np.split(x_NF, np.cumsum(sizes)[:-1])):
        paths.append(folder / f"{number}.npy")
        np.save(paths[-1], part)
    return FeatureShards(paths)


def test_any_range_of_rows(tmp_path: Path) -> None:
    x_NF = np.random.default_rng(0).normal(size=(23, 5)).astype(np.float32)
    shards = write(tmp_path, x_NF, [7, 0, 1, 15])
    assert (len(shards), shards.shape) == (23, (23, 5))
    for start in range(24):
        for stop in range(start, 25):
            assert np.array_equal(shards[start:stop].numpy(), x_NF[start:stop])
    assert np.array_equal(shards[:].numpy(), x_NF)
    with pytest.raises(ValueError, match="step 1"):
        shards[::2]


def test_scores_are_those_of_the_tensor(tmp_path: Path) -> None:
    data = toy(train=700)
    queries = find_queries(
        embeddings_MD=data.head.embed(data.test_MF),
        labels=data.test_labels,
        sample_ids=data.test_ids,
        kind=QueryKind.CONFUSION_PAIRS,
    )
    x_NF = data.train_NF.float()

    def scores(features: torch.Tensor | FeatureShards) -> torch.Tensor:
        scorer = Scorer(
            head=data.head,
            loss=data.proxy_nca,
            train_features=features,
            train_labels_N=data.train_labels_N,
            config=InfluenceConfig(),
        )
        return next(scorer.chunks(queries, data.test_MF)).scores_QN

    assert torch.equal(scores(write(tmp_path, x_NF.numpy(), [300, 400])), scores(x_NF))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 4)),
        np.zeros(3, np.float32),
        np.asfortranarray(np.zeros((3, 4), np.float32)),
        np.zeros((2, 2), ">f4"),
    ],
    ids=["float64", "one-dimension", "fortran", "big-endian"],
)
def test_other_arrays_are_refused(tmp_path: Path, array: NDArray[np.float32]) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InvalidInput, match=r"a\.npy: is .*float32 in C order is needed"):
        FeatureShards([tmp_path / "a.npy"])


def test_files_that_are_no_arrays_or_end_early_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(InvalidInput, match=r"text\.npy: cannot be read as a \.npy array"):
        FeatureShards([tmp_path / "text.npy"])
    np.save(tmp_path / "cut.npy", np.zeros((10, 4), np.float32))
    whole = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-8])
    shards = FeatureShards([tmp_path / "cut.npy"])
    assert shards[:9].shape == (9, 4)
    with pytest.raises(InvalidInput, match=r"cut\.npy: ends before its 10 rows do"):
        shards[5:]


def test_shards_of_other_widths_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 4), np.float32))
    np.save(tmp_path / "b.npy", np.zeros((1, 5), np.float32))
    with pytest.raises(InvalidInput, match=r"equally many columns each, got \[4, 5\]"):
        FeatureShards([tmp_path / "a.npy", tmp_path / "b.npy"])

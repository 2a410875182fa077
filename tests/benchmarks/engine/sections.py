"""What is measured, one function a section; each runs in a process of its own and returns figures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eif_engine.cases import load_case
from eif_engine.config import FirstOrder, InfluenceConfig, Metric, QueryKind, UnitStep
from eif_engine.data.rows import FeatureRows
from eif_engine.data.shards import FeatureShards
from eif_engine.jobs.queries import confusions, pair_query
from eif_engine.jobs.score import Scorer, pair_rows
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.models.head import Head
from eif_engine.types import Pair, Query
from tests.benchmarks.engine.measure import fastest, peak_bytes, resident_bytes, seconds
from tests.benchmarks.engine.published import published_scores

Figures = dict[str, float]
EXACT, FIRST = InfluenceConfig(step=UnitStep()), InfluenceConfig(step=FirstOrder())
SHARD_ROWS = 65_536


def case(device: str, shared: Path) -> Figures:
    """Every confusion of the case file against the published procedure for one."""
    found = load_case(shared / "cases" / "omniglot_proxy_nca.npz")
    pairs = confusions(found.head.embed(found.test_features_MF), found.test_labels)
    queries = [pair_query(pair, found.test_ids, QueryKind.CONFUSION_PAIRS) for pair in pairs]
    x_NF = found.train_features_NF.float()

    def run(config: InfluenceConfig, some: list[Query], dtype: torch.dtype) -> Tensor:
        scorer = Scorer(
            head=found.head,
            loss=found.loss,
            train_features=x_NF,
            train_labels_N=found.train_labels_N,
            config=config,
            device=device,
            dtype=dtype,
        )
        return torch.cat([chunk.scores_QN for chunk in scorer.chunks(some, found.test_features_MF)])

    published = partial(
        published_scores,
        head=found.head.to(device="cpu", dtype=torch.float32),
        loss=found.loss.to(device="cpu", dtype=torch.float32),
        x_NF=x_NF,
        labels_N=found.train_labels_N,
        pair_RF=pair_rows(queries[0], found.test_features_MF).float(),
        radius=1.0,
        thetas=2,
    )
    exact = run(EXACT, queries, torch.float64)
    figures = {
        "pairs": len(queries),
        "samples": len(x_NF),
        "published_one_pair_s": fastest(published, 1),
        "exact_all_f32_s": fastest(lambda: run(EXACT, queries, torch.float32), 3),
        "exact_all_f64_s": fastest(lambda: run(EXACT, queries, torch.float64), 2),
        "exact_one_f32_s": fastest(lambda: run(EXACT, queries[:1], torch.float32), 5),
        "first_order_all_f32_s": fastest(lambda: run(FIRST, queries, torch.float32), 3),
        "kfac_20_steps_all_f32_s": fastest(
            lambda: run(InfluenceConfig(step=UnitStep(steps=20), metric=Metric.KFAC), queries, torch.float32), 1
        ),
        "error_f32": _error(run(EXACT, queries, torch.float32), exact),
        "error_published_f32": _error(published()[None], exact[:1]),
    }
    figures["published_over_exact_per_pair"] = (
        figures["published_one_pair_s"] * len(queries) / figures["exact_all_f32_s"]
    )
    figures["exact_over_first_order"] = figures["exact_all_f32_s"] / figures["first_order_all_f32_s"]
    return figures


def inshop(device: str, _shared: Path) -> Figures:
    """InShop size: 25,882 x 2,048 features to 512, 3,997 proxies, a budget of 2 GiB."""
    head, loss, labels_N, test_MF = _world(samples=25_882, features=2048, dim=512, classes=3997)
    x_NF = torch.randn(25_882, 2048, generator=torch.Generator().manual_seed(1))
    queries = _queries(1000, len(test_MF))
    before = resident_bytes()

    def run(config: InfluenceConfig, some: list[Query]) -> None:
        _consume(head, loss, x_NF, labels_N, test_MF, some, config, device, memory_bytes=2 << 30)

    scorer = Scorer(
        head=head,
        loss=loss,
        train_features=x_NF,
        train_labels_N=labels_N,
        config=EXACT,
        device=device,
        dtype=torch.float32,
        memory_bytes=2 << 30,
        keep_base=True,
    )
    return {
        "exact_one_cold_s": fastest(lambda: run(EXACT, queries[:1]), 3),
        "exact_one_s": fastest(lambda: list(scorer.chunks(queries[:1], test_MF)), 5),
        "first_order_1000_s": fastest(lambda: run(FIRST, queries), 1),
        "peak_over_inputs_bytes": peak_bytes() - before,
        "budget_bytes": 2 << 30,
    }


def million(device: str, _shared: Path) -> Figures:
    """Up to 1,000,000 x 512 features from shards on a disk, 1,000 proxies, 100 queries, a budget of 4 GiB."""
    figures: Figures = {"budget_bytes": 4 << 30}
    with tempfile.TemporaryDirectory() as folder:
        paths = _write_shards(Path(folder), rows=1_000_000, features=512)
        for count in (250_000, 500_000, 1_000_000):
            head, loss, labels_N, test_MF = _world(samples=count, features=512, dim=512, classes=1000)
            rows = _Head(FeatureShards(paths), count)
            run = partial(
                _consume, head, loss, rows, labels_N, test_MF, _queries(100, len(test_MF)), EXACT, device, 4 << 30
            )
            figures[f"exact_100_of_{count}_s"] = seconds(run)
            figures[f"peak_of_{count}_bytes"] = peak_bytes()
    return figures


SECTIONS: dict[str, Callable[[str, Path], Figures]] = {"case": case, "inshop": inshop, "million": million}


class _Head:
    """The first rows of some features."""

    def __init__(self, features: FeatureRows, count: int) -> None:
        self._features, self._count = features, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: slice, /) -> Tensor:
        return self._features[rows]


def _consume(
    head: Head,
    loss: ProxyLoss,
    x_NF: FeatureRows,
    labels_N: Tensor,
    test_MF: Tensor,
    queries: list[Query],
    config: InfluenceConfig,
    device: str,
    memory_bytes: int,
) -> None:
    """Score, and reduce as it comes: the ten most harmful of each query."""
    scorer = Scorer(
        head=head,
        loss=loss,
        train_features=x_NF,
        train_labels_N=labels_N,
        config=config,
        device=device,
        dtype=torch.float32,
        memory_bytes=memory_bytes,
    )
    for chunk in scorer.chunks(queries, test_MF):
        chunk.scores_QN.topk(10, dim=1)


def _world(*, samples: int, features: int, dim: int, classes: int) -> tuple[Head, ProxyNCA, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    head = Head(torch.randn(dim, features, generator=generator) / features**0.5, torch.zeros(dim))
    loss = ProxyNCA(torch.randn(classes, dim, generator=generator))
    return head, loss, torch.arange(samples) % classes, torch.randn(2000, features, generator=generator)


def _queries(count: int, rows: int) -> list[Query]:
    """Pairs of neighbouring rows."""
    return [
        Query(
            query_id=str(place),
            kind=QueryKind.CONFUSION_PAIRS,
            pairs=(Pair(row=place % rows, neighbor=(place + 1) % rows, distance=0.0),),
        )
        for place in range(count)
    ]


def _write_shards(folder: Path, *, rows: int, features: int) -> list[Path]:
    generator = np.random.default_rng(2)
    paths = []
    for start in range(0, rows, SHARD_ROWS):
        paths.append(folder / f"{start}.npy")
        np.save(paths[-1], generator.standard_normal((min(SHARD_ROWS, rows - start), features), dtype=np.float32))
    return paths


def _error(found_QN: Tensor, exact_QN: Tensor) -> float:
    """The largest difference, in shares of the largest score of its query."""
    return float(((found_QN.double() - exact_QN).abs().amax(1) / exact_QN.abs().amax(1)).max())

"""All queries at once: the same scores as one sample, one theta and one query at a time, however the work is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from eif_engine.config import Distance, FirstOrder, InfluenceConfig, Metric, PublishedSteps, QueryKind, UnitStep
from eif_engine.jobs.budget import Sizes
from eif_engine.jobs.queries import find_queries, row_pairs
from eif_engine.jobs.score import Scorer, pair_rows
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.types import Query
from tests.toy import Toy, toy

CONFIGS = {
    "default": InfluenceConfig(),
    "unit": InfluenceConfig(step=UnitStep()),
    "short": InfluenceConfig(step=UnitStep(radius=1e-4), num_thetas=1),
    "many-steps": InfluenceConfig(step=UnitStep(radius=2.0, steps=5), normalize=False),
    "published": InfluenceConfig(step=PublishedSteps(steps=20, learning_rate=0.3)),
    "random": InfluenceConfig(num_thetas=4, step=UnitStep(radius=0.3)),
    "cosine": InfluenceConfig(distance=Distance.COSINE),
    "kfac": InfluenceConfig(metric=Metric.KFAC, step=UnitStep(radius=0.5)),
    "kfac-steps": InfluenceConfig(metric=Metric.KFAC, step=UnitStep(radius=0.5, steps=4)),
    "kfac-random": InfluenceConfig(metric=Metric.KFAC, step=UnitStep(radius=0.5), num_thetas=3),
    "first-order": InfluenceConfig(step=FirstOrder()),
    "first-order-kfac": InfluenceConfig(step=FirstOrder(), metric=Metric.KFAC),
}


class SquaredToOwnProxy:
    """A loss that is no function of cosines: it takes the way of every loss that has no fast path."""

    def __init__(self, proxies_CD: Tensor) -> None:
        self.proxies_CD = proxies_CD

    @property
    def num_classes(self) -> int:
        return len(self.proxies_CD)

    @property
    def embedding_dim(self) -> int:
        return self.proxies_CD.shape[1]

    def per_sample(self, z_ND: Tensor, labels_N: Tensor) -> Tensor:
        return (z_ND - self.proxies_CD[labels_N]).square().sum(1)

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> SquaredToOwnProxy:
        return SquaredToOwnProxy(self.proxies_CD.to(device, dtype))


class NoFastPath:
    """A loss without what makes it a loss of cosines."""

    def __init__(self, loss: ProxyLoss) -> None:
        self.loss = loss

    @property
    def num_classes(self) -> int:
        return self.loss.num_classes

    @property
    def embedding_dim(self) -> int:
        return self.loss.embedding_dim

    def per_sample(self, z_ND: Tensor, labels_N: Tensor) -> Tensor:
        return self.loss.per_sample(z_ND, labels_N)

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> NoFastPath:
        return NoFastPath(self.loss.to(device=device, dtype=dtype))


def queries_of(data: Toy) -> list[Query]:
    """Pairs, and groups of several sizes: some span more than the embedding does."""
    embeddings_MD = data.head.embed(data.test_MF)
    pairs = find_queries(
        embeddings_MD=embeddings_MD,
        labels=data.test_labels,
        sample_ids=data.test_ids,
        kind=QueryKind.CONFUSION_PAIRS,
    )
    groups = [[(0, 5), (1, 7)], [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)], [(3, 4), (6, 11)]]
    return [
        *pairs[:5],
        *(
            Query(query_id=str(rows), kind=QueryKind.CONFUSION_GROUPS, pairs=tuple(row_pairs(rows, embeddings_MD)))
            for rows in groups
        ),
        *pairs[5:],
    ]


def scores_of(
    data: Toy,
    config: InfluenceConfig,
    *,
    loss: ProxyLoss | None = None,
    dtype: torch.dtype = torch.float64,
    memory_bytes: int = 1 << 30,
) -> Tensor:
    scorer = Scorer(
        head=data.head,
        loss=loss or data.proxy_nca,
        train_features=data.train_NF,
        train_labels_N=data.train_labels_N,
        config=config,
        dtype=dtype,
        memory_bytes=memory_bytes,
    )
    chunks = list(scorer.chunks(queries_of(data), data.test_MF))
    return torch.cat([chunk.scores_QN for chunk in chunks])


@pytest.mark.parametrize("loss", ["proxy_nca", "soft_triple"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_fast_path_is_the_loss_at_the_moved_embeddings(config: InfluenceConfig, loss: str) -> None:
    data = toy(train=50)
    fast = scores_of(data, config, loss=getattr(data, loss))
    slow = scores_of(data, config, loss=NoFastPath(getattr(data, loss)))
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-9 * float(slow.abs().max()))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_neither_budget_nor_threads_change_a_bit(config: InfluenceConfig, dtype: torch.dtype) -> None:
    data = toy(train=700, test=120, features=33, dim=17, classes=30)
    queries = queries_of(data)
    assert len(queries) > 64  # more than a group
    wanted = scores_of(data, config, dtype=dtype)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            sizes = Sizes.of(data.head, data.proxy_nca, config, dtype=dtype)
            few = sizes.bytes_for(7, samples=700, most_rows=10)
            small = scores_of(data, config, dtype=dtype, memory_bytes=few)
            assert torch.equal(small, wanted)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("radius", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("loss", ["proxy_nca", "soft_triple"])
def test_float32_keeps_five_digits_however_short_the_step(radius: float, loss: str) -> None:
    data = toy(train=200, features=64, dim=32, classes=20)
    config = InfluenceConfig(step=UnitStep(radius=radius))
    exact = scores_of(data, config, loss=getattr(data, loss))
    found = scores_of(data, config, loss=getattr(data, loss), dtype=torch.float32)
    worst_Q = (found - exact).abs().amax(1) / exact.abs().amax(1)
    assert float(worst_Q.max()) < 2e-5


def test_short_steps_tend_to_first_order() -> None:
    data = toy(train=200, features=64, dim=32, classes=20)
    for metric in Metric:
        limit = scores_of(data, InfluenceConfig(step=FirstOrder(), metric=metric))
        short = scores_of(data, InfluenceConfig(step=UnitStep(radius=1e-5), metric=metric)) / 1e-5
        torch.testing.assert_close(short, limit, rtol=1e-4, atol=1e-5 * float(limit.abs().max()))


def test_first_order_is_the_product_of_gradients() -> None:
    """With the identity metric and radius 1: `<grad d, grad L(x)>`, by autograd in the head weight."""
    data = toy()
    queries = queries_of(data)
    found = scores_of(data, InfluenceConfig(step=FirstOrder()))
    weight_DF = data.head.weight_DF.clone().requires_grad_()
    for query, scores_N in zip(queries, found, strict=True):
        z_RD = pair_rows(query, data.test_MF) @ weight_DF.T + data.head.bias_D
        left, right = torch.nn.functional.normalize(z_RD, dim=1).chunk(2)
        (distance_DF,) = torch.autograd.grad((left - right).square().sum(1).mean(), weight_DF)
        for x_F, label, score in zip(data.train_NF, data.train_labels_N, scores_N, strict=True):
            z_D = weight_DF @ x_F + data.head.bias_D
            (loss_DF,) = torch.autograd.grad(data.proxy_nca.per_sample(z_D[None], label[None]).sum(), weight_DF)
            assert float(score) == pytest.approx(float((distance_DF * loss_DF).sum()), rel=1e-9, abs=1e-12)


def test_the_kfac_direction_is_the_damped_kronecker_product_inverted() -> None:
    """Dense: `(A (x) G + factored damping)^-1 vec(grad d)`, scaled to the radius; the loss at that whole weight."""
    data, damping, radius = toy(), 0.1, 0.7
    rows = [(0, 5)]
    query = Query(query_id="q", kind=QueryKind.CONFUSION_PAIRS, pairs=tuple(row_pairs(rows, data.test_MF)))
    scorer = Scorer(
        head=data.head,
        loss=data.proxy_nca,
        train_features=data.train_NF,
        train_labels_N=data.train_labels_N,
        config=InfluenceConfig(metric=Metric.KFAC, damping=damping, step=UnitStep(radius=radius), num_thetas=1),
    )
    (chunk,) = scorer.chunks([query], data.test_MF)

    z_ND = data.head.embed(data.train_NF).requires_grad_()
    (g_ND,) = torch.autograd.grad(data.proxy_nca.per_sample(z_ND, data.train_labels_N).sum(), z_ND)
    a_FF = sum(torch.outer(x_F, x_F) for x_F in data.train_NF) / len(data.train_NF)
    g_DD = sum(torch.outer(g_D, g_D) for g_D in g_ND) / len(g_ND)
    assert isinstance(a_FF, Tensor)
    assert isinstance(g_DD, Tensor)
    a_FF = a_FF + damping**0.5 * a_FF.trace() / len(a_FF) * torch.eye(len(a_FF))
    g_DD = g_DD + damping**0.5 * g_DD.trace() / len(g_DD) * torch.eye(len(g_DD))

    def distance(weight_DF: Tensor) -> Tensor:
        z_RD = pair_rows(query, data.test_MF) @ weight_DF.T + data.head.bias_D
        left, right = torch.nn.functional.normalize(z_RD, dim=1)
        squared: Tensor = (left - right).square().sum()
        return squared

    weight_DF = data.head.weight_DF.clone().requires_grad_()
    (gradient_DF,) = torch.autograd.grad(distance(weight_DF), weight_DF)
    flat = torch.linalg.solve(torch.kron(g_DD, a_FF), gradient_DF.flatten())
    moved_DF = data.head.weight_DF + radius * (flat / flat.norm()).reshape(weight_DF.shape)
    z_moved_ND = data.train_NF @ moved_DF.T + data.head.bias_D
    change_N = data.proxy_nca.per_sample(z_moved_ND, data.train_labels_N) - data.proxy_nca.per_sample(
        data.head.embed(data.train_NF), data.train_labels_N
    )
    apart = float(distance(moved_DF) - distance(data.head.weight_DF))
    torch.testing.assert_close(chunk.scores_QN[0], apart * change_N / radius, rtol=1e-6, atol=1e-9)


def test_a_loss_that_is_no_function_of_cosines() -> None:
    data = toy()
    loss = SquaredToOwnProxy(data.proxy_nca.proxies_CD)
    found = scores_of(data, InfluenceConfig(step=UnitStep(radius=1e-5)), loss=loss) / 1e-5
    limit = scores_of(data, InfluenceConfig(step=FirstOrder()), loss=loss)
    torch.testing.assert_close(found, limit, rtol=1e-3, atol=1e-4 * float(limit.abs().max()))


def test_several_steps_of_a_line_are_one_step() -> None:
    """As the radius shrinks, the direction no longer turns between steps."""
    data = toy()
    one = scores_of(data, InfluenceConfig(step=UnitStep(radius=1e-5)))
    many = scores_of(data, InfluenceConfig(step=UnitStep(radius=1e-5, steps=7)))
    torch.testing.assert_close(many, one, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def test_a_budget_that_does_not_hold_one_query_is_refused() -> None:
    data = toy()
    with pytest.raises(ValueError, match=r"memory_bytes is 1,000, but one query takes [\d,]+ to score"):
        scores_of(data, InfluenceConfig(step=UnitStep()), memory_bytes=1000)


def test_chunks_hold_as_many_queries_as_the_budget_does() -> None:
    data = toy(train=20_000)
    queries = queries_of(data)
    sizes = Sizes.of(data.head, data.proxy_nca, InfluenceConfig(step=UnitStep()), dtype=torch.float64)
    scorer = Scorer(
        head=data.head,
        loss=data.proxy_nca,
        train_features=data.train_NF,
        train_labels_N=data.train_labels_N,
        config=InfluenceConfig(step=UnitStep()),
        memory_bytes=sizes.bytes_for(3, samples=20_000, most_rows=10),
    )
    seen: list[tuple[int, int]] = []
    chunks = list(scorer.chunks(queries, data.test_MF, progress=lambda done, total: seen.append((done, total))))
    assert [len(chunk.queries) for chunk in chunks[:-1]] == [3] * (len(chunks) - 1)
    assert [query for chunk in chunks for query in chunk.queries] == queries
    assert [chunk.first for chunk in chunks] == list(range(0, len(queries), 3))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (len(queries), len(queries))


@pytest.mark.parametrize("config", [InfluenceConfig(), InfluenceConfig(metric=Metric.KFAC), CONFIGS["first-order"]])
def test_what_is_kept_between_calls_changes_nothing(config: InfluenceConfig) -> None:
    data = toy(train=700)
    queries = queries_of(data)
    sizes = Sizes.of(data.head, data.proxy_nca, config, dtype=torch.float64)
    needed = sizes.bytes_for(len(queries), samples=700, most_rows=10)
    wanted = scores_of(data, config)
    for memory_bytes in (needed + sizes.base_bytes(700), needed):  # holds the base as well, or does not
        scorer = Scorer(
            head=data.head,
            loss=data.proxy_nca,
            train_features=data.train_NF,
            train_labels_N=data.train_labels_N,
            config=config,
            memory_bytes=memory_bytes,
            keep_base=True,
        )
        for _ in range(2):
            found = torch.cat([next(scorer.chunks([query], data.test_MF)).scores_QN for query in queries])
            assert torch.equal(found, wanted)
            assert torch.equal(torch.cat([chunk.scores_QN for chunk in scorer.chunks(queries, data.test_MF)]), wanted)


def test_what_progress_raises_ends_the_work() -> None:
    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    data = toy(train=5000)
    scorer = Scorer(
        head=data.head,
        loss=data.proxy_nca,
        train_features=data.train_NF,
        train_labels_N=data.train_labels_N,
        config=InfluenceConfig(step=UnitStep()),
    )
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        list(scorer.chunks(queries_of(data), data.test_MF, progress=stop))
    assert torch.get_num_threads() == threads


def test_large_scales_and_far_moves_stay_finite_and_right() -> None:
    data = toy(train=100)
    sharp = ProxyNCA(data.proxy_nca.proxies_CD, scale=8.0)
    config = InfluenceConfig(step=UnitStep(radius=50.0))
    fast = scores_of(data, config, loss=sharp)
    slow = scores_of(data, config, loss=NoFastPath(sharp))
    torch.testing.assert_close(fast, slow, rtol=1e-7, atol=1e-7)
    single = scores_of(data, config, loss=sharp, dtype=torch.float32)
    assert np.isfinite(single.numpy()).all()
    torch.testing.assert_close(single.double(), slow, rtol=1e-3, atol=1e-4 * float(slow.abs().max()))

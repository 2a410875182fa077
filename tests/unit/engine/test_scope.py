"""Influence through any parameters of a network, against whole networks whose weights are truly set."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eif_engine.config import Distance, FirstOrder, InfluenceConfig, Metric, PublishedSteps, QueryKind, UnitStep
from eif_engine.errors import InvalidInput
from eif_engine.functional.scope import Scope, parameters_in
from eif_engine.jobs.queries import row_pairs
from eif_engine.jobs.rank import rank
from eif_engine.jobs.scope import rank_scope
from eif_engine.models.network import Network
from eif_engine.models.small import conv4
from eif_engine.types import Query
from tests import oracles
from tests.toy import Toy, toy

PAIR, GROUP = [(0, 5)], [(0, 5), (1, 7), (3, 4)]
CONFIGS: dict[str, InfluenceConfig] = {
    "unit": InfluenceConfig(step=UnitStep()),
    "short-one": InfluenceConfig(step=UnitStep(radius=0.05), num_thetas=1, normalize=False),
    "anew-at-each-step": InfluenceConfig(step=UnitStep(radius=0.5, steps=4)),
    "random": InfluenceConfig(step=UnitStep(radius=0.5), num_thetas=5, seed=3),
    "published": InfluenceConfig(step=PublishedSteps(steps=6, learning_rate=0.02), normalize=False),
    "published-that-stops": InfluenceConfig(step=PublishedSteps(steps=60, learning_rate=0.9)),
    "first-order": InfluenceConfig(step=FirstOrder(radius=0.3)),
    "first-order-product": InfluenceConfig(step=FirstOrder(radius=0.3), normalize=False),
    "cosine": InfluenceConfig(step=UnitStep(), distance=Distance.COSINE),
}


@dataclass(frozen=True)
class World:
    """A small network in training mode, with batch norm that has seen data, and images for the toy's labels."""

    network: Network
    data: Toy
    train_NCHW: Tensor
    test_MCHW: Tensor

    @property
    def toy_of_features(self) -> Toy:
        backbone = copy.deepcopy(self.network.backbone).eval()
        with torch.no_grad():
            train_NF, test_MF = backbone(self.train_NCHW), backbone(self.test_MCHW)
        return Toy(**{**vars(self.data), "train_NF": train_NF, "test_MF": test_MF})


def world(*, train: int = 24) -> World:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        backbone = conv4(width=4, image_size=16).double()
        data = toy(features=8, train=train)
        backbone.train()(torch.randn(40, 1, 16, 16, dtype=torch.float64))
        network = Network(backbone, data.head).train()
        images = [torch.randn(count, 1, 16, 16, dtype=torch.float64) for count in (train, 16)]
    return World(network, data, *images)


def query_of(found: World, rows: Sequence[tuple[int, int]]) -> Query:
    embeddings_MD = found.data.head.embed(found.toy_of_features.test_MF)
    return Query(query_id="q", kind=QueryKind.CONFUSION_GROUPS, pairs=tuple(row_pairs(rows, embeddings_MD)))


def scores_of(
    found: World,
    pattern: str,
    queries: Sequence[Sequence[tuple[int, int]]],
    config: InfluenceConfig,
    *,
    loss: str = "proxy_nca",
    batch: int = 7,
    **options: Any,
) -> NDArray[np.float64]:
    ranked = rank_scope(
        network=found.network,
        pattern=pattern,
        loss=getattr(found.data, loss),
        train_batches=options.pop("train_batches", torch.split(found.train_NCHW, batch)),
        train_labels_N=found.data.train_labels_N,
        test_images=lambda rows: found.test_MCHW[list(rows)],
        queries=[query_of(found, rows) for rows in queries],
        config=config,
        **options,
    )
    return np.array([scores for _, scores in ranked])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("loss", ["proxy_nca", "soft_triple"])
def test_the_head_weight_alone_is_head_scope(loss: str, config: InfluenceConfig) -> None:
    found = world()
    features = found.toy_of_features
    expected = rank(
        head=features.head,
        loss=getattr(features, loss),
        train_features_NF=features.train_NF,
        train_labels_N=features.train_labels_N,
        test_features_MF=features.test_MF,
        queries=[query_of(found, PAIR), query_of(found, GROUP)],
        config=config,
    )
    for scores_N, (_, expected_N) in zip(
        scores_of(found, "head.weight", [PAIR, GROUP], config, loss=loss), expected, strict=True
    ):
        np.testing.assert_allclose(scores_N, expected_N, rtol=1e-9, atol=1e-9 * np.abs(expected_N).max())


class Copied:
    """The definition: a deep copy whose weights are set, one gradient, one sample at a time."""

    def __init__(self, found: World, pattern: str, rows: Sequence[tuple[int, int]]) -> None:
        self._found, self._rows = found, rows
        self.network = copy.deepcopy(found.network).eval()
        self.chosen = [p for name, p in self.network.named_parameters() if fnmatchcase(name, pattern)]
        for parameter in self.chosen:
            parameter.requires_grad_()

    def distance(self) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for i, j in self._rows:
            z, other = (self.network(self._found.test_MCHW[row : row + 1])[0] for row in (i, j))
            total = total + oracles.distance(z, other, "squared_euclidean")
        return total / len(self._rows)

    def climb(self, step: float, *, unit: bool) -> float:
        """One gradient step; returns the length of the gradient over all chosen parameters."""
        gradients = torch.autograd.grad(self.distance(), self.chosen)
        length = math.sqrt(math.fsum(float((gradient**2).sum()) for gradient in gradients))
        with torch.no_grad():
            for parameter, gradient in zip(self.chosen, gradients, strict=True):
                parameter.add_(gradient, alpha=step / (length if unit else 1.0))
        return length

    def losses(self) -> list[float]:
        data = self._found.data
        with torch.no_grad():
            z_ND = [self.network(image[None])[0] for image in self._found.train_NCHW]
        labels = data.train_labels_N.tolist()
        return [oracles.proxy_nca(z, y, data.proxy_nca.proxies_CD, 3.0) for z, y in zip(z_ND, labels, strict=True)]


def plain_loop(
    found: World, pattern: str, rows: Sequence[tuple[int, int]], config: InfluenceConfig
) -> NDArray[np.float64]:
    start = Copied(found, pattern, rows)
    base_d, base_losses = float(start.distance().detach()), np.array(start.losses())
    terms = []
    for sign in (1.0, -1.0)[: config.num_thetas]:
        moved = Copied(found, pattern, rows)
        if isinstance(config.step, PublishedSteps):
            for _ in range(config.step.steps):
                moved.climb(sign * config.step.learning_rate, unit=False)
                if abs(float(moved.distance().detach()) - base_d) >= 1:
                    break
        else:
            moved.climb(sign * config.step.radius, unit=True)
        change = (float(moved.distance().detach()) - base_d) * (np.array(moved.losses()) - base_losses)
        squares = [float(((p - q) ** 2).sum().detach()) for p, q in zip(moved.chosen, start.chosen, strict=True)]
        terms.append(change / (math.sqrt(math.fsum(squares)) if config.normalize else 1.0))
    mean_N: NDArray[np.float64] = np.mean(terms, axis=0)
    return mean_N


@pytest.mark.parametrize("pattern", ["*", "backbone.*", "head.bias", "backbone.[01].*"])
@pytest.mark.parametrize(("name", "close"), [("unit", 1e-9), ("published", 1e-9), ("published-that-stops", 1e-5)])
def test_any_parameters_are_a_network_whose_weights_are_set(pattern: str, name: str, close: float) -> None:
    """Dozens of large steps over kinks of ReLU and max pooling blow rounding up: the last case is held less tightly."""
    found, config = world(train=8), CONFIGS[name]
    expected_N = plain_loop(found, pattern, GROUP, config)
    (scores_N,) = scores_of(found, pattern, [GROUP], config)
    np.testing.assert_allclose(scores_N, expected_N, rtol=close, atol=close * np.abs(expected_N).max())


@pytest.mark.parametrize("pattern", ["*", "backbone.*"])
def test_first_order_is_the_limit_of_short_steps(pattern: str) -> None:
    found, radius = world(), 1e-6
    (first_N,) = scores_of(found, pattern, [GROUP], InfluenceConfig(step=FirstOrder(radius=radius)))
    (short_N,) = scores_of(found, pattern, [GROUP], InfluenceConfig(step=UnitStep(radius=radius)))
    np.testing.assert_allclose(short_N, first_N, rtol=1e-5, atol=1e-7 * np.abs(first_N).max())
    (longer_N,) = scores_of(found, pattern, [GROUP], InfluenceConfig(step=FirstOrder(radius=1.0)))
    np.testing.assert_allclose(first_N / radius, longer_N, rtol=1e-9)


@pytest.mark.parametrize("name", ["random", "published", "first-order"])
def test_batches_and_portions_of_queries_do_not_change_scores(name: str) -> None:
    found = world()
    whole_QN = scores_of(found, "*", [PAIR, GROUP], CONFIGS[name], batch=24)
    small_QN = scores_of(found, "*", [PAIR, GROUP], CONFIGS[name], batch=5, pairs_together=2)
    alone_N = scores_of(found, "*", [GROUP], CONFIGS[name], batch=1)[0]
    np.testing.assert_allclose(small_QN, whole_QN, rtol=1e-9, atol=1e-9 * np.abs(whole_QN).max())
    np.testing.assert_allclose(alone_N, whole_QN[1], rtol=1e-9, atol=1e-9 * np.abs(whole_QN).max())


def test_single_precision_agrees() -> None:
    found = world()
    exact_QN = scores_of(found, "*", [PAIR], CONFIGS["unit"])
    single_QN = scores_of(found, "*", [PAIR], CONFIGS["unit"], dtype=torch.float32)
    np.testing.assert_allclose(single_QN, exact_QN, rtol=0, atol=1e-4 * np.abs(exact_QN).max())


@pytest.mark.parametrize("name", ["random", "published", "first-order"])
def test_the_network_is_not_changed(name: str) -> None:
    found = world()
    network = found.network
    network.backbone.get_submodule("1").eval()  # flags that differ from module to module
    network.head.weight.requires_grad_()
    flags = [module.training for module in network.modules()]
    wants = [parameter.requires_grad for parameter in network.parameters()]
    tensors = {key: (value.data_ptr(), value.clone()) for key, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    scores_of(found, "*", [PAIR, GROUP], CONFIGS[name])
    assert [module.training for module in network.modules()] == flags
    assert [parameter.requires_grad for parameter in network.parameters()] == wants
    assert all(parameter.grad is None for parameter in network.parameters())
    for key, value in network.state_dict().items():
        pointer, before = tensors[key]
        assert value.data_ptr() == pointer
        assert torch.equal(value, before)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_pair_that_cannot_be_moved_has_no_influence() -> None:
    found = world()
    found.test_MCHW[5] = found.test_MCHW[0]
    for name in ("random", "published", "first-order"):
        assert not scores_of(found, "*", [PAIR], CONFIGS[name]).any()


def test_parameters_that_the_embedding_does_not_use_change_nothing() -> None:
    found = world()
    found.network.register_parameter("spare", nn.Parameter(torch.ones(3)))
    with_spare, without = (scores_of(found, pattern, [PAIR], CONFIGS["unit"]) for pattern in ("[sh]*", "head.*"))
    np.testing.assert_allclose(with_spare, without, rtol=1e-12)
    assert not scores_of(found, "spare", [PAIR], CONFIGS["unit"]).any()


def test_a_pattern_that_matches_nothing_names_the_parameters_there_are() -> None:
    with pytest.raises(InvalidInput, match=r"scope 'trunk\.\*' .* backbone\.0\.0\.weight, .* and 4 more") as caught:
        scores_of(world(), "trunk.*", [PAIR], CONFIGS["unit"])
    assert caught.value.message.count("backbone.") == 10
    assert caught.value.metadata == {"field": "scope"}


class Odd(nn.Module):
    """Tied weights, whole-number parameters and a buffer that counts calls."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False).double()
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.table = nn.Parameter(torch.tensor([3, 2, 1, 0]), requires_grad=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x_NF: Tensor) -> Tensor:
        self.calls += 1
        return self.second(self.first(x_NF)[:, self.table]) + self.calls  # type: ignore[no-any-return]  # torch's call


def test_tied_weights_are_one_and_whole_numbers_stay() -> None:
    network = Odd()
    for pattern in ("*", "first.*", "second.*"):
        assert list(parameters_in(network, pattern)) == ["first.weight"]
    for pattern in ("table", "calls"):
        with pytest.raises(InvalidInput, match=r"there are first\.weight$"):
            parameters_in(network, pattern)


def test_tied_weights_move_together_and_buffers_stay_as_they_are() -> None:
    network, x_NF = Odd(), torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    scope = Scope(network, "second.weight", device=torch.device("cpu"), dtype=torch.float64)
    first, again = (scope.embed(2 * scope.theta_X, x_NF) for _ in range(2))
    expected = 4 * ((x_NF @ network.first.weight.T)[:, network.table] @ network.first.weight.T) + 1
    torch.testing.assert_close(first, expected)
    assert torch.equal(first, again)
    assert int(network.calls) == 0


def test_batches_that_are_gone_after_one_pass_are_an_error() -> None:
    found = world()
    with pytest.raises(InvalidInput, match="hold 0 samples, but there are 24 labels"):
        scores_of(found, "*", [PAIR], CONFIGS["unit"], train_batches=iter(torch.split(found.train_NCHW, 7)))


@pytest.mark.parametrize(("count", "says"), [(23, "hold 23 samples"), (31, "hold at least 31 samples")])
def test_batches_must_fit_the_labels(count: int, says: str) -> None:
    found = world()
    images = found.train_NCHW[torch.arange(count) % 24]

    class Endless:
        def __iter__(self) -> Iterator[Tensor]:
            yield images
            raise AssertionError("read on")

    batches = [images] if count < 24 else Endless()
    with pytest.raises(InvalidInput, match=says):
        scores_of(found, "*", [PAIR], CONFIGS["unit"], train_batches=batches)


def test_the_metric_of_the_head_is_refused() -> None:
    with pytest.raises(InvalidInput, match="metric kfac"):
        scores_of(world(), "*", [PAIR], InfluenceConfig(metric=Metric.KFAC))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["random", "published", "first-order"])
def test_a_gpu_gives_the_same_scores(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    found = world()
    expected_QN = scores_of(found, "*", [PAIR, GROUP], CONFIGS[name])
    found_QN = scores_of(found, "*", [PAIR, GROUP], CONFIGS[name], device="cuda")
    np.testing.assert_allclose(found_QN, expected_QN, rtol=1e-7, atol=1e-8 * np.abs(expected_QN).max())

"""Baselines on toys: each against its dense definition."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from eif_engine.baselines import published_if
from eif_engine.baselines.curvature import cg_inverse, ekfac_inverse, mean_eigenvalue
from eif_engine.baselines.gradient import distance_gradients, gradient_norms, losses, products
from eif_engine.baselines.published_if import formed_hessians, hessian_products, recursion
from eif_engine.baselines.softmax_logits import softmax_logits
from eif_engine.baselines.training_set import TrainingSet
from eif_engine.config import Distance, InfluenceConfig, QueryKind, UnitStep
from eif_engine.errors import InvalidInput
from eif_engine.jobs.methods import rank_by
from eif_engine.jobs.queries import row_pairs
from eif_engine.jobs.rank import rank
from eif_engine.losses.arcface import ArcFace
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.cosface import CosFace
from eif_engine.losses.normalized_softmax import NormalizedSoftmax
from eif_engine.method_config import Fisher, Method, MethodConfig
from eif_engine.models.head import Head
from eif_engine.types import Query
from tests import curvature_oracles, oracles
from tests.toy import Toy, toy

LOSSES = ["proxy_nca", "soft_triple"]
INFLUENCE_FUNCTIONS = [Method.PUBLISHED_IF, Method.IF_CG, Method.IF_EKFAC]
BASELINES = [method for method in Method if method is not Method.EIF]
PAIR, GROUP = [(0, 5)], [(0, 5), (1, 7), (3, 4)]


def training_set(data: Toy, loss: str = "proxy_nca") -> TrainingSet:
    return TrainingSet(head=data.head, loss=getattr(data, loss), features=data.train_NF, labels_N=data.train_labels_N)


def query_of(data: Toy, rows: list[tuple[int, int]]) -> Query:
    pairs = row_pairs(rows, data.head.embed(data.test_MF))
    return Query(query_id=f"q{rows}", kind=QueryKind.CONFUSION_GROUPS, pairs=tuple(pairs))


def directions(data: Toy, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, *data.head.weight_DF.shape, generator=generator, dtype=torch.float64)


def scores_of(
    method: Method, data: Toy, rows: list[list[tuple[int, int]]], loss: str = "proxy_nca", **options: Any
) -> NDArray[np.float64]:
    arguments: dict[str, Any] = {"config": InfluenceConfig(), **options}
    ranked = rank_by(
        method,
        head=data.head,
        loss=getattr(data, loss),
        train_features_NF=data.train_NF,
        train_labels_N=data.train_labels_N,
        test_features_MF=data.test_MF,
        queries=[query_of(data, one) for one in rows],
        **arguments,
    )
    return np.array([scores for _, scores in ranked])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("queries", [1, 2], ids=["products", "formed"])
@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_the_published_recursion_is_the_loop_with_whole_hessians(
    loss: str, queries: int, damping: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy(train=20, dim=9, features=3)  # with D = 9, two queries are worth forming Hessians for
    v_QDF = directions(data, queries)
    v_XQ = v_QDF.flatten(1).T
    expected_XQ = curvature_oracles.published_recursion(data, loss, v_XQ, scale=50.0, damping=damping)
    for block, formed in ((64, 16), (7, 3), (1, 1)):
        monkeypatch.setattr(published_if, "_BLOCK_ROWS", block)
        monkeypatch.setattr(published_if, "_FORMED_ROWS", formed)
        found_QDF = published_if.recursion(training_set(data, loss), v_QDF, scale=50.0, damping=damping)
        torch.testing.assert_close(found_QDF.flatten(1).T, expected_XQ, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
def test_hessians_formed_or_applied_are_the_same(loss: str) -> None:
    data = training_set(toy(train=40), loss)
    (_, block), u_QD = next(data.blocks(40)), directions(toy(), 2)[:, :, 0]
    formed, applied = formed_hessians(data.loss, block), hessian_products(data.loss, block)
    for row in range(40):
        torch.testing.assert_close(formed(u_QD, row), applied(u_QD, row), rtol=1e-10, atol=1e-12)


def test_a_recursion_that_diverges_says_so() -> None:
    data = toy()
    with pytest.raises(InvalidInput, match="raise recursion_scale"):
        recursion(training_set(data), directions(data, 1), scale=1e-20, damping=0.01)


@pytest.mark.parametrize("loss", LOSSES)
def test_conjugate_gradient_is_the_dense_solution(loss: str) -> None:
    data, config = toy(), MethodConfig(fisher=Fisher.EXACT, tolerance=1e-10, damping=0.03)
    v_QDF, dense_XX = directions(data, 3), curvature_oracles.gauss_newton(data, loss)
    assert mean_eigenvalue(training_set(data, loss), config) == pytest.approx(
        float(dense_XX.diagonal().mean()), rel=1e-9
    )
    found_QDF = cg_inverse(training_set(data, loss), config)(v_QDF)
    expected = curvature_oracles.damped_solve(dense_XX, list(v_QDF.flatten(1)), 0.03)
    torch.testing.assert_close(found_QDF.flatten(1), torch.stack(expected), rtol=1e-6, atol=1e-7)


def test_conjugate_gradient_leaves_no_vector_behind() -> None:
    """The library stops at the mean residual; vectors that are solved at once must not hide one that is not."""
    data, config = toy(features=12), MethodConfig(fisher=Fisher.EXACT, tolerance=1e-5, damping=1e-3)
    dense_XX = curvature_oracles.gauss_newton(data, "proxy_nca")
    dense_XX += config.damping * dense_XX.diagonal().mean() * torch.eye(len(dense_XX), dtype=torch.float64)
    easy_X = torch.linalg.eigh(dense_XX)[1][:, -1]
    v_QX = torch.cat([easy_X.expand(30, -1), directions(data, 1).flatten(1)])
    found_QX = cg_inverse(training_set(data), config)(v_QX.reshape(-1, *data.head.weight_DF.shape)).flatten(1)
    residual_Q = (found_QX @ dense_XX - v_QX).norm(dim=1) / v_QX.norm(dim=1)
    assert float(residual_Q.max()) <= config.tolerance * (1 + 1e-6)


def test_conjugate_gradient_that_does_not_converge_says_so() -> None:
    data = toy(train=60, features=20)
    inverse = cg_inverse(training_set(data), MethodConfig(tolerance=1e-12, max_iterations=2, damping=1e-4))
    with pytest.raises(InvalidInput, match="raise damping, tolerance or max_iterations"):
        inverse(directions(data, 2))


def test_vectors_of_zero_stay_zero() -> None:
    data = toy()
    v_QDF = directions(data, 2)
    v_QDF[0] = 0
    for inverse in (cg_inverse, ekfac_inverse):
        found_QDF = inverse(training_set(data), MethodConfig())(v_QDF)
        assert not found_QDF[0].any()
        assert found_QDF[1].any()


@pytest.mark.parametrize("loss", LOSSES)
def test_ekfac_is_the_dense_one(loss: str) -> None:
    data, config = toy(), MethodConfig(fisher=Fisher.EXACT, damping=0.05)
    v_QDF = directions(data, 3)
    found_QDF = ekfac_inverse(training_set(data, loss), config)(v_QDF)
    expected = curvature_oracles.damped_solve(curvature_oracles.ekfac(data, loss), list(v_QDF.flatten(1)), 0.05)
    torch.testing.assert_close(found_QDF.flatten(1), torch.stack(expected), rtol=1e-7, atol=1e-8)


def test_sampled_labels_are_seeded_and_tend_to_the_exact_fisher() -> None:
    data = training_set(toy())
    exact = mean_eigenvalue(data, MethodConfig(fisher=Fisher.EXACT))
    assert mean_eigenvalue(data, MethodConfig(label_samples=1000)) == pytest.approx(exact, rel=0.1)
    first, again, other = (mean_eigenvalue(data, MethodConfig(seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_gradient_norm_is_that_of_autograd() -> None:
    data = toy()
    expected_N = curvature_oracles.loss_gradients(data, "soft_triple").norm(dim=1)
    torch.testing.assert_close(gradient_norms(training_set(data, "soft_triple")), expected_N, rtol=1e-9, atol=0)


def test_plain_loss_is_the_paper_s_loop() -> None:
    data = toy()
    expected = [
        oracles.proxy_nca(z, int(label), data.proxy_nca.proxies_CD, 3.0)
        for z, label in zip(data.head.embed(data.train_NF), data.train_labels_N, strict=True)
    ]
    assert losses(training_set(data)).tolist() == pytest.approx(expected, rel=1e-10)


def test_products_are_those_of_whole_gradients() -> None:
    data = toy()
    h_QDF = directions(data, 4)
    expected_QN = h_QDF.flatten(1) @ curvature_oracles.loss_gradients(data, "proxy_nca").T
    torch.testing.assert_close(products(training_set(data), h_QDF), expected_QN, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("distance", list(Distance))
def test_distance_gradients_are_dense_ones(distance: Distance) -> None:
    data = toy()
    found_QDF = distance_gradients(data.head, data.test_MF, [query_of(data, PAIR), query_of(data, GROUP)], distance)
    for rows, found_DF in zip((PAIR, GROUP), found_QDF, strict=True):
        pairs = [(data.test_MF[i], data.test_MF[j]) for i, j in rows]
        torch.testing.assert_close(found_DF, oracles.gradient(data.head.weight_DF, data.head.bias_D, pairs, distance))


@pytest.mark.parametrize("method", INFLUENCE_FUNCTIONS)
def test_scores_are_products_of_gradients_and_the_inverse(method: Method) -> None:
    data, config = toy(), MethodConfig(fisher=Fisher.EXACT, tolerance=1e-10)
    found_QN = scores_of(method, data, [PAIR, GROUP], method_config=config)
    for rows, found_N in zip((PAIR, GROUP), found_QN, strict=True):
        pairs = [(data.test_MF[i], data.test_MF[j]) for i, j in rows]
        v_X = oracles.gradient(data.head.weight_DF, data.head.bias_D, pairs).reshape(-1)
        if method is Method.PUBLISHED_IF:
            h_X = curvature_oracles.published_recursion(data, "proxy_nca", v_X, scale=500.0, damping=0.01)
        else:
            dense = curvature_oracles.gauss_newton if method is Method.IF_CG else curvature_oracles.ekfac
            (h_X,) = curvature_oracles.damped_solve(dense(data, "proxy_nca"), [v_X], 0.1)
        np.testing.assert_allclose(
            found_N, curvature_oracles.loss_gradients(data, "proxy_nca") @ h_X, rtol=1e-6, atol=1e-9
        )


@pytest.mark.parametrize("method", list(Method))
def test_harmful_is_positive(method: Method) -> None:
    """A sample that pulls a confused pair together is above one that holds it apart."""
    head = Head(torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    data = replace(
        toy(features=2, dim=2, classes=2, train=2, test=2),
        head=head,
        test_MF=torch.tensor([[1.0, 0.2], [0.2, 1.0]], dtype=torch.float64),
        train_NF=torch.tensor([[1.0, 0.2], [1.0, 0.2]], dtype=torch.float64),
        train_labels_N=torch.tensor([0, 1]),
    )
    data = replace(data, proxy_nca=replace(data.proxy_nca, proxies_CD=torch.tensor([[0.2, 1.0], [1.0, -0.2]]).double()))
    towards, away = scores_of(method, data, [[(0, 1)]])[0]
    assert towards > away
    if method in INFLUENCE_FUNCTIONS:
        assert towards > 0 > away


@pytest.mark.parametrize("method", BASELINES)
def test_budgets_precision_and_order_of_queries_do_not_change_scores(method: Method) -> None:
    data, rows = toy(), [PAIR, GROUP, [(2, 9)]]
    config = MethodConfig(tolerance=1e-9)
    plain_QN = scores_of(method, data, rows, method_config=config)
    tight_QN = scores_of(method, data, rows[::-1], method_config=config, memory_bytes=40_000)[::-1]
    np.testing.assert_allclose(tight_QN, plain_QN, rtol=1e-6, atol=1e-9)
    single_QN = scores_of(method, data, rows, method_config=MethodConfig(tolerance=1e-4), dtype=torch.float32)
    if method is not Method.IF_EKFAC:  # labels are drawn with probabilities of that precision
        np.testing.assert_allclose(single_QN, plain_QN, rtol=0.02, atol=0.02 * np.abs(plain_QN).max())


def test_eif_is_rank() -> None:
    data, config = toy(), InfluenceConfig(step=UnitStep(), num_thetas=3, seed=4)
    ranked = rank(
        head=data.head,
        loss=data.proxy_nca,
        train_features_NF=data.train_NF,
        train_labels_N=data.train_labels_N,
        test_features_MF=data.test_MF,
        queries=[query_of(data, GROUP)],
        config=config,
    )
    np.testing.assert_array_equal(scores_of(Method.EIF, data, [GROUP], config=config)[0], next(ranked)[1])


@pytest.mark.parametrize("method", list(Method))
def test_no_queries_no_scores(method: Method) -> None:
    assert scores_of(method, toy(), []).shape == (0,)


@pytest.mark.parametrize("method", BASELINES)
def test_no_training_samples_no_scores(method: Method) -> None:
    assert scores_of(method, toy(train=0), [PAIR, GROUP]).shape == (2, 0)


@pytest.mark.parametrize("method", BASELINES)
def test_scores_do_not_depend_on_the_caller_s_gradient_mode(method: Method) -> None:
    expected_QN = scores_of(method, toy(), [PAIR])
    with torch.no_grad():
        np.testing.assert_array_equal(scores_of(method, toy(), [PAIR]), expected_QN)


@pytest.mark.parametrize("method", [Method.LOSS, Method.GRADIENT_NORM])
def test_methods_that_know_no_query_give_each_the_same(method: Method) -> None:
    first_N, second_N = scores_of(method, toy(), [PAIR, GROUP])
    np.testing.assert_array_equal(first_N, second_N)


@pytest.mark.parametrize("method", INFLUENCE_FUNCTIONS)
def test_a_pair_that_cannot_be_moved_has_no_influence(method: Method) -> None:
    data = toy()
    data.test_MF[5] = data.test_MF[0]
    assert not scores_of(method, data, [PAIR]).any()


@pytest.mark.parametrize("method", BASELINES)
def test_nothing_is_mutated(method: Method) -> None:
    data = toy()
    kept = [data.head.weight_DF, data.head.bias_D, data.train_NF, data.test_MF, data.proxy_nca.proxies_CD]
    before = [tensor.clone() for tensor in kept]
    scores_of(method, data, [PAIR])
    assert all(torch.equal(left, right) for left, right in zip(before, kept, strict=True))
    assert not any(tensor.requires_grad for tensor in kept)


def softmax_losses() -> list[ProxyLoss]:
    data = toy()
    proxies_CD = data.proxy_nca.proxies_CD
    return [*data.losses, NormalizedSoftmax(proxies_CD), CosFace(proxies_CD), ArcFace(proxies_CD)]


@pytest.mark.parametrize("loss", softmax_losses(), ids=lambda loss: type(loss).__name__)
def test_logits_give_the_loss(loss: ProxyLoss) -> None:
    data = toy()
    z_ND, labels_N = data.head.embed(data.train_NF), data.train_labels_N
    found_N = F.cross_entropy(softmax_logits(loss, z_ND, labels_N), labels_N, reduction="none")
    torch.testing.assert_close(found_N, loss.per_sample(z_ND, labels_N), rtol=1e-12, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("method", BASELINES)
def test_a_gpu_gives_the_same_scores(method: Method) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    config = MethodConfig(fisher=Fisher.EXACT, tolerance=1e-10)
    expected_QN = scores_of(method, toy(), [PAIR, GROUP], method_config=config)
    found_QN = scores_of(method, toy(), [PAIR, GROUP], method_config=config, device="cuda")
    np.testing.assert_allclose(found_QN, expected_QN, rtol=1e-6, atol=1e-8)


@dataclass(frozen=True)
class SquaredLength:
    """A loss that is no cross-entropy."""

    num_classes: int = 4
    embedding_dim: int = 5

    def per_sample(self, z_ND: Tensor, labels_N: Tensor) -> Tensor:
        return (z_ND.square().sum(1) - labels_N).square()

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> Self:
        assert (str(device), dtype) == ("cpu", torch.float64)
        return self


def test_a_loss_that_is_no_cross_entropy_is_refused_where_one_is_needed() -> None:
    data = toy()
    samples = replace(training_set(data), loss=SquaredLength())
    for inverse in (cg_inverse, ekfac_inverse):
        with pytest.raises(InvalidInput, match=r"SquaredLength is no cross-entropy.*SoftTriple.*published_if"):
            inverse(samples, MethodConfig())
    assert torch.isfinite(recursion(samples, directions(data, 1), scale=1e5, damping=0.01)).all()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("damping", 0.0),
        ("recursion_scale", -1.0),
        ("recursion_damping", 1.0),
        ("tolerance", 1.0),
        ("max_iterations", 0),
        ("label_samples", 0),
    ],
)
def test_settings_are_checked(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=setting):
        MethodConfig(**{setting: value})  # type: ignore[arg-type]  # a table of keyword arguments

"""Losses of pytorch-metric-learning: ours are the same as the library's, and the others are the library itself."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as library
from torch import Tensor, nn
from torch.func import grad, jvp

from eif_engine.config import InfluenceConfig, QueryKind
from eif_engine.errors import InvalidInput
from eif_engine.jobs.queries import find_queries
from eif_engine.jobs.rank import rank
from eif_engine.losses.arcface import ArcFace
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.cosface import CosFace
from eif_engine.losses.normalized_softmax import NormalizedSoftmax
from eif_engine.losses.pml import PmlLoss
from eif_engine.losses.pml_classes import BANK_CLASSES, PROXY_CLASSES
from eif_engine.losses.proxy_anchor import ProxyAnchor
from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.losses.settings import PmlSettings
from eif_engine.losses.soft_triple import SoftTriple
from tests.toy import toy

# The library makes some of its constants in ways that NumPy will drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

N, D, C = 30, 8, 6
GENERATOR = torch.Generator().manual_seed(3)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


VECTORS_CD, CENTERS_CKD = draw(C, D), draw(C, 3, D)
# With the vectors and their opposites: angles of 0, and past pi - margin.
Z_ND = torch.cat([draw(N, D), 3 * VECTORS_CD, -VECTORS_CD])
LABELS_N = torch.cat([torch.arange(N), torch.arange(C), torch.arange(C)]) % C


def made(name: str, **arguments: float) -> nn.Module:
    """A loss of the library, as a training loop makes it, in float64."""
    loss: nn.Module = getattr(library, name)(num_classes=C, embedding_size=D, **arguments).double()
    return loss


def filled(loss: nn.Module, value: Tensor) -> nn.Module:
    (parameter,) = loss.parameters()
    parameter.data.copy_(value)
    return loss


def alone(loss: nn.Module, z_ND: Tensor, labels_N: Tensor) -> Tensor:
    """What the library makes of each sample as a batch of its own."""
    rows = zip(z_ND.split(1), labels_N.split(1), strict=True)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return torch.stack([loss(z_1D, label_1) for z_1D, label_1 in rows])


def generic(name: str, vectors_CKD: Tensor, **arguments: float) -> PmlLoss:
    return PmlLoss.of(PmlSettings(class_=name, arguments=arguments), vectors_CKD)


OURS: dict[str, tuple[ProxyLoss, Callable[[], nn.Module]]] = {
    "proxy_anchor": (ProxyAnchor(VECTORS_CD), lambda: filled(made("ProxyAnchorLoss"), VECTORS_CD)),
    "proxy_anchor_other": (
        ProxyAnchor(VECTORS_CD, margin=0.4, alpha=50),
        lambda: filled(made("ProxyAnchorLoss", margin=0.4, alpha=50), VECTORS_CD),
    ),
    "normalized_softmax": (
        NormalizedSoftmax(VECTORS_CD),
        lambda: filled(made("NormalizedSoftmaxLoss"), VECTORS_CD.T),
    ),
    "normalized_softmax_other": (
        NormalizedSoftmax(VECTORS_CD, temperature=0.4),
        lambda: filled(made("NormalizedSoftmaxLoss", temperature=0.4), VECTORS_CD.T),
    ),
    "cosface": (CosFace(VECTORS_CD), lambda: filled(made("CosFaceLoss"), VECTORS_CD.T)),
    "cosface_other": (
        CosFace(VECTORS_CD, scale=10, margin=0.1),
        lambda: filled(made("CosFaceLoss", scale=10, margin=0.1), VECTORS_CD.T),
    ),
    "arcface": (ArcFace(VECTORS_CD), lambda: filled(made("ArcFaceLoss"), VECTORS_CD.T)),
    "arcface_other": (
        ArcFace(VECTORS_CD, scale=10, margin=100),
        lambda: filled(made("ArcFaceLoss", scale=10, margin=100), VECTORS_CD.T),
    ),
    "proxy_nca": (ProxyNCA(VECTORS_CD, 3.0), lambda: filled(made("ProxyNCALoss", softmax_scale=9), VECTORS_CD)),
    "soft_triple": (
        SoftTriple(CENTERS_CKD),
        lambda: filled(made("SoftTripleLoss", centers_per_class=3), CENTERS_CKD.flatten(0, 1).T),
    ),
}


@pytest.mark.parametrize("name", OURS)
def test_ours_is_the_library_s_of_each_sample(name: str) -> None:
    ours, theirs = OURS[name]
    found_N, wanted_N = ours.per_sample(Z_ND, LABELS_N), alone(theirs(), Z_ND, LABELS_N)
    # At an angle of 0, the library's arc cosine turns an error of 1e-16 into one of 1e-8.
    torch.testing.assert_close(found_N, wanted_N, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(found_N[:N], wanted_N[:N], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["ArcFaceLoss", "CosFaceLoss", "NormalizedSoftmaxLoss", "SoftTripleLoss"])
def test_defaults_are_the_library_s(name: str) -> None:
    by_name: dict[str, ArcFace | CosFace | NormalizedSoftmax | SoftTriple] = {
        "ArcFaceLoss": ArcFace(VECTORS_CD),
        "CosFaceLoss": CosFace(VECTORS_CD),
        "NormalizedSoftmaxLoss": NormalizedSoftmax(VECTORS_CD),
        "SoftTripleLoss": SoftTriple(draw(C, 10, D)),
    }
    ours = by_name[name]
    vectors_CKD = ours.centers_CKD if isinstance(ours, SoftTriple) else VECTORS_CD[:, None]
    torch.testing.assert_close(
        ours.per_sample(Z_ND[:N], LABELS_N[:N]),
        generic(name, vectors_CKD).per_sample(Z_ND[:N], LABELS_N[:N]),
        rtol=1e-9,
        atol=1e-12,
    )


def vectors_for(name: str) -> Tensor:
    K = PROXY_CLASSES[name].centers
    return torch.randn(C, K, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("name", PROXY_CLASSES)
def test_the_generic_path_is_the_library_of_each_sample(name: str) -> None:
    loss = generic(name, vectors_for(name))
    theirs = made(name)
    theirs.load_state_dict(loss.parameters)
    torch.testing.assert_close(
        loss.per_sample(Z_ND, LABELS_N), alone(theirs, Z_ND, LABELS_N).detach(), rtol=1e-13, atol=0
    )
    assert (loss.num_classes, loss.embedding_dim) == (C, D)


@pytest.mark.parametrize("name", PROXY_CLASSES)
def test_a_state_dict_is_read_as_the_library_left_it(name: str) -> None:
    """Vectors in the order that ours have them, put into the library's layout, are what it trained."""
    theirs = made(name)
    (parameter,) = (value for value in theirs.state_dict().values())
    rows_PD = parameter.T if PROXY_CLASSES[name].columns else parameter
    loss = generic(name, rows_PD.reshape(C, -1, D))
    assert loss.parameters.keys() == theirs.state_dict().keys()
    torch.testing.assert_close(
        loss.per_sample(Z_ND[:N], LABELS_N[:N]), alone(theirs, Z_ND[:N], LABELS_N[:N]).detach(), rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("name", PROXY_CLASSES)
def test_nothing_is_changed(name: str) -> None:
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    vectors_CKD = vectors_for(name)
    loss = generic(name, vectors_CKD)
    moved = loss.to(device="cpu", dtype=torch.float32)
    first_N = loss.per_sample(Z_ND, LABELS_N)
    moved.per_sample(Z_ND.float(), LABELS_N)
    kept = {key: value.clone() for key, value in loss.parameters.items()}
    assert first_N.tolist() == loss.per_sample(Z_ND, LABELS_N).tolist()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(vectors_CKD, vectors_for(name))
    assert all(value.dtype is torch.float32 for value in moved.parameters.values())
    assert all(torch.equal(value, loss.parameters[key]) for key, value in kept.items())
    assert not loss.library.training
    assert not any(parameter.requires_grad for parameter in loss.library.parameters())


@pytest.mark.parametrize("name", PROXY_CLASSES)
def test_gradients_are_those_of_differences(name: str) -> None:
    loss, along_ND = generic(name, vectors_for(name)), draw(N, D)

    def total(z_ND: Tensor) -> Tensor:
        return loss.per_sample(z_ND, LABELS_N[:N]).sum()

    leaf_ND, size = Z_ND[:N].clone().requires_grad_(), 1e-6
    (found_ND,) = torch.autograd.grad(total(leaf_ND), leaf_ND)
    torch.testing.assert_close(grad(total)(Z_ND[:N]), found_ND, rtol=1e-10, atol=1e-12)
    central = (total(Z_ND[:N] + size * along_ND) - total(Z_ND[:N] - size * along_ND)) / (2 * size)
    torch.testing.assert_close((found_ND * along_ND).sum(), central, rtol=1e-5, atol=1e-6)


# PyTorch's forward-mode rules are scripts, which it calls deprecated itself.
@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
@pytest.mark.parametrize(
    "name", ["ArcFaceLoss", "CosFaceLoss", "NormalizedSoftmaxLoss", "SoftTripleLoss", "SubCenterArcFaceLoss"]
)
def test_forward_mode_where_the_library_has_it(name: str) -> None:
    """Not ProxyNCALoss (torch has no rule for its distance), nor losses with (-1)^k (LargeMargin, SphereFace)."""
    loss, along_ND = generic(name, vectors_for(name)), draw(N, D)

    def total(z_ND: Tensor) -> Tensor:
        return loss.per_sample(z_ND, LABELS_N[:N]).sum()

    found = jvp(total, (Z_ND[:N],), (along_ND,))[1]
    wanted_ND = grad(total)(Z_ND[:N])
    torch.testing.assert_close(found, (wanted_ND * along_ND).sum(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PROXY_CLASSES)
def test_blocks_and_threads_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_N = generic(name, vectors_for(name)).per_sample(Z_ND, LABELS_N)
    monkeypatch.setattr("eif_engine.losses.pml._BLOCK_ELEMENTS", 7 * C * PROXY_CLASSES[name].centers)
    shared = generic(name, vectors_for(name))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: shared.per_sample(Z_ND, LABELS_N), range(8)))
    for found_N in found:
        torch.testing.assert_close(found_N, whole_N, rtol=1e-13, atol=1e-15)


def test_no_samples_are_no_losses() -> None:
    assert generic("ArcFaceLoss", VECTORS_CD[:, None]).per_sample(Z_ND[:0], LABELS_N[:0]).shape == (0,)


def test_embeddings_of_another_precision_are_refused() -> None:
    """The library would convert its parameters, and lose their digits for good."""
    loss = generic("ArcFaceLoss", VECTORS_CD[:, None])
    with pytest.raises(TypeError, match="move the loss first"):
        loss.per_sample(Z_ND.float(), LABELS_N)
    assert loss.parameters["W"].dtype is torch.float64


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("ArcFaceLoss", {"margn": 3}, "arguments.margn: cannot be set; ArcFaceLoss takes margin, scale, distance"),
        ("ArcFaceLoss", {"margin": "a"}, "arguments.margin: is 'a', but its default is 28.6"),
        ("ArcFaceLoss", {"margin": True}, "arguments.margin: is True"),
        ("ArcFaceLoss", {"num_classes": 9}, "arguments.num_classes: cannot be set"),
        ("ArcFaceLoss", {"weight_init_func": "os.system"}, "cannot be set"),
        ("ArcFaceLoss", {"reducer": "SumReducer"}, "cannot be set"),
        ("ArcFaceLoss", {"collect_stats": True}, "cannot be set"),
        ("ArcFaceLoss", {"distance": "os"}, "arguments.distance: is 'os', not one of CosineSimilarity"),
        ("ArcFaceLoss", {"distance": 1}, "arguments.distance: is 1"),
        ("ArcFaceLoss", {"distance": "LpDistance"}, "ArcFaceLoss refuses"),
        ("SoftTripleLoss", {"gamma": 0}, "SoftTripleLoss refuses"),
        ("SubCenterArcFaceLoss", {"embedding_size": 2}, "cannot be set"),
        ("NormalizedSoftmaxLoss", {"temperature": 0}, "NormalizedSoftmaxLoss gives [nan, nan]"),
        ("CosFaceLoss", {"scale": 10**400}, "CosFaceLoss fails with"),
    ],
)
def test_arguments_that_a_class_does_not_take(name: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        generic(name, vectors_for(name), **arguments)
    assert caught.value.message.startswith("arguments")
    assert says in caught.value.message


def test_arguments_reach_the_library() -> None:
    vectors_CKD = vectors_for("SubCenterArcFaceLoss")
    loss = generic("SubCenterArcFaceLoss", vectors_CKD, margin=10, scale=8.0, sub_centers=3)
    theirs = filled(made("SubCenterArcFaceLoss", margin=10, scale=8.0), vectors_CKD.flatten(0, 1).T)
    torch.testing.assert_close(loss.per_sample(Z_ND, LABELS_N), alone(theirs, Z_ND, LABELS_N).detach())
    by_distance = PmlSettings(class_="ProxyNCALoss", arguments={"distance": "CosineSimilarity", "softmax_scale": 4})
    found_N = PmlLoss.of(by_distance, VECTORS_CD[:, None]).per_sample(Z_ND, LABELS_N)
    torch.testing.assert_close(found_N, NormalizedSoftmax(VECTORS_CD, 1 / 4).per_sample(Z_ND, LABELS_N))


def test_every_loss_of_the_library_is_known_or_left_out_by_name() -> None:
    """A new release may bring losses: say of each whether it has a value per sample."""
    left_out = {
        *("BaseMetricLossFunction", "GenericPairLoss", "ProxyAnchorLoss"),
        *("P2SGradLoss", "HistogramLoss", "ManifoldLoss", "DynamicSoftMarginLoss", "VICRegLoss"),
        *("ThresholdConsistentMarginLoss", "FastAPLoss", "SmoothAPLoss", "PNPLoss", "RankedListLoss", "InstanceLoss"),
        *("NPairsLoss", "LiftedStructureLoss", "IntraPairVarianceLoss", "MarginLoss"),
    }
    everything = {
        name
        for name, value in vars(library).items()
        if isinstance(value, type) and issubclass(value, library.BaseMetricLossFunction)
    }
    assert everything - left_out == PROXY_CLASSES.keys() | BANK_CLASSES.keys()
    assert left_out < everything


def test_proxy_nca_leaves_out_samples_as_the_library_does() -> None:
    """A probability that underflows has no logarithm: the library drops the sample, here it counts 0."""
    loss = generic("ProxyNCALoss", VECTORS_CD[:, None], softmax_scale=1e6)
    found_N = loss.per_sample(Z_ND, LABELS_N)
    assert torch.isfinite(found_N).all()
    assert found_N.eq(0).any()


def test_the_toy_ranks_the_same_on_both_paths() -> None:
    """Of one model: by the fast path of ArcFace, and by the library through the generic one."""
    data = toy()
    proxies_CD = data.proxy_nca.proxies_CD
    queries = find_queries(
        embeddings_MD=data.head.embed(data.test_MF),
        labels=data.test_labels,
        sample_ids=data.test_ids,
        kind=QueryKind.CONFUSION_PAIRS,
    )
    assert len(queries) > 3
    scores = []
    for loss in (ArcFace(proxies_CD), PmlLoss.of(PmlSettings(class_="ArcFaceLoss"), proxies_CD[:, None])):
        ranked = rank(
            head=data.head,
            loss=loss,
            train_features_NF=data.train_NF,
            train_labels_N=data.train_labels_N,
            test_features_MF=data.test_MF,
            queries=queries,
            config=InfluenceConfig(),
        )
        scores.append(torch.stack([torch.from_numpy(found_N) for _, found_N in ranked]))
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-6, atol=1e-9)

"""Losses in model.json and checkpoints: saved, read from every layout, checked, and ranked with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from pytorch_metric_learning import losses as library
from torch import Tensor, nn

from eif_engine.config import InfluenceConfig, QueryKind
from eif_engine.errors import CheckpointIncompatible, ModelBundleInvalid
from eif_engine.jobs.queries import find_queries
from eif_engine.jobs.rank import rank
from eif_engine.losses.arcface import ArcFace
from eif_engine.losses.cosface import CosFace
from eif_engine.losses.normalized_softmax import NormalizedSoftmax
from eif_engine.losses.pml import PmlLoss
from eif_engine.losses.pml_bank import PmlBankLoss, with_bank
from eif_engine.losses.pml_classes import BANK_CLASSES, PROXY_CLASSES
from eif_engine.losses.proxy_anchor import ProxyAnchor
from eif_engine.losses.settings import (
    ArcFaceSettings,
    BankSettings,
    CosFaceSettings,
    LossSettings,
    NormalizedSoftmaxSettings,
    PmlSettings,
    ProxyAnchorSettings,
    ProxyNcaSettings,
    SoftTripleSettings,
)
from eif_engine.models.architectures import build_backbone
from eif_engine.models.bundle import parse_bundle, read_bundle
from eif_engine.models.check import check_bundle
from eif_engine.models.checkpoint import load_model
from eif_engine.models.findings import Level, is_usable
from eif_engine.models.save import save_bundle, state_dict_of
from tests.bundles import CLASSES, CONV4, DIM, SMALL, edit, put_weights, small_bundle, small_state

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

C = len(CLASSES)
SETTINGS: TypeAdapter[LossSettings] = TypeAdapter(LossSettings)


def bundle(folder: Path, loss: LossSettings, proxies: Tensor | Mapping[str, Tensor] | None) -> Path:
    """A bundle with a small network and this loss."""
    torch.manual_seed(0)
    state = state_dict_of(backbone=build_backbone(CONV4).module, head=nn.Linear(8, DIM), proxies=proxies)
    save_bundle(folder, architecture=CONV4, loss=loss, classes=CLASSES, preprocessing=SMALL, state_dict=state)
    return folder


def vectors(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


ONE_A_CLASS: list[LossSettings] = [
    ArcFaceSettings(scale=30, margin=20),
    CosFaceSettings(scale=30, margin=0.2),
    NormalizedSoftmaxSettings(temperature=0.1),
    ProxyAnchorSettings(margin=0.2, alpha=16),
]


@pytest.mark.parametrize("settings", ONE_A_CLASS, ids=lambda settings: str(settings.name))
def test_losses_of_cosines_survive_a_bundle(tmp_path: Path, settings: LossSettings) -> None:
    loss = load_model(bundle(tmp_path, settings, vectors(C, DIM))).loss
    assert read_bundle(tmp_path).loss == settings
    assert isinstance(loss, ArcFace | CosFace | NormalizedSoftmax | ProxyAnchor)
    torch.testing.assert_close(loss.proxies_CD, vectors(C, DIM), rtol=0, atol=0)
    given = settings.model_dump(exclude={"name"})
    assert {key: getattr(loss, key) for key in given} == given


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        (ArcFaceSettings(), "ArcFaceLoss"),
        (CosFaceSettings(), "CosFaceLoss"),
        (NormalizedSoftmaxSettings(), "NormalizedSoftmaxLoss"),
        (ProxyAnchorSettings(), "ProxyAnchorLoss"),
    ],
)
def test_the_library_s_state_dict_is_read_as_it_is(tmp_path: Path, settings: LossSettings, theirs: str) -> None:
    trained = getattr(library, theirs)(num_classes=C, embedding_size=DIM)
    z_ND, labels_N = vectors(C, DIM), torch.arange(C)
    wanted_N = torch.stack([trained(z_ND[row : row + 1], labels_N[row : row + 1]) for row in range(C)]).detach()
    inside = load_model(bundle(tmp_path / "inside", settings, trained.state_dict()))
    torch.testing.assert_close(inside.loss.per_sample(z_ND, labels_N), wanted_N, rtol=1e-4, atol=1e-4)
    folder = bundle(tmp_path / "apart", settings, torch.zeros(C, DIM))
    put_weights(folder, trained.state_dict(), name="loss.pt", field="proxies")
    torch.testing.assert_close(load_model(folder).loss.per_sample(z_ND, labels_N), wanted_N, rtol=1e-4, atol=1e-4)


def test_names_tell_columns_from_rows_when_sizes_are_equal(tmp_path: Path) -> None:
    torch.manual_seed(0)
    square, classes = vectors(DIM, DIM), [f"class {place}" for place in range(DIM)]
    for key, wanted in (("W", square.T), ("proxies", square), ("weight", square)):
        folder = edit(bundle(tmp_path / key, CosFaceSettings(), vectors(C, DIM)), classes=classes)
        put_weights(folder, {key: square}, name="loss.pt", field="proxies")
        loss = load_model(folder).loss
        assert isinstance(loss, CosFace)
        torch.testing.assert_close(loss.proxies_CD, wanted, rtol=0, atol=0)


def test_vectors_of_other_classes_are_refused(tmp_path: Path) -> None:
    folder = bundle(tmp_path, ArcFaceSettings(), vectors(C, DIM))
    put_weights(folder, {"W": vectors(DIM, C + 1)}, name="loss.pt", field="proxies")
    with pytest.raises(
        CheckpointIncompatible, match=r"W has shape \(8, 6\).*arcface needs \(8, 5\) \(embedding_dim, cl"
    ):
        load_model(folder)
    with pytest.raises(CheckpointIncompatible, match=r"loss.W has shape \(8, 6\).* need \(5, 8\)"):
        bundle(tmp_path / "new", ArcFaceSettings(), {"W": vectors(DIM, C + 1)})


@pytest.mark.parametrize("name", PROXY_CLASSES)
def test_a_loss_of_the_library_survives_a_bundle(tmp_path: Path, name: str) -> None:
    trained = getattr(library, name)(num_classes=C, embedding_size=DIM)
    loss = load_model(bundle(tmp_path, PmlSettings(class_=name), trained.state_dict())).loss
    assert isinstance(loss, PmlLoss)
    assert loss.parameters.keys() == trained.state_dict().keys()
    assert all(torch.equal(value, loss.parameters[key]) for key, value in trained.state_dict().items())
    assert json.loads((tmp_path / "model.json").read_text())["loss"]["class"] == name
    assert is_usable(check_bundle(tmp_path))


@pytest.mark.parametrize("name", BANK_CLASSES)
def test_a_loss_of_pairs_needs_no_parameters(tmp_path: Path, name: str) -> None:
    settings = PmlSettings(class_=name, bank=BankSettings(per_class=2, seed=7))
    model = load_model(bundle(tmp_path, settings, None))
    assert isinstance(model.loss, PmlBankLoss)
    assert (model.loss.num_classes, model.loss.embedding_dim, model.loss.bank) == (C, DIM, None)
    assert read_bundle(tmp_path).loss == settings
    (finding,) = [item for item in check_bundle(tmp_path) if item.code == "PROXIES"]
    assert (finding.level, "its bank comes from the training samples" in finding.message) == (Level.OK, True)


def ranked_scores(folder: Path) -> Tensor:
    """Features of random images under the model, and what `rank` makes of them."""
    model = load_model(folder)
    generator = torch.Generator().manual_seed(2)
    with torch.inference_mode():
        x_NF, x_MF = (model.backbone(torch.randn(rows, 1, 16, 16, generator=generator)) for rows in (30, 20))
    x_NF, x_MF = x_NF.clone(), x_MF.clone()
    labels_N = torch.arange(30) % C
    queries = find_queries(
        embeddings_MD=model.head.embed(x_MF),
        labels=[CLASSES[row % C] for row in range(20)],
        sample_ids=[f"t{row}" for row in range(20)],
        kind=QueryKind.CONFUSION_PAIRS,
    )
    assert len(queries) > 3
    ranked = rank(
        head=model.head,
        loss=with_bank(model.loss, model.head, x_NF, labels_N),
        train_features_NF=x_NF,
        train_labels_N=labels_N,
        test_features_MF=x_MF,
        queries=queries,
        config=InfluenceConfig(),
    )
    return torch.stack([torch.from_numpy(scores_N) for _, scores_N in ranked])


def test_a_model_with_an_arcface_head_is_ranked_as_with_the_library_s(tmp_path: Path) -> None:
    trained = library.ArcFaceLoss(num_classes=C, embedding_size=DIM, margin=20, scale=16)
    ours = bundle(tmp_path / "ours", ArcFaceSettings(margin=20, scale=16), trained.state_dict())
    settings = PmlSettings(class_="ArcFaceLoss", arguments={"margin": 20, "scale": 16})
    theirs = bundle(tmp_path / "theirs", settings, trained.state_dict())
    scores_QN = ranked_scores(ours)
    assert scores_QN.abs().max() > 1e-3
    torch.testing.assert_close(scores_QN, ranked_scores(theirs), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["TripletMarginLoss", "MultiSimilarityLoss"])
def test_a_model_of_pairs_is_ranked(tmp_path: Path, name: str) -> None:
    scores_QN = ranked_scores(bundle(tmp_path, PmlSettings(class_=name), None))
    assert torch.isfinite(scores_QN).all()
    assert scores_QN.abs().max() > 1e-6


FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"name": "arcface", "margin": 180}, "loss.arcface.margin", "less than 180"),
    ({"name": "arcface", "margin": -1}, "loss.arcface.margin", "greater than or equal to 0"),
    ({"name": "cosface", "scale": 0}, "loss.cosface.scale", "greater than 0"),
    ({"name": "normalized_softmax", "scale": 3}, "loss.normalized_softmax.scale", "unknown field"),
    ({"name": "proxy_anchor", "alpha": "x"}, "loss.proxy_anchor.alpha", "valid number"),
    ({"name": "pytorch_metric_learning"}, "loss.pytorch_metric_learning.class", "is missing"),
    (
        {"name": "pytorch_metric_learning", "class": "FooLoss"},
        "loss.pytorch_metric_learning",
        "'FooLoss' is none that has a value per sample: ArcFaceLoss",
    ),
    (
        {"name": "pytorch_metric_learning", "class": "ProxyAnchorLoss"},
        "loss.pytorch_metric_learning",
        "name the loss proxy_anchor instead",
    ),
    (
        {"name": "pytorch_metric_learning", "class": "CosFaceLoss", "bank": {}},
        "loss.pytorch_metric_learning",
        "CosFaceLoss has learnt vectors",
    ),
    (
        {"name": "pytorch_metric_learning", "class": "SubCenterArcFaceLoss", "arguments": {"sub_centers": 10**9}},
        "loss.pytorch_metric_learning",
        "arguments.sub_centers is 1000000000, not a whole number from 1 to 1000",
    ),
    (
        {"name": "pytorch_metric_learning", "class": "SphereFaceLoss", "arguments": {"margin": 10**9}},
        "loss.pytorch_metric_learning",
        "arguments.margin is 1000000000, not a whole number from 1 to 64",
    ),
    (
        {"name": "pytorch_metric_learning", "class": "LargeMarginSoftmaxLoss", "arguments": {"margin": 0}},
        "loss.pytorch_metric_learning",
        "arguments.margin is 0, not a whole number from 1 to 64",
    ),
    (
        {"name": "pytorch_metric_learning", "class": "TripletMarginLoss", "bank": {"per_class": 0}},
        "loss.pytorch_metric_learning.bank.per_class",
        "greater than or equal to 1",
    ),
]


@pytest.mark.parametrize(("loss", "field", "says"), FAULTS)
def test_a_fault_names_its_field(tmp_path: Path, loss: dict[str, Any], field: str, says: str) -> None:
    text = json.dumps(json.loads((small_bundle(tmp_path) / "model.json").read_text()) | {"loss": loss})
    with pytest.raises(ModelBundleInvalid) as caught:
        parse_bundle(text)
    assert says in caught.value.message
    assert caught.value.metadata["field"] == field


def test_objects_are_no_arguments(tmp_path: Path) -> None:
    loss = {"name": "pytorch_metric_learning", "class": "ArcFaceLoss", "arguments": {"distance": {"power": 2}}}
    with pytest.raises(ModelBundleInvalid, match=r"loss.pytorch_metric_learning.arguments.distance"):
        read_bundle(edit(small_bundle(tmp_path), loss=loss))


def test_arguments_that_a_class_does_not_take_are_found_by_load_and_check(tmp_path: Path) -> None:
    loss = {"name": "pytorch_metric_learning", "class": "ArcFaceLoss", "arguments": {"margn": 1}}
    folder = edit(small_bundle(tmp_path), loss=loss)
    with pytest.raises(ModelBundleInvalid, match=r"model.json: loss.arguments.margn: cannot be set") as caught:
        load_model(folder)
    assert caught.value.metadata["field"] == "loss"
    (finding,) = [item for item in check_bundle(folder) if item.level is Level.ERROR]
    assert (finding.code, "margn" in finding.message) == ("MODEL_BUNDLE_INVALID", True)


def test_a_bank_and_a_file_of_proxies_exclude_each_other(tmp_path: Path) -> None:
    loss = {"name": "pytorch_metric_learning", "class": "TripletMarginLoss"}
    put_weights(small_bundle(tmp_path), {"proxies": vectors(C, DIM)}, name="loss.pt", field="proxies")
    with pytest.raises(ModelBundleInvalid, match="proxies is for losses with learnt vectors"):
        read_bundle(edit(tmp_path, loss=loss))


@pytest.mark.parametrize("settings", [*ONE_A_CLASS, ProxyNcaSettings(), PmlSettings(class_="ArcFaceLoss")])
def test_a_bundle_without_its_vectors_is_not_saved(tmp_path: Path, settings: LossSettings) -> None:
    with pytest.raises(CheckpointIncompatible, match=r"the state dict has no loss\.proxies"):
        bundle(tmp_path, settings, None)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ({"name": "arcface", "margin": 0.5}, "is in degrees: if it was radians in training, give 28.65"),
        ({"name": "normalized_softmax", "temperature": 20}, "if it was a scale in training, give 0.05"),
        ({"name": "proxy_nca", "scale": 32}, "give its square root"),
    ],
)
def test_settings_in_other_units_are_a_warning(tmp_path: Path, loss: dict[str, Any], says: str) -> None:
    findings = check_bundle(edit(small_bundle(tmp_path), loss=loss))
    (finding,) = [item for item in findings if item.code == "LOSS_SCALE"]
    assert finding.level is Level.WARNING
    assert says in finding.message


def test_defaults_are_those_of_the_papers() -> None:
    found = {name: SETTINGS.validate_python({"name": name}).model_dump() for name in ("arcface", "cosface")}
    assert found == {
        "arcface": {"name": "arcface", "scale": 64.0, "margin": 28.6},
        "cosface": {"name": "cosface", "scale": 64.0, "margin": 0.35},
    }
    assert SETTINGS.validate_python({"name": "proxy_anchor"}) == ProxyAnchorSettings(margin=0.1, alpha=32)
    assert SETTINGS.validate_python({"name": "normalized_softmax"}) == NormalizedSoftmaxSettings(temperature=0.05)
    assert SETTINGS.validate_python({"name": "soft_triple"}) == SoftTripleSettings(centers_per_class=1)


def test_old_state_dicts_keep_their_names() -> None:
    """What the first bundles hold is what is still written."""
    assert "loss.proxies" in small_state()
    assert "loss.centers" in small_state(centers=2)

"""Explanations of pairs of images: sums, symmetry, and the command."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from eif_engine.__main__ import main
from eif_engine.data.images import decode_image
from eif_engine.data.preprocessing import Preprocessing
from eif_engine.errors import CheckpointIncompatible, FeatureMapMissing
from eif_engine.jobs.explain import Explainer, Explanation, explain_pairs, links
from eif_engine.losses.settings import ProxyNcaSettings
from eif_engine.matching_config import MatchingConfig
from eif_engine.models.architectures import build_backbone
from eif_engine.models.bundle import Architecture, AttentionSettings, Pooling
from eif_engine.models.checkpoint import load_model
from eif_engine.models.head import Head
from eif_engine.models.loaded import LoadedModel
from eif_engine.models.save import save_bundle, state_dict_of
from tests.bundles import CLASSES, DIM, small_bundle

SIDE = 96
GROUPED: dict[str, Any] = {
    "pooling": Pooling.GROUPED_ATTENTION,
    "attention": AttentionSettings(groups=4, key_dim=8, value_dim=6),
}


def bundle(folder: Path, **options: Any) -> Path:
    """A ResNet whose weights let an image through."""
    torch.manual_seed(0)
    architecture = Architecture(name="resnet18")
    backbone = build_backbone(architecture, **options).module
    for child in backbone.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight)
    with torch.inference_mode():
        features = backbone(torch.zeros(1, 3, SIDE, SIDE)).shape[1]
    save_bundle(
        folder,
        architecture=architecture,
        loss=ProxyNcaSettings(),
        classes=CLASSES,
        preprocessing=Preprocessing(resize=SIDE, center_crop=SIDE),
        state_dict=state_dict_of(backbone=backbone, head=nn.Linear(features, DIM), proxies=torch.randn(5, DIM)),
        **options,
    )
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(bundle(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(bundle(tmp_path_factory.mktemp("grouped"), **GROUPED))


def photo(seed: int, side: int = 120) -> bytes:
    """Patches of colour."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(model: LoadedModel, seed: int) -> Any:
    return model.preprocessing.apply(decode_image(photo(seed)))


def explain(model: LoadedModel, first: int = 0, second: int = 1, **options: Any) -> Explanation:
    (found,) = explain_pairs(model, [(pixels(model, first), pixels(model, second))], **options)
    return found


def own_cosine(model: LoadedModel, first: int = 0, second: int = 1) -> float:
    batch = torch.from_numpy(np.stack([pixels(model, first), pixels(model, second)]))
    with torch.inference_mode():
        one, other = model.head.embed(model.backbone(batch)).double()
    return float(one @ other / one.norm() / other.norm())


@pytest.mark.parametrize("kind", ["model", "grouped"])
def test_everything_sums_to_what_it_is_said_to_sum_to(kind: str, request: pytest.FixtureRequest) -> None:
    model: LoadedModel = request.getfixturevalue(kind)
    found = explain(model)
    assert (found.rows, found.columns) == (3, 3)
    assert found.flow_UV.sum() == pytest.approx(1, abs=1e-9)
    assert found.contribution_UV.sum() == pytest.approx(found.matched_similarity, abs=1e-9)
    assert found.similarity == pytest.approx(own_cosine(model), abs=1e-6)
    assert found.added_UV is not None
    assert found.added_UV.sum() == pytest.approx(found.similarity, abs=1e-6)
    assert found.error <= 1e-9


def test_groups_share_the_similarity_and_attend_over_parts(grouped: LoadedModel) -> None:
    found = explain(grouped)
    assert sum(found.group_shares) == pytest.approx(found.similarity, abs=1e-6)
    assert found.attention.shape == (2, 4, 9)
    np.testing.assert_allclose(found.attention.sum(2), 1, rtol=0, atol=1e-6)
    assert len(found.group_shares) == 4


def test_without_groups_there_are_no_shares(model: LoadedModel) -> None:
    found = explain(model)
    assert found.group_shares == ()
    assert found.attention.shape == (2, 0, 9)


def test_an_image_is_like_itself(model: LoadedModel) -> None:
    found = explain(model, 0, 0, config=MatchingConfig(temperature=0.01))
    assert found.similarity == pytest.approx(1, abs=1e-9)
    assert found.matched_similarity == pytest.approx(1, abs=0.05)
    assert found.matched_similarity > explain(model, 0, 1, config=MatchingConfig(temperature=0.01)).matched_similarity


def test_the_order_of_the_two_images_only_turns_the_tables(grouped: LoadedModel) -> None:
    one, two = explain(grouped, 0, 1), explain(grouped, 1, 0)
    np.testing.assert_allclose(one.flow_UV, two.flow_UV.T, rtol=0, atol=1e-8)
    assert one.added_UV is not None
    assert two.added_UV is not None
    np.testing.assert_allclose(one.added_UV, two.added_UV.T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(one.group_shares, two.group_shares, rtol=0, atol=1e-12)
    np.testing.assert_allclose(one.attention, two.attention[::-1], rtol=0, atol=1e-12)


def test_a_pair_is_explained_the_same_among_others(model: LoadedModel) -> None:
    images = [pixels(model, seed) for seed in (0, 1, 2)]
    together = list(explain_pairs(model, [(images[2], images[1]), (images[0], images[1])]))
    alone = explain(model, 0, 1)
    np.testing.assert_array_equal(together[1].flow_UV, alone.flow_UV)
    assert together[1].similarity == alone.similarity


def test_pairs_are_read_one_at_a_time(model: LoadedModel) -> None:
    read: list[int] = []

    def pairs() -> Any:
        for number in range(3):
            read.append(number)
            yield pixels(model, number), pixels(model, number + 1)

    found = explain_pairs(model, pairs())
    next(found)
    assert read == [0]


def test_the_model_is_left_as_it_was(model: LoadedModel) -> None:
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    explain(model)
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items())
    assert not model.backbone.training


def test_temperature_spreads_the_flow(model: LoadedModel) -> None:
    flows = [explain(model, config=MatchingConfig(temperature=value)).flow_UV for value in (0.02, 0.2, 2.0)]
    entropies = [-float((flow[flow > 0] * np.log(flow[flow > 0])).sum()) for flow in flows]
    assert entropies == sorted(entropies)
    assert entropies[-1] > entropies[0] + 0.05


def test_links_come_largest_first_and_leave_out_the_smallest(model: LoadedModel) -> None:
    found = explain(model)
    every = links(found)
    assert len(every) == 81
    assert [link.contribution for link in every] == sorted((link.contribution for link in every), reverse=True)
    assert sum(link.contribution for link in every) == pytest.approx(found.matched_similarity)
    assert all(link.contribution == found.contribution_UV[link.part, link.neighbor_part] for link in every)
    few = links(found, least_share=0.02)
    assert 0 < len(few) < 81
    assert few == [link for link in every if abs(link.contribution) >= 0.02 * found.matched_similarity]


def test_equal_contributions_come_in_the_order_of_parts(model: LoadedModel) -> None:
    found = explain(model)
    level = replace(found, flow_UV=np.full((9, 9), 1 / 81), part_similarity_UV=np.ones((9, 9)))
    assert [(link.part, link.neighbor_part) for link in links(level)[:3]] == [(0, 0), (0, 1), (0, 2)]


def test_a_network_without_a_map_is_refused(tmp_path: Path) -> None:
    small = load_model(small_bundle(tmp_path))
    broken = replace(small, backbone=nn.Sequential(nn.Flatten(), nn.Linear(256, 8)))
    with pytest.raises(FeatureMapMissing, match="architecture flat has no feature map"):
        Explainer(broken, name="flat")


def test_features_that_are_not_finite_are_refused(model: LoadedModel) -> None:
    head = Head(torch.full_like(model.head.weight_DF, float("nan")), model.head.bias_D)
    with pytest.raises(CheckpointIncompatible, match="NaN or infinite"):
        explain(replace(model, head=head))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_explains_as_a_cpu_does(grouped: LoadedModel) -> None:
    device = torch.device("cuda")
    moved = replace(
        grouped, backbone=grouped.backbone.to(device), head=grouped.head.to(device=device, dtype=torch.float32)
    )
    try:
        there = explain(moved)
    finally:
        grouped.backbone.to("cpu")
    here = explain(grouped)
    assert there.similarity == pytest.approx(here.similarity, abs=1e-4)
    np.testing.assert_allclose(there.flow_UV, here.flow_UV, atol=1e-4)
    np.testing.assert_allclose(there.group_shares, here.group_shares, atol=1e-4)


def test_the_command_writes_a_picture_and_prints_the_links(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bundle(tmp_path / "model", **GROUPED)
    for number in (0, 1):
        (tmp_path / f"{number}.png").write_bytes(photo(number))
    out = tmp_path / "out.png"
    argv = ["explain", str(folder), str(tmp_path / "0.png"), str(tmp_path / "1.png"), "--out", str(out), "--top", "3"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    expected = explain(load_model(folder))
    assert f"similarity (cosine of the embeddings) {expected.similarity:.4f}" in printed
    assert f"matched similarity {expected.matched_similarity:.4f}" in printed
    assert f"{links(expected)[0].contribution:+.4f}" in printed
    assert f"{links(expected)[2].contribution:+.4f}" in printed
    assert printed.count("row ") == 6
    assert f"{expected.group_shares[3]:+.4f}" in printed
    with Image.open(out) as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"first": "missing.png"}, "IMAGE_INVALID: .*missing.png: cannot be read"),
        ({"first": "text.png"}, "IMAGE_INVALID: .*text.png: not an image"),
        ({"out": "no/such/folder/out.png"}, "ARGUMENT_INVALID: .*out.png: cannot be written"),
        ({"temperature": "0"}, "ARGUMENT_INVALID: temperature must lie in"),
        ({"top": "-1"}, "ARGUMENT_INVALID: --top must be at least 0"),
        ({"folder": "nowhere"}, "MODEL_BUNDLE_INVALID: model.json cannot be read"),
    ],
    ids=["missing", "text", "out", "temperature", "top", "folder"],
)
def test_the_command_says_what_is_wrong(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], change: dict[str, str], says: str
) -> None:
    small_bundle(tmp_path / "model")
    (tmp_path / "0.png").write_bytes(photo(0))
    (tmp_path / "text.png").write_text("no image")
    given = {"folder": "model", "first": "0.png", "out": "out.png", "temperature": "0.05", "top": "5"} | change
    paths = [str(tmp_path / given[name]) for name in ("folder", "first")]
    argv = ["explain", *paths, str(tmp_path / "0.png"), "--out", str(tmp_path / given["out"])]
    assert main([*argv, "--temperature", given["temperature"], "--top", given["top"]]) == 1
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert re.search(says, error)
    assert not (tmp_path / "out.png").exists()

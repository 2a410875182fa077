"""Explain jobs from a manifest to tables and pictures, on real files, in this process."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from eif_engine.data.images import decode_image
from eif_engine.data.preprocessing import Preprocessing
from eif_engine.jobs.explain import explain_pairs, links
from eif_engine.losses.settings import ProxyNcaSettings
from eif_engine.models.bundle import Architecture
from eif_engine.models.checkpoint import load_model
from eif_engine.models.save import save_bundle, state_dict_of
from eif_engine.models.small import conv4
from services.influence.messages import CancelledMessage, FailedMessage, ProgressMessage
from services.influence.spec import Artifact, ExplainSpec, JobRequest, RunOptions, SamplePair
from services.influence.worker.cancellation import Cancellation
from tests.job_world import CLASSES, SETTINGS, JobWorld, Result

SIDE = 32
PAIRS = (("test-0000", "test-0001"), ("test-0003", "test-0000"), ("test-0004", "test-0002"))


@pytest.fixture
def world(tmp_path: Path) -> JobWorld:
    return JobWorld(tmp_path / "world")


def model_of(world: JobWorld, name: str = "net", *, groups: int = 0, broken: bool = False) -> Artifact:
    options: dict[str, Any] = {"width": 4, "image_size": SIDE}
    if groups:
        options |= {"groups": groups, "key_dim": 3, "value_dim": 2}
    torch.manual_seed(0)
    backbone = conv4(**options)
    for parameter in backbone.parameters():
        if parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter)
    with torch.inference_mode():
        features = backbone.eval()(torch.zeros(1, 1, SIDE, SIDE)).shape[1]
    state = state_dict_of(backbone=backbone, head=nn.Linear(features, 6), proxies=torch.randn(len(CLASSES), 6))
    if broken:
        state["backbone.3.1.weight"] = torch.full_like(state["backbone.3.1.weight"], 3e38)
    save_bundle(
        world.folder / "objects" / name,
        architecture=Architecture(name="conv4", options=options),
        loss=ProxyNcaSettings(),
        classes=CLASSES,
        preprocessing=Preprocessing(mode="L", resize=(SIDE, SIDE)),
        state_dict=state,
    )
    return Artifact(uri=world.place.uri(f"{name}/model.json"))


def spec_of(
    world: JobWorld, pairs: Sequence[tuple[str, str]] = PAIRS, *, model: Artifact | None = None, **changes: Any
) -> ExplainSpec:
    fields = {
        "model": model or model_of(world),
        "manifest": changes.get("manifest") or world.manifest("test.jsonl", world.samples("test", 6)),
        "pairs": tuple(SamplePair(sample_id=first, neighbor_id=second) for first, second in pairs),
        "run": RunOptions(),
    }
    return ExplainSpec(**(fields | changes))


def request(world: JobWorld, spec: ExplainSpec) -> JobRequest:
    prefix = world.place.uri("out")
    name = "projects/p/influenceJobs/j"
    return JobRequest(name=name, uid=str(uuid.uuid4()), attempt=1, spec=spec, output_uri_prefix=prefix)


def explained(world: JobWorld, spec: ExplainSpec) -> Result:
    return world.result(world.run(request(world, spec)))


def failure(world: JobWorld, spec: ExplainSpec, **options: Any) -> FailedMessage:
    message = world.run(request(world, spec), **options)
    assert isinstance(message, FailedMessage), message
    assert not list((world.folder / "objects" / "out").rglob("*.json"))
    return message


def file_of(world: JobWorld, result: Result, name: str) -> bytes:
    entry = result.manifest.files[name]
    data = (world.folder / "objects" / "out" / result.manifest.uid / entry.file).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.bytes, entry.sha256)
    return data


def pixels(world: JobWorld, sample_id: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    model = load_model(world.folder / "objects" / "net")
    data = (world.folder / "objects" / "test" / f"{sample_id[-4:]}.png").read_bytes()
    return model.preprocessing.apply(decode_image(data))


def test_a_job_tells_what_the_engine_tells(world: JobWorld) -> None:
    result = explained(world, spec_of(world))
    model = load_model(world.folder / "objects" / "net")
    expected = list(explain_pairs(model, [(pixels(world, first), pixels(world, second)) for first, second in PAIRS]))
    rows = result.rows("explanations")
    assert [(row["sample_id"], row["neighbor_id"]) for row in rows] == list(PAIRS)
    assert [(row["label"], row["neighbor_label"]) for row in rows] == [("ant", "bee"), ("ant", "ant"), ("bee", "cat")]
    parts = result.rows("parts")
    for row, explanation in zip(rows, expected, strict=True):
        assert row["similarity"] == pytest.approx(explanation.similarity, abs=1e-9)
        assert row["matched_similarity"] == pytest.approx(explanation.matched_similarity, abs=1e-9)
        assert (row["rows"], row["columns"], row["group_shares"]) == (2, 2, [])
        own = [each for each in parts if each["sample_id"] == row["sample_id"]]
        found = [(each["part"], each["neighbor_part"], each["contribution"]) for each in own]
        wanted = [(each.part, each.neighbor_part, each.contribution) for each in links(explanation, least_share=1e-6)]
        assert [pair[:2] for pair in found] == [pair[:2] for pair in wanted]
        np.testing.assert_allclose([pair[2] for pair in found], [pair[2] for pair in wanted], atol=1e-9)
        assert sum(each["flow"] for each in own) == pytest.approx(1, abs=1e-4)
        assert sum(each["contribution"] for each in own) == pytest.approx(row["matched_similarity"], abs=1e-4)
        assert all(each["contribution"] == pytest.approx(each["flow"] * each["similarity"]) for each in own)
    assert result.figures["pairs"] == 3
    assert result.figures["parts"] == 4
    assert result.figures["skipped_pairs"] == result.figures["quarantined"] == 0
    assert 0 < result.figures["largest_marginal_error"] <= 1e-9
    assert result.rows("quarantine") == []


def test_pictures_are_files_of_the_result_and_the_same_again(world: JobWorld) -> None:
    spec = spec_of(world)
    one, two = explained(world, spec), explained(world, spec)
    names = [row["picture"] for row in one.rows("explanations")]
    assert names == ["pair-0001.png", "pair-0002.png", "pair-0003.png"] == sorted(one.manifest.files)
    for name in names:
        with Image.open(io.BytesIO(file_of(world, one, name))) as picture:
            assert picture.format == "PNG"
            assert picture.width > 1000
        assert file_of(world, one, name) == file_of(world, two, name)
    assert len({file_of(world, one, name) for name in names}) == 3
    for table in ("explanations", "parts", "quarantine"):
        assert one.bytes(table) == two.bytes(table)


def test_shares_of_groups_sum_to_the_similarity(world: JobWorld) -> None:
    result = explained(world, spec_of(world, model=model_of(world, "grouped", groups=3)))
    for row in result.rows("explanations"):
        assert len(row["group_shares"]) == 3
        assert sum(row["group_shares"]) == pytest.approx(row["similarity"], abs=1e-6)


def test_pairs_are_explained_once_and_progress_counts_them(world: JobWorld) -> None:
    result = explained(world, spec_of(world, (*PAIRS, PAIRS[0])))
    assert result.manifest.tables["explanations"].rows == 3
    progress = [message for message in world.sent if isinstance(message, ProgressMessage)]
    assert list(dict.fromkeys(message.stage for message in progress)) == ["inputs", "explain", "results"]
    last = [message for message in progress if message.stage == "explain"][-1]
    assert (last.done, last.total, last.unit) == (3, 3, "pairs")


def test_an_unknown_sample_is_named(world: JobWorld) -> None:
    message = failure(world, spec_of(world, (*PAIRS, ("test-0001", "nobody"))))
    assert message.reason == "SAMPLE_UNKNOWN"
    assert "'nobody'" in message.message
    assert message.metadata["sample_id"] == "nobody"


def broken_spec(world: JobWorld, fraction: float) -> ExplainSpec:
    """The image of test-0000, which two pairs have, is damaged."""
    rows = world.samples("test", 6, digests=False)
    world.put("test/0000.png", b"no image")
    manifest = world.manifest("test.jsonl", rows)
    return spec_of(world, manifest=manifest, run=RunOptions(max_quarantined_fraction=fraction))


def test_pairs_with_an_unreadable_image_are_left_out(world: JobWorld) -> None:
    result = explained(world, broken_spec(world, 0.5))
    (row,) = result.rows("quarantine")
    assert (row["sample_id"], row["split"], row["reason"]) == ("test-0000", "explained", "IMAGE_INVALID")
    assert [each["sample_id"] for each in result.rows("explanations")] == ["test-0004"]
    assert list(result.manifest.files) == ["pair-0001.png"]
    assert (result.figures["pairs"], result.figures["skipped_pairs"], result.figures["quarantined"]) == (1, 2, 1)


def test_more_unreadable_images_than_allowed_fail_the_job(world: JobWorld) -> None:
    message = failure(world, broken_spec(world, 0.01))
    assert message.reason == "TOO_MANY_QUARANTINED"
    assert message.message.startswith("1 of the 5 explained samples could not be read so far")
    assert "test-0000" in message.message


def test_a_network_without_a_feature_map_is_refused(world: JobWorld) -> None:
    message = failure(world, spec_of(world, model=world.bundle()))
    assert message.reason == "FEATURE_MAP_MISSING"
    assert message.metadata["architecture"] == "mlp"
    assert "mlp has no feature map" in message.message


def test_a_network_that_gives_nonsense_is_refused(world: JobWorld) -> None:
    message = failure(world, spec_of(world, model=model_of(world, broken=True)))
    assert message.reason == "CHECKPOINT_INCOMPATIBLE"
    assert message.metadata["sample_id"] in PAIRS[0]
    assert message.metadata["sample_id"] in message.message


def test_a_job_that_does_not_fit_its_memory_is_refused_before_it_computes(world: JobWorld) -> None:
    settings = SETTINGS.model_copy(update={"memory_budget_bytes": 1 << 20})
    message = failure(world, spec_of(world), settings=settings)
    assert message.reason == "MEMORY_EXCEEDED"
    assert int(message.metadata["needed_bytes"]) > 1 << 20
    assert {each.stage for each in world.progress()} == {"inputs"}


def test_cancel_is_seen_between_pairs(world: JobWorld) -> None:
    cancellation = Cancellation()
    spec = spec_of(world)

    class Sent(list[Any]):
        def append(self, message: Any) -> None:
            super().append(message)
            if isinstance(message, ProgressMessage) and message.stage == "explain":
                cancellation.request()

    world.sent = Sent()
    assert isinstance(world.run(request(world, spec), cancellation=cancellation), CancelledMessage)
    assert not [message for message in world.progress() if message.stage == "results"]
    assert not list((world.folder / "objects" / "out").rglob("*.png"))


def test_influence_of_a_model_with_attention_is_ranked_as_of_any_other(world: JobWorld) -> None:
    result = world.result(world.run(world.request(world.rank_spec(model=model_of(world, groups=3)))))
    assert result.figures["confusion_pairs"] > 0
    scores = [row["score"] for row in result.ranking()]
    assert len(scores) == 30
    assert np.isfinite(scores).all()
    assert max(scores) > 0 > min(scores)

"""Bad input of a job: it gets a reason and a message that names the file, line or field, and leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from services.influence.messages import FailedMessage
from services.influence.spec import (
    Artifact,
    HarmfulSamples,
    QuerySelection,
    RankSpec,
    RelabelSpec,
    RunOptions,
    SamplePair,
    SampleSelection,
)
from services.influence.worker.settings import WorkerSettings
from tests.job_world import CLASSES, SETTINGS, SIDE, JobWorld, png

WRONG = "0" * 64


@pytest.fixture
def world(tmp_path: Path) -> JobWorld:
    return JobWorld(tmp_path / "world")


def failed(
    world: JobWorld, spec: RankSpec | RelabelSpec, *, settings: WorkerSettings = SETTINGS, **changes: Any
) -> FailedMessage:
    """Run a job that must fail, and leave nothing."""
    request = world.request(spec, **changes)
    message = world.run(request, settings=settings)
    assert isinstance(message, FailedMessage), message
    assert list(world.store.list(world.place.uri(f"out/{request.uid}/"))) == []
    assert not (world.folder / "scratch").exists()
    return message


# --- objects ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["train.jsonl", "test.jsonl", "model/model.json", "model/weights.safetensors"])
def test_a_missing_object(world: JobWorld, key: str) -> None:
    spec = world.rank_spec()
    world.store.delete(world.place.uri(key))
    message = failed(world, spec)
    assert message.reason == "OBJECT_NOT_FOUND"
    assert world.place.uri(key) in message.message
    assert message.metadata["uri"] == world.place.uri(key)


@pytest.mark.parametrize("field", ["model", "train_manifest", "test_manifest"])
def test_a_wrong_digest(world: JobWorld, field: str) -> None:
    spec = world.rank_spec()
    uri = getattr(spec, field).uri
    message = failed(world, spec.model_copy(update={field: Artifact(uri=uri, sha256=WRONG)}))
    assert message.reason == "OBJECT_DIGEST_MISMATCH"
    assert uri in message.message
    assert message.metadata["expected"] == WRONG


def test_weights_that_were_replaced(world: JobWorld) -> None:
    spec = world.rank_spec()
    uri = world.put("model/weights.safetensors", b"something else")
    message = failed(world, spec)
    assert message.reason == "OBJECT_DIGEST_MISMATCH"
    assert uri in message.message


def test_weights_over_the_limit(world: JobWorld) -> None:
    settings = SETTINGS.model_copy(update={"max_weights_bytes": 100})
    message = failed(world, world.rank_spec(), settings=settings)
    assert message.reason == "OBJECT_TOO_LARGE"
    assert "weights.safetensors" in message.message


@pytest.mark.parametrize("uri", ["s3://bucket/train.jsonl", "http://host/train.jsonl", "file:///etc/passwd"])
def test_a_uri_that_is_not_open(world: JobWorld, uri: str) -> None:
    message = failed(world, world.rank_spec(train_manifest=Artifact(uri=uri)))
    assert message.reason == "URI_NOT_ALLOWED"
    assert uri in message.message


# --- images -----------------------------------------------------------------------------------------------------------


def huge_png() -> bytes:
    """A few hundred bytes that open as 100 megapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 1, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def truncated() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    return png(noise)[:2000]


BAD_IMAGES: dict[str, tuple[Callable[[], bytes], str]] = {
    "truncated": (truncated, "damaged or truncated PNG"),
    "huge": (huge_png, "10000 x 10000 = 100,000,000 pixels, over the limit"),
    "text": (lambda: b"hello", "not an image that can be read"),
    "empty": (lambda: b"", "the file is empty"),
    "32 bits": (lambda: tiff("F"), "no agreed white"),
}


def tiff(mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8)).save(buffer, format="TIFF")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_an_image_that_cannot_be_read_fails_the_job_or_is_told(world: JobWorld, kind: str) -> None:
    make, expected = BAD_IMAGES[kind]
    uri = world.put("bad", make())
    rows = [*world.samples("train", 20), {"id": "bad one", "uri": uri, "label": "ant"}]
    spec = world.rank_spec(train_manifest=world.manifest("m.jsonl", rows))
    message = failed(world, spec)
    assert message.reason == "TOO_MANY_QUARANTINED"
    assert "1 of the 21 train samples could not be read so far, and 0 are allowed" in message.message
    assert "bad one (IMAGE_INVALID: " in message.message
    assert expected in message.message
    assert message.metadata["quarantined"] == "1"
    tolerant = spec.model_copy(update={"run": RunOptions(max_quarantined_fraction=0.05)})
    (row,) = world.result(world.run(world.request(tolerant))).rows("quarantine")
    assert (row["sample_id"], row["uri"], row["split"], row["reason"]) == ("bad one", uri, "train", "IMAGE_INVALID")
    assert expected in row["message"]


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def odd_images() -> dict[str, bytes]:
    grey = Image.fromarray(np.random.default_rng(1).integers(0, 256, (SIDE, SIDE), dtype=np.uint8))
    colour = grey.convert("RGB")
    sixteen = Image.fromarray((np.asarray(grey).astype(np.uint16)) * 257)
    return {
        "16 bits": encoded(sixteen, "PNG"),
        "palette": encoded(colour.quantize(16), "PNG"),
        "CMYK": encoded(colour.convert("CMYK"), "JPEG"),
        "alpha": encoded(colour.convert("RGBA"), "PNG"),
        "grey alpha": encoded(grey.convert("LA"), "PNG"),
        "1 bit": encoded(grey.convert("1"), "PNG"),
        "webp": encoded(colour, "WEBP"),
        "gif": encoded(colour, "GIF"),
        "bmp": encoded(colour, "BMP"),
    }


def test_odd_colour_modes_are_fine(world: JobWorld) -> None:
    rows = [
        {"id": name, "uri": world.put(f"odd/{number}", data), "label": "ant"}
        for number, (name, data) in enumerate(odd_images().items())
    ]
    spec = world.rank_spec(train_manifest=world.manifest("odd.jsonl", rows))
    result = world.result(world.run(world.request(spec)))
    assert {row["sample_id"] for row in result.ranking()} == set(odd_images())
    assert result.figures["quarantined"] == 0


# --- manifests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"id": "x", "uri": ', "line 4"),
        ('{"id": "x", "label": "ant"}', "line 4: uri is missing"),
        ('{"id": "x", "uri": "file:///x.png", "label": 1.5}', "line 4: label must be text or an integer"),
        ('{"id": "train-0000", "uri": "file:///x.png", "label": "ant"}', "line 4: id 'train-0000' was already used in"),
    ],
    ids=["no json", "no uri", "label", "duplicate"],
)
def test_a_bad_line(world: JobWorld, split: str, line: str, expected: str) -> None:
    text = "".join(json.dumps(row) + "\n" for row in world.samples("train", 3)) + line + "\n"
    uri = world.put("bad.jsonl", text.encode())
    spec = world.rank_spec().model_copy(update={f"{split}_manifest": Artifact(uri=uri)})
    message = failed(world, spec)
    assert message.reason == "MANIFEST_INVALID"
    assert message.message.startswith(f"{uri}, ")
    assert expected in message.message
    assert message.metadata["line"] == "4"


def test_an_empty_manifest(world: JobWorld) -> None:
    message = failed(world, world.rank_spec(test_manifest=world.manifest("none.jsonl", [])))
    assert message.reason == "MANIFEST_INVALID"
    assert "none.jsonl is empty" in message.message


def test_a_manifest_of_an_unknown_format(world: JobWorld) -> None:
    message = failed(world, world.rank_spec(train_manifest=Artifact(uri=world.put("train.xlsx", b"x"))))
    assert message.reason == "MANIFEST_INVALID"
    assert "train.xlsx" in message.message


def test_a_training_label_that_the_model_does_not_know(world: JobWorld) -> None:
    rows = world.samples("train", 6)
    rows[4]["label"] = "zebra"
    manifest = world.manifest("labels.jsonl", rows)
    message = failed(world, world.rank_spec(train_manifest=manifest))
    assert message.reason == "LABEL_UNKNOWN"
    assert message.message.startswith(f"{manifest.uri}, line 5: sample 'train-0004' has label 'zebra'")
    assert message.metadata == {"uri": manifest.uri, "line": "5", "sample_id": "train-0004", "label": "zebra"}


def test_test_labels_and_labels_to_suggest_are_free(world: JobWorld) -> None:
    rows = [row | {"label": f"new {row['label']}"} for row in world.samples("test", 18)]
    spec = world.rank_spec(test_manifest=world.manifest("new.jsonl", rows))
    assert world.result(world.run(world.request(spec))).figures["queries"] > 0
    relabel = RelabelSpec(model=spec.model, train_manifest=spec.test_manifest)
    assert world.result(world.run(world.request(relabel))).figures["suggestions"] == 18


# --- checkpoints ------------------------------------------------------------------------------------------------------


def changed_bundle(world: JobWorld, change: Callable[[dict[str, Any]], None]) -> Artifact:
    """A bundle whose model.json was edited."""
    artifact = world.bundle()
    path = world.folder / "objects" / "model" / "model.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    return artifact


def weights(world: JobWorld, name: str, data: bytes) -> Callable[[dict[str, Any]], None]:
    """Put other weights in the place of the right ones."""

    def change(fields: dict[str, Any]) -> None:
        (world.folder / "objects" / "model" / name).write_bytes(data)
        fields["weights"] = {"file": name, "sha256": hashlib.sha256(data).hexdigest(), "format": "state_dict"}

    return change


def saved(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def test_model_json_that_breaks_its_schema(world: JobWorld) -> None:
    artifact = changed_bundle(world, lambda fields: fields.update(embedding_dim="four", colour="red"))
    message = failed(world, world.rank_spec(model=artifact))
    assert message.reason == "MODEL_BUNDLE_INVALID"
    assert message.message.startswith(artifact.uri)
    assert "embedding_dim" in message.message
    assert "colour: unknown field" in message.message


def test_model_json_that_names_an_unknown_architecture(world: JobWorld) -> None:
    artifact = changed_bundle(world, lambda fields: fields["architecture"].update(name="resnet9000"))
    message = failed(world, world.rank_spec(model=artifact))
    assert message.reason == "MODEL_BUNDLE_INVALID"
    assert message.message.startswith(artifact.uri)
    assert "resnet9000" in message.message


def test_a_checkpoint_with_missing_and_extra_keys(world: JobWorld) -> None:
    model = world.bundle(changes={"backbone.9.weight": torch.zeros(2)}, drop=("backbone.1.bias",))
    message = failed(world, world.rank_spec(model=model))
    assert message.reason == "CHECKPOINT_INCOMPATIBLE"
    assert message.message.startswith(model.uri)
    assert "weights.safetensors" in message.message
    assert "backbone.1.bias" in message.message
    assert "backbone.9.weight" in message.message


def test_a_checkpoint_with_wrong_shapes(world: JobWorld) -> None:
    model = world.bundle(changes={"head.weight": torch.zeros(4, 11)})
    message = failed(world, world.rank_spec(model=model))
    assert message.reason == "CHECKPOINT_INCOMPATIBLE"
    assert "head.weight" in message.message


@pytest.mark.parametrize("key", ["backbone.1.weight", "head.weight", "loss.proxies"])
def test_a_checkpoint_with_nan(world: JobWorld, key: str) -> None:
    shapes = {"backbone.1.weight": (12, SIDE * SIDE), "head.weight": (4, 10), "loss.proxies": (3, 4)}
    model = world.bundle(changes={key: torch.full(shapes[key], torch.nan)})
    message = failed(world, world.rank_spec(model=model))
    assert message.reason == "CHECKPOINT_INCOMPATIBLE"
    assert key.removeprefix("loss.") in message.message
    assert "NaN" in message.message


def test_a_network_whose_features_overflow_names_the_sample(world: JobWorld) -> None:
    model = world.bundle(changes={"backbone.1.weight": torch.full((12, SIDE * SIDE), 3e38)})
    message = failed(world, world.rank_spec(model=model))
    assert message.reason == "CHECKPOINT_INCOMPATIBLE"
    assert "train-0000" in message.message
    assert message.metadata["sample_id"] == "train-0000"


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._marker,))


def test_a_hostile_pickle_runs_nothing(world: JobWorld, tmp_path: Path) -> None:
    marker = tmp_path / "pwned"
    artifact = changed_bundle(world, weights(world, "evil.pth", saved({"head.weight": Evil(marker)})))
    message = failed(world, world.rank_spec(model=artifact))
    assert message.reason == "CHECKPOINT_UNSAFE"
    assert message.message.startswith(artifact.uri)
    assert "evil.pth" in message.message
    assert not marker.exists()


def test_a_tensor_that_claims_more_than_the_file_holds(world: JobWorld) -> None:
    bomb = saved({"head.weight": torch.zeros(1).expand(1_000_000_000)})
    message = failed(world, world.rank_spec(model=changed_bundle(world, weights(world, "bomb.pt", bomb))))
    assert message.reason == "CHECKPOINT_UNSAFE"
    assert "bomb.pt" in message.message


def test_damaged_safetensors(world: JobWorld) -> None:
    message = failed(world, world.rank_spec(model=changed_bundle(world, weights(world, "w.safetensors", b"\xff" * 64))))
    assert message.reason == "CHECKPOINT_UNSAFE"
    assert "w.safetensors" in message.message


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_a_pair_of_an_unknown_sample(world: JobWorld) -> None:
    pairs = (SamplePair(sample_id="test-0000", neighbor_id="nobody"),)
    message = failed(world, world.rank_spec(queries=QuerySelection(pairs=pairs)))
    assert message.reason == "SAMPLE_UNKNOWN"
    assert message.metadata == {"sample_id": "nobody"}


def test_a_pair_of_a_sample_that_could_not_be_read(world: JobWorld) -> None:
    rows = [*world.samples("test", 9), {"id": "bad one", "uri": world.put("bad", b"hello"), "label": "ant"}]
    spec = world.rank_spec(
        test_manifest=world.manifest("m.jsonl", rows),
        queries=QuerySelection(pairs=(SamplePair(sample_id="bad one", neighbor_id="test-0000"),)),
        run=RunOptions(max_quarantined_fraction=0.5),
    )
    message = failed(world, spec)
    assert message.reason == "SAMPLE_UNKNOWN"
    assert "'bad one' of the pairs asked for could not be read (IMAGE_INVALID" in message.message


def test_a_class_that_no_test_sample_has(world: JobWorld) -> None:
    message = failed(world, world.rank_spec(queries=QuerySelection(classes=("ant", "zebra"))))
    assert message.reason == "LABEL_UNKNOWN"
    assert "'zebra'" in message.message


def test_suggestions_for_an_unknown_sample(world: JobWorld) -> None:
    spec = world.rank_spec()
    selection = SampleSelection(sample_ids=("train-0001", "nobody"))
    message = failed(world, RelabelSpec(model=spec.model, train_manifest=spec.train_manifest, samples=selection))
    assert message.reason == "SAMPLE_UNKNOWN"
    assert "'nobody'" in message.message


def test_a_ranking_that_is_gone(world: JobWorld) -> None:
    spec = world.rank_spec()
    selection = SampleSelection(harmful=HarmfulSamples(job="projects/p/influenceJobs/r"))
    relabel = RelabelSpec(model=spec.model, train_manifest=spec.train_manifest, samples=selection)
    uri = world.place.uri("out/gone/ranking.parquet")
    message = failed(world, relabel, referred={"uri": uri, "sha256": WRONG})
    assert message.reason == "OBJECT_NOT_FOUND"
    assert uri in message.message


def test_an_index_where_there_is_no_embedding_service(world: JobWorld) -> None:
    spec = world.rank_spec()
    message = failed(world, RelabelSpec(train_manifest=spec.train_manifest, knn_index="projects/p/indexes/i"))
    assert message.reason == "EMBEDDING_UNAVAILABLE"
    assert "EIF_INFLUENCE_EMBEDDING_TARGET" in message.message


def test_a_job_that_does_not_fit_in_memory(world: JobWorld) -> None:
    settings = SETTINGS.model_copy(update={"memory_budget_bytes": 10_000})
    message = failed(world, world.rank_spec(), settings=settings)
    assert message.reason == "MEMORY_EXCEEDED"
    assert "a rank job on 30 training and 18 test samples needs about" in message.message
    assert int(message.metadata["needed_bytes"]) > int(message.metadata["budget_bytes"]) == 10_000
    spec = world.rank_spec()
    relabel = failed(world, RelabelSpec(model=spec.model, train_manifest=spec.train_manifest), settings=settings)
    assert relabel.reason == "MEMORY_EXCEEDED"


def test_a_gpu_where_there_is_none(world: JobWorld) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    spec = world.rank_spec().model_dump() | {"run": {"device": "cuda"}}
    message = failed(world, RankSpec.model_validate(spec))
    assert message.reason == "DEVICE_UNAVAILABLE"


# --- odd, but right ---------------------------------------------------------------------------------------------------


def test_no_confusions_at_all_is_an_empty_answer(world: JobWorld) -> None:
    rows = [row | {"label": "only"} for row in world.samples("test", 9)]
    spec = world.rank_spec(train=12, test_manifest=world.manifest("only.jsonl", rows))
    result = world.result(world.run(world.request(spec)))
    assert result.figures["confusion_pairs"] == result.figures["queries"] == 0
    assert result.rows("pairs") == []
    ranking = result.rows("ranking")
    assert [row["sample_id"] for row in ranking] == [f"train-{number:04d}" for number in range(12)]
    assert [row["rank"] for row in ranking] == list(range(1, 13))
    assert {(row["query_id"], row["score"]) for row in ranking} == {("all", 0.0)}


def test_one_class(world: JobWorld) -> None:
    rows = [row | {"label": "ant"} for row in world.samples("train", 9)]
    spec = world.rank_spec(train_manifest=world.manifest("ants.jsonl", rows), model=world.bundle(classes=("ant",)))
    assert len(world.result(world.run(world.request(spec))).ranking()) == 9
    relabel = RelabelSpec(model=spec.model, train_manifest=spec.train_manifest)
    suggestions = world.result(world.run(world.request(relabel))).rows("relabel")
    assert {(row["suggested_label"], row["score"]) for row in suggestions} == {("ant", 0.0)}


def test_classes_of_one_image(world: JobWorld) -> None:
    names = tuple(f"c{number}" for number in range(6))
    rows = [row | {"label": name} for row, name in zip(world.samples("train", 6), names, strict=True)]
    spec = world.rank_spec(
        train_manifest=world.manifest("each.jsonl", rows),
        test_manifest=world.manifest("each-test.jsonl", rows),
        model=world.bundle(classes=names),
    )
    result = world.result(world.run(world.request(spec)))
    assert result.figures["confusion_pairs"] == 6
    relabel = RelabelSpec(model=spec.model, train_manifest=spec.train_manifest)
    suggestions = world.result(world.run(world.request(relabel))).rows("relabel")
    assert {len(row["neighbor_ids"]) for row in suggestions} == {1}
    assert {row["score"] for row in suggestions} == {1.0}


def test_a_single_sample(world: JobWorld) -> None:
    spec = world.rank_spec(train=1, test=1)
    result = world.result(world.run(world.request(spec)))
    assert [row["sample_id"] for row in result.rows("ranking")] == ["train-0000"]
    relabel = RelabelSpec(model=spec.model, train_manifest=spec.train_manifest)
    (row,) = world.result(world.run(world.request(relabel))).rows("relabel")
    assert (row["suggested_label"], row["score"], row["neighbor_ids"]) == (CLASSES[0], 0.0, [])


def test_the_same_image_many_times(world: JobWorld) -> None:
    (row,) = world.samples("train", 1)
    copies = [row | {"id": f"copy-{number}", "label": CLASSES[number % 2]} for number in range(8)]
    spec = world.rank_spec(train_manifest=world.manifest("copies.jsonl", copies))
    result = world.result(world.run(world.request(spec)))
    by_label = {each["label"]: each["score"] for each in result.ranking()}
    assert len({each["score"] for each in result.ranking()}) == len(by_label) == 2
    equal = [each["sample_id"] for each in result.ranking() if each["label"] == CLASSES[0]]
    assert equal == sorted(equal)

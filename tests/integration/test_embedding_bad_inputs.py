"""Bad input gets a status, a frozen reason and a message that names the file, line or field; the process goes on."""

from __future__ import annotations

import json
import struct
import time
import uuid
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from eif.embedding.v1 import embedding_service_pb2 as pb
from eif.embedding.v1 import resources_pb2
from PIL import Image

from tests.embedding_server import PARENT, EmbeddingProcess, Refusal, refusal, refusal_of, running_embedding
from tests.onnx_bundles import DIM, SIDE, external, network, png, write_bundle
from tests.stores import local_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.stores import Place

Code = grpc.StatusCode
MODEL, INDEX = f"{PARENT}/models/m", f"{PARENT}/indexes/i"
Image_ = resources_pb2.ImageInput
MOST_BYTES = 100_000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def place(root: Path) -> Place:
    return local_place(root)


@pytest.fixture(scope="module")
def running(place: Place, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddingProcess]:
    write_bundle(root / "bundle")
    rows = [{"id": f"s{seed}", "uri": place.uri(f"{seed}.png"), "label": "x"} for seed in range(5)]
    for seed in range(5):
        (root / f"{seed}.png").write_bytes(png(seed))
    (root / "good.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    limits = {"max_image_bytes": str(MOST_BYTES), "max_image_pixels": "250000", "max_models": "3"}
    with running_embedding(place, tmp_path_factory.mktemp("server"), **limits) as server:
        server.create_model(place.uri("bundle"))
        server.built("i", manifest_uri=place.uri("good.jsonl"))
        yield server


@pytest.fixture
def server(running: EmbeddingProcess) -> Iterator[EmbeddingProcess]:
    """The shared server; after each test the same process must answer the next requests as before."""
    yield running
    reply = running.stub.EmbedImages(pb.EmbedImagesRequest(model=MODEL, images=[Image_(content=png(0))]), timeout=10)
    assert len(reply.embeddings[0].values) == DIM
    query = pb.SearchQuery(sample_id="s1")
    found = running.stub.SearchNeighbors(pb.SearchNeighborsRequest(index=INDEX, queries=[query]), timeout=10)
    assert len(found.results[0].sample_ids) == 4
    assert running.process.poll() is None


def refused(call: Callable[[], object]) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    seen = refusal_of(caught.value)
    assert seen.domain == "embedding.eif.dev"
    return seen


def expect(seen: Refusal, code: grpc.StatusCode, reason: str, *parts: str) -> None:
    assert (seen.code, seen.reason) == (code, reason), seen
    for part in parts:
        assert part in seen.message


# --- images


def embed(server: EmbeddingProcess, *images: resources_pb2.ImageInput, **fields: Any) -> Refusal:
    request = pb.EmbedImagesRequest(**{"model": MODEL, **fields}, images=images)
    return refused(lambda: server.stub.EmbedImages(request, timeout=20))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


BAD_IMAGES = {
    "text": (b"this is not an image", "not an image"),
    "empty": (b"", "empty"),
    "truncated": (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:600], "truncated"),
    "bomb": (bomb(), "pixels"),
    "over the pixel limit": (encoded(Image.new("L", (501, 500)), "PNG"), "501 x 500 = 250,500 pixels"),
    "over the byte limit": (bytes(MOST_BYTES + 1), "over the limit of 100,000"),
    "pdf": (b"%PDF-1.7\n" + bytes(100), "not an image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_named_by_its_place(server: EmbeddingProcess, name: str) -> None:
    content, message = BAD_IMAGES[name]
    seen = embed(server, Image_(content=png(0)), Image_(content=png(1)), Image_(content=content))
    expect(seen, Code.INVALID_ARGUMENT, "IMAGE_INVALID", "images[2]", message)
    assert seen.metadata["field"] == "images[2]"


@pytest.mark.parametrize("name", ["text", "truncated", "bomb"])
def test_a_bad_object_is_named_by_its_uri_too(server: EmbeddingProcess, place: Place, root: Path, name: str) -> None:
    (root / "bad.png").write_bytes(BAD_IMAGES[name][0])
    seen = embed(server, Image_(uri=place.uri("bad.png")))
    expect(seen, Code.INVALID_ARGUMENT, "IMAGE_INVALID", "images[0]", place.uri("bad.png"))


def test_objects_that_are_missing_too_large_or_not_allowed(server: EmbeddingProcess, place: Place, root: Path) -> None:
    (root / "large.png").write_bytes(bytes(MOST_BYTES + 1))
    missing, large = place.uri("missing.png"), place.uri("large.png")
    expect(embed(server, Image_(uri=missing)), Code.NOT_FOUND, "OBJECT_NOT_FOUND", "images[0]", missing)
    expect(embed(server, Image_(uri=large)), Code.INVALID_ARGUMENT, "OBJECT_TOO_LARGE", "images[0]", large)
    for uri in ("file:///etc/passwd", f"{place.base}/../x.png", "s3://bucket/key", "http://127.0.0.1/x", "0.png"):
        expect(embed(server, Image_(uri=uri)), Code.PERMISSION_DENIED, "URI_NOT_ALLOWED", "images[0]")


def test_requests_that_are_wrong_in_themselves(server: EmbeddingProcess) -> None:
    good = Image_(content=png(0))
    invalid = (Code.INVALID_ARGUMENT, "ARGUMENT_INVALID")
    expect(embed(server), *invalid, "images: there are 0; send 1 to 32")
    expect(embed(server, *[good] * 33), *invalid, "images: there are 33; send 1 to 32")
    expect(embed(server, good, Image_()), *invalid, "images[1]: it has neither content nor uri")
    expect(embed(server, Image_(uri="")), *invalid, "images[0].uri")
    expect(embed(server, good, model="m"), *invalid, "model: 'm' is not projects/{project}/models/{model}")
    expect(embed(server, good, space=7), *invalid, "space: 7")
    expect(embed(server, good, model=f"{PARENT}/models/none"), Code.NOT_FOUND, "MODEL_NOT_FOUND", "/models/none")


COLOURS = {
    "16-bit grey": encoded(Image.new("I;16", (20, 20), 40_000), "PNG"),
    "palette": encoded(Image.effect_noise((20, 20), 90).convert("P"), "GIF"),
    "cmyk": encoded(Image.new("CMYK", (20, 20), (10, 200, 30, 40)), "JPEG"),
    "alpha": encoded(Image.new("RGBA", (20, 20), (200, 10, 10, 128)), "PNG"),
    "palette with transparency": encoded(Image.new("P", (20, 20), 3), "PNG", transparency=0),
    "one bit": encoded(Image.effect_noise((20, 20), 90).convert("1"), "TIFF"),
    "bmp": encoded(Image.new("RGB", (20, 20), (1, 2, 3)), "BMP"),
    "webp": encoded(Image.new("RGB", (20, 20), (1, 2, 3)), "WEBP"),
}


@pytest.mark.parametrize("name", COLOURS)
def test_every_colour_mode_that_has_a_meaning_is_embedded(server: EmbeddingProcess, name: str) -> None:
    request = pb.EmbedImagesRequest(model=MODEL, images=[Image_(content=COLOURS[name])])
    assert len(server.stub.EmbedImages(request, timeout=10).embeddings[0].values) == DIM


def test_a_message_over_the_limit_of_grpc_is_refused(server: EmbeddingProcess) -> None:
    request = pb.EmbedImagesRequest(model=MODEL, images=[Image_(content=bytes(65 << 20))])
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.EmbedImages(request, timeout=20)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED


# --- models


def create(server: EmbeddingProcess, uri: str, **fields: str) -> Refusal:
    return refused(lambda: server.create_model(uri, "bad", **fields))


def test_onnx_with_external_data_outside_its_folder(server: EmbeddingProcess, place: Place, root: Path) -> None:
    (root / "secret.bin").write_bytes(bytes(4096))
    for number, location in enumerate(("../secret.bin", str(root / "secret.bin"), "sub/x.bin", "other.bin")):
        model = network()
        data = external(model, location=location)
        write_bundle(root / f"outside-{number}", model, data={"declared.bin": data})
        seen = create(server, place.uri(f"outside-{number}"))
        expect(seen, Code.INVALID_ARGUMENT, "ONNX_INVALID", repr(location), "onnx.json does not declare")
        assert seen.metadata["location"] == location


def test_onnx_with_declared_external_data_works(server: EmbeddingProcess, place: Place, root: Path) -> None:
    model = network()
    data = external(model, location="declared.bin")
    write_bundle(root / "declared", model, data={"declared.bin": data})
    assert server.create_model(place.uri("declared"), "declared").embedding_dim == DIM
    delete_model(server, f"{PARENT}/models/declared")


def test_external_data_that_is_a_link_out_of_the_store(
    server: EmbeddingProcess, place: Place, root: Path, tmp_path: Path
) -> None:
    model = network()
    data = external(model, location="link.bin")
    folder = write_bundle(root / "linked", model, data={"link.bin": data})
    (tmp_path / "elsewhere.bin").write_bytes(data)
    (folder / "link.bin").unlink()
    (folder / "link.bin").symlink_to(tmp_path / "elsewhere.bin")
    expect(create(server, place.uri("linked")), Code.PERMISSION_DENIED, "URI_NOT_ALLOWED", "linked/link.bin")


@pytest.mark.parametrize(
    ("name", "model", "fields", "message"),
    [
        ("text", b"this is no model", {}, "model.onnx"),
        ("zeros", bytes(5000), {}, "model.onnx is not an ONNX model"),
        ("truncated", network().SerializeToString()[:900], {}, "truncated"),
        ("fixed-batch", network(batch=1), {}, "fixed batch size 1"),
        ("no-output", network(outputs=["embedding"]), {}, "no output 'features'"),
        ("dims", network(), {"embedding_dim": 99}, "'embedding'"),
        ("domain", network(opsets=[("", 18), ("evil.ops", 1)]), {}, "'evil.ops'"),
    ],
)
def test_onnx_that_does_not_fit(
    server: EmbeddingProcess, place: Place, root: Path, name: str, model: Any, fields: dict[str, Any], message: str
) -> None:
    write_bundle(root / name, model, **fields)
    expect(create(server, place.uri(name)), Code.INVALID_ARGUMENT, "ONNX_INVALID", message)


def test_a_bundle_that_is_broken_missing_or_not_the_one_named(
    server: EmbeddingProcess, place: Place, root: Path
) -> None:
    folder = write_bundle(root / "broken")
    good = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(good + b"x")
    expect(create(server, place.uri("broken")), Code.DATA_LOSS, "OBJECT_DIGEST_MISMATCH", "broken/model.onnx")
    (folder / "model.onnx").unlink()
    expect(create(server, place.uri("broken")), Code.NOT_FOUND, "OBJECT_NOT_FOUND", "broken/model.onnx")
    (folder / "onnx.json").write_text('{"schema_version": 1, "opset": "new"}')
    seen = create(server, place.uri("broken"))
    expect(seen, Code.INVALID_ARGUMENT, "MODEL_BUNDLE_INVALID", "broken/onnx.json", "opset")
    expect(create(server, place.uri("none")), Code.NOT_FOUND, "OBJECT_NOT_FOUND", "none/onnx.json")
    seen = create(server, place.uri("bundle"), sha256="0" * 64)
    expect(seen, Code.DATA_LOSS, "OBJECT_DIGEST_MISMATCH", "bundle/onnx.json")


def test_model_requests_that_are_wrong_in_themselves(server: EmbeddingProcess, place: Place) -> None:
    uri, invalid = place.uri("bundle"), (Code.INVALID_ARGUMENT, "ARGUMENT_INVALID")
    expect(create(server, ""), *invalid, "model.uri")
    expect(create(server, uri, sha256="abc"), *invalid, "model.sha256")
    expect(create(server, uri, request_id="once"), *invalid, "request_id")
    expect(refused(lambda: server.create_model(uri, "Bad Id")), *invalid, "model_id", "'Bad Id'")
    request = pb.CreateModelRequest(parent="nobody", model_id="x", model=resources_pb2.Model(uri=uri))
    expect(refused(lambda: server.stub.CreateModel(request, timeout=10)), *invalid, "parent")
    expect(refused(lambda: server.create_model(uri, "m")), Code.ALREADY_EXISTS, "MODEL_ALREADY_EXISTS", MODEL)
    seen = refused(lambda: delete_model(server, MODEL))
    expect(seen, Code.FAILED_PRECONDITION, "MODEL_IN_USE", MODEL, INDEX)
    expect(refused(lambda: delete_model(server, f"{MODEL}x")), Code.NOT_FOUND, "MODEL_NOT_FOUND", f"{MODEL}x")


def delete_model(server: EmbeddingProcess, name: str) -> None:
    server.stub.DeleteModel(pb.DeleteModelRequest(name=name), timeout=10)


def test_one_request_id_for_two_models(server: EmbeddingProcess, place: Place) -> None:
    request_id = str(uuid.uuid4())
    server.create_model(place.uri("bundle"), "once", request_id=request_id)
    seen = refused(lambda: server.create_model(place.uri("bundle/onnx.json"), "once", request_id=request_id))
    expect(seen, Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED", request_id, "/models/once")
    delete_model(server, f"{PARENT}/models/once")


def test_a_model_without_features_has_no_penultimate_space(server: EmbeddingProcess, place: Place, root: Path) -> None:
    write_bundle(root / "plain", network(outputs=["embedding"]), outputs={"features": None}, feature_dim=0)
    assert server.create_model(place.uri("plain"), "plain").feature_dim == 0
    name = f"{PARENT}/models/plain"
    seen = embed(server, Image_(content=png(0)), model=name, space=resources_pb2.SPACE_PENULTIMATE)
    expect(seen, Code.FAILED_PRECONDITION, "SPACE_NOT_AVAILABLE", name)
    create_index = {"model": name, "space": resources_pb2.SPACE_PENULTIMATE, "manifest_uri": place.uri("good.jsonl")}
    seen = refused(lambda: server.create_index("plain", **create_index))  # type: ignore[arg-type]  # fields of an index
    expect(seen, Code.FAILED_PRECONDITION, "SPACE_NOT_AVAILABLE", name)
    delete_model(server, name)


def test_an_image_that_gives_no_vector(server: EmbeddingProcess, place: Place, root: Path) -> None:
    """A network without bias on black pixels: nothing comes out, and nothing can be compared."""
    write_bundle(root / "black", preprocessing={"mode": "L", "resize": [SIDE, SIDE]})
    server.create_model(place.uri("black"), "black")
    black = encoded(Image.new("L", (SIDE, SIDE)), "PNG")
    seen = embed(server, Image_(content=png(0)), Image_(content=black), model=f"{PARENT}/models/black")
    expect(seen, Code.INVALID_ARGUMENT, "ONNX_INVALID", "images[1]", "zero or not finite")
    server.stub.DeleteModel(pb.DeleteModelRequest(name=f"{PARENT}/models/black"), timeout=10)


# --- indexes


def failed(server: EmbeddingProcess, index_id: str, manifest_uri: str, **fields: Any) -> tuple[Refusal, Any]:
    """A build that fails: what its error says, and the index, which is then deleted."""
    index = server.built(index_id, manifest_uri=manifest_uri, **fields)
    assert index.state == resources_pb2.Index.STATE_FAILED
    query = pb.SearchNeighborsRequest(index=index.name, queries=[pb.SearchQuery(sample_id="a")])
    seen = refused(lambda: server.stub.SearchNeighbors(query, timeout=10))
    expect(seen, Code.FAILED_PRECONDITION, "INDEX_NOT_READY", index.name, "FAILED")
    server.stub.DeleteIndex(pb.DeleteIndexRequest(name=index.name), timeout=10)
    return refusal(index.error), index


ROW = '{"id": "a", "uri": "file:///a.png", "label": "x"}\n'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("line.jsonl", ROW + "{broken\n", "line 2"),
        ("duplicate.jsonl", ROW + ROW, "line 2"),
        ("missing.jsonl", ROW + '{"id": "b", "label": "x"}\n', "line 2"),
        ("columns.csv", "id,label\na,x\n", "uri"),
        ("empty.jsonl", "", "is empty"),
        ("suffix.txt", ROW, "suffix.txt"),
        ("parquet.parquet", "no parquet", "parquet.parquet"),
    ],
)
def test_a_faulty_manifest(
    server: EmbeddingProcess, place: Place, root: Path, name: str, text: str, message: str
) -> None:
    (root / name).write_text(text)
    seen, _ = failed(server, "faulty", place.uri(name))
    expect(seen, Code.INVALID_ARGUMENT, "MANIFEST_INVALID", place.uri(name), message)


def test_a_manifest_that_is_missing_not_the_one_named_or_not_allowed(server: EmbeddingProcess, place: Place) -> None:
    seen, _ = failed(server, "faulty", place.uri("none.jsonl"))
    expect(seen, Code.NOT_FOUND, "OBJECT_NOT_FOUND", place.uri("none.jsonl"))
    seen, _ = failed(server, "faulty", place.uri("good.jsonl"), manifest_sha256="0" * 64)
    expect(seen, Code.DATA_LOSS, "OBJECT_DIGEST_MISMATCH", place.uri("good.jsonl"))
    seen, _ = failed(server, "faulty", "file:///etc/manifest.csv")
    expect(seen, Code.PERMISSION_DENIED, "URI_NOT_ALLOWED", "file:///etc/manifest.csv")


def test_too_many_unreadable_samples(server: EmbeddingProcess, place: Place, root: Path) -> None:
    rows = [{"id": f"s{seed}", "uri": place.uri(f"{seed}.png"), "label": "x"} for seed in range(8)]
    (root / "holes.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    seen, index = failed(server, "holes", place.uri("holes.jsonl"), max_quarantined_fraction=0.1)
    expect(seen, Code.FAILED_PRECONDITION, "TOO_MANY_QUARANTINED", "3 of 8", "s5", place.uri("5.png"))
    assert [(one.sample_id, one.reason) for one in index.quarantined] == [
        (f"s{seed}", "OBJECT_NOT_FOUND") for seed in (5, 6, 7)
    ]
    ready = server.built("holes", manifest_uri=place.uri("holes.jsonl"), max_quarantined_fraction=0.4)
    assert (ready.state, ready.samples_done) == (resources_pb2.Index.STATE_READY, 5)
    assert ready.samples_quarantined == len(ready.quarantined) == 3
    assert place.uri("5.png") in ready.quarantined[0].message
    server.stub.DeleteIndex(pb.DeleteIndexRequest(name=ready.name), timeout=10)


def test_index_requests_that_are_wrong_in_themselves(server: EmbeddingProcess, place: Place) -> None:
    uri, invalid = place.uri("good.jsonl"), (Code.INVALID_ARGUMENT, "ARGUMENT_INVALID")

    def wrong(index_id: str = "x", **fields: Any) -> Refusal:
        return refused(lambda: server.create_index(index_id, **{"manifest_uri": uri, **fields}))

    expect(wrong("X"), *invalid, "index_id")
    expect(wrong(manifest_uri=""), *invalid, "index.manifest_uri")
    expect(wrong(manifest_sha256="zz"), *invalid, "index.manifest_sha256")
    expect(wrong(model="m"), *invalid, "index.model")
    expect(wrong(space=9), *invalid, "index.space")
    for fraction in (-0.1, 1.5, float("nan")):
        expect(wrong(max_quarantined_fraction=fraction), *invalid, "index.max_quarantined_fraction")
    expect(wrong(model=f"{PARENT}/models/none"), Code.NOT_FOUND, "MODEL_NOT_FOUND", "/models/none")
    expect(wrong("i"), Code.ALREADY_EXISTS, "INDEX_ALREADY_EXISTS", INDEX)


def test_indexes_that_are_not_there(server: EmbeddingProcess) -> None:
    name = f"{PARENT}/indexes/none"
    calls: list[Callable[[], object]] = [
        lambda: server.stub.GetIndex(pb.GetIndexRequest(name=name), timeout=10),
        lambda: server.stub.DeleteIndex(pb.DeleteIndexRequest(name=name), timeout=10),
        lambda: list(server.stub.WatchIndex(pb.WatchIndexRequest(name=name), timeout=10)),
        lambda: server.stub.SearchNeighbors(
            pb.SearchNeighborsRequest(index=name, queries=[pb.SearchQuery(sample_id="a")]), timeout=10
        ),
    ]
    for call in calls:
        expect(refused(call), Code.NOT_FOUND, "INDEX_NOT_FOUND", name)


def test_page_tokens(server: EmbeddingProcess) -> None:
    for method, request in (
        (server.stub.ListModels, pb.ListModelsRequest),
        (server.stub.ListIndexes, pb.ListIndexesRequest),
    ):
        call: Any = method
        seen = refused(lambda: call(request(parent=PARENT, page_token="forged"), timeout=10))  # noqa: B023  called at once
        expect(seen, Code.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID", "page_token")
        seen = refused(lambda: call(request(parent=PARENT, page_size=-1), timeout=10))  # noqa: B023  called at once
        expect(seen, Code.INVALID_ARGUMENT, "ARGUMENT_INVALID", "page_size")


# --- searches


def searching(server: EmbeddingProcess, *queries: pb.SearchQuery, k: int = 3) -> Refusal:
    request = pb.SearchNeighborsRequest(index=INDEX, queries=queries, num_neighbors=k)
    return refused(lambda: server.stub.SearchNeighbors(request, timeout=10))


def vector(*values: float) -> pb.SearchQuery:
    return pb.SearchQuery(vector=resources_pb2.Vector(values=values))


def test_vectors_that_cannot_be_searched(server: EmbeddingProcess) -> None:
    good, invalid = vector(1, 0, 0, 0), (Code.INVALID_ARGUMENT, "ARGUMENT_INVALID")
    expect(searching(server, good, vector(1, 0)), *invalid, "queries[1].vector", "2 values", "have 4")
    expect(searching(server, vector()), *invalid, "queries[0].vector")
    expect(searching(server, vector(0, 0, 0, 0)), *invalid, "queries[0].vector", "no direction")
    for bad in (float("nan"), float("inf"), float("-inf")):
        expect(searching(server, good, good, vector(1, bad, 0, 0)), *invalid, "queries[2].vector", "not finite")


def test_samples_and_images_that_cannot_be_searched(server: EmbeddingProcess, place: Place) -> None:
    good = vector(1, 0, 0, 0)
    seen = searching(server, good, pb.SearchQuery(sample_id="nobody"))
    expect(seen, Code.INVALID_ARGUMENT, "SAMPLE_UNKNOWN", "queries[1].sample_id", "nobody")
    seen = searching(server, good, pb.SearchQuery(image=Image_(content=b"x")))
    expect(seen, Code.INVALID_ARGUMENT, "IMAGE_INVALID", "queries[1].image")
    seen = searching(server, pb.SearchQuery(image=Image_(uri=place.uri("none.png"))), good)
    expect(seen, Code.NOT_FOUND, "OBJECT_NOT_FOUND", "queries[0].image", place.uri("none.png"))


def test_search_requests_that_are_wrong_in_themselves(server: EmbeddingProcess) -> None:
    good, invalid = vector(1, 0, 0, 0), (Code.INVALID_ARGUMENT, "ARGUMENT_INVALID")
    expect(searching(server), *invalid, "queries: there are 0; send 1 to 64")
    expect(searching(server, *[good] * 65), *invalid, "queries: there are 65")
    expect(searching(server, good, pb.SearchQuery()), *invalid, "queries[1]", "none of vector, image and sample_id")
    expect(searching(server, pb.SearchQuery(image=Image_())), *invalid, "queries[0].image")
    expect(searching(server, pb.SearchQuery(sample_id="")), *invalid, "queries[0].sample_id")
    expect(searching(server, good, k=-1), *invalid, "num_neighbors: -1")
    expect(searching(server, good, k=1001), *invalid, "num_neighbors: 1001", "1000")


# --- load


def test_more_than_may_wait_is_refused_with_a_time_to_come_back(place: Place, root: Path, tmp_path: Path) -> None:
    (root / "noise.png").write_bytes(encoded(Image.effect_noise((900, 900), 80), "PNG"))
    slow = [Image_(uri=place.uri("noise.png"))] * 16
    with running_embedding(place, tmp_path, max_pending_images="40", image_threads="1") as server:
        server.create_model(place.uri("bundle"))
        request = pb.EmbedImagesRequest(model=MODEL, images=slow)
        calls = [server.stub.EmbedImages.future(request, timeout=60) for _ in range(8)]
        refusals = [refusal_of(error) for call in calls if isinstance(error := call.exception(), grpc.RpcError)]
        answered = [call for call in calls if call.exception() is None]
        assert len(answered) >= 2
        assert all(len(call.result().embeddings) == 16 for call in answered)
        assert refusals
        for seen in refusals:
            expect(seen, Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", "limit of 40")
            assert seen.retry_seconds
        assert server.stub.EmbedImages(request, timeout=60).embeddings


def test_cancelled_calls_free_their_place(place: Place, root: Path, tmp_path: Path) -> None:
    (root / "noise.png").write_bytes(encoded(Image.effect_noise((900, 900), 80), "PNG"))
    many = pb.EmbedImagesRequest(model=MODEL, images=[Image_(uri=place.uri("noise.png"))] * 32)
    with running_embedding(place, tmp_path, max_pending_images="64", image_threads="1") as server:
        server.create_model(place.uri("bundle"))
        for _ in range(20):
            call = server.stub.EmbedImages.future(many, timeout=60)
            call.cancel()
        one = pb.EmbedImagesRequest(model=MODEL, images=[Image_(content=png(0))])
        give_up = time.monotonic() + 20
        while time.monotonic() < give_up and server.stub.EmbedImages.future(one, timeout=20).exception() is not None:
            time.sleep(0.02)
        assert server.stub.EmbedImages(one, timeout=20).embeddings
        assert server.alive()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("listen", "0.0.0.0:0", "plain text"),
        ("listen", "here", "must be host:port"),
        ("index_uri_prefix", "bucket", "must start with s3:// or file:///"),
        ("index_uri_prefix", "s3://bucket/x", "set EIF_STORAGE_S3_ENDPOINT"),
        ("threads", "0", "EIF_EMBEDDING_THREADS"),
        ("device", "tpu", "EIF_EMBEDDING_DEVICE"),
    ],
)
def test_settings_that_cannot_work_are_told_and_end_with_code_2(
    place: Place, tmp_path: Path, name: str, value: str, message: str
) -> None:
    with (
        pytest.raises(AssertionError, match="ended with 2: cannot start") as caught,
        running_embedding(place, tmp_path, **{name: value}),
    ):
        pytest.fail("it started")
    assert message in str(caught.value)

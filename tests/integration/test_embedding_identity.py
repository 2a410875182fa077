"""The embedding service when it knows its callers."""

from __future__ import annotations

import json
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from eif.embedding.v1 import embedding_service_pb2 as pb
from eif.embedding.v1 import embedding_service_pb2_grpc, resources_pb2
from google.protobuf.message_factory import GetMessageClass

from services.client.credentials import Credentials
from services.client.embedding import EmbeddingClient
from services.client.embeddings import ByImage
from services.client.errors import PermissionDenied, Unauthenticated
from services.common.errors import ServiceError
from services.embedding.access import RULES
from services.influence.embedding_connection import EmbeddingConnection
from services.influence.messages import FailedMessage, SucceededMessage
from services.influence.spec import Artifact, JobRequest, RelabelSpec, RunOptions
from services.influence.worker.index_neighbors import IndexNeighbors
from tests.embedding_server import EmbeddingProcess, refusal_of, running_embedding
from tests.onnx_bundles import png, write_bundle
from tests.pki import credentials_of
from tests.secured import Secured, bearer
from tests.stores import local_place
from tests.worker_process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICE = pb.DESCRIPTOR.services_by_name["EmbeddingService"]
VERBS = ("read", "embed", "search", "admin")


class World:
    """A running server, its files, and a store with a bundle and images."""

    def __init__(self, server: EmbeddingProcess, secured: Secured, folder: Path) -> None:
        self.server, self.secured, self.folder = server, secured, folder
        self.place = local_place(folder)

    def grant(self, *verbs: str, project: str = "p") -> None:
        """To every token, in a project that may read what is in `mine`."""
        secured = self.secured
        secured.policy((["token:*"], [project], verbs), p={"inputs": [self.place.uri("mine/")]}, other={})

    def client(self, name: str) -> EmbeddingClient:
        return EmbeddingClient(self.server.address, project="p", credentials=self.credentials(name))

    def credentials(self, name: str) -> Credentials:
        return Credentials(ca_file=self.secured.authority.certificate, token=self.secured.token(name))

    @contextmanager
    def stub(self) -> Iterator[Any]:
        with grpc.secure_channel(self.server.address, credentials_of(self.secured.authority.certificate)) as channel:
            yield embedding_service_pb2_grpc.EmbeddingServiceStub(channel)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("store")
    place = local_place(folder)
    write_bundle(folder / "mine" / "onnx")
    for name in ("mine", "theirs"):
        for seed in range(6):
            place.store.put(place.uri(f"{name}/{seed}.png"), png(seed))
    rows = [{"id": f"s{seed}", "uri": place.uri(f"mine/{seed}.png"), "label": "a"} for seed in range(6)]
    rows.append({"id": "stolen", "uri": place.uri("theirs/0.png"), "label": "a"})
    place.store.put(place.uri("mine/list.jsonl"), "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    secured = Secured(tmp_path_factory.mktemp("secured"))
    settings = {name: str(value) for name, value in secured.settings().items() if value is not None}
    with running_embedding(place, tmp_path_factory.mktemp("state"), **settings) as server:
        yield World(server, secured, folder)


def request_of(method: Any) -> Any:
    request: Any = GetMessageClass(method.input_type)()
    rule = RULES[f"/{SERVICE.full_name}/{method.name}"]
    if rule.field == "parent":
        request.parent = "projects/p"
    elif rule.field:
        collection = "models" if "Model" in method.name or rule.field == "model" else "indexes"
        setattr(request, rule.field, f"projects/p/{collection}/none")
    return request


def reason(stub: Any, method: Any, token: str | None) -> str | None:
    call = getattr(stub, method.name)
    metadata = bearer(token) if token else ()
    try:
        answer = call(request_of(method), metadata=metadata, timeout=20)
        if method.server_streaming:
            next(answer)
    except grpc.RpcError as error:
        return refusal_of(error).reason
    return None


@pytest.mark.parametrize("name", sorted(SERVICE.methods_by_name))
def test_each_method_needs_its_verb_in_its_project(world: World, name: str) -> None:
    method = SERVICE.methods_by_name[name]
    verb = RULES[f"/{SERVICE.full_name}/{name}"].verb
    token = world.secured.token("caller")
    with world.stub() as stub:
        assert reason(stub, method, None) == "CREDENTIALS_MISSING"
        world.secured.policy()
        assert reason(stub, method, token) == "ACCESS_DENIED"
        if verb is None:
            world.grant("read", project="other")
            assert reason(stub, method, token) is None
            return
        world.grant(*VERBS, project="other")
        assert reason(stub, method, token) == "ACCESS_DENIED"
        world.grant(*(set(VERBS) - {str(verb)}))
        assert reason(stub, method, token) == "ACCESS_DENIED"
        world.grant(*VERBS)
        assert reason(stub, method, token) in {
            None,
            "ARGUMENT_INVALID",
            "URI_NOT_ALLOWED",
            "MODEL_NOT_FOUND",
            "INDEX_NOT_FOUND",
        }


def test_only_what_a_project_may_read_is_embedded_searched_with_and_indexed(world: World) -> None:
    world.grant(*VERBS)
    inside, outside = world.place.uri("mine/0.png"), world.place.uri("theirs/0.png")
    elsewhere = world.place.uri("theirs/list.jsonl")
    with world.client("operator") as client:
        for attempt, field in (
            (lambda: client.load_model("m", uri=world.place.uri("theirs/onnx")), "model.uri"),
            (lambda: client.embed("m", [inside, outside]), "images[1].uri"),
            (
                lambda: client.create_index("i", model="m", manifest=elsewhere),
                "index.manifest_uri",
            ),
            (lambda: client.search("i", [ByImage(image=outside)]), "queries[0].image.uri"),
        ):
            with pytest.raises(PermissionDenied) as caught:
                attempt()
            assert (caught.value.reason, caught.value.metadata["field"]) == ("URI_NOT_ALLOWED", field)
        client.load_model("m", uri=world.place.uri("mine/onnx"))
        assert len(client.embed("m", [inside])) == 1
        index = client.create_index(
            "i", model="m", manifest=world.place.uri("mine/list.jsonl"), max_quarantined_fraction=0.5
        )
        built = client.wait_index(index)
        assert built.samples_quarantined == 1
        (left_out,) = built.quarantined
        assert (left_out.sample_id, left_out.reason) == ("stolen", "URI_NOT_ALLOWED")
        client.delete_index(index)
        client.delete_model("m")


def test_the_index_of_a_project_needs_the_right_to_embed_with_its_model(world: World) -> None:
    token = world.secured.token("caller")
    world.grant("admin")
    index = resources_pb2.Index(model="projects/other/models/m", manifest_uri=world.place.uri("mine/list.jsonl"))
    request = pb.CreateIndexRequest(parent="projects/p", index_id="i", index=index)
    with world.stub() as stub, pytest.raises(grpc.RpcError) as caught:
        stub.CreateIndex(request, metadata=bearer(token), timeout=20)
    refused = refusal_of(caught.value)
    assert (refused.reason, refused.metadata["field"]) == ("ACCESS_DENIED", "index.model")


def test_the_influence_service_searches_with_its_own_token(world: World) -> None:
    world.grant("search")
    index = "projects/p/indexes/none"
    settings: dict[str, Any] = {"timeout_s": 10.0, "patience_s": 1.0, "check": lambda: None}
    for credentials, expected in (
        (world.credentials("influence"), "INDEX_NOT_FOUND"),
        (Credentials(ca_file=world.secured.authority.certificate, token="wrong"), "CREDENTIALS_INVALID"),
        (Credentials(ca_file=world.secured.authority.certificate), "CREDENTIALS_MISSING"),
        (Credentials(), "EMBEDDING_UNAVAILABLE"),
    ):
        with (
            IndexNeighbors(world.server.address, index, credentials=credentials, **settings) as neighbors,
            pytest.raises(ServiceError) as caught,
        ):
            neighbors.search(["s0"], 1)
        assert caught.value.reason == expected


def _calls(world: World) -> list[dict[str, object]]:
    return [line for line in world.server.log_lines() if line.get("event") == "call"]


def test_no_line_of_the_log_has_a_token(world: World) -> None:
    world.grant("read")
    token = world.secured.token("watched")
    credentials = Credentials(ca_file=world.secured.authority.certificate, token=token)
    with EmbeddingClient(world.server.address, project="p", credentials=credentials) as client:
        assert client.server_info().version
        world.secured.revoke("watched")
        with pytest.raises(Unauthenticated):
            client.server_info()
    deadline = time.monotonic() + 20
    while [line.get("identity") for line in _calls(world)][-2:] != ["token:watched", None]:  # written after the answer
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert _calls(world)[-1]["reason"] == "CREDENTIALS_INVALID"
    text = world.server.log.read_text()
    assert token not in text
    assert "Bearer eif_" not in text


def test_a_relabel_job_searches_an_index_over_tls_in_the_name_of_the_influence_service(
    world: World, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(world.secured.token("influence"))
    connection = EmbeddingConnection(
        embedding_target=world.server.address,
        embedding_ca_file=world.secured.authority.certificate,
        embedding_token_file=token,
    )
    manifest = world.place.uri("mine/list.jsonl")
    world.grant(*VERBS)
    with world.client("operator") as client:
        client.load_model("relabel", uri=world.place.uri("mine/onnx"))
        index = client.create_index("relabel", model="relabel", manifest=manifest, max_quarantined_fraction=0.5)
        client.wait_index(index)
    spec = RelabelSpec(
        train_manifest=Artifact(uri=manifest), knn_index=index.name, run=RunOptions(max_quarantined_fraction=0.5)
    )
    for verbs, expected in ((("search",), SucceededMessage), (("read",), FailedMessage)):
        world.grant(*verbs)
        request = JobRequest(
            name="projects/p/influenceJobs/j",
            uid=str(uuid.uuid4()),
            attempt=1,
            spec=spec,
            output_uri_prefix=world.place.uri("results"),
            places=(world.place.uri("mine/"),),
        )
        environ = connection.embedding_environ("EIF_INFLUENCE_")
        folder = tmp_path / request.uid
        with WorkerProcess(folder, request, world.place.settings, environ=environ) as worker:
            assert worker.wait() == 0, worker.log()
            assert token.read_text() not in worker.log()
        assert isinstance(worker.last, expected), worker.last
    assert isinstance(worker.last, FailedMessage)
    assert worker.last.reason == "ACCESS_DENIED"
    assert "search in project p is not granted to token:influence" in worker.last.message

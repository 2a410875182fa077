"""Relabel with the neighbours of an index: the job process and the real embedding service, on the same model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from eif_engine.config import NeighborSpace
from eif_engine.models.export import export_onnx
from services.influence.messages import FailedMessage
from services.influence.spec import Artifact, RelabelSpec, RunOptions
from services.influence.worker.settings import WorkerSettings
from tests.embedding_server import PARENT, EmbeddingProcess, running_embedding
from tests.job_world import SETTINGS, JobWorld

INDEX = f"{PARENT}/indexes/i"


@dataclass
class Served:
    """A world, and an embedding service that has an index of its training samples."""

    world: JobWorld
    server: EmbeddingProcess
    model: Artifact
    train: Artifact

    @property
    def settings(self) -> WorkerSettings:
        return SETTINGS.model_copy(update={"embedding_target": self.server.address})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("index")
    world = JobWorld(folder / "world")
    objects = world.folder / "objects"
    model = world.bundle()
    train = world.manifest("train.jsonl", world.samples("train", 90))
    export_onnx(objects / "model", objects / "onnx", sorted((objects / "train").iterdir())[:4])
    with running_embedding(world.place, folder / "state") as server:
        server.create_model(world.place.uri("onnx"))
        index = server.built("i", manifest_uri=train.uri, space="SPACE_PENULTIMATE")
        assert index.stored_uri, index.error
        yield Served(world, server, model, train)


def test_an_index_gives_the_suggestions_of_the_model_itself(served: Served) -> None:
    world = served.world
    by_index = RelabelSpec(train_manifest=served.train, knn_index=INDEX, num_neighbors=5)
    by_model = RelabelSpec(
        model=served.model, train_manifest=served.train, space=NeighborSpace.PENULTIMATE, num_neighbors=5
    )
    found = world.result(world.run(world.request(by_index), settings=served.settings))
    expected = {row["sample_id"]: row for row in world.result(world.run(world.request(by_model))).rows("relabel")}
    rows = found.rows("relabel")
    assert len(rows) == len(expected) == 90
    for row in rows:
        same = expected[row["sample_id"]]
        assert row["neighbor_ids"] == same["neighbor_ids"]
        assert row["suggested_label"] == same["suggested_label"]
        assert row["score"] == pytest.approx(same["score"], abs=1e-4)
    assert found.figures["neighbors_ignored"] == 0


def test_the_manifest_of_the_job_decides_on_labels_and_on_who_may_vote(served: Served) -> None:
    world = served.world
    rows = [row | {"label": "renamed"} for row in world.samples("train", 45)]
    rows.append({"id": "new", "uri": rows[0]["uri"], "label": "ant"})
    spec = RelabelSpec(
        train_manifest=world.manifest("part.jsonl", rows), knn_index=INDEX, run=RunOptions(max_quarantined_fraction=0.1)
    )
    result = world.result(world.run(world.request(spec), settings=served.settings))
    assert {row["suggested_label"] for row in result.rows("relabel")} == {"renamed"}
    assert result.figures["neighbors_ignored"] > 0
    (quarantined,) = result.rows("quarantine")
    assert (quarantined["sample_id"], quarantined["reason"]) == ("new", "SAMPLE_UNKNOWN")


def test_an_index_that_is_not_there(served: Served) -> None:
    spec = RelabelSpec(train_manifest=served.train, knn_index=f"{PARENT}/indexes/nobody")
    message = served.world.run(served.world.request(spec), settings=served.settings)
    assert isinstance(message, FailedMessage)
    assert message.reason == "INDEX_NOT_FOUND"
    assert "nobody" in message.message

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from eif_engine.errors import EifError, SampleUnknown
from eif_engine.types import Sample
from services.influence.messages import Message
from services.influence.spec import Artifact, HarmfulSamples, RelabelSpec, SampleSelection
from services.influence.worker.cancellation import Cancellation
from services.influence.worker.job import Job
from services.influence.worker.progress import JobProgress
from services.influence.worker.selection import rows_of, selected_ids
from services.influence.worker.split import Split
from services.influence.worker.table_file import TableFile
from tests.job_world import SETTINGS, JobWorld

QUERY = "pair:t1:t2"
IDS = [f"s{number}" for number in range(8)]


def train() -> Split:
    samples = [Sample(sample_id=sample_id, uri="file:///x.png", label="x") for sample_id in IDS]
    return Split("train", uri="file:///train.jsonl", sha256="0" * 64, samples=samples)


def ranking(folder: Path) -> bytes:
    """`all` holds every sample; the query its ends: ranks 1, 2 and 7, 8."""
    with TableFile("ranking", folder) as table:
        for query, ranks in (("all", range(1, 9)), (QUERY, (1, 2, 7, 8))):
            table.write(
                {
                    "query_id": [query] * len(ranks),
                    "rank": list(ranks),
                    "sample_id": [IDS[8 - rank] for rank in ranks],
                    "label": ["x"] * len(ranks),
                    "score": [4.0 - rank for rank in ranks],
                }
            )
    return table.path.read_bytes()


def make_job(tmp_path: Path, selection: SampleSelection, *, sha256: str | None = None) -> tuple[Job, SampleSelection]:
    world = JobWorld(tmp_path)
    data = ranking(tmp_path)
    uri = world.put("ranking.parquet", data)
    spec = RelabelSpec(model=world.bundle(), train_manifest=world.manifest("m.jsonl", []), samples=selection)
    request = world.request(spec, referred=Artifact(uri=uri, sha256=sha256 or hashlib.sha256(data).hexdigest()))
    sent: list[Message] = []
    cancellation = Cancellation()
    progress = JobProgress(("inputs",), send=sent.append, check=cancellation.check)
    job = Job(
        request=request,
        store=world.store,
        settings=SETTINGS,
        scratch=tmp_path,
        progress=progress,
        cancellation=cancellation,
    )
    return job, selection


def chosen(tmp_path: Path, **harmful: object) -> list[str] | None:
    selection = SampleSelection(harmful=HarmfulSamples.model_validate({"job": "projects/p/influenceJobs/r", **harmful}))
    return selected_ids(*make_job(tmp_path, selection), train())


def test_nothing_selected_means_all(tmp_path: Path) -> None:
    assert selected_ids(*make_job(tmp_path, SampleSelection()), train()) is None


def test_ids_are_taken_once_each_in_their_order(tmp_path: Path) -> None:
    selection = SampleSelection(sample_ids=("s5", "s1", "s5"))
    assert selected_ids(*make_job(tmp_path, selection), train()) == ["s5", "s1"]


def test_an_id_that_the_manifest_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(
        SampleUnknown, match=r"'nobody' of samples.sample_ids is not in the manifest file:///train.jsonl"
    ):
        selected_ids(*make_job(tmp_path, SampleSelection(sample_ids=("s1", "nobody"))), train())


def test_without_a_count_all_above_zero_are_harmful(tmp_path: Path) -> None:
    assert chosen(tmp_path) == ["s7", "s6", "s5"]


def test_a_count_takes_the_head(tmp_path: Path) -> None:
    assert chosen(tmp_path, count=5) == ["s7", "s6", "s5", "s4", "s3"]
    assert chosen(tmp_path / "again", count=50) == IDS[::-1]


def test_the_head_of_a_query_never_reaches_into_its_tail(tmp_path: Path) -> None:
    assert chosen(tmp_path, query_id=QUERY, count=4) == ["s7", "s6"]


def test_a_query_that_the_ranking_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(EifError, match="no query 'class:zebra'") as caught:
        chosen(tmp_path, query_id="class:zebra")
    assert caught.value.reason == "QUERY_NOT_FOUND"


def test_a_ranking_that_was_replaced(tmp_path: Path) -> None:
    selection = SampleSelection(harmful=HarmfulSamples(job="projects/p/influenceJobs/r"))
    with pytest.raises(EifError) as caught:
        selected_ids(*make_job(tmp_path, selection, sha256="f" * 64), train())
    assert caught.value.reason == "OBJECT_DIGEST_MISMATCH"


def test_rows_of_those_that_could_be_read() -> None:
    assert rows_of(["a", "c", "d"], ["d", "b", "a"]) == [2, 0]
    assert rows_of(["a", "c", "d"], None) == [0, 1, 2]

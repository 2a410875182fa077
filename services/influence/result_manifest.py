"""MANIFEST.json: written last and once, it names the files of a result. Without it there is no result.

    <output prefix>/<uid>/MANIFEST.json
    <output prefix>/<uid>/attempt-<n>/ranking.parquet, report.html ...

Results of before there were folders of attempts have their files beside MANIFEST.json.
"""

from __future__ import annotations

from pydantic import Field

from services.influence.spec import Frozen

MANIFEST_NAME = "MANIFEST.json"
ATTEMPT_PREFIX = "attempt-"
"""Each run of a job writes its files into a folder of its own, so that one that was given up harms no other."""


class FileEntry(Frozen):
    """A file in MANIFEST.json that is not a table; `file` is relative to it."""

    file: str
    sha256: str
    bytes: int

    @property
    def name(self) -> str:
        """Of the file, whichever run wrote it."""
        return self.file.rpartition("/")[2]


class TableEntry(FileEntry):
    """A table in MANIFEST.json."""

    rows: int


class ResultManifest(Frozen):
    """MANIFEST.json: without it there is no result."""

    schema_version: int = 1
    name: str
    uid: str
    attempt: int
    kind: str
    tables: dict[str, TableEntry]
    figures: dict[str, float]
    provenance: dict[str, str]
    files: dict[str, FileEntry] = Field(default_factory=dict)


def result_folder(output_uri_prefix: str, uid: str) -> str:
    """URI of the folder that holds the results of a job, without a slash at its end."""
    return f"{output_uri_prefix.rstrip('/')}/{uid}"


def attempt_file(attempt: int, name: str) -> str:
    """Where a run puts a file, relative to MANIFEST.json."""
    return f"{ATTEMPT_PREFIX}{attempt}/{name}"


def manifest_uri(output_uri_prefix: str, uid: str) -> str:
    """URI of the MANIFEST.json of a job."""
    return f"{result_folder(output_uri_prefix, uid)}/{MANIFEST_NAME}"

"""MANIFEST.json: written last, it names the tables of a result. Without it there is no result."""

from __future__ import annotations

from pydantic import Field

from services.influence.spec import Frozen

MANIFEST_NAME = "MANIFEST.json"


class TableEntry(Frozen):
    """A table in MANIFEST.json; `file` is relative to it."""

    file: str
    sha256: str
    rows: int
    bytes: int


class FileEntry(Frozen):
    """A file in MANIFEST.json that is not a table; `file` is relative to it."""

    file: str
    sha256: str
    bytes: int


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


def manifest_uri(output_uri_prefix: str, uid: str) -> str:
    """URI of the MANIFEST.json of a job."""
    return f"{result_folder(output_uri_prefix, uid)}/{MANIFEST_NAME}"

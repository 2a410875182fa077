"""From one row of a manifest, as its format gives it, to a sample."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from eif_engine.errors import ManifestInvalid
from eif_engine.types import Sample

REQUIRED = ("id", "uri", "label")
OPTIONAL = ("member", "sha256")
MAX_LENGTH = {"id": 1024, "uri": 2048, "label": 1024, "member": 1024}

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class Row:
    """Columns and values of a row, and its line (from 1)."""

    line: int
    values: dict[str, object]


def to_sample(row: Row, *, uri: str) -> Sample:
    """Validate a row. Raises ManifestInvalid."""
    try:
        return Sample(
            sample_id=_text(row, "id"),
            uri=_text(row, "uri"),
            label=_label(row),
            member=_member(row),
            sha256=_sha256(row),
            line=row.line,
            extra=_extra(row),
        )
    except _FieldError as error:
        raise row_error(uri, row.line, str(error), field=error.field) from None


def row_error(uri: str, line: int, message: str, *, field: str = "") -> ManifestInvalid:
    """The one form of errors about a line."""
    return ManifestInvalid(f"{uri}, line {line}: {message}", uri=uri, line=line, **({"field": field} if field else {}))


class _FieldError(Exception):
    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field


def _text(row: Row, field: str) -> str:
    value = row.values.get(field)
    if value is None:
        raise _FieldError(field, "is missing")
    if not isinstance(value, str):
        raise _FieldError(field, f"must be text, not {_shown(value)}")
    return _checked(field, value)


def _checked(field: str, value: str) -> str:
    if not value.strip():
        raise _FieldError(field, "is empty")
    if len(value) > MAX_LENGTH[field]:
        raise _FieldError(field, f"has {len(value):,} characters, over the limit of {MAX_LENGTH[field]:,}")
    if _CONTROL.search(value):
        raise _FieldError(field, f"has a control character: {value!r}")
    return value


def _label(row: Row) -> str:
    value = row.values.get("label")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise _FieldError("label", f"must be text or an integer, not {_shown(value)}")
    return _text(row, "label")


def _member(row: Row) -> str | None:
    if row.values.get("member") in {None, ""}:
        return None
    name = _text(row, "member")
    if "\\" in name or name.startswith("/") or ".." in PurePosixPath(name).parts or name.endswith("/"):
        raise _FieldError("member", f"must be the name of a file inside the tar, not {name!r}")
    return name


def _sha256(row: Row) -> str | None:
    value = row.values.get("sha256")
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise _FieldError("sha256", f"must be 64 hexadecimal digits, not {_shown(value)}")
    return value.lower()


def _extra(row: Row) -> dict[str, str]:
    known = {*REQUIRED, *OPTIONAL}
    return {name: _as_text(value) for name, value in row.values.items() if name not in known and value is not None}


def _as_text(value: object) -> str:
    plain = isinstance(value, bool | int | float | list | dict)
    return json.dumps(value, ensure_ascii=False, default=str) if plain else str(value)


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"

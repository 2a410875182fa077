"""What model.json and onnx.json have in common: strict schemas, file references, and errors that name the field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from eif_engine.errors import ModelBundleInvalid

MAX_JSON_BYTES = 16 * 2**20
MAX_NAMED_FAULTS = 10

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Strict(BaseModel):
    """Immutable, and refuses fields it does not know: a misspelt setting must not fall back to a default unseen."""

    model_config = ConfigDict(frozen=True, extra="forbid")


SchemaT = TypeVar("SchemaT", bound=BaseModel)

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
"""A bare name: a file beside the JSON, never a path out of its folder."""


def _class_name(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _no_control_characters(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError(f"has a control character: {value!r}")
    return value


def _no_duplicates(classes: tuple[str, ...]) -> tuple[str, ...]:
    seen: set[str] = set()
    for name in classes:
        if name in seen:
            raise ValueError(f"class {name!r} is named twice")
        seen.add(name)
    return classes


ClassName = Annotated[
    str, BeforeValidator(_class_name), Field(min_length=1, max_length=1024), AfterValidator(_no_control_characters)
]
Classes = Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=1_000_000), AfterValidator(_no_duplicates)]
"""Names of the training classes in the order of the proxies; integers become decimal text, as in a manifest."""


class FileRef(Strict):
    """A file beside the JSON, and the sha256 (hex) it must have."""

    file: FileName
    sha256: Sha256


def parse(schema: type[SchemaT], data: bytes | str, *, uri: str) -> SchemaT:
    """Read a schema from JSON.

    Raises:
        ModelBundleInvalid: Naming every field that is wrong.
    """
    _check_size(data, uri)
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        raise invalid(error, uri=uri) from error


def read(schema: type[SchemaT], path: Path) -> SchemaT:
    """Read a schema from a JSON file. Raises ModelBundleInvalid, also when there is no such file."""
    return parse(schema, _read_json(path), uri=path.name)


def read_faults(schema: type[SchemaT], path: Path) -> tuple[SchemaT | None, list[str]]:
    """Read a schema from a JSON file, or list everything that is wrong, one line a field."""
    try:
        return schema.model_validate_json(_read_json(path)), []
    except ModelBundleInvalid as error:
        return None, [error.message]
    except ValidationError as error:
        return None, [f"{path.name}: {fault}" for _, fault in _faults(error)]


def invalid(error: ValidationError, *, uri: str) -> ModelBundleInvalid:
    """The faults that pydantic found, by field."""
    faults = _faults(error)
    shown = "; ".join(fault for _, fault in faults[:MAX_NAMED_FAULTS])
    more = f" (and {len(faults) - MAX_NAMED_FAULTS} more)" if len(faults) > MAX_NAMED_FAULTS else ""
    return ModelBundleInvalid(f"{uri}: {shown}{more}", uri=uri, field=faults[0][0])


def _read_json(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise ModelBundleInvalid(
            f"{path.name} cannot be read from {path.parent}: {error.strerror}", uri=str(path)
        ) from error
    _check_size(data, path.name)
    return data


def _check_size(data: bytes | str, uri: str) -> None:
    if len(data) > MAX_JSON_BYTES:
        raise ModelBundleInvalid(f"{uri} is over {MAX_JSON_BYTES:,} bytes", uri=uri)


def _faults(error: ValidationError) -> list[tuple[str, str]]:
    """Field, and `field: message`."""
    found = ((_field(item["loc"]), _sentence(item["type"], item["msg"])) for item in error.errors(include_url=False))
    return [(field, f"{field}: {message}" if field else message) for field, message in found]


def _field(location: tuple[int | str, ...]) -> str:
    """`mean.0` for ("mean", 0); the names pydantic adds for members of a union are left out."""
    return ".".join(str(part) for part in location if "[" not in str(part))


def _sentence(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "unknown field; check its spelling"
    if kind == "missing":
        return "is missing"
    return message.removeprefix("Value error, ")

"""Configuration files in YAML: read strictly, with messages that name the field."""

from __future__ import annotations

from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Immutable; refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice: of two entries one would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  its signature
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key_node.value!r} is there twice", key_node.start_mark
                )
            seen.add(str(key_node.value))
        return super().construct_mapping(node, deep)


def parse_yaml(model: type[Model], data: bytes) -> Model:
    """The model that a file describes. Raises ValueError, whose message has no values: they can be secrets."""
    try:
        values = yaml.load(data.decode(), Loader=_Loader)  # noqa: S506  derived from the safe one
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}it is not YAML: {error.problem}") from None
    except yaml.YAMLError:
        raise ValueError("it is not YAML") from None
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ValueError(_told(error)) from None


def _told(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    field = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in problem["loc"]).lstrip(".")
    message = problem["msg"].removeprefix("Value error, ")
    return f"{field}: {message}" if field else message

"""Policies: named rules over the figures and findings of an audit. What each means is in docs/gate.md."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from eif_engine.audit_figures import FIGURES

VERSION = 1
MAX_RULES = 256

_NAME = r"^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$"
_RECALL = re.compile(r"recall_at_[1-9][0-9]{0,5}")
_PERCENT = r"^[0-9]+([.][0-9]+)? ?%$"
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

FIGURE_RULE = "a rule over a figure"
FINDINGS_RULE = "a rule over findings"


class _Strict(BaseModel):
    """Immutable; refuses what it does not know and what would have to be bent to fit."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Rule(_Strict):
    """What every rule has."""

    LIMITS: ClassVar[tuple[str, ...]]

    name: str = Field(pattern=_NAME, max_length=64, description="Unique in the policy; shown in the verdict.")
    level: Literal["fail", "warn"] = Field(default="fail", description="What a broken rule makes of the verdict.")
    required: bool = Field(
        default=False, description="Broken also where it cannot be applied: no such figure, or no baseline."
    )
    because: str = Field(default="", max_length=500, description="Why the rule is there, shown where it is broken.")

    @field_validator("because")
    @classmethod
    def _printable(cls, value: str) -> str:
        if _CONTROL.search(value):
            raise ValueError("has a control character or a line break; keep it to one line")
        return value

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        given = [name for name in self.LIMITS if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"it has {' and '.join(given)}" if given else "it has none"
            raise ValueError(f"a rule has exactly one of {', '.join(self.LIMITS)}; {found}: write a rule for each")
        return self

    @property
    def limit_name(self) -> str:
        """The one limit that it sets."""
        return next(name for name in self.LIMITS if getattr(self, name) is not None)


class FigureRule(_Rule):
    """A limit of a figure of the audit, absolute or against the baseline."""

    LIMITS: ClassVar[tuple[str, ...]] = ("min", "max", "max_drop", "max_rise")
    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [name]} for name in LIMITS]})

    figure: str = Field(description="A figure of the audit, or recall_at_<k>.")
    min: Annotated[float, Field(allow_inf_nan=False)] | SkipJsonSchema[None] = Field(
        default=None, description="The figure is at least this."
    )
    max: Annotated[float, Field(allow_inf_nan=False)] | SkipJsonSchema[None] = Field(
        default=None, description="The figure is at most this."
    )
    max_drop: (
        Annotated[float, Field(ge=0, allow_inf_nan=False)]
        | Annotated[str, Field(pattern=_PERCENT, max_length=16)]
        | SkipJsonSchema[None]
    ) = Field(default=None, description="At most so much below the baseline: a number, or a share of it as `2%`.")
    max_rise: (
        Annotated[float, Field(ge=0, allow_inf_nan=False)]
        | Annotated[str, Field(pattern=_PERCENT, max_length=16)]
        | SkipJsonSchema[None]
    ) = Field(default=None, description="At most so much above the baseline: a number, or a share of it as `2%`.")

    @field_validator("figure")
    @classmethod
    def _known_figure(cls, value: str) -> str:
        if value not in FIGURES and not _RECALL.fullmatch(value):
            raise ValueError(_unknown("figure", value, FIGURES))
        return value


class FindingsRule(_Rule):
    """A limit of the number of findings of a kind: all of them, or those that the baseline does not have."""

    LIMITS: ClassVar[tuple[str, ...]] = ("max_new", "max_count")
    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [name]} for name in LIMITS]})

    findings: str = Field(description="A kind of finding.")
    max_new: Annotated[int, Field(ge=0, lt=2**53)] | SkipJsonSchema[None] = Field(
        default=None, description="At most so many that the baseline does not have."
    )
    max_count: Annotated[int, Field(ge=0, lt=2**53)] | SkipJsonSchema[None] = Field(
        default=None, description="At most so many."
    )
    min_severity: float = Field(default=0.0, ge=0, le=1, description="Only findings at least this severe count.")

    @field_validator("findings")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        if value not in finding_kinds():
            raise ValueError(_unknown("kind of finding", value, finding_kinds()))
        return value


def _kind_of(value: object) -> str | None:
    """Which kind a rule is, by its subject; None where it has none or both."""
    if not isinstance(value, dict):
        return None
    kinds = [kind for name, kind in (("figure", FIGURE_RULE), ("findings", FINDINGS_RULE)) if name in value]
    return kinds[0] if len(kinds) == 1 else None


Rule = Annotated[
    Annotated[FigureRule, Tag(FIGURE_RULE)] | Annotated[FindingsRule, Tag(FINDINGS_RULE)],
    Discriminator(
        _kind_of,
        custom_error_type="rule_subject",
        custom_error_message="a rule is a mapping with `figure` or `findings`, one of the two",
    ),
]


class Policy(_Strict):
    """What an audit must keep to."""

    version: Literal[1] = Field(description="Version of this form.")
    rules: tuple[Rule, ...] = Field(
        min_length=1, max_length=MAX_RULES, strict=False, description="Each is applied by itself; the worst decides."
    )

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        seen: set[str] = set()
        for rule in self.rules:
            if rule.name in seen:
                raise ValueError(f"two rules are named {rule.name}; names are unique")
            seen.add(rule.name)
        return self


def finding_kinds() -> tuple[str, ...]:
    """The kinds of findings that an audit may have."""
    from eif_engine.audit_tables import FINDING_KINDS  # needs pyarrow, which the server loads when it is first used

    return tuple(FINDING_KINDS)


def policy_schema() -> dict[str, Any]:
    """The JSON schema of a policy, for editors."""
    schema = Policy.model_json_schema()
    rules = schema["$defs"]
    rules["FigureRule"]["properties"]["figure"]["anyOf"] = [
        {"enum": sorted(FIGURES)},
        {"pattern": f"^{_RECALL.pattern}$"},
    ]
    rules["FindingsRule"]["properties"]["findings"]["enum"] = sorted(finding_kinds())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _unknown(what: str, value: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(value[:100], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"{value[:100]!r} is not a {what}; {hint}"

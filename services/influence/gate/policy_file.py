"""Policies as YAML: read without ever expanding more than was sent, with errors that name line, rule and field."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from services.common.errors import ServiceError
from services.influence.gate.policy import FIGURE_RULE, FINDINGS_RULE, MAX_RULES, VERSION, Policy

MAX_BYTES = 64 << 10
_MAX_DEPTH = 8
_WORDS = {
    "extra_forbidden": "there is no such field; `eif gate --show-policy` shows those there are",
    "missing": "it is required",
    "model_type": "a policy is a mapping with `version` and `rules`",
    "too_short": "a policy has at least one rule",
    "too_long": f"a policy has at most {MAX_RULES} rules",
}
_Place = tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class AppliedPolicy:
    """A policy, and the sha256 of the text that it was read from."""

    policy: Policy
    sha256: str


def default_policy() -> str:
    """The commented policy that is applied where none is given."""
    return (files("services.influence.gate") / "default_policy.yaml").read_text(encoding="utf-8")


def read_policy(text: str) -> AppliedPolicy:
    """Read a policy; the default one, where the text is empty.

    Raises:
        ServiceError: POLICY_INVALID, with line, rule and field where they are known.
    """
    text = text or default_policy()
    data = text.encode(errors="surrogatepass")
    if len(data) > MAX_BYTES:
        _refuse(f"it has {len(data):,} bytes, over the limit of {MAX_BYTES:,}")
    node, values = _parse(text)
    _check_version(values, node)
    try:
        policy = Policy.model_validate(values)
    except ValidationError as error:
        _refuse_invalid(error.errors(include_url=False, include_input=False)[0], node, values)
    return AppliedPolicy(policy=policy, sha256=hashlib.sha256(data).hexdigest())


class _Loader(yaml.SafeLoader):
    """Refuses what a policy never needs before anything is built from it: aliases, depth, a key given twice."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401  as PyYAML has it
        event = self.peek_event()  # type: ignore[no-untyped-call]  # its stub has no types
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            _refuse("anchors (&) and aliases (*) are not read; write the value out", line=line)
        if self._depth >= _MAX_DEPTH:
            _refuse(f"it is nested more than {_MAX_DEPTH} deep", line=line)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        return node


def _parse(text: str) -> tuple[yaml.Node, object]:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            _refuse("it is empty; `eif gate --show-policy` prints one to start from")
        return node, loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        _refuse(f"it is not valid YAML: {error.problem or error.context}", line=line)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number that there is not
        _refuse(f"it is not valid YAML: {str(error).splitlines()[0][:200]}")


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else ""
        if name in seen:
            _refuse(f"{name[:64]!r} is given twice", line=key.start_mark.line + 1)
        seen.add(name)


def _check_version(values: object, node: yaml.Node) -> None:
    """First of all: a later form may have what this one does not know."""
    if isinstance(values, dict) and "version" in values and values["version"] != VERSION:
        line = _line(node, ("version",))
        said = str(values["version"])[:32]
        _refuse(f"this server reads policies of version {VERSION}, not {said}", line=line, field="version")


def _refuse_invalid(problem: ErrorDetails, node: yaml.Node, values: object) -> NoReturn:
    place: _Place = tuple(part for part in problem["loc"] if part not in {FIGURE_RULE, FINDINGS_RULE})
    names = [part for part in place if isinstance(part, str)]
    field = names[1] if place[:1] == ("rules",) and len(names) > 1 else names[0] if len(place) == 1 else ""
    _refuse(_why(problem, field), line=_line(node, place), rule=_rule_name(values, place), field=field[:64])


def _why(problem: ErrorDetails, field: str) -> str:
    """In the words of a policy, where pydantic speaks of its own."""
    if field in {"max_drop", "max_rise"}:
        return "write a number of at least 0, or a share of the baseline such as 2%"
    return _WORDS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")


def _rule_name(values: object, place: _Place) -> str:
    """How to name the rule that a place lies in: by its name where it has one, else by its number."""
    if len(place) < 2 or place[0] != "rules" or not isinstance(place[1], int) or not isinstance(values, dict):
        return ""
    rules = values.get("rules")
    rule = rules[place[1]] if isinstance(rules, list) else None
    name = rule.get("name") if isinstance(rule, dict) else None
    return name[:64] if isinstance(name, str) and name.isprintable() else f"number {place[1] + 1}"


def _line(node: yaml.Node, place: _Place) -> int:
    """Line of the deepest node on the way to a place."""
    for part in place:
        if isinstance(part, int) and isinstance(node, yaml.SequenceNode) and part < len(node.value):
            node = node.value[part]
        elif isinstance(node, yaml.MappingNode):
            found = [pair for pair in node.value if isinstance(pair[0], yaml.ScalarNode) and pair[0].value == part]
            if not found:
                break
            node = found[0][1]
    return node.start_mark.line + 1


def _refuse(why: str, *, line: int | None = None, rule: str = "", field: str = "") -> NoReturn:
    places = [f"line {line}" if line else "", f"rule {rule}" if rule else "", field]
    where = ", ".join(["policy", *filter(None, places)])
    metadata = {"line": str(line or ""), "rule": rule, "field": field}
    raise ServiceError("POLICY_INVALID", f"{where}: {why}", **{name: text for name, text in metadata.items() if text})

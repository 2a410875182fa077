"""Names in PromQL: enough of its grammar to find out what a query selects."""

from __future__ import annotations

import re
from dataclasses import dataclass

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_RANGE = re.compile(r"\[[^\]]*\]")
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\{[^}]*\})?(\s*\()?")
_MATCHER = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!~|!=|=)")
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan"})


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a query names: metrics, each with the labels that its matchers look at, and labels of groupings."""

    selectors: dict[str, set[str]]
    groupings: set[str]


def parse(text: str) -> Query:
    """The names in a query."""
    assert text.count("(") == text.count(")"), text
    assert text.count("{") == text.count("}"), text
    plain = _RANGE.sub("", _STRING.sub('""', text))
    groupings = {name.strip() for found in _GROUPING.findall(plain) for name in found.split(",") if name.strip()}
    selectors: dict[str, set[str]] = {}
    for name, matchers, call in _SELECTOR.findall(re.sub(r"\b[0-9][0-9.e-]*[a-z]*", "", _GROUPING.sub("", plain))):
        if not call and name not in _WORDS:
            selectors.setdefault(name, set()).update(_MATCHER.findall(matchers))
    return Query(selectors=selectors, groupings=groupings)

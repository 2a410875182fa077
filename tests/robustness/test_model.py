"""The model has nothing against a good history, and finds each fault that is planted in one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.robustness.history import CORRUPTED, OK, REPLACED, Event, Operation, Plan
from tests.robustness.model import violations

ROWS = "digest"


def event(operation: Operation, begun: float, **fields: Any) -> Event:
    values = {"outcome": OK, "name": "a", "uid": "1"} | fields
    return Event(operation=operation, begun=begun, ended=begun + 0.5, **values)


def created(begun: float = 0, **fields: Any) -> Event:
    return event(Operation.CREATE, begun, **({"state": "PENDING", "plan": Plan.SUCCEED, "request_id": "r"} | fields))


def got(begun: float, state: str = "", **fields: Any) -> Event:
    return event(Operation.GET, begun, state=state, **fields)


def fault(begun: float, name: str) -> Event:
    return event(Operation.FAULT, begun, name="", uid="", reason=name)


def corrupt(begun: float, **fields: Any) -> Event:
    values = {"outcome": "DATA_LOSS", "reason": "RESULT_CORRUPT", "uid": ""} | fields
    return event(Operation.STREAM, begun, **values)


def missed(begun: float, **fields: Any) -> Event:
    return got(begun, outcome="NOT_FOUND", reason="JOB_NOT_FOUND", uid="", **fields)


GOOD = (
    created(),
    created(1),
    got(2, "RUNNING"),
    event(Operation.WATCH, 3, outcome="UNAVAILABLE", uid=""),
    got(4, "SUCCEEDED"),
    event(Operation.STREAM, 5, rows=ROWS, uid=""),
    got(6, "SUCCEEDED"),
    created(7, name="b", uid="2", request_id="s", plan=Plan.FAIL),
    event(Operation.CANCEL, 8, name="b", uid="2", state="CANCELLING"),
    got(9, "CANCELLED", name="b", uid="2"),
    event(Operation.DELETE, 10, name="b", uid=""),
    missed(11, name="b"),
    fault(20, CORRUPTED),
    corrupt(20.1),
    created(21, name="c", uid="3", request_id="t"),
    fault(21, REPLACED),
    got(22, "FAILED", name="c", uid="3", error="OBJECT_CHANGED"),
    event(Operation.DELETE, 23, name="c", uid="", outcome="UNAVAILABLE", reason="STORAGE_UNAVAILABLE"),
    corrupt(24, name="c"),
    got(25, "FAILED", name="c", uid="3", error="OBJECT_CHANGED"),
)
FAULTS: dict[str, tuple[str, tuple[Event, ...]]] = {
    "lost": ("kept", (*GOOD, missed(12))),
    "never looked at": ("kept", (created(),)),
    "still running": ("kept", (created(), got(1, "RUNNING"))),
    "gone before its delete": ("kept", (created(), missed(1), event(Operation.DELETE, 2, uid=""))),
    "two of one request": ("once", (*GOOD, created(12, name="c", uid="3"), got(13, "SUCCEEDED", name="c", uid="3"))),
    "back to life": ("terminal", (*GOOD, got(12, "RUNNING"), got(13, "SUCCEEDED"))),
    "two ends": ("terminal", (*GOOD, got(12, "FAILED"))),
    "another end than planned": ("planned", (created(), got(1, "FAILED"))),
    "cancelled by nobody": ("planned", (created(), got(1, "CANCELLED"))),
    "cancelled before anybody asked": (
        "planned",
        (created(), got(1, "CANCELLED"), event(Operation.CANCEL, 2, state="CANCELLED")),
    ),
    "other rows": ("rows", (*GOOD, event(Operation.STREAM, 12, rows="other", uid=""))),
    "changed, but nothing was replaced": (
        "planned",
        (created(), got(1, "FAILED", error="OBJECT_CHANGED"), fault(2, REPLACED)),
    ),
    "replaced, but it failed for another reason": (
        "planned",
        (created(), fault(0, REPLACED), got(1, "FAILED", error="MANIFEST_INVALID")),
    ),
    "damaged after the damage was over": ("answers", (*GOOD, corrupt(26))),
    "damaged while others were cut": ("answers", (*GOOD, fault(26, "cut_bodies"), corrupt(26.1))),
    "an error of the server": (
        "answers",
        (*GOOD, got(12, outcome="INTERNAL", reason="INTERNAL"), got(13, "SUCCEEDED")),
    ),
}


def test_nothing_is_held_against_a_good_history() -> None:
    assert violations(GOOD, rows=ROWS) == []


@pytest.mark.parametrize(("rule", "events"), list(FAULTS.values()), ids=list(FAULTS))
def test_each_fault_is_found(rule: str, events: tuple[Event, ...]) -> None:
    found = violations(events, rows=ROWS)
    assert found
    assert any(each.startswith(f"{rule}:") for each in found), found

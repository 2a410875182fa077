"""What must hold of every history, whatever happened to the servers. Each rule returns what breaks it.

kept        a job that was acknowledged is there until somebody deletes it, and comes to an end
once        requests with one id make one job
terminal    a job that was seen ended is never seen in another state again
planned     jobs end as their process does, or cancelled if somebody asked for that, or OBJECT_CHANGED if it was
rows        a stream that comes to its end has every row once, in order
answers     calls fail in the ways that are documented
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from tests.robustness.history import CORRUPTED, OK, REPLACED, Event, Operation, Plan

ENDED = {"SUCCEEDED", "FAILED", "CANCELLED"}
AWAY = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"}
"""A server that is killed, stopped or frozen answers so, or not at all."""
EXPECTED = {
    Operation.CREATE: {"QUEUE_FULL"},
    Operation.DELETE: {"JOB_NOT_ENDED", "JOB_NOT_FOUND"},
    Operation.STREAM: {"JOB_NOT_SUCCEEDED", "JOB_NOT_FOUND"},
}
"""Reasons for which an operation may be refused; JOB_NOT_FOUND where the job was deleted."""
_BY_PLAN = {Plan.SUCCEED: "SUCCEEDED", Plan.CRASH_ONCE: "SUCCEEDED", Plan.FAIL: "FAILED"}


def violations(events: Sequence[Event], *, rows: str) -> list[str]:
    """Everything that breaks a rule.

    Args:
        events: The history; its last events are a look at every job after all has settled.
        rows: Digest of the rows of every ranking.
    """
    rules: list[Callable[[Sequence[Event]], Iterator[str]]] = [_kept, _once, _terminal, _planned, _answers]
    return [broken for rule in rules for broken in rule(events)] + list(_rows(events, rows))


def _kept(events: Sequence[Event]) -> Iterator[str]:
    last: dict[str, Event] = {}
    for event in events:
        if event.name and event.operation in {Operation.GET, Operation.DELETE}:
            last[event.name] = event
    deletes = _begun(events, Operation.DELETE)
    for created in _acknowledged(events):
        seen = last.get(created.name)
        if seen is None:
            yield f"kept: {created.name} was acknowledged and never looked at again"
        elif created.name in deletes and (seen.reason == "JOB_NOT_FOUND" or seen.operation is Operation.DELETE):
            continue
        elif seen.outcome != OK:
            yield f"kept: {created.name} was acknowledged and not deleted, but {seen.reason or seen.outcome}"
        elif seen.state not in ENDED:
            yield f"kept: {created.name} has not ended: {seen.state}"
    for event in events:
        if event.reason == "JOB_NOT_FOUND" and not deletes.get(event.name, event.ended) < event.ended:
            yield f"kept: {event.name} was not found by {event.operation} before anybody deleted it"


def _once(events: Sequence[Event]) -> Iterator[str]:
    uids: dict[str, set[str]] = defaultdict(set)
    for created in _acknowledged(events):
        uids[created.request_id].add(created.uid)
    yield from (f"once: request {request} made {sorted(made)}" for request, made in uids.items() if len(made) > 1)


def _terminal(events: Sequence[Event]) -> Iterator[str]:
    first: dict[str, Event] = {}
    for event in events:  # in the order in which they ended
        if event.state in ENDED:
            first.setdefault(event.uid, event)
    for event in events:
        end = first.get(event.uid)
        if event.state and end is not None and end.ended < event.begun and event.state != end.state:
            yield f"terminal: {event.name} was {end.state} and then {event.state} ({event.operation})"


def _planned(events: Sequence[Event]) -> Iterator[str]:
    cancels = _begun(events, Operation.CANCEL)
    plans = {created.uid: created for created in _acknowledged(events)}
    replaced = _faults(events, REPLACED)
    for event in events:
        created = plans.get(event.uid)
        if created is None or event.state not in ENDED:
            continue
        if event.state == "CANCELLED" and cancels.get(event.name, event.ended) < event.ended:
            continue
        if event.error == "OBJECT_CHANGED" and any(fault.begun < event.ended for fault in replaced):
            continue
        if event.state != _BY_PLAN[Plan(created.plan)]:
            yield f"planned: {event.name} should {created.plan}, but is {event.state} {event.error}"


def _rows(events: Sequence[Event], rows: str) -> Iterator[str]:
    for event in events:
        if event.operation is Operation.STREAM and event.outcome == OK and event.rows != rows:
            yield f"rows: a stream of {event.name} has other rows"


def _answers(events: Sequence[Event]) -> Iterator[str]:
    corrupt, deletes = _faults(events, CORRUPTED), _begun(events, Operation.DELETE)
    for event in events:
        expected = EXPECTED.get(event.operation, {"JOB_NOT_FOUND"})
        if event.operation is Operation.STREAM and event.reason == "RESULT_CORRUPT":
            half_deleted = deletes.get(event.name, event.ended) < event.ended
            if half_deleted or any(fault.begun < event.ended and event.begun < fault.ended for fault in corrupt):
                continue
        if event.outcome not in {OK, *AWAY} and event.reason not in expected:
            yield f"answers: {event.operation} of {event.name} failed with {event.outcome} {event.reason}"


def _faults(events: Sequence[Event], name: str) -> list[Event]:
    return [event for event in events if event.operation is Operation.FAULT and event.reason == name]


def _acknowledged(events: Sequence[Event]) -> list[Event]:
    return [event for event in events if event.operation is Operation.CREATE and event.outcome == OK]


def _begun(events: Sequence[Event], operation: Operation) -> dict[str, float]:
    """When the first of these was begun, by job: from then on it may have been done, whatever was answered."""
    begun: dict[str, float] = {}
    for event in events:
        if event.operation is operation:
            begun[event.name] = min(event.begun, begun.get(event.name, event.begun))
    return begun

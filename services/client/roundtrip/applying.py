"""Decisions applied to a manifest: a new one beside it, with where it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from services.client.roundtrip.errors import RoundTripError
from services.client.roundtrip.manifest import format_of, rewrite
from services.client.roundtrip.records import Record
from services.common.decisions import Decision, DecisionKind, newest, read_decisions, write_decisions

_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class File:
    """A file by name and sha256 (hex)."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a corrected manifest came from.

    Attributes:
        manifest: The one that was corrected.
        result: The corrected one.
        decisions: The files of decisions, in the order in which they were applied.
        rows: Samples of the manifest.
        kept: Samples whose label was found right.
        relabelled: Samples with another label than before.
        removed: Samples that were left out.
        stale: Decisions about another label than the manifest's, applied all the same.
    """

    manifest: File
    result: File
    decisions: tuple[File, ...]
    rows: int
    kept: int
    relabelled: int
    removed: int
    stale: int


@dataclass(kw_only=True)
class _Changes:
    """What decisions make of each sample, and what does not fit."""

    decisions: Mapping[str, Decision]
    rows: int = 0
    counts: dict[DecisionKind, int] = field(default_factory=lambda: dict.fromkeys(DecisionKind, 0))
    seen: set[str] = field(default_factory=set)
    stale: list[str] = field(default_factory=list)

    def label_of(self, record: Record) -> str | None:
        self.rows += 1
        decision = self.decisions.get(record.sample_id or "")
        if decision is None:
            return record.label
        if decision.sample_id in self.seen:
            raise RoundTripError(f"the manifest has the id {decision.sample_id!r} twice (line {record.line})")
        self.seen.add(decision.sample_id)
        if decision.label != record.label:
            self.stale.append(f"{decision.sample_id!r} is labelled {record.label!r}, not {decision.label!r}")
        self.counts[decision.kind] += 1
        if decision.kind is DecisionKind.REMOVE:
            return None
        return decision.new_label if decision.kind is DecisionKind.RELABEL else record.label


def apply_decisions(
    manifest: Path, decisions: Sequence[Decision], out: Path, *, sources: Sequence[Path] = (), force: bool = False
) -> Provenance:
    """Write a corrected manifest to `out`, and `<out>.provenance.json` beside it.

    Args:
        manifest: The manifest; it is not touched.
        decisions: Of two about one sample the later one counts.
        out: A new file of the same format.
        sources: The files that the decisions were read from, for the provenance.
        force: Apply decisions about a label that the manifest does not have any more.

    Raises:
        RoundTripError: `out` is there already or has another format; a decision names a sample that the manifest
            does not have, or, without `force`, another label than it has. Nothing is written then.
    """
    _check_out(manifest, out)
    before = File(name=manifest.name, sha256=_digest(manifest))
    changes = _Changes(decisions=newest(decisions))
    partial = out.with_name(f".partial.{out.name}")
    try:
        rewrite(manifest, partial, changes.label_of)
        _refuse_misfits(manifest, changes, force=force)
        provenance = _provenance(before, File(name=out.name, sha256=_digest(partial)), sources, changes)
        _write_json(asdict(provenance), provenance_path(out))  # first: a manifest is never without it
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return provenance


def provenance_path(manifest: Path) -> Path:
    """Where it is said where a corrected manifest came from."""
    return manifest.with_name(f"{manifest.name}.provenance.json")


def recall(path: Path) -> list[Decision]:
    """What was remembered before; nothing, where there is no such file. Raises DecisionsInvalid."""
    return read_decisions(path) if path.exists() else []


def remember(path: Path, known: Sequence[Decision], decisions: Sequence[Decision]) -> int:
    """Write what is known and what was decided now, so that the next audit need not ask; returns the number of samples.

    A label that was given is as reviewed as one that was kept. Of two decisions about one sample the newer one
    counts; a sample that was removed is forgotten.
    """
    merged = newest([*known, *map(_as_reviewed, decisions)])
    kept = [decision for _, decision in sorted(merged.items()) if decision.kind is DecisionKind.KEEP]
    write_decisions(kept, path)
    return len(kept)


def _as_reviewed(decision: Decision) -> Decision:
    if decision.kind is not DecisionKind.RELABEL:
        return decision
    return Decision(sample_id=decision.sample_id, label=decision.new_label, kind=DecisionKind.KEEP, note=decision.note)


def _check_out(manifest: Path, out: Path) -> None:
    if format_of(manifest) != format_of(out):
        raise RoundTripError(f"{out}: the corrected manifest has the format of {manifest}, {format_of(manifest)}")
    if out.exists():
        raise RoundTripError(f"{out} is there already: give the corrected manifest a name of its own")


def _refuse_misfits(manifest: Path, changes: _Changes, *, force: bool) -> None:
    unknown = sorted(changes.decisions.keys() - changes.seen)
    if unknown:
        raise RoundTripError(
            f"{manifest} does not have {len(unknown):,} of the samples that were decided about: "
            f"{_some(list(map(repr, unknown)))}; decide about samples of this manifest, or take those rows out"
        )
    if changes.stale and not force:
        raise RoundTripError(
            f"{len(changes.stale):,} decisions are about another label than {manifest} has: {_some(changes.stale)}; "
            "audit it again, or give --force to apply them all the same"
        )


def _some(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _provenance(before: File, result: File, sources: Sequence[Path], changes: _Changes) -> Provenance:
    return Provenance(
        manifest=before,
        result=result,
        decisions=tuple(File(name=path.name, sha256=_digest(path)) for path in sources),
        rows=changes.rows,
        kept=changes.counts[DecisionKind.KEEP],
        relabelled=changes.counts[DecisionKind.RELABEL],
        removed=changes.counts[DecisionKind.REMOVE],
        stale=len(changes.stale),
    )


def _write_json(value: object, path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

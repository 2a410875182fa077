"""A folder that FiftyOne reads as a FiftyOneDataset: `samples.json` and `metadata.json`, images where they are.

It is written without a version, which FiftyOne reads by field and not as a dump of its database: what it holds does
not depend on the release that opens it. What FiftyOne exports in the same format is read back as decisions: people
tag samples `keep`, `relabel` (as suggested) or `remove`, or change the label of `ground_truth`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from services.client.roundtrip.errors import RoundTripError
from services.client.roundtrip.images import Rewrite, image_of
from services.client.roundtrip.json_export import is_label, read_export
from services.client.roundtrip.review import ReviewItem
from services.common.decisions import Decision, DecisionKind

SAMPLES = "samples.json"
METADATA = "metadata.json"


def write_dataset(items: Iterable[ReviewItem], folder: Path, *, job: str, rewrites: tuple[Rewrite, ...] = ()) -> None:
    """Write the folder; `file://` URIs become paths, and kinds of findings become tags."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"media_type": "image", "info": {"audit": job, "made_by": "eif export"}}
    (folder / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    with (folder / SAMPLES).open("w", encoding="utf-8") as file:
        before = '{"samples": [\n'
        for item in items:
            file.write(f"{before}{json.dumps(_sample(item, rewrites))}")
            before = ",\n"
        file.write("\n]}\n" if before == ",\n" else '{"samples": []}\n')


def read_tags(path: Path) -> list[Decision]:
    """Decisions from the `samples.json` of a dataset that was exported; samples that nobody touched are passed over.

    Raises:
        RoundTripError: It is no such file, or a sample was not made by `write_dataset`.
    """
    content = read_export(path)
    samples = content.get("samples") if isinstance(content, dict) else None
    if not isinstance(samples, list):
        raise RoundTripError(f"{path} has no list of samples: export the dataset as FiftyOneDataset")
    return list(_decisions(samples, path))


def _decisions(samples: list[Any], path: Path) -> Iterator[Decision]:
    for number, sample in enumerate(samples, 1):
        if not isinstance(sample, dict) or not _is_text(sample.get("eif_id")) or not _is_text(sample.get("eif_label")):
            _refuse(path, number, "has no eif_id and eif_label: was it made by `eif export`?")
        decision = _decision(sample, path, number)
        if decision is not None:
            yield decision


def _decision(sample: Mapping[str, Any], path: Path, number: int) -> Decision | None:
    """What the tags say, or a label that was changed; None where neither says anything."""
    sample_id, label = sample["eif_id"], sample["eif_label"]
    tags = sample.get("tags")
    said = [kind for kind in DecisionKind if isinstance(tags, list) and kind.value in tags]
    if len(said) > 1:
        _refuse(path, number, f"({sample_id!r}) has the tags {' and '.join(said)}: leave one of them")
    if said == [DecisionKind.REMOVE]:
        return Decision(sample_id=sample_id, label=label, kind=DecisionKind.REMOVE)
    now = _label(sample, "ground_truth") or label
    if now == label and said == [DecisionKind.RELABEL]:
        now = _label(sample, "suggestion")
        if now in {"", label}:
            _refuse(path, number, f"({sample_id!r}) has the tag relabel, but no suggestion: change its ground_truth")
    if now != label:
        if not is_label(now):
            _refuse(path, number, f"has a label that no manifest can have: {now[:80]!r}")
        return Decision(sample_id=sample_id, label=label, kind=DecisionKind.RELABEL, new_label=now)
    return Decision(sample_id=sample_id, label=label, kind=DecisionKind.KEEP) if said else None


def _label(sample: Mapping[str, Any], field: str) -> str:
    classification = sample.get(field)
    label = classification.get("label") if isinstance(classification, dict) else None
    return label if isinstance(label, str) else ""


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _refuse(path: Path, number: int, why: str) -> NoReturn:
    raise RoundTripError(f"{path}, sample {number}: it {why}")


def _sample(item: ReviewItem, rewrites: tuple[Rewrite, ...]) -> dict[str, Any]:
    sample: dict[str, Any] = {
        "filepath": image_of(item, rewrites).removeprefix("file://"),
        "tags": list(item.kinds),
        "eif_id": item.sample_id,
        "eif_label": item.label,
        "ground_truth": _classification(item.label, item.suggestion.label_probability if item.suggestion else None),
        "severity": item.severity,
        "notes": list(item.notes),
    }
    if item.suggestion is not None and item.suggestion.suggested_label:
        sample["suggestion"] = _classification(item.suggestion.suggested_label, item.suggestion.suggested_probability)
    return sample


def _classification(label: str, confidence: float | None) -> dict[str, Any]:
    return {"_cls": "Classification", "tags": [], "label": label, "confidence": confidence}

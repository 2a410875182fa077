"""Label Studio: tasks out, with what the audit says as predictions; its JSON export back in as decisions.

The labelling configuration that belongs to the tasks has a choice `label`, a choice `decision` whose one word is
`remove`, and a text `note`. A label that is submitted as it was means keep, another one means relabel.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TextIO
from xml.etree import ElementTree as ET

from services.client.roundtrip.errors import RoundTripError
from services.client.roundtrip.images import Rewrite, image_of
from services.client.roundtrip.json_export import is_label, read_export
from services.client.roundtrip.review import ReviewItem
from services.common.decisions import Decision, DecisionKind

_LABEL, _DECISION, _NOTE, _IMAGE = "label", "decision", "note", "image"


def write_tasks(items: Iterable[ReviewItem], out: TextIO, *, job: str, rewrites: tuple[Rewrite, ...] = ()) -> None:
    """Write tasks as a JSON list, one a line."""
    before = "[\n"
    for item in items:
        out.write(f"{before}{json.dumps(_task(item, job, rewrites))}")
        before = ",\n"
    out.write("\n]\n" if before != "[\n" else "[]\n")


def labelling_configuration(labels: Iterable[str]) -> str:
    """The configuration of a project for these tasks, with these labels to choose from."""
    view = ET.Element("View")
    ET.SubElement(view, "Header", {"value": "$question"})
    ET.SubElement(view, "Image", {"name": _IMAGE, "value": "$image"})
    choices = ET.SubElement(view, "Choices", {"name": _LABEL, "toName": _IMAGE, "choice": "single"})
    for label in sorted(set(labels)):
        ET.SubElement(choices, "Choice", {"value": label})
    decisions = ET.SubElement(view, "Choices", {"name": _DECISION, "toName": _IMAGE, "choice": "single"})
    ET.SubElement(decisions, "Choice", {"value": DecisionKind.REMOVE})
    ET.SubElement(view, "TextArea", {"name": _NOTE, "toName": _IMAGE})
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


def read_annotations(path: Path) -> list[Decision]:
    """Decisions from the JSON export of a project; tasks that nobody has submitted are passed over.

    Raises:
        RoundTripError: It is not such an export, or a task was not made by `write_tasks`.
    """
    tasks = read_export(path)
    if not isinstance(tasks, list):
        raise RoundTripError(f"{path} is not a list of tasks: export the project as JSON")
    return list(_decisions(tasks, path))


def _task(item: ReviewItem, job: str, rewrites: tuple[Rewrite, ...]) -> dict[str, Any]:
    suggestion = item.suggestion
    suggested = suggestion.suggested_label if suggestion else ""
    question = f"now: {item.label}; suggested: {suggested}" if suggested else f"now: {item.label}"
    data = {
        "image": image_of(item, rewrites),
        "sample_id": item.sample_id,
        "current_label": item.label,
        "suggested_label": suggested,
        "question": question,
        "findings": list(item.kinds),
        "notes": list(item.notes),
        "severity": item.severity,
        "audit": job,
    }
    predictions = []
    if suggestion is not None and suggested:
        predictions.append(_prediction(suggested, suggestion.suggested_probability, "suggested"))
    if suggestion is not None:
        predictions.append(_prediction(item.label, suggestion.label_probability, "current"))
    return {"data": data, "predictions": predictions}


def _prediction(label: str, score: float, version: str) -> dict[str, Any]:
    choice = {"from_name": _LABEL, "to_name": _IMAGE, "type": "choices", "value": {"choices": [label]}}
    return {"model_version": version, "score": score, "result": [choice]}


def _decisions(tasks: list[Any], path: Path) -> Iterator[Decision]:
    for number, task in enumerate(tasks, 1):
        data, annotations = (task.get("data"), task.get("annotations")) if isinstance(task, dict) else (None, None)
        if not isinstance(data, dict) or not isinstance(annotations, list):
            _refuse(path, number, "has no data and annotations: export the project as JSON, not as JSON-MIN or CSV")
        submitted = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
        if submitted:
            # Times are ISO 8601 in UTC, so that text order is their order; the later entry where they are alike.
            last = max(enumerate(submitted), key=lambda one: (str(one[1].get("updated_at") or ""), one[0]))[1]
            decision = _decision(data, last, path, number)
            if decision is not None:
                yield decision


def _decision(data: Mapping[str, Any], annotation: Mapping[str, Any], path: Path, number: int) -> Decision | None:
    sample_id, label = data.get("sample_id"), data.get("current_label")
    if not isinstance(sample_id, str) or not isinstance(label, str) or not sample_id or not label:
        _refuse(path, number, "has no data.sample_id and data.current_label: was it made by `eif export`?")
    answers = _answers(annotation)
    note = " ".join(answers.get(_NOTE, "").split())[:4096]
    if answers.get(_DECISION) == DecisionKind.REMOVE:
        return Decision(sample_id=sample_id, label=label, kind=DecisionKind.REMOVE, note=note)
    chosen = answers.get(_LABEL)
    if chosen is None:
        return None
    if chosen == label:
        return Decision(sample_id=sample_id, label=label, kind=DecisionKind.KEEP, note=note)
    if not is_label(chosen):
        _refuse(path, number, f"has a label that no manifest can have: {chosen[:80]!r}")
    return Decision(sample_id=sample_id, label=label, kind=DecisionKind.RELABEL, new_label=chosen, note=note)


def _answers(annotation: Mapping[str, Any]) -> dict[str, str]:
    """What was chosen or written, by the name of the control."""
    found: dict[str, str] = {}
    results = annotation.get("result")
    for result in results if isinstance(results, list) else []:
        value = result.get("value") if isinstance(result, dict) else None
        texts = (value.get("choices") or value.get("text")) if isinstance(value, dict) else None
        texts = [texts] if isinstance(texts, str) else texts
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
            found[str(result.get("from_name"))] = "\n".join(texts)
    return found


def _refuse(path: Path, number: int, why: str) -> NoReturn:
    raise RoundTripError(f"{path}, task {number}: it {why}")

"""A folder that FiftyOne reads as a FiftyOneDataset: `samples.json` and `metadata.json`, images where they are.

It is written without a version, which FiftyOne reads by field and not as a dump of its database: what it holds does
not depend on the release that opens it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from services.client.roundtrip.images import Rewrite, image_of
from services.client.roundtrip.review import ReviewItem

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


def _sample(item: ReviewItem, rewrites: tuple[Rewrite, ...]) -> dict[str, Any]:
    sample: dict[str, Any] = {
        "filepath": image_of(item, rewrites).removeprefix("file://"),
        "tags": list(item.kinds),
        "eif_id": item.sample_id,
        "ground_truth": _classification(item.label, item.suggestion.label_probability if item.suggestion else None),
        "severity": item.severity,
        "notes": list(item.notes),
    }
    if item.suggestion is not None and item.suggestion.suggested_label:
        sample["suggestion"] = _classification(item.suggestion.suggested_label, item.suggestion.suggested_probability)
    return sample


def _classification(label: str, confidence: float | None) -> dict[str, Any]:
    return {"_cls": "Classification", "tags": [], "label": label, "confidence": confidence}

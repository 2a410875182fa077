"""A review in FiftyOne: `python fiftyone_program.py REVIEW ANSWERS`, by the interpreter that it is installed in.

Stands alone: nothing of the project can be imported there. Loads the folder REVIEW, decides about its samples as people
do in the App (tags, and labels that are changed), exports what was decided to the folder ANSWERS, and prints what
FiftyOne made of the samples, as JSON on the last line.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from typing import Any


def load(folder: str) -> Any:
    """The dataset, as docs/round-trip.md says."""
    fiftyone = import_module("fiftyone")
    return fiftyone.Dataset.from_dir(dataset_dir=folder, dataset_type=fiftyone.types.FiftyOneDataset)


def seen(dataset: Any) -> dict[str, Any]:
    """What it holds."""
    dataset.compute_metadata()  # opens every image
    return {
        "media_type": dataset.media_type,
        "fields": {name: type(field).__name__ for name, field in dataset.get_field_schema().items()},
        "kinds": dataset.count_sample_tags(),
        "info": dict(dataset.info),
        "samples": [
            {
                "id": sample["eif_id"],
                "path": sample.filepath,
                "label": sample["ground_truth"].label,
                "confidence": sample["ground_truth"].confidence,
                "suggestion": None if sample["suggestion"] is None else sample["suggestion"].label,
                "severity": sample["severity"],
                "width": sample.metadata.width,
            }
            for sample in dataset
        ],
    }


def decide(dataset: Any) -> None:
    """The first is relabelled as suggested, the second kept, the third removed, the fourth gets another label."""
    samples = list(dataset)
    for sample, tag in zip(samples, ("relabel", "keep", "remove"), strict=False):
        sample.tags.append(tag)
        sample.save()
    samples[3]["ground_truth"].label = "by hand"
    samples[3].save()


def main() -> None:
    """Load, look, decide, export."""
    review, answers = sys.argv[1:]
    dataset = load(review)
    found = seen(dataset)
    decide(dataset)
    fiftyone = import_module("fiftyone")
    dataset.export(export_dir=answers, dataset_type=fiftyone.types.FiftyOneDataset, export_media=False)
    sys.stdout.write(json.dumps(found | {"version": fiftyone.__version__}) + "\n")


if __name__ == "__main__":
    main()

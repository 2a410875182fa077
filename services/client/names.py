"""Resource names from what people type: an id, or a whole name."""

from __future__ import annotations


def parent(project: str) -> str:
    """The name of a project."""
    return f"projects/{project}"


def job_name(job: str, project: str) -> str:
    """The name of a job from its id or its name."""
    return _full_name(job, project, "influenceJobs")


def model_name(model: str, project: str) -> str:
    """The name of a model from its id or its name."""
    return _full_name(model, project, "models")


def index_name(index: str, project: str) -> str:
    """The name of an index from its id or its name."""
    return _full_name(index, project, "indexes")


def last_segment(name: str) -> str:
    """The id in a name."""
    return name.rpartition("/")[2]


def _full_name(given: str, project: str, collection: str) -> str:
    return given if given.startswith("projects/") else f"{parent(project)}/{collection}/{given}"

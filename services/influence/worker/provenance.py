"""Facts of the run that MANIFEST.json keeps, so that a result can be made again."""

from __future__ import annotations

import resource

import torch

from eif_engine import __version__
from services.influence.worker.inputs import JobModel
from services.influence.worker.job import Job
from services.influence.worker.split import Split


def device_name(device: torch.device) -> str:
    """`cpu`, or `cuda:` and the name of the GPU: results are the same on the same class of device."""
    return device.type if device.type != "cuda" else f"cuda:{torch.cuda.get_device_name(device)}"


def provenance(
    job: Job, *, splits: list[Split], device: torch.device, model: JobModel | None, **more: str
) -> dict[str, str]:
    """Versions, device, seed, the digests of what was read, and what was asked for."""
    spec = job.request.spec
    facts = {
        "engine_version": __version__,
        "torch_version": torch.__version__,
        "device": device_name(device),
        "seed": str(spec.run.seed),
        "config": spec.model_dump_json(),
        **{f"{split.name}_manifest_sha256": split.sha256 for split in splits},
        **more,
    }
    if model is not None:
        facts |= {"model_sha256": model.sha256, "weights_sha256": model.loaded.weights_sha256}
    return facts


def run_figures(job: Job) -> dict[str, float]:
    """`seconds_<stage>` of the stages that have ended, and the most memory this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = {f"seconds_{stage}": seconds for stage, seconds in job.progress.seconds.items()}
    return {**seconds, "peak_memory_bytes": peak}

"""The runner that the settings name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from services.common.errors import ServiceError
from services.common.settings import StorageSettings
from services.common.storage.base import ObjectStore
from services.influence.app import local_runner
from services.influence.limits import JobLimits
from services.influence.local_runner import WORKER
from services.influence.ray_cluster import RayCluster
from services.influence.ray_runner import RayRunner
from services.influence.runner import JobRunner
from services.influence.settings import PREFIX, InfluenceSettings
from services.influence.worker.settings import WorkerSettings

_TRAVELS = ("S3_ENDPOINT", "S3_REGION", "S3_SECURE", "FILE_ROOTS", "ALLOWED_PREFIXES")
"""Storage settings that a cluster is told. Credentials, and files of a machine, its nodes have of their own."""

_TRACES = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_INSECURE",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_SDK_DISABLED",
)
"""Where spans go. Not the headers: they hold keys, which the cluster's nodes have of their own."""


def open_runner(
    settings: InfluenceSettings,
    storage: StorageSettings,
    environ: Mapping[str, str],
    *,
    store: ObjectStore,
    command: Sequence[str] = WORKER,
) -> JobRunner:
    """Open it. Raises ARGUMENT_INVALID when it needs a package that is not installed."""
    if settings.ray_address is None:
        return local_runner(settings, storage, environ, command=command)
    if find_spec("ray") is None:
        raise ServiceError(
            "ARGUMENT_INVALID",
            f"{PREFIX}RAY_ADDRESS is set, but Ray is not installed: install the extra `ray`",
            field="ray_address",
        )
    return RayRunner(
        RayCluster(settings.ray_address),
        store,
        environ=cluster_environ(settings, storage, environ),
        secrets=storage.secrets(),
        limits=JobLimits(time_s=settings.job_time_limit_s, stall_s=settings.job_stall_s),
        cpus=settings.ray_cpus,
        gpus=settings.ray_gpus,
        patience_s=settings.ray_patience_s,
    )


def cluster_environ(
    settings: InfluenceSettings, storage: StorageSettings, environ: Mapping[str, str]
) -> dict[str, str]:
    """What the processes on the cluster are told; the cluster shows it to everybody who may see its jobs."""
    of_storage = storage.to_environ()
    of_worker = [f"{PREFIX}{name.upper()}" for name in WorkerSettings.model_fields]
    return {
        **{name: environ[name] for name in (*of_worker, *_TRACES) if name in environ},
        **{name: of_storage[name] for key in _TRAVELS if (name := f"EIF_STORAGE_{key}") in of_storage},
        **settings.job_environ(),
        f"{PREFIX}EXECUTOR": "ray",
        f"{PREFIX}SHARDS_IN_FLIGHT": str(settings.shards_in_flight),
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    }

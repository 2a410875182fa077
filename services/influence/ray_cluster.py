"""The jobs of a Ray cluster, as a runner sees them. Ray is an extra: it is imported when the first call is made.

Its client is synchronous, so calls run on threads of their own. A token, where the cluster wants one, is read by Ray
from RAY_AUTH_MODE and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH of this process.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from services.common.errors import ServiceError

if TYPE_CHECKING:
    from services.influence.ray_client import RayClient

CALL_S = 20.0
"""For a call to begin to be answered."""

_THREADS = 4
_LOGGED = 1000
_T = TypeVar("_T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClusterJob:
    """A job of the cluster.

    Attributes:
        submission_id: Its id.
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        folder_uri: The run folder that it was given.
        exit_code: Of its process; None when the process did not end, or was lost with its node.
        message: What the cluster says of it, with the end of its log when it failed.
        fault: Why the cluster could not run it, by Ray's names; empty where the command itself ended.
    """

    submission_id: str
    status: str
    folder_uri: str = ""
    exit_code: int | None = None
    message: str = ""
    fault: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.status in {"STOPPED", "SUCCEEDED", "FAILED"}


class RayCluster:
    """A cluster.

    Every method raises ServiceError: CLUSTER_UNAVAILABLE when the cluster does not answer, or not in time,
    CLUSTER_DENIED when it does not take our token.

    Args:
        address: Of its job server, `http://host:8265`.
        timeout_s: For a call to begin to be answered.
    """

    def __init__(self, address: str, *, timeout_s: float = CALL_S) -> None:
        self._address, self._timeout_s = address, timeout_s
        self._client: RayClient | None = None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ray")

    async def submit(
        self,
        submission_id: str,
        command: Sequence[str],
        *,
        folder_uri: str,
        environ: Mapping[str, str],
        num_cpus: int,
        num_gpus: int,
    ) -> None:
        """Start a job, unless there is one of this id."""
        await self._call(
            lambda client: client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=submission_id,
                runtime_env={"env_vars": dict(environ)},
                metadata={"eif_run_folder": folder_uri},
                entrypoint_num_cpus=num_cpus,
                entrypoint_num_gpus=num_gpus,
            ),
            harmless="already exists",
        )

    async def find(self, submission_id: str) -> ClusterJob | None:
        """A job by its id; None when the cluster does not know it, or not any more."""
        info = await self._call(lambda client: client.get_job_info(submission_id), harmless="does not exist")
        return None if info is None else _cluster_job(info)

    async def running(self, prefix: str) -> list[ClusterJob]:
        """Jobs that have not ended and whose id begins so."""
        found = await self._call(lambda client: client.list_jobs()) or []
        jobs = [_cluster_job(info) for info in found if (info.submission_id or "").startswith(prefix)]
        return [job for job in jobs if not job.ended]

    async def stop(self, submission_id: str) -> None:
        """Ask a job to stop: SIGTERM, and SIGKILL some seconds later. One that has ended is left as it is."""
        await self._call(lambda client: client.stop_job(submission_id), harmless="does not exist")

    async def _call(self, call: Callable[[RayClient], _T], *, harmless: str | None = None) -> _T | None:
        """Make a call; None when it fails with the harmless answer."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, partial(self._call_now, call, harmless=harmless)
        )

    def _call_now(self, call: Callable[[RayClient], _T], *, harmless: str | None) -> _T | None:
        from services.influence.ray_client import AuthenticationError

        try:
            return call(self._connected())
        except AuthenticationError as error:
            logger.warning("the cluster at %s refuses this server: %s", self._address, str(error)[:_LOGGED])
            raise ServiceError(
                "CLUSTER_DENIED",
                "the Ray cluster does not take the token of this server: set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) to those of the cluster, and start the server again",
            ) from error
        except (RuntimeError, OSError, ValueError) as error:  # Ray's client, and the HTTP library below it
            if harmless is not None and harmless in str(error):
                return None
            logger.warning("the cluster at %s did not do what it was asked: %s", self._address, str(error)[:_LOGGED])
            raise ServiceError(
                "CLUSTER_UNAVAILABLE", f"the Ray cluster does not take jobs ({type(error).__name__})"
            ) from error

    def _connected(self) -> RayClient:
        if self._client is None:
            from services.influence.ray_client import RayClient

            self._client = RayClient(self._address, timeout_s=self._timeout_s)
        return self._client


def _cluster_job(info: Any) -> ClusterJob:  # noqa: ANN401  JobDetails of Ray, which has no types
    return ClusterJob(
        submission_id=info.submission_id,
        status=str(info.status),
        folder_uri=(info.metadata or {}).get("eif_run_folder", ""),
        exit_code=info.driver_exit_code,
        message=info.message or "",
        fault=info.error_type or "",
    )

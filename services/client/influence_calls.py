"""What every call of the influence service needs: a connection, a project, and names of jobs."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from eif.influence.v1 import influence_service_pb2_grpc

from services.client import names
from services.client.connection import Connection
from services.client.credentials import Credentials
from services.client.jobs import Job
from services.client.reconnect import Reconnect

DEFAULT_TARGET = "127.0.0.1:50051"
_RETRIED = (
    # Delete is not among them: its second try would find nothing and look like a failure. Streams resume on their own.
    "CreateInfluenceJob",
    "GetInfluenceJob",
    "ListInfluenceJobs",
    "CancelInfluenceJob",
    "ListJobResults",
    "EvaluateAudit",
    "CompareAudits",
    "GetServerInfo",
)


class InfluenceCalls:
    """The connection of an InfluenceClient; its arguments are those of that."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        project: str = "default",
        timeout: float = 30.0,
        reconnect: Reconnect | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.project = project
        self._reconnect = reconnect or Reconnect()
        self._connection = Connection(
            target,
            service="eif.influence.v1.InfluenceService",
            retried=_RETRIED,
            timeout=timeout,
            credentials=credentials,
        )
        self._stub = influence_service_pb2_grpc.InfluenceServiceStub(self._connection.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; every call and stream of this client ends."""
        self._connection.close()

    def _name(self, job: Job | str) -> str:
        return job.name if isinstance(job, Job) else names.job_name(job, self.project)

"""The client of a Ray cluster's job server, from Ray itself. Imported when it is first needed: Ray is an extra."""

from __future__ import annotations

from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

__all__ = ["AuthenticationError", "RayClient"]


class RayClient(JobSubmissionClient):
    """Ray's client, with an end to every call: it would wait for ever for a server that takes calls and is silent.

    Args:
        address: Of the job server.
        timeout_s: For the connection, and again for each part of the answer.
    """

    def __init__(self, address: str, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s  # Ray's own constructor makes a call
        super().__init__(address)

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:  # noqa: ANN401  as Ray's
        return super()._do_request(method, endpoint, timeout=self._timeout_s, **options)

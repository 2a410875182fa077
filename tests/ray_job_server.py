"""A job server that answers over HTTP as that of Ray does, with the statuses that a test wants to see."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

HOUR_S = 3600.0


class JobServer(ThreadingHTTPServer):
    """One job at most, submitted an hour ago by its own account.

    Args:
        statuses: Of the job, look after look; the last one stays.
        refusal: HTTP status of every answer, where it is to be one of refusal.
    """

    daemon_threads = True

    def __init__(self, *statuses: str, refusal: int | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses, self.refusal = list(statuses), refusal
        self.submitted: dict[str, Any] = {}
        self.fails_when_submitted = False
        self.stops = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, method: str, path: str, body: dict[str, Any]) -> Any:
        """What a call gives."""
        match method, path.removeprefix("/api/"):
            case "GET", "version":
                return {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""}
            case "GET", "jobs/":
                return [self._job()] if self.submitted else []
            case "POST", "jobs/":
                self.submitted = body
                self.refusal = 503 if self.fails_when_submitted else None
                return {"job_id": body["submission_id"], "submission_id": body["submission_id"]}
            case "POST", _:
                self.stops += 1
                self.statuses = ["STOPPED"]
                return {"stopped": True}
        return self._job()

    def _job(self) -> dict[str, Any]:
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return {
            "type": "SUBMISSION",
            "submission_id": self.submitted["submission_id"],
            "metadata": self.submitted["metadata"],
            "entrypoint": self.submitted["entrypoint"],
            "status": status,
            "start_time": int((time.time() - HOUR_S) * 1000),
            "driver_exit_code": 0 if status == "SUCCEEDED" else None,
        }


class _Handler(BaseHTTPRequestHandler):
    server: JobServer

    def do_GET(self) -> None:
        self._reply()

    def do_POST(self) -> None:
        self._reply()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  its name in the standard library
        pass

    def _reply(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.refusal is None:
            body = json.dumps(self.server.answer(self.command, self.path, json.loads(data or b"{}"))).encode()
        if self.server.refusal is not None:
            self.send_error(self.server.refusal)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def job_server(*statuses: str, refusal: int | None = None) -> Iterator[JobServer]:
    """A server for the time of a test."""
    server = JobServer(*statuses, refusal=refusal)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""A real Label Studio: its server with a database of its own, and the calls of its API that a browser makes."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3

from tests.weed import free_ports

TOKEN = "0123456789abcdef0123456789abcdef01234567"
START_SECONDS = 400
"""The first start makes its database: several hundred migrations."""


class LabelStudio:
    """A server by its address.

    Args:
        url: `http://host:port`.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._pool = urllib3.PoolManager(headers={"Authorization": f"Token {TOKEN}"}, retries=False, timeout=60.0)

    def is_up(self) -> bool:
        try:
            return self._pool.request("GET", f"{self.url}/health").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def close(self) -> None:
        self._pool.clear()

    def new_project(self, configuration: str) -> int:
        made = self._call("POST", "/api/projects/", {"title": "review", "label_config": configuration})
        return int(made["id"])

    def import_tasks(self, project: int, tasks: bytes) -> dict[str, Any]:
        """As its import page does; the counts that it answers."""
        found: dict[str, Any] = self._call("POST", f"/api/projects/{project}/import", json.loads(tasks))
        return found

    def tasks(self, project: int) -> list[dict[str, Any]]:
        """By the id of their samples, as they are shown."""
        path = f"/api/tasks/?project={project}&page_size=-1&fields=all&order_by=id"
        found: list[dict[str, Any]] = self._call("GET", path)["tasks"]
        return found

    def annotate(self, task: int, result: list[dict[str, Any]], *, skipped: bool = False) -> None:
        """Submit or skip."""
        body = {"result": result, "was_cancelled": skipped, "lead_time": 1.0}
        self._call("POST", f"/api/tasks/{task}/annotations/", body)

    def export(self, project: int) -> bytes:
        """The project as JSON."""
        return self._request("GET", f"/api/projects/{project}/export?exportType=JSON")

    def get(self, path: str) -> bytes:
        """Anything that it serves."""
        return self._request("GET", path)

    def share_folder(self, project: int, folder: Path) -> None:
        """Let the tasks of a project show the files of a folder."""
        body = {"project": project, "title": "images", "path": str(folder), "use_blob_urls": False}
        self._call("POST", "/api/storages/localfiles", body)

    def _call(self, method: str, path: str, body: object = None) -> Any:
        return json.loads(self._request(method, path, body))

    def _request(self, method: str, path: str, body: object = None) -> bytes:
        answer = self._pool.request(method, f"{self.url}{path}", json=body)
        assert answer.status < 300, (method, path, answer.status, answer.data[:2000])
        return answer.data


@contextmanager
def running_label_studio(python: Path, folder: Path, *, files: Path) -> Iterator[LabelStudio]:
    """Start it and wait until it answers.

    Args:
        python: The interpreter that has it.
        folder: For its database and log.
        files: Files under this folder can be shown in tasks.
    """
    (port,) = free_ports(1)
    studio, log = LabelStudio(f"http://127.0.0.1:{port}"), folder / "label-studio.log"
    command = [str(python), "-m", "label_studio.server", "start", "--no-browser", "--internal-host", "127.0.0.1"]
    command += ["--port", str(port), "--username", "a@example.com", "--password", "a-password", "--user-token", TOKEN]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=_environment(folder, files), cwd=folder, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not studio.is_up():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]  # noqa: PT018  one end
            time.sleep(0.5)
        yield studio
    finally:
        studio.close()
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(folder: Path, files: Path) -> Mapping[str, str]:
    """Its data in a folder of the test, tokens that do not change, files shown, nothing told to anybody."""
    return {
        **os.environ,
        "HOME": str(folder),
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "data"),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(files),
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }

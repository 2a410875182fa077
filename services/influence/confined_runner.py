"""Tells job processes where the objects of their project lie."""

from __future__ import annotations

from pathlib import Path

from services.common.access.places import Places
from services.influence.job_folder import read_request, write_request
from services.influence.names import parse_job_name
from services.influence.runner import ExitReport, JobRunner, OnMessage


class ConfinedRunner:
    """A JobRunner that writes into job.json which places a job may use, as the policy says when its process starts.

    Args:
        runner: Runs the processes.
        places: Of the projects.
    """

    def __init__(self, runner: JobRunner, places: Places) -> None:
        self._runner, self._places = runner, places

    async def run(self, folder: Path, on_message: OnMessage) -> ExitReport:
        request = read_request(folder)  # no other task runs before the runner below knows of the job
        places = self._places.of(parse_job_name(request.name).project)
        write_request(folder, request.model_copy(update={"places": places}))
        return await self._runner.run(folder, on_message)

    def cancel(self, folder: Path) -> None:
        self._runner.cancel(folder)

    def leave(self, folder: Path) -> None:
        self._runner.leave(folder)

    async def reap(self, folder: Path) -> None:
        await self._runner.reap(folder)

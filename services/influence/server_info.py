"""What this server is and what its limits are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from eif_engine import __version__
from services.influence.devices import find_devices
from services.influence.settings import InfluenceSettings


@dataclass(frozen=True, kw_only=True)
class ServerInfo:
    """See ServerInfo in influence_service.proto."""

    version: str
    devices: tuple[str, ...]
    uri_schemes: tuple[str, ...]
    output_uri_prefix: str | None
    max_running_jobs: int
    max_pending_jobs: int


class InfoService:
    """Tells what this server is. Devices are looked for once, when they are first asked for."""

    def __init__(self, settings: InfluenceSettings, *, uri_schemes: Sequence[str]) -> None:
        self._settings = settings
        self._uri_schemes = tuple(uri_schemes)
        self._devices: asyncio.Task[tuple[str, ...]] | None = None

    async def read(self) -> ServerInfo:
        """What it is."""
        if self._devices is None:
            self._devices = asyncio.create_task(find_devices())
        return ServerInfo(
            version=__version__,
            devices=await asyncio.shield(self._devices),
            uri_schemes=self._uri_schemes,
            output_uri_prefix=self._settings.output_uri_prefix,
            max_running_jobs=self._settings.max_running_jobs,
            max_pending_jobs=self._settings.max_pending_jobs,
        )

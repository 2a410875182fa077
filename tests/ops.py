"""A plain HTTP client for the ops port, and what a scrape says."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from services.common.ops import OpsServer


@dataclass(frozen=True, kw_only=True)
class Page:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def checks(self) -> dict[str, str]:
        """What each check says."""
        checks: dict[str, str] = json.loads(self.body)["checks"]
        return checks


def fetch(address: str, path: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> Page:
    """Ask the port at `host:port`; blocks."""
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        kept = {name.lower(): value for name, value in response.getheaders()}
        return Page(status=response.status, headers=kept, body=response.read().decode())
    finally:
        connection.close()


class Scrape:
    """All samples of `/metrics`."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in families for sample in family.samples]
        self.families = {_written(family) for family in families}

    @property
    def names(self) -> set[str]:
        """Names of the series."""
        return {sample.name for sample in self.samples}

    def value(self, name: str, **labels: str) -> float:
        """The sum of the series with these labels."""
        found = [
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert found, f"there is no {name} with {labels}"
        return sum(found)

    def labels(self, name: str) -> Iterable[dict[str, str]]:
        """The labels of each series of a name."""
        return [sample.labels for sample in self.samples if sample.name == name]


def scrape(address: str) -> Scrape:
    """Scrape the server at `host:port`; blocks."""
    page = fetch(address, "/metrics")
    assert page.status == 200, page.body
    return Scrape(page.body)


def _written(family: Any) -> str:
    """The name of a family as the text has it: the parser takes `_total` off."""
    return f"{family.name}_total" if family.type == "counter" else family.name


async def started(server: OpsServer) -> str:
    """Start a server on a free port."""
    return await server.start("127.0.0.1:0")

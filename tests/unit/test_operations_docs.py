"""The manual of operators holds every setting with its default, and every reason; metrics are compared with a real
scrape in tests/integration/test_dashboard.py."""

from __future__ import annotations

import re
from enum import Enum

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from services.client.credentials import Credentials
from services.client.embedding import DEFAULT_TARGET as EMBEDDING_TARGET
from services.client.influence import DEFAULT_TARGET as INFLUENCE_TARGET
from services.common.errors import STATUS_BY_REASON
from services.common.server_settings import ServerSettings
from services.common.settings import StorageSettings
from services.embedding.settings import EmbeddingSettings
from services.influence.settings import InfluenceSettings
from services.influence.worker.settings import WorkerSettings
from tests.conftest import REPO

MANUAL = (REPO / "docs" / "operations.md").read_text()
PREFIXES = ("EIF_INFLUENCE_", "EIF_EMBEDDING_")
OF_SERVERS = set(ServerSettings.model_fields) - {"listen", "ops_listen"}
"""Documented once for both services, as `..._NAME`: tests/unit/common/test_security_settings.py."""
OF_CLIENTS = {
    "EIF_TARGET": f"`{INFLUENCE_TARGET}`",
    "EIF_EMBEDDING_TARGET": f"`{EMBEDDING_TARGET}`",
    "EIF_PROJECT": "`default`",
    "EIF_DEBUG": "unset",
    "EIF_CLIENT_TLS": "`false`",
    **{f"EIF_CLIENT_{name.upper()}": "unset" for name in Credentials.__dataclass_fields__ if name != "tls"},
}
OF_THE_MACHINE = {
    "EIF_INFLUENCE_STATE_DIR": "`~/.local/state/eif/influence`",
    "EIF_INFLUENCE_DEVICE_LOCK_DIR": "`eif-devices` in the temporary folder",
    "EIF_INFLUENCE_DECODE_THREADS": "the cores, at most 8",
    "EIF_EMBEDDING_STATE_DIR": "`~/.local/state/eif/embedding`",
    "EIF_EMBEDDING_THREADS": "the cores of the process",
    "EIF_EMBEDDING_IMAGE_THREADS": "the cores, at least 4",
}
"""Defaults that are found out where the process runs."""


def text_of(default: object) -> str:
    """A default as the manual writes it."""
    match default:
        case None:
            return "unset"
        case ():
            return "empty"
        case bool():
            return f"`{str(default).lower()}`"
        case Enum():
            return f"`{default.value}`"
        case float():
            return f"`{default:.15g}`"
        case _:
            return f"`{default}`"


def settings() -> dict[str, str]:
    """Every variable, with its default."""
    found = dict(OF_CLIENTS)
    classes: list[tuple[str, type[BaseModel]]] = [
        ("EIF_STORAGE_", StorageSettings),
        ("EIF_INFLUENCE_", WorkerSettings),
        ("EIF_INFLUENCE_", InfluenceSettings),
        ("EIF_EMBEDDING_", EmbeddingSettings),
    ]
    for prefix, each in classes:
        for name, field in each.model_fields.items():
            if name not in OF_SERVERS:
                variable = f"{prefix}{name.upper()}"
                found[variable] = _default(variable, field)
    return found


def _default(variable: str, field: FieldInfo) -> str:
    if field.default_factory is None:
        return text_of(field.default)
    return OF_THE_MACHINE[variable]


def documented() -> dict[str, str]:
    rows = re.findall(r"^\| `(EIF_[A-Z0-9_]+)` \| (.+?) \| (.+) \|$", MANUAL, re.MULTILINE)
    assert len({name for name, _, _ in rows}) == len(rows), "a setting is there twice"
    assert all(meaning.rstrip(")").endswith(".") for _, _, meaning in rows)
    return {name: default for name, default, _ in rows}


def test_every_setting_is_in_the_manual_with_its_default() -> None:
    assert documented() == settings()


def test_no_process_reads_a_variable_that_is_in_no_table() -> None:
    """What the source names, but for what one process of ours tells another."""
    known = settings().keys() | {f"{prefix}{name.upper()}" for prefix in PREFIXES for name in OF_SERVERS}
    named: set[str] = set()
    for path in sorted((REPO / "services").rglob("*.py")):
        named |= set(re.findall(r"\bEIF_[A-Z0-9]+(?:_[A-Z0-9]+)*\b", path.read_text()))
    assert named - known <= {prefix.rstrip("_") for prefix in (*PREFIXES, "EIF_STORAGE_", "EIF_CLIENT_")}


def reasons_of_the_client() -> set[str]:
    """As the reference lists them."""
    reference = (REPO / "docs" / "reference" / "errors.md").read_text()
    _, _, text = reference.partition("what it finds by itself the reasons")
    return set(re.findall(r"`([A-Z_]+)`", text))


def test_every_reason_has_its_row_for_operators() -> None:
    section = MANUAL[MANUAL.index("## Failure reasons") : MANUAL.index("## Keeping it running")]
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(dict.fromkeys(name for name, _, _ in rows))
    assert {name for name, _, _ in rows} == STATUS_BY_REASON.keys() | reasons_of_the_client()
    assert all(whose.strip() and what.rstrip().endswith((".", "?")) for _, whose, what in rows)


def test_every_alert_is_in_the_table_of_symptoms() -> None:
    rules = (REPO / "deploy" / "prometheus" / "rules.yaml").read_text()
    alerts = re.findall(r"- alert: (\w+)\n(?:.*\n)*?.*runbook: docs/operations\.md#([a-z0-9-]+)", rules)
    table = MANUAL[MANUAL.index("## Called at night") : MANUAL.index("## Object store")]
    rows = re.findall(r"^\| .+ \| (.*) \| \[.+?\]\(#([a-z0-9-]+)\).* \|$", table, re.MULTILINE)
    led = {(alert, anchor) for names, anchor in rows for alert in re.findall(r"`(Eif\w+)`", names)}
    assert set(alerts) <= led
    assert {alert for alert, _ in led} == {alert for alert, _ in alerts}


@pytest.mark.parametrize("page", ["operations.md", "security.md", "ray.md", "cli.md", "client.md", "embedding.md"])
def test_settings_are_called_what_they_are(page: str) -> None:
    known = settings().keys() | {f"{prefix}{name.upper()}" for prefix in PREFIXES for name in OF_SERVERS}
    named = set(re.findall(r"\bEIF_[A-Z0-9_]*[A-Z0-9]\b", (REPO / "docs" / page).read_text()))
    assert named - known <= {"EIF_INFLUENCE", "EIF_EMBEDDING", "EIF_STORAGE", "EIF_CLIENT"}

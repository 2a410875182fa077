"""The settings that say who reaches a server are documented, with their defaults."""

from __future__ import annotations

import re

import pytest

from services.common.server_settings import ServerSettings
from services.influence.embedding_connection import EmbeddingConnection
from tests.conftest import REPO

MANUAL = (REPO / "docs" / "operations.md").read_text()
SECURITY = (REPO / "docs" / "security.md").read_text()
ELSEWHERE = {"listen", "ops_listen"}
ROW = re.compile(r"^\| `\.\.\._([A-Z_]+)` \| (?:`([^`]*)`|unset) \| .+\.[^|]* \|$", re.MULTILINE)


def text_of(default: object) -> str:
    match default:
        case None:
            return ""
        case bool():
            return str(default).lower()
        case float():
            return f"{default:g}"
        case _:
            return str(default)


def test_every_setting_of_a_server_is_in_the_manual_with_its_default() -> None:
    documented = dict(ROW.findall(MANUAL))
    fields = {name: field for name, field in ServerSettings.model_fields.items() if name not in ELSEWHERE}
    assert documented == {name.upper(): text_of(field.default) for name, field in fields.items()}
    assert all(field.description for field in fields.values())


@pytest.mark.parametrize("name", sorted(set(EmbeddingConnection.model_fields) - {"embedding_target"}))
def test_every_setting_of_the_embedding_service_is_in_the_guide(name: str) -> None:
    variable = f"EIF_INFLUENCE_{name.upper()}"
    assert f"`{variable}`" in SECURITY or f"`{variable}=true`" in SECURITY

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from services.common.access.policy import AccessPolicy
from services.common.access.rules import Verb
from services.common.access.token_file import TokenFile
from services.common.access.yaml_file import parse_yaml
from tests.conftest import REPO

REFERENCE = REPO / "docs" / "reference"
SECURITY = REPO / "docs" / "security.md"


@pytest.mark.parametrize(("name", "model"), [("access", AccessPolicy), ("tokens", TokenFile)])
def test_the_published_schema_is_that_of_the_program(name: str, model: type[BaseModel]) -> None:
    published = json.loads((REFERENCE / f"{name}.schema.json").read_text())
    assert published == {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}


def test_the_policy_of_the_documents_keeps_to_it(tmp_path: Path) -> None:
    (policy,) = re.findall(r"^```yaml\n(.*?)^```", SECURITY.read_text(), re.MULTILINE | re.DOTALL)
    assert parse_yaml(AccessPolicy, policy.encode()).permits("token:nightly", Verb.WRITE, "retrieval")
    file = tmp_path / "access.yaml"
    for text, code in ((policy, 0), (policy.replace("verbs:", "verb:"), 1)):
        file.write_text(text)
        schema = str(REFERENCE / "access.schema.json")
        check = [sys.executable, "-m", "check_jsonschema", "--schemafile", schema, str(file)]
        assert subprocess.run(check, capture_output=True, check=False).returncode == code

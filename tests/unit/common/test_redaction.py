from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common import redaction
from services.common.redaction import redactor
from services.common.telemetry import JsonFormatter

PRESIGNED = "https://store.example/b/k.png?X-Amz-Credential=AKIA&X-Amz-Signature=deadbeef"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"cannot read {PRESIGNED}, sorry", "cannot read https://store.example/b/k.png?*** sorry"),
        ("s3://user:hunter2@bucket/key is refused", "s3://***@bucket/key is refused"),
        ("authorization: Bearer abc.DEF-123~/+= came", "authorization: Bearer *** came"),
        ("authorization: basic dXNlcjpwdw==", "authorization: basic ***"),
        ("the key wJalrXUtnFEMI is wrong", "the key *** is wrong"),
        ("is it a? b = c", "is it a? b = c"),
        ("what? nothing", "what? nothing"),
        ("s3://bucket/a%20b", "s3://bucket/a%20b"),
    ],
)
def test_credentials_in_a_text_are_masked(text: str, clean: str) -> None:
    assert redactor(["wJalrXUtnFEMI", ""])(text) == clean


PIECES = [
    "://",
    "@",
    "?",
    "=",
    " ",
    "Bearer ",
    "bEARER\t",
    "basic ",
    "a",
    "/",
    "'",
    ">",
    "ü",
    "\n",
    "x@y",
    "?k=v",
    "s3://u:p@b",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_what_is_looked_for_first_leaves_nothing_out(text: str) -> None:
    """Texts are searched only where they hold a certain sign: the same comes out as if all were."""
    everything = text
    for _, pattern, replacement in redaction._IN_A_TEXT:
        everything = pattern.sub(replacement, everything)
    assert redactor([])(text) == everything


def test_lists_and_dictionaries_are_cleaned_and_numbers_kept() -> None:
    value = {"uris": [PRESIGNED, ("s3://u:p@b/k",)], "count": 3, "ok": True, "none": None}
    assert redactor([])(value) == {
        "uris": ["https://store.example/b/k.png?***", ["s3://***@b/k"]],
        "count": 3,
        "ok": True,
        "none": None,
    }


def raise_with_secrets() -> None:
    raise RuntimeError(f"the store said no to hunter2hunter2 at {PRESIGNED}")


def test_a_log_line_has_no_secret_in_message_fields_or_traceback() -> None:
    formatter = JsonFormatter(fields={"job_uid": "u", "trace_id": None}, secrets=["hunter2hunter2"])
    try:
        raise_with_secrets()
    except RuntimeError as error:
        record = logging.LogRecord(
            "a", logging.ERROR, "f.py", 1, "key %s", ("hunter2hunter2",), (type(error), error, error.__traceback__)
        )
    record.fields = {"uri": PRESIGNED, "peer": "ipv4:127.0.0.1:1"}
    text = formatter.format(record)
    line = json.loads(text)
    assert "hunter2" not in text
    assert "deadbeef" not in text
    assert "AKIA" not in text
    assert line["message"] == "key ***"
    assert line["job_uid"] == "u"
    assert "trace_id" not in line
    assert line["peer"] == "ipv4:127.0.0.1:1"
    assert "RuntimeError: the store said no to ***" in line["error"]

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from services.common.access.token_command import make_token
from services.common.access.token_file import MAX_TOKENS, TokenBook, TokenFile, entry_of, new_token
from services.common.errors import ServiceError


def write(path: Path, *entries: tuple[str, str]) -> Path:
    """A file of tokens: names, and the tokens themselves."""
    tokens = [entry_of(name, token).model_dump() for name, token in entries]
    new = path.with_suffix(".new")
    new.write_text(yaml.safe_dump({"version": 1, "tokens": tokens}))
    return new.replace(path)


def test_a_token_names_its_caller_until_it_is_taken_out(tmp_path: Path) -> None:
    one, two, three = new_token(), new_token(), new_token()
    path = write(tmp_path / "tokens.yaml", ("nightly", one), ("gate", two))
    book = TokenBook(path)
    assert [book.name_of(token) for token in (one, two, three)] == ["nightly", "gate", None]
    write(path, ("gate", two), ("gate", three))  # one is revoked, and a second token of gate is added
    assert [book.name_of(token) for token in (one, two, three)] == [None, "gate", "gate"]
    path.write_text("version: 1\ntokens: []\n")
    assert [book.name_of(token) for token in (one, two, three)] == [None] * 3


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(token.startswith("eif_") and len(token) == 47 for token in tokens)


def test_what_is_near_a_token_is_none(tmp_path: Path) -> None:
    token = new_token()
    book = TokenBook(write(tmp_path / "tokens.yaml", ("nightly", token)))
    for wrong in (token[:-1], f"{token}x", token.upper(), hashlib.sha256(token.encode()).hexdigest(), "", token * 100):
        assert book.name_of(wrong) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "valid dictionary"),
        ("version: 1", "tokens"),
        ("version: 2\ntokens: []", "version"),
        ("version: 1\ntokens: [{name: a, sha256: hunter2}]", r"tokens\[0\].sha256"),
        ("version: 1\ntokens: [{name: 'a b', sha256: '" + "0" * 64 + "'}]", r"tokens\[0\].name"),
        ("version: 1\ntokens: [{name: a, sha256: '" + "0" * 64 + "', token: hunter2}]", r"tokens\[0\].token"),
        ("version: 1\nversion: 1\ntokens: []", "line 2.*there twice"),
        ("tokens: [", "line 1.*not YAML"),
        (
            "version: 1\ntokens:\n" + "- {name: a, sha256: '" + "0" * 64 + "'}\n" + "- {name: a}\n" * MAX_TOKENS,
            "tokens",
        ),
        ("!!python/object/apply:os.system [true]", "not YAML"),
    ],
)
def test_a_file_that_breaks_its_form_is_told_by_field_and_not_by_value(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(text)
    with pytest.raises(ServiceError, match=why) as caught:
        TokenBook(path)
    assert str(path) in caught.value.message
    assert "hunter2" not in caught.value.message


def test_the_verb_prints_a_token_and_an_entry_that_knows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_token(["nightly"], program="python -m services.influence", variable="EIF_INFLUENCE_TOKEN_FILE") == 0
    printed = capsys.readouterr()
    token = printed.out.rstrip("\n")
    assert token not in printed.err
    assert "EIF_INFLUENCE_TOKEN_FILE" in printed.err
    path = tmp_path / "tokens.yaml"
    path.write_text(f"version: 1\ntokens:\n{printed.err}")
    assert TokenBook(path).name_of(token) == "nightly"


def test_the_verb_refuses_a_name_that_cannot_be_an_identity(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_token(["Night ly"], program="p", variable="V") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Night ly" in printed.err
    with pytest.raises(ValidationError):
        entry_of("", "token")


def test_the_entries_hold_no_token() -> None:
    assert set(TokenFile.model_fields) == {"version", "tokens"}
    token = new_token()
    assert token not in entry_of("a", token).model_dump_json()

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from services.client.channel import open_channel
from services.client.credentials import Credentials, CredentialsError
from services.client.influence import InfluenceClient
from tests.pki import Authority


def test_a_token_never_leaves_this_machine_in_plain_text() -> None:
    credentials = Credentials(token="secret-token")
    for target in ("example.org:50051", "10.0.0.1:50051", "dns:///example.org:50051"):
        with pytest.raises(CredentialsError, match="plain text") as caught:
            InfluenceClient(target, credentials=credentials)
        assert "secret-token" not in str(caught.value)
    InfluenceClient("127.0.0.1:1", credentials=credentials).close()
    InfluenceClient("example.org:1", credentials=Credentials(tls=True, token="secret-token")).close()


def test_a_token_is_not_shown() -> None:
    assert "secret-token" not in repr(Credentials(token="secret-token"))


def test_the_file_of_a_token_is_read_at_every_call(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    credentials = Credentials(token_file=file)
    assert credentials.bearer() == "one"
    file.write_text("two")
    assert credentials.bearer() == "two"
    file.unlink()
    with pytest.raises(CredentialsError, match=str(file)):
        credentials.bearer()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"certificate_file": Path("a")}, "go together"),
        ({"key_file": Path("a")}, "go together"),
        ({"token": "a", "token_file": Path("a")}, "not both"),
        ({"token": ""}, "the token is none"),
        ({"token": "secret token"}, "the token is none"),
        ({"token": "secret\n"}, "the token is none"),
        ({"token": "secret-ü"}, "the token is none"),
        ({"token": "secret" * 2000}, "the token is none"),
        ({"token_file": Path("/dev/null")}, "holds no token"),
    ],
)
def test_what_cannot_be_used_is_told_without_the_secret(given: dict[str, Any], why: str) -> None:
    with pytest.raises(CredentialsError, match=why) as caught:
        Credentials(**given)
    assert "secret" not in str(caught.value)


def test_files_that_are_no_pem_are_told(tmp_path: Path) -> None:
    pair = Authority(tmp_path / "pki").client("me")
    empty = tmp_path / "empty"
    empty.touch()
    cases: tuple[dict[str, Any], ...] = (
        {"ca_file": empty},
        {"ca_file": tmp_path / "missing"},
        {"certificate_file": pair.key, "key_file": pair.key},
        {"certificate_file": pair.certificate, "key_file": pair.certificate},
    )
    for given in cases:
        with pytest.raises(CredentialsError, match=r"(is not PEM|cannot be read)"):
            open_channel("127.0.0.1:1", credentials=Credentials(**given))


def test_the_environment_has_a_variable_for_each(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t")
    environ = {
        "EIF_CLIENT_TLS": "true",
        "EIF_CLIENT_CA_FILE": "/a",
        "EIF_CLIENT_CERTIFICATE_FILE": "/b",
        "EIF_CLIENT_KEY_FILE": "/c",
        "EIF_CLIENT_TOKEN_FILE": str(token),
    }
    assert Credentials.from_environ(environ) == Credentials(
        tls=True, ca_file=Path("/a"), certificate_file=Path("/b"), key_file=Path("/c"), token_file=token
    )
    assert Credentials.from_environ({"EIF_CLIENT_TOKEN": "t", "EIF_CLIENT_TLS": ""}) == Credentials(token="t")
    assert Credentials.from_environ({}) == Credentials()
    assert set(Credentials.from_environ({}).__dataclass_fields__) == {
        name.removeprefix("EIF_CLIENT_").lower() for name in (*environ, "EIF_CLIENT_TOKEN")
    }
    with pytest.raises(CredentialsError, match="EIF_CLIENT_TLS"):
        Credentials.from_environ({"EIF_CLIENT_TLS": "perhaps"})
    assert not Credentials.from_environ({name: value for name, value in os.environ.items() if "EIF_" not in name}).tls

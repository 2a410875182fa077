from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import ServiceError
from services.common.protection import check_transport, protection_of
from services.common.server_settings import ServerSettings
from tests.secured import Secured

LOOPBACK, OPEN = "127.0.0.1:0", "0.0.0.0:0"


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured(tmp_path)


def given(secured: Secured, *names: str, **more: Any) -> ServerSettings:
    """Settings of which only some are set."""
    values = {name: value for name, value in secured.settings(certificates=True).items() if name in names}
    return ServerSettings.model_validate({**values, **more})


TLS = ("tls_certificate_file", "tls_key_file")


@pytest.mark.parametrize(
    ("names", "more", "field"),
    [
        ((), {"listen": OPEN}, "listen"),
        ((), {"listen": OPEN, "insecure_loopback": True}, "listen"),
        (("tls_certificate_file",), {}, "tls_key_file"),
        (("tls_key_file",), {}, "tls_key_file"),
        (("tls_client_ca_file", "access_file"), {}, "tls_client_ca_file"),
        ((*TLS, "tls_client_ca_file"), {}, "tls_client_ca_file"),
        ((*TLS, "token_file"), {}, "token_file"),
        ((*TLS, "access_file"), {}, "access_file"),
        (("token_file", "access_file"), {"listen": LOOPBACK}, "tls_certificate_file"),
        (("token_file", "access_file"), {"listen": LOOPBACK, "insecure": True}, "tls_certificate_file"),
        (("token_file", "access_file"), {"listen": OPEN, "insecure": True}, "tls_certificate_file"),
        (("token_file", "access_file"), {"listen": OPEN, "insecure_loopback": True}, "tls_certificate_file"),
    ],
)
def test_a_server_does_not_start_where_secrets_would_be_open_or_nobody_could_come_in(
    secured: Secured, names: tuple[str, ...], more: dict[str, Any], field: str
) -> None:
    with pytest.raises(ServiceError) as caught:
        check_transport(given(secured, *names, **more))
    assert caught.value.reason == "ARGUMENT_INVALID"
    assert caught.value.metadata["field"] == field


@pytest.mark.parametrize(
    ("names", "more"),
    [
        ((), {"listen": LOOPBACK}),
        ((), {"listen": OPEN, "insecure": True}),
        (TLS, {"listen": OPEN}),
        ((*TLS, "token_file", "access_file"), {"listen": OPEN}),
        ((*TLS, "tls_client_ca_file", "access_file"), {"listen": OPEN}),
        (("token_file", "access_file"), {"listen": LOOPBACK, "insecure_loopback": True}),
    ],
)
def test_the_rest_starts(secured: Secured, names: tuple[str, ...], more: dict[str, Any]) -> None:
    check_transport(given(secured, *names, **more))
    protection = protection_of(given(secured, *names, **more), rules={}, domain="test")
    identified = "access_file" in names
    assert (protection.credentials is not None) is (TLS[0] in names)
    assert protection.reflection is not identified
    assert len(protection.interceptors.in_order()) == (3 if identified else 1)


def test_tls_that_lets_everybody_in_is_told(secured: Secured, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    protection_of(given(secured, *TLS, listen=OPEN), rules={}, domain="test")
    assert "whoever reaches 0.0.0.0:0 may do everything" in caplog.text


@pytest.mark.parametrize("name", ["token_file", "access_file"])
def test_a_file_that_breaks_its_form_is_told_at_the_start(secured: Secured, tmp_path: Path, name: str) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("version: 1\nnothing: true\n")
    settings = given(secured, *TLS, "token_file", "access_file", **{name: broken})
    with pytest.raises(ServiceError, match=str(broken)):
        protection_of(settings, rules={}, domain="test")


def test_settings_left_empty_are_not_set() -> None:
    assert ServerSettings.model_validate({"token_file": "", "access_file": ""}).access_file is None

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from services.common.access.authentication import Authentication
from services.common.access.authorization import Authorization
from services.common.access.places import open_policy
from services.common.access.rules import Rule
from services.common.access.token_file import TokenBook
from services.common.interceptors import Interceptors
from services.common.protection import Protection
from services.common.server_settings import ServerSettings
from tests.echo import DOMAIN, METHODS, SERVICE, call, echo_server, read_all
from tests.secured import Secured, bearer


def protection(secured: Secured, rules: dict[str, Rule]) -> Protection:
    settings = ServerSettings.model_validate(secured.settings())
    policy = open_policy(settings)
    assert policy is not None
    assert settings.token_file is not None
    tokens = TokenBook(settings.token_file)
    return Protection(
        interceptors=Interceptors(
            authentication=[Authentication(tokens=tokens, certificates=False, domain=DOMAIN)],
            authorization=[Authorization(policy=policy, rules=rules, domain=DOMAIN)],
        )
    )


async def answering(request: object, _context: object) -> bytes:
    await read_all(request)
    return b"answer"


@pytest.mark.parametrize("method", METHODS)
async def test_a_method_without_a_rule_is_denied_to_everybody(method: str, tmp_path: Path) -> None:
    secured = Secured(tmp_path)
    token = secured.token("nightly")
    secured.policy((["token:*"], ["*"], ["read", "write", "embed", "search", "admin"]), p={})
    async with echo_server(answering, protection=protection(secured, {})) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, method, metadata=bearer(token))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "nobody is permitted" in str(caught.value.details())


@pytest.mark.parametrize("method", ["Unary", "Collect"])
async def test_a_method_with_a_rule_is_served_to_whom_it_is_granted(method: str, tmp_path: Path) -> None:
    secured = Secured(tmp_path)
    known, unknown = secured.token("nightly"), secured.token("other")
    secured.policy((["token:nightly"], ["*"], ["read"]), p={})
    rules = {f"/{SERVICE}/{method}": Rule(verb=None)}
    async with echo_server(answering, protection=protection(secured, rules)) as (_, channel):
        assert await call(channel, method, metadata=bearer(known)) == [b"answer"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, method, metadata=bearer(unknown))
    assert "nothing is granted to token:other" in str(caught.value.details())

"""`eif info`: what the services are, what they run on and what their limits are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from services.client.cli import exit_codes
from services.client.cli.credentials import credentials_options
from services.client.cli.formats import fields_of, to_json
from services.client.cli.options import (
    EMBEDDING_TARGET,
    INFLUENCE_TARGET,
    Where,
    embedding_client,
    examples,
    influence_client,
    target_option,
    timeout_option,
)
from services.client.cli.text import printable
from services.client.credentials import Credentials


@click.command(epilog=examples("eif info", "eif info --json | jq .influence.devices"))
@target_option("--target", "EIF_TARGET", INFLUENCE_TARGET, name="influence", service="influence")
@target_option("--embedding-target", "EIF_EMBEDDING_TARGET", EMBEDDING_TARGET, name="embedding", service="embedding")
@timeout_option(10.0)
@credentials_options
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def info(*, influence: str, embedding: str, timeout: float, credentials: Credentials, as_json: bool) -> int:
    """Show what the services run on and what their limits are. Exit code 3 when neither answers."""
    where = functools.partial(_where, timeout=timeout, credentials=credentials)
    questions = {
        "influence": lambda: _influence(where(influence)),
        "embedding": lambda: _embedding(where(embedding)),
    }
    with ThreadPoolExecutor() as pool:
        answers = dict(zip(questions, pool.map(_ask, questions.values()), strict=True))
    if as_json:
        click.echo(to_json(answers, indent=2))
    else:
        _print(answers)
    return exit_codes.OK if any("error" not in answer for answer in answers.values()) else exit_codes.UNREACHABLE


def _where(target: str, *, timeout: float, credentials: Credentials) -> Where:
    return Where(target=target, project="", timeout=timeout, credentials=credentials)


def _influence(where: Where) -> dict[str, Any]:
    with influence_client(where) as client:
        return {"target": where.target, **fields_of(client.server_info())}


def _embedding(where: Where) -> dict[str, Any]:
    with embedding_client(where) as client:
        return {"target": where.target, **fields_of(client.server_info())}


def _ask(question: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    from services.client.errors import EifRpcError

    try:
        return question()
    except EifRpcError as error:
        return {"error": str(error)}


def _print(answers: dict[str, dict[str, Any]]) -> None:
    for service, answer in answers.items():
        click.echo(f"{service} service")
        for name, value in answer.items():
            text = ", ".join(value) if isinstance(value, tuple) else str(value)
            click.echo(printable(f"  {name.replace('_', ' '):<26} {text}"))

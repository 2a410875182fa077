"""Options that many commands share, and the clients that they configure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from services.client.cli.credentials import credentials_options
from services.client.cli.failures import InputError
from services.client.credentials import Credentials, CredentialsError

if TYPE_CHECKING:
    from services.client.embedding import EmbeddingClient
    from services.client.influence import InfluenceClient

Command = TypeVar("Command", bound=Callable[..., Any])
Client = TypeVar("Client", "InfluenceClient", "EmbeddingClient")
INFLUENCE_TARGET = "127.0.0.1:50051"
EMBEDDING_TARGET = "127.0.0.1:50052"
COUNT = click.IntRange(min=0)
POSITIVE = click.IntRange(min=1)


@dataclass(frozen=True, kw_only=True)
class Where:
    """A service, the project that ids belong to, the seconds that one call may take, and who makes it."""

    target: str
    project: str
    timeout: float
    credentials: Credentials


def influence_options(command: Command) -> Command:
    """Add the options that name the influence service; the command gets them as its first argument, a Where."""
    return _where_options(command, "--target", "EIF_TARGET", INFLUENCE_TARGET, "influence")


def embedding_options(command: Command) -> Command:
    """The same for the embedding service."""
    return _where_options(command, "--embedding-target", "EIF_EMBEDDING_TARGET", EMBEDDING_TARGET, "embedding")


@contextmanager
def influence_client(where: Where) -> Iterator[InfluenceClient]:
    """A client of the influence service, closed at the end."""
    from services.client.influence import InfluenceClient

    with (
        _made(InfluenceClient, where) as client,
        _hint("start one with `eif serve all`, or name another with --target or EIF_TARGET"),
    ):
        yield client


@contextmanager
def embedding_client(where: Where) -> Iterator[EmbeddingClient]:
    """A client of the embedding service, closed at the end."""
    from services.client.embedding import EmbeddingClient

    with (
        _made(EmbeddingClient, where) as client,
        _hint("start one with `eif serve all`, or name another with --embedding-target or EIF_EMBEDDING_TARGET"),
    ):
        yield client


def examples(*lines: str) -> str:
    """An epilog with examples, which click leaves as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _made(client: type[Client], where: Where) -> Client:
    try:
        return client(where.target, project=where.project, timeout=where.timeout, credentials=where.credentials)
    except CredentialsError as error:
        raise InputError(str(error)) from None


@contextmanager
def _hint(text: str) -> Iterator[None]:
    from services.client.errors import EifRpcError

    try:
        yield
    except EifRpcError as error:
        if error.reason == "SERVER_UNREACHABLE":
            error.add_note(text)
        raise


def target_option(option: str, variable: str, default: str, *, name: str, service: str) -> Callable[[Any], Any]:
    """The option that names one service."""
    return click.option(
        option,
        name,
        envvar=variable,
        default=default,
        show_default=True,
        show_envvar=True,
        metavar="HOST:PORT",
        help=f"The {service} service.",
    )


def timeout_option(default: float) -> Callable[[Any], Any]:
    """The option that bounds one call."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=default,
        show_default=True,
        metavar="SECONDS",
        help="For each call.",
    )


def _where_options(command: Command, option: str, variable: str, default: str, service: str) -> Command:
    @functools.wraps(command)
    def with_where(*, target: str, project: str, timeout: float, credentials: Credentials, **others: Any) -> Any:  # noqa: ANN401 - any command
        return command(Where(target=target, project=project, timeout=timeout, credentials=credentials), **others)

    decorators = [
        target_option(option, variable, default, name="target", service=service),
        click.option(
            "--project",
            envvar="EIF_PROJECT",
            default="default",
            show_default=True,
            show_envvar=True,
            help="The project that names without one belong to.",
        ),
        timeout_option(60.0),
        credentials_options,
    ]
    for decorator in reversed(decorators):
        with_where = decorator(with_where)
    return with_where  # type: ignore[return-value]  # click keeps the function and adds its parameters to it

"""`eif serve`: the services on this machine, with everything they keep in one folder."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import click

from services.client.cli import exit_codes
from services.client.cli.failures import InputError
from services.client.cli.options import EMBEDDING_TARGET, INFLUENCE_TARGET, examples
from services.client.cli.processes import Supervisor
from services.client.cli.uris import file_uri

_NEEDS = {
    "influence": (("pydantic_settings", "sqlalchemy", "pyarrow"), "server"),
    "embedding": (("pydantic_settings", "onnxruntime", "faiss"), "embedding"),
}


@click.command(
    epilog=examples(
        "eif serve all",
        "eif serve influence --data /srv/eif --file-root /srv/datasets --listen 127.0.0.1:6000",
        "EIF_STORAGE_S3_ENDPOINT=localhost:8333 EIF_STORAGE_S3_SECURE=false eif serve all",
    )
)
@click.argument("which", metavar="{influence|embedding|all}", type=click.Choice(["influence", "embedding", "all"]))
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("eif-data"),
    show_default=True,
    help="Folder for results, indexes, state and logs.",
)
@click.option(
    "--file-root",
    "file_roots",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder below which the services may read files; by default the one you are in.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help=f"Of the influence service; {INFLUENCE_TARGET} by default. Port 0 takes a free one.",
)
@click.option(
    "--embedding-listen", metavar="HOST:PORT", help=f"Of the embedding service; {EMBEDDING_TARGET} by default."
)
def serve(
    *, which: str, data: Path, file_roots: tuple[Path, ...], listen: str | None, embedding_listen: str | None
) -> int:
    """Run the services on this machine until Ctrl-C.

    Settings in the environment (EIF_INFLUENCE_*, EIF_EMBEDDING_*, EIF_STORAGE_*) are passed on and come before the
    defaults here; options come before both. Logs go to DATA/logs.
    """
    services = ["embedding", "influence"] if which == "all" else [which]
    for service in services:
        _check_installed(service)
    folder = data.expanduser().resolve()
    environment = _environment(folder, file_roots, listen=listen, embedding_listen=embedding_listen)
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with Supervisor(logs) as supervisor:
        for service in services:
            address = supervisor.start(service, environment)
            if address is None:
                return exit_codes.INTERRUPTED
            click.echo(f"{service} service  {address}")
            if service == "embedding":
                environment.setdefault("EIF_INFLUENCE_EMBEDDING_TARGET", address)
        click.echo(f"data               {folder} (logs in {logs})")
        click.echo(f"may read files in  {environment['EIF_STORAGE_FILE_ROOTS'].replace(os.pathsep, ', ')}")
        click.echo("Ctrl-C stops")
        return supervisor.wait()


def _check_installed(service: str) -> None:
    packages, extra = _NEEDS[service]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(f"the {service} service needs {', '.join(missing)}: pip install 'eif-service[{extra}]'")
    if service == "influence" and importlib.util.find_spec("torch") is None:
        click.echo("note: torch is not installed, so jobs cannot run here: pip install 'eif-service[engine]'", err=True)


def _environment(
    data: Path, file_roots: tuple[Path, ...], *, listen: str | None, embedding_listen: str | None
) -> dict[str, str]:
    """What the services are told: defaults of this folder, then what is already set, then the options."""
    uri = file_uri(data)
    defaults = {
        "EIF_STORAGE_FILE_ROOTS": _joined(_default_roots(), data),
        "EIF_INFLUENCE_STATE_DIR": str(data / "state" / "influence"),
        "EIF_INFLUENCE_OUTPUT_URI_PREFIX": f"{uri}/results",
        "EIF_EMBEDDING_STATE_DIR": str(data / "state" / "embedding"),
        "EIF_EMBEDDING_INDEX_URI_PREFIX": f"{uri}/indexes",
    }
    options = {
        "EIF_STORAGE_FILE_ROOTS": _joined(file_roots, data) if file_roots else None,
        "EIF_INFLUENCE_LISTEN": listen,
        "EIF_EMBEDDING_LISTEN": embedding_listen,
    }
    return defaults | dict(os.environ) | {name: value for name, value in options.items() if value is not None}


def _default_roots() -> tuple[Path, ...]:
    here = Path.cwd()
    # Whoever starts this at / or at home hardly means to open all of that.
    return () if here in {Path("/"), Path.home()} else (here,)


def _joined(roots: tuple[Path, ...], data: Path) -> str:
    folders = [root.expanduser().resolve() for root in roots]
    if not any(data.is_relative_to(folder) for folder in folders):
        folders.append(data)
    return os.pathsep.join(map(str, folders))

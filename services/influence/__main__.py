"""The influence service: ranks training samples by their influence on confusions, and suggests labels. Speaks gRPC.

It keeps its jobs in a state folder, runs each in a process of its own, and goes on with them after a restart.
SIGTERM or SIGINT drains it: running calls get time to end, job processes are stopped and started again by the next
server on the same folder. `token NAME` makes a bearer token instead. Exit codes: 0 after a drain, 2 when it cannot
start as it is set up.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from eif.influence.v1 import influence_service_pb2_grpc
from pydantic import ValidationError

from eif_engine.errors import EifError
from services.common.access.places import Places, open_policy
from services.common.access.token_command import make_token
from services.common.observability import Observability
from services.common.ops import start_ops
from services.common.probes import Lifecycle
from services.common.protection import check_transport, protection_of
from services.common.server import serve_until_signal, start_server
from services.common.settings import PREFIX as STORAGE_PREFIX
from services.common.settings import StorageSettings
from services.common.storage.router import open_store
from services.common.telemetry import configure_logging
from services.common.tracing import open_tracing
from services.influence.access import RULES
from services.influence.app import InfluenceApp, check_prefixes
from services.influence.confined_runner import ConfinedRunner
from services.influence.converters import DOMAIN
from services.influence.local_runner import WORKER
from services.influence.runners import open_runner
from services.influence.servicer import NAME
from services.influence.settings import PREFIX, InfluenceSettings
from services.influence.state_lock import hold_state_dir

EXIT_CONFIGURATION = 2

_THREADS = 16


def read_settings(arguments: list[str]) -> InfluenceSettings:
    """Settings from the environment, with what the command line says in front."""
    parser = argparse.ArgumentParser(
        prog="python -m services.influence",
        description=__doc__,
        epilog=_environment(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help=f"port 0 takes a free one ({PREFIX}LISTEN)")
    parser.add_argument("--state-dir", type=Path, metavar="FOLDER", help=f"of this server alone ({PREFIX}STATE_DIR)")
    parser.add_argument(
        "--output-uri-prefix", metavar="URI", help=f"where results go by default ({PREFIX}OUTPUT_URI_PREFIX)"
    )
    parser.add_argument(
        "--insecure-loopback",
        action="store_const",
        const=True,
        help=f"plain text on the loopback although callers are identified ({PREFIX}INSECURE_LOOPBACK)",
    )
    parser.add_argument(
        "--ready-file", type=Path, metavar="FILE", help=f"written when calls are accepted ({PREFIX}READY_FILE)"
    )
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    return InfluenceSettings(**given)


async def serve(settings: InfluenceSettings, storage: StorageSettings, *, job_command: Sequence[str]) -> None:
    """Serve until SIGTERM or SIGINT. The caller holds the state folder."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="work"))
    seen = Observability("influence", open_tracing("eif-influence", os.environ))
    store = open_store(storage)
    app = InfluenceApp(
        settings,
        store=store,
        runner=ConfinedRunner(
            open_runner(settings, storage, os.environ, store=store, command=job_command), Places(open_policy(settings))
        ),
        uri_schemes=storage.schemes,
        observability=seen,
    )
    lifecycle = Lifecycle(app.stopping)
    ops = app.ops(lifecycle)
    try:
        ops_address = await start_ops(ops, settings.ops_listen)
        protection = protection_of(settings, rules=RULES, domain=DOMAIN)
        seen.show_certificates(protection.certificate_ends)
        running = await start_server(
            listen=settings.listen,
            services={NAME: partial(influence_service_pb2_grpc.add_InfluenceServiceServicer_to_server, app.servicer)},
            insecure=settings.insecure,
            protection=protection,
            observers=seen.observers([NAME]),
            stopping=app.stopping,
        )
        await app.start()
        lifecycle.begin()
        await serve_until_signal(
            running,
            grace=settings.drain_s,
            ready_file=settings.ready_file,
            on_drain=app.drain,
            ops_address=ops_address,
        )
    finally:
        await ops.close()
        app.close()
        seen.close()


def main(*, job_command: Sequence[str] = WORKER) -> int:
    """Run the service, or a verb of it, and return the exit code."""
    if sys.argv[1:2] == ["token"]:
        return make_token(sys.argv[2:], program="python -m services.influence", variable=f"{PREFIX}TOKEN_FILE")
    try:
        settings, storage = read_settings(sys.argv[1:]), StorageSettings()
        check_transport(settings)
        settings.check_embedding()
        check_prefixes(settings, storage)
        configure_logging(settings.log_level, secrets=storage.secrets())
        with hold_state_dir(settings.state_dir):
            asyncio.run(serve(settings, storage, job_command=job_command))
    except EifError as error:
        return _cannot_start(error.message)
    except ValidationError as error:
        return _cannot_start("; ".join(_problems(error)))
    return 0


def _environment() -> str:
    """Every setting, for the end of --help."""
    lines = ["environment variables (where objects may lie: EIF_STORAGE_*, see docs/operations.md):"]
    for name, field in InfluenceSettings.model_fields.items():
        default = "" if field.default_factory or field.default is None else f" [{field.default}]"
        lines += [f"  {PREFIX}{name.upper()}{default}", f"      {field.description}"]
    return "\n".join(lines)


def _cannot_start(why: str) -> int:
    print(f"cannot start: {why}", file=sys.stderr)
    return EXIT_CONFIGURATION


def _problems(error: ValidationError) -> Iterator[str]:
    """What is wrong with which setting, without the values: they can be secrets."""
    prefix = PREFIX if error.title == InfluenceSettings.__name__ else STORAGE_PREFIX
    for problem in error.errors(include_url=False, include_input=False):
        name = "_".join(map(str, problem["loc"][:1])).upper()
        yield f"{prefix}{name}: {problem['msg']}"


if __name__ == "__main__":
    sys.exit(main())

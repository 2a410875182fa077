"""The embedding service: embeds images with ONNX models and searches named indexes of embeddings. Speaks gRPC.

It keeps its models and indexes in a state folder, and the indexes' vectors in the object store, and brings them back
after a restart. SIGTERM or SIGINT drains it: running calls get time to end; an index that is being built is built again
by the next server on the same folder. `token NAME` makes a bearer token instead. Exit codes: 0 after a drain, 2 when it
cannot start as it is set up.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eif.embedding.v1 import embedding_service_pb2_grpc
from pydantic import ValidationError

from eif_engine.errors import EifError
from services.common.access.token_command import make_token
from services.common.observability import Observability
from services.common.ops import OpsServer, start_ops
from services.common.probes import Lifecycle, probes
from services.common.protection import check_transport, protection_of
from services.common.server import serve_until_signal, start_server
from services.common.settings import PREFIX as STORAGE_PREFIX
from services.common.settings import StorageSettings
from services.common.storage.router import open_store
from services.common.telemetry import configure_logging
from services.common.tracing import open_tracing
from services.embedding.access import RULES
from services.embedding.app import EmbeddingApp, check_prefix
from services.embedding.converters import DOMAIN
from services.embedding.metrics import EmbeddingMetrics
from services.embedding.servicer import NAME
from services.embedding.settings import PREFIX, EmbeddingSettings
from services.embedding.state_lock import hold_state_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_CONFIGURATION = 2


def read_settings(arguments: list[str]) -> EmbeddingSettings:
    """Settings from the environment, with what the command line says in front."""
    parser = argparse.ArgumentParser(
        prog="python -m services.embedding",
        description=__doc__,
        epilog=_environment(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help=f"port 0 takes a free one ({PREFIX}LISTEN)")
    parser.add_argument("--state-dir", type=Path, metavar="FOLDER", help=f"of this server alone ({PREFIX}STATE_DIR)")
    parser.add_argument(
        "--index-uri-prefix", metavar="URI", help=f"where indexes are stored ({PREFIX}INDEX_URI_PREFIX)"
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
    return EmbeddingSettings(**given)


async def serve(settings: EmbeddingSettings, storage: StorageSettings) -> None:
    """Serve until SIGTERM or SIGINT. The caller holds the state folder."""
    seen = Observability("embedding", open_tracing("eif-embedding", os.environ))
    metrics = EmbeddingMetrics(seen.registry)
    app = EmbeddingApp(settings, seen.metered(open_store(storage)), uri_schemes=storage.schemes, metrics=metrics)
    lifecycle = Lifecycle(app.stopping)
    ops = OpsServer(probes=probes(lifecycle, live={}, ready={"state": app.check_state}), metrics=seen.exposition)
    try:
        ops_address = await start_ops(ops, settings.ops_listen)
        app.start()
        protection = protection_of(settings, rules=RULES, domain=DOMAIN)
        seen.show_certificates(protection.certificate_ends)
        running = await start_server(
            listen=settings.listen,
            services={NAME: partial(embedding_service_pb2_grpc.add_EmbeddingServiceServicer_to_server, app.servicer)},
            insecure=settings.insecure,
            protection=protection,
            max_receive_bytes=settings.max_request_bytes,
            observers=[*seen.observers([NAME]), metrics],
            stopping=app.stopping,
        )
        lifecycle.begin()
        await serve_until_signal(
            running, grace=settings.drain_s, ready_file=settings.ready_file, ops_address=ops_address
        )
    finally:
        await ops.close()
        await app.close()
        seen.close()


def main() -> int:
    """Run the service, or a verb of it, and return the exit code."""
    if sys.argv[1:2] == ["token"]:
        return make_token(sys.argv[2:], program="python -m services.embedding", variable=f"{PREFIX}TOKEN_FILE")
    try:
        settings, storage = read_settings(sys.argv[1:]), StorageSettings()
        check_transport(settings)
        check_prefix(settings.index_uri_prefix, storage.schemes)
        configure_logging(settings.log_level, secrets=storage.secrets())
        with hold_state_dir(settings.state_dir):
            asyncio.run(serve(settings, storage))
    except EifError as error:
        return _cannot_start(error.message)
    except ValidationError as error:
        return _cannot_start("; ".join(_problems(error)))
    return 0


def _environment() -> str:
    """Every setting, for the end of --help."""
    lines = ["environment variables (where objects may lie: EIF_STORAGE_*, see docs/operations.md):"]
    for name, field in EmbeddingSettings.model_fields.items():
        default = "" if field.default_factory or field.default is None else f" [{field.default}]"
        lines += [f"  {PREFIX}{name.upper()}{default}", f"      {field.description}"]
    return "\n".join(lines)


def _cannot_start(why: str) -> int:
    print(f"cannot start: {why}", file=sys.stderr)
    return EXIT_CONFIGURATION


def _problems(error: ValidationError) -> Iterator[str]:
    """What is wrong with which setting, without the values: they can be secrets."""
    prefix = PREFIX if error.title == EmbeddingSettings.__name__ else STORAGE_PREFIX
    for problem in error.errors(include_url=False, include_input=False):
        name = "_".join(map(str, problem["loc"][:1])).upper()
        yield f"{prefix}{name}: {problem['msg']}"


if __name__ == "__main__":
    sys.exit(main())

"""`python -m services.embedding`: the embedding service, set up by `EIF_EMBEDDING_*`, `EIF_STORAGE_*` and options."""

from __future__ import annotations

import argparse
import asyncio
import sys
from functools import partial
from pathlib import Path

from eif.embedding.v1 import embedding_service_pb2_grpc
from pydantic import ValidationError

from eif_engine.errors import EifError
from services.common.server import serve_until_signal, start_server
from services.common.settings import StorageSettings
from services.common.storage.router import open_store
from services.common.telemetry import configure_logging
from services.embedding.app import EmbeddingApp
from services.embedding.servicer import NAME
from services.embedding.settings import PREFIX, EmbeddingSettings

EXIT_CONFIGURATION = 2


def read_settings(arguments: list[str]) -> EmbeddingSettings:
    """Settings from the environment, with what the command line says in front."""
    parser = argparse.ArgumentParser(prog="python -m services.embedding", description=__doc__)
    parser.add_argument("--listen", help=f"host:port; port 0 takes a free one ({PREFIX}LISTEN)")
    parser.add_argument("--state-dir", type=Path, help=f"folder of this server alone ({PREFIX}STATE_DIR)")
    parser.add_argument("--index-uri-prefix", help=f"where indexes are stored ({PREFIX}INDEX_URI_PREFIX)")
    parser.add_argument("--ready-file", type=Path, help=f"written when calls are accepted ({PREFIX}READY_FILE)")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    return EmbeddingSettings(**given)


async def serve(settings: EmbeddingSettings, storage: StorageSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    app = EmbeddingApp(settings, open_store(storage), uri_schemes=storage.schemes)
    try:
        app.start()
        running = await start_server(
            listen=settings.listen,
            services={NAME: partial(embedding_service_pb2_grpc.add_EmbeddingServiceServicer_to_server, app.servicer)},
            insecure=settings.insecure,
            max_receive_bytes=settings.max_request_bytes,
            stopping=app.stopping,
        )
        await serve_until_signal(running, grace=settings.drain_s, ready_file=settings.ready_file)
    finally:
        await app.close()


def main() -> int:
    """Run the service. Returns the exit code: 0 after a drain, 2 when it cannot start as it is set up."""
    try:
        settings = read_settings(sys.argv[1:])
        storage = StorageSettings()
        configure_logging(settings.log_level)
        asyncio.run(serve(settings, storage))
    except (EifError, ValidationError) as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The `eif` command, also as `python -m services.client`."""

from __future__ import annotations

import os
import sys

from services.client.cli.app import eif
from services.client.cli.failures import run_guarded


def main() -> None:
    """Run the command line and exit with its code (docs/cli.md)."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read when gRPC is loaded, which then says nothing of its own
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a terminal that cannot show a character gets its escape
    sys.exit(run_guarded(lambda: eif.main(prog_name="eif", standalone_mode=False)))


if __name__ == "__main__":
    main()

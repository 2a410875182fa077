"""`make demo`: the main job on a small model, from training to suggested labels, with the real services over gRPC."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from eif_engine.errors import EifError
from services.client.errors import EifRpcError
from services.demo.stack import StackError
from services.demo.steps import demo_console

INTERRUPTED = 130


def main() -> int:
    """Run the demo; 0 when it found something, 1 when a part failed, 130 when it was interrupted."""
    began = time.monotonic()
    options = build_parser().parse_args()
    _prepare_process()
    from services.demo.run import run  # torch and others, which take seconds

    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        run(demo_console(), options, began=began)
    except (EifError, StackError, EifRpcError) as error:
        errors.print(Text.assemble(("error: ", "red"), str(error)))
        return 1
    except KeyboardInterrupt:
        errors.print("interrupted; everything was stopped")
        return INTERRUPTED
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m services.demo", description=__doc__)
    parser.add_argument("--store", choices=("local", "s3"), default="local", help="a local folder, or a real S3 server")
    parser.add_argument("--data", default="digits", help="`digits` (default), or a folder with Omniglot's archives")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="where results go (default out/demo)")
    parser.add_argument("--epochs", type=_positive, help="of the training (default: enough for a decent model)")
    parser.add_argument("--seed", type=int, default=0, help="of the flipped labels and the training (default 0)")
    parser.add_argument("--keep-running", action="store_true", help="leave the services up until Ctrl-C, to try them")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


def _prepare_process() -> None:
    """Settings that are meant for another installation go; being told to stop ends as Ctrl-C does, in good order."""
    for name in [name for name in os.environ if name.startswith("EIF_")]:
        del os.environ[name]
    # Threads of torch wait without spinning: the services that run beside need the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

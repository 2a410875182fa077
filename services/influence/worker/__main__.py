"""`python -m services.influence.worker <job folder>`: the process of one job. What it promises is in process.py.

The folder may be the URI of a run folder in the object store, see run_folder.py: then the process runs on a cluster.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from services.influence.worker.cancellation import block_sigterm


def main(arguments: list[str]) -> NoReturn:
    """Run the job of the folder that is named."""
    block_sigterm()
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # read by torch when it loads; nothing here has imported it yet
    if len(arguments) != 1:
        sys.exit("usage: python -m services.influence.worker <job folder>")
    if "://" in arguments[0]:
        from services.influence.worker.remote_process import run_remote

        run_remote(arguments[0])
    from services.influence.worker.process import JobProcess

    JobProcess(Path(arguments[0]).resolve()).run()


if __name__ == "__main__":
    main(sys.argv[1:])

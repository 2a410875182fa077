"""Who a server is to the others that share its job table."""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path

ID_NAME = "server-id"


def server_id(state_dir: Path) -> str:
    """The id that belongs to a state folder, made with the first call. The caller holds the folder.

    A server that starts again on its folder is the same server: what that one ran is its own to settle. A copy of the
    folder is another server, as the original may live: it is told by the file, whose inode a copy does not have.
    """
    path = state_dir / ID_NAME
    with suppress(OSError, ValueError):
        known, inode = path.read_text().split()
        if int(inode) == path.stat().st_ino:
            return known
    path.unlink(missing_ok=True)
    with path.open("x") as file:
        known = uuid.uuid4().hex
        file.write(f"{known} {path.stat().st_ino}\n")
    return known

"""One job a GPU, also among several servers of one machine.

A GPU is a file in a folder that all servers share, named by the GPU's own id; the job that uses it holds the lock of
the file. The job process inherits the open file, so that the kernel lets go of the lock when the process has ended,
whatever became of its server, and never earlier.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from services.common.errors import ServiceError
from services.influence.devices import find_gpus
from services.influence.spec import Device

_POLL_S = 0.2
_SHARED_FOLDER, _SHARED_FILE = 0o1777, 0o666
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass
class DeviceLease:
    """The device of a job.

    Attributes:
        environ: Shows the process its device and no other.
        handle: The open file that holds the lock, to be inherited by the process; None for the CPU.
    """

    environ: dict[str, str] = field(default_factory=dict)
    handle: int | None = None

    def close(self) -> None:
        """Let go, as far as this process is concerned."""
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None


class DeviceLocks:
    """Hands out the GPUs of this machine.

    Args:
        folder: Of the locks; the same for all servers of the machine.
        find: Tells the ids of the GPUs; asked once.
    """

    def __init__(self, folder: Path, *, find: Callable[[], Awaitable[tuple[str, ...]]] = find_gpus) -> None:
        self._folder, self._find = folder, find
        self._gpus: tuple[str, ...] | None = None

    async def acquire(self, device: Device, *, unwanted: Callable[[], bool]) -> DeviceLease | None:
        """Wait for a device.

        Args:
            device: What the job asks for. Without any GPU there is nothing to wait for, and the job finds out itself.
            unwanted: Whether the wait is to end without one.

        Returns:
            The device; None when it is no longer wanted.

        Raises:
            ServiceError: RESOURCE_PROBLEM when the folder of the locks cannot be used.
        """
        if device is Device.CPU:
            return DeviceLease(environ={VISIBLE: ""})
        if self._gpus is None:
            self._gpus = await self._find()
        if not self._gpus:
            return DeviceLease()
        while not unwanted():
            for gpu in self._gpus:
                if (handle := self._try(gpu)) is not None:
                    return DeviceLease(environ={VISIBLE: gpu}, handle=handle)
            await asyncio.sleep(_POLL_S)
        return None

    def _try(self, gpu: str) -> int | None:
        path = self._folder / f"{gpu}.lock"
        try:
            self._make_folder()
            handle = _open(path)
        except OSError as error:
            raise ServiceError(
                "RESOURCE_PROBLEM",
                f"the lock of a GPU, {path}, cannot be used: {error.strerror}; set EIF_INFLUENCE_DEVICE_LOCK_DIR to a "
                "folder that every server of this machine may write",
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        return handle

    def _make_folder(self) -> None:
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._folder.chmod(_SHARED_FOLDER)  # whatever the umask: servers may run as several users


def _open(path: Path) -> int:
    """Open a file that may be another user's; never through a link that somebody has laid in its place."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(path, flags)  # creating what is another user's is refused in folders such as /tmp
    except FileNotFoundError:
        handle = os.open(path, flags | os.O_CREAT, _SHARED_FILE)
        if os.fstat(handle).st_uid == os.geteuid():
            os.fchmod(handle, _SHARED_FILE)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(0, "it is not a file")
    return handle

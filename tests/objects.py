"""Where servers of a test keep their objects: a folder, or a real S3 server reached through a proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from services.common.storage.uris import file_uri
from tests.s3_proxy import S3Proxy
from tests.stores import s3_place
from tests.weed import ADMIN, Keys, Weed


class Objects(Protocol):
    """What the servers share.

    Attributes:
        base: URI of the folder of everything, without a slash at the end.
        environ: Settings with which a server finds it.
    """

    base: str
    environ: dict[str, str]

    def put(self, name: str, text: str) -> str:
        """Write an object, whatever is done to the servers' way to it; its URI."""
        ...

    def below(self, name: str) -> dict[str, bytes]:
        """The objects of a folder, by their names in it."""
        ...


class LocalObjects:
    """In a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self.base = file_uri(folder)
        self.environ = {"EIF_STORAGE_FILE_ROOTS": str(folder)}

    def put(self, name: str, text: str) -> str:
        (self._folder / name).write_text(text)
        return f"{self.base}/{name}"

    def below(self, name: str) -> dict[str, bytes]:
        folder = self._folder / name
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class S3Objects:
    """On an S3 server, which the services reach through a proxy, with the keys of a file.

    Args:
        weed: The server.
        proxy: In front of it.
        keys_file: Where the keys are written.
    """

    def __init__(self, weed: Weed, proxy: S3Proxy, keys_file: Path) -> None:
        self._place = s3_place(weed)  # past the proxy
        self._store = self._place.store
        self._keys_file = keys_file
        self.base = self._place.base
        self.use(ADMIN)
        self.environ = {
            "EIF_STORAGE_S3_ENDPOINT": f"http://{proxy.endpoint}",
            "EIF_STORAGE_S3_CREDENTIALS_FILE": str(keys_file),
        }

    def put(self, name: str, text: str) -> str:
        return self._store.put(self._place.uri(name), text.encode()).uri

    def below(self, name: str) -> dict[str, bytes]:
        prefix = self._place.uri(f"{name}/")
        found = list(self._store.list(prefix))
        return {info.uri.removeprefix(prefix): self._store.read(info.uri, max_bytes=info.size) for info in found}

    def use(self, keys: Keys) -> None:
        """Replace the keys, as whoever renews them does."""
        write_keys(self._keys_file, keys)


def write_keys(path: Path, keys: Keys) -> None:
    """A file of credentials, which is there as a whole at any time."""
    new = path.with_suffix(".new")
    new.write_text(f"[default]\naws_access_key_id = {keys.access_key}\naws_secret_access_key = {keys.secret_key}\n")
    new.replace(path)

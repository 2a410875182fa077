"""A job process that does what a script says: `python tests/job_program.py <job folder>`.

It keeps the rules of a real one (lock, standard input, SIGTERM, messages, MANIFEST.json last) but computes nothing. The
script is a list of steps in `<job folder>/script.json`, or in the object that the job's train manifest URI names. On S3
it reads and writes as a real job does, see job_objects.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(sys.argv[1])
REQUEST: dict[str, Any] = {}
"""job.json."""
HELD: list[object] = []
"""What stays in memory."""


def send(**message: object) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def progress(done: int, total: int, stage: str = "features", stages_done: int = 1) -> None:
    send(
        type="progress",
        stage=stage,
        done=done,
        total=total,
        unit="samples",
        stages_done=stages_done,
        stages_total=5,
    )


def path_of(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def die_with_parent() -> None:
    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()


def stop_on_sigterm(_signal: int, _frame: object) -> None:
    send(type="cancelled")
    os._exit(0)


def succeed(request: dict[str, Any], tables: dict[str, dict[str, Any]]) -> None:
    """Put tables that were written before (`path`, `rows`) in their place, then MANIFEST.json, then say so."""
    folder = path_of(request["output_uri_prefix"]) / request["uid"]
    own = f"attempt-{request['attempt']}"
    (folder / own).mkdir(parents=True, exist_ok=True)
    entries = {}
    for name, table in tables.items():
        data = Path(table["path"]).read_bytes()
        (folder / own / f"{name}.parquet").write_bytes(data)
        entries[name] = {
            "file": f"{own}/{name}.parquet",
            "sha256": hashlib.sha256(data).hexdigest(),
            "rows": table["rows"],
            "bytes": len(data),
        }
    manifest = {
        "schema_version": 1,
        "name": request["name"],
        "uid": request["uid"],
        "attempt": request["attempt"],
        "kind": request["spec"]["kind"],
        "tables": entries,
        "figures": {"train_samples": 3.0},
        "provenance": {"device": "cpu", "program": "tests/job_program.py"},
    }
    data = json.dumps(manifest).encode()
    partial = folder / f".eif-partial-manifest-{own}"
    partial.write_bytes(data)
    try:
        os.link(partial, folder / "MANIFEST.json")
    except FileExistsError:
        data = (folder / "MANIFEST.json").read_bytes()
        if json.loads(data)["attempt"] != request["attempt"]:
            shutil.rmtree(folder / own)
    partial.unlink()
    send(
        type="succeeded",
        manifest_uri=f"{request['output_uri_prefix']}/{request['uid']}/MANIFEST.json",
        manifest_sha256=hashlib.sha256(data).hexdigest(),
    )


def count(total: int, every_s: float) -> None:
    """Progress, a unit at a time."""
    for done in range(total + 1):
        progress(done, total)
        time.sleep(every_s)


def append(path: str) -> None:
    """Note this process and its attempt."""
    with Path(path).open("a") as file:
        file.write(f"{REQUEST.get('attempt')} {os.getpid()}\n")


def are_gone(path: str, to: str) -> None:
    """Note which processes that `append` has noted are still there, besides this one."""
    noted = [int(line.split()[1]) for line in Path(path).read_text().splitlines()]
    Path(to).write_text(json.dumps([pid for pid in noted if pid != os.getpid() and Path(f"/proc/{pid}").exists()]))


def wait_for(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.02)


def forever() -> None:
    while True:
        time.sleep(3600)


def child() -> None:
    """A child that holds the pipes open and does not end with us."""
    if os.fork() == 0:
        forever()


def take_memory(count: int, *, child: bool = False) -> None:
    """Hold so many bytes, in this process or in a child that lives as long."""
    if not child or os.fork() == 0:
        HELD.append(bytearray(b"x") * count)
        if child:
            forever()


def map_file(path: str) -> None:
    """Read all of a file through a mapping that stays."""
    with Path(path).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    sum(mapped[start] for start in range(0, len(mapped), mmap.PAGESIZE))
    HELD.append(mapped)


def leave(code: int) -> None:
    """End at once, without a last message."""
    os._exit(code)


STEPS: dict[str, Callable[..., object]] = {
    "progress": progress,
    "count": count,
    "print": lambda text, times=1: os.write(1, text.encode() * times),
    "log": lambda text, times=1: os.write(2, text.encode() * times),
    "environ": lambda name: os.write(2, f"{name}={os.environ.get(name)}\n".encode()),
    "ignore_sigterm": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "touch": lambda path: Path(path).write_text(f"{os.getpid()}\n"),
    "append": append,
    "are_gone": are_gone,
    "wait_for": wait_for,
    "forever": forever,
    "child": child,
    "take_memory": take_memory,
    "map_file": map_file,
    "kill": lambda signal: os.kill(os.getpid(), signal),
    "exit": leave,
    "fail": lambda reason, message, metadata=None: send(
        type="failed", reason=reason, message=message, metadata=metadata or {}
    ),
    "succeed": lambda tables=None: succeed(REQUEST, tables or {}),
    "say_succeeded": lambda: send(
        type="succeeded", manifest_uri="file:///nowhere/MANIFEST.json", manifest_sha256="0" * 64
    ),
}
"""By the name in `do`; the other entries of a step are arguments. `attempt` limits a step to one attempt."""


def script() -> bytes:
    """The steps, as JSON."""
    given = FOLDER / "script.json"
    if given.exists():
        return given.read_bytes()
    REQUEST.update(json.loads((FOLDER / "job.json").read_text()))
    uri = REQUEST["spec"]["train_manifest"]["uri"]
    return remote_script(uri) if uri.startswith("s3://") else path_of(uri).read_bytes()


def remote_script(uri: str) -> bytes:
    """The steps of a job on S3. Whatever the store then refuses is how the job ends."""
    from services.common.errors import ServiceError  # here: it takes a second, and other jobs need none of it
    from tests.job_objects import RemoteJob

    def or_fail(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except ServiceError as error:
            send(type="failed", reason=error.reason, message=error.message, metadata=error.metadata)
            os._exit(0)

    job = RemoteJob(REQUEST, FOLDER)
    STEPS["succeed"] = lambda tables: send(**or_fail(lambda: job.succeed(tables)).model_dump())
    found: bytes = or_fail(lambda: job.script(uri))
    return found


def main() -> None:
    die_with_parent()
    signal.signal(signal.SIGTERM, stop_on_sigterm)
    lock = (FOLDER / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    for step in json.loads(script()):
        do, attempt = step.pop("do"), step.pop("attempt", None)
        if attempt in {None, REQUEST.get("attempt")}:
            STEPS[do](**step)


if __name__ == "__main__":
    main()

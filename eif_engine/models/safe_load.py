"""Tensors from a checkpoint file that nobody vouches for: no code is run, and nothing is larger than the file.

Accepted are `.safetensors`, and `.pt` or `.pth` of `torch.save` (zip, or the older stream) that hold tensors in
dictionaries. Refused, with CheckpointUnsafe, is what would run code (pickled modules, TorchScript, `.pt2` programs),
and tensors that claim more elements than the file has bytes for.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from eif_engine.errors import CheckpointUnsafe
from eif_engine.models.pickle_scan import scan_pickle, scan_stream

_LEGACY_PICKLES = 5  # magic number, protocol, system, the object, the storage keys
_DTYPES = frozenset(
    {
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.bool,
    }
)
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_PICKLE = b"\x80"  # every pickle of protocol 2 or later starts so


@dataclass(frozen=True, kw_only=True)
class CheckpointLimits:
    """Largest file, pickle in it, and number of tensors."""

    max_bytes: int = 8 * 2**30
    max_pickle_bytes: int = 64 * 2**20
    max_tensors: int = 50_000


DEFAULT_LIMITS = CheckpointLimits()


def read_checkpoint(path: Path, *, limits: CheckpointLimits = DEFAULT_LIMITS) -> object:
    """What the file holds: a tensor, or dictionaries of tensors and plain values, on the CPU.

    Raises:
        CheckpointUnsafe: See the module.
    """
    size = path.stat().st_size
    if size > limits.max_bytes:
        raise CheckpointUnsafe(f"{path.name} has {size:,} bytes, over the limit of {limits.max_bytes:,}")
    content = _read_safetensors(path, limits) if path.suffix == ".safetensors" else _read_torch(path, limits)
    check_tensors(content, path.name, limits)
    return content


def check_tensors(content: object, name: str, limits: CheckpointLimits = DEFAULT_LIMITS) -> None:
    """Raise CheckpointUnsafe for a tensor that is larger than its storage, or not a plain tensor on the CPU."""
    stack: list[tuple[str, object]] = [("", content)]
    seen: set[int] = set()  # containers may refer to each other, or to themselves
    tensors = 0
    while stack:
        key, value = stack.pop()
        if isinstance(value, Tensor):
            tensors += 1
            _check_tensor(key, value, name)
        elif isinstance(value, Mapping | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            stack += [(f"{key}.{child}" if key else str(child), item) for child, item in items]
        if tensors > limits.max_tensors:
            raise CheckpointUnsafe(f"{name} has over {limits.max_tensors:,} tensors")


def _check_tensor(key: str, value: Tensor, name: str) -> None:
    if value.layout != torch.strided or value.dtype not in _DTYPES or value.device.type != "cpu":
        raise CheckpointUnsafe(f"{name}: {key} is not a plain dense tensor ({value.layout}, {value.dtype})", key=key)
    claimed, held = value.numel() * value.element_size(), value.untyped_storage().nbytes()
    if claimed > held:
        raise CheckpointUnsafe(
            f"{name}: {key} claims {claimed:,} bytes (shape {tuple(value.shape)}), but the file holds {held:,} for it",
            key=key,
        )


def _read_safetensors(path: Path, limits: CheckpointLimits) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            keys = file.keys()
            if len(keys) > limits.max_tensors:
                raise CheckpointUnsafe(
                    f"{path.name} has {len(keys):,} tensors, over the limit of {limits.max_tensors:,}"
                )
            return {key: file.get_tensor(key) for key in keys}
    except (SafetensorError, OSError) as error:
        raise CheckpointUnsafe(f"{path.name} is damaged, or not a safetensors file: {error}") from error


def _read_torch(path: Path, limits: CheckpointLimits) -> object:
    if zipfile.is_zipfile(path):
        _vet_zip(path, limits)
    else:
        _vet_stream(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises anything on hostile bytes
        reason = str(error).partition("\n")[0]
        raise CheckpointUnsafe(f"{path.name} cannot be loaded as weights alone: {reason}") from error


def _vet_zip(path: Path, limits: CheckpointLimits) -> None:
    """Look into the zip before PyTorch does: what kind it is, that it cannot inflate, and what its pickle imports."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_kind([entry.filename for entry in entries], path.name)
            _check_entries(entries, path, limits)
            for entry in entries:
                if entry.filename.endswith(".pkl"):
                    scan_pickle(archive.read(entry), name=path.name)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise CheckpointUnsafe(f"{path.name} is damaged, or not a checkpoint: {error}") from error


def _check_kind(names: list[str], name: str) -> None:
    inner = {entry.partition("/")[2] for entry in names}
    if "constants.pkl" in inner or any(entry.startswith("code/") for entry in inner):
        raise CheckpointUnsafe(
            f"{name} is a TorchScript archive, which carries code: save module.state_dict() instead",
            culprit="TorchScript",
        )
    if any(entry in inner for entry in ("archive_format", "serialized_exported_program.json")):
        raise CheckpointUnsafe(
            f"{name} is an exported program (.pt2), which carries code: save the state dict instead", culprit="pt2"
        )
    if sum(entry == "data.pkl" for entry in (e.partition("/")[2] for e in names)) != 1:
        raise CheckpointUnsafe(f"{name} is a zip, but not one of torch.save: it has no data.pkl")


def _check_entries(entries: list[zipfile.ZipInfo], path: Path, limits: CheckpointLimits) -> None:
    if len({entry.filename for entry in entries}) < len(entries):
        raise CheckpointUnsafe(f"{path.name} has two entries of one name")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointUnsafe(f"{path.name} is compressed, as torch.save never does: it could inflate without bound")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointUnsafe(f"{path.name} has entries that are larger than the file")
    for entry in entries:
        if entry.filename.endswith(".pkl") and entry.file_size > limits.max_pickle_bytes:
            raise CheckpointUnsafe(f"{path.name} has a pickle of {entry.file_size:,} bytes, over the limit")


def _vet_stream(path: Path) -> None:
    """The format before the zip: five pickles, then the storages."""
    with path.open("rb") as file:
        if file.read(1) != _PICKLE:
            raise CheckpointUnsafe(f"{path.name} is not a checkpoint of torch.save, nor .safetensors")
        file.seek(0)
        if scan_stream(file, name=path.name) != _LEGACY_MAGIC:
            raise CheckpointUnsafe(f"{path.name} is a pickle, but not a checkpoint of torch.save")
        for _ in range(_LEGACY_PICKLES - 1):
            scan_stream(file, name=path.name)

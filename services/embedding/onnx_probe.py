"""`python -m services.embedding.onnx_probe FOLDER`: load a bundle for the first time, in a process of its own.

An ONNX file is a program. Whatever it does (crash the runtime, take all memory, never end) it does here, under limits
of memory and time, and not in the server. Prints one JSON object: `{}` when the model is fit for use, or
`{"message": ..., "metadata": {...}}`.
"""

from __future__ import annotations

import json
import resource
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eif_engine.errors import EifError, OnnxInvalid
from eif_engine.models.onnx_bundle import OnnxBundle, read_onnx_bundle
from services.embedding.onnx_scan import scan
from services.embedding.session import CPU, one_line, open_session

if TYPE_CHECKING:
    import onnxruntime as ort

DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
"""Operator domains that are allowed: standard ONNX, and what ONNX Runtime itself adds."""


def check(folder: Path, *, batch: int) -> None:
    """Check a bundle whose files have their digests.

    Args:
        folder: With onnx.json and the files it names, and nothing else.
        batch: Largest batch that will be run.

    Raises:
        OnnxInvalid: Naming the file, the location, the domain, the tensor or the shape that is wrong.
    """
    bundle = read_onnx_bundle(folder)
    check_files(folder, bundle)
    check_references(folder, bundle)
    session = _load(folder, bundle)
    check_input(session, bundle)
    check_outputs(session, bundle)
    for size in (1, batch):
        _try(session, bundle, size)


def check_files(folder: Path, bundle: OnnxBundle) -> None:
    """Refuse links and whatever else is not a plain file."""
    for ref in bundle.files:
        if not stat.S_ISREG((folder / ref.file).lstat().st_mode):
            raise OnnxInvalid(f"{ref.file} is not a plain file", location=ref.file)


def check_references(folder: Path, bundle: OnnxBundle) -> None:
    """Refuse external data that onnx.json does not declare, and operators of unknown libraries."""
    name = bundle.onnx.file
    found = scan(folder / name)
    declared = {ref.file for ref in bundle.external_data}
    for location in sorted(found.locations - declared):
        raise OnnxInvalid(
            f"{name} has external data at {location!r}, which onnx.json does not declare in external_data: "
            "only declared files beside the model are read",
            location=location,
            file=name,
        )
    for domain in sorted(found.domains - DOMAINS):
        raise OnnxInvalid(
            f"{name} needs operators of the domain {domain!r}; only standard ONNX operators run here",
            domain=domain,
            file=name,
        )


def check_input(session: ort.InferenceSession, bundle: OnnxBundle) -> None:
    """One float32 input of shape (any, C, H, W)."""
    name, file = bundle.input.name, bundle.onnx.file
    inputs = {item.name: item for item in session.get_inputs()}
    if set(inputs) != {name}:
        raise OnnxInvalid(
            f"{file} has the inputs {sorted(inputs)}, but onnx.json names the one input {name!r}",
            file=file,
            tensor=name,
        )
    _check_tensor(inputs[name], bundle.input.shape, file)


def check_outputs(session: ort.InferenceSession, bundle: OnnxBundle) -> None:
    """Float32 outputs (any, D) and, where the bundle has one, (any, F)."""
    outputs = {item.name: item for item in session.get_outputs()}
    for name, dim in output_dims(bundle).items():
        if name not in outputs:
            raise OnnxInvalid(
                f"{bundle.onnx.file} has no output {name!r}, which onnx.json names; it has {sorted(outputs)}",
                file=bundle.onnx.file,
                tensor=name,
            )
        _check_tensor(outputs[name], (dim,), bundle.onnx.file)


def output_dims(bundle: OnnxBundle) -> dict[str, int]:
    """Size of a row of each output that the bundle names."""
    dims = {bundle.outputs.embedding: bundle.embedding_dim}
    if bundle.outputs.features is not None:
        dims[bundle.outputs.features] = bundle.feature_dim
    return dims


def _check_tensor(tensor: Any, row: tuple[int, ...], file: str) -> None:  # noqa: ANN401 - onnxruntime has no types
    batch, *rest = tensor.shape or [0]
    if isinstance(batch, int):
        raise OnnxInvalid(
            f"{file}: {tensor.name!r} has the fixed batch size {batch}; export it with a dynamic batch dimension",
            file=file,
            tensor=tensor.name,
        )
    fits = len(rest) == len(row) and all(
        got == want for got, want in zip(rest, row, strict=True) if isinstance(got, int)
    )
    if tensor.type != "tensor(float)" or not fits:
        raise OnnxInvalid(
            f"{file}: {tensor.name!r} is {tensor.type} of shape {tensor.shape}, "
            f"but onnx.json says float32 of shape (batch, {', '.join(map(str, row))})",
            file=file,
            tensor=tensor.name,
        )


def _load(folder: Path, bundle: OnnxBundle) -> ort.InferenceSession:
    try:
        return open_session(folder / bundle.onnx.file, provider=CPU, threads=1)
    except Exception as error:
        raise OnnxInvalid(
            f"{bundle.onnx.file} cannot be loaded: {one_line(error, folder=folder)}", file=bundle.onnx.file
        ) from error


def _try(session: ort.InferenceSession, bundle: OnnxBundle, batch: int) -> None:
    dims = output_dims(bundle)
    shape = (batch, *bundle.input.shape)
    images_BCHW = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    try:
        results = session.run(list(dims), {bundle.input.name: images_BCHW})
    except Exception as error:
        raise OnnxInvalid(
            f"{bundle.onnx.file} cannot run a batch of {batch}: {one_line(error)}", file=bundle.onnx.file
        ) from error
    for (name, dim), result in zip(dims.items(), results, strict=True):
        if result.shape != (batch, dim):
            raise OnnxInvalid(
                f"{bundle.onnx.file}: {name!r} of a batch of {batch} has the shape {list(result.shape)}, "
                f"but onnx.json says {[batch, dim]}",
                file=bundle.onnx.file,
                tensor=name,
            )


def main(folder: Path, *, batch: int, memory_bytes: int, cpu_seconds: int) -> None:
    """Check under limits and print the outcome."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    outcome: dict[str, object] = {}
    try:
        check(folder, batch=batch)
    except EifError as error:
        outcome = {"reason": error.reason, "message": error.message, "metadata": error.metadata}
    except MemoryError:
        outcome = {"reason": "ONNX_INVALID", "message": "the model takes more memory than allowed", "metadata": {}}
    sys.stdout.write(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]), batch=int(sys.argv[2]), memory_bytes=int(sys.argv[3]), cpu_seconds=int(sys.argv[4]))

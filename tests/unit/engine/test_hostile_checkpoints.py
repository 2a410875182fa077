"""Checkpoints made to harm: none may run code, fill the memory or kill the process, and each gets its reason."""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn
from torchvision import models as torchvision_models

from eif_engine.errors import CheckpointUnsafe, EifError
from eif_engine.models.checkpoint import load_model
from eif_engine.models.safe_load import CheckpointLimits, read_checkpoint
from tests.bundles import changed, put_bytes, put_weights, small_bundle, small_state


def refused(folder: Path, limits: CheckpointLimits | None = None) -> CheckpointUnsafe:
    with pytest.raises(CheckpointUnsafe) as caught, bounded_memory():
        load_model(folder, limits=limits or CheckpointLimits())
    return caught.value


@contextmanager
def bounded_memory(spare: int = 2 * 2**30) -> Iterator[None]:
    """Whatever asks for more than this on top of what is mapped already gets a MemoryError, and so fails the test."""
    with Path("/proc/self/statm").open() as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class Runs:
    """Unpickling this calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_would_run_a_command_is_refused_and_named(tmp_path: Path, old: bool, protocol: int) -> None:
    mark = tmp_path / "mark"
    state: dict[str, object] = {**small_state(), "extra": Runs(os.system, f"touch {mark}")}
    torch.save(state, small_bundle(tmp_path) / "w.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=not old)
    error = refused(put_bytes(tmp_path, (tmp_path / "w.pt").read_bytes()))
    assert "would import posix.system when loaded" in error.message
    assert "torch.save(model.state_dict(), path)" in error.message
    assert error.metadata["culprit"] == "posix.system"
    assert not mark.exists()


@pytest.mark.parametrize("function", [eval, exec, __import__, subprocess.check_output, getattr])
def test_every_foreign_function_is_refused(tmp_path: Path, function: Callable[..., object]) -> None:
    put_weights(small_bundle(tmp_path), {**small_state(), "extra": Runs(function, "1")})
    assert function.__name__ in refused(tmp_path).metadata["culprit"]


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    for protocol in range(6):
        data = pickle.dumps({"extra": Runs(os.system, "true")}, protocol)
        refused(put_bytes(small_bundle(tmp_path), data))


def test_a_state_dict_of_protocol_4_is_refused_with_advice(tmp_path: Path) -> None:
    """It hides its imports on the stack, where a scan can be led astray."""
    torch.save(small_state(), small_bundle(tmp_path) / "w.pt", pickle_protocol=4)
    message = refused(put_bytes(tmp_path, (tmp_path / "w.pt").read_bytes())).message
    assert "is a pickle of protocol 4 or later, which hides what it imports" in message


def test_a_pickled_module_is_refused_and_its_class_named(tmp_path: Path) -> None:
    put_weights(small_bundle(tmp_path), torchvision_models.resnet18(weights=None))
    message = refused(tmp_path).message
    assert "torchvision.models.resnet.ResNet" in message
    assert "torch.save(model.state_dict(), path)" in message


def test_memory_that_a_pickle_asks_for_is_not_given(tmp_path: Path) -> None:
    """PyTorch's own weights-only unpickler lets this through."""
    for bomb in (Runs(bytearray, 10**12), Runs(torch.storage.UntypedStorage, 10**12), Runs(torch.Tensor, 10**12)):
        put_weights(small_bundle(tmp_path), {**small_state(), "extra": bomb})
        assert "would import" in refused(tmp_path).message


def test_a_tensor_of_few_bytes_and_a_billion_elements_is_refused(tmp_path: Path) -> None:
    put_weights(small_bundle(tmp_path), changed(small_state(), head__weight=torch.zeros(1).expand(10**9, 8)))
    assert (tmp_path / "weights.pt").stat().st_size < 100_000
    error = refused(tmp_path)
    assert "head.weight claims 32,000,000,000 bytes (shape (1000000000, 8)), but the file holds 4" in error.message
    assert error.metadata["key"] == "head.weight"


def test_the_bomb_is_found_wherever_it_hides(tmp_path: Path) -> None:
    bomb = torch.zeros(1).expand(10**9)
    for content in (
        {"state_dict": small_state(), "optimizer": {"state": {0: [bomb]}}},
        {**small_state(), "hidden": (1, {"deep": bomb})},
        bomb,
    ):
        put_weights(small_bundle(tmp_path), content)
        assert "claims 4,000,000,000 bytes" in refused(tmp_path).message


def test_a_container_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = dict(small_state())
    content["itself"] = content
    put_weights(small_bundle(tmp_path), content)
    assert len(load_model(tmp_path).classes) == 5


def test_containers_that_refer_to_each_other_exponentially_end(tmp_path: Path) -> None:
    layers: list[object] = [1]
    for _ in range(60):
        layers = [layers, layers]
    put_weights(small_bundle(tmp_path), {**small_state(), "laughs": layers})
    assert len(load_model(tmp_path).classes) == 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(4).to_sparse(),
        lambda: torch.sparse_coo_tensor(
            torch.zeros(2, 1, dtype=torch.int64), torch.ones(1), (10**6, 10**6), check_invariants=True
        ),
        lambda: torch.zeros(4, device="meta"),
        lambda: torch.zeros(4, dtype=torch.complex64),
    ],
)
def test_tensors_that_are_not_plain_are_refused(tmp_path: Path, make: Callable[[], torch.Tensor]) -> None:
    put_weights(small_bundle(tmp_path), {**small_state(), "extra": make()})
    refused(tmp_path)


# ------------------------------------------------------------------------------------------------- other containers


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    traced = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))  # type: ignore[no-untyped-call]  # not annotated
    torch.jit.save(traced, buffer)
    message = refused(put_bytes(small_bundle(tmp_path), buffer.getvalue())).message
    assert "TorchScript archive, which carries code: save module.state_dict() instead" in message


def test_an_exported_program_is_refused_even_under_another_name(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    message = refused(put_bytes(small_bundle(tmp_path), buffer.getvalue())).message
    assert "exported program (.pt2), which carries code" in message


def zip_bytes(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def torch_entries(content: object) -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_zip_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    message = refused(put_bytes(small_bundle(tmp_path), zip_bytes({"a/readme.txt": b"hello"}))).message
    assert "not one of torch.save: it has no data.pkl" in message


def test_a_zip_that_would_inflate_is_refused(tmp_path: Path) -> None:
    entries = torch_entries({"big": torch.zeros(2**24)})
    data = zip_bytes(entries, zipfile.ZIP_DEFLATED)
    assert len(data) < 2**20
    assert "it could inflate without bound" in refused(put_bytes(small_bundle(tmp_path), data)).message


def test_a_storage_shorter_than_its_pickle_says_is_refused(tmp_path: Path) -> None:
    entries = torch_entries({"head.weight": torch.zeros(4096)})
    name = next(entry for entry in entries if entry.endswith("data/0"))
    entries[name] = entries[name][:64]
    refused(put_bytes(small_bundle(tmp_path), zip_bytes(entries)))


def test_a_storage_that_is_missing_is_refused(tmp_path: Path) -> None:
    entries = torch_entries({"head.weight": torch.zeros(16)})
    del entries[next(entry for entry in entries if entry.endswith("data/0"))]
    refused(put_bytes(small_bundle(tmp_path), zip_bytes(entries)))


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_pickles_of_one_name_are_refused(tmp_path: Path) -> None:
    """Readers differ in which of the two they take: one would be vetted and the other loaded."""
    buffer = io.BytesIO()
    entries = torch_entries(small_state())
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in [*entries.items(), *entries.items()]:
            archive.writestr(name, data)
    refused(put_bytes(small_bundle(tmp_path), buffer.getvalue()))


def test_the_legacy_stream_cannot_claim_more_than_it_holds(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"head.weight": torch.zeros(1 << 10)}, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    claimed = data.replace(b"M\x00\x04", b"J" + struct.pack("<i", 2**31 - 1))
    assert claimed != data
    refused(put_bytes(small_bundle(tmp_path), claimed))


def test_files_over_the_limits_are_refused(tmp_path: Path) -> None:
    put_weights(small_bundle(tmp_path), small_state())
    assert "bytes, over the limit of 1,000" in refused(tmp_path, CheckpointLimits(max_bytes=1000)).message
    assert "over 3 tensors" in refused(tmp_path, CheckpointLimits(max_tensors=3)).message
    assert "a pickle of" in refused(tmp_path, CheckpointLimits(max_pickle_bytes=10)).message
    small_bundle(tmp_path)
    assert "tensors, over the limit of 3" in refused(tmp_path, CheckpointLimits(max_tensors=3)).message


# ------------------------------------------------------------------------------------------------------ safetensors


def safetensors(header: bytes, data: bytes = b"", claimed: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if claimed is None else claimed) + header + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not safetensors",
        safetensors(b"{}", claimed=2**40),
        safetensors(b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}', bytes(4)),
        safetensors(b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4]}}', bytes(4)),
        safetensors(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            bytes(4),
        ),
        safetensors(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', bytes(4)),
    ],
)
def test_broken_safetensors_are_refused(tmp_path: Path, data: bytes) -> None:
    small_bundle(tmp_path)
    assert "weights.safetensors is damaged" in refused(put_bytes(tmp_path, data, name="weights.safetensors")).message


def test_a_pickle_named_safetensors_is_refused(tmp_path: Path) -> None:
    torch.save(small_state(), small_bundle(tmp_path) / "w.pt")
    refused(put_bytes(tmp_path, (tmp_path / "w.pt").read_bytes(), name="weights.safetensors"))


def test_safetensors_named_pt_is_refused_with_both_names(tmp_path: Path) -> None:
    small_bundle(tmp_path)
    message = refused(put_bytes(tmp_path, save(small_state()))).message
    assert "not a checkpoint of torch.save, nor .safetensors" in message


# ------------------------------------------------------------------------------------------------------------- fuzz


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(min_size=1, max_size=40), where=st.floats(0, 1), old=st.booleans(), cut=st.booleans())
def test_damaged_checkpoints_are_read_or_get_a_reason(
    tmp_path: Path, junk: bytes, where: float, old: bool, cut: bool
) -> None:
    buffer = io.BytesIO()
    torch.save(small_state(), buffer, _use_new_zipfile_serialization=not old)
    whole = buffer.getvalue()
    at = int(where * len(whole))
    (tmp_path / "w.pt").write_bytes(whole[:at] + junk + (b"" if cut else whole[at + len(junk) :]))
    try:
        read_checkpoint(tmp_path / "w.pt")
    except EifError as error:
        reason = error.reason
    else:
        return
    assert reason == "CHECKPOINT_UNSAFE"


def test_the_process_loads_the_next_bundle_after_each(tmp_path: Path) -> None:
    for number, bomb in enumerate([torch.zeros(1).expand(10**9), Runs(bytearray, 10**12), Runs(os.abort)]):
        refused(put_weights(small_bundle(tmp_path / str(number)), {**small_state(), "extra": bomb}))
        assert len(load_model(small_bundle(tmp_path / f"good{number}")).classes) == 5

"""What is refused before a model may be used, and that the process that finds out is the only one that suffers."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from eif_engine.errors import ModelBundleInvalid, OnnxInvalid
from services.embedding import onnx_check
from services.embedding.onnx_check import ProbeLimits, check_onnx
from services.embedding.onnx_probe import check
from tests.onnx_bundles import FEATURES, SIDE, external, network, write_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def fault(folder: Path) -> OnnxInvalid:
    with pytest.raises(OnnxInvalid) as caught:
        check(folder, batch=4)
    return caught.value


def test_a_sound_model_passes(tmp_path: Path) -> None:
    check(write_bundle(tmp_path), batch=4)


def test_a_sound_model_with_declared_external_data_passes(tmp_path: Path) -> None:
    model = network()
    data = external(model, location="weights.bin")
    check(write_bundle(tmp_path, model, data={"weights.bin": data}), batch=4)


def test_a_model_without_features_passes_when_its_json_says_so(tmp_path: Path) -> None:
    model = network(outputs=["embedding"])
    check(write_bundle(tmp_path, model, outputs={"features": None}, feature_dim=0), batch=4)


@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin",
        "/etc/passwd",
        "sub/weights.bin",
        "undeclared.bin",
        "*/_ORT_MEM_ADDR_/*",
        "",
        "weights.bin/",
        "./weights.bin",
    ],
)
def test_external_data_that_is_not_a_declared_file_beside_the_model(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(4 * SIDE * SIDE * FEATURES))
    model = network()
    data = external(model, location=location)
    error = fault(write_bundle(tmp_path / "bundle", model, data={"weights.bin": data}))
    assert error.metadata["location"] == location
    assert repr(location) in error.message


def test_a_declared_file_that_is_a_link(tmp_path: Path) -> None:
    model = network()
    data = external(model, location="weights.bin")
    folder = write_bundle(tmp_path / "bundle", model, data={"weights.bin": data})
    (folder / "weights.bin").rename(tmp_path / "elsewhere.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    error = fault(folder)
    assert error.metadata["location"] == "weights.bin"
    assert "not a plain file" in error.message


def test_external_data_past_the_end_of_its_file(tmp_path: Path) -> None:
    model = network()
    data = external(model, location="weights.bin")
    error = fault(write_bundle(tmp_path, model, data={"weights.bin": data[:100]}))
    assert "cannot be loaded" in error.message


@pytest.mark.parametrize("domain", ["evil.ops", "ai.onnx.ml", "com.microsoft.nchwc"])
def test_operators_of_an_unknown_domain(tmp_path: Path, domain: str) -> None:
    node = helper.make_node("Anything", ["images"], ["ignored"], domain=domain)
    error = fault(write_bundle(tmp_path, network(nodes=[node], opsets=[("", 18), (domain, 1)])))
    assert error.metadata["domain"] == domain
    assert repr(domain) in error.message


def test_an_operator_that_does_not_exist(tmp_path: Path) -> None:
    error = fault(write_bundle(tmp_path, network(nodes=[helper.make_node("NoSuchOp", ["images"], ["ignored"])])))
    assert "cannot be loaded" in error.message
    assert "NoSuchOp" in error.message


@pytest.mark.parametrize("data", [b"not onnx at all", bytes(1000), b"\x08", b"GIF89a"])
def test_a_file_that_is_no_model(tmp_path: Path, data: bytes) -> None:
    assert "model.onnx" in fault(write_bundle(tmp_path, data)).message


def test_a_truncated_model(tmp_path: Path) -> None:
    data = network().SerializeToString()
    assert "truncated" in fault(write_bundle(tmp_path, data[: len(data) // 2])).message


def test_another_format_of_the_runtime_is_not_guessed(tmp_path: Path) -> None:
    """ONNX Runtime has a format of its own, with `ORTM` at byte 4, that would pass no check here."""
    assert "model.onnx" in fault(write_bundle(tmp_path, b"\x08\x00\x00\x00ORTM" + bytes(200))).message


CASES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"batch": 2}, {}, "fixed batch size 2"),
    ({"outputs": ["embedding"]}, {}, "no output 'features'"),
    ({"outputs": ["features"]}, {}, "no output 'embedding'"),
    ({}, {"embedding_dim": 5}, "'embedding' is tensor(float) of shape ['batch', 4]"),
    ({}, {"feature_dim": 7}, "'features' is tensor(float) of shape ['batch', 6]"),
    ({}, {"input": {"name": "pixels", "shape": [1, SIDE, SIDE]}}, "inputs ['images']"),
]


@pytest.mark.parametrize(("model", "fields", "message"), CASES)
def test_tensors_that_are_not_as_described(
    tmp_path: Path, model: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    assert message in fault(write_bundle(tmp_path, network(**model), **fields)).message


def test_an_input_of_another_size(tmp_path: Path) -> None:
    preprocessing = {"mode": "L", "resize": [16, 16]}
    error = fault(write_bundle(tmp_path, network(), input={"shape": [1, 16, 16]}, preprocessing=preprocessing))
    assert "(batch, 1, 16, 16)" in error.message
    assert error.metadata["tensor"] == "images"


def test_a_model_whose_batch_is_only_dynamic_in_name(tmp_path: Path) -> None:
    """A reshape to one row, whose shape is only known when it runs."""
    nodes = [
        helper.make_node("Constant", [], ["row"], value_ints=[1, SIDE * SIDE]),
        helper.make_node("ReduceMax", ["images"], ["largest"], keepdims=0),
        helper.make_node("Sub", ["largest", "largest"], ["zero"]),
        helper.make_node("Cast", ["zero"], ["whole_zero"], to=TensorProto.INT64),
        helper.make_node("Add", ["row", "whole_zero"], ["shape"]),
        helper.make_node("Reshape", ["images", "shape"], ["reshaped"]),
    ]
    model = network(nodes=nodes)
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    flatten.input[0] = "reshaped"
    assert "cannot run a batch of 4" in fault(write_bundle(tmp_path, model)).message


def test_a_model_that_gives_another_number_of_rows(tmp_path: Path) -> None:
    twice = helper.make_node("Concat", ["images", "images"], ["both"], axis=0)
    model = network(nodes=[twice], batch="n")
    next(node for node in model.graph.node if node.op_type == "Flatten").input[0] = "both"
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[0].dim_param = "m"
    assert "of a batch of 1 has the shape [2, 4]" in fault(write_bundle(tmp_path, model)).message


def test_a_bundle_that_breaks_its_schema(tmp_path: Path) -> None:
    with pytest.raises(ModelBundleInvalid, match=r"onnx\.json"):
        check(write_bundle(tmp_path, opset=1), batch=4)


def huge(elements: int) -> onnx.ModelProto:
    """A model of a few hundred bytes that wants `4 * elements` bytes when it runs."""
    shape = helper.make_node("Constant", [], ["huge_shape"], value_ints=[elements])
    fill = helper.make_node("RandomNormalLike", ["like"], ["ignored"], dtype=TensorProto.FLOAT)
    like = helper.make_node("ConstantOfShape", ["huge_shape"], ["like"])
    total = helper.make_node("ReduceSum", ["ignored"], ["total"], keepdims=0)
    add = helper.make_node("Add", ["images", "total"], ["shifted"])
    model = network(nodes=[shape, like, fill, total, add])
    next(node for node in model.graph.node if node.op_type == "Flatten").input[0] = "shifted"
    return model


def endless() -> onnx.ModelProto:
    """A model with a loop that never ends."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["n"], ["n_next"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("n", TensorProto.INT64, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("n_next", TensorProto.INT64, None),
        ],
    )
    largest = helper.make_node("Constant", [], ["largest"], value_int=np.iinfo(np.int64).max)
    always = helper.make_node("Constant", [], ["always"], value=onnx.numpy_helper.from_array(np.array(True)))
    loop = helper.make_node("Loop", ["largest", "always", "largest"], ["ignored"], body=body)
    return network(nodes=[largest, always, loop])


async def test_the_child_reports_a_fault_with_its_reason_and_metadata(tmp_path: Path) -> None:
    model = network()
    external(model, location="../x.bin")
    with pytest.raises(OnnxInvalid, match=r"'\.\./x\.bin'") as caught:
        await check_onnx(write_bundle(tmp_path, model), ProbeLimits(batch=2))
    assert caught.value.metadata["location"] == "../x.bin"
    with pytest.raises(OnnxInvalid) as broken:
        await check_onnx(write_bundle(tmp_path / "b", opset=1), ProbeLimits(batch=2))
    assert broken.value.reason == "MODEL_BUNDLE_INVALID"


async def test_a_model_that_wants_all_memory_is_refused(tmp_path: Path) -> None:
    limits = ProbeLimits(batch=2, memory_bytes=2 << 30)
    with pytest.raises(OnnxInvalid) as caught:
        await check_onnx(write_bundle(tmp_path, huge(1 << 32)), limits)
    assert "batch of 1" in caught.value.message or "cannot be loaded" in caught.value.message


async def test_a_model_that_never_ends_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(OnnxInvalid, match=r"within 3 s|SIGXCPU|SIGKILL"):
        await check_onnx(write_bundle(tmp_path, endless()), ProbeLimits(batch=2, seconds=3))


def child_that_checks(folder: Path) -> psutil.Process:
    """The child of this process that was given this folder, as soon as there is one."""
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if str(folder) in child.cmdline():
                    return child
        time.sleep(0.01)
    raise AssertionError("no child came")


async def test_the_child_ends_with_its_caller(tmp_path: Path) -> None:
    checking = asyncio.create_task(check_onnx(write_bundle(tmp_path, endless()), ProbeLimits(batch=2)))
    child = await asyncio.to_thread(child_that_checks, tmp_path)
    checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking
    await asyncio.to_thread(child.wait, 10)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Puts another program in the place of the probe."""

    def replace(program: str) -> None:
        (tmp_path / "path").mkdir()
        (tmp_path / "path" / "other_probe.py").write_text(program)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
        monkeypatch.setattr(onnx_check, "PROBE", "other_probe")

    return replace


async def test_a_crash_of_the_child_is_told_by_its_signal(tmp_path: Path, probe: Callable[[str], None]) -> None:
    probe("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(OnnxInvalid, match="SIGSEGV"):
        await check_onnx(write_bundle(tmp_path), ProbeLimits(batch=2))


async def test_a_child_that_breaks_is_told_by_its_last_words(tmp_path: Path, probe: Callable[[str], None]) -> None:
    probe("raise RuntimeError('out of luck')")
    with pytest.raises(OnnxInvalid, match="RuntimeError: out of luck"):
        await check_onnx(write_bundle(tmp_path), ProbeLimits(batch=2))


async def test_the_child_sees_no_credentials(
    tmp_path: Path, probe: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EIF_STORAGE_S3_SECRET_KEY", "hidden")
    probe("import os; assert 'hidden' not in os.environ.values(), 'seen'; assert os.getcwd() == '/'; print('{}')")
    await check_onnx(write_bundle(tmp_path), ProbeLimits(batch=2))


async def test_a_module_in_the_bundle_is_not_imported(tmp_path: Path) -> None:
    """A file named like a module lies in the folder of the model; nothing may import it."""
    model = network()
    data = external(model, location="numpy.py")
    folder = write_bundle(tmp_path, model, data={"numpy.py": data})
    await check_onnx(folder, ProbeLimits(batch=2))

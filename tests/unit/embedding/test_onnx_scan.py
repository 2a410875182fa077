"""The scan of an ONNX file against what the onnx package makes of the same file."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from eif_engine.errors import OnnxInvalid
from services.embedding.onnx_scan import MAX_DEPTH, OnnxReferences, scan
from tests.onnx_bundles import external, network

if TYPE_CHECKING:
    from pathlib import Path


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def scanned(folder: Path, data: bytes) -> OnnxReferences:
    path = folder / "model.onnx"
    path.write_bytes(data)
    return scan(path)


def tensor_at(location: str) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.ones(2, dtype=np.float32), "t")
    model = network()
    model.graph.initializer.add().CopyFrom(tensor)
    external(model, location=location, name="t")
    return model.graph.initializer[-1]


def subgraph(name: str, *nodes: onnx.NodeProto, tensors: tuple[onnx.TensorProto, ...] = ()) -> onnx.GraphProto:
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, [2])
    return helper.make_graph(list(nodes), name, [], [output], list(tensors))


def test_a_plain_model_refers_to_nothing(tmp_path: Path) -> None:
    assert scanned(tmp_path, network().SerializeToString()) == OnnxReferences(locations=set(), domains={""})


def test_external_data_is_found_wherever_a_tensor_can_be(tmp_path: Path) -> None:
    model = network()
    external(model, location="initializer.bin")
    constant = helper.make_node("Constant", [], ["c"], value=tensor_at("../attribute.bin"))
    several = helper.make_node("Odd", [], ["o"], domain="x")
    several.attribute.append(helper.make_attribute("tensors", [tensor_at("/attributes.bin")]))
    sparse = onnx.SparseTensorProto(values=tensor_at("sparse.bin"), indices=tensor_at("indices.bin"), dims=[2])
    several.attribute.append(helper.make_attribute("sparse", sparse))
    branch = subgraph("branch", tensors=(tensor_at("branch.bin"),))
    several.attribute.append(helper.make_attribute("graph", branch))
    several.attribute.append(helper.make_attribute("graphs", [subgraph("inner", constant)]))
    model.graph.node.extend([several])
    model.graph.sparse_initializer.add().CopyFrom(
        onnx.SparseTensorProto(values=tensor_at("graph-sparse.bin"), indices=tensor_at("graph-indices.bin"), dims=[2])
    )
    in_function = helper.make_node("Constant", [], ["c"], value=tensor_at("function.bin"))
    model.functions.append(helper.make_function("f", "f", [], ["c"], [in_function], [helper.make_opsetid("g", 1)]))
    model.training_info.add().algorithm.initializer.add().CopyFrom(tensor_at("training.bin"))
    found = scanned(tmp_path, model.SerializeToString())
    assert found.locations == {
        "initializer.bin",
        "../attribute.bin",
        "/attributes.bin",
        "sparse.bin",
        "indices.bin",
        "branch.bin",
        "graph-sparse.bin",
        "graph-indices.bin",
        "function.bin",
        "training.bin",
    }
    assert found.domains == {"", "x", "f", "g"}


def test_a_location_counts_however_it_is_hidden(tmp_path: Path) -> None:
    """Keys given twice, and external data on a tensor that says it has none: a parser may see any of them."""
    model = network()
    tensor = model.graph.initializer[0]
    twice = tensor.external_data.add(key="location", value="shown.bin").SerializeToString()
    again = onnx.StringStringEntryProto(key="location", value="hidden.bin").SerializeToString()
    tensor.external_data[0].ParseFromString(twice)
    data = model.SerializeToString()
    assert twice in data
    position = data.index(twice)
    assert data[position - 1] == len(twice)
    # The entry with both values: its length is raised, and so is that of each message around it.
    assert scanned(tmp_path, data).locations == {"shown.bin"}
    merged = onnx.StringStringEntryProto()
    merged.ParseFromString(twice + again)
    assert merged.value == "hidden.bin", "protobuf takes the last value"
    entry = twice + again
    field = bytes([(13 << 3) | 2, len(entry)]) + entry
    initializer = bytes([(5 << 3) | 2, len(field)]) + field
    graph = bytes([(7 << 3) | 2, len(initializer)]) + initializer
    assert scanned(tmp_path, graph).locations == {"shown.bin", "hidden.bin"}


def test_every_truncation_is_refused_or_harmless(tmp_path: Path) -> None:
    data = network().SerializeToString()
    refused = 0
    sizes = [*range(0, len(data), 11), *range(len(data) - 40, len(data))]
    for size in sizes:
        try:
            scanned(tmp_path, data[:size])
        except OnnxInvalid:
            refused += 1
    assert refused > 0.95 * len(sizes)


@given(data=st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_random_bytes_never_do_anything_else_than_be_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    with suppress(OnnxInvalid):
        scanned(tmp_path_factory.mktemp("scan"), data)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OnnxInvalid, match=r"model\.onnx is empty"):
        scanned(tmp_path, b"")


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    def wrapped(number: int, body: bytes) -> bytes:
        return bytes([(number << 3) | 2]) + varint(len(body)) + body

    graph = b""
    for _ in range(MAX_DEPTH):
        graph = wrapped(1, wrapped(5, wrapped(6, graph)))  # node, attribute, graph
    with pytest.raises(OnnxInvalid, match="nested more than"):
        scanned(tmp_path, wrapped(7, graph))


def test_a_group_and_an_overlong_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OnnxInvalid, match="wire type 3"):
        scanned(tmp_path, bytes([(9 << 3) | 3]))
    with pytest.raises(OnnxInvalid, match="longer than 10 bytes"):
        scanned(tmp_path, b"\x08" + b"\xff" * 11)
    with pytest.raises(OnnxInvalid, match="number 0"):
        scanned(tmp_path, b"\x02\x00")

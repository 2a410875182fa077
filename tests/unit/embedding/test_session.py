from __future__ import annotations

import logging

import onnx
import pytest

from eif_engine.errors import DeviceUnavailable
from services.embedding import session
from services.embedding.session import CPU, CUDA, Device, choose_provider, cuda_devices, open_session, provider_of


def test_the_built_in_model_is_what_it_is_said_to_be() -> None:
    model = onnx.ModelProto.FromString(session._RELU)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Relu"]
    running = open_session(session._RELU, provider=CPU, threads=1)
    assert provider_of(running) == CPU


def test_cpu_is_chosen_when_asked_for() -> None:
    assert choose_provider(Device.CPU) == CPU


@pytest.mark.skipif(cuda_devices() > 0, reason="this machine has a CUDA device")
def test_without_a_device_the_cpu_is_chosen_without_a_word(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """ONNX Runtime lists CUDA as available whatever the machine has; that is not believed."""
    assert choose_provider(Device.AUTO) == CPU
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


@pytest.mark.skipif(cuda_devices() > 0, reason="this machine has a CUDA device")
def test_cuda_is_refused_where_there_is_none() -> None:
    with pytest.raises(DeviceUnavailable, match="no CUDA device") as caught:
        choose_provider(Device.CUDA)
    assert caught.value.metadata == {"device": "cuda"}


@pytest.mark.skipif(cuda_devices() > 0, reason="this machine has a CUDA device")
def test_a_device_that_does_not_work_is_told_once_and_the_cpu_is_chosen(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """As with a driver but without the CUDA libraries: a session falls back to the CPU, and that is noticed."""
    monkeypatch.setattr(session, "cuda_devices", lambda: 1)
    with caplog.at_level(logging.WARNING):
        assert choose_provider(Device.AUTO) == CPU
    assert len(caplog.records) == 1
    assert "although there is a CUDA device" in caplog.text
    assert capfd.readouterr() == ("", "")
    with pytest.raises(DeviceUnavailable):
        choose_provider(Device.CUDA)


@pytest.mark.gpu
@pytest.mark.skipif(cuda_devices() == 0, reason="needs a CUDA device")
def test_a_device_that_works_is_used() -> None:
    assert choose_provider(Device.CUDA) == CUDA
    assert provider_of(open_session(session._RELU, provider=CUDA, threads=1)) == CUDA

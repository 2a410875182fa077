"""Where to compute."""

from __future__ import annotations

import torch

from eif_engine.errors import DeviceUnavailable


def torch_device(name: str) -> torch.device:
    """The device called `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        DeviceUnavailable: This machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceUnavailable(f"no device is called {name!r}: use auto, cpu or cuda", device=name) from error
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < found):
        return device
    raise DeviceUnavailable(f"this machine has no {name}: it has the cpu and {found} CUDA device(s)", device=name)

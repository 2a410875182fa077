"""A network as a function of some of its parameters, which are one vector theta (X,).

The module is never written to: its structure is copied, its tensors are read, and every pass is a functional call with
the parameters and buffers to use. Batch norm and dropout are in eval mode whatever mode the module is in.
"""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.func import functional_call

from eif_engine.errors import InvalidInput

ALL = "*"
"""The pattern of every parameter."""
_NAMED = 10
"""Parameters that an error names."""


def parameters_in(module: nn.Module, pattern: str) -> dict[str, nn.Parameter]:
    """The parameters of floating point that have a name matching the pattern (`fnmatch`, case counts).

    A parameter that the module holds under several names is there once, under its first.

    Raises:
        InvalidInput: There are none; the message names those there are.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if parameter.is_floating_point():
            names.setdefault(id(parameter), []).append(name)
    first = {name: parameter for name, parameter in module.named_parameters() if id(parameter) in names}
    found = {
        name: parameter
        for name, parameter in first.items()
        if any(fnmatchcase(alias, pattern) for alias in names[id(parameter)])
    }
    if not found:
        shown = ", ".join(list(first)[:_NAMED]) or "none"
        more = f" and {len(first) - _NAMED} more" if len(first) > _NAMED else ""
        raise InvalidInput(
            f"scope {pattern!r} matches no parameter of the network; there are {shown}{more}", field="scope"
        )
    return found


class Scope:
    """A network as a function of the parameters that a pattern names.

    Args:
        module: Images to embeddings (B, D). Tensors that are neither its parameters nor its buffers stay where they
            are.
        pattern: Of parameter names.
        device: Where to compute.
        dtype: In what precision.

    Attributes:
        theta_X: The chosen parameters as they are, in the order of the module.
        names: Theirs.

    Raises:
        InvalidInput: The pattern matches nothing.
    """

    def __init__(self, module: nn.Module, pattern: str, *, device: torch.device, dtype: torch.dtype) -> None:
        chosen = parameters_in(module, pattern)
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self._device, self._dtype = device, dtype
        self._structure = _structure(module)
        self._shapes = {name: parameter.shape for name, parameter in chosen.items()}
        self._fixed = {name: self._moved(tensor.detach()) for name, tensor in tensors.items() if name not in chosen}
        self._buffers = {name for name, _ in module.named_buffers()}
        self.names = tuple(chosen)
        self.theta_X = torch.cat([self._moved(parameter.detach()).reshape(-1) for parameter in chosen.values()])

    def embed(self, theta_X: Tensor, images_BCHW: Tensor) -> Tensor:
        """Embeddings (B, D) at theta; differentiable in theta, backwards and forwards."""
        sizes = [shape.numel() for shape in self._shapes.values()]
        parts = zip(self._shapes.items(), torch.split(theta_X, sizes), strict=True)
        chosen = {name: part.view(shape) for (name, shape), part in parts}
        # Buffers are cloned, so that a module that counts its calls in one counts nowhere.
        fixed = {name: value.clone() if name in self._buffers else value for name, value in self._fixed.items()}
        embeddings_BD: Tensor = functional_call(self._structure, {**fixed, **chosen}, (self._moved(images_BCHW),))
        return embeddings_BD

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, self._dtype if tensor.is_floating_point() else None)


def _structure(module: nn.Module) -> nn.Module:
    """A copy in eval mode that holds the very tensors of the module, none of which is copied."""
    held = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, held).eval()

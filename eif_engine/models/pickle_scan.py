"""What a pickle would import, found without running it.

PyTorch's weights-only unpickler refuses foreign code, but lets through a few names that can allocate without bound
(`bytearray(10**12)`). A state dict needs far fewer, so everything else is refused before PyTorch sees the file, and the
refusal can say what the file is.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO

from eif_engine.errors import CheckpointUnsafe

_ALLOWED = frozenset(
    {
        "collections OrderedDict",
        "torch Size",
        "torch device",
        "torch.nn.parameter Parameter",
        "torch._utils _rebuild_parameter",
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_tensor_v2",
    }
)
_STORAGE_OR_DTYPE = re.compile(
    r"torch ((Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
    r"|float(16|32|64)|bfloat16|u?int8|int(16|32|64)|bool|float|double|half|long|int|short)"
)
_NAMED_IMPORTS = frozenset({"GLOBAL", "INST"})
_EXTENSIONS = frozenset({"EXT1", "EXT2", "EXT4"})
_HELP = "save the weights alone, torch.save(model.state_dict(), path), or better as .safetensors"


def scan_pickle(data: bytes, *, name: str) -> None:
    """Raise CheckpointUnsafe, naming the culprit, when a pickle holds more than a state dict."""
    scan_stream(BytesIO(data), name=name)


def scan_stream(file: BinaryIO, *, name: str) -> int | None:
    """Scan one pickle of a file, and leave the file behind it.

    Returns:
        The last integer in it, which is all there is in the first pickle of an older checkpoint.

    Raises:
        CheckpointUnsafe: It imports anything else than a state dict needs, or hides what it imports.
    """
    texts = _Texts()
    hidden, integer = False, None
    for opcode, argument in _opcodes(file, name):
        texts.note(opcode, argument)
        if opcode in _NAMED_IMPORTS:
            _check_import(str(argument), name)
        elif opcode == "STACK_GLOBAL":
            hidden = True
            _check_import(" ".join(texts.last_two), name)
        elif opcode in _EXTENSIONS:
            raise CheckpointUnsafe(f"{name} uses the pickle extension registry: {_HELP}")
        elif isinstance(argument, int):
            integer = argument
    if hidden:
        raise CheckpointUnsafe(f"{name} is a pickle of protocol 4 or later, which hides what it imports: {_HELP}")
    return integer


class _Texts:
    """The texts last pushed, also those that come from the memo: STACK_GLOBAL takes its names from there."""

    def __init__(self) -> None:
        self.last_two: list[str] = []
        self._memo: list[str | None] = []
        self._pushed: str | None = None

    def note(self, opcode: str, argument: object) -> None:
        if opcode == "MEMOIZE":
            self._memo.append(self._pushed)
            return
        if opcode in {"BINGET", "LONG_BINGET"} and isinstance(argument, int) and argument < len(self._memo):
            self._pushed = self._memo[argument]
        else:
            self._pushed = argument if isinstance(argument, str) and opcode not in _NAMED_IMPORTS else None
        if self._pushed is not None:
            self.last_two = [*self.last_two[-1:], self._pushed]


def _opcodes(file: BinaryIO, name: str) -> Iterator[tuple[str, object]]:
    try:
        for opcode, argument, _ in pickletools.genops(file):
            yield opcode.name, argument
    except Exception as error:  # pickletools raises anything on hostile bytes
        raise CheckpointUnsafe(f"{name} is damaged, or not a checkpoint: {error}") from error


def _check_import(module_and_name: str, name: str) -> None:
    if module_and_name in _ALLOWED or _STORAGE_OR_DTYPE.fullmatch(module_and_name):
        return
    culprit = module_and_name.replace(" ", ".")
    raise CheckpointUnsafe(
        f"{name} is a pickle that would import {culprit} when loaded; a state dict holds tensors alone: {_HELP}",
        culprit=culprit,
    )

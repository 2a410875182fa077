"""Random protobuf messages of any type: values that callers send, and values that nobody should."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

MAX_DEPTH = 6
"""Of messages in messages: protos of ours do not nest themselves, structs of Google do."""

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_ODD_TEXTS = (
    *("\0", "\x1b[2J", "a" * 5_000, "%", "\u0065\u0301", "\u00e9", "\U0001f642"),
    *("../../etc/passwd", "s3://bucket/../key", "file:///etc/passwd", "projects/-/influenceJobs/-"),
)


def messages(
    descriptor: Descriptor, *, texts: Sequence[str] = (), depth: int = MAX_DEPTH
) -> st.SearchStrategy[Message]:
    """Messages of a type, each field absent or set.

    Args:
        descriptor: The type.
        texts: Texts that mean something to the receiver, such as names of things that exist.
        depth: Messages below it are empty.
    """
    fields = {
        field.name: _values(field, texts, depth)
        for field in descriptor.fields
        if depth or field.cpp_type != FieldDescriptor.CPPTYPE_MESSAGE
    }
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: _made(descriptor, values))


def _made(descriptor: Descriptor, values: Mapping[str, Any]) -> Message:
    """The last of several members of a oneof wins, as on the wire."""
    message = GetMessageClass(descriptor)()
    for name, value in values.items():
        field = descriptor.fields_by_name[name]
        if not field.is_repeated:
            _set(message, field, value)
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            _fill_map(message, field, value)
        else:
            getattr(message, name).extend(value)
    return message


def _set(message: Message, field: FieldDescriptor, value: Any) -> None:
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        getattr(message, field.name).CopyFrom(value)
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, value)


def _fill_map(message: Message, field: FieldDescriptor, entries: Sequence[Any]) -> None:
    target = getattr(message, field.name)
    for entry in entries:
        if isinstance(entry.value, Message):
            target[entry.key].CopyFrom(entry.value)
        else:
            target[entry.key] = entry.value


def _values(field: FieldDescriptor, texts: Sequence[str], depth: int) -> st.SearchStrategy[Any]:
    one = _one(field, texts, depth)
    return st.lists(one, max_size=3) if field.is_repeated else one


def _one(field: FieldDescriptor, texts: Sequence[str], depth: int) -> st.SearchStrategy[Any]:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_MESSAGE:
        assert field.message_type is not None
        return messages(field.message_type, texts=texts, depth=depth - 1)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        assert field.enum_type is not None
        return st.sampled_from([*(value.number for value in field.enum_type.values), 1_000_000])
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return st.binary(max_size=64) if field.type == FieldDescriptor.TYPE_BYTES else _texts(texts)
    return _numbers(kind)


def _texts(known: Sequence[str]) -> st.SearchStrategy[str]:
    plain = st.text(string.ascii_lowercase + string.digits + "-_/.:", max_size=40)
    return st.one_of(st.sampled_from([*known, *_ODD_TEXTS]), plain, st.text(max_size=40).filter(_encodable))


def _numbers(kind: int) -> st.SearchStrategy[Any]:
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind in _INTEGERS:
        low, high = _INTEGERS[kind]
        return st.one_of(st.integers(max(low, -2), 100), st.integers(low, high))
    return st.floats(width=32 if kind == FieldDescriptor.CPPTYPE_FLOAT else 64)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

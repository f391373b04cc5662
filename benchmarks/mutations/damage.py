"""Damage: to the bytes of a file, or to the fields of a model."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, cast

import onnx
from google.protobuf.message import EncodeError, Message

from ingot.compiler.frontend.wire import cut_payloads

NUMBERS = (0, 1, -1, 2, 3, 7, 255, 2**31 - 1, 2**31, -(2**31), 2**32, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e30, 1e-30, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "x", "y", "a", "n", "\0", "0", "/", "..", "ai.onnx", "com.example", "x" * 5000, "é")



def damaged_bytes(data: bytes, source: random.Random, places: Sequence[int]) -> bytes:
    """Bytes changed, most of them at `places`, or a piece left out, repeated or moved."""
    changed = bytearray(data)
    action = source.random()
    if action < 0.75:
        for _ in range(source.choice((1, 1, 1, 2, 3, 8))):
            place = source.choice(places) if source.random() < 0.95 else source.randrange(len(changed))
            changed[place] = source.choice((0, 1, 0x7F, 0x80, 0xFF, changed[place] ^ 1 << source.randrange(8)))
    elif action < 0.85:
        del changed[source.randrange(len(changed)) :]
    else:
        start = source.choice(places)
        end = min(start + source.choice((1, 2, 8, 100)), len(changed))
        piece = changed[start:end]
        if source.random() < 0.5:
            del changed[start:end]
        at = source.choice(places)
        changed[at:at] = piece if source.random() < 0.7 else source.randbytes(len(piece))
    return bytes(changed)


def structure(data: bytes) -> list[int]:
    """Places of a serialised model that are not the contents of large weights."""
    payloads = [range(start, start + length) for start, length in cut_payloads(memoryview(data)).payloads]
    weights = {place for payload in payloads for place in payload}
    return [place for place in range(len(data)) if place not in weights]


def damaged_message(data: bytes, source: random.Random) -> bytes:
    """One to three fields of the model changed, left out or repeated."""
    model = onnx.ModelProto.FromString(data)
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        fields = list(_fields(model))
        message, name = source.choice(fields)
        _damage(message, name, source, fields)
    try:
        return model.SerializeToString()
    except EncodeError:  # a message within itself
        return data


def _fields(message: Message) -> Iterator[tuple[Message, str]]:
    for descriptor, value in message.ListFields():
        if descriptor.name in ("raw_data", "float_data"):  # contents, not structure
            continue
        yield message, descriptor.name
        if descriptor.type == descriptor.TYPE_MESSAGE:
            for item in (value,) if isinstance(value, Message) else cast("Sequence[Message]", value):
                yield from _fields(item)


def _damage(message: Message, name: str, source: random.Random, fields: Sequence[tuple[Message, str]]) -> None:
    value: Any = getattr(message, name)
    if isinstance(value, Message):
        if source.random() < 0.3:
            message.ClearField(name)
        return
    if not isinstance(value, str | bytes | int | float):
        if not len(value):
            return
        place = source.randrange(len(value))
        action = source.random()
        if action < 0.3:
            del value[place]
        elif isinstance(value[0], Message):
            other = source.randrange(len(value))
            if action < 0.5:
                value.add().CopyFrom(value[place])
            elif action < 0.8:
                kept = type(value[place]).FromString(value[place].SerializeToString())
                value[place].CopyFrom(value[other])
                value[other].CopyFrom(kept)
            else:
                value[place].Clear()
        elif action < 0.5:
            value.insert(place, value[source.randrange(len(value))])
        else:
            _assign(value, place, _other(value[place], source, fields))
        return
    if source.random() < 0.15:
        message.ClearField(name)
    else:
        _assign(message, name, _other(value, source, fields))


def _assign(target: Any, key: int | str, value: object) -> None:
    try:
        if isinstance(key, str):
            setattr(target, key, value)
        else:
            target[key] = value
    except (ValueError, TypeError):  # too large for the field, or no text
        return


def _other(value: object, source: random.Random, fields: Sequence[tuple[Message, str]]) -> object:
    """Another value of the kind of `value`: a telling one, a neighbour, or one from elsewhere in the model."""
    like = [v for m, n in fields if type(v := getattr(m, n)) is type(value)]
    if like and source.random() < 0.4:
        return source.choice(like)
    if isinstance(value, str):
        names = [name for m, n in fields if n in ("input", "output") for name in getattr(m, n) if isinstance(name, str)]
        return source.choice(names) if names and source.random() < 0.5 else source.choice(TEXTS)
    if isinstance(value, bytes):
        return source.choice(TEXTS).encode()
    if isinstance(value, float):
        return source.choice(FLOATS)
    assert isinstance(value, int)
    return source.choice((value + 1, value - 1, -value, *NUMBERS))

"""The protobuf wire format of a model, read just far enough to take large tensor payloads out of it.

ONNX stores weights as `raw_data` bytes inside nested messages. Parsing them with a protobuf library copies every byte
and stops at 2 GB. `cut_payloads` walks the message tree, leaves out each large payload and puts in its place an
`external_data` entry with the payload's number; what remains is a small model that any protobuf library parses, and
the payloads are ranges of the file. Encoding: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ingot.compiler.frontend.errors import ModelError

SMALLEST_PAYLOAD = 1024  # shorter ones are left in place: copying them costs less than a mapping
DEPTH = 100  # protobuf's own limit on nested messages
PAYLOAD_KEY = "ingot.payload"  # the external_data key that names a cut payload

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_RAW_DATA, _EXTERNAL_DATA = 9, 13  # fields of TensorProto

# message -> field number -> the message type of that field, for those that can contain tensors
_NESTED: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}


@dataclass(frozen=True)
class Skeleton:
    """A serialised model without its large payloads, and where those lie in the original: (offset, length) pairs."""

    data: bytes
    payloads: tuple[tuple[int, int], ...]


@dataclass
class _Rebuilt:
    """Pieces of a message and their total length."""

    pieces: list[bytes] = field(default_factory=list[bytes])
    length: int = 0

    def append(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self.length += len(piece)

    def extend(self, other: _Rebuilt) -> None:
        self.pieces.extend(other.pieces)
        self.length += other.length


def cut_payloads(data: memoryview) -> Skeleton:
    """Cut every `raw_data` of at least `SMALLEST_PAYLOAD` bytes out of a serialised ModelProto.

    Raises ModelError when the bytes are not a well-formed message: truncated, lengths beyond the end, unknown wire
    types, nested too deeply.
    """
    payloads: list[tuple[int, int]] = []
    rebuilt = _rebuild(data, 0, len(data), "model", payloads, 0)
    return Skeleton(b"".join(rebuilt.pieces), tuple(payloads))


def _rebuild(
    data: memoryview, start: int, end: int, message: str, payloads: list[tuple[int, int]], depth: int
) -> _Rebuilt:
    if depth > DEPTH:
        raise ModelError(f"messages are nested more than {DEPTH} deep", remedy="this is not an ONNX model")
    nested = _NESTED[message]
    result = _Rebuilt()
    kept = position = start  # data[kept:position] is copied unchanged
    while position < end:
        field_start = position
        tag, position = _read_varint(data, position, end)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise _malformed(field_start, "field number 0")
        if wire_type == _VARINT:
            _, position = _read_varint(data, position, end)
            continue
        if wire_type in (_FIXED64, _FIXED32):
            position += 8 if wire_type == _FIXED64 else 4
            if position > end:
                raise _malformed(field_start, "the file ends inside a number")
            continue
        if wire_type != _BYTES:
            raise _malformed(field_start, f"wire type {wire_type}")
        length, position = _read_varint(data, position, end)
        if length > end - position:
            raise _malformed(field_start, f"a field of {length} bytes where {end - position} are left")
        content, position = position, position + length
        if length < SMALLEST_PAYLOAD:
            continue
        if message == "tensor" and number == _RAW_DATA:
            result.append(bytes(data[kept:field_start]))
            result.append(_payload_entry(len(payloads)))
            payloads.append((content, length))
            kept = position
        elif number in nested:
            inner = _rebuild(data, content, position, nested[number], payloads, depth + 1)
            if inner.length != length:
                result.append(bytes(data[kept:field_start]))
                result.append(varint(tag) + varint(inner.length))
                result.extend(inner)
                kept = position
    result.append(bytes(data[kept:end]))
    return result


def _payload_entry(number: int) -> bytes:
    """A serialised `external_data` field of TensorProto: {key: PAYLOAD_KEY, value: number}."""
    entry = _length_delimited(1, PAYLOAD_KEY.encode()) + _length_delimited(2, str(number).encode())
    return _length_delimited(_EXTERNAL_DATA, entry)


def _length_delimited(number: int, content: bytes) -> bytes:
    return varint(number << 3 | _BYTES) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first (https://protobuf.dev/programming-guides/encoding)."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    start = position
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift >= 70:
            raise _malformed(start, "a number of more than ten bytes")
    raise _malformed(start, "the file ends inside a number")


def _malformed(position: int, problem: str) -> ModelError:
    return ModelError(
        f"not a well-formed ONNX model: {problem} at byte {position}",
        remedy="the file is truncated, damaged or not an ONNX model: export or download it again",
    )

"""The container of an artifact: a ZIP file with stored members, each at a place that can be mapped.

One shape only. Members follow each other without gaps and without compression; each local header is padded by a private
extra field so that the data begins at a multiple of the member's alignment; times are fixed; ZIP64 records appear where
a number needs them and nowhere else. Any ZIP tool can read the file. The reader here rebuilds every header from the
central directory and compares it byte for byte with the file, which leaves nothing in which two readers could differ:
no duplicates, overlaps, traversal, compression, hidden or trailing bytes, headers that disagree.
Format: PKWARE APPNOTE.TXT 6.3.10.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import FileIO
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ingot.runtime.errors import ArtifactError, InputError, RuntimeFault

Buffer = bytes | bytearray | memoryview | npt.NDArray[Any]

MAX_ALIGNMENT: Final = 65536

_LOCAL: Final = struct.Struct("<4s5H3I2H")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_END: Final = struct.Struct("<4s4H2IH")
_END64: Final = struct.Struct("<4sQ2H2I4Q")
_LOCATOR: Final = struct.Struct("<4sIQI")
_EXTRA: Final = struct.Struct("<HH")
_LOCAL_SIGNATURE: Final = b"PK\x03\x04"
_CENTRAL_SIGNATURE: Final = b"PK\x01\x02"
_END_SIGNATURE: Final = b"PK\x05\x06"
_END64_SIGNATURE: Final = b"PK\x06\x06"
_LOCATOR_SIGNATURE: Final = b"PK\x06\x07"

_TIME: Final = 0
_DATE: Final = 0x21  # 1 January 1980, the earliest that the format can say
_MADE_BY: Final = 3 << 8 | 45  # Unix, so that the permissions below are understood
_PERMISSIONS: Final = (stat.S_IFREG | 0o644) << 16
_VERSION: Final = 20
_VERSION64: Final = 45
_ZIP64_FIELD: Final = 1
_PADDING_FIELD: Final = 0x4E49  # "IN", in the range left to private use
_LIMIT16: Final = 0xFFFF
_LIMIT32: Final = 0xFFFFFFFF
# Every local header has room for the ZIP64 field and an empty padding field, so that the place of the data does not
# depend on a size that is known only once a stream has ended.
_LEAST_EXTRA: Final = 2 * _EXTRA.size + 16
# An extra field holds less than 64 KiB. Where alignment asks for more, the header begins this many zero bytes later.
_GAP: Final = 64
_COPY_BYTES: Final = 1 << 20
_PART: Final = r"(?!\.+(?:/|\Z))[A-Za-z0-9_+=@.-]+"  # dots alone are no name
_NAME: Final = re.compile(f"(?=.{{1,255}}\\Z){_PART}(?:/{_PART})*")


class Member(NamedTuple):
    """A member to be written.

    `name` is a relative path of ASCII letters, digits and `_+=@.-`, with `/` between its parts. `data` is a buffer, a
    C-contiguous array, or an iterator over those, which is read once and never held as a whole. Its first byte is put
    at a multiple of `alignment` bytes, a power of two up to 65536.
    """

    name: str
    data: Buffer | Iterator[Buffer]
    alignment: int = 64


class Entry(NamedTuple):
    """A member of a container: its data are the `size` bytes at `offset` of the file."""

    name: str
    offset: int
    size: int
    crc32: int


def write(path: str | os.PathLike[str], members: Sequence[Member]) -> None:
    """Write a container, members in the order given; the same members give the same bytes.

    The file appears under `path` complete and synchronised to the disk, or not at all; a file that was there is
    replaced, and processes that have mapped it keep the old one. A symbolic link is followed. Raises InputError for
    names, alignments or data that cannot be written and for a path that is something else than a regular file (a
    device, a pipe), OSError when the file system refuses.
    """
    from ingot.runtime.replacement import replaced_durably  # here, as those who only read need nothing that it imports

    with replaced_durably(path) as temporary, open(temporary, "xb") as file:
        write_to(file, members)


def write_to(file: BinaryIO, members: Sequence[Member]) -> None:
    """Write a container into an empty, seekable file, such as an anonymous memory file. Raises as `write` does."""
    _check_members(members)
    _write_members(file, members)


def read(path: str | os.PathLike[str]) -> Container:
    """Open a container and check its structure; member data is checked by `Container.verify` or a digest.

    Raises ArtifactError for anything that `write` would not have written, OSError when the file cannot be opened.
    """
    return Container(path)


class Container:
    """An open container, mapped read-only.

    `members` maps names to entries in file order. Arrays from `view` stay valid after `close`, as long as anyone holds
    them. The file must not be written or truncated meanwhile (touching what was cut off kills the process with SIGBUS):
    replace artifacts by rename, as `write` does.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = _checked_path(path)
        self._file = FileIO(self.path)
        try:
            status = os.fstat(self._file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size < _END.size:
                raise ArtifactError(f"{self.path}: not an artifact: not a file, or too short to be a ZIP archive")
            mapped = mmap.mmap(self._file.fileno(), status.st_size, access=mmap.ACCESS_READ)
            self._bytes: npt.NDArray[np.uint8] | None = np.frombuffer(mapped, np.uint8)
            try:
                self.members: Mapping[str, Entry] = MappingProxyType(_read_entries(mapped))
            except ArtifactError as error:
                raise ArtifactError(f"{self.path}: {error}") from None
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Descriptor of the open file, for mapping members in other ways. Raises RuntimeFault once closed."""
        if self._file.closed:
            raise RuntimeFault(f"{self.path}: the container is closed")
        return self._file.fileno()

    def entry(self, name: str) -> Entry:
        """The entry of a member. Raises ArtifactError if there is none."""
        entry = self.members.get(name)
        if entry is None:
            raise ArtifactError(f"{self.path}: no member {name!r}; there are {', '.join(self.members) or 'none'}")
        return entry

    def view(self, name: str) -> npt.NDArray[np.uint8]:
        """A member's bytes as a read-only array over the mapped file, aligned as the member was written."""
        entry = self.entry(name)
        if self._bytes is None:
            raise RuntimeFault(f"{self.path}: the container is closed")
        return self._bytes[entry.offset : entry.offset + entry.size]

    def sha256(self, name: str) -> str:
        """SHA-256 of a member's bytes as they are now, in hexadecimal. Reads all of them."""
        return hashlib.sha256(self.view(name).data).hexdigest()

    def verify(self, name: str) -> None:
        """Compare a member's bytes with its CRC-32. Reads all of them. Raises ArtifactError if they differ.

        This detects damage; it says nothing about who wrote the file.
        """
        self.claim(name)()

    def claim(self, name: str) -> Callable[[], memoryview]:
        """A function that gives a member's bytes after comparing them with their CRC-32, as `verify` does; it can be
        called after `close`."""
        data, entry, path = self.view(name).data, self.entry(name), self.path

        def give() -> memoryview:
            if zlib.crc32(data) != entry.crc32:
                raise ArtifactError(f"{path}: member {name!r} is damaged: its content does not match its CRC-32")
            return data

        return give

    def close(self) -> None:
        """Close the file. The mapping ends with the last array that `view` returned."""
        self._bytes = None
        self._file.close()

    def __enter__(self) -> Container:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _checked_path(path: str | os.PathLike[str]) -> str:
    try:
        text = os.fspath(path)
    except TypeError:
        text = path
    if not isinstance(text, str) or "\0" in text:
        shown = "a path with a NUL character" if isinstance(text, str) else f"of type {type(path).__name__}"
        raise InputError(f"the path of an artifact is a str or os.PathLike[str]; this is {shown}")
    return text


# The headers, each in the only form in which it is written and accepted.


def _local_header(entry: Entry, extra_size: int) -> bytes:
    name, _, size, crc = entry
    extra, version = b"", _VERSION
    if size >= _LIMIT32:
        extra, version = _EXTRA.pack(_ZIP64_FIELD, 16) + struct.pack("<2Q", size, size), _VERSION64
        size = _LIMIT32
    padding = extra_size - len(extra) - _EXTRA.size
    extra += _EXTRA.pack(_PADDING_FIELD, padding) + bytes(padding)
    fields = (_LOCAL_SIGNATURE, version, 0, 0, _TIME, _DATE, crc, size, size, len(name), len(extra))
    return _LOCAL.pack(*fields) + name.encode("ascii") + extra


def _central_header(entry: Entry, header_offset: int) -> bytes:
    name, _, size, crc = entry
    extra, version = b"", _VERSION
    if size >= _LIMIT32 or header_offset >= _LIMIT32:
        wide = struct.pack("<2Q", size, size) if size >= _LIMIT32 else b""
        wide += struct.pack("<Q", header_offset) if header_offset >= _LIMIT32 else b""
        extra, version = _EXTRA.pack(_ZIP64_FIELD, len(wide)) + wide, _VERSION64
        size, header_offset = min(size, _LIMIT32), min(header_offset, _LIMIT32)
    fields = (_MADE_BY, version, 0, 0, _TIME, _DATE, crc, size, size, len(name), len(extra), 0, 0, 0)
    return _CENTRAL.pack(_CENTRAL_SIGNATURE, *fields, _PERMISSIONS, header_offset) + name.encode("ascii") + extra


def _end_records(count: int, directory_offset: int, directory_size: int) -> bytes:
    short = (min(count, _LIMIT16), min(directory_size, _LIMIT32), min(directory_offset, _LIMIT32))
    end = _END.pack(_END_SIGNATURE, 0, 0, short[0], short[0], short[1], short[2], 0)
    if short[0] < _LIMIT16 and max(short[1:]) < _LIMIT32:
        return end
    end64 = _END64.pack(
        _END64_SIGNATURE, _END64.size - 12, _VERSION64, _VERSION64, 0, 0, count, count, directory_size, directory_offset
    )
    return end64 + _LOCATOR.pack(_LOCATOR_SIGNATURE, 0, directory_offset + directory_size, 1) + end


# Writing


def _check_members(members: Sequence[Member]) -> None:
    names: set[str] = set()
    for member in members:
        if not _NAME.fullmatch(member.name):
            raise InputError(f"{member.name!r} cannot name a member: use letters, digits, _+=@.- and / between parts")
        if member.name in names:
            raise InputError(f"member {member.name!r} is given twice")
        names.add(member.name)
        if member.alignment & (member.alignment - 1) or not 1 <= member.alignment <= MAX_ALIGNMENT:
            raise InputError(f"member {member.name!r}: alignment {member.alignment} is not a power of two up to 65536")
        if not isinstance(member.data, Iterator):
            _as_bytes(member.name, member.data)


def _as_bytes(name: str, data: Buffer) -> memoryview:
    if isinstance(data, np.ndarray):
        if not data.flags.c_contiguous or data.dtype.hasobject:
            raise InputError(f"member {name!r}: the array is not plain C-contiguous data; use numpy.ascontiguousarray")
        # By way of bytes, because types such as bfloat16 do not offer a buffer of their own.
        return data.reshape(-1).view(np.uint8).data
    try:
        view = memoryview(data)
        return view.cast("B") if view.nbytes else memoryview(b"")
    except TypeError:
        raise InputError(f"member {name!r}: {type(data).__name__} is not a contiguous buffer of bytes") from None


def _pieces(member: Member) -> Iterator[memoryview]:
    parts = member.data if isinstance(member.data, Iterator) else (member.data,)
    for part in parts:
        view = _as_bytes(member.name, part)
        for start in range(0, len(view), _COPY_BYTES):
            yield view[start : start + _COPY_BYTES]


def _write_members(file: BinaryIO, members: Sequence[Member]) -> None:
    position = 0
    directory: list[bytes] = []
    for member in members:
        least = _LOCAL.size + len(member.name) + _LEAST_EXTRA
        data_offset = (position + least + member.alignment - 1) & -member.alignment
        if data_offset - position - least + _LEAST_EXTRA > _LIMIT16:
            file.write(bytes(_GAP))
            position += _GAP
        extra_size = data_offset - position - least + _LEAST_EXTRA
        file.write(bytes(data_offset - position))
        crc = size = 0
        for piece in _pieces(member):
            crc = zlib.crc32(piece, crc)
            size += len(piece)
            file.write(piece)
        entry = Entry(member.name, data_offset, size, crc)
        file.seek(position)
        file.write(_local_header(entry, extra_size))
        file.seek(data_offset + size)
        directory.append(_central_header(entry, position))
        position = data_offset + size
    content = b"".join(directory)
    file.write(content + _end_records(len(directory), position, len(content)))


# Reading


def _read_entries(data: mmap.mmap) -> dict[str, Entry]:
    count, directory_offset, directory_size = _read_end(data)
    directory = data[directory_offset : directory_offset + directory_size]
    entries: dict[str, Entry] = {}
    position = end = 0
    for _ in range(count):
        entry, header_offset, central = _read_central(directory, position)
        if directory[position : position + len(central)] != central:
            raise ArtifactError(f"the central directory describes {entry.name!r} in a way that is not accepted")
        position += len(central)
        if entry.name in entries:
            raise ArtifactError(f"member {entry.name!r} is there twice")
        entry = _check_local(data, entry, header_offset, end, directory_offset)
        entries[entry.name] = entry
        end = entry.offset + entry.size
    if position != directory_size or end != directory_offset:
        raise ArtifactError("there are bytes that belong to no member")
    return entries


def _read_end(data: mmap.mmap) -> tuple[int, int, int]:
    start = len(data) - _END.size
    signature, _, _, _, count, size, offset, _ = _END.unpack(data[start:])
    if signature != _END_SIGNATURE:
        raise ArtifactError("not an artifact, or cut short, or with bytes added at its end")
    if count == _LIMIT16 or size == _LIMIT32 or offset == _LIMIT32:
        start -= _LOCATOR.size + _END64.size
        if start < 0:
            raise ArtifactError("the ZIP64 end record is missing")
        *_, count, size, offset = _END64.unpack(data[start : start + _END64.size])
    if offset + size != start or count > size // _CENTRAL.size or data[start:] != _end_records(count, offset, size):
        raise ArtifactError("the end record does not agree with the file; it is damaged or was changed")
    return count, offset, size


def _read_central(directory: bytes, position: int) -> tuple[Entry, int, bytes]:
    """The entry at `position` (without its offset), the offset of its local header, the bytes that must stand there."""
    if position + _CENTRAL.size > len(directory):
        raise ArtifactError("the central directory is cut short")
    fields = _CENTRAL.unpack_from(directory, position)
    signature, _, _, _, method, _, _, crc, packed, size, name_size, extra_size, _, _, _, _, offset = fields
    if signature != _CENTRAL_SIGNATURE:
        raise ArtifactError("the central directory is damaged")
    start = position + _CENTRAL.size
    try:
        name = directory[start : start + name_size].decode("ascii")
    except UnicodeDecodeError:
        name = ""
    if not _NAME.fullmatch(name):
        raise ArtifactError(f"a member has a name that is not accepted: {directory[start : start + name_size]!r}")
    if method:
        raise ArtifactError(f"member {name!r} is compressed (method {method}); members are stored")
    if packed != size:
        raise ArtifactError(f"member {name!r} has two sizes: {packed} and {size}")
    extra = directory[start + name_size : start + name_size + extra_size]
    if len(extra) in (12, 20, 28):
        wide = [value for (value,) in struct.iter_unpack("<Q", extra[_EXTRA.size :])]
        if size == _LIMIT32 and len(wide) >= 2:
            size = wide[0]
        if offset == _LIMIT32 and wide:
            offset = wide[-1]
    entry = Entry(name, 0, size, crc)
    return entry, offset, _central_header(entry, offset)


def _check_local(data: mmap.mmap, entry: Entry, header_offset: int, end: int, limit: int) -> Entry:
    if header_offset != end and (header_offset != end + _GAP or any(data[end:header_offset])):
        raise ArtifactError(f"member {entry.name!r} does not begin where the one before it ends")
    if header_offset + _LOCAL.size > limit:
        raise ArtifactError(f"member {entry.name!r} lies outside the file")
    *_, extra_size = _LOCAL.unpack(data[header_offset : header_offset + _LOCAL.size])
    offset = header_offset + _LOCAL.size + len(entry.name) + extra_size
    if extra_size < _LEAST_EXTRA or offset + entry.size > limit:
        raise ArtifactError(f"member {entry.name!r} lies outside the file or is not padded as an artifact's are")
    if data[header_offset:offset] != _local_header(entry, extra_size):
        raise ArtifactError(f"member {entry.name!r}: its local header does not agree with the central directory")
    return Entry(entry.name, offset, entry.size, entry.crc32)

"""Loads the machine code of an artifact: maps closed shared objects into this process.

A closed object imports nothing, so the system's dynamic linker is not needed. Segments are mapped straight from the
artifact file; executable memory is never written and then re-protected, so the loader works where a policy forbids
that, and clean pages stay shared between processes. All checks are made on a private copy of the bytes before anything
is mapped, and only values from that copy steer writes into memory.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import re
import stat
from contextlib import suppress
from types import TracebackType
from typing import Final

from ingot.runtime.elf import PF_W, PF_X, Layout, Segment, host_machine, read_layout, round_down, round_up
from ingot.runtime.errors import ArtifactError, RuntimeFault

_PROT_NONE: Final = 0
_MAP_FIXED: Final = 0x10
_MFD_NOEXEC_SEAL: Final = 0x8
# A mount with noexec answers EPERM, a security module EACCES, a file system without mmap ENODEV.
_REFUSED_BY_FILE_SYSTEM: Final = (errno.EPERM, errno.EACCES, errno.ENODEV)

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
)  # fmt: skip
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_LIBC.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Image:
    """A closed shared object mapped into this process.

    `file` is a path, or a file descriptor that stays the caller's; the object is the `size` bytes (default: all that
    follow) at `offset`. It is mapped from that file when `offset` is a multiple of the page size and the file system
    allows execution, else from an anonymous memory file. With `debug_dir` (default: the environment variable
    INGOT_DEBUG_DIR) it is written there as `<name>-<digest>.so` and mapped from that, so that debuggers and profilers
    find its symbols: `add-symbol-file <path> -o <base>`. In names of files, what is not a letter, digit, dot, hyphen or
    underscore becomes a hyphen. `content` is the object's bytes where they have been read already.

    The file must not be written or truncated while mapped (touching what was cut off kills the process with SIGBUS):
    replace artifacts by rename. Garbage collection unmaps nothing; call `close` once no thread can run the code.

    Raises ArtifactError for malformed code or a mapping the system refuses, UnsupportedCpuError for another machine's
    code, OSError when `file` cannot be opened or read.
    """

    def __init__(
        self,
        file: int | str | os.PathLike[str],
        offset: int = 0,
        size: int | None = None,
        *,
        name: str = "code",
        debug_dir: str | os.PathLike[str] | None = None,
        content: bytes | None = None,
    ) -> None:
        descriptor = file if isinstance(file, int) else os.open(file, os.O_RDONLY)
        try:
            code = _read_range(descriptor, offset, size) if content is None else content
            self._load(code, descriptor, offset, name, debug_dir)
        finally:
            if not isinstance(file, int):
                os.close(descriptor)

    @classmethod
    def from_bytes(cls, code: bytes, *, name: str = "code", debug_dir: str | os.PathLike[str] | None = None) -> Image:
        """Load an object that exists only in memory, through an anonymous memory file."""
        image = cls.__new__(cls)
        image._load(code, None, 0, name, debug_dir)
        return image

    def _load(
        self,
        code: bytes,
        descriptor: int | None,
        offset: int,
        name: str,
        debug_dir: str | os.PathLike[str] | None,
    ) -> None:
        layout = read_layout(code, machine=host_machine(), page_size=mmap.PAGESIZE)
        debug_dir = debug_dir or os.environ.get("INGOT_DEBUG_DIR")
        self.path: str | None = None
        """File written for debuggers, if one was asked for."""
        self.in_memory: bool = False
        """Whether the code is mapped from an anonymous memory file rather than from a file with a name."""
        if debug_dir:
            self.path, base = _map_debug_file(code, layout, name, os.fspath(debug_dir))
        else:
            base = None
            if descriptor is not None and offset % mmap.PAGESIZE == 0:
                try:
                    base = _map_image(descriptor, offset, layout)
                except OSError as error:
                    if error.errno not in _REFUSED_BY_FILE_SYSTEM:
                        raise ArtifactError(f"machine code cannot be mapped: {error}") from error
            if base is None:
                base = _map_memory_file(code, layout, name)
                self.in_memory = True
        self._base: int | None = base
        self._layout = layout

    @property
    def base(self) -> int:
        """Address the image is loaded at. Raises RuntimeFault once closed."""
        if self._base is None:
            raise RuntimeFault("the image is closed: its code is no longer mapped")
        return self._base

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the exported functions."""
        return tuple(self._layout.symbols)

    def symbol(self, name: str) -> int:
        """Address of an exported function. Raises ArtifactError if there is none, RuntimeFault once closed."""
        address = self._layout.symbols.get(name)
        if address is None:
            known = ", ".join(self._layout.symbols) or "nothing"
            raise ArtifactError(f"machine code exports no function {name!r}; it exports {known}")
        return self.base + address

    def close(self) -> None:
        """Unmap the code; addresses handed out before become invalid. Closing twice is allowed."""
        base, self._base = self._base, None
        if base is not None:
            _munmap(base, self._layout.span)

    def __enter__(self) -> Image:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read_range(descriptor: int, offset: int, size: int | None) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactError("machine code: not a regular file")
    size = status.st_size - offset if size is None else size
    if offset < 0 or size < 0 or offset + size > status.st_size:
        raise ArtifactError(
            f"machine code: bytes {offset} to {offset + size} are asked of a file of {status.st_size} bytes"
        )
    code = os.pread(descriptor, size, offset)
    while len(code) < size:  # a file system may give less at once
        part = os.pread(descriptor, size - len(code), offset + len(code))
        if not part:
            raise ArtifactError("machine code: the file became shorter while it was read")
        code += part
    return code


def _mmap(address: int | None, size: int, protection: int, flags: int, descriptor: int, offset: int) -> int:
    result = _LIBC.mmap(address, size, protection, flags | mmap.MAP_PRIVATE, descriptor, offset)
    if result is None or result == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _munmap(address: int, size: int) -> None:
    if _LIBC.munmap(address, size):
        raise RuntimeFault(f"munmap failed: {os.strerror(ctypes.get_errno())}")


def _map_image(descriptor: int, offset: int, layout: Layout) -> int:
    """Map, relocate and protect; return the load address. Raises OSError with nothing left mapped."""
    # Reserve enough to cut an aligned range out of it, for objects built for larger pages than this kernel's.
    slack = layout.alignment - mmap.PAGESIZE
    start = _mmap(None, layout.span + slack, _PROT_NONE, mmap.MAP_ANONYMOUS, -1, 0)
    base = round_up(start, layout.alignment)
    if base > start:
        _munmap(start, base - start)
    if start + slack > base:
        _munmap(base + layout.span, start + slack - base)
    try:
        for segment in layout.segments:
            _map_segment(descriptor, offset, base, segment)
        for address, addend in layout.relocations:
            ctypes.c_uint64.from_address(base + address).value = base + addend
        if layout.relro is not None:
            first, last = layout.relro
            if first < last and _LIBC.mprotect(base + first, last - first, mmap.PROT_READ):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
    except BaseException:
        _munmap(base, layout.span)
        raise
    return base


def _map_segment(descriptor: int, offset: int, base: int, segment: Segment) -> None:
    protection = mmap.PROT_READ
    if segment.flags & PF_X:
        protection |= mmap.PROT_EXEC
    if segment.flags & PF_W:
        protection |= mmap.PROT_WRITE
    page = mmap.PAGESIZE
    first = round_down(segment.address, page)
    end = round_up(segment.end, page)
    file_end = segment.address + segment.file_size
    mapped_end = first
    if segment.file_size:
        mapped_end = round_up(file_end, page)
        position = offset + segment.offset - (segment.address - first)
        _mmap(base + first, mapped_end - first, protection, _MAP_FIXED, descriptor, position)
        if segment.flags & PF_W:
            ctypes.memset(base + file_end, 0, mapped_end - file_end)
    if end > mapped_end:
        _mmap(base + mapped_end, end - mapped_end, protection, _MAP_FIXED | mmap.MAP_ANONYMOUS, -1, 0)


def _map_memory_file(code: bytes, layout: Layout, name: str) -> int:
    try:
        descriptor = create_memory_file(f"ingot-{_plain(name)}")
        try:
            _write_all(descriptor, code)
            fcntl.fcntl(
                descriptor,
                fcntl.F_ADD_SEALS,
                fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL,
            )
            return _map_image(descriptor, 0, layout)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ArtifactError(f"machine code cannot be mapped from a memory file: {error}") from error


def create_memory_file(name: str) -> int:
    """Descriptor of a new anonymous file in memory; code can be mapped from it. Raises OSError."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        # Mappings stay executable; only execve of the file is given up, which strict kernels require.
        return os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create(name, flags)  # kernels before 6.3 do not know that flag


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)


def _map_debug_file(code: bytes, layout: Layout, name: str, directory: str) -> tuple[str, int]:
    path = os.path.join(directory, f"{_plain(name)}-{hashlib.sha256(code).hexdigest()[:16]}.so")
    temporary = f"{path}.{os.urandom(8).hex()}"
    try:
        # A new file under a name of its own, then a rename: a file that another process has mapped is never written.
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o755)
        try:
            _write_all(descriptor, code)
            os.replace(temporary, path)
            return path, _map_image(descriptor, 0, layout)
        finally:
            os.close(descriptor)
            with suppress(FileNotFoundError):
                os.unlink(temporary)
    except OSError as error:
        raise ArtifactError(
            f"machine code cannot be written to and mapped from {path!r}: {error}; "
            "INGOT_DEBUG_DIR must be a writable directory on a file system that allows execution"
        ) from error


def _write_all(descriptor: int, code: bytes) -> None:
    rest = memoryview(code)
    while rest:
        rest = rest[os.write(descriptor, rest) :]

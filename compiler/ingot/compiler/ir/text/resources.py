"""Where IR text keeps big arrays: a folder of ``<hash>.npy`` files, one per content."""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import numpy as np

from ingot.compiler.ir.text.arrays import Array
from ingot.runtime.replacement import replaced


class WeightFolder(MutableMapping[str, Array]):
    """Arrays by content hash in ``folder/<hash>.npy``; written once, read memory-mapped. The folder is made with the
    first array."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, key: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{16}", key):
            raise KeyError(key)
        return self.folder / f"{key}.npy"

    def __getitem__(self, key: str) -> Array:
        path = self._path(key)
        if not path.is_file():
            raise KeyError(key)
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def __setitem__(self, key: str, array: Array) -> None:
        path = self._path(key)
        self.folder.mkdir(parents=True, exist_ok=True)
        with replaced(path) as partial, partial.open("wb") as file:
            # numpy writes dtypes it did not define as raw bytes; say so explicitly
            plain = array if array.dtype.isbuiltin == 1 else array.view(f"V{array.dtype.itemsize}")
            plain = np.asarray(plain, order="C")
            # not numpy.save, whose OSError for a full disk does not say so
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(plain))
            file.write(plain.reshape(-1).view(np.uint8).data)

    def __delitem__(self, key: str) -> None:
        self._path(key).unlink()

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and re.fullmatch(r"[0-9a-f]{16}", key) is not None and self._path(key).is_file()

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self.folder.glob("*.npy")))

    def __len__(self) -> int:
        return sum(1 for _ in self)

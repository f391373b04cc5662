"""Files of arrays, numpy's .npy and .npz: read without pickle, written whole. Needs numpy and the runtime alone."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ingot.runtime.replacement import replaced

Arrays = dict[str, NDArray[Any]]


class ArrayFileError(ValueError):
    """A file is not there or holds something else than arrays; the message names it."""


def load_arrays(path: Path) -> NDArray[Any] | Arrays:
    """The array of an .npy file, or those of an .npz by name. Raises ArrayFileError, and OSError as `open` does."""
    if not os.path.isfile(path):
        raise ArrayFileError(f"{path}: there is no such file")
    try:
        loaded: Any = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return cast("NDArray[Any]", loaded)
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        why = "it holds Python objects or something else" if "pickle" in str(error) else str(error)
        raise ArrayFileError(f"{path} is not an array file of numpy (.npy or .npz): {why}") from error
    except MemoryError as error:
        raise ArrayFileError(f"{path} says that it holds more than there is memory for: {error}") from error


def as_declared(array: NDArray[Any], dtype: np.dtype[Any] | None) -> NDArray[Any]:
    """numpy's files have no name for bf16 and its like: they come back as raw bytes of their size. Strings come back as
    text of fixed length."""
    if array.dtype.kind == "U":
        return array.astype(object)
    raw = dtype is not None and array.dtype.kind == "V" and array.dtype.names is None
    return array.view(dtype) if raw and dtype is not None and array.dtype.itemsize == dtype.itemsize else array


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an .npz; the file appears complete or not at all. Any name may be used, unlike with numpy.savez. Strings
    are written as numpy's text of fixed length, which does not keep null characters at their ends."""
    with replaced(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                plain = array.astype(np.str_) if array.dtype.hasobject else np.asanyarray(array)
                np.lib.format.write_array(member, plain, allow_pickle=False)

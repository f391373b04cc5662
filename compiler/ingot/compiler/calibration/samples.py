"""Samples: what a model is run on, read from files, folders and Python one by one, and checked against its inputs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from ingot.compiler.array_files import ArrayFileError, Arrays, as_declared, load_arrays
from ingot.compiler.calibration.errors import CalibrationError
from ingot.compiler.calibration.images import PICTURES, Fit, Pictures
from ingot.compiler.calibration.interface import GraphInterface, interface_of
from ingot.compiler.calibration.preprocessing import Preprocessing
from ingot.compiler.ir.graph import Graph
from ingot.compiler.processing.steps import NO_STEPS, Steps
from ingot.runtime.errors import InputError
from ingot.runtime.inputs import collect, solve
from ingot.runtime.manifest import Manifest

ARRAYS = (".npy", ".npz")


@dataclass(frozen=True, eq=False)
class Sample:
    """What one run is given, an array for every input. `name` says where it comes from, for messages."""

    name: str
    arrays: Mapping[str, NDArray[Any]]


Given: TypeAlias = Sample | Mapping[str, Any] | NDArray[Any]
Source: TypeAlias = "str | Path | Given | Iterable[Given | str | Path] | Callable[[], Iterable[Given]]"


def read_samples(
    source: Source, graph: Graph, *, preprocess: Steps = NO_STEPS, fit: Fit = "crop", limit: int | None = None
) -> Iterator[Sample]:
    """The samples of `source`, as `graph` takes them, `limit` of them at most.

    `source` is one of

    - a file: .npz with an array for every input, or .npy for a model with one input;
    - a folder of such files, or of images, in the order of their paths, those of folders inside it too;
    - ``module:function``, or a function without arguments, which gives what can be iterated over;
    - a dict of arrays by input, or an array for a model with one input;
    - a list or an iterator of any of these.

    Where every array has one axis more in front than the input has, or its first axis is the same multiple of the
    extent that the input has there, the arrays hold several samples. `preprocess` are steps before inputs, as `compile`
    takes them: sources then give what the steps take, and images need a step ``image`` unless the model takes u8
    pictures. An image of another size is made to cover what is wanted and cut around its centre (`fit` is "crop") or
    stretched to it.

    Raises CalibrationError naming the file, the sample and the input: for what cannot be read, sources without samples,
    names, types and shapes that the model does not take, NaN and infinities. ProcessingError for steps.
    """
    if limit is not None and limit < 1:
        raise CalibrationError(f"{limit} samples are none: give at least 1, or no limit")
    steps = Preprocessing(graph, preprocess) if preprocess else None
    interface = interface_of(graph) if steps is None else steps.interface
    reader = _Reader(interface, Pictures(interface, fit, is_stepped=steps is not None))
    found = map(checker(interface), reader.read(source, ""))
    if steps is not None:
        found = (Sample(sample.name, steps.run(sample.arrays)) for sample in found)
    return _required(islice(found, limit), source)


def checker(interface: GraphInterface) -> Callable[[Sample], Sample]:
    """What checks that a sample fits `interface` and gives it with arrays of the exact types, or raises
    CalibrationError."""
    infos = interface.described
    names = [info.name for info in infos]

    def check(sample: Sample) -> Sample:
        given = {
            name: as_declared(array, next((i.dtype for i in infos if i.name == name), None))
            if isinstance(array, np.ndarray)  # pyright: ignore[reportUnnecessaryIsInstance]
            else array
            for name, array in sample.arrays.items()
        }
        try:
            arrays = collect(given, infos)
            solve(cast(Manifest, interface), [array.shape for array in arrays])
        except InputError as error:
            raise CalibrationError(f"{sample.name}: {error}") from None
        for name, array in zip(names, arrays, strict=True):
            if array.dtype.kind not in "biuO" and not (finite := np.isfinite(array)).all():
                place = [int(i) for i in np.argwhere(~finite)[0]]
                what = "NaN" if np.isnan(array).any() else "an infinity"
                raise CalibrationError(
                    f"{sample.name}: input {name!r} holds {what}, the first such value at {place}; ranges would mean "
                    "nothing: leave the sample out or mend it"
                )
        return Sample(sample.name, dict(zip(names, arrays, strict=True)))

    return check


def _by_input(given: Any, inputs: Sequence[str], name: str) -> Mapping[str, Any]:
    if isinstance(given, Mapping):
        return cast("Mapping[str, Any]", given)
    if not isinstance(given, np.ndarray):
        raise CalibrationError(
            f"{name} is of type {type(given).__name__}: a dict of arrays by input is needed, or an array for a model "
            "with one input"
        )
    if len(inputs) != 1:
        raise CalibrationError(
            f"{name} is one array, the model has the inputs {', '.join(map(repr, inputs)) or 'none'}: give a dict of "
            "arrays by input, or an .npz"
        )
    return {inputs[0]: given}


def _required(samples: Iterator[Sample], source: object) -> Iterator[Sample]:
    empty = True
    for sample in samples:
        empty = False
        yield sample
    if empty:
        shown = source if isinstance(source, str | Path) else f"a source of type {type(source).__name__}"
        raise CalibrationError(f"{shown} gives no samples: at least one is needed")


class _Reader:
    """Reads sources for what takes `interface`."""

    def __init__(self, interface: GraphInterface, pictures: Pictures) -> None:
        self.interface = interface
        self.inputs = [each.name for each in interface.inputs]
        self.pictures = pictures

    def read(self, source: Any, name: str) -> Iterator[Sample]:
        """The samples of a source called `name`."""
        match source:
            case Sample():
                yield source
            case str() | Path():
                yield from self._at(source)
            case Mapping() | np.ndarray():
                yield from self._split(_by_input(source, self.inputs, name or "the sample"), name or "sample")
            case _ if callable(source):
                yield from self.read(source(), name)
            case Iterable():
                for number, each in enumerate(cast("Iterable[Any]", source), 1):
                    yield from self.read(each, f"{name} {number}" if name else f"sample {number}")
            case _:
                raise CalibrationError(
                    f"{name or 'the source of samples'} is of type {type(source).__name__}: give a file, a folder, "
                    "arrays, a list of these or a function"
                )

    def _at(self, place: str | Path) -> Iterator[Sample]:
        path = Path(place)
        if path.is_dir():
            yield from self._folder(path)
        elif path.suffix.lower() in PICTURES:
            yield from self._pictures([path])
        elif path.suffix in ARRAYS or path.exists():
            yield from self._file(path)
        elif isinstance(place, str) and ":" in place:
            yield from self._given_by(place)
        else:
            raise CalibrationError(f"{place}: there is no such file or folder")

    def _given_by(self, place: str) -> Iterator[Sample]:
        """The samples of the function that a text names."""
        try:
            yield from self.read(named_function(place), place)
        except CalibrationError:
            raise
        except Exception as error:
            raise CalibrationError(f"{place} fails: {type(error).__name__}: {error}") from error

    def _folder(self, folder: Path) -> Iterator[Sample]:
        try:
            files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        except OSError as error:
            raise CalibrationError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from error
        arrays = [path for path in files if path.suffix in ARRAYS]
        pictures = [path for path in files if path.suffix.lower() in PICTURES]
        if not (arrays or pictures):
            raise CalibrationError(f"{folder} holds no samples: files that end in {', '.join((*ARRAYS, *PICTURES))}")
        if arrays and pictures:
            both = f"arrays ({arrays[0].name}) and images ({pictures[0].name})"
            raise CalibrationError(f"{folder} holds {both}: part them")
        for path in arrays:
            yield from self._file(path)
        yield from self._pictures(pictures)

    def _pictures(self, files: Sequence[Path]) -> Iterator[Sample]:
        for name, arrays in self.pictures.read(files):
            yield Sample(name, arrays)

    def _file(self, path: Path) -> Iterator[Sample]:
        try:
            loaded = load_arrays(path)
        except ArrayFileError as error:
            raise CalibrationError(str(error)) from error
        except OSError as error:
            raise CalibrationError(f"{path} cannot be read: {error.strerror or error}") from error
        arrays: Mapping[str, Any] = _by_input(loaded, self.inputs, str(path))
        if unknown := arrays.keys() - set(self.inputs):
            raise CalibrationError(
                f"{path}: it holds {', '.join(sorted(unknown))}, the model's inputs are {', '.join(self.inputs)}"
            )
        yield from self._split(arrays, str(path))

    def _split(self, arrays: Mapping[str, Any], name: str) -> Iterator[Sample]:
        """The samples that arrays hold."""
        shapes = {each.name: each.shape for each in self.interface.inputs}
        known = {key: shapes[key] for key, array in arrays.items() if key in shapes and isinstance(array, np.ndarray)}
        if len(known) != len(arrays) or not known:
            yield Sample(name, arrays)
            return
        held: Arrays = {key: arrays[key] for key in known}
        if all(held[key].ndim == len(shape) + 1 for key, shape in known.items()):
            counts = {array.shape[0] for array in held.values()}
            parts = {key: iter(array) for key, array in held.items()}
        else:
            steps = {key: _multiple(held[key], shape) for key, shape in known.items()}
            counts = {count for count, _ in steps.values()}
            if counts == {1} or 0 in counts:
                yield Sample(name, arrays)
                return
            parts = {key: _pieces(held[key], step) for key, (_, step) in steps.items()}
        if len(counts) != 1:
            told = ", ".join(f"{key} {list(array.shape)}" for key, array in held.items())
            raise CalibrationError(f"{name}: the arrays hold different numbers of samples: {told}")
        for number in range(1, next(iter(counts)) + 1):
            yield Sample(f"{name}[{number - 1}]", {key: np.asarray(next(part)) for key, part in parts.items()})


def _multiple(array: NDArray[Any], shape: Sequence[Any]) -> tuple[int, int]:
    """How many samples of `shape` follow each other along the first axis, 0 where that is not so, and the extent of
    each."""
    if array.ndim != len(shape) or not shape or not isinstance(shape[0], int) or not shape[0]:
        return (1 if array.ndim == len(shape) else 0), 0
    count, rest = divmod(array.shape[0], shape[0])
    return (0 if rest else count), shape[0]


def _pieces(array: NDArray[Any], step: int) -> Iterator[NDArray[Any]]:
    return (array[start : start + step] for start in range(0, array.shape[0], step))


def named_function(text: str) -> Callable[..., Any]:
    """The function that ``module:function`` names. Raises CalibrationError where there is none."""
    module, _, attribute = text.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise CalibrationError(f"{text}: there is no such file or folder, and no such function: {error}") from error
    if not callable(found):
        raise CalibrationError(f"{text} is a {type(found).__name__}, not a function")
    return found

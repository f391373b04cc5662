"""What becomes of a case: right, wrong, refused or failed; natively, by onnx.reference and by ONNX Runtime."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import process_time
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from onnx.backend.test.runner import Runner
from onnx.reference import ReferenceEvaluator

from benchmarks.conformance.cases import Case
from ingot.compiler.frontend.errors import UnsupportedError
from ingot.compiler.onnx_backend import prepare

Verdict: TypeAlias = Literal["right", "wrong", "refused", "failed"]
Run: TypeAlias = Callable[[list[Any]], Sequence[Any]]
PEERS = ("onnx.reference", "ONNX Runtime")


@dataclass(frozen=True)
class Result:
    """How a case came out. `refused`: the model was said not to be supported; `failed`: any other error, a defect.
    `milliseconds` is the processor time of compiling, `types` are the
    element types of the inputs; `peers` has the verdicts of the others."""

    name: str
    category: str
    domain: str
    operator: str
    opset: int
    verdict: Verdict
    reason: str = ""
    milliseconds: float = 0.0
    types: tuple[str, ...] = ()
    peers: dict[str, Verdict] = field(default_factory=dict[str, Verdict])


def judge(case: Case, *, peers: bool = True) -> Result:
    """Compile and run one case, without the cache."""
    start = process_time()
    compiled: list[float] = []

    def native(model: onnx.ModelProto) -> Run:
        prepared = prepare(model, cache=False)
        compiled.append(1000 * (process_time() - start))
        return prepared.run

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        case.model  # noqa: B018  read before the clock starts
        start = process_time()
        verdict, reason = _verdict(case, native, (UnsupportedError,))
        others: dict[str, Verdict] = {}
        if peers:
            # What these raise says little about why, so every error of theirs is a refusal.
            for name, make in zip(PEERS, (_reference, _onnxruntime), strict=True):
                others[name] = _verdict(case, make, (Exception,))[0]
    taken = compiled[0] if compiled else 0.0
    domain, operator, opset = case.operator
    found = (verdict, reason, taken, case.types, others)
    return Result(case.name, case.category, domain, operator, opset, *found)


def _verdict(
    case: Case, make: Callable[[onnx.ModelProto], Run], refusals: tuple[type[Exception], ...]
) -> tuple[Verdict, str]:
    try:
        run = make(case.model)
        for inputs, outputs in case.data_sets():
            found = run(inputs)
            if case.is_random:
                pairs = zip(outputs, found, strict=True)
                found = [e if (np.shape(f), f.dtype) == (e.shape, e.dtype) else f for e, f in pairs]
            try:
                pairs = _paired(outputs, found)
                Runner.assert_similar_outputs([e for e, _ in pairs], [f for _, f in pairs], case.rtol, case.atol)
            except (AssertionError, TypeError, AttributeError) as error:
                return "wrong", _shortened(error)
    except refusals as error:
        return "refused", _shortened(error)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {_shortened(error)}"
    return "right", ""


def _paired(expected: Sequence[Any], found: Sequence[Any]) -> list[tuple[Any, Any]]:
    """The tensors of outputs that may be sequences, each with what was expected: the runner takes the elements of a
    sequence for sequences themselves and fails at scalars. AssertionError where the numbers of elements differ."""
    if len(expected) != len(found):
        raise AssertionError(f"{len(expected)} outputs or elements are expected, not {len(found)}")
    pairs: list[tuple[Any, Any]] = []
    for e, f in zip(expected, found, strict=True):
        lists = isinstance(e, list | tuple) and isinstance(f, list | tuple)
        pairs += _paired(e, f) if lists else [(e, f)]  # pyright: ignore[reportUnknownArgumentType] - any list
    return pairs


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _reference(model: onnx.ModelProto) -> Run:
    evaluator = ReferenceEvaluator(model)
    names = [str(name) for name in evaluator.input_names]
    return lambda inputs: list(evaluator.run(None, dict(zip(names, inputs, strict=False))))


def _onnxruntime(model: onnx.ModelProto) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def run(inputs: list[Any]) -> Sequence[Any]:
        if not any(_is_foreign(x) for x in inputs):
            return session.run(None, dict(zip(names, inputs, strict=False)))
        # Types that numpy lacks go in and come out as ONNX Runtime's own values.
        make = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
        values = {
            name: make(np.ascontiguousarray(x), onnx.helper.np_dtype_to_tensor_dtype(x.dtype))
            for name, x in zip(names, inputs, strict=False)
        }
        return [value.numpy() for value in session.run_with_ort_values(None, values)]

    return run


def _is_foreign(item: Any) -> bool:
    """Whether it is an array of one of ml_dtypes' types."""
    return isinstance(item, np.ndarray) and item.dtype.kind == "V"


def judged(cases: Iterable[Case], jobs: int, *, peers: bool) -> list[Result]:
    """All cases in order, by `jobs` processes."""
    listed = list(cases)
    gc.collect()
    gc.freeze()  # the cases are many objects: each collection while compiling would look at them all
    if jobs == 1:
        return [judge(case, peers=peers) for case in listed]
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    _LISTED[:] = listed  # the processes are forked from this one, so that nobody makes the cases again
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        return list(pool.map(_numbered, range(len(listed)), [peers] * len(listed), chunksize=8))


_LISTED: list[Case] = []


def _numbered(index: int, peers: bool) -> Result:
    return judge(_LISTED[index], peers=peers)

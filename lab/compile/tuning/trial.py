"""One trial: build a kernel by itself with a choice, compare its outputs with the untuned kernel's, time both in turns.

Weights come from beyond the second-level cache, as they do in a whole network: each call reads another copy of them.
What the kernel before it would have written, its other inputs, stays in cache.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tvm
from tvm.ir import GenericConst
from tvm.tirx import PrimFunc

from lab.compile.passes.pack_weights import pack
from lab.compile.passes.schedule_kernels import constant_args, kernel_calls, schedule_kernel
from lab.compile.pipeline import NOALIAS, fuse
from lab.compile.schedules.kernel import Kernel
from lab.compile.targets import Target
from lab.compile.tuning.choices import Choices
from lab.compile.tuning.decisions import Choice
from lab.compile.tuning.stats import Comparison, compared
from lab.compile.tuning.tasks import Task
from lab.core.errors import last_line

ENTRY = "kernel"
STREAMED_BYTES = 16 << 20
MAX_COPIES = 32
TURN_S = 1e-3
"""A turn is so many calls as take about this long."""
MIN_PAIRS, MAX_PAIRS = 9, 400
TOLERANCE = {"float32": 2e-4, "float16": 2e-2}
"""Largest difference from the untuned kernel's outputs, relative to the largest of them."""
LARGEST_BYTE = 16


class TrialFailed(Exception):  # noqa: N818  an answer: this candidate is out
    """A candidate that cannot be built or computes something else; the text says why."""


@dataclass(frozen=True)
class Candidate:
    """A kernel built with one choice, and its arguments: arrays, or constants as the kernel wants them stored."""

    func: PrimFunc
    rule: str
    taken: dict[str, tuple[Any, list[Any]]]
    """Decision -> (its value, all options)."""
    arrays: tuple[np.ndarray, ...]
    constant: tuple[bool, ...]
    output: np.ndarray


def prepare(task: Task, target: Target, known: Mapping[Any, Choice], choice: Choice | None) -> Candidate:
    """Schedule the task's kernel: by its rule, or by `choice`; other kernels' choices are `known`.

    Raises:
        TrialFailed: there is no such kernel with this choice.
    """
    others = {identity: each for identity, each in known.items() if identity != task.identity}
    choices = Choices(others | ({task.identity: choice} if choice else {}))
    mod = tvm.ir.load_json(task.module)
    with target.to_tvm():
        if task.level == "operator":
            mod = fuse(mod, target, choices)
        calls = [(name, call) for name, found in kernel_calls(mod)[0].items() for call in found]
        if len(calls) != 1:
            raise TrialFailed(f"{len(calls)} kernels instead of one")
        name, call = calls[0]
        func = next(func for var, func in mod.functions.items() if str(var.name_hint) == name)
        kernel = Kernel(name, func, constant_args([call]))
        scheduled, row = schedule_kernel(kernel, target, choices)
    decided = choices.decisions.get(str(task.identity) if task.level == "operator" else name)
    if scheduled is None or decided is None:
        raise TrialFailed(f"no rule fits: {row.reason}")
    if choice is not None and dict(decided.chosen) != dict(choice.parameters):
        raise TrialFailed(row.reason or "the choice is not the rule's")
    rng = np.random.default_rng(0)
    arrays, constant = [], []
    for i, arg in enumerate(call.args[1]):
        is_constant = isinstance(arg, GenericConst)
        array = arg.value.numpy() if is_constant else example(rng, arg.ty)
        arrays.append(pack(array, scheduled.packings[i]) if i in scheduled.packings else array)
        constant.append(is_constant)
    out = func.params[-1]
    output = np.zeros([int(dim) for dim in out.shape], str(out.dtype))
    if len(func.params) != len(arrays) + 1:
        raise TrialFailed("a kernel of several outputs")
    taken = {name: (each.value, list(each.options())) for name, each in decided.taken.items()}
    rule = task.rule if task.level == "operator" else row.schedule
    entry = scheduled.func.with_attrs(dict(func.attrs) if func.attrs else {})
    entry = entry.with_attr("global_symbol", ENTRY).with_attr(NOALIAS, True)
    return Candidate(entry, rule, taken, tuple(arrays), tuple(constant), output)


def example(rng: np.random.Generator, of_type: Any) -> np.ndarray:
    """Arbitrary values: normal floats, small whole numbers, indices of zero."""
    shape, dtype = [int(dim) for dim in of_type.shape], np.dtype(str(of_type.dtype))
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.itemsize == 1:
        return rng.integers(0, 2 if dtype.kind == "b" else LARGEST_BYTE, shape).astype(dtype)
    return np.zeros(shape, dtype)


def build(candidate: Candidate, target: Target) -> Any:
    """Generate code. Raises TrialFailed."""
    tvm_target = target.to_tvm()
    try:
        with tvm_target, tvm.transform.PassContext(opt_level=3):
            return tvm.compile(tvm.IRModule({ENTRY: candidate.func}), target=tvm_target)
    except Exception as error:  # TVM has no common error type
        raise TrialFailed(f"does not compile: {last_line(error)}") from error


class Bench(Protocol):
    """Where candidates run: in this process, or on a board."""

    def load(self, built: Any, candidate: Candidate, target: Target) -> Any:
        """Make a built kernel callable there."""

    def output(self, loaded: Any) -> np.ndarray:
        """What one call writes."""

    def compare(self, default: Any, other: Any, seconds: float) -> Comparison:
        """Time both in turns for about so long."""


@dataclass
class Loaded:
    """A kernel with its arguments; `turn` walks through the copies of its constants."""

    function: Any
    arguments: list[list[Any]]
    output: Any
    turn: int = 0


class LocalBench:
    """This process and this machine; the thread pool takes its size from the environment."""

    def __init__(self, target: Target) -> None:
        self.device = tvm.cuda() if target.kind == "cuda" else tvm.cpu()

    def load(self, built: Any, candidate: Candidate, target: Target) -> Loaded:
        streamed = sum(
            a.nbytes for a, is_constant in zip(candidate.arrays, candidate.constant, strict=True) if is_constant
        )
        num_copies = max(1, min(MAX_COPIES, -(-STREAMED_BYTES // streamed))) if streamed else 1
        output = tvm.runtime.tensor(candidate.output, self.device)
        shared = [tvm.runtime.tensor(array, self.device) for array in candidate.arrays]
        arguments = []
        for copy in range(num_copies):
            row = [
                tvm.runtime.tensor(array, self.device) if is_constant and copy else tensor
                for array, is_constant, tensor in zip(candidate.arrays, candidate.constant, shared, strict=True)
            ]
            arguments.append([*row, output])
        return Loaded(built[ENTRY], arguments, output)

    def output(self, loaded: Loaded) -> np.ndarray:
        loaded.function(*loaded.arguments[0])
        return np.array(loaded.output.numpy())

    def compare(self, default: Loaded, other: Loaded, seconds: float) -> Comparison:
        calls = max(1, round(TURN_S / max(self._turn(default, 1), self._turn(other, 1), 1e-7)))
        times: tuple[list[float], list[float]] = ([], [])
        end = time.perf_counter() + seconds
        while len(times[0]) < MIN_PAIRS or (len(times[0]) < MAX_PAIRS and time.perf_counter() < end):
            order = (0, 1) if len(times[0]) % 2 else (1, 0)
            for which in order:
                times[which].append(self._turn((default, other)[which], calls))
        return compared(*times)

    def _turn(self, loaded: Loaded, calls: int) -> float:
        function, arguments, at = loaded.function, loaded.arguments, loaded.turn
        count = len(arguments)
        self.device.sync()
        start = time.perf_counter()
        for i in range(at, at + calls):
            function(*arguments[i % count])
        self.device.sync()
        loaded.turn = (at + calls) % count
        return (time.perf_counter() - start) / calls


def check_same(expected: np.ndarray, actual: np.ndarray) -> None:
    """Raises TrialFailed where two outputs differ by more than rounding; whole numbers may differ by one step."""
    if expected.dtype.kind == "f":
        largest = float(np.abs(expected.astype(np.float64)).max()) or 1.0
        error = float(np.abs(expected.astype(np.float64) - actual.astype(np.float64)).max()) / largest
        limit = TOLERANCE.get(str(expected.dtype), TOLERANCE["float16"])
    else:
        error, limit = float(np.abs(expected.astype(np.int64) - actual.astype(np.int64)).max()), 1.0
    if not error <= limit:  # NaN is no number to be below the limit
        raise TrialFailed(f"computes something else: largest difference {error:.1e}, allowed {limit:.1e}")

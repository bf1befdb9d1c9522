"""Time every kernel of a linked library inside whole inferences, where caches hold what they hold in service.

TVM's virtual machine tells an instrument before and after each call. An inference runs every kernel once, so the
kernels are interleaved by themselves; what is reported is the median over inferences.
"""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 12
CALLS_PER_ROUND = 4
MIN_ROUNDS = 3
BUDGET_S = 20.0
"""A naive kernel can take seconds; fewer rounds then, never fewer than MIN_ROUNDS."""
EMPTY_ARGUMENTS = (1, 7)
EMPTY_CALLS = 300


@dataclass(frozen=True)
class KernelTime:
    """Of one inference: all `num_calls` calls together."""

    seconds: float
    num_calls: int


@dataclass(frozen=True)
class Timed:
    """`inference_s` is the median of whole inferences without the instrument."""

    inference_s: float
    kernels: dict[str, KernelTime]
    num_inferences: int


@dataclass(frozen=True)
class Overhead:
    """What the instrument adds to a call, and to it for each argument; by a kernel that does next to nothing."""

    fixed_s: float
    argument_s: float

    def of(self, num_arguments: int) -> float:
        return max(self.fixed_s + self.argument_s * num_arguments, 0.0)


def time_kernels(
    library: Path,
    arrays: Sequence[np.ndarray],
    kernels: Collection[str],
    overhead: Overhead,
    between: Callable[[], None],
) -> Timed:
    """Time `kernels` and whole inferences of a library's function on `arrays`.

    Args:
        between: called between rounds, to measure the machine's peaks under the same conditions.
    """
    import tvm
    from tvm.runtime.vm import VirtualMachine

    module = tvm.runtime.load_module(str(library))
    inputs = [tvm.runtime.tensor(np.ascontiguousarray(array)) for array in arrays]
    plain, watched = VirtualMachine(module, tvm.cpu())["main"], VirtualMachine(module, tvm.cpu())
    watch = _Watch(kernels, overhead)
    watched.set_instrument(watch.instrument)
    whole: list[float] = []
    start = time.perf_counter()
    for done in range(ROUNDS):
        if done >= MIN_ROUNDS and time.perf_counter() - start > BUDGET_S:
            break
        between()
        with _no_garbage_collection():
            plain(*inputs)  # caches and clocks belong to the probe
            for _ in range(CALLS_PER_ROUND):
                before = time.perf_counter()
                plain(*inputs)
                whole.append(time.perf_counter() - before)
            watched["main"](*inputs)
            watch.forget()
            for _ in range(CALLS_PER_ROUND):
                watched["main"](*inputs)
                watch.next_inference()
    return Timed(float(np.median(whole)), watch.medians(), len(whole))


class _Watch:
    """Collects the calls of one inference, then adds them up per kernel."""

    def __init__(self, kernels: Collection[str], overhead: Overhead) -> None:
        self._kernels, self._overhead = frozenset(kernels), overhead
        self._calls: list[tuple[str, float, int]] = []
        self._started = 0.0
        self._totals: dict[str, list[KernelTime]] = defaultdict(list)

    def instrument(self, func: Any, name: str, before: bool, result: Any, *args: Any) -> None:
        """Called by the virtual machine; the clock is read last before a call and first after it."""
        if before:
            self._started = time.perf_counter()
        else:
            ended = time.perf_counter()
            if name in self._kernels:
                self._calls.append((name, ended - self._started, len(args)))

    def forget(self) -> None:
        self._calls.clear()

    def next_inference(self) -> None:
        found: dict[str, list[float]] = defaultdict(list)
        for name, seconds, num_arguments in self._calls:
            found[name].append(max(seconds - self._overhead.of(num_arguments), 0.0))
        for name, times in found.items():
            self._totals[name].append(KernelTime(sum(times), len(times)))
        self.forget()

    def medians(self) -> dict[str, KernelTime]:
        return {
            name: KernelTime(float(np.median([t.seconds for t in times])), times[-1].num_calls)
            for name, times in self._totals.items()
        }


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def measure_overhead(tvm_target: Any) -> Overhead:
    """Time the instrument around kernels that copy one vector, with few arguments and with many."""
    import tvm
    from tvm.relax import VirtualMachine

    with tvm_target, tvm.transform.PassContext(opt_level=3):
        built = tvm.compile(_empty_calls(), target=tvm_target)
    machine = VirtualMachine(built, tvm.cpu())
    names = {f"empty{count}": count + 1 for count in EMPTY_ARGUMENTS}
    watch = _Watch(names, Overhead(0.0, 0.0))
    machine.set_instrument(watch.instrument)
    data = tvm.runtime.tensor(np.zeros(16, np.float32))
    with _no_garbage_collection():
        for _ in range(EMPTY_CALLS):
            machine["main"](data)
            watch.next_inference()
    few, many = (watch.medians()[name].seconds for name in names)
    each = max(many - few, 0.0) / (EMPTY_ARGUMENTS[1] - EMPTY_ARGUMENTS[0])
    return Overhead(few - each * (EMPTY_ARGUMENTS[0] + 1), each)


def _empty_calls() -> Any:
    """A module of two kernels that read one vector each, handed to them several times over."""
    from tvm import relax, te

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([16], "float32"))
    with builder.function("main", [x]):
        y = x
        for count in EMPTY_ARGUMENTS:

            def first_and_last(*tensors: Any) -> Any:
                return te.compute((16,), lambda i: tensors[0][i] + tensors[-1][i])

            y = builder.emit_te(first_and_last, y, *[x] * (count - 1), primfunc_name_hint=f"empty{count}")
        builder.emit_func_output(y)
    return builder.get()

"""The profile of a bundle: one section per compiled function and batch size, as `report.json` keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from lab.compile.facts import Facts, Memory, num_elements
from lab.compile.profile.peaks import Peaks
from lab.compile.profile.timing import KernelTime, Timed
from lab.compile.report import KernelRow

FLOAT_BYTES = 4
NEVER_CALLED = "never called: a view of its argument"
BUSY = 0.8
"""Share of its best at which the probe of multiply-adds usually runs, below which other work is in the way."""


@dataclass(frozen=True)
class KernelProfile:
    """One kernel over one inference: `num_calls` calls together. Nothing measured: every figure of time is None.

    `bound` is what limits the kernel by its FLOP per byte: "compute" or "memory". The shares are of the measured peaks;
    of memory's, more than 1 means that caches served it.
    """

    kernel: str
    op_kind: str
    schedule: str
    note: str
    num_calls: int
    flops: int
    num_bytes: int
    time_us: float | None = None
    share_of_time: float | None = None
    gflops_per_s: float | None = None
    gbytes_per_s: float | None = None
    share_of_peak: float | None = None
    share_of_memory: float | None = None
    bound: str = ""
    chosen_by: str = "rule"


@dataclass(frozen=True)
class Layout:
    """`num_operators` operators of one kind that compute in one layout."""

    operator: str
    layout: str
    num_operators: int


@dataclass(frozen=True)
class LayoutChange:
    """A transpose left in the graph; `num_bytes` read and written, 0 where it is a view, None where sizes are open."""

    operator: str
    before: tuple[Any, ...]
    after: tuple[Any, ...]
    num_bytes: int | None


@dataclass(frozen=True)
class FunctionProfile:
    """One compiled function at one batch size, with its other open dimensions at `dims`."""

    function: str
    batch_size: int
    dims: dict[str, int]
    kernels: tuple[KernelProfile, ...]
    inference_ms: float | None
    num_inferences: int
    layouts: tuple[Layout, ...]
    changes: tuple[LayoutChange, ...]
    num_packed: int
    memory: Memory | None
    phases_s: dict[str, float]

    @property
    def kernels_ms(self) -> float | None:
        """All kernels together; the rest of an inference is the virtual machine's."""
        times = [kernel.time_us for kernel in self.kernels if kernel.time_us is not None]
        return sum(times) / 1e3 if times else None


@dataclass(frozen=True)
class PartProfile:
    """A part of a graph that is divided between the compiler and ONNX Runtime; `engine` and `operators` in words.

    `reasons` says of each node that was not compiled why; `share_of_time` of an inference is None where not measured.
    """

    batch_size: int
    part: int
    engine: str
    operators: str
    reasons: dict[str, str]
    share_of_time: float | None


@dataclass(frozen=True)
class BundleProfile:
    """`not_measured` says why there are no times; empty where there are."""

    name: str
    target: str
    machine: str
    created: str
    functions: tuple[FunctionProfile, ...]
    peaks: Peaks | None
    not_measured: str
    stages_s: dict[str, float]
    notes: tuple[str, ...] = ()
    parts: tuple[PartProfile, ...] = ()

    @property
    def disturbed(self) -> str:
        """What other work on the machine did to the measurement; empty on a quiet one."""
        if self.peaks is None or self.peaks.usual_flops_per_s >= BUSY * self.peaks.flops_per_s:
            return ""
        return (
            f"Other work shared the machine: the probe of multiply-adds usually ran at "
            f"{self.peaks.usual_flops_per_s / 1e9:.0f} GFLOP/s, at best at {self.peaks.flops_per_s / 1e9:.0f}. The "
            "kernels' times are longer, their shares of the peak smaller, than on a quiet machine."
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def function_profile(
    rows: list[KernelRow], facts: Facts, dims: Mapping[str, int], timed: Timed | None, peaks: Peaks | None
) -> FunctionProfile:
    """What is known of one function.

    Args:
        rows: its rows of the kernel report.
        dims: values of its open dimensions, at which it was timed.
    """
    times = timed.kernels if timed else {}
    if timed:
        rows = [row if row.kernel in times else replace(row, num_calls=0, reason=NEVER_CALLED) for row in rows]
    kernels = [_kernel(row, facts, dims, times.get(row.kernel), peaks) for row in rows]
    total = sum(kernel.time_us or 0.0 for kernel in kernels)
    if total:
        kernels = [replace(k, share_of_time=None if k.time_us is None else k.time_us / total) for k in kernels]
    kernels.sort(key=lambda k: (-(k.time_us or 0.0), -k.flops, -k.num_bytes, k.kernel))
    return FunctionProfile(
        function=rows[0].function if rows else "main",
        batch_size=rows[0].batch_size if rows else 1,
        dims=dict(dims),
        kernels=tuple(kernels),
        inference_ms=timed.inference_s * 1e3 if timed else None,
        num_inferences=timed.num_inferences if timed else 0,
        layouts=tuple(Layout(op, layout, count) for (op, layout), count in sorted(facts.layouts.items())),
        changes=tuple(_change(each, dims) for each in facts.transforms),
        num_packed=facts.num_packed,
        memory=facts.memory(dims),
        phases_s=facts.phases_s,
    )


def _change(change: Any, dims: Mapping[str, int]) -> LayoutChange:
    elements = num_elements(change.before, dims)
    moved = None if elements is None else 2 * FLOAT_BYTES * elements if change.moves_data else 0
    return LayoutChange(change.operator, change.before, change.after, moved)


def _kernel(
    row: KernelRow, facts: Facts, dims: Mapping[str, int], timed: KernelTime | None, peaks: Peaks | None
) -> KernelProfile:
    cost = facts.cost(row.kernel, dims)
    num_calls = timed.num_calls if timed else row.num_calls
    flops = (cost.flops if cost else row.flops) * num_calls
    num_bytes = (cost.num_bytes if cost else row.num_bytes) * num_calls
    profile = KernelProfile(
        row.kernel, row.op_kind, row.schedule, row.reason, num_calls, flops, num_bytes, chosen_by=row.chosen_by
    )
    if timed is None or peaks is None:
        return profile
    per_s = 1 / timed.seconds if timed.seconds > 0 else None
    rates = (None, None) if per_s is None else (flops * per_s, num_bytes * per_s)
    return replace(
        profile,
        time_us=timed.seconds * 1e6,
        gflops_per_s=None if rates[0] is None else rates[0] / 1e9,
        gbytes_per_s=None if rates[1] is None else rates[1] / 1e9,
        share_of_peak=None if rates[0] is None else rates[0] / peaks.flops_per_s,
        share_of_memory=None if rates[1] is None else rates[1] / peaks.memory_bytes_per_s,
        bound="compute" if num_bytes and flops / num_bytes > peaks.ridge else "memory",
    )

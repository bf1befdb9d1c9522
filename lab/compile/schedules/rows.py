"""Kernels that are written as they run (`lab.compile.kernels`): one row per task."""

from __future__ import annotations

from lab.compile.kernels import suppression, top_k
from lab.compile.kernels.emit import name_of
from lab.compile.schedules.kernel import DoesNotFit, Kernel, Scheduled
from lab.compile.targets.machine import Machine


def schedule(kernel: Kernel, machine: Machine) -> Scheduled:
    """Rows in parallel over the cores.

    Raises:
        DoesNotFit: not one of these kernels.
    """
    name = name_of(kernel.func)
    if name == top_k.NAME:
        return Scheduled(kernel.func, note="heap per row")
    if name != suppression.NAME:
        raise DoesNotFit("not a kernel written by hand")
    num_rows, num_boxes, threshold = _suppression(kernel)
    lanes = machine.num_lanes
    return Scheduled(suppression.on_cpu(num_rows, num_boxes, threshold, lanes), note=f"{lanes} boxes at a time")


def on_gpu(kernel: Kernel, machine: Machine) -> Scheduled:
    """A block of threads per row.

    Raises:
        DoesNotFit: not one of these kernels.
    """
    if kernel.func.attrs and kernel.func.attrs.get("tirx.is_scheduled"):
        return Scheduled(kernel.func, note="TVM's own GPU kernel")
    if name_of(kernel.func) != suppression.NAME:
        raise DoesNotFit("not a kernel written by hand")
    return Scheduled(suppression.on_gpu(*_suppression(kernel)), note="a block per row")


def _suppression(kernel: Kernel) -> tuple[int, int, float]:
    num_rows, num_boxes, _ = (int(dim) for dim in kernel.func.params[0].shape)
    return num_rows, num_boxes, float(kernel.func.attrs["lab.threshold"])

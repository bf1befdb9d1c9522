"""The loop over time of a recurrent layer, written anew for the machine: vectors, registers, parallel work."""

from __future__ import annotations

from lab.compile.kernels import recurrent_gpu
from lab.compile.kernels.emit import name_of
from lab.compile.kernels.recurrent import NAME, WEIGHTS, Layer, layer_of
from lab.compile.kernels.recurrent_cpu import Plan, on_cpu
from lab.compile.schedules.kernel import DoesNotFit, Kernel, Packing, Scheduled
from lab.compile.targets.machine import Machine

MIN_CHAIN = 8  # accumulators that hide the latency of a multiply-add
GATE_AXIS_UNITS = 3  # the axis of the weights [D, H, G, P] that is stored in blocks


def schedule(kernel: Kernel, machine: Machine) -> Scheduled:
    """Write the kernel with packed weights.

    Raises:
        DoesNotFit: not a recurrent layer.
    """
    if name_of(kernel.func) != NAME:
        raise DoesNotFit("not a recurrent layer")
    layer = layer_of(kernel.func)
    packed = WEIGHTS in kernel.constant_args
    plan = plan_for(layer, machine, packed=packed)
    func = on_cpu(layer, kernel.func.params[0].shape[0], plan)
    packings = {WEIGHTS: Packing(axis=GATE_AXIS_UNITS, tile=plan.units)} if packed else {}
    note = f"tile {plan.rows}x{layer.num_gates}x{plan.units}, {layer.num_directions * plan.num_groups} tasks"
    is_open = not hasattr(kernel.func.params[0].shape[0], "value")
    return Scheduled(func, packings, note=note + (", FLOPs of one step" if is_open else ""))


def plan_for(layer: Layer, machine: Machine, *, packed: bool = True) -> Plan:
    """Registers full of accumulators; in parallel over samples and directions."""
    lanes = min(machine.num_lanes, layer.padded & -layer.padded)
    num_groups = max(1, min(layer.batch, machine.num_cores // layer.num_directions))
    per_group = -(-layer.batch // num_groups)
    best: tuple[float, Plan] | None = None
    for vectors in (1, 2, 4):
        if layer.padded % (lanes * vectors):
            continue
        per_row = layer.num_gates * vectors
        for rows in range(1, min(per_group, machine.num_accumulators // per_row) + 1):
            plan = Plan(lanes, lanes * vectors, rows, num_groups, packed)
            best = min(best or (float("inf"), plan), (_cost(plan, layer, per_row), plan), key=lambda item: item[0])
    assert best is not None  # one row of one vector always fits
    return best[1]


def _cost(plan: Plan, layer: Layer, per_row: int) -> float:
    """Time per unit and sample: multiply-adds, or the loads that feed them, or the wait for a short chain."""
    accumulators = plan.rows * per_row
    cycles = max(accumulators / 2, (plan.rows + 2 * per_row) / 2, MIN_CHAIN / 2)
    return cycles * plan.num_tiles(layer.batch) * plan.num_groups / plan.units


def on_gpu(kernel: Kernel, machine: Machine) -> Scheduled:
    """A block of threads per direction and sample.

    Raises:
        DoesNotFit: not a recurrent layer.
    """
    if name_of(kernel.func) != NAME:
        raise DoesNotFit("not a recurrent layer")
    layer = layer_of(kernel.func)
    func = recurrent_gpu.on_gpu(layer, kernel.func.params[0].shape[0])
    return Scheduled(func, note=f"{layer.num_directions * layer.batch} blocks")

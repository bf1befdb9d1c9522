"""Whether a 3x3 convolution pays as Winograd's, and how it is cut: a model of cycles, nothing measured, nothing tuned.

The model counts, for the slowest core, vector multiply-adds at the rate at which register tiles run, the transforms'
instructions, and bytes that come from beyond the second-level cache: transformed weights are (m + 2)^2 / 9 as many as
plain ones, and small images read them for few tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import product
from math import ceil

from lab.compile.kernels.winograd import KERNEL_SIZE, TRANSFORMS, Convolution, Plan
from lab.compile.schedules.kernel import DoesNotFit, divisors
from lab.compile.schedules.tile import UNROLL, Tile, choose_tile
from lab.compile.targets.machine import Machine
from lab.compile.tuning.decisions import Decisions

FLOAT_BYTES = 4
DIRECT = "direct"
FMAS_PER_CYCLE = 2
DIRECT_EFFICIENCY, PRODUCT_EFFICIENCY = 0.9, 0.85  # of the multiply-adds a core can issue; measured on AVX-512
BYTES_PER_CYCLE = 4  # from beyond the second-level cache to one core; measured: 10 GB/s at 2.6 GHz
INPUT_CYCLES, OUTPUT_CYCLES = 5.0, 4.0  # per vector of a transformed tile's (m + 2)^2
MIN_GAIN = 1.1  # what the model must promise before exact arithmetic is given up
BROADCAST_COST = 0.2  # of a multiply-add, for the input value that a row of vectors shares; measured
FULL_TILE = 16  # accumulators of a register tile that keep the multiply-add units busy


def plan_for(conv: Convolution, machine: Machine) -> Plan | None:
    """The cheapest plan, or None where direct convolution is about as fast or channels do not fill vectors."""
    if not _fills_vectors(conv, machine):
        return None
    costs = [(cycles(conv, plan, machine), i, plan) for i, plan in enumerate(_plans(conv, machine))]
    if not costs:
        return None
    best, _, plan = min(costs)
    return plan if best * MIN_GAIN < direct_cycles(conv, machine) else None


def decide_plan(conv: Convolution, machine: Machine, decisions: Decisions) -> Plan | None:
    """What `plan_for` says, or the plan of a tuning record; None is direct convolution."""
    derived = plan_for(conv, machine)
    value = decisions.decide("plan", asdict(derived) if derived else DIRECT, lambda: plan_options(conv, machine))
    return None if value == DIRECT else Plan(**value)


def plan_options(conv: Convolution, machine: Machine) -> list[str | dict[str, int]]:
    """Direct convolution and every plan with whole vectors, by modelled cycles, fewest first."""
    if not _fills_vectors(conv, machine):
        return [DIRECT]
    plans = sorted(dict.fromkeys(_plans(conv, machine)), key=lambda plan: cycles(conv, plan, machine))
    return [DIRECT, *(asdict(plan) for plan in plans)]


def _fills_vectors(conv: Convolution, machine: Machine) -> bool:
    lanes = machine.num_lanes
    return conv.num_inputs % lanes == 0 and conv.num_outputs % lanes == 0 and conv.num_inputs % UNROLL == 0


def _plans(conv: Convolution, machine: Machine) -> Iterator[Plan]:
    for m in TRANSFORMS:
        rows, fitting = (ceil(ceil(size / conv.dilation) / m) for size in (conv.height, conv.width))
        counts = sorted({ceil(rows / num) for num in range(1, rows + 1)})
        # One column of tiles more than fit may divide into better register tiles: 20 instead of 19.
        for count, columns in product(counts, (fitting, fitting + 1)):
            num_tiles = count * conv.dilation**2 * columns
            try:
                tile = choose_tile(num_tiles, conv.num_outputs, machine)
            except DoesNotFit:
                continue
            if tile.num_columns % machine.num_lanes:
                continue
            plan = Plan(
                m, ceil(rows / count) * count, columns, count, tile.num_rows, tile.num_columns,
                _block_columns(conv.num_outputs, tile, (m + KERNEL_SIZE - 1) ** 2 * num_tiles, machine),
            )  # fmt: skip
            yield plan
            yield replace(plan, shared_input=True)


def _block_columns(num_outputs: int, tile: Tile, products_per_column: int, machine: Machine) -> int:
    """Channels whose products of one task stay in a quarter of the second-level cache until they are transformed."""
    limit = machine.l2_bytes // 4 // (FLOAT_BYTES * products_per_column)
    blocks = [d * tile.num_columns for d in divisors(num_outputs // tile.num_columns)]
    return max((block for block in blocks if block <= limit), default=tile.num_columns)


def cycles(conv: Convolution, plan: Plan, machine: Machine) -> float:
    """Modelled cycles of the slowest core."""
    lanes, size = machine.num_lanes, plan.a**2
    tiles_of_task = plan.task_rows * conv.dilation**2 * plan.grid_columns
    num_row_tasks = conv.batch * plan.grid_rows // plan.task_rows
    num_blocks = conv.num_outputs // plan.block_columns
    num_tiles = num_row_tasks * tiles_of_task
    num_vectors = plan.tile_columns // lanes
    full: float = min(1.0, (plan.tile_rows * num_vectors / FULL_TILE) ** 0.5)
    efficiency = PRODUCT_EFFICIENCY * full / (1 + BROADCAST_COST / num_vectors)
    products = num_tiles * size * conv.num_inputs * conv.num_outputs / lanes / FMAS_PER_CYCLE / efficiency
    forward = num_tiles * conv.num_inputs / lanes * size * INPUT_CYCLES
    back = num_tiles * conv.num_outputs / lanes * size * OUTPUT_CYCLES
    weights = FLOAT_BYTES * size * conv.num_inputs * conv.num_outputs
    transformed = FLOAT_BYTES * size * num_tiles * conv.num_inputs
    if plan.shared_input:
        share = _share(num_row_tasks * num_blocks, machine)
        # Each core reads the blocks of weights of its tasks once per row task that is not the only one.
        stream = weights * (1 if num_row_tasks == 1 else num_row_tasks / 2) * share + transformed * (share + 1)
        return (products + back) * share + forward / machine.num_cores + stream / BYTES_PER_CYCLE
    share = _share(num_row_tasks, machine)
    in_cache = weights <= machine.l2_bytes // 2
    stream = weights if in_cache else weights * ceil(num_row_tasks * share)
    spilled = FLOAT_BYTES * size * tiles_of_task * conv.num_inputs - machine.l2_bytes
    stream += max(spilled, 0) * num_blocks * num_row_tasks * share
    return (products + forward + back) * share + stream / BYTES_PER_CYCLE


def _share(num_tasks: int, machine: Machine) -> float:
    """The part of the work that the busiest core has."""
    return ceil(num_tasks / machine.num_cores) / num_tasks


def direct_cycles(conv: Convolution, machine: Machine) -> float:
    """Modelled cycles of the direct convolution, which skips what a dilated kernel reads outside the image."""
    positions = 1
    for size, source, before in (
        (conv.height, conv.input_height, conv.top),
        (conv.width, conv.input_width, conv.left),
    ):
        starts = [tap * conv.dilation - before for tap in range(KERNEL_SIZE)]
        positions *= sum(max(0, min(size, source - start) - max(0, -start)) for start in starts)
    work = conv.batch * positions * conv.num_inputs * conv.num_outputs / machine.num_lanes / FMAS_PER_CYCLE
    weights = FLOAT_BYTES * KERNEL_SIZE**2 * conv.num_inputs * conv.num_outputs
    return (work / DIRECT_EFFICIENCY + weights / BYTES_PER_CYCLE) / machine.num_cores

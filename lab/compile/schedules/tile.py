"""How large the tile is that stays in registers, by a model of loads, stalls and multiply-adds, and what stays cached.

A tile of `num_rows` output positions x `num_columns` channels stays in registers while the reduction runs: each step
loads a row of weights once and broadcasts one input value per position (NeoCPU, USENIX ATC 2019, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass

from lab.compile.schedules.kernel import DoesNotFit, divisors, largest_divisor
from lab.compile.targets.machine import Machine
from lab.compile.tuning.decisions import Decisions

MAX_COLUMNS = 8  # vectors of one tile; more only lengthen the code
WEIGHT_LOAD_COST = 3  # loads from the first-level cache; weights stream from the second or third
MIN_ACCUMULATORS = 8  # chains of dependent multiply-adds that hide each other's latency
UNROLL = 4
L1_SHARE = 2  # half of a cache for what is kept, the other half for what streams by
FLOAT_BYTES = 4
MIN_NEAR_CHUNK = 16
MIN_CHUNK = 64  # input channels; with fewer, storing what was summed up costs more than the cache gives


@dataclass(frozen=True)
class Tile:
    """Output positions x channels held in registers; both divide the extents they tile."""

    num_rows: int
    num_columns: int

    def num_vectors(self, machine: Machine) -> int:
        """Vectors of results: chains of multiply-adds that do not wait for each other."""
        return self.num_rows * len(vector_lengths(self.num_columns, machine.num_lanes))


def choose_tile(num_rows: int, num_columns: int, machine: Machine) -> Tile:
    """The tile with the fewest loads per multiply-add that fits the registers.

    Only divisors are considered, so that no bounds check reaches the inner loop. One row of an odd number of vectors
    (88 channels are 22 of 4 lanes) may leave none with enough accumulators; then a wider tile is worth its code.
    """
    tile = _choose_tile(num_rows, num_columns, machine, MAX_COLUMNS)
    if tile is None or tile.num_vectors(machine) < MIN_ACCUMULATORS // 2:
        tile = _choose_tile(num_rows, num_columns, machine, machine.num_registers)
    if tile is None:
        raise DoesNotFit("no tile fits the registers")
    return tile


def decide_tile(decisions: Decisions, derived: Tile, num_rows: int, num_columns: int, machine: Machine) -> Tile:
    """`derived`, or the tile of a tuning record."""
    size = [derived.num_rows, derived.num_columns]
    return Tile(
        *decisions.decide("tile", size, lambda: with_derived(size, tile_options(num_rows, num_columns, machine)))
    )


def with_derived(derived: list[int], options: list[list[int]]) -> list[list[int]]:
    """The options, and what the model derives, whatever that is."""
    return options if derived in options else [derived, *options]


def tile_options(num_rows: int, num_columns: int, machine: Machine) -> list[list[int]]:
    """Every tile worth a trial: it divides both extents, fits the registers, and has enough accumulators.

    Columns are whole vectors, accumulators enough, where there are such tiles; large ones come first.
    """
    found: dict[bool, list[list[int]]] = {True: [], False: []}
    for columns in divisors(num_columns):
        vectors = len(vector_lengths(columns, machine.num_lanes))
        if vectors > MAX_COLUMNS or (num_columns % machine.num_lanes == 0 and columns % machine.num_lanes):
            continue
        for rows in divisors(num_rows):
            if machine.fits_registers(rows, vectors):
                found[rows * vectors >= MIN_ACCUMULATORS // 2].append([rows, columns])
    return sorted(found[True] or found[False], key=lambda tile: -tile[0] * tile[1])


def unroll_options(num_steps: int) -> list[int]:
    """How many steps of a reduction may be written out in a row; few, for the code to stay small."""
    return [steps for steps in divisors(num_steps) if steps <= 2 * UNROLL]


def _choose_tile(num_rows: int, num_columns: int, machine: Machine, max_vectors: int) -> Tile | None:
    best: tuple[float, int, int] | None = None
    for columns in divisors(num_columns):
        vectors = len(vector_lengths(columns, machine.num_lanes))
        if vectors > (max_vectors if columns % machine.num_lanes == 0 else MAX_COLUMNS):
            continue
        if num_columns % machine.num_lanes == 0 and columns % machine.num_lanes:
            continue  # whole vectors would do
        for rows in divisors(num_rows):
            if not machine.fits_registers(rows, vectors):
                break
            best = min(best or (float("inf"), 0, 0), (tile_cost(Tile(rows, columns), machine), rows, columns))
    return Tile(best[1], best[2]) if best else None


def tile_cost(tile: Tile, machine: Machine) -> float:
    """Loads, stalls and multiply-adds for one result and one step of the reduction, on a scale of its own."""
    results, vectors = tile.num_rows * tile.num_columns, len(vector_lengths(tile.num_columns, machine.num_lanes))
    loads = (tile.num_rows + WEIGHT_LOAD_COST * vectors) / results
    # A chain of dependent multiply-adds waits for itself: too few accumulators cost as much as loads do.
    stalls = max(0.0, MIN_ACCUMULATORS / (tile.num_rows * vectors) - 1) / machine.num_lanes
    return loads + stalls + vectors / tile.num_columns


def vector_lengths(num: int, num_lanes: int) -> list[int]:
    """How many of `num` elements each vector takes: whole registers, then powers of two. 40 of 16 are 16, 16 and 8.

    LLVM keeps vectors of other lengths in memory, not in registers.
    """
    lengths = [num_lanes] * (num // num_lanes)
    rest = num % num_lanes
    return lengths + [1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]


def reduction_chunk(num_channels: int, num_taps: int, num_positions: int, tile: Tile, machine: Machine) -> int:
    """How many input channels, or elements of a row, to reduce at a time, so that their weights stay in cache for all
    tiles of a task.

    In the first-level cache where the sums of a whole image stay there too: 683 instead of 870 us for 2048 channels of
    7x7 positions. Else in the second.
    """
    bytes_per_channel = FLOAT_BYTES * num_taps * tile.num_columns
    near = machine.l1_bytes // L1_SHARE
    if FLOAT_BYTES * num_positions * tile.num_columns <= near:
        return largest_divisor(num_channels, max(near // bytes_per_channel, MIN_NEAR_CHUNK))
    limit = machine.l2_bytes // L1_SHARE // bytes_per_channel
    if num_channels <= limit:
        return num_channels
    chunk = largest_divisor(num_channels, limit)
    return chunk if chunk >= MIN_CHUNK else num_channels

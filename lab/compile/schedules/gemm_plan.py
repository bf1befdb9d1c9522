"""How a GPU cuts a matrix product into tiles and parts: a model of the time, fitted to kernels measured on one GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from math import ceil

from lab.compile.schedules.kernel import divisors

WARP = 32


@dataclass(frozen=True)
class Tile:
    """How one kernel is cut.

    A block of threads makes `rows` x `cols` of C and advances by `depth` in k; each thread (each warp, where tensor
    cores multiply) makes `thread_rows` x `thread_cols` of it. k is split over `parts` blocks.
    """

    rows: int
    cols: int
    depth: int
    thread_rows: int
    thread_cols: int
    parts: int = 1

    @property
    def num_workers(self) -> int:
        return (self.rows // self.thread_rows) * (self.cols // self.thread_cols)


SIMT_TILES = {
    Tile(32, 64, 32, 4, 4): 0.50,
    Tile(64, 64, 16, 8, 8): 0.60,
    Tile(128, 64, 16, 8, 8): 0.65,
}
"""Tile -> share of the multiprocessor's peak it tends to with many warps at work."""
WARPS_OF_LATENCY = 3.0
"""With so many warps on a multiprocessor half its time goes into waiting."""
TENSOR_CORE_TILES = {
    Tile(64, 64, 32, 32, 32): 0.08,
    Tile(128, 64, 32, 64, 32): 0.17,
    Tile(128, 128, 32, 64, 64): 0.25,
}
"""Tile -> microseconds per slice for each block on a multiprocessor, beside the slice's latency."""
SLICE_LATENCY_US = 0.28
LAUNCH_US, SUM_US = 2.0, 5.0
GFLOPS_PER_CORE = 512.0
BYTES_PER_US = 3.0e6
MAX_PARTS = 32


def choose(size: Product, num_cores: int) -> Tile:
    """The tile, with its parts, of which the model expects the shortest time."""
    tiles = [tile for base in tiles_for(size.dtype) for tile in _with_parts(base, size)]
    return min(tiles, key=lambda tile: estimate_us(size, tile, num_cores))


def options(size: Product) -> list[list[int]]:
    """Every tile with every number of parts, as the fields of `Tile`."""
    return [list(astuple(tile)) for base in tiles_for(size.dtype) for tile in _with_parts(base, size)]


def tiles_for(dtype: str) -> dict[Tile, float]:
    return TENSOR_CORE_TILES if dtype == "float16" else SIMT_TILES


@dataclass(frozen=True)
class Product:
    """The size of C[s, i, j] += A[s, w, i, k] * B[s, w, k, j]: `batch`, `rows`, `cols`, `window` and `depth`."""

    batch: int
    rows: int
    cols: int
    window: int
    depth: int
    dtype: str

    def num_slices(self, tile: Tile) -> tuple[int, int]:
        """Slices of k, and how often they are walked through: once per place in the window, or once in all."""
        if self.depth % tile.depth == 0:
            return self.depth // tile.depth, self.window
        return ceil(self.window * self.depth / tile.depth), 1


def estimate_us(size: Product, tile: Tile, num_cores: int) -> float:
    """Microseconds, by a model fitted to 130 kernels of ten convolutions on an H200 (within about 20 %)."""
    blocks = size.batch * ceil(size.rows / tile.rows) * ceil(size.cols / tile.cols) * tile.parts
    resident = ceil(blocks / num_cores)
    slices, places = size.num_slices(tile)
    slices = slices // tile.parts * places
    overhead = LAUNCH_US
    if tile.parts > 1:
        overhead = SUM_US + 2 * 4 * size.batch * size.rows * size.cols * tile.parts / BYTES_PER_US
    if size.dtype == "float16":
        return overhead + slices * (SLICE_LATENCY_US + resident * TENSOR_CORE_TILES[_whole(tile)])
    warps = resident * tile.num_workers / WARP
    share = SIMT_TILES[_whole(tile)] * warps / (warps + WARPS_OF_LATENCY)
    flop = 2 * tile.rows * tile.cols * tile.depth * slices * resident
    return overhead + flop / (GFLOPS_PER_CORE * 1e3) / share


def _with_parts(tile: Tile, size: Product) -> Iterator[Tile]:
    slices, _ = size.num_slices(tile)
    return (replace(tile, parts=parts) for parts in divisors(slices) if parts <= MAX_PARTS)


def _whole(tile: Tile) -> Tile:
    return replace(tile, parts=1)

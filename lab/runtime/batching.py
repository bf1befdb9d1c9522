"""Fit any number of samples to the batch sizes a bundle was compiled for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Chunk:
    """Samples `start` to `start + num_samples`, run at `batch_size`; what is left of the batch is padding."""

    start: int
    num_samples: int
    batch_size: int


@lru_cache(maxsize=256)
def plan(num_samples: int, batch_sizes: tuple[int, ...], per_call: int = 0) -> tuple[Chunk, ...]:
    """The chunks that cover `num_samples` with the fewest computed samples, then the fewest calls; largest first.

    Args:
        per_call: what each call costs beside its samples, in samples.
    """
    sizes = sorted(batch_sizes, reverse=True)
    # Some of any `largest` other calls add up to a multiple of the largest size, so fewer than that are ever needed.
    num_largest = max(0, num_samples // sizes[0] - sizes[0])
    chosen = [sizes[0]] * num_largest + _cheapest(num_samples - num_largest * sizes[0], sizes, per_call)
    chunks, start = [], 0
    for size in chosen:
        taken = min(size, num_samples - start)
        chunks.append(Chunk(start, taken, size))
        start += taken
    return tuple(chunks)


def _cheapest(num_samples: int, sizes: Sequence[int], per_call: int) -> list[int]:
    best: list[tuple[int, int, int]] = [(0, 0, 0)]  # samples computed, calls, last size
    for count in range(1, num_samples + 1):
        options = [(size, best[max(count - size, 0)]) for size in sizes]
        best.append(min((cost + size + per_call, calls + 1, size) for size, (cost, calls, _) in options))
    found, left = [], num_samples
    while left > 0:
        found.append(best[left][2])
        left -= found[-1]
    return sorted(found, reverse=True)


def take(arrays: Mapping[str, np.ndarray], axes: Mapping[str, int], chunk: Chunk) -> dict[str, np.ndarray]:
    """The slice of `arrays` that `chunk` names, contiguous and zero-padded to its batch size; arrays without an axis
    in `axes` are passed as they are.
    """
    return dict(_taken(arrays, axes, chunk))


def _taken(arrays: Mapping[str, np.ndarray], axes: Mapping[str, int], chunk: Chunk) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in arrays.items():
        if name not in axes:
            yield name, np.asarray(array, order="C")
            continue
        axis = axes[name]
        index = (slice(None),) * axis + (slice(chunk.start, chunk.start + chunk.num_samples),)
        part = array[index]
        if chunk.num_samples < chunk.batch_size:
            widths = [(0, 0)] * array.ndim
            widths[axis] = (0, chunk.batch_size - chunk.num_samples)
            part = np.pad(part, widths)
        yield name, np.asarray(part, order="C")

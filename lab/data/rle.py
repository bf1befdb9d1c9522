"""Masks of one object as COCO stores them: run lengths, plain or compressed to text, and polygons.

Runs go down the columns and start with the background. Format: pycocotools, common/maskApi.c; results are equal to it.
Shape letters: H, W mask; V corners of a polygon; R runs.
"""

from __future__ import annotations

import numpy as np

# maskApi.c draws a polygon's outline on a grid five times as fine.
_UPSAMPLING = 5
# Text: 5 bits per character, the sixth says that more follow; bit 4 of the last is the sign.
_BITS, _MORE, _SIGN, _OFFSET = 5, 0x20, 0x10, 48


def from_runs(runs_R: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bool [H, W]. Raises ValueError when the runs do not add up to the mask."""
    runs_R = np.asarray(runs_R, np.int64)
    if (runs_R < 0).any() or runs_R.sum() != height * width:
        raise ValueError(f"the runs add up to {int(runs_R.sum())}, not to {width} x {height} pixels")
    values = np.arange(len(runs_R)) % 2 == 1
    return np.repeat(values, runs_R).reshape(width, height).T


def to_runs(mask_HW: np.ndarray) -> np.ndarray:
    """int64 [R]; the first run is background, of length 0 where the first pixel is not."""
    column = np.asarray(mask_HW, bool).T.reshape(-1)
    changes = np.flatnonzero(column[1:] != column[:-1]) + 1
    edges = np.concatenate([[0], changes, [len(column)]])
    runs_R = np.diff(edges)
    return np.concatenate([[0], runs_R]) if len(column) and column[0] else runs_R


def decompress(text: str | bytes) -> np.ndarray:
    """Run lengths from their text: variable-length signed numbers, from the fourth on differences to the last but one.

    Raises:
        ValueError: characters outside the alphabet, or the last number is cut off.
    """
    codes = np.frombuffer(text.encode("ascii", "replace") if isinstance(text, str) else text, np.uint8).astype(int)
    codes -= _OFFSET
    if ((codes < 0) | (codes >= 2 * _MORE)).any():
        raise ValueError("not a compressed run-length text")
    runs: list[int] = []
    value, shift = 0, 0
    for code in codes.tolist():
        value |= (code & (_MORE - 1)) << shift
        shift += _BITS
        if code & _MORE:
            continue
        if code & _SIGN:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("the run-length text is cut off")
    return np.asarray(runs, np.int64)


def compress(runs_R: np.ndarray) -> str:
    """The inverse of `decompress`."""
    text: list[str] = []
    runs = [int(run) for run in runs_R]
    for number, run in enumerate(runs):
        value = run - runs[number - 2] if number > 2 else run
        more = True
        while more:
            code = value & (_MORE - 1)
            value >>= _BITS
            more = value != (-1 if code & _SIGN else 0)
            text.append(chr((code | _MORE if more else code) + _OFFSET))
    return "".join(text)


def from_polygon(corners_V2: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bool [H, W] of the pixels inside a closed polygon of (x, y) corners in pixels."""
    inside_HW = np.zeros((height, width), bool)
    x, y = _outline((_UPSAMPLING * np.asarray(corners_V2, np.float64) + 0.5).astype(np.int64))
    turned = np.flatnonzero(x[1:] != x[:-1]) + 1
    # A column's first fine line decides, so that only steps which end on one count.
    column = (np.where(x[turned] < x[turned - 1], x[turned], x[turned] - 1) + 0.5) / _UPSAMPLING - 0.5
    kept = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    if not kept.any():
        return inside_HW
    row = (np.minimum(y[turned], y[turned - 1])[kept] + 0.5) / _UPSAMPLING - 0.5
    row = np.ceil(np.clip(row, 0, height)).astype(np.int64)
    columns = column[kept].astype(np.int64)
    left, right = int(columns.min()), int(columns.max()) + 1
    # Each column is crossed an even number of times, at its end (row H) too, so that every column starts outside.
    size = (right - left) * height
    flips = np.bincount((columns - left) * height + row, minlength=size + 1)[:size]
    inside_HW[:, left:right] = (np.cumsum(flips) % 2 == 1).reshape(right - left, height).T
    return inside_HW


def _outline(corners_V2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of every fine grid point of the closed outline, each edge from its first to its second corner."""
    (xs, ys), (xe, ye) = corners_V2.T, np.roll(corners_V2, -1, axis=0).T
    dx, dy = np.abs(xe - xs), np.abs(ye - ys)
    steep = dx < dy
    # The reference walks every edge upwards along its longer axis, then turns the points round.
    flip = np.where(steep, ys > ye, xs > xe)
    xs, xe = np.where(flip, xe, xs), np.where(flip, xs, xe)
    ys, ye = np.where(flip, ye, ys), np.where(flip, ys, ye)
    slope = np.where(steep, xe - xs, ye - ys) / np.maximum(np.maximum(dx, dy), 1)
    length = np.maximum(dx, dy) + 1
    edge = np.repeat(np.arange(len(length)), length)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(length) - length, length)
    step = np.where(flip[edge], length[edge] - 1 - step, step)
    across = (np.where(steep, xs, ys)[edge] + slope[edge] * step + 0.5).astype(np.int64)
    return np.where(steep[edge], across, xs[edge] + step), np.where(steep[edge], ys[edge] + step, across)

"""The roofline plot as inline SVG: kernels as circles below what the machine can do at their FLOP per byte."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from lab.compile.profile.peaks import Peaks
from lab.compile.profile.profile import KernelProfile

WIDTH, HEIGHT = 1080, 470
LEFT, RIGHT, TOP, BOTTOM = 70, 235, 18, 52
COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2", "#65a30d", "#db2777", "#475569")
LABELLED = 12
"""Circles that carry their rank in the table, where there is room."""
LABEL_SIZE = 13
LARGEST_RADIUS, SMALLEST_RADIUS = 26.0, 4.0


@dataclass(frozen=True)
class _Scale:
    """Logarithmic, from `low` to `high` onto pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> Iterator[float]:
        """1, 2 and 5 of every decade, or 1 alone where the decades are many."""
        steps = (1, 2, 5) if self.high / self.low < 3000 else (1,)
        for power in range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1):
            yield from (value for step in steps if self.low <= (value := step * 10.0**power) <= self.high)


def plottable(kernels: Sequence[KernelProfile]) -> list[tuple[int, KernelProfile]]:
    """(rank in the table, kernel) of those with operations, bytes and a time; copies have no place on the plot."""
    return [(i, k) for i, k in enumerate(kernels, 1) if k.flops and k.num_bytes and k.gflops_per_s]


def colours(kernels: Sequence[KernelProfile]) -> dict[str, str]:
    """Schedule -> colour, in order of time."""
    names = list(dict.fromkeys(kernel.schedule for kernel in kernels))
    return {name: COLOURS[min(i, len(COLOURS) - 1)] for i, name in enumerate(names)}


def roofline(kernels: Sequence[KernelProfile], peaks: Peaks) -> str:
    """The plot; empty where no kernel has both operations and a time."""
    shown = plottable(kernels)
    if not shown:
        return ""
    x, y = _scales([k for _, k in shown], peaks)
    parts = [*_grid(x, y), *_roofs(x, y, peaks), *_circles(shown, colours(kernels), x, y), *_legend(kernels)]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Roofline of the kernels">\n'
        + "\n".join(parts)
        + "\n</svg>"
    )


def _scales(kernels: Sequence[KernelProfile], peaks: Peaks) -> tuple[_Scale, _Scale]:
    intensities = [k.flops / k.num_bytes for k in kernels]
    rates = [k.gflops_per_s or 1.0 for k in kernels]
    x_low, x_high = min(*intensities, peaks.ridge) / 2, max(*intensities, peaks.ridge) * 3
    y_low, y_high = min(rates) / 2, max(*rates, peaks.flops_per_s / 1e9) * 2
    y_low = min(y_low, y_high / 100)
    return _Scale(x_low, x_high, LEFT, WIDTH - RIGHT), _Scale(y_low, y_high, HEIGHT - BOTTOM, TOP)


def _grid(x: _Scale, y: _Scale) -> Iterator[str]:
    for value in x.ticks():
        at = x.at(value)
        yield f'<line class="grid" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}"/>'
        yield f'<text class="tick" x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:g}</text>'
    for value in y.ticks():
        at = y.at(value)
        yield f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>'
        yield f'<text class="tick" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text class="axis" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">FLOP per byte read or written</text>'
    across = (TOP + HEIGHT - BOTTOM) / 2
    yield f'<text class="axis" transform="translate(18 {across}) rotate(-90)" text-anchor="middle">GFLOP/s</text>'


def _roofs(x: _Scale, y: _Scale, peaks: Peaks) -> Iterator[str]:
    top = peaks.flops_per_s / 1e9
    yield (
        f'<text class="roof" x="{WIDTH - RIGHT - 6}" y="{y.at(top) - 7:.1f}" text-anchor="end">'
        f"multiply-adds {top:.0f} GFLOP/s</text>"
    )
    for name, bandwidth, style in (
        ("memory", peaks.memory_bytes_per_s, "roof"),
        (f"cache, {peaks.cache_bytes >> 10} KiB", peaks.cache_bytes_per_s, "roof dashed"),
    ):
        slope = bandwidth / 1e9
        first = max(x.low, y.low / slope)
        ridge = min(max(top / slope, first), x.high)
        points = [(first, first * slope), (ridge, min(top, ridge * slope)), (x.high, top)]
        path = " ".join(f"{x.at(px):.1f},{y.at(py):.1f}" for px, py in points)
        yield f'<polyline class="{style}" points="{path}"/>'
        px, py = x.at(first), y.at(first * slope)
        angle = math.degrees(math.atan2(y.at(top) - py, x.at(ridge) - px)) if ridge > first else 0.0
        yield (
            f'<text class="roof" transform="translate({px:.1f} {py:.1f}) rotate({angle:.1f})" dx="12" dy="-6">'
            f"{name} {slope:.0f} GB/s</text>"
        )


def _circles(
    shown: Sequence[tuple[int, KernelProfile]], colour_of: dict[str, str], x: _Scale, y: _Scale
) -> Iterator[str]:
    """The largest first, so that a small one is never hidden."""
    for rank, k in sorted(shown, key=lambda item: -(item[1].share_of_time or 0.0)):
        share = k.share_of_time or 0.0
        cx, cy = x.at(k.flops / k.num_bytes), y.at(k.gflops_per_s or 1.0)
        told = f"{rank}. {k.kernel}: {share:.1%} of the time, {k.gflops_per_s:.1f} GFLOP/s, {k.schedule}"
        yield (
            f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="{_radius(k, shown):.1f}" fill="{colour_of[k.schedule]}">'
            f"<title>{escape(told)}</title></circle>"
        )
    yield from _labels(shown, x, y)


def _radius(kernel: KernelProfile, shown: Sequence[tuple[int, KernelProfile]]) -> float:
    """Of a circle whose area is the kernel's share of the time, beside the longest."""
    longest = max(k.share_of_time or 0.0 for _, k in shown) or 1.0
    return max(SMALLEST_RADIUS, LARGEST_RADIUS * math.sqrt((kernel.share_of_time or 0.0) / longest))


def _labels(shown: Sequence[tuple[int, KernelProfile]], x: _Scale, y: _Scale) -> Iterator[str]:
    """Ranks of the slowest kernels; one that would cover another is left out."""
    placed: list[tuple[float, float]] = []
    for rank, k in shown[:LABELLED]:
        if _radius(k, shown) < LABEL_SIZE / 2:
            continue
        cx, cy = x.at(k.flops / k.num_bytes), y.at(k.gflops_per_s or 1.0)
        if all(abs(cx - px) > LABEL_SIZE or abs(cy - py) > LABEL_SIZE for px, py in placed):
            placed.append((cx, cy))
            yield f'<text class="rank" x="{cx:.1f}" y="{cy + 4:.1f}" text-anchor="middle">{rank}</text>'


def _legend(kernels: Sequence[KernelProfile]) -> Iterator[str]:
    at = TOP + 8
    for name, colour in colours(kernels).items():
        share = sum(k.share_of_time or 0.0 for k in kernels if k.schedule == name)
        yield f'<circle cx="{WIDTH - RIGHT + 24}" cy="{at}" r="6" fill="{colour}"/>'
        yield f'<text class="legend" x="{WIDTH - RIGHT + 38}" y="{at + 4}">{escape(name)}, {share:.0%} of time</text>'
        at += 22
    yield f'<text class="tick" x="{WIDTH - RIGHT + 18}" y="{at + 8}">area: share of the time</text>'
    yield f'<text class="tick" x="{WIDTH - RIGHT + 18}" y="{at + 25}">numbers: rank in the table</text>'

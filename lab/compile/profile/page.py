"""`report.html`: one page, complete in itself, that a browser opens from disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from string import Template

from lab.compile.profile.profile import BundleProfile, FunctionProfile, KernelProfile
from lab.compile.profile.roofline import colours, plottable, roofline
from lab.compile.profile.style import SCRIPT, STYLE

MAIN = "main"
NUMERIC = "num"

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$name</h1>
<p class="sub">$subtitle</p>
$warning
</header>
$body
<script>$script</script>
</body>
</html>
""")


def page(profile: BundleProfile) -> str:
    """The whole page."""
    subtitle = " &middot; ".join(map(escape, (profile.target, f"compiled on {profile.machine}", profile.created)))
    said = f"Nothing was timed: {profile.not_measured}. What needs no measurement is below."
    notes = [said if profile.not_measured else profile.disturbed, *profile.notes]
    warning = "".join(f'<p class="warning">{escape(note)}</p>' for note in notes if note)
    sections = [_function(profile, function) for function in profile.functions]
    return _PAGE.substitute(
        title=escape(f"{profile.name}: compile report"),
        name=escape(profile.name),
        subtitle=subtitle,
        warning=warning,
        style=STYLE,
        script=SCRIPT,
        body="\n".join([*_contents(profile), *_parts(profile), *sections, _stages(profile)]),
    )


def _contents(profile: BundleProfile) -> Iterator[str]:
    """Links to the functions, where there are several."""
    if len(profile.functions) > 1:
        links = (f'<a href="#{_anchor(f)}">{escape(_title(f))}</a>' for f in profile.functions)
        yield f"<nav>{' '.join(links)}</nav>"


def _parts(profile: BundleProfile) -> Iterator[str]:
    """What runs where, of a graph that is divided."""
    if not profile.parts:
        return
    rows = [
        [str(each.part), _batch(each.batch_size), escape(each.engine), escape(each.operators)
         + "".join(f'<div class="note">{escape(f"{node}: {why}")}</div>' for node, why in each.reasons.items()),
         "" if each.share_of_time is None else f'<span class="bar" style="--share:{each.share_of_time:.4f}">{each.share_of_time:.1%}</span>']  # noqa: E501
        for each in profile.parts
    ]  # fmt: skip
    heads = ["part", "batch", "runs in", "operators", "of time"]
    yield f"<section><h2>Parts</h2>{_table(heads, rows, text=(2, 3))}</section>"


def _batch(size: int) -> str:
    return str(size) if size else "as exported"


def _anchor(function: FunctionProfile) -> str:
    return f"{function.function}-{function.batch_size}"


def _title(function: FunctionProfile) -> str:
    parts = [] if function.function == MAIN else [function.function]
    parts.append(f"batch {function.batch_size}" if function.batch_size else "as exported")
    return ", ".join([*parts, *(f"{name} = {size}" for name, size in function.dims.items())])


def _function(profile: BundleProfile, function: FunctionProfile) -> str:
    plot = roofline(function.kernels, profile.peaks) if profile.peaks else ""
    missing = len(function.kernels) - len(plottable(function.kernels))
    caption = f'<p class="caption">{missing} kernels only move data or have no counted operations: not plotted.</p>'
    return "\n".join(
        [
            f'<section id="{escape(_anchor(function))}">',
            f"<h2>{escape(_title(function))}</h2>",
            _tiles(_facts(profile, function)),
            f'<div class="plot">{plot}</div>' + (caption if missing else "") if plot else "",
            _kernels(function),
            '<div class="columns">',
            _layouts(function),
            _phases(f"Compile time by phase, {_title(function)}", function.phases_s),
            "</div>",
            "</section>",
        ]
    )


def _tiles(facts: Iterable[tuple[str, str, str]]) -> str:
    tiles = (
        f'<div class="tile"><div class="label">{escape(label)}</div><div class="value">{escape(value)}</div>'
        f'<div class="hint">{escape(hint)}</div></div>'
        for label, value, hint in facts
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _facts(profile: BundleProfile, function: FunctionProfile) -> Iterator[tuple[str, str, str]]:
    flops = sum(kernel.flops for kernel in function.kernels)
    peaks, seconds = profile.peaks, (function.inference_ms or 0.0) / 1e3
    if function.inference_ms is not None:
        hint = f"median of {function.num_inferences}"
        if function.kernels_ms is not None:
            hint += f"; kernels add up to {_number(function.kernels_ms)} ms"
        yield "Inference", f"{_number(function.inference_ms)} ms", hint
    if seconds and peaks:
        rate = flops / seconds
        yield "Speed", f"{rate / 1e9:.1f} GFLOP/s", f"{rate / peaks.flops_per_s:.0%} of the measured peak"
    name, unit = ("GFLOP", 1e9) if flops >= 1e8 else ("MFLOP", 1e6)
    yield "Work", f"{_number(flops / unit)} {name}", f"{sum(k.num_calls for k in function.kernels)} kernel calls"
    naive = sum(kernel.schedule == "naive" for kernel in function.kernels)
    yield "Kernels", str(len(function.kernels)), f"{naive} naive" if naive else "every one scheduled"
    if function.memory:
        hint = f"{function.memory.num_storages} buffers, {_bytes(function.memory.allocated_bytes)} in all"
        yield "Peak activations", _bytes(function.memory.peak_bytes), hint
    else:
        yield "Peak activations", "not known", "sizes depend on the data"
    if peaks:
        hint = f"{peaks.num_threads} threads; best of {peaks.num_samples} samples"
        yield "Peak multiply-adds", f"{peaks.flops_per_s / 1e9:.0f} GFLOP/s", hint
        cache = f"cache ({peaks.cache_bytes >> 10} KiB a thread) {peaks.cache_bytes_per_s / 1e9:.0f} GB/s"
        yield "Memory, reading", f"{peaks.memory_bytes_per_s / 1e9:.1f} GB/s", cache


def _kernels(function: FunctionProfile) -> str:
    colour = colours(function.kernels)
    measured = function.inference_ms is not None
    work, size = _units(function)
    heads = ["#", "kernel", "schedule", "calls", work[0], size[0]]
    heads += ["time µs", "of time", "GFLOP/s", "of peak", "GB/s", "of memory", "bound by"] if measured else []
    rows = [
        _kernel(rank, kernel, colour, (work[1], size[1]), measured) for rank, kernel in enumerate(function.kernels, 1)
    ]
    note = (
        f"{work[0]} are those a kernel computes: a Winograd kernel's are fewer than those of the convolution it stands "
        f"for. {size[0]} are its arguments, read or written once."
    )
    if measured:
        note += (
            " Times are medians inside whole inferences, all calls of a kernel together. More than 100 % of memory "
            "means that caches held the arguments."
        )
    return f'<h3>Kernels</h3>{_table(heads, rows, "kernels", text=(1, 2, 12))}<p class="caption">{note}</p>'


def _units(function: FunctionProfile) -> tuple[tuple[str, float], tuple[str, float]]:
    """(name, size) of the units in which the table counts operations and bytes."""
    most_flops = max((kernel.flops for kernel in function.kernels), default=0)
    most_bytes = max((kernel.num_bytes for kernel in function.kernels), default=0)
    work = ("GFLOP", 1e9) if most_flops >= 1e8 else ("MFLOP", 1e6)
    return work, ("MB", 1e6) if most_bytes >= 1e6 else ("KB", 1e3)


def _kernel(
    rank: int, kernel: KernelProfile, colour: dict[str, str], units: tuple[float, float], measured: bool
) -> list[str]:
    dot = f'<span class="dot" style="background:{colour[kernel.schedule]}"></span>'
    note = f'<div class="note">{escape(kernel.note)}</div>' if kernel.note else ""
    name = f'<span class="name">{escape(kernel.kernel)}</span>'
    schedule = f'{dot}<span class="{"naive" if kernel.schedule == "naive" else ""}">{escape(kernel.schedule)}</span>'
    cells = [str(rank), name, schedule + note, str(kernel.num_calls), _number(kernel.flops / units[0])]
    cells.append(_number(kernel.num_bytes / units[1]))
    if measured:
        share = kernel.share_of_time
        bar = "" if share is None else f'<span class="bar" style="--share:{share:.4f}">{share:.1%}</span>'
        cells += [_optional(kernel.time_us), bar, _optional(kernel.gflops_per_s if kernel.flops else None)]
        cells += [_share(kernel.share_of_peak if kernel.flops else None), _optional(kernel.gbytes_per_s)]
        cells += [_share(kernel.share_of_memory), kernel.bound]
    return cells


def _layouts(function: FunctionProfile) -> str:
    rows = [[escape(item.operator), escape(item.layout), str(item.num_operators)] for item in function.layouts]
    table = _table(["operator", "layout", "operators"], rows, text=(0, 1)) if rows else "<p>No operator has one.</p>"
    moved = [c for c in function.changes if c.num_bytes != 0]
    views = len(function.changes) - len(moved)
    changes = [
        [escape(c.operator), f"{_shape(c.before)} &rarr; {_shape(c.after)}",
         "open" if c.num_bytes is None else _number(c.num_bytes / 1e6)]
        for c in moved
    ]  # fmt: skip
    told = (
        f"Weights stored packed for their kernel: {function.num_packed}. Transposes that are views, and free: {views}."
    )
    listed = _table(["transform", "shape", "MB"], changes, text=(0, 1)) if changes else "<p>None moves data.</p>"
    return f'<div><h3>Layouts</h3>{table}<h3>Layout transforms in the graph</h3>{listed}<p class="caption">{told}</p></div>'  # noqa: E501


def _phases(title: str, phases_s: dict[str, float]) -> str:
    total = sum(phases_s.values()) or 1.0
    rows = [
        [escape(name), f"{seconds:.2f}", f'<span class="bar" style="--share:{seconds / total:.4f}">{seconds / total:.0%}</span>']  # noqa: E501
        for name, seconds in phases_s.items()
    ]  # fmt: skip
    rows.append(["<b>in all</b>", f"<b>{total:.2f}</b>", ""])
    return f"<div><h3>{escape(title)}</h3>{_table(['phase', 's', 'share'], rows, text=(0,))}</div>"


def _stages(profile: BundleProfile) -> str:
    """Of the whole command, beside the phases of each function."""
    inner = _phases("The whole command", profile.stages_s)
    return f'<section><div class="columns">{inner}</div></section>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "", text: Sequence[int] = ()) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        marks = ("" if i in text else f' class="{NUMERIC}"' for i in range(len(cells)))
        inner = "".join(f"<{tag}{mark}>{cell}</{tag}>" for cell, mark in zip(cells, marks, strict=True))
        return f"<tr>{inner}</tr>"

    body = "\n".join(row(cells, "td") for cells in rows)
    return f'<div class="scroll"><table class="{kind}"><thead>{row(heads, "th")}</thead><tbody>\n{body}\n</tbody></table></div>'  # noqa: E501


def _shape(shape: Sequence[object]) -> str:
    return escape("[" + ", ".join(map(str, shape)) + "]")


def _optional(value: float | None) -> str:
    return "" if value is None else _number(value)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _number(value: float) -> str:
    """Three figures, without an exponent."""
    if value == 0:
        return "0"
    for digits, least in ((0, 100), (1, 10), (2, 1), (3, 0.1)):
        if abs(value) >= least:
            return f"{value:,.{digits}f}"
    return f"{value:.4f}" if abs(value) >= 0.00005 else "&lt;0.0001"


def _bytes(size: int) -> str:
    for unit, factor in (("MB", 1e6), ("KB", 1e3)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size} bytes"

"""Inner loops of the convolution and product kernels for an ARM core by `llvm-mca`, and their results under emulation.

    python benchmarks/arm_kernels.py [--models NAME ...] [--target arm:cortex-a72] [--no-run] [--out FILE]

The nine models of compile_latency.py at their full size, batch 1, float32, untuned. Per kernel: the loop in which most
of its multiply-adds run, the share of the core's float32 multiply-add peak that `llvm-mca` models for it, and the share
of the kernel's multiply-adds that this loop runs, counted by a second library with a counter in front of every block.
Per model: the largest difference of the emulated library's outputs from ONNX Runtime's, relative to the largest value
of each. `--no-run` leaves out whatever needs qemu, and guesses which loop it is. Results of models that were not asked
for stay in FILE.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.arm_count import counting_environment, export_counting, read_counts
from benchmarks.arm_loops import Function, Loop, check_mca, cycles, functions, functions_of, hot_path, innermost_loops
from benchmarks.arm_loops import peak as peak_of
from benchmarks.compile_latency import OPSET, SUBJECTS, Subject
from lab.artifacts.files import write_json
from lab.artifacts.manifest import Entry, Manifest, now
from lab.compile.build import Compiled, compile_onnx
from lab.compile.link import write_library
from lab.compile.report import KernelRow
from lab.compile.targets import Target, resolve_target
from lab.core.compare import difference
from lab.core.errors import ConfigError, LabError
from lab.core.host import versions
from lab.export.onnx_export import export_onnx
from lab.runtime.edge import EmulatedRunner, run_bundle
from lab.runtime.onnx_runner import OnnxRunner

RESULTS = Path(__file__).parent / "results" / "arm_kernels.json"
BAR = 0.7
PRODUCTS = ("conv2d", "group_conv2d", "conv2d_transpose", "conv1d", "matmul", "recurrent")
WINOGRAD = "conv2d_winograd"
SHARES = ("fmas_in_loop", "all_loops_share", "counted")
HOW_TO_READ = (
    'Per kernel: its loop with most multiply-adds. "In loop": the share of the kernel\'s multiply-adds that run there. '
    '"All loops": the share of the peak of its innermost loops together, so of a Winograd also the transforms, of a '
    'recurrent layer also the polynomials of its gates. "Counted": twice the multiply-adds over the reported FLOP.'
)


@dataclass(frozen=True)
class KernelLoops:
    """A kernel's steady loop, and how the core fares in it. Shares are of one."""

    kernel: str
    schedule: str
    note: str
    flop_share: float
    """Of the model's floating-point operations."""
    loop: str
    fmas: int
    """float32 multiply-adds of an iteration."""
    instructions: int
    cycles: float
    peak_share: float
    fmas_in_loop: float | None
    """Share of the kernel's multiply-adds that run in this loop; None where nothing ran."""
    all_loops_share: float | None
    """Share of the peak of all innermost loops of the kernel together."""
    counted: float | None
    """Multiply-adds counted, twice, over the floating-point operations reported: one where nothing else is computed."""


def assembly_of(compiled: Compiled) -> str:
    """The kernels of a compiled model as LLVM prints them. Raises LabError."""
    (executable,) = compiled.executables.values()
    modules, waiting = [], [executable.mod]
    while waiting:
        module = waiting.pop()
        modules += [module] if module.kind == "llvm" else []
        waiting += list(module.imports)
    if len(modules) != 1:
        raise LabError("the kernels are not in one LLVM module", got=len(modules), expected=1)
    return str(modules[0].inspect_source("asm"))


def is_product(row: KernelRow) -> bool:
    return row.op_kind in PRODUCTS or row.schedule == WINOGRAD


def lines_to_count(parts: list[Function]) -> list[int]:
    """Every block with multiply-adds, and every block of an innermost loop that has some."""
    with_fmas = {block.line for part in parts for block in part.blocks if block.lanes}
    in_loops = {b.line for part in parts for loop in innermost_loops(part) if loop.lanes for b in loop.blocks}
    return sorted(with_fmas | in_loops)


def measure_kernel(
    row: KernelRow, parts: list[Function], total: int, counts: Mapping[int, int], target: Target, peak: float
) -> KernelLoops:
    """Raises LabError: the kernel has no loop with multiply-adds."""
    loops = [loop for part in parts for loop in innermost_loops(part) if loop.lanes]
    if not loops:
        raise LabError(f"{row.kernel} has no loop with float32 multiply-adds", got=[part.name for part in parts])
    modelled = [_model(loop, counts, target.spec.mcpu) for loop in loops]
    done = sum(block.lanes * counts.get(block.line, 0) for part in parts for block in part.blocks)
    # Without counts a guess: the loop with most multiply-adds per instruction, as a product has beside its transforms.
    steady = max(modelled, key=lambda m: (m["done"], m["fmas"] / m["instructions"]))
    time_of_all = sum(m["runs"] * m["cycles"] for m in modelled)
    return KernelLoops(
        row.kernel, row.schedule, row.reason.rpartition("; ")[2] if row.schedule != "window" else "",
        row.flops * row.num_calls / max(total, 1), steady["loop"], steady["fmas"], steady["instructions"],
        round(steady["cycles"], 2), round(steady["fmas"] / steady["cycles"] / peak, 4),
        round(steady["done"] / done, 4) if done else None,
        round(sum(m["done"] for m in modelled) / time_of_all / peak, 4) if time_of_all else None,
        round(2 * done / (row.flops * row.num_calls), 4) if done and row.flops else None,
    )  # fmt: skip


def _model(loop: Loop, counts: Mapping[int, int], mcpu: str) -> dict[str, Any]:
    path = list(hot_path(loop, counts))
    body = [instruction for block in path for instruction in block.instructions]
    return {
        "loop": loop.name, "fmas": sum(block.lanes for block in path), "instructions": len(body),
        "cycles": cycles(body, mcpu), "runs": max(counts.get(block.line, 0) for block in loop.blocks),
        "done": sum(block.lanes * counts.get(block.line, 0) for block in loop.blocks),
    }  # fmt: skip


def measure(name: str, target: Target, peak: float, *, run: bool) -> dict[str, Any]:
    """One model's kernels and errors."""
    torch.manual_seed(0)
    subject: Subject = SUBJECTS[name]()
    with tempfile.TemporaryDirectory() as scratch:
        path = export_onnx(subject.module, subject.signature, Path(scratch) / "model.onnx", opset=OPSET)
        compiled = compile_onnx(path, target, progress=lambda line: None)
        assembly = assembly_of(compiled)
        found = functions(assembly)
        rows = [row for row in compiled.report.rows if is_product(row)]
        parts = {row.kernel: functions_of(row.kernel, found) for row in rows}
        lines = sorted({line for of_kernel in parts.values() for line in lines_to_count(of_kernel)})
        result: dict[str, Any] = {"created": now(), "naive": compiled.report.naive()}
        counts: dict[int, int] = {}
        if run:
            counts, ran = run_emulated(compiled, assembly, lines, path, subject)
            result |= ran
        total = sum(row.flops * row.num_calls for row in compiled.report.rows)
        result["gflop"] = round(total / 1e9, 4)
        kernels = [measure_kernel(row, parts[row.kernel], total, counts, target, peak) for row in rows]
    kernels.sort(key=lambda kernel: -kernel.flop_share)
    return result | summary(kernels) | {"kernels": [asdict(kernel) for kernel in kernels]}


def summary(kernels: list[KernelLoops]) -> dict[str, Any]:
    """The worst kernel, the mean weighted by floating-point operations, and who is below the bar."""
    worst = min(kernels, key=lambda kernel: kernel.peak_share)
    weight = sum(kernel.flop_share for kernel in kernels)
    return {
        "worst": {worst.kernel: worst.peak_share},
        "mean": round(sum(k.peak_share * k.flop_share for k in kernels) / weight, 4),
        "below_bar": [kernel.kernel for kernel in kernels if kernel.peak_share < BAR],
    }


def run_emulated(
    compiled: Compiled, assembly: str, lines: list[int], model: Path, subject: Subject
) -> tuple[dict[int, int], dict[str, Any]]:
    """How often the blocks ran, and the errors of the library that is shipped, which no counters slow down."""
    rng = np.random.default_rng(0)
    shapes = {spec.name: [int(dim) for dim in spec.shape] for spec in subject.signature.inputs}
    feed = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    folder = model.parent
    shipped = _bundle(compiled, folder / "shipped", write_library(compiled, folder / "shipped"))
    start = time.perf_counter()
    actual = EmulatedRunner(shipped, num_threads=1).run(feed)
    seconds = time.perf_counter() - start
    expected = OnnxRunner(model).run(feed)
    gaps = {name: difference(expected[name], actual[name]).max_abs for name in expected}
    relative = {name: gap / max(float(np.abs(expected[name]).max()), 1e-30) for name, gap in gaps.items()}
    counting, counters = folder / "counting", folder / "counts.bin"
    counting.mkdir()
    ((size, executable),) = compiled.executables.items()
    entry = Entry(f"model_b{size}.so", size)
    export_counting(executable, assembly, lines, counting / entry.library, str(compiled.target.linker or "gcc"))
    counting_environment(counters)
    counted = run_bundle(_bundle(compiled, counting, [entry]), feed, num_threads=1)
    if any(not np.array_equal(actual[name], counted[name]) for name in actual):
        raise LabError("the counting library gives other results than the one shipped", expected="the same bits")
    ran = {
        "input": shapes, "emulated_s": round(seconds, 1), "max_rel_error": max(relative.values()),
        "max_abs_error": max(gaps.values()),
    }  # fmt: skip
    return read_counts(counters, lines), ran


def _bundle(compiled: Compiled, folder: Path, entries: list[Entry]) -> Path:
    manifest = Manifest("bundle", "arm", compiled.signature, target=compiled.target.info(), entries=tuple(entries))
    manifest.with_files(folder, [entry.library for entry in entries]).save(folder)
    return folder


def page(results: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# Inner loops on ARM cores", "", __doc__.partition("\n\n")[0].replace("\n", " "), ""]
    for target, of_target in results["targets"].items():
        lines += _target_page(target, of_target)
    return "\n".join(lines)


def _target_page(target: str, results: Mapping[str, Any]) -> list[str]:
    rows = results["rows"]
    below = [f"{name}: {', '.join(row['below_bar'])}" for name, row in rows.items() if row["below_bar"]]
    together = [
        f"{kernel['kernel']} of {name} ({kernel['all_loops_share']:.0%})"
        for name, row in rows.items()
        for kernel in row["kernels"]
        if (kernel["all_loops_share"] or 1) < BAR
    ]
    worst, kernel, name = min(
        (share, kernel, name) for name, row in rows.items() for kernel, share in row["worst"].items()
    )
    weights = [(row["mean"], row["gflop"]) for row in rows.values()]
    mean = sum(share * gflop for share, gflop in weights) / sum(gflop for _, gflop in weights)
    lines = [
        f"## {target}", "",
        f"{results['mca']}, whose model of this core does {results['peak']:g} float32 multiply-adds per cycle in a "
        "stream of independent `fmla`; loads are met by the first-level cache. `make arm-kernels`.", "",
        f"- worst kernel: {kernel} of {name}, {worst:.1%} of the peak; mean of all, weighted by GFLOP: {mean:.1%}",
        f"- at least {BAR:.0%} everywhere: {'**not met** by ' + '; '.join(below) if below else 'met'}",
        f"- below {BAR:.0%} with all innermost loops of the kernel together: {', '.join(together) or 'none'}", "",
        "| model | GFLOP | mean share of peak | worst | largest error against ONNX Runtime, relative (absolute) | "
        "input |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, row in rows.items():
        ((kernel, share),) = row["worst"].items()
        error = f"{row['max_rel_error']:.1e} ({row['max_abs_error']:.1e})" if "max_rel_error" in row else "not run"
        shapes = "; ".join("x".join(map(str, shape)) for shape in row.get("input", {}).values())
        lines.append(
            f"| {name} | {row['gflop']:g} | {row['mean']:.1%} | {share:.1%} {kernel} | {error} | {shapes or '-'} |"
        )
    lines += ["", HOW_TO_READ, ""]
    for name, row in rows.items():
        lines += [f"### {name}", "", *_kernel_table(row["kernels"]), ""]
    return lines


def _kernel_table(kernels: list[Mapping[str, Any]]) -> list[str]:
    columns = ("kernel", "schedule", "of model's FLOP", "loop", "multiply-adds", "cycles", "of peak")
    columns += ("in loop", "all loops", "counted")
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for kernel in kernels:
        shares = ["-" if kernel[key] is None else f"{kernel[key]:.1%}" for key in SHARES]
        told = f"{kernel['schedule']}, {kernel['note']}" if kernel["note"] else kernel["schedule"]
        peak_share = f"{kernel['peak_share']:.1%}"
        lines.append(
            f"| {kernel['kernel']} | {told} | {kernel['flop_share']:.1%} | {kernel['loop']} | {kernel['fmas']} | "
            f"{kernel['cycles']:g} | {peak_share if kernel['peak_share'] >= BAR else f'**{peak_share}**'} | "
            f"{' | '.join(shares)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--target", default="arm:cortex-a72")
    parser.add_argument("--no-run", dest="run", action="store_false")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    target = resolve_target(chosen.target)
    if target.kind != "arm":
        raise ConfigError("the loops of ARM kernels are read", got=chosen.target, expected="arm:<core>")
    mca, peak = check_mca(), peak_of(target.spec.mcpu)
    results = json.loads(chosen.out.read_text()) if chosen.out.exists() else {"targets": {}}
    for name in chosen.models:
        row = measure(name, target, peak, run=chosen.run)
        kept = results["targets"].get(chosen.target, {"rows": {}})["rows"] | {name: row}
        results["targets"][chosen.target] = {
            "mca": mca, "peak": peak, "rows": {n: kept[n] for n in SUBJECTS if n in kept}, "versions": versions(),
        }  # fmt: skip
        write_json(chosen.out, results)
        chosen.out.with_suffix(".md").write_text(page(results), encoding="utf-8")
        print(f"== {name}: { ({k: v for k, v in row.items() if k != 'kernels'}) }")
        print("\n".join(_kernel_table(row["kernels"])), flush=True)


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(str(error))

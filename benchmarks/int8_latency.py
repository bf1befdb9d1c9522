"""What 8 bits gain: latency of this compiler's float32 and int8 code beside ONNX Runtime's, on this machine.

    python benchmarks/int8_latency.py [--models NAME ...] [--threads 2] [--rounds 15]

Batch 1, one process per model, engines timed in turns, medians. Weights and calibration data are random (seed 0), which
latency does not depend on; what 8 bits cost a trained model's metric, `lab compile RUN --precision int8` tells.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.compile_latency import OPSET, SUBJECTS
from lab.artifacts.files import write_json
from lab.artifacts.manifest import Manifest, now
from lab.compile.build import compile_onnx
from lab.compile.link import write_library
from lab.compile.targets import resolve_target
from lab.core.compare import difference
from lab.core.host import cpu_name, num_cores, versions
from lab.core.timing import interleaved
from lab.export.onnx_export import export_onnx
from lab.export.quantize import quantize_onnx
from lab.runtime import open_bundle
from lab.runtime.onnx_runner import OnnxRunner

RESULTS = Path(__file__).parent / "results" / "int8_latency.json"
MODELS = ("resnet18", "resnet50", "mobilenet_v2", "vgg16", "ssd300_vgg16")
BAR = 2.0
"""How many times faster than our own float32 int8 should be."""
CALIBRATION, CALLS = 4, 5


def measure(name: str, num_threads: int, rounds: int) -> dict[str, Any]:
    """One model's row: latencies in milliseconds, and how far int8 outputs are from ONNX Runtime's of the same file."""
    torch.manual_seed(0)
    subject = SUBJECTS[name]()
    rng = np.random.default_rng(0)
    (spec,) = subject.signature.inputs
    shape = [int(dim) for dim in spec.shape]
    feeds = [{spec.name: rng.standard_normal(shape).astype(np.float32)} for _ in range(CALIBRATION)]
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = {"float32": export_onnx(subject.module, subject.signature, folder / "float32.onnx", opset=OPSET)}
        files["int8"] = folder / "int8.onnx"
        quantize_onnx(files["float32"], files["int8"], feeds, method="minmax")
        runners: dict[str, Any] = {}
        for precision, path in files.items():
            compiled = compile_onnx(path, resolve_target("x86", precision), progress=lambda line: None)
            entries = write_library(compiled, folder / precision)
            if precision == "int8":
                integer = sum(r.flops * r.num_calls for r in compiled.report.rows if r.schedule == "conv2d_integer")
                row["share_in_int8"] = round(integer / sum(r.flops * r.num_calls for r in compiled.report.rows), 3)
            manifest = Manifest(
                "bundle", name, compiled.signature, target=compiled.target.info(), entries=tuple(entries)
            )
            manifest.with_files(folder / precision, [entry.library for entry in entries]).save(folder / precision)
            runners[f"tvm {precision}"] = open_bundle(folder / precision, num_threads=num_threads)
            runners[f"onnxruntime {precision}"] = OnnxRunner(path, num_threads=num_threads)
        row["max_rel_error"] = _error(runners["onnxruntime int8"].run(feeds[0]), runners["tvm int8"].run(feeds[0]))
        calls = {engine: (lambda runner=runner: runner.run(feeds[0])) for engine, runner in runners.items()}
        times = interleaved(calls, rounds=rounds, calls_per_round=CALLS)
    row["ms"] = {engine: round(latency.p50_ms, 3) for engine, latency in times.items()}
    row["gain"] = round(row["ms"]["tvm float32"] / row["ms"]["tvm int8"], 2)
    return row


def _error(expected: dict[str, np.ndarray], actual: dict[str, np.ndarray]) -> float:
    """The largest difference, relative to the largest value of each output."""
    return max(
        float(difference(array, actual[name]).max_abs / max(np.abs(array).max(), 1e-30))
        for name, array in expected.items()
    )


def table(results: dict[str, Any]) -> str:
    """The results as a Markdown page."""
    engines = list(next(iter(results["rows"].values()))["ms"])
    lines = [
        "# Latency in 8 bits",
        "",
        f"{results['cpu']}, {results['num_threads']} threads, batch 1, medians of interleaved calls in milliseconds; "
        "`make bench-int8`.",
        "",
        f"| model | {' | '.join(engines)} | gain | operations in int8 | largest error against ONNX Runtime's int8 |",
        "|---|" + "---|" * (len(engines) + 3),
    ]
    for name, row in results["rows"].items():
        cells = [f"{row['ms'][engine]:.3g}" for engine in engines]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {row['gain']:.2f} | {row['share_in_int8']:.1%} | "
            f"{row['max_rel_error']:.1e} |"
        )
    slow = [f"{name} {row['gain']:.2f}" for name, row in results["rows"].items() if row["gain"] < BAR]
    lines += [
        "",
        f"- at least {BAR:g} times faster than float32: " + (f"**not met** by {', '.join(slow)}" if slow else "met"),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # this process measures the one model
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.models[0], chosen.threads, chosen.rounds)))
        return
    results = json.loads(chosen.out.read_text()) if chosen.out.exists() else {"rows": {}}
    for name in chosen.models:
        command = [sys.executable, __file__, "--one", "--models", name]
        command += ["--threads", str(chosen.threads), "--rounds", str(chosen.rounds)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"{name}: {row}", flush=True)
        rows = {**results["rows"], name: row | {"created": now()}}
        results = {"cpu": cpu_name(), "num_threads": chosen.threads, "versions": versions()}
        results["rows"] = {model: rows[model] for model in MODELS if model in rows}
        write_json(chosen.out, results)
        chosen.out.with_suffix(".md").write_text(table(results), encoding="utf-8")


if __name__ == "__main__":
    main()

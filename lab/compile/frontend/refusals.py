"""Operators that TVM's importer knows but converts wrongly with some attributes: refused by name, before it is asked.

Each line was found by ONNX's own operator tests (`make onnx-conformance`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from lab.compile.frontend.known import Known, known_of
from lab.compile.frontend.operators import PARTIAL, walk_nodes
from lab.core.errors import UnsupportedError

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})


def check_attributes(model: onnx.ModelProto) -> None:
    """Raises UnsupportedError listing every node that would be converted wrongly, with the reason."""
    known = known_of(model)
    found = [
        f"{node.op_type} ({node.name or node.output[0]}): {reason}"
        for node in walk_nodes(model.graph.node)
        if (reason := why_refused(node, known))
    ]
    if found:
        raise UnsupportedError(
            "the model uses operators in a way that cannot be compiled", got="\n            ".join(found),
            hint=PARTIAL,
        )  # fmt: skip


def why_refused(node: onnx.NodeProto, known: Known) -> str:
    """Why a node would be converted wrongly; empty where it is not."""
    check = CHECKS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    return check(node, _attributes(node), known) if check else ""


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _input(node: onnx.NodeProto, index: int) -> str:
    return node.input[index] if index < len(node.input) else ""


def _batch_normalization(node: onnx.NodeProto, attributes: Mapping[str, Any], known: Known) -> str:
    return "training_mode=1; a compiled model only predicts" if attributes.get("training_mode", 0) else ""


def _depth_to_space(node: onnx.NodeProto, attributes: Mapping[str, Any], known: Known) -> str:
    mode = attributes.get("mode", b"DCR").decode()
    return f"mode {mode}; only DCR is right" if node.op_type == "SpaceToDepth" and mode != "DCR" else ""


def _grid_sample(node: onnx.NodeProto, attributes: Mapping[str, Any], known: Known) -> str:
    reflected = attributes.get("padding_mode", b"zeros") == b"reflection"
    return "mode nearest with reflection" if reflected and attributes.get("mode") == b"nearest" else ""


def _lp_pool(node: onnx.NodeProto, attributes: Mapping[str, Any], known: Known) -> str:
    return "ceil_mode=1; windows past the end are scaled" if attributes.get("ceil_mode", 0) else ""


def _reduce(node: onnx.NodeProto, attributes: Mapping[str, Any], known: Known) -> str:
    axes = known.value(_input(node, 1))
    if attributes.get("noop_with_empty_axes", 0) and (axes is None or not axes.size):
        return "of no axes (noop_with_empty_axes=1)"
    return ""


def _reduce_mean(node: onnx.NodeProto, attributes: Mapping[str, Any], known: Known) -> str:
    kind = known.types.get(node.input[0], 0)
    return "of whole numbers" if kind and kind not in FLOATS else ""


def _mod(node: onnx.NodeProto, attributes: Mapping[str, Any], known: Known) -> str:
    if known.types.get(node.input[0]) in FLOATS and not attributes.get("fmod", 0):
        return "of floats with fmod=0; fmod=1 is right"
    return ""


def _non_max_suppression(node: onnx.NodeProto, attributes: Mapping[str, Any], known: Known) -> str:
    return "its number of rows is known at run time only; `lab` detectors suppress with a fixed number"


def _resize(node: onnx.NodeProto, attributes: Mapping[str, Any], known: Known) -> str:
    if attributes.get("antialias", 0):
        return "antialias=1"
    scales = known.value(_input(node, 2 if len(node.input) > 2 else 1))
    if scales is None or not scales.size or _input(node, 3):
        return ""
    before = known.shapes.get(node.input[0])
    if before is None or len(before) != len(scales):
        return ""
    exact = np.array(before) * scales.astype(np.float64)
    if np.abs(exact - np.round(exact)).max() > 1e-4 * np.abs(exact).max():
        return f"scales {scales.tolist()} of shape {before} give no whole sizes, and positions are computed from sizes"
    return ""


def _roi_align(node: onnx.NodeProto, attributes: Mapping[str, Any], known: Known) -> str:
    return "mode max; avg is right" if attributes.get("mode", b"avg") == b"max" else ""


CHECKS: dict[str, Callable[[onnx.NodeProto, Mapping[str, Any], Known], str]] = {
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

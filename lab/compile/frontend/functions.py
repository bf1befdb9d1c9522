"""Functions that a model file defines: the lab's own become kernels, all others are inlined."""

from __future__ import annotations

import onnx
import onnx.inliner
from onnx import helper

LAB = "lab"
# Operator -> the input whose shape and, with the type given, whose place its result takes.
RESULT_LIKE = {"NmsKeep": 1}


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every function inlined but those of domain `lab` that have a converter.

    The bodies of these become stand-ins of the right shape: ONNX's shape inference looks through functions, but not
    through the loops that the real bodies hold.
    """
    if not model.functions:
        return model
    own = [(LAB, name, "") for name in RESULT_LIKE]
    model = onnx.inliner.inline_selected_functions(model, [key[:2] for key in own], exclude=True)
    for function in model.functions:
        if function.domain == LAB and function.name in RESULT_LIKE:
            shape_like = function.input[RESULT_LIKE[function.name]]
            del function.node[:]
            function.node.append(helper.make_node("Identity", [shape_like], list(function.output)))
    return model

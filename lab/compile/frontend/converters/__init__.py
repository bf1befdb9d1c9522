"""Converters of ONNX operators that TVM's importer lacks, or turns into something the passes cannot read.

Adding one: a file here with `convert(builder, inputs, attributes, params, opset)`, one line in the table, one test.
Returning None leaves the node to TVM's own converter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lab.core.tables import LazyTable

CONVERTERS = LazyTable(
    "ONNX converter",
    {
        "BitShift": "lab.compile.frontend.converters.simple:bit_shift",
        "Cast": "lab.compile.frontend.converters.cast:convert",
        "Clip": "lab.compile.frontend.converters.clip:convert",
        "Conv": "lab.compile.frontend.converters.conv1d:convert",
        "ConvTranspose": "lab.compile.frontend.converters.simple:conv_transpose",
        "Dropout": "lab.compile.frontend.converters.simple:dropout",
        "Equal": "lab.compile.frontend.converters.equal:convert",
        "Expand": "lab.compile.frontend.converters.simple:expand",
        "GRU": "lab.compile.frontend.converters.recurrent:gru",
        "IsInf": "lab.compile.frontend.converters.simple:is_inf",
        "LSTM": "lab.compile.frontend.converters.recurrent:lstm",
        "LayerNormalization": "lab.compile.frontend.converters.simple:layer_normalization",
        "Max": "lab.compile.frontend.converters.simple:max_of",
        "Mean": "lab.compile.frontend.converters.simple:mean_of",
        "Min": "lab.compile.frontend.converters.simple:min_of",
        "NmsKeep": "lab.compile.frontend.converters.nms_keep:convert",
        "OneHot": "lab.compile.frontend.converters.one_hot:convert",
        "Pad": "lab.compile.frontend.converters.pad:convert",
        "Pow": "lab.compile.frontend.converters.power:convert",
        "RNN": "lab.compile.frontend.converters.recurrent:rnn",
        "ReduceMax": "lab.compile.frontend.converters.simple:reduce_max",
        "ReduceMin": "lab.compile.frontend.converters.simple:reduce_min",
        "Resize": "lab.compile.frontend.converters.resize:convert",
        "Shape": "lab.compile.frontend.converters.simple:shape",
        "Slice": "lab.compile.frontend.converters.slice:convert",
        "Sum": "lab.compile.frontend.converters.simple:sum_of",
        "Upsample": "lab.compile.frontend.converters.resize:convert",
    },
)


@contextmanager
def installed() -> Iterator[None]:
    """Inside, TVM's importer asks these converters first."""
    from tvm.relax.frontend.onnx import onnx_frontend

    original = onnx_frontend._get_convert_map
    onnx_frontend._get_convert_map = lambda: extended(original())
    try:
        yield
    finally:
        onnx_frontend._get_convert_map = original


def extended(table: dict[str, Any]) -> dict[str, Any]:
    """TVM's table with ours in front."""
    return table | {name: _wrapped(name, table.get(name)) for name in CONVERTERS}


def _wrapped(name: str, original: Any) -> Any:
    class Converter:
        """Has the one method TVM's importer calls."""

        @staticmethod
        def get_converter(opset: int) -> Any:
            def convert(builder: Any, inputs: Any, attributes: Any, params: Any) -> Any:
                ours = CONVERTERS[name](builder, inputs, attributes, params, opset)
                if ours is not None:
                    return ours
                return original.get_converter(opset)(builder, inputs, attributes, params)

            return convert

    return Converter

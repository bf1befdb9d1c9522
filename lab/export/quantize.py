"""8-bit copies of an ONNX model by ONNX Runtime's quantiser: weights per channel, activations by calibration."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx

from lab.core.errors import UnsupportedError

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[str, ...] = get_args(Method)
OPERATORS = ("Conv", "Gemm", "MatMul", "Add", "MaxPool", "GlobalAveragePool", "ReduceMean", "Relu", "Clip", "Flatten")
"""What is computed or passed on in 8 bits; everything else, such as a detector's decoding, keeps its floats."""
MIN_OPSET = 13  # from here on every weight's output channel may have a scale of its own


def quantize_onnx(path: Path, output: Path, feeds: Iterable[Mapping[str, np.ndarray]], *, method: Method) -> None:
    """Write `output`, the quantised copy of the ONNX model at `path` (QuantizeLinear and DequantizeLinear pairs).

    Args:
        feeds: named inputs to calibrate on; from them come the ranges of the activations.
        method: what an activation's range is: its extremes, its 99.999th percentile, or what loses least information.

    Raises:
        UnsupportedError: the model has nothing to quantise, or the quantiser refuses it.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    model = onnx.load(path)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < MIN_OPSET:
        raise UnsupportedError(
            "the model's operator set cannot hold scales per channel", got=f"opset {opset}",
            expected=f"{MIN_OPSET} or later", hint="export it anew with a later opset",
        )  # fmt: skip
    if not any(node.op_type in ("Conv", "Gemm", "MatMul") for node in model.graph.node):
        raise UnsupportedError("the model has no convolution and no product, so int8 gains nothing", got=path)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds: Iterator[Mapping[str, np.ndarray]] = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            feed = next(self.feeds, None)
            return None if feed is None else dict(feed)

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    quiet, level = logging.getLogger(), logging.getLogger().level
    quiet.setLevel(logging.ERROR)  # it recommends a pre-processing that our exports have no need of
    try:
        quantize_static(
            str(path), str(output), Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=list(OPERATORS),
            per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            calibrate_method=methods[method],
        )  # fmt: skip
    except Exception as error:  # the quantiser raises whatever numpy, onnx and ONNX Runtime raise
        raise UnsupportedError(
            "ONNX Runtime's quantiser refuses the model", got=f"{type(error).__name__}: {str(error)[:300]}",
            hint="compile it without --precision int8",
        ) from error  # fmt: skip
    finally:
        quiet.setLevel(level)


def has_halves(path: Path) -> bool:
    """Whether an ONNX file computes, in part, in half precision. False for a file that is not ONNX."""
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception:  # noqa: BLE001  as below
        return False
    casts = (a.i for node in graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to")
    kinds = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)]
    return onnx.TensorProto.FLOAT16 in {*casts, *kinds, *(tensor.data_type for tensor in graph.initializer)}


def is_quantized(path: Path) -> bool:
    """Whether an ONNX file holds quantised tensors already. False for a file that is not ONNX."""
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception:  # noqa: BLE001  onnx raises protobuf's types and its own; whoever compiles the file says what is wrong
        return False
    return any(node.op_type.startswith(("DequantizeLinear", "QLinear")) for node in graph.node)

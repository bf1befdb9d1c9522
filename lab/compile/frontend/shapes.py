"""Names and shapes of a model's inputs and outputs: the Signature, and the same model with its dimensions fixed.

The batch is fixed for each library; dimensions a caller asks for by name (the length of a sequence) stay symbolic.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import numpy as np
import onnx
from onnx import helper

from lab.core.errors import ConfigError, UnsupportedError
from lab.core.signature import Dim, Signature, TensorSpec

BATCH = "batch"
# Two sizes for each symbol, all different: an output dimension that follows both is that symbol.
PRIMES = (2, 3, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167)
PROBES = tuple(pairwise(PRIMES))[::2]


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs a caller provides: graph inputs that are not initializers (old exporters list both)."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def _dims(value: onnx.ValueInfoProto) -> list[Dim | None]:
    """Numbers, symbol names, or None for a dimension nothing is known of."""
    shape = value.type.tensor_type.shape
    return [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else (d.dim_param or None) for d in shape.dim]


def signature_of(
    model: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None, dynamic: Collection[str] = ()
) -> Signature:
    """The model's signature; the batch is named "batch", dimensions in `dynamic` keep their name, others are numbers.

    The batch is the first dimension of the first input where that is dynamic. `input_shapes` fixes other dynamic
    dimensions (a full shape per input; -1 keeps the batch).

    Raises:
        UnsupportedError: a dimension other than the batch is dynamic, not fixed and not asked for; all are listed.
        ConfigError: `input_shapes` names no input, or disagrees with the model.
    """
    inputs = _input_specs(model, dict(input_shapes or {}), dynamic)
    symbols = sorted(Signature(inputs, ()).symbols(), key=lambda symbol: symbol != BATCH)
    if len(symbols) > len(PROBES):
        raise UnsupportedError("the model has too many dynamic dimensions", got=len(symbols), expected=len(PROBES))
    sizes = dict(zip(symbols, PROBES if BATCH in symbols else PROBES[1:], strict=False))
    probes = []
    for which in (0, 1) if symbols else (0,):
        dims = {symbol: pair[which] for symbol, pair in sizes.items()}
        probes.append(with_shapes(model, {spec.name: spec.resolve(dims) for spec in inputs}))
    return Signature(inputs, _output_specs(probes, sizes))


def _input_specs(
    model: onnx.ModelProto, input_shapes: dict[str, Sequence[int]], wanted: Collection[str]
) -> tuple[TensorSpec, ...]:
    values = graph_inputs(model)
    unknown = sorted(set(input_shapes) - {value.name for value in values})
    if unknown:
        raise ConfigError(f"the model has no input '{unknown[0]}'", expected=", ".join(value.name for value in values))
    first = [dims[0] for value in values[:1] if (dims := _dims(value))]
    batch_name = next((dim for dim in first if not isinstance(dim, int) and dim not in wanted), 0)
    specs, dynamic = [], []
    for value in values:
        if not value.type.HasField("tensor_type"):
            raise UnsupportedError(f"input '{value.name}' is not a tensor", got=value.type.WhichOneof("value"))
        if not value.type.tensor_type.HasField("shape") and value.name not in input_shapes:
            dynamic.append(f"{value.name} (rank unknown)")
            continue
        shape, open_dims = _shape(value, batch_name, input_shapes.get(value.name), wanted)
        dynamic += open_dims
        specs.append(TensorSpec(value.name, _dtype(value), tuple(shape)))
    if dynamic:
        raise UnsupportedError(
            "the model has dynamic dimensions besides the batch", got=", ".join(dynamic),
            hint="give fixed sizes with input_shapes, e.g. {'" + values[0].name + "': [-1, 3, 224, 224]}",
        )  # fmt: skip
    return tuple(specs)


def _shape(
    value: onnx.ValueInfoProto, batch_name: Dim | None, given: Sequence[int] | None, kept: Collection[str]
) -> tuple[list[Dim], list[str]]:
    """The shape, and a description of every dimension that is dynamic and may not be."""
    dims = _dims(value) if value.type.tensor_type.HasField("shape") else [None] * len(given or ())
    if given is not None and len(given) != len(dims):
        raise ConfigError(f"input_shapes of '{value.name}' has the wrong rank", got=list(given), expected=dims)
    shape: list[Dim] = []
    dynamic: list[str] = []
    for axis, dim in enumerate(dims):
        wanted = given[axis] if given is not None else -1
        if isinstance(dim, int):
            if wanted not in (-1, dim):
                raise ConfigError(f"input '{value.name}' has a fixed dimension {axis}", got=wanted, expected=dim)
            shape.append(dim)
        elif wanted > 0:
            shape.append(wanted)
        elif batch_name != 0 and (axis == 0 or dim == batch_name) and (dim is None or dim == batch_name):
            shape.append(BATCH)
        elif dim is not None and dim in kept:
            shape.append(dim)
        else:
            shape.append(BATCH)
            dynamic.append(f"{value.name}[{axis}]" + (f" ('{dim}')" if dim else ""))
    return shape, dynamic


def _dtype(value: onnx.ValueInfoProto) -> str:
    return str(np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)))


def _output_specs(models: list[onnx.ModelProto], symbols: Mapping[str, tuple[int, int]]) -> tuple[TensorSpec, ...]:
    """Output specs from the model inferred with one or two sizes of every symbol."""
    inferred = [onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output for model in models]
    specs = []
    for values in zip(*inferred, strict=True):
        dims = list(zip(*(_dims(value) for value in values), strict=True))
        shape = [_output_dim(values[0].name, axis, sizes, symbols) for axis, sizes in enumerate(dims)]
        specs.append(TensorSpec(values[0].name, _dtype(values[0]), tuple(shape)))
    return tuple(specs)


def _output_dim(name: str, axis: int, sizes: tuple[Dim | None, ...], symbols: Mapping[str, tuple[int, int]]) -> Dim:
    first = sizes[0]
    if isinstance(first, int) and all(size == first for size in sizes):
        return first
    return next((symbol for symbol, pair in symbols.items() if sizes == pair), f"{name}_{axis}")


def with_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[Dim]]) -> onnx.ModelProto:
    """A copy whose inputs have exactly `shapes`; recorded shapes of inner values, now wrong, are dropped."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        if value.name in shapes:
            kind = value.type.tensor_type.elem_type
            value.type.CopyFrom(helper.make_tensor_type_proto(kind, list(shapes[value.name])))
    del fixed.graph.value_info[:]
    for value in fixed.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    return fixed

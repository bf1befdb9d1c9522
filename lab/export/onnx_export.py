"""torch.export based ONNX export with symbolic dimensions taken from the Signature."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from lab.artifacts.files import atomic_path
from lab.core.errors import UnsupportedError
from lab.core.signature import Signature
from lab.nn.onnx_functions import DOMAIN, FUNCTIONS, VERSION, translations

EXAMPLE_SYMBOL_SIZE = 2  # torch.export specialises on 0 and 1
RECURRENT = ("LSTM", "GRU")
RECURRENT_WEIGHTS = (1, 2, 3)  # their inputs W, R and B


def export_onnx(module: nn.Module, signature: Signature, path: Path, *, opset: int) -> Path:
    """Write `module` as one self-contained ONNX file whose names and symbolic dimensions are the signature's.

    Args:
        module: called with the signature's inputs in order; returns a tensor, or a tuple in output order.
        opset: ONNX operator set of the default domain.

    Raises:
        UnsupportedError: torch.export cannot capture the module, or a symbolic dimension became a constant.
    """
    module = module.eval().cpu().to(memory_format=torch.contiguous_format)
    dims = dict.fromkeys(signature.symbols(), EXAMPLE_SYMBOL_SIZE)
    example = tuple(torch.from_numpy(array) for array in signature.example_inputs(dims).values())
    with torch.inference_mode(False), torch.no_grad(), _quiet_exporter():
        try:
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=opset,
                input_names=[spec.name for spec in signature.inputs],
                output_names=[spec.name for spec in signature.outputs],
                dynamic_shapes=_dynamic_shapes(signature, module),
                custom_translation_table=translations(),
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # the exporter raises many types; the message is the user's clue
            raise UnsupportedError(
                "torch.export cannot capture this model",
                got=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
                hint="the model's forward must be free of data-dependent Python control flow",
            ) from error
    assert program is not None
    _fold_recurrent_weights(program.model)
    model = program.model_proto
    _add_functions(model, opset)
    _name_dimensions(model, signature)
    _strip_traces(model)
    onnx.checker.check_model(model, full_check=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
    return path


def _dynamic_shapes(signature: Signature, module: nn.Module) -> tuple[Any, ...]:
    """Per parameter of the module's `forward`; torch.export wants those of *args in one tuple."""
    symbols = {name: torch.export.Dim(name, min=1) for name in signature.symbols()}
    shapes = [
        {axis: symbols[dim] for axis, dim in enumerate(spec.shape) if isinstance(dim, str)} for spec in signature.inputs
    ]
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(shapes)
    first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:first], tuple(shapes[first:]))


def _fold_recurrent_weights(model: Any) -> None:
    """Store the weights of LSTM and GRU nodes in ONNX's order of gates, instead of the nodes that reorder torch's."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass
    from onnxscript.optimizer import fold_constants

    if not any(node.op_type in RECURRENT for node in model.graph):
        return
    fold_constants(model, should_fold=_makes_recurrent_weights)
    RemoveUnusedNodesPass()(model)


def _makes_recurrent_weights(node: Any) -> bool:
    uses = [use for output in node.outputs for use in output.uses()]
    return bool(uses) and all(
        use.idx in RECURRENT_WEIGHTS if use.node.op_type in RECURRENT else _makes_recurrent_weights(use.node)
        for use in uses
    )


def _add_functions(model: onnx.ModelProto, opset: int) -> None:
    """Give the file the bodies of the lab's own functions that it calls, so that any ONNX runtime can run it."""
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    model.functions.extend(FUNCTIONS[name].body(opset) for name in sorted(used))
    if used and DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))


def _name_dimensions(model: onnx.ModelProto, signature: Signature) -> None:
    """Give the graph's free dimensions the signature's names, and check that none was specialised."""
    pairs = [
        *zip(model.graph.input, signature.inputs, strict=True),
        *zip(model.graph.output, signature.outputs, strict=True),
    ]
    for value, spec in pairs:
        dims = value.type.tensor_type.shape.dim
        for dim, wanted in zip(dims, spec.shape, strict=True):
            if isinstance(wanted, int):
                continue
            if dim.HasField("dim_value"):
                raise UnsupportedError(
                    f"the exporter fixed dimension '{wanted}' of '{spec.name}'",
                    got=dim.dim_value,
                    expected="a symbolic dimension",
                    hint="the model's forward depends on that size as a Python number",
                )
            dim.dim_param = wanted


def _strip_traces(model: onnx.ModelProto) -> None:
    """Drop the exporter's Python stack traces: they carry the builder's paths and change the file's hash."""
    for node in model.graph.node:
        del node.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter prints progress and deprecations of its own internals; errors still come as exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

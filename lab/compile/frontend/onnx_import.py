"""From an ONNX file to a Relax module with constants inside, whose shapes are static but for named dimensions."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from lab.compile.frontend.control_flow import resolve_control_flow
from lab.compile.frontend.converters import installed
from lab.compile.frontend.expand_functions import expand_functions
from lab.compile.frontend.fold_constants import fold_constants, fold_shapes
from lab.compile.frontend.functions import inline_functions
from lab.compile.frontend.operators import check_operators
from lab.compile.frontend.refusals import check_attributes
from lab.compile.frontend.rewrites import rewrite
from lab.compile.frontend.shapes import BATCH, with_shapes
from lab.core.errors import ArtifactError, UnsupportedError
from lab.core.signature import Dim, Signature

if TYPE_CHECKING:
    from tvm.ir import IRModule


CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})


def load_model(path: Path, *, check: bool = True) -> onnx.ModelProto:
    """Read and check an ONNX file; functions defined in the file are inlined (the lab's own: see functions.py).

    Args:
        check: refuse operators that cannot be compiled.

    Raises:
        ArtifactError: there is no such file, or it is not a valid ONNX model.
        UnsupportedError: operators that cannot be compiled; each is listed.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(_with_ranks(model))
    except FileNotFoundError as error:
        raise ArtifactError("the ONNX file is missing", got=path, hint="lab export RUN writes one") from error
    except Exception as error:  # onnx raises protobuf's, its own and built-in types for broken files
        raise ArtifactError(f"{path} is not a valid ONNX model", got=str(error).splitlines()[0][:300]) from error
    model = fold_constants(expand_functions(inline_functions(model)))
    rewrite(model)
    if check:
        check_operators(model, but=CONTROL_FLOW)  # what is left of these is known with the shapes
    return model


def _with_ranks(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model to check: exporters may leave the shapes of outputs out; runtimes take that, the checker does not."""
    if all(value.type.tensor_type.HasField("shape") for value in model.graph.output):
        return model
    checked = onnx.ModelProto()
    checked.CopyFrom(model)
    for value in checked.graph.output:
        value.type.tensor_type.shape.SetInParent()
    return checked


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Everything that follows from known shapes: folded, unrolled, written in other operators. Changes `model`."""
    changed = True
    while changed:
        model = expand_functions(fold_shapes(model))
        changed = resolve_control_flow(model) | rewrite(model)
    return model


def import_model(model: onnx.ModelProto, signature: Signature, batch_size: int) -> IRModule:
    """The Relax module of `model` at one batch size: `main(inputs in signature order) -> output or tuple of outputs`.

    Raises:
        UnsupportedError: a node has attributes or shapes that would be converted wrongly, or that TVM's converter
            refuses.
    """
    dims: dict[Dim, Dim] = {BATCH: batch_size}
    shapes = {spec.name: [dims.get(dim, dim) for dim in spec.shape] for spec in signature.inputs}
    from tvm.relax.frontend.onnx import from_onnx

    model = prepare(with_shapes(model, shapes))
    check_operators(model)
    check_attributes(model)
    printed = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(printed), installed():
            warnings.simplefilter("ignore")  # the importer warns of every name it rewrites
            mod = from_onnx(model)
    except UnsupportedError:  # one of our converters refuses, and says why
        raise
    except Exception as error:  # the importer raises whatever its hundred converters raise
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        where = printed.getvalue().split(", with inputs")[0].strip()
        raise UnsupportedError(
            "TVM's ONNX importer cannot convert the model",
            got=f"{where}: {lines[-1] if lines else type(error).__name__}"[:400].removeprefix(": "),
            hint="the operator is known, but not with these attributes or shapes; simplify the model at export",
        ) from error
    return mod

"""`--partial`: operators that cannot be compiled run in ONNX Runtime, in the same bundle; all others are compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import helper

from lab.artifacts.manifest import Part
from lab.compile.build import Built, Compiled, build_module, compile_onnx, sizes_of
from lab.compile.frontend.known import Known, known_of
from lab.compile.frontend.onnx_import import import_model, load_model, prepare
from lab.compile.frontend.operators import unsupported_operators
from lab.compile.frontend.refusals import why_refused
from lab.compile.frontend.shapes import BATCH, signature_of, with_shapes
from lab.compile.link import export_library
from lab.compile.pipeline import simplify_graph
from lab.compile.report import KernelReport
from lab.compile.split import PartGraph, key, label, split
from lab.compile.targets import Target
from lab.core.errors import ConfigError, UnsupportedError
from lab.core.progress import say
from lab.core.signature import Signature
from lab.core.timing import Stages

if TYPE_CHECKING:
    from lab.compile.tuning.choices import Identity
    from lab.compile.tuning.decisions import Choice

Build = Callable[[Any], Built]
NO_CONVERTER = "the compiler has no such operator"


@dataclass(frozen=True)
class BuiltPart:
    """A part with its executable, where the compiler made one."""

    graph: PartGraph
    built: Built | None = None


def check_target(target: Target) -> None:
    """Raises ConfigError for a target whose bundles run where ONNX Runtime is not."""
    if target.kind != "x86":
        raise ConfigError(
            f"--partial cannot be used for {target.name}", expected="an x86 target",
            got="bundles for ARM run on devices without ONNX Runtime" if target.kind == "arm"
            else "a CUDA bundle's tensors stay on the GPU, ONNX Runtime's part would take them off it",
        )  # fmt: skip


def compile_partial(
    model_path: Path,
    target: Target,
    *,
    batch_sizes: Sequence[int] = (1,),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    choices: Mapping[Identity, Choice] | None = None,
    progress: Callable[[str], None] = say,
) -> Compiled:
    """`compile_onnx`, but ONNX Runtime runs what cannot be compiled; a model without such nodes is compiled whole.

    Raises:
        ConfigError: the target's bundles run where ONNX Runtime does not.
        UnsupportedError: nothing of the model can be compiled, or a dimension besides the batch is open.
    """
    check_target(target)
    try:
        return compile_onnx(
            model_path, target, batch_sizes=batch_sizes, input_shapes=input_shapes, choices=choices, progress=progress
        )
    except UnsupportedError as error:
        progress(f"not all of it can be compiled: {error.got}")
    stages, rows, notes = Stages(), [], []
    with stages.stage("import"):
        model = load_model(Path(model_path), check=False)
        signature = signature_of(model, input_shapes)
    parts: dict[int, list[BuiltPart]] = {}
    for size in sizes_of(signature, batch_sizes):
        progress(f"compiling {Path(model_path).name} in parts for {target.name}" + (f", batch {size}" if size else ""))
        with stages.stage(f"compile_b{size}"):
            parts[size] = _build_parts(
                model, signature, max(size, 1), lambda mod: build_module(mod, target, None, choices)
            )
        for index, part in enumerate(parts[size]):
            if part.built:
                rows += [replace(row, batch_size=size, part=index) for row in part.built.rows]
                notes += [note for note in part.built.notes if note not in notes]
    if not rows:
        raise UnsupportedError("nothing of the model can be compiled", hint="run it with ONNX Runtime")
    first = next(iter(parts.values()))
    notes.append("; ".join(f"part {i}: {describe(part.graph)}" for i, part in enumerate(first)))
    report = KernelReport(tuple(rows), tuple(notes))
    progress(report.summary())
    return Compiled(target, signature, {}, report, stages.durations_s, parts=parts)


def describe(part: PartGraph) -> str:
    """A part in words."""
    where = "ONNX Runtime" if part.engine == "onnxruntime" else "compiled"
    return f"{where}, {sum(part.operators.values())} nodes" + (
        f" ({', '.join(part.operators)})" if part.engine == "onnxruntime" else ""
    )


def write_parts(parts: Sequence[BuiltPart], folder: Path, size: int, target: Target) -> tuple[Part, ...]:
    """Write the file of every part, and return the manifest's records of them."""
    records = []
    for index, part in enumerate(parts):
        graph = part.graph
        name = f"model_b{size}_part{index}" + (".so" if part.built else ".onnx")
        if part.built:
            export_library(part.built.executable, folder / name, target)
        else:
            (folder / name).write_bytes(graph.model.SerializeToString(deterministic=True))
        records.append(Part(graph.engine, name, graph.inputs, graph.outputs, graph.operators, graph.reasons))
    return tuple(records)


def _build_parts(model: onnx.ModelProto, signature: Signature, size: int, build: Build) -> list[BuiltPart]:
    """Split `model` at one batch size and compile what can be compiled.

    Raises:
        UnsupportedError: a part does not compile though each of its nodes does.
    """
    fixed = _fixed(model, signature, size)
    foreign = _known_foreign(fixed)
    while True:
        parts = split(fixed, foreign)
        try:
            return [_built(part, build) for part in parts]
        except UnsupportedError:
            found = _failing(fixed, foreign, build)
            if not found:
                raise
            foreign |= found


def _fixed(model: onnx.ModelProto, signature: Signature, size: int) -> onnx.ModelProto:
    shapes = {spec.name: [size if dim == BATCH else dim for dim in spec.shape] for spec in signature.inputs}
    return prepare(with_shapes(model, shapes))


def _built(part: PartGraph, build: Build) -> BuiltPart:
    if part.engine == "onnxruntime":
        return BuiltPart(part)
    model = onnx.ModelProto()
    model.CopyFrom(part.model)
    return BuiltPart(part, build(import_model(simplify_graph(model), signature_of(part.model), 1)))


def _known_foreign(model: onnx.ModelProto) -> dict[str, str]:
    """Nodes that are refused before anything is tried."""
    found, known = {}, known_of(model)
    for node in model.graph.node:
        if unsupported_operators([node]):
            found[key(node)] = NO_CONVERTER
        elif reason := why_refused(node, known):
            found[key(node)] = reason
    return found


def failing_nodes(model: onnx.ModelProto, signature: Signature, size: int, build: Build) -> list[str]:
    """Nodes, with reasons, because of which a model does not compile: what a refusal says."""
    if any(isinstance(dim, str) and dim != BATCH for spec in signature.inputs for dim in spec.shape):
        return []
    fixed = _fixed(model, signature, max(size, 1))
    found = _failing(fixed, {}, build)
    return [f"{label(node)}: {found[key(node)]}" for node in fixed.graph.node if key(node) in found]


def _failing(model: onnx.ModelProto, foreign: Mapping[str, str], build: Build) -> dict[str, str]:
    """Nodes that do not compile by themselves; converting alone is tried first, since it takes no time."""
    return _tried(model, foreign, lambda mod: None) or _tried(model, foreign, build)


def _tried(model: onnx.ModelProto, foreign: Mapping[str, str], build: Callable[[Any], Any]) -> dict[str, str]:
    known = known_of(model)
    outcomes: dict[bytes, str] = {}
    found = {}
    for node in model.graph.node:
        if key(node) in foreign or any(name and name not in known.shapes for name in (*node.input, *node.output)):
            continue
        form = _form(node, known)
        if form not in outcomes:
            outcomes[form] = _why_it_fails(_alone(node, model, known), build)
        if outcomes[form]:
            found[key(node)] = outcomes[form]
    return found


def _why_it_fails(model: onnx.ModelProto, build: Callable[[Any], Any]) -> str:
    try:
        build(import_model(model, signature_of(model), 1))
    except UnsupportedError as error:
        return f"{error.what}: {error.got}" if error.got else error.what
    return ""


def _form(node: onnx.NodeProto, known: Known) -> bytes:
    """The same for nodes that compile alike: operator, attributes, shapes and types."""
    bare = onnx.NodeProto()
    bare.CopyFrom(node)
    bare.ClearField("name")
    del bare.input[:], bare.output[:]
    operands = [(known.shapes.get(name), known.types.get(name), name in known.constants) for name in node.input]
    return bytes(bare.SerializeToString(deterministic=True)) + repr((operands, len(node.output))).encode()


def _alone(node: onnx.NodeProto, model: onnx.ModelProto, known: Known) -> onnx.ModelProto:
    """A model of this node alone."""
    inputs = [name for name in dict.fromkeys(node.input) if name and name not in known.constants]
    values = [
        [helper.make_tensor_value_info(name, known.types[name], known.shapes[name]) for name in names]
        for names in (inputs, [name for name in node.output if name])
    ]
    constants = []
    for name in dict.fromkeys(node.input):
        if name in known.constants:
            constants.append(onnx.TensorProto())
            constants[-1].CopyFrom(known.constants[name])
            constants[-1].name = name
    graph = helper.make_graph([node], "node", *values, constants)
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    alone.functions.extend(model.functions)
    return alone

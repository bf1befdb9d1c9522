"""Divide a graph between the compiler and ONNX Runtime: as few parts as possible, in an order in which they can run.

Walking along the data, a node joins the part its inputs come from where that has the same engine, else the next one. So
the number of parts is the most changes of engine on any path, and independent branches share parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import helper

from lab.artifacts.manifest import Engine
from lab.compile.frontend.functions import LAB
from lab.compile.frontend.known import Known, known_of
from lab.core.errors import UnsupportedError

UNKNOWN_SIZE = "its sizes are known at run time only"


@dataclass(frozen=True)
class PartGraph:
    """One part: a model of its own with static shapes. `reasons` says of ONNX Runtime's nodes why they are there."""

    engine: Engine
    model: onnx.ModelProto
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(value.name for value in self.model.graph.input)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(value.name for value in self.model.graph.output)

    @property
    def operators(self) -> dict[str, int]:
        return dict(sorted(Counter(node.op_type for node in self.model.graph.node).items()))


def key(node: onnx.NodeProto) -> str:
    """What identifies a node: its first output."""
    return str(next(name for name in node.output if name))


def label(node: onnx.NodeProto) -> str:
    """A node for a person."""
    domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
    return f"{domain}{node.op_type} ({node.name or key(node)})"


def split(model: onnx.ModelProto, foreign: Mapping[str, str]) -> list[PartGraph]:
    """The parts in the order they run.

    Args:
        model: with the shapes of its inputs fixed.
        foreign: nodes (by `key`) that the compiler cannot take, with the reason.

    Raises:
        UnsupportedError: ONNX Runtime would have to run an operator of the lab.
    """
    known = known_of(model)
    nodes = [node for node in model.graph.node if node.op_type != "Constant" or key(node) not in known.constants]
    reasons = _all_foreign(nodes, foreign, known)
    for node in nodes:
        if node.domain == LAB and key(node) in reasons:
            raise UnsupportedError(f"{label(node)} runs compiled only", got=reasons[key(node)])
    first = min(("tvm", "onnxruntime"), key=lambda engine: len(set(_levels(nodes, reasons, engine).values())))
    levels = _levels(nodes, reasons, first)
    groups = [[node for node in nodes if levels[key(node)] == level] for level in sorted(set(levels.values()))]
    return [_part(model, group, groups[i + 1 :], reasons, known) for i, group in enumerate(groups)]


def _all_foreign(nodes: Sequence[onnx.NodeProto], foreign: Mapping[str, str], known: Known) -> dict[str, str]:
    """`foreign` and every node with an operand of unknown size."""
    reasons = dict(foreign)
    for node in nodes:
        operands = [name for name in (*node.input, *node.output) if name]
        if key(node) not in reasons and any(name not in known.shapes for name in operands):
            reasons[key(node)] = UNKNOWN_SIZE
    return reasons


def _levels(nodes: Sequence[onnx.NodeProto], reasons: Mapping[str, str], first: str) -> dict[str, int]:
    """The part of each node: even ones are of the engine `first`."""
    level_of: dict[str, int] = {}
    found = {}
    for node in nodes:
        odd = int((key(node) in reasons) == (first == "tvm"))
        latest = max((level_of[name] for name in read_by(node) if name in level_of), default=odd)
        level = latest if latest % 2 == odd else latest + 1
        found[key(node)] = level
        level_of |= dict.fromkeys(node.output, level)
    return found


def read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Names a node reads: its inputs, and what graphs inside it take from around them."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            own = {value.name for value in (*graph.input, *graph.initializer)}
            own |= {name for inner in graph.node for name in inner.output}
            yield from (name for inner in graph.node for name in read_by(inner) if name not in own)
            yield from (output.name for output in graph.output if output.name not in own)


def _part(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    later: Sequence[Sequence[onnx.NodeProto]],
    reasons: Mapping[str, str],
    known: Known,
) -> PartGraph:
    made = [name for node in nodes for name in node.output if name]
    read = list(dict.fromkeys(name for node in nodes for name in read_by(node)))
    wanted = {value.name for value in model.graph.output}
    wanted |= {name for group in later for node in group for name in read_by(node)}
    outputs = [name for name in dict.fromkeys(made) if name in wanted]
    inputs = [name for name in read if name not in set(made) and name not in known.constants]
    graph = helper.make_graph(
        nodes, "part", [_value(name, known) for name in inputs], [_value(name, known) for name in outputs]
    )
    for name in read:
        if name in known.constants:
            tensor = graph.initializer.add()
            tensor.CopyFrom(known.constants[name])
            tensor.name = name
    own = {node.domain for node in nodes} | {LAB}
    functions = [function for function in model.functions if function.domain in own and LAB in own]
    foreign = {label(node): reasons[key(node)] for node in nodes if key(node) in reasons}
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    if not foreign:
        part.functions.extend(functions)
    return PartGraph("onnxruntime" if foreign else "tvm", part, foreign)


def _value(name: str, known: Known) -> onnx.ValueInfoProto:
    kind = known.types.get(name)
    if not kind:
        return onnx.ValueInfoProto(name=name)
    return helper.make_tensor_value_info(name, kind, known.shapes.get(name))

"""If, Loop and Scan whose course is known when compiling: the branch taken, the iterations one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lab.compile.frontend.known import Known, known_of, opset_of

MAX_NODES = 20_000
"""A loop that would unroll to more is left as it is, and refused by name."""


def resolve_control_flow(model: onnx.ModelProto) -> bool:
    """Replace every node of the main graph whose course is known, once. Changes `model`; whether anything changed."""
    if not any(node.op_type in RESOLVERS for node in model.graph.node):
        return False
    known, names = known_of(model), _fresh(model)
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in model.graph.node:
        resolve = RESOLVERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        replaced = resolve(node, model, known, names) if resolve else None
        changed = changed or replaced is not None
        nodes += [node] if replaced is None else replaced
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    if changed:
        del model.graph.value_info[:]
    return changed


def _fresh(model: onnx.ModelProto) -> Iterator[str]:
    return (f"unrolled.{number}" for number in count(len(model.graph.node) + len(model.graph.initializer)))


def _attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto | None:
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def _if(
    node: onnx.NodeProto, model: onnx.ModelProto, known: Known, names: Iterator[str]
) -> list[onnx.NodeProto] | None:
    condition = known.value(node.input[0])
    if condition is None:
        return None
    taken = _attribute(node, "then_branch" if condition.reshape(-1)[0] else "else_branch")
    assert taken is not None
    nodes, results = _inlined(taken.g, {}, model, names)
    return nodes + [_identity(a, b) for a, b in zip(results, node.output, strict=True) if b]


def _loop(
    node: onnx.NodeProto, model: onnx.ModelProto, known: Known, names: Iterator[str]
) -> list[onnx.NodeProto] | None:
    """Loop(trip count, condition, carried...) -> carried..., scanned...; the condition has to stay true."""
    body = _attribute(node, "body")
    assert body is not None
    trips, condition = (known.value(node.input[i]) if node.input[i] else None for i in (0, 1))
    if trips is None or (node.input[1] and (condition is None or not condition.reshape(-1)[0])):
        return None
    num_trips = int(trips.reshape(-1)[0])
    if not _stays_true(body.g) or num_trips * len(body.g.node) > MAX_NODES:
        return None
    carried, num_carried = list(node.input[2:]), len(node.input) - 2
    scanned: list[list[str]] = [[] for _ in body.g.output[1 + num_carried :]]
    if num_trips == 0 and scanned:
        return None
    nodes: list[onnx.NodeProto] = []
    true = _constant(model, np.array(True), names)
    for trip in range(num_trips):
        given = [_constant(model, np.array(trip, np.int64), names), true, *carried]
        inner, results = _inlined(body.g, _bind(body.g, given), model, names)
        nodes += inner
        carried = results[1 : 1 + num_carried]
        for kept, name in zip(scanned, results[1 + num_carried :], strict=True):
            kept.append(name)
    nodes += [_identity(a, b) for a, b in zip(carried, node.output[:num_carried], strict=True) if b]
    for kept, name in zip(scanned, node.output[num_carried:], strict=False):
        nodes += _stacked(kept, name, 0, model, names) if name else []
    return nodes


def _scan(
    node: onnx.NodeProto, model: onnx.ModelProto, known: Known, names: Iterator[str]
) -> list[onnx.NodeProto] | None:
    """Scan(states..., sequences...) -> states..., scanned...; opset 9 and later."""
    body, number = _attribute(node, "body"), _attribute(node, "num_scan_inputs")
    assert body is not None
    assert number is not None
    if opset_of(model) < 9:
        return None  # Scan over batches, with lengths
    num_states = len(node.input) - number.i
    sequences, states = list(node.input[num_states:]), list(node.input[:num_states])
    axes_in, axes_out, back_in, back_out = (
        list(found.ints) if (found := _attribute(node, name)) else [0] * max(number.i, len(node.output))
        for name in ("scan_input_axes", "scan_output_axes", "scan_input_directions", "scan_output_directions")
    )
    shapes = [known.shapes.get(name) for name in sequences]
    if not sequences or any(shape is None for shape in shapes):
        return None
    num_trips = {shape[axis] for shape, axis in zip(shapes, axes_in, strict=False) if shape}.pop()
    if num_trips == 0 or num_trips * len(body.g.node) > MAX_NODES:
        return None
    scanned: list[list[str]] = [[] for _ in body.g.output[num_states:]]
    nodes: list[onnx.NodeProto] = []
    for trip in range(num_trips):
        parts = []
        for name, axis, backward in zip(sequences, axes_in, back_in, strict=False):
            index = _constant(model, np.array(num_trips - 1 - trip if backward else trip, np.int64), names)
            parts.append(next(names))
            nodes.append(helper.make_node("Gather", [name, index], [parts[-1]], axis=axis))
        inner, results = _inlined(body.g, _bind(body.g, [*states, *parts]), model, names)
        nodes += inner
        states = results[:num_states]
        for kept, name in zip(scanned, results[num_states:], strict=True):
            kept.append(name)
    nodes += [_identity(a, b) for a, b in zip(states, node.output[:num_states], strict=True) if b]
    for kept, name, axis, backward in zip(scanned, node.output[num_states:], axes_out, back_out, strict=False):
        nodes += _stacked(kept[::-1] if backward else kept, name, axis, model, names) if name else []
    return nodes


RESOLVERS = {"If": _if, "Loop": _loop, "Scan": _scan}


def _stays_true(body: onnx.GraphProto) -> bool:
    """Whether a loop's body hands its condition on, or sets it to true."""
    name = body.output[0].name
    while True:
        if name == body.input[1].name:
            return True
        fixed = next((tensor for tensor in body.initializer if tensor.name == name), None)
        if fixed is not None:
            return bool(numpy_helper.to_array(fixed).reshape(-1)[0])
        made = next((node for node in body.node if name in node.output), None)
        if made is not None and made.op_type == "Constant" and made.attribute[0].name == "value":
            return bool(numpy_helper.to_array(made.attribute[0].t).reshape(-1)[0])
        if made is None or made.op_type not in ("Identity", "Cast"):
            return False
        name = made.input[0]


def _bind(body: onnx.GraphProto, given: Sequence[str]) -> dict[str, str]:
    return {value.name: name for value, name in zip(body.input, given, strict=True)}


def _inlined(
    body: onnx.GraphProto, bound: Mapping[str, str], model: onnx.ModelProto, names: Iterator[str]
) -> tuple[list[onnx.NodeProto], list[str]]:
    """The body's nodes under new names, and the names of its outputs; its constants go to the main graph."""
    renamed = dict(bound)
    for tensor in body.initializer:
        renamed[tensor.name] = next(names)
        copy = model.graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = renamed[tensor.name]
    nodes = []
    for node in body.node:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.name = next(names) + (f".{node.name}" if node.name else "")
        _rename(copied, renamed)
        for i, name in enumerate(node.output):
            if name:
                renamed[name] = copied.output[i] = next(names)
        nodes.append(copied)
    return nodes, [renamed.get(output.name, output.name) for output in body.output]


def _rename(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    """Inputs, and what graphs inside the node take from around them."""
    for i, name in enumerate(node.input):
        node.input[i] = renamed.get(name, name)
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else []:
            own = {value.name for value in (*graph.input, *graph.initializer)}
            own |= {name for inner in graph.node for name in inner.output}
            outer = {name: new for name, new in renamed.items() if name not in own}
            for inner in graph.node:
                _rename(inner, outer)
            for output in graph.output:
                output.name = outer.get(output.name, output.name)


def _constant(model: onnx.ModelProto, array: np.ndarray, names: Iterator[str]) -> str:
    name = next(names)
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def _identity(source: str, name: str) -> onnx.NodeProto:
    return helper.make_node("Identity", [source], [name])


def _stacked(
    parts: Sequence[str], name: str, axis: int, model: onnx.ModelProto, names: Iterator[str]
) -> list[onnx.NodeProto]:
    """`name` is the parts along a new axis."""
    nodes, rows = [], []
    axes = _constant(model, np.array([axis], np.int64), names) if opset_of(model) >= 13 else ""
    for part in parts:
        rows.append(next(names))
        node = helper.make_node("Unsqueeze", [part, axes] if axes else [part], [rows[-1]])
        if not axes:
            node.attribute.append(helper.make_attribute("axes", [axis]))
        nodes.append(node)
    return [*nodes, helper.make_node("Concat", rows, [name], axis=axis)]

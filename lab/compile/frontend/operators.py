"""Ask TVM's converter table, before anything is converted, whether it knows every operator of a model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import onnx

from lab.compile.frontend.converters import CONVERTERS
from lab.compile.frontend.functions import LAB
from lab.core.errors import UnsupportedError

DOMAINS = ("", "ai.onnx", "com.microsoft")
HANDLED_BY_IMPORTER = frozenset({"If", "Constant"})
MAX_NAMES = 5
PARTIAL = "export the model without them, or let ONNX Runtime run just these: lab compile --partial"


def walk_nodes(nodes: Iterable[onnx.NodeProto], but: Collection[str] = ()) -> Iterator[onnx.NodeProto]:
    """Every node and those of the graphs inside them (If, Loop, Scan); none of operators `but`, or inside."""
    for node in nodes:
        if node.op_type in but:
            continue
        yield node
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from walk_nodes(inner.node, but)


def converted_operators() -> set[str]:
    """Names of the operators that TVM's importer or ours has a converter for."""
    from tvm.relax.frontend.onnx import onnx_frontend

    ours = set(CONVERTERS)
    return ours | {name for name, converter in onnx_frontend._get_convert_map().items() if converter is not None}


def unsupported_operators(nodes: Iterable[onnx.NodeProto], but: Collection[str] = ()) -> dict[str, list[str]]:
    """Operator -> names of its nodes, for every operator TVM's importer cannot convert."""
    known = converted_operators()
    found: dict[str, list[str]] = {}
    for node in walk_nodes(nodes, but):
        plain = node.domain in DOMAINS and (node.op_type in known or node.op_type in HANDLED_BY_IMPORTER)
        own = node.domain == LAB and node.op_type in CONVERTERS
        if not plain and not own:
            operator = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
            found.setdefault(operator, []).append(node.name or node.output[0])
    return found


def check_operators(model: onnx.ModelProto, but: Collection[str] = ()) -> None:
    """Raises UnsupportedError listing every unsupported operator, except those of `but`, with its node names."""
    found = unsupported_operators(model.graph.node, but)
    if not found:
        return
    lines = [
        f"{operator} x{len(names)} ({', '.join(names[:MAX_NAMES])}{', ...' if len(names) > MAX_NAMES else ''})"
        for operator, names in sorted(found.items())
    ]
    raise UnsupportedError(
        f"the model uses {len(found)} operator{'s' if len(found) > 1 else ''} that cannot be compiled",
        got="\n            ".join(lines),
        hint=PARTIAL,
    )

"""ONNX in: signatures, dynamic dimensions, and refusals that name every operator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

from lab.compile.frontend.converters import CONVERTERS
from lab.compile.frontend.fold_constants import fold_constants, fold_shapes
from lab.compile.frontend.functions import inline_functions
from lab.compile.frontend.onnx_import import import_model, load_model
from lab.compile.frontend.operators import check_operators, unsupported_operators
from lab.compile.frontend.shapes import signature_of
from lab.core.errors import ArtifactError, ConfigError, UnsupportedError
from lab.core.signature import Signature, TensorSpec
from lab.nn.onnx_functions import FUNCTIONS
from tests.compile.graphs import Graph, residual_network


def test_signature_names_the_batch_whatever_the_file_calls_it() -> None:
    g = Graph(["N", 3, 7, 5])
    model = g.model(g.op("Flatten", g.conv("x", 3, 11, (3, 3))), g.op("Relu", "x"))
    names = [output.name for output in model.graph.output]
    assert signature_of(model) == Signature(
        (TensorSpec("x", "float32", ("batch", 3, 7, 5)),),
        (TensorSpec(names[0], "float32", ("batch", 165)), TensorSpec(names[1], "float32", ("batch", 3, 7, 5))),
    )


def test_signature_of_a_static_model_is_static() -> None:
    g = Graph([2, 3])
    (output,) = signature_of(g.model(g.op("Relu", "x"))).outputs
    assert output.shape == (2, 3)


def test_initializers_listed_as_inputs_are_not_inputs() -> None:
    g = Graph([2, 3])
    weight = g.weights(3, 5)
    g.inputs.append(helper.make_tensor_value_info(weight, TensorProto.FLOAT, [3, 5]))
    assert [spec.name for spec in signature_of(g.model(g.op("MatMul", "x", weight))).inputs] == ["x"]


def test_dynamic_dimensions_are_all_listed() -> None:
    g = Graph(["batch", 3, "height", "width"])
    with pytest.raises(UnsupportedError) as error:
        signature_of(g.model(g.op("Relu", "x")))
    assert "x[2] ('height'), x[3] ('width')" in str(error.value)
    assert "input_shapes" in str(error.value)


def test_input_shapes_fix_dynamic_dimensions() -> None:
    g = Graph(["batch", 3, "height", "width"])
    signature = signature_of(g.model(g.op("Relu", "x")), {"x": [-1, 3, 7, 5]})
    assert signature.inputs[0].shape == signature.outputs[0].shape == ("batch", 3, 7, 5)
    fixed = signature_of(g.model(g.op("Relu", "x")), {"x": [2, 3, 7, 5]})
    assert fixed.inputs[0].shape == (2, 3, 7, 5)


@pytest.mark.parametrize(
    ("shapes", "told"),
    [({"y": [1]}, "no input 'y'"), ({"x": [1, 3]}, "wrong rank"), ({"x": [-1, 4, 7, 5]}, "fixed dimension 1")],
)
def test_wrong_input_shapes(shapes: dict[str, list[int]], told: str) -> None:
    g = Graph(["batch", 3, "height", "width"])
    with pytest.raises(ConfigError, match=told):
        signature_of(g.model(g.op("Relu", "x")), shapes)


def test_every_unsupported_operator_is_listed_with_its_nodes() -> None:
    g = Graph([1, 2, 4, 4])
    found_twice = [g.op("Det", "x") for _ in range(2)]
    model = g.model(*found_twice, g.op("DeformConv", "x", g.weights(2, 2, 1, 1), "x"))
    found = unsupported_operators(model.graph.node)
    assert {op: len(nodes) for op, nodes in found.items()} == {"Det": 2, "DeformConv": 1}
    with pytest.raises(UnsupportedError) as error:
        check_operators(model)
    assert f"Det x2 ({', '.join(found['Det'])})" in str(error.value)
    assert f"DeformConv x1 ({found['DeformConv'][0]})" in str(error.value)


def test_operators_inside_subgraphs_and_foreign_domains_are_found() -> None:
    branch = helper.make_graph(
        [helper.make_node("Loop", ["a", "b"], ["c"], name="hidden", body=helper.make_graph([], "body", [], []))],
        "branch", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)],
    )  # fmt: skip
    g = Graph([1])
    g.nodes.append(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))
    g.nodes.append(helper.make_node("Relu", ["x"], ["z"], name="foreign", domain="org.example"))
    graph = helper.make_graph(g.nodes, "graph", g.inputs, [])
    assert unsupported_operators(graph.node) == {
        "Loop": ["hidden", "hidden"],
        "org.example.Relu": ["foreign"],
    }


def test_broken_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not protobuf at all")
    with pytest.raises(ArtifactError, match="not a valid ONNX model"):
        load_model(tmp_path / "broken.onnx")
    with pytest.raises(ArtifactError, match="missing"):
        load_model(tmp_path / "absent.onnx")


def test_a_node_the_converter_refuses_is_an_unsupported_error() -> None:
    g = Graph([1, 3, 7, 5])
    out = g.op("AveragePool", "x", kernel_shape=[2, 2])
    model = g.model(out)
    model.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("kernel_shape", [2, 2, 2, 2]))
    with pytest.raises(UnsupportedError, match="cannot convert"):
        import_model(model, Signature((TensorSpec("x", "float32", (1, 3, 7, 5)),), ()), 1)


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_old_and_new_opsets(opset: int, tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    from lab.compile.build import compile_onnx
    from lab.compile.targets import resolve_target

    g = Graph(["batch", 3, 7, 5])
    path = g.save(tmp_path / "m.onnx", g.op("Softmax", g.op("Flatten", g.conv("x", 3, 5)), axis=1), opset=opset)
    x = np.random.default_rng(opset).standard_normal((1, 3, 7, 5)).astype(np.float32)
    compiled = compile_onnx(path, resolve_target("x86"))
    np.testing.assert_allclose(run_compiled(compiled, x, size=1)[0], run_onnx(path, {"x": x})[0], atol=1e-6)


def test_functions_in_the_file_are_inlined(tmp_path: Path) -> None:
    path = residual_network(tmp_path / "m.onnx")
    model = onnx.load(path)
    opset = [helper.make_opsetid("", 18)]
    model.functions.append(
        helper.make_function("local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], opset)
    )
    model.opset_import.append(helper.make_opsetid("local", 1))
    last = model.graph.output[0].name
    model.graph.node.append(helper.make_node("Twice", [last], ["twice"], domain="local"))
    model.graph.output[0].name = "twice"
    onnx.save(model, path)
    assert "Twice" not in {node.op_type for node in load_model(path).graph.node}


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (None, 1.5), (-0.5, None), (float("nan"), 1.0)])
def test_clip_with_constant_bounds(  # type: ignore[no-untyped-def]
    low: float | None, high: float | None, tmp_path: Path, run_compiled, run_onnx
) -> None:
    from lab.compile.build import compile_onnx
    from lab.compile.targets import resolve_target

    g = Graph([3, 5])
    names = ["" if bound is None else g.constant(np.float32(bound)) for bound in (low, high)]
    path = g.save(tmp_path / "m.onnx", g.op("Clip", "x", *names))
    x = np.linspace(-9, 9, 15, dtype=np.float32).reshape(3, 5)
    compiled = compile_onnx(path, resolve_target("x86"), progress=lambda message: None)
    assert all("clip" in row.kernel for row in compiled.report.rows)
    unbounded = low is None or np.isnan(low)
    expected = x.clip(None if unbounded else low, high)
    np.testing.assert_array_equal(run_compiled(compiled, x)[0], expected)


def test_clip_as_an_attribute_of_old_opsets_and_with_computed_bounds(  # type: ignore[no-untyped-def]
    tmp_path: Path, run_compiled, run_onnx
) -> None:
    from lab.compile.build import compile_onnx
    from lab.compile.targets import resolve_target

    x = np.linspace(-9, 9, 15, dtype=np.float32).reshape(3, 5)
    old, new = Graph([3, 5]), Graph([3, 5])
    computed = new.op("Clip", "x", new.op("ReduceMean", "x", keepdims=0), new.constant(np.float32(4)))
    paths = [
        old.save(tmp_path / "old.onnx", old.op("Clip", "x", min=-1.0, max=2.0), opset=9),
        new.save(tmp_path / "new.onnx", computed),
    ]
    for path in paths:
        compiled = compile_onnx(path, resolve_target("x86"), progress=lambda message: None)
        np.testing.assert_allclose(run_compiled(compiled, x)[0], run_onnx(path, {"x": x})[0], atol=1e-6)


def folded(g: Graph, *outputs: str) -> onnx.ModelProto:
    return fold_shapes(g.model(*outputs))


def test_what_follows_from_shapes_is_computed() -> None:
    """Shape -> Cast -> Slice -> Concat -> Reshape, as Paddle's exporter writes a flatten."""
    g = Graph([2, 3, 5, 7])
    sizes = g.op("Cast", g.op("Shape", g.op("Relu", "x")), to=TensorProto.INT32)
    first = g.op("Slice", sizes, *(g.constant(np.array([n])) for n in (0, 1, 0, 1)))
    rest = g.op("Constant", value=onnx.numpy_helper.from_array(np.array([105], np.int32)))
    shape = g.op("Cast", g.op("Concat", first, rest, axis=0), to=TensorProto.INT64)
    model = folded(g, g.op("Reshape", "x", shape))
    assert [node.op_type for node in model.graph.node] == ["Relu", "Reshape"]
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert values[model.graph.node[-1].input[1]].tolist() == [2, 105]


def test_parts_of_shapes_outputs_and_repeated_constants_stay_right() -> None:
    g = Graph([2, 3, 5, 7])
    part, wide = g.op("Shape", "x", start=1, end=3), g.constant(np.array([9, 9]))
    shape = g.op("Shape", "x")
    model = folded(
        g, g.op("Expand", g.weights(1, 1), part), g.op("Add", "x", g.op("Expand", g.weights(1), wide)), shape
    )
    assert [node.op_type for node in model.graph.node] == ["Shape", "Expand", "Expand", "Add"]
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert values[part].tolist() == [3, 5]


def test_weights_behind_other_operators_are_constants() -> None:
    """As exporters share, transpose and fill them: the passes that fold and pack weights find them."""
    g = Graph([2, 3, 5, 7])
    filled = g.op(
        "ConstantOfShape", g.constant(np.array([4, 3, 3, 3])), value=onnx.numpy_helper.from_array(np.float32([2]))
    )
    shared = g.op("Identity", g.op("Cast", g.constant(np.ones((4, 4, 1, 1), np.float16)), to=TensorProto.FLOAT))
    turned = g.op("Transpose", g.weights(3, 4, 3, 3), perm=[1, 0, 2, 3])
    x = g.op("Add", g.op("Conv", "x", filled), g.op("Conv", "x", turned))
    model = fold_constants(g.model(g.op("Conv", x, shared)))
    assert [node.op_type for node in model.graph.node] == ["Conv", "Conv", "Add", "Conv"]
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert values[filled].shape == (4, 3, 3, 3)
    assert (values[filled] == 2).all()
    assert values[shared].dtype == np.float32


@pytest.mark.parametrize("operator", ["Sum", "Max", "Min", "Mean"])
def test_operators_on_any_number_of_tensors(operator: str, tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    """Two at a time, in one kernel; nothing is stacked."""
    from lab.compile.build import compile_onnx
    from lab.compile.targets import resolve_target

    g = Graph([2, 3, 5])
    path = g.save(tmp_path / "m.onnx", g.op(operator, "x", g.weights(5), g.op("Neg", "x"), g.weights(3, 1)))
    compiled = compile_onnx(path, resolve_target("x86"), progress=lambda message: None)
    x = g.rng.standard_normal((2, 3, 5)).astype(np.float32)
    np.testing.assert_allclose(run_compiled(compiled, x)[0], run_onnx(path, {"x": x})[0], atol=1e-6)
    assert len(compiled.report.rows) == 1


def test_the_labs_own_function_stays_a_call_and_keeps_its_shape() -> None:
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 18, "lab": 1]>
        m (float[3, 5, 4] boxes, bool[3, 5] valid) => (bool[r, k] keep)
        { keep = lab.NmsKeep <iou_threshold = 0.5> (boxes, valid) }""")
    model.functions.append(FUNCTIONS["NmsKeep"].body(18))
    kept = inline_functions(model)
    assert [node.op_type for node in kept.graph.node] == ["NmsKeep"]
    assert [node.op_type for node in kept.functions[0].node] == ["Identity"]
    assert signature_of(kept).outputs == (TensorSpec("keep", "bool", (3, 5)),)
    assert unsupported_operators(kept.graph.node) == {}


@pytest.mark.parametrize("mode", ["constant", "edge"])
def test_pad(mode: str, tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    from lab.compile.build import compile_onnx
    from lab.compile.targets import resolve_target

    g = Graph([1, 2, 5, 7])
    widths = g.constant(np.array([0, 1, 2, 0, 0, 0, 1, 3]))
    path = g.save(tmp_path / "m.onnx", g.op("Pad", "x", widths, g.constant(np.float32(-2)), mode=mode))
    x = g.rng.standard_normal((1, 2, 5, 7)).astype(np.float32)
    compiled = compile_onnx(path, resolve_target("x86"), progress=lambda message: None)
    np.testing.assert_array_equal(run_compiled(compiled, x)[0], run_onnx(path, {"x": x})[0])


def test_equal_of_booleans(tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    from lab.compile.build import compile_onnx
    from lab.compile.targets import resolve_target

    g = Graph([3, 5])
    zero = g.constant(np.float32(0))
    same = g.op("Equal", g.op("Greater", "x", zero), g.op("Less", g.op("Abs", "x"), g.constant(np.float32(1))))
    path = g.save(tmp_path / "m.onnx", g.op("Where", same, "x", zero))
    x = g.rng.standard_normal((3, 5)).astype(np.float32)
    compiled = compile_onnx(path, resolve_target("x86"), progress=lambda message: None)
    np.testing.assert_array_equal(run_compiled(compiled, x)[0], run_onnx(path, {"x": x})[0])


def test_the_converter_table_is_the_folder(repo: Path) -> None:
    folder = repo / "lab" / "compile" / "frontend" / "converters"
    files = {p.stem for p in folder.glob("*.py")} - {"__init__"}
    assert {entry.split(":")[0].rsplit(".", 1)[1] for entry in CONVERTERS.entries.values()} == files
    assert all(callable(CONVERTERS[name]) for name in CONVERTERS)


def test_shapes_that_become_known_by_folding_are_folded_too() -> None:
    """The second Reshape's target is read off the first one's result, whose shape no inference knows before."""
    g = Graph([2, 3, 4])
    shape = g.op("Shape", "x")
    target = g.op("Concat", g.op("Gather", shape, g.constant(np.array([0]))), g.constant(np.array([-1])), axis=0)
    flat = g.op("Reshape", "x", target)
    back = g.op("Concat", g.op("Shape", flat), g.constant(np.array([1])), axis=0)
    model = fold_shapes(g.model(g.op("Reshape", flat, back)))
    assert [node.op_type for node in model.graph.node] == ["Reshape", "Reshape"]

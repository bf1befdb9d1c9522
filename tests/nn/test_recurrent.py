"""Recurrent layers: equal to torch's packed layers in outputs, states and gradients, step by step, and through ONNX."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from lab.core.errors import ConfigError, DataError
from lab.core.signature import Signature, TensorSpec
from lab.export.onnx_export import export_onnx
from lab.nn import onnx_recurrent
from lab.nn.recurrent import Cell, Recurrent

NUM_INPUTS, H = 5, 7
LENGTHS = torch.tensor([4, 9, 1, 6])
KINDS = list(product(("lstm", "gru"), (False, True), (1, 3)))


def make(cell: Cell, bidirectional: bool = False, num_layers: int = 1, **options: float) -> Recurrent:
    torch.manual_seed(3)
    return Recurrent(cell, NUM_INPUTS, H, bidirectional=bidirectional, num_layers=num_layers, **options)


def inputs(num_steps: int = 9) -> Tensor:
    return torch.randn(4, num_steps, NUM_INPUTS, generator=torch.Generator().manual_seed(1))


def random_state(layer: Recurrent) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    num = layer.rnn.num_layers * layer.num_directions
    return tuple(torch.randn(4, num, H, generator=generator) for _ in range(2 if layer.cell == "lstm" else 1))


def packed(layer: Recurrent, x: Tensor, lengths: Tensor, state: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    """torch's own: outputs and states, batch first."""
    rows = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    given = None if state is None else tuple(part.transpose(0, 1).contiguous() for part in state)
    y, final = layer.rnn(rows, given[0] if given and layer.cell == "gru" else given)
    y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])
    return y, *(part.transpose(0, 1) for part in ([final] if layer.cell == "gru" else final))


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize(("cell", "bidirectional", "num_layers"), KINDS)
def test_equal_to_packed_sequences_with_gradients(
    cell: Cell, bidirectional: bool, num_layers: int, with_state: bool
) -> None:
    layer, x = make(cell, bidirectional, num_layers), inputs()
    state = random_state(layer) if with_state else None
    results = []
    for run in (lambda: packed(layer, x, LENGTHS, state), lambda: layer(x, LENGTHS, state)):
        layer.zero_grad()
        y, *rest = run()
        final = rest if len(rest) > 1 or isinstance(rest[0], Tensor) else rest[0]
        (y.square().sum() + sum(part.sum() for part in final)).backward()
        results.append([y.detach(), *(part.detach() for part in final), *(p.grad.clone() for p in layer.parameters())])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("cell", "bidirectional", "num_layers"), KINDS)
def test_padding_is_irrelevant_and_outputs_beyond_the_length_are_zero(
    cell: Cell, bidirectional: bool, num_layers: int
) -> None:
    layer, x = make(cell, bidirectional, num_layers), inputs()
    other = torch.where(torch.arange(9)[None, :, None] < LENGTHS[:, None, None], x, torch.full_like(x, 50.0))
    y, final = layer(x, LENGTHS)
    y_other, final_other = layer(other, LENGTHS)
    torch.testing.assert_close(y_other, y, atol=0, rtol=0)
    torch.testing.assert_close(final_other, final, atol=1e-6, rtol=0)
    for row, length in zip(y, LENGTHS.tolist(), strict=True):
        assert not row[length:].any()
        assert row[:length].abs().min() > 0


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_steps_add_up_to_the_sequence(cell: Cell, num_layers: int) -> None:
    layer, x = make(cell, num_layers=num_layers), inputs()
    state = random_state(layer)
    expected, final = layer(x, None, state)
    outputs = []
    for t in range(x.shape[1]):
        y, state = layer.step(x[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, dim=1), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(state, final, atol=1e-6, rtol=1e-5)


def test_dropout_only_between_layers_and_only_in_training() -> None:
    single, stacked, x = make("gru", dropout=0.5), make("gru", num_layers=2, dropout=0.5), inputs()
    torch.testing.assert_close(single(x, LENGTHS)[0], single(x, LENGTHS)[0], atol=0, rtol=0)
    assert not torch.equal(stacked(x, LENGTHS)[0], stacked(x, LENGTHS)[0])
    stacked.eval()
    torch.testing.assert_close(stacked(x, LENGTHS)[0], stacked(x, LENGTHS)[0], atol=0, rtol=0)


@pytest.mark.parametrize(("cell", "lengths", "both"), list(product(("lstm", "gru"), (None, LENGTHS), (False, True))))
def test_the_operator_itself_computes_what_the_layer_does(cell: Cell, lengths: Tensor | None, both: bool) -> None:
    layer, x = make(cell, both), inputs()
    state = random_state(layer)
    weights = [w.detach() for direction in range(layer.num_directions) for w in layer._weights(0, direction)]
    given = [part.transpose(0, 1).contiguous() for part in state]
    y_TDBH, *final = onnx_recurrent.OPERATORS[cell](x.transpose(0, 1), lengths, given, weights)
    expected, expected_final = layer(x, lengths, state)
    torch.testing.assert_close(y_TDBH.permute(2, 0, 1, 3).flatten(2), expected, atol=1e-6, rtol=1e-5)
    for got, wanted in zip(final, expected_final, strict=True):
        torch.testing.assert_close(got.transpose(0, 1), wanted, atol=1e-6, rtol=1e-5)


class Sequence(nn.Module):
    """The whole interface in one graph: lengths and a state in, outputs and a state out."""

    def __init__(self, layer: Recurrent, with_lengths: bool) -> None:
        super().__init__()
        self.layer, self.with_lengths = layer, with_lengths

    def forward(
        self, x: Tensor, lengths: Tensor, h: Tensor | None = None, c: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        state = tuple(part for part in (h, c) if part is not None)
        y, final = self.layer(x, lengths if self.with_lengths else None, state or None)
        return y, lengths + 1, *final


class Step(nn.Module):
    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, h: Tensor, c: Tensor | None = None) -> tuple[Tensor, ...]:
        y, final = self.layer.step(x, (h,) if c is None else (h, c))
        return y, *final


def specs(layer: Recurrent, prefix: str) -> tuple[TensorSpec, ...]:
    num = layer.rnn.num_layers * layer.num_directions
    return tuple(TensorSpec(f"{prefix}{i}", "float32", ("batch", num, H)) for i in range(1 + (layer.cell == "lstm")))


def run(path: Path, signature: Signature, *arrays: Tensor) -> list[np.ndarray]:
    feed = {spec.name: array.numpy() for spec, array in zip(signature.inputs, arrays, strict=True)}
    return list(onnxruntime.InferenceSession(str(path)).run(None, feed))


@pytest.mark.parametrize(
    ("cell", "bidirectional", "num_layers", "with_lengths", "with_state"),
    [
        ("lstm", False, 1, True, True), ("lstm", True, 2, True, False),
        ("gru", True, 2, True, True), ("gru", False, 1, False, False),
    ],
)  # fmt: skip
def test_exported_layers_run_at_lengths_never_seen(
    tmp_path: Path, cell: Cell, bidirectional: bool, num_layers: int, with_lengths: bool, with_state: bool
) -> None:
    layer = make(cell, bidirectional, num_layers).eval()
    module = Sequence(layer, with_lengths)
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", "length", NUM_INPUTS)), TensorSpec("lengths", "int64", ("batch",)))
        + (specs(layer, "s") if with_state else ()),
        (
            TensorSpec("y", "float32", ("batch", "length", H * layer.num_directions)),
            TensorSpec("more", "int64", ("batch",)),
            *specs(layer, "final"),
        ),
    )
    path = export_onnx(module, signature, tmp_path / "m.onnx", opset=18)
    nodes = [node for node in onnx.load(path).graph.node if node.op_type == cell.upper()]
    assert len(nodes) == num_layers
    stored = {tensor.name for tensor in onnx.load(path).graph.initializer}
    assert all({*node.input[1:4]} <= stored for node in nodes)
    for num_samples, num_steps in ((4, 9), (1, 31), (3, 1)):
        lengths = torch.clamp(LENGTHS[:num_samples], max=num_steps)
        feed = (inputs(num_steps)[:num_samples], lengths)
        feed += tuple(part[:num_samples] for part in random_state(layer)) if with_state else ()
        expected = module(*feed)
        for got, wanted in zip(run(path, signature, *feed), expected, strict=True):
            np.testing.assert_allclose(got, wanted.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(("cell", "num_layers"), [("lstm", 2), ("gru", 1)])
def test_an_exported_step_has_no_recurrent_node(tmp_path: Path, cell: Cell, num_layers: int) -> None:
    layer = make(cell, num_layers=num_layers).eval()
    module, state = Step(layer), random_state(layer)
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", NUM_INPUTS)), *specs(layer, "s")),
        (TensorSpec("y", "float32", ("batch", H)), *specs(layer, "final")),
    )
    path = export_onnx(module, signature, tmp_path / "m.onnx", opset=18)
    assert not {node.op_type for node in onnx.load(path).graph.node} & {"LSTM", "GRU", "Loop", "Scan"}
    feed = (inputs()[:3, 0], *(part[:3] for part in state))
    for got, wanted in zip(run(path, signature, *feed), module(*feed), strict=True):
        np.testing.assert_allclose(got, wanted.detach().numpy(), atol=1e-6)


def test_parameters_have_the_names_of_torch() -> None:
    names = {f"rnn.{name}" for name in nn.LSTM(NUM_INPUTS, H, 2, bidirectional=True).state_dict()}
    assert set(make("lstm", True, 2).state_dict()) == names


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown recurrent cell"):
        Recurrent("rnn", NUM_INPUTS, H)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="bidirectional"):
        make("gru", True).step(inputs()[:, 0], random_state(make("gru")))

"""Networks: step by step equals all at once, padding changes nothing, and every parameter learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lab.core.errors import ConfigError
from lab.tasks.seq2seq.config import InitConfig, ModelConfig
from lab.tasks.seq2seq.models.deferred import DeferredLinear
from lab.tasks.seq2seq.models.feeding import TokenGates
from lab.tasks.seq2seq.models.network import Seq2Seq, Step, signatures

SOURCE = torch.tensor([[4, 5, 6, 3, 0], [5, 6, 7, 8, 3], [5, 3, 0, 0, 0]])
LENGTHS = torch.tensor([4, 5, 2])
HISTORY = torch.tensor([[2, 4, 5, 6], [2, 7, 0, 0], [2, 8, 9, 10]])


def network(encoder: dict[str, Any] | None = None, decoder: dict[str, Any] | None = None, **options: Any) -> Seq2Seq:
    torch.manual_seed(0)
    sizes = {"embed_size": 6, "hidden_size": 8, "num_layers": 2}
    model = {"encoder": sizes | (encoder or {}), "decoder": sizes | (decoder or {})} | options
    return Seq2Seq(ModelConfig.model_validate(model), 11, 12, 9, 9)


RECURRENT = [
    {"cell": cell, "attention": attention, "state_init": init, "input_feeding": feeding, "num_layers": layers}
    for cell in ("lstm", "gru")
    for attention in ("dot", "bilinear", "mlp", "fixed")
    for init in ("last", "avg", "zero")
    for feeding, layers in ((True, 2), (False, 2), (True, 1))
]
SHAPES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    *(({"cell": decoder["cell"]}, decoder) for decoder in RECURRENT),
    *(
        ({"kind": "cnn", "activation": name}, {"kind": "cnn", "activation": name})
        for name in ("glu", "relu", "softrelu", "sigmoid", "tanh")
    ),
    ({"kind": "cnn"}, {"kind": "rnn"}),
    ({"kind": "rnn"}, {"kind": "cnn"}),
    ({"first_residual_layer": 2}, {"first_residual_layer": 2, "num_layers": 3}),
    ({"directions": "first"}, {"attention_in_upper_layers": False, "num_layers": 3, "first_residual_layer": 3}),
    ({"directions": "forward"}, {"attention_in_upper_layers": False, "input_feeding": False}),
    ({}, {"hidden_size": 5, "attention": "dot"}),
    ({}, {"attention_size": 3}),
]


def log_probs(model: Seq2Seq, source: Tensor = SOURCE, lengths: Tensor = LENGTHS, history: Tensor = HISTORY) -> Tensor:
    found: Tensor = model.output(model(source, lengths, history)).log_softmax(dim=-1)
    return found


def step_by_step(model: Seq2Seq, source: Tensor = SOURCE, lengths: Tensor = LENGTHS) -> tuple[Tensor, Tensor]:
    tensors, found, attention = model.encode(source, lengths), [], []
    for column in HISTORY.T:
        outputs = model.step(column, tensors)
        found.append(outputs["log_probs"])
        attention.append(outputs["attention"])
        tensors = {name: outputs.get(f"next_{name}", tensor) for name, tensor in tensors.items()}
    return torch.stack(found, dim=1), torch.stack(attention, dim=1)


@pytest.mark.parametrize(("encoder", "decoder"), SHAPES)
def test_step_by_step_equals_all_at_once_and_everything_learns(
    encoder: dict[str, Any], decoder: dict[str, Any]
) -> None:
    model = network(encoder, decoder)
    together = log_probs(model)
    alone, attention = step_by_step(model)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(3, 4))
    assert not attention[0, :, 4:].any()
    together[..., 4].sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    if decoder.get("attention") == "fixed" and decoder.get("state_init") == "zero":
        # All that is read is the last source token, where the backward direction has just begun: from zeros.
        without = [name for name in without if name != "encoder.layers.1.rnn.weight_hh_l0_reverse"]
    assert without == []


@pytest.mark.parametrize(("encoder", "decoder"), SHAPES)
def test_padding_changes_nothing(encoder: dict[str, Any], decoder: dict[str, Any]) -> None:
    model = network(encoder, decoder).eval()
    with torch.no_grad():
        whole, attention = step_by_step(model)
        wider, _ = step_by_step(model, torch.nn.functional.pad(SOURCE, (0, 3)), LENGTHS)
        alone = log_probs(model, SOURCE[2:, :2], LENGTHS[2:], HISTORY[2:])
    assert (whole - wider).abs().max() <= 1e-6
    assert (whole[2:] - alone).abs().max() <= 1e-6
    if decoder.get("attention") == "fixed":
        assert attention[:, 0].argmax(dim=-1).tolist() == (LENGTHS - 1).tolist()


def test_tied_embeddings_are_one_parameter() -> None:
    sizes = {"embed_size": 8, "hidden_size": 8}
    tied = network(sizes, sizes, tie_embeddings="target")
    assert tied.output.weight is tied.decoder.embedding.weight
    options = ModelConfig.model_validate({"encoder": sizes, "decoder": sizes, "tie_embeddings": "all"})
    shared = Seq2Seq(options, 11, 11, 9, 9)
    assert shared.encoder.embedding.weight is shared.output.weight
    torch.manual_seed(0)
    plain = network(sizes, sizes)
    assert sum(1 for _ in plain.parameters()) == sum(1 for _ in tied.parameters()) + 1


def test_weights_are_drawn_as_configured() -> None:
    """S2S-H47 .. H49: +-sqrt(scale / units), and +-scale."""
    model = network({"embed_size": 100}, init={"scale": 3.0, "factor": "in"})
    weight = model.encoder.layers[0].rnn.weight_ih_l0  # type: ignore[union-attr]
    assert 0.95 * (3 / 100) ** 0.5 < weight.abs().max() <= (3 / 100) ** 0.5
    recurrent = model.encoder.layers[0].rnn.weight_hh_l0.chunk(4)[2]  # type: ignore[union-attr]
    torch.testing.assert_close(recurrent @ recurrent.T, torch.eye(4))
    bias = model.encoder.layers[0].rnn.bias_ih_l0.chunk(4)  # type: ignore[union-attr]
    assert [part.unique().tolist() for part in bias] == [[0.0], [1.0], [0.0], [0.0]]
    uniform = network(init={"kind": "uniform", "scale": 0.07, "recurrent": "same"})
    names = [name for name, p in uniform.named_parameters() if p.ndim > 1]
    assert all(dict(uniform.named_parameters())[name].abs().max() <= 0.07 for name in names)
    assert InitConfig().scale == 2.34


def test_deferred_gradients_equal_those_of_steps() -> None:
    torch.manual_seed(0)
    weight, base = torch.randn(3, 5, requires_grad=True), torch.randn(4, 2, 3, requires_grad=True)
    start = torch.randn(2, 5)

    def run(linear: Any) -> tuple[Tensor, ...]:
        x = start
        for step in range(4):
            x = torch.cat([linear(step, x).tanh(), x[:, :2]], dim=-1)
        return torch.autograd.grad(x.square().sum(), (weight, base))

    deferred = DeferredLinear(weight, base)
    found = run(lambda step, x: deferred(x))
    expected = run(lambda step, x: base[step] + x @ weight.T)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_signatures_name_memory_and_states() -> None:
    found = signatures(network(decoder={"hidden_size": 7}))
    assert [spec.name for spec in found["step"].inputs] == [
        "token",
        "memory",
        "bias",
        "keys",
        "state_h",
        "state_c",
        "state_feed",
    ]
    assert [spec.name for spec in found["step"].outputs][:2] == ["log_probs", "attention"]
    assert found["encode"].outputs[0].shape == ("batch", "source_length", 8)
    assert found["step"].outputs[2].shape == ("batch", 2, 7)


def test_a_residual_layer_above_the_last_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.first_residual_layer"):
        network({"first_residual_layer": 3})


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_small_vocabularys_gates_are_looked_up(cell: str, num_layers: int) -> None:
    model = network({"cell": cell}, {"cell": cell, "num_layers": num_layers, "embed_size": 12}).eval()
    names = tuple(spec.name for spec in signatures(model)["step"].inputs[1:])
    step = Step(model, names)
    assert isinstance(step.first, TokenGates)
    with torch.no_grad():
        tensors = model.encode(SOURCE, LENGTHS)
        token = torch.tensor([2, 11, 4])
        found = step(token, *(tensors[name] for name in names))
        expected = tuple(model.step(token, tensors).values())
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=1e-6)


def test_a_large_vocabularys_gates_are_computed() -> None:
    model = network({}, {"embed_size": 11})
    assert Step(model, ()).first is None
    assert Step(network({}, {"embed_size": 12, "input_feeding": False}), ()).first is None

"""The whole network, and its functions "encode" and "step" as modules and signatures. Letters: models; V tokens."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from lab.core.signature import Signature, TensorSpec
from lab.tasks.seq2seq.config import ModelConfig
from lab.tasks.seq2seq.models.cnn import ConvDecoder, ConvEncoder
from lab.tasks.seq2seq.models.encoded import Encoded
from lab.tasks.seq2seq.models.feeding import TokenGates
from lab.tasks.seq2seq.models.initial import initialise
from lab.tasks.seq2seq.models.rnn import RNNDecoder, RNNEncoder, check_residual
from lab.tasks.seq2seq.search import STATE


class Seq2Seq(nn.Module):
    """Encoder, decoder and output layer.

    Args:
        source_size, target_size: numbers of tokens.
        max_source_length, max_target_length: the longest without </s>; convolutional models learn so many positions.

    Raises:
        ConfigError: the first residual layer is above the last layer.
    """

    def __init__(
        self, options: ModelConfig, source_size: int, target_size: int, max_source_length: int, max_target_length: int
    ) -> None:
        super().__init__()
        encoder, decoder = options.encoder, options.decoder
        check_residual(encoder, "encoder")
        check_residual(decoder, "decoder")
        self.encoder: RNNEncoder | ConvEncoder
        self.decoder: RNNDecoder | ConvDecoder
        if encoder.kind == "rnn":
            self.encoder = RNNEncoder(encoder, source_size)
        else:
            self.encoder = ConvEncoder(encoder, source_size, max_source_length + 1)
        memory_size = self.encoder.memory_size
        if decoder.kind == "rnn":
            self.decoder = RNNDecoder(decoder, target_size, memory_size)
        else:
            self.decoder = ConvDecoder(decoder, target_size, memory_size, max_target_length + 1)
        self.output = nn.Linear(self.decoder.output_size, target_size)
        initialise(self, options.init)
        self._tie(options.tie_embeddings)

    def _tie(self, which: str) -> None:
        if which == "none":
            return
        target = _tokens(self.decoder)
        self.output.weight = target.weight
        if which == "all":
            _tokens(self.encoder).weight = target.weight

    def forward(self, source_BS: Tensor, lengths_B: Tensor, target_BT: Tensor) -> Tensor:
        """What the output layer reads [B, T, H] where the tokens before each are given: <s>, then the target."""
        encoded: Encoded = self.encoder(source_BS, lengths_B)
        states: Tensor = self.decoder(target_BT, self.decoder.begin(encoded))
        return states

    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> dict[str, Tensor]:
        """By name: "memory", "bias", perhaps "keys", and the first states ("state_...")."""
        return self.decoder.begin(self.encoder(source_BS, lengths_B))

    def step(self, token_B: Tensor, tensors: dict[str, Tensor], first: TokenGates | None = None) -> dict[str, Tensor]:
        """By name: "log_probs" [B, V], "attention" [B, S], and the next states ("next_state_...")."""
        if isinstance(self.decoder, RNNDecoder):
            hidden_BH, attention_BS, states = self.decoder.step(token_B, tensors, first)
        else:
            hidden_BH, attention_BS, states = self.decoder.step(token_B, tensors)
        log_probs = self.output(hidden_BH).float().log_softmax(dim=-1)
        return {"log_probs": log_probs, "attention": attention_BS, **states}


def _tokens(part: nn.Module) -> nn.Embedding:
    embedding = part.embedding
    return cast(nn.Embedding, getattr(embedding, "tokens", embedding))


class Encode(nn.Module):
    """The function "encode": inputs and outputs in the order of its signature."""

    def __init__(self, network: Seq2Seq) -> None:
        super().__init__()
        self.network = network

    def forward(self, source: Tensor, source_lengths: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.encode(source, source_lengths).values())


class Step(nn.Module):
    """The function "step": inputs and outputs in the order of its signature; for the weights as they are now."""

    def __init__(self, network: Seq2Seq, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names, decoder = network, names, network.decoder
        folds = isinstance(decoder, RNNDecoder) and TokenGates.fits(decoder)
        self.first = TokenGates(cast(RNNDecoder, decoder)) if folds else None

    def forward(self, token: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network.step(token, dict(zip(self.names, tensors, strict=True)), self.first)
        states = [outputs[f"next_{name}"] for name in self.names if name.startswith(STATE)]
        return outputs["log_probs"], outputs["attention"], *states


def signatures(network: Seq2Seq) -> dict[str, Signature]:
    """Of "encode" and "step"; shapes are read off a run of two tokens, which needs no weights (device meta)."""
    vocabulary_size = network.output.out_features
    device = network.output.weight.device
    tokens_BS = torch.ones(3, 2, dtype=torch.int64, device=device)
    with torch.no_grad():
        encoded = network.encode(tokens_BS, tokens_BS[:, 0] + 1)
    specs = tuple(_spec(name, tensor) for name, tensor in encoded.items())
    source = TensorSpec("source", "int64", ("batch", "source_length"))
    lengths = TensorSpec("source_lengths", "int64", ("batch",))
    outputs = (
        TensorSpec("log_probs", "float32", ("batch", vocabulary_size)),
        TensorSpec("attention", "float32", ("batch", "source_length")),
        *(TensorSpec(f"next_{spec.name}", spec.dtype, spec.shape) for spec in specs if spec.name.startswith(STATE)),
    )
    return {
        "encode": Signature((source, lengths), specs),
        "step": Signature((TensorSpec("token", "int64", ("batch",)), *specs), outputs),
    }


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if name.startswith(STATE):
        return TensorSpec(name, dtype, ("batch", *tensor.shape[1:]))
    return TensorSpec(name, dtype, ("batch", "source_length", *tensor.shape[2:]))

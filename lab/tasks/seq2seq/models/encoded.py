"""What encoders hand to decoders. Letters: models."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lab.tasks.seq2seq.models.attention import padding_bias


@dataclass(frozen=True)
class Encoded:
    """A source as channels per token.

    `memory_BSC` is what attention compares and `values_BSC` what a convolutional decoder reads there (the same for
    recurrent encoders); `bias_BS` is 0 at tokens and very negative at padding; `final_BC` is the encoder's last state.
    """

    memory_BSC: Tensor
    values_BSC: Tensor
    bias_BS: Tensor
    final_BC: Tensor

    @classmethod
    def of(cls, memory_BSC: Tensor, values_BSC: Tensor, source_BS: Tensor, final_BC: Tensor | None) -> Encoded:
        """With the mean over tokens for an encoder that has no last state."""
        encoded = cls(memory_BSC, values_BSC, padding_bias(source_BS), memory_BSC)
        return cls(memory_BSC, values_BSC, encoded.bias_BS, encoded.mean if final_BC is None else final_BC)

    @property
    def is_token(self) -> Tensor:
        """Float [B, S], 1 at tokens and 0 at padding."""
        return (self.bias_BS == 0).to(self.memory_BSC.dtype)

    @property
    def num_tokens(self) -> Tensor:
        """[B, 1], at least 1."""
        return self.is_token.sum(dim=1, keepdim=True).clamp(min=1)

    @property
    def mean(self) -> Tensor:
        """Mean of the memory over tokens [B, C]."""
        return (self.memory_BSC * self.is_token.unsqueeze(-1)).sum(dim=1) / self.num_tokens

    def zeros(self, size: int) -> Tensor:
        """[B, size] of zeros."""
        return self.memory_BSC.new_zeros(self.memory_BSC.shape[0], size)

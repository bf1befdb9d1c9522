"""DeepAR: an autoregressive LSTM over lags, calendar and static features (Salinas et al., arXiv 1704.04110).

Shape letters: B batch, H cells, I inputs of a step, K categories, L layers, Q parameters, R numbers, S static, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lab.nn.recurrent import Recurrent, State
from lab.tasks.forecasting.config import ModelConfig
from lab.tasks.forecasting.likelihoods import likelihood_of
from lab.tasks.forecasting.windows import NUM_PARAMETERS, Preprocessing


class DeepAR(nn.Module):
    """Inputs of every step -> parameters of the next value's distribution.

    Args:
        num_inputs: lags and features of a step.
        cardinalities: numbers of values of the categories.
        embedding_dims: widths of their vectors.
        zoneout: share of the states that stay as they were from one step to the next, while training (Krueger et al.,
            arXiv 1606.01305; used whole in evaluation, as MXNet's cell does, which SageMaker trains).
    """

    def __init__(
        self,
        num_inputs: int,
        *,
        likelihood: str,
        num_cells: int,
        num_layers: int,
        dropout: float = 0.0,
        zoneout: float = 0.0,
        cardinalities: Sequence[int] = (),
        embedding_dims: Sequence[int] = (),
        num_static_real: int = 0,
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(
            nn.Embedding(*shape) for shape in zip(cardinalities, embedding_dims, strict=True)
        )
        self.static_size = sum(embedding_dims) + num_static_real
        self.rnn = Recurrent("lstm", num_inputs + self.static_size, num_cells, num_layers=num_layers, dropout=dropout)
        self.project = nn.Linear(num_cells, NUM_PARAMETERS[likelihood])
        self.zoneout = zoneout
        self.to_parameters = likelihood_of(likelihood).parameters

    def static(self, static_cat_BK: Tensor | None, static_real_BR: Tensor | None) -> Tensor | None:
        """What is known of the series itself, float32 [B, S]; None where nothing is."""
        parts = [] if static_cat_BK is None else [e(static_cat_BK[:, k]) for k, e in enumerate(self.embeddings)]
        parts += [] if static_real_BR is None else [static_real_BR]
        return torch.cat(parts, dim=-1) if parts else None

    def forward(
        self, inputs_BTI: Tensor, static_cat_BK: Tensor | None = None, static_real_BR: Tensor | None = None
    ) -> Tensor:
        """Parameters [B, T, Q] of every step's distribution, all inputs given (teacher forcing)."""
        return self.unroll(inputs_BTI, self.static(static_cat_BK, static_real_BR))[0]

    def unroll(self, inputs_BTI: Tensor, static_BS: Tensor | None) -> tuple[Tensor, State]:
        """Parameters [B, T, Q], and the state after the last step, h and c [B, L, H]."""
        if static_BS is not None:
            repeated_BTS = static_BS.unsqueeze(1).expand(-1, inputs_BTI.shape[1], -1)
            inputs_BTI = torch.cat((inputs_BTI, repeated_BTS), dim=-1)
        if self.training and self.zoneout:
            outputs_BTH, state = self._zoned_out(inputs_BTI)
        else:
            outputs_BTH, state = self.rnn(inputs_BTI)
        return self.to_parameters(self.project(outputs_BTH)), state

    def _zoned_out(self, inputs_BTI: Tensor) -> tuple[Tensor, State]:
        """Zoneout acts on what one step hands to the next; within a step, layers hand on what they computed."""
        shape = (len(inputs_BTI), self.rnn.rnn.num_layers, self.rnn.rnn.hidden_size)
        state: State = (inputs_BTI.new_zeros(shape), inputs_BTI.new_zeros(shape))
        outputs = []
        for x_BI in inputs_BTI.unbind(1):
            output_BH, new = self.rnn.step(x_BI, state)
            outputs.append(output_BH)
            state = tuple(
                torch.where(torch.rand_like(after) < self.zoneout, before, after)
                for before, after in zip(state, new, strict=True)
            )
        return torch.stack(outputs, dim=1), state


class Encode(nn.Module):
    """The function "encode": the context to the first step's parameters, the state and the static part of inputs."""

    def __init__(self, model: DeepAR, *, has_cat: bool, has_real: bool) -> None:
        super().__init__()
        self.model, self.has_cat, self.has_real = model, has_cat, has_real

    def forward(
        self, inputs_BTI: Tensor, first: Tensor | None = None, second: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """`first` and `second` are the categories and the numbers, or the one of them that there is."""
        # Plain arguments, because the exporter cannot name the shapes of a variable number of them.
        cat_BK, real_BR = (first, second) if self.has_cat else (None, first)
        static_BS = self.model.static(cat_BK, real_BR if self.has_real else None)
        parameters_BTQ, state = self.model.unroll(inputs_BTI, static_BS)
        handed_on = () if static_BS is None else (static_BS,)
        return (parameters_BTQ[:, -1], *state, *handed_on)


class Step(nn.Module):
    """The function "step": one more step's inputs and the state to its parameters and the new state."""

    def __init__(self, model: DeepAR) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs_BI: Tensor, hidden_BLH: Tensor, cell_BLH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output_BH, (hidden, cell) = self.model.rnn.step(inputs_BI, (hidden_BLH, cell_BLH))
        return self.model.to_parameters(self.model.project(output_BH)), hidden, cell


def build(config: ModelConfig, options: Preprocessing) -> DeepAR:
    """A fresh network as configured."""
    cardinalities = options.all_cardinalities
    fixed = config.embedding_dimension
    zones_out = config.regularization == "zoneout"
    return DeepAR(
        len(options.lags) + options.num_features,
        likelihood=options.likelihood,
        num_cells=config.num_cells,
        num_layers=config.num_layers,
        dropout=0.0 if zones_out else config.dropout_rate,
        zoneout=config.dropout_rate if zones_out else 0.0,
        cardinalities=cardinalities,
        embedding_dims=[fixed or min(50, (count + 1) // 2) for count in cardinalities],
        num_static_real=options.num_static,
    )

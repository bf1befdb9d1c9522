"""Starting weights as MXNet's initialisers draw them (S2S-H47 .. S2S-H49), with orthogonal recurrent matrices."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from lab.tasks.seq2seq.config import InitConfig


@torch.no_grad()
def initialise(model: nn.Module, options: InitConfig) -> None:
    """Draw every weight from torch's generator; biases are 0, and 1 for the forget gates of LSTMs.

    xavier: uniform in +-sqrt(scale / units), MXNet's Xavier(rnd_type="uniform", magnitude=scale); Glorot and Bengio
    2010 is scale 3, factor avg.
    """
    for module in model.modules():
        if isinstance(module, nn.LSTM | nn.GRU):
            _recurrent(module, options)
        elif isinstance(module, nn.Linear):
            _draw(module.weight, options)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            _draw(module.weight, options, as_embedding=True)
            if module.padding_idx is not None:
                module.weight[module.padding_idx] = 0


def _recurrent(module: nn.RNNBase, options: InitConfig) -> None:
    num_gates = 4 if isinstance(module, nn.LSTM) else 3
    for name, parameter in module.named_parameters():
        if name.startswith("bias"):
            parameter.zero_()
            if num_gates == 4 and name.startswith("bias_ih"):
                parameter.chunk(4)[1].fill_(1.0)  # the other bias of the gate is 0: together 1
            continue
        for gate in parameter.chunk(num_gates):
            if name.startswith("weight_hh") and options.recurrent == "orthogonal":
                nn.init.orthogonal_(gate)
            else:
                _draw(gate, options)


def _draw(weight: Tensor, options: InitConfig, *, as_embedding: bool = False) -> None:
    bound = options.scale
    if options.kind == "xavier":
        out_size, in_size = weight.shape
        if as_embedding:  # a row is chosen, not multiplied with: the vocabulary's size has no say
            out_size = in_size
        bound = sqrt(options.scale / {"in": in_size, "out": out_size, "avg": (in_size + out_size) / 2}[options.factor])
    nn.init.uniform_(weight, -bound, bound)

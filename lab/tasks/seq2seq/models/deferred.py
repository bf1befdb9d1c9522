"""Linear layers inside a loop over time whose weight gradient is one matrix product over all steps.

Autograd would compute a weight gradient per step and add them up: as many small products, each over the whole weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Collected(torch.autograd.Function):
    """Passes `base_TBO` on; its gradient is that of every step's output, from which the weight's follows."""

    @staticmethod
    def forward(ctx: Any, base_TBO: Tensor, weight_OI: Tensor, inputs: list[Tensor]) -> Tensor:
        ctx.inputs, ctx.weight_dtype = inputs, weight_OI.dtype
        return base_TBO.view_as(base_TBO)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBO: Tensor) -> tuple[Tensor, Tensor, None]:
        x_NI = torch.cat(ctx.inputs).to(grad_TBO.dtype)
        grad_OI = grad_TBO.flatten(0, 1).t() @ x_NI
        return grad_TBO, grad_OI.to(ctx.weight_dtype), None


class DeferredLinear:
    """base_TBO[t] + x_t @ weight_OI.T for t = 0, 1, ...: called once per step, in order."""

    def __init__(self, weight_OI: Tensor, base_TBO: Tensor) -> None:
        self._inputs: list[Tensor] = []
        self._weight_IO = weight_OI.detach().t()
        collected: Tensor = _Collected.apply(base_TBO, weight_OI, self._inputs)
        self._bases = iter(collected.unbind(0))

    def __call__(self, x_BI: Tensor) -> Tensor:
        self._inputs.append(x_BI.detach())
        return torch.addmm(next(self._bases), x_BI, self._weight_IO)

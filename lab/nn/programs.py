"""A program's torch functions as its loop calls them, for validation and pictures while training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lab.core.interfaces import Arrays, Call
from lab.core.signature import Signature


def calls_of(modules: Mapping[str, nn.Module], signatures: Mapping[str, Signature]) -> dict[str, Call]:
    """Each module as named arrays in, named arrays out, where its weights are; floats come back as float32."""
    return {name: _call_of(module, signatures[name]) for name, module in modules.items()}


def _call_of(module: nn.Module, signature: Signature) -> Call:
    device = next(module.parameters()).device

    @torch.inference_mode()
    def call(inputs: Mapping[str, np.ndarray]) -> Arrays:
        # torch warns of arrays that it could write to and must not: such are copied.
        arrays = (np.require(inputs[spec.name], requirements=("C", "W")) for spec in signature.inputs)
        tensors = (torch.from_numpy(array).to(device) for array in arrays)
        return {spec.name: _array(t) for spec, t in zip(signature.outputs, module(*tensors), strict=True)}

    return call


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
    return array

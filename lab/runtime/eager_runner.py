"""A torch module behind the Runner protocol, as it is or through torch.compile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from lab.core.host import num_cores
from lab.core.signature import Signature


class EagerRunner:
    """A module in evaluation mode, called with the signature's inputs in order; returns a tensor or a sequence of them.

    Args:
        num_threads: torch's threads are a setting of the process; it is set before every run and put back after it.
        torch_compile: compile the module at its first call.
    """

    def __init__(
        self,
        module: nn.Module,
        signature: Signature,
        *,
        num_threads: int | None = None,
        torch_compile: bool = False,
        device: str = "cpu",
    ) -> None:
        self.name = "torch.compile" if torch_compile else "eager"
        self.signature = signature
        self.num_threads = num_threads or num_cores()
        self._device = torch.device(device)
        module = module.eval().to(self._device)
        self._module = torch.compile(module) if torch_compile else module

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once. Raises DataError when the inputs do not fit the signature."""
        self.signature.check_inputs(inputs)
        arguments = [self._tensor(inputs[spec.name]) for spec in self.signature.inputs]
        before = torch.get_num_threads()
        torch.set_num_threads(self.num_threads)
        try:
            result = self._module(*arguments)
        finally:
            torch.set_num_threads(before)
        tensors: Sequence[torch.Tensor] = [result] if isinstance(result, torch.Tensor) else list(result)
        return {spec.name: t.cpu().numpy() for spec, t in zip(self.signature.outputs, tensors, strict=True)}

    def close(self) -> None:
        """Drop the module; calling again does nothing."""
        self._module = nn.Identity()

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        source = array if array.flags.writeable else array.copy()  # torch warns of memory it must not write to
        return torch.from_numpy(np.asarray(source, order="C")).to(self._device)

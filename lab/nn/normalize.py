"""Normalisation of a batch on its device, equal to `lab.data.preprocess.normalized`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Normalize:
    """x * scale + offset per channel of [B, C, H, W]; float32. What `lab.data.preprocess.normalization` gives."""

    def __init__(self, scale_C: np.ndarray, offset_C: np.ndarray) -> None:
        self._scale, self._offset = (torch.from_numpy(values)[:, None, None] for values in (scale_C, offset_C))

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.mul(self._scale.to(x_BCHW.device)).add_(self._offset.to(x_BCHW.device))

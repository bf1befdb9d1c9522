"""Small networks with the heads of detection and of segmentation, exported as the tasks export theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lab.core.signature import Signature, TensorSpec
from lab.export.onnx_export import export_onnx
from lab.nn.nms import keep_mask

SIZE, CLASSES, PER_CLASS, KEPT = 37, 5, 13, 7
DETECTION = Signature(
    (TensorSpec("image", "float32", ("batch", 3, SIZE, SIZE)),),
    (
        TensorSpec("boxes", "float32", ("batch", KEPT, 4)), TensorSpec("scores", "float32", ("batch", KEPT)),
        TensorSpec("labels", "int64", ("batch", KEPT)), TensorSpec("num_detections", "int64", ("batch",)),
    ),
)  # fmt: skip
SEGMENTATION = Signature(
    (TensorSpec("image", "float32", ("batch", 3, SIZE, SIZE)),),
    (TensorSpec("logits", "float32", ("batch", CLASSES, SIZE, SIZE)),),
)


def conv(channels: int, out: int, **options: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, **options), nn.ReLU())  # type: ignore[arg-type]


class Detector(nn.Module):
    """Two feature maps, one of them normalised, box and class heads, suppression per class, the best of all classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(conv(3, 16, stride=2), nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(3, 1, 1))
        self.second = nn.Sequential(conv(16, 32, dilation=6, padding=6), conv(32, 16, stride=2, padding=1))
        self.scale = nn.Parameter(torch.full((16,), 5.0))
        self.codes = nn.ModuleList(nn.Conv2d(16, 2 * 4, 3, padding=1) for _ in range(2))
        self.classes = nn.ModuleList(nn.Conv2d(16, 2 * (CLASSES + 1), 3, padding=1) for _ in range(2))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first = self.first(image)
        second = self.second(first)
        normal = nn.functional.normalize(first, dim=1) * self.scale[None, :, None, None]
        maps, batch = (normal, second), image.shape[0]
        codes = torch.cat([_flat(head(x), 4) for head, x in zip(self.codes, maps, strict=True)], dim=1)
        logits = torch.cat([_flat(head(x), CLASSES + 1) for head, x in zip(self.classes, maps, strict=True)], dim=1)
        corner = torch.linspace(0, 0.7, codes.shape[1])[:, None]
        boxes_BN4 = torch.cat([corner + codes[..., :2] * 0.1, corner + 0.3 + codes[..., 2:].exp() * 0.1], dim=-1)
        scores_BCN = logits.softmax(dim=-1)[..., 1:].transpose(1, 2)
        top_BCK, index_BCK = scores_BCN.topk(PER_CLASS, dim=-1)
        index = index_BCK.reshape(batch, -1, 1).expand(-1, -1, 4)
        best = boxes_BN4.gather(1, index)
        keep = keep_mask(best.reshape(-1, PER_CLASS, 4), (top_BCK > 0.1).reshape(-1, PER_CLASS), 0.6)
        kept_scores = torch.where(keep.reshape(top_BCK.shape), top_BCK, torch.zeros_like(top_BCK)).flatten(1)
        scores, chosen = kept_scores.topk(KEPT, dim=-1)
        boxes = best.gather(1, chosen[..., None].expand(-1, -1, 4))
        return boxes, scores, chosen // PER_CLASS, (scores > 0).sum(dim=-1)


class Segmenter(nn.Module):
    """An atrous pyramid of one rate and the pooled image, classified, and enlarged to the image's size."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 32, stride=2, padding=1), conv(32, 32, dilation=2, padding=2))
        self.atrous = conv(32, 16, dilation=12, padding=12)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 16, 1), nn.ReLU())
        self.coarse = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Conv2d(32, 16, 1), nn.ReLU())
        self.classify = nn.Conv2d(80, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.body(image)
        size = x.shape[-2:]
        parts = [x, self.atrous(x), _enlarge(self.pooled(x), size), _enlarge(self.coarse(x), size)]
        return _enlarge(self.classify(torch.cat(parts, dim=1)), image.shape[-2:])


class Skips(nn.Module):
    """Coarse scores, enlarged and added to those of a finer map (FCN's skips), and enlarged again."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = conv(3, 16, stride=2, padding=1)
        self.coarse = conv(16, 32, stride=2, padding=1)
        self.classify_fine, self.classify_coarse = nn.Conv2d(16, CLASSES, 1), nn.Conv2d(32, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.fine(image)
        scores = _enlarge(self.classify_coarse(self.coarse(fine)), fine.shape[-2:]) + self.classify_fine(fine)
        return _enlarge(scores, image.shape[-2:])


def _flat(x_BCHW: Tensor, width: int) -> Tensor:
    return x_BCHW.permute(0, 2, 3, 1).reshape(x_BCHW.shape[0], -1, width)


def _enlarge(x: Tensor, size: torch.Size) -> Tensor:
    return nn.functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def export(module: nn.Module, signature: Signature, folder: Path) -> Path:
    return export_onnx(module, signature, folder / "model.onnx", opset=20)


def images(num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_samples, 3, SIZE, SIZE)).astype(np.float32)

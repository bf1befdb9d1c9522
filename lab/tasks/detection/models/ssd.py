"""SSD: Single Shot MultiBox Detector (Liu et al. 2016, arXiv:1512.02325) on any feature pyramid.

Shape letters: A default boxes, B batch, C channels, D detections, H height, K classes without the background, N
candidates, W width, 4 box coordinates.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from lab.core.errors import ConfigError
from lab.nn.nms import keep_mask
from lab.tasks.detection.boxes import decode, default_aspect_ratios, default_boxes, default_scales
from lab.tasks.detection.config import BoxesConfig, DetectConfig, DetectionConfig, ModelConfig
from lab.tasks.detection.models import MODELS


def build(config: DetectionConfig, num_classes: int) -> SSD:
    """The configured detector for so many classes.

    Raises:
        ArtifactError: published weights are asked for and cannot be had.
        ConfigError: scales or aspect ratios do not fit the feature maps, or a freeze pattern fits no parameter.
    """
    model = SSD(config.model, config.image.size, num_classes, config.boxes, config.detect)
    if config.model.freeze_layer_pattern is not None:
        model.freeze(config.model.freeze_layer_pattern)
    return model


class Heads(nn.Module):
    """3 x 3 convolutions that predict, in every cell of every map, scores and a box for each default box."""

    def __init__(self, channels: tuple[int, ...], boxes_per_cell: list[int], num_logits: int, normalised: bool) -> None:
        super().__init__()
        pairs = list(zip(channels, boxes_per_cell, strict=True))
        self.classes = nn.ModuleList([nn.Conv2d(c, n * num_logits, 3, padding=1) for c, n in pairs])
        self.codes = nn.ModuleList([nn.Conv2d(c, n * 4, 3, padding=1) for c, n in pairs])
        self.num_logits = num_logits
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if normalised:
                    # Residual maps have large values: Glorot's weights would start with scores of 0 and 1 at random.
                    nn.init.normal_(module.weight, std=0.01)
                else:
                    nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        codes = [_per_box(head(x), 4) for head, x in zip(self.codes, maps, strict=True)]
        logits = [_per_box(head(x), self.num_logits) for head, x in zip(self.classes, maps, strict=True)]
        return torch.cat(codes, dim=1), torch.cat(logits, dim=1)


def _per_box(x_BCHW: Tensor, num_values: int) -> Tensor:
    """[B, boxes * values, H, W] to [B, H * W * boxes, values]."""
    return x_BCHW.permute(0, 2, 3, 1).reshape(x_BCHW.shape[0], -1, num_values)


class SSD(nn.Module):
    """Training: image [B, 3, S, S] to the raw outputs (codes [B, A, 4], logits [B, A, 1 + K], background first).

    Evaluation: to (boxes float32 [B, D, 4], scores float32 [B, D], labels int64 [B, D], num_detections int64 [B]), most
    certain first; boxes are corners as shares of the image, labels count from 0 without the background, and behind
    `num_detections` boxes and scores are 0 and labels -1. With `nms: host`: to (boxes [B, A, 4], scores [B, A, K]).
    """

    def __init__(
        self, config: ModelConfig, size: int, num_classes: int, boxes: BoxesConfig, detect: DetectConfig
    ) -> None:
        super().__init__()
        self.detect_config = detect
        self.backbone = MODELS[config.name](config, size)
        channels, sides = self._probe(size)
        scales = boxes.scales or default_scales(size, len(sides))
        ratios = boxes.aspect_ratios or default_aspect_ratios(len(sides))
        self.defaults_A4: Tensor
        self.register_buffer("defaults_A4", default_boxes(size, sides, scales, ratios), persistent=False)
        per_cell = [2 + 2 * len(ratio) for ratio in ratios]
        self.heads = Heads(channels, per_cell, num_classes + 1, normalised=config.name != "vgg16")
        self._frozen: tuple[nn.Module, ...] = ()

    @torch.no_grad()
    def _probe(self, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Channels and sides of the feature maps; nothing is computed."""
        was_training = self.backbone.training
        state = {name: tensor.to("meta") for name, tensor in self.backbone.state_dict().items()}
        image = torch.empty(1, 3, size, size, device="meta")
        maps = torch.func.functional_call(self.backbone.eval(), state, (image,))
        self.backbone.train(was_training)
        return tuple(x.shape[1] for x in maps), tuple(x.shape[3] for x in maps)

    def raw(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(codes [B, A, 4], logits [B, A, 1 + K]) in either mode."""
        outputs: tuple[Tensor, Tensor] = self.heads(self.backbone(image))
        return outputs

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        codes_BA4, logits_BAK = self.raw(image)
        return (codes_BA4, logits_BAK) if self.training else self.detect(codes_BA4, logits_BAK)

    def detect(self, codes_BA4: Tensor, logits_BAK: Tensor) -> tuple[Tensor, ...]:
        """Raw outputs to what evaluation returns."""
        boxes_BA4 = decode(codes_BA4.float(), self.defaults_A4).clamp(0, 1)
        scores_BAK = logits_BAK.float().softmax(dim=-1)[..., 1:]
        if self.detect_config.nms == "host":
            return boxes_BA4, scores_BAK
        return suppress(boxes_BA4, scores_BAK, self.detect_config)

    def freeze(self, pattern: str) -> None:
        """Stop training the parameters whose name matches; BatchNorm layers frozen whole stay in evaluation mode.

        Raises:
            ConfigError: no parameter has such a name, or all have.
        """
        names = [name for name, _ in self.named_parameters()]
        chosen = {n for n in names if re.match(pattern, n) or re.match(pattern, n.removeprefix("backbone."))}
        if not chosen or len(chosen) == len(names):
            raise ConfigError(
                f"model.freeze_layer_pattern fits {'every parameter' if chosen else 'no parameter'}",
                got=pattern,
                expected=f"some of {', '.join(names[:4])}, ... {names[-1]}",
            )
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name not in chosen)
        norms = [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]
        self._frozen = tuple(m for m in norms if not any(p.requires_grad for p in m.parameters()))
        self.train(self.training)

    def train(self, mode: bool = True) -> SSD:
        super().train(mode)
        for module in getattr(self, "_frozen", ()):
            module.eval()
        return self


def suppress(boxes_BA4: Tensor, scores_BAK: Tensor, config: DetectConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The detections among scored boxes, suppressed class by class; every size is fixed, so that it can be exported."""
    num_boxes, num_classes = scores_BAK.shape[1:]
    num_candidates = min(config.candidates, num_boxes)
    scores_BKN, index_BKN = scores_BAK.transpose(1, 2).topk(num_candidates, dim=2)
    index_BM1 = index_BKN.reshape(-1, num_classes * num_candidates, 1)
    boxes_BM4 = boxes_BA4.gather(1, index_BM1.expand(-1, -1, 4))
    valid_BKN = scores_BKN > config.score_threshold
    keep_RN = keep_mask(
        boxes_BM4.reshape(-1, num_candidates, 4), valid_BKN.reshape(-1, num_candidates), config.nms_threshold
    )
    kept_BM = torch.where(keep_RN.reshape_as(scores_BKN), scores_BKN, -1.0).flatten(1)
    num_detections = min(config.max_detections, num_classes * num_candidates)
    scores_BD, place_BD = kept_BM.topk(num_detections, dim=1)
    found_BD = scores_BD >= 0
    boxes_BD4 = boxes_BM4.gather(1, place_BD.unsqueeze(-1).expand(-1, -1, 4))
    # A table, because an integer division is a dozen nodes once it is exported.
    class_M = torch.arange(num_classes, device=place_BD.device).unsqueeze(1).expand(-1, num_candidates).reshape(1, -1)
    labels_BD = torch.where(found_BD, class_M.expand_as(kept_BM).gather(1, place_BD), -1)
    boxes_BD4 = torch.where(found_BD.unsqueeze(-1), boxes_BD4, 0.0)
    return boxes_BD4, scores_BD.clamp(min=0), labels_BD, found_BD.sum(dim=1)

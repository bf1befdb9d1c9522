"""What a configuration may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from lab.config.load import build, parse_source
from lab.tasks.detection.config import DetectionConfig
from lab.tasks.detection.models import MODELS


def made(**sections: Any) -> DetectionConfig:
    return DetectionConfig.model_validate({"data": {"dataset": "fashion-scenes"}} | sections)


def test_defaults_are_the_papers() -> None:
    config = made()
    assert (config.image.size, config.model.name, config.detect.nms_threshold) == (300, "vgg16", 0.45)
    assert (config.metrics.overlap_threshold, config.loss.negatives_per_positive) == (0.5, 3.0)
    assert set(MODELS) == {"vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50"}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"image": {"size": 32}}, "greater than or equal to 64"),
        ({"image": {"std": [1, 0, 1]}}, "std must be positive"),
        ({"model": {"freeze_layer_pattern": "(conv"}}, "not a regular expression"),
        ({"model": {"pyramid": "layer3"}}, "options of the ResNets"),
        ({"model": {"name": "resnet18", "width": 32, "pretrained": True}}, "published weights have width 64"),
        ({"boxes": {"scales": [0.5, 0.2]}}, "positive and increasing"),
        ({"metrics": {"monitor": "accuracy"}}, "map_50"),
        ({"data": {"dataset": "x", "format": "idx"}}, "coco"),
    ],
)
def test_nonsense_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        made(**sections)


def test_every_shipped_configuration_is_valid(repo: Path) -> None:
    files = sorted((repo / "configs/detection").glob("*.yaml"))
    assert {path.stem for path in files} >= {
        "fashion_scenes", "trees", "smoke", "coco_ssd300_vgg16", "voc_ssd300_vgg16", "coco_ssd300_resnet50",
    }  # fmt: skip
    for path in files:
        assert build(parse_source(path.read_text(), path.name), DetectionConfig).task == "detection"
        assert yaml.safe_load(path.read_text())["task"] == "detection"

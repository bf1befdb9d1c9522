"""What a configuration may say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lab.tasks.segmentation.config import ImageConfig, SegmentationConfig


def config(**sections: Any) -> SegmentationConfig:
    base: dict[str, Any] = {"data": {"train": "images", "num_classes": 3}}
    return SegmentationConfig.model_validate(base | sections)


def test_defaults_are_sagemakers() -> None:
    made = config()
    assert (made.image.base_size, made.image.crop_size, made.image.scale) == (520, 240, (0.5, 2.0))
    assert (made.model.name, made.model.backbone) == ("fcn", "resnet50")
    assert made.image.side == 240
    assert ImageConfig(crop_size=513).side == 520
    assert (made.side, config(evaluation={"window": 500}).side) == (240, 504)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"image": {"crop_size": 16}}, "greater than 16"),
        ({"image": {"scale": [2.0, 0.5]}}, "smallest, largest"),
        ({"image": {"std": [0, 1, 1]}}, "std must be positive"),
        ({"image": {"channels": 4}}, "one value per channel: 4 each"),
        (
            {"image": {"channels": 1, "mean": [0.5], "std": [0.5]}, "augment": {"contrast": 0.5}},
            "channels of 3 or more",
        ),
        ({"model": {"pretrained": True, "width": 32}}, "published weights have width 64"),
        ({"model": {"name": "pspnet", "skips": ["layer1"]}}, "skips are an option of fcn"),
        ({"model": {"skips": ["layer1", "layer1"]}}, "named once"),
        ({"model": {"freeze_backbone": True}}, "would freeze random weights"),
        ({"model": {"output_stride": 4}}, "output_stride"),
        ({"model": {"name": "deeplabv3"}, "train": {"batch_size": 1}}, "batch_size 2 or more"),
        ({"evaluation": {"overlap": 1}}, "less than 1"),
        ({"data": {"train": "images", "colour": 1}}, "colour"),
    ],
)
def test_what_cannot_work_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**sections)


def test_class_weights_need_a_data_set_that_can_be_counted() -> None:
    stream = {"format": "rec", "train": "a.rec", "validation": "b.rec", "mode": "stream", "num_classes": 2}
    config(data=stream)
    with pytest.raises(ValidationError, match="count the pixels"):
        config(data=stream, loss={"class_weights": "inverse_sqrt"})

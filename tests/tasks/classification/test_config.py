"""The configuration: defaults, shorthand, and a clear message for each contradiction."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.config.load import build, parse_source, to_yaml
from lab.core.errors import ConfigError
from lab.tasks.classification.config import ClassificationConfig

BASE = "task: classification\ndata: {dataset: fashion-mnist}\n"


def load(text: str) -> ClassificationConfig:
    return build(parse_source(text, "test.yaml"), ClassificationConfig)


def test_path_alone_is_a_split() -> None:
    config = load("task: classification\ndata: {train: some/folder, test: {path: t.lst, images: root}, format: lst}")
    assert config.data.train is not None
    assert config.data.test is not None
    assert (config.data.train.path, config.data.train.images) == ("some/folder", None)
    assert config.data.test.images == Path("root")


def test_resolved_configuration_repeats_itself() -> None:
    config = load(BASE + "image: {shape: [1, 28, 28]}\nmodel: {name: resnet56, width: 8, shortcut: B}")
    assert load(to_yaml(config)) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: classification\ndata: {}", "no data: give dataset"),
        ("task: classification\ndata: {dataset: x, train: y}", "not both"),
        ("task: classification\ndata: {train: y, num_classes: 3, class_names: [a, b]}", "class_names has 2 names"),
        (BASE + "loss: {weighted: true}", "weighted needs multi_label"),
        (BASE + "loss: {multi_label: true, label_smoothing: 0.1}", "label_smoothing is for one class per image"),
        (BASE + "loss: {multi_label: true}", "the catalog's data sets have one class per image"),
        (
            "task: classification\ndata: {train: y}\nloss: {multi_label: true}",
            "an image folder has one class per image",
        ),
        (
            "task: classification\ndata: {train: y, format: lst}\nloss: {multi_label: true}",
            "goes with data.label_format",
        ),
        (
            "task: classification\ndata: {train: y, format: lst, label_format: class-id}\n"
            "loss: {multi_label: true}\nmetrics: {top_k: 3}",
            "metrics.top_k is for one class",
        ),
        (BASE + "model: {name: resnet20, pretrained: true}", "there are no published weights of resnet20"),
        (BASE + "model: {name: resnet20, stem: small}", "stem is an option of resnet18"),
        (BASE + "model: {name: resnet18, width: 32}", "options of resnet20"),
        (BASE + "model: {pretrained: true, stem: small}", "imagenet stem"),
        (BASE + "model: {freeze_backbone: true}", "would freeze random weights"),
        (BASE + "augment: {crop_padding: 2}", "set level to crop or more"),
        (BASE + "augment: {level: crop, crop_scale: [0.5, 1.5]}", "within 0..1"),
        (BASE + "augment: {level: crop, crop_scale: [0.5, 1], crop_padding: 1}", "exclude each other"),
        (BASE + "augment: {level: crop_color_transform, crop_scale: [0.5, 1]}", "changes the aspect itself"),
        (BASE + "augment: {level: flip}", "crop_color_transform"),
        (BASE + "image: {shape: [2, 28, 28]}", "1 or 3 channels"),
        (BASE + "image: {resize: 200}", "resize 200 leaves images smaller than 224 x 224"),
        (BASE + "image: {mean: [0.5, 0.5, 0.5]}", "give both mean and std"),
        (BASE + "image: {mean: [0.5], std: [0.5]}", "one value for each of the 3 channels"),
        (BASE + "metrics: {top_k: 1}", "metrics.top_k"),
        (BASE + "model: {nam: resnet20}", "did you mean 'model.name'?"),
    ],
)
def test_contradictions_are_explained(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert message in str(caught.value)
    assert "test.yaml" in str(caught.value) or "configuration" in str(caught.value)

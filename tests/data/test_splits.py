"""What a configuration's data section opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from lab.config.data import DataConfig
from lab.core.errors import ConfigError, DataError
from lab.data.dataset import ImageDataset
from lab.data.splits import Splits


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for split, count in (("train", 7), ("held", 3)):
        for label in ("ant", "bee"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(np.full((5, 7, 3), 20 * number, np.uint8)).save(folder / f"{number}.png")
    return tmp_path


def splits(**values: Any) -> Splits:
    return Splits(DataConfig.model_validate({"format": "image_folder"} | values), "class")


def test_part_of_the_training_data_is_held_out(photos: Path) -> None:
    found = splits(train=str(photos / "train"), validation_fraction=0.25)
    assert (len(found.train), len(found.validation), found.final) == (10, 4, "validation")
    names = {sample.name for part in (found.train, found.validation) for sample in map(part.__getitem__, range(4))}
    assert len(names) == 8
    assert not found.has("test")
    with pytest.raises(DataError, match="no test data"):
        found.get("test")


def test_given_splits_are_read_with_the_training_classes(photos: Path) -> None:
    found = splits(train=str(photos / "train"), validation=str(photos / "held"), test=str(photos / "held"))
    assert (len(found.train), len(found.validation), len(found.test), found.final) == (14, 6, 6, "test")
    assert found.labels == ("ant", "bee")


def test_the_card_names_every_split(photos: Path) -> None:
    def describe(dataset: ImageDataset) -> dict[str, Any]:
        return {"first": dataset.annotation(0)}

    card = splits(train=str(photos / "train"), validation=str(photos / "held")).card(describe)
    assert card["labels"] == ["ant", "bee"]
    assert {name: part["num_samples"] for name, part in card["splits"].items()} == {"train": 14, "validation": 6}
    assert card["splits"]["train"]["first"] == 0
    assert card["digest"] != splits(train=str(photos / "held"), validation=str(photos / "held")).card()["digest"]


def test_the_number_of_classes_is_checked(photos: Path) -> None:
    with pytest.raises((ConfigError, DataError), match=r"number of classes|num_classes"):
        _ = splits(train=str(photos / "train"), num_classes=3).train


def test_annotations_of_another_kind_are_refused(photos: Path) -> None:
    boxes = Splits(DataConfig(format="image_folder", train={"path": str(photos / "train")}), "boxes")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no annotations of kind 'boxes'"):
        _ = boxes.train


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no data"),
        ({"dataset": "mnist", "train": "x"}, "not both"),
        ({"train": "x", "num_classes": 2, "class_names": ["a"]}, "has 1 names"),
        ({"train": "x", "mode": "stream"}, "reads format rec, tar or manifest"),
        ({"train": "x", "mode": "stream", "format": "tar"}, "give data.validation"),
    ],
)
def test_contradictions_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        splits(**values)

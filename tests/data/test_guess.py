"""The format of a path, told from what is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lab.core.errors import DataError
from lab.data.guess import guess_format

COCO = json.dumps({"images": [], "annotations": [], "categories": []})
CASES: list[tuple[str, dict[str, str], str]] = [
    ("a.rec", {"a.rec": ""}, "rec"),
    ("a.tar", {"a.tar": ""}, "tar"),
    ("a.tar.gz", {"a.tar.gz": ""}, "tar"),
    ("a.lst", {"a.lst": ""}, "lst"),
    ("a.manifest", {"a.manifest": ""}, "manifest"),
    ("a.jsonl", {"a.jsonl": ""}, "manifest"),
    ("a.json", {"a.json": ""}, "coco"),
    ("train-images-idx3-ubyte.gz", {"train-images-idx3-ubyte.gz": ""}, "idx"),
    ("set", {"set/annotations.json": COCO, "set/images/a.jpg": ""}, "coco"),
    ("set", {"set/JPEGImages/a.jpg": ""}, "voc"),
    ("set", {"set/a.jpg": "", "set/a.xml": ""}, "voc"),
    ("set", {"set/images/a.jpg": "", "set/annotations/a.xml": ""}, "voc"),
    ("train", {"train/a.jpg": "", "train_annotation/a.json": "{}"}, "sagemaker_json"),
    ("train", {"train/a.jpg": "", "train_annotation/a.png": ""}, "mask_folder"),
    ("set", {"set/images/a.png": "", "set/masks/a.png": ""}, "mask_folder"),
    ("set", {"set/a.jpg": "", "set/a.json": "{}"}, "sagemaker_json"),
    ("set", {"set/a.jpg": "", "set/a.png": ""}, "mask_folder"),
    ("set", {"set/cat/a.jpg": "", "set/dog/a.png": ""}, "image_folder"),
]


@pytest.mark.parametrize(("path", "files", "expected"), CASES)
def test_guess(path: str, files: dict[str, str], expected: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert guess_format(tmp_path / path) == expected


def test_nothing_fits(tmp_path: Path) -> None:
    Image.new("RGB", (3, 3)).save(tmp_path / "a.png")
    for path in (tmp_path, tmp_path / "a.png"):
        with pytest.raises(DataError, match="cannot be told"):
            guess_format(path)

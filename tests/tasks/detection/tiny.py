"""A tiny data set of coloured rectangles, as COCO files, and a configuration that learns it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lab.data.dataset import Boxes, Sample

HEIGHT, WIDTH = 80, 96
CLASSES = ("red", "green")
COLOURS = ((220, 40, 40), (40, 200, 60))
SIZES = (8, 14, 26, 44, 72)


def scene(rng: np.random.Generator, num_objects: int) -> tuple[np.ndarray, Boxes]:
    """Noise with rectangles of all sizes; later ones lie over earlier ones."""
    image_HWC = rng.integers(90, 130, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    boxes, classes = [], []
    for number in range(num_objects):
        size = SIZES[(num_objects - number + int(rng.integers(2))) % len(SIZES)]
        width, height = (min(limit, int(size * rng.uniform(0.8, 1.3))) for limit in (WIDTH, HEIGHT))
        x, y = int(rng.integers(0, WIDTH - width + 1)), int(rng.integers(0, HEIGHT - height + 1))
        index = int(rng.integers(len(CLASSES)))
        image_HWC[y : y + height, x : x + width] = COLOURS[index]
        boxes.append((x, y, x + width, y + height))
        classes.append(index)
    return image_HWC, Boxes.of(boxes, classes)


def write_tiny_coco(folder: Path, num_images: int = 40, seed: int = 0, crowds: Sequence[int] = ()) -> Path:
    """PNG files and annotations.json; image 3 has no object. Annotations numbered in `crowds` are crowds."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(num_images):
        image_HWC, boxes = scene(rng, 0 if number == 3 else 1 + number % 4)
        name = f"{number:03}.png"
        Image.fromarray(image_HWC).save(folder / "images" / name)
        images.append({"id": number + 1, "file_name": name, "height": HEIGHT, "width": WIDTH})
        for (x1, y1, x2, y2), index in zip(boxes.boxes_K4.tolist(), boxes.classes_K.tolist(), strict=True):
            annotation = {"image_id": number + 1, "category_id": index + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            annotation |= {"area": (x2 - x1) * (y2 - y1), "iscrowd": int(len(annotations) in crowds)}
            annotations.append(annotation | {"id": len(annotations) + 1})
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(CLASSES)]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def tiny_config(listing: Path, **changes: Any) -> dict[str, Any]:
    """A configuration on it; nested `changes` replace whole sections."""
    config: dict[str, Any] = {
        "task": "detection",
        "name": "tiny",
        "data": {
            "format": "coco",
            "train": {"path": str(listing), "images": str(listing.parent / "images")},
            "validation_fraction": 0.25,
            "max_objects": 6,
        },
        "image": {"size": 64},
        "model": {"name": "resnet18"},
        "optimizer": {"name": "nag", "learning_rate": 0.01, "weight_decay": 0.0005},
        "schedule": {"name": "one_cycle"},
        "train": {"epochs": 2, "batch_size": 10, "device": "cpu", "num_threads": 1},
        "tracking": {"enabled": False},
    }
    return config | changes


def perfect_boxes(task: Any, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """The outputs of a detector that finds every object and nothing else."""
    shapes = {spec.name: spec.resolve({"batch": len(samples)}) for spec in task.signature.outputs}
    outputs = {
        "boxes": np.zeros(shapes["boxes"], np.float32), "scores": np.zeros(shapes["scores"], np.float32),
        "labels": np.full(shapes["labels"], -1, np.int64), "num_detections": np.zeros(len(samples), np.int64),
    }  # fmt: skip
    for row, sample in enumerate(samples):
        assert isinstance(sample.label, Boxes)
        count, (height, width) = len(sample.label), sample.image.shape[:2]
        outputs["boxes"][row, :count] = sample.label.boxes_K4 / np.asarray([width, height] * 2, np.float32)
        outputs["scores"][row, :count] = 0.9
        outputs["labels"][row, :count] = sample.label.classes_K
        outputs["num_detections"][row] = count
    return outputs

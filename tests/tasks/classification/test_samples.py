"""Training samples from encoded images: what is decoded smaller shows the same, streams train like files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lab.core.errors import DataError
from lab.core.seeding import stream
from lab.data.dataset import FileDataset
from lab.data.formats import image_folder, recordio, tar
from lab.data.preprocess import ImagePreprocessing
from lab.data.raw import RawSample, raw_sample
from lab.tasks.classification.config import AugmentConfig
from lab.tasks.classification.samples import TrainSample, encoded_view, random_view
from tests.data.held import jpeg, noise
from tests.tasks.classification.conftest import MakeTask

PREPROCESSING = ImagePreprocessing((3, 24, 24))
LEVELS: list[dict[str, Any]] = [
    {"level": "none"},
    {"level": "crop"},
    {"level": "crop", "crop_scale": (0.08, 1.0)},
    {"level": "crop_color_transform"},
]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of JPEG images between 60 x 80 and 300 x 400."""
    for number in range(12):
        folder = tmp_path / "pictures" / ("left", "right")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        size = 60 * (1 + number % 5), 80 * (1 + number % 5)
        (folder / f"{number:02}.jpg").write_bytes(jpeg(noise(number, *size), quality=95))
    return tmp_path / "pictures"


@pytest.mark.parametrize("augment", LEVELS, ids=str)
@pytest.mark.parametrize("resize", [None, 40])
@pytest.mark.parametrize("channels", [1, 3])
def test_views_of_encoded_and_of_decoded_images_agree(
    augment: dict[str, Any], resize: int | None, channels: int
) -> None:
    preprocessing = ImagePreprocessing((channels, 24, 24), resize, mean=(0.5,) * channels, std=(0.5,) * channels)
    ramp = (np.add.outer(np.arange(400) / 400, np.arange(600) / 600)[..., None] * [120, 90, 60]).astype(np.uint8)
    raw = RawSample(jpeg(ramp, quality=98), 0, "a.jpg", 0)
    options = AugmentConfig(**augment)
    for index in range(5):
        views = [
            encoded_view(raw, preprocessing, options, stream(0, index)),
            random_view(ramp, preprocessing, options, stream(0, index)),
        ]
        assert views[0].shape == views[1].shape == (24, 24, channels)
        # A box is rounded to a pixel of the smaller image, which moves the ramp by less than 2.
        assert np.abs(views[0].astype(int) - views[1].astype(int)).max() <= 4


def test_the_resize_is_pillows() -> None:
    whole = AugmentConfig(level="crop", crop_scale=(0.999, 1.0))
    image = noise(1, 90, 90)
    found = random_view(image, PREPROCESSING, whole, stream(0))
    expected = np.asarray(Image.fromarray(image).resize((24, 24), Image.Resampling.BILINEAR))
    assert np.abs(found.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("augment", LEVELS, ids=str)
def test_samples_depend_on_seed_epoch_and_index_alone(pictures: Path, augment: dict[str, Any]) -> None:
    dataset = image_folder.read(pictures)
    load = TrainSample(dataset, PREPROCESSING, AugmentConfig(**augment), 3)
    first = [load(1, index)["image"] for index in range(12)]
    assert all(torch.equal(load(1, index)["image"], first[index]) for index in reversed(range(12)))
    other = TrainSample(dataset, PREPROCESSING, AugmentConfig(**augment), 4)
    changed = [not torch.equal(other(1, index)["image"], first[index]) for index in range(12)]
    assert any(changed) == (augment["level"] != "none")
    assert [load(0, index)["target"] for index in range(12)] == [0] * 6 + [1] * 6


def test_encoded_samples_of_files(pictures: Path) -> None:
    dataset = image_folder.read(pictures)
    assert isinstance(dataset, FileDataset)
    raw = raw_sample(dataset, 7)
    assert raw is not None
    assert raw.image == dataset.paths[7].read_bytes()
    assert (raw.annotation, raw.name) == (1, str(dataset.paths[7]))


@pytest.mark.parametrize("file_format", ["rec", "tar"])
def test_training_on_a_stream(pictures: Path, tmp_path: Path, make_task: MakeTask, file_format: str) -> None:
    dataset = image_folder.read(pictures)
    path = tmp_path / f"train.{file_format}"
    (recordio if file_format == "rec" else tar).write(path, dataset)
    data = {"mode": "stream", "format": file_format, "train": str(path), "validation": str(path), "shuffle_buffer": 5}
    task = make_task(
        data=data,
        image={"shape": [3, 24, 24]},
        augment={"level": "crop", "crop_scale": [0.3, 1.0]},
        train={"batch_size": 5, "device": "cpu"},
    )
    assert task.labels == ("left", "right")
    loader = task.train_loader()
    assert len(loader) == 2
    loader.set_epoch(2)
    batches = list(loader)
    resumed = task.train_loader()
    resumed.load_state_dict({"epoch": 2, "next_batch": 1})
    for wanted, got in zip(batches[1:], resumed, strict=True):
        assert torch.equal(wanted["image"], got["image"])
        assert torch.equal(wanted["target"], got["target"])
    ready = task.on_device(batches[0], training=True, seed=0)
    assert ready["image"].shape == (5, 3, 24, 24)
    assert ready["image"].dtype == torch.float32
    assert [len(task.train_loader(rank, 2)) for rank in range(2)] == [1, 1]
    assert task.dataset_card()["splits"]["train"]["num_samples"] == 12
    assert sum(len(batch["target"]) for batch in task.eval_loader("validation")) == 12


def test_a_damaged_record_of_a_stream_is_named(pictures: Path, tmp_path: Path, make_task: MakeTask) -> None:
    from tests.data.held import Held

    images = [jpeg(noise(0, 40, 40))] * 3 + [b"junk"]
    recordio.write(tmp_path / "a.rec", Held("class", images, [0, 1, 0, 1], ("left", "right")))
    task = make_task(
        data={
            "mode": "stream",
            "format": "rec",
            "train": str(tmp_path / "a.rec"),
            "validation": str(tmp_path / "a.rec"),
        },
        image={"shape": [3, 24, 24]},
        augment={"level": "crop"},
        train={"batch_size": 4, "device": "cpu"},
    )
    with pytest.raises(DataError, match=r"the image .*a\.rec\[3\] cannot be decoded"):
        list(task.train_loader())

"""Images of more than three bands, from NumPy files through training, export and prediction to pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lab.config.load import build, parse_source
from lab.core.errors import ConfigError, DataError
from lab.data.check import check, sample_sheet
from lab.data.dataset import ReadOptions
from lab.data.formats import FORMATS, WRITERS
from lab.export.onnx_export import export_onnx
from lab.pipelines.evaluate import score_runner
from lab.runtime.eager_runner import EagerRunner
from lab.runtime.onnx_runner import OnnxRunner
from lab.tasks.segmentation import deploy
from lab.tasks.segmentation.config import SegmentationConfig
from lab.tasks.segmentation.learn import SegmentationTask
from tests.tasks.segmentation.tiny import settle, tiny_config, write_tiny_masks

BANDS = 5
SECTION = {
    "channels": BANDS, "crop_size": 30, "base_size": None, "scale": [0.8, 1.25],
    "mean": [0.5] * BANDS, "std": [0.3] * BANDS,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The coloured shapes with two bands more: their mask's classes, and noise."""
    folder = write_tiny_masks(tmp_path_factory.mktemp("bands"))
    rng = np.random.default_rng(0)
    for path in sorted((folder / "images").iterdir()):
        picture = np.asarray(Image.open(path))
        mask_HW = np.asarray(Image.open(folder / "masks" / path.name))
        further = np.stack((mask_HW % 255 * 100, rng.integers(0, 256, mask_HW.shape)), axis=-1).astype(np.uint8)
        np.save(path.with_suffix(".npy"), np.concatenate((picture, further), axis=-1))
        path.unlink()
    return folder


def task_of(folder: Path, **sections: Any) -> SegmentationTask:
    import yaml

    raw = tiny_config(folder, **({"image": SECTION} | sections))
    return SegmentationTask(build(parse_source(yaml.safe_dump(raw), "test.yaml"), SegmentationConfig))


def test_trains_on_all_bands(folder: Path) -> None:
    task = task_of(folder, augment={"brightness": 0.1})
    assert task.signature.inputs[0].shape == ("batch", BANDS, 32, 32)
    model = task.build_model().train()
    raw = next(iter(task.train_loader()))
    assert (raw["image"].shape, raw["image"].dtype) == ((6, BANDS, 32, 32), torch.uint8)
    task.step(model, task.on_device(raw, training=True, seed=0))["loss"].backward()
    for name in ("backbone.conv1.weight", "refiner.look.0.weight"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        assert (gradient.abs().sum(dim=(0, 2, 3)) > 0).all(), f"{name} does not see every band"


def test_deployment_is_training(folder: Path, tmp_path: Path) -> None:
    task = task_of(folder)
    model = settle(task.build_model(), BANDS)
    path = export_onnx(model, task.signature, tmp_path / "model.onnx", opset=18)
    eager, exported = (
        score_runner(runner, task, deploy, "validation", batch_size=4)[0]
        for runner in (EagerRunner(model, task.signature), OnnxRunner(path))
    )
    assert eager == exported
    image = deploy.load_inputs(folder / "images" / "003.npy")[0]
    assert isinstance(image, np.ndarray)
    feed = deploy.preprocess([image], task.preprocessing)
    logits = OnnxRunner(path).run(feed)
    prediction = deploy.postprocess(logits, task.labels, [image], task.preprocessing)[0]
    assert deploy.draw(image, prediction, task.labels).shape == (*image.shape[:2], 3)
    with pytest.raises(DataError, match="wrong number of channels"):
        deploy.preprocess([image[..., :3]], task.preprocessing)


def test_pictures_show_the_first_three(folder: Path, tmp_path: Path) -> None:
    task = task_of(folder)
    made = task.plots(settle(task.build_model(), BANDS), tmp_path)
    assert {path.name for path in made} >= {"overlays.png", "class_iou.csv"}
    dataset = task.eval_dataset("train")
    report = check(dataset)
    assert report.ok
    assert report.channels == {BANDS: 30}
    sheet = sample_sheet(dataset)
    assert sheet is not None
    assert sheet.shape[2] == 3


@pytest.mark.parametrize("name", ["rec", "tar", "manifest", "mask_folder"])
def test_converted_without_loss(folder: Path, tmp_path: Path, name: str) -> None:
    options = ReadOptions(labels=("ground", "red", "green"), kind="mask", annotations=folder / "masks")
    dataset = FORMATS["mask_folder"](folder / "images", options)
    out = tmp_path / {"rec": "a.rec", "tar": "a.tar", "manifest": "a", "mask_folder": "a"}[name]
    WRITERS[name](out, dataset)
    read = FORMATS[name](out, ReadOptions(labels=options.labels, kind="mask"))
    assert len(read) == len(dataset)
    for index in range(3):
        np.testing.assert_array_equal(read[index].image, dataset[index].image)
        np.testing.assert_array_equal(read[index].label, dataset[index].label)


def test_published_weights_are_of_three_channels(folder: Path) -> None:
    task = task_of(folder, model={"name": "fcn", "backbone": "resnet50"})
    with pytest.raises(ConfigError, match=r"image\.channels 5"):
        task.published("fcn_resnet50")

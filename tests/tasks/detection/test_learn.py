"""The learning half: data, batches, loss, metrics, pictures."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lab.core.errors import ConfigError, DataError
from lab.core.seeding import stream_seed
from lab.data.dataset import Boxes
from lab.tasks.detection import deploy
from lab.tasks.detection.learn import DetectionTask
from lab.tasks.detection.samples import CachedDataset
from tests.tasks.detection.tiny import tiny_config, write_tiny_coco

MakeTask = Callable[..., DetectionTask]


def first_batch(task: DetectionTask, *, epoch: int = 0) -> dict[str, torch.Tensor]:
    loader = task.train_loader()
    loader.set_epoch(epoch)
    batch: dict[str, torch.Tensor] = task.on_device(next(iter(loader)), training=True, seed=stream_seed(0, epoch, 0))
    return batch


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_describes_itself(make_task: MakeTask) -> None:
    task = make_task()
    assert task.labels == ("red", "green")
    assert task.signature == deploy.signature(64, 2, max_detections=200)
    assert (task.monitor, task.monitor_mode) == ("map_50", "max")
    assert [len(task.eval_dataset(split)) for split in ("train", "validation")] == [30, 10]  # type: ignore[arg-type]
    assert (task.has_split("validation"), task.has_split("test")) == (True, False)
    assert task.preprocessing["size"] == 64
    assert task.score_options() == {"overlap_threshold": 0.5}


def test_signature_follows_suppression_and_limits(make_task: MakeTask) -> None:
    host = make_task(detect={"nms": "host"})
    assert [spec.shape for spec in host.signature.outputs] == [("batch", 372, 4), ("batch", 372, 2)]
    few = make_task(detect={"candidates": 3})
    assert few.signature.outputs[0].shape == ("batch", 6, 4)


def test_evaluation_batches_equal_the_deployed_preprocessing(make_task: MakeTask) -> None:
    for antialias in (True, False):
        task = make_task(image={"size": 64, "antialias": antialias})
        dataset = task.eval_dataset("validation")
        batch = task.on_device(next(iter(task.eval_loader("validation"))), training=False, seed=0)
        expected = deploy.preprocess([dataset[i].image for i in range(10)], task.preprocessing)["image"]
        np.testing.assert_allclose(batch["image"], expected, atol=1e-5)
        truth = dataset.annotation(0)
        assert isinstance(truth, Boxes)
        count = len(truth)
        assert batch["classes"][0, :count].tolist() == truth.classes_K.tolist()
        np.testing.assert_allclose(
            batch["boxes"][0, :count] * torch.tensor([96, 80, 96, 80]), truth.boxes_K4, atol=1e-4
        )
        assert batch["size"].tolist() == [[80, 96]] * 10


def test_batches_depend_on_seed_and_epoch_alone(make_task: MakeTask) -> None:
    first = first_batch(make_task(), epoch=3)
    torch.manual_seed(99)
    task = make_task()
    first_batch(task)
    assert equal(first, first_batch(task, epoch=3))
    assert not equal({"image": first["image"]}, first_batch(task, epoch=4))
    assert first["image"].shape == (10, 3, 64, 64)
    assert not torch.equal(first["image"], first_batch(make_task(seed=1), epoch=3)["image"])


def test_workers_and_the_cache_change_nothing(make_task: MakeTask) -> None:
    train = {"batch_size": 10, "device": "cpu"}
    data = tiny_config(Path("unused"))["data"]
    base = make_task()
    sections = {**data, "train": base.config.data.train, "validation_fraction": 0.25}
    alone = first_batch(make_task(data=sections | {"cache_images": False}))
    helped = make_task(data=sections, train=train | {"num_workers": 1})
    assert equal(alone, first_batch(helped))
    assert isinstance(helped._train_images, CachedDataset)


def test_too_many_objects_are_refused_by_name(make_task: MakeTask) -> None:
    data = make_task().config.data.model_dump() | {"max_objects": 2}
    with pytest.raises(DataError, match=r"\.png.* has more objects than a batch has room for"):
        list(make_task(data=data).eval_loader("validation"))


def test_images_without_objects_take_part(make_task: MakeTask) -> None:
    task = make_task()
    batch = first_batch(task)
    batch["classes"] = torch.full_like(batch["classes"], -1)
    model = task.build_model().train()
    losses = task.step(model, batch)
    assert losses["loss"].item() == 0.0
    with torch.inference_mode():
        assert bool(torch.isfinite(task.step(model.eval(), batch)["found"]).all())


def test_loss_is_the_weighted_sum_of_its_parts(make_task: MakeTask) -> None:
    task = make_task(loss={"box_weight": 0.5})
    batch = first_batch(task)
    model = task.build_model().train()
    parts = task.step(model, batch)
    assert parts["loss"].item() == pytest.approx((parts["cross_entropy"] + 0.5 * parts["smooth_l1"]).item())
    metrics = task.train_metrics()
    task.update_metrics(metrics, {name: value.detach() for name, value in parts.items()}, batch)
    assert {name: float(v) for name, v in metrics.compute().items()} == {
        name: pytest.approx(parts[name].item()) for name in ("cross_entropy", "smooth_l1")
    }


def test_pretrained_weights_that_are_not_here_name_their_place(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("resnet18", "vgg16"):
        task = make_task(model={"name": name, "pretrained": True})
        with pytest.raises(Exception, match="cannot be downloaded"):
            task.build_model()
        assert task.build_model(pretrained=False) is not None
    with pytest.raises(ConfigError, match="torchvision/ssd300_vgg16"):
        make_task().published("yolo")


def test_frozen_layers_are_configured(make_task: MakeTask) -> None:
    model = make_task(model={"name": "resnet18", "freeze_layer_pattern": "^(conv1|bn1|layer1)"}).build_model()
    assert {name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad} == {
        "conv1", "bn1", "layer1",
    }  # fmt: skip


def test_crowds_are_not_trained_on(tmp_path: Path, make_task: MakeTask) -> None:
    listing = write_tiny_coco(tmp_path, num_images=8, crowds=range(100))
    data = {"format": "coco", "train": {"path": str(listing), "images": str(listing.parent / "images")}}
    task = make_task(data=data | {"validation_fraction": 0.25}, train={"batch_size": 6, "device": "cpu"})
    batch = first_batch(task)
    assert bool(batch["ignore"][batch["classes"] >= 0].all())
    assert task.step(task.build_model().train(), batch)["loss"].item() == 0.0


def test_pictures_and_table(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task()
    made = task.plots(task.build_model(), tmp_path)
    assert [path.name for path in made] == ["class_ap.png", "class_ap.csv", "precision_recall.png", "pictures.png"]
    for path in made:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.format == "PNG"
                assert min(image.size) > 200
    rows = list(csv.DictReader((tmp_path / "class_ap.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == ["red", "green"]
    assert sum(int(row["num_objects"]) for row in rows) == sum(
        len(task.eval_dataset("validation")[index].label)
        for index in range(10)  # type: ignore[arg-type]
    )


def test_a_stream_trains_on_the_same_samples(make_task: MakeTask, tmp_path: Path) -> None:
    from lab.data.formats.tar import write

    files = make_task()
    train, validation = tmp_path / "train.tar", tmp_path / "validation.tar"
    write(train, files.eval_dataset("train"))
    write(validation, files.eval_dataset("validation"))
    data = {"format": "tar", "mode": "stream", "train": str(train), "validation": str(validation), "max_objects": 6}
    options = {"photometric": False, "zoom_out": 1, "iou_crop": False, "flip": False}
    task = make_task(data=data, augment=options)
    assert (task.labels, task.has_split("train")) == (("red", "green"), False)
    assert task.dataset_card()["splits"]["train"]["num_samples"] == 30
    loader = task.train_loader()
    streamed = list(loader)
    assert len(streamed) == len(loader) == 3
    alone = list(make_task(augment=options).train_loader())
    pixels = [
        torch.cat([batch["image"].flatten(1).float().mean(1) for batch in b]).sort().values for b in (streamed, alone)
    ]
    assert torch.equal(*pixels)
    losses = task.step(task.build_model().train(), task.on_device(streamed[0], training=True, seed=0))
    assert losses["loss"].item() > 0

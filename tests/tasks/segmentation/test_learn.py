"""The learning half: batches, evaluation that no other image changes, loss, metrics, pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lab.core.errors import DataError
from lab.data.dataset import IGNORE
from lab.pipelines.evaluate import score_runner
from lab.runtime.eager_runner import EagerRunner
from lab.tasks.segmentation import deploy
from lab.tasks.segmentation.learn import SegmentationTask
from tests.tasks.segmentation.conftest import MakeTask
from tests.tasks.segmentation.tiny import CLASSES, SIZES, settle, tiny_config, write_tiny_masks

MODES: list[dict[str, Any]] = [
    {"evaluation": {"mode": "slide"}},
    {"evaluation": {"mode": "slide", "overlap": 0.6}, "image": {"base_size": 64}},
    {"evaluation": {"mode": "resize"}},
    {"evaluation": {"mode": "whole"}},
]


def validated(task: SegmentationTask, model: nn.Module) -> tuple[dict[str, float], float]:
    """Metrics and loss of the validation split, as training has them."""
    metrics, losses = task.metrics(), []
    with torch.inference_mode():
        for raw in task.eval_loader("validation"):
            batch = task.on_device(raw, training=False, seed=0)
            outputs = task.step(model, batch)
            task.update_metrics(metrics, outputs, batch)
            losses += [float(outputs["loss"])] * len(batch["target"])
    return {name: float(value) for name, value in metrics.compute().items()}, float(np.mean(losses))


def noisy(task: SegmentationTask) -> nn.Module:
    """A model whose answers are far from ties."""
    return settle(task.build_model())


def test_describes_itself(make_task: MakeTask) -> None:
    task = make_task()
    assert task.labels == CLASSES
    assert task.signature == deploy.signature(32, 3)
    assert (len(task.eval_dataset("train")), len(task.eval_dataset("validation"))) == (30, 10)
    assert (task.has_split("validation"), task.has_split("test")) == (True, False)
    assert task.dataset_card()["splits"]["train"]["num_samples"] == 30
    assert task.score_options() == {}
    assert len(task.train_metrics()) == 0


def test_training_batches(make_task: MakeTask) -> None:
    task = make_task(augment={"flips": "all", "brightness": 0.1, "hue_degrees": 10})
    raw = next(iter(task.train_loader()))
    assert (raw["image"].shape, raw["image"].dtype) == ((6, 3, 32, 32), torch.uint8)
    assert (raw["target"].shape, raw["target"].dtype) == ((6, 32, 32), torch.uint8)
    first, again, other = (task.on_device(raw, training=True, seed=seed)["image"] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(
        task.on_device(raw, training=False, seed=5)["image"], task.on_device(raw, training=False, seed=6)["image"]
    )


def test_several_views_of_an_image(make_task: MakeTask) -> None:
    for sampling in ("uniform", "rare_classes"):
        task = make_task(augment={"views_per_image": 2, "sampling": sampling}, image={"crop_size": 17})
        images = torch.cat([batch["image"] for batch in task.train_loader()])
        assert len(images) == 60
        assert len({image.numpy().tobytes() for image in images}) == 60


def test_workers_give_the_same_batches(make_task: MakeTask) -> None:
    alone = list(make_task().eval_loader("validation"))
    helped = list(make_task(train={"num_workers": 1}).eval_loader("validation"))
    for first, second in zip(alone, helped, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("sections", MODES, ids=lambda s: s["evaluation"]["mode"])
def test_figures_do_not_depend_on_the_batch(make_task: MakeTask, sections: dict[str, Any]) -> None:
    """torchvision's reference pads a batch to its largest image, and its mIoU moves with the batch size."""
    one, seven = (make_task(train={"batch_size": size}, **sections) for size in (1, 7))
    assert len({one.eval_dataset("validation")[i].image.shape for i in range(10)}) > 3
    model = noisy(one)
    (scores, loss), (others, other_loss) = validated(one, model), validated(seven, model)
    assert scores == others
    assert loss == pytest.approx(other_loss, rel=1e-5)
    assert 0 < scores["miou"] < 1


@pytest.mark.parametrize("sections", MODES[:3], ids=lambda s: s["evaluation"]["mode"])
def test_deployment_scores_what_training_did(make_task: MakeTask, sections: dict[str, Any]) -> None:
    task = make_task(**sections)
    model = noisy(task)
    runner = EagerRunner(model, task.signature, num_threads=1)
    assert score_runner(runner, task, deploy, "validation", batch_size=3)[0] == validated(task, model)[0]


def test_whole_images_are_scored_one_by_one(make_task: MakeTask) -> None:
    task = make_task(evaluation={"mode": "whole"})
    model = noisy(task)
    runner = EagerRunner(model, task.signature, num_threads=1)
    assert score_runner(runner, task, deploy, "validation", batch_size=4)[0] == validated(task, model)[0]
    batch = next(iter(task.eval_loader("validation")))
    assert batch["image"].shape[0] == 1
    assert all(length % 8 == 0 for length in batch["image"].shape[2:])


def test_validation_loss_is_plain_cross_entropy(make_task: MakeTask) -> None:
    plain = make_task()
    weighted = make_task(loss={"class_weights": "inverse_sqrt", "jaccard_weight": 1.0, "label_smoothing": 0.2})
    model = noisy(plain)
    assert validated(plain, model)[1] == validated(weighted, model)[1]
    batch = next(iter(plain.train_loader()))
    batch = plain.on_device(batch, training=True, seed=0)
    model.eval()  # dropout would differ
    with torch.inference_mode():
        assert float(plain.step(model, batch)["loss"]) != float(weighted.step(model, batch)["loss"])


def test_padding_of_masks_does_not_count(make_task: MakeTask) -> None:
    batch = next(iter(make_task().eval_loader("validation")))
    for target, (height, width) in zip(batch["target"], batch["size"].tolist(), strict=True):
        assert (target[height:] == IGNORE).all()
        assert (target[:, width:] == IGNORE).all()
        assert (target[:height, :width] != IGNORE).any()


def test_a_class_out_of_range_names_the_file(tmp_path: Path) -> None:
    folder = write_tiny_masks(tmp_path, num_images=10)
    Image.fromarray(np.full(SIZES[2], 7, np.uint8)).save(folder / "masks" / "002.png")
    from lab.config.load import build, parse_source, to_yaml
    from lab.tasks.segmentation.config import SegmentationConfig

    config = SegmentationConfig.model_validate(tiny_config(folder))
    task = SegmentationTask(build(parse_source(to_yaml(config), "t.yaml"), SegmentationConfig))
    with pytest.raises(DataError, match="002"):
        list(task.train_loader())
        list(task.eval_loader("validation"))


def test_pictures_and_tables(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task()
    model = noisy(task)
    paths = task.plots(model, tmp_path)
    names = ["confusion_matrix.png", "class_iou.png", "overlays.png", "class_iou.csv", "confusion_matrix.json"]
    assert [path.name for path in paths] == names
    for path in paths[:3]:
        with Image.open(path) as image:
            assert min(image.size) > 200
    scores, _ = validated(task, model)
    stored = json.loads(paths[4].read_text())
    assert stored["scores"] == scores
    rows = list(csv.DictReader(paths[3].read_text().splitlines()))
    assert [row["class"] for row in rows] == list(CLASSES)
    assert np.mean([float(row["iou"]) for row in rows]) == pytest.approx(scores["miou"], abs=1e-6)
    assert sum(int(row["true_pixels"]) for row in rows) == sum(map(sum, stored["pixels"]))

"""The learning half: data, batches, augmentation on the device, loss, metrics, pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from lab.core.errors import ConfigError, DataError
from lab.core.seeding import stream_seed
from lab.data.formats.idx import write_idx
from lab.tasks.classification import deploy
from lab.tasks.classification.learn import ClassificationTask
from tests.tiny import class_score

MakeTask = Callable[..., ClassificationTask]
LEVELS = ["none", "crop", "crop_color", "crop_color_transform"]


def first_batch(task: ClassificationTask, *, training: bool = True, epoch: int = 0) -> dict[str, torch.Tensor]:
    loader = task.train_loader()
    loader.set_epoch(epoch)
    batch: dict[str, torch.Tensor] = task.on_device(
        next(iter(loader)), training=training, seed=stream_seed(0, epoch, 0)
    )
    return batch


def test_describes_itself(memory_task: MakeTask) -> None:
    task = memory_task()
    assert task.labels == ("0", "1", "2")
    assert task.signature == deploy.signature((1, 13, 11), 3)
    assert (len(task.eval_dataset("train")), len(task.eval_dataset("validation"))) == (42, 11)
    assert (task.has_split("validation"), task.has_split("test")) == (True, False)
    card = task.dataset_card()
    assert card["splits"]["train"]["num_samples"] == 42
    assert sum(card["splits"]["validation"]["class_counts"].values()) == 11
    assert len(card["digest"]) == 64
    with pytest.raises(DataError, match="names no test data"):
        task.eval_loader("test")


def test_statistics_are_those_of_the_training_images(memory_task: MakeTask) -> None:
    task = memory_task()
    arrays = task.eval_dataset("train").arrays()
    assert arrays is not None
    assert task.preprocessing["mean"] == [pytest.approx((arrays / 255).mean(), abs=1e-4)]
    assert task.preprocessing["std"] == [pytest.approx((arrays / 255).std(), abs=1e-4)]


def test_evaluation_batches_equal_the_deployed_preprocessing(memory_task: MakeTask, folder_task: MakeTask) -> None:
    for task in (memory_task(), folder_task()):
        dataset = task.eval_dataset("validation")
        batches = [task.on_device(b, training=False, seed=1) for b in task.eval_loader("validation")]
        x = torch.cat([batch["image"] for batch in batches]).numpy()
        expected = deploy.preprocess([dataset[i].image for i in range(len(dataset))], task.preprocessing)["image"]
        np.testing.assert_array_equal(x, expected)
        np.testing.assert_array_equal(torch.cat([batch["target"] for batch in batches]), dataset.targets())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_batches_depend_on_seed_and_epoch_alone(
    memory_task: MakeTask, folder_task: MakeTask, level: str, kind: str
) -> None:
    make = memory_task if kind == "memory" else folder_task
    augment: dict[str, Any] = {"level": level, "mixup_alpha": 0.2, "cutmix_alpha": 1.0}
    if level != "none":
        augment["crop_padding"] = 2
    first = first_batch(make(augment=augment), epoch=3)
    torch.manual_seed(99)
    np.random.default_rng().random(7)
    task = make(augment=augment)
    first_batch(task, epoch=0)
    again = first_batch(task, epoch=3)
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["target"], again["target"])
    assert first["image"].dtype == torch.float32
    assert first["image"].shape[1:] == task.config.image.shape
    assert not torch.equal(first["image"], first_batch(task, epoch=4)["image"])


def test_workers_give_the_same_batches(folder_task: MakeTask) -> None:
    train = {"batch_size": 7, "device": "cpu"}
    augment = {"level": "crop_color_transform"}
    alone = first_batch(folder_task(augment=augment, train=train))
    helped = first_batch(folder_task(augment=augment, train=train | {"num_workers": 1}))
    assert torch.equal(alone["image"], helped["image"])


def test_padded_crop_brings_in_black(memory_task: MakeTask) -> None:
    task = memory_task(augment={"level": "crop", "crop_padding": 3})
    batch = first_batch(task)
    black = (0 - task.preprocessing["mean"][0]) / task.preprocessing["std"][0]
    share = (batch["image"] - black).abs().lt(1e-5).float().mean()
    assert 0.1 < share < 0.5


def test_resized_crops_in_memory_and_from_files(memory_task: MakeTask, folder_task: MakeTask) -> None:
    for make, shape in ((memory_task, (1, 13, 11)), (folder_task, (3, 17, 13))):
        assert first_batch(make(augment={"level": "crop", "crop_scale": [0.3, 1.0]}))["image"].shape == (7, *shape)


@pytest.mark.parametrize("kind", ["memory", "folder"])
@pytest.mark.parametrize("level", ["none", "crop"])
def test_training_image_smaller_than_the_shape_is_refused(
    memory_task: MakeTask, folder_task: MakeTask, kind: str, level: str
) -> None:
    make = memory_task if kind == "memory" else folder_task
    with pytest.raises(DataError, match="smaller than the crop"):
        first_batch(make(image={"shape": [3, 32, 32]}, augment={"level": level}))
    enlarged = {"shape": [3, 32, 32], "resize": 32}
    assert first_batch(make(image=enlarged, augment={"level": level}))["image"].shape == (7, 3, 32, 32)


def test_padding_makes_up_for_a_small_image(memory_task: MakeTask) -> None:
    task = memory_task(image={"shape": [1, 16, 16], "crop": "none"}, augment={"level": "crop", "crop_padding": 3})
    assert first_batch(task)["image"].shape == (7, 1, 16, 16)


def test_damaged_training_image_is_named(folder_task: MakeTask, image_folder: Path) -> None:
    broken = image_folder / "left" / "04.png"
    broken.write_bytes(broken.read_bytes()[:100])
    task = folder_task(train={"batch_size": 7, "device": "cpu", "num_workers": 1})
    loaders = [task.train_loader(), task.eval_loader("validation")]
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        _ = [list(loader) for loader in loaders]
    assert str(broken) in caught.value.what


def test_validation_folder_and_test_folder(image_folder: Path, make_task: MakeTask) -> None:
    data = {"train": str(image_folder), "validation": str(image_folder), "test": str(image_folder)}
    task = make_task(data=data, image={"shape": [3, 17, 13]})
    assert [len(task.eval_dataset(split)) for split in ("train", "validation", "test")] == [18, 18, 18]  # type: ignore[arg-type]


def test_num_classes_and_top_k_are_checked(folder_task: MakeTask, image_folder: Path) -> None:
    with pytest.raises(DataError, match="another number of classes"):
        _ = folder_task(data={"train": str(image_folder), "num_classes": 5}).labels
    with pytest.raises(ConfigError, match="counts every sample as right"):
        _ = folder_task(metrics={"top_k": 2}).labels


def test_multi_hot_labels_need_the_multi_label_loss(tmp_path: Path, make_task: MakeTask) -> None:
    write_idx(tmp_path / "images", np.zeros((9, 13, 11), np.uint8))
    write_idx(tmp_path / "labels", np.eye(9, 3, dtype=np.uint8))
    with pytest.raises(ConfigError, match="does not fit the labels"):
        _ = make_task(data={"format": "idx", "train": str(tmp_path / "images")}).labels


def test_every_parameter_learns_and_the_loss_falls(memory_task: MakeTask) -> None:
    task = memory_task(loss={"label_smoothing": 0.05})
    model = task.build_model().train()
    batch = first_batch(task)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        outputs = task.step(model, batch)
        outputs["loss"].backward()
        losses.append(outputs["loss"].item())
        optimizer.step()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
    assert losses[-1] < 0.5 * losses[0]


def test_initial_weights_depend_on_the_seed_alone(memory_task: MakeTask) -> None:
    torch.manual_seed(1)
    first = memory_task().build_model().state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = memory_task().build_model().state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = memory_task(seed=1).build_model().state_dict()
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_loss_is_smoothed_cross_entropy_in_training_only(memory_task: MakeTask) -> None:
    task = memory_task(loss={"label_smoothing": 0.1})
    model, batch = task.build_model().eval(), first_batch(task)
    outputs = task.step(model, batch)
    torch.testing.assert_close(outputs["loss"], F.cross_entropy(outputs["logits"], batch["target"]))
    outputs = task.step(model.train(), batch)
    one_hot = F.one_hot(batch["target"], 3) * 0.9 + 0.1 / 3
    expected = -(one_hot * outputs["logits"].log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(outputs["loss"], expected)


def test_mixed_targets_are_soft_and_count_as_their_largest_share(memory_task: MakeTask) -> None:
    task = memory_task(augment={"mixup_alpha": 0.4})
    batch = first_batch(task)
    torch.testing.assert_close(batch["target"].sum(1), torch.ones(7))
    assert (batch["target"].max(1).values < 1).any()
    metrics = task.metrics()
    task.update_metrics(metrics, {"logits": batch["target"]}, batch)
    assert metrics.compute()["accuracy"] == 1


def test_metrics_by_hand(memory_task: MakeTask) -> None:
    task = memory_task(metrics={"top_k": 2})
    metrics = task.metrics()
    logits = torch.tensor([[3.0, 2, 1], [3, 2, 1], [3, 2, 1], [1, 2, 3]])
    batch = {"target": torch.tensor([0, 1, 2, 2])}
    task.update_metrics(metrics, {"logits": logits[:2]}, {"target": batch["target"][:2]})
    task.update_metrics(metrics, {"logits": logits[2:]}, {"target": batch["target"][2:]})
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found == {"accuracy": 0.5, "top_2_accuracy": 0.75}
    assert found == class_score({"logits": logits.numpy()}, batch["target"].numpy(), top_k=2)


@pytest.fixture
def multi_label_task(listing: Path, make_task: MakeTask) -> MakeTask:
    def make(**sections: Any) -> ClassificationTask:
        data = {"format": "lst", "train": str(listing), "label_format": "multi-hot", "validation_fraction": 0.2}
        base = {"data": data, "image": {"shape": [3, 17, 13]}, "loss": {"multi_label": True}}
        return make_task(**(base | sections))

    return make


def test_multi_label_loss_and_accuracy(multi_label_task: MakeTask) -> None:
    task = multi_label_task()
    batch = first_batch(task)
    outputs = task.step(task.build_model().eval(), batch)
    expected = F.binary_cross_entropy_with_logits(outputs["logits"], batch["target"])
    torch.testing.assert_close(outputs["loss"], expected)
    metrics = task.metrics()
    logits = torch.tensor([[1.0, -1.0, 0.5], [-0.2, 0.3, 2.0]])
    targets = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    task.update_metrics(metrics, {"logits": logits}, {"target": targets})
    assert metrics.compute()["accuracy"].item() == pytest.approx(4 / 6)
    assert class_score({"logits": logits.numpy()}, targets.numpy())["accuracy"] == pytest.approx(4 / 6)
    assert task.preprocessing["multi_label"] is True


def test_weighted_loss_weighs_rare_positives(multi_label_task: MakeTask) -> None:
    task = multi_label_task(loss={"multi_label": True, "weighted": True})
    batch = first_batch(task)
    outputs = task.step(task.build_model().eval(), batch)
    targets = task.eval_dataset("train").targets()
    weight = torch.from_numpy((targets == 0).sum(0) / targets.sum(0)).float()
    expected = F.binary_cross_entropy_with_logits(outputs["logits"], batch["target"], pos_weight=weight)
    torch.testing.assert_close(outputs["loss"], expected)


def test_predictions_are_deterministic_and_in_order(memory_task: MakeTask) -> None:
    task = memory_task()
    model = task.build_model().train()
    logits = task.predictions(model, "validation")
    assert model.training
    np.testing.assert_array_equal(logits, task.predictions(model, "validation"))
    dataset = task.eval_dataset("validation")
    inputs = deploy.preprocess([dataset[4].image], task.preprocessing)["image"]
    with torch.inference_mode():
        alone = model.eval()(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(alone[0], logits[4], atol=1e-5)


def test_pictures(memory_task: MakeTask, multi_label_task: MakeTask, tmp_path: Path) -> None:
    task = memory_task()
    made = task.plots(task.build_model(), tmp_path / "one")
    assert [path.name for path in made] == ["confusion_matrix.png", "class_accuracy.png", "mistakes.png"]
    made += multi_label_task().plots(multi_label_task().build_model(), tmp_path / "many")
    assert [path.name for path in made[3:]] == ["class_accuracy.png", "mistakes.png"]
    for path in made:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert min(image.size) > 300

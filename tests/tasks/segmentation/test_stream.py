"""Training from a stream of RecordIO: the same views, whatever the number of workers."""

from __future__ import annotations

from pathlib import Path

import torch

from lab.data.dataset import ReadOptions
from lab.data.formats import FORMATS, WRITERS
from tests.tasks.segmentation.conftest import MakeTask
from tests.tasks.segmentation.tiny import CLASSES


def test_a_stream_gives_training_batches(make_task: MakeTask, tiny_masks: Path, tmp_path: Path) -> None:
    options = ReadOptions(labels=CLASSES, kind="mask", annotations=tiny_masks / "masks")
    dataset = FORMATS["mask_folder"](tiny_masks / "images", options)
    WRITERS["rec"](tmp_path / "train.rec", dataset)
    data = {"format": "rec", "train": str(tmp_path / "train.rec"), "validation": str(tmp_path / "train.rec")}

    def batches(num_workers: int) -> list[dict[str, torch.Tensor]]:
        task = make_task(data=data | {"mode": "stream"}, train={"num_workers": num_workers})
        loader = task.train_loader()
        loader.set_epoch(1)
        return list(loader)

    alone, helped = batches(0), batches(1)
    assert len(alone) == 6
    for first, second in zip(alone, helped, strict=True):
        assert first["image"].shape == (6, 3, 32, 32)
        assert all(torch.equal(first[name], second[name]) for name in first)

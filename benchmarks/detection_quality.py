"""Our detector trained by our pipeline against torchvision's SSD trained by torchvision's reference recipe.

    python benchmarks/detection_quality.py [--epochs 4] [--seeds 0 1 2] [--only ours|torchvision|torchvision-x10]

Same training and test scenes, same backbone with the same initial weights, same default boxes, same number of epochs,
same scorer. SSD300-VGG16 from random weights does not fit two CPU cores: the backbone is a ResNet-18 of 16 channels,
half the width of configs/detection/fashion_scenes.yaml, at its image size.

torchvision's recipe is that of references/detection (README, "SSD300 VGG16"): SGD with momentum 0.9 and weight decay
0.0005, learning rate 0.002 per 32 images, linear warm-up over the first epoch (at most 1,000 steps), steps at 80/120
and 110/120 of the epochs, data augmentation "ssd". It was made for a pretrained backbone and 120 epochs;
"torchvision-x10" and "torchvision-x40" are the same with ten and forty times the learning rate. Results are merged into
the file by contestant and seed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.models.detection import ssd as torchvision_ssd
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.transforms import v2

from lab.artifacts.files import read_json, write_json, write_text
from lab.artifacts.manifest import now
from lab.artifacts.rundir import RunDir
from lab.config.load import build, read_source
from lab.core.host import cpu_name, num_cores, versions
from lab.core.progress import set_quiet
from lab.data.dataset import Boxes, ImageDataset
from lab.pipelines.evaluate import evaluate_model
from lab.tasks.detection.boxes import default_aspect_ratios, default_scales
from lab.tasks.detection.config import DetectionConfig
from lab.tasks.detection.learn import DetectionTask
from lab.tasks.detection.models.ssd import SSD
from lab.tasks.detection.responses import Detections
from lab.tasks.detection.scoring import Scorer
from lab.train.fit import fit

REPO = Path(__file__).resolve().parents[1]
RESULTS = REPO / "benchmarks" / "results"
LEARNING_RATE_PER_32 = {"torchvision": 0.002, "torchvision-x10": 0.02, "torchvision-x40": 0.08}
WARMUP_STEPS = 1000
MEAN_PIXEL = [123.0, 117.0, 104.0]
# For all contestants: nine runs within the hour on one core.
SMALL = ["model.width=16"]
# What our short runs change in the configuration: crops are against overfitting, which takes eight epochs and more.
SHORT = ["augment.iou_crop=false"]


class SilentTracker:
    """A tracker that keeps nothing."""

    run_id = ""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


class Maps(nn.Module):
    """Our feature pyramid as torchvision's SSD wants it."""

    def __init__(self, pyramid: nn.Module) -> None:
        super().__init__()
        self.pyramid = pyramid

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return OrderedDict((str(number), x) for number, x in enumerate(self.pyramid(x)))


def configuration(seed: int, epochs: int, overrides: list[str]) -> DetectionConfig:
    always = [f"seed={seed}", f"train.epochs={epochs}", "train.device=cpu", "tracking.enabled=false"]
    changes = [*always, *SMALL, *SHORT, *overrides]
    return build(read_source(REPO / "configs/detection/fashion_scenes.yaml", changes), DetectionConfig)


def train_ours(config: DetectionConfig) -> dict[str, float]:
    """Scores on the test split of the weights that our pipeline keeps."""
    task = DetectionTask(config)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        fit(task, config, run, SilentTracker())  # type: ignore[arg-type]
        scores = evaluate_model(config, task, run.weights)
    return {name.removeprefix("test/"): value for name, value in scores.items()}


def torchvision_model(config: DetectionConfig, start: SSD) -> torchvision_ssd.SSD:
    """torchvision's SSD on a copy of our freshly initialised pyramid and heads."""
    num_maps, size = len(start.heads.classes), config.image.size
    ratios = [[int(ratio) for ratio in group] for group in default_aspect_ratios(num_maps)]
    model = torchvision_ssd.SSD(
        Maps(start.backbone),
        DefaultBoxGenerator(ratios, scales=list(config.boxes.scales or default_scales(size, num_maps))),
        (size, size),
        start.heads.num_logits,
        image_mean=list(config.image.mean),
        image_std=list(config.image.std),
    )
    heads = (model.head.classification_head, start.heads.classes), (model.head.regression_head, start.heads.codes)
    for theirs, ours in heads:
        theirs.module_list.load_state_dict(ours.state_dict())
    return model


def reference_transforms() -> v2.Compose:
    """references/detection/presets.py, data_augmentation "ssd"."""
    return v2.Compose(
        [
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(fill={tv_tensors.Image: MEAN_PIXEL, "others": 0}),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(p=0.5),
            v2.ToDtype(torch.float, scale=True),
            v2.SanitizeBoundingBoxes(),
        ]
    )


def reference_batches(dataset: ImageDataset, batch_size: int) -> Iterator[tuple[list[Any], list[Any]]]:
    """One epoch in random order, the last incomplete batch left out."""
    change, order = reference_transforms(), torch.randperm(len(dataset)).tolist()
    for first in range(0, len(order) - batch_size + 1, batch_size):
        images, targets = [], []
        for index in order[first : first + batch_size]:
            sample = dataset[index]
            assert isinstance(sample.label, Boxes)
            size = sample.image.shape[:2]
            boxes = torch.from_numpy(sample.label.boxes_K4)
            target = {
                "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),  # type: ignore[call-arg]
                "labels": torch.from_numpy(sample.label.classes_K) + 1,
            }
            image = tv_tensors.Image(torch.from_numpy(sample.image).permute(2, 0, 1).contiguous())
            changed, found = change(image, target)
            images.append(changed.as_subclass(torch.Tensor))
            targets.append({name: value.as_subclass(torch.Tensor) for name, value in found.items()})
        yield images, targets


def train_torchvision(config: DetectionConfig, learning_rate_per_32: float) -> dict[str, float]:
    """Scores on the test split of the last epoch's weights: references/detection/train.py and engine.py."""
    torch.set_num_threads(config.train.num_threads or num_cores())
    task, epochs, batch_size = DetectionTask(config), config.train.epochs, config.train.batch_size
    start = task.build_model()
    assert isinstance(start, SSD)
    model = torchvision_model(config, start)
    torch.manual_seed(config.seed)
    learning_rate = learning_rate_per_32 * batch_size / 32
    optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9, weight_decay=0.0005)
    milestones = [round(epochs * 80 / 120), round(epochs * 110 / 120)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    dataset = task._train_images
    steps_per_epoch = len(dataset) // batch_size
    warmup: Any = torch.optim.lr_scheduler.LinearLR(
        optimizer, 0.001, total_iters=min(WARMUP_STEPS, steps_per_epoch - 1)
    )
    for epoch in range(epochs):
        model.train()
        for images, targets in reference_batches(dataset, batch_size):
            losses = sum(model(images, targets).values())
            optimizer.zero_grad()
            losses.backward()
            optimizer.step()
            if epoch == 0:
                warmup.step()
        schedule.step()
    return score_torchvision(model.eval(), task)


@torch.inference_mode()
def score_torchvision(model: torchvision_ssd.SSD, task: DetectionTask) -> dict[str, float]:
    dataset, scorer = task.eval_dataset("test"), Scorer(task.labels, {})
    for index in range(len(dataset)):
        sample = dataset[index]
        assert isinstance(sample.label, Boxes)
        found = model([torch.from_numpy(sample.image).permute(2, 0, 1).float() / 255])[0]
        boxes, scores, labels = (found[name].numpy() for name in ("boxes", "scores", "labels"))
        scorer.add(Detections(boxes, scores, labels - 1, *sample.image.shape[:2]), sample.label)
    return scorer.compute()


def run(contestant: str, seed: int, epochs: int, overrides: list[str]) -> dict[str, Any]:
    config = configuration(seed, epochs, overrides)
    wall, cpu = time.perf_counter(), time.process_time()
    rate = LEARNING_RATE_PER_32.get(contestant)
    scores = train_ours(config) if rate is None else train_torchvision(config, rate)
    row = {"contestant": contestant, "seed": seed, "epochs": epochs, "scores": scores}
    row |= {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    print(
        f"{contestant} seed {seed}: map_50 {scores['map_50']:.4f}, map {scores['map']:.4f}, {row['wall_s']:.0f} s",
        flush=True,
    )
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds, as Markdown."""
    lines = ["| trained by | seeds | epochs | mAP@0.5 | COCO mAP | CPU time / run |", "|---|---|---|---|---|---|"]
    for name in sorted({row["contestant"] for row in rows}):
        own = [row for row in rows if row["contestant"] == name]
        cells = []
        for metric in ("map_50", "map"):
            values = [row["scores"][metric] for row in own]
            spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else "?"
            cells.append(f"{np.mean(values):.4f} ± {spread}")
        cpu_s = np.mean([row["cpu_s"] for row in own])
        lines.append(f"| {name} | {len(own)} | {own[0]['epochs']} | {cells[0]} | {cells[1]} | {cpu_s:.0f} s |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=["ours", *LEARNING_RATE_PER_32])
    parser.add_argument("--out", type=Path, default=RESULTS / "detection_quality.json")
    parser.add_argument("overrides", nargs="*", help="key=value of the configuration, for all contestants")
    arguments = parser.parse_args()
    set_quiet(True)
    rows: list[dict[str, Any]] = read_json(arguments.out)["runs"] if arguments.out.exists() else []
    for seed in arguments.seeds:
        for contestant in [arguments.only] if arguments.only else ["ours", *LEARNING_RATE_PER_32]:
            row = run(contestant, seed, arguments.epochs, arguments.overrides)
            key = (contestant, seed)
            rows = [old for old in rows if (old["contestant"], old["seed"]) != key] + [row]
            config = configuration(seed, arguments.epochs, arguments.overrides)
            about = {
                "cpu": cpu_name(),
                "num_cores": num_cores(),
                "config": config.model_dump(mode="json"),
                "created": now(),
            }
            write_json(arguments.out, {**about, "runs": rows, "versions": versions()})
            write_text(arguments.out.with_suffix(".md"), table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()

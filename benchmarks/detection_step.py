"""One training step of our SSD300-VGG16 against torchvision's `ssd300_vgg16`: same weights, images, objects, optimizer.

    python benchmarks/detection_step.py [--batch 2] [--rounds 5] [--threads N] [--clock wall|cpu]

A step is all that a loop does with a batch of decoded 300 x 300 images: normalise, forward, match, loss, backward, SGD.
Contestants take turns, one step each; what is compared is the median over rounds. "ours, channels_last" is what
train.channels_last gives; torchvision's model is also tried in that layout.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import nn
from torchvision.models.detection import ssd300_vgg16

from lab.artifacts.files import write_json
from lab.artifacts.manifest import now
from lab.core.host import cpu_name, num_cores, versions
from lab.tasks.detection.config import DetectionConfig
from lab.tasks.detection.learn import DetectionTask
from lab.tasks.detection.models.ssd import build
from lab.tasks.detection.published import MEAN, STD, from_torchvision

RESULTS = Path(__file__).resolve().parent / "results"
NUM_CLASSES, SIZE, NUM_OBJECTS = 80, 300, 7
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
Step = Callable[[], float]


def make_batch(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Uint8 images, corners in pixels, classes; COCO has seven objects per image on average."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 3, SIZE, SIZE)).astype(np.uint8)
    corner, size = rng.uniform(0, 200, (count, NUM_OBJECTS, 2)), rng.uniform(20, 100, (count, NUM_OBJECTS, 2))
    boxes = np.concatenate((corner, corner + size), axis=-1).astype(np.float32)
    classes = rng.integers(0, NUM_CLASSES, (count, NUM_OBJECTS))
    return torch.from_numpy(images), torch.from_numpy(boxes), torch.from_numpy(classes)


def optimised(model: nn.Module, loss: Callable[[], torch.Tensor]) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), 0.0005, momentum=0.9, weight_decay=0.0005)

    def step() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.item()

    return step


def theirs(model: nn.Module, batch: tuple[torch.Tensor, ...], layout: torch.memory_format) -> Step:
    model = model.to(memory_format=layout).train()
    images, boxes, classes = batch

    def loss() -> torch.Tensor:
        targets = [{"boxes": b, "labels": c + 1} for b, c in zip(boxes, classes, strict=True)]
        losses = model([image.float() / 255 for image in images], targets)
        return losses["bbox_regression"] + losses["classification"]

    return optimised(model, loss)


def ours(task: DetectionTask, model: nn.Module, batch: tuple[torch.Tensor, ...], layout: torch.memory_format) -> Step:
    model = model.to(memory_format=layout).train()
    images, boxes, classes = batch
    raw = {"image": images, "boxes": boxes / SIZE, "classes": classes, "ignore": torch.zeros_like(classes).bool()}

    def loss() -> torch.Tensor:
        prepared = task.on_device(raw, training=False, seed=0)
        prepared["image"] = prepared["image"].contiguous(memory_format=layout)
        return task.step(model, prepared)["loss"]

    return optimised(model, loss)


def contestants(count: int) -> dict[str, Step]:
    """Four steps from the same weights."""
    config = DetectionConfig.model_validate(
        {"data": {"dataset": "coco2017"}, "image": {"size": SIZE, "mean": MEAN, "std": STD}}
    )
    batch, made = make_batch(count), {}
    torch.manual_seed(0)
    state = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1).state_dict()
    for name, layout in (("", torch.contiguous_format), (", channels_last", torch.channels_last)):
        reference = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=NUM_CLASSES + 1)
        reference.load_state_dict(state)
        made[f"torchvision{name}"] = theirs(reference, batch, layout)
        model = build(config, NUM_CLASSES)
        model.load_state_dict(from_torchvision(state))
        made[f"ours{name}"] = ours(DetectionTask(config), model, batch, layout)
    return made


def measure(steps: dict[str, Step], rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Seconds of every step, and the loss of the first ones, which start from the same weights."""
    times_s: dict[str, list[float]] = {name: [] for name in steps}
    first_losses = {name: step() for name, step in steps.items()}
    for _ in range(rounds):
        for name, step in steps.items():
            start = clock()
            step()
            times_s[name].append(clock() - start)
    medians = {name: statistics.median(values) for name, values in times_s.items()}
    print(f"{'':28}{'s/step':>8}{'range':>16}{'x torchvision':>15}{'first loss':>12}")
    for name, values in times_s.items():
        spread, ratio = f"{min(values):.2f}..{max(values):.2f}", medians["torchvision"] / medians[name]
        print(f"{name:28}{medians[name]:8.2f}{spread:>16}{ratio:15.3f}{first_losses[name]:12.4f}")
    same = {f"ours{layout}": f"torchvision{layout}" for layout in ("", ", channels_last")}
    return {
        "seconds_per_step": times_s,
        "median_s": medians,
        "speed_relative_to_torchvision": {name: medians["torchvision"] / value for name, value in medians.items()},
        "speed_in_the_same_layout": {a: medians[b] / medians[a] for a, b in same.items()},
        "first_losses": first_losses,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--out", type=Path, default=RESULTS / "detection_step.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = measure(contestants(arguments.batch), arguments.rounds, CLOCKS[arguments.clock])
    about = {"batch_size": arguments.batch, "num_threads": arguments.threads, "clock": arguments.clock}
    write_json(arguments.out, {"created": now(), "cpu": cpu_name(), **about, **result, "versions": versions()})
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()

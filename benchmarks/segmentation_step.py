"""Training step on CPU: our FCN-ResNet50 with auxiliary head against torchvision's; same batch, loss and optimizer.

    python benchmarks/segmentation_step.py [--batch 2] [--size 224] [--rounds 7] [--threads 2]

Both start from the same weights and see the same images; a step is forward, loss (0.5 on the auxiliary head), backward
and SGD. Contestants run in turn, so that whatever else the machine does hits all alike; what is compared is the median.
"ours" stores tensors as torchvision does; "ours, channels_last" is what `train.channels_last: true` gives.
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

import torch
import torchvision
from torch.nn import functional as F

from lab.artifacts.files import write_json
from lab.artifacts.manifest import now
from lab.config.run import OptimizerConfig
from lab.core.host import cpu_name, num_cores, versions
from lab.tasks.segmentation.config import LossConfig, ModelConfig
from lab.tasks.segmentation.losses import pixel_loss
from lab.tasks.segmentation.network import build_network, from_torchvision
from lab.train.optimizers import build_optimizer

RESULTS = Path(__file__).resolve().parent / "results"
NAME, NUM_CLASSES = "fcn_resnet50", 21
Step = Callable[[], float]


def torchvision_step(image: torch.Tensor, target: torch.Tensor) -> tuple[Step, dict[str, torch.Tensor]]:
    """references/segmentation/train.py: criterion and optimizer."""
    torch.manual_seed(0)
    make = getattr(torchvision.models.segmentation, NAME)
    model = make(weights=None, weights_backbone=None, num_classes=NUM_CLASSES, aux_loss=True).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    start = {key: value.clone() for key, value in model.state_dict().items()}

    def step() -> float:
        torch.manual_seed(1)  # the same dropout for all
        output = model(image)
        losses = {name: F.cross_entropy(x, target.long(), ignore_index=255) for name, x in output.items()}
        loss = losses["out"] + 0.5 * losses["aux"]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    return step, start


def our_step(image: torch.Tensor, target: torch.Tensor, start: dict[str, torch.Tensor], channels_last: bool) -> Step:
    model = build_network(ModelConfig(name="fcn", backbone="resnet50"), NUM_CLASSES, seed=0).train()
    model.load_state_dict(from_torchvision(NAME, start))
    options = LossConfig()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        image = image.contiguous(memory_format=torch.channels_last)
    sgd = OptimizerConfig(name="sgd", learning_rate=0.02, weight_decay=1e-4, decay_norm_and_bias=True)
    optimizer = build_optimizer(model, sgd)

    def step() -> float:
        torch.manual_seed(1)
        scores, auxiliary = model(image)
        wanted = target.long()
        loss = pixel_loss(scores, wanted, options, None)
        loss = loss + options.auxiliary_weight * pixel_loss(auxiliary, wanted, options, None)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    return step


def measure(batch: int, size: int, rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every step by contestant, and the loss of each one's first step."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(batch, 3, size, size, generator=generator)
    target = torch.randint(0, NUM_CLASSES, (batch, size, size), generator=generator).to(torch.uint8)
    target[:, : size // 8] = 255
    reference, start = torchvision_step(image, target)
    contestants = {
        "torchvision": reference,
        "ours": our_step(image, target, start, channels_last=False),
        "ours, channels_last": our_step(image, target, start, channels_last=True),
    }
    first = {}
    for name, step in contestants.items():  # warm-up: kernels are chosen, memory is allocated
        first[name] = step()
        step()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, step in contestants.items():
            began = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - began)
    return seconds, first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--out", type=Path, default=RESULTS / "segmentation_step.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    seconds, first = measure(arguments.batch, arguments.size, arguments.rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: medians["torchvision"] / value for name, value in medians.items()}
    for name, value in medians.items():
        spread = f"{min(seconds[name]):.3f}..{max(seconds[name]):.3f}"
        print(f"{name:22}{value:8.3f} s{spread:>18}   x torchvision {ratios[name]:.3f}   first loss {first[name]:.5f}")
    result: dict[str, Any] = {
        "created": now(),
        "model": NAME,
        "batch": arguments.batch,
        "size": arguments.size,
        "num_threads": arguments.threads,
        "cpu": cpu_name(),
        "seconds": seconds,
        "median_s": medians,
        "speed_to_torchvision": ratios,
        "first_loss": first,
        "versions": versions(),
    }
    write_json(arguments.out, result)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()

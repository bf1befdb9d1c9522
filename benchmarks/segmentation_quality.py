"""Quality of our FCN by our pipeline against torchvision's FCN class by torchvision's reference recipe, on land cover.

    python benchmarks/segmentation_quality.py [--seeds 0 1 2] [--views 16] [--epochs 20] [--width 16] [--data FOLDER]

Same data (colours of the training blocks without the validation ones, scored on the test blocks at their own size),
same ResNet-18 of output stride 16 and of `--width` channels with the same initial weights, same budget: as many
training pixels go through either network. Each recipe has its own crops, batch, loss and optimizer. torchvision's is
references/segmentation: scale 0.5..2 of the base size, flip, crop of 480/520 of it (240 for blocks of 256), cross
entropy and 0.5 of the auxiliary head's, SGD with momentum 0.9, weight decay 1e-4, rate 0.02 per 32 images and ten times
that for the auxiliary head, polynomial decay of power 0.9; its last weights count. "torchvision-x10" has ten times the
rate, as the recipe was made for a pretrained backbone. Ours is configs/segmentation/land_cover_position.yaml but for
the network (the plain one) and the bands of position (left out); its best epoch on the validation blocks counts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.fcn import FCN, FCNHead

from lab.artifacts.files import read_json, write_json, write_text
from lab.artifacts.manifest import now
from lab.artifacts.rundir import RunDir
from lab.config.load import build, read_source
from lab.core.host import cpu_name, num_cores, versions
from lab.core.progress import set_quiet
from lab.core.seeding import stream
from lab.pipelines.evaluate import score_runner
from lab.runtime.eager_runner import EagerRunner
from lab.tasks import CONFIGS, DEPLOY, LEARN
from lab.tasks.segmentation.augment import random_view
from lab.tasks.segmentation.config import AugmentConfig, ImageConfig, SegmentationConfig
from lab.tracking.null import NullTracker
from lab.train.fit import fit
from lab.train.weights import load_weights

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
CONFIG = ROOT / "configs" / "segmentation" / "land_cover_position.yaml"
OURS = (
    "data.dataset=land-cover",
    "image.channels=3",
    "image.mean=[0.25,0.27,0.22]",
    "image.std=[0.20,0.18,0.18]",
    "model.last_stage=layer4",
    "model.output_stride=16",
    "model.auxiliary=true",
    "model.skips=[]",
    "model.refine_channels=0",
    "train.device=cpu",
)
BASE_SIZE, CROP, BATCH = 256, 240, 8
RATE_PER_32 = {"torchvision": 0.02, "torchvision-x10": 0.2}


def our_config(seed: int, options: argparse.Namespace) -> SegmentationConfig:
    where = [f"data.root={options.data}"] if options.data else []
    budget = [f"augment.views_per_image={options.views}", f"train.epochs={options.epochs}", "train.ema_decay=0.98"]
    budget += [f"seed={seed}", f"model.width={options.width}", f"train.num_threads={options.threads}"]
    config: SegmentationConfig = build(read_source(CONFIG, [*OURS, *budget, *where]), CONFIGS["segmentation"])
    return config


def scored(task: Any, model: nn.Module) -> dict[str, float]:
    runner = EagerRunner(model.eval(), task.signature)
    return score_runner(runner, task, DEPLOY["segmentation"], "test", batch_size=8)[0]


def run_ours(config: SegmentationConfig) -> dict[str, float]:
    task = LEARN["segmentation"](config)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        began = time.process_time()
        fit(task, config, run, NullTracker())
        elapsed_s = time.process_time() - began
        model = task.build_model(pretrained=False)
        load_weights(model, run.weights)
    return scored(task, model) | {"cpu_s": elapsed_s}


class Backbone(nn.Module):
    """Our ResNet-18 as torchvision's FCN wants its backbone: torchvision's own cannot dilate basic blocks."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, image: Tensor) -> OrderedDict[str, Tensor]:
        found = self.features(image)
        return OrderedDict(out=found["layer4"], aux=found["layer3"])


class OutputOnly(nn.Module):
    """The "out" of a torchvision model, as an evaluation mode of ours returns it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.model(image)["out"]
        return out


def reference_model(task: Any) -> Any:
    """torchvision's FCN with the weights that ours starts from."""
    ours, num_classes = task.build_model(), len(task.labels)
    widest, before = ours.backbone.channels["layer4"], ours.backbone.channels["layer3"]
    model = FCN(Backbone(ours.backbone), FCNHead(widest, num_classes), FCNHead(before, num_classes))
    for theirs, head in ((model.classifier, ours.head), (model.aux_classifier, ours.auxiliary)):
        for layer, source in ((theirs[0], head.reduce.conv), (theirs[1], head.reduce.norm), (theirs[4], head.classify)):
            layer.load_state_dict(source.state_dict())
    return model


def run_reference(task: Any, rate_per_32: float, seed: int, num_steps: int) -> dict[str, float]:
    """references/segmentation/train.py, with its transforms' sizes in proportion to the blocks."""
    torch.manual_seed(seed)
    model = reference_model(task).train().to(memory_format=torch.channels_last)
    dataset, preprocessing = task.eval_dataset("train"), task.preprocessing
    rate = rate_per_32 * BATCH / 32
    groups: list[dict[str, Any]] = [{"params": list(part.parameters())} for part in (model.backbone, model.classifier)]
    groups.append({"params": list(model.aux_classifier.parameters()), "lr": 10 * rate})
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 - step / num_steps) ** 0.9)
    image = ImageConfig(crop_size=CROP, base_size=BASE_SIZE, scale=(0.5, 2.0))
    mean, std = (torch.tensor(preprocessing[name])[:, None, None] for name in ("mean", "std"))
    rng, order = stream(seed, "reference"), np.empty(0, int)
    began = time.process_time()
    for _ in range(num_steps):
        if len(order) < BATCH:
            order = rng.permutation(len(dataset))
        chosen, order = order[:BATCH], order[BATCH:]
        samples = [dataset[int(index)] for index in chosen]
        views = [random_view(s.image, s.label, image, AugmentConfig(flips="horizontal"), rng) for s in samples]
        x = torch.from_numpy(np.stack([view[0] for view in views]).transpose(0, 3, 1, 2).copy()).float() / 255
        target = torch.from_numpy(np.stack([view[1] for view in views])).long()
        output = model(((x - mean) / std).contiguous(memory_format=torch.channels_last))
        losses = {name: F.cross_entropy(scores, target, ignore_index=255) for name, scores in output.items()}
        optimizer.zero_grad()
        (losses["out"] + 0.5 * losses["aux"]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    elapsed_s = time.process_time() - began
    return scored(task, OutputOnly(model)) | {"cpu_s": elapsed_s}


def summary(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation (of the sample) over the seeds."""
    spread = statistics.stdev if len(runs) > 1 else lambda values: 0.0
    columns = {name: [run[name] for run in runs] for name in runs[0]}
    return {name: {"mean": statistics.mean(values), "std": spread(values)} for name, values in columns.items()}


def table(results: dict[str, Any]) -> str:
    width = results["config"]["model"]["width"]
    lines = [
        "# FCN (ResNet-18) on land cover: our pipeline against torchvision's class and reference recipe",
        "",
        f"{results['megapixels']:.1f} million training pixels each, width {width}, "
        f"{results['reference_steps']} steps of torchvision's, {results['cpu']}, {results['num_threads']} thread(s). "
        "Test blocks at their own size; mean and standard deviation in %.",
        "",
        "| trained by | seeds | mIoU | pixel accuracy | mean class accuracy | CPU time of training, s |",
        "|---|---|---|---|---|---|",
    ]
    for name, scores in results["summary"].items():
        cells = [
            f"{100 * scores[key]['mean']:.2f} ± {100 * scores[key]['std']:.2f}"
            for key in ("miou", "pixel_accuracy", "mean_class_accuracy")
        ]
        lines.append(f"| {name} | {len(results['runs'][name])} | {' | '.join(cells)} | {scores['cpu_s']['mean']:.0f} |")
    return "\n".join([*lines, "", "Made by `python benchmarks/segmentation_quality.py`.", ""])


def merged(path: Path, kept: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Runs by contestant and seed of an earlier call at the same size; none where the size was another."""
    old = read_json(path) if path.exists() else {}
    same = all(old.get(name) == value for name, value in kept.items())
    runs: dict[str, dict[str, dict[str, float]]] = old["runs"] if same else {}
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--views", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--only", choices=["ours", *RATE_PER_32])
    parser.add_argument("--data", type=Path, help="folder of the catalog's data sets")
    parser.add_argument("--out", type=Path, default=RESULTS / "segmentation_quality.json")
    arguments = parser.parse_args()
    set_quiet(True)
    torch.set_num_threads(arguments.threads)
    for seed in arguments.seeds:
        config = our_config(seed, arguments)
        task = LEARN["segmentation"](config)
        pixels = arguments.epochs * len(task.train_loader()) * config.train.batch_size * config.image.side**2
        num_steps = round(pixels / (BATCH * CROP**2))
        for name in [arguments.only] if arguments.only else ["ours", *RATE_PER_32]:
            rate = RATE_PER_32.get(name)
            found = run_ours(config) if rate is None else run_reference(task, rate, seed, num_steps)
            print(name, seed, found, flush=True)
            record(arguments, config, {"megapixels": pixels / 1e6, "reference_steps": num_steps}, name, found)


def record(
    arguments: argparse.Namespace, config: Any, size: dict[str, Any], name: str, found: dict[str, float]
) -> None:
    """Merge one run into the file, and write the table."""
    drawn = {"runs_dir", "data", "seed"}
    kept = {"config": config.model_dump(mode="json", exclude=drawn), **size}
    runs = merged(arguments.out, kept)
    runs.setdefault(name, {})[str(config.seed)] = found
    results = {
        "created": now(),
        **kept,
        "cpu": cpu_name(),
        "num_threads": arguments.threads,
        "runs": runs,
        "summary": {name: summary(list(by_seed.values())) for name, by_seed in runs.items()},
        "versions": versions(),
    }
    write_json(arguments.out, results)
    write_text(arguments.out.with_suffix(".md"), table(results))


if __name__ == "__main__":
    main()

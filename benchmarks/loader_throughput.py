"""Images per second of the lab's input alone against torchvision's reference loader and webdataset, on real JPEG files.

    python benchmarks/loader_throughput.py [--photos FOLDER ...] [--images 768] [--rounds 7] [--workers 2]

Each contestant reads the same files of 500 x 375 pixels (JPEG quality 90, 4:2:0), decodes, takes a random part of
0.08..1 of the area as 224 x 224, flips, and hands over batches of 64, in turn (A B C, A B C, ...). "torchvision" is
references/classification: ImageFolder, Pillow, RandomResizedCrop, RandomHorizontalFlip, PILToTensor, to float,
Normalize, DataLoader. The lab hands over uint8 and normalises on the device; "lab, normalised here too" adds that on
this CPU. The photographs are cut from those in scikit-learn, from the land-cover data set's picture of the globe
(`lab data fetch land-cover`), and from FOLDERs.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from lab.artifacts.files import write_json
from lab.artifacts.manifest import now
from lab.core.host import cpu_name, num_cores, versions
from lab.core.seeding import stream
from lab.data.dataset import FileDataset, ReadOptions
from lab.data.formats import image_folder, recordio, tar
from lab.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, ImagePreprocessing, normalization
from lab.data.resolve import catalog_entry, folder_of
from lab.data.sampling import epoch_order
from lab.data.streaming import open_stream
from lab.nn.loaders import WorkerLoader
from lab.nn.stream_loader import StreamLoader
from lab.tasks.classification.augment import random_flip
from lab.tasks.classification.config import AugmentConfig
from lab.tasks.classification.samples import StreamSample, TrainSample

RESULTS = Path(__file__).resolve().parent / "results"
HEIGHT, WIDTH, QUALITY, VIEW, BATCH = 375, 500, 90, 224, 64
Epoch = Callable[[int], int]
"""Runs one epoch; returns the number of images."""
Speeds = dict[str, list[float]]


def photographs(folders: list[Path]) -> dict[str, list[Image.Image]]:
    """Sources of photographs -> pictures of at least HEIGHT x WIDTH."""
    from sklearn.datasets import load_sample_images

    found = {"scikit-learn": [Image.fromarray(image) for image in load_sample_images().images]}
    globe = folder_of(catalog_entry("land-cover")) / "bmng.jpg"
    if globe.is_file():
        found["land-cover (bmng.jpg)"] = [Image.open(globe).convert("RGB")]
    for folder in folders:
        pictures = [Image.open(path).convert("RGB") for path in sorted(folder.rglob("*.jpg"))]
        found[folder.name] = [one for one in pictures if one.width >= WIDTH // 2 and one.height >= HEIGHT // 2]
    return {name: pictures for name, pictures in found.items() if pictures}


def make_files(sources: dict[str, list[Image.Image]], num: int, folder: Path) -> None:
    """Write `num` JPEG files below two class folders: parts of the photographs at 500 x 375, sources in turn."""
    names = list(sources)
    for index in range(num):
        rng = stream(0, "file", index)
        pictures = sources[names[index % len(names)]]
        picture = pictures[int(rng.integers(len(pictures)))]
        width = min(picture.width, picture.height * WIDTH / HEIGHT, WIDTH * rng.uniform(1, 1.6))
        left, top = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - width * HEIGHT / WIDTH)
        box = (left, top, left + width, top + width * HEIGHT / WIDTH)
        path = folder / f"class{index % 2}" / f"{index:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS, box=box).save(path, quality=QUALITY)


# ---- contestants -----------------------------------------------------------------------------------------------------

PREPROCESSING = ImagePreprocessing((3, VIEW, VIEW))
AUGMENT = AugmentConfig(level="crop", crop_scale=(0.08, 1.0))


def lab_epoch(loader: Any, *, normalise: bool) -> Epoch:
    scale, offset = (torch.from_numpy(values)[:, None, None] for values in normalization(PREPROCESSING))

    def run(epoch: int) -> int:
        loader.set_epoch(epoch)
        num = 0
        for batch in loader:
            x_BCHW = random_flip(batch["image"], np.random.default_rng(epoch))
            num += len(x_BCHW.mul(scale).add_(offset) if normalise else x_BCHW)
        return num

    return run


def lab_files(dataset: FileDataset, workers: int) -> Any:
    order = functools.partial(epoch_order, len(dataset), 0)
    load = TrainSample(dataset, PREPROCESSING, AUGMENT, 0)
    return WorkerLoader(load, order, BATCH, drop_last=True, num_workers=workers)


def lab_stream(address: Path, file_format: str, workers: int) -> Any:
    found = open_stream(str(address), file_format, ReadOptions(num_classes=2))
    return StreamLoader(found, StreamSample(2, PREPROCESSING, AUGMENT, 0), BATCH, 0, num_workers=workers)


def reference_transform() -> Any:
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.RandomResizedCrop(VIEW, interpolation=v2.InterpolationMode.BILINEAR, antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.PILToTensor(),
            v2.ToDtype(torch.float, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def torchvision_loader(folder: Path, workers: int) -> Any:
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(folder), reference_transform())
    return torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
    )


def webdataset_loader(shards: list[Path], workers: int) -> Any:
    import webdataset

    source = webdataset.WebDataset([str(path) for path in shards], shardshuffle=len(shards)).shuffle(256)
    samples = source.decode("pil").to_tuple("jpg", "cls").map_tuple(reference_transform(), lambda label: label)
    return webdataset.WebLoader(samples.batched(BATCH), batch_size=None, num_workers=workers, persistent_workers=True)


def plain_epoch(loader: Any) -> Epoch:
    return lambda epoch: sum(len(batch[0]) for batch in loader)


def contestants(folder: Path, workers: int) -> Iterator[tuple[str, Epoch]]:
    dataset = image_folder.read(folder / "files")
    tar.write(folder / "shards" / "s.tar", dataset, num_shards=2 * workers)
    recordio.write(folder / "records" / "r.rec", dataset)
    yield "torchvision", plain_epoch(torchvision_loader(folder / "files", workers))
    yield "lab", lab_epoch(lab_files(dataset, workers), normalise=False)
    yield "lab, normalised here too", lab_epoch(lab_files(dataset, workers), normalise=True)
    yield "lab, stream of tar", lab_epoch(lab_stream(folder / "shards", "tar", workers), normalise=False)
    yield "lab, stream of rec", lab_epoch(lab_stream(folder / "records", "rec", workers), normalise=False)
    yield "webdataset", plain_epoch(webdataset_loader(sorted((folder / "shards").glob("*.tar")), workers))


def cpu_time_s() -> float:
    """Processor time of this process and its workers; those of the contestants that wait add nothing."""
    me = psutil.Process()
    return sum(times.user + times.system for times in (one.cpu_times() for one in (me, *me.children(recursive=True))))


def measure(runs: dict[str, Epoch], rounds: int) -> tuple[Speeds, Speeds]:
    """(images per second, images per second of processor time) of every contestant in every round.

    A first round starts workers and fills caches. Processor time is what to compare on a machine that others use too.
    """
    wall: Speeds = {name: [] for name in runs}
    processor: Speeds = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start, start_cpu = time.perf_counter(), cpu_time_s()
            num = run(number)
            if number:
                wall[name].append(num / (time.perf_counter() - start))
                processor[name].append(num / (cpu_time_s() - start_cpu))
    return wall, processor


def report(wall: Speeds, processor: Speeds) -> dict[str, Any]:
    """Print the table and return what is stored."""
    result: dict[str, Any] = {}
    for clock, speeds in (("images_per_s", wall), ("images_per_cpu_s", processor)):
        medians = {name: statistics.median(values) for name, values in speeds.items()}
        ratios = {
            name: statistics.median(a / b for a, b in zip(values, speeds["torchvision"], strict=True))
            for name, values in speeds.items()
        }
        print(f"{'':26}{clock:>18}{'range':>16}{'x torchvision':>15}")
        for name, values in speeds.items():
            spread = f"{min(values):.0f}..{max(values):.0f}"
            print(f"{name:26}{medians[name]:18.0f}{spread:>16}{ratios[name]:15.2f}")
        result[clock] = {"rounds": speeds, "median": medians, "median_paired_ratio_to_torchvision": ratios}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, nargs="*", default=[])
    parser.add_argument("--images", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "loader_throughput.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="webdataset")
    with tempfile.TemporaryDirectory() as temporary:
        sources = photographs(arguments.photos)
        make_files(sources, arguments.images, Path(temporary) / "files")
        sizes = [path.stat().st_size for path in (Path(temporary) / "files").rglob("*.jpg")]
        runs = dict(contestants(Path(temporary), arguments.workers))
        result = report(*measure(runs, arguments.rounds))
    files = {
        "number": len(sizes),
        "mean_bytes": statistics.mean(sizes),
        "pixels": [HEIGHT, WIDTH],
        "jpeg_quality": QUALITY,
        "photographs": {name: len(pictures) for name, pictures in sources.items()},
    }
    setting = {"workers": arguments.workers, "batch_size": BATCH, "cpu": cpu_name(), "num_cores": num_cores()}
    write_json(arguments.out, {"created": now(), "files": files} | setting | result | {"versions": versions()})
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()

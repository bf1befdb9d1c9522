"""From a catalog entry's prepared files to a data set: one function per way of opening.

Each takes (entry, folder, split, kind) with a kind that the entry has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lab.core.tables import LazyTable
from lab.data.catalog import CATALOG, VOC_LABELS, CatalogEntry
from lab.data.dataset import ArrayDataset, ImageDataset, Kind, ReadOptions

OPENERS = LazyTable(
    "way to open a data set",
    {name: f"lab.data.openers:open_{name}" for name in ("idx", "scenes", "trees", "land_cover", "voc", "coco")},
)
Split = Literal["train", "test"]

# torchvision's references/segmentation: COCO category ids in the order of VOC's classes.
_COCO_IDS_OF_VOC = (5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72)
_MIN_LABELLED_PIXELS = 1000


def open_idx(entry: CatalogEntry, folder: Path, split: Split, kind: Kind = "class") -> ArrayDataset:
    """Images and classes in a pair of IDX files."""
    from lab.data.formats.idx import read

    images, labels = entry.splits[split]
    return read(folder / images, ReadOptions(labels=entry.labels, companion=folder / labels))


def open_scenes(entry: CatalogEntry, folder: Path, split: Split, kind: Kind) -> ImageDataset:
    """Scenes composed of the same split's garments."""
    from lab.data.scenes import FashionScenes

    return FashionScenes(open_idx(entry, folder, split), split, kind)


def open_trees(entry: CatalogEntry, folder: Path, split: Split, kind: Kind) -> ImageDataset:
    """Windows of one tile."""
    from lab.data.tiles import open_trees

    return open_trees(folder, split, entry.labels, [file.digest for file in entry.files])


def open_land_cover(entry: CatalogEntry, folder: Path, split: Split, kind: Kind) -> ImageDataset:
    """Blocks of the globe; those of "land-cover-position" have three further bands, the place of each pixel."""
    from lab.data.tiles import open_land_cover

    digests = [file.digest for file in CATALOG[entry.base or entry.name].files]
    position = entry.name == "land-cover-position"
    return open_land_cover(folder, split, entry.labels, digests, position=position)


def open_voc(entry: CatalogEntry, folder: Path, split: Split, kind: Kind) -> ImageDataset:
    """2007: trainval and test; 2012, whose test annotations are not public: train and val. Masks have a background."""
    from lab.data.formats.voc import BACKGROUND, read

    year = entry.name.removeprefix("voc")
    subset = (
        {"train": "trainval", "test": "test"}[split] if year == "2007" else {"train": "train", "test": "val"}[split]
    )
    labels = entry.labels if kind == "boxes" else (BACKGROUND, *entry.labels)
    return read(folder / "VOCdevkit" / f"VOC{year}", ReadOptions(labels=labels, kind=kind, subset=subset))


def open_coco(entry: CatalogEntry, folder: Path, split: Split, kind: Kind) -> ImageDataset:
    """Boxes of all 80 classes; or masks of VOC's 20 classes, as torchvision trains its published models.

    That recipe (references/segmentation/coco_utils.py) leaves crowds out, ignores pixels of two objects, and keeps
    training images with at least 1,000 labelled pixels. Boxes without area (COCO has a few) are left out.
    """
    from lab.data.formats.coco import open_boxes, open_masks
    from lab.data.formats.voc import BACKGROUND

    part = {"train": "train2017", "test": "val2017"}[split]
    listing = folder / "annotations" / f"instances_{part}.json"
    if kind == "boxes":
        return open_boxes(listing, folder / part, ReadOptions(kind="boxes"), drop_empty=True)
    return open_masks(
        listing,
        folder / part,
        ReadOptions(labels=(BACKGROUND, *VOC_LABELS), kind="mask"),
        category_ids=_COCO_IDS_OF_VOC,
        overlap="ignore",
        crowds="skip",
        min_pixels=_MIN_LABELLED_PIXELS if split == "train" else 0,
    )

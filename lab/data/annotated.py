"""Images in files with boxes or masks in other files: what the COCO, VOC, SageMaker and mask folder readers return.

An annotation belongs to the upright image, as the labelling tools of today show it and as prediction sees it. Where the
size an annotation states (or a mask's own size) is that of the stored, unrotated picture only, it was made without
regard to the EXIF tag (pycocotools, torchvision and older tools) and is rotated with the picture.
Shape letters: H, W image; K objects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lab.core.errors import DataError
from lab.core.progress import warn
from lab.data.dataset import MAX_HASHED_BYTES, Annotation, Boxes, Kind, Sample
from lab.data.decode import Geometry, decode, image_geometry
from lab.data.raw import RawSample, check_boxes, check_mask, encode_png, read_bytes
from lab.data.upright import turn_boxes, turn_mask

Size = tuple[int, int]
"""height, width in pixels"""
_MAX_SAID = 5


@dataclass(frozen=True)
class Item:
    """One image and what is said of it, unchecked.

    `where` names the file (and record) that says it. `size` is the image's as stated there. `mask` reads the mask;
    `errors` is what was wrong before the image was looked at.
    """

    image: Path
    where: str
    size: Size | None = None
    boxes: Boxes | None = None
    mask: Callable[[], np.ndarray] | None = None
    errors: tuple[DataError, ...] = ()


class AnnotatedFiles:
    """`ImageDataset` of kind "boxes" or "mask". A broken item raises when asked for, and no sooner.

    `files` are the annotation files, for the digest; `notes` is what was left out, and why; `faults` are errors that
    belong to no image. Notes and faults are said once, when the data set is opened.
    """

    def __init__(
        self,
        items: Sequence[Item],
        kind: Kind,
        labels: Sequence[str],
        source: str,
        root: Path,
        files: Sequence[Path],
        notes: Sequence[str] = (),
        faults: Sequence[DataError] = (),
    ) -> None:
        self.items = list(items)
        self.kind: Kind = kind
        self.labels = tuple(labels)
        self.source = source
        self.root = root
        self.files = sorted(set(files))
        self.notes = tuple(notes)
        self.faults = tuple(faults)
        for text in (*notes, *(fault.what for fault in faults[:_MAX_SAID])):
            warn(f"{source}: {text}")

    @property
    def paths(self) -> list[Path]:
        """The image files."""
        return [item.image for item in self.items]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """Raises DataError naming the file when image or annotation is missing or damaged."""
        item = _sound(self.items[index])
        content = read_bytes(item.image)
        label = self._checked(item, image_geometry(content, str(item.image)))
        return Sample(decode(content, str(item.image)), label, str(item.image))

    def annotation(self, index: int) -> Annotation:
        item = _sound(self.items[index])
        return self._checked(item, _geometry_of(item.image))

    def image(self, index: int) -> np.ndarray:
        """The upright image alone. Raises DataError when it is missing or damaged."""
        path = self.items[index].image
        return decode(read_bytes(path), str(path))

    def raw(self, index: int) -> RawSample:
        """The image file's bytes with the checked annotation (a mask as PNG)."""
        label = self.annotation(index)
        item = self.items[index]
        annotation = encode_png(label) if isinstance(label, np.ndarray) else label
        return RawSample(read_bytes(item.image), annotation, str(item.image), index)

    def errors(self, index: int) -> list[DataError]:
        """Everything that is wrong with one annotation; `annotation` raises the first."""
        item = self.items[index]
        try:
            geometry = _geometry_of(item.image)
        except DataError as error:
            return [*item.errors, error]
        found = list(item.errors)
        try:
            found += self._all_errors(item, geometry)
        except DataError as error:
            found.append(error)
        return found

    @cached_property
    def digest(self) -> str:
        """Of class names, image files and annotation files; "listing-..." of names and sizes if they are too large."""
        digest = hashlib.sha256(repr((self.kind, self.labels, len(self))).encode())
        # Annotation files are hashed whole even where the images are too many.
        parts = [_add_files(digest, paths, self.root) for paths in (self.files, self.paths)]
        whole = all(parts)
        return digest.hexdigest() if whole else f"listing-{digest.hexdigest()}"

    def _checked(self, item: Item, geometry: Geometry) -> Annotation:
        label = _upright(item, geometry)
        if isinstance(label, Boxes):
            return check_boxes(label, geometry.size, len(self.labels), item.where)
        return check_mask(label, geometry.size, len(self.labels), item.where)

    def _all_errors(self, item: Item, geometry: Geometry) -> Iterator[DataError]:
        if item.boxes is None and item.mask is None:
            return
        label = _upright(item, geometry)
        parts = [label]
        if isinstance(label, Boxes):
            parts = [_one(label, number) for number in range(len(label))]
        for number, part in enumerate(parts):
            try:
                if isinstance(part, Boxes):
                    check_boxes(part, geometry.size, len(self.labels), f"{item.where}, object {number + 1}")
                else:
                    check_mask(part, geometry.size, len(self.labels), item.where)
            except DataError as error:
                yield error


def _sound(item: Item) -> Item:
    """Raises what was wrong with it when it was read."""
    if item.errors:
        raise item.errors[0]
    return item


def _geometry_of(path: Path) -> Geometry:
    """From the first bytes of the file; the whole file where that is not enough."""
    try:
        with path.open("rb") as file:
            # Counting a large set's objects would else read every image of it.
            head = file.read(1 << 16)
            try:
                return image_geometry(head, str(path))
            except DataError:
                return image_geometry(head + file.read(), str(path))
    except FileNotFoundError as error:
        raise DataError(f"there is no image at {path}") from error
    except OSError as error:
        raise DataError(f"the image {path} cannot be read", got=error.strerror or error) from error


def _upright(item: Item, geometry: Geometry) -> Boxes | np.ndarray:
    """The annotation in the grid of the upright image. Raises DataError when it was made for another size."""
    mask = item.mask() if item.mask is not None else None
    stated = (mask.shape[0], mask.shape[1]) if mask is not None else item.size
    # A square image, or one turned by 180 degrees, does not tell: it is taken for upright.
    turned = stated not in (None, geometry.size) and stated == geometry.stored
    if item.size not in (None, geometry.size, geometry.stored):
        raise DataError(
            f"{item.where}: the annotation was made for an image of another size",
            got=_shown(item.size),
            expected=f"{_shown(geometry.size)}, the size of {item.image}",
        )
    if mask is not None:
        return turn_mask(mask, geometry.orientation) if turned else mask
    assert item.boxes is not None
    return turn_boxes(item.boxes, geometry) if turned else item.boxes


def _one(boxes: Boxes, number: int) -> Boxes:
    part = slice(number, number + 1)
    return Boxes(boxes.boxes_K4[part], boxes.classes_K[part], boxes.ignore_K[part])


def _shown(size: Size | None) -> str:
    return f"{size[0]} x {size[1]} (height x width)" if size else "unknown"


def _add_files(digest: hashlib._Hash, paths: Sequence[Path], root: Path) -> bool:
    """Add names, sizes and, where these are not too large in all, the files' bytes; True when the bytes were added."""
    sizes = [path.stat().st_size if path.is_file() else -1 for path in paths]
    whole = sum(sizes) <= MAX_HASHED_BYTES
    for path, size in zip(paths, sizes, strict=True):
        name = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
        digest.update(f"\0{name.as_posix()}\0{size}\0".encode())
        if whole and size >= 0:
            digest.update(path.read_bytes())
    return whole

"""Every format that holds images as files gives back what was written: image bytes, classes, boxes, masks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.core.errors import DataError
from lab.data.dataset import IGNORE, Boxes, ImageDataset, ReadOptions, Subset
from lab.data.formats import FORMATS, WRITERS
from tests.data.held import LABELS, Held, assert_equal, assert_same_annotation, held, jpeg, noise

FOLDERS = {
    "boxes": ("coco", "voc", "sagemaker_json"),
    "mask": ("coco", "voc", "mask_folder"),
    "class": ("image_folder", "lst"),
}
CASES = [(kind, name) for kind, names in FOLDERS.items() for name in names]
# VOC counts whole pixels, and a box has at least one.
PRECISION_PX = {"voc": 1.0}


def path_of(folder: Path, name: str) -> Path:
    return folder / "made.lst" if name == "lst" else folder / "made"


def written(dataset: ImageDataset, name: str, folder: Path) -> Any:
    path = path_of(folder, name)
    WRITERS[name](path, dataset)
    numbers = len(LABELS) if name == "lst" else None
    return FORMATS[name](path, ReadOptions(kind=dataset.kind, num_classes=numbers))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_round_trip(kind: Any, name: str, tmp_path: Path) -> None:
    expected = held(kind)
    found = written(expected, name, tmp_path)
    if kind != "class":
        assert_equal(found, expected, PRECISION_PX.get(name, 0.0) + 1e-5)
    else:
        order = [int(path.stem) for path in found.paths]
        assert sorted(order) == list(range(len(expected)))
        assert [path.read_bytes() for path in found.paths] == [expected.images[index] for index in order]
        assert found.targets().tolist() == [expected.annotations[index] for index in order]
        assert found.labels == (LABELS if name == "image_folder" else ("0", "1", "2"))
    assert len(found.digest) == 64


@st.composite
def boxes_of(draw: st.DrawFn, height: int, width: int) -> Boxes:
    corner = st.floats(0, 1, width=32)
    count = draw(st.integers(0, 4))
    boxes = []
    for _ in range(count):
        (x1, x2), (y1, y2) = (sorted((draw(corner) * side, draw(corner) * side)) for side in (width - 2, height - 2))
        boxes.append([x1, y1, x2 + 1.5, y2 + 1.5])
    classes = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    return Boxes.of(boxes, classes, draw(st.lists(st.booleans(), min_size=count, max_size=count)))


@st.composite
def boxed_sets(draw: st.DrawFn) -> Held:
    sizes = draw(st.lists(st.tuples(st.integers(3, 40), st.integers(3, 40)), min_size=1, max_size=3))
    images = [jpeg(noise(0, *size)) for size in sizes]
    return Held("boxes", images, [draw(boxes_of(*size)) for size in sizes], LABELS)


@pytest.mark.parametrize("name", FOLDERS["boxes"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(expected=boxed_sets())
def test_any_boxes(name: str, expected: Held) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert_equal(written(expected, name, Path(folder)), expected, PRECISION_PX.get(name, 0.0) + 1e-5)


@pytest.mark.parametrize("name", FOLDERS["mask"])
@pytest.mark.parametrize("labels", [("background", "bee", "cat"), LABELS], ids=["background", "none"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), height=st.integers(1, 30), width=st.integers(1, 30))
def test_any_masks(name: str, labels: tuple[str, ...], seed: int, height: int, width: int) -> None:
    values = np.array([0, 1, 2, IGNORE], np.uint8)
    mask_HW = np.random.default_rng(seed).choice(values, (height, width))
    expected = Held("mask", [jpeg(noise(seed, height, width))], [mask_HW], labels)
    with tempfile.TemporaryDirectory() as folder:
        assert_equal(written(expected, name, Path(folder)), expected)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_files_that_share_a_name_and_subsets(kind: Any, name: str, tmp_path: Path) -> None:
    """Two samples of one file name: both are written; a subset writes its own samples only."""
    base = held(kind, 6)
    root = tmp_path / "source"
    for index in range(6):
        path = root / ("a" if index % 2 else "b") / f"{index // 2}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base.images[index])
    shared = cast(Any, Held(kind, base.images, base.annotations, base.labels))
    shared.paths = sorted(root.rglob("*.jpg"))
    shared.images = [path.read_bytes() for path in shared.paths]
    shared.annotations = [base.annotations[base.images.index(content)] for content in shared.images]
    found = written(Subset(shared, np.array([0, 3, 4]), "part"), name, tmp_path)
    expected = {shared.images[index]: shared.annotations[index] for index in (0, 3, 4)}
    assert len(found) == 3
    for index, path in enumerate(found.paths):
        wanted = expected.pop(path.read_bytes())
        if kind != "class":
            assert_same_annotation(found.annotation(index), wanted, PRECISION_PX.get(name, 0.0) + 1e-5)
    assert expected == {}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, name in CASES if name not in ("image_folder", "lst")]
)
def test_class_data_is_refused(kind: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        WRITERS[name](tmp_path / "made", held("class"))
    assert list(tmp_path.iterdir()) == []


def test_a_class_name_that_is_no_folder_name(tmp_path: Path) -> None:
    expected = Held("class", [jpeg(noise(0, 5, 5))], [0], ("T-shirt/top",))
    with pytest.raises(DataError, match="cannot have this class's name"):
        WRITERS["image_folder"](tmp_path / "made", expected)


def test_a_broken_sample_leaves_nothing_behind(tmp_path: Path) -> None:
    expected = held("boxes")
    broken = cast(Any, written(expected, "coco", tmp_path))
    broken.items[3].image.unlink()
    for name in FOLDERS["boxes"]:
        with pytest.raises(DataError, match="there is no image"):
            WRITERS[name](tmp_path / "out", broken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]

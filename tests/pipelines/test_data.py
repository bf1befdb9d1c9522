"""`lab data check` and `lab data convert` from outside: every format, refusals, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lab.cli.data import app
from lab.core.errors import ConfigError, DataError
from lab.data.formats import WRITERS
from lab.data.guess import open_path
from lab.pipelines.data import Source, convert
from tests.data.held import LABELS, assert_same_annotation, held
from tests.tiny import tiny_config, write_config, write_tiny_idx

FORMATS_OF: dict[Any, tuple[str, ...]] = {
    "class": ("rec", "manifest", "tar", "image_folder", "lst"),
    "boxes": ("rec", "manifest", "tar", "coco", "voc", "sagemaker"),
    "mask": ("rec", "manifest", "tar", "coco", "voc", "masks"),
}
SUFFIXES = {"rec": ".rec", "manifest": ".manifest", "tar": ".tar", "lst": ".lst"}


def lab_data(*args: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(app, [*args, "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout)


@pytest.mark.parametrize("kind", FORMATS_OF)
def test_through_every_format_and_back(kind: Any, tmp_path: Path) -> None:
    """A chain through all formats of a kind; the images are byte for byte those of the start."""
    expected = held(kind)
    source = tmp_path / "start.rec"
    WRITERS["rec"](source, expected)
    for to in FORMATS_OF[kind]:
        target = tmp_path / f"made-{to}{SUFFIXES.get(to, '')}"
        code, made = lab_data("convert", str(source), str(target), "--to", to)
        assert (code, made["num_samples"], made["to"]) == (0, len(expected), to)
        assert str(target) in made["files"]
        code, report = lab_data("check", str(target), "--sheet", str(tmp_path / "sheet.png"))
        found = report["splits"][str(target)]
        assert (code, found["broken"], found["kind"], found["num_samples"]) == (0, [], kind, len(expected))
        source = target
    _, dataset = open_path(source, _options(source))
    images = {expected.images[index]: expected.annotations[index] for index in range(len(expected))}
    for index in range(len(dataset)):
        content = _content(dataset, index)
        assert_same_annotation(dataset.annotation(index), images.pop(content), atol=2.0)
    assert images == {}
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def _options(path: Path) -> Any:
    from lab.data.dataset import ReadOptions

    return ReadOptions(labels=LABELS)


def _content(dataset: Any, index: int) -> bytes:
    return dataset.paths[index].read_bytes() if hasattr(dataset, "paths") else dataset.raw(index).image


def test_what_is_there_is_kept_without_force(tmp_path: Path) -> None:
    WRITERS["rec"](tmp_path / "a.rec", held("boxes"))
    source, target = Source(str(tmp_path / "a.rec")), tmp_path / "out"
    target.mkdir()
    (target / "precious").touch()
    with pytest.raises(ConfigError, match="is already there"):
        convert(source, target, "coco")
    assert [path.name for path in target.iterdir()] == ["precious"]
    convert(source, target, "coco", force=True)
    assert sorted(path.name for path in target.iterdir()) == ["annotations.json", "images"]
    with pytest.raises(ConfigError, match="onto itself"):
        convert(source, tmp_path / "a.rec", "rec", force=True)


def test_a_broken_source_changes_nothing(tmp_path: Path) -> None:
    WRITERS["coco"](tmp_path / "a", held("boxes"))
    (tmp_path / "a" / "images" / "000003.jpg").write_bytes(b"")
    WRITERS["rec"](tmp_path / "out.rec", held("boxes", 3))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("out.*")}
    for to, target in (("rec", "out.rec"), ("manifest", "new.manifest"), ("voc", "new"), ("tar", "new.tar")):
        with pytest.raises(DataError):
            convert(Source(str(tmp_path / "a")), tmp_path / target, to, force=True)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("out.*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "a"])


@pytest.mark.parametrize(
    ("kind", "to"),
    [("class", "coco"), ("boxes", "masks"), ("mask", "sagemaker"), ("boxes", "image_folder"), ("mask", "lst")],
)
def test_formats_that_cannot_hold_it(kind: Any, to: str, tmp_path: Path) -> None:
    WRITERS["rec"](tmp_path / "a.rec", held(kind))
    with pytest.raises(DataError):
        convert(Source(str(tmp_path / "a.rec")), tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


def test_unknown_formats_and_paths(tmp_path: Path) -> None:
    WRITERS["rec"](tmp_path / "a.rec", held("class"))
    with pytest.raises(ConfigError, match="unknown data format to write 'cocoa'"):
        convert(Source(str(tmp_path / "a.rec")), tmp_path / "out", "cocoa")
    with pytest.raises(ConfigError, match="unknown data format 'recc'"):
        Source(str(tmp_path / "a.rec"), "recc").open()
    with pytest.raises(DataError, match="there is nothing at"):
        Source(str(tmp_path / "nothing")).open()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be told"):
        Source(str(tmp_path / "empty")).open()


def test_check_lists_and_exits_with_the_data_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    WRITERS["coco"](tmp_path / "a", held("boxes"))
    (tmp_path / "a" / "images" / "000003.jpg").write_bytes(b"")
    done = CliRunner().invoke(app, ["check", "a"])
    assert done.exit_code == 3
    assert "broken: a/images/000003.jpg: the image a/images/000003.jpg cannot be decoded: an empty file" in done.stdout
    assert "check.png" in done.stdout
    with Image.open(tmp_path / "check.png") as sheet:
        assert sheet.mode == "RGB"


def test_check_of_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_idx(tmp_path / "data", 20, 10)
    path = write_config(tmp_path / "tiny.yaml", tiny_config(tmp_path / "data"))
    code, report = lab_data("check", str(path), "data.split_seed=3", "--sheet", "s.png")
    assert code == 0
    assert {name: split["num_samples"] for name, split in report["splits"].items()} == {
        "train": 16,
        "validation": 4,
        "test": 10,
    }
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["s-test.png", "s-train.png", "s-validation.png"]
    assert not (tmp_path / "check.png").exists()


def test_known_sets_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.data import resolve

    def opened(name: str, split: str, root: Path | None, kind: Any) -> Any:
        assert (name, split, root, kind) == ("trees", "test", tmp_path, None)
        return held("boxes")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lab.pipelines.data.open_dataset", opened)
    assert resolve.catalog_entry("trees").kinds == ("boxes",)
    code, made = lab_data("convert", "trees", "out", "--to", "coco", "--split", "test", "--data-dir", str(tmp_path))
    assert (code, made["from"], made["num_samples"]) == (0, "voc", 7)


def test_masks_without_names_show_the_classes_found(tmp_path: Path) -> None:
    root = tmp_path / "set"
    WRITERS["mask_folder"](root, held("mask"))
    (root / "labels.txt").unlink()
    code, report = lab_data("check", str(root), "--sheet", str(tmp_path / "s.png"))
    found = report["splits"][str(root)]
    pixels = np.concatenate([mask.ravel() for mask in held("mask").annotations])
    assert code == 0
    assert found["class_counts"] == {str(value): int((pixels == value).sum()) for value in range(3)}
    assert found["ignored_share"] == pytest.approx((pixels == 255).mean())

"""Curves from a metrics file: which points are drawn, and what an unusable file gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lab.core.errors import ArtifactError
from lab.nn.plots import _curves, _panels, plot_curves, read_metrics

ROWS = [
    {"step": 5, "epoch": 0, "train/loss": 2.0, "train/lr": 0.1},
    {"step": 10, "epoch": 0, "train/loss": 1.5, "validation/loss": 1.4, "validation/accuracy": 0.5},
    {"step": 15, "epoch": 1, "train/loss": 1.0},
    {"step": 20, "epoch": 1, "train/loss": 0.9, "validation/loss": 1.2, "validation/accuracy": 0.6, "note": "text"},
]


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_steps_become_epochs(metrics: Path) -> None:
    curves = _curves(read_metrics(metrics))
    assert curves["train/loss"][0].tolist() == [0.5, 1.0, 1.5, 2.0]
    assert curves["validation/accuracy"][0].tolist() == [1.0, 2.0]
    assert curves["validation/accuracy"][1].tolist() == [0.5, 0.6]
    assert "note" not in curves


def test_panels_join_the_splits_and_put_loss_first(metrics: Path) -> None:
    panels = _panels(list(_curves(read_metrics(metrics))))
    assert panels == {
        "loss": ["train/loss", "validation/loss"],
        "accuracy": ["validation/accuracy"],
        "lr": ["train/lr"],
    }


def test_epochs_may_count_from_one() -> None:
    rows = [{"step": 5, "epoch": 1, "loss": 2.0}, {"step": 10, "epoch": 2, "loss": 1.0}]
    assert _curves(rows)["loss"][0].tolist() == [1.0, 2.0]


def test_epoch_means_join_their_panel() -> None:
    assert _panels(["train/loss", "train/epoch_loss", "epoch_s"]) == {
        "loss": ["train/loss", "train/epoch_loss"],
        "epoch_s": ["epoch_s"],
    }


def test_repeated_step_counts_once_with_its_last_value() -> None:
    curves = _curves([{"step": 5, "epoch": 0, "loss": 2.0}, {"step": 5, "epoch": 0, "loss": 1.0}])
    assert curves["loss"][1].tolist() == [1.0]


def test_picture_is_written(metrics: Path, tmp_path: Path) -> None:
    path = plot_curves(metrics, tmp_path / "plots")
    assert path == tmp_path / "plots" / "curves.png"
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size[0] > 1000  # three panels side by side
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50


def test_last_line_cut_off_by_a_kill_is_left_out(metrics: Path) -> None:
    metrics.write_text(metrics.read_text()[:-20])
    assert len(read_metrics(metrics)) == 3


def test_unusable_files(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        plot_curves(tmp_path / "none.jsonl", tmp_path)
    (tmp_path / "bad.jsonl").write_text("{}\nx\n{}\n")
    with pytest.raises(ArtifactError, match=r"bad\.jsonl:2 is not JSON"):
        plot_curves(tmp_path / "bad.jsonl", tmp_path)
    (tmp_path / "empty.jsonl").write_text("{}\n")
    with pytest.raises(ArtifactError, match="no metrics to draw"):
        plot_curves(tmp_path / "empty.jsonl", tmp_path)

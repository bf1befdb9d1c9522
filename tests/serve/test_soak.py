"""What `make soak` concludes from samples; the hour itself is run by hand."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.soak import Record, Sample, markdown, plot, process_state, report, slope_of

OPTIONS = argparse.Namespace(minutes=60.0, workers=1)
TIMES = np.arange(0.0, 3600.0, 5.0)


def record(mib: np.ndarray, **changes: object) -> Record:
    found = Record()
    for time_s, value in zip(TIMES, mib, strict=False):
        process = {"rss_kib": int(value * 1024), "anonymous_kib": 0, "files": 9, "threads": 4}
        found.samples.append(Sample(float(time_s), {"worker 0": process}, 100, 1.0, 2.0))
    found.statuses[200] = 72_000
    found.refusals["as expected"] = 3600
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_a_slope_is_found_with_the_error_that_correlated_noise_leaves() -> None:
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        noise = np.zeros(len(TIMES))
        for at in range(1, len(noise)):  # each sample much like the one before
            noise[at] = 0.9 * noise[at - 1] + rng.standard_normal()
        found = slope_of(TIMES, 300 + 5.0 * TIMES / 3600 + noise)
        inside += found.low <= 5.0 <= found.high
    assert inside >= 160  # of 190 were the error exact; a plain least-squares fit has about 75


def test_flat_memory_is_flat_and_a_leak_is_not() -> None:
    noise = np.random.default_rng(1).normal(0, 0.5, len(TIMES))
    flat = report(record(300 + noise), OPTIONS, 80.0, 100.0)
    assert flat["verdict"] == "flat within noise"
    assert flat["no_error"]
    assert flat["slopes"]["worker 0"]["flat"]
    leak = report(record(300 + noise + 20 * TIMES / 3600), OPTIONS, 80.0, 100.0)
    assert leak["verdict"] == "grows"
    assert leak["slopes"]["all"]["mib_per_h"] == pytest.approx(20, abs=1)
    warm = report(record(np.where(TIMES < 600, TIMES, 600) / 10 + noise), OPTIONS, 80.0, 100.0)
    assert warm["verdict"] == "flat within noise"  # growth within the warm-up


def test_errors_and_interruptions_are_told(tmp_path: Path) -> None:
    found = report(record(np.full(100, 300.0), lost=1, stopped=True), OPTIONS, 80.0, 100.0)
    assert not found["no_error"]
    assert found["partial"]
    assert found["minutes"] == pytest.approx(8.25)
    assert "flat within noise (partial: interrupted), errors, see below" in markdown(found)
    plot(found, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes()[:4] == b"\x89PNG"
    assert report(record(np.full(3, 300.0)), OPTIONS, 80.0, 100.0)["verdict"] == "too short to tell"
    assert report(Record(stopped=True), OPTIONS, 80.0, 100.0)["partial"]


def test_a_process_is_read() -> None:
    found = process_state(os.getpid())
    assert found["rss_kib"] >= found["anonymous_kib"] > 1000
    assert found["files"] > 2
    assert found["threads"] >= 1

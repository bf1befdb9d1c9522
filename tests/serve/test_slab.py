"""Shared memory: counters of one writer each, weights that are never seen half-changed, the ring, quantiles."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lab.serve.autoscale import Autoscaler
from lab.serve.config import AutoscalingConfig
from lab.serve.ids import Origin, make_id, read_id
from lab.serve.slab import NUM_SLOTS, RING_CAPACITY, Meter, Slab, batch_histogram, stage_histogram


def test_counts_of_all_workers_add_up() -> None:
    slab = Slab.create(3)
    for worker in range(3):
        meter = Meter(slab, worker, 5)
        for _ in range(worker + 1):
            meter.request("oip", 200)
        meter.request("oip", 418)  # a code without a column counts as 400
        meter.batch(3)
    row = slab.counters.sum(axis=0)[5]
    from lab.serve.metrics import requests_by_code

    assert list(requests_by_code(row)) == [("oip", 200, 6), ("oip", 400, 3)]
    assert (batch_histogram(row).count, batch_histogram(row).total) == (3, 9.0)
    slab.clear_slot(5)
    assert not slab.counters.any()


def test_another_process_sees_and_counts(repo: Path) -> None:
    slab = Slab.create(2)
    slab.set_weights({1: 0.25, NUM_SLOTS - 1: 2.0})
    code = (
        "import sys; from lab.serve.slab import Slab, Meter\n"
        f"slab = Slab({slab.descriptor}, 2)\n"
        "Meter(slab, 1, 3).request('sagemaker', 200); slab.ring(1).put(1.5, 2.5, 2**63 + 1, 7, 3, 2, True, False)\n"
        "print(slab.weights()[1], slab.weights()[-1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], pass_fds=(slab.descriptor,), capture_output=True, text=True, check=True, cwd=repo,
        env=dict(os.environ),
    )  # fmt: skip
    assert done.stdout.split() == ["0.25", "2.0"]
    assert slab.counters[1, 3].sum() == 1
    record = slab.ring(1).take()[0]
    assert tuple(record)[:8] == (1.5, 2.5, 2**63 + 1, 7, 3, 2, 1, 0)
    assert len(slab.ring(1).take()) == 0


def test_a_change_half_made_is_not_seen() -> None:
    slab = Slab.create(1)
    slab.set_weights({1: 1.0})
    assert slab.weights() is not None
    slab._weights[2] = 5.0  # as a reader would find it between two writes
    assert slab.weights() is None
    slab.set_weights({2: 5.0})
    found = slab.weights()
    assert found is not None
    assert (found[1], found[2]) == (1.0, 5.0)


def test_a_full_ring_drops_the_newest_and_counts_them() -> None:
    ring = Slab.create(1).ring(0)
    for number in range(RING_CAPACITY + 10):
        ring.put(float(number), 0.0, 0, 0, 0, 0, 0, 0)
    taken = ring.take()
    assert (len(taken), ring.num_dropped) == (RING_CAPACITY, 10)
    assert taken["time_s"].tolist() == list(range(RING_CAPACITY))
    ring.put(7.0, 0.0, 0, 0, 0, 0, 0, 0)
    assert ring.take()["time_s"].tolist() == [7.0]


def test_quantiles_are_within_a_bucket() -> None:
    slab = Slab.create(1)
    meter = Meter(slab, 0, 1)
    seconds = np.random.default_rng(0).lognormal(-5, 1, 5000)
    for value in seconds:
        meter.stages([float(value)] * 6)
    found = stage_histogram(slab.counters[0, 1], "execute")
    assert found.total == pytest.approx(seconds.sum(), rel=1e-6)
    for q in (0.5, 0.9, 0.99):
        assert 1 / 2**0.5 < found.quantile(q) / np.quantile(seconds, q) < 2**0.5
    assert np.isnan((found - found).quantile(0.5))


def test_inference_ids_cannot_be_made_up() -> None:
    from lab.core.errors import DataError

    origin = Origin("v-1", 12345, pinned=True, sticky=False)
    text = make_id(b"k" * 32, origin)
    assert read_id(b"k" * 32, text) == origin
    for forged in (text[:-1] + ("0" if text[-1] != "0" else "1"), text.replace("v-1", "v-2"), "", "a.b.c", "é.1.0.x.y"):
        with pytest.raises(DataError):
            read_id(b"k" * 32, forged)
    with pytest.raises(DataError):
        read_id(b"j" * 32, text)


def test_target_tracking_scales_out_at_once_and_in_with_patience() -> None:
    config = AutoscalingConfig(enabled=True, min_workers=1, max_workers=4, target_in_flight=2, scale_in_cooldown_s=60)
    scaler, workers, history = Autoscaler(config), 1, []
    for second in range(600):
        load = 6 if second < 200 else 1
        workers = scaler.wanted(float(second), load, workers)
        history.append(workers)
    assert history[0] == 3  # 6 in flight, 2 per worker
    assert set(history[:200]) == {3}
    assert history[-1] == 1
    changes = [second for second in range(1, 600) if history[second] != history[second - 1]]
    assert all(b - a >= 60 for a, b in pairwise(changes))
    assert max(history) <= 4

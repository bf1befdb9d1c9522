"""Variants without HTTP: batches, failures that stay with their request, deadlines, admission, the gate."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lab.core.errors import DataError, ParityError
from lab.data.preprocess import decode_image
from lab.serve.config import VariantConfig
from lab.serve.engine.model import ServedModel
from lab.serve.engine.variant import Variant
from lab.serve.protocols.errors import DeadlineError, DrainingError, QueueFullError
from lab.serve.protocols.invocations import InvocationWork, choose
from lab.serve.slab import COLUMNS, Meter, Slab
from lab.tasks.classification import deploy
from tests.serve.models import LABELS, PREPROCESSING, SIZE, weights

NPY = "application/x-npy"


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def work(array: np.ndarray, accept: str = NPY) -> InvocationWork:
    return InvocationWork(npy(array), NPY, accept, 10_000)


def image(seed: int, rows: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, 3, SIZE, SIZE)).astype(np.float32)


def with_variant(folder: Path, act: Callable[[Variant, Slab], Coroutine[Any, Any, Any]], **fields: Any) -> Any:
    """Run `act` with a loaded variant."""

    async def main() -> Any:
        slab = Slab.create(1)
        variant = Variant(VariantConfig(name="v", model=str(folder), **fields), folder, Meter(slab, 0, 1))
        await variant.load()
        try:
            return await act(variant, slab)
        finally:
            await variant.close()

    return asyncio.run(main())


def test_requests_that_wait_run_together_and_get_their_own_rows(model_root: Path) -> None:
    async def act(variant: Variant, slab: Slab) -> list[np.ndarray]:
        now = time.perf_counter()
        jobs = [variant.admit(work(image(seed, rows=1 + seed % 3)), now) for seed in range(9)]
        answers = [await job.future for job in jobs]
        counts = slab.counters[0, 1]
        assert counts[COLUMNS["inputs"]] == sum(1 + seed % 3 for seed in range(9))
        assert counts[COLUMNS["executions"]] < 9
        assert (counts[COLUMNS["queue_depth"]], counts[COLUMNS["in_flight"]]) == (0, 0)
        return [np.load(io.BytesIO(answer.body)) for answer in answers]

    # The first call sleeps, so that the others are waiting when the executor comes back.
    for seed, got in enumerate(with_variant(model_root / "first", act, faults={"latency_ms": 30})):
        x = image(seed, rows=1 + seed % 3)
        np.testing.assert_allclose(got, x.reshape(len(x), -1) @ weights(0), rtol=1e-4, atol=1e-4)


def test_a_bad_request_in_a_batch_fails_alone(model_root: Path) -> None:
    async def act(variant: Variant, slab: Slab) -> list[Any]:
        now = time.perf_counter()
        arrays = [image(0), image(1)[:, :2], np.full((1, 3, SIZE, SIZE), np.nan, np.float32), image(2)]
        jobs = [variant.admit(work(array), now) for array in arrays]
        return await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)

    first, shape, finite, last = with_variant(model_root / "first", act, faults={"latency_ms": 30})
    assert isinstance(shape, DataError)
    assert "wrong shape" in str(shape)
    assert "NaN" in str(finite)
    for answer, seed in ((first, 0), (last, 2)):
        np.testing.assert_allclose(np.load(io.BytesIO(answer.body)), image(seed).reshape(1, -1) @ weights(0), rtol=1e-4)


def test_a_model_that_raises_for_a_batch_is_asked_for_each_request(
    model_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ServedModel.run

    def poisoned(self: ServedModel, feed: Any, options: Any = None) -> Any:
        if np.any(feed["image"] == 7.0):
            raise RuntimeError("poison")
        return run(self, feed, options)

    monkeypatch.setattr(ServedModel, "run", poisoned)

    async def act(variant: Variant, slab: Slab) -> list[Any]:
        now = time.perf_counter()
        arrays = [image(0), np.full((1, 3, SIZE, SIZE), 7.0, np.float32), image(1)]
        jobs = [variant.admit(work(array), now) for array in arrays]
        return await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)

    first, poison, last = with_variant(model_root / "first", act, max_delay_us=200_000)
    assert isinstance(poison, RuntimeError)
    assert first.body.startswith(b"\x93NUMPY")
    assert last.body.startswith(b"\x93NUMPY")


def test_an_image_gets_the_answer_of_the_tasks_own_code(model_root: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")

    async def act(variant: Variant, slab: Slab) -> bytes:
        sent = InvocationWork(buffer.getvalue(), "image/png", "application/jsonlines", 10_000)
        return (await variant.admit(sent, time.perf_counter()).future).body

    feed = deploy.preprocess([decode_image(buffer.getvalue(), "x")], PREPROCESSING.to_dict())
    logits = feed["image"].reshape(1, -1) @ weights(0)
    expected = deploy.postprocess({"logits": logits}, LABELS)[0]["probabilities"]
    import json

    got = json.loads(with_variant(model_root / "first", act))["prediction"]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_admission_is_bounded_and_ends_with_draining(model_root: Path) -> None:
    async def act(variant: Variant, slab: Slab) -> None:
        now = time.perf_counter()
        jobs = [variant.admit(work(image(0)), now) for _ in range(3)]
        with pytest.raises(QueueFullError):
            variant.admit(work(image(0)), now)
        assert await variant.drain(5.0)
        assert all(job.future.done() for job in jobs)
        with pytest.raises(DrainingError):
            variant.admit(work(image(0)), now)

    with_variant(model_root / "first", act, max_queue=2, max_batch=1, faults={"latency_ms": 50})


def test_what_is_too_late_is_not_run(model_root: Path) -> None:
    async def act(variant: Variant, slab: Slab) -> None:
        job = variant.admit(work(image(0)), time.perf_counter() - 1.0)
        with pytest.raises(DeadlineError):
            await job.future
        assert slab.counters[0, 1, COLUMNS["executions"]] == 0

    with_variant(model_root / "first", act, deadline_ms=500)


def test_a_wrong_golden_sample_stops_the_variant(model_root: Path) -> None:
    async def act(variant: Variant, slab: Slab) -> None:
        raise AssertionError("it was loaded")

    with pytest.raises(ParityError, match="is not what the model gave"):
        with_variant(model_root / "wrong-golden", act)


def test_executor_threads_each_have_a_model(model_root: Path) -> None:
    async def act(variant: Variant, slab: Slab) -> float:
        began = time.perf_counter()
        jobs = [variant.admit(work(image(0)), began) for _ in range(3)]
        await asyncio.gather(*(job.future for job in jobs))
        assert sum(thread.name.startswith("v-") for thread in threading.enumerate()) == 3
        return time.perf_counter() - began

    assert with_variant(model_root / "first", act, executor_threads=3, max_batch=1, faults={"latency_ms": 300}) < 0.85


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "application/json"), ("*/*", "application/json"), ("application/x-npy", NPY),
        ("text/html, application/jsonlines;q=0.9", "application/jsonlines"), ("APPLICATION/JSON", "application/json"),
    ],
)  # fmt: skip
def test_accept(accept: str, expected: str) -> None:
    assert choose(accept, ("application/json", "application/jsonlines", NPY)) == expected

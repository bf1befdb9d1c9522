"""Run the requests an executor took: those that fit together in one call, each failing by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import numpy as np

from lab.core.errors import DataError
from lab.core.interfaces import Arrays
from lab.serve.engine.model import ServedModel
from lab.serve.engine.work import Job, Parsed
from lab.serve.protocols.errors import DeadlineError

OnBatch = Callable[[int], None]


def run_jobs(model: ServedModel, jobs: Sequence[Job], on_batch: OnBatch) -> None:
    """Set every job's `result`; nothing is raised but what is no Exception.

    Args:
        on_batch: is told the number of inputs of every execution.
    """
    ready = [job for job in jobs if _decoded(model, job)]
    for group in _groups(model, ready):
        try:
            _run_group(model, group, on_batch)
        except Exception as error:  # noqa: BLE001  whatever a model raises is the request's answer, not the thread's end
            if len(group) == 1:
                group[0].result = error
                continue
            for job in group:  # one bad request must not cost the others their answers
                _run_alone(model, job, on_batch)


def _decoded(model: ServedModel, job: Job) -> bool:
    began = time.perf_counter()
    job.times.queue = began - job.arrived_s
    if job.expired():
        job.result = DeadlineError("the request waited longer than its deadline and was dropped")
        return False
    try:
        job.parsed = job.work.decode(model)
    except Exception as error:  # noqa: BLE001  see run_jobs
        job.result = error
        return False
    job.times.preprocess = time.perf_counter() - began
    return True


def _groups(model: ServedModel, jobs: Iterable[Job]) -> list[list[Job]]:
    """Jobs with equal keys, each group within what the task takes at once."""
    groups: dict[Hashable, list[Job]] = {}
    alone: list[list[Job]] = []
    can_batch = model.batches or bool(model.manifest.functions)
    for job in jobs:
        assert job.parsed is not None
        if job.parsed.key is None or not can_batch or (job.parsed.feed is not None and not model.batches):
            alone.append([job])
        else:
            groups.setdefault(job.parsed.key, []).append(job)
    return [*groups.values(), *alone]


def _run_alone(model: ServedModel, job: Job, on_batch: OnBatch) -> None:
    try:
        _run_group(model, [job], on_batch)
    except Exception as error:  # noqa: BLE001  see run_jobs
        job.result = error


def _run_group(model: ServedModel, group: Sequence[Job], on_batch: OnBatch) -> None:
    parsed = [job.parsed for job in group if job.parsed is not None]
    on_batch(sum(one.num_inputs for one in parsed))
    if parsed[0].feed is not None:
        _run_feeds(model, group, parsed)
    else:
        _run_inputs(model, group, parsed)


def _run_feeds(model: ServedModel, group: Sequence[Job], parsed: Sequence[Parsed]) -> None:
    began = time.perf_counter()
    feeds = [one.feed for one in parsed if one.feed is not None]
    together = feeds[0] if len(feeds) == 1 else {n: np.concatenate([feed[n] for feed in feeds]) for n in feeds[0]}
    outputs = model.run(together, parsed[0].options)
    took = time.perf_counter() - began
    start = 0
    for job, one in zip(group, parsed, strict=True):
        part = outputs if len(group) == 1 else _rows(outputs, start, one.num_inputs)
        start += one.num_inputs
        job.times.execute = took
        _encode(model, job, one, (), dict(part))


def _run_inputs(model: ServedModel, group: Sequence[Job], parsed: Sequence[Parsed]) -> None:
    inputs = [item for one in parsed for item in one.inputs]
    predictions, outputs, times = _predict(model, inputs, parsed[0].options)
    start = 0
    for job, one in zip(group, parsed, strict=True):
        job.times.preprocess += times[0]
        job.times.execute, job.times.postprocess = times[1], times[2]
        # Windows of one image are several rows; then raw outputs cannot be told apart, and only comparisons lack them.
        aligned = all(len(array) == len(inputs) for array in outputs.values())
        part = outputs if len(group) == 1 else _rows(outputs, start, one.num_inputs) if aligned else {}
        _encode(model, job, one, predictions[start : start + one.num_inputs], dict(part))
        start += one.num_inputs


def _predict(
    model: ServedModel, inputs: Sequence[object], options: Mapping[str, object]
) -> tuple[list[object], Arrays, tuple[float, ...]]:
    """As many calls as the task needs for so many inputs."""
    if model.deploy is None:
        raise DataError("the model belongs to no task, so that it takes tensors only")
    step = model.deploy.inputs_per_call(model.manifest.preprocessing) or len(inputs)
    if step >= len(inputs):
        return model.predict(inputs, options)
    found: list[object] = []
    total = np.zeros(3)
    for start in range(0, len(inputs), step):
        part, _, times = model.predict(inputs[start : start + step], options)
        found += part
        total += times
    return found, {}, tuple(total)


def _rows(outputs: Mapping[str, np.ndarray], start: int, count: int) -> Arrays:
    return {name: array[start : start + count] for name, array in outputs.items()}


def _encode(model: ServedModel, job: Job, parsed: Parsed, predictions: Sequence[object], outputs: Arrays) -> None:
    began = time.perf_counter()
    try:
        job.result = job.work.encode(model, parsed, predictions, outputs)
    except Exception as error:  # noqa: BLE001  see run_jobs
        job.result = error
    job.times.postprocess += time.perf_counter() - began

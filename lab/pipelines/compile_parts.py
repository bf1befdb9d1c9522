"""A bundle some of whose parts run in ONNX Runtime: where the time goes, and what to profile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from lab.artifacts.manifest import Entry, Manifest, Part
from lab.core.interfaces import Runner
from lab.runtime import open_bundle
from lab.runtime.tvm_runner import TvmRunner

Seconds = Mapping[int, tuple[float, ...]]
WHERE = {"tvm": "compiled", "onnxruntime": "ONNX Runtime"}


def part_seconds(runner: Runner) -> Seconds:
    """Batch size -> seconds that each part has taken so far; nothing where the bundle has no parts."""
    return runner.part_seconds() if isinstance(runner, TvmRunner) else {}


def share_metrics(manifest: Manifest, before: Seconds, after: Seconds) -> dict[str, float]:
    """`part1_onnxruntime_share`, ...: shares of the time that passed between two readings, at the first batch size."""
    entry = manifest.entries[0]
    if not entry.parts or entry.batch_size not in after:
        return {}
    spent = np.subtract(after[entry.batch_size], before.get(entry.batch_size, 0.0))
    total = float(spent.sum()) or 1.0
    return {
        share_name(index, part): round(float(seconds) / total, 4)
        for index, (part, seconds) in enumerate(zip(entry.parts, spent, strict=True))
    }


def describe_parts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """("part 0", "compiled: 12 nodes, 58.1 % of the time") for a summary; nothing where the bundle has no parts."""
    metrics = manifest.metrics.get(manifest.parity[-1].name, {}) if manifest.parity else {}
    for index, part in enumerate(manifest.entries[0].parts):
        share = metrics.get(share_name(index, part))
        told = "" if share is None else f", {share:.1%} of the time"
        why = f" ({'; '.join(f'{node}: {reason}' for node, reason in part.reasons.items())})" if part.reasons else ""
        yield part_name(index), f"{WHERE[part.engine]}: {operators(part)}{told}{why}"


def operators(part: Part) -> str:
    """ "Conv x3, Relu"."""
    return ", ".join(name + (f" x{count}" if count > 1 else "") for name, count in part.operators.items())


def inputs_of_parts(folder: Path, entry: Entry, feed: Mapping[str, np.ndarray]) -> list[list[np.ndarray]]:
    """What each part of an entry is given for one inference on `feed`."""
    runner = open_bundle(folder, verify=False, function=entry.function)
    try:
        values = runner.part_values(entry.batch_size, feed)
    finally:
        runner.close()
    return [[values[name] for name in part.inputs] for part in entry.parts]


def part_name(index: int) -> str:
    """A part in words."""
    return f"part {index}"


def share_name(index: int, part: Part) -> str:
    """The metric that holds a part's share of the time."""
    return f"part{index}_{part.engine}_share"

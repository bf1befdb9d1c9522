"""`lab bench`: one table over engines and targets: latency, throughput, size, memory, accuracy, error."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lab.artifacts.files import write_json
from lab.artifacts.manifest import now
from lab.core.compare import difference
from lab.core.errors import ConfigError, LabError
from lab.core.host import cpu_name, versions
from lab.core.interfaces import Runner
from lab.core.progress import say, track
from lab.core.timing import interleaved
from lab.pipelines.context import OpenRun, threads_or_all
from lab.pipelines.engines import Engine, engines_of, level_of
from lab.pipelines.evaluate import feeds, final_split, score_runner
from lab.pipelines.export import export

REFERENCE = "torch eager"


@dataclass(frozen=True)
class BenchOptions:
    """How to measure; every engine gets the same."""

    batch_size: int = 1
    rounds: int = 15
    calls_per_round: int = 5
    num_threads: int | None = None
    num_samples: int | None = None
    """Test samples for the accuracy column; the default is the whole split."""
    engines: tuple[str, ...] | None = None
    """Names of the engines to measure; the default is all."""


@dataclass(frozen=True)
class Row:
    """One engine's figures; `note` says why figures are missing."""

    run: str
    engine: str
    p50_ms: float | None = None
    p95_ms: float | None = None
    throughput_per_s: float | None = None
    num_threads: int | None = None
    level: str = ""
    """Of a bundle: the CPU that the library was compiled for, which a fat one picks when it is loaded."""
    size_bytes: int | None = None
    peak_memory_mb: float | None = None
    metric: float | None = None
    max_abs_error: float | None = None
    note: str = ""


@dataclass(frozen=True)
class BenchReport:
    """What `lab bench` tells; `metric` names the task metric of the accuracy column."""

    rows: tuple[Row, ...]
    metric: str
    batch_size: int
    machine: str
    files: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "batch_size": self.batch_size,
            "metric": self.metric,
            "rows": [asdict(row) for row in self.rows],
            "versions": versions(),
            "created": now(),
        }


def bench(runs: Sequence[OpenRun], options: BenchOptions) -> BenchReport:
    """Measure every engine that runs here on every run; writes `<run>/bench/bench.json` and MLflow child runs."""
    rows: list[Row] = []
    files: list[Path] = []
    for opened in runs:
        export(opened)
        found = _bench_run(opened, options)
        rows += found
        report = BenchReport(tuple(found), _metric(opened), options.batch_size, cpu_name(), ())
        write_json(opened.dir.bench / "bench.json", report.to_dict())
        files.append(opened.dir.bench / "bench.json")
        _track(opened, report)
    return BenchReport(tuple(rows), _metric(runs[0]), options.batch_size, cpu_name(), tuple(files))


def _metric(opened: OpenRun) -> str:
    return str(opened.manifest.options.get("monitor", "accuracy"))


def _bench_run(opened: OpenRun, options: BenchOptions) -> list[Row]:
    num_threads = threads_or_all(options.num_threads)
    task = opened.learning_task()
    split = final_split(task)
    feed = next(feeds(task, opened.deploy, split, batch_size=options.batch_size))[0]
    runners: dict[str, Runner] = {}
    rows: dict[str, Row] = {}
    engines = _chosen(engines_of(opened), options.engines)
    for engine in engines:
        rows[engine.name] = Row(run=opened.dir.name, engine=engine.name, note=engine.unavailable)
        if engine.unavailable:
            say(f"{engine.name}: not measured: {engine.unavailable}")
            continue
        try:
            runners[engine.name] = engine.open(opened, num_threads)
            runners[engine.name].run(feed)
        except LabError as error:  # one engine that cannot run must not cost the others their figures
            rows[engine.name] = replace(rows[engine.name], note=error.what)
            runners.pop(engine.name, None)
    say(f"timing {len(runners)} engines, batch {options.batch_size}, {num_threads} threads, interleaved ...")
    calls = {name: (lambda runner=runner: runner.run(feed)) for name, runner in runners.items()}
    timed = interleaved(calls, rounds=options.rounds, calls_per_round=options.calls_per_round)
    expected = runners[REFERENCE].run(feed)
    for engine in track([e for e in engines if e.name in runners], "accuracy and memory", len(runners)):
        runner, latency = runners[engine.name], timed[engine.name]
        score = score_runner(
            runner, task, opened.deploy, split, batch_size=options.batch_size, limit=options.num_samples
        )[0]
        rows[engine.name] = replace(
            rows[engine.name],
            p50_ms=latency.p50_ms,
            p95_ms=latency.p95_ms,
            throughput_per_s=options.batch_size * 1e3 / latency.p50_ms,
            num_threads=num_threads,
            level=level_of(runner),
            size_bytes=engine.size_bytes(opened),
            peak_memory_mb=_peak_memory_mb(engine, opened, feed, num_threads),
            metric=score.get(_metric(opened)),
            max_abs_error=_max_abs_error(*opened.deploy.aligned(expected, runner.run(feed))),
        )
    for runner in runners.values():
        runner.close()
    return list(rows.values())


def _chosen(engines: list[Engine], names: tuple[str, ...] | None) -> list[Engine]:
    known = [engine.name for engine in engines]
    if names is None:
        return engines
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown engine '{name}'", expected=", ".join(known))
    # The reference of the error column is always there.
    return [engine for engine in engines if engine.name in {*names, REFERENCE}]


def _max_abs_error(expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> float:
    return max(difference(array, actual[name]).max_abs for name, array in expected.items())


def _peak_memory_mb(engine: Engine, opened: OpenRun, feed: Mapping[str, np.ndarray], num_threads: int) -> float | None:
    """Peak resident memory of a process of its own that opens the engine and runs it."""
    with tempfile.TemporaryDirectory() as scratch:
        np.savez(f"{scratch}/feed.npz", allow_pickle=False, **feed)
        command = [sys.executable, "-m", "lab.pipelines.engines", str(opened.dir.path), engine.name]
        command += [f"{scratch}/feed.npz", str(num_threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        say(f"{engine.name}: memory not measured: {done.stderr.strip().splitlines()[-1:]}")
        return None
    return float(json.loads(done.stdout.strip().splitlines()[-1])["peak_memory_mb"])


def _track(opened: OpenRun, report: BenchReport) -> None:
    for row in report.rows:
        if row.p50_ms is None:
            continue
        target = row.engine.removeprefix("tvm ")
        tracker = opened.tracker(f"bench {row.engine}", {"lab.target": target})
        tracker.log_params(
            {"target": target, "engine": row.engine, "batch_size": report.batch_size, "num_threads": row.num_threads}
            | ({"level": row.level} if row.level else {})
        )
        figures = {
            "latency_p50_ms": row.p50_ms,
            "latency_p95_ms": row.p95_ms,
            "throughput_per_s": row.throughput_per_s,
            "size_mb": row.size_bytes / 1e6 if row.size_bytes else None,
            "peak_memory_mb": row.peak_memory_mb,
            report.metric: row.metric,
            "max_abs_error": row.max_abs_error,
        }
        tracker.log_metrics({name: value for name, value in figures.items() if value is not None})
        tracker.finish()

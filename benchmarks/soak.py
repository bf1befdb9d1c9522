"""`make soak`: an endpoint under 80 % of its capacity for an hour; does its memory grow, does anything fail?

ResNet-18 at 32 x 32 is served twice, compiled and as ONNX, half of the traffic each, with guardrails, history, access
log and captured requests on, all that could grow. Requests come open-loop at a fixed rate; beside them one request per
second that must be refused. Every few seconds the resident memory, open files and threads of every process are read.

The slope of the memory after the warm-up is a least-squares fit; samples that follow each other are alike, so its
standard error is Newey and West's (Econometrica 55, 1987) over lags of a tenth of the samples. "Flat within noise": the
95 % interval of the slope reaches down to 0. Ctrl-C writes what there is, marked as partial.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import load_test
from benchmarks.load_generator import Load, request_bytes

REPO = Path(__file__).resolve().parents[1]
RESULTS = REPO / "benchmarks" / "results"
SHAPE = (3, 32, 32)
CONNECTIONS = 32
PATH = "/endpoints/bench/invocations"
REFUSED = {"text/csv": 415, "application/json": 400, "image/png": 415}
"""Content types of bodies that no one can read, and what they must be answered."""


@dataclass
class Sample:
    """One look at the endpoint; `processes` is {name: {"rss_kib", "anonymous_kib", "files", "threads"}}."""

    time_s: float
    processes: dict[str, dict[str, int]]
    requests: int
    p50_ms: float
    p99_ms: float

    @property
    def rss_mib(self) -> float:
        return sum(process["rss_kib"] for process in self.processes.values()) / 1024


@dataclass
class Record:
    """All that is known so far."""

    samples: list[Sample] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    refused: int = 0
    stopped: bool = False


def models(folder: Path) -> tuple[Path, Path]:
    """(bundle for this CPU, ONNX export) of torchvision's ResNet-18 without its weights; made once."""
    bundle, export = folder / "bundle", folder / "export"
    if (bundle / "manifest.json").exists():
        return bundle, export
    import torch
    from torchvision.models import resnet18

    from lab.artifacts.manifest import Manifest
    from lab.compile.build import compile_onnx
    from lab.compile.link import write_library
    from lab.compile.targets import resolve_target

    export.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.onnx.export(
        resnet18(num_classes=10).eval(), (torch.zeros(2, *SHAPE),), str(export / "model.onnx"), dynamo=True,
        external_data=False, input_names=["image"], output_names=["logits"],
        dynamic_shapes=[{0: torch.export.Dim("batch")}],
    )  # fmt: skip
    target = resolve_target("x86")
    print("compiling ResNet-18 for this CPU (once)")
    compiled = compile_onnx(export / "model.onnx", target, batch_sizes=(1, 4), progress=lambda message: None)
    manifest = Manifest(kind="onnx", name="resnet18", signature=compiled.signature)
    manifest.with_files(export, ["model.onnx"]).save(export)
    entries = write_library(compiled, bundle)
    manifest = Manifest(
        kind="bundle", name="resnet18", signature=compiled.signature, target=target.info(), entries=tuple(entries)
    )
    manifest.with_files(bundle, [name for entry in entries for name in entry.files]).save(bundle)
    return bundle, export


def configuration(folder: Path, bundle: Path, export: Path, workers: int) -> Path:
    """Everything on that keeps something."""
    config = {
        "endpoint": "bench", "workers": workers,
        "variants": [{"name": "compiled", "model": str(bundle), "weight": 0.5, "max_batch": 4},
                     {"name": "onnx", "model": str(export), "weight": 0.5, "max_batch": 4}],
        "guard": {"control": "compiled"}, "tracking": {"every_s": 10},
        "log": {"state_dir": str(folder / "state"), "access_log": str(folder / "access.jsonl")},
        "data_capture": {"enabled": True, "sampling_percentage": 1, "destination": str(folder / "capture")},
    }  # fmt: skip
    path = folder / "soak.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def capacity(server: load_test.Server, port: int, seconds: float) -> float:
    """Requests per second of a closed loop, the better of two."""
    load_test.load(server, port, min(2.0, seconds), 8, None)
    rates = [load_test.load(server, port, seconds, 8, None)["requests_per_s"] for _ in range(2)]
    return float(max(rates))


def pids(port: int) -> dict[str, int]:
    """Of the supervisor and every worker."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/state", timeout=10) as reply:
        workers = json.load(reply)["workers"]
    return {"supervisor": workers["supervisor"]} | {f"worker {index}": pid for index, pid in workers["pids"].items()}


def process_state(pid: int) -> dict[str, int]:
    """From /proc."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    kib = {name: int(fields[key].split()[0]) for name, key in (("rss_kib", "VmRSS"), ("anonymous_kib", "RssAnon"))}
    return kib | {"files": len(os.listdir(f"/proc/{pid}/fd")), "threads": int(fields["Threads"])}  # noqa: PTH208


async def soak(port: int, body: bytes, options: argparse.Namespace, rate: float, record: Record) -> None:
    """Load, look, and send what must be refused, until the time is over or someone interrupts."""
    request = request_bytes("127.0.0.1", PATH, body, load_test.NPY)
    load = Load("127.0.0.1", port, request, connections=CONNECTIONS, rate=rate)

    def stop() -> None:
        record.stopped = True
        load.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    began, seconds = time.monotonic(), options.minutes * 60
    running = asyncio.ensure_future(load.run(seconds))
    looking = asyncio.ensure_future(_look(port, load, began, seconds, options, record))
    refusing = asyncio.ensure_future(_refusals(port, record))
    try:
        await running
    finally:
        looking.cancel()
        refusing.cancel()
        await asyncio.gather(looking, refusing, return_exceptions=True)
        _take(port, load, began, record)
    outcome = load.outcome
    record.statuses, record.variants = outcome.statuses, outcome.variants
    record.lost, record.refused = outcome.lost, outcome.refused


async def _look(
    port: int, load: Load, began: float, seconds: float, options: argparse.Namespace, record: Record
) -> None:
    said = 0.0
    while True:
        await asyncio.sleep(options.every)
        _take(port, load, began, record)
        last = record.samples[-1]
        if last.time_s - said >= min(30.0, seconds / 10):
            said = last.time_s
            bad = sum(count for status, count in load.outcome.statuses.items() if status != 200)
            print(f"{last.time_s / 60:5.1f} of {seconds / 60:g} min: {last.rss_mib:.1f} MiB, p50 {last.p50_ms:.1f} ms, "
                  f"p99 {last.p99_ms:.1f} ms, {bad} not 200, {load.outcome.lost} lost", flush=True)  # fmt: skip


def _take(port: int, load: Load, began: float, record: Record) -> None:
    """One sample; latencies since the last one."""
    taken, load.outcome.latencies_s = load.outcome.latencies_s, []
    quantiles = np.percentile(taken, [50, 99]) * 1e3 if taken else (float("nan"), float("nan"))
    with contextlib.suppress(OSError, http.client.HTTPException):  # a process that has just ended
        states = {name: process_state(pid) for name, pid in pids(port).items()}
        p50, p99 = (round(float(value), 3) for value in quantiles)
        record.samples.append(Sample(round(time.monotonic() - began, 2), states, len(taken), p50, p99))


async def _refusals(port: int, record: Record) -> None:
    while True:
        for kind in REFUSED:
            await asyncio.sleep(1.0)
            status = await asyncio.to_thread(_refusal, port, kind)
            record.refusals["as expected" if status == REFUSED[kind] else f"{kind}: {status}"] += 1


def _refusal(port: int, kind: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", PATH, os.urandom(200), {"content-type": kind})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


@dataclass(frozen=True)
class Slope:
    """MiB per hour, with its standard error, and the 95 % interval."""

    mib_per_h: float
    standard_error: float
    low: float
    high: float
    num_samples: int
    resolution: float
    """One page over the whole time: less cannot be seen."""

    @property
    def is_flat(self) -> bool:
        return self.low <= self.resolution


def slope_of(times_s: np.ndarray, mib: np.ndarray) -> Slope:
    """Least squares; standard error by Newey and West, Bartlett weights over a tenth of the samples.

    Raises:
        ValueError: fewer than 10 samples, which are no trend.
    """
    if len(times_s) < 10:
        raise ValueError(f"{len(times_s)} samples after the warm-up are too few for a slope")
    hours = np.asarray(times_s, float) / 3600
    centred = hours - hours.mean()
    spread = float(centred @ centred)
    slope = float(centred @ mib) / spread
    scores = centred * (mib - mib.mean() - slope * centred)
    total = float(scores @ scores)
    num_lags = max(1, len(mib) // 10)
    for lag in range(1, num_lags + 1):
        total += 2 * (1 - lag / (num_lags + 1)) * float(scores[lag:] @ scores[:-lag])
    error = float(np.sqrt(max(total, 0.0) * len(mib) / (len(mib) - 2))) / spread
    page = resource.getpagesize() / 2**20 / float(hours[-1] - hours[0])
    return Slope(slope, error, slope - 1.96 * error, slope + 1.96 * error, len(mib), page)


def report(record: Record, options: argparse.Namespace, rate: float, found: float) -> dict[str, Any]:
    """What the samples say."""
    last_s = record.samples[-1].time_s if record.samples else 0.0
    warm_s = max(min(60.0, last_s / 2), 0.2 * last_s)
    kept = [sample for sample in record.samples if sample.time_s >= warm_s]
    times = np.asarray([sample.time_s for sample in kept])
    slopes: dict[str, Any] = {}
    series = {"all": np.asarray([sample.rss_mib for sample in kept])}
    for name in kept[-1].processes if kept else ():
        series[name] = np.asarray([s.processes.get(name, {"rss_kib": np.nan})["rss_kib"] / 1024 for s in kept])
    for name, values in series.items():
        with contextlib.suppress(ValueError):
            slope = slope_of(times, values)
            slopes[name] = {key: round(value, 4) for key, value in asdict(slope).items()} | {"flat": slope.is_flat}
    bad = {status: count for status, count in record.statuses.items() if status != 200}
    no_error = not bad and not record.lost and not record.refused and set(record.refusals) <= {"as expected"}
    flat = slopes["all"]["flat"] if "all" in slopes else None
    partial = record.stopped
    verdict = "too short to tell" if flat is None else "flat within noise" if flat else "grows"
    return {
        "verdict": verdict + (" (partial: interrupted)" if partial else ""), "partial": partial, "no_error": no_error,
        "longest_gap_s": round(max(np.diff([0.0, *(s.time_s for s in record.samples)]), default=0.0), 1),
        "minutes": round(last_s / 60, 2), "asked_minutes": options.minutes, "warm_up_s": round(warm_s, 1),
        "capacity_per_s": round(found, 1), "rate_per_s": round(rate, 1), "workers": options.workers,
        "requests": sum(record.statuses.values()), "statuses": dict(record.statuses), "variants": dict(record.variants),
        "lost": record.lost, "refused_connections": record.refused, "hostile": dict(record.refusals),
        "slopes": slopes, "files": _range(kept, "files"), "threads": _range(kept, "threads"),
        "latency_ms": {key: _median([getattr(s, key) for s in kept]) for key in ("p50_ms", "p99_ms")},
        "machine": load_test.machine(), "samples": [asdict(sample) for sample in record.samples],
    }  # fmt: skip


def _range(samples: list[Sample], key: str) -> list[int]:
    """Least and most, all processes together."""
    totals = [sum(process[key] for process in sample.processes.values()) for sample in samples]
    return [min(totals), max(totals)] if totals else []


def _median(values: list[float]) -> float | None:
    finite = [value for value in values if np.isfinite(value)]
    return round(float(np.median(finite)), 3) if finite else None


def markdown(found: dict[str, Any]) -> str:
    """The report for people."""
    rows = [
        f"| {name} | {s['mib_per_h']:+.3f} | {s['standard_error']:.3f} | {s['low']:+.3f} .. {s['high']:+.3f} | "
        f"{'yes' if s['flat'] else 'no'} |"
        for name, s in found["slopes"].items()
    ]  # fmt: skip
    answers = "no error" if found["no_error"] else "errors, see below"
    return "\n".join([
        "# Soak", "",
        f"`make soak`: **{found['verdict']}, {answers}** after {found['minutes']:g} of {found['asked_minutes']:g} "
        f"minutes at {found['rate_per_s']:g} requests/s (a closed loop got {found['capacity_per_s']:g}/s) "
        f"({found['workers']} worker(s), {found['machine']['cores']} cores shared with the generator). The first "
        f"{found['warm_up_s']:g} s are warm-up.", "",
        f"{found['requests']:,} answers by status {found['statuses']}, lost {found['lost']}, refused connections "
        f"{found['refused_connections']}; requests that must be refused: {found['hostile']}. Latency, median over "
        f"samples: p50 {found['latency_ms']['p50_ms']} ms, p99 {found['latency_ms']['p99_ms']} ms. Open files "
        f"{found['files']}, threads {found['threads']} (least, most). Longest time between two samples: "
        f"{found['longest_gap_s']:g} s (a gap is a pause of the machine or of the generator).", "",
        "| resident memory of | slope, MiB/h | standard error | 95 % interval | flat within noise |",
        "|---|---|---|---|---|",
        *rows, "", "![memory, latency, files and threads over time](soak.png)", "",
    ])  # fmt: skip


def plot(found: dict[str, Any], path: Path) -> None:
    """Memory per process, latency, open files and threads over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    samples = found["samples"]
    minutes = [sample["time_s"] / 60 for sample in samples]
    figure, (memory, latency, counts) = plt.subplots(3, 1, figsize=(9, 9), sharex=True, layout="constrained")
    for name in samples[-1]["processes"] if samples else ():
        values = [s["processes"].get(name, {}).get("rss_kib", np.nan) / 1024 for s in samples]
        memory.plot(minutes, values, label=name)
    title = f"{found['verdict']}, {found['rate_per_s']:g} requests/s"
    memory.set(ylabel="resident memory, MiB", title=title, ylim=(0, None))
    for key in ("p50_ms", "p99_ms"):
        latency.plot(minutes, [sample[key] for sample in samples], label=key.removesuffix("_ms"))
    latency.set(ylabel="latency, ms", yscale="log")
    for key in ("files", "threads"):
        counts.plot(minutes, [sum(p[key] for p in s["processes"].values()) for s in samples], label=key)
    counts.set(ylabel="all processes", xlabel="minutes", ylim=(0, None))
    for axes in (memory, latency, counts):
        axes.axvspan(0, found["warm_up_s"] / 60, alpha=0.1, label="warm-up")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--share", type=float, default=0.8, help="of the measured capacity")
    parser.add_argument("--rate", type=float, help="requests per second, instead of a share of the capacity")
    parser.add_argument("--every", type=float, default=5.0, help="seconds from one sample to the next")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for soak.json, soak.md, soak.png")
    options = parser.parse_args()
    bundle, export = models(REPO / "build" / "soak")
    folder, record = Path(tempfile.mkdtemp(prefix="soak-")), Record()
    body = load_test.npy(np.random.default_rng(0).standard_normal((1, *SHAPE)).astype(np.float32))
    command = [sys.executable, "-m", "lab.cli.main", "serve",
               str(configuration(folder, bundle, export, options.workers)), "port=PORT"]  # fmt: skip
    server, port = load_test.Server("lab", command, PATH, body, load_test.NPY), load_test.free_port()
    try:
        with load_test.running(server, port):
            found = capacity(server, port, 8.0)
            rate = options.rate or options.share * found
            print(f"capacity {found:.0f}/s; {rate:.0f}/s for {options.minutes:g} minutes (Ctrl-C ends and writes)")
            asyncio.run(soak(port, body, options, rate, record))
        result = report(record, options, rate, found)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "soak.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.output / "soak.md").write_text(markdown(result))
    plot(result, options.output / "soak.png")
    print(markdown(result))
    sys.exit(0 if result["no_error"] and "grows" not in result["verdict"] else 1)


if __name__ == "__main__":
    main()

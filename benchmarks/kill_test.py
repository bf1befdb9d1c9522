"""`make kill-test`: what is lost when workers are killed, the endpoint is told to end, queues fill, a variant goes bad.

    killed     kill -9 of a worker under load, again and again: requests lost against the requests in its hands, counts
               that the client and the endpoint have per variant, seconds until the worker listens again
    ended      SIGTERM under load: requests lost
    full       more requests than a slow model takes: how soon the surplus is answered 503
    slow, failing   a variant that answers late, or not: requests until it has lost its weight, and what came after

A request is in a worker's hands when its connection belongs to the worker (/proc/net/tcp) at the moment of the kill;
one connection has one request at a time. Times are this machine's, with whatever else runs on it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import load_test
from benchmarks.load_generator import Load, Outcome, request_bytes

REPO = Path(__file__).resolve().parents[1]
RESULTS = REPO / "benchmarks" / "results"
PATH = "/endpoints/bench/invocations"
X = np.zeros((1, 3, 8, 8), np.float32)
_ESTABLISHED, _LISTEN = "01", "0A"
_WAIT_S = 60.0


def sockets(port: int, state: str) -> set[int]:
    """Inodes of this machine's TCP sockets on a local port in a state."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[9]) for row in rows if row[3] == state and int(row[1].split(":")[1], 16) == port}


def connections_of(pid: int, port: int) -> int:
    """Connections that a process has accepted on a port."""
    held = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        name = os.readlink(descriptor)  # noqa: PTH115  Path.readlink makes a path of "socket:[1]"
        if name.startswith("socket:["):
            held.add(int(name[8:-1]))
    return len(held & sockets(port, _ESTABLISHED))


def get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as reply:
        return reply.read()


def state_of(port: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(port, "/state"))
    return found


def counted(port: int) -> dict[str, int]:
    """Answered requests by variant, as /metrics has them."""
    totals: dict[str, int] = {}
    for line in get(port, "/metrics").decode().splitlines():
        if line.startswith("inference_requests_total{"):
            variant = line.split('variant="')[1].split('"')[0]
            totals[variant] = totals.get(variant, 0) + int(line.split()[-1])
    totals.pop("", None)
    return totals


class Bench:
    """Endpoints of small models that answer at once, and loads on them."""

    def __init__(self, folder: Path) -> None:
        from lab.artifacts.manifest import Manifest
        from lab.core.signature import Signature, TensorSpec

        self.folder = folder
        inputs, outputs = (
            (TensorSpec("x", "float32", ("batch", 3, 8, 8)),),
            (TensorSpec("y", "float32", ("batch", 10)),),
        )
        (folder / "model").mkdir()
        Manifest(kind="onnx", name="zeros", signature=Signature(inputs, outputs)).save(folder / "model")

    @contextmanager
    def serving(self, second: dict[str, Any] | None = None, **config: Any) -> Iterator[tuple[int, int]]:
        """(port, process id of the supervisor) of two variants; `second` changes the other one."""
        common = {"model": str(self.folder / "model"), "engine": "zeros"}
        variants = [
            {"name": "one", "weight": 0.5, **common},
            {"name": "two", "weight": 0.5, **common, **(second or {})},
        ]
        state = tempfile.mkdtemp(dir=self.folder)
        full = {"endpoint": "bench", "variants": variants, "workers": 2, "log": {"state_dir": state}} | config
        path = Path(state) / "config.yaml"
        path.write_text(yaml.safe_dump(full))
        command = [sys.executable, "-m", "lab.cli.main", "serve", str(path), "port=PORT"]
        port = load_test.free_port()
        with load_test.running(load_test.Server("lab", command, PATH, b"", load_test.NPY), port):
            yield port, state_of(port)["workers"]["supervisor"]


def under_load(
    port: int, act: Callable[[Load], Awaitable[None]], connections: int = 8, rate: float | None = None
) -> Outcome:
    """`act` while a load runs, which ends with it."""
    request = request_bytes("127.0.0.1", PATH, load_test.npy(X), load_test.NPY)
    load = Load("127.0.0.1", port, request, connections=connections, rate=rate)

    async def both() -> Outcome:
        running = asyncio.create_task(load.run(600))
        await asyncio.sleep(0.5)
        try:
            await act(load)
        finally:
            load.stop()
        return await running

    return asyncio.run(both())


async def until(condition: Callable[[], bool], what: str) -> float:
    """Seconds until it holds."""
    began = time.perf_counter()
    while not await asyncio.to_thread(condition):
        if time.perf_counter() - began > _WAIT_S:
            raise SystemExit(f"{what} did not happen within {_WAIT_S:g} s")
        await asyncio.sleep(0.005)
    return time.perf_counter() - began


def killed(bench: Bench, rounds: int, pause_s: float) -> dict[str, Any]:
    """Kill -9, round by round, on one endpoint."""
    in_hands: list[int] = []
    lost: list[int] = []
    back_s: list[float] = []
    with bench.serving() as (port, _):

        async def act(load: Load) -> None:
            for number in range(rounds):
                await asyncio.sleep(pause_s if number else 0.5)
                pid = (await asyncio.to_thread(state_of, port))["workers"]["pids"][str(number % 2)]
                before = load.outcome.lost
                in_hands.append(connections_of(pid, port))
                os.kill(pid, signal.SIGKILL)
                await until(lambda: len(sockets(port, _LISTEN)) < 2, "the death of a worker")
                back_s.append(await until(lambda: len(sockets(port, _LISTEN)) == 2, "a worker's return"))
                await asyncio.sleep(0.3)
                lost.append(load.outcome.lost - before)
                print(
                    f"kill {number + 1}: {lost[-1]} lost of {in_hands[-1]} in hand, back in {back_s[-1]:.2f} s",
                    flush=True,
                )

        outcome = under_load(port, act)
        counts, workers = counted(port), state_of(port)["workers"]
    missing = {name: counts[name] - outcome.variants[name] for name in counts}
    return {
        "kills": rounds, "in_hands": in_hands, "lost": lost, "total_lost": outcome.lost,
        "back_s": {"median": round(statistics.median(back_s), 2), "max": round(max(back_s), 2)},
        "answered": dict(outcome.variants), "statuses": dict(outcome.statuses), "counted": counts,
        "counted_but_not_seen": missing, "restarts": workers["restarts"],
        "lost_says_endpoint": workers["lost_requests"],
        "holds": all(one <= held for one, held in zip(lost, in_hands, strict=True))
        and set(outcome.statuses) == {200} and all(gap >= 0 for gap in missing.values())
        and sum(missing.values()) <= outcome.lost,
    }  # fmt: skip


def ended(bench: Bench, rounds: int) -> dict[str, Any]:
    """SIGTERM under load."""
    total, statuses = 0, set()
    answered = 0
    for _ in range(rounds):
        with bench.serving({"faults": {"latency_ms": 5}}) as (port, pid):

            async def act(load: Load, pid: int = pid) -> None:
                os.kill(pid, signal.SIGTERM)
                await until(lambda: not Path(f"/proc/{pid}/fd").exists() or _is_zombie(pid), "the end")

            outcome = under_load(port, act)
        total, answered = total + outcome.lost, answered + len(outcome.latencies_s)
        statuses |= set(outcome.statuses)
    return {"rounds": rounds, "answered": answered, "lost": total, "statuses": sorted(statuses),
            "holds": total == 0 and statuses == {200}}  # fmt: skip


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def full(bench: Bench, seconds: float) -> dict[str, Any]:
    """A variant that takes 400 ms per request and lets two wait, asked 200 times per second."""
    slow = {"faults": {"latency_ms": 400}, "max_queue": 2, "max_batch": 1, "weight": 1.0}
    with bench.serving(slow, workers=1) as (port, _):
        get_weights = json.dumps({"one": 0, "two": 1}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/endpoints/bench/weights", get_weights,
                                         {"content-type": "application/json"})  # fmt: skip
        urllib.request.urlopen(request, timeout=10).close()

        async def act(load: Load) -> None:
            await asyncio.sleep(seconds)

        outcome = under_load(port, act, connections=32, rate=200.0)
    ms = np.asarray(outcome.rejections_s) * 1e3
    figures = {f"p{q:g}_ms": round(float(np.percentile(ms, q)), 2) for q in (50, 99)} | {
        "max_ms": round(float(ms.max()), 2)
    }
    return {"statuses": dict(outcome.statuses), "rejected": len(ms), **figures, "lost": outcome.lost,
            "holds": figures["p99_ms"] <= 50 and outcome.lost == 0}  # fmt: skip


def bad_variant(bench: Bench, faults: dict[str, float]) -> dict[str, Any]:
    """How long a bad variant keeps its weight, and what its requests cost until then."""
    breaker = {"p99_limit_ms": 100.0, "p99_window_s": 2.0, "p99_windows": 2, "p99_min_requests": 20}
    guard = {"control": "one", "breaker": breaker, "latency": None}
    took: list[float] = []
    with bench.serving({"faults": faults}, guard=guard) as (port, _):

        def has_lost() -> bool:
            variants = state_of(port)["endpoints"][0]["variants"]
            return {one["name"]: one["weight"] for one in variants}["two"] == 0.0

        before: dict[str, Any] = {}

        async def act(load: Load) -> None:
            took.append(await until(has_lost, "the loss of the weight"))
            await asyncio.sleep(0.7)
            before.update(statuses=dict(load.outcome.statuses), of_bad=load.outcome.variants["two"])
            load.outcome.statuses.clear()
            load.outcome.variants.clear()
            load.outcome.latencies_s.clear()
            await asyncio.sleep(2.0)

        outcome = under_load(port, act, connections=16, rate=200.0)
    p99 = round(float(np.percentile(np.asarray(outcome.latencies_s) * 1e3, 99)), 1)
    return {"faults": faults, "seconds_until_weight_0": round(took[0], 2), "statuses_until_then": before["statuses"],
            "statuses_after": dict(outcome.statuses), "variants_after": dict(outcome.variants), "p99_after_ms": p99,
            "holds": set(outcome.statuses) == {200} and "two" not in outcome.variants}  # fmt: skip


def markdown(found: dict[str, Any]) -> str:
    """The report for people."""
    kill, end, queue, slow, failing = (found[name] for name in ("killed", "ended", "full", "slow", "failing"))
    rows = [
        (f"kill -9 of a worker under load, {kill['kills']} times", f"{kill['total_lost']} requests lost of "
         f"{sum(kill['in_hands'])} in the workers' hands; never more than in hand: {_yes(kill)}"),
        ("counts", f"client saw {kill['answered']}, endpoint counted {kill['counted']}: counted and cut off on their "
         f"way {kill['counted_but_not_seen']}"),
        ("back", f"listens again {kill['back_s']['median']} s after the kill (median; longest "
         f"{kill['back_s']['max']} s)"),
        (f"SIGTERM under load, {end['rounds']} times",
         f"{end['lost']} of {end['answered']} lost, statuses {end['statuses']}"),
        ("full queue", f"{queue['rejected']} of them 503: p50 {queue['p50_ms']} ms, p99 {queue['p99_ms']} ms, longest "
         f"{queue['max_ms']} ms, lost {queue['lost']}"),
        ("variant that takes 300 ms (limit 100)", _bad(slow)), ("variant that fails", _bad(failing)),
    ]  # fmt: skip
    lines = [f"| {what} | {result} |" for what, result in rows]
    machine = found["machine"]
    load = machine["load_average_1min"]
    head = f"`make kill-test`, {machine['cores']} cores shared with the client, load average {load} at the start."
    return "\n".join(["# Killed, ended, overloaded", "", head, "", "| what | result |", "|---|---|", *lines, ""])


def _bad(row: dict[str, Any]) -> str:
    return (f"weight 0 after {row['seconds_until_weight_0']} s, until then {row['statuses_until_then']}; afterwards "
            f"{row['statuses_after']} by {row['variants_after']}, p99 {row['p99_after_ms']} ms")  # fmt: skip


def _yes(row: dict[str, Any]) -> str:
    return "yes" if row["holds"] else "NO"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pause", type=float, default=10.5, help="seconds between; quicker deaths are a crash loop")
    parser.add_argument("--terms", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="with a full queue")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for kill_test.json and kill_test.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-test-") as scratch:
        bench = Bench(Path(scratch))
        found = {
            "machine": load_test.machine(), "killed": killed(bench, options.kills, options.pause),
            "ended": ended(bench, options.terms), "full": full(bench, options.seconds),
            "slow": bad_variant(bench, {"latency_ms": 300.0}),
            "failing": bad_variant(bench, {"error_rate": 1.0}),
        }  # fmt: skip
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "kill_test.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.output / "kill_test.md").write_text(markdown(found))
    print(markdown(found))
    sys.exit(0 if all(row.get("holds", True) for row in found.values()) else 1)


if __name__ == "__main__":
    main()

"""`make demo-canary`: the story of two rollouts, from training to MLflow, as one command.

    train    three ResNet-20 on Fashion-MNIST: 60 batches ("current"), 240 ("better"), 12 ("broken": it ended too early)
    compile  each for this CPU, compared with ONNX Runtime, registered as a version of one model
    serve    configs/endpoints/demo_canary.yaml; test images come as PNG, and each answer's truth goes to /feedback
    ramp     "better" to 100 %: the guard promotes it. Then "broken": the guard rolls it back
    sync     both rollouts into MLflow; the registry's aliases follow

Nothing is decided here: what the variants are worth is measured on test images by the endpoint's own guard. What an
earlier call trained and compiled is used again (--fresh does not).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lab.artifacts.rundir import RunDir, list_runs
from lab.data.draw import png
from lab.data.resolve import open_dataset
from lab.tracking.server import connect, resolve_uri

REPO = Path(__file__).resolve().parents[1]
RUNS, STATE = Path("runs/demo-canary"), Path("runs/endpoints")
RECIPE, ENDPOINT = "configs/classification/fashion_mnist.yaml", "configs/endpoints/demo_canary.yaml"
NAME, MODEL = "demo-canary", "classification-canary-x86"
NUM_BATCHES = {"current": 60, "better": 240, "broken": 12}
ALIASES = {"current": "champion", "better": "challenger", "broken": "nightly"}
NUM_IMAGES = 4000
READY = re.compile(r"is ready on http://([^:]+):(\d+)")
ROLLOUT_S = 240.0
STATUSES = ("ok", "client_error", "model_error", "rejected")
BEGAN = time.monotonic()


def tell(text: str) -> None:
    print(f"[{time.monotonic() - BEGAN:5.0f} s] {text}", flush=True)


def lab(*arguments: str, quiet: bool = True) -> str:
    """Run a lab command; its standard output. Ends the demo with what it said when it fails."""
    command = [sys.executable, "-m", "lab.cli.main", *arguments]
    done = subprocess.run(command, cwd=REPO, capture_output=quiet, text=True)
    if done.returncode:
        raise SystemExit(f"lab {' '.join(arguments)} failed:\n{(done.stderr or '')[-3000:]}")
    return done.stdout or ""


def trained(variant: str) -> RunDir:
    """The run of a variant, trained now where there is none; runs are told apart by their number of batches."""
    wanted = NUM_BATCHES[variant]
    for run in list_runs(RUNS):
        config = run.config.read_text(encoding="utf-8")
        if run.weights.exists() and f"limit_train_batches: {wanted}\n" in config:
            tell(f"{variant}: trained before ({run.path})")
            return run
    tell(f"{variant}: training on {wanted} batches of 128 images ...")
    overrides = ["name=canary", "train.epochs=1", f"train.limit_train_batches={wanted}", f"runs_dir={RUNS}"]
    report = json.loads(lab("train", RECIPE, *overrides, "--json"))
    accuracy = report["metrics"]["test/accuracy"]
    tell(f"{variant}: accuracy on the 10,000 test images {accuracy:.1%}")
    return RunDir(Path(report["run"]))


def registered(variant: str, run: RunDir, client: Any) -> str:
    """The version of the registered model that is this run's bundle."""
    for force in ([], ["--force"]):  # a bundle that is there, in a registry that is new
        report = json.loads(lab("compile", str(run.path), "--target", "x86", "--json", *force))
        rung = report["parity"][-1]
        for version in client.search_model_versions(f"name = '{MODEL}'"):
            if version.tags.get("lab.run") == f"compile x86 {run.name}":
                took = (
                    "was compiled before"
                    if report["skipped"]
                    else f"compiled in {report['durations_s']['compile']:.0f} s"
                )
                tell(
                    f"{variant}: {took}, within {rung['max_abs_error']:.1e} of ONNX Runtime: version {version.version}"
                )
                return str(version.version)
    raise SystemExit(f"{MODEL} has no version of {run.path}: was the tracking server reachable?")


class Traffic:
    """Clients that send test images, look at the answers and report whether they were right.

    Args:
        rate: images per second over all clients.
    """

    def __init__(self, address: tuple[str, int], rate: float, num_clients: int = 4) -> None:
        data = open_dataset("fashion-mnist", "test")
        samples = [data[index] for index in range(NUM_IMAGES)]
        self._bodies = [(png(sample.image), int(sample.label)) for sample in samples]
        self._address, self._period_s = address, num_clients / rate
        self.statuses: Counter[int] = Counter()
        self.right: dict[str, list[int]] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._client, args=(n,), daemon=True) for n in range(num_clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def _client(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        connection = http.client.HTTPConnection(*self._address, timeout=30)
        due = time.monotonic()
        while not self._stop.is_set():
            body, label = self._bodies[int(rng.integers(len(self._bodies)))]
            self._ask(connection, body, label)
            due = max(due + self._period_s, time.monotonic() - 1.0)
            time.sleep(max(0.0, due - time.monotonic()))
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, body: bytes, label: int) -> None:
        try:
            connection.request("POST", f"/endpoints/{NAME}/invocations", body, {"content-type": "image/png"})
            reply = connection.getresponse()
            content = reply.read()
        except (OSError, http.client.HTTPException):
            connection.close()  # the next request opens it again
            with self._lock:
                self.statuses[0] += 1
            return
        right = reply.status == 200 and int(np.argmax(json.loads(content))) == label
        with self._lock:
            self.statuses[reply.status] += 1
            seen = self.right.setdefault(reply.headers.get("x-Amzn-Invoked-Production-Variant", "none"), [0, 0])
            seen[0] += right
            seen[1] += 1
        if reply.status == 200:
            outcome = {"inference_id": reply.headers["X-Lab-Inference-Id"], "metric": "correct", "value": int(right)}
            connection.request("POST", f"/endpoints/{NAME}/feedback", json.dumps(outcome))
            connection.getresponse().read()


def call(address: tuple[str, int], method: str, path: str, document: Any = None) -> Any:
    connection = http.client.HTTPConnection(*address, timeout=30)
    body = None if document is None else json.dumps(document)
    connection.request(method, path, body, {"content-type": "application/json"})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    if reply.status >= 400:
        raise SystemExit(f"{method} {path}: {reply.status} {content[:500]!r}")
    return json.loads(content)


@contextlib.contextmanager
def served(port: int) -> Iterator[tuple[str, int]]:
    """`lab serve`, until the block ends; its messages are shown."""
    command = [sys.executable, "-m", "lab.cli.main", "serve", ENDPOINT, f"port={port}"]
    process = subprocess.Popen(
        command, cwd=REPO, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    found: list[tuple[str, int]] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            tell(f"  lab serve | {line.rstrip()}")
            if match := READY.search(line):
                found.append((match[1], int(match[2])))
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        ready.wait(180)
        if not found:
            raise SystemExit("the endpoint did not start")
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        reader.join(5)


def rollout(address: tuple[str, int], candidate: str) -> dict[str, Any]:
    """Begin to shift traffic to a variant and wait for the guard's verdict."""
    tell(f"--- rollout of '{candidate}' begins ---")
    seen = len(call(address, "GET", "/state")["decisions"])
    call(address, "POST", f"/endpoints/{NAME}/rollout", {"variant": candidate})
    ends = time.monotonic() + ROLLOUT_S
    while time.monotonic() < ends:
        time.sleep(0.5)
        for decision in call(address, "GET", "/state")["decisions"][seen:]:
            if decision["kind"] in ("promote", "rollback", "invalid"):
                show(decision)
                return dict(decision)
    raise SystemExit(f"no verdict on '{candidate}' within {ROLLOUT_S:g} s: see http://{address[0]}:{address[1]}/ui")


def show(decision: dict[str, Any]) -> None:
    """The evidence in a line each."""
    evidence = decision["evidence"]
    tell(f"=== {decision['kind'].upper()} of '{evidence['variant']}': {decision['reason']}")
    for metric, found in evidence.get("metrics", {}).items():
        better = found["improvement"]
        if better:
            means = f"{found['candidate']['estimate']:.3f} against {found['control']['estimate']:.3f}"
            bounds = f"between {better['low']:+.3f} and {better['high']:+.3f} (level {found['alpha']})"
            tell(f"    {metric}: {means}; improvement {bounds}")
    totals = evidence.get("totals", {})
    counted = {name: sum(total.get(status, 0) for status in STATUSES) for name, total in totals.items()}
    tell(f"    requests: {counted}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=100.0, help="images per second")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--fresh", action="store_true", help="train and compile again")
    parser.add_argument("--linger", type=float, default=0.0, help="seconds to go on serving after the second verdict")
    options = parser.parse_args()
    os.chdir(REPO)
    if options.fresh:
        shutil.rmtree(RUNS, ignore_errors=True)
    shutil.rmtree(STATE / NAME, ignore_errors=True)  # a story of its own each time
    uri = resolve_uri(None)
    tell(f"MLflow: {uri}")
    runs = {variant: trained(variant) for variant in NUM_BATCHES}
    client = connect(uri)
    for variant, run in runs.items():
        client.set_registered_model_alias(MODEL, ALIASES[variant], registered(variant, run, client))
    with served(options.port) as address:
        tell(f"live page: http://{address[0]}:{address[1]}/ui")
        traffic = Traffic(address, options.rate)
        time.sleep(10)  # the control's latency becomes known
        verdicts = {name: rollout(address, name)["kind"] for name in ("better", "broken")}
        time.sleep(options.linger)
        traffic.stop()
    tell(
        f"answers by status: {dict(traffic.statuses)}; right answers: "
        + ", ".join(f"{name} {right}/{num} = {right / num:.1%}" for name, (right, num) in traffic.right.items())
    )
    tell("telling MLflow ...")
    told = json.loads(lab("endpoints", "sync", NAME, "--json"))["synced"][0]
    tell(f"MLflow has {told['num_samples']} samples and {told['num_decisions']} decisions of it (run {told['run_id']})")
    aliases = client.get_registered_model(MODEL).aliases
    tell("registry: " + ", ".join(f"{alias} = version {version}" for alias, version in sorted(aliases.items())))
    tell("look at it: make ui, experiment lab-endpoints: tick the variants below demo-canary, then Compare")
    if verdicts != {"better": "promote", "broken": "rollback"} or set(traffic.statuses) != {200}:
        raise SystemExit(f"not the story that was expected: {verdicts}, statuses {dict(traffic.statuses)}")


if __name__ == "__main__":
    main()

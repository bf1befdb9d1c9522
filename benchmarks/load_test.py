"""`make load-test`: what the endpoint adds to a model, beside other servers on the same machine in the same run.

    no-op       a model that answers zeros, 500 requests/s: latency that the server and the client's own work make up
    throughput  ResNet-18 with .npy or binary tensors: requests/s against the bare runner's; everyone has as many
                one-threaded ONNX Runtime sessions as there are cores

Servers take turns, round by round, so that other work on the machine falls on all alike; figures are medians over
rounds. The generator is a process of its own; its share of a core is in the table. MLflow's server takes no binary
tensors and gets JSON; LitServe takes bytes in a form only. Both are part of what they cost.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

REPO = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).parent / "serving_peers"
LITSERVE = REPO / "build" / "peers" / "litserve" / "bin" / "python"
SHAPE = (3, 224, 224)
NPY, JSON, OIP = "application/x-npy", "application/json", "application/octet-stream"
RATE = 500.0
NUM_CORES = len(os.sched_getaffinity(0))


@dataclass
class Server:
    """How to start a server and what to send it."""

    name: str
    command: list[str]
    path: str
    body: bytes
    content_type: str
    ready_path: str = "/ping"
    environment: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


@contextlib.contextmanager
def running(server: Server, port: int) -> Iterator[None]:
    """The server, from its first answer on."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | server.environment
    command = [part.replace("PORT", str(port)) for part in server.command]
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed below, after the process that writes to it
    process = subprocess.Popen(command, env=environment, cwd=REPO, stdout=log, stderr=log, process_group=0)
    try:
        ends = time.monotonic() + 120
        while not answers(f"http://127.0.0.1:{port}{server.ready_path}"):
            if process.poll() is not None or time.monotonic() > ends:
                log.seek(0)
                raise SystemExit(f"{server.name} did not start:\n{log.read()[-3000:]}")
            time.sleep(0.2)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def load(server: Server, port: int, seconds: float, connections: int, rate: float | None) -> dict[str, Any]:
    """One load by the generator, in a process of its own."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(server.body)
        body.flush()
        command = [sys.executable, str(Path(__file__).with_name("load_generator.py")), "127.0.0.1", str(port),
                   server.path, body.name, "--content-type", server.content_type, "--seconds", str(seconds),
                   "--connections", str(connections)]  # fmt: skip
        command += [part for name, value in server.headers.items() for part in ("--header", f"{name}={value}")]
        command += ["--method", server.method] + (["--rate", str(rate)] if rate else [])
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def multipart(content: bytes) -> tuple[bytes, str]:
    """A form with one file: the one way into LitServe for bytes; and its content type."""
    head = b'--edge\r\nContent-Disposition: form-data; name="x"; filename="x.npy"\r\n\r\n'
    return head + content + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge"


def oip(array: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """An `infer` request with one binary tensor, and the header that goes with it."""
    entry = {"name": "image", "shape": list(array.shape), "datatype": "FP32",
             "parameters": {"binary_data_size": array.nbytes}}  # fmt: skip
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    return head + array.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def make_model(folder: Path) -> Path:
    """torchvision's ResNet-18 without its weights, as an export folder; made once."""
    if (folder / "manifest.json").exists():
        return folder
    import torch
    from torchvision.models import resnet18

    from lab.artifacts.manifest import Manifest
    from lab.core.signature import Signature, TensorSpec

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        resnet18().eval(), (torch.zeros(2, *SHAPE),), str(folder / "model.onnx"), dynamo=True, external_data=False,
        input_names=["image"], output_names=["logits"], dynamic_shapes=[{0: batch}],
    )  # fmt: skip
    signature = Signature(
        (TensorSpec("image", "float32", ("batch", *SHAPE)),), (TensorSpec("logits", "float32", ("batch", 1000)),)
    )
    Manifest(kind="onnx", name="resnet18", signature=signature).with_files(folder, ["model.onnx"]).save(folder)
    return folder


def lab_config(folder: Path, model: Path, engine: str) -> Path:
    """A configuration of one variant; a model that computes gets an executor per core, as the other servers do."""
    executors = 1 if engine == "zeros" else NUM_CORES
    config = {
        "endpoint": "bench", "log": {"state_dir": str(folder / "state")},
        "variants": [{"name": "v", "model": str(model), "engine": engine, "max_batch": 1,
                      "executor_threads": executors}],
    }  # fmt: skip
    path = folder / f"{engine}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def mlflow_model(folder: Path, onnx_file: Path | None) -> Path:
    """An MLflow model: the ONNX flavor, or a python function that answers zeros."""
    code = """
import sys, mlflow, onnx, numpy as np
from mlflow.models import infer_signature
target, source = sys.argv[1:3]
signature = infer_signature(np.zeros((1, 3, 224, 224), np.float32), np.zeros((1, 1000), np.float32))
if source:
    mlflow.onnx.save_model(onnx.load(source), target, signature=signature)
else:
    class Zeros(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return np.zeros((len(model_input), 1000), np.float32)
    mlflow.pyfunc.save_model(target, python_model=Zeros(), signature=infer_signature(np.zeros((1, 4), np.float32)))
"""
    target = folder / ("mlflow-onnx" if onnx_file else "mlflow-zeros")
    subprocess.run([sys.executable, "-c", code, str(target), str(onnx_file or "")], check=True, capture_output=True)
    return target


def servers(folder: Path, model: Path, x: np.ndarray, *, noop: bool) -> list[Server]:
    """All that can be run here; those that cannot are said."""
    python, onnx_file = sys.executable, "" if noop else str(model / "model.onnx")
    config = lab_config(folder, model, "zeros" if noop else "auto")
    lab = [python, "-m", "lab.cli.main", "serve", str(config), "port=PORT"]
    body, headers = oip(x)
    found = [
        Server("lab, npy", lab, "/invocations", npy(x), NPY),
        Server("lab, OIP binary", lab, "/v2/models/bench/infer", body, OIP, headers=headers),
        Server("FastAPI + ONNX Runtime", [python, "-m", "uvicorn", "--app-dir", str(PEERS), "fastapi_app:app", "--port",
               "PORT", "--log-level", "warning"], "/invocations", npy(x), NPY, environment={"MODEL": onnx_file}),
    ]  # fmt: skip
    if LITSERVE.exists():
        command = [str(LITSERVE), str(PEERS / "litserve_app.py"), "PORT"]
        body, kind = multipart(npy(x))
        environment = {"MODEL": onnx_file, "WORKERS": str(1 if noop else NUM_CORES)}
        found.append(Server("LitServe", command, "/invocations", body, kind, "/health", environment))
    else:
        print(f"LitServe is not measured: {LITSERVE} is missing (a venv there with litserve and onnxruntime)")
    target = mlflow_model(folder, None if noop else model / "model.onnx")
    values = np.zeros((1, 4), np.float32) if noop else x
    found.append(Server(
        "mlflow models serve", [python, "-m", "mlflow", "models", "serve", "-m", str(target), "-p", "PORT",
        "--env-manager", "local", "-w", str(1 if noop else NUM_CORES)], "/invocations",
        json.dumps({"inputs": values.tolist()}).encode(), JSON,
        environment={"PATH": f"{Path(python).parent}:{os.environ['PATH']}"},
    ))  # fmt: skip
    return found


def runner_rate(model: Path, x: np.ndarray, seconds: float) -> float:
    """Requests per second of the bare runner: a thread per core with an instance each, in a process of its own."""
    code = """
import sys, threading, time, numpy as np
from lab.runtime.models import open_model
x, counts = {"image": np.load(sys.argv[2])}, []
runners = [open_model(sys.argv[1], num_threads=1) for _ in range(int(sys.argv[4]))]
def work(runner, ends):
    count = 0
    while time.perf_counter() < ends:
        runner.run(x); count += 1
    counts.append(count)
[runner.run(x) for runner in runners for _ in range(3)]
began = time.perf_counter()
threads = [threading.Thread(target=work, args=(r, began + float(sys.argv[3]))) for r in runners]
[t.start() for t in threads]; [t.join() for t in threads]
print(sum(counts) / (time.perf_counter() - began))
"""
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, x)
        file.flush()
        command = [sys.executable, "-c", code, str(model), file.name, str(seconds), str(NUM_CORES)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=REPO)
    return float(done.stdout)


def overhead_of(port: int) -> dict[str, float] | None:
    """The server's own view of what it adds: p50 and p99 of request minus execution, in ms."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            text = reply.read().decode()
    except OSError:
        return None
    prefix = "inference_overhead_duration_seconds_bucket"
    rows = [line for line in text.splitlines() if line.startswith(prefix)]
    pairs = [(float(row.split('le="')[1].split('"')[0]), float(row.split()[-1])) for row in rows]
    total = pairs[-1][1] if pairs else 0.0
    if not total:
        return None
    return {f"p{q}": next(le for le, count in pairs if count >= q / 100 * total) * 1e3 for q in (50, 99)}


def measure(
    found: list[Server], rounds: int, seconds: float, connections: int, rate: float | None
) -> list[dict[str, Any]]:
    """One row per server: medians over rounds in which they take turns."""
    results: dict[str, list[dict[str, Any]]] = {server.name: [] for server in found}
    for number in range(rounds):
        for server in found:
            port = free_port()
            with running(server, port):
                load(server, port, min(1.0, seconds), connections, rate)
                row = load(server, port, seconds, connections, rate)
                if server.name.startswith("lab"):
                    row["server_overhead_ms"] = overhead_of(port)
            shown = f"{row['requests_per_s']}/s, p50 {row['p50_ms']} ms, p99 {row['p99_ms']} ms"
            print(f"round {number + 1}: {server.name}: {shown}")
            results[server.name].append(row)
    return [merged(name, rows) for name, rows in results.items()]


def merged(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ("requests_per_s", "p50_ms", "p90_ms", "p99_ms", "generator_cores")
    bad = sum(count for row in rows for status, count in row["statuses"].items() if status != "200")
    medians = {key: round(statistics.median(row[key] for row in rows), 3) for key in keys}
    best = {"best_p50_ms": min(row["p50_ms"] for row in rows), "best_p99_ms": min(row["p99_ms"] for row in rows)}
    own = [row["server_overhead_ms"] for row in rows if row.get("server_overhead_ms")]
    overhead = {f"server_overhead_{q}_ms": min(o[q] for o in own) for q in ("p50", "p99")} if own else {}
    return {"server": name, **medians, **best, **overhead, "not_200": bad, "lost": sum(row["lost"] for row in rows)}


def table(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release(),
            "load_average_1min": round(os.getloadavg()[0], 2)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="export folder with one input `image`; default: ResNet-18")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["noop", "throughput"])
    parser.add_argument("--output", type=Path, default=REPO / "benchmarks" / "results" / "load_test.json")
    options = parser.parse_args()
    x = np.random.default_rng(0).standard_normal((1, *SHAPE)).astype(np.float32)
    report: dict[str, Any] = {"machine": machine(), "rate": RATE, "rounds": options.rounds, "seconds": options.seconds}
    with tempfile.TemporaryDirectory() as scratch:
        if options.only != "throughput":
            tiny = x[:, :, :1, :1]
            report["noop"] = measure(noop_servers(Path(scratch), tiny), options.rounds, options.seconds, 8, RATE)
            print(table(report["noop"]))
        if options.only != "noop":
            model = options.model or make_model(REPO / "build" / "load_test" / "resnet18")
            found = servers(Path(scratch), model, x, noop=False)
            report["runner_per_s"], report["throughput"] = throughput(found, model, x, options)
            print(table(report["throughput"]))
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {options.output}")


def noop_servers(folder: Path, x: np.ndarray) -> list[Server]:
    """Servers of a model of one small input that answers zeros."""
    from lab.artifacts.manifest import Manifest
    from lab.core.signature import Signature, TensorSpec

    model = folder / "zeros"
    model.mkdir()
    shape = ("batch", *x.shape[1:])
    signature = Signature((TensorSpec("image", "float32", shape),), (TensorSpec("logits", "float32", ("batch", 1000)),))
    Manifest(kind="onnx", name="zeros", signature=signature).save(model)
    found = servers(folder, model, x, noop=True)
    # What a request costs that does nothing: HTTP, this machine's wake-ups, and the generator.
    floor = Server("lab, HTTP alone", found[0].command, "/v2/health/live", b"", NPY, method="GET")
    return [floor, *found]


def throughput(found: list[Server], model: Path, x: np.ndarray, options: Any) -> tuple[float, list[dict[str, Any]]]:
    """Rounds of the bare runner and of every server in turn; each server's share of the runner's rate."""
    runner, rounds = [], []
    for _ in range(options.rounds):
        runner.append(runner_rate(model, x, options.seconds))
        rounds.append(measure(found, 1, options.seconds, 4, None))
    rows = []
    for at, server in enumerate(found):
        shares = [row[at]["requests_per_s"] / rate for row, rate in zip(rounds, runner, strict=True)]
        row = {"server": server.name, "of_runner": round(statistics.median(shares), 3)}
        for key in ("requests_per_s", "p50_ms", "p99_ms", "generator_cores"):
            row[key] = round(statistics.median(r[at][key] for r in rounds), 3)
        rows.append(
            row | {"not_200": sum(r[at]["not_200"] for r in rounds), "lost": sum(r[at]["lost"] for r in rounds)}
        )
    return round(statistics.median(runner), 2), rows


if __name__ == "__main__":
    main()

"""What happens to requests when processes die, drain, fill up, or change what they serve."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.kill_test import connections_of
from benchmarks.load_generator import Load, Outcome, request_bytes
from tests.serve.models import SIZE
from tests.serve.served import Served, serving, write_config

PATH = "/endpoints/shop/invocations"


def body() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((1, 3, SIZE, SIZE), np.float32))
    return buffer.getvalue()


def under_load(
    served: Served, act: Callable[[Load], Awaitable[None]], seconds: float = 20.0, connections: int = 4
) -> Outcome:
    """Run `act` while a closed loop of requests runs; the load ends when `act` does, or stops it."""
    request = request_bytes(served.host, PATH, body(), "application/x-npy")
    load = Load(served.host, served.port, request, connections=connections)

    async def both() -> Outcome:
        running = asyncio.create_task(load.run(seconds))
        await asyncio.sleep(0.5)
        await act(load)
        load.stop()
        return await running

    return asyncio.run(both())


async def call(served: Served, method: str, path: str, document: Any = None) -> Any:
    content = None if document is None else json.dumps(document).encode()
    headers = {"content-type": "application/json"}
    reply = await asyncio.to_thread(served.call, method, path, content, headers)
    assert reply.status == 200, reply
    return json.loads(reply.body)


def requests_by_variant(served: Served) -> Counter[str]:
    text = served.call("GET", "/metrics").body.decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    found: Counter[str] = Counter()
    for sample in families["inference_requests"].samples:
        if sample.labels["variant"]:
            found[sample.labels["variant"]] += int(sample.value)
    return found


def two_variants(model_root: Path, **changes: Any) -> list[dict[str, Any]]:
    return [
        {"name": "one", "model": str(model_root / "first"), "weight": 0.9, **changes},
        {"name": "two", "model": str(model_root / "second"), "weight": 0.1, **changes},
    ]


def test_live_weights_and_reload_lose_no_request(model_root: Path, tmp_path: Path) -> None:
    config = write_config(
        tmp_path / "c.yaml", tmp_path / "state", variants=two_variants(model_root),
        security={"model_root": str(model_root)},
    )  # fmt: skip
    with serving(config) as served:

        async def change(load: Load) -> None:
            for weight in (0.5, 0.0, 1.0, 0.3, 0.5):
                await call(served, "POST", "/endpoints/shop/weights", {"one": 1 - weight, "two": weight})
                await asyncio.sleep(0.2)
            for model in ("no-golden", "second"):
                await call(served, "POST", "/endpoints/shop/reload", {"variant": "two", "model": model})
                await asyncio.sleep(0.2)

        outcome = under_load(served, change)
        assert (outcome.lost, outcome.refused, set(outcome.statuses)) == (0, 0, {200})
        assert set(outcome.variants) == {"one", "two"}
        refused = served.call(
            "POST", "/endpoints/shop/reload", b'{"variant": "two", "model": "wrong-golden"}',
            {"content-type": "application/json"},
        )  # fmt: skip
        assert b"is not what the model gave when it was built" in refused.body
        assert served.call("POST", PATH, body(), {"content-type": "application/x-npy"}).status == 200


def test_a_killed_worker_comes_back_and_loses_no_count(model_root: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yaml", tmp_path / "state", variants=two_variants(model_root), workers=2)
    back: dict[str, float] = {}
    in_hands = []
    with serving(config) as served:

        async def kill(load: Load) -> None:
            state = await call(served, "GET", "/state")
            in_hands.append(connections_of(state["workers"]["pids"]["0"], served.port))
            os.kill(state["workers"]["pids"]["0"], signal.SIGKILL)
            line = await asyncio.to_thread(served.wait_for_line, r"worker 0 serves again after")
            back["s"] = float(line.split()[-2])
            await asyncio.sleep(0.3)

        outcome = under_load(served, kill, connections=4)
        assert outcome.lost <= in_hands[0]  # one request per connection, and whoever came back found the other worker
        assert set(outcome.statuses) == {200}
        counted = requests_by_variant(served)
        cut_off = {name: counted[name] - outcome.variants[name] for name in counted}
        assert set(cut_off) == {"one", "two"}
        assert min(cut_off.values()) >= 0  # what a client saw answered is counted, for its variant
        assert sum(cut_off.values()) <= outcome.lost
        state = json.loads(served.call("GET", "/state").body)
        assert state["workers"]["restarts"] == 1
        assert all(os.path.exists(f"/proc/{pid}") for pid in state["workers"]["pids"].values())  # noqa: PTH110
        assert back["s"] < 20  # the time itself is what `make load-test` measures on a quiet machine


def test_sigterm_cuts_off_no_one_who_comes_back(model_root: Path, tmp_path: Path) -> None:
    """Every answer says goodbye, so that clients open new connections until the very end: all of them are answered."""
    config = write_config(tmp_path / "c.yaml", tmp_path / "state", variants=two_variants(model_root), workers=2)
    for _ in range(3):
        with serving(config) as served:

            async def end(load: Load, served: Served = served) -> None:
                served.process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(served.process.wait, 30)

            outcome = under_load(served, end, connections=12)
            assert (outcome.lost, set(outcome.statuses)) == (0, {200})


def test_sigterm_answers_all_it_took(model_root: Path, tmp_path: Path) -> None:
    variants = two_variants(model_root, faults={"latency_ms": 20})
    config = write_config(tmp_path / "c.yaml", tmp_path / "state", variants=variants)
    with serving(config) as served:

        async def end(load: Load) -> None:
            served.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(served.process.wait, 30)

        outcome = under_load(served, end)
        assert served.process.returncode == 0
        assert outcome.lost == 0
        assert set(outcome.statuses) == {200}
        assert outcome.statuses[200] > 20


def test_a_full_queue_refuses_at_once(model_root: Path, tmp_path: Path) -> None:
    slow = {"name": "slow", "model": str(model_root / "first"), "max_queue": 2, "max_batch": 1,
            "faults": {"latency_ms": 400}}  # fmt: skip
    config = write_config(tmp_path / "c.yaml", tmp_path / "state", variants=[slow])
    with serving(config) as served:
        refusals: list[float] = []

        async def one() -> int:
            began = time.perf_counter()
            reply = await asyncio.to_thread(served.call, "POST", PATH, body(), {"content-type": "application/x-npy"})
            if reply.status == 503:
                refusals.append(time.perf_counter() - began)
                assert reply.headers["retry-after"] == "1"
                assert json.loads(reply.body)["message"].startswith("the queue of variant slow is full")
            return reply.status

        async def many() -> list[int]:
            return await asyncio.gather(*(one() for _ in range(10)))

        statuses = asyncio.run(many())
        assert sorted(statuses) == [200] * 3 + [503] * 7
        assert max(refusals) < 0.4  # none of them waited for the model


def test_a_deadline_drops_what_waited_too_long(model_root: Path, tmp_path: Path) -> None:
    slow = {"name": "slow", "model": str(model_root / "first"), "max_batch": 1, "deadline_ms": 150,
            "faults": {"latency_ms": 400}}  # fmt: skip
    config = write_config(tmp_path / "c.yaml", tmp_path / "state", variants=[slow])
    with serving(config) as served:

        async def many() -> list[int]:
            calls = [
                asyncio.to_thread(served.call, "POST", PATH, body(), {"content-type": "application/x-npy"})
                for _ in range(4)
            ]
            return sorted(reply.status for reply in await asyncio.gather(*calls))

        began = time.perf_counter()
        assert asyncio.run(many()) == [200, 504, 504, 504]
        assert time.perf_counter() - began < 4 * 0.4  # the three were not run


def test_a_failing_variant_loses_its_weight_and_the_endpoint_goes_on(model_root: Path, tmp_path: Path) -> None:
    variants = two_variants(model_root)
    variants[1] |= {"weight": 0.5, "faults": {"error_rate": 1.0}}
    config = write_config(tmp_path / "c.yaml", tmp_path / "state", variants=variants, guard={"control": "one"})
    with serving(config) as served:

        async def wait(load: Load) -> None:
            await asyncio.to_thread(served.wait_for_line, "guard of shop: rollback", 20.0)
            await asyncio.sleep(0.3)
            load.outcome.statuses.clear()
            await asyncio.sleep(0.5)

        outcome = under_load(served, wait)
        assert set(outcome.statuses) == {200}
        state = json.loads(served.call("GET", "/state").body)["endpoints"][0]
        assert {v["name"]: v["weight"] for v in state["variants"]}["two"] == 0.0
        assert "two" in state["guard"]["stopped"]
        reply = served.call(
            "POST", PATH, body(), {"content-type": "application/x-npy", "x-amzn-sagemaker-target-variant": "two"}
        )
        assert reply.status == 424
        assert "Traceback" not in reply.body.decode()
        assert json.loads(reply.body)["OriginalStatusCode"] == 500


def test_a_slow_variant_loses_its_weight_and_the_endpoint_goes_on(model_root: Path, tmp_path: Path) -> None:
    variants = two_variants(model_root)
    variants[1] |= {"weight": 0.5, "faults": {"latency_ms": 150}}
    breaker = {"p99_limit_ms": 100, "p99_window_s": 1.0, "p99_windows": 2, "p99_min_requests": 3}
    guard = {"control": "one", "breaker": breaker, "latency": None}
    config = write_config(tmp_path / "c.yaml", tmp_path / "state", variants=variants, guard=guard)
    with serving(config) as served:

        async def wait(load: Load) -> None:
            await asyncio.to_thread(served.wait_for_line, "guard of shop: rollback", 30.0)
            await asyncio.sleep(0.7)
            load.outcome.variants.clear()
            await asyncio.sleep(0.5)

        outcome = under_load(served, wait)
        assert set(outcome.statuses) == {200}
        assert set(outcome.variants) == {"one"}
        state = json.loads(served.call("GET", "/state").body)["endpoints"][0]
        assert {v["name"]: v["weight"] for v in state["variants"]}["two"] == 0.0
        assert "p99" in json.dumps(state["guard"]["stopped"])


def test_serving_processes_import_nothing_heavy(endpoint: Served) -> None:
    state = json.loads(endpoint.call("GET", "/state").body)
    pids = [state["workers"]["supervisor"], *state["workers"]["pids"].values()]
    banned = ("/torch/lib", "libtvm_compiler", "/mlflow", "libtorch")
    for pid in pids:
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert not [line for line in maps.splitlines() if any(name in line for name in banned)]


@pytest.mark.parametrize("module", ["lab.serve.worker", "lab.serve.supervisor", "lab.serve.routes"])
def test_modules_import_nothing_heavy(module: str, repo: Path) -> None:
    import subprocess
    import sys

    heavy = {"torch", "mlflow", "tvm", "onnx", "lightning"}
    code = f"import {module}, sys; print([m for m in sys.modules if m.split('.')[0] in {heavy}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repo)
    assert done.stdout.strip() == "[]"

"""The live page's script, run on a real state in a stub of a browser."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.serve.models import SIZE
from tests.serve.served import serving, write_config


@pytest.mark.skipif(shutil.which("node") is None, reason="no node to run the page's script")
def test_the_page_shows_variants_and_evidence(model_root: Path, tmp_path: Path, repo: Path) -> None:
    variants = [
        {"name": "steady", "model": str(model_root / "first"), "weight": 0.75},
        {"name": "fresh", "model": str(model_root / "second"), "weight": 0.25},
        {"name": "ghost", "model": str(model_root / "second"), "shadow": True},
    ]
    guard = {"control": "steady", "metrics": {"correct": {"role": "primary"}}}
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((1, 3, SIZE, SIZE), np.float32))
    with serving(write_config(tmp_path / "c.yaml", tmp_path, variants=variants, guard=guard)) as served:
        for _ in range(20):
            reply = served.call("POST", "/invocations", buffer.getvalue(), {"content-type": "application/x-npy"})
            outcome = {"inference_id": reply.headers["x-lab-inference-id"], "metric": "correct", "value": 1}
            assert served.call("POST", "/endpoints/shop/feedback", json.dumps(outcome).encode()).status == 202
        served.call("POST", "/endpoints/shop/weights", b'{"fresh": 0.75}', {"content-type": "application/json"})
        (tmp_path / "state.json").write_bytes(served.call("GET", "/state").body)
    page = repo / "lab" / "serve" / "ui" / "live.html"
    command = ["node", str(Path(__file__).with_name("dom.js")), str(page), str(tmp_path / "state.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    title, note, content = done.stdout.split("\n", 2)
    assert (title, note) == ("shop", "")
    for text in ("steady", "fresh", "ghost", "50.0 %", "Evidence: fresh against steady", "sample ratio", "model_error",
                 "correct (primary)", "a person set the weights"):  # fmt: skip
        assert text in content

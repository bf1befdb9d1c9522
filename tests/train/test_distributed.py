"""Two processes on one machine, started as torchrun starts them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.train.loaders import EvalBatches
from lab.train.records import epoch_lines
from lab.train.weights import read_tensors
from tests.train.conftest import Lab
from tests.train.fake_task import FakeConfig, FakeTask, fake_config

pytestmark = pytest.mark.slow

# Each process saves what it ended with, and says how often it was asked to track.
WORKER = """
import sys
from pathlib import Path
import torch
from lab.artifacts.rundir import RunDir
from lab.train import fit as fit_module
from lab.train.distributed import is_leader, rank
from lab.train.weights import save_weights
from tests.train.fake_task import FakeConfig, ListTracker
from tests.train.test_resume import CutTask
import os, signal
folder, config = Path(sys.argv[1]), FakeConfig.model_validate_json(sys.argv[2])
cut_at, resume = int(sys.argv[3]), sys.argv[4] == "resume"
modules = []
class Watched(fit_module.LearningModule):
    def __init__(self, *args):
        super().__init__(*args)
        modules.append(self)
fit_module.LearningModule = Watched
task = CutTask(config, lambda: os.kill(os.getpid(), signal.SIGTERM), at_step=cut_at if rank() == 1 else None)
tracker = ListTracker()
result = fit_module.fit(task, config, RunDir(folder), tracker, resume=resume)
assert not torch.distributed.is_initialized()
save_weights(modules[0].model, folder / f"rank{rank()}.safetensors")
(folder / f"rank{rank()}.txt").write_text(f"{result.status} {result.best_metric} {len(tracker.metrics)}")
"""


def launch(folder: Path, config: FakeConfig, repo: Path, *, cut_at: int = 0, resume: bool = False) -> list[list[str]]:
    """Train in two processes; what each wrote about its end: status, best metric, calls of the tracker."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"TORCHELASTIC_RUN_ID": "test", "PYTHONPATH": str(repo), "GROUP_RANK": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::UserWarning:lab", "-c", WORKER, str(folder), config.model_dump_json()]
    command += [str(cut_at), "resume" if resume else "new"]
    workers = [
        subprocess.Popen(
            command, env=os.environ | shared | {"RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE, text=True
        )
        for r in range(2)
    ]
    try:
        errors = [worker.communicate(timeout=200)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)
    return [(folder / f"rank{r}.txt").read_text().split() for r in range(2)]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_both_processes_end_with_equal_weights_and_one_writes(lab: Lab, repo: Path) -> None:
    folder = lab.dir("run").path
    config = fake_config(train={"epochs": 2, "ema_decay": 0.9})
    first, second = launch(folder, config, repo)
    assert_same(read_tensors(folder / "rank0.safetensors"), read_tensors(folder / "rank1.safetensors"))
    assert first[:2] == second[:2]
    assert int(first[2]) == len(lab.lines("run"))
    assert second[2] == "0"


def test_validation_scores_cover_each_sample_once(lab: Lab, repo: Path) -> None:
    config = fake_config(train={"epochs": 1})
    launch(lab.dir("run").path, config, repo)
    [line] = epoch_lines(lab.dir("run").metrics)
    task = FakeTask(config)
    model = task.build_model()
    model.load_state_dict(lab.weights("run"))
    with torch.no_grad():
        outputs = task.step(model.eval(), task.validation)
    accuracy = float((outputs["logits"].argmax(1) == task.validation[1]).float().mean())
    assert line["validation/accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert line["validation/loss"] == pytest.approx(float(outputs["loss"]), rel=1e-5)
    assert line["train/accuracy"] * 88 == pytest.approx(round(line["train/accuracy"] * 88), abs=1e-3)  # 44 + 44 samples


def test_a_signal_to_one_process_stops_both_and_the_run_resumes_bit_equal(lab: Lab, repo: Path) -> None:
    config = fake_config(train={"epochs": 2})
    whole, resumed = lab.dir("whole").path, lab.dir("resumed").path
    launch(whole, config, repo)
    stopped = launch(resumed, config, repo, cut_at=8)
    assert [status for status, *_ in stopped] == ["killed", "killed"]
    state = json.loads((lab.dir("resumed").checkpoint / "state.json").read_text())["state"]
    assert (state["epoch"], state["global_step"]) == (1, 8)
    launch(resumed, config, repo, resume=True)
    assert_same(lab.weights("whole"), lab.weights("resumed"))
    assert lab.lines("whole") == lab.lines("resumed")


class CountingLoader:
    """Yields its batch numbers."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Any:
        return iter(range(self.length))


@pytest.mark.parametrize("length", [0, 1, 2, 7, 9])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_evaluation_batches_are_shared_without_overlap(length: int, num_ranks: int) -> None:
    shards = [EvalBatches(CountingLoader(length), rank, num_ranks) for rank in range(num_ranks)]  # type: ignore[arg-type]
    assert sorted(batch for shard in shards for batch in shard) == list(range(length))
    assert [len(shard) for shard in shards] == [len(list(shard)) for shard in shards]

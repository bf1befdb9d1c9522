"""Checkpoints: exact, atomic, without pickle, and unharmed by a full disk."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lab.train.weights
from lab.core.errors import ArtifactError, IntegrityError, StorageError, UnsupportedError
from lab.train.checkpoint_io import FolderCheckpointIO, has_checkpoint
from lab.train.tensor_tree import flatten, unflatten
from tests.train.conftest import Lab
from tests.train.fake_task import fake_config

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
keys = st.text(max_size=4) | st.integers() | st.just("$tensor")
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3)
        | st.tuples(inner)
        | st.tuples(inner, inner)
    ),
    max_leaves=11,
)


@given(trees)
def test_any_tree_survives_json(tree: Any) -> None:
    structure, tensors = flatten(tree)
    assert unflatten(json.loads(json.dumps(structure, allow_nan=False)), tensors) == tree
    assert tensors == {}


def test_tensors_keep_dtype_values_and_layout(tmp_path: Path) -> None:
    tree = {
        "state": {
            0: {"step": torch.tensor(3.0), "buffer": torch.randn(2, 3, 5, 7).to(memory_format=torch.channels_last)}
        },
        "rng": (torch.arange(11, dtype=torch.uint8), [math.inf, -math.inf], None),
        "half": torch.randn(3).bfloat16(),
        "empty": torch.zeros(0, 4),
    }
    FolderCheckpointIO().save_checkpoint(tree, tmp_path / "last")
    back = FolderCheckpointIO().load_checkpoint(tmp_path / "last")
    buffer = tree["state"][0]["buffer"]
    assert torch.equal(back["state"][0]["buffer"], buffer)
    assert back["state"][0]["buffer"].stride() == buffer.stride()
    assert back["state"][0]["step"].shape == ()
    assert torch.equal(back["rng"][0], tree["rng"][0])
    assert back["rng"][1:] == tree["rng"][1:]
    assert torch.equal(back["half"], tree["half"])
    assert back["empty"].shape == (0, 4)


def test_tensors_that_share_memory_are_stored_apart(tmp_path: Path) -> None:
    weight = torch.randn(3, 5)
    FolderCheckpointIO().save_checkpoint({"a": weight, "b": weight, "c": weight[1]}, tmp_path / "last")
    back = FolderCheckpointIO().load_checkpoint(tmp_path / "last")
    assert torch.equal(back["a"], weight)
    assert torch.equal(back["b"], weight)
    assert torch.equal(back["c"], weight[1])


def test_a_value_that_would_need_pickle_is_refused_with_its_path() -> None:
    with pytest.raises(UnsupportedError, match=r"cannot hold callbacks\.mine\.0"):
        flatten({"callbacks": {"mine": [object()]}})


def test_a_checkpoint_has_no_other_files(lab: Lab) -> None:
    lab.fit("run", fake_config(train={"epochs": 1}))
    assert sorted(p.name for p in lab.dir("run").checkpoint.iterdir()) == ["state.json", "tensors.safetensors"]


def test_full_disk_while_saving_keeps_the_previous_checkpoint(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    config = fake_config(checkpoint={"every_n_steps": 4})
    lab.fit("whole", config)
    write, num_calls = lab_write(), 0

    def full(tensors: Any, path: Path, metadata: Any = None) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 4:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr("lab.train.checkpoint_io.write_tensors", full)
        with pytest.raises(StorageError) as caught:
            lab.fit("resumed", config)
    assert "No space left on device" in str(caught.value)
    folder = lab.dir("resumed").checkpoint
    assert [p.name for p in folder.parent.iterdir() if p.name.startswith(".")] == []
    assert FolderCheckpointIO().load_checkpoint(folder)["global_step"] == 12
    lab.fit("resumed", config, resume=True)
    lab.assert_equal("whole", "resumed")


def lab_write() -> Any:
    return lab.train.weights.write_tensors


LIMITED_SAVE = """
import resource, sys, torch
from pathlib import Path
from lab.core.errors import StorageError
from lab.train.checkpoint_io import FolderCheckpointIO
path = Path(sys.argv[1])
FolderCheckpointIO().save_checkpoint({"x": torch.ones(11)}, path)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    FolderCheckpointIO().save_checkpoint({"x": torch.zeros(100_003)}, path)
except StorageError as error:
    print(error)
"""


def test_a_real_limit_on_file_size_is_a_storage_error(tmp_path: Path, repo: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(repo)}
    command = [sys.executable, "-c", LIMITED_SAVE, str(tmp_path / "last")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "File too large" in done.stdout
    assert "what was there before is untouched" in done.stdout
    assert torch.equal(FolderCheckpointIO().load_checkpoint(tmp_path / "last")["x"], torch.ones(11))
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def test_a_replacement_killed_between_its_renames_is_undone(tmp_path: Path) -> None:
    FolderCheckpointIO().save_checkpoint({"x": torch.ones(3)}, tmp_path / "last")
    (tmp_path / "last").rename(tmp_path / ".last.old")
    assert has_checkpoint(tmp_path / "last")
    assert FolderCheckpointIO().load_checkpoint(tmp_path / "last")["x"].tolist() == [1.0] * 3


def test_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    path = tmp_path / "last"
    FolderCheckpointIO().save_checkpoint({"x": torch.ones(300)}, path)
    tensors = path / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match=r"tensors\.safetensors is damaged"):
        FolderCheckpointIO().load_checkpoint(path)
    (path / "state.json").write_text('{"format": 99}')
    with pytest.raises(ArtifactError, match="another checkpoint format"):
        FolderCheckpointIO().load_checkpoint(path)


@settings(max_examples=20)
@given(st.sampled_from([math.inf, -math.inf]))
def test_infinities_survive(value: float) -> None:
    structure, _ = flatten({"best": value})
    assert unflatten(json.loads(json.dumps(structure, allow_nan=False)), {}) == {"best": value}

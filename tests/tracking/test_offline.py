from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.errors import ArtifactError, StorageError
from lab.tracking.offline import Spool, encode_number, list_spools


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool.create(tmp_path / "run")
    made.open_for_append()
    yield made
    made.close()


def test_operations_come_back_in_order_with_their_offsets(spool: Spool) -> None:
    for number in range(5):
        spool.append("metrics", values={"loss": number}, step=number)
    operations = list(spool.operations())
    assert [op.fields["step"] for op in operations] == [0, 1, 2, 3, 4]
    assert [op.start for op in operations] == [0, *(op.end for op in operations[:-1])]
    assert [op.fields["step"] for op in spool.operations(operations[2].end)] == [3, 4]


def test_a_line_cut_short_by_a_kill_is_ignored_and_then_removed(spool: Spool) -> None:
    spool.append("tags", key="a", value="1")
    spool.close()
    with spool.journal.open("ab") as file:
        file.write(b'{"op": "tags", "key": "b", "va')
    assert [op.fields["key"] for op in spool.operations()] == ["a"]
    again = Spool(spool.folder)
    again.open_for_append()
    again.append("tags", key="c", value="3")
    again.close()
    assert [op.fields["key"] for op in again.operations()] == ["a", "c"]


def test_every_operation_survives_kill_9(tmp_path: Path) -> None:
    code = (
        "import os, pathlib\nfrom lab.tracking.offline import Spool\n"
        "s = Spool.create(pathlib.Path('run')); s.open_for_append()\n"
        "for i in range(17): s.append('metrics', values={'x': i}, step=i)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == -9
    (left,) = list_spools(tmp_path / "run")
    assert [op.fields["step"] for op in left.operations()] == list(range(17))
    assert left.acquire()  # the lock died with its holder
    assert left.has_pending()
    left.close()


def test_a_full_disk_leaves_the_journal_as_it_was(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.append("tags", key="a", value="1")
    real = spool._file

    class FullDisk:
        def write(self, data: bytes) -> int:
            assert real is not None
            real.write(data[:7])
            raise OSError(errno.ENOSPC, "No space left on device")

        def fileno(self) -> int:
            assert real is not None
            return real.fileno()

    monkeypatch.setattr(spool, "_file", FullDisk())
    with pytest.raises(StorageError, match="No space left"):
        spool.append("tags", key="b", value="2")
    monkeypatch.setattr(spool, "_file", real)
    spool.append("tags", key="c", value="3")
    assert [op.fields["key"] for op in spool.operations()] == ["a", "c"]


def test_a_damaged_line_is_named(spool: Spool) -> None:
    spool.append("tags", key="a", value="1")
    with spool.journal.open("ab") as file:
        file.write(b"garbage\n")
    with pytest.raises(ArtifactError, match="damaged at byte"):
        list(spool.operations())


def test_the_lock_excludes_a_second_holder(spool: Spool) -> None:
    other = Spool(spool.folder)
    assert not other.acquire()
    spool.close()
    assert other.acquire()
    other.close()


def test_progress_survives_a_reopening(spool: Spool) -> None:
    spool.append("tags", key="a", value="1")
    spool.update(acknowledged=12, run_id="abc")
    assert Spool(spool.folder).state == spool.state
    assert json.loads((spool.folder / "state.json").read_text())["acknowledged"] == 12
    found = Spool.find(spool.run_folder, "abc")
    assert found is not None
    assert found.local_id == spool.local_id


def test_files_of_the_run_are_referred_to_and_others_are_copied(spool: Spool, tmp_path: Path) -> None:
    inside, outside = spool.run_folder / "plots" / "a.png", tmp_path / "b.png"
    inside.parent.mkdir()
    inside.write_bytes(b"a")
    outside.write_bytes(b"b")
    assert spool.keep(inside) == "plots/a.png"
    kept = spool.run_folder / spool.keep(outside)
    assert kept.name == "b.png"
    assert kept.read_bytes() == b"b"
    assert kept.is_relative_to(spool.folder / "files")


@given(st.floats())
def test_every_float_survives_json(value: float) -> None:
    text = json.dumps(encode_number(value), allow_nan=False)
    back = float(json.loads(text))
    assert back == value or (back != back and value != value)


def test_children_are_listed_after_their_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Callable[[], float] = iter((30.0, 10.0, 20.0)).__next__
    monkeypatch.setattr("lab.tracking.offline.time.time", clock)
    made = []
    for _ in range(3):
        spool = Spool.create(tmp_path)
        spool.open_for_append()
        spool.append("create")
        spool.close()
        made.append(spool.local_id)
    assert [s.local_id for s in list_spools(tmp_path)] == [made[1], made[2], made[0]]

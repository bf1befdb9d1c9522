"""The parts of lab_run that need no model (SHA-256, .npy files, batch plans) against independent references."""

from __future__ import annotations

import hashlib
import io
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from lab.runtime import batching
from lab.runtime.edge_build import FLAGS, SOURCES
from lab.runtime.toolchain import toolchain

PARTS = ("sha256.cc", "npy.cc", "array.cc", "files.cc", "error.cc", "signature.cc", "batching.cc", "latency.cc")
DTYPES = ("<f4", "<f8", "<f2", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "|b1")
# Examples are files in one folder, each written before it is read.
SHARED_FOLDER = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Call:
    compiler = toolchain().host_compiler
    if compiler is None:
        pytest.skip("no C++ compiler here")
    program = tmp_path_factory.mktemp("pieces") / "pieces"
    sources = [str(Path(__file__).with_name("pieces_main.cc")), *(str(SOURCES / name) for name in PARTS)]
    subprocess.run([compiler, *FLAGS, "-Werror", "-O0", f"-I{SOURCES}", *sources, "-o", str(program)], check=True)
    return lambda *arguments: subprocess.run(
        [str(program), *map(str, arguments)], capture_output=True, text=True, check=False
    )


# FIPS 180-4 examples (NIST, "SHA-256 test vectors"): empty, one block, two blocks, a million characters.
NIST = {
    b"": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    b"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": (
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
    b"a" * 1_000_000: "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
}


@pytest.mark.parametrize("message", NIST, ids=len)
def test_sha256_gives_nists_digests(pieces: Call, tmp_path: Path, message: bytes) -> None:
    (tmp_path / "message").write_bytes(message)
    assert pieces("sha256", tmp_path / "message", 997).stdout.strip() == NIST[message]


@SHARED_FOLDER
@given(message=st.binary(max_size=300), piece_bytes=st.integers(1, 200))
def test_sha256_is_hashlibs_however_the_bytes_arrive(
    pieces: Call, tmp_path: Path, message: bytes, piece_bytes: int
) -> None:
    (tmp_path / "message").write_bytes(message)
    expected = hashlib.sha256(message).hexdigest()
    assert pieces("sha256", tmp_path / "message", piece_bytes).stdout.strip() == expected


@SHARED_FOLDER
@given(
    array=st.sampled_from(DTYPES).flatmap(
        lambda dtype: st_numpy.arrays(np.dtype(dtype), st_numpy.array_shapes(min_dims=0, min_side=0, max_side=5))
    )
)
def test_npy_round_trip_keeps_dtype_shape_and_bytes(pieces: Call, tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "in.npy", array)
    done = pieces("npy", tmp_path / "in.npy", tmp_path / "out.npy")
    assert (done.returncode, done.stderr) == (0, "")
    back = np.load(tmp_path / "out.npy")
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_npy_version_2_is_read(pieces: Call, tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    with (tmp_path / "in.npy").open("wb") as file:
        np.lib.format.write_array(file, array, version=(2, 0))
    assert pieces("npy", tmp_path / "in.npy", tmp_path / "out.npy").returncode == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), array)


def npy_bytes(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version)
    return buffer.getvalue()


SOUND = npy_bytes(np.ones((2, 3), np.float32))
BROKEN = {
    "empty": (b"", "without the .npy magic"),
    "not npy": (b"PK\x03\x04" + b"x" * 64, "without the .npy magic"),
    "truncated header": (SOUND[:40], "truncated header"),
    "truncated data": (SOUND[:-1], "23 bytes of data"),
    "no data": (SOUND[:-24], "the file is truncated: copy it again"),
    "trailing bytes": (SOUND + b"\0", "25 bytes of data"),
    "fortran": (npy_bytes(np.asfortranarray(np.ones((2, 3), np.float32))), "Fortran order"),
    "big endian": (npy_bytes(np.ones(2, ">f4")), "dtype '>f4'"),
    "version 3": (npy_bytes(np.ones(2), (3, 0)), ".npy version 3"),
    "complex": (npy_bytes(np.ones(2, np.complex64)), "dtype '<c8'"),
    "structured": (npy_bytes(np.ones(2, [("a", "<f4")])), "structured dtypes are not supported"),
    "text": (npy_bytes(np.array(["ab"])), "dtype '<U2'"),
    "negative": (SOUND.replace(b"(2, 3)", b"(2,-3)"), "header"),
    "key missing": (SOUND.replace(b"'fortran_order': False", b" " * 22), "header"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_npy_is_refused_by_name(pieces: Call, tmp_path: Path, name: str) -> None:
    content, message = BROKEN[name]
    (tmp_path / "in.npy").write_bytes(content)
    done = pieces("npy", tmp_path / "in.npy", tmp_path / "out.npy")
    assert done.returncode == 3
    assert f"{tmp_path / 'in.npy'} cannot be read as a .npy array" in done.stderr
    assert message in done.stderr
    assert not (tmp_path / "out.npy").exists()


def test_npy_larger_than_memory_is_refused_before_it_is_allocated(pieces: Call, tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }\n"
    (tmp_path / "in.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    done = pieces("npy", tmp_path / "in.npy", tmp_path / "out.npy")
    assert (done.returncode, f"{tmp_path / 'in.npy'} is too large for this machine" in done.stderr) == (3, True)


def test_full_disk_is_a_storage_error(pieces: Call, tmp_path: Path) -> None:
    (tmp_path / "in.npy").write_bytes(SOUND)
    done = pieces("npy", tmp_path / "in.npy", tmp_path / "no such folder" / "out.npy")
    assert (done.returncode, "writing" in done.stderr) == (10, True)


@SHARED_FOLDER
@given(num_samples=st.integers(1, 300), sizes=st.sets(st.integers(1, 20), min_size=1))
def test_plan_is_the_python_runners(pieces: Call, num_samples: int, sizes: set[int]) -> None:
    lines = pieces("plan", num_samples, *sizes).stdout.splitlines()
    expected = batching.plan(num_samples, tuple(sizes))
    assert lines == [f"{chunk.batch_size} {chunk.start} {chunk.num_samples}" for chunk in expected]


def test_plan_takes_a_function_for_any_batch_whole(pieces: Call) -> None:
    assert pieces("plan", 7, 4, 0).stdout.splitlines() == ["0 0 7"]


@SHARED_FOLDER
@given(
    shape=st_numpy.array_shapes(min_dims=1, max_dims=4, max_side=7),
    sizes=st.sets(st.integers(1, 5), min_size=1),
    data=st.data(),
)
def test_splitting_and_joining_gives_the_array_back(
    pieces: Call, tmp_path: Path, shape: tuple[int, ...], sizes: set[int], data: st.DataObject
) -> None:
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    np.save(tmp_path / "in.npy", array)
    axis = data.draw(st.integers(0, len(shape) - 1))
    done = pieces("split", tmp_path / "in.npy", tmp_path / "out.npy", axis, *sizes)
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), array)


@SHARED_FOLDER
@given(values=st.lists(st.floats(0, 1e3), min_size=1, max_size=9), percent=st.sampled_from([0, 50, 95, 100]))
def test_percentile_is_numpys(pieces: Call, values: list[float], percent: int) -> None:
    found = float(pieces("percentile", percent, *map(repr, values)).stdout)
    assert found == pytest.approx(np.percentile(values, percent), rel=1e-12, abs=1e-12)

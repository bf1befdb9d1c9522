"""lab.h from C: the example against the Python runner, the promises of every function, what the library shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lab.cli.main import EXIT_CODES
from lab.core import host
from lab.core.errors import LabError
from lab.runtime import open_bundle
from lab.runtime.edge import ERRORS
from lab.runtime.edge_build import HEADER, LIBRARY, SOURCES, build_edge
from lab.runtime.toolchain import emulation
from tests.runtime_cpp.conftest import CLASSES, images

EXAMPLE = SOURCES / "examples" / "run.c"
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1")
TOLERANCE = 1e-5


def build(source: Path, program: Path, arch: str = host.cpu_arch(), compiler: str = "gcc") -> Path:
    """A C program against the built library, as the example's comment says."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no C compiler {compiler} here")
    folder = build_edge(arch)  # type: ignore[arg-type]
    command = [compiler, *STRICT, str(source), f"-I{folder}", f"-L{folder}", "-llab", "-pthread"]
    command += [f"-Wl,-rpath,{folder}", f"-Wl,-rpath-link,{folder}", "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def call(program: Path, *arguments: object, prefix: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*(prefix or []), program, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(EXAMPLE, tmp_path_factory.mktemp("example") / "run")


@pytest.mark.parametrize("num_samples", [1, 5])
def test_the_example_gives_what_the_python_runner_gives(
    example: Path, host_bundle: Path, tmp_path: Path, num_samples: int
) -> None:
    array = images(num_samples)
    array.tofile(tmp_path / "in.raw")
    done = call(example, host_bundle, num_samples, tmp_path / "in.raw", tmp_path / "out.raw")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "input image float32[batch, 3, 11, 13]",
        f"output logits float32[batch, {CLASSES}]",
    ]
    logits = np.fromfile(tmp_path / "out.raw", np.float32).reshape(num_samples, CLASSES)
    runner = open_bundle(host_bundle)
    np.testing.assert_allclose(logits, runner.run({"image": array})["logits"], atol=TOLERANCE, rtol=0)
    runner.close()


def test_the_example_tells_what_failed(example: Path, host_bundle: Path, tmp_path: Path) -> None:
    done = call(example, tmp_path, 1, "in.raw", "out.raw")
    assert (done.returncode, "opening the bundle: artifact error" in done.stderr) == (4, True)
    (tmp_path / "in.raw").write_bytes(b"123")
    done = call(example, host_bundle, 1, tmp_path / "in.raw", tmp_path / "out.raw")
    assert (done.returncode, f"does not hold exactly {4 * 3 * 11 * 13} bytes" in done.stderr) == (3, True)
    (host_bundle / "model_b1.so").write_bytes(b"")
    done = call(example, host_bundle, 1, tmp_path / "in.raw", tmp_path / "out.raw")
    assert (done.returncode, "integrity error" in done.stderr) == (5, True)


def test_every_function_keeps_its_promises(host_bundle: Path, tmp_path: Path) -> None:
    program = build(Path(__file__).with_name("api_checks.c"), tmp_path / "checks")
    done = call(program, host_bundle)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.arm
def test_the_cross_built_library_keeps_them_too(arm_bundle: Path, tmp_path: Path) -> None:
    prefix = emulation("aarch64", "cortex-a72")
    compiler = "aarch64-linux-gnu-gcc" if prefix else "gcc"
    program = build(Path(__file__).with_name("api_checks.c"), tmp_path / "checks", "aarch64", compiler)
    done = call(program, arm_bundle, prefix=prefix)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_header_is_c_and_cpp(tmp_path: Path) -> None:
    for name, compiler, standard in (("a.c", "gcc", "-std=c99"), ("a.cc", "g++", "-std=c++11")):
        (tmp_path / name).write_text(
            f'#include "{HEADER}"\nint main(void) {{ return lab_api_version() - LAB_API_VERSION; }}\n'
        )
        command = [compiler, standard, "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{SOURCES}", "-fsyntax-only"]
        subprocess.run([*command, str(tmp_path / name)], check=True)


def test_the_library_shows_the_functions_of_its_header_and_no_more() -> None:
    if shutil.which("nm") is None:
        pytest.skip("no nm here")
    library = build_edge(host.cpu_arch()) / LIBRARY  # type: ignore[arg-type]
    listed = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    shown = {line.split()[-1] for line in listed.stdout.splitlines() if line.split()[-2] == "T"}
    declared = set(re.findall(r"^LAB_API .*?\b(lab_\w+)\(", (SOURCES / HEADER).read_text(), flags=re.MULTILINE))
    assert shown == declared


def test_statuses_are_the_exit_codes_of_the_command_line() -> None:
    text = (SOURCES / HEADER).read_text()
    statuses = {name.lower(): int(code) for name, code in re.findall(r"LAB_(\w+) = (\d+)", text)}
    assert statuses.pop("ok") == 0
    assert statuses.pop("runtime") == EXIT_CODES[LabError]
    assert {("config" if name == "usage" else name): code for name, code in statuses.items()} == {
        error.kind: code for code, error in ERRORS.items()
    }

"""Cross-building and emulation: ARM bundles under qemu, the emulated CPU's limits, and what is said when tools lack."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lab.cli.main import EXIT_CODES
from lab.core import host
from lab.core.errors import IncompatibleError, IntegrityError, LabError, MissingToolError
from lab.runtime import edge, edge_build, toolchain
from lab.runtime.edge import EmulatedRunner, run_bundle
from lab.runtime.edge_build import build_runner
from tests.runtime_cpp.conftest import edit_manifest, images

emulated = pytest.mark.skipif(host.cpu_arch() == "aarch64", reason="this machine is ARM: nothing is emulated")


@pytest.mark.arm
def test_arm_bundle_equals_onnx_runtime(arm_bundle: Path, reference: Callable[[np.ndarray], np.ndarray]) -> None:
    array = images(5)
    logits = EmulatedRunner(arm_bundle).run({"image": array})["logits"]
    np.testing.assert_allclose(logits, reference(array), atol=1e-5, rtol=0)


@pytest.mark.arm
def test_arm_runner_and_libraries_are_small(arm_bundle: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in build_runner("aarch64").parent.iterdir()}
    assert set(sizes) == {"lab_run", "liblab.so", "lab.h", "libtvm_runtime.so", "libtvm_ffi.so"}
    assert sum(sizes.values()) < 10e6


@pytest.mark.arm
def test_arm_bundle_with_a_flipped_byte_is_refused(arm_bundle: Path) -> None:
    content = bytearray((arm_bundle / "model_b1.so").read_bytes())
    content[-100] ^= 0x10
    (arm_bundle / "model_b1.so").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model_b1\.so"):
        run_bundle(arm_bundle, {"image": images(1)})


@pytest.mark.arm
@emulated
def test_the_cpu_meant_is_the_cpu_emulated(arm_bundle: Path) -> None:
    """The dot-product extension is on the Cortex-A76 and not on the A72."""
    edit_manifest(arm_bundle, lambda data: data["target"].update(required_features=["asimddp"]))
    with pytest.raises(IncompatibleError, match="no asimddp"):
        run_bundle(arm_bundle, {"image": images(1)})
    edit_manifest(arm_bundle, lambda data: data["target"].update(mcpu="cortex-a76"))
    assert run_bundle(arm_bundle, {"image": images(1)})["logits"].shape == (1, 5)


@pytest.mark.arm
@emulated
def test_unknown_cpu_is_emulated_as_the_largest_and_said(arm_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_manifest(arm_bundle, lambda data: data["target"].update(mcpu="cortex-z9"))
    run_bundle(arm_bundle, {"image": images(1)})
    assert "qemu does not know the CPU cortex-z9" in capsys.readouterr().err


@pytest.mark.arm
@emulated
def test_arm_bundle_is_refused_without_emulation(arm_bundle: Path) -> None:
    with pytest.raises(MissingToolError, match="aarch64 programs need emulation"):
        run_bundle(arm_bundle, {"image": images(1)}, emulate=False)
    with pytest.raises(IncompatibleError, match=f"another CPU architecture\n.*aarch64\n.*{host.cpu_arch()}"):
        run_bundle(arm_bundle, {"image": images(1)}, arch=host.cpu_arch())  # type: ignore[arg-type]


@emulated
def test_missing_tools_name_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match=r"no C\+\+ compiler for aarch64(.|\n)*make setup-arm"):
        build_runner("aarch64", tmp_path)
    with pytest.raises(MissingToolError, match=r"aarch64 programs cannot run(.|\n)*make setup-arm"):
        toolchain.emulation("aarch64")


@pytest.mark.arm
@emulated
def test_opening_a_runner_tells_what_lacks(arm_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match="aarch64 programs cannot run"):
        EmulatedRunner(arm_bundle)


@emulated
def test_without_a_package_index_the_arm_wheels_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(MissingToolError, match=r"cannot be downloaded(.|\n)*apache-tvm==(.|\n)*package index in reach"):
        edge_build._package_root("aarch64", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_cache_is_chosen_by_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    assert edge_build.default_cache() == tmp_path / "edge"
    monkeypatch.delenv("LAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert edge_build.default_cache() == tmp_path / "xdg" / "lab" / "edge"


def test_signals_are_told_apart() -> None:
    with pytest.raises(IncompatibleError, match="an instruction that this CPU lacks"):
        edge._call(["sh", "-c", "kill -ILL $$"])
    with pytest.raises(LabError, match="ended by SIGSEGV"):
        edge._call(["sh", "-c", "kill -SEGV $$"])


def test_exit_codes_are_those_of_the_command_line() -> None:
    """One table in three places: lab_run's enum, the mapping back, and the `lab` command."""
    text = (edge_build.SOURCES / "error.h").read_text()
    in_cpp = {name.lower(): int(code) for name, code in re.findall(r"k(\w+) = (\d+),", text)}
    assert in_cpp.pop("runtime") == EXIT_CODES[LabError]
    assert set(in_cpp.values()) == set(edge.ERRORS)
    for code, error in edge.ERRORS.items():
        assert EXIT_CODES[error] == code
        assert in_cpp["usage" if error.kind == "config" else error.kind] == code

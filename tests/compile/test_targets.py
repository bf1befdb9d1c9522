"""Targets: names, what each requires of a CPU, and what can run here."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tvm

from lab.compile.targets import TARGETS, resolve_target
from lab.compile.targets import target as target_module
from lab.compile.targets.arm import CORES
from lab.compile.targets.x86 import AVX2, AVX512, LINUX_FEATURES, SSE, required_features
from lab.core import host
from lab.core.errors import ConfigError


def test_this_machine() -> None:
    target = resolve_target("x86")
    assert target.runnable_here() == (True, "")
    assert set(target.info().required_features) <= host.cpu_features()
    assert (target.name, target.kind, target.info().arch, target.tolerance) == ("x86", "x86", "x86_64", 1e-4)


@pytest.mark.parametrize(
    ("mcpu", "has", "lacks", "machine"),
    [
        ("haswell", {"avx2", "fma", "bmi2", "f16c", "abm"}, {"avx512f"}, AVX2),
        ("skylake-avx512", {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd"}, {"avx512_vnni"}, AVX512),
        ("znver4", {"avx512f", "avx512_vnni", "avx512_bf16"}, {"avx512_fp16"}, replace(AVX512, has_dot_product=True)),
        ("x86-64-v3", {"avx2", "fma"}, {"avx512f"}, AVX2),
        ("x86-64-v2", {"sse4_2", "popcnt"}, {"avx"}, SSE),
    ],
)
def test_named_cpus(mcpu: str, has: set[str], lacks: set[str], machine: object) -> None:
    target = resolve_target(f"x86:{mcpu}")
    required = set(target.info().required_features)
    assert has <= required
    assert not lacks & required
    assert target.machine == machine
    assert target.info().mcpu == mcpu


def test_features_of_no_extension_that_virtual_machines_hide() -> None:
    assert not {"amx_tile", "amx_bf16", "sha_ni", "aes"} & set(required_features("sapphirerapids"))
    assert len(set(LINUX_FEATURES.values())) == len(LINUX_FEATURES)


def test_a_hidden_feature_lowers_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    v3 = frozenset(required_features("x86-64-v3"))
    monkeypatch.setattr(host, "cpu_features", lambda: v3)
    monkeypatch.setattr(tvm.target.codegen, "llvm_get_system_cpu", lambda: "skylake-avx512")
    assert resolve_target("x86").info().mcpu == "x86-64-v3"


@pytest.mark.parametrize("core", CORES)
def test_arm_cores(core: str) -> None:
    target = resolve_target(f"arm:{core}")
    assert target.info().mcpu == core
    assert target.machine.num_lanes == 4
    assert target.to_tvm().attrs["mcpu"] == core
    if host.cpu_arch() != "aarch64":
        runnable, why = target.runnable_here()
        assert not runnable
        assert "aarch64" in why


def test_arm_default() -> None:
    assert resolve_target("arm").info().mcpu == "cortex-a72"


@pytest.mark.parametrize("arch", ["sm_70", "sm_80", "sm_90"])
def test_cuda_by_name(arch: str) -> None:
    info = resolve_target(f"cuda:{arch}").info()
    assert (info.kind, info.cuda_arch, info.name) == ("cuda", arch, f"cuda:{arch}")


def test_cuda_default_is_the_gpu_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.compile.targets import cuda

    monkeypatch.setattr(cuda, "cuda_arch_here", lambda: "sm_86")
    assert resolve_target("cuda").info().cuda_arch == "sm_86"
    monkeypatch.setattr(cuda, "cuda_arch_here", lambda: None)
    assert resolve_target("cuda").info().cuda_arch == "sm_90"


def test_cuda_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "cuda_arch_here", lambda: None)
    assert resolve_target("cuda:sm_80").runnable_here() == (False, "this machine has no CUDA device")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("x68", "did you mean 'x86'"),
        ("x86:znver44", "did you mean 'x86:znver4"),
        ("arm:cortex-a7", "did you mean 'arm:cortex-a7"),
        ("cuda:sm_60", "sm_70"),
        ("cuda:90", "sm_90"),
    ],
)
def test_unknown_names_list_what_there_is(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        resolve_target(name)


def test_every_entry_of_the_table_resolves() -> None:
    assert [resolve_target(name).name for name in TARGETS] == list(TARGETS)

"""x86-64 CPUs: this machine's, or any that LLVM knows by name."""

from __future__ import annotations

from dataclasses import replace

from lab.artifacts.manifest import TargetInfo
from lab.compile.targets import fat
from lab.compile.targets.machine import Machine
from lab.compile.targets.target import Target
from lab.core import host
from lab.core.errors import ConfigError
from lab.core.tables import nearest

TRIPLE = "x86_64-linux-gnu"
LEVELS = ("x86-64-v4", "x86-64-v3", "x86-64-v2", "x86-64")

# LLVM's spelling -> the Linux kernel's, for the instruction sets that generated loops may use. AMX, crypto and system
# extensions are left out on purpose: code generation never emits them, and virtual machines often hide them.
LINUX_FEATURES = {
    "sse3": "pni", "ssse3": "ssse3", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "popcnt": "popcnt", "movbe": "movbe",
    "avx": "avx", "avx2": "avx2", "fma": "fma", "f16c": "f16c", "bmi": "bmi1", "bmi2": "bmi2", "lzcnt": "abm",
    "fma4": "fma4", "xop": "xop", "avxvnni": "avx_vnni", "gfni": "gfni",
    "avx512f": "avx512f", "avx512bw": "avx512bw", "avx512vl": "avx512vl", "avx512dq": "avx512dq",
    "avx512cd": "avx512cd", "avx512ifma": "avx512ifma", "avx512vbmi": "avx512vbmi", "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni", "avx512bitalg": "avx512_bitalg", "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512bf16": "avx512_bf16", "avx512fp16": "avx512_fp16", "avx512vp2intersect": "avx512_vp2intersect",
}  # fmt: skip

AVX512 = Machine(num_lanes=16, num_registers=32, l1_bytes=32 * 1024, l2_bytes=1024 * 1024, broadcasts_from_memory=True)
AVX2 = Machine(num_lanes=8, num_registers=16, l1_bytes=32 * 1024, l2_bytes=512 * 1024)
SSE = Machine(num_lanes=4, num_registers=16, l1_bytes=32 * 1024, l2_bytes=256 * 1024)


def resolve(mcpu: str | None) -> Target:
    """The target for a CPU that LLVM knows, or for this machine's when `mcpu` is None; several, with commas: a fat one.

    Raises:
        ConfigError: LLVM knows no such CPU, or this machine is not x86-64 and no CPU was named.
    """
    if mcpu and "," in mcpu:
        return fat.resolve(mcpu.split(","), resolve)
    name = f"x86:{mcpu}" if mcpu else "x86"
    if mcpu is None and host.cpu_arch() != "x86_64":
        raise ConfigError(
            "the target 'x86' means this machine's CPU, which is not an x86-64", got=host.cpu_arch(),
            hint="name one, e.g. x86:x86-64-v3 or x86:znver4",
        )  # fmt: skip
    chosen = _known(mcpu) if mcpu else _host_cpu()
    required = required_features(chosen)
    spec = TargetInfo(name=name, kind="x86", arch="x86_64", mcpu=chosen, triple=TRIPLE, required_features=required)
    return Target(
        spec=spec,
        # Some AVX-512 CPUs ask LLVM for 256-bit vectors by default, which would split every vector of these schedules.
        tvm={"kind": "llvm", "mtriple": TRIPLE, "mcpu": chosen, "mattr": ["-prefer-256-bit"]},
        machine=_machine(required),
        linker=None if host.cpu_arch() == "x86_64" else "x86_64-linux-gnu-gcc",
        linker_hint="install the distribution's gcc-x86-64-linux-gnu",
    )


def required_features(mcpu: str) -> tuple[str, ...]:
    """What a CPU must offer to run code for `mcpu`, in the Linux kernel's spelling, sorted."""
    import tvm

    target = tvm.target.Target({"kind": "llvm", "mtriple": TRIPLE, "mcpu": mcpu})
    features = tvm.target.codegen.llvm_get_cpu_features(target)
    return tuple(sorted(LINUX_FEATURES[str(f)] for f in features if str(f) in LINUX_FEATURES))


def _machine(required: tuple[str, ...]) -> Machine:
    if "avx512f" in required:
        return replace(AVX512, has_dot_product="avx512_vnni" in required)
    if "avx2" in required and "fma" in required:
        return replace(AVX2, has_dot_product="avx_vnni" in required)
    return SSE


def _known(mcpu: str) -> str:
    import tvm

    names = [
        str(n) for n in tvm.target.codegen.llvm_get_cpu_archlist(tvm.target.Target({"kind": "llvm", "mtriple": TRIPLE}))
    ]
    if mcpu not in names:
        close = nearest(mcpu, names)
        raise ConfigError(
            f"LLVM knows no x86-64 CPU '{mcpu}'",
            expected=", ".join((*LEVELS, "haswell", "skylake-avx512", "znver4", "...")),
            hint=f"did you mean 'x86:{close}'?" if close else None,
        )  # fmt: skip
    return mcpu


def _host_cpu() -> str:
    """LLVM's name for this CPU, or the highest level whose features are all here (virtual machines hide some)."""
    import tvm

    detected = str(tvm.target.codegen.llvm_get_system_cpu())
    here = host.cpu_features()
    candidates = ([detected] if detected not in ("", "generic") else []) + list(LEVELS)
    return next(cpu for cpu in candidates if set(required_features(cpu)) <= here)

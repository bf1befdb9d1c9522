"""Instructions that multiply groups of four 8-bit numbers and add them to 32-bit lanes, as TVM tensor intrinsics.

TVM's own (`dot_16x4_vnni`) hands LLVM 32-bit lanes, which LLVM 22 takes as bytes: its verifier refuses them.
"""

# mypy: ignore-errors
# TVMScript is a language of its own in Python's syntax; its annotations are no types.

from __future__ import annotations

from functools import cache
from typing import Any

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from lab.compile.kernels.integer_conv import DEPTH

X86 = {8: "llvm.x86.avx512.vpdpbusd.256", 16: "llvm.x86.avx512.vpdpbusd.512"}
"""32-bit lanes -> LLVM's intrinsic; the same for AVX-512 VNNI and AVX-VNNI."""


@cache
def register(num_lanes: int) -> str:
    """The name of the intrinsic `lanes[i] += sum_j u8[j] * i8[i, j]` for vectors of `num_lanes` 32-bit lanes."""
    name = f"lab.dot_u8i8_{num_lanes}"
    TensorIntrin.register(name, _meaning(num_lanes), _vnni(num_lanes, X86[num_lanes]), override=True)
    return name


def _meaning(lanes: int) -> Any:
    @T.prim_func(s_tir=True)
    def meaning(
        data: T.Buffer((DEPTH,), "uint8", offset_factor=1),
        weights: T.Buffer((lanes, DEPTH), "int8", offset_factor=1),
        total: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(total[0:lanes], data[0:DEPTH], weights[0:lanes, 0:DEPTH])
            T.writes(total[0:lanes])
            for i in T.serial(0, lanes):
                for j in T.serial(0, DEPTH):
                    with T.sblock("update"):
                        vi, vj = T.axis.remap("SR", [i, j])
                        total[vi] = total[vi] + T.cast(data[vj], "int32") * T.cast(weights[vi, vj], "int32")

    return meaning


def _vnni(lanes: int, intrinsic: str) -> Any:
    num_bytes = lanes * DEPTH
    sums, packed, four = f"int32x{lanes}", f"int8x{num_bytes}", f"uint8x{DEPTH}"

    @T.prim_func(s_tir=True)
    def instruction(
        data: T.Buffer((DEPTH,), "uint8", offset_factor=1),
        weights: T.Buffer((lanes, DEPTH), "int8", offset_factor=1),
        total: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(total[0:lanes], data[0:DEPTH], weights[0:lanes, 0:DEPTH])
            T.writes(total[0:lanes])
            group = T.reinterpret(data.vload([0], four), dtype="int32")
            total[T.ramp(T.int32(0), 1, lanes)] = T.call_llvm_pure_intrin(
                T.llvm_lookup_intrinsic_id(intrinsic),
                total.vload([0], dtype=sums),
                T.reinterpret(T.broadcast(group, lanes), dtype=packed),
                weights.vload([0, 0], dtype=packed),
                dtype=sums,
            )

    return instruction

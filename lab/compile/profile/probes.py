"""Two kernels that do nothing but one thing: multiply-adds in registers, and reading memory.

Compiled and run on this machine they give the two roofs of a roofline, with the same threads as the model's kernels.
"""

# mypy: ignore-errors
# TVMScript is a language of its own in Python's syntax; its annotations are no types.

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import PrimFunc


def multiply_adds(num_threads: int, num_vectors: int, lanes: int, num_steps: int) -> PrimFunc:
    """`num_threads * num_vectors * lanes * num_steps` multiply-adds; the accumulators stay in registers.

    `num_vectors` independent chains hide the instruction's latency. The factors are arguments, so that no compiler can
    work the sum out.
    """
    P, V, L = num_threads, num_vectors, lanes

    @T.prim_func(s_tir=True)
    def probe(factor: T.Buffer((L,), "float32"), addend: T.Buffer((L,), "float32"), out: T.Buffer((P, V * L))) -> None:
        for p in T.parallel(P):
            with T.sblock("multiply_adds"):
                T.reads(factor[0:L], addend[0:L])
                T.writes(out[p, 0 : V * L])
                total = T.sblock_alloc_buffer((V * L,), "float32", scope="local")
                for v in T.unroll(V):
                    for lane in T.vectorized(L):
                        total[v * L + lane] = addend[lane]
                for _step in range(num_steps):
                    for v in T.unroll(V):
                        for lane in T.vectorized(L):
                            total[v * L + lane] = total[v * L + lane] * factor[lane] + addend[lane]
                for v in T.unroll(V):
                    for lane in T.vectorized(L):
                        out[p, v * L + lane] = total[v * L + lane]

    return probe


def read_memory(num_threads: int, num_floats: int, lanes: int, num_vectors: int, num_passes: int) -> PrimFunc:
    """Adds up `num_floats` of each thread's own array, `num_passes` times over.

    Reading alone, because that is what most bytes of a network are: weights.
    """
    P, L, V = num_threads, lanes, num_vectors
    N = num_floats // (V * L) * (V * L)

    @T.prim_func(s_tir=True)
    def probe(data: T.Buffer((P, N)), out: T.Buffer((P, V * L))) -> None:
        for p in T.parallel(P):
            with T.sblock("read_memory"):
                T.reads(data[p, 0:N])
                T.writes(out[p, 0 : V * L])
                total = T.sblock_alloc_buffer((V * L,), "float32", scope="local")
                for v in T.unroll(V):
                    for lane in T.vectorized(L):
                        total[v * L + lane] = T.float32(0)
                for _pass in range(num_passes):
                    for i in range(N // (V * L)):
                        for v in T.unroll(V):
                            for lane in T.vectorized(L):
                                total[v * L + lane] = total[v * L + lane] + data[p, i * (V * L) + v * L + lane]
                for v in T.unroll(V):
                    for lane in T.vectorized(L):
                        out[p, v * L + lane] = total[v * L + lane]

    return probe

"""The k largest (or smallest) of each row in order; of equal values the one with the lower index comes first.

Shapes: R rows, N values of a row, K of them kept.
"""

# mypy: ignore-errors
# TVMScript is a language of its own in Python's syntax; its annotations are no types.

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from lab.compile.kernels.emit import named

NAME = "top_k"


def on_cpu(num_rows: int, num_values: int, k: int, *, largest: bool, dtype: str, index_dtype: str) -> PrimFunc:
    """A heap of the k best per row, whose root is the worst of them: most values are refused by one comparison."""
    R, N, K = num_rows, num_values, k

    @T.macro
    def sift(value, index, at, child, moved_value, moved_index, size):
        """Let what is at `at` sink until nothing worse lies below it."""
        while 2 * at[0] + 1 < size:
            child[0] = 2 * at[0] + 1
            if child[0] + 1 < size:  # noqa: SIM102  TIR's And reads both sides
                if _worse(value[child[0] + 1], index[child[0] + 1], value[child[0]], index[child[0]], largest):
                    child[0] = child[0] + 1
            if _worse(value[child[0]], index[child[0]], value[at[0]], index[at[0]], largest):
                moved_value[0] = value[at[0]]
                moved_index[0] = index[at[0]]
                value[at[0]] = value[child[0]]
                index[at[0]] = index[child[0]]
                value[child[0]] = moved_value[0]
                index[child[0]] = moved_index[0]
                at[0] = child[0]
            else:
                at[0] = size

    @T.prim_func(s_tir=True, private=True)
    def top_k(
        x: T.Buffer((R, N), dtype), values: T.Buffer((R, K), dtype), indices: T.Buffer((R, K), index_dtype)
    ) -> None:
        for row in T.parallel(R):
            with T.sblock("top_k"):
                r = T.axis.spatial(R, row)
                T.reads(x[r, 0:N])
                T.writes(values[r, 0:K], indices[r, 0:K])
                value = T.sblock_alloc_buffer((K,), dtype, scope="local")
                index = T.sblock_alloc_buffer((K,), "int32", scope="local")
                moved_value = T.sblock_alloc_buffer((1,), dtype, scope="local")
                moved_index = T.sblock_alloc_buffer((1,), "int32", scope="local")
                at = T.sblock_alloc_buffer((1,), "int32", scope="local")
                child = T.sblock_alloc_buffer((1,), "int32", scope="local")
                for i in range(K):
                    value[i] = x[r, i]
                    index[i] = i
                for i in range(K):
                    at[0] = K - 1 - i
                    sift(value, index, at, child, moved_value, moved_index, K)
                for i in range(N - K):
                    if _better(x[r, i + K], value[0], largest):
                        value[0] = x[r, i + K]
                        index[0] = i + K
                        at[0] = 0
                        sift(value, index, at, child, moved_value, moved_index, K)
                for i in range(K):
                    values[r, K - 1 - i] = value[0]
                    indices[r, K - 1 - i] = T.Cast(index_dtype, index[0])
                    value[0] = value[K - 1 - i]
                    index[0] = index[K - 1 - i]
                    at[0] = 0
                    sift(value, index, at, child, moved_value, moved_index, K - 1 - i)

    return named(top_k, NAME)


def _better(value, other, largest):
    return value > other if largest else value < other


def _worse(value, index, other, other_index, largest):
    return T.Or(_better(other, value, largest), T.And(other == value, index > other_index))

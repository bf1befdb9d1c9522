"""Write exp, log, tanh, sigmoid and erf out as arithmetic wherever a scheduled kernel stores their results."""

from __future__ import annotations

from collections.abc import Container

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, TensorLoad
from tvm.tirx import BufferStore, For, ForKind, PrimFunc, Stmt

from lab.compile.kernels.vector_math import FUNCTIONS, Expr

CONDITIONAL = "prim.if_then_else"


def vector_math(func: PrimFunc) -> PrimFunc:
    """The kernel with variables and arithmetic in place of such calls on float32."""
    body = tvm_ffi.structural_map(func.body, (For, _in_vectors))
    return func.with_body(tvm_ffi.structural_map(body, (BufferStore, lambda store: _Writer().write(store))))


def _in_vectors(loop: For) -> Stmt:
    if loop.kind != ForKind.VECTORIZED:
        return loop
    writer = _Writer(loop.loop_var, loop.extent)
    loop = tvm_ffi.structural_map(loop, (BufferStore, writer.write_later))
    return tirx.SeqStmt([*writer.arrays, loop]) if writer.arrays else loop


class _Writer:
    """Writes stores out, with what their values need before them.

    Arguments that are more than one load go through an array of the loop's lanes: TVM's analyses put the values of
    variables in their place, and grow exponentially with functions of functions.
    """

    def __init__(self, lane: Expr = 0, num_lanes: Expr = 1) -> None:
        self.lane, self.num_lanes = lane, num_lanes
        self.arrays: list[Stmt] = []
        """To be put before the loop: inside, TVM would make them one element small."""
        self._before: list[Stmt] = []
        self._apart = False

    def write(self, store: BufferStore) -> Stmt:
        written = self.write_later(store)
        return tirx.SeqStmt([*self.arrays, written]) if self.arrays else written

    def write_later(self, store: BufferStore) -> Stmt:
        """The store, still without `arrays`."""
        if not any(map(_is_ours, _calls(store.value, FUNCTIONS))) or _has_conditional_call(store.value):
            return store
        self._before = []
        self._apart = bool(_calls(store.value, (CONDITIONAL,)))
        value = tvm_ffi.structural_map(store.value, (Call, self._replace))
        return tirx.SeqStmt([*self._before, BufferStore(store.buffer, value, store.indices)])

    def _replace(self, call: Call) -> Expr:
        if not _is_ours(call):
            return call
        (x,) = call.args
        result = FUNCTIONS[_name(call)](x if isinstance(x, TensorLoad) else self._stored(x), self._bind)
        # TVM takes a vector with a condition apart, lane by lane, and would not find the variables of whole vectors.
        return self._stored(result) if self._apart else result

    def _bind(self, value: Expr) -> Expr:
        variable = tirx.Var("v", value.ty)
        self._before.append(tirx.Bind(variable, value))
        return variable

    def _stored(self, value: Expr) -> Expr:
        array = tirx.decl_buffer([self.num_lanes], "float32", name="argument", scope="local")
        self.arrays.append(tirx.AllocBuffer(array))
        self._before.append(BufferStore(array, value, [self.lane]))
        return tirx.BufferLoad(array, [self.lane])


def _has_conditional_call(value: Expr) -> bool:
    """Whether a branch has such a call: a variable before the store would read what the branch is there not to read."""
    return any(_calls(branch, FUNCTIONS) for call in _calls(value, (CONDITIONAL,)) for branch in call.args[1:])


def _calls(value: Expr, names: Container[str]) -> list[Call]:
    found: list[Call] = []
    tvm_ffi.structural_walk(value, (Call, lambda call: found.append(call)))
    return [call for call in found if _name(call) in names]


def _is_ours(call: Call) -> bool:
    return _name(call) in FUNCTIONS and str(call.ty) == "float32"


def _name(call: Call) -> str:
    return str(getattr(call.op, "name", ""))

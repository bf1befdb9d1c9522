"""Operators whose stock form is slow on a CPU become kernels of our own, before TVM turns the rest into loops."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from math import prod
from typing import Any

from tvm import relax
from tvm.ir import GenericConst, IRModule

from lab.compile.kernels import emit, resize, top_k
from lab.compile.kernels.winograd import KERNEL_SIZE, Convolution, transform_weights, winograd
from lab.compile.kernels.winograd_plan import decide_plan
from lab.compile.passes.rewrite import rewrite_functions
from lab.compile.targets.machine import Machine
from lab.compile.tuning.choices import Choices
from lab.compile.tuning.decisions import Decisions, StaleChoice
from lab.compile.tuning.groups import convolution_groups

Replace = Callable[[Any, Any, Machine, Decisions], Any]


def replace_operators(mod: IRModule, machine: Machine, choices: Choices | None = None) -> IRModule:
    """`topk`, bilinear `resize2d` and 3x3 `conv2d` as calls of kernels of `lab.compile.kernels`, `split` as slices.

    A convolution stays what it is where Winograd's form would not pay on `machine`, unless `choices` know better.
    """
    return rewrite_functions(_Replacer(mod, machine, choices or Choices()), mod)


def _top_k(builder: Any, call: Any, machine: Machine, decisions: Decisions) -> Any:
    """Along the last axis; another axis is moved there and back."""
    (x,), attrs = call.args, call.attrs
    shape = [int(dim) for dim in x.ty.shape]
    axis = int(attrs.axis) % len(shape)
    last = [*[i for i in range(len(shape)) if i != axis], axis]
    back = [last.index(i) for i in range(len(shape))]
    if axis != len(shape) - 1:
        x = builder.emit(relax.op.permute_dims(x, last))
    k, num_values = int(attrs.k), shape[axis]
    lead = [shape[i] for i in last[:-1]]
    rows = builder.emit(relax.op.reshape(x, (prod(lead), num_values)))
    func = top_k.on_cpu(
        prod(lead), num_values, k, largest=bool(attrs.largest), dtype=str(x.ty.dtype), index_dtype=str(attrs.dtype)
    )
    both = builder.emit(emit.call(builder, func, [rows], num_outputs=2))
    results = []
    for i in range(2):
        part = builder.emit(relax.op.reshape(builder.emit(relax.TupleGetItem(both, i)), (*lead, k)))
        results.append(part if axis == len(shape) - 1 else builder.emit(relax.op.permute_dims(part, back)))
    return {"both": relax.Tuple(results), "values": results[0], "indices": results[1]}[str(attrs.ret_type)]


def _resize(builder: Any, call: Any, machine: Machine, decisions: Decisions) -> Any:
    return resize.legalize(builder, call)


def _split(builder: Any, call: Any, machine: Machine, decisions: Decisions) -> Any | None:
    """A slice for each part: slices fuse with what reads them, a kernel of several outputs with nothing."""
    (x,), axis = call.args, int(call.attrs.axis) % len(call.args[0].ty.shape)
    sizes: list[Any] = [getattr(part.shape[axis], "value", None) for part in call.ty.fields]
    if None in sizes:
        return None
    ends = list(accumulate(sizes))
    return relax.Tuple(
        [
            builder.emit(relax.op.strided_slice(x, [axis], [end - size], [end]))
            for size, end in zip(sizes, ends, strict=True)
        ]
    )


def _convolution(builder: Any, call: Any, machine: Machine, decisions: Decisions) -> Any | None:
    """Winograd's form of a 3x3 convolution of stride 1 with constant weights, or None where it does not pay."""
    conv = _as_winograd(call)
    plan = decide_plan(conv, machine, decisions) if conv is not None else None
    if conv is None or plan is None:
        return None
    weights = transform_weights(call.args[1].value.numpy(), plan.m)
    return emit.call(builder, winograd(conv, plan), [call.args[0], relax.const(weights)])


def _as_winograd(call: Any) -> Convolution | None:
    (x, weights), attrs = call.args, call.attrs
    dims: list[Any] = [getattr(dim, "value", None) for dim in (*x.ty.shape, *call.ty.shape)]
    dilation = [int(d) for d in attrs.dilation]
    if (
        str(attrs.data_layout) != "NHWC"
        or not isinstance(weights, GenericConst)
        or [int(dim) for dim in weights.ty.shape][:2] != [KERNEL_SIZE, KERNEL_SIZE]
        or [int(stride) for stride in attrs.strides] != [1, 1]
        or int(attrs.groups) != 1
        or dilation[0] != dilation[1]
        or None in dims
        or str(x.ty.dtype) != "float32"
    ):
        return None
    (batch, height, width, channels), (_, y, v, k) = dims[:4], dims[4:]
    top, left = (int(pad) for pad in attrs.padding[:2])
    return Convolution(batch, y, v, channels, k, height, width, top, left, dilation[0])


TABLE: dict[str, Replace] = {
    "relax.topk": _top_k, "relax.image.resize2d": _resize, "relax.nn.conv2d": _convolution, "relax.split": _split,
}  # fmt: skip


@relax.expr_functor.mutator
class _Replacer(relax.PyExprMutator):  # type: ignore[misc]
    def __init__(self, mod: IRModule, machine: Machine, choices: Choices) -> None:
        super().__init__(mod)
        self.machine = machine
        self.choices = choices
        self.groups = {hash(group.call): group for group in convolution_groups(mod)}

    def visit_call_(self, call: Any) -> Any:
        group = self.groups.get(hash(call))
        call = self.visit_expr_post_order(call)
        replace = TABLE.get(getattr(call.op, "name", ""))
        if replace is None:
            return call
        choice = self.choices.get(group.identity) if group else None
        try:
            decisions = Decisions(choice.parameters if choice else {})
            replaced = replace(self.builder_, call, self.machine, decisions)
            decisions.check_all_taken()
        except StaleChoice:
            choice, decisions = None, Decisions()
            replaced = replace(self.builder_, call, self.machine, decisions)
        if group is not None:
            self.choices.decisions[str(group.identity)] = decisions
        chosen = call if replaced is None else replaced
        if choice is not None:
            weights = call.args[1] if replaced is None else replaced.args[1][1]
            self.choices.mark(weights, choice)
        return chosen

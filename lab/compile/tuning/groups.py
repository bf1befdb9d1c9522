"""A convolution with what will be fused behind it, before operators become kernels: its form is chosen that early."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm import relax
from tvm.ir import GenericConst, IRModule

from lab.compile.passes.channels_last import ELEMENTWISE
from lab.compile.tuning.choices import Identity, describe

CONVOLUTION = "relax.nn.conv2d"
FUSED = frozenset(f"relax.{name}" for name in ELEMENTWISE)


@dataclass(frozen=True)
class Group:
    """A convolution's call and the elementwise calls behind it, each the only reader of the one before."""

    bindings: tuple[Any, ...]

    @property
    def call(self) -> Any:
        return self.bindings[0].value

    @property
    def identity(self) -> Identity:
        """Named like kernels are, with the operators in place of the loops."""
        calls = [binding.value for binding in self.bindings]
        made = {hash(binding.var) for binding in self.bindings}
        operands = [arg for call in calls for arg in call.args if hash(arg) not in made and hasattr(arg.ty, "shape")]
        bounds = [str(arg) for call in calls for arg in call.args if not hasattr(arg.ty, "shape")]
        arguments = [describe(arg.ty.shape, arg.ty.dtype, isinstance(arg, GenericConst)) for arg in operands]
        result = describe(calls[-1].ty.shape, calls[-1].ty.dtype)
        attrs = self.call.attrs
        body = ", ".join(
            f"{name} {'x'.join(str(int(value)) for value in getattr(attrs, name))}"
            for name in ("strides", "padding", "dilation")
        )
        names = ", ".join(str(call.op.name).removeprefix("relax.") for call in calls)
        return Identity(names, (*arguments, result), ", ".join([body, f"groups {int(attrs.groups)}", *bounds]))

    def module(self) -> IRModule:
        """The group alone as a module; what the graph computes is a parameter."""
        builder = relax.BlockBuilder()
        made = {hash(binding.var) for binding in self.bindings}
        values: dict[int, Any] = {}
        for binding in self.bindings:
            for arg in binding.value.args:
                if hash(arg) not in made and not isinstance(arg, GenericConst) and hasattr(arg.ty, "shape"):
                    values.setdefault(hash(arg), relax.Var(f"x{len(values)}", arg.ty))
        with builder.function("main", list(values.values())):
            with builder.dataflow():
                for binding in self.bindings:
                    call = binding.value
                    args = [values.get(hash(arg), arg) for arg in call.args]
                    values[hash(binding.var)] = builder.emit(relax.Call(call.op, args, call.attrs, call.ty_args))
                result = builder.emit_output(values[hash(self.bindings[-1].var)])
            builder.emit_func_output(result)
        return builder.get()


def convolution_groups(mod: IRModule) -> list[Group]:
    """Every convolution of the module's functions with its group; none where a shape is open."""
    return [group for func in mod.functions.values() if isinstance(func, relax.Function) for group in _groups(func)]


def _groups(func: Any) -> Iterator[Group]:
    bindings = [binding for block in func.body.blocks for binding in block.bindings]
    readers: dict[int, list[Any]] = defaultdict(list)
    for binding in bindings:
        for var in relax.analysis.free_vars(binding.value):
            readers[hash(var)].append(binding)
    returned = {hash(var) for var in relax.analysis.free_vars(func.body.body)}
    for binding in bindings:
        if _operator(binding) == CONVOLUTION and _is_static(binding.value):
            yield Group(tuple(_chain(binding, readers, returned)))


def _chain(first: Any, readers: dict[int, list[Any]], returned: set[int]) -> list[Any]:
    chain = [first]
    while hash(chain[-1].var) not in returned:
        found = readers[hash(chain[-1].var)]
        if len(found) != 1 or _operator(found[0]) not in FUSED or not _same_shape(found[0], first):
            break
        chain.append(found[0])
    return chain


def _operator(binding: Any) -> str:
    return str(getattr(getattr(binding.value, "op", None), "name", ""))


def _is_static(call: Any) -> bool:
    return all(hasattr(dim, "value") for value in (*call.args, call) for dim in value.ty.shape)


def _same_shape(binding: Any, first: Any) -> bool:
    return [str(dim) for dim in binding.value.ty.shape] == [str(dim) for dim in first.value.ty.shape]

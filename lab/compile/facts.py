"""What a module tells on its way through the phases: layouts, transforms, planned memory, kernels of open sizes.

Collected while lowering, because a later phase no longer knows it; the compile report shows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from math import prod
from typing import Any

import tvm
from tvm import relax
from tvm.ir import GenericConst, IRModule, Var
from tvm.sym import Analyzer
from tvm.tirx import IntImm, PrimFunc
from tvm_ffi import structural

from lab.compile.cost import Cost, kernel_cost

LAYOUT_CHANGES = ("relax.permute_dims", "relax.layout_transform")
ALIASES = ("vm.builtin.reshape", "vm.builtin.ensure_zero_offset")


@dataclass(frozen=True)
class Transform:
    """A change of layout that the graph holds after the layout phase. `moves_data` is false where only dimensions of
    size one change place.
    """

    operator: str
    before: tuple[Any, ...]
    after: tuple[Any, ...]
    moves_data: bool


@dataclass(frozen=True)
class Memory:
    """`peak_bytes` are in use at once, `allocated_bytes` are all storages that one inference asks the pool for."""

    peak_bytes: int
    allocated_bytes: int
    num_storages: int


@dataclass(frozen=True)
class OpenKernel:
    """A kernel before it was scheduled; `sizes` are its variables with what its first call passes for each, in terms of
    the graph's open dimensions: kernels name theirs as they like.
    """

    func: PrimFunc
    sizes: tuple[tuple[Any, Any], ...]

    def at(self, dims: Mapping[str, int]) -> PrimFunc:
        """The kernel with every size that `dims` decide replaced by its number."""
        known = [(var, value) for var, expr in self.sizes if (value := _evaluate(expr, dims)) is not None]
        numbers = {hash(var): IntImm("int64", value) for var, value in known}
        scalars = {p: numbers[hash(p)] for p in self.func.params if not hasattr(p, "shape") and hash(p) in numbers}
        func = self.func.specialize(scalars) if scalars else self.func
        return structural.structural_map(func, (Var, lambda var: numbers.get(hash(var), var)))


@dataclass
class Facts:
    """Of one module. Sizes that are open stay expressions until `memory` or `cost` is given their values."""

    layouts: Counter[tuple[str, str]] = field(default_factory=Counter)
    transforms: list[Transform] = field(default_factory=list)
    open_kernels: dict[str, OpenKernel] = field(default_factory=dict)
    phases_s: dict[str, float] = field(default_factory=dict)
    num_packed: int = 0
    plan: list[tuple[str, int, Any]] = field(default_factory=list)
    """("alloc", storage, its size) and ("free", storage, None), in the order of execution."""

    def see_layout(self, mod: IRModule) -> None:
        """The operators' layouts, and the changes between them."""

        def visit(node: object) -> None:
            if not isinstance(node, relax.Call) or not isinstance(node.op, tvm.ir.Op):
                return
            name = str(node.op.name)
            layout = getattr(node.attrs, "data_layout", None) or getattr(node.attrs, "layout", None)
            if layout:
                self.layouts[name.removeprefix("relax."), str(layout)] += 1
            if name in LAYOUT_CHANGES and not isinstance(node.args[0], GenericConst):
                self.transforms.append(_transform(name, node))

        for func in mod.functions.values():
            if isinstance(func, relax.Function):
                relax.analysis.post_order_visit(func, visit)

    def see_kernels(self, mod: IRModule) -> None:
        """Kernels whose cost depends on sizes that only a call knows."""
        kernels = {
            str(var.name_hint): func
            for var, func in mod.functions.items()
            if isinstance(func, PrimFunc) and _open_dims(func)
        }

        def visit(node: object) -> None:
            if not isinstance(node, relax.Call) or getattr(node.op, "name", "") != "relax.call_tir":
                return
            name = str(node.args[0].name_hint)
            if name in kernels and name not in self.open_kernels:
                self.open_kernels[name] = OpenKernel(kernels[name], _sizes_at_call(kernels[name], node))

        for func in mod.functions.values():
            if isinstance(func, relax.Function):
                relax.analysis.post_order_visit(func, visit)

    def see_plan(self, mod: IRModule) -> None:
        """The storages of the main function and how long each is held."""
        for var, func in mod.functions.items():
            if isinstance(func, relax.Function) and str(var.name_hint) == "main":
                self.plan = _Storages().of(func)

    def cost(self, kernel: str, dims: Mapping[str, int]) -> Cost | None:
        """What a kernel of open sizes costs at these; None for a kernel whose sizes are all known."""
        found = self.open_kernels.get(kernel)
        return None if found is None else kernel_cost(found.at(dims))

    def memory(self, dims: Mapping[str, int]) -> Memory | None:
        """None where a size depends on more than `dims`."""
        live, peak, total, sizes = 0, 0, 0, {}
        for action, storage, size in self.plan:
            if action == "alloc":
                known = _evaluate(size, dims)
                if known is None:
                    return None
                sizes[storage] = known
                total += known
                live += known
                peak = max(peak, live)
            else:
                live -= sizes[storage]
        return Memory(peak, total, len(sizes))


def watched(passes: list[Any], facts: Facts) -> list[Any]:
    """The passes with one that reads the memory plan before its sizes disappear in TVM's heap of shapes."""

    def see_plan(mod: IRModule, _context: Any) -> IRModule:
        facts.see_plan(mod)
        return mod

    watch = tvm.transform.module_pass(see_plan, opt_level=0, name="lab.see_plan")
    at = next(i for i, each in enumerate(passes) if each.info.name == "VMShapeLower")
    return [*passes[:at], watch, *passes[at:]]


def _sizes_at_call(func: PrimFunc, call: Any) -> tuple[tuple[Any, Any], ...]:
    """(variable of the kernel, expression of the call) for each that a shape or a scalar argument gives directly."""
    out = call.ty_args[0]
    outputs = list(out.fields) if isinstance(out, relax.TupleType) else [out]
    types = [*(getattr(arg, "ty", None) for arg in call.args[1]), *outputs]
    pairs: list[tuple[Any, Any]] = []
    for param, passed, arg in zip_longest(func.params, types, list(call.args[1])):
        if not hasattr(param, "shape"):
            pairs.append((param, getattr(arg, "value", arg)))
            continue
        given = getattr(getattr(passed, "shape", None), "values", ())
        pairs += [(dim, wanted) for dim, wanted in zip(param.shape, given, strict=False) if isinstance(dim, Var)]
    return tuple(pairs)


def _value(var: Any, dims: Mapping[str, int]) -> Any:
    return IntImm("int64", dims[var.name]) if getattr(var, "name", None) in dims else var


def _evaluate(size: Any, dims: Mapping[str, int]) -> int | None:
    simplified = Analyzer().simplify(structural.structural_map(size, (Var, lambda var: _value(var, dims))))
    value = getattr(simplified, "value", None)
    return None if value is None else int(value)


def _open_dims(func: PrimFunc) -> bool:
    return any(not hasattr(dim, "value") for p in func.params for dim in getattr(p, "shape", ()))


def _shape(expr: Any) -> tuple[Any, ...]:
    dims = getattr(getattr(expr.ty, "shape", None), "values", ())
    return tuple(int(dim.value) if hasattr(dim, "value") else str(dim) for dim in dims)


def _transform(name: str, call: Any) -> Transform:
    before, after = _shape(call.args[0]), _shape(call)
    axes = getattr(call.attrs, "axes", None)
    if name == "relax.permute_dims":
        order = [int(a) for a in axes] if axes is not None else list(range(len(before)))[::-1]
        kept = [axis for axis in order if before[axis] != 1]
        moves = kept != sorted(kept)
    else:
        moves = True
    return Transform(name.removeprefix("relax."), before, after, moves)


def num_elements(shape: tuple[Any, ...], dims: Mapping[str, int]) -> int | None:
    """None where a size is neither a number nor in `dims`."""
    sizes = [dim if isinstance(dim, int) else dims.get(str(dim)) for dim in shape]
    return None if None in sizes else prod(size for size in sizes if size is not None)


class _Storages:
    """Follows which tensors hold which storage: it is free when neither it nor a tensor or view of it is needed."""

    def __init__(self) -> None:
        self.holders: dict[int, set[int]] = {}
        self.storage_of: dict[int, int] = {}
        self.events: list[tuple[str, int, Any]] = []

    def of(self, func: Any) -> list[tuple[str, int, Any]]:
        for block in func.body.blocks:
            for binding in block.bindings:
                if isinstance(binding.value, relax.Call):
                    self._call(_key(binding.var), binding.value)
                elif isinstance(binding.value, relax.Var):
                    self._hold(_key(binding.var), _key(binding.value))
        return self.events

    def _call(self, var: int, call: Any) -> None:
        name = str(getattr(call.op, "name", None) or getattr(call.op, "global_symbol", ""))
        if name.endswith("alloc_storage"):
            storage = len(self.holders)
            self.holders[storage] = {var}
            self.storage_of[var] = storage
            self.events.append(("alloc", storage, call.args[0].values[0]))
        elif name.endswith("alloc_tensor") or name in ALIASES:
            self._hold(var, _key(call.args[0]))
        elif name.endswith("kill_object"):
            self._release(_key(call.args[0]))

    def _hold(self, var: int, of: int) -> None:
        if of in self.storage_of:
            self.storage_of[var] = self.storage_of[of]
            self.holders[self.storage_of[of]].add(var)

    def _release(self, var: int) -> None:
        storage = self.storage_of.get(var)
        if storage is None or var not in self.holders[storage]:
            return
        self.holders[storage].discard(var)
        if not self.holders[storage]:
            self.events.append(("free", storage, None))


def _key(var: Any) -> int:
    """Which variable it is: names repeat, and every access makes a new Python object for the same one."""
    return hash(var)

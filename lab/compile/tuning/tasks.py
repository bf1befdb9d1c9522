"""What there is to tune in a model: its kernels that leave something to decide, each as a module of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import tvm
from tvm import relax
from tvm.ir import GenericConst, IRModule
from tvm.tirx import PrimFunc

from lab.compile.cost import kernel_cost
from lab.compile.passes.replace_operators import replace_operators
from lab.compile.passes.schedule_kernels import constant_args, kernel_calls, schedule_kernel
from lab.compile.pipeline import fuse, layout
from lab.compile.schedules.kernel import Kernel
from lab.compile.targets import Target
from lab.compile.tuning.choices import Choices, Identity, identity_of
from lab.compile.tuning.decisions import Choice, Decisions
from lab.compile.tuning.groups import convolution_groups

Level = Literal["operator", "kernel"]
CONVOLUTION_RULE = "convolution"


@dataclass(frozen=True)
class Task:
    """One thing to tune. `module` is a Relax module as JSON: operators, or the call of one kernel, weights included."""

    name: str
    identity: Identity
    level: Level
    rule: str
    module: str
    num_calls: int
    flops: int


def operator_tasks(mod: IRModule, target: Target, known: dict[Identity, Choice]) -> list[Task]:
    """The convolutions of an imported module whose form (direct or Winograd's, how it is cut) is open to choice."""
    if target.rules != "cpu":
        return []
    with target.to_tvm():
        mod, _ = layout(mod, target)
        choices = Choices(known)
        groups = convolution_groups(mod)
        replace_operators(mod, target.machine, choices)
    counts: dict[Identity, list[Any]] = {}
    for group in groups:
        if _is_open(choices.decisions.get(str(group.identity))):
            counts.setdefault(group.identity, []).append(group)
    return [
        Task(
            _conv_name(same[0].call), identity, "operator", CONVOLUTION_RULE, _json(same[0].module()),
            len(same), _conv_flops(same[0].call),
        )
        for identity, same in counts.items()
    ]  # fmt: skip


def kernel_tasks(mod: IRModule, target: Target, known: dict[Identity, Choice]) -> list[Task]:
    """The kernels of an imported module whose rule leaves something to decide.

    Kernels whose sizes are known at run time only are left out: there is no size to measure.
    """
    choices = Choices(known)
    with target.to_tvm():
        mod = fuse(layout(mod, target)[0], target, choices)
        calls, _ = kernel_calls(mod)
        found: dict[Identity, Task] = {}
        for var, func in sorted(mod.functions.items(), key=lambda item: str(item[0].name_hint)):
            name = str(var.name_hint)
            if not isinstance(func, PrimFunc) or name not in calls or not _is_static(func, calls[name][0]):
                continue
            kernel = Kernel(name, func, constant_args(calls[name]))
            _, row = schedule_kernel(kernel, target, choices)
            identity = identity_of(func, kernel.constant_args)
            if _is_open(choices.decisions.get(name)) and identity not in found:
                module = _json(_call_alone(func, name, calls[name][0]))
                found[identity] = Task(
                    name, identity, "kernel", row.schedule, module, len(calls[name]), kernel_cost(func).flops
                )
    return list(found.values())


def by_work(tasks: Iterable[Task]) -> list[Task]:
    """Those with the most operations per inference first: where a budget ends, the rest matters least."""
    return sorted(tasks, key=lambda task: (-task.flops * task.num_calls, task.name))


def _is_open(decisions: Decisions | None) -> bool:
    return decisions is not None and any(len(each.options()) > 1 for each in decisions.taken.values())


def _is_static(func: PrimFunc, call: Any) -> bool:
    shapes = [dim for param in func.params for dim in getattr(param, "shape", [None])]
    return str(call.op.name) == "relax.call_tir" and all(hasattr(dim, "value") for dim in shapes)


def _call_alone(func: PrimFunc, name: str, call: Any) -> IRModule:
    builder = relax.BlockBuilder()
    args = [arg if isinstance(arg, GenericConst) else relax.Var(f"x{i}", arg.ty) for i, arg in enumerate(call.args[1])]
    with builder.function("main", [arg for arg in args if isinstance(arg, relax.Var)]):
        var = builder.add_func(func, name)
        with builder.dataflow():
            rest = [relax.Tuple(args), *call.args[2:]]
            result = builder.emit_output(builder.emit(relax.Call(call.op, [var, *rest], call.attrs, call.ty_args)))
        builder.emit_func_output(result)
    return builder.get()


def _conv_name(call: Any) -> str:
    """ "conv2d_3x3_14x14_256_512": window, positions, channels in and out."""
    (_, y, x, k), (r, s, c, _) = ([int(dim) for dim in value.ty.shape] for value in (call, call.args[1]))
    return f"conv2d_{r}x{s}_{y}x{x}_{c}_{k}"


def _conv_flops(call: Any) -> int:
    total = 2
    for dim in (*call.ty.shape, *list(call.args[1].ty.shape)[:3]):
        total *= int(dim)
    return total


def _json(mod: IRModule) -> str:
    return str(tvm.ir.save_json(mod))

"""Give every kernel of the module its schedule: the first rule of the target's table that fits, and a report row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tvm import relax
from tvm.ir import GenericConst, GlobalVar, IRModule
from tvm.tirx import PrimFunc

from lab.compile.cost import kernel_cost
from lab.compile.report import KernelRow
from lab.compile.schedules import CPU_RULES, GPU_RULES, LIBRARY, NAIVE
from lab.compile.schedules.kernel import DoesNotFit, Kernel, Packing, Scheduled
from lab.compile.targets import Target

Calls = dict[str, list[relax.Call]]


def schedule_kernels(
    mod: IRModule, target: Target, forbidden: Mapping[str, str] | None = None
) -> tuple[IRModule, list[KernelRow], dict[str, dict[int, Packing]]]:
    """Schedule every PrimFunc of `mod`.

    Args:
        forbidden: kernels that must stay naive, with the reason (their scheduled form did not compile).

    Returns:
        The module, one row per kernel, and the constants each kernel now expects packed.
    """
    calls, libraries = _calls(mod)
    rows: list[KernelRow] = []
    packings: dict[str, dict[int, Packing]] = {}
    with target.to_tvm():
        for var, func in sorted(mod.functions.items(), key=lambda item: str(item[0].name_hint)):
            if not isinstance(func, PrimFunc):
                continue
            name = str(var.name_hint)
            kernel = Kernel(name, func, _constant_args(calls.get(name, [])))
            scheduled, row = _schedule(kernel, target, (forbidden or {}).get(name))
            rows.append(replace(row, num_calls=len(calls.get(name, []))))
            if scheduled is not None:
                mod.update_func(var, scheduled.func.with_attrs(dict(func.attrs) if func.attrs else {}))
                packings[name] = scheduled.packings
    rows += [KernelRow(name, "library call", LIBRARY, num_calls=count) for name, count in sorted(libraries.items())]
    return mod, rows, packings


def _schedule(kernel: Kernel, target: Target, forbidden: str | None) -> tuple[Scheduled | None, KernelRow]:
    cost = kernel_cost(kernel.func)
    row = KernelRow(kernel.name, cost.op_kind, NAIVE, flops=cost.flops, num_bytes=cost.num_bytes)
    if forbidden is not None:
        return None, replace(row, reason=forbidden)
    rules = GPU_RULES if target.rules == "gpu" else CPU_RULES
    reasons: list[str] = []
    for name in rules:
        try:
            scheduled: Scheduled = rules[name](kernel, target.machine)
        except DoesNotFit as error:
            reasons.append(f"{name}: {error}")
        except Exception as error:  # noqa: BLE001  a rule that fails must not break the compile; the report names it
            reasons.append(f"{name}: failed: {_first_line(error)}")
        else:
            failed = "; ".join(reason for reason in reasons if ": failed" in reason)
            return scheduled, replace(row, schedule=name, reason="; ".join(filter(None, (scheduled.note, failed))))
    return None, replace(row, reason="; ".join(reasons))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((i for i, line in enumerate(lines) if line.startswith("ScheduleError")), None)
    if told is None:
        return (lines[-1] if lines else type(error).__name__)[:200]
    return " ".join(lines[told : told + 2])[:200]


def _calls(mod: IRModule) -> tuple[Calls, dict[str, int]]:
    """Every call of a kernel in the module, and how often each library function is called."""
    calls: Calls = {}
    libraries: dict[str, int] = {}

    def visit(node: object) -> None:
        if not isinstance(node, relax.Call) or not hasattr(node.op, "name"):
            return
        if node.op.name in ("relax.call_tir", "relax.call_tir_inplace") and isinstance(node.args[0], GlobalVar):
            calls.setdefault(str(node.args[0].name_hint), []).append(node)
        elif node.op.name == "relax.call_dps_packed":
            name = str(node.args[0].global_symbol)
            libraries[name] = libraries.get(name, 0) + 1

    for func in mod.functions.values():
        if isinstance(func, relax.Function):
            relax.analysis.post_order_visit(func, visit)
    return calls, libraries


def _constant_args(calls: list[relax.Call]) -> frozenset[int]:
    """Argument positions that hold a constant at every call."""
    sets = [{i for i, arg in enumerate(call.args[1]) if isinstance(arg, GenericConst)} for call in calls]
    return frozenset(set.intersection(*sets)) if sets else frozenset()

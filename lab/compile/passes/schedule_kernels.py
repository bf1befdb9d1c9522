"""Give every kernel of the module its schedule: the first rule of the target's table that fits, and a report row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tvm import relax
from tvm.ir import GenericConst, GlobalVar, IRModule
from tvm.tirx import PrimFunc

from lab.compile.cost import kernel_cost
from lab.compile.passes.split_vectors import split_vectors
from lab.compile.passes.vector_math import vector_math
from lab.compile.report import BY_RECORD, KernelRow
from lab.compile.schedules import CPU_RULES, GPU_RULES, LIBRARY, NAIVE
from lab.compile.schedules.kernel import DoesNotFit, Kernel, Packing, Scheduled
from lab.compile.targets import Target
from lab.compile.tuning.choices import Choices, identity_of
from lab.compile.tuning.decisions import Choice, Decisions, StaleChoice
from lab.core.errors import last_line

Calls = dict[str, list[relax.Call]]


def schedule_kernels(
    mod: IRModule, target: Target, forbidden: Mapping[str, str] | None = None, choices: Choices | None = None
) -> tuple[IRModule, list[KernelRow], dict[str, dict[int, Packing]]]:
    """Schedule every PrimFunc of `mod`.

    Args:
        forbidden: kernels that must stay naive, with the reason (their scheduled form did not compile).
        choices: what tuning found better than what rules derive.

    Returns:
        The module, one row per kernel, and the constants each kernel now expects packed.
    """
    calls, libraries = kernel_calls(mod)
    rows: list[KernelRow] = []
    packings: dict[str, dict[int, Packing]] = {}
    choices = choices or Choices()
    with target.to_tvm():
        for var, func in sorted(mod.functions.items(), key=lambda item: str(item[0].name_hint)):
            if not isinstance(func, PrimFunc):
                continue
            name, called = str(var.name_hint), calls.get(str(var.name_hint), [])
            kernel = Kernel(name, func, constant_args(called))
            scheduled, row = schedule_kernel(kernel, target, choices, (forbidden or {}).get(name))
            constants = [arg for call in called for arg in call.args[1] if isinstance(arg, GenericConst)]
            rows.append(_told(replace(row, num_calls=len(called)), choices.marked(constants)))
            if scheduled is not None:
                mod.update_func(var, scheduled.func.with_attrs(dict(func.attrs) if func.attrs else {}))
                packings[name] = scheduled.packings
    rows += [KernelRow(name, "library call", LIBRARY, num_calls=count) for name, count in sorted(libraries.items())]
    return mod, rows, packings


def schedule_kernel(
    kernel: Kernel, target: Target, choices: Choices, forbidden: str | None = None
) -> tuple[Scheduled | None, KernelRow]:
    """Schedule one kernel: with the parameters that tuning found where there are any and they still fit."""
    cost = kernel_cost(kernel.func)
    row = KernelRow(kernel.name, cost.op_kind, NAIVE, flops=cost.flops, num_bytes=cost.num_bytes)
    if forbidden is not None:
        return None, replace(row, reason=forbidden)
    scheduled, row = _with_choice(kernel, target, row, choices)
    if scheduled is not None and target.rules == "cpu":
        scheduled = replace(scheduled, func=vector_math(split_vectors(scheduled.func, target.machine.num_lanes)))
    return scheduled, row


def _with_choice(
    kernel: Kernel, target: Target, row: KernelRow, choices: Choices
) -> tuple[Scheduled | None, KernelRow]:
    choice = choices.get(identity_of(kernel.func, kernel.constant_args)) if choices.known else None
    if choice is not None:
        try:
            scheduled, tuned = _by_rules(kernel, target, row, choice, choices)
            return scheduled, _told(tuned, choice)
        except StaleChoice as error:
            scheduled, row = _by_rules(kernel, target, row, None, choices)
            return scheduled, replace(row, reason="; ".join(filter(None, (row.reason, f"record not used: {error}"))))
    return _by_rules(kernel, target, row, None, choices)


def _told(row: KernelRow, choice: Choice | None) -> KernelRow:
    if choice is None:
        return row
    note = f"by a tuning record, {choice.gain:.2f} times the rule's speed"
    return replace(row, chosen_by=BY_RECORD, reason="; ".join(filter(None, (row.reason, note))))


def _by_rules(
    kernel: Kernel, target: Target, row: KernelRow, choice: Choice | None, choices: Choices
) -> tuple[Scheduled | None, KernelRow]:
    """The first rule that fits, with the parameters of `choice`. Raises StaleChoice where they are not its."""
    rules = GPU_RULES if target.rules == "gpu" else CPU_RULES
    reasons: list[str] = []
    for name in rules:
        decisions = Decisions(choice.parameters if choice and choice.rule == name else {})
        try:
            scheduled: Scheduled = rules[name](replace(kernel, decisions=decisions), target.machine)
        except DoesNotFit as error:
            reasons.append(f"{name}: {error}")
        except StaleChoice:
            raise
        except Exception as error:
            if choice and choice.rule == name:
                raise StaleChoice(f"{name} fails with it: {_first_line(error)}") from error
            reasons.append(f"{name}: failed: {_first_line(error)}")
        else:
            if choice and choice.rule != name:
                raise StaleChoice(f"it is for the rule {choice.rule}, the kernel is scheduled by {name}")
            decisions.check_all_taken()
            choices.decisions[kernel.name] = decisions
            failed = "; ".join(reason for reason in reasons if ": failed" in reason)
            return scheduled, replace(row, schedule=name, reason="; ".join(filter(None, (scheduled.note, failed))))
    return None, replace(row, reason="; ".join(reasons))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((i for i, line in enumerate(lines) if line.startswith("ScheduleError")), None)
    if told is None:
        return last_line(error, 200)
    return " ".join(lines[told : told + 2])[:200]


def kernel_calls(mod: IRModule) -> tuple[Calls, dict[str, int]]:
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


def constant_args(calls: list[relax.Call]) -> frozenset[int]:
    """Argument positions that hold a constant at every call."""
    sets = [{i for i, arg in enumerate(call.args[1]) if isinstance(arg, GenericConst)} for call in calls]
    return frozenset(set.intersection(*sets)) if sets else frozenset()

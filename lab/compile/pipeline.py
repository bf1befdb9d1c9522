"""The order of everything between an ONNX graph and a TVM executable, in phases, on one screen.

graph (ONNX) -> layout -> fuse -> schedule -> lower. After each phase the module can be written to a folder.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import tvm
from tvm import relax
from tvm.ir import IRModule
from tvm.relax.backend import DispatchSampling, DispatchSortScan
from tvm.relax.backend.cpu_generic.pipeline import dataflow_lower_passes, finalize_passes
from tvm.relax.backend.cuda.pipeline import finalize_passes as finalize_passes_cuda
from tvm.tirx import PrimFunc

from lab.compile.facts import Facts, watched
from lab.compile.passes.bound_indices import bound_indices
from lab.compile.passes.convert_layout import convert_layout
from lab.compile.passes.fold_batch_norm import fold_batch_norm
from lab.compile.passes.half_precision import half_precision
from lab.compile.passes.hoist_transposes import hoist_transposes
from lab.compile.passes.integer_graph import integer_graph
from lab.compile.passes.integer_products import integer_products
from lab.compile.passes.pack_weights import pack_weights
from lab.compile.passes.pad_channels import pad_channels
from lab.compile.passes.replace_operators import replace_operators
from lab.compile.passes.schedule_kernels import schedule_kernels
from lab.compile.report import KernelRow
from lab.compile.targets import Target
from lab.compile.tuning.choices import Choices

NOALIAS = "tirx.noalias"
GRAPH_PASSES = (fold_batch_norm, integer_graph)


@dataclass(frozen=True)
class Lowered:
    """A module ready for code generation, and one report row per kernel."""

    mod: IRModule
    rows: list[KernelRow]
    facts: Facts
    notes: tuple[str, ...] = ()


def simplify_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Phase "graph": rewrites of the ONNX graph itself."""
    for graph_pass in GRAPH_PASSES:
        model = graph_pass(model)
    return model


def lower(
    mod: IRModule,
    target: Target,
    dump: Dump,
    forbidden: Mapping[str, str] | None = None,
    choices: Choices | None = None,
) -> Lowered:
    """All phases after the import.

    Args:
        forbidden: kernels that keep their naive loops, with the reason.
        choices: what overrules the rules' models.
    """
    tvm_target, facts = target.to_tvm(), Facts(phases_s=dump.durations_s)
    with tvm_target, tvm.transform.PassContext(opt_level=3):
        mod, note = layout(mod, target)
        facts.see_layout(mod)
        dump("layout", mod)
        mod = fuse(mod, target, choices)
        facts.see_kernels(mod)
        dump("fuse", mod)
        mod, rows, packings = schedule_kernels(mod, target, forbidden, choices)
        mod = pack_weights(mod, packings)
        facts.num_packed = sum(map(len, packings.values()))
        dump("schedule", mod)
        mod = _without_aliases(tvm.transform.Sequential(watched(_lower(target, tvm_target), facts))(mod))
        dump("lower", mod)
    return Lowered(mod, rows, facts, (note,) if note else ())


def layout(mod: IRModule, target: Target) -> tuple[IRModule, str]:
    """Phase "layout": the module in the target's layout, and a note when it had to keep another."""
    t = relax.transform
    tidy = [t.Normalize(), t.CanonicalizeBindings(), t.FoldConstant(), t.DeadCodeElimination()]
    mod = bound_indices(tvm.transform.Sequential([t.DecomposeOpsForInference(), *tidy])(mod))
    mod, note = convert_layout(mod, target.layout)
    mod = hoist_transposes(tvm.transform.Sequential(tidy)(mod))
    if target.machine.has_dot_product:
        mod = integer_products(mod, target.machine.num_lanes)
    if target.rules == "cpu":
        mod = pad_channels(mod, target.machine.num_lanes)
    if target.spec.precision == "float16":
        mod = half_precision(mod)
    return tvm.transform.Sequential(tidy)(mod), note


def fuse(mod: IRModule, target: Target, choices: Choices | None = None) -> IRModule:
    """Phase "fuse": operators become kernels, neighbours become one kernel."""
    if target.rules == "cpu":
        mod = replace_operators(mod, target.machine, choices)
    return tvm.transform.Sequential(fuse_passes())(mod)


def fuse_passes() -> list[Any]:
    """TVM's passes of the phase "fuse"."""
    t = relax.transform
    return [
        t.CanonicalizeBindings(),  # parts of tuples made by replacements: nothing fuses across a tuple
        DispatchSampling(),
        DispatchSortScan(),
        t.LegalizeOps(),
        t.AnnotateTIROpPattern(),
        t.FoldConstant(),
        t.FuseOps(),
        t.FuseTIR(),
        t.RewriteDataflowReshape(),  # a view at run time; a scheduled copy would no longer be recognised
        t.DeadCodeElimination(),
    ]


def _without_aliases(mod: IRModule) -> IRModule:
    """Say of every function that its arguments do not overlap.

    TVM's function of a module's open dimensions does not say so, and then LLVM is told of no function of the module:
    accumulators go through memory, and products take two to three times as long.
    """
    for var, func in list(mod.functions.items()):
        if isinstance(func, PrimFunc):
            mod.update_func(var, func.with_attr(NOALIAS, True))
    return mod


def _lower(target: Target, tvm_target: Any) -> list[Any]:
    finalize = finalize_passes_cuda if target.spec.kind == "cuda" else finalize_passes
    return [*dataflow_lower_passes(tvm_target), *finalize(tvm_target)]


class Dump:
    """Is told the end of each phase: keeps how long it took, and writes the module as numbered files into a folder."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.num_phases = 0
        self.durations_s: dict[str, float] = {}
        self._since = time.perf_counter()

    def __call__(self, phase: str, mod: IRModule) -> None:
        self.durations_s[phase] = round(time.perf_counter() - self._since, 4)
        self._write(phase, mod)
        self._since = time.perf_counter()

    def _write(self, phase: str, mod: IRModule) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{self.num_phases}_{phase}.py").write_text(mod.script(show_meta=False), encoding="utf-8")
        self.num_phases += 1

"""`compile_onnx`: an ONNX file and a target in; executables per batch size, their report and their signature out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.compile.frontend.onnx_import import import_model, load_model
from lab.compile.frontend.operators import PARTIAL
from lab.compile.frontend.shapes import BATCH, signature_of
from lab.compile.link import check_tools
from lab.compile.report import KernelReport, KernelRow
from lab.compile.targets import Target
from lab.core.errors import ConfigError, UnsupportedError, last_line
from lab.core.progress import say
from lab.core.signature import Signature
from lab.core.timing import Stages

if TYPE_CHECKING:
    from onnx import ModelProto

    from lab.compile.facts import Facts
    from lab.compile.partial import BuiltPart
    from lab.compile.pipeline import Lowered
    from lab.compile.tuning.choices import Identity
    from lab.compile.tuning.decisions import Choice

ANY_BATCH = 0


@dataclass(frozen=True)
class Compiled:
    """What `compile_onnx` made. `executables` maps a batch size (0: the model has no batch) to a TVM executable."""

    target: Target
    signature: Signature
    executables: dict[int, Any]
    report: KernelReport
    durations_s: dict[str, float] = field(default_factory=dict)
    parts: dict[int, list[BuiltPart]] = field(default_factory=dict)
    """By batch size, where ONNX Runtime runs a part of the graph; `executables` is empty then."""
    facts: dict[int, Facts] = field(default_factory=dict)
    """By batch size, what the compile report tells of the graph."""

    @property
    def flops(self) -> dict[int, int]:
        """Batch size -> floating-point operations of one inference."""
        return self.report.flops()


def compile_onnx(
    model_path: Path,
    target: Target,
    *,
    batch_sizes: Sequence[int] = (1,),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    dynamic: Collection[str] = (),
    dump_dir: Path | None = None,
    choices: Mapping[Identity, Choice] | None = None,
    progress: Callable[[str], None] = say,
) -> Compiled:
    """Compile an ONNX file.

    Args:
        batch_sizes: one executable is built for each; the runtime pads and splits to them.
        input_shapes: a full shape per input whose dimensions (besides the batch, -1) are dynamic.
        dynamic: names of dimensions, such as a sequence's length, that stay open: one library takes every size.
        dump_dir: where to write the IR after each phase.
        choices: what tuning found better than the rules' models, by kernel; none by default.
        progress: called with one line per step.

    Raises:
        ArtifactError: the file is missing or not ONNX.
        UnsupportedError: operators, dimensions or attributes that cannot be compiled, each listed.
        ConfigError: batch sizes that do not fit the model.
        MissingToolError: a tool that code generation for this target needs is not here.
    """
    stages = Stages()
    with stages.stage("import"):
        model, signature = _read(Path(model_path), input_shapes, dynamic)
    sizes = sizes_of(signature, batch_sizes)
    executables: dict[int, Any] = {}
    rows: list[KernelRow] = []
    notes: list[str] = []
    facts: dict[int, Facts] = {}
    for size in sizes:
        progress(f"compiling {Path(model_path).name} for {target.name}" + (f", batch {size}" if size else ""))
        with stages.stage(f"compile_b{size}"):
            phases = Stages()
            folder = dump_dir / f"b{size}" if dump_dir else None
            try:
                with phases.stage("import"):
                    mod = import_model(model, signature, max(size, 1))
                built = build_module(mod, target, folder, choices)
            except UnsupportedError as error:
                raise _naming_nodes(error, model, signature, size, target) from error
        built.facts.phases_s = phases.durations_s | built.facts.phases_s
        executables[size], facts[size] = built.executable, built.facts
        rows += [replace(row, batch_size=size) for row in built.rows]
        notes += [note for note in built.notes if note not in notes]
    report = KernelReport(tuple(rows), tuple(notes))
    progress(report.summary())
    return Compiled(target, signature, executables, report, stages.durations_s, facts=facts)


def imported(
    model_path: Path,
    *,
    batch_sizes: Sequence[int] = (1,),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    dynamic: Collection[str] = (),
) -> dict[int, Any]:
    """Batch size -> the module that `compile_onnx` would compile; the same arguments and errors."""
    model, signature = _read(Path(model_path), input_shapes, dynamic)
    sizes = sizes_of(signature, batch_sizes)
    return {size: import_model(model, signature, max(size, 1)) for size in sizes}


def _read(path: Path, input_shapes: Any, dynamic: Collection[str]) -> tuple[Any, Signature]:
    from lab.compile.pipeline import simplify_graph  # imports TVM, which takes a second

    model = load_model(path)
    signature = signature_of(model, input_shapes, dynamic)
    return simplify_graph(model), signature


def sizes_of(signature: Signature, wanted: Sequence[int]) -> list[int]:
    """The batch sizes to compile, ANY_BATCH alone where the model has none. Raises ConfigError: they do not fit it."""
    sizes = sorted(set(wanted))
    if not sizes or sizes[0] < 1:
        raise ConfigError("batch sizes must be positive", got=list(wanted))
    if any(BATCH in spec.shape for spec in signature.inputs):
        return sizes
    fixed = {spec.shape[0] for spec in signature.inputs if spec.shape}
    if sizes != [1] and fixed != set(sizes):
        raise ConfigError(
            "the model has no dynamic batch, so other batch sizes cannot be compiled", got=list(wanted),
            expected="(1,), which compiles the model as it is", hint="export it with a dynamic first dimension",
        )  # fmt: skip
    return [ANY_BATCH]


@dataclass(frozen=True)
class Built:
    """One executable with what the report tells of it."""

    executable: Any
    rows: list[KernelRow]
    notes: tuple[str, ...]
    facts: Facts


def _naming_nodes(
    error: UnsupportedError, model: ModelProto, signature: Signature, size: int, target: Target
) -> UnsupportedError:
    """The error, naming the nodes that it is about where it does not yet."""
    if error.hint == PARTIAL:
        return error
    from lab.compile.partial import failing_nodes

    found = failing_nodes(model, signature, size, lambda mod: build_module(mod, target, None))
    if not found:
        return error
    return UnsupportedError(
        "the model uses operators in a way that cannot be compiled", got="\n            ".join(found), hint=PARTIAL
    )


def build_module(
    mod: Any, target: Target, dump_dir: Path | None, choices: Mapping[Identity, Choice] | None = None
) -> Built:
    """Lower and generate code; kernels whose scheduled form does not compile go back to naive loops, and say so."""
    check_tools(target)
    lowered = _lower(mod, target, dump_dir, {}, choices)
    try:
        return _built(lowered, target)
    except Exception as first:
        forbidden = _kernels_that_fail(lowered.mod, target)
        if not forbidden:
            raise UnsupportedError(f"code generation for {target.name} failed", got=last_line(first)) from first
    lowered = _lower(mod, target, dump_dir, forbidden, choices)
    try:
        return _built(lowered, target)
    except Exception as error:
        raise UnsupportedError(
            f"code generation for {target.name} failed, also without schedules for {', '.join(forbidden)}",
            got=last_line(error),
        ) from error


def _built(lowered: Lowered, target: Target) -> Built:
    stages = Stages()
    with stages.stage("generate"):
        executable = _generate(lowered.mod, target)
    lowered.facts.phases_s |= stages.durations_s
    return Built(executable, lowered.rows, lowered.notes, lowered.facts)


def _lower(
    mod: Any,
    target: Target,
    dump_dir: Path | None,
    forbidden: Mapping[str, str],
    choices: Mapping[Identity, Choice] | None = None,
) -> Lowered:
    from lab.compile.pipeline import Dump, lower
    from lab.compile.tuning.choices import Choices

    try:
        return lower(mod, target, Dump(dump_dir), forbidden, Choices(choices))
    except Exception as error:  # a pass of TVM meets a graph it cannot handle; TVM has no common error type
        raise UnsupportedError(
            f"lowering the model for {target.name} failed in TVM", got=last_line(error),
            hint="dump_dir shows the last phase that worked",
        ) from error  # fmt: skip


def _generate(mod: Any, target: Target) -> Any:
    import tvm
    from tvm import relax

    tvm_target = target.to_tvm()
    with tvm_target, tvm.transform.PassContext(opt_level=3):
        return relax.build(mod, target=tvm_target, relax_pipeline=None)


def _kernels_that_fail(mod: Any, target: Target) -> dict[str, str]:
    """Kernel -> reason, for every kernel that does not compile by itself."""
    import tvm
    from tvm.tirx import PrimFunc

    failing = {}
    for var, func in mod.functions.items():
        if not isinstance(func, PrimFunc):
            continue
        alone = tvm.IRModule({var.name_hint: func.with_attr("global_symbol", str(var.name_hint))})
        try:
            tvm.compile(alone, target=target.to_tvm())
        except Exception as error:  # noqa: BLE001  any failure means the same: this kernel goes back to naive loops
            failing[str(var.name_hint)] = f"scheduled form does not compile: {last_line(error)}"
    return failing

"""`lab compile`: a run or any ONNX file -> one bundle per target, compared with ONNX Runtime before it counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.artifacts.files import atomic_dir, read_json, recover_dir, sha256_file, write_json, write_text
from lab.artifacts.golden import GOLDEN_NAME, write_golden
from lab.artifacts.manifest import MAIN, Manifest, Rung
from lab.core.errors import ConfigError, MissingToolError
from lab.core.host import versions
from lab.core.interfaces import Runner
from lab.core.progress import say
from lab.core.timing import Stages, interleaved
from lab.pipelines.compile_parts import part_seconds, share_metrics
from lab.pipelines.compile_report import HTML_NAME, profile_bundle, write_page
from lab.pipelines.compile_source import CompileOptions, Source, manifest_beside
from lab.pipelines.compile_track import track_bundle
from lab.pipelines.context import OpenRun, existing_artifact
from lab.pipelines.export import export
from lab.pipelines.parity import Climbed, climb, not_run, require
from lab.pipelines.quantize import quantized
from lab.runtime import models
from lab.runtime.levels import pick_level
from lab.tasks import loop_of

if TYPE_CHECKING:
    from lab.compile.build import Compiled
    from lab.compile.targets import Target

LATENCY_ROUNDS = 6
REPORT_NAME = "report.json"


@dataclass(frozen=True)
class CompileReport:
    """What `lab compile` tells."""

    folder: Path
    manifest: Manifest
    kernels: dict[str, Any]
    skipped: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "bundle": str(self.folder),
            "skipped": self.skipped,
            "target": self.manifest.to_dict()["target"],
            "parity": [rung.__dict__ for rung in self.manifest.parity],
            "size_bytes": sum(entry["size_bytes"] for entry in self.manifest.files.values()),
            "durations_s": self.manifest.durations_s,
            "report": self.kernels,
        }


def compile_run(opened: OpenRun, target_spec: str, options: CompileOptions) -> CompileReport:
    """Compile a run's model (exporting it first where needed) into `<run>/bundles/<target>`, with a child run.

    Raises:
        UnsupportedError, MissingToolError: it cannot be compiled, or not here.
        ParityError: the bundle and ONNX Runtime disagree; nothing is kept.
    """
    from lab.compile.targets import resolve_target

    target = resolve_target(target_spec, options.precision).with_threads(options.num_threads)
    exported = export(opened)
    source = Source(exported.files(), exported.manifest, opened)
    if options.precision == "int8":
        source = quantized(opened, source)
    report = _compile(source, target, opened.dir.bundle(_folder_name(target)), options)
    if not report.skipped:
        track_bundle(opened, report.folder, report.manifest)
    return report


def compile_file(onnx: Path, target_spec: str, output: Path | None, options: CompileOptions) -> CompileReport:
    """Compile any ONNX file; without data, parity is checked on random inputs.

    A file that `lab export` made keeps its task, labels and preprocessing, when its manifest still lies beside it. One
    function of a program is compiled like any other file: what its loop is, only the run knows.

    Raises:
        ConfigError: no such file.
        UnsupportedError: operators or dynamic sizes the compiler lacks, listed one by one.
    """
    from lab.compile.targets import resolve_target
    from lab.export.quantize import is_quantized

    if not onnx.is_file():
        raise ConfigError(f"no ONNX file at {onnx}")
    target = resolve_target(target_spec, options.precision).with_threads(options.num_threads)
    if options.precision == "int8" and not is_quantized(onnx):
        raise ConfigError(
            "a file alone cannot be quantised: calibration needs the task's data", got=onnx,
            expected="a run, or an ONNX file with QuantizeLinear and DequantizeLinear",
            hint="lab compile RUN --precision int8",
        )  # fmt: skip
    folder = output or Path("bundles") / f"{onnx.stem}-{_folder_name(target)}"
    return _compile(Source({MAIN: onnx}, manifest_beside(onnx), None), target, folder, options)


def _folder_name(target: Target) -> str:
    return target.name.replace(":", "-").replace(",", "-")


def _compile(source: Source, target: Target, folder: Path, options: CompileOptions) -> CompileReport:
    recover_dir(folder)
    options = options.with_records(target)
    parents = {path.name: sha256_file(path) for path in source.files.values()}
    existing = existing_artifact(folder, f"compile {target.name}")
    if existing and not options.force and _unchanged(existing, parents, target, options):
        say(f"compile {target.name}: unchanged since {existing.created}, skipped (--force repeats it)")
        return CompileReport(folder, existing, _read_report(folder), skipped=True)
    with atomic_dir(folder) as temporary:
        manifest = _build(source, target, temporary, parents, options)
        require(manifest.parity)
    return CompileReport(folder, manifest, _read_report(folder), skipped=False)


def _unchanged(existing: Manifest, parents: dict[str, str], target: Target, options: CompileOptions) -> bool:
    same = existing.parents == parents and existing.target == target.info() and existing.versions == versions()
    reported = HTML_NAME in existing.files or not options.report
    return same and reported and existing.options == options.recorded()


def _read_report(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / REPORT_NAME))


def _build(source: Source, target: Target, folder: Path, parents: dict[str, str], options: CompileOptions) -> Manifest:
    from lab.compile.link import write_library
    from lab.compile.report import KernelReport

    stages = Stages()
    say(f"compiling for {target.name} ({target.describe()}) ...")
    if target.levels and options.partial:
        raise ConfigError("--partial and several levels cannot be combined", got=target.name, expected="one CPU")
    levels = {level.spec.mcpu: level for level in target.levels} or {"": target}
    with stages.stage("compile"):
        by_level = {
            name: {function: _compile_function(source, function, level, options) for function in source.files}
            for name, level in levels.items()
        }
    with stages.stage("link"):
        entries = [
            entry
            for level, functions in by_level.items()
            for name, made in functions.items()
            for entry in write_library(made, folder, name, level)
        ]
    reports = {
        level: KernelReport.of_program({name: made.report for name, made in functions.items()})
        for level, functions in by_level.items()
    }
    report = KernelReport.of_levels(reports)
    compiled = next(iter(by_level.values()))
    write_json(folder / REPORT_NAME, report.to_dict())
    known = source.manifest
    labels = known.labels if known else ()
    write_text(folder / "labels.txt", "".join(f"{label}\n" for label in labels))
    manifest = Manifest(
        kind="bundle",
        name=source.name,
        task=known.task if known else None,
        signature=known.signature if known and source.functions else compiled[MAIN].signature,
        functions={name: made.signature for name, made in compiled.items()} if source.functions else {},
        parents=parents,
        preprocessing=known.preprocessing if known else {},
        labels=labels,
        target=target.info(),
        levels=tuple(level.info() for level in target.levels),
        entries=tuple(entries),
        metrics=known.metrics if known else {},
        options=options.recorded(),
        tuned_kernels=tuple(report.tuned()),
        versions=versions(),
        durations_s=stages.durations_s,
    )
    write_golden(folder, source.golden(manifest, options, target))
    names = ["labels.txt", REPORT_NAME, GOLDEN_NAME, *(name for entry in entries for name in entry.files)]
    manifest = manifest.with_files(folder, names)
    manifest.save(folder)
    with stages.stage("parity"):
        checked = [_parity(source, level, folder, manifest, options) for level in reversed(levels.values())]
    rungs = (*(known.parity if known else ()), *_climbed_last([climbed.rung for climbed, _ in checked]))
    metrics = dict(manifest.metrics)
    for climbed, timed in checked:
        metrics |= _rung_metrics(climbed, timed)
    manifest = replace(manifest, parity=rungs, metrics=metrics, durations_s=stages.durations_s)
    if options.report and all(rung.status != "failed" for rung in rungs):  # a bundle that is wrong is not kept either
        shown = pick_level(manifest).mcpu if target.levels else ""
        profile = profile_bundle(source, levels[shown], folder, manifest.at_level(shown), by_level[shown])
        write_json(folder / REPORT_NAME, report.to_dict() | {"profile": profile.to_dict()})
        write_page(profile, folder)
        manifest = manifest.with_files(folder, [*names, HTML_NAME])
    manifest.save(folder)
    return Manifest.load(folder, verify=False)


def _compile_function(source: Source, name: str, target: Target, options: CompileOptions) -> Compiled:
    from lab.compile.build import compile_onnx

    choices = options.choices(target)
    if options.partial:
        from lab.compile.partial import compile_partial

        if source.functions:
            raise ConfigError(
                "--partial works on models of one call", got=f"a program of {', '.join(source.functions)}"
            )
        return compile_partial(
            source.files[name],
            target,
            batch_sizes=options.batch_sizes,
            input_shapes=options.input_shapes,
            choices=choices,
        )
    return compile_onnx(
        source.files[name],
        target,
        batch_sizes=source.batch_sizes(name, options.batch_sizes),
        input_shapes=options.input_shapes,
        dynamic=source.open_dimensions(name),
        dump_dir=options.dump_dir / name if options.dump_dir and source.functions else options.dump_dir,
        choices=choices,
    )


def _parity(
    source: Source, target: Target, folder: Path, manifest: Manifest, options: CompileOptions
) -> tuple[Climbed, dict[str, float]]:
    """The rung of this target, and its latency (of parts, each one's share of it) where it runs natively."""
    name = f"tvm-{target.name}"
    runner, reason = _open(target, folder, manifest)
    if runner is None:
        say(f"parity of {target.name}: not run: {reason}")
        return Climbed(not_run(name, "onnxruntime", reason), {}, {}), {}
    say(f"comparing {runner.name} with ONNX Runtime ...")
    reference = source.reference(manifest)
    try:
        climbed = climb(
            reference,
            runner,
            source.batches(manifest.signature, options, target.kind),
            tolerance=options.tolerance or source.tolerance(target),
            judge=source.judge(),
        )
        timed: dict[str, float] = {}
        if target.runnable_here()[0]:
            feed = source.latency_feed(manifest, options.batch_sizes[0])
            before = part_seconds(runner)
            latency = interleaved({runner.name: lambda: runner.run(feed)}, rounds=LATENCY_ROUNDS)[runner.name]
            timed = {"latency_p50_ms": round(latency.p50_ms, 4)}
            timed |= share_metrics(manifest, before, part_seconds(runner))
    finally:
        runner.close()
        reference.close()
    return replace(climbed, rung=replace(climbed.rung, name=name)), timed


def _climbed_last(rungs: Sequence[Rung]) -> list[Rung]:
    """The rung of the best level that ran comes last, as the bundle's own."""
    return sorted(rungs, key=lambda rung: rung.status != "not run")


def _rung_metrics(climbed: Climbed, timed: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The task's metrics of each engine on the compared samples, and the target's latency."""
    found = {"onnxruntime": climbed.reference_metrics, climbed.rung.name: climbed.candidate_metrics}
    found[climbed.rung.name] = found[climbed.rung.name] | dict(timed)
    return {name: metrics for name, metrics in found.items() if metrics}


def _open(target: Target, folder: Path, manifest: Manifest) -> tuple[Runner | None, str]:
    """The runner that can run a bundle of this target here: native, emulated, or none and why."""
    runnable, reason = target.runnable_here()
    if runnable:
        level = target.spec.mcpu if manifest.levels else None
        return models.bundle_model(folder, manifest, loop_of(manifest), level=level), ""
    if target.kind == "arm":
        try:
            return models.emulated_model(folder, manifest, loop_of(manifest)), ""
        except MissingToolError as error:
            return None, f"{reason}; {error.what}: {error.hint}"
    return None, reason

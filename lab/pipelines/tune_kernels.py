"""`lab tune-kernels`: measure other parameters than the rules derive, kernel by kernel, and keep the faster ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.artifacts.files import write_json
from lab.artifacts.manifest import MAIN
from lab.core.errors import ConfigError, IncompatibleError
from lab.core.host import num_cores
from lab.core.progress import bar, say, warn
from lab.pipelines.compile_source import Source, manifest_beside
from lab.pipelines.context import OpenRun
from lab.pipelines.export import export
from lab.pipelines.quantize import quantized
from lab.pipelines.tune_report import TunedRow, TuneReport, key_of, record_of, row_of
from lab.runtime import threads

if TYPE_CHECKING:
    from lab.compile.targets import Target
    from lab.compile.tuning.decisions import Choice
    from lab.compile.tuning.records import MachineKey, Record
    from lab.compile.tuning.tasks import Task

DEFAULT_TRIALS = 64
REPORT_NAME = "tuning.json"


@dataclass(frozen=True)
class TuneOptions:
    """What the caller chooses. `budget_s` ends the search between trials; `pattern` is of kernels' names, with `*`."""

    batch_sizes: tuple[int, ...] = (1,)
    input_shapes: Mapping[str, Sequence[int]] | None = None
    precision: str = "float32"
    pattern: str = "*"
    budget_s: float | None = None
    max_trials: int = DEFAULT_TRIALS
    num_threads: int | None = None
    records_path: Path | None = None
    rpc: str | None = None
    force: bool = False


def tune_run(opened: OpenRun, target_spec: str, options: TuneOptions) -> TuneReport:
    """Tune the kernels of a run's model, with a child run in the tracker. Raises what `lab compile` raises."""
    target = _target(target_spec, options)
    exported = export(opened)
    source = Source(exported.files(), exported.manifest, opened)
    if options.precision == "int8":
        source = quantized(opened, source)
    report = _tune(source, target, options)
    _track(opened, report, options)
    return report


def tune_file(onnx: Path, target_spec: str, options: TuneOptions) -> TuneReport:
    """Tune the kernels of any ONNX file.

    Raises:
        ConfigError: no such file, or more threads than cores.
        IncompatibleError: the target does not run here, and no board was named.
    """
    if not onnx.is_file():
        raise ConfigError(f"no ONNX file at {onnx}")
    target = _target(target_spec, options)
    return _tune(Source({MAIN: onnx}, manifest_beside(onnx), None), target, options)


def _target(spec: str, options: TuneOptions) -> Target:
    from lab.compile.targets import resolve_target

    target = resolve_target(spec, options.precision).with_threads(options.num_threads)
    if target.levels:
        raise ConfigError(
            "kernels are tuned for one CPU at a time", got=f"--target {spec}", expected="one level",
            hint="tune each level; lab compile then finds the records of all",
        )  # fmt: skip
    if options.rpc is not None:
        if spec == "x86" or target.kind == "cuda":
            raise ConfigError(
                "a board's CPU must be named", got=f"--target {spec}", expected="x86:MCPU, arm or arm:CORE",
                hint="lab compile finds records by the target's name",
            )  # fmt: skip
        return target
    runnable, reason = target.runnable_here()
    if not runnable:
        raise IncompatibleError(
            f"kernels for {target.name} cannot be measured here", got=reason,
            hint="run tvm.exec.rpc_server on such a machine and name it: --rpc HOST:PORT",
        )  # fmt: skip
    wanted = target.machine.num_cores
    if target.rules == "cpu" and wanted > num_cores():
        raise ConfigError(
            f"measuring with {wanted} threads needs as many cores", got=f"{num_cores()} that this process may use",
            hint=f"--threads {num_cores()}; lab compile then takes the same option",
        )  # fmt: skip
    return target


def _tune(source: Source, target: Target, options: TuneOptions) -> TuneReport:
    from lab.compile.tuning.board import Address
    from lab.compile.tuning.records import MachineKey, user_folder
    from lab.compile.tuning.worker import Worker

    path = options.records_path or user_folder() / f"{target.spec.mcpu or target.spec.cuda_arch}.jsonl"
    report, machine = TuneReport(target.name, path), MachineKey.of(target)
    address = Address.parse(options.rpc) if options.rpc else None
    worker = Worker(target, address, partial(threads.configure, None if address else machine.num_threads))
    session = _Session(worker, target, machine, options, report)
    where = f"on {address.host}" if address else "here"
    say(f"tuning for {target.name}, {machine.num_threads} threads, {where}; records: {path}")
    with closing(worker):
        for level in ("operator", "kernel"):
            session.tune(_tasks(source, target, level, session, options))
    return report


def _tasks(source: Source, target: Target, level: str, session: _Session, options: TuneOptions) -> list[Task]:
    """The tasks of all functions and batch sizes; a kernel that several of them have is tuned once."""
    from lab.compile.tuning import tasks

    find: Callable[..., list[Task]] = tasks.operator_tasks if level == "operator" else tasks.kernel_tasks
    found: dict[Any, Task] = {}
    for mod in _modules(source, options):
        for task in find(mod, target, session.known()):
            same = found.get(task.identity)
            found[task.identity] = replace(same, num_calls=same.num_calls + task.num_calls) if same else task
    return [task for task in tasks.by_work(found.values()) if fnmatchcase(task.name, options.pattern)]


def _modules(source: Source, options: TuneOptions) -> Iterator[Any]:
    from lab.compile.build import imported

    for name, file in source.files.items():
        yield from imported(
            file,
            batch_sizes=source.batch_sizes(name, options.batch_sizes),
            input_shapes=options.input_shapes,
            dynamic=source.open_dimensions(name),
        ).values()


class _Session:
    """Works through tasks, writes the file of records after each, and stops where the budget ends."""

    def __init__(
        self, worker: Any, target: Target, machine: MachineKey, options: TuneOptions, report: TuneReport
    ) -> None:
        from lab.compile.tuning.records import read_records, record_files

        self._read = cache(read_records)
        self.worker, self.target, self.machine, self.options, self.report = worker, target, machine, options, report
        self.own: list[Record] = read_records(report.path) if report.path.exists() else []
        self.others = [path for path in record_files() if path != report.path]
        self.deadline = time.monotonic() + options.budget_s if options.budget_s else float("inf")

    def known(self) -> dict[Any, Any]:
        """The choices there are by now, as `lab compile` would find them."""
        from lab.compile.tuning.records import Records

        last = {record.key: record for record in Records.load(self.others, {self.machine}).records}
        last |= {record.key: record for record in self.own if record.machine == self.machine}
        return Records(tuple(last.values())).choices(self.machine)

    def seeds(self, task: Task) -> list[Choice]:
        """What was best for the same kernel on other machines, the last record of each first."""
        from lab.compile.tuning.decisions import Choice

        elsewhere = [record for path in self.others for record in self._read(path)] + self.own
        same = [r for r in reversed(elsewhere) if r.key[:3] == key_of(task) and r.machine != self.machine and r.choice]
        unique = {repr(record.choice): record for record in same}
        return [Choice(record.rule, record.choice or {}) for record in unique.values()]

    def tune(self, tasks: Sequence[Task]) -> None:
        done = {} if self.options.force else {record.key: record for record in self.own}
        keys = {task: (*key_of(task), self.machine) for task in tasks}
        before = [task for task in tasks if keys[task] in done]
        for task in before:
            self.report.rows.append(row_of(task, done[keys[task]], "done before"))
        if before:
            say(f"{len(before)} of {len(tasks)} are tuned already (--force repeats them)")
        todo = [task for task in tasks if keys[task] not in done]
        with bar("tuning", total=len(todo)) as advance:
            for i, task in enumerate(todo, 1):
                self.report.rows.append(self._tune_one(task, f"[{i}/{len(todo)}] {task.name}"))
                advance(1)
        left = sum(row.status == "left" for row in self.report.rows)
        if left and time.monotonic() > self.deadline:
            say(f"the budget is spent, {left} kernels are left: the same command continues there")

    def _tune_one(self, task: Task, title: str) -> TunedRow:
        from lab.compile.tuning.search import BudgetSpent, Search

        left = TunedRow(task.name, task.rule, task.num_calls, "left")
        if time.monotonic() > self.deadline:
            return left
        known = self.known()
        opened = self.worker.open(task, known)
        if opened.error:
            warn(f"{title}: not tuned: {opened.error}")
            return replace(left, status="failed")
        search = Search(self.worker, self.options.max_trials, self.seeds(task), self.deadline)
        try:
            found = search.run(opened)
        except BudgetSpent:
            return left
        record = record_of(task, self.machine, found)
        if record is None:
            warn(f"{title}: not one candidate could be measured: {'; '.join(found.failures[:1])}")
            return replace(left, status="failed", num_trials=found.num_trials)
        self.own = [*(each for each in self.own if each.key != record.key), record]
        self._write()
        row = row_of(task, record, "tuned" if record.choice else "not beaten")
        told = f"{row.gain:.2f} times faster, {row.choice}" if record.choice else "the rule's parameters stay"
        failed = f"; {len(found.failures)} candidates failed, e.g. {found.failures[0]}" if found.failures else ""
        say(f"{title}: {record.default_ms:.4g} ms, {told} ({found.num_trials} trials{failed})")
        return row

    def _write(self) -> None:
        from lab.compile.tuning.records import write_records

        write_records(self.report.path, self.own)


def _track(opened: OpenRun, report: TuneReport, options: TuneOptions) -> None:
    tracker = opened.tracker(f"tune-kernels {report.target}", {"lab.target": report.target})
    tracker.log_params({"target": report.target, "max_trials": options.max_trials, "budget_s": options.budget_s or ""})
    tuned = [row for row in report.rows if row.choice]
    measured = [row for row in report.rows if row.default_ms is not None]
    before = sum((row.default_ms or 0.0) * row.num_calls for row in measured)
    saved = sum(((row.default_ms or 0.0) - (row.tuned_ms or 0.0)) * row.num_calls for row in tuned)
    tracker.log_metrics(
        {"kernels_tuned": len(tuned), "kernels_left": report.num_left, "kernels_ms": before, "saved_ms": saved}
    )
    path = opened.dir.path / REPORT_NAME
    write_json(path, report.to_dict())
    tracker.log_artifact(path, "tuning")
    tracker.finish()

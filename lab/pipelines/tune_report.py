"""What `lab tune-kernels` tells of each kernel, and the record that it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.artifacts.manifest import now
from lab.core.host import versions

if TYPE_CHECKING:
    from lab.compile.tuning.records import MachineKey, Record
    from lab.compile.tuning.tasks import Task

RECORDED_VERSIONS = ("lab", "apache-tvm")


@dataclass(frozen=True)
class TunedRow:
    """One kernel: times of one call. `status` is "tuned", "not beaten", "done before", "failed" or "left"."""

    kernel: str
    rule: str
    num_calls: int
    status: str
    default_ms: float | None = None
    tuned_ms: float | None = None
    gain: float = 1.0
    choice: Mapping[str, Any] | None = None
    num_trials: int = 0


@dataclass
class TuneReport:
    """What `lab tune-kernels` tells."""

    target: str
    path: Path
    rows: list[TunedRow] = field(default_factory=list)

    @property
    def num_left(self) -> int:
        return sum(row.status == "left" for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        return {"target": self.target, "records": str(self.path), "kernels": [asdict(row) for row in self.rows]}


def key_of(task: Task) -> tuple[str, tuple[str, ...], str]:
    """What its records are found by, besides the machine."""
    return task.identity.kernel, task.identity.arguments, task.identity.body


def record_of(task: Task, machine: MachineKey, found: Any) -> Record | None:
    """None where nothing was measured: not even that the rule was not beaten is known then."""
    from lab.compile.tuning.records import Record

    if found.comparison is None:
        return None
    kernel, arguments, body = key_of(task)
    choice = found.choice
    installed = versions()
    return Record(
        kernel=kernel,
        arguments=arguments,
        body=body,
        machine=machine,
        rule=task.rule,
        choice=choice.parameters if choice else None,
        default_ms=round(found.comparison.default_ms, 5),
        tuned_ms=round(found.comparison.candidate_ms, 5) if choice else None,
        gain=choice.gain if choice else 1.0,
        num_trials=found.num_trials,
        created=now(),
        versions={name: installed[name] for name in RECORDED_VERSIONS if name in installed},
    )


def row_of(task: Task, record: Record, status: str) -> TunedRow:
    """The task's line of the report."""
    return TunedRow(
        task.name, task.rule, task.num_calls, status, record.default_ms, record.tuned_ms, record.gain, record.choice,
        record.num_trials,
    )  # fmt: skip

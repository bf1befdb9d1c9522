"""The compile report: one row per kernel, so that nothing is naive, slow or left to a library in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

NAIVE = "naive"
BY_RULE, BY_RECORD = "rule", "record"
MAIN = "main"


@dataclass(frozen=True)
class KernelRow:
    """One kernel of one compiled function and batch size.

    `reason` holds the schedule's parameters, and why rules did not fit; `chosen_by` says whether the parameters are
    what the rule's model derives or what a record of tuning measured.

    `flops` and `num_bytes` (arguments read and written) are of one call; `num_calls` calls per inference.
    """

    kernel: str
    op_kind: str
    schedule: str
    reason: str = ""
    flops: int = 0
    num_bytes: int = 0
    num_calls: int = 1
    batch_size: int = 1
    function: str = MAIN
    part: int | None = None
    """Which part of the graph it belongs to, where ONNX Runtime runs others."""
    level: str = ""
    """Of a fat bundle, which level it was compiled for."""
    chosen_by: str = BY_RULE

    @property
    def is_naive(self) -> bool:
        return self.schedule == NAIVE


@dataclass(frozen=True)
class KernelReport:
    """All kernels of a bundle."""

    rows: tuple[KernelRow, ...]
    notes: tuple[str, ...] = ()
    """What else did not go as it should, e.g. a layout that could not be changed."""

    @classmethod
    def of_program(cls, reports: Mapping[str, KernelReport]) -> KernelReport:
        """One report of several functions."""
        rows = [replace(row, function=name) for name, report in reports.items() for row in report.rows]
        return cls(tuple(rows), tuple(dict.fromkeys(note for report in reports.values() for note in report.notes)))

    @classmethod
    def of_levels(cls, reports: Mapping[str, KernelReport]) -> KernelReport:
        """One report of a fat bundle's levels."""
        rows = [replace(row, level=level) for level, report in reports.items() for row in report.rows]
        return cls(tuple(rows), tuple(dict.fromkeys(note for report in reports.values() for note in report.notes)))

    def naive(self) -> list[str]:
        """Names of the kernels left with naive loops, each once."""
        return list(dict.fromkeys(row.kernel for row in self.rows if row.is_naive))

    def tuned(self) -> list[str]:
        """Names of the kernels whose parameters come from records of tuning, each once."""
        return list(dict.fromkeys(row.kernel for row in self.rows if row.chosen_by == BY_RECORD))

    def flops(self) -> dict[int, int]:
        """Batch size -> floating-point operations of one inference."""
        totals: Counter[int] = Counter()
        for row in self.rows:
            totals[row.batch_size] += row.flops * row.num_calls
        return dict(totals)

    def num_kernels(self) -> dict[str, int]:
        """Schedule -> number of kernels."""
        return dict(Counter(row.schedule for row in self.rows).most_common())

    def to_dict(self) -> dict[str, Any]:
        return {
            "kernels": [asdict(row) for row in self.rows],
            "num_kernels": self.num_kernels(),
            "naive": self.naive(),
            "tuned": self.tuned(),
            "notes": list(self.notes),
            "flops": {str(batch): flops for batch, flops in self.flops().items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> KernelReport:
        return cls(tuple(KernelRow(**row) for row in data["kernels"]), tuple(data["notes"]))

    def summary(self) -> str:
        """One line for a person."""
        kinds = ", ".join(f"{count} {name}" for name, count in self.num_kernels().items())
        naive, num_tuned = self.naive(), len(self.tuned())
        told = [
            f"{len(self.rows)} kernels: {kinds}",
            f"naive: {', '.join(naive)}" if naive else "none naive",
            *([f"{num_tuned} with tuned parameters"] if num_tuned else []),
            *self.notes,
        ]
        return "; ".join(told)


def render(report: KernelReport) -> Table:
    """The report as a table for the terminal, most work first."""
    from rich.table import Table

    table = Table(title=report.summary())
    for column, align in _COLUMNS:
        table.add_column(column, justify="right" if align else "left", overflow="fold")
    total = max(sum(report.flops().values()), 1)
    for row in sorted(report.rows, key=lambda row: -row.flops * row.num_calls):
        table.add_row(*_cells(row, total), style="bold red" if row.is_naive else None)
    return table


_COLUMNS: Sequence[tuple[str, bool]] = (
    ("function", False), ("kernel", False), ("op", False), ("schedule", False), ("batch", True), ("calls", True),
    ("MFLOP", True), ("share", True), ("MB", True), ("note", False),
)  # fmt: skip


def _cells(row: KernelRow, total_flops: int) -> tuple[str, ...]:
    work = row.flops * row.num_calls
    return (
        row.function, row.kernel, row.op_kind, row.schedule, str(row.batch_size), str(row.num_calls),
        f"{work / 1e6:.2f}", f"{work / total_flops:.1%}", f"{row.num_bytes / 1e6:.2f}", row.reason,
    )  # fmt: skip

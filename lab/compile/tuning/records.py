"""Records of tuning: JSON lines, one kernel on one machine each, in files that people can read, merge and delete.

A record is used where kernel, arguments, body and machine are exactly those of the kernel at hand. Among several the
last one counts: those shipped with the package first, then the user's own files by name, then the file that was asked
for. A record without a choice says that the rule's own parameters were not beaten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.artifacts.files import sha256_json, write_text
from lab.core.errors import ArtifactError
from lab.core.host import cpu_features, cpu_name

if TYPE_CHECKING:
    from lab.compile.targets import Target
    from lab.compile.tuning.choices import Identity
    from lab.compile.tuning.decisions import Choice

SCHEMA = 1
SHIPPED = Path(__file__).parent / "database"
CPU_EXTENSIONS = ("avx", "amx")


@dataclass(frozen=True)
class MachineKey:
    """The machine that a record was measured on.

    `cpu` is the model's name with its vector extensions where code is generated for the very machine that compiles;
    empty where a target names the CPU ("x86:znver4", "arm:cortex-a72"). `num_threads` is of the pool.
    """

    mcpu: str
    cpu: str
    num_threads: int

    @classmethod
    def of(cls, target: Target) -> MachineKey:
        """Of a target that is one machine, not several levels."""
        spec = target.spec
        is_this_one = spec.kind == "x86" and ":" not in spec.name
        return cls(spec.mcpu or spec.cuda_arch, cpu_in_full() if is_this_one else "", target.machine.num_cores)


def cpu_in_full() -> str:
    """The CPU's name and its vector extensions: hypervisors give many CPUs one name."""
    extensions = sorted(name for name in cpu_features() if name.startswith(CPU_EXTENSIONS))
    return f"{cpu_name()} ({' '.join(extensions)})"


@dataclass(frozen=True)
class Record:
    """One kernel's tuning. Times are medians of interleaved calls, `gain` the median of their ratios."""

    kernel: str
    arguments: tuple[str, ...]
    body: str
    machine: MachineKey
    rule: str
    choice: Mapping[str, Any] | None
    default_ms: float
    tuned_ms: float | None = None
    gain: float = 1.0
    num_trials: int = 0
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.kernel, self.arguments, self.body, self.machine)

    def to_line(self) -> str:
        return json.dumps({"schema": SCHEMA, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """Raises KeyError, TypeError, ValueError where a field is missing, unknown or of the wrong type."""
        fields = dict(data)
        schema = fields.pop("schema")
        if schema != SCHEMA:
            raise ValueError(f"schema {schema}, this version reads {SCHEMA}")
        fields["arguments"] = tuple(str(argument) for argument in fields["arguments"])
        fields["machine"] = MachineKey(**fields["machine"])
        record = cls(**fields)
        if not isinstance(record.choice, Mapping | None) or not isinstance(record.default_ms, int | float):
            raise TypeError("'choice' must be an object or null, 'default_ms' a number")
        return record


def user_folder() -> Path:
    """`~/.cache/lab/tuning`, or below XDG_CACHE_HOME where that is set."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lab" / "tuning"


def read_records(path: Path) -> list[Record]:
    """The records of one file.

    Raises:
        ArtifactError: the file cannot be read, or a line is no record; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"tuning records {path} cannot be read", got=str(error)) from error
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(Record.from_dict(json.loads(line)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise ArtifactError(
                f"{path}, line {number}: not a tuning record", got=f"{reason}: {line[:80]}",
                expected=f"one JSON object of schema {SCHEMA}",
                hint="remove the line or the file, or compile with --no-tuning-records",
            ) from error  # fmt: skip
    return records


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Replace a file of records, all or nothing. Raises StorageError."""
    write_text(path, "".join(record.to_line() + "\n" for record in records))


def record_files(asked_for: Path | None = None) -> list[Path]:
    """Every file of records that counts, the one whose records count most last."""
    folders = [sorted(folder.glob("*.jsonl")) for folder in (SHIPPED, user_folder()) if folder.is_dir()]
    return [*(path for folder in folders for path in folder), *([asked_for] if asked_for else [])]


@dataclass(frozen=True)
class Records:
    """What is known of some machines: the last record of each kernel."""

    records: tuple[Record, ...] = ()

    @classmethod
    def load(cls, files: Sequence[Path], machines: Collection[MachineKey]) -> Records:
        """Raises ArtifactError where a file is missing or broken."""
        last = {record.key: record for path in files for record in read_records(path) if record.machine in machines}
        return cls(tuple(last.values()))

    def choices(self, machine: MachineKey) -> dict[Identity, Choice]:
        """What `compile_onnx` takes for one machine; imports TVM."""
        from lab.compile.tuning.choices import Identity
        from lab.compile.tuning.decisions import Choice

        return {
            Identity(r.kernel, r.arguments, r.body): Choice(r.rule, r.choice, r.gain)
            for r in self.records
            if r.choice is not None and r.machine == machine
        }

    @property
    def fingerprint(self) -> str:
        """A hash of what the choices are, whenever and wherever measured; empty where there are none."""
        chosen = sorted(
            json.dumps([r.machine.mcpu, r.kernel, r.arguments, r.body, r.rule, r.choice], sort_keys=True)
            for r in self.records
            if r.choice is not None
        )
        return sha256_json(chosen)[:16] if chosen else ""

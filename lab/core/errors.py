"""The lab's one tree of errors.

    LabError
    |-- ConfigError          a configuration or an argument cannot be used as given
    |-- DataError            a data set or an input file is missing, broken or inconsistent
    |-- ArtifactError        a run, model or bundle is missing or unusable
    |   |-- IntegrityError       ... its bytes are not the ones its manifest records
    |   `-- IncompatibleError    ... it was built for another machine
    |-- UnsupportedError     something asked for is known, and cannot be done
    |-- TrainingError        training diverged: the loss is no longer a number
    |-- ParityError          two engines disagree beyond the tolerance
    |-- MissingToolError     this machine lacks a tool, a package or a device
    |-- StorageError         writing failed: disk full, no permission
    `-- TrackingError        the tracking server cannot be reached or refuses

Messages say what failed, what was got, what was expected and what to try. Each edge (command line, HTTP) maps the
tree once; nothing below an edge knows exit codes or status codes.
"""

from __future__ import annotations


class LabError(Exception):
    """Base of every error the lab raises on purpose.

    Args:
        what: one sentence: what failed.
        got: what was found.
        expected: what would have been accepted.
        hint: what to try.
    """

    kind = "error"

    def __init__(self, what: str, *, got: object = None, expected: object = None, hint: str | None = None) -> None:
        self.what = what
        self.got = got
        self.expected = expected
        self.hint = hint
        super().__init__(self.message())

    def message(self) -> str:
        """All parts as the lines a person reads."""
        lines = [self.what]
        lines += [f"  got:      {self.got}"] if self.got is not None else []
        lines += [f"  expected: {self.expected}"] if self.expected is not None else []
        lines += [f"  try:      {self.hint}"] if self.hint else []
        return "\n".join(lines)

    def to_dict(self) -> dict[str, str]:
        """The same parts for machines (`--json`)."""
        parts = {"kind": self.kind, "what": self.what, "got": self.got, "expected": self.expected, "try": self.hint}
        return {key: str(value) for key, value in parts.items() if value is not None}


class ConfigError(LabError):
    kind = "config"


class DataError(LabError):
    kind = "data"


class ArtifactError(LabError):
    kind = "artifact"


class IntegrityError(ArtifactError):
    kind = "integrity"


class IncompatibleError(ArtifactError):
    kind = "incompatible"


class UnsupportedError(LabError):
    kind = "unsupported"


class TrainingError(LabError):
    kind = "training"


class ParityError(LabError):
    kind = "parity"


class MissingToolError(LabError):
    kind = "missing_tool"


class StorageError(LabError):
    kind = "storage"


class TrackingError(LabError):
    kind = "tracking"


def last_line(error: BaseException, max_chars: int = 300) -> str:
    """What a library's long message ends with, which is where TVM and compilers say what is wrong."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip()[:max_chars] if lines else type(error).__name__

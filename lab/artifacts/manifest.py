"""The manifest: what an artifact is, where it came from, how to feed it, and what was measured of it.

One schema for the three kinds of artifact: a trained run, an exported ONNX model, a compiled bundle. Plain dataclasses,
so that a machine with only numpy and a runtime can read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from lab.artifacts.files import read_json, sha256_file, write_json
from lab.core.errors import ArtifactError, IntegrityError
from lab.core.signature import Signature

SCHEMA_VERSION = 3
READABLE_VERSIONS = (2, 3)
"""2 knew no functions beside the one."""
MANIFEST_NAME = "manifest.json"
MAIN = "main"
"""The function of a model that is one call."""

Kind = Literal["run", "onnx", "bundle"]
Engine = Literal["tvm", "onnxruntime"]
KINDS = get_args(Kind)


@dataclass(frozen=True)
class Rung:
    """One step of the parity ladder: `name` compared with `reference` over `num_samples` samples.

    `status` is "passed", "failed" or "not run"; `reason` says why when it was not run or failed.
    """

    name: str
    reference: str
    status: Literal["passed", "failed", "not run"]
    num_samples: int = 0
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    tolerance: float | None = None
    agreement: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class TargetInfo:
    """The machine a bundle was built for; `required_features` are in the Linux kernel's spelling."""

    name: str
    kind: Literal["x86", "arm", "cuda"]
    arch: str
    mcpu: str = ""
    triple: str = ""
    required_features: tuple[str, ...] = ()
    cuda_arch: str = ""
    num_threads: int = 0
    precision: str = "float32"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TargetInfo:
        return cls(**dict(data) | {"required_features": tuple(data["required_features"])})


@dataclass(frozen=True)
class Part:
    """A stretch of a graph in one engine: its file, the values it takes and gives, and how many of which operators.

    `reasons` says of each node that ONNX Runtime runs why it was not compiled.
    """

    engine: Engine
    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Part:
        return cls(**dict(data) | {name: tuple(data[name]) for name in ("inputs", "outputs")})


@dataclass(frozen=True)
class Entry:
    """One compiled function: the library file that holds it and the batch size it takes (0: any).

    `kernels` is the file with its GPU machine code; the library holds the host's half. `parts` are there where some of
    it runs in ONNX Runtime: they run in turn, and `library` is empty.
    """

    library: str
    batch_size: int
    function: str = MAIN
    kernels: str | None = None
    parts: tuple[Part, ...] = ()
    level: str = ""
    """Of a fat bundle, the `mcpu` of the level it was compiled for."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Entry:
        return cls(**dict(data) | {"parts": tuple(map(Part.from_dict, data.get("parts", ())))})

    @property
    def files(self) -> tuple[str, ...]:
        if self.parts:
            return tuple(part.file for part in self.parts)
        return (self.library, self.kernels) if self.kernels else (self.library,)


def file_name(function: str, suffix: str) -> str:
    """Of a function's file in an artifact: `model.onnx` for "main", `encode.onnx` for "encode"."""
    return ("model" if function == MAIN else function) + suffix


@dataclass(frozen=True)
class Manifest:
    """See the module's docstring. `files` maps a path relative to the manifest to its hash and size.

    `functions` are the signatures of a program's functions (`lab.runtime.program`), whose loop `signature` describes;
    none where the model is one call. `tuned_kernels` are the kernels of a bundle whose parameters come from records of
    tuning; those of all others were derived by rule.
    """

    kind: Kind
    name: str
    signature: Signature
    functions: dict[str, Signature] = field(default_factory=dict)
    task: str | None = None
    created: str = ""
    parents: dict[str, str] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    target: TargetInfo | None = None
    levels: tuple[TargetInfo, ...] = ()
    """Of a fat bundle, the instruction-set levels it holds libraries for, the best first; `target` is what all need."""
    entries: tuple[Entry, ...] = ()
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    parity: tuple[Rung, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    durations_s: dict[str, float] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    tuned_kernels: tuple[str, ...] = ()
    mlflow_run_id: str = ""
    schema_version: int = SCHEMA_VERSION

    def called(self) -> dict[str, Signature]:
        """Every function there is a file of: those of the program, or "main"."""
        return self.functions or {MAIN: self.signature}

    def at_level(self, level: str) -> Manifest:
        """A fat bundle's manifest with the entries of one level; itself where it has none."""
        if not self.levels:
            return self
        return replace(self, entries=tuple(entry for entry in self.entries if entry.level == level))

    def to_dict(self) -> dict[str, Any]:
        functions = {name: signature.to_dict() for name, signature in self.functions.items()}
        return asdict(self) | {"signature": self.signature.to_dict(), "functions": functions}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Manifest:
        """Raises ArtifactError on another schema version or a missing field."""
        found = data.get("schema_version")
        if found not in READABLE_VERSIONS:
            raise ArtifactError("the manifest has another schema version", got=found, expected=SCHEMA_VERSION)
        try:
            _check_types(data)
            fields = dict(data)
            fields["schema_version"] = SCHEMA_VERSION
            fields["signature"] = Signature.from_dict(data["signature"])
            functions = data.get("functions", {})
            fields["functions"] = {name: Signature.from_dict(item) for name, item in functions.items()}
            fields["labels"] = tuple(data["labels"])
            fields["tuned_kernels"] = tuple(data.get("tuned_kernels", ()))
            fields["entries"] = tuple(map(Entry.from_dict, data["entries"]))
            fields["parity"] = tuple(Rung(**item) for item in data["parity"])
            if data["target"] is not None:
                fields["target"] = TargetInfo.from_dict(data["target"])
            fields["levels"] = tuple(map(TargetInfo.from_dict, data.get("levels", ())))
            return cls(**fields)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError("the manifest is incomplete or damaged", got=repr(error)) from error

    def with_files(self, folder: Path, names: list[str]) -> Manifest:
        """A copy that records the SHA-256 and size of the named files below `folder`."""
        return replace(self, files={name: file_entry(folder / name) for name in sorted(names)})

    def save(self, folder: Path) -> Path:
        """Write `manifest.json` into `folder` atomically."""
        stamped = self if self.created else replace(self, created=now())
        write_json(folder / MANIFEST_NAME, stamped.to_dict())
        return folder / MANIFEST_NAME

    @classmethod
    def load(cls, folder: Path, *, verify: bool = True) -> Manifest:
        """Read the manifest of `folder`; by default every recorded file is hashed and compared.

        Raises:
            ArtifactError: no manifest, or one that cannot be read.
            IntegrityError: a file is missing or its bytes are not those recorded.
        """
        raw = read_json(folder / MANIFEST_NAME)
        if not isinstance(raw, dict):
            raise ArtifactError(
                f"{folder / MANIFEST_NAME} is not a manifest", got=type(raw).__name__, expected="an object"
            )
        manifest = cls.from_dict(raw)
        if verify:
            manifest.verify(folder)
        return manifest

    def verify(self, folder: Path) -> None:
        """Raises IntegrityError naming the first file that is missing, escapes the folder, or has other bytes."""
        for name, recorded in self.files.items():
            path = folder / name
            if not _is_below(path, folder):
                raise IntegrityError("the manifest names a file outside its folder", got=name)
            if not path.is_file():
                raise IntegrityError(f"{name} is missing from {folder}", hint="build the artifact again")
            actual = sha256_file(path)
            if actual != recorded["sha256"]:
                raise IntegrityError(
                    f"{name} is not the file this artifact was built with",
                    got=f"sha256 {actual}",
                    expected=f"sha256 {recorded['sha256']}",
                    hint="the file was changed or damaged after the build: copy or build the artifact again",
                )


def _is_below(path: Path, folder: Path) -> bool:
    try:
        path.stat()  # finds out about names that cannot be any
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        return False
    return path.resolve().is_relative_to(folder.resolve())


_TYPES: dict[str, tuple[type, ...]] = {
    "kind": (str,), "name": (str,), "functions": (dict,), "task": (str, type(None)), "created": (str,),
    "parents": (dict,), "preprocessing": (dict,), "labels": (list, tuple), "entries": (list, tuple),
    "metrics": (dict,), "parity": (list, tuple), "options": (dict,), "versions": (dict,), "durations_s": (dict,),
    "files": (dict,), "mlflow_run_id": (str,),
}  # fmt: skip


def _check_types(data: Mapping[str, Any]) -> None:
    """Of what is used without a further look. Raises ValueError, KeyError, TypeError, AttributeError."""
    for name, kinds in _TYPES.items():
        if name in data and not isinstance(data[name], kinds):
            raise ValueError(f"{name}: {type(data[name]).__name__} instead of {kinds[0].__name__}")
    if data["kind"] not in KINDS:
        raise ValueError(f"kind: {data['kind'][:40]}")
    texts = [*data["labels"], *(entry["library"] for entry in data["entries"])]
    texts += [entry["sha256"] for entry in data.get("files", {}).values()]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a label, a library or a hash is no text")


def file_entry(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_file(path), "size_bytes": path.stat().st_size}


def now() -> str:
    """UTC time in ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

"""Run a compiled bundle with numpy and the TVM runtime alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from lab.artifacts.manifest import MAIN, Entry, Manifest, Part, TargetInfo
from lab.core import host
from lab.core.errors import ArtifactError, DataError, IncompatibleError, MissingToolError
from lab.core.signature import Signature, TensorSpec
from lab.runtime import batching, cuda, threads
from lab.runtime.levels import pick_level
from lab.runtime.parts import PartSequence, Run, in_onnxruntime
from lab.runtime.slots import InputSlots

BATCH = "batch"
DEVICE_CPU = "cpu"


CPU_DEVICE_TYPE = 1  # DLPack's kDLCPU


class TvmRunner:
    """One function of a bundle, opened for inference. Not thread-safe: one per thread.

    Args:
        level: of a fat bundle, the `mcpu` of the level to run; None: the best that this CPU can run (`target` says it).
        function: of a program, such as "encode"; `lab.runtime.models.open_model` opens all with their loop.

    Raises on opening:
        ArtifactError: the bundle has no such function.
        IntegrityError, IncompatibleError, MissingToolError: see `lab.runtime.open_bundle`.
    """

    name = "tvm"

    def __init__(
        self,
        path: Path,
        *,
        num_threads: int | None = None,
        verify: bool = True,
        function: str = MAIN,
        level: str | None = None,
    ) -> None:
        self.manifest = Manifest.load(path, verify=verify)
        target = self.manifest.target
        if self.manifest.kind != "bundle" or target is None or not self.manifest.entries:
            raise ArtifactError(f"{path} is not a compiled bundle", got=self.manifest.kind, expected="bundle")
        self.target = pick_level(self.manifest, name=level)
        check_cpu(self.target)
        self.signature: Signature = function_of(self.manifest, function)
        wanted = threads.configure(num_threads)
        self._tvm = _import_runtime()
        self.num_threads = threads.check_pool(wanted)
        self._device = self._open_device(target)
        self._is_cpu = self._device.dlpack_device_type() == CPU_DEVICE_TYPE
        entries = [
            entry
            for entry in self.manifest.entries
            if entry.function == function and entry.level in ("", self.target.mcpu)
        ]
        self._machines = {entry.batch_size: self._load(path, entry) for entry in entries}
        self._slots = InputSlots(lambda array: self._tvm.tensor(array, self._device))
        # A step of a loop reads all its weights for a few rows: a call costs about as much as the smallest batch does.
        self._per_call = 0 if function == MAIN else min(self._machines)
        self._axes = {spec.name: spec.shape.index(BATCH) for spec in self.signature.inputs if BATCH in spec.shape}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run any number of samples: split over the compiled batch sizes, padded where they do not divide it.

        Raises:
            DataError: inputs that do not fit the signature, or no samples.
        """
        dims = self.signature.check_inputs(inputs)
        if not self._axes:
            return self._named(self._call(next(iter(self._machines.values())), inputs))
        num_samples = dims[BATCH]
        if num_samples == 0:
            raise DataError("no samples to run", got="a batch of 0", expected="at least 1")
        chunks = batching.plan(num_samples, tuple(self._machines), self._per_call)
        self._check_splittable(num_samples, chunks)
        parts = [self._run_chunk(inputs, chunk) for chunk in chunks]
        return self._named([_join([part[i] for part in parts], spec) for i, spec in enumerate(self.signature.outputs)])

    def on_device(self, inputs: Mapping[str, np.ndarray]) -> tuple[Callable[[], Any], Callable[[], None]]:
        """For benchmarks: a call on inputs that are on the device already, and what waits for it to end."""
        self.signature.check_inputs(inputs)
        machine = next(iter(self._machines.values()))
        tensors = [self._tensor(spec.name, inputs[spec.name]) for spec in self.signature.inputs]
        return (lambda: machine(*tensors)), self._device.sync

    def close(self) -> None:
        """Release the libraries' machines; calling again does nothing."""
        self._machines = {}
        self._slots.clear()

    def _run_chunk(self, inputs: Mapping[str, np.ndarray], chunk: batching.Chunk) -> list[np.ndarray]:
        machine = self._machines[chunk.batch_size]
        if self._is_cpu and not isinstance(machine, PartSequence):
            names = (spec.name for spec in self.signature.inputs)
            outputs = self._results(machine(*[self._rows(name, inputs[name], chunk) for name in names]))
        else:
            outputs = self._call(machine, batching.take(inputs, self._axes, chunk))
        if chunk.num_samples == chunk.batch_size:
            return outputs
        return [
            _trim(output, spec, chunk.num_samples) for output, spec in zip(outputs, self.signature.outputs, strict=True)
        ]

    def _call(self, machine: Any, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """One call of the compiled function, or of its parts in turn."""
        if isinstance(machine, PartSequence):
            return machine(inputs)
        return self._call_library(machine, [spec.name for spec in self.signature.inputs], inputs)

    def _call_library(self, machine: Any, names: Sequence[str], values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Inputs in the order of `names`, one tensor or a tuple of them back."""
        return self._results(machine(*[self._tensor(name, values[name]) for name in names]))

    @staticmethod
    def _results(result: Any) -> list[np.ndarray]:
        tensors = [result] if hasattr(result, "numpy") else list(result)
        return [_array(tensor) for tensor in tensors]

    def _tensor(self, name: str, array: np.ndarray) -> Any:
        if self._is_cpu:
            return self._slots.whole(name, array)
        return self._tvm.tensor(np.asarray(array, order="C"), self._device)

    def _rows(self, name: str, array: np.ndarray, chunk: batching.Chunk) -> Any:
        axis = self._axes.get(name)
        return self._slots.whole(name, array) if axis is None else self._slots.rows(name, array, axis, chunk)

    def _named(self, outputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        return {spec.name: output for spec, output in zip(self.signature.outputs, outputs, strict=True)}

    def _check_splittable(self, num_samples: int, chunks: tuple[batching.Chunk, ...]) -> None:
        whole = len(chunks) == 1 and chunks[0].batch_size == num_samples
        without = [spec.name for spec in self.signature.outputs if BATCH not in spec.shape]
        if without and not whole:
            raise DataError(
                f"output '{without[0]}' has no batch dimension, so samples cannot be split or padded",
                got=f"{num_samples} samples", expected=f"one of {sorted(self._machines)}",
            )  # fmt: skip

    def _open_device(self, target: TargetInfo) -> Any:
        if target.kind != "cuda":
            return self._tvm.device(DEVICE_CPU, 0)
        return cuda.open_device(self._tvm)

    def part_seconds(self) -> dict[int, tuple[float, ...]]:
        """Batch size -> seconds each part has taken so far, where ONNX Runtime runs some."""
        sequences = {size: m for size, m in self._machines.items() if isinstance(m, PartSequence)}
        return {size: tuple(sequence.seconds) for size, sequence in sequences.items()}

    def part_values(self, batch_size: int, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All that passes between the parts compiled for `batch_size` when given as many samples."""
        sequence = self._machines[batch_size]
        assert isinstance(sequence, PartSequence)
        return sequence.values(inputs)

    def _load(self, path: Path, entry: Entry) -> Any:
        if not entry.parts:
            return self._load_library(path, entry)
        runs = [(part, self._open_part(path, entry, part)) for part in entry.parts]
        return PartSequence(runs, [spec.name for spec in self.signature.outputs])

    def _open_part(self, path: Path, entry: Entry, part: Part) -> Run:
        if part.engine == "onnxruntime":
            return in_onnxruntime(path, part, self.num_threads)
        machine = self._load_library(path, Entry(part.file, entry.batch_size))
        return lambda values: self._call_library(machine, part.inputs, values)

    def _load_library(self, path: Path, entry: Entry) -> Any:
        from tvm.runtime.vm import VirtualMachine

        target = self.manifest.target
        if target is not None and target.kind == "cuda" and not entry.kernels:
            raise ArtifactError(
                "the bundle holds no machine code of its GPU kernels", got=f"{entry.library} alone",
                hint="it comes from an older version: compile it again",
            )  # fmt: skip
        with cuda.machine_code(path / entry.kernels) if entry.kernels else nullcontext():
            module = self._tvm.load_module(str(path / entry.library))
        devices = [self._device] if self._is_cpu else [self._device, self._tvm.device("cpu", 0)]
        return VirtualMachine(module, devices)[MAIN]  # whatever the program calls it


def function_of(manifest: Manifest, function: str) -> Signature:
    """The signature of one function of a bundle. Raises ArtifactError when it has no such function."""
    called = manifest.called()
    if function not in called:
        raise ArtifactError(
            f"the bundle has no function '{function}'", got=manifest.name, expected=", ".join(called),
            hint="it is a program: lab.runtime.models.open_model(path) opens its functions with their loop",
        )  # fmt: skip
    return called[function]


def check_cpu(target: TargetInfo) -> None:
    """Raises IncompatibleError when this CPU cannot run code built for `target`."""
    if target.arch != host.cpu_arch():
        raise IncompatibleError(
            f"the bundle was built for {target.arch} and this machine is {host.cpu_arch()}",
            got=host.cpu_arch(), expected=target.arch, hint="compile the model for this machine's target",
        )  # fmt: skip
    missing = sorted(set(target.required_features) - host.cpu_features())
    if missing:
        raise IncompatibleError(
            f"this CPU cannot run code built for {target.name} ({target.mcpu})",
            got=f"{host.cpu_name()}, without {', '.join(missing)}", expected=", ".join(target.required_features),
            hint="compile for an older CPU, e.g. --target x86:x86-64-v3, or on this machine with --target x86",
        )  # fmt: skip


def _import_runtime() -> Any:
    try:
        with _without_torch():
            import tvm.runtime
    except ImportError as error:
        raise MissingToolError(
            "running a bundle needs the TVM runtime",
            got=str(error),
            hint="make setup, or pip install -c constraints.txt '.[runtime]'",
        ) from error
    return tvm.runtime


@contextmanager
def _without_torch() -> Iterator[None]:
    """Import tvm-ffi as on a machine without torch: it would import torch, which costs seconds and a gigabyte.

    Only its bridge between tensors of the two is lost, and bundles are fed with numpy arrays.
    """
    if "torch" in sys.modules or "tvm_ffi" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


def use_runtime_library_only() -> None:
    """Make this process load TVM's runtime (3 MB) without its compiler (259 MB); before anything of TVM is imported."""
    os.environ.setdefault("TVM_USE_RUNTIME_LIB", "1")


def _trim(output: np.ndarray, spec: TensorSpec, num_samples: int) -> np.ndarray:
    return output[(slice(None),) * spec.shape.index(BATCH) + (slice(num_samples),)]


def _array(tensor: Any) -> np.ndarray:
    """A copy: the tensor's memory may be an input's, or a constant of the library."""
    try:
        return np.array(np.from_dlpack(tensor))
    except (BufferError, RuntimeError, TypeError):  # on another device, or of a type that numpy's DLPack does not know
        return np.asarray(tensor.numpy())


def _join(parts: list[np.ndarray], spec: TensorSpec) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=spec.shape.index(BATCH))

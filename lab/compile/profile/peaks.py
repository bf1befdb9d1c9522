"""The roofs of the roofline, measured on this machine: multiply-adds per second and bytes read per second."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from lab.compile.profile import probes
from lab.compile.targets.target import Target

NUM_STEPS = 1 << 16
REPEATS = {"flops": 6, "memory": 2, "cache": 6}
"""Calls of a probe in one sample: each lasts a millisecond or ten, so that on a busy machine some are undisturbed."""
MEMORY_BYTES = 64 << 20
"""Per thread; beyond any cache."""
BYTES_PER_CALL = 32 << 20
"""What one call reads of a cache, so that starting the threads does not count."""


@dataclass(frozen=True)
class Peaks:
    """The best of all calls of the probes; a machine is never faster than its peak, only disturbed."""

    flops_per_s: float
    memory_bytes_per_s: float
    cache_bytes_per_s: float
    cache_bytes: int
    """Of each thread's array when the cache was measured: half its second-level cache."""
    usual_flops_per_s: float
    """The median of the calls: far below the best where other work shares the machine, as it then does with kernels."""
    num_threads: int
    num_samples: int

    @property
    def ridge(self) -> float:
        """FLOP per byte from which on the multiply-adds limit a kernel and no longer the memory."""
        return self.flops_per_s / self.memory_bytes_per_s


class Probes:
    """The probe kernels, compiled for a target that runs here; `sample` is called between the model's rounds.

    Args:
        num_threads: those of TVM's pool, which the model's kernels use too.
    """

    def __init__(self, target: Target, num_threads: int) -> None:
        self.num_threads, self.cache_bytes = num_threads, target.machine.l2_bytes // 2
        self._rates: dict[str, list[float]] = defaultdict(list)
        self._num_samples = 0
        lanes, num_vectors = target.machine.num_lanes, target.machine.num_registers * 3 // 4
        self._calls = {
            "flops": self._multiply_adds(target, lanes, num_vectors),
            "memory": self._read(target, MEMORY_BYTES, lanes, num_vectors),
            "cache": self._read(target, self.cache_bytes, lanes, num_vectors),
        }
        for _, call in self._calls.values():  # the first call touches the pages
            call()

    def sample(self) -> None:
        """Run each probe a few times."""
        self._num_samples += 1
        for name, (work, call) in self._calls.items():
            for _ in range(REPEATS[name]):
                start = time.perf_counter()
                call()
                self._rates[name].append(work / (time.perf_counter() - start))

    def peaks(self) -> Peaks:
        """Of the samples so far."""
        best = {name: max(rates) for name, rates in self._rates.items()}
        return Peaks(
            flops_per_s=best["flops"],
            memory_bytes_per_s=best["memory"],
            cache_bytes_per_s=best["cache"],
            cache_bytes=self.cache_bytes,
            usual_flops_per_s=median(self._rates["flops"]),
            num_threads=self.num_threads,
            num_samples=self._num_samples,
        )

    def _multiply_adds(self, target: Target, lanes: int, num_vectors: int) -> tuple[int, Callable[[], Any]]:
        from tvm.runtime import tensor

        probe = _compile(probes.multiply_adds(self.num_threads, num_vectors, lanes, NUM_STEPS), target)
        half = tensor(_filled((lanes,), 0.5))  # x = x * 0.5 + 0.5 stays at 1: neither infinities nor denormals
        out = tensor(_filled((self.num_threads, num_vectors * lanes), 0.0))
        return 2 * self.num_threads * num_vectors * lanes * NUM_STEPS, lambda: probe(half, half, out)

    def _read(self, target: Target, size: int, lanes: int, num_vectors: int) -> tuple[int, Callable[[], Any]]:
        from tvm.runtime import tensor

        num_floats = size // 4 // (lanes * num_vectors) * (lanes * num_vectors)
        num_passes = max(1, BYTES_PER_CALL // size)
        probe = _compile(probes.read_memory(self.num_threads, num_floats, lanes, num_vectors, num_passes), target)
        data = tensor(_filled((self.num_threads, num_floats), 0.0))
        out = tensor(_filled((self.num_threads, num_vectors * lanes), 0.0))
        return self.num_threads * num_floats * 4 * num_passes, lambda: probe(data, out)


def _filled(shape: tuple[int, ...], value: float) -> Any:
    import numpy as np

    return np.full(shape, value, np.float32)


def _compile(func: Any, target: Target) -> Callable[..., Any]:
    import tvm

    tvm_target = target.to_tvm()
    func = func.with_attrs({"global_symbol": "probe", "tirx.noalias": True})
    with tvm_target, tvm.transform.PassContext(opt_level=3):
        built: Callable[..., Any] = tvm.compile(tvm.IRModule({"probe": func}), target=tvm_target)["probe"]
    return built

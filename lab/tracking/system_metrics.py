"""Processor, memory, disk, network and GPU use of the machine while a run goes on, under MLflow's own metric names.

MLflow's monitors do the measuring. Its SystemMetricsMonitor is not used: it talks to the server itself at every
sample, so it stops for good at the first outage; here the samples take the journal's way.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lab.core.errors import MissingToolError
from lab.core.progress import warn
from lab.tracking.server import prepare

PREFIX = "system/"
INTERVAL_VARIABLE = "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"
DEFAULT_INTERVAL_S = 10.0


class SystemMetrics:
    """Samples in a thread of its own and hands `log(metrics, step)` one sample per interval."""

    def __init__(self, log: Callable[[Mapping[str, float], int], None], *, first_step: int = 0) -> None:
        self._log = log
        self._step = first_step
        self._interval_s = float(os.environ.get(INTERVAL_VARIABLE) or DEFAULT_INTERVAL_S)
        self._stop = threading.Event()
        self._monitors: list[Any] = []
        self._thread = threading.Thread(target=self._loop, daemon=True, name="system-metrics")

    def start(self) -> None:
        """Begin sampling; where something cannot be measured, a warning says what and why."""
        try:
            self._monitors = _monitors()
        except (MissingToolError, ImportError) as error:
            warn(f"no system metrics: {error}")
            return
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample and end the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _loop(self) -> None:
        try:
            while not self._stop.wait(self._interval_s):
                self._sample()
            self._sample()
        except Exception as error:  # noqa: BLE001 a sensor that fails must not end the run
            warn(f"system metrics stopped: {error!r}")

    def _sample(self) -> None:
        values: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        self._log({f"{PREFIX}{name}": value for name, value in values.items()}, self._step)
        self._step += 1


def _monitors() -> list[Any]:
    prepare()
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    if Path("/dev/nvidiactl").exists():
        try:
            monitors.append(GPUMonitor())
        except Exception as error:  # noqa: BLE001 NVML raises its own types
            warn(f"the GPU's use is not recorded: {error} (needs the package nvidia-ml-py)")
    return monitors

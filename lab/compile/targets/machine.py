"""The few figures of a processor from which schedules derive their tile sizes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """`num_lanes` float32 values fit one vector register, of which there are `num_registers`."""

    num_lanes: int
    num_registers: int
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 512 * 1024
    num_cores: int = 2

    @property
    def num_accumulators(self) -> int:
        """Registers an inner loop may hold results in; the rest carry weights and one broadcast value."""
        return self.num_registers - self.num_registers // 8

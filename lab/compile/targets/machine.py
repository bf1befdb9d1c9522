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
    broadcasts_from_memory: bool = False
    """Whether a multiply-add can take one of its operands as a scalar in memory, broadcast to all lanes (AVX-512)."""
    has_dot_product: bool = False
    """Whether an instruction adds the products of four unsigned and four signed bytes to each 32-bit lane (VNNI)."""

    operands_from_memory: bool = True
    """Whether a multiply-add can take an operand from memory (x86), or each operand needs a register first (ARM)."""

    load_reach: int | None = None
    """Bytes from a register that a load's offset reaches, where that is little; beyond, addresses take registers."""

    @property
    def num_accumulators(self) -> int:
        """Registers an inner loop may hold results in; the rest carry weights and one broadcast value."""
        return self.num_registers - self.num_registers // 8

    def fits_registers(self, num_rows: int, num_vectors: int) -> bool:
        """Whether a tile of results stays in registers beside a row of weights and one broadcast value.

        One register too many costs a quarter of the speed with AVX2: 61 instead of 80 GFLOP/s, measured.
        """
        broadcast = 0 if self.broadcasts_from_memory else 1
        return num_rows * num_vectors + num_vectors + broadcast <= self.num_registers

"""Which units were seen before: a client that retries, or a session with many requests, is one piece of evidence.

A bitmap over hashes in constant memory. Two units may share a bit; the later one is then taken for the earlier and not
counted. Which units that hits does not depend on the variant they are in (the bit is drawn by another hash than the
router's bucket), so tests stay valid and lose a little power: with U units seen, a share of about U / 4.2 million.
"""

from __future__ import annotations

from collections.abc import Iterator

NUM_BITS = 1 << 22
CHUNK_BYTES = 4096
_MASK = (1 << 64) - 1


def remix(unit_hash: int, salt: int) -> int:
    """A 64-bit hash of a hash, independent of it for every salt (splitmix64: Steele, Lea and Flood, OOPSLA 2014)."""
    z = (unit_hash + (salt + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def uniform(unit_hash: int, salt: int) -> float:
    """A number in [0, 1) that belongs to the unit."""
    return (remix(unit_hash, salt) >> 11) * 2.0**-53


class SeenUnits:
    """Remembers units for one purpose; 512 KiB, taken at the first unit."""

    def __init__(self, salt: int) -> None:
        self._salt = salt
        self._bits: bytearray | None = None
        self._changed: set[int] = set()

    def first(self, unit_hash: int) -> bool:
        """Whether this is the unit's first time; it is remembered."""
        if self._bits is None:
            self._bits = bytearray(NUM_BITS // 8)
        position, bit = divmod(remix(unit_hash, self._salt) % NUM_BITS, 8)
        if self._bits[position] >> bit & 1:
            return False
        self._bits[position] |= 1 << bit
        self._changed.add(position // CHUNK_BYTES)
        return True

    def changed_chunks(self) -> Iterator[tuple[int, bytes]]:
        """(index, bytes) of the parts that changed since the last call, for keeping on disk."""
        bits, changed, self._changed = self._bits or bytearray(), sorted(self._changed), set()
        for index in changed:
            yield index, bytes(bits[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])

    def load_chunk(self, index: int, chunk: bytes) -> None:
        if self._bits is None:
            self._bits = bytearray(NUM_BITS // 8)
        self._bits[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES] = chunk

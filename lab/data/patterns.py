"""Names of shards: shards-{000..009}.tar stands for ten."""

from __future__ import annotations

import re

from lab.core.errors import ConfigError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def expand(pattern: str) -> list[str]:
    """Every name of a pattern with ranges: shards-{000..009}.tar; leading zeros are kept. Raises ConfigError."""
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last = found.groups()
    if int(last) < int(first):
        raise ConfigError("a range ends before it begins", got=found.group(), expected=f"{{{last}..{first}}}")
    width = len(first) if len(first) == len(last) or first.startswith("0") else 0
    head, tail = pattern[: found.start()], pattern[found.end() :]
    numbers = range(int(first), int(last) + 1)
    return [name for number in numbers for name in expand(f"{head}{number:0{width}d}{tail}")]

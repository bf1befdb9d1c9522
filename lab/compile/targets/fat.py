"""Several x86 CPUs in one bundle, e.g. "x86:haswell,skylake-avx512": the best that a CPU can run is picked at load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from lab.compile.targets.target import Target
from lab.core.errors import ConfigError


def resolve(names: Sequence[str], one: Callable[[str], Target]) -> Target:
    """The target of all of them: what it asks of a CPU is what the least demanding does; `levels` has the best first.

    Raises:
        ConfigError: a name is repeated or unknown, or one level does not contain the instructions of the lowest.
    """
    if len(set(names)) != len(names) or not all(names):
        raise ConfigError("the levels of a fat bundle must be different CPUs", got=",".join(names))
    levels = sorted(
        map(one, names), key=lambda level: (level.machine.num_lanes, len(level.spec.required_features)), reverse=True
    )
    base = levels[-1]
    for level in levels[:-1]:
        lacking = sorted(set(base.spec.required_features) - set(level.spec.required_features))
        if lacking:
            raise ConfigError(
                f"{level.spec.mcpu} lacks instructions of {base.spec.mcpu}, the lowest level", got=", ".join(lacking),
                hint="let the lowest level be one that all others contain, e.g. x86:x86-64-v3,...",
            )  # fmt: skip
    spec = replace(base.spec, name="x86:" + ",".join(names), mcpu=",".join(level.spec.mcpu for level in levels[::-1]))
    return replace(base, spec=spec, levels=tuple(levels))

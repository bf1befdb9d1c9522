"""Which of a fat bundle's instruction-set levels this CPU runs: the best first, as the manifest lists them."""

from __future__ import annotations

from collections.abc import Collection

from lab.artifacts.manifest import Manifest, TargetInfo
from lab.core import host
from lab.core.errors import ConfigError


def pick_level(manifest: Manifest, features: Collection[str] | None = None, name: str | None = None) -> TargetInfo:
    """The best level that a CPU with `features` (None: this one) runs; of an ordinary bundle its target.

    Where it runs none, the least demanding, which `check_cpu` then refuses. `name` asks for one by its `mcpu`.

    Raises:
        ConfigError: the bundle has no level of that name.
    """
    assert manifest.target is not None
    levels = manifest.levels or (manifest.target,)
    if name is not None:
        found = [level for level in levels if level.mcpu == name]
        if not found:
            raise ConfigError(f"the bundle has no level '{name}'", expected=", ".join(level.mcpu for level in levels))
        return found[0]
    present = set(host.cpu_features() if features is None else features)
    return next((level for level in levels if set(level.required_features) <= present), levels[-1])

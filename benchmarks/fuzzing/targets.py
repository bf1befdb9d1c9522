"""All targets by name."""

from __future__ import annotations

from benchmarks.fuzzing import endpoint, files, requests
from benchmarks.fuzzing.limits import Target

TARGETS: dict[str, Target] = {target.name: target for target in (*requests.TARGETS, *files.TARGETS, *endpoint.TARGETS)}

"""`lab data check`: every sample of a configuration's data is read, and the broken ones are listed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.data.check import check
from lab.pipelines.context import load_config
from lab.tasks import LEARN


def check_config(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """{"splits": {name: report}} over the data a configuration names.

    Raises:
        ConfigError, DataError: the configuration or a whole split cannot be read.
    """
    config = load_config(path, overrides)
    task = LEARN[config.task](config)
    names = [name for name in ("train", "validation", "test") if task.has_split(name)]
    return {"splits": {name: check(task.eval_dataset(name)).to_dict() for name in names}}

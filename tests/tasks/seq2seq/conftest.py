"""A task on the tiny language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.config.load import build, parse_source
from lab.tasks.seq2seq.config import Seq2SeqConfig
from lab.tasks.seq2seq.learn import Seq2SeqTask
from tests.tasks.seq2seq.tiny import tiny_config, write_tiny_tsv


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., Seq2SeqTask]:
    """`make_task(**sections)`: sections replace whole ones of the tiny configuration."""

    def make(**changes: Any) -> Seq2SeqTask:
        raw = tiny_config(write_tiny_tsv(tmp_path), **changes)
        return Seq2SeqTask(build(parse_source(yaml.safe_dump(raw), "tiny"), Seq2SeqConfig))

    return make

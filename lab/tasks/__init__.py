"""The tasks, each a folder: `config` (pydantic), `deploy` (numpy only), `learn` (torch), `models/`.

Adding a task: its folder, one line in each table here, one file of contract tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from lab.artifacts.manifest import Manifest
from lab.core.interfaces import Loop
from lab.core.tables import LazyTable

CONFIGS = LazyTable(
    "task",
    {
        "classification": "lab.tasks.classification.config:ClassificationConfig",
        "detection": "lab.tasks.detection.config:DetectionConfig",
        "forecasting": "lab.tasks.forecasting.config:ForecastingConfig",
        "segmentation": "lab.tasks.segmentation.config:SegmentationConfig",
        "seq2seq": "lab.tasks.seq2seq.config:Seq2SeqConfig",
    },
)
DEPLOY = LazyTable(
    "task",
    {
        "classification": "lab.tasks.classification.deploy",
        "detection": "lab.tasks.detection.deploy",
        "forecasting": "lab.tasks.forecasting.deploy",
        "segmentation": "lab.tasks.segmentation.deploy",
        "seq2seq": "lab.tasks.seq2seq.deploy",
    },
)
LEARN = LazyTable(
    "task",
    {
        "classification": "lab.tasks.classification.learn:ClassificationTask",
        "detection": "lab.tasks.detection.learn:DetectionTask",
        "forecasting": "lab.tasks.forecasting.learn:ForecastingTask",
        "segmentation": "lab.tasks.segmentation.learn:SegmentationTask",
        "seq2seq": "lab.tasks.seq2seq.learn:Seq2SeqTask",
    },
)


def loop(task: str, preprocessing: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> Loop:
    """The loop over the functions of a task whose models are programs; `options` are those of its `generate`."""
    return partial(DEPLOY[task].generate, preprocessing=preprocessing, **(options or {}))


def loop_of(manifest: Manifest, options: Mapping[str, Any] | None = None) -> Loop | None:
    """The loop of an artifact's program; None where the model is one call, or of no task."""
    if manifest.task is None or not manifest.functions:
        return None
    return loop(manifest.task, manifest.preprocessing, options)

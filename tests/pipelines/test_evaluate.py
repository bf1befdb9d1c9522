"""Batches of the deployment path."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lab.data.dataset import Sample
from lab.pipelines.evaluate import feeds


@pytest.mark.parametrize(("most", "sizes"), [(None, [3, 3, 1]), (1, [1] * 7), (2, [2, 2, 2, 1])])
def test_batches_hold_no_more_images_than_the_task_takes(most: int | None, sizes: list[int]) -> None:
    dataset = [Sample(np.full((1, 1, 3), index, np.uint8), index, str(index)) for index in range(7)]
    task: Any = SimpleNamespace(eval_dataset=lambda split: dataset, preprocessing={})
    deploy: Any = SimpleNamespace(
        inputs_per_call=lambda preprocessing: most, preprocess=lambda images, preprocessing: {"image": np.stack(images)}
    )
    found = list(feeds(task, deploy, "test", batch_size=3))
    assert [len(feed["image"]) for feed, _ in found] == sizes
    assert [sample.label for _, samples in found for sample in samples] == list(range(7))

"""The parity ladder's verdicts, on runners that answer what a test tells them to."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lab.core.errors import ParityError
from lab.data.dataset import Sample
from lab.pipelines.parity import Judge, climb, require

BLANK = np.zeros((1, 1, 3), np.uint8)


class Answers:
    """A runner with one fixed answer per call."""

    def __init__(self, name: str, *outputs: dict[str, Any]) -> None:
        self.name, self._outputs = name, iter(outputs)

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.asarray(value, np.float32) for name, value in next(self._outputs).items()}


class Mean:
    """A scorer: the mean of all outputs plus the labels'."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def update(self, outputs: Mapping[str, np.ndarray], samples: list[Sample]) -> None:
        self.values += [float(outputs["y"].mean()) + float(sample.label) for sample in samples]  # type: ignore[arg-type]

    def compute(self) -> dict[str, float]:
        return {"mean": float(np.mean(self.values))}


def judge(agreement: float = 1.0, least: float = 0.0, *, sort: bool = False) -> Judge:
    def aligned(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> tuple[Any, Any]:
        return ({"y": np.sort(a["y"])}, {"y": np.sort(b["y"])}) if sort else (a, b)

    deploy = SimpleNamespace(
        MIN_AGREEMENT=least,
        aligned=aligned,
        agreement=lambda a, b: agreement,
        scorer=lambda labels, preprocessing: Mean(),
    )
    return Judge(deploy, (), {}, {})  # type: ignore[arg-type]


def batches(num: int, *, known: bool = True) -> list[Any]:
    feed = {"x": np.zeros((2, 3), np.float32)}
    samples = [Sample(BLANK, 1, "a"), Sample(BLANK, 3, "b")]
    return [(feed, samples if known else None)] * num


def test_scores_both_engines_on_the_samples_they_were_compared_on() -> None:
    one, other = Answers("one", {"y": [1, 1]}, {"y": [3, 3]}), Answers("other", {"y": [1, 1]}, {"y": [3, 3.5]})
    climbed = climb(one, other, batches(2), tolerance=1.0, judge=judge(0.75))  # type: ignore[arg-type]
    assert (climbed.rung.status, climbed.rung.num_samples, climbed.rung.agreement) == ("passed", 4, 0.75)
    assert climbed.rung.max_abs_error == pytest.approx(0.5)
    assert climbed.reference_metrics == {"mean": pytest.approx(4.0)}
    assert climbed.candidate_metrics == {"mean": pytest.approx(4.125)}


def test_the_order_of_answers_does_not_count_where_the_task_says_so() -> None:
    pair = Answers("one", {"y": [1, 9]}), Answers("other", {"y": [9, 1]})
    assert climb(*pair, batches(1), tolerance=1e-6, judge=judge(sort=True)).rung.status == "passed"  # type: ignore[arg-type]
    pair = Answers("one", {"y": [1, 9]}), Answers("other", {"y": [9, 1]})
    assert climb(*pair, batches(1), tolerance=1e-6, judge=judge()).rung.status == "failed"  # type: ignore[arg-type]


def test_close_numbers_with_too_many_other_answers_fail() -> None:
    pair = Answers("one", {"y": [1]}), Answers("other", {"y": [1]})
    rung = climb(*pair, batches(1), tolerance=1e-6, judge=judge(0.98, least=0.99)).rung  # type: ignore[arg-type]
    assert rung.status == "failed"
    with pytest.raises(ParityError, match="other does not compute") as caught:
        require([rung])
    assert "98.0000%" in str(caught.value.got)


def test_made_up_inputs_are_compared_but_not_scored() -> None:
    pair = Answers("one", {"y": [1]}), Answers("other", {"y": [1]})
    climbed = climb(*pair, batches(1, known=False), tolerance=1e-6, judge=judge())  # type: ignore[arg-type]
    assert (climbed.rung.status, climbed.reference_metrics) == ("passed", {})
    pair = Answers("one", {"y": [1]}), Answers("other", {"y": [2]})
    rung = climb(*pair, batches(1, known=False), tolerance=1e-6).rung  # type: ignore[arg-type]
    assert (rung.status, rung.agreement) == ("failed", None)
    assert "'y'" in rung.reason

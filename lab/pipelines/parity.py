"""The parity ladder: eager -> ONNX Runtime -> compiled target; the first rung that disagrees is named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from lab.artifacts.manifest import Rung
from lab.core.compare import Difference, difference
from lab.core.errors import ParityError
from lab.core.interfaces import Runner
from lab.pipelines.context import OpenRun
from lab.runtime.program import ProgramRunner

Arrays = Mapping[str, np.ndarray]
Batch = tuple[Arrays, Sequence[Any] | None]


@dataclass(frozen=True)
class Judge:
    """A task's deploy half with all that its scorer needs."""

    deploy: ModuleType
    labels: Sequence[str]
    preprocessing: Mapping[str, Any]
    score_options: Mapping[str, Any]

    def scorer(self) -> Any:
        return self.deploy.scorer(self.labels, self.preprocessing, **self.score_options)


def judge_of(opened: OpenRun) -> Judge:
    """The judge of a run's task."""
    task = opened.learning_task()
    return Judge(opened.deploy, task.labels, task.preprocessing, task.score_options())


@dataclass(frozen=True)
class Climbed:
    """A rung, and the task's metrics of both engines on the very samples they were compared on."""

    rung: Rung
    reference_metrics: dict[str, float]
    candidate_metrics: dict[str, float]


@dataclass
class _Tally:
    """What is kept of all batches."""

    worst: Difference = Difference(0.0, 0.0, (), float("nan"), float("nan"))
    worst_output: str = ""
    num_samples: int = 0
    agreeing: float = 0.0
    num_judged: int = 0
    num_scored: int = 0

    def compare(self, expected: Arrays, actual: Arrays, function: str = "") -> None:
        for name, array in expected.items():
            if array.dtype != actual[name].dtype:
                raise ParityError(
                    f"output '{name}' has another type", got=actual[name].dtype, expected=array.dtype,
                    hint="an operator is compiled wrongly: please report the model",
                )  # fmt: skip
            gap = difference(array, actual[name])
            if gap.max_abs >= self.worst.max_abs:
                self.worst, self.worst_output = gap, f"{function}.{name}" if function else name

    @property
    def agreement(self) -> float | None:
        return self.agreeing / self.num_judged if self.num_judged else None


def climb(
    reference: Runner,
    candidate: Runner,
    batches: Iterable[Batch],
    *,
    tolerance: float,
    judge: Judge | None = None,
) -> Climbed:
    """Compare two runners on the same inputs, batch by batch.

    Of programs the functions are compared, each on the inputs that the reference's loop gave it, so that errors do not
    add up over the steps; whether the whole loops come to the same answers is the agreement.

    Args:
        batches: named inputs with the leading dimension as the batch, and the samples they show (None: made up).
        tolerance: largest difference of any output that passes; absolute, or relative to the output's largest value
            where that is above one.
        judge: who knows what the outputs mean: brings them into a comparable order, says how often the answers are the
            same, and scores both.
    """
    tally = _Tally()
    scorers = [judge.scorer(), judge.scorer()] if judge else []
    for feed, samples in batches:
        expected, actual = _run_both(reference, candidate, feed, tally), candidate.run(feed)
        size = next((len(array) for array in feed.values() if array.ndim), 1)
        tally.num_samples += size
        if not isinstance(reference, ProgramRunner):
            tally.compare(*(judge.deploy.aligned(expected, actual) if judge else (expected, actual)))
        if judge is None:
            continue
        tally.agreeing += size * judge.deploy.agreement(expected, actual)
        tally.num_judged += size
        if samples is not None:
            tally.num_scored += len(samples)
            for scorer, outputs in zip(scorers, (expected, actual), strict=True):
                scorer.update(outputs, samples)
    if tally.num_samples == 0:
        return Climbed(not_run(candidate.name, reference.name, "there was no input to compare on"), {}, {})
    least = judge.deploy.MIN_AGREEMENT if judge else 0.0
    rung = _rung(reference.name, candidate.name, tally, tolerance, least)
    scores = [scorer.compute() if tally.num_scored else {} for scorer in scorers] or [{}, {}]
    return Climbed(rung, *scores)


def _run_both(reference: Runner, candidate: Runner, feed: Arrays, tally: _Tally) -> dict[str, np.ndarray]:
    """The reference's outputs; each call of a program's function is made of the candidate's too, and compared."""
    if not isinstance(reference, ProgramRunner):
        return reference.run(feed)
    assert isinstance(candidate, ProgramRunner)
    functions = candidate.functions

    def observe(name: str, inputs: Arrays, outputs: dict[str, np.ndarray]) -> None:
        tally.compare(outputs, functions[name].run(inputs), name)

    return reference.run(feed, observe)


def _rung(reference: str, candidate: str, tally: _Tally, tolerance: float, least: float) -> Rung:
    worst, agreement = tally.worst, tally.agreement
    # Outputs far above one (boxes in pixels, say) are held to the tolerance relative to their largest value.
    close = min(worst.max_abs, worst.max_rel) <= tolerance
    passed = close and (agreement is None or agreement >= least)
    reason = f"output '{tally.worst_output}': {worst}"
    if close and agreement is not None:
        reason = f"only {agreement:.4%} of the answers are the same"
    return Rung(
        name=candidate,
        reference=reference,
        status="passed" if passed else "failed",
        num_samples=tally.num_samples,
        max_abs_error=worst.max_abs,
        max_rel_error=worst.max_rel,
        tolerance=tolerance,
        agreement=agreement,
        reason="" if passed else reason,
    )


def not_run(name: str, reference: str, reason: str) -> Rung:
    """A rung that could not be climbed here, with the reason, for the manifest."""
    return Rung(name=name, reference=reference, status="not run", reason=reason)


def require(rungs: Iterable[Rung]) -> None:
    """Raises ParityError naming the first rung that failed."""
    for rung in rungs:
        if rung.status == "failed":
            raise ParityError(
                f"{rung.name} does not compute what {rung.reference} computes",
                got=rung.reason,
                expected=f"max abs error <= {rung.tolerance:g} over {rung.num_samples} samples",
                hint="pass a larger tolerance only if the task's metric is unchanged",
            )

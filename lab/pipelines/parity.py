"""The parity ladder: eager -> ONNX Runtime -> compiled target; the first rung that disagrees is named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from lab.artifacts.manifest import Rung
from lab.core.compare import Difference, difference
from lab.core.errors import ParityError
from lab.core.interfaces import Runner

Arrays = Mapping[str, np.ndarray]
Sample = tuple[Arrays, np.ndarray | None]


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
    expected: list[Arrays] = field(default_factory=list)
    actual: list[Arrays] = field(default_factory=list)
    targets: list[np.ndarray] = field(default_factory=list)

    def add(self, size: int, expected: Arrays, actual: Arrays) -> None:
        self.num_samples += size
        for name, array in expected.items():
            gap = difference(array, actual[name])
            if gap.max_abs >= self.worst.max_abs:
                self.worst, self.worst_output = gap, name

    def add_answers(self, size: int, expected: Arrays, actual: Arrays, truth: np.ndarray, deploy: ModuleType) -> None:
        self.agreeing += size * deploy.agreement(expected, actual)
        self.expected.append(expected)
        self.actual.append(actual)
        self.targets.append(truth)


def climb(
    reference: Runner,
    candidate: Runner,
    samples: Iterable[Sample],
    *,
    tolerance: float,
    deploy: ModuleType | None = None,
    score_options: Mapping[str, Any] | None = None,
) -> Climbed:
    """Compare two runners on the same inputs, batch by batch.

    Args:
        samples: named inputs with the leading dimension as the batch, and their targets (None: unknown).
        tolerance: largest difference of any output that passes; absolute, or relative to the output's largest value
            where that is above one.
        deploy: the task's deploy half, whose `agreement` says how often the answers are the same and whose `score`
            gives the metrics of both.
    """
    tally = _Tally()
    for feed, truth in samples:
        expected, actual = reference.run(feed), candidate.run(feed)
        size = len(next(iter(feed.values())))
        tally.add(size, expected, actual)
        if deploy is not None and truth is not None:
            tally.add_answers(size, expected, actual, truth, deploy)
    if tally.num_samples == 0:
        return Climbed(not_run(candidate.name, reference.name, "there was no input to compare on"), {}, {})
    scores = [_score(tally, outputs, deploy, score_options or {}) for outputs in (tally.expected, tally.actual)]
    return Climbed(_rung(reference.name, candidate.name, tally, tolerance), *scores)


def _rung(reference: str, candidate: str, tally: _Tally, tolerance: float) -> Rung:
    worst = tally.worst
    # Outputs far above one (boxes in pixels, say) are held to the tolerance relative to their largest value.
    passed = min(worst.max_abs, worst.max_rel) <= tolerance
    return Rung(
        name=candidate,
        reference=reference,
        status="passed" if passed else "failed",
        num_samples=tally.num_samples,
        max_abs_error=worst.max_abs,
        max_rel_error=worst.max_rel,
        tolerance=tolerance,
        top1_agreement=tally.agreeing / tally.num_samples if tally.targets else None,
        reason="" if passed else f"output '{tally.worst_output}': {worst}",
    )


def _score(
    tally: _Tally, outputs: list[Arrays], deploy: ModuleType | None, options: Mapping[str, Any]
) -> dict[str, float]:
    if deploy is None or not tally.targets:
        return {}
    merged = {name: np.concatenate([batch[name] for batch in outputs]) for name in outputs[0]}
    scores: dict[str, float] = deploy.score(merged, np.concatenate(tally.targets), **options)
    return scores


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

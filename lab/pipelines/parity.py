"""The parity ladder: eager -> ONNX Runtime -> compiled target; the first rung that disagrees is named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType

import numpy as np

from lab.artifacts.manifest import Rung
from lab.core.compare import Difference, difference
from lab.core.errors import ParityError
from lab.core.interfaces import Runner

Arrays = Mapping[str, np.ndarray]


def climb(
    reference: Runner, candidate: Runner, feeds: Iterable[Arrays], *, tolerance: float, deploy: ModuleType | None = None
) -> Rung:
    """Compare two runners on the same inputs, batch by batch.

    Args:
        feeds: named inputs; the leading dimension is the batch.
        tolerance: largest difference of any output that passes; absolute, or relative to the output's largest value
            where that is above one.
        deploy: the task's deploy half, whose `agreement` says how often the answers are the same.
    """
    num_samples, agreeing = 0, 0.0
    worst, worst_output = Difference(0.0, 0.0, (), float("nan"), float("nan")), ""
    for feed in feeds:
        expected, actual = reference.run(feed), candidate.run(feed)
        size = len(next(iter(feed.values())))
        num_samples += size
        for name, array in expected.items():
            gap = difference(array, actual[name])
            if gap.max_abs >= worst.max_abs:
                worst, worst_output = gap, name
        if deploy is not None:
            agreeing += size * deploy.agreement(expected, actual)
    if num_samples == 0:
        return not_run(candidate.name, reference.name, "there was no input to compare on")
    # Outputs far above one (boxes in pixels, say) are held to the tolerance relative to their largest value.
    passed = min(worst.max_abs, worst.max_rel) <= tolerance
    return Rung(
        name=candidate.name,
        reference=reference.name,
        status="passed" if passed else "failed",
        num_samples=num_samples,
        max_abs_error=worst.max_abs,
        max_rel_error=worst.max_rel,
        tolerance=tolerance,
        top1_agreement=agreeing / num_samples if deploy is not None else None,
        reason="" if passed else f"output '{worst_output}': {worst}",
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

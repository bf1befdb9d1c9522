"""Which value of a metric is best, and when it stops improving (SageMaker image classification, early_stopping_*)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lab.config.run import EarlyStoppingConfig

Mode = Literal["max", "min"]


@dataclass
class Best:
    """The best value of a metric so far and its epoch (from 1); 0 before the first."""

    mode: Mode
    value: float | None = None
    epoch: int = 0

    def update(self, value: float, epoch: int) -> bool:
        """Whether `value` is strictly better than every one before."""
        if self.value is not None and not improvement(value, self.value, self.mode) > 0:
            return False
        self.value, self.epoch = value, epoch
        return True

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value, self.epoch = state["value"], int(state["epoch"])


@dataclass
class EarlyStopping:
    """Counts epochs without an improvement that counts: more than `tolerance`, relative to the last one that did.

    Training stops once `patience` such epochs have passed and at least `min_epochs` were trained.
    """

    config: EarlyStoppingConfig
    mode: Mode
    reference: float | None = None
    num_waiting: int = 0

    def should_stop(self, value: float, epoch: int) -> bool:
        """Take the value of one more epoch (`epoch` counts from 1)."""
        counts = self.reference is None or improvement(value, self.reference, self.mode) > self.config.tolerance
        self.reference = value if counts else self.reference
        self.num_waiting = 0 if counts else self.num_waiting + 1
        waited = self.num_waiting >= self.config.patience
        return self.config.enabled and waited and epoch >= self.config.min_epochs

    def state_dict(self) -> dict[str, Any]:
        return {"reference": self.reference, "num_waiting": self.num_waiting}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reference, self.num_waiting = state["reference"], int(state["num_waiting"])


def improvement(value: float, before: float, mode: Mode) -> float:
    """How much better `value` is, relative to the size of `before`; negative when worse.

    From 0 any gain is infinite; a NaN is never an improvement, and any number improves on a NaN.
    """
    if value != value or before != before:
        return float("inf") if value == value else float("-inf")
    gain = value - before if mode == "max" else before - value
    if before == 0.0 and gain != 0.0:
        return float("inf") if gain > 0 else float("-inf")
    return gain / abs(before) if before else 0.0

"""Target tracking of the number of workers: requests in flight per worker, with cool-downs (EP-46, EP-47).

As Application Auto Scaling: out as soon as the average of the last minute is above the target, in only when it would
stay below with one worker fewer, and by a tenth so that the two do not alternate.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import ceil

from lab.serve.config import AutoscalingConfig

_AVERAGE_S = 60.0
_SLACK = 0.9


@dataclass
class Autoscaler:
    """Decides on a number; pure, so that it is tested without processes."""

    config: AutoscalingConfig
    _seen: deque[tuple[float, int]] = field(default_factory=deque)
    _last_out_s: float = float("-inf")
    _last_in_s: float = float("-inf")

    def wanted(self, now_s: float, num_in_flight: int, num_workers: int) -> int:
        """The number of workers there should be now; each call is one measurement."""
        self._seen.append((now_s, num_in_flight))
        while now_s - self._seen[0][0] > _AVERAGE_S:
            self._seen.popleft()
        mean = sum(count for _, count in self._seen) / len(self._seen)
        needed = self._within(ceil(mean / self.config.target_in_flight))
        if needed > num_workers and now_s - self._last_out_s >= self.config.scale_out_cooldown_s:
            self._last_out_s = now_s
            return needed
        fits = mean <= _SLACK * self.config.target_in_flight * (num_workers - 1)
        rested = now_s - max(self._last_in_s, self._last_out_s) >= self.config.scale_in_cooldown_s
        measured = now_s - self._seen[0][0] >= min(_AVERAGE_S, self.config.scale_in_cooldown_s) * _SLACK
        if num_workers > self.config.min_workers and fits and rested and measured:
            self._last_in_s = now_s
            return num_workers - 1
        return self._within(num_workers)

    def _within(self, number: int) -> int:
        return min(self.config.max_workers, max(self.config.min_workers, number))

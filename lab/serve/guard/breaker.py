"""The circuit breaker: no statistics, no patience. For disasters that must not wait for a test."""

from __future__ import annotations

from collections import deque
from typing import Any

from lab.serve.guard.config import BreakerConfig
from lab.serve.guard.events import Status

P99_SHARE = 0.01


class Breaker:
    """Watches one variant. Once open it stays open until `reset`; a person or a new rollout does that.

    The p99 of a window is above its limit just when more than 1 % of the requests are, so counting is enough.
    """

    def __init__(self, config: BreakerConfig) -> None:
        self.config = config
        self.opened: dict[str, Any] | None = None
        """Why it opened: reason and numbers."""
        self.reset()

    def reset(self) -> None:
        self.opened = None
        self._recent: deque[tuple[bool, int]] = deque(maxlen=self.config.window)
        self._crashes_s: deque[float] = deque(maxlen=self.config.max_crashes)
        self._window_start_s: float | None = None
        self._num, self._num_slow, self._num_bad_windows = 0, 0, 0

    def observe(self, time_s: float, status: Status, latency_ms: float, unit_hash: int) -> None:
        """Take one answer. Client errors and rejected requests say nothing of the model, so they do not count."""
        if status not in ("ok", "model_error") or not self.config.enabled:
            return
        failed = status == "model_error"
        self._recent.append((failed, unit_hash))
        if failed:
            self._check_errors()
        if self.config.p99_limit_ms is not None and not failed:
            self._take_latency(time_s, latency_ms)

    def crashed(self, time_s: float) -> None:
        """A worker of the variant died."""
        self._crashes_s.append(time_s)
        full = len(self._crashes_s) == self.config.max_crashes
        if self.config.enabled and full and time_s - self._crashes_s[0] <= self.config.crash_window_s:
            self._open("its workers crash again and again", num_crashes=len(self._crashes_s))

    def _check_errors(self) -> None:
        failures = [unit for failed, unit in self._recent if failed]
        full = len(self._recent) == self.config.window
        many = len(failures) >= self.config.max_error_share * self.config.window
        if full and many and len(set(failures)) >= self.config.min_units:
            self._open("too many of its last requests failed", num_failed=len(failures), window=self.config.window)

    def _take_latency(self, time_s: float, latency_ms: float) -> None:
        self.close_window(time_s)
        if self._window_start_s is None:
            self._window_start_s = time_s
        self._num += 1
        self._num_slow += latency_ms > (self.config.p99_limit_ms or 0.0)

    def close_window(self, now_s: float) -> None:
        """Judge the latency window if its time is over."""
        if self._window_start_s is None or now_s < self._window_start_s + self.config.p99_window_s:
            return
        if self._num >= self.config.p99_min_requests:
            bad = self._num_slow > P99_SHARE * self._num
            self._num_bad_windows = self._num_bad_windows + 1 if bad else 0
        if self._num_bad_windows >= self.config.p99_windows:
            limit, num = self.config.p99_limit_ms, self._num_bad_windows
            self._open("its p99 latency stays above the hard limit", p99_limit_ms=limit, num_windows=num)
        self._window_start_s, self._num, self._num_slow = None, 0, 0

    def _open(self, reason: str, **numbers: Any) -> None:
        if self.opened is None:
            self.opened = {"reason": reason, **numbers}

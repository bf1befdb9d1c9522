"""Do the guardrails keep their promises? False alarms under continuous peeking, and what is found how soon.

    python benchmarks/guardrail_simulation.py [--runs 2000] [--guard-runs 500]

False alarms: two equal variants while the candidate's share climbs 1-5-10-25-50 %, or is changed by a controller that
reacts to the evidence itself; the test is looked at after every single request. Detection: an injected fault, and the
number of requests until the guardrail fires, against the number at which the evidence of the expected counts reaches
the threshold ("expected"). Latency takes one sample in 100 ms, so its rows count samples. "Beta mixture": the expected
number for the same test with a Beta prior instead of our grid of ratios, worked out when the guardrails were planned.
Writes benchmarks/results/guardrail_simulation.{json,md}.

Shape letters: N requests, events or units in order; R runs; J ratios of the grid.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab.artifacts.files import write_json, write_text
from lab.artifacts.manifest import now
from lab.core.host import cpu_name, versions
from lab.core.seeding import stream
from lab.serve.guard.config import GuardConfig, LatencyConfig, RolloutConfig
from lab.serve.statistics.confidence_sequence import PLANNED_UNITS, half_width
from lab.serve.statistics.risk_ratio import RATIOS, log_e_path, log_factors, log_mean_exp
from lab.serve.statistics.sample_ratio import CONCENTRATIONS, log_bayes_factor
from lab.serve.statistics.sample_ratio import log_e_path as sample_ratio_path
from tests.serve.guard.traffic import endpoint

RESULTS = Path(__file__).resolve().parent / "results"
RAMP = (0.01, 0.05, 0.1, 0.25, 0.5)
ALPHAS = (0.05, 0.001)
QUANTILES, TOLERATED, SIGMA = (0.5, 0.95, 0.99), 1.25, 0.5
Row = dict[str, Any]
Floats = NDArray[np.float64]


def ramp(num: int) -> Floats:
    """Shares of `num` requests on the ramp, equally many per step."""
    return np.asarray(np.repeat(RAMP, -(-num // len(RAMP)))[:num], np.float64)


def alarms(name: str, what: str, peaks: list[float]) -> list[Row]:
    """One row per level from every run's highest log e."""
    peaks_R = np.asarray(peaks)
    nums = {alpha: int((peaks_R >= math.log(1 / alpha)).sum()) for alpha in ALPHAS}
    return [
        {"test": name, "weights": what, "alpha": alpha, "runs": len(peaks), "alarms": num, "rate": num / len(peaks)}
        for alpha, num in nums.items()
    ]


def errors_on_a_ramp(runs: int) -> list[Row]:
    share_N = ramp(2000)
    rng = stream(1, "errors-ramp")
    peaks = [float(log_e_path(share_N, rng.random(share_N.size) < share_N).max()) for _ in range(runs)]
    return alarms("errors, 2,000 events", "ramp", peaks)


def errors_under_a_controller(runs: int) -> list[Row]:
    """The share goes up a step whenever the evidence is low and down when it is high: all runs at once."""
    rng, steps_S = stream(1, "errors-controller"), np.asarray(RAMP)
    candidate_SJ, control_SJ = log_factors(steps_S, np.asarray(RATIOS), 1.0)
    wealth_RJ, step_R = np.zeros((runs, len(RATIOS))), np.zeros(runs, np.int64)
    peak_R = np.zeros(runs)
    for _ in range(2000):
        is_candidate_R = rng.random(runs) < steps_S[step_R]
        wealth_RJ += np.where(is_candidate_R[:, None], candidate_SJ[step_R], control_SJ[step_R])
        log_e_R = log_mean_exp(wealth_RJ)
        peak_R = np.maximum(peak_R, log_e_R)
        step_R = np.clip(step_R + np.where(log_e_R > 0.0, -1, 1), 0, len(RAMP) - 1)
    return alarms("errors, 2,000 events", "controller", peak_R.tolist())


def latency_run(
    rng: np.random.Generator, share_N: Floats, slowdown: float, tolerated: float = TOLERATED
) -> tuple[float, int]:
    """The highest log e of any quantile's stream, and the request after which one reached 1/0.001 (0: none did)."""
    thresholds = np.quantile(np.exp(SIGMA * rng.standard_normal(1000)), QUANTILES, method="inverted_cdf")
    is_candidate_N = rng.random(share_N.size) < share_N
    latency_N = np.exp(SIGMA * rng.standard_normal(share_N.size)) * np.where(is_candidate_N, slowdown, 1.0)
    peak, first = 0.0, share_N.size + 1
    for threshold in thresholds:
        at = np.flatnonzero(latency_N > threshold)
        log_e_N = log_e_path(share_N[at], is_candidate_N[at], tolerated)
        peak = max(peak, float(log_e_N.max(initial=0.0)))
        over = np.flatnonzero(log_e_N >= math.log(1000))
        first = min(first, int(at[over[0]]) + 1) if over.size else first
    return peak, first if first <= share_N.size else 0


def latency_on_a_ramp(runs: int) -> list[Row]:
    """Three streams at once: the level of any of them firing is three times that of each."""
    rows, share_N = [], ramp(10_000)
    for tolerated in (1.0, TOLERATED):
        rng, name = stream(1, "latency-ramp", str(tolerated)), f"latency, any of 3 quantiles, tolerated {tolerated:g}"
        rows += alarms(name, "ramp", [latency_run(rng, share_N, 1.0, tolerated)[0] for _ in range(runs)])
    return [row | {"alpha": 3 * row["alpha"]} for row in rows]


def batched_latency(runs: int) -> list[Row]:
    """Requests at 500/s, answered in batches of 40 ms per variant, all of a batch in the same time: the samples
    that the guard takes (one in 100 ms), and, to show what they are for, every request."""
    rows, share_N, gap_s = [], np.full(20_000, 0.5), 0.002
    time_N = gap_s * np.arange(share_N.size)
    first_N = np.append(True, np.diff(time_N // 0.1) > 0)
    for spaced in (True, False):
        rng, peaks = stream(1, "latency-batched", int(spaced)), []
        for _ in range(runs):
            thresholds = np.quantile(np.exp(SIGMA * rng.standard_normal(1000)), QUANTILES, method="inverted_cdf")
            is_candidate_N = rng.random(share_N.size) < share_N
            batches_2B = np.exp(SIGMA * rng.standard_normal((2, int(time_N[-1] / 0.04) + 1)))
            latency_N = batches_2B[is_candidate_N.astype(int), (time_N / 0.04).astype(int)]
            taken = [np.flatnonzero((latency_N > t) & (first_N | (not spaced))) for t in thresholds]
            paths = [log_e_path(share_N[at], is_candidate_N[at], TOLERATED) for at in taken]
            peaks.append(max(float(path.max(initial=0.0)) for path in paths))
        name = "one in 100 ms" if spaced else "EVERY request (not what we do)"
        rows += alarms(f"latency answered in batches, {name}", "50/50", peaks)
    return [row | {"alpha": 3 * row["alpha"]} for row in rows]


def sample_ratio_on_a_ramp(runs: int) -> list[Row]:
    rng, peaks = stream(1, "srm-ramp"), []
    for _ in range(runs):
        log_e_C, peak = np.zeros(len(CONCENTRATIONS)), 0.0
        for share in RAMP:
            path_NC = log_e_C + sample_ratio_path(share, rng.random(4000) < share, CONCENTRATIONS)
            log_e_C, peak = path_NC[-1], max(peak, float(log_mean_exp(path_NC).max()))
        peaks.append(peak)
    return alarms("sample ratio, 20,000 units", "ramp", peaks)


def outcome_run(rng: np.random.Generator, share_N: Floats, halves_N: Floats, *, equal_size: bool) -> bool:
    """Whether the sequence of a difference that is 0 ever misses 0; the metric's mean falls from 0.8 to 0.4."""
    num = share_N.size
    value_N = (rng.random(num) < np.linspace(0.8, 0.4, num)).astype(np.float64)
    is_candidate_N = rng.random(num) < share_N
    in_control_N = ~is_candidate_N & (rng.random(num) * (1 - share_N) < share_N if equal_size else True)
    means, variances, counts = [], [], []
    for mask_N in (is_candidate_N, in_control_N):
        count_N = np.maximum(np.cumsum(mask_N), 1)
        mean_N = np.cumsum(value_N * mask_N) / count_N
        means.append(mean_N)
        variances.append(mean_N * (1 - mean_N) / np.maximum(count_N - 1, 1))
        counts.append(count_N)
    total_N = counts[0] + counts[1]
    half_N = np.sqrt(total_N * (variances[0] + variances[1])) * halves_N[total_N]
    ready_N = np.minimum(counts[0], counts[1]) >= 100
    return bool((np.abs(means[0] - means[1]) > half_N)[ready_N].any())


def outcomes_on_a_ramp(runs: int) -> list[Row]:
    """With the control's equal-size part, and, to show what it is for, with all of the control."""
    share_N = ramp(10_000)
    halves_N = np.asarray([math.inf, *(half_width(n, 1.0, 0.05, PLANNED_UNITS) for n in range(1, share_N.size + 1))])
    rows = []
    for equal_size in (True, False):
        rng = stream(1, "outcomes", int(equal_size))
        num = sum(outcome_run(rng, share_N, halves_N, equal_size=equal_size) for _ in range(runs))
        part = "equal-size control" if equal_size else "WHOLE control (not what we do)"
        rows.append({"test": f"outcome metric with a trend, {part}", "weights": "ramp", "alpha": 0.05, "runs": runs,
                     "alarms": num, "rate": num / runs})  # fmt: skip
    return rows


def whole_guard(runs: int) -> list[Row]:
    """The guard itself: ramp, breaker, five guardrails and sample ratio, through its own interface."""
    plan = RolloutConfig(ramp_percents=(5, 25, 50, 100), bake_s=8, min_requests=20)
    config = GuardConfig(latency=LatencyConfig(num_calibration=300), rollout=plan)
    num = 0
    for run in range(runs):
        one = endpoint(config, seed=run)
        one.serve(300)
        one.guard.start_rollout("new", now_s=one.now_s)
        num += any(decision.kind in ("rollback", "invalid") for decision in one.serve(3500))
        one.guard.log.close()
    return [{"test": "the whole guard, 3,500 requests", "weights": "its own ramp", "alpha": 0.006, "runs": runs,
             "alarms": num, "rate": num / runs}]  # fmt: skip


def first_at_least(reached: Callable[[int], bool]) -> int:
    """The smallest n for which `reached`, which is monotone."""
    high = 1
    while not reached(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def expected_log_e(share: float, rate: float, control_rate: float, num: int, tolerated: float) -> float:
    """log e at the expected numbers of events after `num` requests."""
    candidate_J, control_J = log_factors(np.float64(share), tolerated * np.asarray(RATIOS), tolerated)
    counts = num * share * rate, num * (1 - share) * control_rate
    return float(log_mean_exp(counts[0] * candidate_J + counts[1] * control_J))


def found(fault: str, share: float, alpha: float, expected: int, numbers: list[int], **more: Any) -> Row:
    """One row of the detection table; a number of 0 is a run in which nothing was found."""
    hits = sorted(n for n in numbers if n)
    median, late = (int(np.percentile(hits, p)) if hits else 0 for p in (50, 90))
    return {"fault": fault, "share": share, "alpha": alpha, "expected_requests": expected, "median_requests": median,
            "p90_requests": late, "median_over_expected": median / expected, "detected": len(hits) / len(numbers),
            **more}  # fmt: skip


def error_detection(runs: int) -> list[Row]:
    published = {(0.1, 10, 0.05): 5800, (0.1, 10, 0.001): 10_500, (0.1, 3, 0.05): 45_000, (0.1, 3, 0.001): 83_000,
                 (0.1, 2, 0.05): 148_000, (0.1, 2, 0.001): 273_000, (0.5, 3, 0.001): 35_000,
                 (0.5, 10, 0.001): None, (0.01, 10, 0.001): None}  # fmt: skip
    rows = []
    for (share, ratio, alpha), beta in published.items():
        rng, base = stream(1, "errors-found", str((share, ratio, alpha))), 0.001
        per_request = base * (share * ratio + 1 - share)
        theta = share * ratio / (share * ratio + 1 - share)
        goal = math.log(1 / alpha)
        expected = first_at_least(lambda n: expected_log_e(share, base * ratio, base, n, 1.0) >= goal)  # noqa: B023
        num_events = int(6 * expected * per_request) + 50
        share_N, numbers, events = np.full(num_events, share), [], []
        for _ in range(runs):
            over = np.flatnonzero(log_e_path(share_N, rng.random(num_events) < theta) >= goal)
            events.append(int(over[0]) + 1 if over.size else 0)
            numbers.append(int(rng.geometric(per_request, events[-1]).sum()))
        median_errors = int(np.median([n for n in events if n]))
        rows.append(found(f"{ratio}x errors (base 0.1 %)", share, alpha, expected, numbers,
                          median_errors=median_errors, beta_mixture_requests=beta))  # fmt: skip
    return rows


def latency_detection(runs: int) -> list[Row]:
    rows = []
    for share, slowdown in ((0.1, 2.0), (0.5, 2.0), (0.01, 2.0), (0.5, 1.2)):
        rng = stream(1, "latency-found", str((share, slowdown)))
        # Exceedance of the control's quantile z by a log-normal moved by ln(slowdown): Q(z - ln(slowdown) / sigma).
        z_of = {0.5: 0.0, 0.95: 1.6448536, 0.99: 2.3263479}
        rates = [(0.5 * math.erfc((z - math.log(slowdown) / SIGMA) / math.sqrt(2)), 1 - q) for q, z in z_of.items()]
        expected = min(
            first_at_least(lambda n: expected_log_e(share, *pair, n, TOLERATED) >= math.log(1000))  # noqa: B023
            for pair in rates
            if pair[0] > 1.05 * TOLERATED * pair[1]
        )
        share_N = np.full(8 * expected + 200, share)
        numbers = [latency_run(rng, share_N, slowdown)[1] for _ in range(runs)]
        rows.append(
            found(f"{slowdown:g}x latency (log-normal, sigma 0.5), in samples", share, 0.001, expected, numbers)
        )
    return rows


def sample_ratio_detection(runs: int) -> list[Row]:
    """A share of the candidate's requests ends with the control, as after a crash or a redirect."""
    rows = []
    for share, lost in ((0.5, 0.2), (0.5, 0.1), (0.5, 0.04), (0.1, 0.5), (0.1, 0.2), (0.01, 0.5)):
        rng, true_share = stream(1, "srm-found", str((share, lost))), share * (1 - lost)

        def log_e(num: int, share: float = share, true_share: float = true_share) -> float:
            counts = [num * true_share, num * (1 - true_share)]
            parts = [log_bayes_factor(counts, [share, 1 - share], c) for c in CONCENTRATIONS]  # type: ignore[arg-type]
            return float(log_mean_exp(np.asarray(parts)))

        expected = first_at_least(lambda n: log_e(n) >= math.log(1000))
        numbers = []
        for _ in range(runs):
            is_candidate_N = rng.random(4 * expected + 1000) < true_share
            log_e_N = log_mean_exp(sample_ratio_path(share, is_candidate_N, CONCENTRATIONS))
            over = np.flatnonzero(log_e_N >= math.log(1000))
            numbers.append(int(over[0]) + 1 if over.size else 0)
        rows.append(
            found(f"{100 * lost:g} % of the candidate's requests go to the control", share, 0.001, expected, numbers)
        )
    return rows


def table(rows: list[Row]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [row.get(column) for column in columns]
        lines.append(
            "| " + " | ".join("" if c is None else f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--guard-runs", type=int, default=500)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    started = time.perf_counter()
    null: list[Row] = []
    for part in (errors_on_a_ramp, errors_under_a_controller, latency_on_a_ramp, batched_latency,
                 sample_ratio_on_a_ramp, outcomes_on_a_ramp):  # fmt: skip
        null += part(args.runs)
        print(f"{part.__name__}: {time.perf_counter() - started:.0f} s", flush=True)
    null += whole_guard(args.guard_runs)
    print(table(null), flush=True)
    detection = [
        *error_detection(args.runs // 2),
        *latency_detection(args.runs // 4),
        *sample_ratio_detection(args.runs // 4),
    ]
    print(table(detection))
    report = {"made": now(), "cpu": cpu_name(), "versions": versions(), "duration_s": time.perf_counter() - started,
              "false_alarms": null, "detection": detection}  # fmt: skip
    write_json(args.results / "guardrail_simulation.json", report)
    parts = ["# Guardrails by simulation", __doc__.strip(), "## False alarms", table(null), "## Detection"]
    text = "\n\n".join([*parts, table(detection)]) + "\n"
    write_text(args.results / "guardrail_simulation.md", text)


if __name__ == "__main__":
    main()

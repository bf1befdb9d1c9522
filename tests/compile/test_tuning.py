"""Tuning: every option computes the same, records are found by exact keys, what is not clearly faster is not kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tvm import te, topi

from lab.compile.build import compile_onnx, imported
from lab.compile.kernels.winograd_plan import DIRECT, decide_plan, plan_for, plan_options
from lab.compile.schedules import CPU_RULES
from lab.compile.schedules.kernel import Kernel
from lab.compile.targets import resolve_target
from lab.compile.targets.x86 import AVX512
from lab.compile.tuning.choices import Identity, identity_of
from lab.compile.tuning.decisions import Choice, Decisions, StaleChoice
from lab.compile.tuning.records import (
    MachineKey,
    Record,
    Records,
    read_records,
    record_files,
    user_folder,
    write_records,
)
from lab.compile.tuning.search import BudgetSpent, Search
from lab.compile.tuning.stats import compared
from lab.compile.tuning.tasks import Task, by_work, kernel_tasks, operator_tasks
from lab.compile.tuning.worker import Trial, Worker
from lab.core.errors import ArtifactError
from lab.pipelines.compile_source import CompileOptions
from lab.runtime import threads
from tests.compile.graphs import Graph
from tests.compile.test_schedules import CASES, arrays, compute, expected
from tests.compile.test_winograd import same

TUNED_CASES = [name for name, (rule, _) in CASES.items() if rule in ("conv2d_direct", "matmul", "window")]
HERE = MachineKey("skylake", "", 2)
RECORD = Record(
    "conv2d_nhwc",
    ("1x8x8x16 float32", "1x8x8x16 float32"),
    "00ff",
    HERE,
    "conv2d_direct",
    {"tile": [4, 16]},
    2.0,
    1.0,
    2.0,
)


@pytest.mark.parametrize("case", TUNED_CASES)
def test_every_option_computes_what_naive_loops_do(case: str) -> None:
    rule, func = CASES[case]
    first = Kernel(case, func)
    CPU_RULES[rule](first, AVX512)
    assert first.decisions.taken
    *inputs, output = arrays(case)
    largest = float(np.abs(expected(case)).max())
    for name, decision in first.decisions.taken.items():
        options = list(decision.options())
        assert decision.derived in options
        others = [option for option in options if option != decision.value]
        for option in others[:: max(1, len(others) // 3)]:
            kernel = Kernel(case, func, decisions=Decisions({name: option}))
            scheduled = CPU_RULES[rule](kernel, AVX512)
            assert kernel.decisions.taken[name].value == option
            actual = compute(scheduled.func, [*inputs, np.full_like(output, np.nan)])
            np.testing.assert_allclose(
                actual, expected(case), rtol=1e-4, atol=2e-5 + 2e-6 * largest, err_msg=f"{name} {option}"
            )


def test_a_rule_refuses_what_is_none_of_its_options() -> None:
    case = next(name for name in TUNED_CASES if CASES[name][0] == "conv2d_direct")
    with pytest.raises(StaleChoice, match=r"tile \[3, 5\]"):
        CPU_RULES["conv2d_direct"](Kernel(case, CASES[case][1], decisions=Decisions({"tile": [3, 5]})), AVX512)


def test_plans_of_winograd_are_options_beside_direct_convolution() -> None:
    conv = same(56, 56, 64, 64)
    options = plan_options(conv, AVX512)
    assert options[0] == DIRECT
    assert len(options) > 10
    derived = plan_for(conv, AVX512)
    assert derived is not None
    assert decide_plan(conv, AVX512, Decisions()) == derived
    assert decide_plan(conv, AVX512, Decisions({"plan": DIRECT})) is None
    assert [decide_plan(conv, AVX512, Decisions({"plan": plan})) for plan in options[1:3]] != [derived, derived]
    assert plan_options(same(56, 56, 3, 64), AVX512) == [DIRECT], "three channels fill no vector"


def _kernel(channels: int = 16, stride: int = 1, name: str = "x") -> Any:
    x = te.placeholder((1, 8, 8, channels), name=name)
    weights = te.placeholder((3, 3, channels, 16), name=f"{name}_weights")
    return te.create_prim_func([x, weights, topi.nn.conv2d_nhwc(x, weights, stride, 1, 1)])


def test_identity_says_what_is_computed_and_not_what_it_is_called() -> None:
    identity = identity_of(_kernel(), {1})
    assert identity == identity_of(_kernel(name="other").with_attr("global_symbol", "fused_conv"), {1})
    assert identity.kernel == "pad_temp, conv2d_nhwc"
    assert identity.arguments == ("1x8x8x16 float32", "3x3x16x16 float32 const", "1x8x8x16 float32")
    different = [identity_of(_kernel(stride=2), {1}), identity_of(_kernel(channels=32), {1}), identity_of(_kernel())]
    assert len({identity, *different}) == 4


def test_records_survive_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    plan = replace(RECORD, choice={"plan": {"m": 4, "shared_input": False}}, versions={"lab": "0.1.0"})
    kept = replace(RECORD, body="01", choice=None, tuned_ms=None)
    write_records(path, [plan, kept])
    assert read_records(path) == [plan, kept]
    assert len(path.read_text().splitlines()) == 2


def test_the_users_record_counts_more_than_the_shipped_one_and_the_named_file_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.compile.tuning.records.SHIPPED", tmp_path / "shipped")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = [tmp_path / "shipped" / "xeon.jsonl", user_folder() / "mine.jsonl", tmp_path / "named.jsonl"]
    chosen = []
    for i, path in enumerate(files):
        write_records(path, [replace(RECORD, choice={"tile": [i + 1, 16]})])
        found = Records.load(record_files(path if path == files[-1] else None), {HERE}).choices(HERE)
        chosen.append(next(iter(found.values())).parameters["tile"][0])
    assert chosen == [1, 2, 3]
    write_records(files[1], [replace(RECORD, choice=None)])
    assert Records.load(record_files(), {HERE}).choices(HERE) == {}, "measured here: the rule is not beaten"


def test_records_are_of_exactly_this_machine(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [RECORD])
    for other in (replace(HERE, num_threads=1), replace(HERE, mcpu="znver4"), replace(HERE, cpu="Xeon")):
        assert Records.load([tmp_path / "a.jsonl"], {other}).records == ()
    assert Records.load([tmp_path / "a.jsonl"], {HERE}).records == (RECORD,)


def test_levels_of_a_bundle_take_each_their_own_records(tmp_path: Path) -> None:
    target = resolve_target("x86:haswell,skylake-avx512").with_threads(1)
    high, low = target.levels
    keys = {level: MachineKey(level, "", 1) for level in ("skylake-avx512", "haswell")}
    assert MachineKey.of(high) == keys["skylake-avx512"]
    records = [replace(RECORD, machine=key, choice={"tile": [i + 1, 16]}) for i, key in enumerate(keys.values())]
    write_records(tmp_path / "a.jsonl", [*records, RECORD])
    options = CompileOptions(records_path=tmp_path / "a.jsonl").with_records(target)
    for level, tile in ((high, [1, 16]), (low, [2, 16])):
        (choice,) = options.choices(level).values()
        assert choice.parameters == {"tile": tile}
    assert options.records
    assert options.records.fingerprint


def test_machine_key_names_the_cpu_only_where_code_is_for_this_machine() -> None:
    assert MachineKey.of(resolve_target("x86")).cpu != ""
    assert MachineKey.of(resolve_target("x86:znver4")) == MachineKey("znver4", "", 2)
    assert MachineKey.of(resolve_target("arm:cortex-a72")) == MachineKey("cortex-a72", "", 4)
    assert MachineKey.of(resolve_target("x86:znver4").with_threads(8)).num_threads == 8


def test_fingerprint_follows_choices_and_nothing_else() -> None:
    other = replace(RECORD, body="01")
    again = Records((replace(other, created="later", tuned_ms=0.5, gain=4.0), RECORD))
    assert Records((RECORD, other)).fingerprint == again.fingerprint != ""
    assert Records((replace(RECORD, choice={"tile": [2, 16]}), other)).fingerprint != again.fingerprint
    assert Records((replace(RECORD, choice=None),)).fingerprint == ""


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"schema": 1, "kernel"', "line 2"),
        ("[1]", "line 2"),
        (RECORD.to_line().replace('"schema": 1', '"schema": 7'), "schema 7"),
        (RECORD.to_line().replace('"rule"', '"ruler"'), "ruler"),
        (RECORD.to_line().replace('{"tile": [4, 16]}', "3"), "'choice'"),
    ],
)
def test_a_corrupt_file_is_named_with_its_line(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(RECORD.to_line() + "\n" + line + "\n")
    with pytest.raises(ArtifactError, match=r"records\.jsonl, line 2") as caught:
        read_records(path)
    assert reason in str(caught.value)


def test_shipped_records_can_be_read_and_are_gains() -> None:
    from lab.compile.tuning.records import SHIPPED

    for path in SHIPPED.glob("*.jsonl"):
        for record in read_records(path):
            assert record.choice
            assert record.tuned_ms is not None
            assert record.gain >= 1.03
            assert record.versions["apache-tvm"]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    g = Graph((1, 32, 14, 14))
    a = g.op("Relu", g.conv("x", 32, 32, pads=[1, 1, 1, 1]))
    b = g.op("Relu", g.op("Add", g.conv(a, 32, 32, pads=[1, 1, 1, 1]), a))
    return g.save(tmp_path_factory.mktemp("network") / "network.onnx", g.conv(b, 32, 64, kernel=(1, 1)))


def _tasks(network: Path, known: dict[Identity, Choice] | None = None) -> tuple[list[Task], list[Task]]:
    target, known = resolve_target("x86:x86-64-v4"), known or {}
    found = [find(imported(network)[0], target, known) for find in (operator_tasks, kernel_tasks)]
    return by_work(found[0]), by_work(found[1])


def test_tasks_are_what_leaves_something_to_decide(network: Path) -> None:
    operators, kernels = _tasks(network)
    assert [task.name for task in operators] == ["conv2d_3x3_14x14_32_32"] * 2
    assert {task.identity.kernel for task in operators} == {"nn.conv2d, add, nn.relu", "nn.conv2d, add, add, nn.relu"}
    assert "conv2d_direct" in {task.rule for task in kernels}
    assert all(task.num_calls == 1 and task.flops > 0 for task in kernels)


def test_choices_change_the_kernels_and_not_the_result(
    network: Path, run_compiled: Callable[..., list[np.ndarray]], run_onnx: Callable[..., list[np.ndarray]]
) -> None:
    operators, _ = _tasks(network)
    target = resolve_target("x86:x86-64-v4")
    plain = compile_onnx(network, target, progress=lambda line: None)
    assert {row.chosen_by for row in plain.report.rows} == {"rule"}
    wanted = {"m": 2, "grid_rows": 7, "grid_columns": 7, "task_rows": 7, "tile_rows": 7, "tile_columns": 32}
    wanted |= {"block_columns": 32, "shared_input": True}
    known = {operators[0].identity: Choice("convolution", {"plan": wanted}, 1.5)}
    known[operators[1].identity] = Choice("convolution", {"plan": DIRECT}, 1.2)
    kernels = _tasks(network, known)[1]
    pointwise = next(task for task in kernels if "1x1x32x64 float32 const" in task.identity.arguments)
    known[pointwise.identity] = Choice("conv2d_direct", {"tile": [7, 32]}, 1.3)
    tuned = compile_onnx(network, target, choices=known, progress=lambda line: None)
    told = {row.schedule: row.reason for row in tuned.report.rows if row.chosen_by == "record"}
    assert len(tuned.report.tuned()) == 3
    assert told["conv2d_winograd"].startswith("F(2x2, 3x3), tile 7x32")
    assert told["conv2d_winograd"].endswith("by a tuning record, 1.50 times the rule's speed")
    x = np.random.default_rng(0).standard_normal((1, 32, 14, 14)).astype(np.float32)
    if not target.runnable_here()[0]:
        pytest.skip("this CPU has no AVX-512")
    np.testing.assert_allclose(run_compiled(tuned, x)[0], run_onnx(network, {"x": x})[0], rtol=1e-4, atol=1e-4)


def test_a_stale_record_is_told_and_the_rule_decides(network: Path) -> None:
    _, kernels = _tasks(network)
    direct = next(task for task in kernels if task.rule == "conv2d_direct")
    target = resolve_target("x86:x86-64-v4")
    stale = [{"tile": [5, 3]}, {"colour": 3}]
    for choice in (*(Choice("conv2d_direct", each) for each in stale), Choice("matmul", {"tile": [7, 32]})):
        rows = compile_onnx(network, target, choices={direct.identity: choice}, progress=lambda line: None).report.rows
        row = next(row for row in rows if "record not used" in row.reason)
        assert (row.schedule, row.chosen_by) == ("conv2d_direct", "rule")


def _trial(gain: float, taken: dict[str, tuple[Any, list[Any]]], spread: float = 0.01) -> Trial:
    rng = np.random.default_rng(round(gain * 1000))
    default = 1 + spread * rng.standard_normal(60)
    return Trial("rule", taken, compared(default, np.full(60, 1 / gain)))


@dataclass
class Landscape:
    """Gains by decision; `chance` is what only the first process measures."""

    gains: dict[tuple[Any, Any], float]
    chance: float = 1.0
    asked: list[dict[str, Any]] = field(default_factory=list)

    def taken(self, chosen: dict[str, Any]) -> dict[str, tuple[Any, list[Any]]]:
        return {"tile": (chosen.get("tile", 1), [1, 2, 3]), "rows": (chosen.get("rows", 1), [1, 2])}

    def trial(self, choice: Choice, seconds: float) -> Trial:
        chosen = dict(choice.parameters)
        self.asked.append(chosen)
        taken = self.taken(chosen)
        return _trial(self.gains.get((taken["tile"][0], taken["rows"][0]), 1.0) * self.chance, taken)

    def restart(self) -> None:
        self.chance = 1.0


def test_search_combines_the_best_options_of_all_decisions() -> None:
    land = Landscape({(2, 1): 1.1, (3, 1): 1.3, (3, 2): 1.5, (1, 2): 0.9})
    found = Search(land, 50).run(Trial("rule", land.taken({})))
    assert found.choice is not None
    assert found.choice.parameters == {"tile": 3, "rows": 2}
    assert found.choice.gain == pytest.approx(1.5, abs=0.02)
    assert found.num_trials == len(land.asked)


def test_search_keeps_nothing_that_a_fresh_process_does_not_confirm() -> None:
    land = Landscape({}, chance=1.2)
    found = Search(land, 50).run(Trial("rule", land.taken({})))
    assert found.choice is None
    assert found.comparison is not None
    assert found.comparison.gain == pytest.approx(1.0, abs=0.02)


def test_search_starts_from_what_was_best_elsewhere() -> None:
    land = Landscape({(3, 2): 1.5})
    seed = Choice("rule", {"tile": 3, "rows": 2})
    found = Search(land, 50, [Choice("another", {"tile": 2}), seed]).run(Trial("rule", land.taken({})))
    assert land.asked[0] == {"tile": 3, "rows": 2}
    assert found.choice is not None
    assert found.choice.parameters == seed.parameters


def test_search_ends_with_its_budgets() -> None:
    land = Landscape({})
    Search(land, 2).run(Trial("rule", land.taken({})))
    assert len(land.asked) == 2
    with pytest.raises(BudgetSpent):
        Search(land, 50, deadline=time.monotonic() - 1).run(Trial("rule", land.taken({})))


def test_a_gain_within_the_noise_is_not_clear() -> None:
    rng = np.random.default_rng(0)
    noisy = compared(1.05 + 0.5 * np.abs(rng.standard_normal(40)), 1 + 0.5 * np.abs(rng.standard_normal(40)))
    assert not noisy.is_clear
    assert compared([1.1] * 40, [1.0] * 40).is_clear
    assert not compared([1.1] * 5, [1.0] * 5).is_clear, "five pairs prove nothing"
    assert not compared([1.02] * 40, [1.0] * 40).is_clear, "too little to keep"


def test_worker_measures_a_candidate_and_refuses_a_wrong_choice(network: Path) -> None:
    target = resolve_target("x86")
    kernels = kernel_tasks(imported(network)[0], target, {})
    task = next(each for each in kernels if each.rule == "conv2d_direct")
    worker = Worker(target, setup=partial(threads.configure, 1))
    try:
        opened = worker.open(task, {})
        assert not opened.error
        assert opened.taken is not None
        value, options = opened.taken["tile"]
        other = next(option for option in options if option != value)
        trial = worker.trial(Choice(opened.rule, {"tile": other}), 0.01)
        assert not trial.error
        assert trial.comparison is not None
        assert len(trial.comparison.ratios) >= 9
        assert min(trial.comparison.default_s + trial.comparison.candidate_s) > 0
        assert "no option any more" in worker.trial(Choice(opened.rule, {"tile": [3, 5]}), 0.01).error
        worker.restart()
        assert not worker.trial(Choice(opened.rule, {"tile": other}), 0.01).error, "the task is opened again"
    finally:
        worker.close()


def test_a_crash_and_a_hang_lose_one_candidate(network: Path) -> None:
    target = resolve_target("x86")
    task = kernel_tasks(imported(network)[0], target, {})[0]
    crashing = Worker(target, setup=os.abort)
    assert crashing.open(task, {}).error == "the process died (exit code -6)"
    hanging = Worker(target, setup=partial(time.sleep, 600), limit_s=0.5)
    assert hanging.open(task, {}).error == "took longer than 2 s"
    assert hanging.trial(Choice("conv2d_direct", {}), 0.0).error == "took longer than 2 s"

"""The compile report: facts of the graph, costs at open sizes, measured times and peaks, the page."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lab.compile.build import Compiled, compile_onnx
from lab.compile.facts import Facts, Memory
from lab.compile.link import write_library
from lab.compile.profile.page import page
from lab.compile.profile.peaks import Peaks, Probes
from lab.compile.profile.profile import NEVER_CALLED, BundleProfile, FunctionProfile, function_profile
from lab.compile.profile.roofline import plottable
from lab.compile.profile.timing import KernelTime, Overhead, Timed, measure_overhead, time_kernels
from lab.compile.report import KernelRow
from lab.compile.targets import resolve_target
from lab.runtime import threads
from tests.compile.graphs import Graph, residual_network

PEAKS = Peaks(100e9, 10e9, 50e9, 1 << 18, 99e9, num_threads=2, num_samples=3)


def quiet(message: str) -> None:
    """No progress lines."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    path = residual_network(tmp_path_factory.mktemp("onnx") / "network.onnx")
    return compile_onnx(path, resolve_target("x86"), progress=quiet)


@pytest.fixture(scope="module")
def of_any_length(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """A product, two copies side by side, a softmax; the second dimension is open."""
    g = Graph(["batch", "length", 16])
    product = g.op("MatMul", "x", g.weights(16, 32))
    path = g.save(
        tmp_path_factory.mktemp("onnx") / "open.onnx", g.op("Softmax", g.op("Concat", product, product, axis=1), axis=1)
    )
    return compile_onnx(path, resolve_target("x86"), batch_sizes=(2,), dynamic=["length"], progress=quiet)


def test_layouts_and_transforms_of_the_graph(network: Compiled) -> None:
    facts = network.facts[1]
    assert facts.layouts["nn.conv2d", "NHWC"] == 6
    first = facts.transforms[0]
    assert (first.before, first.after) == ((1, 1, 12, 12), (1, 12, 12, 1))
    assert not first.moves_data  # one channel: the same bytes in both layouts


def test_a_transpose_that_moves_data_is_told_with_its_bytes(tmp_path: Path) -> None:
    g = Graph([1, 3, 8, 8])
    path = g.save(tmp_path / "m.onnx", g.conv("x", 3, 16))
    compiled = compile_onnx(path, resolve_target("x86"), progress=quiet)
    profile = function_profile(list(compiled.report.rows), compiled.facts[0], {}, None, None)
    assert [(c.before, c.after, c.num_bytes) for c in profile.changes if c.num_bytes] == [
        ((1, 3, 8, 8), (1, 8, 8, 3), 2 * 4 * 3 * 64),
        ((1, 6, 6, 16), (1, 16, 6, 6), 2 * 4 * 16 * 36),
    ]


def test_peak_memory_is_that_of_the_plan(network: Compiled) -> None:
    memory = network.facts[1].memory({})
    assert memory is not None
    # Three activations of 12 x 12 x 16 floats are alive at the residual sum; the head's 32 and 10 come later.
    assert memory.peak_bytes == 3 * 12 * 12 * 16 * 4
    assert memory.allocated_bytes == memory.peak_bytes + (32 + 10) * 4
    assert memory.num_storages == 5


def test_a_freed_storage_no_longer_counts() -> None:
    facts = Facts()
    facts.plan = [("alloc", 0, _size(100)), ("alloc", 1, _size(50)), ("free", 0, None), ("alloc", 2, _size(70))]
    assert facts.memory({}) == Memory(peak_bytes=150, allocated_bytes=220, num_storages=3)


def _size(number: int) -> object:
    from tvm.tirx import IntImm

    return IntImm("int64", number)


def test_costs_and_memory_at_open_sizes(of_any_length: Compiled) -> None:
    facts = of_any_length.facts[2]
    costs = {length: facts.cost("matmul", {"length": length}) for length in (1, 7)}
    assert costs[7] is not None
    assert costs[7].flops == 2 * 2 * 7 * 16 * 32
    assert costs[7].num_bytes == 4 * (2 * 7 * 16 + 16 * 32 + 2 * 7 * 32)
    memory = facts.memory({"length": 7})
    assert memory is not None
    assert memory.peak_bytes == 2 * (2 * 14 * 32 * 4)
    assert facts.memory({}) is None
    assert facts.cost("no such kernel", {}) is None


def test_a_loop_over_time_costs_as_many_steps_as_there_are(tmp_path: Path) -> None:
    """Its kernel names the length by itself: the call says what it is."""
    g = Graph(["length", 1, 8])
    weights = [g.weights(1, 64, 8), g.weights(1, 64, 16)]
    result = g.op("LSTM", "x", *weights, hidden_size=16)
    path = g.save(tmp_path / "m.onnx", result)
    compiled = compile_onnx(path, resolve_target("x86"), dynamic=["length"], progress=quiet)
    (facts,) = compiled.facts.values()
    costs = [facts.cost("recurrent", {"length": length}) for length in (1, 9)]
    assert costs[0] is not None
    assert costs[1] is not None
    assert costs[0].flops > 0
    assert costs[1].flops == 9 * costs[0].flops


def test_phases_are_timed(network: Compiled) -> None:
    phases = network.facts[1].phases_s
    assert list(phases) == ["import", "layout", "fuse", "schedule", "lower", "generate"]
    assert sum(phases.values()) <= network.durations_s["compile_b1"] + 0.01


def test_kernels_are_timed_inside_whole_inferences(network: Compiled, tmp_path: Path) -> None:
    (entry,) = write_library(network, tmp_path)
    x = np.random.default_rng(0).standard_normal((1, 1, 12, 12)).astype(np.float32)
    probes = Probes(network.target, threads.configure(None))
    overhead = measure_overhead(network.target.to_tvm())
    assert 0 < overhead.of(4) < 1e-3
    names = [row.kernel for row in network.report.rows]
    timed = time_kernels(tmp_path / entry.library, [x], names, overhead, probes.sample)
    assert timed.num_inferences >= 12
    calls = {name: found.num_calls for name, found in timed.kernels.items()}
    expected = {row.kernel: row.num_calls for row in network.report.rows}
    assert {name: expected[name] for name in calls} == calls
    assert {row.kernel for row in network.report.rows if row.op_kind == "conv2d"} <= set(calls)
    peaks = probes.peaks()
    assert peaks.num_samples >= 3
    assert 0 < peaks.usual_flops_per_s <= peaks.flops_per_s
    assert 1e8 < peaks.memory_bytes_per_s < 1e13
    profile = function_profile(list(network.report.rows), network.facts[1], {}, timed, peaks)
    assert sum(kernel.share_of_time or 0 for kernel in profile.kernels) == pytest.approx(1)
    times = [kernel.time_us or 0.0 for kernel in profile.kernels]
    assert times == sorted(times, reverse=True)


def test_shares_follow_from_work_time_and_peaks() -> None:
    rows = [
        KernelRow("conv", "conv2d", "conv2d_direct", flops=4_000_000, num_bytes=1000, num_calls=2),
        KernelRow("copy", "transpose", "elementwise", num_bytes=100_000),
        KernelRow("view", "transpose", "elementwise", num_bytes=100_000),
    ]
    timed = Timed(200e-6, {"conv": KernelTime(160e-6, 2), "copy": KernelTime(40e-6, 1)}, 5)
    conv, copy, view = function_profile(rows, Facts(), {}, timed, PEAKS).kernels
    assert (conv.flops, conv.num_bytes, conv.bound) == (8_000_000, 2000, "compute")
    assert conv.share_of_time == pytest.approx(0.8)
    assert (conv.gflops_per_s, conv.share_of_peak) == (pytest.approx(50), pytest.approx(0.5))
    assert (copy.gbytes_per_s, copy.share_of_memory, copy.bound) == (pytest.approx(2.5), pytest.approx(0.25), "memory")
    assert (view.num_calls, view.time_us, view.note) == (0, None, NEVER_CALLED)


def test_the_overhead_of_measuring_is_never_more_than_nothing() -> None:
    assert Overhead(-1.0, 0.0).of(3) == 0.0


class _Tags(HTMLParser):
    """Fails on tags that are not closed in order."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """SVG's <line/>."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def bundle(function: FunctionProfile, **changes: object) -> BundleProfile:
    whole = BundleProfile("net <1>", "x86: AVX", "a CPU", "2026", (function,), PEAKS, "", {"compile": 2.0})
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_the_page_is_complete_in_itself_and_well_formed() -> None:
    rows = [
        KernelRow("conv<a>", "conv2d", "conv2d_direct", reason="tile 7x64", flops=4_000_000, num_bytes=1000),
        KernelRow("lost", "scan", "naive", flops=10, num_bytes=100),
    ]
    timed = Timed(200e-6, {"conv<a>": KernelTime(160e-6, 1), "lost": KernelTime(20e-6, 1)}, 5)
    profile = bundle(function_profile(rows, Facts(), {"length": 12}, timed, PEAKS))
    text = page(profile)
    tags = _Tags()
    tags.feed(text)
    assert tags.open == []
    assert [address for address in tags.addresses if not address.startswith("#")] == []
    assert not re.search(r"https?://|@import|url\(", text)
    assert "net &lt;1&gt;" in text
    assert "conv&lt;a&gt;" in text
    assert "length = 12" in text
    assert text.count("<circle") == 2 + 2  # kernels, and schedules in the legend
    assert len(plottable(profile.functions[0].kernels)) == 2
    assert "1 naive" in text


def test_without_a_measurement_the_page_says_why_and_keeps_the_rest() -> None:
    rows = [KernelRow("conv", "conv2d", "conv2d_direct", flops=4_000_000, num_bytes=1000)]
    profile = function_profile(rows, Facts(), {}, None, None)
    text = page(bundle(profile, peaks=None, not_measured="built for aarch64, this machine is x86_64"))
    assert "Nothing was timed: built for aarch64" in text
    assert "<svg" not in text
    assert "conv2d_direct" in text
    assert "GFLOP/s" not in text


def test_a_busy_machine_is_said() -> None:
    profile = function_profile([], Facts(), {}, None, None)
    assert "Other work shared the machine" in page(bundle(profile, peaks=replace(PEAKS, usual_flops_per_s=40e9)))
    assert "Other work" not in page(bundle(profile))


def test_several_functions_are_linked() -> None:
    profile = function_profile([KernelRow("k", "matmul", "matmul")], Facts(), {}, None, None)
    both = bundle(profile, functions=(replace(profile, function="encode"), replace(profile, function="step")))
    assert '<a href="#encode-1">' in page(both)
    assert '<section id="step-1">' in page(both)

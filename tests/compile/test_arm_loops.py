"""The benchmark's reader of AArch64 assembly: functions, innermost loops, multiply-adds, and its counters."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks import arm_loops
from benchmarks.arm_count import VARIABLE, read_counts, with_counters, write_sources
from lab.core.errors import LabError, MissingToolError
from lab.runtime.toolchain import emulation, toolchain

KERNEL = """\
	.file	"TVMMod" "."
	.globl	conv_compute_
	.type	conv_compute_,@function
conv_compute_:
.Lfunc_begin0:
	.loc	1 0 0
	adrp	x0, .L__tvm_parallel_lambda.7
	add	x0, x0, :lo12:.L__tvm_parallel_lambda.7
	b	launch
.Lfunc_end0:
	.size	conv_compute_, .Lfunc_end0-conv_compute_

	.type	.L__tvm_parallel_lambda.7,@function
.L__tvm_parallel_lambda.7:
	mov	x0, #5
.LBB1_1:
	movi	v0.2d, #0000000000000000
	mov	x1, #3
	.p2align	4, , 8
.LBB1_2:
.Ltmp3:
	ldr	q1, [x2]
	fmla	v0.4s, v1.4s, v2.s[0]
	cbz	x3, .LBB1_4
	fmla	v3.2s, v1.2s, v2.2s	// two lanes
	fmadd	s4, s5, s6, s4
.LBB1_4:
	subs	x1, x1, #1
	b.ne	.LBB1_2
	fmul	v0.4s, v0.4s, v1.4s
	fmls	v0.4s, v1.4s, v1.4s
	subs	x0, x0, #1
	b.ne	.LBB1_1
	ret
.Lfunc_end1:
	.size	.L__tvm_parallel_lambda.7, .Lfunc_end1-.L__tvm_parallel_lambda.7
"""
LAMBDA = ".L__tvm_parallel_lambda.7"
PROGRAM = """
	.text
	.globl	main
	.type	main,@function
main:
	mov	x0, #5
.LBB0_1:
	mov	x1, #3
.LBB0_2:
	fmla	v0.4s, v1.4s, v2.4s
	subs	x1, x1, #1
	b.ne	.LBB0_2
	subs	x0, x0, #1
	b.ne	.LBB0_1
	mov	w0, wzr
	ret
	.size	main, .-main
"""


@pytest.mark.parametrize(
    ("instruction", "lanes"),
    [
        ("fmla v0.4s, v1.4s, v2.4s", 4),
        ("fmla v30.4s, v1.4s, v2.s[3]", 4),
        ("fmls v0.2s, v1.2s, v2.2s", 2),
        ("fmadd s0, s1, s2, s3", 1),
        ("fnmsub s0, s1, s2, s3", 1),
        ("fmla v0.2d, v1.2d, v2.2d", 0),
        ("fmadd d0, d1, d2, d3", 0),
        ("fmul v0.4s, v1.4s, v2.4s", 0),
        ("madd x0, x1, x2, x3", 0),
    ],
)
def test_float32_multiply_adds_of_an_instruction(instruction: str, lanes: int) -> None:
    assert arm_loops.fma_lanes(instruction) == lanes


def test_functions_of_a_kernel_are_its_body_and_what_runs_in_parallel() -> None:
    found = arm_loops.functions(KERNEL)
    assert [part.name for part in arm_loops.functions_of("conv", found)] == ["conv_compute_", LAMBDA]
    assert arm_loops.functions_of("other", found) == []


def test_innermost_loops_and_their_blocks() -> None:
    function = arm_loops.functions(KERNEL)[LAMBDA]
    (loop,) = arm_loops.innermost_loops(function)
    assert (loop.name, loop.lanes) == (".LBB1_2", 4 + 2 + 1)
    assert [block.lanes for block in loop.blocks] == [4, 3, 0]
    assert loop.blocks[0].instructions[0] == "ldr q1, [x2]"
    assert KERNEL.splitlines()[loop.blocks[0].line].strip() == "ldr\tq1, [x2]"
    assert sum(block.lanes for block in function.blocks) == 7 + 4  # what follows the inner loop lies in the outer one


def test_a_function_without_loops() -> None:
    assert arm_loops.innermost_loops(arm_loops.functions(KERNEL)["conv_compute_"]) == []


def test_hot_path_leaves_out_what_is_rarely_run() -> None:
    (loop,) = arm_loops.innermost_loops(arm_loops.functions(KERNEL)[LAMBDA])
    first, rare, last = loop.blocks
    assert list(arm_loops.hot_path(loop, {})) == [first, rare, last]
    assert list(arm_loops.hot_path(loop, {first.line: 15, rare.line: 1, last.line: 15})) == [first, last]


def test_counters_stand_in_front_of_their_blocks() -> None:
    (loop,) = arm_loops.innermost_loops(arm_loops.functions(KERNEL)[LAMBDA])
    lines = [block.line for block in loop.blocks]
    text = with_counters(KERNEL, lines)
    assert text.count("add\tx17, x17, #1") == 3
    assert text.index("lab_counts+0") < text.index("ldr\tq1, [x2]") < text.index("lab_counts+8")
    assert ".file" not in text
    assert ".loc" not in text


def test_missing_counters_are_told(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="left no counters"):
        read_counts(tmp_path / "none", [1, 2])


def test_missing_tool_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingToolError, match=r"llvm-mca is needed(.|\n)*make setup-arm"):
        arm_loops.check_mca()


@pytest.mark.arm
class TestWithTools:
    @pytest.fixture(autouse=True)
    def _tools(self) -> None:
        try:
            arm_loops.check_mca()
            emulation("aarch64")
            toolchain().compiler("aarch64")
        except MissingToolError as error:
            pytest.skip(str(error))

    def test_peak_of_a_core_is_modelled(self) -> None:
        assert arm_loops.peak("cortex-a72") == pytest.approx(4)

    def test_one_chain_of_multiply_adds_waits_for_itself(self) -> None:
        independent, chain = arm_loops.PEAK_STREAM[:4], arm_loops.PEAK_STREAM[:1] * 4
        assert arm_loops.cycles(chain, "cortex-a72") > 2 * arm_loops.cycles(independent, "cortex-a72")

    def test_unknown_instructions_are_told(self) -> None:
        with pytest.raises(LabError, match="does not take these 1 instructions"):
            arm_loops.cycles(["vfmadd231ps zmm0, zmm1, zmm2"], "cortex-a72")

    def test_counts_of_a_program(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Five times three iterations, counted by the machinery that counts a library's."""
        (loop,) = arm_loops.innermost_loops(arm_loops.functions(PROGRAM)["main"])
        lines = [block.line for block in loop.blocks]
        program, counters = tmp_path / "program", tmp_path / "counts"
        compiler = toolchain().compiler("aarch64")
        sources = write_sources(PROGRAM, lines, tmp_path)
        subprocess.run([compiler, "-static", *sources, "-o", str(program)], check=True)
        monkeypatch.setenv(VARIABLE, str(counters))
        subprocess.run([*emulation("aarch64"), str(program)], check=True)
        assert read_counts(counters, lines) == {lines[0]: 15}

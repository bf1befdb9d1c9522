"""Innermost loops of AArch64 assembly as LLVM prints it, and what a core makes of them by `llvm-mca`.

A loop is what a back edge closes: an edge to a block that every path from the function's entry passes. The peak is not
a constant: it is what the same model of the core says of a stream of independent multiply-adds.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lab.core.errors import LabError, MissingToolError

TRIPLE = "aarch64-linux-gnu"
MCA = "llvm-mca"
PEAK_STREAM = tuple(f"fmla v{i}.4s, v30.4s, v31.4s" for i in range(24))  # enough chains to hide any latency
FEW, MANY = 50, 150  # iterations; the difference leaves out what filling and draining the pipeline takes

_LABEL = re.compile(r"^([A-Za-z_.$][\w.$]*):")
_FUNCTION = re.compile(r"^\s*\.type\s+([\w.$]+),@function")
_CONDITIONAL = re.compile(r"^(b\.\w+|cbn?z|tbn?z)$")
_VECTOR_FMA = re.compile(r"^fml[as]\s+v\d+\.(\d)s\b")
_SCALAR_FMA = re.compile(r"^fn?m(?:add|sub)\s+s\d+\b")
_LAMBDA = re.compile(r"\.L__tvm_parallel_lambda[\w.]*")


@dataclass(frozen=True)
class Block:
    """Instructions that run one after the other; `line` is where the first one stands in the text."""

    labels: tuple[str, ...]
    line: int
    instructions: tuple[str, ...]

    @property
    def lanes(self) -> int:
        """float32 multiply-adds of one run."""
        return sum(map(fma_lanes, self.instructions))


@dataclass(frozen=True)
class Loop:
    """The blocks of one innermost loop, its header first."""

    blocks: tuple[Block, ...]

    @property
    def lanes(self) -> int:
        return sum(block.lanes for block in self.blocks)

    @property
    def name(self) -> str:
        return self.blocks[0].labels[0] if self.blocks[0].labels else f"line {self.blocks[0].line + 1}"


@dataclass
class Function:
    name: str
    blocks: list[Block] = field(default_factory=list)
    calls: set[str] = field(default_factory=set)
    """The functions it hands to TVM's thread pool."""


def fma_lanes(instruction: str) -> int:
    """How many float32 multiply-adds an instruction is: `fmla v0.4s, v1.4s, v2.s[0]` four, `fmadd s0, ...` one."""
    vector = _VECTOR_FMA.match(instruction)
    if vector:
        return int(vector[1])
    return 1 if _SCALAR_FMA.match(instruction) else 0


def functions(assembly: str) -> dict[str, Function]:
    """Every function of a module, cut into blocks."""
    found: dict[str, Function] = {}
    current: Function | None = None
    labels: list[str] = []
    start, body = 0, []  # of the block being read

    def close() -> None:
        nonlocal labels, body
        if current is not None and body:
            current.blocks.append(Block(tuple(labels), start, tuple(body)))
            labels = []
        body = []

    for number, raw in enumerate(assembly.splitlines()):
        declared = _FUNCTION.match(raw)
        label = _LABEL.match(raw)
        if declared:
            close()
            labels, current = [], Function(declared[1])
            found[current.name] = current
        elif label and current is not None:
            if not label[1].startswith((".Ltmp", ".Lfunc_")):  # those are for debuggers
                close()
                labels.append(label[1])
        elif current is not None:
            text = " ".join(raw.partition("//")[0].split())
            if not text or text.startswith("."):
                if text.startswith(".size"):
                    close()
                    current = None
                continue
            if not body:
                start = number
            body.append(text)
            current.calls.update(_LAMBDA.findall(text))
            if _ends_block(text):
                close()
    return found


def _ends_block(instruction: str) -> bool:
    mnemonic = instruction.split()[0]
    return mnemonic in ("b", "br", "ret") or bool(_CONDITIONAL.match(mnemonic))


def functions_of(kernel: str, found: Mapping[str, Function]) -> list[Function]:
    """The functions that run a kernel: its entry, its body, and what the body hands to the thread pool."""
    waiting = [name for name in (f"__tvm_ffi_{kernel}", f"{kernel}_compute_", kernel) if name in found]
    names: list[str] = []
    while waiting:
        name = waiting.pop()
        if name in found and name not in names:
            names.append(name)
            waiting += sorted(found[name].calls)
    return [found[name] for name in names]


def innermost_loops(function: Function) -> list[Loop]:
    """The loops that contain no other one."""
    blocks = function.blocks
    successors = _successors(blocks)
    dominators = _dominators(successors)
    bodies: dict[int, set[int]] = {}
    for tail, targets in enumerate(successors):
        for head in targets & dominators[tail]:
            bodies.setdefault(head, {head}).update(_natural_loop(head, tail, successors))
    inner = [head for head in bodies if not any(other in bodies[head] for other in bodies if other != head)]
    return [Loop(tuple(blocks[i] for i in (head, *sorted(bodies[head] - {head})))) for head in sorted(inner)]


def _successors(blocks: Sequence[Block]) -> list[set[int]]:
    by_label = {label: i for i, block in enumerate(blocks) for label in block.labels}
    result: list[set[int]] = []
    for i, block in enumerate(blocks):
        last = block.instructions[-1]
        mnemonic, target = last.split()[0], last.replace(",", " ").split()[-1]
        jumps = mnemonic == "b" or bool(_CONDITIONAL.match(mnemonic))
        nexts = {by_label[target]} if jumps and target in by_label else set()
        if mnemonic not in ("b", "br", "ret") and i + 1 < len(blocks):
            nexts.add(i + 1)
        result.append(nexts)
    return result


def _dominators(successors: list[set[int]]) -> list[set[int]]:
    """Block -> the blocks on every path to it; of unreachable ones only itself."""
    predecessors: list[set[int]] = [set() for _ in successors]
    for i, targets in enumerate(successors):
        for target in targets:
            predecessors[target].add(i)
    everything = set(range(len(successors)))
    result = [{0} if i == 0 else set(everything) for i in everything]
    changed = True
    while changed:
        changed = False
        for i in range(1, len(successors)):
            before = [result[p] for p in predecessors[i]]
            new = (set.intersection(*before) if before else set()) | {i}
            changed |= new != result[i]
            result[i] = new
    return result


def _natural_loop(head: int, tail: int, successors: list[set[int]]) -> set[int]:
    """The blocks from which `tail` is reached without passing `head`."""
    body, waiting = {head}, [tail]
    while waiting:
        block = waiting.pop()
        if block not in body:
            body.add(block)
            waiting += [i for i, targets in enumerate(successors) if block in targets]
    return body


def check_mca() -> str:
    """The version of `llvm-mca`. Raises MissingToolError."""
    if shutil.which(MCA) is None:
        raise MissingToolError(
            f"{MCA} is needed to model the core's pipeline", got="not found on PATH",
            hint="make setup-arm, or apt-get install llvm",
        )  # fmt: skip
    shown = subprocess.run([MCA, "--version"], capture_output=True, text=True, check=True).stdout
    return " ".join(re.findall(r"(?:Debian |Ubuntu )?LLVM version [\d.]+", shown)[:1])


def cycles(instructions: Sequence[str], mcpu: str) -> float:
    """Modelled cycles of one steady iteration, all loads met by the first-level cache, branches predicted."""
    few, many = (_total_cycles(instructions, mcpu, iterations) for iterations in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def _total_cycles(instructions: Sequence[str], mcpu: str, iterations: int) -> int:
    command = [MCA, f"-mtriple={TRIPLE}", f"-mcpu={mcpu}", f"-iterations={iterations}", "-instruction-info=0"]
    command += ["-resource-pressure=0"]
    done = subprocess.run(command, input="\n".join(instructions) + "\n", capture_output=True, text=True, check=False)
    total = re.search(r"^Total Cycles:\s+(\d+)", done.stdout, flags=re.MULTILINE)
    if done.returncode or total is None:
        raise LabError(
            f"{MCA} does not take these {len(instructions)} instructions for {mcpu}",
            got=done.stderr.strip()[:500] or done.stdout[:200], expected="'Total Cycles: ...'",
            hint=f"{' '.join(command)} shows it; a core that this LLVM does not know needs a newer one",
        )  # fmt: skip
    return int(total[1])


def peak(mcpu: str) -> float:
    """float32 multiply-adds per cycle of a stream of independent `fmla`."""
    return sum(map(fma_lanes, PEAK_STREAM)) / cycles(PEAK_STREAM, mcpu)


def hot_path(loop: Loop, counts: Mapping[int, int]) -> Iterator[Block]:
    """The blocks that most iterations run; all of them where nothing was counted (line -> number of runs)."""
    most = max((counts.get(block.line, 0) for block in loop.blocks), default=0)
    return (block for block in loop.blocks if not most or 2 * counts.get(block.line, 0) >= most)

"""How often the blocks of a compiled ARM library run: a counter in front of each, and the library run under emulation.

The library is linked as always, except that the kernels' object is assembled from LLVM's own text of them with the
counters put in. When the program ends, the counters are written to the file that LAB_ARM_COUNTS names.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab.core.errors import LabError

VARIABLE = "LAB_ARM_COUNTS"
MODULE = "lib"  # how TVM names the object of a module; another one holds constants and the virtual machine's code
DEBUG = (".file", ".loc")  # which source line is which; newer than what the distribution's assembler reads
DUMP = """
#include <stdio.h>
#include <stdlib.h>
extern unsigned long long lab_counts[];
__attribute__((destructor)) static void dump(void) {
    const char *path = getenv("%s");
    FILE *file = path ? fopen(path, "wb") : NULL;
    if (file == NULL) return;
    fwrite(lab_counts, sizeof lab_counts[0], %d, file);
    fclose(file);
}
"""


def with_counters(assembly: str, lines: Sequence[int]) -> str:
    """`assembly` with a counter in front of each of `lines`, numbered as they come.

    Registers are saved on the stack (LLVM keeps nothing below the stack pointer on Linux), flags are not touched.
    """
    numbers = {line: number for number, line in enumerate(lines)}
    out: list[str] = []
    for line, text in enumerate(assembly.splitlines()):
        if line in numbers:
            place = f"lab_counts+{8 * numbers[line]}"
            out += [
                "\tstp\tx16, x17, [sp, #-16]!", f"\tadrp\tx16, {place}", f"\tldr\tx17, [x16, :lo12:{place}]",
                "\tadd\tx17, x17, #1", f"\tstr\tx17, [x16, :lo12:{place}]", "\tldp\tx16, x17, [sp], #16",
            ]  # fmt: skip
        if not text.lstrip().startswith(DEBUG):
            out.append(text)
    table = [
        "\t.bss", "\t.p2align\t3", "\t.hidden\tlab_counts", "\t.globl\tlab_counts", "lab_counts:",
        f"\t.zero\t{8 * max(len(lines), 1)}", "",
    ]  # fmt: skip
    return "\n".join([*out, *table])


def write_sources(assembly: str, lines: Sequence[int], folder: Path) -> list[str]:
    """The counting kernels and what writes their counters at the end, for a compiler; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    kernels, dump = folder / "kernels.s", folder / "dump.c"
    kernels.write_text(with_counters(assembly, lines), encoding="utf-8")
    dump.write_text(DUMP % (VARIABLE, len(lines)), encoding="utf-8")
    return [str(kernels), str(dump)]


def export_counting(executable: Any, assembly: str, lines: Sequence[int], library: Path, compiler: str) -> None:
    """Write the library with its kernels' object replaced by the counting one. Raises LabError."""
    sources = write_sources(assembly, lines, library.parent / "counting")

    def link(output: str, objects: list[str], options: list[str] | None = None) -> None:
        kernels = [path for path in objects if Path(path).name.startswith(MODULE)]
        if len(kernels) != 1:
            raise LabError("not one object holds the kernels", got=kernels or objects, expected="one")
        others = [path for path in objects if path not in kernels]
        _call([compiler, "-shared", "-fPIC", "-O1", *sources, *others, *(options or []), "-o", output])

    executable.export_library(str(library), fcompile=link)


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError("building the counting library failed", got=done.stderr[-2000:], expected=" ".join(command[:3]))


def read_counts(path: Path, lines: Sequence[int]) -> dict[int, int]:
    """Line -> how often its block ran. Raises LabError where the program left no counters."""
    counts = np.fromfile(path, dtype=np.uint64) if path.exists() else np.zeros(0, np.uint64)
    if len(counts) != len(lines):
        raise LabError("the counting run left no counters", got=len(counts), expected=len(lines))
    return {line: int(count) for line, count in zip(lines, counts, strict=True)}


def counting_environment(path: Path) -> None:
    """Every library of this process's children writes its counters to `path`."""
    os.environ[VARIABLE] = str(path)

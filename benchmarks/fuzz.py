"""`make fuzz`: every parser that an outsider's bytes reach, mutated inputs, and one property.

Every input ends in a normal answer or in the lab's own documented error, within 5 s of CPU time and 512 MiB of memory.
Targets take turns on `--jobs` processes; `--seconds` is for all of them together. Findings go to
build/fuzz/TARGET/findings with a command that reproduces each; one that cannot be reproduced in a fresh process is told
as such and does not count.

    python -m benchmarks.fuzz --target oip --seconds 60
    python -m benchmarks.fuzz --target oip --reproduce build/fuzz/oip/findings/0123456789abcdef.bin
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.fuzzing.engines import fuzz, load_target
from benchmarks.fuzzing.limits import CPU_LIMIT_S, MEMORY_LIMIT_BYTES, check

REPO = Path(__file__).resolve().parents[1]
FOLDER, RESULTS = REPO / "build" / "fuzz", REPO / "benchmarks" / "results"
_MAX_RESTARTS = 20
_COVERAGE = re.compile(r"cov: (\d+)")


def run_target(name: str, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """One target in processes of its own; a process that dies is a finding, and another goes on."""
    folder: Path = options.output / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began, executions, coverage, deaths = time.monotonic(), 0, 0, 0
    left = seconds
    while left > 1 and deaths < _MAX_RESTARTS:
        command = [sys.executable, "-m", "benchmarks.fuzz", "--worker", name, "--seconds", f"{left:.1f}", "--seed",
                   str(options.seed + deaths), "--engine", options.engine, "--output", str(options.output)]  # fmt: skip
        log = folder / f"log-{deaths}.txt"
        with log.open("w") as file:
            code = subprocess.run(command, cwd=REPO, stdout=file, stderr=file).returncode
        stats = json.loads((folder / "stats.json").read_text()) if (folder / "stats.json").exists() else {}
        executions += stats.get("executions", 0)
        (folder / "stats.json").unlink(missing_ok=True)
        coverage = max([coverage, *map(int, _COVERAGE.findall(log.read_text(errors="replace")))])
        left = seconds - (time.monotonic() - began)
        if code == 0:
            break
        deaths += 1
        _keep_native(folder, code, log)
    tried = [told(name, path, options) for path in sorted((folder / "findings").glob("*.bin"))]
    findings = [one for one in tried if one["reproduced"]]
    took = time.monotonic() - began
    row = {"target": name, "what": load_target(name).what, "executions": executions, "seconds": round(took, 1),
           "per_s": round(executions / took), "coverage": coverage, "findings": findings,
           "not_reproduced": [one for one in tried if not one["reproduced"]]}  # fmt: skip
    print(f"{name}: {executions} inputs in {took:.0f} s, {len(findings)} findings", flush=True)
    for one in tried:
        note = "" if one["reproduced"] else " (not reproduced in a fresh process: a pause of this machine, or state)"
        print(f"    {one['signature']}{note}\n    {one['reproduce']}", flush=True)
    return row


def _keep_native(folder: Path, code: int, log: Path) -> None:
    """What libFuzzer wrote when a process died or hung outside of Python."""
    found = folder / "findings"
    found.mkdir(exist_ok=True)
    inputs = list(folder.glob("native-*"))
    for path in inputs:
        told = {
            "signature": f"process ended with {code}: {path.name.split('-')[1]}",
            "error": log.read_text(errors="replace")[-2000:],
        }
        (found / f"{path.name}.json").write_text(json.dumps(told))
        path.replace(found / f"{path.name}.bin")
    if not inputs:
        raise SystemExit(f"the fuzzer itself failed ({code}):\n{log.read_text(errors='replace')[-3000:]}")


def told(name: str, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A finding, tried once more in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.fuzz", "--target", name, "--reproduce", str(path)]
    again = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    details = json.loads(path.with_suffix(".json").read_text())
    shown = path.relative_to(REPO) if path.is_relative_to(REPO) else path
    return {"signature": details["signature"], "error": details["error"][:300], "reproduced": again.returncode != 0,
            "reproduce": f"python -m benchmarks.fuzz --target {name} --reproduce {shown}"}  # fmt: skip


def reproduce(name: str, path: Path) -> None:
    """Run one input; raises what it raises."""
    print(f"{name}: {check(load_target(name), path.read_bytes())}")


def report(rows: list[dict[str, Any]], options: argparse.Namespace, took_s: float) -> dict[str, Any]:
    return {
        "engine": options.engine, "seed": options.seed, "seconds": round(took_s, 1), "jobs": options.jobs,
        "limits": {"cpu_s": CPU_LIMIT_S, "memory_mib": MEMORY_LIMIT_BYTES >> 20},
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()},
        "executions": sum(row["executions"] for row in rows),
        "findings": sum(len(row["findings"]) for row in rows), "targets": rows,
    }  # fmt: skip


def markdown(found: dict[str, Any]) -> str:
    """The report as a table."""
    guided = "coverage-guided by atheris (libFuzzer)" if found["engine"] == "atheris" else "mutated seeds, unguided"
    lines = [
        "# Fuzzing", "",
        f"`make fuzz`: {guided}, seed {found['seed']}, {found['seconds']:g} s on {found['jobs']} process(es), Python "
        f"{found['machine']['python']}. {found['executions']:,} inputs, {found['findings']} findings. An input must "
        f"end in an answer or in a documented error, within {found['limits']['cpu_s']:g} s of CPU time and "
        f"{found['limits']['memory_mib']} MiB. Coverage: places in the lab's bytecode that were reached.", "",
        "| target | what | inputs | seconds | inputs/s | coverage | findings |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in found["targets"]:
        findings = "; ".join(one["signature"] for one in row["findings"]) or 0
        cells = (row["target"], row["what"], f"{row['executions']:,}", row["seconds"], row["per_s"],
                 row["coverage"] or "", findings)  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="for all targets together")
    parser.add_argument("--target", action="append", help="only this one; may be given several times")
    parser.add_argument("--seed", type=int, default=20_260)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at a time")
    parser.add_argument("--engine", choices=["auto", "atheris", "plain"], default="auto")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of inputs and findings")
    parser.add_argument("--reproduce", type=Path, help="run one input of --target and end")
    parser.add_argument("--no-results", action="store_true", help="leave benchmarks/results as it is")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine == "auto":
        options.engine = "atheris" if importlib.util.find_spec("atheris") else "plain"
    if options.worker:
        fuzz(options.worker, options.output / options.worker, options.seconds, options.seed, options.engine)
        return
    if options.reproduce:
        reproduce(options.target[0], options.reproduce)
        return
    from benchmarks.fuzzing.targets import TARGETS

    names = options.target or list(TARGETS)
    unknown = set(names) - set(TARGETS)
    if unknown:
        raise SystemExit(f"unknown targets {sorted(unknown)}; there are {', '.join(TARGETS)}")
    each = options.seconds * options.jobs / len(names)
    print(
        f"engine {options.engine}, seed {options.seed}, {len(names)} targets, {each:.0f} s each, "
        f"{options.jobs} at a time"
    )
    began = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(lambda name: run_target(name, options, each), names))
    found = report(rows, options, time.monotonic() - began)
    if not options.no_results:
        (RESULTS / "fuzz.json").write_text(json.dumps(found, indent=1) + "\n")
        (RESULTS / "fuzz.md").write_text(markdown(found))
    print(f"{found['executions']} inputs, {found['findings']} findings")
    sys.exit(1 if found["findings"] else 0)


if __name__ == "__main__":
    main()

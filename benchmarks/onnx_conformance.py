"""ONNX's own backend node tests through the compiler: passed, refused by name, or wrong.

    python benchmarks/onnx_conformance.py [--match TEXT] [--limit N] [--jobs N] [--out FILE]

Each test of the `onnx` package is one operator with its inputs and expected outputs. A test that is refused as it is,
since its operator takes axes, shapes or the like as inputs, runs again with every input but the first as a constant, as
exporters write it; the table counts those apart. Tests run in a worker process, so that a crash or a hang is that
test's result. Outputs are compared with the tests' own tolerances, halves with four units in their last place.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing as mp
import sys
import tempfile
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

from lab.artifacts.files import write_json
from lab.artifacts.manifest import now
from lab.core.errors import LabError
from lab.core.host import cpu_name, num_cores, versions
from lab.core.progress import say

RESULTS = Path(__file__).parent / "results" / "onnx_conformance.json"
TIMEOUT_S = 90
UNITS = 4
"""Halves may differ by so many units in the last place: a dozen operators, each of which rounds."""
PASSED, CONSTANTS, REFUSED, WRONG, ERROR = "passed", "passed with constants", "refused", "wrong", "error"
OUTCOMES = (PASSED, CONSTANTS, REFUSED, WRONG, ERROR)


def cases(match: str) -> list[Any]:
    """The node tests whose name contains `match`, in the order of their names."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [case for case in load_model_tests(kind="node") if match in case.name]
    return sorted(found, key=lambda case: str(case.name))


def run_case(case: Any) -> tuple[str, str]:
    """Outcome and reason of one test; raises nothing."""
    outcome, reason = attempt(case, constants=False)
    if outcome in (REFUSED, ERROR) and case.model is not None and len(case.model.graph.input) > 1:
        again, why = attempt(case, constants=True)
        if again in (PASSED, WRONG):
            return (CONSTANTS if again == PASSED else WRONG), why
    return outcome, reason


def attempt(case: Any, *, constants: bool) -> tuple[str, str]:
    from lab.compile.build import compile_onnx
    from lab.compile.targets import resolve_target

    model, (inputs, expected) = case.model, case.data_sets[0]
    if not all(isinstance(value, np.ndarray) for value in (*inputs, *expected)):
        return REFUSED, "sequences and optional values are no tensors"
    if constants:
        model, inputs = with_constants(model, inputs)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        try:
            compiled = compile_onnx(path, resolve_target("x86"), progress=lambda line: None)
        except LabError as error:
            return REFUSED, f"{error.what}: {error.got}"[:300].replace("\n", " ")
        except Exception as error:  # noqa: BLE001  a result of the test
            return ERROR, f"{type(error).__name__}: {error}"[:300].replace("\n", " ")
        try:
            actual = run(compiled, inputs)
        except Exception as error:  # noqa: BLE001  a result of the test
            if not all(array.size for array in inputs):
                return REFUSED, "no elements: `open_bundle(...).run` refuses an empty batch"
            return ERROR, f"at run time, {type(error).__name__}: {error}"[-300:].replace("\n", " ")
    return compare(case, expected, actual)


def with_constants(model: onnx.ModelProto, inputs: list[np.ndarray]) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    names = [value.name for value in changed.graph.input]
    for name, array in zip(names[1:], inputs[1:], strict=True):
        changed.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    del changed.graph.input[1:]
    return changed, list(inputs[:1])


def run(compiled: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(next(iter(compiled.executables.values())), tvm.cpu())
    result = machine["main"](*[tvm.runtime.tensor(np.asarray(array)) for array in inputs])
    return [tensor.numpy() for tensor in ([result] if hasattr(result, "numpy") else list(result))]


def is_float(dtype: np.dtype[Any]) -> bool:
    """Also of the kinds that numpy itself does not know, such as bfloat16."""
    try:
        return ml_dtypes.finfo(dtype) is not None
    except ValueError:
        return False


def compare(case: Any, expected: list[np.ndarray], actual: list[np.ndarray]) -> tuple[str, str]:
    if len(expected) != len(actual):
        return WRONG, f"{len(actual)} outputs instead of {len(expected)}"
    for wanted, found in zip(expected, actual, strict=True):
        if wanted.shape != found.shape or wanted.dtype != found.dtype:
            return WRONG, f"{found.dtype}{list(found.shape)} instead of {wanted.dtype}{list(wanted.shape)}"
        try:
            if is_float(wanted.dtype):
                rtol = max(case.rtol, UNITS * float(ml_dtypes.finfo(wanted.dtype).eps))
                np.testing.assert_allclose(found, wanted, rtol=rtol, atol=max(case.atol, 1e-6))
            else:
                np.testing.assert_array_equal(found, wanted)
        except AssertionError as error:
            told = " ".join(line.strip() for line in str(error).splitlines() if "Max" in line or "Mismatched" in line)
            return WRONG, told[:200]
    return PASSED, ""


def work(connection: Connection, match: str) -> None:
    """The worker: answers test numbers with their outcome until it is asked for None."""
    found = cases(match)
    while (index := connection.recv()) is not None:
        connection.send(run_case(found[index]))


class Worker:
    """A process that runs one test at a time; one that dies or hangs is replaced."""

    def __init__(self, match: str) -> None:
        self.match = match
        self.process: Any = None

    def ask(self, index: int) -> tuple[str, str]:
        if self.process is None:
            context = mp.get_context("spawn")
            self.connection, theirs = context.Pipe()
            self.process = context.Process(target=work, args=(theirs, self.match), daemon=True)
            self.process.start()
            theirs.close()
        try:
            self.connection.send(index)
            if self.connection.poll(TIMEOUT_S):
                outcome, reason = self.connection.recv()
                return outcome, reason
            reason = f"no answer in {TIMEOUT_S} s"
        except (EOFError, OSError):
            reason = "the process died"
        self.close()
        return ERROR, reason

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process = None


def run_all(match: str, limit: int | None, num_jobs: int) -> dict[str, dict[str, str]]:
    """Outcome of every test, in the order of their names; `num_jobs` processes share them."""
    found = cases(match)[:limit]
    rows: dict[str, dict[str, str]] = {}
    todo = iter(range(len(found)))

    def serve(_: int) -> None:
        worker = Worker(match)
        for index in todo:  # next() on one range iterator is atomic
            case = found[index]
            outcome, reason = worker.ask(index)
            operators = sorted({node.op_type for node in case.model.graph.node}) if case.model is not None else []
            rows[case.name] = {"operators": ", ".join(operators), "outcome": outcome, "reason": reason}
            if len(rows) % 50 == 0:
                say(f"{len(rows)} of {len(found)}: {dict(Counter(row['outcome'] for row in list(rows.values())))}")
        worker.close()

    with ThreadPoolExecutor(num_jobs) as threads:
        list(threads.map(serve, range(num_jobs)))
    return dict(sorted(rows.items()))


def table(results: dict[str, Any]) -> str:
    """A line per operator, and every test that was wrong or failed."""
    rows = results["tests"]
    totals = Counter(row["outcome"] for row in rows.values())
    lines = [
        "# ONNX backend node tests",
        "",
        f"{len(rows)} tests of onnx {results['versions']['onnx']}, x86, {results['cpu']}; `make onnx-conformance`. "
        + ", ".join(f"{totals[outcome]} {outcome}" for outcome in OUTCOMES)
        + ". *Passed with constants*: refused as it is, since an axis, shape or other parameter is an input there; "
        "passed with every input but the first as a constant.",
        "",
        "| operator | " + " | ".join(OUTCOMES) + " | why refused (first) |",
        "|---|" + "---|" * (len(OUTCOMES) + 1),
    ]
    by_operator: dict[str, list[dict[str, str]]] = {}
    for name, row in rows.items():
        by_operator.setdefault(row["operators"] if "_expanded" not in name else "function bodies", []).append(row)
    for operator, found in sorted(by_operator.items()):
        counts = Counter(row["outcome"] for row in found)
        reason = next((row["reason"] for row in found if row["outcome"] == REFUSED), "")
        told = reason.replace("|", "/")[:110]
        lines.append(f"| {operator[:60]} | " + " | ".join(str(counts[o] or "") for o in OUTCOMES) + f" | {told} |")
    bad = {name: row for name, row in rows.items() if row["outcome"] in (WRONG, ERROR)}
    lines += ["", "## Wrong or failed", ""] if bad else []
    lines += [f"- {name}: {row['outcome']}: {row['reason']}" for name, row in bad.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--match", default="", help="only tests whose name contains this")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--jobs", type=int, default=num_cores(), help="processes that share the tests")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    rows = run_all(chosen.match, chosen.limit, chosen.jobs)
    results = {"tests": rows, "cpu": cpu_name(), "versions": versions(), "created": now()}
    write_json(chosen.out, results)
    chosen.out.with_suffix(".md").write_text(table(results), encoding="utf-8")
    totals = Counter(row["outcome"] for row in rows.values())
    print(dict(totals))
    sys.exit(1 if totals[WRONG] or totals[ERROR] else 0)


if __name__ == "__main__":
    main()

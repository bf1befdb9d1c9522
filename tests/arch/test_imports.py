"""Promises about imports: the layers hold, and asking for help loads nothing heavy."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "tvm", "mlflow", "lightning", "onnx", "onnxruntime", "torchvision", "matplotlib", "openvino")


def modules_after(code: str, repo: Path) -> set[str]:
    program = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=repo, env=dict(os.environ)
    )
    return {line.partition(".")[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize(
    "code",
    [
        "import lab",
        "import lab.cli.main",
        "import lab.config.run, lab.config.load",
        "import lab.artifacts.manifest, lab.artifacts.rundir",
        "import lab.data.dataset, lab.data.preprocess, lab.data.formats, lab.data.resolve",
        "import lab.tasks.classification.config, lab.tasks.classification.deploy",
        "import lab.runtime, lab.tracking",
    ],
)
def test_loads_nothing_heavy(code: str, repo: Path) -> None:
    assert modules_after(code, repo) & set(HEAVY) == set()


def test_help_loads_nothing_heavy(repo: Path) -> None:
    code = (
        "import sys\nsys.argv=['lab','--help']\nfrom lab.cli.main import main\ntry:\n main()\nexcept SystemExit: pass"
    )
    assert modules_after(code, repo) & set(HEAVY) == set()


def test_core_and_artifacts_need_only_the_standard_library_and_numpy(repo: Path) -> None:
    code = "import lab.core.signature, lab.core.host, lab.artifacts.manifest, lab.artifacts.rundir"
    assert modules_after(code, repo) & {"pydantic", "yaml", "rich", "typer", "PIL"} == set()


def test_layers_hold(repo: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=repo,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def python_files(repo: Path) -> list[Path]:
    return sorted((repo / "lab").rglob("*.py"))


def test_no_file_over_300_lines(repo: Path) -> None:
    long = {str(p.relative_to(repo)): n for p in python_files(repo) if (n := len(p.read_text().splitlines())) > 300}
    assert long == {}


def test_no_function_over_80_lines(repo: Path) -> None:
    long = [
        f"{path.relative_to(repo)}:{node.lineno} {node.name}"
        for path in python_files(repo)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno and node.end_lineno - node.lineno >= 80
    ]
    assert long == []


def test_no_pickle_anywhere(repo: Path) -> None:
    """Weights and state are safetensors and JSON; loading an untrusted file must never run code."""
    banned = {"pickle", "cPickle", "dill", "joblib", "cloudpickle"}
    found = [
        f"{path.relative_to(repo)}:{node.lineno}"
        for path in python_files(repo)
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] in banned for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in banned)
        or (isinstance(node, ast.Call) and ast.unparse(node.func) in {"torch.load", "torch.save"})
    ]
    assert found == []

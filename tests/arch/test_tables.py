"""Tables of names equal what is in the folders; every configuration loads; every README command exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from lab.config.load import to_yaml
from lab.core.tables import LazyTable
from lab.pipelines.context import load_config
from lab.tasks import CONFIGS, DEPLOY, LEARN

REPO = Path(__file__).resolve().parents[2]
# Endpoints have a configuration of their own: tests/serve/test_config.py
YAMLS = sorted(p for p in (REPO / "configs").rglob("*.yaml") if p.parent.name != "endpoints")


def test_tasks_are_the_folders() -> None:
    folders = {p.parent.name for p in (REPO / "lab" / "tasks").glob("*/config.py")}
    assert set(CONFIGS) == set(DEPLOY) == set(LEARN) == folders


@pytest.mark.parametrize("table", [CONFIGS, DEPLOY, LEARN], ids=["config", "deploy", "learn"])
def test_every_entry_resolves(table: LazyTable) -> None:
    assert all(table[name] is not None for name in table)


@pytest.mark.parametrize("path", YAMLS, ids=lambda p: str(p.relative_to(REPO)))
def test_every_configuration_loads_and_repeats_itself(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert config.task == path.parent.name
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "again.yaml") == config


def commands_in_docs() -> list[str]:
    text = "\n".join(
        p.read_text() for p in [REPO / "README.md", REPO / "CONTRIBUTING.md", *(REPO / "docs").glob("*.md")]
    )
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, flags=re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_documented_make_targets_exist() -> None:
    targets = {m for line in commands_in_docs() for m in re.findall(r"(?:^|&& )make ([a-z][a-z-]*)", line)}
    known = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), flags=re.MULTILINE))
    assert targets
    assert targets <= known


def test_documented_lab_commands_exist() -> None:
    from lab.cli.main import app

    known = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    used = {m for line in commands_in_docs() for m in re.findall(r"(?:^|/)lab ([a-z-]+)", line)}
    assert used
    assert used <= known


def test_documented_configurations_exist() -> None:
    named = {m for line in commands_in_docs() for m in re.findall(r"configs/[\w/]+\.yaml", line)}
    assert named
    assert [path for path in named if not (REPO / path).exists()] == []


def test_every_pinned_version_is_exact() -> None:
    lines = [line for line in (REPO / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) > 100
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[\w.+!-]+(?: ; .*)?", line)] == []


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=REPO, capture_output=True, text=True, check=True)
    for target in ("train", "compile", "serve", "ui", "test", "check", "setup-arm", "gpu-check", "docker-check"):
        assert f"make {target} " in done.stdout

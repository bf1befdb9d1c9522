"""What the image files promise, as far as that can be seen without building them; `make docker-check` builds them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lab import __version__

IMAGES = ("train", "serve")


def dockerfile(repo: Path, image: str) -> str:
    return (repo / "docker" / f"{image}.Dockerfile").read_text()


def tool(name: str) -> str:
    """A checker installed beside this Python (extra `dev`), or on PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: pip install 'lab[dev]'")
    return found


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_finds_nothing(repo: Path, image: str) -> None:
    path = repo / "docker" / f"{image}.Dockerfile"
    done = subprocess.run([tool("hadolint"), str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", ["build.sh", "check.sh"])
def test_shellcheck_finds_nothing(repo: Path, script: str) -> None:
    path = repo / "docker" / script
    done = subprocess.run([tool("shellcheck"), str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert path.stat().st_mode & 0o111


@pytest.mark.parametrize("image", IMAGES)
def test_base_is_pinned_and_an_argument(repo: Path, image: str) -> None:
    text = dockerfile(repo, image)
    default = re.search(r"^ARG BASE_IMAGE=(\S+)$", text, re.MULTILINE)
    assert default is not None
    assert re.fullmatch(r"[\w./]+:\d+\.\d+\.\d+-[\w.-]+", default[1])
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE_IMAGE}"}


@pytest.mark.parametrize("image", IMAGES)
def test_the_last_user_is_a_number_and_not_root(repo: Path, image: str) -> None:
    text = dockerfile(repo, image)
    user = re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1]
    for name in re.findall(r"\$\{(\w+)\}", user):
        default = re.search(rf"^ARG {name}=(\d+)$", text, re.MULTILINE)
        assert default is not None
        user = user.replace(f"${{{name}}}", default[1])
    uid, gid = map(int, user.split(":"))
    assert uid >= 1000
    assert gid >= 1000


@pytest.mark.parametrize("image", IMAGES)
def test_every_installation_of_dependencies_is_constrained(repo: Path, image: str) -> None:
    installs = re.findall(r"pip install ([^\\&\n]+)", dockerfile(repo, image))
    assert installs
    for arguments in installs:
        assert "-c constraints.txt" in arguments or "--no-deps" in arguments


def test_serving_installs_neither_torch_nor_mlflow(repo: Path) -> None:
    assert re.findall(r'"\.\[([\w,]+)\]"', dockerfile(repo, "serve")) == ["runtime,serve"]


def test_the_serving_image_serves(repo: Path) -> None:
    text = dockerfile(repo, "serve")
    assert 'CMD ["serve", "--help"]' in text
    assert "EXPOSE 8080" in text


@pytest.mark.parametrize("image", IMAGES)
def test_only_named_files_enter_the_build(repo: Path, image: str) -> None:
    lines = (repo / "docker" / f"{image}.Dockerfile.dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    allowed = {line[1:] for line in patterns if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile(repo, image), re.MULTILINE)
    assert allowed == {source for line in copied for source in line.split()}


def test_compose_pins_images_and_keeps_what_must_stay(repo: Path) -> None:
    compose = yaml.safe_load((repo / "docker" / "compose.yaml").read_text())
    train, mlflow = compose["services"]["train"], compose["services"]["mlflow"]
    assert train["image"] == mlflow["image"] == f"lab-train:{__version__}"
    (device,) = train["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert {"../runs:/work/runs", "../data:/work/data"} <= set(train["volumes"])
    assert train["depends_on"]["mlflow"]["condition"] == "service_healthy"
    assert train["environment"]["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert mlflow["volumes"] == ["mlflow:/mlflow"]
    assert "mlflow" in compose["volumes"]
    assert "/health" in mlflow["healthcheck"]["test"][-1]
    assert any("mlflow:5000" in argument for argument in mlflow["command"] if "--allowed-hosts" in argument)
    assert all(port.startswith("127.0.0.1:") for port in mlflow["ports"])


def test_building_without_a_daemon_says_what_to_do(repo: Path, tmp_path: Path) -> None:
    for name in ("bash", "dirname", "env"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    done = subprocess.run(
        [str(repo / "docker" / "build.sh")], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "make docker-check" in done.stderr


def test_checking_an_unknown_image_is_refused(repo: Path) -> None:
    done = subprocess.run([str(repo / "docker" / "check.sh"), "toast"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert re.search("unknown image 'toast'|needs root|is missing", done.stderr)

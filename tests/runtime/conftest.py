"""One small model, as every runner opens it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.artifacts.manifest import Manifest
from lab.compile.build import compile_onnx
from lab.compile.link import write_library
from lab.compile.targets import resolve_target
from lab.runtime import threads
from tests.compile.graphs import residual_network

BATCH_SIZES = (1, 4)


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    threads.configure(None)


@pytest.fixture(scope="session")
def onnx_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return residual_network(tmp_path_factory.mktemp("runtime") / "network.onnx", channels=3, num_classes=7)


def make_bundle(onnx_path: Path, folder: Path, batch_sizes: tuple[int, ...] = BATCH_SIZES) -> Path:
    """A bundle as `lab compile` lays it out, without labels."""
    target = resolve_target("x86")
    compiled = compile_onnx(onnx_path, target, batch_sizes=batch_sizes, progress=lambda message: None)
    entries = write_library(compiled, folder)
    manifest = Manifest(
        kind="bundle", name="network", signature=compiled.signature, target=target.info(), entries=tuple(entries)
    )
    manifest.with_files(folder, [entry.library for entry in entries]).save(folder)
    return folder


@pytest.fixture(scope="session")
def bundle(onnx_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(onnx_path, tmp_path_factory.mktemp("runtime") / "bundle")

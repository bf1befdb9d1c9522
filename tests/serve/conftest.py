"""One endpoint for the tests that only ask; those that break something start their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.models import adder, classifier
from tests.serve.served import Served, serving, write_config


@pytest.fixture(scope="session")
def model_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    classifier(root / "first", seed=0)
    classifier(root / "second", seed=1)
    classifier(root / "no-golden", seed=2, golden="none")
    classifier(root / "wrong-golden", seed=3, golden="wrong")
    adder(root / "adder")
    return root


@pytest.fixture(scope="session")
def endpoint(model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two variants, 0.9 and 0.1, one worker; the control plane may load from `model_root`."""
    folder = tmp_path_factory.mktemp("endpoint")
    config = write_config(
        folder / "shop.yaml", folder / "state",
        variants=[
            {"name": "one", "model": str(model_root / "first"), "weight": 0.9},
            {"name": "two", "model": str(model_root / "second"), "weight": 0.1},
        ],
        security={"model_root": str(model_root)},
        limits={"header_timeout_s": 1.0, "body_timeout_s": 1.0},
    )  # fmt: skip
    with serving(config) as served:
        yield served

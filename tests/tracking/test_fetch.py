"""A registered model becomes the folder it was, by alias or by version, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.artifacts.manifest import Manifest
from lab.core.errors import TrackingError
from lab.tracking.fetch import fetch
from lab.tracking.server import connect
from tests.serve.models import classifier


def test_fetch_by_alias_and_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = connect(uri)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment)
    folder = classifier(tmp_path / "model")
    for file in folder.iterdir():
        client.log_artifact(run.info.run_id, str(file), "model")
    client.create_registered_model("shop")
    source = f"{run.info.artifact_uri}/model"
    client.create_model_version("shop", source, run.info.run_id)
    client.set_registered_model_alias("shop", "champion", "1")

    fetched = fetch("models:/shop@champion", tmp_path / "store")
    assert Manifest.load(fetched) == Manifest.load(folder)
    assert fetched == tmp_path / "store" / "shop-1"
    stamp = (fetched / "manifest.json").stat().st_mtime_ns
    assert fetch("models:/shop/1", tmp_path / "store") == fetched
    assert (fetched / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(TrackingError, match="cannot be fetched"):
        fetch("models:/shop@nobody", tmp_path / "store")

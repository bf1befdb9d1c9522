"""The configuration is strict, and says where and what."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.core.errors import ConfigError
from lab.serve.config import check_threads, load_endpoint, of_dict


def load(tmp_path: Path, text: str, *overrides: str) -> object:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load_endpoint(path, overrides)


def test_the_default_configuration_loads_and_survives_json(repo: Path) -> None:
    config = load_endpoint(repo / "configs" / "endpoints" / "fashion_mnist_ab.yaml", ["port=0"])
    assert [variant.weight for variant in config.variants] == [0.9, 0.1]
    assert of_dict(config.model_dump(mode="json")) == config


def test_the_demos_configuration_names_the_registrys_aliases(repo: Path) -> None:
    config = load_endpoint(repo / "configs" / "endpoints" / "demo_canary.yaml")
    aliases = [model.partition("@")[2] for variant in config.variants for model in variant.models]
    assert aliases == ["champion", "challenger", "nightly"]
    assert of_dict(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("endpoint: e\nvariant: []", "did you mean 'variants'"),
        ("endpoint: e\nvariants:\n- {name: a, model: m, wieght: 1}", "did you mean 'variants.0.weight'"),
        ("endpoint: a b", "'endpoint' = 'a b'"),
        ("endpoint: e\nvariants:\n- {name: a, model: m}\n- {name: a, model: n}", "the same name"),
        ("endpoint: e\nvariants:\n- {name: a, model: m, weight: 0}", "no production variant has a weight"),
        ("endpoint: e\nvariants:\n- {name: a, model: m, shadow: true, weight: 2}", "at most 1"),
        ("endpoint: e\nvariants:\n- {name: a, model: m, weight: -1}", "greater than or equal to 0"),
        ("endpoint: e\nsecurity: {tokens: [{sha256: secret, scopes: [admin]}]}", "security.tokens.0.sha256"),
        ("endpoint: e\nsecurity: {tls_key: k}", "go together"),
        ("endpoint: e\nlimits: {body_bytes: 1000000000}", "limits.body_bytes"),
        ("endpoint: e\nguard: {alfa: 1}", "did you mean 'guard.alpha'"),
        ("endpoint: e\nport: 70000", "port"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_more_threads_than_cores_are_complained_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.serve.config.num_cores", lambda: 2)
    text = "endpoint: e\nworkers: 2\nvariants:\n- {name: a, model: m, executor_threads: 2}"
    assert "4 model threads" in check_threads(load(tmp_path, text))[0]  # type: ignore[arg-type]
    assert check_threads(load(tmp_path, text, "workers=1")) == []  # type: ignore[arg-type]

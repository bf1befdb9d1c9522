from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.config.load import build, parse_source, read_source, to_yaml
from lab.config.run import RunConfig
from lab.core.errors import ConfigError

GOOD = "task: demo\ntrain:\n  epochs: 3\noptimizer:\n  name: adam\n"


def problem(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        build(parse_source(text, "a.yaml"), RunConfig)
    return caught.value.what


def test_unknown_key_names_line_and_nearest() -> None:
    assert "a.yaml:3: unknown key 'train.epoch'; did you mean 'train.epochs'?" in problem(
        "task: d\ntrain:\n  epoch: 3\n"
    )
    assert "a.yaml:2: unknown key 'optimiser'; did you mean 'optimizer'?" in problem("task: d\noptimiser: {}\n")


def test_unknown_key_without_a_near_name_lists_what_is_known() -> None:
    assert "known here: enabled, min_epochs" in problem("task: d\nearly_stopping:\n  qqqq: 1\n")


def test_wrong_type_names_line_value_and_expectation() -> None:
    assert "a.yaml:3: 'train.epochs' = 'three': input should be a valid integer" in problem(
        "task: d\ntrain:\n  epochs: three\n"
    )


def test_all_problems_are_reported_at_once() -> None:
    text = problem("task: d\ntrain:\n  epochs: 0\n  batchsize: 3\n")
    assert "2 problems" in text
    assert "a.yaml:3" in text
    assert "a.yaml:4" in text


def test_schedule_step_needs_steps() -> None:
    assert "schedule 'step' needs steps" in problem("task: d\nschedule:\n  name: step\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: [", "is not valid YAML"),
        ("- a\n- b\n", "is not a configuration"),
        ("", "is not a configuration"),
        ("task: d\ntask: e\n", "key 'task' is given twice"),
    ],
)
def test_unreadable_documents(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_source(text, "a.yaml")


def test_overrides_win_and_are_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(GOOD)
    config = build(read_source(path, ["train.epochs=7", "optimizer.learning_rate=1e-3", "name=x"]), RunConfig)
    assert (config.train.epochs, config.optimizer.learning_rate, config.optimizer.name) == (7, 1e-3, "adam")
    with pytest.raises(ConfigError, match=r"override train\.epochs=no"):
        build(read_source(path, ["train.epochs=no"]), RunConfig)
    with pytest.raises(ConfigError, match="malformed"):
        read_source(path, ["train.epochs"])


def test_missing_file_suggests_a_near_one(tmp_path: Path) -> None:
    (tmp_path / "fashion.yaml").write_text(GOOD)
    with pytest.raises(ConfigError) as caught:
        read_source(tmp_path / "fashon.yaml")
    assert "did you mean" in (caught.value.hint or "")
    assert "fashion.yaml" in (caught.value.hint or "")


@given(
    epochs=st.integers(1, 100),
    rate=st.floats(1e-6, 1.0),
    steps=st.lists(st.integers(1, 50), min_size=1, max_size=4, unique=True).map(sorted),
)
def test_resolved_configuration_loads_back_equal(epochs: int, rate: float, steps: list[int]) -> None:
    config = RunConfig.model_validate(
        {
            "task": "d",
            "train": {"epochs": epochs},
            "optimizer": {"learning_rate": rate},
            "schedule": {"name": "step", "steps": steps},
        }
    )
    assert build(parse_source(to_yaml(config), "b.yaml"), RunConfig) == config


def test_configuration_is_frozen() -> None:
    config = build(parse_source(GOOD, "a"), RunConfig)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", ["a/b", ".hidden", "a\nb"])
def test_run_name_must_be_a_folder_name(name: str) -> None:
    with pytest.raises(ValueError, match="folder name"):
        RunConfig(task="d", name=name)

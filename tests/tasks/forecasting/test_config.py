"""What a configuration may say, and what is answered otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from lab.core.errors import ConfigError
from tests.tasks.forecasting.conftest import config_of

GOOD: dict[str, Any] = {
    "task": "forecasting",
    "data": {"train": "t.jsonl", "time_freq": "M"},
    "model": {"prediction_length": 6},
}
BAD = {
    "no data": ({"data": {"time_freq": "M"}}, "no data"),
    "two sources": ({"data": {"dataset": "m3-monthly", "train": "t.jsonl"}}, "not both"),
    "no frequency": ({"data": {"train": "t.jsonl"}}, "time_freq is missing"),
    "no horizon": ({"model": {}}, "prediction_length is missing"),
    "lags in disorder": ({"model": {"prediction_length": 6, "lags": [2, 1]}}, "increasing"),
    "a lag of zero": ({"model": {"prediction_length": 6, "lags": [0, 1]}}, "increasing"),
    "a quantile of one": ({"metrics": {"test_quantiles": [0.5, 1.0]}}, "between 0 and 1"),
    "an unknown likelihood": ({"model": {"prediction_length": 6, "likelihood": "cauchy"}}, "likelihood"),
    "no dynamic features": ({"data": {"train": "t", "time_freq": "M", "num_dynamic_feat": 0}}, "1 or more"),
}


@pytest.mark.parametrize("what", sorted(BAD))
def test_what_does_not_fit_is_refused(what: str) -> None:
    change, message = BAD[what]
    with pytest.raises(ConfigError, match=message):
        config_of(GOOD | change)


def test_sagemaker_s_spellings_are_understood() -> None:
    """DAR-H5, H10, H13: the container's lower case, and the empty string for "leave it out"."""
    raw = {
        **GOOD,
        "data": {**GOOD["data"], "cardinality": "", "num_dynamic_feat": ""},
        "model": {"prediction_length": 6, "likelihood": "student-t"},
    }
    config = config_of(raw)
    assert (config.data.cardinality, config.data.num_dynamic_feat) == ("ignore", "ignore")
    assert config.model.likelihood == "student-T"
    assert config_of(GOOD | {"data": {**GOOD["data"], "cardinality": [2, 3]}}).data.cardinality == (2, 3)


def test_defaults_are_sagemaker_s() -> None:
    config = config_of(GOOD)
    model = config.model
    assert (model.num_cells, model.num_layers, model.dropout_rate, model.embedding_dimension) == (40, 2, 0.1, 10)
    assert config.metrics.test_quantiles == tuple(number / 10 for number in range(1, 10))
    assert config.metrics.num_eval_samples == 100

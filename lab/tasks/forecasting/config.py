"""Configuration of forecasting. Row ids (DAR-..) refer to Amazon SageMaker's hyperparameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lab.config.base import LabModel
from lab.config.run import RunConfig

LikelihoodName = Literal["student-T", "gaussian", "negative-binomial", "beta", "deterministic-L1"]


class ColumnsConfig(LabModel):
    """Columns of a long table (format: table)."""

    id: str = "id"
    time: str = "time"
    value: str = "value"
    cat: tuple[str, ...] = ()
    """0-based integers, one value per series."""
    static_real: tuple[str, ...] = ()
    """Numbers that stay the same for a series."""
    dynamic: tuple[str, ...] = ()
    """Numbers that change with time and are known ahead, such as prices and holidays."""


class SeriesDataConfig(LabModel):
    """Either a data set of the catalog (`lab data list`), or files of series."""

    dataset: str | None = None
    """Name in the catalog; fetched when it is not there. Its frequency and horizon need not be given."""
    root: Path | None = None
    """Folder of the catalog's data sets; default $LAB_DATA, else ./data."""
    format: Literal["jsonl", "parquet", "table"] = "jsonl"
    """jsonl and parquet hold SageMaker's records, one series each (DAR-I1, I2); table a row per value."""
    train: Path | None = None
    """A file, or a folder that is searched (DAR-I1)."""
    test: Path | None = None
    """Series whose last prediction_length values are forecast and compared (DAR-I10); commonly those of `train` with
    their end. Without it the end of the training series validates and there is no test."""
    time_freq: str | None = None
    """DAR-H4: M, W, D, H or min with an optional multiple; also Q and Y."""
    columns: ColumnsConfig = ColumnsConfig()
    cardinality: Literal["auto", "ignore"] | tuple[int, ...] = "auto"
    """DAR-H5: number of values of each category; auto counts them, ignore and "" leave them out."""
    num_dynamic_feat: Literal["auto", "ignore"] | int = "auto"
    """DAR-H13: auto takes what the first series has, ignore and "" take none."""
    item_embedding: bool = False
    """Learn a vector for every series; those not seen in training cannot be forecast then."""
    hold_out: bool = True
    """Keep the validation part out of the training windows. Off, training uses everything before the test, as GluonTS
    does, and the validation figures say how well the training data is fitted."""
    min_observations: int = Field(300, ge=1)
    """DAR-I6: fewer in all training series together are an error."""
    sampling: Literal["positions", "series", "scale"] = "positions"
    """Which windows training draws: all positions equally often, all series, or the larger ones more often (the paper's
    section 3.4)."""
    windows_per_epoch: int | None = Field(None, ge=1)
    """Default: so many that each value is forecast once per epoch on average, but at least 1,600."""

    @field_validator("cardinality", "num_dynamic_feat", mode="before")
    @classmethod
    def _empty_is_ignore(cls, value: Any) -> Any:
        return "ignore" if value == "" else value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.dataset is not None and (self.train or self.test):
            raise ValueError("give either dataset (catalog) or train and test (files), not both")
        if self.dataset is None and self.train is None:
            raise ValueError("no data: give dataset (a name of the catalog), or format and train (a path)")
        if self.dataset is None and self.time_freq is None:
            raise ValueError("time_freq is missing: the time from one value to the next, e.g. M, D, H or 15min")
        if isinstance(self.num_dynamic_feat, int) and self.num_dynamic_feat < 1:
            raise ValueError("num_dynamic_feat must be 1 or more; ignore for none")
        return self


class BacktestConfig(LabModel):
    """Rolling origin: the test part is forecast from several points in time (DAR-I10, DAR-O10)."""

    num_windows: int = Field(1, ge=1)
    stride: int | None = Field(None, ge=1)
    """Steps between two origins; default prediction_length."""
    max_validation_windows: int | None = Field(400, ge=1)
    """Validation samples paths after every epoch; of more windows so many are taken, evenly over the series."""


class ModelConfig(LabModel):
    """The network (DAR-H1, H6, H8, H10, H12, H15)."""

    name: Literal["deepar"] = "deepar"
    context_length: int | None = Field(None, ge=1)
    """Steps that the network reads before it forecasts, beside the lags; default prediction_length."""
    prediction_length: int | None = Field(None, ge=1)
    """Steps to forecast (DAR-H3); default that of the catalog's data set."""
    num_layers: int = Field(2, ge=1)
    num_cells: int = Field(40, ge=1)
    dropout_rate: float = Field(0.1, ge=0, lt=1)
    regularization: Literal["dropout", "zoneout"] = "dropout"
    """dropout acts between layers and trains with fused kernels; zoneout (what SageMaker means by dropout_rate) keeps
    states at random and trains step by step, several times slower."""
    embedding_dimension: int | None = Field(10, ge=1)
    """Of every category (DAR-H8); null is min(50, half the number of its values)."""
    likelihood: LikelihoodName = "student-T"
    scaling: bool = True
    """Divide by the mean of the context's absolute values."""
    scale_feature: bool = True
    """Tell the network the logarithm of the scale, as GluonTS does: large series are less noisy than small ones. Off,
    the forecast of a series in other units is the same in these units, exactly."""
    lags: tuple[int, ...] | None = None
    """Default: by frequency (DAR-I8)."""

    @field_validator("likelihood", mode="before")
    @classmethod
    def _container_spelling(cls, value: Any) -> Any:
        return {"student-t": "student-T", "deterministic-l1": "deterministic-L1"}.get(value, value)

    @field_validator("lags")
    @classmethod
    def _increasing(cls, lags: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if lags is not None and (not lags or list(lags) != sorted(set(lags)) or lags[0] < 1):
            raise ValueError("lags must be increasing steps, 1 or more")
        return lags


class MetricsConfig(LabModel):
    """How forecasts are sampled and measured."""

    num_eval_samples: int = Field(100, ge=2)
    """DAR-H14: sample paths per series; also what an exported model draws unless told otherwise."""
    test_quantiles: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """DAR-H16."""
    season_length: int | None = Field(None, ge=1)
    """Of MASE and of the seasonal naive forecast; default by frequency (M 12, Q 4, W 52, D 7, H 24)."""
    ets_windows: int = Field(24, ge=0)
    """Exponential smoothing is fitted to so many of the evaluated windows, evenly chosen: each fit takes a tenth of a
    second or more."""
    monitor: Literal["mean_wql", "mase", "nd", "crps", "rmse"] = "mean_wql"

    @field_validator("test_quantiles")
    @classmethod
    def _inside(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if not levels or list(levels) != sorted(set(levels)) or levels[0] <= 0 or levels[-1] >= 1:
            raise ValueError("test_quantiles must be increasing and between 0 and 1")
        return levels


class ForecastingConfig(RunConfig):
    """The root of configs/forecasting/*.yaml."""

    task: Literal["forecasting"] = "forecasting"
    data: SeriesDataConfig
    backtest: BacktestConfig = BacktestConfig()
    model: ModelConfig = ModelConfig()
    metrics: MetricsConfig = MetricsConfig()

    @model_validator(mode="after")
    def _horizon(self) -> Self:
        if self.model.prediction_length is None and self.data.dataset is None:
            raise ValueError("model.prediction_length is missing: how many steps to forecast")
        return self

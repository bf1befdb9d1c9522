"""The part of a run's configuration that every task shares; each task adds its data, model and loss sections.

Row ids (IC-H..) refer to the hyperparameters of Amazon SageMaker's image classification, for those who come from there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from lab.config.base import LabModel


class TrainConfig(LabModel):
    """How training runs on the machine."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: the GPU if there is one, else the CPU; what was taken, and why, is printed."""
    devices: int = Field(1, ge=1)
    """GPUs on this machine; under torchrun, the number of processes per node."""
    epochs: int = Field(30, ge=1)
    batch_size: int = Field(32, ge=1)
    """Samples per optimizer step and process."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """bfloat16 and float16 are automatic mixed precision: float32 weights, low-precision matrix products."""
    channels_last: bool = False
    """Store images as NHWC in memory: faster convolutions on GPUs with tensor cores and on most CPUs."""
    torch_compile: bool = False
    """Compile the training step with TorchInductor: about a minute at the start, faster steps after."""
    gradient_clip_norm: float | None = Field(None, gt=0)
    accumulate_batches: int = Field(1, ge=1)
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Average the weights with this decay per step; the average is what is evaluated and exported."""
    num_workers: int = Field(0, ge=0)
    """Processes that read and decode; 0 reads in the main process."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads of PyTorch; the default is every core this process may use."""
    log_every_n_steps: int = Field(20, ge=1)
    limit_train_batches: int | None = Field(None, ge=1)
    """Batches per epoch, for smoke runs."""
    sync_batch_norm: bool = False
    """Batch normalisation over the samples of all processes, not of each one alone (SS-H22)."""
    deterministic: bool = True
    """Ask PyTorch for deterministic kernels; needed for a resumed run to equal an uninterrupted one on a GPU."""


class OptimizerConfig(LabModel):
    """Optimizer and its constants (IC-H4, H5, H12, H13, H16, H20, H23, H29)."""

    name: Literal["sgd", "nag", "adam", "adamw", "rmsprop", "adagrad", "adadelta"] = "sgd"
    """nag is SGD with Nesterov momentum."""
    learning_rate: float = Field(0.1, gt=0, le=10)
    momentum: float = Field(0.9, ge=0, lt=1)
    """sgd and nag."""
    weight_decay: float = Field(1e-4, ge=0, le=1)
    decay_norm_and_bias: bool = False
    """Apply weight decay to biases and normalisation parameters too."""
    beta_1: float = Field(0.9, ge=0, lt=1)
    beta_2: float = Field(0.999, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0, le=1)
    """All but sgd and nag."""
    gamma: float = Field(0.9, ge=0, lt=1)
    """rmsprop, adadelta: decay of the squared-gradient average (SS-H13: gamma1)."""
    rmsprop_momentum: float = Field(0.0, ge=0, lt=1)
    """SS-H14: gamma2."""


class ScheduleConfig(LabModel):
    """Learning rate over time, updated every optimizer step."""

    name: Literal["constant", "step", "cosine", "poly", "one_cycle", "inv_t", "inv_sqrt_t", "plateau"] = "constant"
    """inv_t, inv_sqrt_t and plateau are S2S-H21: fixed_rate_inv_t, fixed_rate_inv_sqrt_t and plateau_reduce."""
    steps: tuple[int, ...] = ()
    """step: epochs after which the rate is multiplied by `factor` (IC-H18)."""
    factor: float = Field(0.1, gt=0, le=1)
    """step: IC-H17; plateau: S2S-H34."""
    warmup_epochs: float = Field(0.0, ge=0)
    """All but one_cycle: linear warm-up from zero over this many epochs."""
    min_factor: float = Field(0.0, ge=0, le=1)
    """cosine and poly: the rate ends at learning_rate * min_factor."""
    power: float = Field(0.9, gt=0)
    """poly: the rate falls as (1 - progress) ** power."""
    peak_at: float = Field(0.3, gt=0, lt=1)
    """one_cycle: the fraction of training at which the rate peaks at learning_rate."""
    start_divisor: float = Field(25.0, ge=1)
    """one_cycle: the rate starts at learning_rate / start_divisor."""
    end_divisor: float = Field(1e4, ge=1)
    """one_cycle: the rate ends at learning_rate / start_divisor / end_divisor."""
    half_life_epochs: float = Field(10.0, gt=0)
    """inv_t and inv_sqrt_t: epochs after which the rate is half of learning_rate (S2S-H18)."""
    patience_epochs: int = Field(3, ge=1)
    """plateau: multiply the rate by `factor` whenever the monitored metric was not better than its best for so many
    epochs (S2S-H35)."""

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        if self.name == "step" and not self.steps:
            raise ValueError("schedule 'step' needs steps, e.g. steps: [10, 20]")
        if list(self.steps) != sorted(set(self.steps)) or any(step < 1 for step in self.steps):
            raise ValueError("steps must be increasing epochs, 1 or later")
        return self


class EarlyStoppingConfig(LabModel):
    """Stop when the validation metric no longer improves (IC-H7..H10)."""

    enabled: bool = False
    min_epochs: int = Field(10, ge=1)
    patience: int = Field(5, ge=1)
    """Epochs without improvement."""
    tolerance: float = Field(0.0, ge=0, le=1)
    """The least relative improvement over the best value that counts."""


class CheckpointConfig(LabModel):
    """When the training state is written; `last` is always kept, and the best weights by the task's metric."""

    every_n_steps: int | None = Field(None, ge=1)
    """Also in the middle of an epoch, every so many optimizer steps."""
    every_n_epochs: int | None = Field(None, ge=1)
    """Keep a numbered copy of the weights every so many epochs (IC-H6)."""


class TrackingConfig(LabModel):
    """Where the run is tracked; MLFLOW_TRACKING_URI in the environment wins over `uri`."""

    enabled: bool = True
    uri: str | None = None
    """MLflow tracking server or database; default sqlite:///mlflow.db below the working folder."""
    experiment: str | None = None
    """Default: lab-<task>."""
    register_model: bool = True
    """Register the trained model in MLflow's model registry, with its signature."""
    system_metrics: bool = True


class ExportConfig(LabModel):
    """ONNX export."""

    opset: int = Field(18, ge=17, le=23)
    tolerance: float = Field(1e-4, gt=0)
    """Largest absolute difference of the outputs between PyTorch and ONNX Runtime."""


class QuantizeConfig(LabModel):
    """8-bit copies of the model, for `lab compile --precision int8`."""

    samples: int = Field(256, ge=1)
    """Validation samples that the ranges of the activations are taken from."""
    method: Literal["minmax", "percentile", "entropy"] = "minmax"
    """What an activation's range is: its extremes, its 99.999th percentile, or what loses least information."""
    max_loss: float = Field(0.01, ge=0)
    """How much of the task's monitored metric the 8 bits may cost (0.01 is one point); more fails the compile."""


class RunConfig(LabModel):
    """The root: one training run. Tasks derive from it."""

    task: str
    name: str = ""
    """Name of the run's folder; the default is the configuration file's name."""
    seed: int = Field(0, ge=0)
    runs_dir: Path = Path("runs")
    init_from: str | None = None
    """Start from these weights instead of fresh ones: torchvision/<model> (published weights of the whole model), or a
    run (folder, name, latest) of the same architecture (incremental training, IC-I6, OD-I5, SS-I6)."""
    train: TrainConfig = TrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    export: ExportConfig = ExportConfig()
    quantize: QuantizeConfig = QuantizeConfig()

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, name: str) -> str:
        if name.startswith(".") or any(character in name for character in '/\\:*?"<>|\n'):
            raise ValueError("a run's name must be usable as a folder name")
        return name

"""The configuration of an endpoint (`configs/endpoints/*.yaml`), strict like every other: an unknown key is an error.

Row ids (EP-..) refer to Amazon SageMaker's endpoints.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lab.config.base import LabModel
from lab.config.load import build, read_source
from lab.core.errors import ConfigError
from lab.core.host import num_cores
from lab.serve.guard.config import GuardConfig
from lab.serve.remote_config import RemoteConfig

VARIANT_NAME = r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$"
MAX_BODY_BYTES = 6_291_456
"""SageMaker's limit for a request's body."""
MIN_STEPS, MAX_STEPS = 2, 15
SCOPES = ("invoke", "admin", "metrics")


class FaultConfig(LabModel):
    """Faults made on purpose, to rehearse what the guardrails do; never on by default."""

    error_rate: float = Field(0.0, ge=0, le=1)
    """Share of calls that raise."""
    latency_ms: float = Field(0.0, ge=0)
    """Added to every call."""


class StepConfig(LabModel):
    """One step of an inference pipeline; a plain string is its model."""

    model: str
    """As a variant's."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """This step's input: output of the step before. Without it, equal names meet, or the only two there are."""


class VariantConfig(LabModel):
    """One production variant (EP-10): a model and its share of the traffic, weight / sum of weights."""

    name: str = Field(pattern=VARIANT_NAME)
    model: str = ""
    """A bundle folder, an export folder (ONNX), or models:/name@alias of the MLflow registry."""
    steps: tuple[StepConfig, ...] = ()
    """Instead of a model: 2 to 15 models in sequence, in one process, as one (EP-55)."""
    remote: RemoteConfig | None = None
    """Instead of a model: one on another server. `executor_threads` are its connections, per worker."""
    weight: float = Field(1.0, ge=0)
    shadow: bool = False
    """Gets a copy of `weight` of the traffic (a share of 0..1); its answers are compared, never sent (EP-20)."""
    executor_threads: int = Field(1, ge=1)
    """Threads per worker that run the model, each with an instance of its own."""
    runtime_threads: int = Field(1, ge=1)
    """Threads of the engine (TVM, ONNX Runtime) per executor thread."""
    max_batch: int = Field(8, ge=1)
    """Requests that are run together at most; those that wait when an executor becomes free."""
    max_delay_us: int = Field(0, ge=0, le=1_000_000)
    """How long an idle executor waits for more requests; 0 never waits."""
    max_queue: int = Field(64, ge=1)
    """Requests that wait per worker; one more is refused at once with 503."""
    deadline_ms: int = Field(60_000, ge=1, le=3_600_000)
    """A request older than this is dropped before it is run."""
    engine: Literal["auto", "zeros"] = "auto"
    """zeros: answers zeros in the model's shapes without running it, to measure everything around it."""
    non_finite: Literal["refuse", "allow"] = "refuse"
    """What to do with NaN and infinity in a tensor of a request."""
    faults: FaultConfig = FaultConfig()

    @field_validator("steps", mode="before")
    @classmethod
    def _plain_steps(cls, given: Any) -> Any:
        if not isinstance(given, list | tuple):
            return given
        return tuple({"model": step} if isinstance(step, str) else step for step in given)

    @model_validator(mode="after")
    def _model_or_steps(self) -> Self:
        if bool(self.model) + bool(self.steps) + bool(self.remote) != 1:
            raise ValueError("a variant has either a model or steps, or is remote")
        if self.steps and not MIN_STEPS <= len(self.steps) <= MAX_STEPS:
            raise ValueError(f"a pipeline has {MIN_STEPS} to {MAX_STEPS} steps, not {len(self.steps)}")
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """The model, or those of all steps; a remote one's address."""
        if self.remote is not None:
            return (self.remote.url,)
        return tuple(step.model for step in self.steps) if self.steps else (self.model,)

    @property
    def wires(self) -> list[dict[str, str]]:
        """What the steps' inputs are connected to, where that is configured."""
        return [step.inputs for step in self.steps]

    @model_validator(mode="after")
    def _shadow_share(self) -> Self:
        if self.shadow and self.weight > 1:
            raise ValueError("a shadow's weight is the share of the traffic it gets a copy of: at most 1")
        return self


class RoutingConfig(LabModel):
    """Which unit of traffic keeps its variant."""

    salt: str = "lab"
    """Names the experiment: another salt assigns every unit anew."""
    unit_header: str = "x-session-id"
    """Header with the unit's id; SageMaker's session id comes first. Without either, each request is drawn by lot."""

    @field_validator("unit_header")
    @classmethod
    def _lower(cls, name: str) -> str:
        return name.lower()


class LimitsConfig(LabModel):
    """What a request may cost before it is refused."""

    body_bytes: int = Field(MAX_BODY_BYTES, ge=1, le=64 * 1024 * 1024)
    image_pixels: int = Field(25_000_000, ge=1)
    """Read from the image's header, before anything is decoded."""
    header_bytes: int = Field(16_384, ge=1024)
    header_timeout_s: float = Field(10.0, gt=0)
    body_timeout_s: float = Field(30.0, gt=0)
    keep_alive_s: float = Field(75.0, gt=0)
    connections: int = Field(1024, ge=1)
    """Per worker."""
    drain_s: float = Field(25.0, gt=0)
    """After SIGTERM; SageMaker kills 30 s later (EP-5)."""


class TokenConfig(LabModel):
    """A bearer token: only its hash is kept. `printf %s TOKEN | sha256sum` makes one."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Literal["invoke", "admin", "metrics"], ...] = Field(min_length=1)


class SecurityConfig(LabModel):
    """Who may call, and which models may be loaded."""

    tokens: tuple[TokenConfig, ...] = ()
    """Without any, everyone who reaches the port may do everything: therefore only on this machine."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    public_key: Path | None = None
    """Ed25519 key (PEM): only bundles whose manifest is signed with it are loaded."""
    allowed_hosts: tuple[str, ...] = ()
    """Values of the Host header that are answered; empty: any."""
    model_root: Path | None = None
    """Folder below which CreateModel may name models; without it the control plane cannot add any."""

    @model_validator(mode="after")
    def _tls_has_both(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        return self


class CaptureConfig(LabModel):
    """Sampled requests and responses as JSON Lines in SageMaker's layout (EP-50, EP-51)."""

    enabled: bool = False
    sampling_percentage: float = Field(20.0, ge=0, le=100)
    destination: Path = Path("capture")
    modes: tuple[Literal["Input", "Output"], ...] = ("Input", "Output")
    csv_content_types: tuple[str, ...] = ("text/csv",)
    json_content_types: tuple[str, ...] = ("application/json",)
    max_payload_bytes: int = Field(1_048_576, ge=0)
    """Longer bodies are left out, and the event says so."""


class AutoscalingConfig(LabModel):
    """Workers of this machine by target tracking (EP-46): requests in flight per worker."""

    enabled: bool = False
    min_workers: int = Field(1, ge=1)
    max_workers: int = Field(2, ge=1)
    target_in_flight: float = Field(4.0, gt=0)
    scale_out_cooldown_s: float = Field(30.0, ge=0)
    scale_in_cooldown_s: float = Field(300.0, ge=0)


class LogConfig(LabModel):
    """Access log and state."""

    access_log: Path | None = None
    """JSON Lines, one per request; none: not written."""
    state_dir: Path = Path("runs/endpoints")
    """Where guardrail state, decisions and shadow differences are kept, in a folder named as the endpoint."""


class EndpointTrackingConfig(LabModel):
    """The endpoint as a run of MLflow, written by another process (`lab endpoints sync`)."""

    enabled: bool = False
    """Let `lab serve` start that process beside the endpoint; off, the history waits for the command."""
    every_s: float = Field(60.0, ge=1)
    """One sample of every variant in so much time, and one upload."""
    uri: str | None = None
    """MLflow tracking server or database; MLFLOW_TRACKING_URI wins. Default sqlite:///mlflow.db."""
    experiment: str = "lab-endpoints"


class EndpointConfig(LabModel):
    """The root: one endpoint with its production variants."""

    endpoint: str = Field(pattern=VARIANT_NAME)
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    workers: int = Field(1, ge=1, le=64)
    variants: tuple[VariantConfig, ...] = Field(default=(), max_length=11)
    routing: RoutingConfig = RoutingConfig()
    limits: LimitsConfig = LimitsConfig()
    security: SecurityConfig = SecurityConfig()
    data_capture: CaptureConfig = CaptureConfig()
    autoscaling: AutoscalingConfig = AutoscalingConfig()
    log: LogConfig = LogConfig()
    metrics_compat: Literal["none", "triton", "sagemaker"] = "none"
    """Also show metrics under the names of Triton or of SageMaker's CloudWatch."""
    guard: GuardConfig | None = None
    tracking: EndpointTrackingConfig = EndpointTrackingConfig()

    @model_validator(mode="after")
    def _variants_fit(self) -> Self:
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            raise ValueError("two variants have the same name")
        if self.variants and not any(v.weight > 0 for v in self.variants if not v.shadow):
            raise ValueError("no production variant has a weight above 0")
        control = self.guard.control if self.guard else None
        if self.variants and control is not None and control not in names:
            raise ValueError(f"guard.control '{control}' is none of the variants")
        return self

    @property
    def is_public(self) -> bool:
        """Whether other machines can reach the port."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True


def load_endpoint(path: Path, overrides: Sequence[str] = ()) -> EndpointConfig:
    """Read and check a configuration. Raises ConfigError naming file, line and the nearest key."""
    return build(read_source(path, overrides), EndpointConfig)


def check_threads(config: EndpointConfig) -> list[str]:
    """Complaints about threads: executor threads times engine threads times workers should not exceed the cores."""
    here = [variant for variant in config.variants if not variant.shadow and variant.remote is None]
    wanted = max((v.executor_threads * v.runtime_threads for v in here), default=0)
    total, cores = wanted * config.workers, num_cores()
    if total <= cores:
        return []
    return [
        f"{total} model threads ({config.workers} workers x {wanted}) on {cores} cores: they will wait for each other"
    ]


def check_exposure(config: EndpointConfig, *, insecure: bool) -> None:
    """Raises ConfigError when other machines could call without a token."""
    if config.is_public and not config.security.tokens and not insecure:
        raise ConfigError(
            f"refusing to serve on {config.host} without a token", expected="host: 127.0.0.1, or security.tokens",
            hint="add the SHA-256 of a token under security.tokens, or start with --insecure",
        )  # fmt: skip


def of_dict(data: dict[str, Any]) -> EndpointConfig:
    """What `model_dump(mode="json")` gave, in another process."""
    return EndpointConfig.model_validate(data)

"""The part of a variant's configuration that says where a model on another server is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from lab.config.base import LabModel
from lab.runtime.http_client import Client


class RemoteConfig(LabModel):
    """A model on another server, such as Triton, a KServe runtime, or an endpoint of this lab."""

    url: str = Field(pattern=r"^https?://")
    """oip: http://host:port/v2/models/NAME; sagemaker: what comes before /ping and /invocations."""
    protocol: Literal["oip", "sagemaker"] = "oip"
    timeout_s: float = Field(10.0, gt=0, le=3600)
    retries: int = Field(1, ge=0, le=5)
    """Where no connection could be made, or a kept one was closed before an answer began; never after a timeout."""
    health_s: float = Field(1.0, gt=0)
    """Between health checks of a server that could not be reached; until one succeeds others take its traffic."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Sent with every request, such as authorization."""
    forward: tuple[str, ...] = ("x-amzn-sagemaker-custom-attributes", "traceparent")
    """The client's own headers that go on (sagemaker; tensors of several clients share a request)."""

    @field_validator("forward")
    @classmethod
    def _lower(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.lower() for name in names)

    def client(self, timeout_s: float) -> Client:
        """A connection of its own. Raises ConfigError."""
        return Client(self.url, timeout_s, self.retries, self.headers)

"""Every path of the endpoint, on one screen."""

from __future__ import annotations

from lab.serve.app import AnswerError, Route, plain_error
from lab.serve.channel import Channel
from lab.serve.config import EndpointConfig
from lab.serve.inference import Inference
from lab.serve.protocols.oip_routes import OpenInference
from lab.serve.protocols.pages import Pages
from lab.serve.protocols.remote import Remote, control_error
from lab.serve.protocols.sagemaker import SageMaker, runtime_error
from lab.serve.table import Endpoints

_INVOKE, _ADMIN, _WATCH = ("invoke", "admin"), ("admin",), ("metrics", "admin")
_NAME, _VERSION = "/v2/models/*", "/v2/models/*/versions/*"


def routes(config: EndpointConfig, endpoints: Endpoints, inference: Inference, channel: Channel) -> list[Route]:
    """The worker's table; scopes are those of a token, where tokens are asked for."""
    aws, oip = SageMaker(config, endpoints, inference), OpenInference(endpoints, inference)
    remote, pages = Remote(channel), Pages()
    return [
        Route("GET", "/ping", aws.ping, ()),
        Route("POST", "/invocations", aws.container, _INVOKE, "container", counted=False),
        Route("GET", "/execution-parameters", aws.execution_parameters, _INVOKE),
        Route("POST", "/endpoints/*/invocations", aws.invoke, _INVOKE, "sagemaker", counted=False),
        Route("POST", "/endpoints/*/feedback", remote.feedback, _INVOKE),
        Route("GET", "/v2", oip.server, ()),
        Route("GET", "/v2/health/live", oip.live, ()),
        Route("GET", "/v2/health/ready", oip.ready, ()),
        Route("GET", _NAME, oip.metadata, _INVOKE, "oip"),
        Route("GET", _VERSION, oip.metadata, _INVOKE, "oip"),
        Route("GET", _NAME + "/ready", oip.model_ready, (), "oip"),
        Route("GET", _VERSION + "/ready", oip.model_ready, (), "oip"),
        Route("POST", _NAME + "/infer", oip.infer, _INVOKE, "oip", counted=False),
        Route("POST", _VERSION + "/infer", oip.infer, _INVOKE, "oip", counted=False),
        Route("POST", "/", remote.control, _ADMIN, "control"),
        Route("POST", "/endpoints/*/weights", remote.weights, _ADMIN),
        Route("POST", "/endpoints/*/rollout", remote.rollout, _ADMIN),
        Route("POST", "/endpoints/*/reload", remote.reload, _ADMIN),
        Route("GET", "/metrics", remote.metrics, _WATCH),
        Route("GET", "/state", remote.state, _WATCH),
        Route("GET", "/ui", pages.ui, ()),
        Route("GET", "/docs", pages.docs, ()),
        Route("GET", "/openapi.json", pages.openapi, ()),
    ]


def error_forms() -> dict[str, AnswerError]:
    """Each protocol's form of an error; all others have `plain_error`."""
    return {"sagemaker": runtime_error, "container": runtime_error, "control": control_error, "oip": plain_error}

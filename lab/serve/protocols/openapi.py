"""The endpoint's description in OpenAPI 3.1, built from one table."""

from __future__ import annotations

from typing import Any

from lab import __version__

_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}, "description": "a variant"}
_BODIES: dict[str, list[str]] = {
    "model": ["application/json", "application/jsonlines", "application/x-npy", "image/jpeg", "image/png", "image/webp",
              "application/x-image", "application/x-recordio-protobuf"],
    "infer": ["application/json", "application/octet-stream"], "json": ["application/json"],
    "aws": ["application/x-amz-json-1.1"], "": [],
}  # fmt: skip
_RUNTIME = ["Target-Variant", "Session-Id", "Inference-Id", "Custom-Attributes"]
_ERRORS = {
    "400": "malformed, or of the wrong shape", "401": "a token is needed", "403": "the token does not allow this",
    "404": "no such endpoint, variant or path", "408": "the body did not come in time", "413": "too large",
    "415": "a content type that is not understood", "424": "the model failed",
    "503": "the queue is full or the endpoint is going down; see Retry-After", "504": "the deadline passed",
}  # fmt: skip
# method, path, tag, body, what
_PATHS = (
    ("get", "/ping", "SageMaker container", "", "200 while the endpoint can answer"),
    ("post", "/invocations", "SageMaker container", "model", "Predict with the configuration's endpoint"),
    ("get", "/execution-parameters", "SageMaker container", "", "What batch transform asks first"),
    ("post", "/endpoints/{name}/invocations", "SageMaker runtime", "model", "InvokeEndpoint"),
    ("post", "/endpoints/{name}/feedback", "Outcomes", "json", '{"inference_id", "metric", "value"}: an outcome'),
    ("get", "/v2", "Open Inference Protocol", "", "Server metadata"),
    ("get", "/v2/health/live", "Open Inference Protocol", "", "The process answers"),
    ("get", "/v2/health/ready", "Open Inference Protocol", "", "Every endpoint can answer"),
    ("get", "/v2/models/{name}", "Open Inference Protocol", "", "Inputs, outputs and versions (variants)"),
    ("get", "/v2/models/{name}/ready", "Open Inference Protocol", "", "Whether it can answer"),
    ("post", "/v2/models/{name}/infer", "Open Inference Protocol", "infer", "Tensors in JSON or in binary"),
    ("post", "/v2/models/{name}/versions/{version}/infer", "Open Inference Protocol", "infer", "By one variant"),
    ("post", "/", "Control plane", "aws", "X-Amz-Target: SageMaker.CreateModel, CreateEndpointConfig, CreateEndpoint, "
     "DescribeEndpoint, ListEndpoints, UpdateEndpoint, UpdateEndpointWeightsAndCapacities, DeleteEndpoint, ..."),
    ("post", "/endpoints/{name}/weights", "Operation", "json", "{variant: weight}: set weights"),
    ("post", "/endpoints/{name}/rollout", "Operation", "json", '{"variant"}: begin to shift traffic to a variant'),
    ("post", "/endpoints/{name}/reload", "Operation", "json", '{"variant", "model"}: exchange a model'),
    ("get", "/metrics", "Operation", "", "Prometheus text"),
    ("get", "/state", "Operation", "", "What the live page shows"),
)  # fmt: skip


def document() -> dict[str, Any]:
    """The whole description."""
    paths: dict[str, Any] = {}
    for method, path, tag, body, what in _PATHS:
        paths.setdefault(path, {})[method] = _operation(method, path, tag, body, what)
    scheme = {"bearer": {"type": "http", "scheme": "bearer", "description": "where the configuration has tokens"}}
    return {
        "openapi": "3.1.0", "paths": paths, "components": {"securitySchemes": scheme}, "security": [{}, {"bearer": []}],
        "info": {"title": "lab endpoint", "version": __version__,
                 "description": "Weighted production variants behind SageMaker's and Triton's protocols."},
    }  # fmt: skip


def _operation(method: str, path: str, tag: str, body: str, what: str) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [one for one in (_NAME, _VERSION) if f"{{{one['name']}}}" in path]
    if path.endswith("/invocations"):
        parameters += [_header(f"X-Amzn-SageMaker-{name}") for name in _RUNTIME]
    if body == "infer":
        parameters.append(_header("Inference-Header-Content-Length"))
    if body == "aws":
        parameters.append(_header("X-Amz-Target"))
    operation: dict[str, Any] = {
        "summary": what, "tags": [tag], "operationId": f"{method}{path}".translate(str.maketrans("/{}-", "____")),
        "parameters": parameters,
        "responses": {"200": {"description": "done"}} | {code: {"description": text} for code, text in _ERRORS.items()},
    }  # fmt: skip
    if body:
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": {}} for kind in _BODIES[body]}}
    return operation


def _header(name: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string"}}

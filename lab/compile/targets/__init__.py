"""The machines a model can be compiled for: "x86", "x86:znver4", "arm", "arm:cortex-a53", "cuda", "cuda:sm_90"."""

from lab.compile.targets.target import Target
from lab.core.tables import LazyTable

TARGETS = LazyTable(
    "target",
    {
        "x86": "lab.compile.targets.x86:resolve",
        "arm": "lab.compile.targets.arm:resolve",
        "cuda": "lab.compile.targets.cuda:resolve",
    },
)


def resolve_target(name: str, precision: str = "float32") -> Target:
    """The target called `name`: a family, or "family:model".

    Raises:
        ConfigError: unknown family or model, or a precision it does not have; the message lists what there is.
    """
    family, _, model = name.partition(":")
    target: Target = TARGETS[family](model or None)
    return target.with_precision(precision)


__all__ = ["TARGETS", "Target", "resolve_target"]

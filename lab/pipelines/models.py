"""A task's model in PyTorch, whole, beside the artifacts that `lab.runtime.models` opens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lab.core.interfaces import Runner
from lab.core.signature import Signature
from lab.runtime.models import assemble
from lab.tasks import loop

if TYPE_CHECKING:
    from torch import nn


def eager_model(task: Any, model: nn.Module, *, num_threads: int | None = None, torch_compile: bool = False) -> Runner:
    """A task's model in evaluation mode, as it is or through torch.compile."""
    from lab.runtime.eager_runner import EagerRunner

    modules = task.export_modules(model.eval())

    def open_function(name: str, signature: Signature) -> Runner:
        return EagerRunner(modules[name], signature, num_threads=num_threads, torch_compile=torch_compile)

    of_task = loop(task.config.task, task.preprocessing) if task.functions else None
    return assemble(open_function, task.signature, task.functions, of_task)

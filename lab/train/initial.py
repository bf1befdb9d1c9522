"""The model that training starts from: fresh, published, or that of an earlier run."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from lab.artifacts.rundir import find_run
from lab.config.run import RunConfig
from lab.core.errors import ArtifactError
from lab.core.progress import say
from lab.nn.learning import LearningTask
from lab.train.distributed import is_leader
from lab.train.weights import read_tensors

PUBLISHED = "torchvision/"


def initial_model(task: LearningTask, config: RunConfig) -> nn.Module:
    """The task's model with the weights that `config.init_from` names.

    Raises:
        ConfigError: no such published model.
        ArtifactError: no such run, or the weights are of another architecture.
    """
    if config.init_from is None:
        return task.build_model()
    model = task.build_model(pretrained=False)
    if config.init_from.startswith(PUBLISHED):
        weights = task.published(config.init_from.removeprefix(PUBLISHED))
    else:
        weights = read_tensors(find_run(config.init_from, config.runs_dir, config.task).weights)
    fresh = fill(model, weights, config.init_from)
    if is_leader():
        say(f"starting from {config.init_from}" + (f"; fresh: {', '.join(fresh)}" if fresh else ""))
    return model


def fill(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> list[str]:
    """Copy `weights` into `model`; those of another shape stay as they are, and their names are returned.

    With another number of classes the last layers differ in shape and nothing else does.

    Raises:
        ArtifactError: a name is missing or unknown, or most of the tensors have another shape.
    """
    own = model.state_dict()
    strange = [f"missing {name}" for name in own if name not in weights]
    strange += [f"unknown {name}" for name in weights if name not in own]
    fresh = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if strange or 2 * len(fresh) > len(own):
        shapes = [f"{name} is {list(weights[name].shape)}, not {list(own[name].shape)}" for name in fresh]
        raise ArtifactError(
            f"the weights of {source} are of another architecture",
            got="; ".join((strange + shapes)[:4]),
            expected=f"the {len(own)} tensors of {type(model).__name__}",
            hint="configure the same model, and the same number of classes, as those weights have",
        )
    model.load_state_dict({name: own[name] if name in fresh else weights[name] for name in own})
    return fresh

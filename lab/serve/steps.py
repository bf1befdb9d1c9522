"""Inference pipelines (EP-55): a variant of two to fifteen models in sequence, served as one.

Tensors go from step to step in memory. What a pipeline is to its clients, its ends decide: the first step's
preprocessing reads images, the labels and the task of the last step that has a task write answers, where both are of
one task and the pipeline still ends in that task's outputs; otherwise it takes and gives tensors by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lab.artifacts.manifest import Manifest
from lab.core.errors import ConfigError
from lab.core.signature import Signature
from lab.runtime.pipeline import connect


def pipeline_manifest(manifests: Sequence[Manifest], wires: Sequence[Mapping[str, str]]) -> Manifest:
    """One manifest for the whole.

    Raises:
        ConfigError: steps that do not fit together, or a program, whose loop is no step.
    """
    for number, manifest in enumerate(manifests, start=1):
        if manifest.functions:
            raise ConfigError(
                f"step {number} ({manifest.name}) is a program of several functions and cannot be a step",
                got=", ".join(manifest.functions), expected="models of one call", hint="serve it as a variant's model",
            )  # fmt: skip
    names = [manifest.name for manifest in manifests]
    signature = connect([manifest.signature for manifest in manifests], names, wires).signature
    first, last = manifests[0], manifests[-1]
    ends_in = _end_of_task(manifests, signature)
    kept: dict[str, Any] = {"task": None, "labels": (), "preprocessing": {}}
    if ends_in is not None:
        kept = {"task": first.task, "labels": ends_in.labels, "preprocessing": first.preprocessing}
    return replace(last, name=" > ".join(names), signature=signature, **kept)


def _end_of_task(manifests: Sequence[Manifest], signature: Signature) -> Manifest | None:
    """The step whose task the whole answers for; None where it takes and gives tensors."""
    tasks = [manifest for manifest in manifests if manifest.task is not None]
    if manifests[0].task is None or any(manifest.task != manifests[0].task for manifest in tasks):
        return None
    wanted = {spec.name: (spec.dtype, spec.shape[1:]) for spec in tasks[-1].signature.outputs}
    there = {spec.name: (spec.dtype, spec.shape[1:]) for spec in signature.outputs}
    return tasks[-1] if wanted.items() <= there.items() else None

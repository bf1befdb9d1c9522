"""Several models in sequence as one: each step's outputs are the next one's inputs, in memory, without a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lab.core.errors import ConfigError
from lab.core.interfaces import Arrays, Runner
from lab.core.signature import Dim, Signature, TensorSpec

Symbol = tuple[int, str]
"""(step, dimension): names of dimensions mean something within one step only."""


@dataclass(frozen=True)
class Connected:
    """`signature` of the whole; `sources[i]` names, for each input of step i + 1, the output of step i it takes."""

    signature: Signature
    sources: tuple[dict[str, str], ...]


def connect(signatures: Sequence[Signature], names: Sequence[str], wires: Sequence[Mapping[str, str]]) -> Connected:
    """Find out how steps fit together.

    An input takes the output that `wires` names, else the one of its own name, else the only one there is. A dimension
    that varies on one side and is fixed on the other becomes fixed, through the whole pipeline.

    Args:
        names: of the steps, for messages.
        wires: per step, input -> output of the step before; the first step's is empty.

    Raises:
        ConfigError: an input without an output, a wire to what is not there, or tensors that do not fit.
    """
    dims, sources = _Dims(), []
    for step, signature in enumerate(signatures):
        told = f"step {step + 1} ({names[step]})"
        if step == 0:
            if wires[0]:
                raise ConfigError(f"{told} has no step before it", got=f"inputs: {dict(wires[0])}")
            continue
        outputs = {spec.name: spec for spec in signatures[step - 1].outputs}
        _check_wires(told, signature, outputs, wires[step])
        chosen = {spec.name: _source(told, spec, signature, outputs, wires[step]) for spec in signature.inputs}
        for spec in signature.inputs:
            _fit(told, step, spec, outputs[chosen[spec.name]], dims)
        sources.append(chosen)
    last = len(signatures) - 1
    names_of = dims.names()
    whole = Signature(
        tuple(_resolved(spec, 0, dims, names_of) for spec in signatures[0].inputs),
        tuple(_resolved(spec, last, dims, names_of) for spec in signatures[last].outputs),
    )
    return Connected(whole, tuple(sources))


def _check_wires(told: str, signature: Signature, outputs: Mapping[str, TensorSpec], wires: Mapping[str, str]) -> None:
    inputs = [spec.name for spec in signature.inputs]
    for name, source in wires.items():
        if name not in inputs:
            raise ConfigError(f"{told} has no input '{name}'", expected=", ".join(inputs))
        if source not in outputs:
            raise ConfigError(f"the step before {told} has no output '{source}'", expected=", ".join(outputs))


def _source(
    told: str, spec: TensorSpec, signature: Signature, outputs: Mapping[str, TensorSpec], wires: Mapping[str, str]
) -> str:
    if spec.name in wires or spec.name in outputs:
        return wires.get(spec.name, spec.name)
    if len(outputs) == 1 and len(signature.inputs) == 1:
        return next(iter(outputs))
    raise ConfigError(
        f"nothing feeds the input '{spec.name}' of {told}", got=f"outputs {', '.join(outputs)} of the step before",
        hint=f"name one in the configuration: inputs: {{{spec.name}: OUTPUT}}",
    )  # fmt: skip


def _fit(told: str, step: int, spec: TensorSpec, source: TensorSpec, dims: _Dims) -> None:
    """Raises ConfigError when an output cannot be the input of the next step."""
    reason = ""
    if spec.dtype != source.dtype:
        reason = "dtype"
    elif len(spec.shape) != len(source.shape):
        reason = "number of dimensions"
    elif not all(
        dims.unify((step - 1, before), (step, after)) for before, after in zip(source.shape, spec.shape, strict=True)
    ):
        reason = "shape"
    if reason:
        raise ConfigError(
            f"the output '{source.name}' does not fit the input '{spec.name}' of {told}: another {reason}",
            got=f"{source.dtype}{list(source.shape)}", expected=f"{spec.dtype}{list(spec.shape)}",
            hint="put a step between them that converts it, or export one of the two with the other's shape",
        )  # fmt: skip


class _Dims:
    """Dimensions that must be equal, and the sizes of those that are fixed (union-find; the earliest step names)."""

    def __init__(self) -> None:
        self._parents: dict[Symbol, Symbol] = {}
        self._sizes: dict[Symbol, int] = {}

    def root(self, symbol: Symbol) -> Symbol:
        self._parents.setdefault(symbol, symbol)
        while self._parents[symbol] != symbol:
            symbol = self._parents[symbol]
        return symbol

    def unify(self, one: tuple[int, Dim], other: tuple[int, Dim]) -> bool:
        """False when the two can never be equal."""
        sizes = [self.size(*one), self.size(*other)]
        if None not in sizes:
            return sizes[0] == sizes[1]
        fixed = next((size for size in sizes if size is not None), None)
        roots = sorted(self.root((step, dim)) for step, dim in (one, other) if isinstance(dim, str))
        for root in roots[1:]:
            self._parents[root] = roots[0]
        if fixed is not None:
            self._sizes[roots[0]] = fixed
        return True

    def size(self, step: int, dim: Dim) -> int | None:
        """None for one that varies."""
        return dim if isinstance(dim, int) else self._sizes.get(self.root((step, dim)))

    def names(self) -> dict[Symbol, str]:
        """A name for each that is known; two that are not the same never share one."""
        found: dict[Symbol, str] = {}
        for root in sorted({self.root(symbol) for symbol in self._parents}):
            found[root] = _free(root[1], set(found.values()))
        return found


def _free(name: str, taken: set[str]) -> str:
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _resolved(spec: TensorSpec, step: int, dims: _Dims, names: dict[Symbol, str]) -> TensorSpec:
    shape: list[Dim] = []
    for dim in spec.shape:
        size, root = dims.size(step, dim), dims.root((step, str(dim)))
        if size is None and root not in names:
            names[root] = _free(root[1], set(names.values()))
        shape.append(names[root] if size is None else size)
    return TensorSpec(spec.name, spec.dtype, tuple(shape))


class PipelineRunner:
    """Runners in sequence behind the Runner protocol. Not thread-safe: one per thread.

    Raises:
        ConfigError: as `connect`.
    """

    def __init__(
        self, runners: Sequence[Runner], names: Sequence[str] = (), wires: Sequence[Mapping[str, str]] = ()
    ) -> None:
        self.runners = tuple(runners)
        names = names or [runner.name for runner in runners]
        connected = connect([r.signature for r in runners], names, wires or [{}] * len(self.runners))
        self.signature, self._sources = connected.signature, connected.sources
        self.name = " > ".join(runner.name for runner in runners)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run every step once; each checks its own inputs and outputs. Raises DataError when they do not fit."""
        values = self.runners[0].run(inputs)
        for runner, sources in zip(self.runners[1:], self._sources, strict=True):
            values = runner.run({name: values[source] for name, source in sources.items()})
        return values

    def close(self) -> None:
        """Release every step; calling again does nothing."""
        for runner in self.runners:
            runner.close()

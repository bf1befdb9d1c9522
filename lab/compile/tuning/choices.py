"""Which kernel is meant: the canonical identity under which a choice is kept, and the choices that one compile uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm_ffi
from tvm.s_tir.stmt import SBlock
from tvm.tirx import PrimFunc
from tvm_ffi.structural import structural_map

from lab.compile.tuning.decisions import Choice, Decisions

ROOT = "root"
CONSTANT = " const"


@dataclass(frozen=True)
class Identity:
    """One kernel, whoever's model it is part of.

    `kernel` names its operators with what is fused behind them, `arguments` are shapes and types ("const" where weights
    are known when compiled), `body` tells apart what neither says: strides, padding, dilation.
    """

    kernel: str
    arguments: tuple[str, ...]
    body: str

    def __str__(self) -> str:
        return f"{self.kernel} [{'; '.join(self.arguments)}]"


def identity_of(func: PrimFunc, constant_args: Iterable[int] = ()) -> Identity:
    """Of a kernel before it is scheduled; names of variables and of the kernel do not matter."""
    names: list[str] = []

    def on_block(block: Any) -> Any:
        if str(block.name_hint) != ROOT:
            names.append(str(block.name_hint))
        return block

    structural_map(func.body, (SBlock, on_block))
    constants = set(constant_args)
    arguments = tuple(
        describe(param.shape, param.dtype, i in constants) if hasattr(param, "shape") else str(param.ty)
        for i, param in enumerate(func.params)
    )
    plain = func.without_attr("global_symbol") if func.attrs and "global_symbol" in func.attrs else func
    body = tvm_ffi.structural_hash(plain) & (2**64 - 1)
    return Identity(", ".join(names) or "opaque", arguments, f"{body:016x}")


def describe(shape: Iterable[Any], dtype: object, is_constant: bool = False) -> str:
    """ "1x56x56x64 float32", "3x3x64x64 float32 const"."""
    dims = "x".join(str(getattr(dim, "value", dim)) for dim in shape)
    return f"{dims or 'scalar'} {dtype}{CONSTANT if is_constant else ''}"


class Choices:
    """The choices that one compile uses, and what came of them; without any, rules decide everything.

    Operators are replaced before they are fused into kernels, so a choice made there is found again by the weights that
    the kernel is given.
    """

    def __init__(self, known: Mapping[Identity, Choice] | None = None) -> None:
        self.known = dict(known or {})
        self.decisions: dict[str, Decisions] = {}
        """By kernel, or by the text of an operator's identity: what was decided, for the tuner."""

        self._by_weights: dict[int, Choice] = {}

    def get(self, identity: Identity) -> Choice | None:
        return self.known.get(identity)

    def mark(self, weights: Any, choice: Choice) -> None:
        """Remember that the operator with these weights (a constant) is what `choice` says."""
        self._by_weights[_address(weights)] = choice

    def marked(self, constants: Iterable[Any]) -> Choice | None:
        """The choice behind a kernel that is called with these constants."""
        if not self._by_weights:
            return None
        return next((self._by_weights[at] for each in constants if (at := _address(each)) in self._by_weights), None)


def _address(constant: Any) -> int:
    return int(np.from_dlpack(constant.value).ctypes.data)

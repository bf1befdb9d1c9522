"""Moving traffic between variants. Weights are relative: a variant's share is its weight over their sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Weights = dict[str, float]


def shares_of(weights: Mapping[str, float]) -> Weights:
    """Every variant's share of the traffic; all 0 when no variant has a weight."""
    total = sum(weights.values())
    return {name: weight / total if total > 0.0 else 0.0 for name, weight in weights.items()}


def split_pair(weights: Mapping[str, float], candidate: str, control: str, share: float) -> Weights:
    """The candidate gets `share` of what both have together; other variants keep theirs."""
    both = weights[candidate] + weights[control]
    return {**weights, candidate: both * share, control: both * (1.0 - share)}


def move_all(weights: Mapping[str, float], source: str, targets: Sequence[str]) -> Weights:
    """All of `source`'s weight to `targets`, in proportion to their own weights, equally where they have none."""
    moved, held = weights[source], sum(weights[name] for name in targets)
    new = {**weights, source: 0.0}
    for name in targets:
        new[name] += moved * (weights[name] / held if held > 0.0 else 1.0 / len(targets))
    return new

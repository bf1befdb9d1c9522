"""Steps in sequence: what feeds what, dimensions through the whole, and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from lab.core.errors import ConfigError, DataError
from lab.core.interfaces import Arrays
from lab.core.signature import Signature, TensorSpec
from lab.runtime.null_runner import NullRunner
from lab.runtime.pipeline import PipelineRunner, connect


def spec(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def signature(inputs: list[TensorSpec], outputs: list[TensorSpec]) -> Signature:
    return Signature(tuple(inputs), tuple(outputs))


class Scale:
    """Multiplies its one input."""

    name = "scale"

    def __init__(self, factor: float, source: str, target: str) -> None:
        self.signature = signature([spec(source, "batch", 3)], [spec(target, "batch", 3)])
        self.factor, self.source, self.target, self.closed = factor, source, target, False

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        self.signature.check_inputs(inputs)
        return {self.target: inputs[self.source] * np.float32(self.factor)}

    def close(self) -> None:
        self.closed = True


def test_steps_run_in_sequence_and_are_closed_together() -> None:
    steps = [Scale(2.0, "x", "y"), Scale(5.0, "y", "z"), Scale(0.5, "anything", "last")]
    pipeline = PipelineRunner(steps)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(pipeline.run({"x": x})["last"], 5.0 * x)
    assert pipeline.signature == signature([spec("x", "batch", 3)], [spec("last", "batch", 3)])
    assert pipeline.name == "scale > scale > scale"
    with pytest.raises(DataError, match="wrong shape"):
        pipeline.run({"x": x[:, :2]})
    pipeline.close()
    assert all(step.closed for step in steps)


def test_inputs_find_their_outputs_by_wire_then_name_then_being_the_only_one() -> None:
    first = signature([spec("x", "n")], [spec("a", "n"), spec("b", "n")])
    second = signature([spec("b", "m"), spec("c", "m")], [spec("sum", "m")])
    connected = connect([first, second], ["first", "second"], [{}, {"c": "a"}])
    assert connected.sources == ({"b": "b", "c": "a"},)
    swapped = connect([first, second], ["first", "second"], [{}, {"c": "b", "b": "a"}])
    assert swapped.sources == ({"b": "a", "c": "b"},)
    assert swapped.signature == signature([spec("x", "n")], [spec("sum", "n")])


def test_a_fixed_dimension_holds_for_the_whole_and_others_stay_apart() -> None:
    steps = [
        signature([spec("image", "batch", 3, "h", "w")], [spec("y", "batch", "h")]),
        signature([spec("y", 1, "k")], [spec("z", 1, "k"), spec("w", "k", "free")]),
        signature([spec("w", "batch", "h")], [spec("out", "batch", "h", "new")]),
    ]
    whole = connect(steps, ["a", "b", "c"], [{}, {}, {}]).signature
    # The last step's "batch" is the first one's height; its "h" is nothing that the first step knows.
    assert whole.inputs == (spec("image", 1, 3, "h", "w"),)
    assert whole.outputs[0].shape[0] == "h"
    assert whole.outputs[0].shape[1] == "free"
    names = [dim for found in (*whole.inputs, *whole.outputs) for dim in found.shape if isinstance(dim, str)]
    assert len(set(names)) == 4  # h, w, free, new


@pytest.mark.parametrize(
    ("second", "wires", "message"),
    [
        (signature([spec("y", "b", 4)], [spec("z", "b")]), {}, "another shape"),
        (signature([spec("y", "b", 3, 1)], [spec("z", "b")]), {}, "another number of dimensions"),
        (signature([spec("y", "b", 3, dtype="int64")], [spec("z", "b")]), {}, "another dtype"),
        (signature([spec("p", "b", 3), spec("q", "b", 3)], [spec("z", "b")]), {}, "nothing feeds the input 'p'"),
        (signature([spec("y", "b", 3)], [spec("z", "b")]), {"p": "y"}, "has no input 'p'"),
        (signature([spec("y", "b", 3)], [spec("z", "b")]), {"y": "logits"}, "has no output 'logits'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(second: Signature, wires: dict[str, str], message: str) -> None:
    first = signature([spec("x", "batch", 3)], [spec("y", "batch", 3)])
    with pytest.raises(ConfigError, match=message) as caught:
        connect([first, second], ["net", "head"], [{}, wires])
    assert "step 2 (head)" in str(caught.value)


def test_a_contradiction_far_apart_is_found() -> None:
    chain = [
        signature([spec("x", "n")], [spec("y", "n")]),
        signature([spec("y", 4)], [spec("y", 4)]),
        signature([spec("y", "n")], [spec("y", "n")]),
        signature([spec("y", 5)], [spec("y", 5)]),
    ]
    with pytest.raises(ConfigError, match=r"step 4 \(d\): another shape"):
        connect(chain, list("abcd"), [{}] * 4)
    with pytest.raises(ConfigError, match="has no step before it"):
        connect(chain[:2], ["a", "b"], [{"x": "y"}, {}])


def test_null_runners_make_a_pipeline() -> None:
    first = signature([spec("x", "batch", 3)], [spec("y", "batch", 3)])
    pipeline = PipelineRunner([NullRunner(first), NullRunner(signature([spec("y", 2, 3)], [spec("z", 2, 7)]))])
    assert pipeline.run({"x": np.ones((2, 3), np.float32)})["z"].shape == (2, 7)
    with pytest.raises(DataError):
        pipeline.run({"x": np.ones((3, 3), np.float32)})

"""The deployment half: signature, records, scores; without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.core.errors import DataError
from lab.tasks.classification import deploy
from tests.tiny import class_score

LABELS = ("ant", "bee", "cat", "dog", "eel")


def test_signature() -> None:
    signature = deploy.signature((3, 5, 7), 11)
    assert signature.inputs[0].to_dict() == {"name": "image", "dtype": "float32", "shape": ["batch", 3, 5, 7]}
    assert signature.outputs[0].to_dict() == {"name": "logits", "dtype": "float32", "shape": ["batch", 11]}
    inputs = deploy.preprocess([np.zeros((5, 7, 3), np.uint8)], {"shape": [3, 5, 7], "multi_label": True})
    assert signature.check_inputs(inputs) == {"batch": 1}


def test_records_hold_probabilities_by_hand() -> None:
    logits = np.log(np.array([[0.1, 0.5, 0.2, 0.15, 0.05]], np.float32))
    (record,) = deploy.postprocess({"logits": logits}, LABELS, top_k=2)
    assert record["label"] == "bee"
    assert record["probability"] == pytest.approx(0.5)
    assert [item["label"] for item in record["top"]] == ["bee", "cat"]
    assert record["probabilities"] == pytest.approx([0.1, 0.5, 0.2, 0.15, 0.05])
    assert json.loads(json.dumps(record)) == record


def test_multi_label_records() -> None:
    outputs = {"logits": np.array([[0.0, -1.0, 2.0, -9.0, -9.0]], np.float32)}
    (record,) = deploy.postprocess(outputs, LABELS, preprocessing={"multi_label": True})
    assert record["labels"] == ["ant", "cat"]
    assert record["probabilities"][:2] == pytest.approx([0.5, 1 / (1 + np.e)])


def test_labels_must_fit() -> None:
    with pytest.raises(DataError, match="labels do not fit"):
        deploy.postprocess({"logits": np.zeros((1, 3), np.float32)}, LABELS)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=9), st.floats(-1e3, 1e3, width=32))
def test_softmax_is_a_distribution_and_ignores_a_shift(values: list[float], shift: float) -> None:
    logits = np.array([values], np.float64)
    probabilities = deploy.softmax(logits)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(deploy.softmax(logits + shift), probabilities, atol=1e-5)
    both = deploy.sigmoid(logits) + deploy.sigmoid(-logits)
    np.testing.assert_allclose(both, 1, atol=1e-6)


def test_scores_by_hand() -> None:
    outputs = {"logits": np.array([[3, 2, 1], [3, 2, 1], [1, 2, 3], [2, 3, 1]], np.float32)}
    assert class_score(outputs, np.array([0, 1, 2, 2]), top_k=2) == {"accuracy": 0.5, "top_2_accuracy": 0.75}
    assert class_score(outputs, np.array([0, 0, 2, 1])) == {"accuracy": 1.0}
    multi_hot = np.array([[1, 0, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1]], np.float32)
    assert class_score(outputs, multi_hot) == {"accuracy": pytest.approx(10 / 12)}
    with pytest.raises(DataError, match="differ in number"):
        class_score(outputs, np.array([0]))


def test_agreement() -> None:
    first = {"logits": np.array([[1, 2], [2, 1]], np.float32)}
    second = {"logits": np.array([[1, 9], [1, 2]], np.float32)}
    assert deploy.agreement(first, second) == 0.5


def test_importing_it_loads_no_torch(repo: Path) -> None:
    modules = "lab.tasks.classification.deploy, lab.tasks.classification.config, lab.data.resolve, lab.data.check"
    heavy = "('torch', 'torchvision', 'matplotlib', 'lightning', 'mlflow', 'tvm')"
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_scored_is_an_error() -> None:
    with pytest.raises(DataError, match="nothing to score"):
        deploy.scorer(LABELS, {}).compute()


def test_responses_are_the_endpoints() -> None:
    logits = np.log(np.array([[0.1, 0.5, 0.2, 0.15, 0.05]], np.float32))
    (prediction,) = deploy.postprocess({"logits": logits}, LABELS)
    assert json.loads(deploy.respond(prediction)) == pytest.approx([0.1, 0.5, 0.2, 0.15, 0.05])
    line = deploy.respond(prediction, "application/jsonlines")
    assert line.endswith(b"\n")
    assert json.loads(line)["prediction"] == pytest.approx([0.1, 0.5, 0.2, 0.15, 0.05])
    with pytest.raises(DataError, match="application/jsonlines"):
        deploy.respond(prediction, "text/csv")

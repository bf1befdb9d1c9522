"""What every task promises, whatever it is. A new task adds one entry to CASES."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lab.config.load import build, parse_source
from lab.core.compare import difference
from lab.data.dataset import Sample
from lab.pipelines.evaluate import feeds, score_runner
from lab.pipelines.models import eager_model
from lab.pipelines.parity import Judge, climb
from lab.runtime.models import assemble
from lab.tasks import CONFIGS, DEPLOY, LEARN, loop
from lab.train.weights import load_weights, save_weights
from tests.tasks.detection import tiny as tiny_boxes
from tests.tasks.forecasting import tiny as tiny_series
from tests.tasks.segmentation import tiny as tiny_masks
from tests.tasks.seq2seq import tiny as tiny_pairs
from tests.tiny import tiny_config, write_tiny_idx


def classification(folder: Path) -> dict[str, Any]:
    write_tiny_idx(folder)
    return tiny_config(folder)


def detection(folder: Path) -> dict[str, Any]:
    return tiny_boxes.tiny_config(tiny_boxes.write_tiny_coco(folder))


def segmentation(folder: Path) -> dict[str, Any]:
    return tiny_masks.tiny_config(tiny_masks.write_tiny_masks(folder))


def forecasting(folder: Path) -> dict[str, Any]:
    return tiny_series.tiny_config(tiny_series.write_tiny_series(folder))


def seq2seq(folder: Path) -> dict[str, Any]:
    return tiny_pairs.tiny_config(tiny_pairs.write_tiny_tsv(folder))


def perfect_classes(task: Any, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    targets = [sample.label for sample in samples]
    return {"logits": np.eye(len(task.labels), dtype="float32")[targets] * 9}


@dataclass(frozen=True)
class Case:
    """A tiny configuration of a task, written below a folder, and the outputs of a model that is always right."""

    raw: Callable[[Path], dict[str, Any]]
    perfect: Callable[[Any, Sequence[Sample]], dict[str, np.ndarray]]
    learning_rate: float = 0.05
    """With which SGD overfits one batch."""
    best: float = 1.0
    """The monitored metric of a model that is always right."""


CASES = {
    "classification": Case(classification, perfect_classes),
    "detection": Case(detection, tiny_boxes.perfect_boxes, learning_rate=0.005),
    "segmentation": Case(segmentation, tiny_masks.perfect_masks),
    "seq2seq": Case(seq2seq, tiny_pairs.perfect_outputs, learning_rate=0.5),
    "forecasting": Case(forecasting, tiny_series.perfect_samples, best=0.0),
}


def test_every_task_has_a_case() -> None:
    assert set(CASES) == set(CONFIGS)


@pytest.fixture(params=sorted(CASES), scope="module")
def task(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    raw = CASES[request.param].raw(tmp_path_factory.mktemp(request.param))
    config = build(parse_source(yaml.safe_dump(raw), "case"), CONFIGS[request.param])
    return LEARN[request.param](config)


def first_batch(task: Any, *, training: bool) -> Any:
    loader = task.train_loader() if training else task.eval_loader("validation")
    return task.on_device(next(iter(loader)), training=training, seed=7)


def test_every_trainable_parameter_gets_a_gradient(task: Any) -> None:
    model = task.build_model().train()
    task.step(model, first_batch(task, training=True))["loss"].backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


def test_initial_weights_depend_on_the_seed_only(task: Any) -> None:
    first = task.build_model().state_dict()
    torch.rand(3)
    second = task.build_model().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_loss_falls_on_one_batch(task: Any) -> None:
    model = task.build_model().train()
    batch = first_batch(task, training=True)
    learning_rate = CASES[task.config.task].learning_rate
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = task.step(model, batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_evaluation_is_deterministic(task: Any) -> None:
    model = task.build_model().eval()
    with torch.inference_mode():
        losses = [float(task.step(model, first_batch(task, training=False))["loss"]) for _ in range(2)]
    assert losses[0] == losses[1]


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_epoch_gives_the_same_batches(task: Any) -> None:
    def batches(epoch: int) -> list[Any]:
        loader = task.train_loader()
        loader.set_epoch(epoch)
        return list(loader)

    assert all(equal(a, b) for a, b in zip(batches(3), batches(3), strict=True))
    assert not all(equal(a, b) for a, b in zip(batches(3), batches(4), strict=True))


def test_a_loader_resumed_in_the_middle_yields_the_rest(task: Any) -> None:
    loader = task.train_loader()
    loader.set_epoch(2)
    whole = list(loader)
    loader.set_epoch(2)
    stream = iter(loader)
    next(stream)
    state = loader.state_dict()
    resumed = task.train_loader()
    resumed.load_state_dict(state)
    rest = list(resumed)
    assert len(resumed) == len(whole)
    assert all(equal(a, b) for a, b in zip(rest, whole[1:], strict=True))


def test_saved_weights_load_exactly(task: Any, tmp_path: Path) -> None:
    model = task.build_model()
    save_weights(model, tmp_path / "m.safetensors")
    other = task.build_model(pretrained=False)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    load_weights(other, tmp_path / "m.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_perfect_predictions_score_the_maximum(task: Any) -> None:
    dataset, deploy = task.eval_dataset("validation"), DEPLOY[task.config.task]
    samples = [dataset[index] for index in range(6)]
    perfect = CASES[task.config.task].perfect(task, samples)
    scorer = deploy.scorer(task.labels, task.preprocessing, **task.score_options())
    scorer.update(perfect, samples)
    assert scorer.compute()[task.monitor] == pytest.approx(CASES[task.config.task].best, abs=1e-6)
    assert deploy.agreement(perfect, perfect) == 1.0


def test_deployment_preprocessing_equals_the_training_loaders(task: Any) -> None:
    """One drift here and a served model is worse than its evaluation said."""
    batch = first_batch(task, training=False)
    dataset, deploy = task.eval_dataset("validation"), DEPLOY[task.config.task]
    first = batch[task.signature.inputs[0].name]
    inputs = [dataset[index].input for index in range(min(len(dataset), len(first)))]
    served = deploy.preprocess(inputs, task.preprocessing)
    for spec in task.signature.inputs:
        rows = batch[spec.name].contiguous().numpy()
        # An image may be several rows: windows.
        assert difference(served[spec.name][: len(rows)], rows).max_abs <= 1e-5, spec.name


def export(task: Any, model: Any, folder: Path) -> dict[str, Path]:
    from lab.export.onnx_export import export_onnx

    modules, signatures = task.export_modules(model), task.functions or {"main": task.signature}
    return {
        name: export_onnx(modules[name], signature, folder / f"{name}.onnx", opset=18)
        for name, signature in signatures.items()
    }


def test_export_is_equal_at_two_batch_sizes(task: Any, tmp_path: Path) -> None:
    from lab.runtime.onnx_runner import OnnxRunner

    model, deploy = task.build_model().eval(), DEPLOY[task.config.task]
    files = export(task, model, tmp_path)
    eager = eager_model(task, model, num_threads=1)
    whole = loop(task.config.task, task.preprocessing) if task.functions else None
    exported = assemble(
        lambda name, signature: OnnxRunner(files[name], num_threads=1, signature=signature),
        task.signature,
        task.functions,
        whole,
    )
    judge = Judge(deploy, task.labels, task.preprocessing, task.score_options())
    for batch in (1, 5):
        if task.functions:
            feed = next(feeds(task, deploy, "validation", batch_size=batch))[0]
        else:
            feed = task.signature.example_inputs({"batch": batch}, seed=batch)
        rung = climb(eager, exported, [(feed, None)], tolerance=1e-4, judge=judge).rung
        assert rung.status == "passed", rung.reason


def test_the_exported_file_carries_no_path_of_its_builder(task: Any, tmp_path: Path) -> None:
    for path in export(task, task.build_model().eval(), tmp_path).values():
        assert b"/lab/tasks/" not in path.read_bytes()


def test_scoring_a_runner_agrees_with_the_metric_of_training(task: Any) -> None:
    model = task.build_model().eval()
    runner = eager_model(task, model, num_threads=1)
    scores, _ = score_runner(runner, task, DEPLOY[task.config.task], "validation", batch_size=7)
    metrics = task.metrics()
    with torch.inference_mode():
        for raw in task.eval_loader("validation"):
            batch = task.on_device(raw, training=False, seed=0)
            task.update_metrics(metrics, task.step(model, batch), batch)
    assert scores[task.monitor] == pytest.approx(float(metrics.compute()[task.monitor]), abs=1e-6)

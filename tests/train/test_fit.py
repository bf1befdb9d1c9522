"""What `fit` writes, returns and refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lab.core import progress
from lab.core.errors import ConfigError, DataError, TrainingError
from lab.train.weights import load_weights
from tests.train.conftest import Lab
from tests.train.fake_task import FakeTask, ListTracker, fake_config


def evaluate(task: FakeTask, model: nn.Module) -> float:
    """Validation accuracy by hand."""
    x_NCHW, y_N = task.validation
    with torch.no_grad():
        return float((model.eval()(x_NCHW).argmax(1) == y_N).float().mean())


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_final_weights_score_what_the_result_says(lab: Lab, ema_decay: float | None) -> None:
    config = fake_config(train={"epochs": 4, "ema_decay": ema_decay})
    result = lab.fit("run", config)
    task = FakeTask(config)
    model = task.build_model()
    load_weights(model, lab.dir("run").weights)
    accuracies = [line["validation/accuracy"] for line in result.history]
    assert result.best_metric == max(accuracies)
    assert result.best_epoch == 1 + accuracies.index(max(accuracies))
    assert evaluate(task, model) == pytest.approx(result.best_metric, abs=1e-6)
    assert result.metrics["validation/accuracy"] == result.best_metric
    assert result.metrics["validation/loss"] == result.history[result.best_epoch - 1]["validation/loss"]
    assert (result.status, result.num_epochs, result.stopped_early) == ("finished", 4, False)
    assert result.images_per_s > 0


def test_a_run_shorter_than_a_window_of_steps_has_a_speed(lab: Lab) -> None:
    result = lab.fit("run", fake_config(train={"epochs": 2, "log_every_n_steps": 1000}))
    assert result.history[0]["images_per_s"] > 0
    assert result.images_per_s > 0


def test_validation_loss_is_the_mean_over_samples(lab: Lab) -> None:
    config = fake_config(train={"epochs": 1})
    result = lab.fit("run", config)
    task = FakeTask(config)
    model = task.build_model()
    load_weights(model, lab.dir("run").weights)
    with torch.no_grad():
        expected = float(task.step(model.eval(), task.validation)["loss"])
    assert result.metrics["validation/loss"] == pytest.approx(expected, rel=1e-5)


def test_numbered_copies_and_best_say_what_they_are(lab: Lab) -> None:
    result = lab.fit("run", fake_config(train={"epochs": 5}, checkpoint={"every_n_epochs": 2}))
    folder = lab.dir("run").checkpoint.parent
    assert sorted(p.name for p in folder.iterdir()) == ["best", "epoch-0002", "epoch-0004", "finished.json", "last"]
    facts = json.loads((folder / "epoch-0004" / "facts.json").read_text())
    value = result.history[3]["validation/accuracy"]
    assert facts == {"epoch": 4, "monitor": "accuracy", "value": value, "is_average": False}


def test_metrics_file_and_tracker_have_the_same_numbers(lab: Lab) -> None:
    tracker = ListTracker()
    lab.fit("run", fake_config(train={"epochs": 2, "log_every_n_steps": 5}), tracker=tracker)
    lines = lab.lines("run")
    assert [(line["step"], "validation/loss" in line) for line in lines] == [
        (5, False), (10, False), (12, True), (15, False), (20, False), (24, True)
    ]  # fmt: skip
    tracked = [({"step": step} | values) for step, values in tracker.metrics]
    assert [{k: v for k, v in line.items() if k not in ("epoch_s", "images_per_s")} for line in tracked] == lines
    assert {"train/epoch_loss", "train/accuracy", "train/top_2", "validation/accuracy"} <= lines[2].keys()


def test_epoch_loss_is_the_mean_over_the_samples_of_the_epoch(lab: Lab) -> None:
    lab.fit("run", fake_config(train={"epochs": 1}))
    *steps, epoch = lab.lines("run")
    sizes = [8] * 11 + [1]
    mean = sum(line["train/loss"] * size for line, size in zip(steps, sizes, strict=True)) / 89
    assert epoch["train/epoch_loss"] == pytest.approx(mean, rel=1e-9)


def test_accumulated_batches_equal_one_large_batch(lab: Lab) -> None:
    """Without batch norm and dropout, whose results depend on the size of a batch."""

    class Linear(FakeTask):
        def build_model(self) -> nn.Module:
            torch.manual_seed(4)
            return nn.Sequential(nn.Flatten(), nn.Linear(70, 3))

        def on_device(self, batch: Any, *, training: bool, seed: int) -> Any:
            return batch

    few = fake_config(train={"batch_size": 16, "limit_train_batches": 4})
    many = fake_config(train={"batch_size": 8, "accumulate_batches": 2, "limit_train_batches": 8})
    lab.fit("few", few, task=Linear(few))
    lab.fit("many", many, task=Linear(many))
    for name, tensor in lab.weights("few").items():
        torch.testing.assert_close(tensor, lab.weights("many")[name], rtol=1e-5, atol=1e-6)


def test_gradient_clipping_limits_the_step(lab: Lab) -> None:
    config = fake_config(
        train={"epochs": 1, "limit_train_batches": 1, "gradient_clip_norm": 1e-3},
        optimizer={"learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0},
    )
    lab.fit("run", config)
    initial = FakeTask(config).build_model()
    moved = [lab.weights("run")[name] - p.detach() for name, p in initial.named_parameters()]
    assert float(torch.cat([m.flatten() for m in moved]).norm()) == pytest.approx(1e-3, rel=1e-2)


def test_channels_last_changes_the_layout_not_the_result(lab: Lab) -> None:
    seen: list[tuple[bool, bool]] = []

    class Watching(FakeTask):
        def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
            is_nhwc = [t.is_contiguous(memory_format=torch.channels_last) for t in (batch[0], model[0].weight)]
            seen.append((is_nhwc[0], is_nhwc[1]))
            return super().step(model, batch)

    # Without dropout, whose mask is drawn in the order of memory.
    config = fake_config(dropout=0.0, train={"channels_last": True})
    lab.fit("nhwc", config, task=Watching(config))
    lab.fit("nchw", fake_config(dropout=0.0))
    assert set(seen) == {(True, True)}
    for name, tensor in lab.weights("nchw").items():
        torch.testing.assert_close(lab.weights("nhwc")[name], tensor, rtol=1e-3, atol=1e-4)


def test_bfloat16_trains_with_float32_weights(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.train.device.cpu_features", lambda: frozenset({"avx512_bf16"}))
    dtypes: set[torch.dtype] = set()

    class Watching(FakeTask):
        def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
            outputs = super().step(model, batch)
            dtypes.add(outputs["logits"].dtype)
            return outputs

    config = fake_config(train={"precision": "bfloat16"})
    result = lab.fit("run", config, task=Watching(config))
    assert dtypes == {torch.bfloat16}
    assert result.precision == "bfloat16"
    assert {t.dtype for t in lab.weights("run").values()} == {torch.float32, torch.int64}
    assert result.history[-1]["train/epoch_loss"] < result.history[0]["train/epoch_loss"]


def test_a_loss_that_is_not_a_number_stops_with_the_step(lab: Lab) -> None:
    class Diverging(FakeTask):
        num_steps = 0

        def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
            outputs = super().step(model, batch)
            self.num_steps += model.training
            return outputs | {"loss": outputs["loss"] * (float("nan") if self.num_steps >= 15 else 1.0)}

    config = fake_config(train={"log_every_n_steps": 4})
    with pytest.raises(TrainingError) as caught:
        lab.fit("run", config, task=Diverging(config))
    assert "the loss at step 15 is nan" in str(caught.value)
    assert "learning_rate" in str(caught.value)
    assert lab.state("run")["lab.train_metrics.accuracy.state.tp"] is not None  # the first epoch's checkpoint is whole


def test_an_unknown_monitor_names_what_there_is(lab: Lab) -> None:
    config = fake_config()
    task = FakeTask(config)
    task.monitor = "acuracy"
    with pytest.raises(ConfigError, match=r"'acuracy' is not among[^?]*did you mean 'accuracy'\?"):
        lab.fit("run", config, task=task)


def test_an_empty_training_split_is_an_error(lab: Lab) -> None:
    config = fake_config()
    task = FakeTask(config)
    task.train = (task.train[0][:0], task.train[1][:0])
    with pytest.raises(DataError, match="no whole batch"):
        lab.fit("run", config, task=task)


def test_a_run_prints_one_line_per_epoch_and_nothing_of_lightning(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    lab.fit("run", fake_config())
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith("training on CPU ")
    assert [line.split("  ")[0] for line in lines[1:]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_quiet_prints_nothing(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    progress.set_quiet(True)
    lab.fit("run", fake_config())
    assert capfd.readouterr() == ("", "")


def test_settings_of_the_process_come_back(lab: Lab) -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    lab.fit("run", fake_config(train={"epochs": 1, "num_threads": before[0] + 1}))
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_a_new_run_forgets_the_old_lines_of_its_folder(lab: Lab) -> None:
    lab.fit("run", fake_config())
    first = lab.lines("run")
    lab.fit("run", fake_config())
    assert lab.lines("run") == first


@pytest.mark.slow
def test_torch_compile_leaves_names_and_results_alone(lab: Lab) -> None:
    lab.fit("eager", fake_config(dropout=0.0))
    config = fake_config(dropout=0.0, train={"torch_compile": True})
    lab.fit("compiled", config)
    for name, tensor in lab.weights("eager").items():
        torch.testing.assert_close(lab.weights("compiled")[name], tensor, rtol=1e-3, atol=1e-4)

"""The learning half: teacher forcing equals the deployed recursion, what missing values may not change, options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lab.core.errors import ConfigError
from lab.tasks.forecasting.learn import ForecastingTask
from lab.tasks.forecasting.models.deepar import DeepAR
from tests.tasks.forecasting.conftest import config_of
from tests.tasks.forecasting.tiny import HORIZON


def task_of(raw: dict[str, Any], **sections: dict[str, Any]) -> ForecastingTask:
    return ForecastingTask(config_of(raw | {name: raw.get(name, {}) | section for name, section in sections.items()}))


def first_batch(task: ForecastingTask, *, training: bool = True) -> dict[str, torch.Tensor]:
    batch: dict[str, torch.Tensor] = next(iter(task.train_loader() if training else task.eval_loader("validation")))
    return batch


def test_step_by_step_is_teacher_forcing(task: ForecastingTask) -> None:
    """encode, then step along the true values, gives the parameters that training sees."""
    model = task.build_model().eval()
    batch, options = first_batch(task), task.options
    seen: list[torch.Tensor] = []
    model.register_forward_hook(lambda module, given, output: seen.append(output))
    task.teacher_forced(model, batch)
    from lab.tasks.forecasting.windows import scale_of

    scale = scale_of(batch["past_target"], batch["past_observed"], options, torch)
    scaled = torch.cat((batch["past_target"], batch["future_target"]), dim=1) / scale
    positions = torch.from_numpy(options.lag_positions(np.arange(options.context_length + HORIZON - 1)))
    inputs = torch.cat((scaled[:, positions], batch["features"]), dim=-1)
    modules = task.export_modules(model)
    static_real = torch.cat((batch["static_real"], scale.log()), dim=-1)
    with torch.no_grad():
        context = options.context_length
        parameters, hidden, cell, static = modules["encode"](inputs[:, :context], batch["static_cat"], static_real)
        torch.testing.assert_close(parameters, seen[0][:, context - 1], rtol=1e-4, atol=1e-5)
        for place in range(context, context + HORIZON - 1):
            step_inputs = torch.cat((inputs[:, place], static), dim=-1)
            parameters, hidden, cell = modules["step"](step_inputs, hidden, cell)
            torch.testing.assert_close(parameters, seen[0][:, place], rtol=1e-4, atol=1e-5)


def test_unobserved_values_change_neither_loss_nor_gradient(task: ForecastingTask) -> None:
    """They are masked in the loss; as lags they are zeros, whatever the file held."""
    model = task.build_model().train()
    batch = first_batch(task)
    future = batch["future_observed"].clone()
    future[:, -1] = 0  # the last step is nobody's lag
    other = batch | {"future_observed": future}
    changed = batch["future_target"].clone()
    changed[:, -1] = 1e6
    results = []
    for one in (other, other | {"future_target": changed}):
        model.zero_grad()
        loss = task.teacher_forced(model, one)
        loss.backward()
        results.append((loss.item(), [p.grad.clone() for p in model.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_a_window_without_observed_values_has_a_finite_gradient(task: ForecastingTask) -> None:
    model = task.build_model().train()
    batch = first_batch(task)
    for name in ("past_target", "past_observed", "future_observed"):
        batch[name] = batch[name].clone()
        batch[name][0] = 0
    task.teacher_forced(model, batch).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("likelihood", ["gaussian", "negative-binomial", "beta", "deterministic-L1"])
def test_every_likelihood_learns_and_samples(raw: dict[str, Any], likelihood: str) -> None:
    task = task_of(raw, model={"likelihood": likelihood})
    model = task.build_model().train()
    batch = first_batch(task)
    if likelihood == "beta":
        batch |= {name: batch[name] / 1000 for name in ("past_target", "future_target")}
    if likelihood == "negative-binomial":
        batch |= {name: batch[name].round() for name in ("past_target", "future_target")}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = task.step(model, batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1 * abs(losses[0])
    samples = task.sample(model.eval(), batch).numpy()
    assert np.isfinite(samples).all()
    if likelihood == "deterministic-L1":
        assert (samples == samples[:, :1]).all()
    if likelihood == "beta":
        assert 0 <= samples.min() <= samples.max() <= 1


def test_zoneout_trains_and_leaves_evaluation_alone(raw: dict[str, Any]) -> None:
    options = {"regularization": "zoneout", "dropout_rate": 0.3}
    task = task_of(raw, model=options)
    model = task.build_model()
    assert isinstance(model, DeepAR)
    batch = first_batch(task)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        losses = {task.teacher_forced(model, batch).item() for _ in range(3)}
        assert len(losses) == 3  # random
        task.teacher_forced(model, batch).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    plain = task_of(raw).build_model()
    plain.load_state_dict(model.state_dict())
    assert task.teacher_forced(model.eval(), batch).item() == task.teacher_forced(plain.eval(), batch).item()
    model.zoneout, before = 0.0, model.train()
    assert task.teacher_forced(before, batch).item() == pytest.approx(
        task.teacher_forced(plain.train(), batch).item(), rel=1e-5
    )


def test_item_embedding_and_options_reach_the_signature(raw: dict[str, Any]) -> None:
    task = task_of(
        raw,
        data={"item_embedding": True, "cardinality": "ignore", "num_dynamic_feat": "ignore"},
        model={"embedding_dimension": None, "scale_feature": False},
    )
    assert task.options.all_cardinalities == (12,)
    model = task.build_model()
    assert isinstance(model, DeepAR)
    assert [e.weight.shape for e in model.embeddings] == [(12, 6)]
    assert task.functions["step"].inputs[0].shape == ("batch", 3 + 2 + 6 + 1)
    samples = task.sample(model.eval(), first_batch(task, training=False))
    assert samples.shape == (12, 20, HORIZON)


def test_a_series_in_other_units_is_forecast_in_them(raw: dict[str, Any]) -> None:
    """Trained weights, not a stand-in: exact up to float32 where the scale itself is no feature."""
    task = task_of(raw, model={"scale_feature": False})
    model, batch = task.build_model().eval(), first_batch(task, training=False)
    plain = task.sample(model, batch)
    scaled = task.sample(model, batch | {"past_target": 1000 * batch["past_target"]})
    torch.testing.assert_close(scaled, 1000 * plain, rtol=1e-3, atol=1.0)


def test_published_weights_are_refused(task: ForecastingTask) -> None:
    with pytest.raises(ConfigError, match="no published weights"):
        task.published("deepar")
    with pytest.raises(ConfigError, match="drawn, not listed"):
        task.eval_dataset("train")


def test_plots(task: ForecastingTask, tmp_path: Path) -> None:
    paths = task.plots(task.build_model(), tmp_path)
    assert [path.name for path in paths] == ["fans.png", "horizon.png", "coverage.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


@pytest.mark.gpu
@pytest.mark.parametrize("likelihood", ["student-T", "gaussian", "negative-binomial", "deterministic-L1"])
def test_training_on_cpu_and_gpu_agrees(raw: dict[str, Any], likelihood: str) -> None:
    """Ten steps of float32 training end in the same loss and the same samples on both."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    task = task_of(raw, model={"likelihood": likelihood})
    losses, samples = [], []
    for device in ("cpu", "cuda"):
        model = task.build_model().to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        batch = {name: value.to(device) for name, value in first_batch(task).items()}
        for _ in range(10):
            optimizer.zero_grad()
            loss = task.step(model.train(), batch)["loss"]
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
        samples.append(task.sample(model.eval(), batch).cpu())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3, abs=1e-4)
    spread = samples[0].std()
    assert ((samples[0] - samples[1]).abs() < 0.02 * spread).float().mean() > 0.99

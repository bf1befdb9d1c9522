"""Every likelihood: value and gradient against torch.distributions and finite differences, CPU against GPU, and the
numpy draws against scipy's distribution functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, distributions

from lab.core.errors import ConfigError, UnsupportedError
from lab.tasks.forecasting.likelihoods import LIKELIHOODS, likelihood_of
from lab.tasks.forecasting.sampling import DRAWS, draw_of, gamma, noise_tables, normal_quantile, poisson, table_of
from lab.tasks.forecasting.windows import NUM_PARAMETERS

NAMES = sorted(LIKELIHOODS)
SCALE = 7.0


def raw_and_values(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Raw outputs [40, Q], values in the distribution's support and in units of the scale, and the scale."""
    generator = torch.Generator().manual_seed(3)
    raw = 2 * torch.randn(40, NUM_PARAMETERS[name], generator=generator, dtype=dtype)
    y = torch.randn(40, generator=generator, dtype=dtype)
    scale = torch.full((40,), SCALE, dtype=dtype)
    if name == "beta":
        y = torch.rand(40, generator=generator, dtype=dtype) * 0.9 + 0.05
    if name == "negative-binomial":
        y = torch.randint(0, 30, (40,), generator=generator).to(dtype) / scale
    return raw, y, scale


REFERENCES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "student-T": lambda p, y, s: -distributions.StudentT(p[:, 0], p[:, 1], p[:, 2]).log_prob(y),
    "gaussian": lambda p, y, s: -distributions.Normal(p[:, 0], p[:, 1]).log_prob(y),
    "negative-binomial": lambda p, y, s: (
        -distributions.NegativeBinomial(
            1 / (p[:, 1] / s.sqrt()), logits=torch.log(p[:, 0] * s * p[:, 1] / s.sqrt()), validate_args=False
        ).log_prob(y * s)
    ),
    "beta": lambda p, y, s: -distributions.Beta(p[:, 0], p[:, 1]).log_prob(y),
    "deterministic-L1": lambda p, y, s: (y - p[:, 0]).abs(),
}


def loss_and_gradient(nll: Callable[..., Tensor], raw: Tensor, name: str, *rest: Tensor) -> tuple[Tensor, Tensor]:
    raw = raw.clone().requires_grad_()
    loss = nll(likelihood_of(name).parameters(raw), *rest)
    (gradient,) = torch.autograd.grad(loss.sum(), raw)
    return loss.detach(), gradient


def test_there_is_one_of_each() -> None:
    assert set(LIKELIHOODS) == set(DRAWS) == set(NUM_PARAMETERS) == set(REFERENCES)
    with pytest.raises(ConfigError, match="unknown likelihood"):
        likelihood_of("cauchy")
    with pytest.raises(UnsupportedError, match="unknown likelihood"):
        draw_of("cauchy")


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_are_those_of_torch(name: str) -> None:
    raw, y, scale = raw_and_values(name)
    ours = loss_and_gradient(likelihood_of(name).nll, raw, name, y, scale)
    theirs = loss_and_gradient(REFERENCES[name], raw, name, y, scale)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    raw, y, scale = raw_and_values(name)
    likelihood = likelihood_of(name)
    assert torch.autograd.gradcheck(
        lambda r: likelihood.nll(likelihood.parameters(r), y, scale), (raw.requires_grad_(),), eps=1e-6, atol=1e-5
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [-60.0, 60.0])
def test_extreme_outputs_have_a_finite_loss(name: str, size: float) -> None:
    raw = torch.full((1, NUM_PARAMETERS[name]), size)
    value = torch.tensor([0.5])
    loss, gradient = loss_and_gradient(likelihood_of(name).nll, raw, name, value, torch.tensor([SCALE]))
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()


def test_the_ends_of_the_unit_interval_are_allowed() -> None:
    """DAR-H10: beta is for values from 0 to 1, inclusive."""
    parameters = torch.tensor([[2.0, 3.0], [0.5, 0.5]])
    assert torch.isfinite(likelihood_of("beta").nll(parameters, torch.tensor([0.0, 1.0]), torch.ones(2))).all()


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_cpu_and_gpu_agree(name: str) -> None:
    """What GluonTS's issue 807 lacked: loss and gradient of float32 training are the same on both."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    raw, y, scale = raw_and_values(name, torch.float32)
    nll = likelihood_of(name).nll
    here = loss_and_gradient(nll, raw, name, y, scale)
    there = loss_and_gradient(nll, raw.cuda(), name, y.cuda(), scale.cuda())
    for cpu, gpu in zip(here, there, strict=True):
        torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_float32_training_is_that_of_float64(name: str) -> None:
    """The CPU's share of the same promise."""
    raw, y, scale = raw_and_values(name)
    nll = likelihood_of(name).nll
    exact = loss_and_gradient(nll, raw, name, y, scale)
    single = loss_and_gradient(nll, raw.float(), name, y.float(), scale.float())
    for wide, narrow in zip(exact, single, strict=True):
        torch.testing.assert_close(narrow.double(), wide, rtol=2e-3, atol=2e-4)


# ---- draws -----------------------------------------------------------------------------------------------------------

CASES = {
    "student-T": [((4.0, 1.0, 0.5), stats.t(4, 1, 0.5)), ((2.05, 0.0, 1.0), stats.t(2.05))],
    "gaussian": [((2.0, 0.3), stats.norm(2, 0.3))],
    "beta": [((2.0, 5.0), stats.beta(2, 5)), ((0.4, 0.7), stats.beta(0.4, 0.7))],
}


def drawn(name: str, parameters: tuple[float, ...], scale: float = 1.0) -> np.ndarray:
    """Two thousand draws in each of the first tables' steps."""
    tables = noise_tables(name, 5, 2000, 3)
    given = np.broadcast_to(np.asarray(parameters, np.float32), (1, 1, len(parameters)))
    scale_B1 = np.full((1, 1), scale, np.float32)
    steps = [draw_of(name)(given, tables[:1, step], scale_B1)[0] for step in range(3)]
    return np.stack(steps)


@pytest.mark.parametrize("name", sorted(CASES))
def test_draws_follow_their_distribution(name: str) -> None:
    for parameters, reference in CASES[name]:
        for sample in drawn(name, parameters):
            assert stats.kstest(sample, reference.cdf).statistic < 0.03


@pytest.mark.parametrize(("mean", "alpha"), [(0.4, 0.5), (3.0, 0.05), (40.0, 0.3)])
def test_counts_follow_the_negative_binomial(mean: float, alpha: float) -> None:
    """Mean and variance in units of the scale: mu and mu + alpha mu^2."""
    samples = np.rint(drawn("negative-binomial", (mean / SCALE, alpha * np.sqrt(SCALE)), SCALE).ravel() * SCALE)
    reference = stats.nbinom(1 / alpha, 1 / (1 + alpha * mean))
    grid = np.arange(0, int(reference.ppf(0.999)) + 1)
    empirical = np.searchsorted(np.sort(samples), grid, side="right") / len(samples)
    assert np.abs(empirical - reference.cdf(grid)).max() < 0.02


@pytest.mark.parametrize("shape", [0.1, 0.9, 1.0, 3.5, 200.0])
def test_gamma(shape: float) -> None:
    tables = noise_tables("beta", 1, 4000, 1)
    sample = gamma(np.full((1, 1), shape), tables[:1, 0, :13])[0]
    assert stats.kstest(sample, stats.gamma(shape).cdf).statistic < 0.03


@pytest.mark.parametrize("mean", [0.01, 2.5, 29.9, 30.1, 400.0, 1e6])
def test_poisson_is_the_inverse_of_its_distribution(mean: float) -> None:
    uniform = (np.arange(2000)[None] + 0.5) / 2000
    found = poisson(np.full(uniform.shape, mean), uniform)
    expected = stats.poisson(mean).ppf(uniform)
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() <= 1e-3


def test_the_normal_quantile_is_scipy_s() -> None:
    uniform = np.concatenate([np.linspace(1e-7, 1 - 1e-7, 4001), [1e-12, 0.02425, 0.97575]])
    np.testing.assert_allclose(normal_quantile(uniform), stats.norm.ppf(uniform), rtol=2e-9, atol=2e-9)


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_continuous_in_their_parameters(name: str) -> None:
    """What lets engines that differ in the last digits draw the same samples."""
    base = {"student-T": (3.0, 0.5, 1.0), "negative-binomial": (40.0, 0.2)}.get(name, (0.7,) * NUM_PARAMETERS[name])
    here, there = drawn(name, base), drawn(name, tuple(value * (1 + 1e-6) for value in base))
    assert (np.abs(here - there) <= 1e-4 * np.maximum(np.abs(here), 1)).mean() > 0.999


def test_noise_depends_on_the_seed_alone_and_is_spread_evenly() -> None:
    first = noise_tables("gaussian", 3, 100, 4)
    noise_tables.cache_clear()
    np.testing.assert_array_equal(first, noise_tables("gaussian", 3, 100, 4))
    assert not np.array_equal(first, noise_tables("gaussian", 4, 100, 4))
    standard, one = np.asarray([[[0.0, 1.0]]]), np.ones((1, 1))
    samples = np.stack([draw_of("gaussian")(standard, first[:1, step], one)[0] for step in range(4)])
    assert np.abs(samples.mean(axis=1)).max() < 0.05  # of independent draws it would be 0.1 on average


def test_the_table_of_a_series_ignores_its_units() -> None:
    rng = np.random.default_rng(0)
    contexts = rng.random((50, 24)).astype(np.float32)
    chosen = table_of(contexts, 32)
    np.testing.assert_array_equal(chosen, table_of(1000 * contexts, 32))
    np.testing.assert_array_equal(chosen[7:8], table_of(contexts[7:8], 32))
    assert len(set(chosen.tolist())) > 15

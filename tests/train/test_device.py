"""Which processor and precision are taken, and what is said about it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lab.config.run import TrainConfig
from lab.core.errors import ConfigError, MissingToolError
from lab.core.host import num_cores
from lab.train.device import choose_device, processor_settings

FEATURES = "lab.train.device.cpu_features"


def config(**values: Any) -> TrainConfig:
    return TrainConfig.model_validate(values)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Test GPU")


@pytest.mark.usefixtures("no_gpu")
def test_auto_without_a_gpu_is_the_cpu_and_says_why() -> None:
    device = choose_device(config())
    assert (device.accelerator, device.num_threads) == ("cpu", num_cores())
    assert device.why == "device: auto, PyTorch sees no GPU"


@pytest.mark.usefixtures("gpu")
def test_auto_with_a_gpu_is_the_gpu() -> None:
    device = choose_device(config(precision="float16"))
    assert (device.accelerator, device.precision, device.lightning_precision) == ("gpu", "float16", "16-mixed")
    assert str(device) == "GPU Test GPU, float16"
    assert choose_device(config(device="cpu")).accelerator == "cpu"


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_is_asked_for_and_missing_is_an_error() -> None:
    with pytest.raises(MissingToolError, match="device: auto or cpu"):
        choose_device(config(device="gpu"))


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("asked", "features", "taken"),
    [
        ("bfloat16", {"avx512_bf16"}, "bfloat16"),
        ("bfloat16", {"avx2"}, "float32"),
        ("float16", {"amx_bf16"}, "bfloat16"),
        ("float16", set(), "float32"),
        ("float32", {"amx_bf16"}, "float32"),
    ],
)
def test_low_precision_on_a_cpu_follows_its_features_and_says_so(
    asked: str, features: set[str], taken: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FEATURES, lambda: frozenset(features))
    assert choose_device(config(precision=asked)).precision == taken
    warned = f"warning: precision {asked} was asked for, {taken} is used" in capsys.readouterr().err
    assert warned == (asked != taken)


@pytest.mark.usefixtures("no_gpu")
def test_several_devices_in_one_process_are_refused_with_the_command() -> None:
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node 3"):
        choose_device(config(devices=3))


@pytest.mark.usefixtures("no_gpu")
def test_torchrun_gives_processes_and_shares_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    device = choose_device(config(devices=2))
    assert (device.devices, device.num_nodes, device.num_threads) == (2, 2, max(1, num_cores() // 2))
    with pytest.raises(ConfigError, match="differs from what torchrun started"):
        choose_device(config(devices=3))


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("deterministic", [True, False])
def test_determinism_is_set_on_a_gpu_and_restored(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    before = torch.backends.cudnn.benchmark
    wanted = config(deterministic=deterministic)
    with processor_settings(choose_device(wanted), wanted):
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert torch.backends.cudnn.benchmark == (not deterministic)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark == before

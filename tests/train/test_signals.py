"""Ctrl-C and SIGTERM: a checkpoint after the current step, status "killed", and how to go on."""

from __future__ import annotations

import os
import signal

import pytest

from tests.train.conftest import Lab
from tests.train.fake_task import fake_config
from tests.train.test_resume import STEPS_PER_EPOCH, CutTask


def raise_signal(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at_step", [5, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 1])
def test_a_signal_saves_and_the_run_resumes_bit_equal(
    lab: Lab, number: signal.Signals, at_step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    config = fake_config()
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    lab.fit("whole", config)
    task = CutTask(config, lambda: raise_signal(number), at_step=at_step)
    result = lab.fit("resumed", config, task=task)
    assert result.status == "killed"
    assert result.num_epochs == at_step // STEPS_PER_EPOCH
    assert not lab.dir("resumed").weights.exists()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    err = capsys.readouterr().err
    assert f"{number.name}: saving a checkpoint" in err
    assert f"to go on: lab train --resume {lab.dir('resumed').path}" in err
    again = lab.fit("resumed", config, resume=True)
    assert (again.status, again.resumed_from_step) == ("finished", at_step)
    lab.assert_equal("whole", "resumed")


def test_a_signal_in_the_last_validation_finishes_the_run(lab: Lab) -> None:
    config = fake_config()
    task = CutTask(config, lambda: raise_signal(signal.SIGTERM), at_validation=3)
    assert lab.fit("run", config, task=task).status == "finished"
    assert lab.dir("run").weights.exists()


def test_a_second_signal_interrupts_at_once(lab: Lab) -> None:
    def twice() -> None:
        raise_signal(signal.SIGINT)
        raise_signal(signal.SIGINT)

    config = fake_config()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        lab.fit("run", config, task=CutTask(config, twice, at_step=STEPS_PER_EPOCH + 3))
    assert signal.getsignal(signal.SIGINT) is before
    assert lab.fit("run", config, resume=True).resumed_from_step == STEPS_PER_EPOCH

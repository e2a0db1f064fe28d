"""SIGUSR1 while a training starts: Slurm's announcement must not end a job that could have been saved."""

from __future__ import annotations

import signal
import threading

import pytest

from sosr_det.cli import train as command
from sosr_det.engine import train, train_options
from sosr_det.engine.signals import stop_signals


@pytest.fixture(autouse=True)
def deadly():
    def end(*_):
        raise AssertionError("SIGUSR1 ended the process")

    before = signal.signal(signal.SIGUSR1, end)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_it_waits_for_the_first_step(monkeypatch):
    received = []

    def options(**_):
        signal.pthread_kill(
            threading.get_ident(), signal.SIGUSR1
        )  # other threads of the tests do not block it

    def run(_):
        with stop_signals() as signals:
            received.append(signals.received)

    monkeypatch.setattr(train_options, "TrainOptions", options)
    monkeypatch.setattr(train, "run_training", run)
    command.train("demo/resnet18_sosr_1xb32-6e_demo-imagenet")
    assert received == [signal.SIGUSR1]
    assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, [])

"""Log histories that grow cheaply: the same numbers as mmengine's, and no cost that grows with the run."""

from __future__ import annotations

import copy
import pickle
import random
import time

import numpy as np
import pytest
from mmengine.logging import HistoryBuffer, MessageHub

from sosr_det.engine.hooks.growing_history import GrowingHistory, GrowingHistoryHook


def same(ours, theirs):
    assert len(ours.data[0]) == len(theirs.data[0])
    for one, other in zip(ours.data, theirs.data, strict=True):
        np.testing.assert_array_equal(one, other)
    if len(theirs.data[0]):
        for window in (None, 1, 2, 3, 50, 10_000):
            for name in ("mean", "max", "min"):
                assert ours.statistics(name, window) == theirs.statistics(name, window)
        assert ours.current() == theirs.current()


@pytest.mark.parametrize("max_length", [1, 2, 63, 64, 65, 1000])
def test_every_statistic_is_mmengines_after_each_value(max_length):
    rng = random.Random(max_length)
    ours, theirs = GrowingHistory(max_length=max_length), HistoryBuffer(max_length=max_length)
    same(ours, theirs)
    for step in range(300):
        value, count = rng.choice([rng.random(), rng.randrange(5)]), rng.choice([1, 1, 3])
        ours.update(value, count)
        theirs.update(value, count)
        if step < 5 or step % 13 == 0 or step > 290:
            same(ours, theirs)


@pytest.mark.parametrize("length", [0, 1, 64, 200])
def test_a_history_that_is_taken_over(length):
    values, counts = list(np.random.default_rng(0).random(length)), [1] * length
    ours, theirs = GrowingHistory(values, counts, 100), HistoryBuffer(values[-100:], counts[-100:], 100)
    same(ours, theirs)
    for value in (0.5, 7):
        ours.update(value)
        theirs.update(value)
    same(ours, theirs)
    with pytest.raises(ValueError, match="3 values, but 2 counts"):
        GrowingHistory([1, 2, 3], [1, 1])


def test_counts_that_are_no_integers():
    ours, theirs = GrowingHistory([1.0], [1]), HistoryBuffer([1.0], [1])
    for history in (ours, theirs):
        history.update(2.0, 0.5)
        history.update(3.0, 2)
    same(ours, theirs)
    for bad in ((None, 1), ("1", 1), (1, None)):
        with pytest.raises(TypeError):
            ours.update(*bad)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda h: pickle.loads(pickle.dumps(h))])
def test_copies_are_plain_buffers_of_their_own(copied):
    ours = GrowingHistory([1.0, 2.0], [1, 1])
    other = copied(ours)
    assert type(other) is HistoryBuffer  # whoever reads a checkpoint needs mmengine alone
    same(ours, other)
    ours.update(3.0)
    assert other.current() == 2.0


class Runner:
    def __init__(self, name):
        self.message_hub = MessageHub.get_instance(name)


def test_the_hook_replaces_old_and_new_histories_and_keeps_their_values():
    runner, hook = Runner("test_growing_history"), GrowingHistoryHook()
    hub = runner.message_hub
    hub.update_scalar("train/loss", 1.5)
    hook.before_train(runner)
    kept = hub.get_scalar("train/loss")
    assert type(kept) is GrowingHistory
    hub.update_scalar("train/loss", 2.5)
    hub.update_scalar("train/lr", 0.1)
    hook.after_train_iter(runner, 0)
    assert type(hub.get_scalar("train/lr")) is GrowingHistory
    assert hub.get_scalar("train/loss") is kept
    assert list(kept.data[0]) == [1.5, 2.5]
    state = hub.state_dict()["log_scalars"]
    assert {type(history) for history in state.values()} == {HistoryBuffer}
    hub.load_state_dict(hub.state_dict())  # as a resumed run does: plain ones again
    hook.before_train(runner)
    assert type(hub.get_scalar("train/loss")) is GrowingHistory
    assert hub.get_scalar("train/loss").mean() == 2.0


def test_a_long_history_costs_what_a_short_one_costs():
    """mmengine's costs 1000 times as much here; the bound is loose, as the machine may be busy."""

    def seconds(history):
        took = []
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(200):
                history.update(1.0)
            took.append(time.perf_counter() - began)
        return min(took)

    length = 400_000
    long = [np.ones(length), np.ones(length, np.int64)]
    ours = GrowingHistory(*long)
    ours.update(1.0)
    assert seconds(ours) < 10 * seconds(GrowingHistory([1.0], [1]))
    assert seconds(HistoryBuffer(*long)) > 10 * seconds(ours)  # negative control

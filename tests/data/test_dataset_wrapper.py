"""A wrapped data set is the inner one in all but how samples are prepared, also for who exchanges its pipeline."""

from __future__ import annotations

import copy
import pickle

import pytest

from sosr_det.data.sample_seeds import SampleSeededDataset
from sosr_det.data.unreadable import SkipUnreadable


class Doubled:
    """Its pipeline is a number to multiply with."""

    def __init__(self):
        self.pipeline = 2

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.pipeline * index

    def sample_name(self, index):
        return f"number {index}"


def test_a_pipeline_that_is_set_from_outside_reaches_the_innermost_data_set():
    inner = Doubled()
    wrapped = SampleSeededDataset(SkipUnreadable(inner), seed=0)
    wrapped.set_epoch(0, 0)
    assert (len(wrapped), wrapped[2], wrapped.sample_name(1)) == (3, 4, "number 1")
    wrapped.pipeline = 5  # as MMDetection's PipelineSwitchHook does
    assert (inner.pipeline, wrapped[2]) == (5, 10)
    assert "pipeline" not in vars(wrapped)


def test_what_is_the_wrappers_own_stays_its_own():
    inner = Doubled()
    inner.unreadable, inner._place = "inner", "inner"
    wrapped = SkipUnreadable(inner)
    assert wrapped.unreadable is not inner.unreadable
    assert SampleSeededDataset(inner)._place is not inner._place
    wrapped.note = 1  # the inner one has no such thing
    assert not hasattr(inner, "note")
    with pytest.raises(AttributeError):
        _ = wrapped.nothing


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_it_can_be_copied_and_sent_to_a_worker(again):
    wrapped = again(SampleSeededDataset(Doubled(), seed=1))
    wrapped.set_epoch(1, 0)
    assert wrapped[1] == 2

"""What the clock decides: with clocks of the test's own, and once for real, where only its side effects are judged."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import random

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import DataLoader

from sosr_det.data.in_memory import CollatedBatch, already_collated
from sosr_det.engine.acceleration.device import Device
from sosr_det.engine.acceleration.layout import is_channels_last
from sosr_det.engine.acceleration.measurement import MIN_ROUNDS, Measurement, measure
from sosr_det.engine.acceleration.measurement_cache import measurement_key, remember, remembered
from sosr_det.engine.acceleration.plan import Plan
from sosr_det.engine.acceleration.resolution import resolve
from sosr_det.engine.acceleration.trial_steps import tensor_shapes, trial_batch, trial_steps
from sosr_det.models.preprocessor import ClassificationPreprocessor


class Machine:
    """A clock, and steps that take as long as the test says: one list of seconds for each way, used up in turn."""

    def __init__(self, **seconds):
        self.now = 0.0
        self.order = []
        self.left = {
            name: itertools.chain([9.0], itertools.cycle(values)) for name, values in seconds.items()
        }

    def clock(self):
        return self.now

    def steps(self):
        return {name: lambda name=name: self._step(name) for name in self.left}

    def _step(self, name):
        self.order.append(name)
        self.now += next(self.left[name])


def measured(budget_s=0.0, **seconds):
    machine = Machine(**seconds)
    return measure(machine.steps(), budget_s=budget_s, clock=machine.clock), machine


def test_the_fastest_way_is_chosen_by_ratios_within_rounds():
    # The machine slows down by ten on the way; each round's ratio is the same.
    found, _ = measured(plain=[1.0, 1.0, 10.0, 10.0], a=[0.8, 0.8, 8.0, 8.0], b=[0.5, 0.5, 5.0, 5.0])
    assert found.chosen == "b"
    assert found.speedups == pytest.approx({"a": 1.25, "b": 2.0}, abs=1e-9)
    assert found.won == {"a": 4, "b": 4}
    assert found.seconds == pytest.approx({"plain": 5.5, "a": 4.4, "b": 2.75}, abs=1e-9)
    assert found.rounds == MIN_ROUNDS


@pytest.mark.parametrize(
    ("other", "chosen"),
    [
        ([0.94], "other"),  # 6 % less in every round
        ([0.96], "plain"),  # 4 %: not worth it
        ([1.2], "plain"),
        ([0.5, 0.5, 0.5, 1.01], "plain"),  # twice as fast, but not always: noise of that size can do anything
        ([0.5, 0.5, 0.5, 0.99], "other"),
    ],
)
def test_within_noise_the_plain_way_stays(other, chosen):
    assert measured(plain=[1.0], other=other)[0].chosen == chosen


def test_rounds_are_interleaved_in_alternating_order_after_one_step_of_each():
    _, machine = measured(plain=[1.0], a=[1.0], b=[1.0])
    there, back = ["plain", "a", "b"], ["b", "a", "plain"]
    assert machine.order == there + there + back + there + back


def test_rounds_go_on_while_there_is_time_and_end():
    # 18 s for the two first steps, then 2 s a round.
    assert measured(budget_s=0.0, plain=[1.0], a=[1.0])[0].rounds == MIN_ROUNDS
    assert measured(budget_s=18 + 2 * 6 - 0.5, plain=[1.0], a=[1.0])[0].rounds == 6
    assert measured(budget_s=1e6, plain=[1.0], a=[1.0])[0].rounds == 15


def test_one_way_is_no_measurement():
    with pytest.raises(ValueError, match="at least two ways"):
        measure({"plain": lambda: None}, budget_s=1.0)


# ---- memory of it --------------------------------------------------------------------------------------------------

FOUND = Measurement("b", "a", {"a": 2.0, "b": 1.0}, {"b": 2.0}, {"b": 4}, 4)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SOSR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "acceleration"


def test_a_measurement_is_remembered_by_what_it_is_true_for(cache):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    key = measurement_key(model, [(2, 3, 8, 8)], "cpu (x, 2 threads)", ["a", "b"])
    assert remembered(key) is None
    remember(key, FOUND)
    assert remembered(key) == FOUND
    other_weights = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert measurement_key(other_weights, [(2, 3, 8, 8)], "cpu (x, 2 threads)", ["a", "b"]) == key
    frozen = copy.deepcopy(model).requires_grad_(False)
    others = [
        measurement_key(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()), [(2, 3, 8, 8)], "cpu (x, 2 threads)", ["a", "b"]),
        measurement_key(nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU()), [(2, 3, 8, 8)], "cpu (x, 2 threads)", ["a", "b"]),
        measurement_key(frozen, [(2, 3, 8, 8)], "cpu (x, 2 threads)", ["a", "b"]),
        measurement_key(model, [(4, 3, 8, 8)], "cpu (x, 2 threads)", ["a", "b"]),
        measurement_key(model, [(2, 3, 8, 8)], "cpu (x, 4 threads)", ["a", "b"]),
        measurement_key(model, [(2, 3, 8, 8)], "cpu (x, 2 threads)", ["a", "c"]),
    ]  # fmt: skip
    assert len({key, *others}) == 7


@pytest.mark.parametrize(
    "damage",
    [
        "", "{", "[]", "{}",
        json.dumps({**FOUND.to_dict(), "chosen": "c"}),  # names a way that was not measured
        json.dumps({**FOUND.to_dict(), "more": 1}),
        json.dumps({**FOUND.to_dict(), "speedups": None}),
    ],
)  # fmt: skip
def test_a_damaged_note_is_no_note(cache, damage):
    remember("0" * 64, FOUND)
    (note,) = cache.iterdir()
    note.write_text(damage)
    assert remembered("0" * 64) is None


def test_a_note_that_others_can_write_is_not_believed_and_a_cache_that_cannot_be_written_does_no_harm(cache):
    remember("0" * 64, FOUND)
    (note,) = cache.iterdir()
    note.chmod(0o666)
    assert remembered("0" * 64) is None
    note.unlink()
    cache.rmdir()
    cache.write_text("a file where the folder should be")
    remember("0" * 64, FOUND)
    assert remembered("0" * 64) is None


# ---- steps of a real model -----------------------------------------------------------------------------------------


class Tiny(BaseModel):
    def __init__(self):
        super().__init__(ClassificationPreprocessor([120.0] * 3, [60.0] * 3))
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(8, 4)

    def forward(self, inputs, labels=None, mode="tensor"):
        self.seen = inputs.is_contiguous(memory_format=torch.channels_last), torch.is_autocast_enabled("cpu")
        logits = self.head(self.backbone(inputs).mean((2, 3)))
        return {"loss": nn.functional.cross_entropy(logits, labels)}


class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        random.random(), np.random.rand(), torch.rand(1)
        return {"inputs": torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8), "labels": index % 4}


class WholeBatches(Samples):
    def __getitems__(self, indices):
        return CollatedBatch(
            inputs=torch.zeros(len(indices), 3, 9, 9, dtype=torch.uint8), labels=torch.tensor(list(indices))
        )


def random_states():
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


@pytest.mark.parametrize(("dataset", "collate"), [(Samples(), None), (WholeBatches(), already_collated)])
def test_a_batch_like_the_loaders_own(dataset, collate):
    before = random_states()
    batch = trial_batch(DataLoader(dataset, batch_size=6, collate_fn=collate))
    assert tensor_shapes(batch) == [(6, 3, 9, 9), (6,)]
    assert batch["inputs"].dtype == torch.uint8
    assert random_states() == before
    sampler = torch.utils.data.BatchSampler(range(100), 5, drop_last=False)
    batch = trial_batch(DataLoader(dataset, batch_sampler=sampler, collate_fn=collate))
    assert tensor_shapes(batch)[0] == (5, 3, 9, 9)


def test_trial_steps_leave_no_trace():
    model = Tiny().eval()
    batch = trial_batch(DataLoader(Samples(), batch_size=6))
    weights = copy.deepcopy(model.state_dict())
    inputs = batch["inputs"].clone()
    before = random_states()
    steps = trial_steps(model, batch, {"a": (False, "fp32"), "b": (True, "bf16")})
    for step in steps.values():
        step()
        step()
    assert random_states() == before
    assert not model.training
    assert not is_channels_last(model)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(batch["inputs"], inputs)


def test_trial_steps_do_what_their_names_say(monkeypatch):
    seen = []
    original = Tiny.forward

    def forward(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        seen.append((*self.seen, is_channels_last(self), self.training))
        return result

    monkeypatch.setattr(Tiny, "forward", forward)
    ways = {"a": (False, "fp32"), "b": (True, "fp32"), "c": (False, "bf16"), "d": (True, "bf16")}
    for step in trial_steps(Tiny(), trial_batch(DataLoader(Samples(), batch_size=6)), ways).values():
        step()
    assert seen == [(c, p == "bf16", c, True) for c, p in ways.values()]


# ---- in a run ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class FakeLoop:
    max_iters: int


class FakeRunner:
    def __init__(self, steps=10_000, dataset=None):
        self.model = Tiny()
        self.train_dataloader = DataLoader(dataset or Samples(), batch_size=6)
        self.train_loop = FakeLoop(steps)
        self.hooks = [type("RunRecordHook", (), {"record": {}})()]

    @property
    def recorded(self):
        return self.hooks[0].record["acceleration"]


def plan_for(flags=None, **kwargs):
    device = Device("cpu", "test", threads=2)
    arguments = {"stage": "pretrain", "deterministic": False, "may_measure": True, **kwargs}
    return Plan(device, resolve(device, flags or {}, {}, **arguments))


@pytest.fixture
def clock_says(monkeypatch, cache):
    """``clock_says("fp32 channels_last")``: that way is twice as fast; returns the names of all that is compared."""
    asked = []

    def says(winner):
        def fake(steps, *, budget_s):
            asked.append(list(steps))
            for step in steps.values():
                step()
            return measured(**{name: [0.5 if name == winner else 1.0] for name in steps})[0]

        monkeypatch.setattr("sosr_det.engine.acceleration.plan.measure", fake)
        return asked

    return says


def test_the_faster_layout_is_used_recorded_and_said(clock_says, capsys):
    asked = clock_says("fp32 channels_last")
    runner, plan = FakeRunner(), plan_for()
    with plan.applied_to(runner):
        assert is_channels_last(runner.model)
    assert asked == [["fp32 NCHW", "fp32 channels_last"]]
    assert plan.settings.channels_last
    assert runner.recorded["channels_last"] is True
    assert runner.recorded["measured"]["speedups"] == {"fp32 channels_last": 2.0}
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert (
        "fp32, channels_last, SGD (measured against fp32 NCHW: fp32 channels_last 2.00x, 4 interleaved"
        in said
    )
    # The next run of the same network does as this one did, whatever the clock says meanwhile.
    clock_says("fp32 NCHW")
    second, plan = FakeRunner(), plan_for()
    with plan.applied_to(second):
        pass
    assert len(asked) == 1
    assert second.recorded["channels_last"] is True
    assert "by an earlier run)" in capsys.readouterr().out


def test_with_equal_ways_the_plain_one_stays(clock_says):
    clock_says("neither")
    runner, plan = FakeRunner(), plan_for()
    with plan.applied_to(runner):
        pass
    assert not is_channels_last(runner.model)
    assert (runner.recorded["channels_last"], runner.recorded["precision"]) == (False, "fp32")


@pytest.mark.parametrize("winner", ["fp32 NCHW", "bf16 NCHW", "bf16 channels_last", "fp32 channels_last"])
def test_automatic_precision_is_measured_too(clock_says, winner):
    asked = clock_says(winner)
    runner, plan = FakeRunner(), plan_for({"precision": "auto"})
    with plan.applied_to(runner):
        pass
    assert asked == [["fp32 NCHW", "fp32 channels_last", "bf16 NCHW", "bf16 channels_last"]]
    assert f"{plan.settings.precision} {'channels_last' if plan.settings.channels_last else 'NCHW'}" == winner


@pytest.mark.parametrize(("steps", "measures"), [(499, False), (500, True)])
def test_a_measurement_takes_at_most_two_percent_of_the_steps(clock_says, steps, measures):
    asked = clock_says("fp32 channels_last")  # 2 ways x (4 rounds + 1) = 10 steps
    runner, plan = FakeRunner(steps), plan_for()
    with plan.applied_to(runner):
        pass
    assert bool(asked) == measures == runner.recorded["channels_last"]
    assert plan.note == ("" if measures else "the run is too short to measure")


def test_parts_are_compiled_and_that_is_recorded(cache):
    runner, plan = FakeRunner(), plan_for({"compile": {"backend": "eager"}, "channels_last": True})
    names = list(runner.model.state_dict())
    with plan.applied_to(runner):
        pass
    assert runner.model.backbone._compiled_call_impl is not None  # compiled at its first call
    assert runner.model.head._compiled_call_impl is None
    assert list(runner.model.state_dict()) == names
    assert runner.recorded["compile"] == {"backend": "eager"}


@pytest.mark.parametrize("flags", [{"deterministic": True}, {"may_measure": False}])
def test_runs_that_must_be_alike_measure_nothing(clock_says, flags):
    asked = clock_says("fp32 channels_last")
    runner, plan = FakeRunner(), plan_for({"precision": "auto"}, **flags)
    with plan.applied_to(runner):
        pass
    assert asked == []
    assert (runner.recorded["precision"], runner.recorded["channels_last"]) == ("bf16", False)


class Unreadable(Samples):
    def __getitem__(self, index):
        raise OSError("cannot identify image file")


def test_what_cannot_be_measured_ends_no_run(cache, capsys):
    runner, plan = FakeRunner(dataset=Unreadable()), plan_for()
    with plan.applied_to(runner):
        pass
    assert runner.recorded["measured"] is None
    assert "(not measured: cannot identify image file)" in capsys.readouterr().out


def test_a_real_measurement_of_a_small_network_takes_less_than_its_budget(cache):
    runner, plan = FakeRunner(), plan_for({"precision": "auto"})
    before = random_states()
    with plan.applied_to(runner):
        pass
    found = runner.recorded["measured"]
    assert set(found["speedups"]) == {"fp32 channels_last", "bf16 NCHW", "bf16 channels_last"}
    assert found["rounds"] >= MIN_ROUNDS
    assert min(found["seconds"].values()) > 0
    assert random_states() == before
    assert len(list(cache.iterdir())) == 1

"""The benchmark of the training step: equal work, real hooks, fair turns, and peers that may be missing."""

from __future__ import annotations

import json
import sys
import time

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from typer.testing import CliRunner

import sosr_det.register  # noqa: F401
from sosr_det.analysis.bench_train import bench, turns
from sosr_det.analysis.bench_train.bare import BareLoop
from sosr_det.analysis.bench_train.by_hook import HookMeter
from sosr_det.analysis.bench_train.turns import AllRoundsDone, Turns
from sosr_det.analysis.bench_train.work import build_network, device_batches, find_work, make_batches
from sosr_det.cli.bench import app
from sosr_det.errors import ConfigError, InstallationError

SLEEP_S = 0.15
watched = {"hooks": set(), "steps": 0}


@pytest.fixture(autouse=True)
def one_thread():
    """Small operations on several threads wait for each other, for minutes where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@HOOKS.register_module(force=True)
class SleepForBenchTest(Hook):
    def before_train(self, runner):
        watched.update(steps=0, hooks={type(hook).__name__ for hook in runner.hooks})

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        watched["steps"] += 1
        time.sleep(SLEEP_S)


# ---- the engine's runs -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    """One run of all loops that need no extra, with a hook in ours that sleeps."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    results = bench.bench_train(
        "cifar",
        ["torchvision", "timm"],
        steps_per_turn=2,
        rounds=2,
        batch_size=2,
        extra_hooks=[{"type": "SleepForBenchTest"}],
        by_hook=True,
    )
    torch.set_num_threads(before)
    return results


def test_all_loops_learn_the_same_weights(measured):
    rows = measured["rows"]
    assert list(rows) == ["bare", "sosr-det", "torchvision", "timm"]
    assert [row["weight_difference"] for row in rows.values()] == [0, 0, 0, 0]


def test_our_engine_runs_with_every_hook_of_a_training_and_each_of_its_steps_is_counted(measured):
    for name in ("DivergenceHook", "RunRecordHook", "RuntimeInfoHook", "IterTimerHook", "LoggerHook"):
        assert name in watched["hooks"]
    assert any("Checkpoint" in name for name in watched["hooks"])
    assert watched["steps"] == 2 * (2 + 2)


def test_a_slow_hook_is_seen_in_our_time_alone(measured):
    rows = measured["rows"]
    assert rows["sosr-det"]["step_ms"] > 1000 * SLEEP_S
    assert rows["sosr-det"]["ratio"] > 1.5
    assert rows["bare"]["step_ms"] < rows["sosr-det"]["step_ms"]
    assert rows["timm"]["ours_ratio"] > 1.5
    assert 0 < rows["sosr-det"]["cpu_ratio"] < rows["sosr-det"]["ratio"]  # it sleeps


def test_the_report_names_the_work_and_every_loop(measured):
    title, header, *lines = bench.report_lines(measured)
    assert title.startswith(
        "resnet20, 2 images of 32 px a step, fp32, 2 rounds of 2 steps in turns, cpu (1 threads)"
    )
    assert header.split("  ")[1] == "loop"
    assert [line.split()[0] for line in lines[:4]] == ["bare", "sosr-det", "torchvision", "timm"]
    assert "processor time of our hooks" in lines[4]
    assert any(line.split()[0] == "RuntimeInfoHook" for line in lines[5:])
    assert "BenchTurnsHook" not in measured["hooks_cpu_ms"]  # the other loops run in it


def test_the_difference_sees_one_changed_weight():
    work = find_work("cifar", batch_size=2)
    one, other = build_network(work), build_network(work)
    assert bench.largest_difference(one, other) == 0
    with torch.no_grad():
        other.head.bias[3] += 0.25
    assert bench.largest_difference(one, other) == pytest.approx(0.25)


def test_the_bare_loop_is_the_textbook_update():
    work = find_work("cifar", batch_size=2)
    loop = BareLoop(work)
    steps = loop.steps()
    for _ in range(2):
        next(steps)
    network = build_network(work).train()
    momenta = [torch.zeros_like(p) for p in network.parameters()]
    for (images, labels), _ in zip(device_batches(work), range(2), strict=False):
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for p, gradient, momentum in zip(network.parameters(), gradients, momenta, strict=True):
                momentum.mul_(work.momentum).add_(gradient + work.weight_decay * p)
                p.sub_(work.learning_rate * momentum)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(loop.network.state_dict()[key], value, rtol=1e-5, atol=1e-6)


def test_batches_are_drawn_images_that_come_again():
    work = find_work("cifar", batch_size=3)
    batches = make_batches(work)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches, make_batches(work), strict=True))
    assert not torch.equal(batches[0][0], batches[1][0])
    images, _ = next(device_batches(work))
    raw = batches[0][0].float()
    torch.testing.assert_close(images[:, 1], (raw[:, 1] - work.mean[1]) / work.std[1])


# ---- turns -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the loops move."""
    state = {"now": 10.0}
    monkeypatch.setattr(turns.time, "perf_counter", lambda: state["now"])
    monkeypatch.setattr(turns.time, "process_time", lambda: state["now"] / 4)
    return state


def test_turns_are_timed_without_each_other_and_the_guests_change_places(clock):
    order = []

    def guest(name, seconds):
        while True:
            order.append(name)
            clock["now"] += seconds
            yield

    taken = Turns({"A": guest("A", 1.0), "B": guest("B", 5.0)}, 2, 2, warm_up=1)
    assert taken.host_steps == 6
    taken.begin()

    def train():
        for step in range(100):
            order.append("h")
            clock["now"] += 10.0 + step
            taken.host_stepped()

    with pytest.raises(AllRoundsDone):
        train()
    assert taken.times == {"sosr-det": [12 + 13, 14 + 15], "A": [2, 2], "B": [10, 10]}
    assert taken.cpu_times == {"sosr-det": [25 / 4, 29 / 4], "A": [0.5, 0.5], "B": [2.5, 2.5]}
    assert "".join(order) == "hhAABBhhBBAAhhAABB"


def test_ratios_are_medians_over_rounds():
    times = {"sosr-det": [2.0, 4.0, 9.0], "bare": [2.0, 2.0, 3.0], "timm": [1.0, 8.0, 9.0]}
    rows = bench.summarise_turns(times, steps_per_turn=10, batch_size=5)
    assert list(rows) == ["bare", "sosr-det", "timm"]
    assert rows["sosr-det"]["ratio"] == 2  # of 1, 2 and 3
    assert (rows["sosr-det"]["ratio_q25"], rows["sosr-det"]["ratio_q75"]) == (1.5, 2.5)
    assert rows["sosr-det"]["step_ms"] == 400
    assert rows["sosr-det"]["img_per_s"] == 12.5
    assert rows["timm"]["ours_ratio"] == 1  # of 2, 0.5 and 1
    assert rows["bare"]["ratio"] == rows["sosr-det"]["ours_ratio"] == 1


@pytest.mark.parametrize("arguments", [(0, 1), (1, 0)])
def test_no_turns(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        Turns({}, *arguments)


# ---- what can be asked for -------------------------------------------------------------------------------------------


def test_wrong_names_and_numbers():
    with pytest.raises(
        ConfigError, match="--vs must be one of bare, torchvision, timm, mmpretrain, got 'lightning'"
    ):
        bench.bench_train(peers=["lightning"])
    with pytest.raises(ConfigError, match="--work must be one of cifar, imagenet, got 'voc'"):
        bench.bench_train("voc")
    with pytest.raises(ConfigError, match="rounds must be at least 1, got 0"):
        bench.bench_train(rounds=0)
    with pytest.raises(ConfigError, match=r"--device 'cuda:7' is not available"):
        bench.bench_train(device="cuda:7")


def test_our_engine_cannot_be_kept_off_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES"):
        bench.bench_train(device="cpu")


@pytest.mark.parametrize("error", [ImportError("No module named 'mmpretrain'"), TypeError("transformers 5")])
def test_a_missing_peer_is_told_with_its_extra(monkeypatch, error):
    class Refusing:
        def find_spec(self, name, path=None, target=None):
            if name == "mmpretrain":
                raise error

    for name in [name for name in sys.modules if name.partition(".")[0] == "mmpretrain"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "sosr_det.analysis.bench_train.mmpretrain_loop", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    with pytest.raises(InstallationError, match=r"--vs mmpretrain: .*sosr-det\[mmpretrain\]"):
        bench.bench_train(peers=["mmpretrain"])


def test_mmpretrain_learns_the_same_weights():
    try:
        import mmpretrain.models  # noqa: F401
    except (ImportError, TypeError) as error:
        pytest.skip(f"mmpretrain does not import here: {error}")
    results = bench.bench_train(peers=["mmpretrain"], steps_per_turn=1, rounds=1, batch_size=2)
    assert results["rows"]["mmpretrain"]["weight_difference"] == 0


def test_command_line(monkeypatch):
    asked = {}

    def bench_train(work, peers, **options):
        asked.update(work=work, peers=list(peers), **options)
        row = dict.fromkeys(
            ("step_ms", "img_per_s", "ratio", "ratio_q25", "ratio_q75", "ours_ratio", "cpu_ratio"), 1.0
        )
        rows = {"bare": {**row, "weight_difference": 0.0}}
        work = {"name": "cifar", "arch": "resnet20", "image_size_px": 32, "batch_size": 4}
        fixed = {"steps_per_turn": 3, "rounds": 5, "device": "cpu", "threads": 2, "torch": "2"}
        return {"work": work, **fixed, "rows": rows}

    monkeypatch.setattr(bench, "bench_train", bench_train)
    arguments = ["train", "--vs", "timm", "--vs", "bare", "--work", "cifar", "--batch-size", "4"]
    arguments += ["--steps", "3", "--repeats", "5"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert asked == {
        "work": "cifar",
        "peers": ["timm", "bare"],
        "steps_per_turn": 3,
        "rounds": 5,
        "batch_size": 4,
        "device": "cpu",
        "by_hook": False,
    }
    assert "resnet20, 4 images of 32 px" in result.output
    assert json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)["rows"]["bare"]["ratio"] == 1


def test_each_hook_is_measured_on_its_own():
    class Busy(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            end = time.thread_time() + 0.02
            while time.thread_time() < end:
                pass

    class Idle(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            time.sleep(0.02)  # no processor time
            raise ZeroDivisionError

    class Runner:
        hooks = (Idle(), Busy())

    meter = HookMeter()
    meter.watch(Runner)
    for _ in range(3):
        for hook in Runner.hooks:
            hook.before_train_iter(Runner, 0)
        with pytest.raises(ZeroDivisionError):
            Runner.hooks[0].after_train_iter(Runner, 0)
        meter.step()
    found = meter.ms_per_step()
    assert list(found) == ["Busy", "Idle"]
    assert 20 <= found["Busy"] < 60
    assert found["Idle"] < 10

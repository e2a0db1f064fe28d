"""The benchmark of the loss: its peers compute the same, its rounds take turns, its ratios are what they say."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from sosr_det.analysis import bench_loss as bench
from sosr_det.analysis import interleaved
from sosr_det.cli.bench import _table, app
from sosr_det.errors import ConfigError


def value_and_gradient(loss, logits, target):
    logits = logits.clone().requires_grad_()
    value = loss(logits, target)
    value.backward()
    return value.detach(), logits.grad


def sosr_by_formula(logits, target):
    """Eq. (1), P = 0.99 and weight 0.5, with the spread of the incorrect logits written as a variance."""
    rows = torch.arange(len(target))
    over = logits.softmax(1)[rows, target] > 0.99
    incorrect = torch.ones_like(logits, dtype=torch.bool)
    incorrect[rows, target] = False
    spread = logits[incorrect].view(len(target), -1).var(dim=1, correction=0) * (logits.shape[1] - 1)
    return F.cross_entropy(logits, target) + 0.5 * (spread * over).sum() / logits.numel()


def test_the_peers_compute_the_same_loss_on_the_bench_batch():
    logits, target = bench.half_overconfident_batch(32, 50)
    logits = logits.double()
    values = {name: value_and_gradient(loss, logits, target) for name, loss in bench.LOSSES.items()}
    wanted = value_and_gradient(sosr_by_formula, logits, target)
    for name in ("SOSRLoss", "literal per-sample SOSR"):
        torch.testing.assert_close(values[name], wanted, rtol=1e-9, atol=1e-12)
    # Plain cross-entropy is another loss there: the batch does exercise the term.
    assert (values["cross-entropy"][0] - wanted[0]).abs() > 0.1
    assert (values["cross-entropy"][1] - wanted[1]).abs().max() > 1e-4


def test_half_of_the_bench_batch_is_overconfident():
    logits, target = bench.half_overconfident_batch(40, 1000)
    over = logits.softmax(1)[torch.arange(40), target] > 0.99
    assert over.tolist() == [True, False] * 20


def test_rows_of_the_loss_benchmark():
    rows = bench.bench_loss(num_samples=4, num_classes=6, repeats=2)
    assert list(rows) == ["cross-entropy", "SOSRLoss", "literal per-sample SOSR"]
    assert all(row["median_ms"] > 0 and row["ratio"] > 0 for row in rows.values())
    assert rows["cross-entropy"]["ratio"] == 1


def test_a_step_trains_the_whole_network(monkeypatch):
    steps = []
    step = torch.optim.SGD.step

    def counted(self, *arguments):
        steps.append(sum(p.grad is not None for group in self.param_groups for p in group["params"]))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", counted)
    rows = bench.bench_step("resnet20", batch_size=2, image_size=32, num_classes=10, repeats=1)
    assert list(rows) == ["cross-entropy", "SOSRLoss"]
    assert all(row["median_ms"] > 0 for row in rows.values())
    assert len(steps) == 2 * (1 + 2)  # two peers, one round and two to warm up
    assert len(set(steps)) == 1
    assert steps[0] > 20


# ---- turns and ratios ------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the peers move."""
    state = {"now": 100.0}
    monkeypatch.setattr(interleaved.time, "perf_counter", lambda: state["now"])
    return state


def test_peers_take_turns_and_warm_up_is_not_counted(clock):
    order = []

    def peer(name, seconds):
        remaining = iter(seconds)

        def work():
            order.append(name)
            clock["now"] += next(remaining)

        return work

    peers = {
        "A": peer("A", [9, 1, 2, 3]),
        "B": peer("B", [9, 10, 20, 30]),
        "C": peer("C", [9, 0.5, 0.25, 4]),
    }
    times = interleaved.time_interleaved(peers, 3, warm_up=1)
    assert times == {"A": [1, 2, 3], "B": [10, 20, 30], "C": [0.5, 0.25, 4]}
    assert "".join(order) == "ABCBCACABABC"
    with pytest.raises(ValueError, match="at least 1, got 0"):
        interleaved.time_interleaved(peers, 0)


def test_two_rounds_warm_up_by_default(clock):
    calls = []
    times = interleaved.time_interleaved({"A": lambda: calls.append(1)}, 3)
    assert (len(times["A"]), len(calls)) == (3, 5)


def test_the_ratio_is_a_median_over_rounds_not_a_ratio_of_medians():
    rows = interleaved.summarise({"base": [1.0, 2.0, 4.0], "peer": [3.0, 4.0, 4.0]})
    assert rows == {
        "base": {"median_ms": 2000.0, "ratio": 1.0},
        "peer": {"median_ms": 4000.0, "ratio": 2.0},  # of 3, 2 and 1
    }
    rows = interleaved.summarise({"base": [1.0, 2.0, 10.0], "peer": [10.0, 6.0, 10.0]})
    assert rows["peer"] == {"median_ms": 10_000.0, "ratio": 3.0}  # of 10, 3 and 1; the medians' is 5


def test_each_time_waits_for_the_device_that_worked(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: waited.append(str(device)))
    interleaved.time_interleaved({"A": lambda: None}, 1, warm_up=0, device="cuda:1")
    assert waited == ["cuda:1", "cuda:1"]
    interleaved.time_interleaved({"A": lambda: None}, 1, warm_up=0, device="cpu")
    assert len(waited) == 2


# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "num_gpus", "told"),
    [
        ("nope", 0, r"--device 'nope' is not available\. Choose one of: cpu\."),
        ("cuda", 0, r"PyTorch finds no CUDA device\. Choose one of: cpu\."),
        ("meta", 0, r"'meta' is not available"),
        ("cuda:2", 2, r"'cuda:2' is not available\. Choose one of: cpu, cuda, cuda:0, cuda:1\."),
    ],
)
def test_a_device_that_is_not_there(monkeypatch, asked, num_gpus, told):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    with pytest.raises(ConfigError, match=told):
        interleaved.require_device(asked)
    for command in (["loss", "--samples", "2"], ["step", "--arch", "resnet20", "--image-size", "32"]):
        result = CliRunner().invoke(app, [*command, "--device", asked])
        assert isinstance(result.exception, ConfigError)


def test_devices_that_are_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert interleaved.require_device(name) == name


def test_a_wrong_backbone_is_told_near_names():
    with pytest.raises(ConfigError, match=r"unknown backbone 'resnet5o'.*resnet50"):
        bench.bench_step("resnet5o")


def test_help_says_how_to_find_a_backbone_in_no_python_terms():
    result = CliRunner().invoke(app, ["step", "--help"], env={"COLUMNS": "200"})
    assert "sosr_det." not in result.output
    for name in ("resnet50", "resnet56", "timm/NAME", "near names"):
        assert name in result.output


def test_command_line():
    arguments = ["step", "--arch", "resnet20", "--image-size", "32", "--batch-size", "2", "--repeats", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    title, header, *lines = result.output.splitlines()
    assert title.startswith("resnet20, 2 images of 32 px")
    assert header.split() == ["name", "ms", "time", "/", "cross-entropy"]
    assert [line.split()[0] for line in lines] == ["cross-entropy", "SOSRLoss"]
    rows = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    assert list(rows["SOSRLoss"]) == ["median_ms", "ratio"]


def test_tables_by_hand():
    rows = {"a": {"median_ms": 2.0, "ratio": 1.0}, "long name": {"median_ms": 12.345, "ratio": 6.1725}}
    assert _table(rows).splitlines() == [
        "  name          ms  time / a",
        "  a           2.00     1.000",
        "  long name  12.35     6.173",
    ]
    rows = {
        "slow": {"median_ms": 20.0, "ratio": 1.0, "img_per_s": 50.0},
        "fast": {"median_ms": 2.0, "ratio": 0.1, "img_per_s": 500.0, "speedup": 10.04},
    }
    assert _table(rows).splitlines() == [
        "  name     ms  img/s  times as fast as its peer",
        "  slow  20.00     50                          -",
        "  fast   2.00    500                       10.0",
    ]

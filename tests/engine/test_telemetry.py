"""What a run tells while it trains: times, words, metrics.jsonl, the bar, and the norm of the gradient."""

from __future__ import annotations

import io
import json
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from rich.console import Console

import sosr_det.register  # noqa: F401
from sosr_det.engine.telemetry.bar import BarDisplay
from sosr_det.engine.telemetry.clock import Span, StepClock, eta_seconds
from sosr_det.engine.telemetry.console import keep_off_terminal
from sosr_det.engine.telemetry.display import LineDisplay, NoDisplay, Place, make_display
from sosr_det.engine.telemetry.gradients import GradientNorm, peak_memory
from sosr_det.engine.telemetry.hook import MetricsHook, validations_left
from sosr_det.engine.telemetry.metrics_file import MetricsFile, read_metrics
from sosr_det.engine.telemetry.wording import duration, metric_list, number, rate, size, step_details
from sosr_det.errors import CheckpointError, ConfigError

# ---- times ---------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def pass_(self, seconds):
        self.now += seconds


def make_step(clock, steps, wait, train, rest, images=8):
    clock.pass_(wait)
    steps.enter()
    clock.pass_(train)
    steps.step(images)
    clock.pass_(rest)
    steps.leave()


def test_waiting_is_what_lies_between_two_steps_and_nothing_else():
    clock = Clock()
    steps = StepClock(clock)
    clock.pass_(50)  # building, checking
    steps.begin()
    make_step(clock, steps, wait=1, train=2, rest=1)  # 4 s, 1 of them waiting
    make_step(clock, steps, wait=3, train=2, rest=1)  # 6 s, 3 of them waiting
    span = steps.take_interval()
    assert (span.steps, span.images, span.seconds, span.wait_seconds) == (2, 16, 10.0, 4.0)
    assert span.data_wait_fraction == 0.4
    assert span.img_per_s == 1.6
    assert span.seconds_per_step == 5.0
    assert steps.take_interval() == Span()


def test_a_validation_between_epochs_counts_nowhere_but_other_hooks_do():
    clock = Clock()
    steps = StepClock(clock)
    steps.begin()
    make_step(clock, steps, wait=0, train=1, rest=4)
    clock.pass_(1000)
    steps.begin()
    make_step(clock, steps, wait=0, train=1, rest=4)
    assert steps.epoch.seconds == 5.0
    assert steps.take_interval().seconds == 10.0


def test_a_validation_between_two_steps_of_a_run_by_iterations_counts_nowhere():
    clock = Clock()
    hook = MetricsHook()
    steps = hook._clock = StepClock(clock)
    steps.begin()
    make_step(clock, steps, wait=0, train=1, rest=0)
    hook.before_val_epoch(None)
    clock.pass_(1000)
    hook.after_val_epoch(None, {})
    hook.after_val(None)
    make_step(clock, steps, wait=1, train=1, rest=0)
    span = steps.take_interval()
    assert (span.seconds, span.wait_seconds) == (3.0, 1.0)
    assert steps.seconds_per_step == 2.0


@pytest.mark.parametrize(
    ("steps_made", "begin", "left"),
    [
        (5, 1, 3),
        (9, 1, 3),
        (10, 1, 2),
        (19, 1, 2),
        (20, 1, 1),
        (24, 1, 1),
        (25, 1, 0),
        (5, 15, 2),
        (5, 99, 0),
    ],
)
def test_validations_left_of_a_run_by_iterations(steps_made, begin, left):
    """25 steps, validated after 10, 20 and the last one; ``begin`` leaves out earlier ones."""
    loop = SimpleNamespace(val_interval=10, val_begin=begin, max_iters=25)
    runner = SimpleNamespace(train_loop=loop, val_loop=object(), iter=steps_made - 1, max_iters=25)
    assert validations_left(runner) == left


def test_the_first_step_is_no_measure_of_those_to_come():
    clock = Clock()
    steps = StepClock(clock)
    steps.begin()
    assert steps.seconds_per_step is None
    make_step(clock, steps, wait=0, train=60, rest=0)
    assert steps.seconds_per_step is None
    make_step(clock, steps, wait=1, train=1, rest=0)
    make_step(clock, steps, wait=1, train=3, rest=0)
    assert steps.seconds_per_step == 3.0
    assert steps.epoch.seconds == 66.0  # what was is told in full


def test_the_time_that_is_left_worked_by_hand():
    # 90 epochs of 1000 steps; 3 epochs and 500 steps are done; a step takes 0.2 s, a validation 30 s, 87 are left.
    assert eta_seconds(90 * 1000 - 3500, 0.2, 87, 30.0) == pytest.approx(86500 * 0.2 + 2610)
    assert eta_seconds(100, 0.5, 4, None) == 50.0  # no validation was made yet
    assert eta_seconds(100, None, 4, 30.0) is None
    assert eta_seconds(0, 0.5) == 0.0


def test_spans_without_steps_or_images_have_no_rates():
    assert Span().img_per_s is None
    assert Span().data_wait_fraction is None
    assert Span().seconds_per_step is None
    assert Span(steps=1, seconds=2.0).img_per_s is None


# ---- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (math.nan, "?"),
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (725, "12 min 05 s"),
        (3599.7, "1 h 00 min"),
        (18720, "5 h 12 min"),
        (86399, "1 d 0 h"),
        (273600, "3 d 4 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_numbers_rates_and_sizes():
    assert [number(value) for value in (None, 0.02, 1.23456, 1234567.0)] == [
        "nan",
        "0.02",
        "1.235",
        "1.235e+06",
    ]
    assert [rate(value) for value in (None, 3.14159, 812.4)] == ["? img/s", "3.1 img/s", "812 img/s"]
    assert [size(value) for value in (512.3, 2150.4)] == ["512 MiB", "2.1 GiB"]


RECORD = {
    "kind": "train", "epoch": 3, "step": 1120, "time": 0.0, "loss": 1.25, "loss_cls": 0.75, "loss_bbox": 0.5,
    "acc": 90.0, "lr": 0.02, "momentum": 0.9, "grad_norm": 3.14159, "img_per_s": 812.4,
    "data_wait_fraction": 0.031, "seconds_per_step": 0.5, "memory_mib": 2150.4, "memory_of": "cuda",
    "eta_seconds": 18720.0,
}  # fmt: skip
PLACE = Place(3, 90, 120, 500)
SHOWN = [
    "loss 1.25 (loss_cls 0.75, loss_bbox 0.5)", "lr 0.02", "grad norm 3.14", "812 img/s", "data wait 3%", "2.1 GiB",
]  # fmt: skip


def test_a_step_is_told_with_every_term_of_its_loss():
    assert step_details(RECORD) == SHOWN
    assert step_details({"loss_cls": 0.75, "loss": None, "lr": None})[0] == "loss nan (loss_cls 0.75)"
    assert step_details({"loss_cls": 0.75})[0] == "loss_cls 0.75"


def test_metrics_are_told_without_counts_and_not_by_the_dozen():
    assert metric_list({"top1": 71.25, "num_samples": 40}) == "top1 71.25"
    many = {f"ap{i}": 0.5 for i in range(20)}
    assert metric_list(many).endswith("ap5 0.5, and 14 more")


# ---- the terminal --------------------------------------------------------------------------------------------------


def test_one_line_for_an_interval_an_epoch_and_a_validation():
    lines = []
    shown = LineDisplay(lines.append, now=lambda: "12:00:00")
    shown.start("runs/a/log")
    shown.step(PLACE)  # shows nothing
    shown.train(PLACE, RECORD)
    shown.epoch(PLACE, {"seconds": 252.0, "img_per_s": 812.4, "data_wait_fraction": 0.031})
    shown.validated(PLACE, {"seconds": 12.0}, {"accuracy/top1": 71.25, "accuracy/num_samples": 40})
    shown.train(Place(0, 0, 120, 500), RECORD)
    assert lines == [
        "full log: runs/a/log",
        f"12:00:00 epoch 3/90 step 120/500: {', '.join(SHOWN)}, 5 h 12 min left",
        "12:00:00 epoch 3/90 trained: 4 min 12 s, 812 img/s, data wait 3%",
        "12:00:00 epoch 3/90 validated: accuracy/top1 71.25 (12 s)",
        f"12:00:00 step 120/500: {', '.join(SHOWN)}, 5 h 12 min left",
    ]


@pytest.fixture
def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=160, color_system=None, highlight=False)


def test_the_bar_shows_run_epoch_and_figures_and_leaves_a_line_for_each_epoch(terminal):
    clock = Clock()
    bar = BarDisplay(terminal, clock, now=lambda: "12:00:00")
    bar.train(PLACE, RECORD)
    clock.pass_(1)
    bar.step(Place(3, 90, 121, 500))
    drawn = terminal.file.getvalue()
    assert "121/500" in drawn
    assert "epoch 3/90" in drawn
    assert "5 h 12 min left" in drawn
    assert all(part in drawn for part in SHOWN)
    clock.pass_(1)
    bar.validation_step(7, 40)
    assert "validation" in terminal.file.getvalue()
    bar.epoch(PLACE, {"seconds": 252.0, "img_per_s": 812.4, "data_wait_fraction": 0.031})
    bar.validated(PLACE, {"seconds": 12.0}, {"accuracy/top1": 71.25})
    bar.close()
    bar.close()  # again changes nothing
    after = terminal.file.getvalue()
    assert "12:00:00 epoch 3/90 trained: 4 min 12 s" in after
    assert "12:00:00 epoch 3/90 validated: accuracy/top1 71.25 (12 s)" in after
    assert after.endswith("\x1b[2K") or "\x1b[?25h" in after[-60:]  # bars are taken away, the cursor is back


def test_the_bar_is_drawn_twice_a_second_at_most(terminal):
    clock = Clock()
    bar = BarDisplay(terminal, clock)
    for step in range(1, 101):
        bar.step(Place(1, 2, step, 100))
        clock.pass_(0.1)
    bar.close()
    drawn = terminal.file.getvalue().count("/100")
    assert 18 <= drawn <= 22  # of 100 steps in 10 s


def test_a_bar_only_where_there_is_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert type(make_display("auto")) is LineDisplay
    assert type(make_display("none")) is NoDisplay
    assert isinstance(make_display("bar"), BarDisplay)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", terminal)
    assert isinstance(make_display("auto"), BarDisplay)
    assert type(make_display("lines")) is LineDisplay
    monkeypatch.setenv("TERM", "dumb")
    assert type(make_display("auto")) is LineDisplay
    with pytest.raises(ConfigError, match="auto, bar, lines, none"):
        make_display("loud")


def test_mmengines_log_goes_to_its_file_and_its_warnings_to_the_terminal_too(tmp_path, capsys):
    logger = MMLogger("sosr-test", log_file=str(tmp_path / "log"))
    keep_off_terminal(logger)
    logger.info("the whole config")
    logger.warning("something is odd")
    logger.warning("X will be deprecated in future")
    for handler in logger.handlers:
        handler.close()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "warning: something is odd\n"
    assert (tmp_path / "log").read_text().count("\n") == 3
    assert any(isinstance(handler, logging.FileHandler) for handler in logger.handlers)


# ---- metrics.jsonl -------------------------------------------------------------------------------------------------


def records(steps):
    return [{"kind": "train", "epoch": 1, "step": step, "loss": float(step)} for step in steps]


def written(folder, steps):
    file = MetricsFile(folder)
    for record in records(steps):
        file.write(record)
    return file


def test_records_are_in_the_file_as_soon_as_they_are_written(tmp_path):
    file = written(tmp_path, [1, 2])
    assert read_metrics(tmp_path) == records([1, 2])  # not closed yet
    file.close()
    file.write(records([3])[0])
    file.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == records([1, 2, 3])


def test_a_new_run_begins_a_new_file(tmp_path):
    written(tmp_path, [1, 2]).close()
    written(tmp_path, [1]).close()
    assert read_metrics(tmp_path) == records([1])


def test_what_is_no_number_is_null(tmp_path):
    file = MetricsFile(tmp_path)
    file.write({"kind": "train", "epoch": 1, "step": 1, "loss": math.nan, "lr": math.inf})
    file.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail) == {
        "kind": "train", "epoch": 1, "step": 1, "loss": None, "lr": None,
    }  # fmt: skip


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_last_line_that_a_kill_cut_off_is_left_out(tmp_path, cut):
    written(tmp_path, [1, 2, 3]).close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut] if cut > 1 else path.read_bytes()[:-2])
    assert read_metrics(path) == records([1, 2])


def test_a_broken_line_elsewhere_is_an_error_that_names_it(tmp_path):
    written(tmp_path, [1, 2, 3]).close()
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "{broken\n" + lines[2])
    with pytest.raises(CheckpointError, match="line 2"):
        read_metrics(path)
    path.write_text('{"step": 1}\n')
    with pytest.raises(CheckpointError, match="line 1"):
        read_metrics(path)
    with pytest.raises(CheckpointError, match="there is no"):
        read_metrics(tmp_path / "elsewhere")


def test_a_resumed_run_drops_the_steps_that_it_will_make_again(tmp_path):
    written(tmp_path, [2, 4, 6, 8]).close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind": "train", "st')
    file = MetricsFile(tmp_path)
    file.resume(5)
    assert read_metrics(tmp_path) == records([2, 4])
    for record in records([6, 8]):
        file.write(record)
    file.close()
    assert read_metrics(tmp_path) == records([2, 4, 6, 8])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_the_record_of_the_resumed_step_itself_stays(tmp_path):
    written(tmp_path, [2, 4]).close()
    MetricsFile(tmp_path).resume(4)
    assert read_metrics(tmp_path) == records([2, 4])


def test_a_resumed_run_goes_on_without_the_lines_that_are_damaged(tmp_path):
    written(tmp_path, [1, 2, 3]).close()
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes().split(b"\n")
    damaged = b"\n".join([whole[0], bytes(40), *whole[2:]])
    path.write_bytes(damaged)
    MetricsFile(tmp_path).resume(3)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 3]
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == damaged


def test_a_resumed_run_without_a_file_begins_one(tmp_path):
    file = MetricsFile(tmp_path)
    file.resume(4)
    file.write(records([6])[0])
    file.close()
    assert read_metrics(tmp_path) == records([6])


def test_a_kill_while_the_file_is_cut_leaves_the_old_one(tmp_path, monkeypatch):
    written(tmp_path, [2, 4, 6]).close()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        MetricsFile(tmp_path).resume(2)
    assert read_metrics(tmp_path) == records([2, 4, 6])


def test_of_a_validation_that_was_recorded_twice_the_last_counts(tmp_path):
    file = MetricsFile(tmp_path)
    for top1 in (1.0, 2.0):
        file.write({"kind": "val", "epoch": 1, "step": 2, "top1": top1})
    file.write({"kind": "epoch", "epoch": 1, "step": 2})
    file.close()
    assert [record.get("top1") for record in read_metrics(tmp_path)] == [2.0, None]


# ---- gradient norm and memory --------------------------------------------------------------------------------------


def backward(model, factor=1.0):
    (factor * model(torch.ones(2, 3)).pow(2).sum()).backward()


def reference(model):
    return math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in model.parameters()))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))


def test_the_norm_is_that_of_all_gradients_and_only_where_it_was_asked_for(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    norm = GradientNorm(optimizer)
    backward(model)
    optimizer.step()
    assert norm.take() is None
    norm.ask()
    optimizer.zero_grad()
    backward(model)
    expected = reference(model)
    optimizer.step()
    assert norm.take() == pytest.approx(expected, rel=1e-6)
    assert norm.take() is None
    norm.remove()
    norm.ask()
    optimizer.step()
    assert norm.take() is None


def test_measuring_changes_no_weight(model):
    import copy

    other = copy.deepcopy(model)
    for each, measured in ((model, True), (other, False)):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9)
        norm = GradientNorm(optimizer) if measured else None
        for _ in range(3):
            if norm:
                norm.ask()
            optimizer.zero_grad()
            backward(each)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_scaled_gradient_is_measured_without_its_scale(model):
    """As ``GradScaler`` hands it over: unscaled before the step, or with ``grad_scale`` to a fused optimizer."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norm = GradientNorm(optimizer)
    backward(model)
    expected = reference(model)
    optimizer.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    norm.ask()
    scaler.scale(model(torch.ones(2, 3)).pow(2).sum()).backward()
    scaler.step(optimizer)
    assert norm.take() == pytest.approx(expected, rel=1e-5)

    fused = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    norm = GradientNorm(fused)
    fused.zero_grad()
    backward(model)
    expected = reference(model)
    fused.zero_grad()
    norm.ask()
    scaler.scale(model(torch.ones(2, 3)).pow(2).sum()).backward()
    scaler.step(fused)
    assert norm.take() == pytest.approx(expected, rel=1e-5)


def test_peak_memory_is_that_of_the_process_where_there_is_no_gpu():
    before, kind = peak_memory()
    if kind == "cuda":
        pytest.skip("a GPU is in use")
    big = torch.ones(64 * 2**20, dtype=torch.float32)  # 256 MiB, touched
    after, _ = peak_memory()
    assert kind == "process"
    assert 20 < before <= after
    assert after >= big.numel() * 4 / 2**20

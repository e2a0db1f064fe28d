"""The learning rate: lowered when the training loss stops improving, and what linear scaling says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch.utils.data import DataLoader

import sosr_det.register  # noqa: F401
from sosr_det.engine.configs import load_config
from sosr_det.engine.hooks import train_loss_plateau
from sosr_det.engine.hooks.train_loss_plateau import TrainLossPlateauHook, TrainLossPlateauLR
from sosr_det.engine.learning_rate import learning_rate_scaling, resumed_scaling
from sosr_det.errors import ConfigError

# ---- the scheduler against PyTorch's own ---------------------------------------------------------------------------


def rates(make, losses):
    """The rate after each epoch."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-5)
    step = make(optimizer)
    seen = []
    for loss in losses:
        step(loss)
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


def ours(**arguments):
    def make(optimizer):
        scheduler = TrainLossPlateauLR(optimizer, **arguments)

        def step(loss):
            scheduler.observe(loss)
            scheduler.step()  # as ParamSchedulerHook does after every epoch

        return step

    return make


def torchs(**arguments):
    return lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **arguments).step


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"patience": 0},
        {"patience": 3},
        {"factor": 0.5, "threshold": 0.0},
        {"threshold": 0.3},
        {"cooldown": 2},
    ],
)
def test_rates_are_pytorchs(arguments, seed):
    generator = torch.Generator().manual_seed(seed)
    trend = torch.linspace(1, 0.6, 40) + 0.2 * torch.rand(40, generator=generator)
    losses = trend.tolist()
    asked = {"factor": 0.1, "patience": 2, **arguments}
    assert rates(ours(**asked), losses) == rates(torchs(**asked), losses)


def test_the_third_bad_epoch_lowers_the_rate():
    """By hand, as the paper puts it: "after the 3rd epoch if the loss still hasn't improved then"."""
    losses = [1.0, 0.9, 0.95, 0.9, 0.91, 0.89, 0.95, 0.95, 0.8999]
    low = pytest.approx(1e-6)
    assert rates(ours(), losses) == [1e-5, 1e-5, 1e-5, 1e-5, low, low, low, low, pytest.approx(1e-7)]
    # Within the relative threshold of 1e-4 is no improvement, beyond it is one.
    assert rates(ours(patience=0), [1.0, 0.99991])[-1] == low
    assert rates(ours(patience=0), [1.0, 0.99989])[-1] == 1e-5


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"factor": 1.0}, "factor"),
        ({"factor": 0.0}, "factor"),
        ({"patience": -1}, "patience"),
        ({"patience": 1.5}, "patience"),
        ({"threshold": 1.0}, "threshold"),
        ({"monitor": "voc/map_11point"}, "monitor"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ConfigError, match=named):
        rates(ours(**arguments), [1.0])


# ---- in a run ------------------------------------------------------------------------------------------------------


class Scripted(BaseModel):
    """Its loss in epoch e is ``losses[e]`` plus a wiggle that averages out over the epoch's 4 iterations."""

    def __init__(self, losses):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.losses, self.calls = losses, 0

    def forward(self, inputs, mode="loss"):
        epoch, place = divmod(self.calls, 4)
        self.calls += 1
        wiggle = (0.5, -0.5, 0.25, -0.25)[place]
        return {"loss_box": self.losses[epoch] + wiggle + 0 * self.weight.sum()}


LOSSES = [1.0, 0.9, 0.95, 0.95, 0.95, 0.7, 0.8, 0.8, 0.8, 0.8]
EXPECTED = [1e-5] * 4 + [1e-6] * 4 + [1e-7] * 2  # after each epoch


def run_scripted(work_dir, epochs, resume=False, hook=True):
    model = Scripted(LOSSES)
    data = [{"inputs": torch.zeros(1)}] * 4
    runner = Runner(
        model,
        str(work_dir),
        train_dataloader=DataLoader(data, sampler=DefaultSampler(data)),
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        optim_wrapper=OptimWrapper(torch.optim.Adam(model.parameters(), lr=1e-5)),
        param_scheduler=[{"type": "TrainLossPlateauLR", "patience": 2}],
        custom_hooks=[{"type": "TrainLossPlateauHook"}] if hook else [],
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        default_scope="mmengine",
        resume=resume,
        experiment_name=f"{work_dir.name}-{epochs}-{resume}",
    )
    after = []

    class Watch(train_loss_plateau.Hook):
        priority = "LOWEST"

        def before_train_epoch(self, runner):
            model.calls = 4 * runner.epoch

        def after_train_epoch(self, runner):
            after.append(runner.optim_wrapper.get_lr()["lr"][0])

    runner.register_hook(Watch())
    runner.train()
    return after


def test_a_run_follows_the_mean_loss_and_resumes_where_it_was(tmp_path):
    """Broken off amid the bad epochs, the count goes on: the drop comes at the same epoch."""
    whole = run_scripted(tmp_path / "whole", 10)
    assert whole == pytest.approx(EXPECTED)
    for stop in (4, 8):
        first = run_scripted(tmp_path / f"broken-{stop}", stop)
        rest = run_scripted(tmp_path / f"broken-{stop}", 10, resume=True)
        assert first + rest == whole


def test_without_the_hook_it_says_so(tmp_path):
    with pytest.raises(ConfigError, match="TrainLossPlateauHook"):
        run_scripted(tmp_path / "run", 1, hook=False)


def test_all_ranks_use_the_mean_over_ranks(monkeypatch):
    """Another rank's loss went up while this one's went down: the mean decides, on both."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-5)
    scheduler = TrainLossPlateauLR(optimizer, patience=0)
    others = iter([1.0, 3.0])

    def all_reduce(data, op):
        assert op == "mean"
        data.copy_((data + next(others)) / 2)

    monkeypatch.setattr(train_loss_plateau, "all_reduce", all_reduce)
    hook = TrainLossPlateauHook()
    log = SimpleNamespace(info=print)
    hub = SimpleNamespace(runtime_info={})
    runner = SimpleNamespace(param_schedulers=[scheduler], logger=log, train_loop=None, message_hub=hub)
    for loss in (1.0, 0.5):  # means: 1.0, 1.75
        hook.before_train_epoch(runner)
        hook.after_train_iter(runner, 0, outputs={"loss": torch.tensor(loss)})
        hook.after_train_epoch(runner)
    assert scheduler.best == 1.0
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-6)


# ---- linear scaling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "world_size", "line"),
    [
        (
            "detection/retinanet_r50-sosr-pre_fpn_1x_voc0712", 1,
            "lr 0.01 is for 16 images a step; this run has 1 x 2 = 2: lr 0.00125 "
            "(off: --cfg-options auto_scale_lr.enable=False)",
        ),
        (
            "detection/faster-rcnn_r50-tv-pre_fpn_1x_voc0712", 8,
            "lr 0.01 is for 16 images a step; this run has 8 x 2 = 16: lr 0.01",
        ),
        (
            "detection/retinanet_r50-sosr-pre_fpn_paper30e_voc0712", 8,
            "lr 1e-05 is for 2 images a step; this run has 8 x 2 = 16: lr stays 1e-05 "
            "(scale it: --cfg-options auto_scale_lr.enable=True)",
        ),
        (
            "pretrain/resnet50_sosr_8xb32-90e_in1k", 1,
            "lr 0.1 is for 256 images a step; this run has 1 x 32 = 32: lr 0.0125 "
            "(off: --cfg-options auto_scale_lr.enable=False)",
        ),
    ],
)  # fmt: skip
def test_one_line_says_what_the_rate_is(config, world_size, line):
    scaling = learning_rate_scaling(load_config(config), world_size)
    assert scaling.line() == line


def test_the_rate_is_mmengines(tmp_path):
    """What the line says is what mmengine's Runner sets."""
    cfg = load_config("detection/retinanet_r50-sosr-pre_fpn_1x_voc0712")
    weight = torch.nn.Parameter(torch.zeros(1))
    wrapper = OptimWrapper(torch.optim.SGD([weight], lr=cfg.optim_wrapper.optimizer.lr))
    runner = Runner.__new__(Runner)
    runner._train_dataloader = cfg.train_dataloader
    runner._world_size = 1
    runner.param_schedulers = None
    runner.logger = type("L", (), {"info": print})
    runner.scale_lr(wrapper, cfg.auto_scale_lr)
    assert wrapper.get_lr()["lr"] == [learning_rate_scaling(cfg, 1).lr] == [0.00125]


def test_no_line_without_a_batch_size_to_go_by():
    assert learning_rate_scaling(load_config("finetune/resnet50-ce-pre_ce_1xb32-95e_cub200"), 4) is None


def test_accumulated_steps_are_said():
    cfg = load_config(
        "detection/retinanet_r50-sosr-pre_fpn_1x_voc0712", ["optim_wrapper.accumulative_counts=8"]
    )
    assert "accumulative_counts=8 is not counted" in learning_rate_scaling(cfg, 1).line()


@pytest.mark.parametrize("changes", [{}, {"auto_scale_lr.enable": False}, {"train_dataloader.batch_size": 4}])
@pytest.mark.parametrize("world_size", [1, 8])
def test_a_resumed_run_keeps_the_rate_it_began_with(changes, world_size):
    name = "detection/retinanet_r50-sosr-pre_fpn_1x_voc0712"
    began = learning_rate_scaling(load_config(name), 8).to_dict()
    now = learning_rate_scaling(
        load_config(name, [f"{key}={value}" for key, value in changes.items()]), world_size
    )
    kept, warning = resumed_scaling(now, began, 8)
    assert kept == began
    same = world_size == 8 and "train_dataloader.batch_size" not in changes
    assert (warning is None) == same
    if not same:
        assert "\n" not in warning
        assert f"began with lr 0.01 for 8 x 2 images a step and goes on with {now.world_size} x" in warning
    # A record from before the scaling was recorded.
    kept, warning = resumed_scaling(now, None, 8)
    assert (warning is None) == (world_size == 8)
    assert kept == (now.to_dict() if world_size == 8 else None)

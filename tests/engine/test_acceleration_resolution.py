"""Which settings a run gets, by device, flags, config and record; devices here are facts, none is needed."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from sosr_det.engine.acceleration.config_keys import config_settings, set_ema, wrapper_config
from sosr_det.engine.acceleration.device import Device, current_device
from sosr_det.engine.acceleration.measurement import Measurement
from sosr_det.engine.acceleration.plan import can_fuse, plan_acceleration, requested
from sosr_det.engine.acceleration.report import acceleration_line
from sosr_det.engine.acceleration.resolution import resolve, resumed
from sosr_det.engine.acceleration.settings import Settings
from sosr_det.engine.run_record import SCHEMA_VERSION, write_run_record
from sosr_det.engine.train_options import TrainOptions
from sosr_det.errors import ConfigError

H100 = Device("cuda", "NVIDIA H100", (9, 0))
A100 = Device("cuda", "NVIDIA A100", (8, 0))
T4 = Device("cuda", "Tesla T4", (7, 5))
P100 = Device("cuda", "Tesla P100", (6, 0))
CPU = Device("cpu", "AMD EPYC", threads=2)
MPS = Device("mps")


def settle(device, flags=None, config=None, *, stage="pretrain", deterministic=False, may_measure=True):
    return resolve(
        device, flags or {}, config or {}, stage=stage, deterministic=deterministic, may_measure=may_measure
    )


# ---- by device -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "flags", "stage", "expected"),
    [
        # (precision, channels_last, fused, cuDNN benchmark): without flags the published fp32, whatever the device.
        (A100, {}, "pretrain", ("fp32", False, True, True)),
        (H100, {}, "detection", ("fp32", False, True, False)),
        (T4, {}, "finetune", ("fp32", False, True, True)),
        (CPU, {}, "pretrain", ("fp32", False, None, False)),
        (MPS, {}, "pretrain", ("fp32", False, None, False)),
        # Automatic: bf16 from Ampere on, fp16 with tensor cores before it, nothing without them.
        (H100, {"precision": "auto"}, "pretrain", ("bf16", True, True, True)),
        (A100, {"precision": "auto"}, "detection", ("bf16", True, True, False)),
        (T4, {"precision": "auto"}, "pretrain", ("fp16", True, True, True)),
        (P100, {"precision": "auto"}, "pretrain", ("fp32", False, True, True)),
        (CPU, {"precision": "auto"}, "pretrain", ("bf16", False, None, False)),
        (MPS, {"precision": "auto"}, "pretrain", ("fp32", False, None, False)),
        # Each can be had otherwise.
        (H100, {"precision": "fp16"}, "pretrain", ("fp16", True, True, True)),
        (H100, {"precision": "bf16", "channels_last": False}, "pretrain", ("bf16", False, True, True)),
        (H100, {"channels_last": True}, "pretrain", ("fp32", True, True, True)),
        (H100, {"fused_optimizer": False}, "pretrain", ("fp32", False, False, True)),
        (H100, {"cudnn_benchmark": False}, "pretrain", ("fp32", False, True, False)),
        (H100, {"cudnn_benchmark": True}, "detection", ("fp32", False, True, True)),
        (CPU, {"fused_optimizer": True, "channels_last": True}, "pretrain", ("fp32", True, True, False)),
        (CPU, {"cudnn_benchmark": True}, "pretrain", ("fp32", False, None, False)),  # there is no cuDNN
    ],
)  # fmt: skip
def test_settings_by_device(device, flags, stage, expected):
    found = settle(device, flags, stage=stage).settings
    assert (found.precision, found.channels_last, found.fused_optimizer, found.cudnn_benchmark) == expected
    assert (found.compile, found.tf32, found.ema) == (None, None, None)


@pytest.mark.parametrize(
    ("device", "precision", "wanted"),
    [
        (CPU, "fp16", "fp16 has no kernels for training there. Use --precision fp32 or --precision bf16"),
        (T4, "bf16", "Use --precision fp32 or --precision fp16"),
        (MPS, "bf16", "Use --precision fp32,"),
    ],
)
def test_a_precision_that_the_device_lacks_is_refused(device, precision, wanted):
    with pytest.raises(ConfigError, match="asked for") as error:
        settle(device, {"precision": precision})
    assert wanted in str(error.value)
    with pytest.raises(ConfigError, match=f"the config trains in {precision}"):
        settle(device, config={"precision": precision})


@pytest.mark.parametrize(
    ("kwargs", "measurable"),
    [
        ({}, ("channels_last",)),
        ({"flags": {"precision": "auto"}}, ("precision", "channels_last")),
        ({"flags": {"precision": "auto", "channels_last": True}}, ("precision",)),
        ({"flags": {"channels_last": False}}, ()),
        ({"config": {"channels_last": False}}, ()),
        ({"deterministic": True}, ()),
        ({"may_measure": False}, ()),
    ],
)
def test_what_a_cpu_may_measure(kwargs, measurable):
    assert settle(CPU, **kwargs).measurable == measurable
    assert settle(H100, **kwargs).measurable == ()


def test_deterministic_runs_let_nothing_be_timed():
    assert settle(H100, {"cudnn_benchmark": True}, deterministic=True).settings.cudnn_benchmark is False
    assert settle(H100, {"cudnn_benchmark": True}).settings.cudnn_benchmark is True


# ---- precedence ----------------------------------------------------------------------------------------------------


def test_flags_go_before_the_config_and_the_config_before_the_device():
    config = {"precision": "bf16", "fused_optimizer": False, "compile": {}, "ema": 0.01}
    found = settle(H100, {"precision": "fp32", "ema": 0.1, "compile": False}, config)
    assert found.settings == Settings("fp32", False, None, False, None, True, 0.1)
    assert found.origins == {
        "precision": "flag", "channels_last": "device", "compile": "flag", "fused_optimizer": "config",
        "tf32": "device", "cudnn_benchmark": "device", "ema": "flag",
    }  # fmt: skip


def test_the_config_speaks_in_its_own_key_and_in_mmengines():
    cfg = Config(
        {
            "acceleration": {"channels_last": True, "tf32": True},
            "optim_wrapper": {
                "type": "AmpOptimWrapper",
                "optimizer": {"type": "SGD", "lr": 1, "fused": True},
            },
            "env_cfg": {"cudnn_benchmark": True},
            "compile": {"mode": "default"},
            "custom_hooks": [{"type": "WeightAverageHook", "momentum": 0.1}],
        }
    )
    assert config_settings(cfg) == {
        "precision": "fp16", "channels_last": True, "tf32": True, "cudnn_benchmark": True, "fused_optimizer": True,
        "compile": {"mode": "default"}, "ema": 0.1,
    }  # fmt: skip
    cfg.acceleration.precision = "bf16"  # its own key is the later word
    assert config_settings(cfg)["precision"] == "bf16"
    assert config_settings(Config({"optim_wrapper": {"optimizer": {"type": "SGD"}}})) == {}


@pytest.mark.parametrize(
    ("acceleration", "message"),
    [
        ({"precison": "bf16"}, "there is no 'precison'"),
        ({"precision": "half"}, "precision must be auto, fp32, bf16, fp16; got 'half'"),
        ({"ema": 1.0}, r"inside \(0, 1\)"),
        ({"ema": 0.0}, r"inside \(0, 1\)"),
        ({"ema": True}, r"inside \(0, 1\)"),
        ({"channels_last": 1}, "must be True or False"),
        ({"compile": "max"}, "compile must be True, False or a dict"),
        ({"compile": {"mode": "fastest"}}, "compile mode must be one of default"),
    ],
)
def test_values_out_of_range_are_refused(acceleration, message):
    with pytest.raises(ConfigError, match=message):
        config_settings(Config({"acceleration": acceleration}))


def test_the_command_line():
    assert requested(TrainOptions("c")) == {}
    assert requested(TrainOptions("c", amp=True)) == {"precision": "auto"}
    assert requested(TrainOptions("c", amp=True, precision="fp16")) == {"precision": "fp16"}
    assert requested(TrainOptions("c", compile=True)) == {"compile": {}}
    assert requested(TrainOptions("c", compile=False)) == {"compile": False}
    assert requested(TrainOptions("c", compile_mode="max-autotune")) == {"compile": {"mode": "max-autotune"}}
    assert requested(TrainOptions("c", channels_last=False, ema=0.5)) == {"channels_last": False, "ema": 0.5}
    for options, message in [
        (TrainOptions("c", amp=True, precision="fp32"), "leave one of them out"),
        (TrainOptions("c", compile=False, compile_mode="default"), "not with --no-compile"),
        (TrainOptions("c", ema=2.0), "the command line: ema"),
    ]:
        with pytest.raises(ConfigError, match=message):
            requested(options)


# ---- resumed runs --------------------------------------------------------------------------------------------------

RECORDED = Settings("bf16", True, None, True, None, True, 0.1).to_dict()


def test_a_resumed_run_computes_as_it_began():
    for device in (H100, CPU):  # and not as this device would have it
        found, lines = resumed(device, {}, RECORDED, allow_changes=False)
        assert found.settings == Settings(**RECORDED)
        assert (found.measurable, lines) == ((), [])
        assert set(found.origins.values()) == {"run"}
    agreeing = {"precision": "auto", "channels_last": True, "compile": False, "ema": 0.1}
    assert resumed(H100, agreeing, RECORDED, allow_changes=False)[0].settings == Settings(**RECORDED)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"precision": "fp32"}, "--precision: bf16 in the run, fp32 now"),
        ({"channels_last": False}, "--channels-last: on in the run, off now"),
        ({"compile": {"mode": "default"}}, "--compile: default in the run, {'mode': 'default'} now"),
        ({"ema": 0.2}, "--ema: 0.1 in the run, 0.2 now"),
    ],
)
def test_a_resumed_run_refuses_to_compute_otherwise(flags, line):
    with pytest.raises(ConfigError, match="would not be the same run") as error:
        resumed(H100, flags, RECORDED, allow_changes=False)
    assert line in str(error.value)
    found, lines = resumed(H100, flags, RECORDED, allow_changes=True)
    assert lines == [line]
    (name, value) = next(iter(flags.items()))
    assert found.settings == Settings(**{**RECORDED, name: value})
    assert found.origins[name] == "flag"


def test_a_resumed_run_on_a_device_without_its_precision_is_told_the_way_out():
    with pytest.raises(ConfigError, match=r"the run trains in bf16.*--precision fp16 with --allow-changes"):
        resumed(T4, {}, RECORDED, allow_changes=False)
    found, _ = resumed(T4, {"precision": "fp16"}, RECORDED, allow_changes=True)
    assert found.settings.precision == "fp16"


def run_of(folder, **record):
    write_run_record(folder, {"schema_version": SCHEMA_VERSION, **record})
    return Config(
        {
            "work_dir": str(folder),
            "resume": True,
            "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}},
            "custom_hooks": [],
        }
    )


def test_the_record_of_a_run_is_read_and_its_config_follows(tmp_path):
    cfg = run_of(tmp_path, acceleration={**RECORDED, "measured": {"chosen": "x"}, "device": "cpu"})
    plan = plan_acceleration(cfg, TrainOptions("c", resume=True))
    assert plan.settings == Settings(**RECORDED)
    assert plan.note == "as the run began"
    assert plan.to_dict()["measured"] == {"chosen": "x"}
    assert cfg.optim_wrapper.type == "Bfloat16OptimWrapper"
    assert cfg.custom_hooks == [{"type": "WeightAverageHook", "momentum": 0.1}]
    again = plan_acceleration(cfg, TrainOptions("c", resume=True))  # of a config that has all this already
    assert again.settings == plan.settings
    assert len(cfg.custom_hooks) == 1


def test_a_run_of_an_earlier_version_goes_on_without_any_of_this(tmp_path):
    plan = plan_acceleration(run_of(tmp_path), TrainOptions("c", resume=True))
    assert plan.settings == Settings(fused_optimizer=False)
    assert plan.resolution.measurable == ()


# ---- what is made of the config ------------------------------------------------------------------------------------


def test_optimizer_wrappers_keep_everything_else():
    plain = {
        "type": "OptimWrapper",
        "optimizer": {"lr": 1},
        "clip_grad": {"max_norm": 1},
        "accumulative_counts": 2,
    }
    bf16 = wrapper_config(plain, "bf16")
    assert bf16 == {**plain, "type": "Bfloat16OptimWrapper"}
    fp16 = wrapper_config(bf16, "fp16")
    assert fp16 == {**plain, "type": "AmpOptimWrapper", "dtype": "float16", "loss_scale": "dynamic"}
    assert wrapper_config(fp16, "fp32") == plain
    own_scale = {"type": "AmpOptimWrapper", "loss_scale": 512.0, "optimizer": {"lr": 1}}
    assert wrapper_config(own_scale, "fp16") is own_scale
    assert wrapper_config({"optimizer": {"lr": 1}}, "fp32") == {"optimizer": {"lr": 1}}
    with pytest.raises(ConfigError, match="is a ApexOptimWrapper"):
        wrapper_config({"type": "ApexOptimWrapper", "optimizer": {}}, "bf16")


def test_a_config_that_averages_its_weights_itself_is_not_averaged_twice():
    cfg = Config({"custom_hooks": [{"type": "EMAHook", "momentum": 0.1}]})
    set_ema(cfg, None)
    assert cfg.custom_hooks == [{"type": "EMAHook", "momentum": 0.1}]
    with pytest.raises(ConfigError, match="averages its weights already"):
        set_ema(cfg, 0.2)
    cfg = Config({"custom_hooks": [{"type": "WeightAverageHook", "momentum": 0.1}]})
    set_ema(cfg, 0.2)
    assert cfg.custom_hooks == [{"type": "WeightAverageHook", "momentum": 0.2}]


def test_fused_kernels_are_asked_for_where_pytorch_has_them(tmp_path, monkeypatch):
    assert can_fuse("SGD")
    assert can_fuse("AdamW")
    assert not can_fuse("ASGD")
    assert not can_fuse("Lion")
    cfg = Config({"work_dir": str(tmp_path), "optim_wrapper": {"optimizer": {"type": "ASGD", "lr": 1.0}}})
    with pytest.raises(ConfigError, match="no fused kernel for ASGD"):
        plan_acceleration(cfg, TrainOptions("c", fused_optimizer=True))
    monkeypatch.setattr("sosr_det.engine.acceleration.plan.current_device", lambda: H100)
    assert plan_acceleration(cfg, TrainOptions("c")).settings.fused_optimizer is None
    cfg.optim_wrapper.optimizer.type = "SGD"
    assert plan_acceleration(cfg, TrainOptions("c")).settings.fused_optimizer is True


# ---- the line ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "settings", "kwargs", "line"),
    [
        (
            H100, Settings(fused_optimizer=True, cudnn_benchmark=True), {},
            "acceleration: cuda (NVIDIA H100): fp32 with TF32 in convolutions, NCHW, fused SGD, cuDNN benchmark on. "
            "--amp trains in bf16; others: --channels-last, --compile, --fused-optimizer, --tf32, "
            "--cudnn-benchmark, --ema",
        ),
        (
            T4, Settings("fp16", True, {"mode": "max-autotune"}, True, ema=0.0002), {},
            "acceleration: cuda (Tesla T4): fp16 mixed precision, channels_last, fused SGD, torch.compile "
            "(max-autotune), cuDNN benchmark off, weights averaged by 0.0002 (EMA, also what is validated and "
            "published). Change it with --precision, --channels-last, --compile, --fused-optimizer, --tf32, "
            "--cudnn-benchmark, --ema",
        ),
        (
            CPU, Settings(channels_last=True),
            {"measurement": Measurement("b", "fp32 NCHW", {}, {"fp32 channels_last": 1.314}, {}, 9)},
            "acceleration: cpu (AMD EPYC, 2 threads): fp32, channels_last, SGD (measured against fp32 NCHW: "
            "fp32 channels_last 1.31x, 9 interleaved rounds). Change it with --precision, --channels-last, --compile, "
            "--fused-optimizer, --ema",
        ),
        (
            CPU, Settings(), {"note": "the run is too short to measure"},
            "acceleration: cpu (AMD EPYC, 2 threads): fp32, NCHW, SGD (the run is too short to measure). "
            "Change it with --precision, --channels-last, --compile, --fused-optimizer, --ema",
        ),
    ],
)  # fmt: skip
def test_one_line_says_it(device, settings, kwargs, line):
    assert acceleration_line(device, settings, "SGD", **kwargs) == line


@pytest.mark.parametrize(
    ("tf32", "words"), [(True, "fp32 with TF32,"), (False, "fp32,"), (None, "TF32 in convolutions,")]
)
def test_the_line_says_what_fp32_is(tf32, words):
    assert words in acceleration_line(A100, Settings(tf32=tf32), "SGD")
    assert "TF32" not in acceleration_line(T4, Settings(tf32=tf32), "SGD").partition(".")[0]


def test_this_machine_is_described():
    device = current_device()
    assert device.kind in str(device)
    assert "fp32" in device.precisions


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_0_decides_for_all(tmp_path, monkeypatch, rank):
    """Rank 1 has a T4 and is told what rank 0 with its A100 chose; its own choice would be fp16."""
    sent = []

    def broadcast(box, src):
        if rank == 0:
            sent.extend(box)
        else:
            box[0] = told

    def plan_on(device):
        monkeypatch.setattr("sosr_det.engine.acceleration.plan.current_device", lambda: device)
        cfg = Config({"work_dir": str(tmp_path), "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}}})
        return plan_acceleration(cfg, TrainOptions("c", amp=True))

    told = (settle(A100, {"precision": "fp32", "channels_last": True}), "", None)
    monkeypatch.setattr("mmengine.dist.get_world_size", lambda: 2)
    monkeypatch.setattr("mmengine.dist.is_main_process", lambda: rank == 0)
    monkeypatch.setattr("mmengine.dist.broadcast_object_list", broadcast)
    if rank == 0:
        assert plan_on(A100).settings.precision == "bf16"
        assert sent[0][0].settings.precision == "bf16"
        return
    settings = plan_on(T4).settings
    assert (settings.precision, settings.channels_last) == ("fp32", True)
    told = (settle(A100, {"precision": "bf16"}), "", None)
    with pytest.raises(ConfigError, match=r"bf16, which cuda .Tesla T4. does not train in"):
        plan_on(T4)
    told = ConfigError("rank 0 has a bad config")
    with pytest.raises(ConfigError, match="rank 0 has a bad config"):
        plan_on(T4)

"""--sync-bn, --accumulate, Slurm's variables, and what several processes say when one fails."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from mmengine.config import Config
from mmengine.model.utils import convert_sync_batchnorm

from sosr_det.cli import rank_errors
from sosr_det.engine.distribution import (
    TIMEOUT_SECONDS,
    apply_accumulation,
    apply_sync_bn,
    init_distributed,
    mean_over_ranks,
    set_slurm_variables,
    timeout_seconds,
)
from sosr_det.engine.learning_rate import learning_rate_scaling
from sosr_det.engine.torchrun import outcome, read_notes
from sosr_det.errors import ConfigError


def config(**keys):
    return Config(
        {
            "train_dataloader": {"batch_size": 32},
            "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}},
            "auto_scale_lr": {"base_batch_size": 256, "enable": True},
            **keys,
        }
    )


def test_accumulated_batches_count_for_the_learning_rate():
    cfg = config()
    apply_accumulation(cfg, 4)
    assert cfg.optim_wrapper.accumulative_counts == 4
    scaling = learning_rate_scaling(cfg, world_size=2)
    assert (scaling.config_lr, scaling.lr, scaling.batch_size) == (0.1, 0.1, 256)
    assert (
        scaling.line() == "lr 0.1 is for 256 images a step; this run has 2 x 32 x 4 accumulated = 256: lr 0.1"
    )
    # What mmengine makes of it: the config's rate times world size times batch over base.
    assert cfg.optim_wrapper.optimizer.lr * 2 * 32 / 256 == pytest.approx(0.1, abs=1e-12)
    apply_accumulation(cfg, 2)  # again, as when a recorded config is trained once more: not multiplied twice
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.2, abs=1e-12)
    assert "2 x 32 x 2 accumulated = 128: lr 0.05" in learning_rate_scaling(cfg, world_size=2).line()


def test_a_rate_that_is_not_scaled_stays():
    cfg = config(auto_scale_lr={"base_batch_size": 256, "enable": False})
    apply_accumulation(cfg, 4)
    assert (cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.accumulative_counts) == (0.1, 4)
    assert "(accumulative_counts=4 is not counted)" in learning_rate_scaling(cfg, world_size=2).line()


def test_without_the_flag_the_config_decides():
    cfg = config()
    before = cfg.to_dict()
    apply_accumulation(cfg, None)
    assert cfg.to_dict() == before


def test_accumulation_refuses():
    with pytest.raises(ConfigError, match="at least 1 batch per update, got 0"):
        apply_accumulation(config(), 0)
    with pytest.raises(ConfigError, match="one optim_wrapper"):
        apply_accumulation(config(optim_wrapper=None), 2)


def test_sync_bn_is_mmengines_and_needs_gpus():
    cfg = config()
    assert apply_sync_bn(cfg, True, 2, on_gpu=True) is None
    assert cfg.sync_bn == "torch"
    with pytest.raises(ConfigError, match="no CPU version"):
        apply_sync_bn(config(), True, 2, on_gpu=False)
    with pytest.raises(ConfigError, match="no CPU version"):
        apply_sync_bn(config(sync_bn="torch"), False, 2, on_gpu=False)
    cfg = config()
    assert "no effect on one process" in apply_sync_bn(cfg, True, 1, on_gpu=False)
    assert cfg.get("sync_bn") is None
    assert apply_sync_bn(cfg, False, 2, on_gpu=False) is None


def test_conversion_to_sync_bn_keeps_names_and_values_of_a_detectors_backbone():
    """So that checkpoints, published weights and the backbone's contract are the same with and without it."""
    from mmdet.models.backbones import ResNet

    torch.manual_seed(0)
    backbone = ResNet(18)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    converted = convert_sync_batchnorm(backbone, "torch")
    assert sum(isinstance(m, torch.nn.SyncBatchNorm) for m in converted.modules()) == 20
    assert not any(type(m) is torch.nn.BatchNorm2d for m in converted.modules())
    after = converted.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("value", [0, -1, "1800", True, float("nan"), float("inf")])
def test_timeouts_that_are_none(value):
    with pytest.raises(ConfigError, match="positive number of seconds"):
        timeout_seconds({"timeout": value})


def test_timeouts():
    assert timeout_seconds({}) == TIMEOUT_SECONDS == 600
    assert timeout_seconds({"timeout": 1800}) == 1800


@pytest.fixture
def slurm(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "MASTER_")) or name in ("PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)

    def variables(**named):
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.setenv(name, "")  # so that what is set comes off again
        for name, value in named.items():
            monkeypatch.setenv(name, value)

    return variables


def test_slurms_variables(slurm):
    slurm(
        SLURM_PROCID="3", SLURM_NTASKS="4", SLURM_LOCALID="1", SLURM_JOB_ID="1234567",
        SLURM_STEP_NODELIST="node07",
    )  # fmt: skip
    set_slurm_variables()
    got = [os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")]
    assert got == ["3", "4", "1", "node07", str(20000 + 1234567 % 12000)]


def test_slurms_nodes_are_listed_by_scontrol(slurm, tmp_path, monkeypatch):
    fake = tmp_path / "scontrol"
    fake.write_text('#!/bin/sh\n[ "$*" = "show hostnames n[07-08]" ] && printf "n07\\nn08\\n"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    slurm(SLURM_PROCID="0", SLURM_NTASKS="2", SLURM_LOCALID="0", SLURM_NODELIST="n[07-08]", PORT="12345")
    set_slurm_variables()
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("n07", "12345")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("MASTER_ADDR", "")
    with pytest.raises(ConfigError, match="Set MASTER_ADDR"):
        set_slurm_variables()


def test_slurm_without_srun_is_told(slurm):
    with pytest.raises(ConfigError, match="which srun sets"):
        init_distributed(Config({}), "slurm")


def test_torchruns_variables_missing_is_told(slurm):
    with pytest.raises(ConfigError, match="could not start the process group"):
        init_distributed(Config({}), "pytorch")


def test_means_over_one_rank_are_its_own():
    assert mean_over_ranks({"loss": 1.5}) == {"loss": 1.5}


# What the processes say.


@pytest.mark.parametrize(
    ("arguments", "variables", "rank"),
    [
        (["train", "c", "--launcher", "pytorch"], {"RANK": "3", "WORLD_SIZE": "4"}, 3),
        (["train", "c", "--launcher=slurm"], {"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, 0),
        (["train", "c", "--launcher", "pytorch"], {"RANK": "0", "WORLD_SIZE": "1"}, None),
        (["train", "c"], {"RANK": "3", "WORLD_SIZE": "4"}, None),
        (["registry", "ls"], {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),
        (["train", "c", "--launcher", "none"], {"RANK": "3", "WORLD_SIZE": "4"}, None),
    ],
)
def test_own_rank(slurm, arguments, variables, rank):
    slurm(**variables)
    assert rank_errors.own_rank(arguments) == rank


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:12"), True),
        (torch.distributed.DistNetworkError("recvValue failed"), True),
        (RuntimeError("CUDA out of memory"), False),
        (ConfigError("Connection closed by peer"), False),  # not torch's word
        (ValueError("no"), False),
    ],
)
def test_losing_contact_is_not_the_cause(error, lost):
    assert rank_errors.lost_contact(error) is lost


ARGUMENTS = ["train", "c", "--launcher", "pytorch"]


@pytest.fixture
def launched(slurm, tmp_path, monkeypatch):
    slurm(RANK="1", WORLD_SIZE="2")
    monkeypatch.setenv(rank_errors.FOLDER, str(tmp_path))
    monkeypatch.setattr(rank_errors, "_said", {})
    monkeypatch.setattr(rank_errors, "_GRACE_SECONDS", 0.0)
    return tmp_path


def fail(error, code=1):
    def command():
        with rank_errors.exit_noted(ARGUMENTS):
            rank_errors.say(f"error: {error}", error, ARGUMENTS)
            raise SystemExit(code)

    with pytest.raises(SystemExit):
        command()


def test_the_launcher_gets_code_and_message(launched, capsys):
    fail(ConfigError("no such thing"))
    note = read_notes(launched)[1]
    assert (note["code"], note["message"], note["lost"]) == (1, "rank 1: error: no such thing", False)
    assert capsys.readouterr().err == ""  # the launcher says it


def test_without_a_launcher_each_says_it_with_its_rank(launched, monkeypatch, capsys):
    monkeypatch.delenv(rank_errors.FOLDER)
    fail(RuntimeError("Connection closed by peer"))
    said = capsys.readouterr().err
    assert said.startswith("rank 1: error: lost contact with another process")
    assert said.endswith("torch says: Connection closed by peer\n")
    assert read_notes(launched) == {}


def test_a_launcher_that_is_gone_keeps_nobody_silent(launched, monkeypatch, capsys):
    monkeypatch.setenv(rank_errors.FOLDER, str(launched / "gone"))
    fail(ConfigError("no such thing"))
    assert capsys.readouterr().err == "rank 1: error: no such thing\n"


def note(rank, code, message=None, lost=False, time=0.0):
    return {"rank": rank, "code": code, "time": time, "message": message, "lost": lost}


def by_rank(*notes):
    return {each["rank"]: each for each in notes}


KILL, TERM = -signal.SIGKILL, -signal.SIGTERM


@pytest.mark.parametrize(
    ("notes", "failed", "sent", "code", "says"),
    [
        # Stopped on request: by a signal to the launcher, or by one that the processes got themselves.
        ([note(0, 75), note(1, 75)], {}, signal.SIGTERM, 75, None),
        ([note(0, 75), note(1, 75)], {0: 75, 1: 75}, None, 75, None),
        ([note(0, None), note(1, 75)], {1: 75}, None, 75, None),  # 0 was ended by torchrun once 1 had
        ([note(0, 75), note(1, None)], {1: TERM}, None, 75, None),
        # Not all of them: nobody may take the run for saved.
        ([note(0, 75), note(1, None)], {}, signal.SIGTERM, 143, "rank 1 had not ended"),
        ([note(0, 75), note(1, 1, "rank 1: error: x")], {1: 1}, None, 1, "rank 1: error: x"),
        ([note(0, 75), note(1, None)], {1: KILL}, None, 137, "killed by SIGKILL"),
        # Whose error it was: the first that is not about somebody else.
        (
            [note(0, 1, "lost contact", True, time=1.0), note(1, 1, "rank 1: error: disk", time=2.0)],
            {0: 1, 1: 1}, None, 1, "rank 1: error: disk",
        ),
        (
            [note(0, 1, "second", time=2.0), note(1, 3, "first", time=1.0)],
            {0: 1, 1: 3}, None, 3, "first",
        ),
        ([note(0, 1, "lost contact", True), note(1, None)], {0: 1, 1: KILL}, None, 137, "killed by SIGKILL"),
        ([note(0, 1, "lost contact", True)], {0: 1}, None, 1, "lost contact"),  # the other one was on another node
        ([], {1: -signal.SIGSEGV}, None, 139, "SIGSEGV"),
        ([note(0, 130, "rank 0: interrupted"), note(1, 130)], {}, signal.SIGINT, 130, "rank 0: interrupted"),
        ([note(0, 0), note(1, 0)], {}, None, 0, None),
    ],
)  # fmt: skip
def test_how_a_job_ends(notes, failed, sent, code, says):
    got, lines = outcome(by_rank(*notes), failed, sent)
    assert got == code
    assert (lines == []) if says is None else (len(lines) == 1 and says in lines[0])


def test_notes_of_processes_are_read_with_their_ranks(tmp_path):
    (tmp_path / "rank-12.json").write_text(json.dumps(note(12, 0)))
    (tmp_path / "rank-3.tmp").write_text("half a no")
    assert list(read_notes(tmp_path)) == [12]

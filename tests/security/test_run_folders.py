"""A run's folder may be somebody else's: its record and checkpoints are read as data."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

import sosr_det.register  # noqa: F401
from sosr_det.engine.configs import config_names, load_config
from sosr_det.engine.dynamics_record import read_dynamics, read_features
from sosr_det.engine.publishing import export_run
from sosr_det.engine.recompute import measure_checkpoints
from sosr_det.engine.recorded_config import recorded_config
from sosr_det.errors import CheckpointError, ConfigError, RegistryError, SosrError

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")


@pytest.fixture
def run_folder(tmp_path):
    """A pretraining run as a record describes it; its checkpoint is whatever a test puts there."""

    def make(config_text="model = dict()\n", best="best_top1_epoch_1.pth"):
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        record = {
            "schema_version": 1,
            "stage": "pretrain",
            "status": "completed",
            "config_name": "tiny",
            "config_text": config_text,
            "config_digest": "0" * 64,
            "seed": 0,
            "best": {"checkpoint": best, "epoch": 1, "metric": "accuracy/top1", "value": 1.0},
            "epochs": [{"epoch": 1, "val": {"accuracy/top1": 1.0}}],
            "model": {
                "backbone": {
                    "name": "resnet18",
                    "source": "torchvision",
                    "style": None,
                    "stem": "7x7/2+maxpool",
                    "stage_channels": [64, 128, 256, 512],
                },
                "preprocessing": {
                    "channel_order": "rgb",
                    "mean": [1.0] * 3,
                    "std": [1.0] * 3,
                    "interpolation": "bilinear",
                    "input_size": [32, 32],
                },
            },
            "data": {"train": {"classes": ["a"], "type": "x", "fingerprint": "x", "num_samples": 1}},
            "library_versions": {},
            "git_commit": None,
        }
        (folder / "run.json").write_text(json.dumps(record))
        return folder

    return make


def test_exporting_a_run_with_a_hostile_checkpoint_publishes_nothing(
    run_folder, hostile, canary, tmp_path, form
):
    folder = run_folder()
    path = hostile(form, folder, "best_top1_epoch_1.pth")
    for source in (folder, path):
        with pytest.raises(CheckpointError, match=r"best_top1_epoch_1\.pth"):
            export_run(source, "evil", registry_root=tmp_path / "registry")
    assert not canary.touched
    assert not (tmp_path / "registry").exists()


def test_a_record_cannot_publish_under_a_name_that_leads_elsewhere(run_folder, tmp_path):
    for name in ("../evil", "/evil", "a/../b", "a\0b", "..", "con", "a%2f..%2fb@x", "a@../b", "a@"):
        with pytest.raises(RegistryError):
            export_run(run_folder(), name, registry_root=tmp_path / "registry")
    assert not (tmp_path / "registry").exists()


# ---- the config in a record ----------------------------------------------------------------------------------------

_IN_PARTS = """
model = dict(type='BackboneClassifier', backbone=dict(arch='resnet20'), num_classes=3,
    loss=dict(type='SOSRLoss'), data_preprocessor=dict(type='ClassificationPreprocessor'))
"""


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.mkdir({mark!r})\n",
        "x = __import__('os').mkdir({mark!r})\n",
        "x = [__import__('os').mkdir({mark!r}) for _ in (1,)]\n",
        "x = dict(a=__import__('os').mkdir({mark!r}))\n",
        "x = dict(*[__import__('os').mkdir({mark!r})])\n",
        "x = dict(**__import__('os').mkdir({mark!r}))\n",
        "x = f\"{{__import__('os').mkdir({mark!r})}}\"\n",
        "dict = __import__('os').mkdir\nx = dict({mark!r})\n",
        "x = (lambda: __import__('os').mkdir({mark!r}))()\n",
        "class X:\n    __import__('os').mkdir({mark!r})\n",
        "custom_imports = dict(imports=['evil_module'])\nx = open({mark!r}, 'w')\n",
    ],
)
def test_a_recorded_config_is_never_run(run_folder, canary, hostile, text):
    text = text.format(mark=str(canary.mark))
    folder = run_folder(text + _IN_PARTS)
    torch.save({"state_dict": {}}, folder / "epoch_1.pth")
    with pytest.raises(ConfigError, match=r"run\.json holds a config that cannot be read as data"):
        measure_checkpoints(folder)
    assert not canary.touched


def test_mmengine_runs_it(canary):
    """The negative control."""
    Config.fromstring(f"x = 1\nimport os\nos.mkdir({str(canary.mark)!r})\n", ".py")
    assert canary.touched


@pytest.mark.parametrize("kind", ["'os.mkdir'", "'subprocess.Popen'", "'antigravity'", "3", "['os.mkdir']"])
@pytest.mark.parametrize(
    "place",
    [
        "model = dict(type={kind}, path={mark!r})\n",
        "model = dict(type='BackboneClassifier', loss=dict(type={kind}, path={mark!r}))\n",
        "val_dataloader = dict(dataset=dict(type='ImageNetFolder', pipeline=[dict(type={kind}, path={mark!r})]))\n",
        "train_dataloader = dict(collate_fn=dict(type={kind}))\n",
    ],
)
def test_a_recorded_config_names_only_what_is_registered(run_folder, canary, kind, place):
    with pytest.raises(ConfigError, match="not registered here"):
        recorded_config(place.format(kind=kind, mark=str(canary.mark)), "run.json")
    assert not canary.touched


def test_mmengine_builds_any_function(canary):
    """The negative control: a config's data alone is code."""
    import contextlib

    with contextlib.suppress(Exception):
        MODELS.build({"type": "os.mkdir", "path": str(canary.mark)})
    assert canary.touched


def test_a_custom_import_in_a_record_is_not_imported(tmp_path, monkeypatch, canary):
    (tmp_path / "evil_module.py").write_text(f"import os\nos.mkdir({str(canary.mark)!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    cfg = recorded_config("custom_imports = dict(imports=['evil_module'])\n" + _IN_PARTS, "run.json")
    assert cfg.model.type == "BackboneClassifier"
    assert not canary.touched


@pytest.mark.parametrize(
    "name",
    [name for name in config_names() if name.startswith(("pretrain/", "finetune/", "demo/resnet"))][:12],
)
def test_recorded_configs_are_read_whole(name):
    cfg = load_config(name)
    again = recorded_config(cfg.pretty_text, "run.json")
    assert again.to_dict() == cfg.to_dict()


# ---- what else lies in a run's folder ------------------------------------------------------------------------------


def test_features_are_read_without_pickle(canary, tmp_path):
    np.savez(tmp_path / "features_2d.npz", a=np.array([canary.bomb()], dtype=object))
    with pytest.raises(CheckpointError, match=r"features_2d\.npz"):
        read_features(tmp_path)
    assert not canary.touched
    np.load(tmp_path / "features_2d.npz", allow_pickle=True)["a"]  # the negative control
    assert canary.touched


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, "1" * 100_000, '{"schema_version": ' + "9" * 10_000 + "}", "\0", "{}", '"x"', "[]"],
)
def test_damaged_records_are_explained(tmp_path, content):
    from sosr_det.engine.run_record import read_run_record

    for name, read in (("run.json", read_run_record), ("dynamics.json", read_dynamics)):
        (tmp_path / name).write_text(content)
        with pytest.raises(SosrError, match=name):
            read(tmp_path)


def test_a_sweeps_journal_holds_no_pickle(tmp_path):
    """optuna unpickles the snapshots of backends that keep them; the file backend keeps none."""
    from optuna.storages.journal import JournalFileBackend
    from optuna.storages.journal._base import BaseJournalSnapshot

    from sosr_det.engine.sweep.study import FILE_NAME, open_study

    open_study(tmp_path, "a", "maximize")
    assert not issubclass(JournalFileBackend, BaseJournalSnapshot)
    for line in (tmp_path / FILE_NAME).read_text().splitlines():
        json.loads(line)

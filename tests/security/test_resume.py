"""A checkpoint of plain data can still harm through what MMEngine does with it: the loaders take that out."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner import checkpoint as theirs
from torch.utils.data import DataLoader

import sosr_det.register  # noqa: F401
from sosr_det.errors import CheckpointError
from sosr_det.registry.disarm import disarm

_RUNS = itertools.count()


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 2)

    def forward(self, inputs, labels, mode="tensor"):
        logits = self.fc(inputs)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels)} if mode == "loss" else [logits]


class Rising(BaseMetric):
    """Every epoch is the best so far."""

    calls = 0

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        Rising.calls += 1
        return {"accuracy": float(Rising.calls)}


def run(work_dir: Path, epochs: int, **options) -> Runner:
    samples = [(torch.randn(4), torch.tensor(i % 2)) for i in range(4)]
    model = Model()
    model.data_preprocessor.forward = lambda data, training=False: {"inputs": data[0], "labels": data[1]}
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=DataLoader(samples, batch_size=4),
        val_dataloader=DataLoader(samples, batch_size=4),
        val_cfg={},
        val_evaluator=[Rising()],
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)),
        default_hooks={
            "checkpoint": {
                "type": "CheckpointHook",
                "interval": 1,
                "save_best": "accuracy",
                "rule": "greater",
                "max_keep_ckpts": 2,
            }
        },
        log_level="ERROR",
        experiment_name=f"resume-{os.getpid()}-{next(_RUNS)}",
        **options,
    )
    runner.train()
    return runner


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    run(tmp_path / "run", 1)
    return tmp_path / "run" / "epoch_1.pth"


@pytest.fixture
def their_loader(monkeypatch):
    """MMEngine's own loader of local files instead of ours."""
    monkeypatch.setattr(
        CheckpointLoader, "_schemes", CheckpointLoader._schemes | {"": theirs.load_from_local}
    )


def change(path: Path, edit) -> None:
    content = torch.load(path, weights_only=False)
    edit(content)
    torch.save(content, path)


def resume(path: Path, work_dir: Path) -> Runner:
    return run(work_dir, 2, resume=True, load_from=str(path))


def add_config(text: str):
    def edit(content):
        content["meta"]["config"] = text

    return edit


def test_a_config_text_in_a_checkpoint_is_not_run_on_resume(trained, canary, tmp_path):
    change(trained, add_config(f"import os\nos.mkdir({str(canary.mark)!r})\n"))
    runner = resume(trained, tmp_path / "run")
    assert runner.epoch == 2
    assert not canary.touched


def test_mmengine_runs_it(trained, canary, tmp_path, their_loader):
    """The negative control."""
    change(trained, add_config(f"import os\nos.mkdir({str(canary.mark)!r})\n"))
    resume(trained, tmp_path / "run")
    assert canary.touched


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "precious").write_text("x")
    return folder


def name_best(path: Path | str):
    def edit(content):
        content["message_hub"]["runtime_info"].update(best_ckpt=str(path), best_score=-1.0)

    return edit


def test_a_checkpoint_cannot_have_other_files_deleted_as_its_earlier_best(trained, victim, tmp_path):
    run_json = tmp_path / "run" / "run.json"
    run_json.write_text("{}")
    escaping = tmp_path / "run" / "best_x.pth"
    escaping.symlink_to(victim)
    for target in (victim, victim / "precious", run_json, tmp_path / "run" / "..", "", "..", escaping):
        change(trained, name_best(target))
        resume(trained, tmp_path / "run")
    assert (victim / "precious").read_text() == "x"
    assert run_json.exists()
    assert escaping.is_symlink()


def test_mmengine_deletes_them(trained, victim, tmp_path, their_loader):
    """The negative control: a whole folder goes."""
    change(trained, name_best(victim))
    resume(trained, tmp_path / "run")
    assert not victim.exists()


def test_a_runs_own_earlier_best_still_gives_way(trained, tmp_path):
    assert (tmp_path / "run" / "best_accuracy_epoch_1.pth").is_file()
    resume(trained, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").glob("best_*")] == ["best_accuracy_epoch_2.pth"]


def test_a_copied_run_leaves_the_best_file_of_the_original(trained, tmp_path):
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "epoch_1.pth"
    copy.write_bytes(trained.read_bytes())
    resume(copy, tmp_path / "copy")
    assert (tmp_path / "run" / "best_accuracy_epoch_1.pth").is_file()
    assert (tmp_path / "copy" / "best_accuracy_epoch_2.pth").is_file()


def test_numbers_of_old_files_must_be_numbers(trained, victim, tmp_path):
    name = f"x/../../{victim.name}/precious"

    def edit(content):
        content["message_hub"]["runtime_info"]["keep_ckpt_ids"] = [name, name, name, 1]

    change(trained, edit)
    (victim / "precious").rename(victim / "precious.pth")
    (tmp_path / "run" / "epoch_x").mkdir()
    resume(trained, tmp_path / "run")
    assert (victim / "precious.pth").exists()


def test_nothing_else_of_a_checkpoint_changes(tmp_path):
    best = tmp_path / "best_top1_epoch_3.pth"
    best.write_bytes(b"x")

    def content(**runtime_info):
        return {
            "meta": {"epoch": 3, "cfg": "x = 1", "config": "x = 1", "seed": 4},
            "message_hub": {"runtime_info": {"epoch": 3, "cfg": "x = 1", "last_ckpt": "a"} | runtime_info},
            "state_dict": {"a": torch.ones(1)},
        }

    disarmed = disarm(content(best_ckpt=f"/elsewhere/{best.name}", keep_ckpt_ids=[2, 3]), tmp_path)
    assert disarmed["meta"] == {"epoch": 3, "seed": 4}
    assert disarmed["message_hub"]["runtime_info"] == {
        "epoch": 3,
        "last_ckpt": "a",
        "best_ckpt": str(best),
        "keep_ckpt_ids": [2, 3],
    }
    several = disarm(content(best_ckpt_a=str(best), best_ckpt_b="best_gone.pth", best_ckpt_c=3), tmp_path)
    info = several["message_hub"]["runtime_info"]
    assert (info["best_ckpt_a"], info["best_ckpt_b"], info["best_ckpt_c"]) == (str(best), None, None)
    assert disarm(content(best_ckpt=str(best)))["message_hub"]["runtime_info"]["best_ckpt"] is None
    for odd in (
        {},
        {"a": torch.ones(1)},
        {"meta": None, "message_hub": 3},
        {"message_hub": {"runtime_info": []}},
        3,
    ):
        assert disarm(odd) == odd


def test_hostile_files_are_refused_as_what_is_resumed_or_loaded(hostile, canary, tmp_path, few_form):
    path = hostile(few_form, tmp_path / "files")
    for options in ({"resume": True, "load_from": str(path)}, {"load_from": str(path)}):
        with pytest.raises(CheckpointError, match=path.name):
            run(tmp_path / "other", 1, **options)
    assert not canary.touched


def test_a_hostile_pointer_leads_nowhere(hostile, canary, tmp_path, trained):
    path = hostile("in meta", tmp_path / "files")
    (trained.parent / "last_checkpoint").write_text(str(path))
    with pytest.raises(CheckpointError, match=path.name):
        run(trained.parent, 2, resume=True)
    assert not canary.touched

"""Hostile files through every command that takes one: nothing runs, nothing is left, the message says what it is."""

from __future__ import annotations

import logging

import pytest
import torch

import sosr_det.register  # noqa: F401
from sosr_det.cli.main import main

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")


@pytest.fixture
def command(folder, tmp_path, monkeypatch, capfd):
    """``command(*arguments)`` runs sosr-det in a folder of its own; returns exit code and all that was printed."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("SOSR_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(
        logging, "raiseExceptions", False
    )  # mmengine's loggers keep the streams of earlier tests
    (tmp_path / "here" / "tiny.py").write_text((folder / "tiny.py").read_text())

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return end.value.code or 0, out + err

    return run


def left(tmp_path):
    """What lies in the working folder and the registry."""
    found = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "here").rglob("*"))
    return found + ([str(tmp_path / "registry")] if (tmp_path / "registry").exists() else [])


def assert_refused(result, path, canary, tmp_path, leaves=("here/tiny.py",)):
    code, text = result
    assert code == 1, text
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, text
    assert str(path) in errors[0]
    assert "Traceback" not in text
    assert "unexpected" not in errors[0]
    assert not canary.touched
    assert left(tmp_path) == sorted(leaves)


def test_train_with_a_hostile_backbone(command, hostile, canary, tmp_path, few_form):
    path = hostile(few_form, tmp_path / "files")
    result = command("train", "tiny.py", "--backbone", path, "--work-dir", "run")
    assert_refused(result, path, canary, tmp_path)


def test_train_with_a_hostile_init_cfg_in_the_config(command, hostile, canary, tmp_path, few_form):
    path = hostile(few_form, tmp_path / "files")
    config = tmp_path / "here" / "tiny.py"
    text = config.read_text()
    config.write_text(
        f"{text}\nmodel['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint={str(path)!r})\n"
    )
    assert_refused(command("train", "tiny.py", "--work-dir", "run"), path, canary, tmp_path)
    # A list, and for a part of the model that no backbone check looks at.
    config.write_text(
        f"{text}\nmodel['init_cfg'] = [dict(type='Pretrained', checkpoint={str(path)!r}, prefix='x.')]\n"
    )
    assert_refused(command("train", "tiny.py", "--work-dir", "run"), path, canary, tmp_path)


def test_train_with_a_hostile_load_from(command, hostile, canary, tmp_path, few_form):
    path = hostile(few_form, tmp_path / "files")
    result = command("train", "tiny.py", "--work-dir", "run", "--cfg-options", f"load_from={path}")
    assert_refused(result, path, canary, tmp_path)


@pytest.fixture
def finished(command, tmp_path):
    code, text = command("train", "tiny.py", "--work-dir", "run", "--total-epochs", "1")
    assert code == 0, text
    return tmp_path / "here" / "run"


def test_resume_with_a_hostile_checkpoint_or_pointer(command, hostile, canary, tmp_path, finished):
    pointer = finished / "last_checkpoint"
    good = (finished / "epoch_1.pth").read_bytes()
    before = left(tmp_path)

    def resumed():
        result = command("train", "tiny.py", "--work-dir", "run", "--resume")
        logs = [name for name in left(tmp_path) if name not in before]
        assert all(name.startswith("here/run/2") for name in logs)  # mmengine's log of this attempt
        return result

    digest = (finished / "epoch_1.pth.sha256").read_text()
    for form in ("in meta", "in the message hub", "in the optimizer", "whole legacy"):
        for keep_digest in (True, False):  # what it is called beside: damaged, or code
            path = hostile(form, finished, "epoch_1.pth")
            (finished / "epoch_1.pth.sha256").unlink(missing_ok=True)
            if keep_digest:
                (finished / "epoch_1.pth.sha256").write_text(digest)
            assert_refused(resumed(), path.name, canary, tmp_path, left(tmp_path))
    (finished / "epoch_1.pth").write_bytes(good)
    elsewhere = hostile("in meta", tmp_path / "files", "other.pth")
    # A pointer is a hint: the run's own checkpoint is gone on from, and all of its one epoch is done.
    pointer.write_text(str(elsewhere))
    code, said = resumed()
    assert (code, canary.touched) == (0, False), said
    for text in (
        "http://127.0.0.1:1/x.pth",
        "pavi://x",
        "s3://x/y.pth",
        "/dev/zero",
        "\0",
        "a" * 5000,
        ".",
        "",
    ):
        pointer.write_text(text)
        code, said = resumed()
        assert code == 0, said
        assert "last_checkpoint" in said
        assert "unexpected" not in said, said
        assert not canary.touched
    # And the same run goes on with its own file again.
    pointer.write_text(str(finished / "epoch_1.pth"))
    code, text = command("train", "tiny.py", "--work-dir", "run", "--resume")
    assert code == 0, text


def test_resume_does_not_run_a_config_text(command, canary, tmp_path, finished):
    path = finished / "epoch_1.pth"
    content = torch.load(path, weights_only=True)
    content["meta"]["config"] = f"import os\nos.mkdir({str(canary.mark)!r})\n"
    torch.save(content, path)
    path.with_name("epoch_1.pth.sha256").unlink()
    code, text = command("train", "tiny.py", "--work-dir", "run", "--resume", "--total-epochs", "2")
    assert code == 0, text
    assert not canary.touched


def test_test_with_a_hostile_checkpoint(command, hostile, canary, tmp_path, form):
    path = hostile(form, tmp_path / "files")
    assert_refused(command("test", "tiny.py", path), path, canary, tmp_path)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_export_of_a_hostile_file(command, hostile, canary, tmp_path, finished, few_form):
    path = hostile(few_form, finished)
    assert_refused(command("export", path, "--name", "evil"), path, canary, tmp_path, left(tmp_path))


def test_figures_of_a_hostile_run(command, hostile, canary, tmp_path, finished):
    path = hostile("in meta", finished, "epoch_1.pth")
    result = command("figures", finished, "--out", "figures", "--recompute")
    assert_refused(result, path, canary, tmp_path, left(tmp_path))


def test_import_of_a_hostile_file(command, hostile, canary, tmp_path, form):
    path = hostile(form, tmp_path / "files")
    for name in ("evil", "evil@v1"):
        result = command("registry", "import", path, "--name", name, "--arch", "resnet18")
        assert_refused(result, path, canary, tmp_path)


def test_import_and_export_under_names_that_lead_elsewhere(command, tmp_path):
    path = tmp_path / "good.pth"
    torch.save({"a": torch.ones(1)}, path)
    for name in ("../evil", "/evil", "a\\b", "a@../b", "a%2f..", "sha256:" + "0" * 64):
        code, text = command("registry", "import", path, "--name", name)
        assert code == 1, text
        assert "unexpected" not in text
    assert left(tmp_path) == ["here/tiny.py"]


def test_import_of_hostile_weights_from_a_cache(command, hostile, canary, tmp_path, monkeypatch):
    """A file in torch.hub's cache with another content than its name promises."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("SOSR_OFFLINE", "1")
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    path = hostile("in meta", folder, "resnet18-f37072fd.pth")
    result = command("registry", "import", "torchvision://ResNet18_Weights.IMAGENET1K_V1", "--name", "evil")
    assert_refused(result, path, canary, tmp_path)


def test_swap_to_a_hostile_file(command, hostile, canary, tmp_path, few_form):
    path = hostile(few_form, tmp_path / "files")
    config = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
    result = command("swap", config, "--backbone", path, "-o", "swapped.py")
    assert_refused(result, path, canary, tmp_path)


def test_swap_in_a_loaded_config_changes_nothing_for_a_hostile_file(hostile, canary, tmp_path):
    from sosr_det.engine.backbone.swap import swap_backbone
    from sosr_det.engine.configs import load_config
    from sosr_det.errors import BackboneMismatchError

    path = hostile("in meta", tmp_path / "files")
    cfg = load_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py")
    before = cfg.pretty_text
    with pytest.raises(BackboneMismatchError, match=path.name):
        swap_backbone(cfg, str(path))
    assert cfg.pretty_text == before
    assert not canary.touched

"""``sosr-det data prepare`` and ``verify``: arguments, output and exit codes."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import subprocess
import sys
import zipfile

import cv2
import numpy as np
import pytest

from sosr_det.cli.data import DatasetName, VerifiedName, training_command
from sosr_det.cli.main import main
from sosr_det.data.prepare import Archive, OfficialSplit, catalogue, dataset_entry

WNIDS = ("n01440764", "n01443537")


def run(capsys, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


@pytest.fixture
def miniature(monkeypatch, tmp_path):
    """A Tiny ImageNet of two classes, its archive placed in the data root."""
    jpeg = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, wnid in enumerate(WNIDS):
            archive.writestr(f"tiny-imagenet-200/train/{wnid}/images/{wnid}_0.JPEG", jpeg)
            archive.writestr(f"tiny-imagenet-200/val/images/val_{number}.JPEG", jpeg)
        lines = "".join(f"val_{number}.JPEG\t{wnid}\n" for number, wnid in enumerate(WNIDS))
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", lines)
    content = buffer.getvalue()
    entry = dataclasses.replace(
        dataset_entry("tiny-imagenet"),
        archives=(
            Archive(
                "tiny.zip", hashlib.md5(content).hexdigest(), len(content), "http://127.0.0.1:9/tiny.zip"
            ),
        ),
        unpacked_bytes=10_000,
        splits={"train": OfficialSplit(2, 1), "val": OfficialSplit(2, 1)},
        classes=2,
    )
    monkeypatch.setattr(catalogue, "CATALOGUE", {**catalogue.CATALOGUE, "tiny-imagenet": entry})
    (tmp_path / "tiny.zip").write_bytes(content)
    return tmp_path


def test_prepare_says_what_it_made_and_how_to_go_on(capsys, miniature):
    code, out, err = run(capsys, "data", "prepare", "tiny-imagenet", "--root", miniature)
    assert code == 0
    assert f"prepared: {miniature / 'tiny-imagenet-200'}" in out
    assert re.search(r"train +2 images, 2 classes\n", out)
    assert "tiny.zip" in out
    assert f"sosr-det data verify tiny-imagenet --root {miniature}" in out
    assert f"--data-root {miniature / 'tiny-imagenet-200'}" in out
    assert "unpacking tiny.zip" in err
    code, out, _ = run(capsys, "data", "prepare", "tiny-imagenet", "--root", miniature, "--remove-archive")
    assert (code, "already there" in out) == (0, True)
    assert not (miniature / "tiny.zip").exists()


def test_prepare_says_whose_checksum_it_compared(capsys, miniature, monkeypatch):
    entry = dataset_entry("tiny-imagenet")
    archives = (dataclasses.replace(entry.archives[0], md5_source="not the publisher's"),)
    entry = dataclasses.replace(entry, archives=archives)
    monkeypatch.setattr(catalogue, "CATALOGUE", {**catalogue.CATALOGUE, "tiny-imagenet": entry})
    _, out, _ = run(capsys, "data", "prepare", "tiny-imagenet", "--root", miniature)
    assert "note:  the checksum of tiny.zip is not the publisher's\n" in out
    _, out, _ = run(
        capsys, "data", "prepare", "tiny-imagenet", "--root", miniature
    )  # nothing was compared now
    assert "note:" not in out
    _, out, _ = run(capsys, "data", "prepare", "--help")
    assert "Tiny ImageNet's publisher gives none" in " ".join(out.split())


def test_prepare_uses_sosr_data_and_a_named_archive(capsys, miniature, monkeypatch, tmp_path):
    (miniature / "tiny.zip").rename(tmp_path / "moved.zip")
    monkeypatch.setenv("SOSR_DATA", str(tmp_path / "elsewhere"))
    code, _, _ = run(capsys, "data", "prepare", "tiny-imagenet", "--archive", tmp_path / "moved.zip")
    assert code == 0
    assert (tmp_path / "elsewhere" / "tiny-imagenet-200" / "train").is_dir()


def test_prepare_without_network_exits_1_and_says_what_to_do(capsys, miniature):
    (miniature / "tiny.zip").unlink()
    code, out, err = run(capsys, "data", "prepare", "tiny-imagenet", "--root", miniature)
    assert (code, out) == (1, "")
    assert err.startswith("error: cannot reach http://127.0.0.1:9/tiny.zip")
    assert str(miniature / "tiny.zip") in err
    assert f"sosr-det data prepare tiny-imagenet --root {miniature}" in err


def test_verify_passes_then_finds_the_fault(capsys, miniature):
    run(capsys, "data", "prepare", "tiny-imagenet", "--root", miniature)
    code, out, _ = run(capsys, "data", "verify", "tiny-imagenet", "--root", miniature)
    assert (code, "ok: nothing is wrong" in out, "4 images decoded" in out) == (0, True, True)
    broken = miniature / "tiny-imagenet-200/val/images/val_1.JPEG"
    broken.write_bytes(b"")
    code, out, _ = run(capsys, "data", "verify", "tiny-imagenet", "--root", miniature)
    assert code == 1
    assert "1 problem:" in out
    assert "val/images/val_1.JPEG: has 0 bytes" in out
    assert "--subset-ok" not in out  # it would not help


def test_verify_json_is_one_object_and_nothing_else(capsys, miniature):
    run(capsys, "data", "prepare", "tiny-imagenet", "--root", miniature)
    code, out, _ = run(
        capsys, "data", "verify", "tiny-imagenet", "--root", miniature, "--json", "--workers", "1"
    )
    report = json.loads(out)
    assert (code, report["ok"], report["decoded_images"], report["problems"]) == (0, True, 4, [])
    for name in ("val_0.JPEG", "val_1.JPEG"):
        (miniature / "tiny-imagenet-200/val/images" / name).write_bytes(b"no image")
    code, out, _ = run(
        capsys, "data", "verify", "tiny-imagenet", "--root", miniature, "--json", "--max-problems", "1"
    )
    report = json.loads(out)
    assert (code, report["ok"], report["problem_count"], len(report["problems"])) == (1, False, 2, 1)
    code, out, _ = run(capsys, "data", "verify", "voc", "--root", miniature, "--json")
    assert (code, json.loads(out)["ok"]) == (1, False)
    assert "data prepare voc" in json.loads(out)["error"]


def test_verify_of_a_subset(capsys, miniature, monkeypatch):
    run(capsys, "data", "prepare", "tiny-imagenet", "--root", miniature)
    entry = dataclasses.replace(dataset_entry("tiny-imagenet"), classes=200)
    monkeypatch.setattr(catalogue, "CATALOGUE", {**catalogue.CATALOGUE, "tiny-imagenet": entry})
    code, out, _ = run(capsys, "data", "verify", "tiny-imagenet", "--root", miniature)
    assert code == 1
    assert "found 2 of 200 classes" in out
    assert "pass --subset-ok" in out
    code, out, _ = run(capsys, "data", "verify", "tiny-imagenet", "--root", miniature, "--subset-ok")
    assert code == 0
    assert "note: train: found 2 of 200 classes" in out


def test_demo_data_passes_as_a_subset(capsys, tmp_path):
    from sosr_det.data.demo import DemoSize, generate_demo_data

    generate_demo_data(tmp_path / "demo", size=DemoSize(1, 1, 1, 1, 20, 20, 20))
    for name in ("imagenet", "cub200", "voc"):
        code, out, _ = run(
            capsys, "data", "verify", name, "--root", tmp_path / "demo", "--subset-ok", "--json"
        )
        report = json.loads(out)
        assert (code, report["problems"]) == (0, [])
        assert report["decoded_images"] == sum(split["images"] for split in report["splits"].values()) > 0
        assert run(capsys, "data", "verify", name, "--root", tmp_path / "demo")[0] == 1
        if name == "cub200":
            assert report["identical_to_imagenet"] == {
                "imagenet": str(tmp_path / "demo" / "imagenet"),
                "count": 0,
                "pairs": [],
            }


@pytest.fixture
def own_data(tmp_path):
    """A data set in VOC format with two images; the second one's 30 boxes have no area, and one class is misspelt."""
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (tmp_path / "own" / folder).mkdir(parents=True)
    (tmp_path / "own/ImageSets/Main/train.txt").write_text("a\nb\n")
    item = "<object><name>{}</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>7</ymax></bndbox></object>"
    contents = {"a": item.format("cell", 7), "b": item.format("cell", 2) * 30 + item.format("Cell", 7)}
    for number, (name, content) in enumerate(contents.items()):
        image = cv2.imencode(".jpg", np.full((8, 8, 3), number, np.uint8))[1].tobytes()
        (tmp_path / f"own/JPEGImages/{name}.jpg").write_bytes(image)
        size = "<size><width>8</width><height>8</height></size>"
        (tmp_path / f"own/Annotations/{name}.xml").write_text(f"<annotation>{size}{content}</annotation>")
    return tmp_path / "own"


def test_verify_of_ones_own_detection_data(capsys, own_data):
    code, out, _ = run(capsys, "data", "verify", "voc-format", "--root", own_data)
    assert code == 1
    assert re.search(
        r"split +images +objects +difficult +truncated +no objects\n +train +2 +32 +0 +0 +0\n", out
    )
    assert re.search(r"  Cell +1 \(1\)\n  cell +31 \(2\)\n", out)
    assert "31 problems (30 degenerate, 1 spelling):" in out
    assert "'Cell' (1 objects) looks like 'cell' (31)" in out  # not lost behind the thirty
    assert "… and 11 more (--max-problems)" in out
    assert re.search(r"what training does about them:\n  degenerate  the box is left out", out)
    code, out, _ = run(
        capsys, "data", "verify", "voc-format", "--root", own_data, "--classes", "scan", "--json"
    )
    report = json.loads(out)
    assert (code, len(report["problems"]), report["problem_count"]) == (1, 31, 31)  # all of them
    assert set(report["effects_on_training"]) == {"degenerate", "spelling"}
    assert report["splits"]["train"]["objects_by_class"]["Cell"] == {
        "objects": 1,
        "difficult": 0,
        "truncated": 0,
        "images": 1,
    }
    (own_data / "Annotations/b.xml").write_text((own_data / "Annotations/a.xml").read_text())
    code, out, _ = run(
        capsys, "data", "verify", "voc-format", "--root", own_data, "--classes", "cell, nucleus"
    )
    assert (code, "ok: nothing is wrong" in out) == (0, True)
    assert "note: no objects of 1 of the 2 classes: nucleus" in out
    assert run(capsys, "data", "verify", "voc", "--root", own_data, "--classes", "cell")[0] == 1


def test_names_are_those_of_the_catalogue():
    assert [name.value for name in DatasetName] == list(catalogue.CATALOGUE)
    assert [name.value for name in VerifiedName] == [*catalogue.CATALOGUE, catalogue.VOC_FORMAT.name]


def test_training_commands_name_configs_that_exist(tmp_path):
    from sosr_det.engine.configs import config_names

    for entry in catalogue.CATALOGUE.values():
        command = training_command(entry.config_tag, tmp_path)
        if command.startswith("sosr-det train"):
            assert command.split()[2] in config_names()
        else:
            assert command.startswith(f"sosr-det configs {entry.config_tag}")
    assert "_sosr_" in training_command("in1k", tmp_path)
    assert "retinanet_r50-tv-pre_fpn_1x_voc0712 " in training_command("voc0712", tmp_path)
    assert training_command("no-such-data", tmp_path).startswith("sosr-det configs no-such-data")


@pytest.mark.parametrize(
    "arguments", [["data", "--help"], ["data", "prepare", "--help"], ["data", "verify", "--help"]]
)
def test_help_and_prepare_stay_light(arguments):
    code = (
        "import sys\nfrom sosr_det.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "import sosr_det.data.prepare\n"
        "heavy = {'torch', 'mmengine', 'numpy', 'cv2', 'scipy'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_an_unknown_name_is_wrong_usage(capsys):
    code, _, err = run(capsys, "data", "verify", "imagenet-22k")
    assert code == 2
    assert "tiny-imagenet" in err

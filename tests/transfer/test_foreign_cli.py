"""``sosr-det registry import`` and ``export`` on the command line: text for people, JSON for scripts, exit codes."""

import json

import pytest
import torch
import torchvision
from typer.testing import CliRunner

from sosr_det.cli.main import explain
from sosr_det.cli.registry import app


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    path = tmp_path_factory.mktemp("file") / "mine.pth"
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    return path


@pytest.fixture
def run(tmp_path):
    def call(*arguments):
        return CliRunner().invoke(app, [*map(str, arguments), "--registry", str(tmp_path / "registry")])

    return call


def test_import_and_export(tmp_path, run, file):
    options = (
        "--name",
        "mine@v1",
        "--preprocessing",
        "torchvision",
        "--metric",
        "top1=69.8",
        "--metric",
        "top5=89",
    )
    result = run(
        "import", file, *options, "--data", "imagenet-1k", "--license", "MIT", "--notes", "as received"
    )
    assert result.exit_code == 0, result.output
    for line in (
        "architecture  resnet18 (from the tensors' shapes)",
        "              from the key 'state_dict', the prefix 'module.' stripped",
        "left out      module.fc: 2 (module.fc.weight, module.fc.bias)",
        "metrics       top1 69.8, top5 89",
        "license       MIT (--license)",
        "published sosr://mine@v1",
    ):
        assert line in result.stdout.splitlines()
    shown = json.loads(run("show", "mine", "--json").stdout)["manifest"]
    assert shown["metrics"] == {"top1": 69.8, "top5": 89.0}
    assert shown["notes"].startswith("as received\nImported from mine.pth by unknown: 120 tensors.")

    out = tmp_path / "a.pth"
    result = run("export", "mine", "--format", "mmdet", "--out", out)
    assert result.exit_code == 0, result.output
    assert f"wrote {out}" in result.stdout
    assert "prefix='backbone.'" in result.stdout
    again = run("export", "mine", "--format", "mmdet", "--out", out)
    assert explain(again.exception) == (
        f"error: {out} exists already; choose another --out, or replace it with --force.", 1,
    )  # fmt: skip
    result = run("export", "mine", "--format", "mmdet", "--out", out, "--force", "--json")
    assert json.loads(result.stdout)["tensors_digest"] == shown["tensors_digest"]


def test_import_says_which_tags_it_moved(run, file):
    options = ("import", file, "--name", "mine@v1", "--preprocessing", "torchvision")
    first = run(*options)
    assert "was sha256:" not in first.stdout
    digest = json.loads(run("resolve", "mine", "--json").stdout)["digest"]
    second = run("import", file, "--name", "mine@v2", "--preprocessing", "torchvision", "--license", "MIT")
    moved = [line for line in second.stdout.splitlines() if "was sha256:" in line]
    assert moved == [f"  mine@latest moved (was sha256:{digest})"]
    answer = json.loads(run(*options, "--json").stdout)
    now = json.loads(run("resolve", "mine@v2", "--json").stdout)["digest"]
    assert {row["tag"]: row["previous"] for row in answer["tags"]} == {"v1": digest, "latest": now}


def test_a_dry_run_as_json(tmp_path, run, file):
    result = run("import", file, "--name", "mine", "--preprocessing", "torchvision", "--dry-run", "--json")
    said = json.loads(result.stdout)
    assert said["dry_run"]
    assert said["report"]["left_out"] == {
        "module.fc": {"count": 2, "examples": ["module.fc.weight", "module.fc.bias"]}
    }
    assert said["report"]["prefix"] == "module."
    assert not (tmp_path / "registry").exists()


def test_what_the_checkpoint_says_cannot_move_the_terminals_cursor(run, tmp_path, file):
    content = torch.load(file, weights_only=True)
    content["state_dict"]["\x1b[2Jx.weight"] = torch.zeros(2, 2)
    torch.save(content, tmp_path / "a.pth")
    result = run(
        "import", tmp_path / "a.pth", "--name", "mine", "--preprocessing", "torchvision", "--dry-run"
    )
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    assert "2Jx.weight" in result.stdout


@pytest.mark.parametrize("metric", ["top1", "top1=x", "=3", "top1=nan", "top1=inf"])
def test_metrics_are_names_and_numbers(run, file, metric):
    result = run("import", file, "--name", "mine", "--preprocessing", "torchvision", "--metric", metric)
    message, code = explain(result.exception)
    assert code == 1
    assert "expected NAME=VALUE" in message


def test_usage_errors_exit_with_two(run, file):
    assert run("import", file).exit_code == 2
    assert run("export", "mine", "--format", "mmdet").exit_code == 2

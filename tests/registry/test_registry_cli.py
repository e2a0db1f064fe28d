"""``sosr-det registry``: exact output for scripts, readable output for people, exit codes for both."""

import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from sosr_det.cli.registry import app
from sosr_det.errors import ConfigError, CorruptEntryError, RegistryError


@pytest.fixture
def run(registry):
    def call(*arguments):
        return CliRunner().invoke(app, [*arguments, "--registry", str(registry.root)])

    return call


@pytest.fixture
def entry(registry, state, fields):
    return registry.publish(state, fields, "r50", ["latest", "v1"])


def flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_resolve_prints_digest_and_path(run, entry):
    for uri in ("r50", "sosr://r50@v1", entry.pinned_uri, f"sha256:{entry.digest}"):
        result = run("resolve", uri)
        assert (result.exit_code, result.stdout) == (0, f"sha256:{entry.digest}\n{entry.blob_path}\n")
    assert json.loads(run("resolve", "r50@v1", "--json").stdout) == {
        "uri": "sosr://r50@v1",
        "pinned_uri": entry.pinned_uri,
        "name": "r50",
        "tag": "v1",
        "digest": entry.digest,
        "tensors_digest": entry.tensors_digest,
        "blob_path": str(entry.blob_path),
        "manifest_path": str(entry.manifest_path),
    }


def test_ls_lists_one_line_per_name_and_content(run, entry, registry, state, fields):
    registry.publish({"a": torch.ones(2)}, {k: fields[k] for k in ("arch", "preprocessing")}, "bare")
    header, bare, full = run("ls").stdout.splitlines()
    assert header.split() == ["name", "tags", "arch", "data", "recipe", "top-1", "ECE", "size", "age"]
    assert bare.split()[:6] == ["bare", "latest", "resnet50", "-", "-", "-"]
    cells = full.split()
    assert cells[:5] == ["r50", "latest,v1", "resnet50", "imagenet-1k", fields["recipe"]["config_name"]]
    assert cells[5:7] == ["76.13", "0.037"]
    rows = json.loads(run("ls", "--json").stdout)
    assert [row["name"] for row in rows] == ["bare", "r50"]
    assert rows[1]["tags"] == ["latest", "v1"]
    assert (rows[1]["digest"], rows[1]["top1"], rows[1]["error"]) == (entry.digest, 76.13, None)


def test_ls_of_an_empty_and_of_a_damaged_registry(run, registry, entry):
    registry.layout.ref_path("r50", "v1").write_text("{}")
    result = run("ls")
    assert result.exit_code == 0
    assert "DAMAGED" in result.stdout
    assert "verify --all" in result.stderr
    for tag in ("v1", "latest"):
        registry.layout.ref_path("r50", tag).unlink()
    result = run("ls")
    assert (result.exit_code, "is empty" in result.stdout) == (0, True)
    assert json.loads(run("ls", "--json").stdout) == []


def test_show_names_everything_and_json_is_the_manifest(run, entry, fields):
    text = run("show", "r50").stdout
    for part in (
        entry.digest,
        entry.tensors_digest,
        str(entry.blob_path),
        "resnet50 of torchvision, pytorch style",
    ):
        assert part in text
    for part in (
        "7x7/2+maxpool",
        "123.675",
        "rgb, pixels 0-255",
        "3, sha256:",
        "top1 76.13",
        "imagenet-1k",
        "Apache-2.0",
    ):
        assert part in text
    shown = json.loads(run("show", "r50", "--json").stdout)
    assert shown["manifest"] == entry.manifest.to_dict()
    assert shown["uri"] == "sosr://r50@latest"


def test_control_characters_of_a_manifest_do_not_reach_the_terminal(run, registry, state, fields):
    fields["data"]["name"] = fields["notes"] = fields["arch"]["name"] = "x\x1b]0;owned\x07\n[bold]y"
    registry.publish(state, fields, "evil")
    for command in (["ls"], ["show", "evil"]):
        out = run(*command).stdout
        assert "\x1b" not in out
        assert "\x07" not in out
        assert "[bold]y" in out


def test_verify_of_a_sound_registry(run, entry):
    for arguments in (
        ["r50"],
        ["r50@v1"],
        [entry.pinned_uri],
        [f"sosr://sha256:{entry.tensors_digest}"],
        ["--all"],
    ):
        result = run("verify", *arguments)
        assert (result.exit_code, "all sound" in result.stdout) == (0, True)
        answer = json.loads(run("verify", *arguments, "--json").stdout)
        assert (answer["ok"], answer["damages"]) == (True, [])
        assert str(entry.blob_path) in answer["files_checked"]


def test_verify_lists_every_damage_and_exits_with_1(run, registry, entry, fields):
    other = registry.publish({"a": torch.ones(2)}, fields, "other")
    flip_last_byte(entry.blob_path)
    flip_last_byte(other.manifest_path)
    result = run("verify", "--all")
    assert result.exit_code == 1
    for path in (entry.blob_path, other.manifest_path):
        assert f"DAMAGED  {path}" in result.stdout
    assert result.stdout.count("  expected  sha256 ") == result.stdout.count("  found     sha256 ") == 2
    assert "2 damaged" in result.stdout
    result = run("verify", "--all", "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert {damage["file"] for damage in answer["damages"]} == {
        str(entry.blob_path),
        str(other.manifest_path),
    }
    assert run("verify", "r50").exit_code == 1
    assert run("verify", entry.pinned_uri).exit_code == 1
    flip_last_byte(registry.layout.ref_path("r50", "v1"))
    flip_last_byte(entry.blob_path)
    assert run("verify", "r50@latest").exit_code == 0
    assert run("verify", "r50").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["show", "r51"], RegistryError, "Near names: r50"),
        (["resolve", "r50@v9"], RegistryError, "its tags are latest, v1"),
        (["resolve", "../x"], RegistryError, "cannot be a registry name"),
        (["verify", "r51"], RegistryError, "Near names: r50"),
        (["verify", "r50@v9"], RegistryError, "its tags are"),
        (["verify", f"sha256:{'0' * 64}"], RegistryError, "no manifest and no weights"),
        (["verify"], ConfigError, "expected a name or --all, not neither"),
        (["verify", "r50", "--all"], ConfigError, "not both"),
    ],
)
def test_mistakes_are_errors_for_the_user(run, entry, arguments, error, said):
    result = run(*arguments)
    assert isinstance(result.exception, error)
    assert said in str(result.exception)
    assert result.stdout == ""


def test_show_of_a_damaged_entry_fails(run, entry):
    flip_last_byte(entry.manifest_path)
    assert isinstance(run("show", "r50").exception, CorruptEntryError)


def test_no_command_imports_torch(entry, registry):
    code = """
import sys
from sosr_det.cli.registry import app
for arguments in (["ls"], ["show", "r50"], ["resolve", "r50"], ["verify", "--all"]):
    app([*arguments, "--registry", sys.argv[1]], standalone_mode=False)
heavy = {"torch", "numpy", "mmengine", "safetensors", "fsspec", "filelock"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(registry.root)], check=True, capture_output=True, text=True
    )
    assert entry.digest in done.stdout
    assert done.stderr == ""

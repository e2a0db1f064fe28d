"""What a manifest of others says: shown without steering the terminal, and never run."""

from __future__ import annotations

import ast
import contextlib
import io
import unicodedata

import pytest
import torch
from typer.main import get_command

import sosr_det.register  # noqa: F401
from sosr_det.cli.main import app, main
from sosr_det.engine.recorded_config import recorded_config
from sosr_det.registry.store import Registry

ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b31m\b\r\N{RIGHT-TO-LEFT OVERRIDE}[red]\N{ZERO WIDTH SPACE}"


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("SOSR_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def entry(manifest_fields, canary):
    """An entry whose every free text holds escape sequences and a line end, and whose recipe is hostile code."""
    bad = f"x{ESCAPES}\nDAMAGED  y"
    fields = manifest_fields | {
        "classes": [bad, "b"],
        "metrics": {f"{ESCAPES}metric": 1.0, "top1": 2.0},
        "recipe": {
            "config_name": bad,
            "config_text": f"import os\nos.mkdir({str(canary.mark)!r})  # {ESCAPES}\n",
        },
        "parents": [
            {"uri": bad, "digest": None, "relation": bad},
            {"uri": f"sosr://x@{ESCAPES}", "digest": "0" * 64, "relation": "finetuned-from"},
        ],
        "library_versions": {bad: bad},
        "git_commit": bad,
        "data": {"name": bad, "fingerprint": bad, bad: [bad]},
        "license": bad,
        "notes": bad,
    }
    fields["arch"] = fields["arch"] | {"name": bad, "library": bad, "stem": bad}
    fields["preprocessing"] = fields["preprocessing"] | {"interpolation": bad}
    tensors = {f"conv{ESCAPES}\n.weight": torch.ones(2, 3), "other": torch.ones(1)}
    return Registry().publish(tensors, fields, "evil")


@pytest.fixture
def good(manifest_fields):
    return Registry().publish({"other": torch.zeros(1)}, manifest_fields, "good")


def output_of(*arguments):
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
    return code, out.getvalue() + err.getvalue()


def assert_tame(text):
    wild = {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co")} - {"\n", "\t"}
    assert not wild, f"{wild} in {text!r}"


COMMANDS = {
    "ls": [["ls"], ["ls", "--json"]],
    "show": [
        ["show", "evil"],
        ["show", "evil", "--json"],
        ["show", "evil", "--config"],
        ["show", "evil", "--tensors"],
    ],
    "diff": [["diff", "evil", "good"], ["diff", "good", "evil"], ["diff", "evil", "good", "--json"]],
    "resolve": [["resolve", "evil"]],
    "verify": [["verify", "evil"], ["verify", "--all"]],
    "tag": [["tag", "evil", "v2"]],
    "rm": [["rm", "evil@latest"]],
    "gc": [["gc"]],
    "push": [["push", "evil", "--to", "copy"]],
    "pull": [["pull", "evil", "--from", "../registry", "--registry", "copy"]],
    "import": [["import", "absent\x1b[2J.pth", "--name", "a"]],
    "export": [["export", "evil", "--format", "torchvision", "--out", "a.pth"]],
    "card": [["card", "evil"], ["card", "evil", "--json"]],
}


def registry_commands():
    return sorted(get_command(app).commands["registry"].commands)


@pytest.mark.parametrize("name", registry_commands())
def test_no_command_lets_a_manifest_steer_the_terminal_or_run(entry, good, canary, name):
    for arguments in COMMANDS[name]:
        code, text = output_of("registry", *arguments)
        assert code in (0, 1), text
        assert "unexpected" not in text
        assert_tame(text)
        # A line end in a manifest's field must not be able to write a line of its own.
        assert "\nDAMAGED  y" not in text
    assert not canary.touched


def test_damage_of_a_hostile_entry_is_reported_tamely(entry):
    data = bytearray(entry.blob_path.read_bytes())
    data[-1] ^= 1
    entry.blob_path.write_bytes(data)
    for arguments in (["verify", "evil", "--no-cache"], ["verify", "--all"], ["show", "evil"], ["ls"]):
        assert_tame(output_of("registry", *arguments)[1])
    entry.manifest_path.write_bytes(entry.manifest_path.read_bytes().replace(b"DAMAGED", b"\x1b[2Jxx\r"))
    for arguments in (["verify", "evil"], ["verify", "--all"], ["show", "evil"], ["ls"]):
        assert_tame(output_of("registry", *arguments)[1])


def test_hostile_names_on_the_command_line_are_shown_tamely(good):
    for name in (f"a{ESCAPES}", "../x", "a\nb"):
        for arguments in (
            ["show", name],
            ["resolve", name],
            ["verify", name],
            ["rm", name],
            ["tag", "good", name],
        ):
            code, text = output_of("registry", *arguments)
            assert code == 1
            assert_tame(text)


def test_files_with_hostile_names_in_the_registry_are_reported_tamely(good, tmp_path):
    (tmp_path / "registry" / "refs" / f"x{ESCAPES}".replace("/", "")).mkdir()
    (tmp_path / "registry" / "manifests" / "sha256" / "\x1b[2J.json").write_text("x")
    for arguments in (["verify", "--all"], ["ls"], ["gc"]):
        assert_tame(output_of("registry", *arguments)[1])


def test_a_recipe_is_never_a_config(good, canary, manifest_fields, tmp_path):
    """Neither by the entry's URI nor by the path of its manifest does anything load a config from the registry."""
    text = f"import os\nos.mkdir({str(canary.mark)!r})\nmodel = dict()\n"
    fields = manifest_fields | {"recipe": {"config_name": "tiny", "config_text": text}}
    entry = Registry().publish({"other": torch.ones(1)}, fields, "recipe")
    for config in ("sosr://recipe", entry.pinned_uri, str(entry.manifest_path), str(entry.blob_path)):
        for command in (["train", config], ["test", config, "x.pth"], ["configs", config], ["swap", config]):
            code, _ = output_of(*command)
            assert code != 0
    assert not canary.touched


@pytest.mark.parametrize("where", ["train", "show", "diff"])
def test_a_hostile_recipe_under_a_run_is_only_ever_printed(where, canary, manifest_fields, folder):
    """A backbone that fits, with code for a recipe."""
    from sosr_det.models import build_backbone

    network = build_backbone("resnet20")
    module = network[0] if isinstance(network, tuple) else network
    text = f"import os\nos.mkdir({str(canary.mark)!r})\n"
    fields = manifest_fields | {"recipe": {"config_name": "tiny", "config_text": text}}
    fields["arch"] = fields["arch"] | {"name": "resnet20", "library": "pytorchcv", "stem": "3x3/1"}
    Registry().publish(module.state_dict(), fields, "evil")
    Registry().publish({"a": torch.ones(1)}, manifest_fields, "good")
    commands = {
        "train": [
            "train",
            folder / "tiny.py",
            "--backbone",
            "sosr://evil",
            "--work-dir",
            "run",
            "--total-epochs",
            "1",
        ],
        "show": ["registry", "show", "evil", "--config"],
        "diff": ["registry", "diff", "evil", "good"],
    }
    code, said = output_of(*commands[where])
    assert code == 0, said
    if where in ("show", "diff"):
        assert "os.mkdir" in said
    assert not canary.touched


def test_a_swapped_config_holds_nothing_that_a_manifest_says_but_checked_values(
    manifest_fields, canary, tmp_path
):
    """`sosr-det swap` writes Python: no text of a manifest may get into it, as code or otherwise."""
    from torchvision.models import resnet18

    code = f"'\"]\n)\nimport os\nos.mkdir({str(canary.mark)!r})\n#"
    fields = manifest_fields | {
        "classes": [code],
        "recipe": {"config_name": code, "config_text": code},
        "parents": [{"uri": code, "digest": None, "relation": code}],
        "library_versions": {code: code},
        "git_commit": code,
        "data": {"name": code, "fingerprint": code},
        "license": code,
        "notes": code,
    }
    fields["arch"] = fields["arch"] | {"stem": code, "style": "pytorch"}
    fields["preprocessing"] = fields["preprocessing"] | {"interpolation": code}
    state = {name: tensor for name, tensor in resnet18().state_dict().items() if not name.startswith("fc.")}
    entry = Registry().publish(state, fields, "evil")
    config = "mmdet::retinanet/retinanet_r18_fpn_1xb8-1x_coco.py"
    status, said = output_of("swap", config, "--backbone", "sosr://evil", "-o", "swapped.py")
    assert status == 0, said
    assert_tame(said)
    text = (tmp_path / "here" / "swapped.py").read_text()
    assert entry.pinned_uri in text
    assert "mkdir" not in text
    assert {type(node) for node in ast.parse(text).body} == {ast.Assign}
    recorded_config(text, "swapped.py")  # literals and registered types alone
    assert not canary.touched

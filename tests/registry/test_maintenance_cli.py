"""``registry verify``, ``tag``, ``rm`` and ``gc`` as a user and as a script see them."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

from sosr_det.cli.registry import app
from sosr_det.cli.registry.maintenance import parse_duration
from sosr_det.errors import ConfigError, RegistryError
from sosr_det.registry import reading
from sosr_det.registry.store import Registry


@pytest.fixture
def run(registry):
    def call(*arguments):
        return CliRunner().invoke(app, [*arguments, "--registry", str(registry.root)])

    return call


@pytest.fixture
def entry(registry, state, fields):
    return registry.publish(state, fields, "r50", ["latest", "v1"])


@pytest.fixture
def old_enough(monkeypatch, tmp_path):
    """What was just published counts as written long ago, so that it can be remembered as verified."""
    monkeypatch.setenv("SOSR_CACHE", str(tmp_path / "cache"))
    real = time.time
    monkeypatch.setattr(reading.time, "time", lambda: real() + 10)


def test_verify_says_what_it_did_not_read(run, entry, old_enough):
    first = run("verify", "r50")
    assert "unchanged" not in first.stdout
    again = run("verify", "r50")
    assert re.search(
        rf"{re.escape(str(entry.blob_path))}: unchanged since it was checked at 20\d\d-[\d-]+T[\d:]+Z; --no-cache",
        again.stdout,
    )
    assert json.loads(run("verify", "r50", "--json").stdout)["unchanged"].keys() == {str(entry.blob_path)}
    for arguments in (["r50", "--no-cache"], ["--all"]):
        assert "unchanged" not in run("verify", *arguments).stdout
        assert json.loads(run("verify", *arguments, "--json").stdout)["unchanged"] == {}


def test_verify_finds_damage_that_left_the_times_alone(run, entry, old_enough):
    """As a failing disk makes it: only --no-cache and --all can see it, and they do."""
    run("verify", "r50")
    content = bytearray(entry.blob_path.read_bytes())
    content[-1] ^= 1
    entry.blob_path.write_bytes(content)
    cached = pytest.MonkeyPatch()
    cached.setattr(
        "sosr_det.registry.verified_cache.VerifiedCache.checked_at", lambda *a: "2026-11-22T17:05:00Z"
    )
    assert run("verify", "r50").exit_code == 0
    assert run("verify", "r50", "--no-cache").exit_code == 1
    assert run("verify", "--all").exit_code == 1
    cached.undo()
    assert run("verify", "r50").exit_code == 1  # the change time gave it away


def test_tag_moves_and_says_from_where(run, registry, entry, state, fields):
    newer = registry.publish(state, fields | {"seed": 9}, "r50", ["v2"])
    result = run("tag", "r50@v2", "latest", "best")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"r50@latest is sha256:{newer.digest} (was sha256:{entry.digest})",
        f"r50@best is sha256:{newer.digest}",
    ]
    assert json.loads(run("tag", "r50@v1", "latest", "--json").stdout) == [
        {"name": "r50", "tag": "latest", "digest": entry.digest, "previous": newer.digest}
    ]
    assert run("tag", entry.pinned_uri, "x", "--name", "twin").exit_code == 0
    assert registry.resolve("sosr://twin@x").digest == entry.digest


def test_rm_says_what_stays(run, registry, entry):
    result = run("rm", "r50@latest")
    assert result.stdout.splitlines()[0] == f"removed r50@latest (sha256:{entry.digest})"
    assert "sosr://r50 has no default now; name one of its tags: v1." in result.stdout
    assert "registry tag r50@v1 latest" in result.stdout
    assert "No tag leads" not in result.stdout
    result = run("rm", "r50")
    assert result.stdout.splitlines() == [
        f"removed r50@v1 (sha256:{entry.digest})",
        f"No tag leads to sha256:{entry.digest} any more; it stays until `sosr-det registry gc --delete` collects it.",
    ]
    assert entry.blob_path.exists()


def test_rm_of_a_name_with_several_tags_wants_to_be_told(run, registry, entry):
    result = run("rm", "r50")
    assert isinstance(result.exception, RegistryError)
    assert "2 tags (latest, v1)" in str(result.exception)
    assert registry.tags("r50") == ["latest", "v1"]
    rows = json.loads(run("rm", "r50", "--all-tags", "--json").stdout)
    assert rows == [
        {"name": "r50", "tag": tag, "digest": entry.digest, "still_tagged": False} for tag in ("latest", "v1")
    ]
    assert registry.names() == []


def test_rm_takes_no_tag_that_came_meanwhile(run, registry, entry, monkeypatch):
    """The name had one tag when it was looked at; the tag that somebody sets then was not asked to go."""
    registry.remove("r50", "latest")
    remove = Registry.remove

    def after_someone_else(self, name, tag=None):
        Registry(registry.root).tag("sosr://r50@v1", ["v2"])
        return remove(self, name, tag)

    monkeypatch.setattr(Registry, "remove", after_someone_else)
    assert "removed r50@v1" in run("rm", "r50").stdout
    assert registry.tags("r50") == ["v2"]


def test_rm_of_a_damaged_ref(run, registry, entry):
    registry.layout.ref_path("r50", "v1").write_bytes(b"{")
    result = run("rm", "r50@v1")
    assert result.stdout.splitlines() == ["removed r50@v1 (a damaged ref)"]


def test_gc_shows_first_and_removes_on_request(run, registry, entry, state, fields, snapshot):
    child = registry.publish({"a": torch.ones(2)}, fields, "gone")
    registry.remove("gone")
    before = snapshot(registry.root)
    young = run("gc")
    assert young.stdout.splitlines()[-1] == (
        "0 files, 0 B would be freed; 2 entries stay (1 of them only because a tag led there within 24h)."
    )
    dry = run("gc", "--grace", "0")
    assert dry.exit_code == 0
    assert dry.stdout.count("would be removed") == 2
    assert f"{child.digest}.json  (resnet50, " in dry.stdout
    assert "This was a dry run; `--delete` removes them." in dry.stdout
    assert snapshot(registry.root) == before
    with registry.hold(child.digest, "work_dirs/run1"):
        held = run("gc", "--grace", "0", "--delete")
        assert f"sosr://sha256:{child.digest} by process {os.getpid()} on " in held.stdout
        assert ": work_dirs/run1" in held.stdout
        assert snapshot(registry.root).keys() >= before.keys()
    answer = json.loads(run("gc", "--grace", "0s", "--no-dry-run", "--json").stdout)
    assert (answer["dry_run"], answer["num_kept"], len(answer["garbage"])) == (False, 1, 2)
    assert {(item["kind"], item["path"]) for item in answer["garbage"]} == {
        ("manifest", str(child.manifest_path)),
        ("blob", str(child.blob_path)),
    }
    assert answer["size_bytes"] == sum(item["size_bytes"] for item in answer["garbage"]) > 0
    assert not child.blob_path.exists()
    assert run("verify", "--all").exit_code == 0
    assert "0 files, 0 B freed; 1 entry stays." in run("gc", "--delete").stdout


@pytest.mark.parametrize(
    ("text", "seconds"),
    {
        "90s": 90,
        "30m": 1800,
        "30min": 1800,
        "2h": 7200,
        "7d": 604800,
        "1w": 604800,
        "0": 0,
        "1.5h": 5400,
    }.items(),
)
def test_lengths_of_time(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "-1h", "1y", "1h30m", "inf", "1e3s"])
def test_other_lengths_of_time_are_refused(text):
    with pytest.raises(ConfigError, match="90s, 30m, 2h, 7d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["rm", "r51"], RegistryError, "Near names: r50"),
        (["rm", "r50@v9"], RegistryError, "its tags are latest, v1"),
        (["rm", f"sha256:{'0' * 64}"], RegistryError, "only tags can be removed"),
        (["rm", "r50@v1", "--all-tags"], ConfigError, "leave out one"),
        (["rm", "../r50"], RegistryError, "cannot be a registry name"),
        (["tag", "r51", "a"], RegistryError, "Near names: r50"),
        (["tag", "r50", "../a"], RegistryError, "cannot be a registry tag"),
        (["tag", f"sha256:{'0' * 64}", "a"], RegistryError, "no manifest"),
        (["gc", "--grace", "soon"], ConfigError, "no length of time"),
        (["gc", "--grace", "5"], ConfigError, "no length of time"),
    ],
)
def test_mistakes_change_nothing(run, registry, entry, snapshot, arguments, error, said):
    before = snapshot(registry.root)
    result = run(*arguments)
    assert isinstance(result.exception, error), result.exception
    assert said in str(result.exception)
    assert result.stdout == ""
    assert snapshot(registry.root) == before


def test_control_characters_do_not_reach_the_terminal(run, registry, state, fields):
    fields["arch"]["name"] = "x\x1b]0;owned\x07"
    entry = registry.publish(state, fields, "evil")
    registry.remove("evil")
    with registry.hold(entry.digest, "run\x1b[2J"):
        assert "\x1b" not in run("gc", "--grace", "0").stdout
    out = run("gc", "--grace", "0", "--delete").stdout
    assert "owned" in out
    assert "\x1b" not in out


def test_the_commands_need_no_torch(registry, entry):
    code = """
import sys
from sosr_det.cli.registry import app
for command in ("verify r50", "tag r50 v2", "rm r50@v2", "gc", "gc --delete --grace 0"):
    app([*command.split(), "--registry", sys.argv[1]], standalone_mode=False)
heavy = {"torch", "numpy", "mmengine", "safetensors", "fsspec", "rich"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(registry.root)], check=True, capture_output=True, text=True
    )
    assert done.stderr == ""

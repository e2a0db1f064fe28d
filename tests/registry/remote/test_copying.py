"""push and pull: the same bytes at both ends, nothing sent twice, no tag taken without a word."""

import json
import re
import shutil

import pytest
import torch

from sosr_det.cli.main import main
from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry.copying import Copier, CopyOptions
from sosr_det.registry.opening import open_registry


@pytest.fixture
def local(tmp_path):
    return open_registry(tmp_path / "local")


@pytest.fixture(params=["folder", "s3"])
def other(request, tmp_path):
    if request.param == "folder":
        return open_registry(tmp_path / "other")
    return open_registry(request.getfixturevalue("s3").root)


def w(number):
    return {"w": torch.full((100,), float(number))}


def child_of(fields, *parents, relation="finetuned-from"):
    return fields | {
        "parents": [{"uri": p.uri, "digest": p.digest, "relation": relation} for p in parents],
    }


def same_bytes(entry, registry):
    found = registry.resolve(entry.pinned_uri)
    return (
        registry.fetch(found).read_bytes() == entry.blob_path.read_bytes()
        and found.manifest.to_bytes() == entry.manifest_path.read_bytes()
    )


def test_there_and_back_again(local, other, fields, tmp_path):
    entry = local.publish(w(1), fields, "r50", ["latest", "v1"])
    (pushed,) = Copier(local, other).copy("sosr://r50@v1")
    assert (pushed.digest, pushed.name, pushed.tags) == (entry.digest, "r50", ["v1"])
    assert pushed.sent_bytes == entry.manifest.size_bytes
    assert other.tags("r50") == ["v1"]
    assert same_bytes(entry, other)
    (again,) = Copier(local, other).copy("sosr://r50@v1")
    assert again.sent_bytes == 0
    (latest,) = Copier(local, other).copy("sosr://r50")  # only the tag is new
    assert latest.sent_bytes == 0
    assert other.tags("r50") == ["latest", "v1"]
    third = open_registry(tmp_path / "third")
    (pulled,) = Copier(other, third).copy(entry.pinned_uri, "mine@x")
    assert pulled.digest == entry.digest
    assert third.resolve("sosr://mine@x").digest == entry.digest
    assert same_bytes(entry, third)
    with pytest.raises(RegistryError, match="--as NAME@TAG"):
        Copier(other, third).copy(entry.pinned_uri)
    copied = Copier(other, open_registry(tmp_path / "fourth")).copy("sosr://r50", all_tags=True)
    assert [each.tags for each in copied] == [["latest"], ["v1"]]
    with pytest.raises(RegistryError, match="both source and target"):
        Copier(local, open_registry(local.root))
    with pytest.raises(RegistryError, match="Near names: r50"):
        Copier(local, other).copy("sosr://r51")


def test_only_the_content_that_is_missing_is_sent(local, other, fields):
    first = local.publish(w(1), fields, "a")
    second = local.publish(w(1), fields | {"seed": 99}, "b")  # the same weights
    sent = []
    copier = Copier(local, other, on_bytes=sent.append)
    copier.copy("sosr://a")
    copier.copy("sosr://b")
    assert same_bytes(first, other)
    assert same_bytes(second, other)
    if hasattr(other, "objects"):
        assert sum(sent) == first.manifest.size_bytes
        assert other.progress is None


def test_a_folder_that_was_only_half_made_a_registry_becomes_one(local, fields, tmp_path):
    """A copy that broke off: blob, manifest and ref came, the file that makes the folder a registry did not."""
    entry = local.publish(w(1), fields, "a")
    half = tmp_path / "half"
    shutil.copytree(local.root, half)
    (half / "registry.json").unlink()
    Copier(local, open_registry(half)).copy("sosr://a")
    assert open_registry(half).resolve("sosr://a").digest == entry.digest


def test_a_tag_is_not_taken_from_another_entry(local, other, fields):
    theirs = other.publish(w(9), fields, "r50")
    ours = local.publish(w(1), fields, "r50")
    with pytest.raises(
        RegistryError, match=rf"r50@latest in .* is sha256:{theirs.digest}.*{ours.digest}.*--force"
    ):
        Copier(local, other).copy("sosr://r50")
    assert other.read_ref("r50").digest == theirs.digest
    assert ours.digest not in other.manifest_digests()
    Copier(local, other, CopyOptions(force=True)).copy("sosr://r50")
    ref = other.read_ref("r50")
    assert (ref.digest, ref.previous) == (ours.digest, theirs.digest)
    # The source went one step on: the target may follow, but not go back.
    newer = local.publish(w(2), fields, "r50")
    Copier(local, other).copy("sosr://r50")
    assert other.read_ref("r50").digest == newer.digest
    local.tag(ours.pinned_uri, ["old"], name="r50")
    with pytest.raises(RegistryError, match="backwards"):
        Copier(local, other).copy("sosr://r50@old", "r50@latest")
    # Two steps: the target's entry is not what the source's tag had before.
    local.publish(w(3), fields, "r50")
    last = local.publish(w(4), fields, "r50")
    with pytest.raises(RegistryError, match="--force"):
        Copier(local, other).copy("sosr://r50")
    assert last.digest not in other.manifest_digests()


def test_parents_go_first_and_never_move_a_tag(local, other, fields):
    grand = local.publish(w(1), fields, "grand", ["latest", "v1"])
    parent = local.publish(w(2), child_of(fields, grand), "parent", ["latest"])
    lost = local.publish(w(3), fields, "lost")
    imported = child_of(fields, relation="imported-from")["parents"] + [
        {"uri": "file.pth", "digest": "0" * 64, "relation": "imported-from"}
    ]
    several = child_of(fields, parent, lost)
    child = local.publish(w(4), several | {"parents": several["parents"] + imported}, "child")
    lost.manifest_path.unlink()
    theirs = other.publish(w(8), fields, "grand", ["v1"])
    copied = Copier(local, other).copy("sosr://child")
    assert [(each.digest, each.absent, each.relation) for each in copied] == [
        (grand.digest, False, "finetuned-from"),
        (parent.digest, False, "finetuned-from"),
        (lost.digest, True, "finetuned-from"),
        (child.digest, False, None),
    ]
    assert other.read_ref("grand", "v1").digest == theirs.digest
    assert other.tags("grand") == [f"d-{grand.digest[:16]}", "v1"]
    assert other.tags("parent") == [f"d-{parent.digest[:16]}"]
    for entry in (grand, parent, child):
        assert same_bytes(entry, other)
    assert all(each.sent_bytes == 0 for each in Copier(local, other).copy("sosr://child"))


def test_parents_can_be_left_out(local, other, fields):
    parent = local.publish(w(1), fields, "parent")
    local.publish(w(2), child_of(fields, parent), "child")
    (only,) = Copier(local, other, CopyOptions(parents=False)).copy("sosr://child")
    assert only.relation is None
    assert parent.digest not in other.manifest_digests()


def test_damage_at_the_source_reaches_nobody(local, other, fields, fresh_cache):
    for source, target in ((local, other), (other, local)):
        entry = source.publish(w(1), fields, "r50")
        if hasattr(source, "objects"):
            fresh_cache()
            key = f"blobs/sha256/{entry.tensors_digest[:2]}/{entry.tensors_digest}.safetensors"
            content = bytearray(source.objects.read(key, 1 << 20).data)
            content[-1] ^= 1
            source.objects.put(key, bytes(content))
        else:
            content = bytearray(entry.blob_path.read_bytes())
            content[-1] ^= 1
            entry.blob_path.write_bytes(content)
        fresh = open_registry(f"{target.root}-{source is local}")
        with pytest.raises(CorruptEntryError):
            Copier(source, fresh).copy("sosr://r50")
        with pytest.raises(RegistryError, match=r"there is no registry|empty"):
            fresh.resolve("sosr://r50")


def test_repair_replaces_what_is_damaged_at_the_target(local, other, fields, fresh_cache):
    entry = local.publish(w(1), fields, "r50")
    Copier(local, other).copy("sosr://r50")
    key = f"blobs/sha256/{entry.tensors_digest[:2]}/{entry.tensors_digest}.safetensors"
    content = bytearray(entry.blob_path.read_bytes())
    content[-1] ^= 1
    if hasattr(other, "objects"):
        other.objects.put(key, bytes(content))
    else:
        (other.root / key).write_bytes(content)
    fresh_cache()
    assert (
        Copier(local, other).copy("sosr://r50")[0].sent_bytes == 0
    )  # of the right size: nobody looked inside
    with pytest.raises(CorruptEntryError):
        other.load("sosr://r50")
    Copier(local, other, CopyOptions(repair=True)).copy("sosr://r50")
    other.verify("sosr://r50", use_cache=False)


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code or 0


def test_on_the_command_line(local, s3, fields, tmp_path, capsys, monkeypatch):
    parent = local.publish(w(1), fields, "parent", ["v1"])
    child = local.publish(w(2), child_of(fields, parent), "child")
    monkeypatch.setenv("SOSR_REGISTRY", str(local.root))
    assert run("registry", "push", "child", "--to", s3.root) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["copied", "parent@v1"], ["copied", "child@latest"]]
    assert child.digest in lines[1]
    assert run("registry", "push", "child", "nothing", "--to", s3.root, "--json") == 1
    rows = json.loads(capsys.readouterr().out)
    assert rows["target"] == s3.root
    assert [row["error"] is None for row in rows["copied"]] == [True, False]
    assert [each["sent_bytes"] for each in rows["copied"][0]["entries"]] == [0, 0]
    target = str(tmp_path / "pulled")
    pull = ["registry", "pull", child.pinned_uri, "--from", s3.root, "--registry", target]
    assert run(*pull, "--as", "c@x", "--no-parents") == 0
    assert re.match(rf"copied   c@x  sha256:{child.digest}  [\d.]+ (B|KiB)$", capsys.readouterr().out.strip())
    assert open_registry(target).names() == ["c"]
    assert run("registry", "pull", "parent@v2", "--from", s3.root, "--registry", target) == 1
    assert "failed   parent@v2: 'parent' has no tag 'v2'" in capsys.readouterr().err
    assert run("registry", "pull", "a", "b", "--as", "c", "--from", s3.root, "--registry", target) == 1
    assert "--as gives one name" in capsys.readouterr().err
    assert run("registry", "pull", "x", "--from", "s3://no-such-bucket/x", "--registry", target) == 1
    assert "no such bucket" in capsys.readouterr().err


def test_every_command_takes_a_url(s3, fields, capsys, monkeypatch):
    registry = open_registry(s3.root)
    entry = registry.publish(w(1), fields, "r50", ["latest", "v1"])
    monkeypatch.setenv("SOSR_REGISTRY", s3.root)
    commands = [
        (["ls"], "r50"),
        (["show", "r50"], entry.digest),
        (["resolve", "r50@v1"], entry.digest),
        (["verify", "r50"], "all sound"),
        (["verify", entry.pinned_uri], "all sound"),
        (["verify", "--all"], "all sound"),
        (["tag", "r50", "v2"], "r50@v2"),
        (["rm", "r50@v2"], "removed r50@v2"),
        (["gc"], "1 entry stays"),
        (["gc", "--delete", "--grace", "0"], "1 entry stays"),
    ]
    for command, expected in commands:
        assert run("registry", *command) == 0, command
        assert expected in capsys.readouterr().out, command
        assert run("registry", *command[:1], "--help") == 0
        capsys.readouterr()
    key = f"blobs/sha256/{entry.tensors_digest[:2]}/{entry.tensors_digest}.safetensors"
    registry.objects.put(key, b"x" * entry.manifest.size_bytes)
    assert run("registry", "verify", "r50", "--registry", s3.root) == 1
    assert f"DAMAGED  {s3.root}/{key}" in capsys.readouterr().out

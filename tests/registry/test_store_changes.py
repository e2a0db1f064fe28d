"""Adding, tagging and removing: exact copies, previous targets kept, and nothing but refs changed."""

import json
import logging
import os

import pytest
import torch

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry import layout as layout_module
from sosr_det.registry.audit import audit_all
from sosr_det.registry.digest import canonical_json, sha256_hex
from sosr_det.registry.manifest import SIZE_LIMIT
from sosr_det.registry.refs import Ref
from sosr_det.registry.store import Registry


@pytest.fixture
def entry(registry, state, fields):
    return registry.publish(state, fields, "r50", ["latest", "v1"])


@pytest.fixture
def other(tmp_path):
    return Registry(tmp_path / "other")


def flip(path, at=-1):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


# ---- add -----------------------------------------------------------------------------------------------------


def test_add_makes_an_exact_copy(registry, entry, other, state):
    copy = other.add(entry.manifest_path.read_bytes(), entry.blob_path, "copy", ["latest", "v2"])
    assert (copy.digest, copy.manifest, copy.uri) == (entry.digest, entry.manifest, "sosr://copy@latest")
    assert copy.blob_path.read_bytes() == entry.blob_path.read_bytes()
    assert copy.manifest_path.read_bytes() == entry.manifest_path.read_bytes()
    assert other.read_ref("copy", "v2").summary == registry.read_ref("r50").summary
    assert audit_all(other).ok
    assert other.load("sosr://copy")["half"].equal(state["half"])
    assert not list(other.layout.tmp_dir.iterdir())


def test_add_keeps_a_manifest_of_an_earlier_schema_verbatim(registry, entry, other):
    document = json.loads(entry.manifest_path.read_bytes())
    document["schema_version"] = 1
    del document["kind"], document["probe"]
    content = canonical_json(document) + b"\n"
    copy = other.add(content, entry.blob_path, "old")
    assert copy.digest == sha256_hex(content) != entry.digest
    assert copy.manifest_path.read_bytes() == content
    assert other.resolve("sosr://old").manifest.kind == "backbone"
    assert other.read_ref("old").summary == copy.manifest.summary()
    assert audit_all(other).ok


def test_add_does_not_read_the_file_when_the_weights_are_there(registry, entry, other, tmp_path):
    content = entry.manifest_path.read_bytes()
    other.add(content, entry.blob_path, "a")
    assert other.add(content, tmp_path / "absent", "b").digest == entry.digest
    flip(other.layout.blob_path(entry.tensors_digest))
    with pytest.raises(CorruptEntryError, match=r"absent is damaged: file: .*no such file"):
        other.add(content, tmp_path / "absent", "c")


def test_add_repairs_a_damaged_blob(registry, entry, other, caplog):
    content = entry.manifest_path.read_bytes()
    copy = other.add(content, entry.blob_path, "a")
    flip(copy.blob_path)
    with caplog.at_level(logging.WARNING, logger="sosr_det.registry"):
        other.add(content, entry.blob_path, "a")
    assert "replacing a damaged file" in caplog.text
    assert other.verify("sosr://a", use_cache=False)


def test_add_refuses_any_damage_and_writes_nothing(registry, entry, other, snapshot):
    content = entry.manifest_path.read_bytes()
    other.add(content, entry.blob_path, "keep")
    other.remove("keep")
    for path in (other.layout.blob_path(entry.tensors_digest), other.layout.manifest_path(entry.digest)):
        path.unlink()
    before = snapshot(other.root)
    good = entry.blob_path.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    for at in (0, 9, header - 1, header, (header + len(good)) // 2, len(good) - 1):
        flip(entry.blob_path, at)
        with pytest.raises(CorruptEntryError, match=r"expected .*, found ") as caught:
            other.add(content, entry.blob_path, "bad")
        assert str(entry.blob_path) in str(caught.value)
        entry.blob_path.write_bytes(good)
    for share in (0, 0.01, 0.5, 0.99, 1.01):
        entry.blob_path.write_bytes((good * 2)[: int(len(good) * share)])
        with pytest.raises(CorruptEntryError, match="size"):
            other.add(content, entry.blob_path, "bad")
    entry.blob_path.write_bytes(good)
    broken = bytearray(content)
    broken[len(broken) // 2] ^= 1
    for wrong in (bytes(broken), content[:-1], content + b" ", b"", b"[]\n", b"\xff"):
        with pytest.raises(CorruptEntryError, match="the manifest to be stored as bad"):
            other.add(wrong, entry.blob_path, "bad")
    with pytest.raises(RegistryError, match="'schema_version' is missing"):
        other.add(b"{}\n", entry.blob_path, "bad")
    with pytest.raises(RegistryError, match=f"at most {SIZE_LIMIT}"):
        other.add(b" " * (SIZE_LIMIT + 1), entry.blob_path, "bad")
    assert snapshot(other.root) == before


def test_add_follows_no_link_and_checks_names(registry, entry, other, tmp_path):
    content = entry.manifest_path.read_bytes()
    (tmp_path / "link").symlink_to(entry.blob_path)
    with pytest.raises(RegistryError, match="symbolic link"):
        other.add(content, tmp_path / "link", "a")
    for name, tags in (("../a", ["latest"]), ("a", ["../b"]), ("a", []), ("a", "latest")):
        with pytest.raises(RegistryError):
            other.add(content, entry.blob_path, name, tags)
    assert not (other.root / "refs").exists()


def test_add_restores_weights_that_were_collected_while_it_waited(registry, entry, other, monkeypatch):
    content = entry.manifest_path.read_bytes()
    other.add(content, entry.blob_path, "a")
    other.remove("a")
    real = other.write_lock

    def collect_first():
        with monkeypatch.context() as patch:
            patch.setattr(other, "write_lock", real)
            assert len(other.collect(0, dry_run=False).garbage) == 2
        return real()

    monkeypatch.setattr(other, "write_lock", collect_first)
    copy = other.add(content, entry.blob_path, "b")
    monkeypatch.undo()
    other.verify(copy, use_cache=False)


# ---- tag -----------------------------------------------------------------------------------------------------


def test_tagging_copies_no_content(registry, entry, snapshot):
    before = snapshot(registry.root)
    tagged = registry.tag("sosr://r50@v1", ["best", "v2"])
    assert (tagged.digest, tagged.uri) == (entry.digest, "sosr://r50@best")
    assert registry.tag(entry.pinned_uri, ["x"], name="twin").uri == "sosr://twin@x"
    after = snapshot(registry.root)
    assert set(after) - set(before) == {"refs/r50/best.json", "refs/r50/v2.json", "refs/twin/x.json"}
    assert {key: after[key] for key in before} == before
    assert registry.read_ref("twin", "x").summary == registry.read_ref("r50").summary


def test_what_is_collected_while_tagging_waits_for_the_lock_gets_no_tag(registry, entry, monkeypatch):
    other = Registry(registry.root)
    lock = registry.write_lock

    def after_a_collection():
        other.remove(entry.name)
        other.collect(0, dry_run=False)
        return lock()

    monkeypatch.setattr(registry, "write_lock", after_a_collection)
    with pytest.raises(RegistryError):
        registry.tag(f"sosr://{entry.name}@{entry.tag}", ["kept"], name="mine")
    assert other.names() == []


def test_moving_a_tag_keeps_where_it_was(registry, entry, state, fields):
    newer = registry.publish(state, fields | {"seed": 9}, "r50")
    assert registry.read_ref("r50", "latest").previous == entry.digest
    registry.tag("sosr://r50@v1", ["latest"])
    ref = registry.read_ref("r50", "latest")
    assert (ref.digest, ref.previous) == (entry.digest, newer.digest)
    registry.tag("sosr://r50@v1", ["latest"])
    assert registry.read_ref("r50", "latest").previous == newer.digest


def test_tagging_mistakes_change_nothing(registry, entry, snapshot, tmp_path):
    before = snapshot(registry.root)
    for arguments, said in (
        (("sosr://r51", ["a"]), "Near names: r50"),
        (("sosr://r50@v9", ["a"]), "its tags are latest, v1"),
        (("sosr://r50", []), "expected a list"),
        (("sosr://r50", "a"), "expected a list"),
        (("sosr://r50", ["ok", "../a"]), "cannot be a registry tag"),
        (("sosr://r50", ["a"], "../b"), "cannot be a registry name"),
        ((entry.pinned_uri, ["a"]), "--name"),
        ((f"sosr://sha256:{'0' * 64}", ["a"], "b"), "no manifest"),
    ):
        with pytest.raises(RegistryError, match=said):
            registry.tag(*arguments)
    entry.blob_path.rename(tmp_path / "away")
    with pytest.raises(CorruptEntryError, match="no such file"):
        registry.tag("sosr://r50", ["a"])
    (tmp_path / "away").rename(entry.blob_path)
    assert snapshot(registry.root) == before


def test_tagging_an_entry_of_an_earlier_version_gives_the_ref_a_summary(registry, entry):
    old = Ref("r50", "v1", entry.digest, "2026-11-22T17:05:00Z", "ab" * 32)
    registry.layout.ref_path("r50", "v1").write_bytes(old.to_bytes())
    assert registry.read_ref("r50", "v1").summary is None
    assert {item.tag: item.summary for item in registry.list_refs()}["v1"] == entry.manifest.summary()
    registry.tag("sosr://r50@v1", ["v2", "v1"])
    assert registry.read_ref("r50", "v2").summary == entry.manifest.summary()
    assert registry.read_ref("r50", "v1").previous == "ab" * 32


# ---- remove --------------------------------------------------------------------------------------------------


def test_removing_a_tag_leaves_the_rest(registry, entry, snapshot):
    before = snapshot(registry.root)
    assert registry.remove("r50", "latest") == [("r50", "latest")]
    assert set(before) - set(snapshot(registry.root)) == {"refs/r50/latest.json"}
    with pytest.raises(RegistryError, match=r"no tag 'latest'.*its tags are v1"):
        registry.resolve("sosr://r50")
    assert registry.resolve("sosr://r50@v1").digest == entry.digest
    registry.verify(entry.pinned_uri)


def test_removing_a_name_leaves_the_content(registry, entry):
    assert registry.remove("r50") == [("r50", "latest"), ("r50", "v1")]
    assert registry.names() == []
    assert not (registry.root / "refs" / "r50").exists()
    assert registry.manifest_digests() == [entry.digest]
    registry.verify(entry.pinned_uri, use_cache=False)
    assert not list(registry.layout.tmp_dir.iterdir())


def test_a_damaged_ref_can_be_removed(registry, entry):
    registry.layout.ref_path("r50", "v1").write_bytes(b"{")
    registry.remove("r50", "v1")
    assert registry.tags("r50") == ["latest"]
    assert audit_all(registry).ok


def test_removing_mistakes_change_nothing(registry, entry, snapshot, tmp_path):
    before = snapshot(registry.root)
    for arguments, said in (
        (("r51",), "Near names: r50"),
        (("r50", "v9"), "its tags are latest, v1"),
        (("../r50",), "cannot be a registry name"),
        (("r50", "../latest"), "cannot be a registry tag"),
        (("",), "cannot be a registry name"),
    ):
        with pytest.raises(RegistryError, match=said):
            registry.remove(*arguments)
    assert snapshot(registry.root) == before
    with pytest.raises(RegistryError, match="no registry"):
        Registry(tmp_path / "absent").remove("r50")


def test_a_link_in_place_of_a_name_is_not_followed(registry, entry, tmp_path):
    folder = registry.root / "refs" / "r50"
    folder.rename(tmp_path / "outside")
    folder.symlink_to(tmp_path / "outside")
    for action in (
        lambda: registry.remove("r50", "v1"),
        lambda: registry.tag(entry.pinned_uri, ["v1"], name="r50"),
    ):
        with pytest.raises(RegistryError, match="symbolic link"):
            action()
    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["latest.json", "v1.json"]


# ---- reading -------------------------------------------------------------------------------------------------


def test_manifest_digests_lists_what_no_tag_leads_to(registry, entry, state, fields):
    second = registry.publish(state, fields | {"seed": 9}, "r50", ["latest", "v1"])
    (registry.layout.manifests_dir / "notes.txt").touch()
    (registry.layout.manifests_dir / "short.json").touch()
    assert registry.manifest_digests() == sorted([entry.digest, second.digest])


def test_fetch_returns_a_verified_path(registry, entry):
    assert registry.fetch(entry) == entry.blob_path
    flip(entry.blob_path)
    with pytest.raises(CorruptEntryError):
        registry.fetch(entry)


def test_finding_an_entry_lists_no_folder(registry, entry, monkeypatch):
    """So that it costs the same whatever the registry holds."""

    def refuse(*arguments):
        raise AssertionError("a folder was listed")

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refuse)
    assert registry.resolve("sosr://r50").digest == entry.digest
    assert registry.resolve("sosr://r50@v1").digest == entry.digest
    assert registry.resolve(entry.pinned_uri).digest == entry.digest
    registry.load(entry)
    registry.verify("sosr://r50", use_cache=False)
    with pytest.raises(AssertionError):  # the control: by the weights' digest manifests have to be searched
        registry.resolve(f"sosr://sha256:{entry.tensors_digest}")


def test_finding_an_entry_opens_the_same_few_files_in_any_registry(registry, entry, fields, monkeypatch):
    opened = []
    real = os.open

    def count(path, *rest, **kwargs):
        opened.append(str(path))
        return real(path, *rest, **kwargs)

    monkeypatch.setattr(os, "open", count)
    registry.resolve("sosr://r50")
    few = list(opened)
    assert len(few) == 3  # marker, ref, manifest
    monkeypatch.undo()
    for value in range(20):
        registry.publish({"a": torch.full((2,), float(value))}, fields, f"n{value}")
    monkeypatch.setattr(os, "open", count)
    del opened[:]
    registry.resolve("sosr://r50")
    assert opened == few


def test_listing_reads_refs_alone(registry, entry, fields, monkeypatch):
    for value in range(5):
        registry.publish({"a": torch.full((2,), float(value))}, fields, f"n{value}")
    monkeypatch.setattr(registry, "read_manifest", None)
    assert [item.error for item in registry.list_refs()] == [None] * 7


def test_a_ref_that_vanishes_while_listing_is_left_out(registry, entry, monkeypatch):
    real = registry.tags  # the folder is listed, and then the tag is removed
    monkeypatch.setattr(registry, "tags", lambda name: [*real(name), "gone"])
    assert [item.tag for item in registry.list_refs()] == ["latest", "v1"]


# ---- who may write -------------------------------------------------------------------------------------------


@pytest.fixture
def warnings_again(monkeypatch):
    monkeypatch.setattr(layout_module, "_WARNED", set())


@pytest.mark.skipif(os.name == "nt", reason="no such modes")
def test_a_registry_that_everybody_can_write_is_warned_of_once(registry, entry, caplog, warnings_again):
    assert registry.layout.permissions_warnings() == []
    for folder in (registry.root, registry.layout.refs_dir, registry.layout.blobs_dir):
        folder.chmod(0o777)
        (warning,) = registry.layout.permissions_warnings()
        assert f"chmod o-w {folder}" in warning
        folder.chmod(0o775)  # a group's registry is as it should be
        assert registry.layout.permissions_warnings() == []
    registry.root.chmod(0o1777)
    assert registry.layout.permissions_warnings() == []
    registry.layout.refs_dir.chmod(0o1777)  # anybody may add a tag
    with caplog.at_level(logging.WARNING, logger="sosr_det.registry"):
        registry.resolve("sosr://r50")
        registry.load("sosr://r50")
        Registry(registry.root).list_refs()
    assert [record.getMessage().count("chmod o-w") for record in caplog.records] == [1]

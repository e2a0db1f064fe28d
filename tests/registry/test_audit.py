"""Checking a whole registry: everything damaged is listed, everything else is not."""

import dataclasses
import shutil

import pytest
import torch

from sosr_det.errors import RegistryError
from sosr_det.registry.audit import audit_all, audit_digest, audit_refs
from sosr_det.registry.reading import RegistryReader
from sosr_det.registry.store import Registry


def flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_sound_registry(registry, state, fields):
    entry = registry.publish(state, fields, "r50", ["latest", "v1"])
    registry.publish(state, fields | {"seed": 9}, "r50", ["v1"])
    audit = audit_all(registry)
    assert audit.ok
    assert audit.unused == []
    assert len(audit.files) == 2 + 2 + 1
    assert audit_refs(registry, [("r50", "latest")]).files >= {str(entry.blob_path), str(entry.manifest_path)}
    assert audit_digest(registry, entry.digest).ok


def test_every_damage_is_listed_once(registry, state, fields):
    one = registry.publish(state, fields, "one", ["latest", "v1"])
    two = registry.publish({"a": torch.ones(3), "b": torch.ones(2)}, fields, "two")
    three = registry.publish({"a": torch.ones(4)}, fields, "three")
    content = bytearray(two.blob_path.read_bytes())
    content[-1] ^= 1
    content[-9] ^= 1
    two.blob_path.write_bytes(content)
    flip_last_byte(three.manifest_path)
    flip_last_byte(registry.layout.ref_path("one", "v1"))
    audit = audit_all(registry)
    assert not audit.ok
    assert sorted((damage.file, damage.part) for damage in audit.damages) == sorted(
        [
            (str(two.blob_path), "tensor 'a'"),
            (str(two.blob_path), "tensor 'b'"),
            (str(three.manifest_path), "content"),
            (str(registry.layout.ref_path("one", "v1")), "content"),
        ]
    )
    assert all(damage.expected != damage.actual for damage in audit.damages)
    assert audit_refs(registry, [("one", "latest")]).ok
    assert [damage.part for damage in audit_digest(registry, two.digest).damages] == [
        "tensor 'a'",
        "tensor 'b'",
    ]
    assert one.blob_path.exists()


def test_files_without_a_ref_are_checked_too(registry, state, fields):
    entry = registry.publish(state, fields, "r50")
    shutil.rmtree(registry.layout.refs_dir / "r50")
    audit = audit_all(registry)
    assert audit.ok
    assert audit.unused == [str(entry.manifest_path)]
    entry.manifest_path.unlink()
    audit = audit_all(registry)
    assert audit.ok
    assert audit.unused == [str(entry.blob_path)]
    flip_last_byte(entry.blob_path)
    audit = audit_all(registry)
    assert [(damage.file, damage.part) for damage in audit.damages] == [
        (str(entry.blob_path), "tensors digest")
    ]
    assert audit.unused == []


def test_missing_and_foreign_files_are_listed(registry, state, fields, tmp_path):
    entry = registry.publish(state, fields, "r50")
    other = registry.publish({"a": torch.ones(3)}, fields, "other")
    entry.blob_path.unlink()
    other.manifest_path.unlink()
    (registry.layout.manifests_dir / "notes.json").write_text("{}")
    (registry.layout.refs_dir / "stray").write_text("x")
    (registry.layout.refs_dir / "r50" / "a b.json").write_text("x")
    (registry.layout.blobs_dir / "zz").mkdir()
    (registry.layout.blobs_dir / "zz" / "x.safetensors").write_text("x")
    (registry.layout.refs_dir / "link").symlink_to(tmp_path)
    files = {damage.file.removeprefix(str(registry.root) + "/") for damage in audit_all(registry).damages}
    assert files == {
        str(entry.blob_path.relative_to(registry.root)),
        str(other.manifest_path.relative_to(registry.root)),
        "manifests/sha256/notes.json",
        "refs/stray",
        "refs/r50/a b.json",
        "blobs/sha256/zz/x.safetensors",
        "refs/link",
    }


def test_no_registry_and_unknown_names_are_errors(registry, state, fields, tmp_path):
    with pytest.raises(RegistryError, match="no registry"):
        audit_all(registry)
    registry.publish(state, fields, "r50")
    with pytest.raises(RegistryError, match="Near names"):
        audit_refs(registry, [("r51", "latest")])


def test_without_looking_into_folders_the_same_damage_is_found(registry, state, fields):
    """As for a registry behind a URL: only what refs and manifests lead to."""
    registry.publish(state, fields, "one", ["latest", "v1"])
    two = registry.publish({"a": torch.ones(3)}, fields, "two")
    three = registry.publish({"a": torch.ones(4)}, fields, "three")
    unused = registry.publish({"a": torch.ones(5)}, fields, "gone")
    registry.remove("gone")
    reader = RegistryReader(registry.root)
    sound = audit_all(reader)
    assert (sound.damages, sound.unused, sound.files) == (
        [],
        [str(unused.manifest_path)],
        audit_all(registry).files,
    )
    flip_last_byte(two.blob_path)
    flip_last_byte(three.manifest_path)
    flip_last_byte(registry.layout.ref_path("one", "v1"))
    found = {(damage.file, damage.part) for damage in audit_all(reader).damages}
    assert len(found) == 3
    assert found == {(damage.file, damage.part) for damage in audit_all(registry).damages}


def test_pins_are_checked(registry, state, fields):
    entry = registry.publish(state, fields, "r50")
    pin = registry.hold(entry.digest)
    assert str(pin.path) in audit_all(registry).files
    flip_last_byte(pin.path)
    assert [damage.file for damage in audit_all(registry).damages] == [str(pin.path)]


@pytest.mark.parametrize("kind", [Registry, RegistryReader])
def test_a_ref_that_says_something_else_than_its_manifest_is_damage(registry, state, fields, kind):
    registry.publish(state, fields, "r50", ["latest", "v1"])
    path = registry.layout.ref_path("r50", "v1")
    ref = registry.read_ref("r50", "v1")
    better = dataclasses.replace(ref.summary, metrics={"top1": 99.0})
    path.write_bytes(dataclasses.replace(ref, summary=better).to_bytes())  # with a checksum that is right
    for audit in (audit_all(kind(registry.root)), audit_refs(kind(registry.root), [("r50", "v1")])):
        (damage,) = audit.damages
        assert (damage.file, damage.part) == (str(path), "summary")
        assert "99.0" in damage.actual
        assert "76.13" in damage.expected
    assert audit_refs(registry, [("r50", "latest")]).ok

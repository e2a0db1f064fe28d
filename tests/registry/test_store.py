"""Publishing, resolving and loading: exact, verified, and clear about what is wrong."""

import logging
import os
import shutil
import stat

import pytest
import torch

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry.digest import DTYPES, tensors_digest
from sosr_det.registry.layout import MARKER, default_root
from sosr_det.registry.store import Registry


def equal(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and tensors_digest({"a": one[name]}) == tensors_digest({"a": other[name]})
        for name in one
    )


def test_round_trip_by_every_uri(registry, state, fields):
    entry = registry.publish(state, fields, "r50", ["latest", "v1"])
    assert entry.uri == "sosr://r50@latest"
    assert entry.tensors_digest == tensors_digest(state)
    for uri in ("sosr://r50", "sosr://r50@v1", entry.pinned_uri, f"sosr://sha256:{entry.tensors_digest}"):
        found = registry.resolve(uri)
        assert (found.digest, found.manifest, found.blob_path) == (
            entry.digest,
            entry.manifest,
            entry.blob_path,
        )
        assert equal(registry.load(uri), state)
        assert registry.verify(found) is found
    assert equal(registry.load(entry), state)


def test_every_dtype_survives_bit_for_bit(registry, fields):
    generator = torch.Generator().manual_seed(0)
    state = {"flag": torch.tensor([True, False]), "scalar": torch.tensor(-1.5, dtype=torch.bfloat16)}
    for name, (_, width) in DTYPES.items():
        if name != "bool":
            raw = torch.randint(0, 256, (12 * width,), dtype=torch.uint8, generator=generator)
            state[name] = raw.view(getattr(torch, name)).reshape(3, 4)  # NaN and infinite values among them
    registry.publish(state, fields, "all")
    assert equal(registry.load("sosr://all"), state)


def test_loaded_tensors_own_their_memory_and_ignore_the_default_device(registry, state, fields):
    registry.publish(state | {"twin": state["half"], "view": state["conv1.weight"][1]}, fields, "r50")
    with torch.device("meta"):
        loaded = registry.load("sosr://r50")
    assert (
        len({tensor.untyped_storage().data_ptr() for tensor in loaded.values() if tensor.numel()})
        == len(loaded) - 1
    )
    for tensor in loaded.values():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        assert tensor.device.type == "cpu"


def test_tags_move_and_old_entries_stay(registry, state, fields):
    first = registry.publish(state, fields, "r50")
    second = registry.publish(state, fields | {"seed": 4}, "r50")
    assert first.digest != second.digest
    assert first.blob_path == second.blob_path
    assert registry.resolve("sosr://r50").digest == second.digest
    assert registry.resolve(first.pinned_uri).manifest.seed == 3
    assert registry.read_ref("r50").previous == first.digest
    registry.publish(state, fields | {"seed": 4}, "r50")
    assert registry.read_ref("r50").previous == first.digest
    with pytest.raises(RegistryError, match="2 manifests hold") as caught:
        registry.resolve(f"sosr://sha256:{first.tensors_digest}")
    assert first.pinned_uri in str(caught.value)
    assert second.pinned_uri in str(caught.value)


def test_publishing_the_same_again_writes_only_the_ref(registry, state, fields, snapshot):
    entry = registry.publish(state, fields, "r50")
    inode = entry.blob_path.stat().st_ino
    again = registry.publish(dict(reversed(state.items())), fields, "r50", ["other"])
    assert again.digest == entry.digest
    assert entry.blob_path.stat().st_ino == inode
    assert set(snapshot(registry.root)) == {
        MARKER,
        str(entry.blob_path.relative_to(registry.root)),
        str(entry.manifest_path.relative_to(registry.root)),
        "refs/r50/latest.json",
        "refs/r50/other.json",
    }


def test_listing_shows_good_and_damaged_refs(registry, state, fields):
    registry.publish(state, fields, "b", ["v1", "latest"])
    registry.publish(state, fields, "a")
    registry.layout.ref_path("b", "v1").write_text("{}")
    (registry.root / "refs" / ".DS_Store").write_text("x")
    listings = registry.list_refs()
    assert [(item.name, item.tag, item.summary is None) for item in listings] == [
        ("a", "latest", False),
        ("b", "latest", False),
        ("b", "v1", True),
    ]
    assert isinstance(listings[2].error, CorruptEntryError)


def test_unknown_names_tags_and_digests_are_explained(registry, state, fields):
    registry.publish(state, fields, "resnet50-in1k-sosr", ["v1"])
    with pytest.raises(RegistryError, match=r"Near names: resnet50-in1k-sosr\.") as caught:
        registry.resolve("sosr://resnet50-in1k-sors")
    assert str(registry.root) in str(caught.value)
    with pytest.raises(RegistryError, match=r"no tag 'latest' .*its tags are v1"):
        registry.resolve("sosr://resnet50-in1k-sosr")
    with pytest.raises(RegistryError, match="no manifest and no weights"):
        registry.resolve(f"sosr://sha256:{'0' * 64}")


def test_a_root_that_is_no_registry_is_explained(tmp_path, state, fields, monkeypatch):
    monkeypatch.delenv("SOSR_REGISTRY", raising=False)
    with pytest.raises(RegistryError, match=r"no such folder.*--registry.*SOSR_REGISTRY"):
        Registry(tmp_path / "absent").resolve("sosr://a")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RegistryError, match="not a folder"):
        Registry(tmp_path / "file").resolve("sosr://a")
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("x")
    with pytest.raises(RegistryError, match=r"no registry\.json"):
        Registry(full).resolve("sosr://a")
    with pytest.raises(RegistryError, match=r"other files \(thesis\.tex\)"):
        Registry(full).publish(state, fields, "a")
    assert [path.name for path in full.iterdir()] == ["thesis.tex"]
    Registry(tmp_path / "ok").publish(state, fields, "a")
    marker = tmp_path / "ok" / MARKER
    marker.write_bytes(marker.read_bytes().replace(b":1}", b":2}"))
    with pytest.raises(RegistryError, match="Upgrade"):
        Registry(tmp_path / "ok").resolve("sosr://a")
    marker.write_bytes(b"{}")
    with pytest.raises(CorruptEntryError, match=MARKER):
        Registry(tmp_path / "ok").resolve("sosr://a")


def test_the_default_root(monkeypatch, tmp_path):
    monkeypatch.delenv("SOSR_REGISTRY", raising=False)
    monkeypatch.chdir(tmp_path)
    assert Registry().root == tmp_path.resolve() / "registry"
    monkeypatch.setenv("SOSR_REGISTRY", "~/shared")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(default_root()) == "~/shared"
    assert Registry().root == tmp_path.resolve() / "shared"


@pytest.mark.parametrize("name", ["../evil", "a/b", "..", "/tmp/x", "sha256", "", "a\0b"])
def test_traversal_by_name_or_tag_writes_nothing(registry, state, fields, name, tmp_path):
    for arguments in ((name, ["latest"]), ("r50", [name]), ("r50", ["ok", name])):
        with pytest.raises(RegistryError, match="cannot be a registry"):
            registry.publish(state, fields, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tags", [[], "latest"])
def test_tags_must_be_a_list(registry, state, fields, tags):
    with pytest.raises(RegistryError, match="expected a list"):
        registry.publish(state, fields, "r50", tags)


def test_bad_tensors_and_fields_write_nothing(registry, state, fields, tmp_path):
    for tensors, given in (
        ({}, fields),
        ({"a": 1}, fields),
        (state, {}),
        (state, fields | {"metrics": {"a": "b"}}),
    ):
        with pytest.raises(RegistryError):
            registry.publish(tensors, given, "r50")
    assert not list(tmp_path.iterdir())


def test_flipped_bits_in_any_file_stop_loading(registry, state, fields):
    entry = registry.publish(state, fields, "r50")
    header = 8 + int.from_bytes(entry.blob_path.read_bytes()[:8], "little")
    size = entry.blob_path.stat().st_size
    manifest_size = entry.manifest_path.stat().st_size
    cases = [(entry.blob_path, at) for at in (0, 8, header - 1, header, (header + size) // 2, size - 1)]
    cases += [(entry.manifest_path, at) for at in (0, manifest_size // 2, manifest_size - 1)]
    cases += [(registry.layout.ref_path("r50", "latest"), at) for at in (0, 60, 120)]
    for path, at in cases:
        good = path.read_bytes()
        broken = bytearray(good)
        broken[at] ^= 1
        path.write_bytes(broken)
        with pytest.raises(CorruptEntryError, match=r"expected .*, found ") as caught:
            registry.load("sosr://r50")
        assert str(path) in str(caught.value)
        with pytest.raises(CorruptEntryError):
            registry.verify("sosr://r50")
        path.write_bytes(good)
    registry.verify("sosr://r50")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99, 1.01])
def test_truncated_and_grown_files_stop_loading(registry, state, fields, share):
    entry = registry.publish(state, fields, "r50")
    for path in (entry.blob_path, entry.manifest_path, registry.layout.ref_path("r50", "latest")):
        good = path.read_bytes()
        path.write_bytes((good * 2)[: int(len(good) * share)])
        with pytest.raises(CorruptEntryError) as caught:
            registry.load("sosr://r50")
        assert str(path) in str(caught.value)
        path.write_bytes(good)


def test_a_blob_that_changes_after_resolving_is_not_loaded(registry, state, fields):
    entry = registry.publish(state, fields, "r50")
    content = bytearray(entry.blob_path.read_bytes())
    content[-1] ^= 1
    entry.blob_path.write_bytes(content)
    with pytest.raises(CorruptEntryError, match="tensor '") as caught:
        registry.load(entry)
    assert caught.value.damage.file == str(entry.blob_path)


def test_missing_files_are_damage(registry, state, fields):
    entry = registry.publish(state, fields, "r50")
    entry.blob_path.unlink()
    with pytest.raises(CorruptEntryError, match="no such file"):
        registry.resolve("sosr://r50")
    entry.manifest_path.unlink()
    with pytest.raises(CorruptEntryError, match="r50@latest points to"):
        registry.resolve("sosr://r50")


def test_publishing_again_repairs_damaged_files(registry, state, fields, caplog):
    entry = registry.publish(state, fields, "r50")
    for path in (entry.blob_path, entry.manifest_path, registry.layout.ref_path("r50", "latest")):
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="sosr_det.registry"):
            registry.publish(state, fields, "r50")
        assert [str(path) in record.getMessage() for record in caplog.records] == [True]
        assert "replacing a damaged file" in caplog.text
        registry.verify("sosr://r50")


def test_links_inside_the_registry_are_not_followed(registry, state, fields, tmp_path):
    entry = registry.publish(state, fields, "r50")
    elsewhere = tmp_path / "elsewhere"
    layout = registry.layout
    for path in (entry.blob_path, entry.manifest_path, layout.ref_path("r50", "latest"), layout.refs_dir):
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
        for action in (registry.load, registry.verify, registry.resolve):
            with pytest.raises(RegistryError, match="symbolic link"):
                action("sosr://r50")
        with pytest.raises(RegistryError, match="symbolic link"):
            registry.publish(state, fields, "r50")
        path.unlink()
        elsewhere.rename(path)
    registry.verify("sosr://r50")


def test_the_root_itself_may_be_a_link(registry, state, fields, tmp_path):
    registry.publish(state, fields, "r50")
    (tmp_path / "link").symlink_to(registry.root)
    assert equal(Registry(tmp_path / "link").load("sosr://r50"), state)


def test_files_and_folders_follow_the_umask(registry, state, fields):
    old = os.umask(0o002)
    try:
        registry.publish(state, fields, "r50")
    finally:
        os.umask(old)
    for path in registry.root.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o775 if path.is_dir() else 0o664), path


def test_reading_creates_and_locks_nothing(registry, state, fields, monkeypatch):
    entry = registry.publish(state, fields, "r50")
    for folder in (".locks", "tmp"):
        shutil.rmtree(registry.root / folder)

    def refuse(*args, **kwargs):
        raise AssertionError("a reader wrote")

    real_open = os.open

    def open_for_reading(path, flags, *args, **kwargs):
        assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return real_open(path, flags, *args, **kwargs)

    for name in ("write", "mkdir", "replace", "fsync"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(os, "open", open_for_reading)
    assert equal(registry.load("sosr://r50"), state)
    registry.verify(entry)
    assert len(registry.list_refs()) == 1


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_access_is_explained(registry, state, fields):
    registry.publish(state, fields, "r50")
    (registry.root / "tmp").chmod(0o555)
    with pytest.raises(RegistryError, match="ask the owner"):
        registry.publish(state, fields, "other")

"""What holds for every registry, wherever it is: a folder, this process's memory, an S3 endpoint over HTTP."""

import logging

import pytest
import torch

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry.digest import tensors_digest
from sosr_det.registry.layout import MARKER
from sosr_det.registry.opening import open_registry


@pytest.fixture(params=["folder", "memory", "s3"])
def anywhere(request, tmp_path):
    """A registry that does not exist yet."""
    if request.param == "folder":
        return open_registry(f"file://{tmp_path}/registry")
    given = request.getfixturevalue(request.param)
    return open_registry(given if request.param == "memory" else given.root)


def again(registry):
    """Another process's view: nothing remembered, and nothing in the cache."""
    import shutil

    from sosr_det.cache_root import cache_root

    shutil.rmtree(cache_root(), ignore_errors=True)
    return open_registry(str(registry.root))


def test_round_trip_by_every_uri(anywhere, state, fields):
    entry = anywhere.publish(state, fields, "r50", ["latest", "v1"])
    assert entry.uri == "sosr://r50@latest"
    assert entry.tensors_digest == tensors_digest(state)
    for registry in (anywhere, again(anywhere)):
        for uri in ("sosr://r50", "sosr://r50@v1", entry.pinned_uri, f"sosr://sha256:{entry.tensors_digest}"):
            found = registry.resolve(uri)
            assert (found.digest, found.manifest) == (entry.digest, entry.manifest)
            assert tensors_digest(registry.load(uri)) == entry.tensors_digest
            assert registry.verify(found) is found
            assert registry.verify(uri, use_cache=False).digest == entry.digest
            assert registry.check(found) == []
            assert registry.fetch(found) == found.blob_path
            assert found.blob_path.stat().st_size == entry.manifest.size_bytes
    loaded = again(anywhere).load("sosr://r50")
    assert {name: (t.dtype, t.shape) for name, t in loaded.items()} == {
        name: (t.dtype, t.shape) for name, t in state.items()
    }


def test_tags_move_and_old_entries_stay(anywhere, state, fields):
    first = anywhere.publish(state, fields, "r50")
    second = anywhere.publish(state, fields | {"seed": 4}, "r50")
    assert anywhere.resolve("sosr://r50").digest == second.digest != first.digest
    assert again(anywhere).resolve(first.pinned_uri).manifest.seed == 3
    assert anywhere.read_ref("r50").previous == first.digest
    anywhere.publish(state, fields | {"seed": 4}, "r50")
    assert anywhere.read_ref("r50").previous == first.digest
    with pytest.raises(RegistryError, match="2 manifests hold") as caught:
        again(anywhere).resolve(f"sosr://sha256:{first.tensors_digest}")
    assert first.pinned_uri in str(caught.value)
    assert second.pinned_uri in str(caught.value)
    assert anywhere.manifest_digests() == sorted([first.digest, second.digest])


def test_tag_and_remove(anywhere, state, fields):
    entry = anywhere.publish(state, fields, "r50", ["v1"])
    assert anywhere.tag("sosr://r50@v1", ["best", "latest"]).uri == "sosr://r50@best"
    assert anywhere.tag(entry.pinned_uri, ["x"], name="other").uri == "sosr://other@x"
    assert anywhere.tags("r50") == ["best", "latest", "v1"]
    with pytest.raises(RegistryError, match="no name of its own"):
        anywhere.tag(entry.pinned_uri, ["y"])
    assert anywhere.remove("r50", "latest") == [("r50", "latest")]
    with pytest.raises(RegistryError, match=r"no tag 'latest' .*its tags are best, v1"):
        anywhere.resolve("sosr://r50")
    with pytest.raises(RegistryError, match="no tag 'latest'"):
        anywhere.remove("r50", "latest")
    assert anywhere.remove("r50") == [("r50", "best"), ("r50", "v1")]
    assert anywhere.names() == ["other"]
    with pytest.raises(RegistryError, match="Near names: other"):
        anywhere.remove("othr")
    assert tensors_digest(again(anywhere).load("sosr://other@x")) == entry.tensors_digest


def test_add_keeps_the_digest_and_refuses_what_does_not_fit(anywhere, state, fields, tmp_path):
    source = open_registry(tmp_path / "source")
    entry = source.publish(state, fields, "r50")
    content = entry.manifest_path.read_bytes()
    changed = tmp_path / "changed"
    blob = bytearray(entry.blob_path.read_bytes())
    blob[-1] ^= 1
    changed.write_bytes(blob)
    with pytest.raises(CorruptEntryError, match="expected sha256"):
        anywhere.add(content, changed, "r50")
    with pytest.raises(CorruptEntryError):
        anywhere.add(content[:-20], entry.blob_path, "r50")
    assert anywhere.manifest_digests() == []
    assert anywhere.names() == []
    assert anywhere.add(content, entry.blob_path, "copy", ["v1"]).digest == entry.digest
    assert tensors_digest(again(anywhere).load("sosr://copy@v1")) == entry.tensors_digest


def test_listing_reads_refs_and_shows_the_damaged_one(anywhere, state, fields):
    anywhere.publish(state, fields, "b", ["v1", "latest"])
    anywhere.publish(state, fields | {"metrics": {"top1": 50.0}}, "a")
    overwrite(anywhere, "refs/b/v1.json", b"{}")
    overwrite(anywhere, "refs/b/notes.txt", b"x")
    listings = again(anywhere).list_refs()
    assert [(item.name, item.tag, item.summary is None) for item in listings] == [
        ("a", "latest", False),
        ("b", "latest", False),
        ("b", "v1", True),
    ]
    assert listings[0].summary.metrics == {"top1": 50.0}
    assert isinstance(listings[2].error, CorruptEntryError)
    assert anywhere.names() == ["a", "b"]
    assert anywhere.tags("b") == ["latest", "v1"]
    assert anywhere.tags("../b") == anywhere.tags("none") == []


def test_unknown_names_tags_and_digests_are_explained(anywhere, state, fields):
    with pytest.raises(RegistryError, match="there is no registry at"):
        anywhere.resolve("sosr://r50")
    anywhere.publish(state, fields, "resnet50-in1k-sosr", ["v1"])
    with pytest.raises(RegistryError, match=r"Near names: resnet50-in1k-sosr\.") as caught:
        anywhere.resolve("sosr://resnet50-in1k-sors")
    assert str(anywhere.root) in str(caught.value)
    with pytest.raises(RegistryError, match=r"no tag 'latest' .*its tags are v1"):
        anywhere.resolve("sosr://resnet50-in1k-sosr")
    with pytest.raises(RegistryError, match="no manifest and no weights"):
        anywhere.resolve(f"sosr://sha256:{'0' * 64}")


@pytest.mark.parametrize("name", ["../evil", "a/b", "sha256", "", "a\0b"])
def test_traversal_by_name_or_tag_writes_nothing(anywhere, state, fields, name):
    for arguments in ((name, ["latest"]), ("r50", [name]), ("r50", ["ok", name])):
        with pytest.raises(RegistryError, match="cannot be a registry"):
            anywhere.publish(state, fields, *arguments)
    with pytest.raises(RegistryError, match="expected a list"):
        anywhere.publish(state, fields, "r50", "latest")
    with pytest.raises(RegistryError, match="there is no registry"):
        anywhere.names()


def test_bad_tensors_and_fields_write_nothing(anywhere, state, fields):
    for tensors, given in (({}, fields), ({"a": 1}, fields), (state, {}), (state, fields | {"seed": "x"})):
        with pytest.raises(RegistryError):
            anywhere.publish(tensors, given, "r50")
    with pytest.raises(RegistryError, match="there is no registry"):
        anywhere.names()


HARMS = ["first bit", "middle bit", "last bit", "0 %", "1 %", "50 %", "99 %", "grown", "gone"]


def harmed(good, how):
    if how == "gone":
        return None
    if how == "grown":
        return good + b"\0"
    if how.endswith("%"):
        return good[: int(len(good) * int(how.split()[0]) / 100)]
    broken = bytearray(good)
    broken[{"first bit": 0, "middle bit": len(good) // 2, "last bit": -1}[how]] ^= 1
    return bytes(broken)


@pytest.mark.parametrize("part", ["ref", "manifest", "blob"])
def test_damage_anywhere_is_found_and_repaired_by_publishing_again(anywhere, state, fields, part, caplog):
    entry = anywhere.publish(state, fields, "r50")
    key = {
        "ref": "refs/r50/latest.json",
        "manifest": f"manifests/sha256/{entry.digest}.json",
        "blob": f"blobs/sha256/{entry.tensors_digest[:2]}/{entry.tensors_digest}.safetensors",
    }[part]
    for how in HARMS:
        good = contents(anywhere)[key]
        overwrite(anywhere, key, harmed(good, how))
        for use in ("load", "verify") if how == "last bit" else ("load",):
            registry = again(anywhere)
            with pytest.raises(RegistryError) as caught:
                getattr(registry, use)("sosr://r50")
            if (part, how) == ("ref", "gone"):
                assert "there is no 'r50'" in str(caught.value)
                continue
            assert isinstance(caught.value, CorruptEntryError), how
            damage = caught.value.damage
            assert damage.file == f"{anywhere.root}/{key}"
            assert damage.expected != damage.actual
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="sosr_det.registry"):
            again(anywhere).publish(state, fields, "r50")
        replaced = [record.getMessage() for record in caplog.records]
        assert all(key in text and "replacing a damaged" in text for text in replaced), replaced
        assert len(replaced) == (how != "gone"), how
        assert contents(anywhere)[key] == good or part == "ref"
        assert tensors_digest(again(anywhere).load("sosr://r50")) == entry.tensors_digest


def test_identical_tensors_are_stored_once(anywhere, state, fields):
    anywhere.publish(state, fields, "a")
    anywhere.publish(dict(reversed(state.items())), fields | {"seed": 9}, "b")
    keys = contents(anywhere)
    assert sum(key.startswith("blobs/") for key in keys) == 1
    assert sum(key.startswith("manifests/") for key in keys) == 2
    assert MARKER in keys


def contents(registry):
    """Everything that lies in the registry, by key; without locks."""
    if not hasattr(registry, "objects"):
        files = [p for p in registry.root.rglob("*") if p.is_file() and ".locks" not in p.parts]
        return {p.relative_to(registry.root).as_posix(): p.read_bytes() for p in files}
    return {key: registry.objects.read(key, 1 << 24).data for key in registry.objects.list("")}


def overwrite(registry, key, content):
    """Change an object behind the registry's back; None removes it."""
    if not hasattr(registry, "objects"):
        path = registry.root / key
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
    elif content is None:
        registry.objects.delete(key)
    else:
        registry.objects.put(key, content)


def test_a_prefix_with_other_things_is_not_taken(memory, state, fields):
    registry = open_registry(memory)
    registry.objects.put("thesis.tex", b"x")
    with pytest.raises(RegistryError, match=r"other things \(thesis\.tex\)"):
        registry.publish(state, fields, "a")
    assert list(registry.objects.list("")) == ["thesis.tex"]
    below = open_registry(f"{memory}/sub")
    below.publish({"a": torch.zeros(1)}, fields, "a")
    below.objects.put(MARKER, b'{"format":"sosr-det registry","layout_version":2}\n')
    with pytest.raises(RegistryError, match="Upgrade"):
        open_registry(f"{memory}/sub").resolve("sosr://a")
    below.objects.put(MARKER, b"{}")
    with pytest.raises(CorruptEntryError, match=MARKER):
        open_registry(f"{memory}/sub").resolve("sosr://a")

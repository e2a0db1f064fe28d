"""A registry in a store that others can write: what comes from there is checked before it is kept on this machine."""

from __future__ import annotations

import contextlib
import json

import fsspec
import pytest
import torch

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry import Registry
from sosr_det.registry.audit import audit_all
from sosr_det.registry.digest import sha256_hex
from sosr_det.registry.opening import open_registry
from sosr_det.registry.refs import Ref

BIG = 32 << 20  # bytes


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An in-memory store with one entry, a function that reads its objects' full names, and the local copy's folder."""
    monkeypatch.setenv("SOSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SOSR_OFFLINE", raising=False)
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


@pytest.fixture
def entry(store, manifest_fields):
    registry = open_registry("memory://reg")
    return registry.publish(
        {"a": torch.arange(4.0), "b": torch.ones(2)}, manifest_fields, "net", ["latest", "v1"]
    )


def key_of(store, part):
    (key,) = [key for key in store.store if part in key]
    return key


def put(store, key, content):
    with store.open(key, "wb") as file:
        file.write(content)


def forget(tmp_path):
    """A machine that has not seen the store yet."""
    import shutil

    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    return open_registry("memory://reg")


def test_objects_whose_names_lead_elsewhere_are_not_followed(store, entry, tmp_path):
    good = store.cat(key_of(store, "/refs/net/latest.json"))
    (tmp_path / "here").mkdir()
    for name in (
        "../../../../evil/x",
        "../evil/x",
        "a\\..\\b/x",
        "a\0b/x",
        "\x1b[2J/x",
        "net/../../evil",
        "con/x",
    ):
        put(store, f"/reg/refs/{name}.json", good)
        put(store, f"/reg/manifests/sha256/{name}.json", b"{}")
        put(store, f"/reg/blobs/sha256/{name}.safetensors", b"x")
    registry = forget(tmp_path)
    assert registry.names() == ["net"]
    assert [listing.name for listing in registry.list_refs() if listing.error is None] == ["net", "net"]
    assert registry.load("sosr://net")["b"].tolist() == [1, 1]
    with contextlib.suppress(RegistryError):
        audit_all(registry)
    with contextlib.suppress(RegistryError):
        registry.collect(0, dry_run=True)
    outside = [path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "cache")]
    assert [path.name for path in outside] == ["here"]
    names = {path.name for path in tmp_path.rglob("*")}
    assert not names & {"evil", "x.json", "evil.json", "x.safetensors"}


@pytest.mark.parametrize("kind", ["ref", "manifest", "blob", "marker"])
@pytest.mark.parametrize("change", ["flip", "truncate", "empty", "grow", "other"])
def test_changed_objects_are_neither_used_nor_kept(store, entry, tmp_path, kind, change):
    part = {
        "ref": "/refs/net/latest",
        "manifest": "/manifests/",
        "blob": "/blobs/",
        "marker": "/registry.json",
    }[kind]
    key = key_of(store, part)
    content = bytearray(store.cat(key))
    if change == "flip":
        content[-2] ^= 1
    elif change == "truncate":
        del content[len(content) // 2 :]
    elif change == "empty":
        content.clear()
    elif change == "grow":
        content += b"x" * (1 << 20)
    else:
        content = bytearray(b"[" * len(content))
    put(store, key, bytes(content))
    registry = forget(tmp_path)
    with pytest.raises(RegistryError):
        registry.load("sosr://net")
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not any(path.suffix == ".safetensors" for path in kept)
    assert not any(path.read_bytes() == bytes(content) for path in kept)


def test_documents_of_any_size_cost_little(store, entry, tmp_path):
    import tracemalloc

    for part in ("/refs/net/latest", "/registry.json"):
        key = key_of(store, part)
        good = store.cat(key)
        put(store, key, good + b" " * (128 << 20))
        registry = forget(tmp_path)
        tracemalloc.start()
        with pytest.raises(RegistryError):
            registry.load("sosr://net")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < BIG
        put(store, key, good)


def test_a_store_cannot_point_a_pinned_digest_elsewhere(store, entry, manifest_fields, tmp_path):
    registry = open_registry("memory://reg")
    other = registry.publish({"a": torch.zeros(4), "b": torch.ones(2)}, manifest_fields, "other")
    manifests = {sha256_hex(store.cat(key)): key for key in store.store if "/manifests/" in key}
    put(store, manifests[entry.digest], store.cat(manifests[other.digest]))
    with pytest.raises(CorruptEntryError, match="sha256"):
        forget(tmp_path).load(entry.pinned_uri)
    # A name is what its writers say: that is why runs pin digests.
    ref = Ref("net", "latest", other.digest, "2026-11-22T17:05:00Z")
    put(store, key_of(store, "/refs/net/latest"), ref.to_bytes())
    assert forget(tmp_path).resolve("sosr://net").digest == other.digest


def test_pulling_from_a_hostile_store_leaves_nothing_in_the_own_registry(store, entry, tmp_path):
    from sosr_det.registry.copying import Copier

    key = key_of(store, "/blobs/")
    content = bytearray(store.cat(key))
    content[-1] ^= 1
    put(store, key, bytes(content))
    target = Registry(tmp_path / "own")
    with pytest.raises(RegistryError):
        Copier(forget(tmp_path), target).copy("sosr://net")
    files = [path for path in (tmp_path / "own").rglob("*") if path.is_file()]
    assert not any(path.suffix == ".safetensors" or "refs" in path.parts for path in files)
    assert all(json.loads(path.read_text()) for path in files if path.name == "registry.json")

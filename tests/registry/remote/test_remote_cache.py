"""The local copy of a remote registry: verified each time, shared by processes, and all there is while offline."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from sosr_det.cache_root import cache_root
from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry.audit import audit_all, audit_refs
from sosr_det.registry.digest import tensors_digest
from sosr_det.registry.files import TEMPORARY
from sosr_det.registry.offline import is_offline
from sosr_det.registry.opening import open_registry


def blob_requests(endpoint):
    return [request for request in endpoint.requests if request.startswith("GET") and "/blobs/" in request]


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("SOSR_CACHE", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / "mine"
    monkeypatch.delenv("SOSR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "sosr-det"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_root() == tmp_path / ".cache" / "sosr-det"


def test_what_was_loaded_once_is_not_downloaded_again(s3, state, fields, fresh_cache):
    entry = open_registry(s3.root).publish(state, fields, "r50")
    fresh_cache()
    open_registry(s3.root).load("sosr://r50")
    assert len(blob_requests(s3)) == 1
    s3.requests.clear()
    registry = open_registry(s3.root)
    registry.load("sosr://r50")
    assert not blob_requests(s3)
    assert any("refs/r50/latest.json" in request for request in s3.requests)  # a tag is asked for each time
    s3.requests.clear()
    assert tensors_digest(registry.load(entry.pinned_uri)) == entry.tensors_digest
    assert not s3.requests  # a digest needs no network


@pytest.mark.parametrize("part", ["blob_path", "manifest_path"])
def test_a_damaged_copy_is_replaced_by_the_original(s3, state, fields, part, caplog):
    entry = open_registry(s3.root).publish(state, fields, "r50")
    path = getattr(entry, part)
    for use in ("load", "verify", "fetch"):
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)
        caplog.clear()
        registry = open_registry(s3.root)
        found = registry.resolve("sosr://r50")
        with caplog.at_level(logging.WARNING, logger="sosr_det.registry"):
            getattr(registry, use)(found)
        assert ("again" in caplog.text and str(path) in caplog.text) or part == "manifest_path"
        content[-2] ^= 1
        assert path.read_bytes() == bytes(content)


def test_offline_uses_the_cache_alone(s3, state, fields, monkeypatch, caplog, forget):
    registry = open_registry(s3.root)
    first = registry.publish(state, fields, "r50", ["latest", "v1"])
    second = registry.publish(state | {"x": state["half"]}, fields, "other")
    os.unlink(second.blob_path)
    forget()
    s3.requests.clear()
    monkeypatch.setenv("SOSR_OFFLINE", "1")
    import fsspec.core
    import s3fs

    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    monkeypatch.setattr(s3fs.S3FileSystem, "__init__", refuse)
    offline = open_registry(s3.root)
    with caplog.at_level(logging.WARNING, logger="sosr_det.registry"):
        assert offline.resolve("sosr://r50").digest == first.digest
    seen = time.strftime("%Y-%m-%dT%H:", time.gmtime())
    assert f"r50@latest is taken as it was seen at {seen}" in caplog.text
    for uri in ("sosr://r50@v1", first.pinned_uri, f"sosr://sha256:{first.tensors_digest}"):
        assert tensors_digest(offline.load(uri)) == first.tensors_digest
    assert offline.fetch(offline.resolve("sosr://r50")) == first.blob_path
    assert offline.verify("sosr://r50").digest == first.digest
    audit = audit_refs(offline, [("r50", "latest")])
    assert audit.ok
    assert {str(first.blob_path), str(first.manifest_path)} < audit.files
    with pytest.raises(RegistryError, match=r"the blob \w+ of .* is not in the cache"):
        audit_all(offline)
    assert [(ref.name, ref.tag) for ref in offline.list_refs()] == [
        ("other", "latest"),
        ("r50", "latest"),
        ("r50", "v1"),
    ]
    assert offline.names() == ["other", "r50"]
    assert offline.manifest_digests() == sorted([first.digest, second.digest])
    with pytest.raises(
        RegistryError, match=r"weights of \S+ of s3://\S+ is not in the cache, and \$SOSR_OFFLINE"
    ):
        offline.load("sosr://other")
    with pytest.raises(RegistryError, match=r"never@latest of .* is not in the cache"):
        offline.resolve("sosr://never")
    with pytest.raises(RegistryError, match="is not in the cache"):
        offline.resolve(f"sosr://sha256:{'0' * 64}")
    with pytest.raises(RegistryError, match=r"anything of .* is not in the cache"):
        open_registry("s3://other/place").resolve("sosr://r50")
    for change in (
        lambda: offline.publish(state, fields, "x"),
        lambda: offline.tag("sosr://r50", ["y"]),
        lambda: offline.remove("r50"),
        lambda: offline.collect(0, dry_run=True),
        lambda: offline.verify("sosr://r50", use_cache=False),
    ):
        with pytest.raises(RegistryError, match=r"\$SOSR_OFFLINE forbids the network"):
            change()
    with offline.hold(first.digest) as pin:
        assert pin.key is None
    content = bytearray(first.blob_path.read_bytes())
    content[-1] ^= 1
    first.blob_path.write_bytes(content)
    with pytest.raises(CorruptEntryError):
        offline.load("sosr://r50")
    assert not s3.requests


@pytest.mark.parametrize(
    ("value", "offline"), [("1", True), ("TRUE", True), ("0", False), ("", False), ("no", False)]
)
def test_the_flag(monkeypatch, value, offline):
    monkeypatch.setenv("SOSR_OFFLINE", value)
    assert is_offline() is offline
    monkeypatch.setenv("SOSR_OFFLINE", "maybe")
    with pytest.raises(RegistryError, match="'maybe'; expected 1"):
        is_offline()


def test_a_tag_that_was_removed_or_moved_is_not_remembered_as_it_was(
    s3, state, fields, monkeypatch, tmp_path
):
    ours = open_registry(s3.root)
    with monkeypatch.context() as patch:
        patch.setenv("SOSR_CACHE", str(tmp_path / "another machine's"))
        theirs = open_registry(s3.root)
    first = ours.publish(state, fields, "r50", ["latest", "v1"])
    theirs.publish(state, fields | {"seed": 9}, "r50", ["latest"])
    theirs.remove("r50", "v1")
    assert ours.resolve("sosr://r50").digest != first.digest
    with pytest.raises(RegistryError, match="no tag 'v1'"):
        ours.resolve("sosr://r50@v1")
    monkeypatch.setenv("SOSR_OFFLINE", "1")
    with pytest.raises(RegistryError, match=r"v1 of .* is not in the cache"):
        ours.resolve("sosr://r50@v1")


READER = """
import sys, time
from sosr_det.registry.opening import open_registry

registry = open_registry(sys.argv[1])
entry = registry.resolve("sosr://r50")
print("ready", flush=True)
sys.stdin.readline()
print(registry.fetch(entry))
assert "torch" not in sys.modules
"""


def start_readers(root, count):
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for reader in readers:
        assert reader.stdout.readline() == "ready\n", reader.stderr.read()
    return readers


def test_several_processes_download_a_blob_once(s3, state, fields, fresh_cache):
    entry = open_registry(s3.root).publish(state, fields, "r50")
    fresh_cache()
    readers = start_readers(s3.root, 3)
    s3.requests.clear()
    s3.bodies.append(lambda request, body: (time.sleep(0.5 if "/blobs/" in request else 0), body)[1])
    for reader in readers:
        reader.stdin.write("go\n")
        reader.stdin.flush()
    for reader in readers:
        out, err = reader.communicate(timeout=60)
        assert reader.returncode == 0, err
        assert out.strip() == str(entry.blob_path)
    assert len(blob_requests(s3)) == 1


def test_a_download_that_is_killed_leaves_temporary_files_at_most(s3, state, fields, fresh_cache):
    entry = open_registry(s3.root).publish(state, fields, "r50")
    cache = fresh_cache()
    (reader,) = start_readers(s3.root, 1)
    s3.requests.clear()
    s3.bodies.append(lambda request, body: (time.sleep(3 if "/blobs/" in request else 0), body)[1])
    reader.stdin.write("go\n")
    reader.stdin.flush()
    until = time.monotonic() + 30
    while not blob_requests(s3) and time.monotonic() < until:
        time.sleep(0.02)
    reader.send_signal(signal.SIGKILL)
    reader.communicate(timeout=30)
    s3.bodies.clear()
    assert not entry.blob_path.exists()
    left = [path for path in cache.rglob("*.part") if path.is_file()]
    assert left
    assert all(path.parent.name == "tmp" and path.name.endswith(TEMPORARY) for path in left)
    for path in left:
        os.utime(path, (0, 0))  # long ago
    (lock,) = cache.rglob(f"{entry.tensors_digest}.lease")
    lock.unlink()  # as if its lease had run out
    registry = open_registry(s3.root)
    assert registry.fetch(registry.resolve("sosr://r50")) == entry.blob_path
    assert not [path for path in left if path.exists()]


def test_large_blobs_go_in_parts_and_come_in_parallel(s3, state, fields, fresh_cache, monkeypatch):
    import torch

    from sosr_det.registry.remote import objects

    monkeypatch.setattr(objects, "_PART", 5 << 20)  # S3's least
    generator = torch.Generator().manual_seed(1)
    big = {
        "w": torch.randint(0, 256, (23 << 20,), dtype=torch.uint8, generator=generator),
        "b": torch.zeros(3),
    }
    moved = []
    registry = open_registry(s3.root)
    registry.progress = moved.append
    entry = registry.publish(big, fields, "big")
    parts = [request for request in s3.requests if request.startswith("PUT") and "/blobs/" in request]
    assert len(parts) == 5
    assert sum(moved) == entry.manifest.size_bytes
    fresh_cache()
    moved.clear()
    assert tensors_digest(registry.load("sosr://big")) == entry.tensors_digest
    assert len(blob_requests(s3)) == 5
    assert sum(moved) == entry.manifest.size_bytes


def test_a_tag_that_a_list_did_not_show_is_not_listed_offline(
    remote, state, fields, fresh_cache, monkeypatch
):
    """Somebody on another machine removed it: the last that was seen of it is that it is gone."""
    remote.publish(state, fields, "r50", ["latest", "v1"])
    remote.publish(state, fields, "gone")
    assert len(open_registry(remote.root).list_refs()) == 3
    for key in ("refs/r50/v1.json", "refs/gone/latest.json"):
        remote.objects.delete(key)
    online = [(ref.name, ref.tag) for ref in open_registry(remote.root).list_refs()]
    monkeypatch.setenv("SOSR_OFFLINE", "1")
    assert (
        [(ref.name, ref.tag) for ref in open_registry(remote.root).list_refs()]
        == online
        == [("r50", "latest")]
    )

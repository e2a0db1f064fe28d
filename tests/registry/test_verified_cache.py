"""The memory of verified blobs: it saves reading what did not change, and nothing else."""

import json
import os
import shutil
import time

import pytest

from sosr_det.errors import CorruptEntryError
from sosr_det.registry import reading, verified_cache
from sosr_det.registry.audit import audit_all, audit_digest, audit_refs
from sosr_det.registry.store import Registry


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SOSR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch):
    """Which blobs were read whole."""
    seen = []
    real = reading.check_blob

    def check_blob(path, *rest):
        seen.append(path)
        return real(path, *rest)

    monkeypatch.setattr(reading, "check_blob", check_blob)
    return seen


@pytest.fixture
def entry(registry, state, fields, cache, monkeypatch):
    """An entry whose blob is old enough to be remembered: the tests do not wait for two seconds."""
    entry = registry.publish(state, fields, "r50")
    later(monkeypatch, 10)
    return entry


def later(monkeypatch, seconds):
    real = time.time
    monkeypatch.setattr(reading.time, "time", lambda: real() + seconds)


def files(cache):
    return [path for path in cache.rglob("*") if path.is_file()]


def test_an_unchanged_blob_is_read_once(registry, entry, cache, reads):
    for _ in range(3):
        assert registry.verify("sosr://r50").digest == entry.digest
        registry.verify(entry)
        assert registry.fetch(entry) == entry.blob_path
    assert reads == [entry.blob_path]
    (file,) = files(cache)
    assert file.stat().st_mode & 0o777 == 0o600
    record = json.loads(file.read_text())
    assert (record["path"], record["digest"]) == (str(entry.blob_path), entry.tensors_digest)
    assert record["checked"] == registry.checked_at(entry.manifest)
    registry.verify(entry, use_cache=False)
    assert len(reads) == 2


def test_loading_and_checking_everything_never_asks(registry, entry, reads):
    registry.verify(entry)
    del reads[:]
    registry.load(entry)
    registry.check(entry)
    audit_all(registry)
    audit_refs(registry, [("r50", "latest")])
    assert reads == [entry.blob_path] * 4


def test_audits_use_it_on_request_and_say_so(registry, entry, reads):
    assert audit_refs(registry, [("r50", "latest")], use_cache=True).unchanged == {}
    checked = registry.checked_at(entry.manifest)
    for audit in (
        audit_refs(registry, [("r50", "latest")], use_cache=True),
        audit_digest(registry, entry.digest, use_cache=True),
    ):
        assert audit.ok
        assert audit.unchanged == {str(entry.blob_path): checked}
    assert len(reads) == 1


def test_any_change_of_the_file_is_noticed(registry, entry, cache, reads, monkeypatch):
    registry.verify(entry)
    content = entry.blob_path.read_bytes()
    status = entry.blob_path.stat()
    changes = [
        lambda: os.utime(entry.blob_path),
        lambda: entry.blob_path.chmod(0o600),
        lambda: (entry.blob_path.unlink(), entry.blob_path.write_bytes(content)),
    ]
    for number, change in enumerate(changes, start=2):
        later(monkeypatch, 10 * number)
        change()
        registry.verify(entry)
        assert len(reads) == number
        registry.verify(entry)
        assert len(reads) == number
    # Damage of the same size and with the old times, as an attacker or a bad copy would make it.
    broken = bytearray(content)
    broken[-1] ^= 1
    entry.blob_path.write_bytes(broken)
    os.utime(entry.blob_path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(CorruptEntryError):
        registry.verify(entry)
    assert files(cache) == []
    with pytest.raises(CorruptEntryError):
        registry.verify(entry)


def test_a_file_that_was_just_written_is_not_remembered(registry, state, fields, cache, reads, monkeypatch):
    entry = registry.publish(state, fields, "r50")
    for seconds, count in ((0, 1), (1.0, 2), (3.0, 3), (3.0, 3)):
        later_patch = pytest.MonkeyPatch()
        later(later_patch, seconds)
        registry.verify(entry)
        later_patch.undo()
        assert len(reads) == count
    assert verified_cache.RACY_SECONDS == 2.0


def test_a_file_that_changes_while_it_is_read_is_not_remembered(registry, entry, cache, monkeypatch):
    real = reading.check_blob

    def check_blob(path, *rest):
        result = real(path, *rest)
        os.utime(path, (1, 1))
        return result

    monkeypatch.setattr(reading, "check_blob", check_blob)
    registry.verify(entry)
    assert files(cache) == []


def test_a_damaged_memory_is_ignored(registry, entry, cache, reads):
    registry.verify(entry)
    (file,) = files(cache)
    content = file.read_bytes()
    broken = [content[: int(len(content) * share)] for share in (0, 0.01, 0.5, 0.99)] + [b"null", b"[" * 9999]
    for bit in range(0, len(content) * 8, 5):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        broken.append(bytes(flipped))
    for wrong in broken:
        file.write_bytes(wrong)
        assert registry.checked_at(entry.manifest) is None, wrong
    registry.verify(entry)
    assert len(reads) == 2
    assert file.read_bytes() != wrong
    assert registry.checked_at(entry.manifest)


def test_what_others_may_have_written_is_ignored(registry, entry, cache, tmp_path):
    registry.verify(entry)
    (file,) = files(cache)
    assert registry.checked_at(entry.manifest)
    file.chmod(0o666)
    assert registry.checked_at(entry.manifest) is None
    file.chmod(0o600)
    assert registry.checked_at(entry.manifest)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert registry.checked_at(entry.manifest) is None


def test_another_users_file_is_ignored(registry, entry, cache, monkeypatch):
    registry.verify(entry)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert registry.checked_at(entry.manifest) is None


def test_a_registry_does_not_vouch_for_itself(registry, state, fields, reads, monkeypatch):
    monkeypatch.setenv("SOSR_CACHE", str(registry.root / "cache"))
    entry = registry.publish(state, fields, "r50")
    later(monkeypatch, 10)
    registry.verify(entry)
    registry.verify(entry)
    assert len(reads) == 2
    assert not (registry.root / "cache").exists()


def test_another_copy_of_the_registry_is_read_itself(registry, entry, reads, tmp_path):
    registry.verify(entry)
    shutil.copytree(registry.root, tmp_path / "copy", copy_function=shutil.copy2)
    Registry(tmp_path / "copy").verify("sosr://r50")
    assert len(reads) == 2


def test_a_cache_that_cannot_be_written_does_no_harm(registry, state, fields, tmp_path, reads, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SOSR_CACHE", str(tmp_path / "file"))
    entry = registry.publish(state, fields, "r50")
    later(monkeypatch, 10)
    registry.verify(entry)
    registry.verify(entry)
    assert len(reads) == 2


def test_a_cached_check_takes_no_time(registry, entry):
    """What was remembered is looked up, without parsing the manifest again, in well under 5 ms."""
    registry.verify(entry)
    times = []
    for _ in range(20):
        start = time.process_time()
        assert registry.checked_at(entry.manifest)
        times.append(time.process_time() - start)
    assert min(times) < 0.002

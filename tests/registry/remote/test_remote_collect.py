"""Collection in a store: what is needed stays, what came meanwhile too, and the rest goes when it is old."""

import logging

import pytest
import torch

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry.audit import audit_all, audit_refs
from sosr_det.registry.opening import open_registry
from sosr_det.registry.remote import collect as module
from sosr_det.registry.remote.objects import Info

CLOCK = ".locks/clock-"


def keys(registry):
    return set(registry.objects.list(""))


def entry_keys(entry):
    digest = entry.tensors_digest
    return {f"manifests/sha256/{entry.digest}.json", f"blobs/sha256/{digest[:2]}/{digest}.safetensors"}


def age(registry, monkeypatch, seconds):
    """Make all objects but the store's clock look as if they had been written ``seconds`` earlier."""
    real = type(registry.objects)

    def older(key, info):
        return info if CLOCK in key or info.modified is None else Info(info.size, info.modified - seconds)

    list_, info_ = real.list, real.info
    monkeypatch.setattr(
        real, "list", lambda self, prefix: {key: older(key, i) for key, i in list_(self, prefix).items()}
    )
    monkeypatch.setattr(real, "info", lambda self, key: older(key, info_(self, key)))


def tensors(number):
    return {"w": torch.tensor([number])}


def test_old_and_unused_goes_and_all_else_stays(remote, fields, monkeypatch):
    parent = remote.publish(tensors(1), fields, "parent")
    child_fields = fields | {
        "parents": [{"uri": "sosr://parent", "digest": parent.digest, "relation": "finetuned-from"}]
    }
    child = remote.publish(tensors(2), child_fields, "child")
    gone = remote.publish(tensors(3), fields, "gone")
    twin = remote.publish(tensors(3), fields | {"seed": 77}, "twin")  # the same weights
    held = remote.publish(tensors(4), fields, "held")
    lone = remote.publish(tensors(5), fields, "lone")
    for name in ("parent", "gone", "held", "lone"):
        remote.remove(name)
    pin = remote.hold(held.digest, "a run")
    young = remote.collect(3600, dry_run=False)
    assert young.garbage == []
    assert {item.kind for item in young.waiting} == {"manifest"}  # their blobs are theirs
    before = keys(remote)
    age(remote, monkeypatch, 7200)
    found = remote.collect(3600)
    assert keys(remote) == before
    gone_keys = {f"manifests/sha256/{gone.digest}.json"} | entry_keys(lone)
    expected = {remote.location(key) for key in gone_keys}
    assert {str(item.path) for item in found.garbage} == expected
    assert found.dry_run
    assert found.num_kept == 4
    assert [(found_pin.digest, found_pin.record.note) for found_pin in found.held] == [(held.digest, "a run")]
    assert found.size_bytes == sum(item.size_bytes for item in found.garbage) > 0
    done = remote.collect(3600, dry_run=False)
    assert not done.dry_run
    assert {str(item.path) for item in done.garbage} == expected
    assert keys(remote) == before - gone_keys
    for entry in (child, parent, twin, held):
        assert not remote.check(entry)
    pin.release()
    assert not [key for key in keys(remote) if key.startswith("pins/")]
    remote.collect(3600, dry_run=False)
    assert not entry_keys(held) & keys(remote)


def test_nothing_goes_when_a_ref_or_a_kept_manifest_cannot_be_read(remote, fields, fresh_cache):
    entry = remote.publish(tensors(1), fields, "a")
    remote.publish(tensors(2), fields, "b")
    remote.remove("b")
    before = keys(remote)
    good = remote.objects.read("refs/a/latest.json", 1 << 16).data
    remote.objects.put("refs/a/latest.json", good.replace(b"a", b"b"))
    with pytest.raises(RegistryError, match="nothing was removed: the tag a@latest"):
        remote.collect(0, dry_run=False)
    remote.objects.put("refs/a/latest.json", good)
    child = fields | {"parents": [{"uri": "x", "digest": entry.digest, "relation": "finetuned-from"}]}
    remote.publish(tensors(3), child, "c")
    remote.remove("a")
    remote.objects.put(f"manifests/sha256/{entry.digest}.json", b"{}")
    fresh_cache()
    with pytest.raises(RegistryError, match="nothing was removed: the manifest"):
        remote.collect(0, dry_run=False)
    assert before - keys(remote) == {"refs/a/latest.json"}
    for grace in (-1, float("nan"), float("inf")):
        with pytest.raises(RegistryError, match="grace period"):
            remote.collect(grace)


def test_what_is_published_while_a_collection_runs_survives(remote, fields, monkeypatch):
    """Between the look at the store and the removal: a tag, a pin, and a new manifest for old weights."""
    entries = [remote.publish(tensors(n), fields, f"n{n}") for n in range(5)]
    for n in range(5):
        remote.remove(f"n{n}")
    other = open_registry(remote.url.text)
    real = module._Plan.sweep

    def sweep(plan, garbage):
        assert len(garbage) == 10
        other.publish(tensors(0), fields, "n0")  # the same manifest again
        other.publish(tensors(1), fields | {"seed": 1234}, "again")  # another manifest of the same weights
        other.hold(entries[2].digest)
        other.tag(entries[4].pinned_uri, ["v1"], name="n4")
        return real(plan, garbage)

    monkeypatch.setattr(module._Plan, "sweep", sweep)
    # The clocks of these stores have whole seconds: let what is written now differ from what was.
    age(remote, monkeypatch, 7200)
    rewritten = set()
    put = type(remote.objects).put

    def noting(self, key, data, **kwargs):
        rewritten.update({key} if CLOCK not in key else ())
        return put(self, key, data, **kwargs)

    monkeypatch.setattr(type(remote.objects), "put", noting)
    info = type(remote.objects).info
    monkeypatch.setattr(
        type(remote.objects),
        "info",
        lambda self, key: Info(info(self, key).size, 4e9 if key in rewritten else info(self, key).modified),
    )
    done = remote.collect(3600, dry_run=False)
    gone = {str(item.path).rpartition("/")[2] for item in done.garbage}
    assert f"{entries[3].digest}.json" in gone
    assert f"{entries[3].tensors_digest}.safetensors" in gone
    assert f"{entries[1].digest}.json" in gone
    assert len(gone) == 3
    for uri in ("sosr://n0", "sosr://again", entries[2].pinned_uri, "sosr://n4@v1"):
        assert not other.check(other.resolve(uri))


def test_two_collections_at_once(remote, fields, fresh_cache, monkeypatch):
    """What the other one took first is no trouble, also where this machine has never read it."""
    for n in range(3):
        remote.publish(tensors(n), fields, f"n{n}")
        remote.remove(f"n{n}")
    kept = remote.publish(tensors(9), fields, "kept")
    fresh_cache()
    age(remote, monkeypatch, 7200)
    real, ran = module.find_remote_pins, []

    def first_the_other(*arguments):
        if not ran:
            ran.append(True)
            assert len(open_registry(remote.url.text).collect(3600, dry_run=False).garbage) == 6
            fresh_cache()
        return real(*arguments)

    monkeypatch.setattr(module, "find_remote_pins", first_the_other)
    assert open_registry(remote.url.text).collect(3600, dry_run=False).garbage == []
    assert entry_keys(kept) <= keys(remote)
    assert not {key for key in keys(remote) - entry_keys(kept) if key.startswith(("blobs", "manifests"))}


def test_tagging_what_was_collected_moves_no_tag(remote, fields):
    """The cache still has it, the store does not: nobody may meet a tag that leads nowhere, not for a moment."""
    gone, kept = remote.publish(tensors(1), fields, "gone"), remote.publish(tensors(2), fields, "kept")
    for key in entry_keys(gone):
        remote.objects.delete(key)
    moved = []
    update = remote.updates.update
    remote.updates.update = lambda key, change: moved.append(key) or update(key, change)
    with pytest.raises(CorruptEntryError, match="no such object"):
        remote.tag(gone.pinned_uri, ["latest"], name="kept")
    assert not moved
    assert remote.read_ref("kept").digest == kept.digest


def test_a_manifest_is_renewed_before_its_last_tag_goes(remote, fields):
    """Else a collection between the two would find it old and without a tag, and not wait for the grace period."""
    entry = remote.publish(tensors(1), fields, "a")
    steps = []
    put, delete = type(remote.objects).put, remote.updates.delete

    def noting(key, data, **kwargs):
        steps.append(key)
        return put(remote.objects, key, data, **kwargs)

    remote.objects.put = noting
    remote.updates.delete = lambda key: steps.append(f"removed {key}") or delete(key)
    remote.remove("a")
    manifest, ref = f"manifests/sha256/{entry.digest}.json", "removed refs/a/latest.json"
    assert steps.index(manifest) < steps.index(ref)


def test_the_grace_period_starts_when_the_last_tag_leaves(remote, fields, monkeypatch):
    first = remote.publish(tensors(1), fields, "a")
    writes = []
    put = type(remote.objects).put
    monkeypatch.setattr(
        type(remote.objects),
        "put",
        lambda self, key, data, **kwargs: writes.append(key) or put(self, key, data, **kwargs),
    )
    manifest = f"manifests/sha256/{first.digest}.json"
    remote.publish(tensors(2), fields, "a")
    assert manifest in writes
    remote.tag(first.pinned_uri, ["old"], name="a")
    writes.clear()
    remote.remove("a", "old")
    assert manifest in writes


def test_leftovers_and_objects_without_a_time(remote, fields, monkeypatch):
    remote.publish(tensors(1), fields, "a")
    remote.objects.put(".locks/dead.json", b"{}")
    remote.objects.put("tmp/dead.part", b"{}")
    remote.objects.put(f"pins/{'0' * 64}/host-1-x.json", b"{}")
    assert {item.kind for item in remote.collect(0).garbage} == set()
    age(remote, monkeypatch, 20 * 86400)
    assert {item.kind for item in remote.collect(0).garbage} == {"lock", "temporary", "pin"}
    lone = remote.publish(tensors(2), fields, "lone")
    remote.remove("lone")
    real = type(remote.objects).list
    monkeypatch.setattr(
        type(remote.objects),
        "list",
        lambda self, prefix: {key: Info(i.size, None) for key, i in real(self, prefix).items()},
    )
    assert remote.collect(0, dry_run=False).garbage == []
    assert entry_keys(lone) <= keys(remote)


def test_holding_needs_the_manifest_and_never_stops_a_run(s3, fields, caplog):
    registry = open_registry(s3.root)
    entry = registry.publish(tensors(1), fields, "a")
    with pytest.raises(RegistryError, match="there is no manifest"):
        registry.hold("0" * 64)
    with pytest.raises(RegistryError, match="64 hex digits"):
        registry.hold("latest")
    registry.remove("a")
    registry.collect(0, dry_run=False)
    with caplog.at_level(logging.WARNING, logger="sosr_det.registry"), registry.hold(entry.digest):
        assert "this machine's copy is used" in caplog.text
    entry = registry.publish(tensors(1), fields, "a")
    s3.fail("403 Forbidden", "AccessDenied", lambda r: r.startswith("PUT") and "/pins/" in r, times=None)
    with caplog.at_level(logging.WARNING, logger="sosr_det.registry"), registry.hold(entry.digest) as pin:
        assert pin.key is None
    assert "may remove it" in caplog.text
    s3.rules.clear()
    pin = registry.hold(entry.digest)
    s3.requests.clear()
    pin.refresh()
    assert not s3.requests
    pin.refresh(min_interval=0)
    assert [request.partition(" ")[0] for request in s3.requests] == ["PUT"]
    pin.release()
    pin.release()


def test_an_audit_reads_the_store_and_names_its_objects(remote, fields, fresh_cache):
    entry = remote.publish(tensors(1), fields, "a")
    lone = remote.publish(tensors(2), fields, "b")
    remote.remove("b")
    audit = audit_all(remote)
    assert audit.ok
    assert audit.files == {
        remote.location(key) for key in {*entry_keys(entry), *entry_keys(lone), "refs/a/latest.json"}
    }
    assert audit.unused == [remote.location(f"manifests/sha256/{lone.digest}.json")]
    for key in sorted(entry_keys(entry)):
        good = remote.objects.read(key, 1 << 20).data
        broken = bytearray(good)
        broken[-2] ^= 1
        remote.objects.put(key, bytes(broken))
        for audit in (audit_all(remote), audit_refs(remote, [("a", "latest")], use_cache=True)):
            assert [damage.file for damage in audit.damages] == [remote.location(key)]
        remote.verify("sosr://a")  # the copy is sound
        with pytest.raises(CorruptEntryError):
            remote.verify("sosr://a", use_cache=False)
        remote.objects.put(key, good)
    remote.verify("sosr://a", use_cache=False)


def test_trouble_with_the_store_is_no_damage(s3, fields, monkeypatch):
    from sosr_det.registry.remote import faults

    monkeypatch.setattr(faults, "DELAYS", ())
    registry = open_registry(s3.root)
    registry.publish(tensors(1), fields, "a")
    s3.fail("500 Internal", "InternalError", lambda r: "/blobs/" in r, times=None)
    with pytest.raises(RegistryError, match="HTTP 500"):
        audit_all(registry)

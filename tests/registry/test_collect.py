"""Collection: what is needed stays whole, what is not goes after its grace period, whatever happens meanwhile."""

import errno
import os
import socket
import time

import pytest
import torch

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry import collect as collect_module
from sosr_det.registry.audit import audit_all
from sosr_det.registry.lock import LockLostError
from sosr_det.registry.owner import this_host
from sosr_det.registry.pins import find_pins
from sosr_det.registry.store import Registry

DAY = 24 * 3600.0


def publish(registry, fields, name, value, parents=(), tags=("latest",)):
    parents = [{"uri": entry.uri, "digest": entry.digest, "relation": "finetuned-from"} for entry in parents]
    return registry.publish({"a": torch.full((3,), float(value))}, fields | {"parents": parents}, name, tags)


def make_old(*paths, seconds=2 * DAY):
    then = time.time() - seconds
    for path in paths:
        os.utime(path, (then, then))


def age_everything(registry, seconds=2 * DAY):
    make_old(*(path for path in registry.root.rglob("*") if path.is_file()), seconds=seconds)


def kinds(found):
    return sorted((item.kind, item.path.name.split(".")[0]) for item in found.garbage)


def whole(entry):
    return sorted([("blob", entry.tensors_digest), ("manifest", entry.digest)])


def test_nothing_tagged_is_touched(registry, fields, snapshot):
    publish(registry, fields, "a", 1, tags=["latest", "v1"])
    publish(registry, fields, "b", 2)
    age_everything(registry)
    before = snapshot(registry.root)
    found = registry.collect(0, dry_run=False)
    assert (found.garbage, found.waiting, found.num_kept) == ([], [], 2)
    assert snapshot(registry.root) == before


def test_a_dry_run_finds_and_leaves(registry, fields, snapshot):
    entry = publish(registry, fields, "a", 1)
    registry.remove("a")
    before = snapshot(registry.root)
    found = registry.collect(0)
    assert found.dry_run
    assert kinds(found) == whole(entry)
    assert found.size_bytes == entry.blob_path.stat().st_size + entry.manifest_path.stat().st_size
    assert "resnet50" in found.garbage[0].note
    assert snapshot(registry.root) == before
    assert not (registry.root / ".locks" / "writer.lease").exists()
    found = registry.collect(0, dry_run=False)
    assert not found.dry_run
    assert kinds(found) == whole(entry)
    assert not entry.blob_path.exists()
    assert not entry.manifest_path.exists()
    assert registry.collect(0).garbage == []


def test_a_dry_run_is_the_default(registry, fields):
    entry = publish(registry, fields, "a", 1)
    registry.remove("a")
    age_everything(registry)
    assert kinds(registry.collect()) == whole(entry)
    assert entry.blob_path.exists()


def test_the_grace_period_starts_when_the_last_tag_leaves(registry, fields):
    first = publish(registry, fields, "a", 1)
    age_everything(registry, 30 * DAY)
    publish(registry, fields, "a", 2)  # moves latest
    found = registry.collect(DAY, dry_run=False)
    assert found.garbage == []
    assert [item.path for item in found.waiting] == [first.manifest_path]
    registry.tag(first.pinned_uri, ["back"], name="a")
    registry.verify(first, use_cache=False)
    age_everything(registry, 30 * DAY)
    registry.remove("a", "back")
    assert registry.collect(DAY, dry_run=False).garbage == []
    make_old(first.manifest_path, seconds=DAY + 60)
    make_old(first.blob_path, seconds=DAY + 60)
    assert kinds(registry.collect(DAY, dry_run=False)) == whole(first)
    assert audit_all(registry).ok


@pytest.mark.parametrize(("seconds", "goes"), [(3600 - 30, False), (3600 + 30, True)])
def test_both_sides_of_the_grace_period(registry, fields, seconds, goes):
    entry = publish(registry, fields, "a", 1)
    registry.remove("a")
    make_old(entry.manifest_path, entry.blob_path, seconds=seconds)
    found = registry.collect(3600, dry_run=False)
    assert (kinds(found) == whole(entry)) is goes
    assert entry.manifest_path.exists() is not goes


def test_what_a_tag_pointed_to_before_is_not_kept(registry, fields):
    first = publish(registry, fields, "a", 1)
    publish(registry, fields, "a", 2)
    assert registry.read_ref("a").previous == first.digest
    assert kinds(registry.collect(0, dry_run=False)) == whole(first)


def test_someone_elses_manifest_gets_a_new_time_by_a_copy(registry, fields, monkeypatch):
    entry = publish(registry, fields, "a", 1)
    age_everything(registry, 30 * DAY)

    def not_yours(path, *args, **kwargs):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", not_yours)
        registry.remove("a")
    assert time.time() - entry.manifest_path.stat().st_mtime < 60
    assert registry.read_manifest(entry.digest) == entry.manifest
    make_old(entry.blob_path, seconds=30 * DAY)
    assert registry.collect(DAY, dry_run=False).garbage == []


def test_parents_stay_while_a_descendant_does(registry, fields):
    grandparent = publish(registry, fields, "g", 1)
    parent = publish(registry, fields, "p", 2, [grandparent])
    child = publish(registry, fields, "c", 3, [parent])
    registry.remove("g")
    registry.remove("p")
    found = registry.collect(0, dry_run=False)
    assert (found.garbage, found.num_kept) == ([], 3)
    for entry in (grandparent, parent, child):
        registry.verify(entry, use_cache=False)
    registry.remove("c")
    assert kinds(registry.collect(0, dry_run=False)) == sorted(
        whole(grandparent) + whole(parent) + whole(child)
    )


def test_parents_of_what_is_still_in_its_grace_period_stay(registry, fields):
    parent = publish(registry, fields, "p", 1)
    child = publish(registry, fields, "c", 2, [parent])
    registry.remove("p")
    registry.remove("c")
    make_old(parent.manifest_path, parent.blob_path, child.blob_path)
    found = registry.collect(DAY, dry_run=False)
    assert found.garbage == []
    assert {item.path for item in found.waiting} == {parent.manifest_path, child.manifest_path}
    registry.verify(parent, use_cache=False)
    registry.verify(child, use_cache=False)


def test_parents_that_are_not_here_do_not_matter(registry, fields):
    fields["parents"] = [{"uri": "sosr://far", "digest": "0" * 64, "relation": "finetuned-from"}]
    entry = registry.publish({"a": torch.ones(2)}, fields, "a")
    assert registry.collect(0, dry_run=False).garbage == []
    registry.verify(entry, use_cache=False)


def test_weights_that_another_entry_holds_stay(registry, fields):
    first = publish(registry, fields, "a", 1)
    second = publish(registry, fields | {"seed": 9}, "b", 1)
    assert first.blob_path == second.blob_path
    registry.remove("a")
    assert kinds(registry.collect(0, dry_run=False)) == [("manifest", first.digest)]
    registry.verify(second, use_cache=False)


def test_weights_without_a_manifest_go_by_their_own_time(registry, fields):
    entry = publish(registry, fields, "a", 1)
    registry.remove("a")
    entry.manifest_path.unlink()
    assert registry.collect(DAY).garbage == []
    make_old(entry.blob_path)
    assert kinds(registry.collect(DAY, dry_run=False)) == [("blob", entry.tensors_digest)]


def test_running_work_keeps_its_entry_and_the_parents(registry, fields):
    parent = publish(registry, fields, "p", 1)
    child = publish(registry, fields, "c", 2, [parent])
    registry.remove("p")
    registry.remove("c")
    with registry.hold(child.digest, "run7") as pin:
        found = registry.collect(0, dry_run=False)
        assert found.garbage == []
        assert [(held.path, held.record.note) for held in found.held] == [(pin.path, "run7")]
        registry.verify(child, use_cache=False)
        registry.verify(parent, use_cache=False)
    assert kinds(registry.collect(0, dry_run=False)) == sorted(whole(parent) + whole(child))


def test_expired_pins_do_not_keep_and_go(registry, fields):
    entry = publish(registry, fields, "a", 1)
    registry.remove("a")
    pin = registry.hold(entry.digest, "old")
    make_old(pin.path, seconds=60 * DAY)
    found = registry.collect(0, dry_run=False)
    assert {item.kind for item in found.garbage} == {"pin", "manifest", "blob"}
    assert not pin.path.parent.exists()


def test_a_damaged_pin_keeps(registry, fields):
    entry = publish(registry, fields, "a", 1)
    registry.remove("a")
    pin = registry.hold(entry.digest)
    pin.path.write_bytes(b"")
    found = registry.collect(0, dry_run=False)
    assert found.garbage == []
    assert found.held[0].damage is not None


def test_a_pin_that_comes_up_during_the_collection_keeps(registry, fields, monkeypatch):
    parent = publish(registry, fields, "p", 1)
    child = publish(registry, fields, "c", 2, [parent])
    other = publish(registry, fields, "o", 3)
    for name in ("p", "c", "o"):
        registry.remove(name)
    real = collect_module._Sweep._take
    pins = []

    def take(self, item, *rest):
        if item.path == child.manifest_path:
            pins.append(registry.hold(child.digest))
        return real(self, item, *rest)

    monkeypatch.setattr(collect_module._Sweep, "_take", take)
    assert kinds(registry.collect(0, dry_run=False)) == whole(other)
    assert len(pins) == 1
    registry.verify(child, use_cache=False)
    registry.verify(parent, use_cache=False)
    assert not list(registry.layout.tmp_dir.iterdir())


def test_holding_what_is_just_being_moved_aside_waits_for_it(registry, fields, monkeypatch):
    """The pin is written while the manifest lies aside: the collection sees it and brings the manifest back."""
    entry = publish(registry, fields, "a", 1)
    registry.remove("a")
    real = collect_module._Sweep._is_pinned

    def is_pinned(self, item):
        assert not entry.manifest_path.exists()
        path = registry.root / "pins" / entry.digest / f"{this_host()}-{os.getpid()}-{'0' * 16}.json"
        with registry.hold(other.digest) as pin:
            record = find_pins(registry.layout, other.digest)[0].record
        path.parent.mkdir()
        path.write_bytes(type(record)(entry.digest, record.owner, "", record.created).to_bytes())
        assert pin.path is None
        return real(self, item)

    other = publish(registry, fields, "b", 2)
    monkeypatch.setattr(collect_module._Sweep, "_is_pinned", is_pinned)
    assert registry.collect(0, dry_run=False).garbage == []
    registry.verify(entry, use_cache=False)


def test_a_lost_lock_stops_the_collection_and_brings_the_file_back(registry, fields, monkeypatch):
    entry = publish(registry, fields, "a", 1)
    registry.remove("a")
    real = os.replace

    def replace(source, target):
        real(source, target)
        if str(source) == str(entry.manifest_path):
            registry.layout.lock_path.unlink()

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(LockLostError):
            registry.collect(0, dry_run=False)
    registry.verify(entry, use_cache=False)
    assert not list(registry.layout.tmp_dir.iterdir())


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_damaged_ref_stops_everything(registry, fields, snapshot, dry_run):
    publish(registry, fields, "a", 1)
    publish(registry, fields, "gone", 2)
    registry.remove("gone")
    path = registry.layout.ref_path("a", "latest")
    path.write_bytes(path.read_bytes()[:-5])
    before = snapshot(registry.root)
    with pytest.raises(RegistryError, match=r"nothing was removed.*a@latest.*registry rm a@latest"):
        registry.collect(0, dry_run=dry_run)
    assert snapshot(registry.root) == before
    registry.remove("a", "latest")
    assert len(registry.collect(0, dry_run=dry_run).garbage) == 4


def test_the_weights_behind_a_damaged_manifest_stay(registry, fields):
    entry = publish(registry, fields, "a", 1)
    content = entry.manifest_path.read_bytes()
    for broken in (content[:-9], None):
        if broken is None:
            entry.manifest_path.unlink()
        else:
            entry.manifest_path.write_bytes(broken)
        age_everything(registry)
        assert registry.collect(0, dry_run=False).garbage == []
    entry.manifest_path.write_bytes(content)
    registry.verify("sosr://a", use_cache=False)


def test_a_damaged_manifest_that_is_kept_for_another_reason_stops_everything(registry, fields):
    parent = publish(registry, fields, "p", 1)
    publish(registry, fields, "c", 2, [parent])
    registry.remove("p")
    parent.manifest_path.write_bytes(b"{}")
    with pytest.raises(RegistryError, match=f"nothing was removed.*{parent.digest}"):
        registry.collect(0, dry_run=False)
    assert parent.blob_path.exists()


def test_a_damaged_manifest_that_nothing_needs_goes(registry, fields):
    entry = publish(registry, fields, "a", 1)
    registry.remove("a")
    entry.manifest_path.write_bytes(b"{}")
    found = registry.collect(0, dry_run=False)
    assert kinds(found) == whole(entry)
    assert [item.note for item in found.garbage if item.kind == "manifest"] == ["damaged"]


def test_refs_of_earlier_versions_have_no_summary_and_count(registry, fields):
    from sosr_det.registry.refs import Ref

    parent = publish(registry, fields, "p", 1)
    child = publish(registry, fields, "c", 2, [parent])
    registry.remove("p")
    old = Ref("c", "latest", child.digest, "2026-11-22T17:05:00Z")
    registry.layout.ref_path("c", "latest").write_bytes(old.to_bytes())
    assert registry.collect(0, dry_run=False).garbage == []
    registry.verify(parent, use_cache=False)


def test_temporary_files_of_dead_writers_go(registry, fields):
    publish(registry, fields, "a", 1)
    tmp, host = registry.layout.tmp_dir, this_host()
    dead = next(pid for pid in range(4_000_000, 4_190_000) if not os.path.exists(f"/proc/{pid}"))
    ages = {
        f"{host}-{dead}-{'0' * 16}.part": (2 * 3600, 60),  # goes, stays
        f"{host}-{os.getpid()}-{'0' * 16}.part": (30 * DAY, 2 * DAY),
        f"elsewhere-1-{'0' * 16}.part": (2 * DAY, 2 * 3600),
        f"1-{'0' * 16}.part": (2 * DAY, 2 * 3600),
        "what.is.this": (2 * DAY, 2 * 3600),
    }
    now = time.time()
    for name in ages:
        (tmp / name).write_bytes(b"x")
    for which, expected in ((1, set()), (0, set(ages))):
        offsets = {name: pair[which] for name, pair in ages.items()}
        found = {
            name for name, age in offsets.items() if name in _temporary_at(registry, now + age, grace=3600.0)
        }
        assert found == expected
    assert registry.collect(0, dry_run=False).garbage[0].path.name == f"{host}-{dead}-{'0' * 16}.part"
    assert {path.name for path in tmp.iterdir()} == set(ages) - {f"{host}-{dead}-{'0' * 16}.part"}


def _temporary_at(registry, now, grace):
    plan = collect_module._Plan(registry, grace, now, {})
    return {item.path.name for item in plan._temporary()}


def test_leftovers_beside_the_lock_go_and_the_lock_stays(registry, fields):
    publish(registry, fields, "a", 1)
    lock = registry.layout.lock_path
    leftover = lock.with_name(f"{lock.name}.break.1.{'0' * 32}")
    for path in (leftover, lock.with_name("write.lock")):
        path.touch()
        make_old(path, seconds=60 * DAY)
    with registry.write_lock():
        found = registry.collect(0)
    assert [(item.kind, item.path) for item in found.garbage] == [("lock", leftover)]


def test_a_machine_with_a_wrong_clock_spares_what_is_young(registry, fields, monkeypatch):
    """Ages are taken from the file system's clock when something is removed, not from this machine's."""
    publish(registry, fields, "a", 1)
    registry.remove("a")
    real = time.time
    monkeypatch.setattr(collect_module.time, "time", lambda: real() + 30 * DAY)
    assert registry.collect(DAY, dry_run=False).garbage == []


@pytest.mark.parametrize("grace", [-1, float("nan"), float("inf")])
def test_a_senseless_grace_period_is_refused(registry, fields, grace):
    publish(registry, fields, "a", 1)
    with pytest.raises(RegistryError, match="grace period"):
        registry.collect(grace)


def test_no_registry_is_an_error(tmp_path):
    with pytest.raises(RegistryError, match="no registry"):
        Registry(tmp_path / "absent").collect(0)
    assert not (tmp_path / "absent").exists()


def test_a_link_is_not_followed(registry, fields, tmp_path):
    entry = publish(registry, fields, "a", 1)
    registry.remove("a")
    outside = tmp_path / "outside"
    registry.layout.blobs_dir.rename(outside)
    registry.layout.blobs_dir.symlink_to(outside)
    with pytest.raises(RegistryError, match="symbolic link"):
        registry.collect(0, dry_run=False)
    assert (outside / entry.tensors_digest[:2] / entry.blob_path.name).exists()


def test_readers_survive_a_tag_that_moves_while_they_read(registry, fields, monkeypatch):
    """Between reading the ref and the manifest the tag moves on and its old content is collected."""
    publish(registry, fields, "a", 1)
    real = registry.read_manifest
    moved = []

    def read_manifest(digest):
        if not moved:
            moved.append(publish(Registry(registry.root), fields, "a", 2))
            Registry(registry.root).collect(0, dry_run=False)
        return real(digest)

    monkeypatch.setattr(registry, "read_manifest", read_manifest)
    assert registry.resolve("sosr://a").digest == moved[0].digest


def test_a_ref_without_its_manifest_is_still_damage(registry, fields):
    entry = publish(registry, fields, "a", 1)
    entry.manifest_path.unlink()
    with pytest.raises(CorruptEntryError, match="points to"):
        registry.resolve("sosr://a")


def test_the_host_is_part_of_a_file_name_and_parses_back():
    from sosr_det.registry.owner import Owner

    assert "-" not in this_host()
    assert this_host().startswith(socket.gethostname().split("-")[0].split(".")[0][:3])
    me = Owner.current()
    assert Owner.from_label(me.label) == Owner(me.host, me.pid)
    assert not me.is_dead()
    assert not Owner("elsewhere", 999_999_999).is_dead()
    assert Owner(this_host(), 99_999_999_999).is_dead()
    assert Owner.from_label("no-label-") is None

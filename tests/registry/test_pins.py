"""Pins: they hold while their process lives and renews them, and any damage is told and errs on the safe side."""

import errno
import json
import logging
import multiprocessing
import os
import threading
import time

import pytest

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry import pins
from sosr_det.registry.audit import audit_all
from sosr_det.registry.owner import Owner, this_host
from sosr_det.registry.pins import PIN_SECONDS, PinRecord, find_pins

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def entry(registry, state, fields):
    return registry.publish(state, fields, "r50")


def make_old(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_pin_is_a_file_that_says_who_and_what(registry, entry):
    with registry.hold(entry.digest, "work_dirs/run1") as pin:
        assert pin.path.parent == registry.root / "pins" / entry.digest
        assert pin.path.name.startswith(f"{this_host()}-{os.getpid()}-")
        content = json.loads(pin.path.read_text())
        assert (content["digest"], content["pid"], content["note"]) == (
            entry.digest,
            os.getpid(),
            "work_dirs/run1",
        )
        (found,) = find_pins(registry.layout)
        assert (found.path, found.digest, found.holds, found.damage) == (pin.path, entry.digest, True, None)
        assert found.record.owner == Owner.current()
        assert found.age < 10
    assert find_pins(registry.layout) == []
    assert not (registry.root / "pins" / entry.digest).exists()
    assert not list(registry.layout.tmp_dir.iterdir())


def test_several_pins_of_one_entry_are_independent(registry, entry):
    first, second = registry.hold(entry.digest), registry.hold(entry.digest)
    first.release()
    first.release()
    assert [found.path for found in find_pins(registry.layout, entry.digest)] == [second.path]
    second.release()


def test_only_manifests_that_are_there_can_be_held(registry, entry):
    for digest, said in (
        ("0" * 64, "there is no manifest"),
        ("../x", "64 hex digits"),
        (entry.tensors_digest, "no manifest"),
    ):
        with pytest.raises(RegistryError, match=said):
            registry.hold(digest)
    assert find_pins(registry.layout) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_pin_of_a_dead_process_of_this_machine_does_not_hold(registry, entry):
    def die():
        registry.hold(entry.digest)
        os._exit(0)

    process = FORK.Process(target=die)
    process.start()
    process.join()
    (found,) = find_pins(registry.layout)
    assert not found.holds


def test_a_later_process_with_the_same_number_is_told_apart(registry, entry):
    pin = registry.hold(entry.digest)
    me = Owner.current()
    if me.started is None:
        pytest.skip("this system does not say when a process started")
    impostor = Owner(me.host, me.pid, me.started - 1)
    pin.path.write_bytes(PinRecord(entry.digest, impostor, "", "2026-11-22T17:05:00Z").to_bytes())
    assert not find_pins(registry.layout)[0].holds


@pytest.mark.parametrize(("age", "holds"), [(PIN_SECONDS - 60, True), (PIN_SECONDS + 60, False)])
def test_the_pin_of_another_machine_expires(registry, entry, age, holds):
    pin = registry.hold(entry.digest)
    pin.path.write_bytes(
        PinRecord(entry.digest, Owner("elsewhere", 1), "", "2026-11-22T17:05:00Z").to_bytes()
    )
    make_old(pin.path, age)
    assert find_pins(registry.layout)[0].holds is holds


def test_refreshing_renews_the_time_but_not_too_often(registry, entry):
    pin = registry.hold(entry.digest)
    make_old(pin.path, 1000)
    pin.refresh()
    assert find_pins(registry.layout)[0].age > 900
    pin.refresh(min_interval=0)
    assert find_pins(registry.layout)[0].age < 10
    pin.path.unlink()
    pin.refresh(min_interval=0)
    assert find_pins(registry.layout)[0].holds
    pin.release()
    pin.refresh(min_interval=0)
    assert find_pins(registry.layout) == []


def test_a_registry_that_cannot_be_written_is_warned_of(registry, entry, monkeypatch, caplog):
    real = os.open

    def read_only(path, flags, *args, **kwargs):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", read_only)
    with caplog.at_level(logging.WARNING, logger="sosr_det.registry"):
        pin = registry.hold(entry.digest)
    assert "not told" in caplog.text
    assert "read-only" in caplog.text
    pin.refresh(min_interval=0)
    pin.release()
    with pytest.raises(RegistryError, match="no manifest"):
        registry.hold("0" * 64)


def test_failing_to_renew_or_to_remove_is_a_warning(registry, entry, monkeypatch, caplog):
    pin = registry.hold(entry.digest)

    def fail(*args, **kwargs):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "utime", fail)
    monkeypatch.setattr(type(pin.path), "unlink", fail)
    with caplog.at_level(logging.WARNING, logger="sosr_det.registry"):
        pin.refresh(min_interval=0)
        pin.release()
    assert "could not renew" in caplog.text
    assert "expires by itself" in caplog.text


def test_every_flipped_bit_is_found_and_the_pin_still_holds(registry, entry):
    pin = registry.hold(entry.digest, "run")
    content = pin.path.read_bytes()
    for bit in range(len(content) * 8):
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptEntryError) as caught:
            PinRecord.from_bytes(bytes(broken), pin.path, entry.digest)
        damage = caught.value.damage
        assert damage.file == str(pin.path)
        assert damage.expected != damage.actual
    for share in (0, 0.01, 0.5, 0.99):
        pin.path.write_bytes(content[: int(len(content) * share)])
        (found,) = find_pins(registry.layout)
        assert found.holds
        assert found.damage.file == str(pin.path)
        assert audit_all(registry).damages == [found.damage]
        make_old(pin.path, PIN_SECONDS + 60)
        assert not find_pins(registry.layout)[0].holds
    pin.path.write_bytes(content)
    assert audit_all(registry).ok


def test_a_copy_for_another_entry_and_links_are_damage(registry, entry, tmp_path):
    pin = registry.hold(entry.digest)
    other = registry.root / "pins" / ("0" * 64)
    other.mkdir()
    (other / pin.path.name).write_bytes(pin.path.read_bytes())
    (tmp_path / "outside").write_bytes(pin.path.read_bytes())
    (pin.path.parent / "link.json").symlink_to(tmp_path / "outside")
    damages = {found.path.name: found.damage for found in find_pins(registry.layout) if found.damage}
    assert damages.keys() == {pin.path.name, "link.json"}
    assert damages[pin.path.name].expected == "0" * 64
    assert "symbolic link" in damages["link.json"].actual


def test_holding_and_releasing_at_once_does_not_fail(registry, entry, caplog):
    def turn():
        for _ in range(30):
            registry.hold(entry.digest).release()

    threads = [threading.Thread(target=turn) for _ in range(4)]
    with caplog.at_level(logging.WARNING, logger="sosr_det.registry"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert find_pins(registry.layout) == []
    assert caplog.records == []


def test_the_lease_is_long_and_renewed_often():
    assert PIN_SECONDS >= 7 * 24 * 3600
    assert pins.REFRESH_SECONDS <= PIN_SECONDS / 24

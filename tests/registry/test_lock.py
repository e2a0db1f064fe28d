"""The writers' lock: one at a time, no waiting for the dead, and no writing by those who lost it."""

import multiprocessing
import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest
import torch

from sosr_det.errors import RegistryError
from sosr_det.registry import lock as lock_module
from sosr_det.registry.audit import audit_all
from sosr_det.registry.lock import LockLostError, write_lock
from sosr_det.registry.store import Registry

FORK = multiprocessing.get_context("fork")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
ELSEWHERE = "filelock/2\npid=7\nhost=elsewhere\nmode=lease\ntoken={}\nduration={!r}\n"


@pytest.fixture
def path(tmp_path):
    (tmp_path / ".locks").mkdir()
    return tmp_path / ".locks" / "writer.lease"


@pytest.fixture
def short_lease(monkeypatch):
    monkeypatch.setattr(lock_module, "LEASE_SECONDS", 0.6)
    return 0.6


def held_for(path, timeout=5.0):
    """Seconds until the lock was taken."""
    start = time.monotonic()
    with write_lock(path.parents[1], path, timeout) as lock:
        lock.check()
    return time.monotonic() - start


@contextmanager
def child(target, *arguments):
    process = FORK.Process(target=target, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def wait_for(file, seconds=10):
    deadline = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < deadline, f"{file} never came"
        time.sleep(0.005)


def hold_and_tell(path, flag):
    with write_lock(path.parents[1], path):
        flag.touch()
        time.sleep(60)


def test_the_lock_goes_away_after_use(path):
    assert held_for(path) < 1
    assert held_for(path) < 1
    assert os.listdir(path.parent) == []


def test_one_thread_at_a_time(path):
    inside, most = [0], [0]

    def enter():
        for _ in range(5):
            with write_lock(path.parents[1], path):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.002)
                inside[0] -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


@needs_fork
def test_a_living_holder_is_waited_for_and_named(path, tmp_path):
    with child(hold_and_tell, path, tmp_path / "flag") as holder:
        wait_for(tmp_path / "flag")
        with pytest.raises(RegistryError) as caught:
            held_for(path, timeout=0.3)
        for part in (f"process {holder.pid} on ", "since 20", "waited 0.3 seconds", str(path)):
            assert part in str(caught.value)


@needs_fork
def test_a_dead_holder_of_this_machine_is_noticed_at_once(path, tmp_path):
    with child(hold_and_tell, path, tmp_path / "flag") as holder:
        wait_for(tmp_path / "flag")
        holder.kill()
        holder.join()
    assert path.exists()
    assert held_for(path) < lock_module.LEASE_SECONDS / 10


def test_a_silent_holder_of_another_machine_loses_its_lease(path, short_lease):
    path.write_text(ELSEWHERE.format("ab" * 16, short_lease))
    assert short_lease <= held_for(path) < 4


def test_a_holder_of_another_machine_that_renews_is_waited_for(path, short_lease):
    path.write_text(ELSEWHERE.format("ab" * 16, short_lease))
    stop = threading.Event()

    def renew():
        while not stop.wait(0.1):
            os.utime(path)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(RegistryError, match="process 7 on elsewhere"):
            held_for(path, timeout=3 * short_lease)
    finally:
        stop.set()
        thread.join()


def test_a_marker_that_stays_empty_is_removed(path, monkeypatch):
    """A holder that was killed between creating the marker and writing its record."""
    monkeypatch.setattr(lock_module, "EMPTY_SECONDS", 0.4)
    path.touch()
    assert 0.4 <= held_for(path) < 4
    assert os.listdir(path.parent) == []


def test_a_marker_that_is_being_written_is_not_removed(path, monkeypatch, short_lease):
    monkeypatch.setattr(lock_module, "EMPTY_SECONDS", 0.4)
    path.touch()
    real, looks = lock_module._EmptyMarker._look, []

    def look_then_write(where):
        looks.append(real(where))
        if len(looks) == 1:
            path.write_text(ELSEWHERE.format("cd" * 16, short_lease))
        return looks[-1]

    monkeypatch.setattr(lock_module._EmptyMarker, "_look", staticmethod(look_then_write))
    assert held_for(path) >= 0.2 + short_lease
    assert looks[0] is not None
    assert looks[1:]
    assert not any(looks[1:])


def test_a_lock_taken_from_another_waiter_by_mistake_is_given_back(path, monkeypatch):
    """Between looking and removing another waiter may have removed the empty marker and made its own."""
    monkeypatch.setattr(lock_module, "EMPTY_SECONDS", 0.0)
    path.touch()
    watcher = lock_module._EmptyMarker(path)
    watcher.remove_if_left()
    real = watcher._look
    looks = iter([real(path)])

    def look(where):
        if (stale := next(looks, None)) is not None:
            path.unlink()
            path.write_text("mine")
            return stale
        return real(where)

    monkeypatch.setattr(watcher, "_look", look)
    watcher.remove_if_left()
    assert path.read_text() == "mine"
    assert os.listdir(path.parent) == [path.name]


def test_the_lock_file_of_earlier_versions_does_not_block(tmp_path, state, fields):
    registry = Registry(tmp_path / "registry", lock_timeout=1)
    registry.publish(state, fields, "r50")
    (registry.root / ".locks" / "write.lock").touch()
    registry.publish(state, fields, "r50", ["v1"])


def test_another_lease_length_is_refused_with_advice(path):
    path.write_text(ELSEWHERE.format("ab" * 16, 5.0))
    with pytest.raises(RegistryError, match="Another version of sosr-det"):
        held_for(path, timeout=0.2)


def test_the_timeout_is_longer_than_the_lease():
    assert lock_module.LOCK_TIMEOUT > 2 * lock_module.LEASE_SECONDS


def test_losing_the_lock_is_noticed(path):
    with write_lock(path.parents[1], path) as lock:
        lock.check()
        path.unlink()
        with pytest.raises(LockLostError, match="lost the lock"):
            lock.check()
        path.write_text(ELSEWHERE.format("ab" * 16, 30.0))
        with pytest.raises(LockLostError, match="to process 7 on elsewhere"):
            lock.check()
    assert path.exists()  # the new holder's marker stays


class Stalling(Registry):
    """Pauses its whole process just before (or after) it first moves a ref into place."""

    def __init__(self, root, after):
        super().__init__(root)
        self.after, self.paused = after, False

    def _place_ref(self, *arguments):
        if not self.after:
            self._pause()
        super()._place_ref(*arguments)
        if self.after:
            self._pause()

    def _pause(self):
        if not self.paused:
            self.paused = True
            os.kill(os.getpid(), signal.SIGSTOP)


def publish_paused(root, report, fields, after):
    try:
        Stalling(root, after).publish({"a": torch.ones(3)}, fields, "r50", ["latest", "mine"])
    except LockLostError as error:
        report.write_text(str(error))
        os._exit(3)
    os._exit(0)


@needs_fork
@pytest.mark.parametrize("after", [False, True])
def test_a_paused_writer_that_lost_the_lock_changes_nothing_more(tmp_path, state, fields, short_lease, after):
    root = tmp_path / "registry"
    registry = Registry(root)
    registry.publish(state, fields, "r50")
    report = tmp_path / "report"
    with child(publish_paused, root, report, fields, after) as writer:
        _, status = os.waitpid(writer.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        other = registry.publish(state, fields | {"seed": 99}, "r50", ["latest"])
        os.kill(writer.pid, signal.SIGCONT)
        writer.join(60)
        assert writer.exitcode == 3
    assert "lost the lock" in report.read_text()
    assert registry.resolve("sosr://r50").digest == other.digest
    assert "mine" not in registry.tags("r50")
    assert audit_all(registry).ok
    assert not list(registry.layout.tmp_dir.iterdir())


def test_a_lock_lost_after_the_last_step_is_no_success(tmp_path, state, fields, monkeypatch):
    """Another writer may have read the ref before this one's came, and put its own in its place: say so."""
    registry = Registry(tmp_path / "registry")
    place = Registry._place_ref

    def then_lose(self, *arguments):
        place(self, *arguments)
        registry.layout.lock_path.unlink()

    monkeypatch.setattr(Registry, "_place_ref", then_lose)
    with pytest.raises(LockLostError, match="lost the lock"):
        registry.publish(state, fields, "r50")

"""Every operation that writes, stopped at every one of its write points in turn, in four ways.

A full disk and an input/output error must change nothing at all; a short write must not matter; a kill must leave a
registry in which every tag leads to whole content, either the old or the new, and which can be written at once.
"""

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from sosr_det.errors import RegistryError
from sosr_det.registry import lock
from sosr_det.registry.audit import audit_all
from sosr_det.registry.entry import Entry
from sosr_det.registry.store import Registry

FORK = multiprocessing.get_context("fork")
CALLS = ("write", "fsync", "replace", "open", "mkdir", "utime")
OPERATIONS = ("publish", "add", "tag", "remove", "collect", "hold")
MOST = 60  # write points of one kind in one operation

# Fewest write points that each operation must have: a test that meets none proves nothing.
LEAST = {
    "publish": {"write": 6, "fsync": 8, "replace": 4, "open": 6, "mkdir": 1, "utime": 1},
    "add": {"write": 5, "fsync": 7, "replace": 4, "open": 5, "mkdir": 2},
    "tag": {"write": 4, "fsync": 5, "replace": 2, "open": 4, "utime": 1},
    "remove": {"write": 1, "fsync": 2, "replace": 2, "open": 1, "utime": 1},
    "collect": {"write": 1, "fsync": 2, "replace": 2, "open": 1},
    "hold": {"write": 1, "fsync": 3, "replace": 1, "open": 1, "mkdir": 2},
}


@dataclass
class Scene:
    """A registry with two tags, one entry without a tag, and an operation that is to be disturbed."""

    registry: Registry
    operation: Callable[[], Any]
    first: Entry
    second: Entry
    untagged: Entry


@pytest.fixture
def scene(tmp_path, fields):
    def build(operation: str, root) -> Scene:
        registry = Registry(root)
        first = registry.publish({"a": torch.ones(3)}, fields, "r50", ["latest", "v1"])
        second = registry.publish({"a": torch.ones(4)}, fields, "two")
        untagged = registry.publish({"a": torch.ones(5)}, fields, "gone")
        registry.remove("gone")
        donor = tmp_path / "donor"
        given = (
            Registry(donor).resolve("sosr://x")
            if (donor / "registry.json").exists()
            else Registry(donor).publish({"a": torch.ones(6)}, fields, "x")
        )
        content = given.manifest_path.read_bytes()
        operations = {
            "publish": lambda: registry.publish({"a": torch.zeros(3)}, fields, "r50", ["latest", "new"]),
            "add": lambda: registry.add(content, given.blob_path, "added", ["latest", "new"]),
            "tag": lambda: registry.tag("sosr://two", ["latest", "new"], name="r50"),
            "remove": lambda: registry.remove("r50"),
            "collect": lambda: registry.collect(0, dry_run=False),
            "hold": lambda: registry.hold(first.digest),
        }
        return Scene(registry, operations[operation], first, second, untagged)

    return build


def disturb(patch, name, at, fault):
    """Let ``fault(real, *arguments)`` stand in for the ``at``-th call of ``os.name``; returns whether it was called."""
    real = getattr(os, name)
    state = {"count": 0, "fired": False}

    def call(*arguments, **options):
        if name == "open" and not arguments[1] & os.O_CREAT:
            return real(*arguments, **options)
        if name == "mkdir" and os.path.isdir(arguments[0]):
            return real(*arguments, **options)
        state["count"] += 1
        if state["count"] == at:
            state["fired"] = True
            return fault(real, *arguments, **options)
        return real(*arguments, **options)

    patch.setattr(os, name, call)
    return state


def raising(code):
    def fault(real, *arguments, **options):
        raise OSError(code, os.strerror(code))

    return fault


def sound(scene):
    """Every tag leads to whole content, and nothing lies around."""
    audit = audit_all(scene.registry)
    assert audit.ok, audit.damages
    for item in scene.registry.list_refs():
        assert item.error is None
        scene.registry.verify(f"sosr://{item.name}@{item.tag}", use_cache=False)
    for entry in (scene.first, scene.second):
        scene.registry.verify(entry, use_cache=False)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["disk full", "input/output error"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_error_at_any_write_point_changes_nothing(scene, tmp_path, snapshot, monkeypatch, operation, code):
    for name in CALLS:
        reached = 0
        this, before = None, None
        for at in range(1, MOST):
            if this is None:
                this = scene(operation, tmp_path / f"{name}{at}")
                registry, before = this.registry, snapshot(this.registry.root)
            done, failed = None, None
            with monkeypatch.context() as patch:
                fault = disturb(patch, name, at, raising(code))
                try:
                    done = this.operation()
                except RegistryError as error:
                    failed = str(error)
            if not fault["fired"]:
                break
            reached += 1
            assert failed is None or str(registry.root) in failed, (name, at)
            if operation == "hold":  # an error is a warning here, and then nothing is held
                assert failed is None
                assert done.path is None or snapshot(registry.root) != before
                done.release()
            assert not list(registry.layout.tmp_dir.iterdir()), (name, at)
            assert not registry.layout.lock_path.exists(), (name, at)
            after = snapshot(registry.root)
            if operation == "collect":
                kept = {key for key in before if this.untagged.digest not in key}
                kept = {key for key in kept if this.untagged.tensors_digest not in key}
                assert {key: after.get(key) for key in kept} == {key: before[key] for key in kept}, (name, at)
            elif failed or operation == "hold":
                assert after == before, (name, at)
            else:
                assert name == "utime", (name, at)  # only a grace period is shorter then
            sound(this)
            if after != before:
                this = None
        assert at < MOST - 1
        assert reached >= LEAST[operation].get(name, 0), (name, reached)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_short_writes_do_not_matter(scene, tmp_path, snapshot, monkeypatch, operation):
    def undisturbed_names(root):
        plain = scene(operation, root)
        plain.operation()
        return set(snapshot(root)), plain

    expected, _ = undisturbed_names(tmp_path / "undisturbed")
    this = scene(operation, tmp_path / "registry")
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[: max(1, len(data) // 3)]))
        this.operation()
    found = set(snapshot(this.registry.root))
    if operation == "hold":  # a pin's name holds a random number
        assert len(found) == len(expected)
    else:
        created = {name for name in found if "manifests" not in name}
        assert created == {name for name in expected if "manifests" not in name}
    sound(this)
    assert not list(this.registry.layout.tmp_dir.iterdir())


def _run_and_die(operation, name, at):
    patch = pytest.MonkeyPatch()
    disturb(patch, name, at, lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL))
    operation()
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "publish"])
def test_a_kill_at_any_write_point_leaves_a_sound_registry(
    scene, tmp_path, monkeypatch, operation, fields, snapshot
):
    monkeypatch.setattr(lock, "EMPTY_SECONDS", 0.1)
    for name in ("write", "fsync", "replace"):
        for at in range(1, MOST):
            this = scene(operation, tmp_path / f"{name}{at}")
            before = {(item.name, item.tag): item.digest for item in this.registry.list_refs()}
            child = FORK.Process(target=_run_and_die, args=(this.operation, name, at))
            child.start()
            child.join(30)
            assert child.exitcode in (0, -signal.SIGKILL)
            sound(this)
            now = {(item.name, item.tag): item.digest for item in this.registry.list_refs()}
            for key in before.keys() & now.keys():
                assert now[key] == before[key] or operation == "tag"
            if operation in ("collect", "hold"):
                assert now == before
            elif operation == "remove":
                assert now.keys() <= before.keys()
            else:
                assert now.keys() >= before.keys()
            this.registry.publish({"a": torch.full((2,), 7.0)}, fields, "after")  # no stale lock
            this.registry.collect(0, dry_run=False)
            assert not list(this.registry.layout.tmp_dir.iterdir())
            assert audit_all(this.registry).ok
            if child.exitcode == 0:
                break
        assert at > LEAST[operation][name], (name, at)
        assert at < MOST - 1


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99, None])
def test_damage_to_any_kind_of_file_is_found_and_named(scene, tmp_path, share):
    """None: one bit is flipped, in the middle."""
    this = scene("tag", tmp_path / "registry")
    pin = this.registry.hold(this.first.digest, "a run")
    kinds = {
        "marker": this.registry.root / "registry.json",
        "ref": this.registry.layout.ref_path("r50", "v1"),
        "manifest": this.first.manifest_path,
        "blob": this.first.blob_path,
        "pin": pin.path,
    }
    for kind, path in kinds.items():
        good = path.read_bytes()
        if share is None:
            broken = bytearray(good)
            broken[len(broken) // 2] ^= 16
        else:
            broken = good[: int(len(good) * share)]
        path.write_bytes(broken)
        if kind == "marker":
            with pytest.raises(RegistryError, match=r"registry\.json"):
                audit_all(this.registry)
        else:
            (damage,) = audit_all(this.registry).damages
            assert damage.file == str(path)
            assert damage.expected != damage.actual
            assert damage.expected
            assert damage.actual
        path.write_bytes(good)
        assert audit_all(this.registry).ok

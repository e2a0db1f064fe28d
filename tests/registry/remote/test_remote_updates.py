"""Refs in a store: of simultaneous changes none is lost, whatever the store can promise."""

import json
import logging
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from sosr_det.errors import RegistryError
from sosr_det.registry.layout import MARKER_BYTES
from sosr_det.registry.opening import open_registry
from sosr_det.registry.remote import updates
from sosr_det.registry.remote.objects import ObjectStore
from sosr_det.registry.remote.updates import RefUpdates
from sosr_det.registry.remote.urls import parse_remote


def append(word):
    """A change that is lost if a writer overwrites what it has not read."""
    return lambda old: json.dumps([*(json.loads(old) if old else []), word]).encode()


def in_threads(count, work):
    errors = []

    def run(number):
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors, errors


@pytest.fixture(params=["memory", "s3", "s3 without If-Match"])
def store(request, monkeypatch):
    if request.param == "memory":
        made = ObjectStore(parse_remote(request.getfixturevalue("memory")))
        made.put("registry.json", MARKER_BYTES)
        made.way = "process"
        return made
    endpoint = request.getfixturevalue("s3")
    if request.param != "s3":
        ignore_header(endpoint, "HTTP_IF_MATCH")
    made = ObjectStore(parse_remote(endpoint.root))
    made.put("registry.json", MARKER_BYTES)
    made.way = "if-match" if request.param == "s3" else "lock"
    return made


def ignore_header(endpoint, header):
    """A store that takes a condition for decoration."""
    endpoint.rules.append(
        lambda environ: environ.pop(header, None) and None if environ["REQUEST_METHOD"] == "PUT" else None
    )


def test_no_change_of_several_threads_is_lost(store):
    assert RefUpdates(store).way == store.way
    one = RefUpdates(store)

    def work(number):
        mine = one if number % 2 else RefUpdates(store)
        for turn in range(4):
            mine.update("refs/a/b.json", append(f"{number}-{turn}"))

    in_threads(4, work)
    words = json.loads(store.read("refs/a/b.json", 1 << 16).data)
    assert sorted(words) == sorted(f"{number}-{turn}" for number in range(4) for turn in range(4))
    left = [key for key in store.list("") if key.startswith(".locks")]
    assert not left


def test_a_store_that_ignores_all_conditions_is_noticed(s3, caplog):
    ignore_header(s3, "HTTP_IF_MATCH")
    ignore_header(s3, "HTTP_IF_NONE_MATCH")
    store = ObjectStore(parse_remote(s3.root))
    store.put("registry.json", MARKER_BYTES)
    with caplog.at_level(logging.WARNING, logger="sosr_det.registry"):
        changes = RefUpdates(store)
        assert changes.way == "read-back"
        assert changes.way == "read-back"
    assert caplog.text.count("no conditional writes") == 1
    assert store.read("registry.json", 1 << 16).data == MARKER_BYTES
    changes.update("refs/a/b.json", append("x"))
    interfered = []

    def interfere():
        if not interfered:
            interfered.append(True)
            store.put("refs/a/b.json", json.dumps(["theirs"]).encode())

    real = store.put

    def put(key, data, **kwargs):
        done = real(key, data, **kwargs)
        interfere()  # between our write and the look at it
        return done

    store.put = put
    changes.update("refs/a/b.json", append("ours"))
    assert json.loads(store.read("refs/a/b.json", 1 << 16).data) == ["theirs", "ours"]


def test_a_race_that_is_lost_is_run_again_on_the_new_content(s3):
    store = ObjectStore(parse_remote(s3.root))
    store.put("registry.json", MARKER_BYTES)
    changes, seen = RefUpdates(store), []
    assert changes.way == "if-match"

    def change(old):
        seen.append(old)
        if len(seen) == 1:
            store.put("refs/a/b.json", b'["first"]')  # another process is quicker: put-if-absent must fail
        if len(seen) == 2:
            store.put("refs/a/b.json", b'["first", "second"]')  # and again: If-Match must fail
        if len(seen) == 3:
            store.delete("refs/a/b.json")  # and now it is gone: If-Match must not create it
        return append("ours")(old)

    assert changes.update("refs/a/b.json", change) == (None, b'["ours"]')
    assert seen == [None, b'["first"]', b'["first", "second"]', None]
    assert store.read("refs/a/b.json", 99).data == b'["ours"]'


def test_a_write_whose_answer_is_lost_is_not_done_twice(s3, monkeypatch):
    store = ObjectStore(parse_remote(s3.root))
    store.put("registry.json", MARKER_BYTES)
    changes = RefUpdates(store)
    assert changes.way == "if-match"
    lost = []
    real = s3.app

    def app(environ, start_response):
        result = list(real(environ, start_response))  # the write is done, and then the answer is lost
        if environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].endswith("refs/a/b.json") and not lost:
            lost.append(True)
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>ServiceUnavailable</Code></Error>"]
        return result

    monkeypatch.setattr(s3, "app", app)
    assert changes.update("refs/a/b.json", append("once")) == (None, b'["once"]')
    assert lost
    assert store.read("refs/a/b.json", 99).data == b'["once"]'


@pytest.fixture
def clock(monkeypatch):
    """[seconds] of a clock that waiting alone moves, so that a slow machine is no slow process."""
    now = [0.0]

    def wait(seconds):
        now[0] += 1

    monkeypatch.setattr(updates, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=wait))
    return now


def test_a_lock_that_changes_hands_while_it_is_looked_at_is_waited_for(s3, clock):
    """Read with a condition on its version, the object would be refused."""
    ignore_header(s3, "HTTP_IF_MATCH")
    store, others = (ObjectStore(parse_remote(s3.root)) for _ in range(2))
    store.put("registry.json", MARKER_BYTES)
    changes = RefUpdates(store)
    assert changes.way == "lock"
    lock = f".locks/{updates.sha256_hex(b'refs/a/b.json')[:32]}.json"
    others.put(lock, b'{"token": "one"}')
    handed_over = []

    def hand_over():
        others.put(lock, b'{"token": "another"}')
        handed_over.append(True)

    s3.before(lambda request: request.startswith("GET ") and request.endswith(lock), hand_over)
    changes.update("refs/a/b.json", append("x"))
    assert handed_over
    assert store.read("refs/a/b.json", 99).data == b'["x"]'


def test_the_lock_of_a_dead_process_is_waited_for_and_removed(s3, clock, caplog):
    ignore_header(s3, "HTTP_IF_MATCH")
    store = ObjectStore(parse_remote(s3.root))
    store.put("registry.json", MARKER_BYTES)
    changes = RefUpdates(store)
    assert changes.way == "lock"
    lock = f".locks/{updates.sha256_hex(b'refs/a/b.json')[:32]}.json"
    store.put(lock, b'{"token": "of a process that was killed"}')
    with caplog.at_level(logging.WARNING, logger="sosr_det.registry"):
        changes.update("refs/a/b.json", append("x"))
    assert updates.LEASE_SECONDS < clock[0] < updates.LEASE_SECONDS + 5
    assert "of a process that died" in caplog.text
    assert lock not in store.list("")

    def slow(old):
        clock[0] += updates.LEASE_SECONDS / 2 + 1
        return b"[]"

    with pytest.raises(RegistryError, match="too slow"):
        changes.update("refs/a/b.json", slow)
    assert json.loads(store.read("refs/a/b.json", 99).data) == ["x"]


def test_giving_up_says_why(s3, monkeypatch):
    monkeypatch.setattr(updates, "TRIES", 3)
    monkeypatch.setattr(updates, "_pause", lambda turn: None)
    store = ObjectStore(parse_remote(s3.root))
    store.put("registry.json", MARKER_BYTES)
    counter = iter(range(100))

    def change(old):
        store.put("refs/a/b.json", str(next(counter)).encode())
        return b"ours"

    with pytest.raises(RegistryError, match="changed by others 3 times"):
        RefUpdates(store).update("refs/a/b.json", change)


TAGGER = """
import sys
from sosr_det.registry.opening import open_registry

registry = open_registry(sys.argv[1])
for uri in sys.argv[2:]:
    registry.tag(uri, ["latest"], name="r50")
assert "torch" not in sys.modules
"""


def test_processes_that_move_one_tag_leave_an_unbroken_chain(s3, fields):
    registry = open_registry(s3.root)
    entries = [registry.publish({"w": torch.tensor(n)}, fields, "r50", [f"v{n}"]) for n in range(13)]
    first, others = entries[0].digest, [entry.pinned_uri for entry in entries[1:]]
    registry.tag(entries[0].pinned_uri, ["latest"], name="r50")
    history = s3.record_writes("refs/r50/latest.json")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", TAGGER, s3.root, *others[n::3]], stderr=subprocess.PIPE, text=True
        )
        for n in range(3)
    ]
    for worker in workers:
        _, err = worker.communicate(timeout=120)
        assert worker.returncode == 0, err
    chain = [json.loads(content) for content in history]
    # Every call is one step of the tag, each from where the one before had led.
    assert sorted(step["digest"] for step in chain) == sorted(uri.rpartition(":")[2] for uri in others)
    assert [step["previous"] for step in chain] == [first, *(step["digest"] for step in chain[:-1])]
    assert registry.read_ref("r50").digest == chain[-1]["digest"]
    registry.verify("sosr://r50", use_cache=False)

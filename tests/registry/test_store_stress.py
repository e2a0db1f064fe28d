"""Many processes at once, some of them killed at any moment: nothing torn, nothing lost, nothing left over.

Every change of a ref is logged by its process while it holds the lock, so the log is an independent record of what
happened: two changes of one tag that name the same predecessor would mean that one of them was lost.
"""

import json
import multiprocessing
import os
import random
import re
import signal
import time
import traceback
from collections import Counter
from contextlib import contextmanager

import pytest
import torch

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry.audit import audit_all
from sosr_det.registry.refs import Ref
from sosr_det.registry.store import Registry

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
FORK = multiprocessing.get_context("fork")
WORKERS = 16
ACTIONS = {"publish": 25, "shared": 25, "tag": 10, "remove": 3, "remove all": 2, "resolve": 30, "collect": 5}


def log(path, **line):
    with open(path, "ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


def read_log(path):
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line.endswith(b"}")]


@contextmanager
def unless_unknown():
    """Only that a name, a tag or the registry itself is not there (yet) may stop the block."""
    try:
        yield
    except RegistryError as error:
        if not re.match(r"there is no |'\w+' has no tag |\S+ is not a registry", str(error)):
            raise


class LoggingRegistry(Registry):
    """Logs each change of a ref before and after it is made, still under the lock."""

    log_file = None

    def _place_ref(self, staging, name, tag, digest, summary):
        if name == "shared":
            log(self.log_file, what="trying", digest=digest)
        super()._place_ref(staging, name, tag, digest, summary)
        if name == "shared":
            path = self.layout.ref_path(name, tag)
            ref = Ref.from_bytes(path.read_bytes(), path, name, tag)
            log(self.log_file, what="placed", digest=ref.digest, previous=ref.previous)


def work(root, folder, fields, worker, count, seed):
    """Do operations ``start`` to ``count`` of one worker; start is where an earlier life of it was killed."""
    try:
        mine = folder / f"{worker}.log"
        done = read_log(mine)
        start = max((line["step"] + 1 for line in done if line["what"] == "start"), default=0)
        registry = LoggingRegistry(root)
        registry.log_file = folder / f"{worker}.shared"
        for step in range(start, count):
            rng = random.Random(f"{seed}-{worker}-{step}")
            action = rng.choices(list(ACTIONS), ACTIONS.values())[0]
            log(mine, what="start", step=step, action=action)
            unique = fields | {"seed": worker * 100_000 + step}
            tensors = {"a": torch.full((8,), float(rng.randrange(30)))}
            if action == "publish":
                registry.publish(tensors, unique, f"own{worker}", ["t", f"u{rng.randrange(3)}"])
            elif action == "shared":
                registry.publish(tensors, unique, "shared", ["chain"])
            elif action == "tag":
                with unless_unknown():
                    registry.tag(f"sosr://own{worker}@t", ["copy"])
            elif action in ("remove", "remove all"):
                with unless_unknown():
                    registry.remove(f"own{worker}", "u1" if action == "remove" else None)
            elif action == "resolve":
                with unless_unknown():
                    registry.resolve(
                        f"sosr://{rng.choice(['shared@chain', f'own{rng.randrange(WORKERS)}@t'])}"
                    )
            else:
                with unless_unknown():
                    registry.collect(0, dry_run=False)
            log(mine, what="done", step=step, action=action)
    except BaseException:
        (folder / f"{worker}.failed").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def operations(folder):
    """How many operations all workers have begun."""
    return sum(path.read_bytes().count(b'"start"') for path in folder.glob("*.log"))


def run(root, folder, fields, count, seed, kill_every):
    """Kill a random process after every ``kill_every`` operations on average, however fast the machine is."""
    rng = random.Random(seed)

    def start(worker):
        child = FORK.Process(target=work, args=(root, folder, fields, worker, count, seed))
        child.start()
        return child

    children = {worker: start(worker) for worker in range(WORKERS)}
    kills = 0
    next_kill = 0.0
    while children:
        next_kill += rng.uniform(0, 2 * kill_every)
        while operations(folder) < next_kill and all(child.is_alive() for child in children.values()):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.01))  # so that it comes anywhere within an operation
        victim = rng.choice(sorted(children))
        children[victim].kill()
        for worker, child in list(children.items()):
            if worker != victim and child.is_alive():
                continue
            child.join()
            if child.exitcode == -signal.SIGKILL:
                kills += 1
                children[worker] = start(worker)
            else:
                del children[worker]
    failures = [path.read_text() for path in folder.glob("*.failed")]
    assert not failures, failures[0]
    return kills


def check_own_tags(registry, folder):
    """The tag ``t`` of each worker is what its last finished operation made it, or what an interrupted one did."""
    for worker in range(WORKERS):
        lines = read_log(folder / f"{worker}.log")
        finished = {line["step"] for line in lines if line["what"] == "done"}
        allowed = {None}
        for line in (line for line in lines if line["what"] == "start"):
            if line["action"] == "publish":
                effect = worker * 100_000 + line["step"]
                allowed = {effect} if line["step"] in finished else allowed | {effect}
            elif line["action"] == "remove all":
                allowed = {None} if line["step"] in finished else allowed | {None}
        try:
            found = registry.resolve(f"sosr://own{worker}@t").manifest.seed
        except CorruptEntryError:
            raise
        except RegistryError:
            found = None
        assert found in allowed, (worker, found, allowed)


def check_shared_chain(registry, folder, kills):
    """The changes of the shared tag form one chain, apart from changes whose process died before logging them."""
    lines = [line for worker in range(WORKERS) for line in read_log(folder / f"{worker}.shared")]
    placed = [line for line in lines if line["what"] == "placed"]
    tried = {line["digest"] for line in lines if line["what"] == "trying"}
    lost = [digest for digest, n in Counter(line["previous"] for line in placed).items() if n > 1]
    assert not lost, f"updates after {lost} overwrote each other"
    known = {line["digest"] for line in placed}
    loose = [line for line in placed if line["previous"] not in known]
    assert len(loose) <= kills + 1
    assert all(line["previous"] is None or line["previous"] in tried for line in loose)
    last = registry.read_ref("shared", "chain").digest
    assert last in tried
    assert last not in {line["previous"] for line in placed}
    finished = sum(
        line["what"] == "done" and line["action"] == "shared"
        for worker in range(WORKERS)
        for line in read_log(folder / f"{worker}.log")
    )
    assert finished <= len(placed)


def storm(tmp_path, fields, count, seed, kill_every):
    root, folder = tmp_path / "registry", tmp_path / "logs"
    folder.mkdir()
    kills = run(root, folder, fields, count, seed, kill_every)
    registry = Registry(root)
    assert audit_all(registry).ok
    for listing in registry.list_refs():
        assert listing.error is None
        registry.verify(f"sosr://{listing.name}@{listing.tag}", use_cache=False)
    check_own_tags(registry, folder)
    check_shared_chain(registry, folder, kills)
    leftovers = len(list(registry.layout.tmp_dir.iterdir()))
    assert leftovers <= 5 * (kills + 1)
    registry.collect(0, dry_run=False)
    assert not list(registry.layout.tmp_dir.iterdir())
    assert len(list(registry.layout.lock_path.parent.iterdir())) <= kills
    audit = audit_all(registry)
    assert audit.ok
    assert audit.unused == []
    return kills


def test_killed_and_simultaneous_processes(tmp_path, fields):
    assert storm(tmp_path, fields, count=12, seed=1, kill_every=12) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_killed_and_simultaneous_processes_at_full_size(tmp_path, fields, seed):
    assert storm(tmp_path, fields, count=200, seed=seed, kill_every=40) >= 50

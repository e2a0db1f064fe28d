"""Ranks of a distributed run and a remote registry: one looks tags up, one per machine downloads, all load the same."""

import json
import os
import subprocess
import sys

import torch

from sosr_det.registry.opening import open_registry

RANK = """
import datetime, json, os, sys
import torch
from sosr_det.registry.remote.store import RemoteRegistry
from sosr_det.registry.scheme import load_from_sosr

rank, folder, registry, caches = int(sys.argv[1]), *sys.argv[2:4], json.loads(sys.argv[4])
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2,
    timeout=datetime.timedelta(seconds=60),
)
os.environ["SOSR_REGISTRY"] = registry
if rank == 1:  # rank 0 alone may look at tags
    RemoteRegistry.read_ref = None
results = []
for name, (cache, local_rank) in caches.items():
    os.environ["SOSR_CACHE"] = cache[rank]
    os.environ["LOCAL_RANK"] = local_rank[rank]
    try:
        content = load_from_sosr(f"sosr://{name}")
        results.append(f"ok {content['meta']['sosr_digest']} {content['state_dict']['w'].sum():g}")
    except Exception as error:
        results.append(f"{type(error).__name__} {error}")
print(json.dumps(results))
"""


def test_one_download_per_machine_and_one_outcome_for_all_ranks(s3, fields, tmp_path, fresh_cache):
    registry = open_registry(s3.root)
    entries = {
        name: registry.publish({"w": torch.full((1000,), float(n))}, fields, name)
        for n, name in enumerate(["one-machine", "two-machines", "broken-machine"], 1)
    }
    fresh_cache()
    (tmp_path / "file").write_text("a cache cannot be below a file")
    machines = {
        "one-machine": ([str(tmp_path / "a")] * 2, ["0", "1"]),
        "two-machines": ([str(tmp_path / "b"), str(tmp_path / "c")], ["0", "0"]),
        "broken-machine": ([str(tmp_path / "d"), str(tmp_path / "file" / "x")], ["0", "0"]),
        "absent": ([str(tmp_path / "a")] * 2, ["0", "1"]),
    }
    s3.requests.clear()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path), s3.root, json.dumps(machines)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=180) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in outputs)
    assert first == second
    assert first[0] == f"ok {entries['one-machine'].digest} 1000"
    assert first[1] == f"ok {entries['two-machines'].digest} 2000"
    assert first[2].startswith("RegistryError rank 1: cannot read")
    assert first[3].startswith("RegistryError rank 0: there is no 'absent'")
    downloads = {
        name: sum(entry.tensors_digest in request and request.startswith("GET") for request in s3.requests)
        for name, entry in entries.items()
    }
    assert downloads == {"one-machine": 1, "two-machines": 2, "broken-machine": 1}

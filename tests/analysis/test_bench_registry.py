"""The registry's benchmark: it measures real registries, the right files and the right processes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from sosr_det.analysis import bench_registry as bench
from sosr_det.cli.bench import app
from sosr_det.errors import ConfigError
from sosr_det.registry import Registry, audit_all
from sosr_det.registry.lineage import Lineage


def test_the_tensors_are_those_of_torchvisions_resnet50():
    from torchvision.models import resnet50

    state = resnet50(weights=None).state_dict()
    expected = {
        name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in state.items()
        if not name.startswith("fc.")
    }
    assert bench.resnet50_types() == expected


def test_the_filled_registry_is_one_that_the_library_finds_sound(tmp_path):
    bench.fill_registry(tmp_path / "r", 12)
    registry = Registry(tmp_path / "r")
    audit = audit_all(registry)
    assert (audit.ok, audit.unused) == (True, [])
    listings = registry.list_refs()
    assert len({listing.digest for listing in listings}) == 12
    kinds = [listing.summary.kind for listing in listings]
    assert kinds.count("detector") == 3
    lineage = Lineage(listings)
    assert sum(len(lineage.detectors_below(listing.digest)) for listing in listings) >= 3
    assert registry.resolve("sosr://backbone-00006").manifest.seed == 6


def test_both_peers_hash_the_file(tmp_path, monkeypatch):
    file = tmp_path / "odd\\name"  # which sha256sum escapes
    file.write_bytes(bytes(range(256)) * 5000)
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    assert bench.sha256_of(file) == bench.hashlib_sha256_of(file) == expected
    monkeypatch.setattr(bench.shutil, "which", lambda name: None)
    assert bench.sha256_of(file) == expected


def test_cpu_time_is_the_childs_and_not_the_waiting(tmp_path):
    code = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    assert 0.3 <= bench._cpu_seconds([sys.executable, "-c", code]) < 1.5
    assert bench._cpu_seconds([sys.executable, "-c", "import time; time.sleep(0.5)"]) < 0.3
    with pytest.raises(subprocess.CalledProcessError):
        bench._cpu_seconds([sys.executable, "-c", "raise SystemExit(3)"])


def test_the_base_is_subtracted_and_the_warm_up_is_not_counted(tmp_path, monkeypatch):
    costs = {
        "-c": iter([9.0, 0.1, 0.2, 0.3]),
        "--help": iter([9.0, 0.4, 0.6, 0.8]),
        "ls": iter([9.0, 1.1, 1.2, 1.3]),
    }

    def cost(command):
        return next(costs[next(word for word in costs if word in command)])

    monkeypatch.setattr(bench, "_cpu_seconds", cost)
    assert bench.bench_command_line(tmp_path, 3) == {
        "sosr-det --help": {"cpu_s": pytest.approx(0.4)},
        "sosr-det registry ls": {"cpu_s": pytest.approx(1.0)},
    }


@pytest.fixture
def quick(monkeypatch):
    """A ResNet of three tensors and no waiting, so that the whole bench takes seconds."""
    few = dict(list(bench.resnet50_types().items())[:3])
    monkeypatch.setattr(bench, "resnet50_types", lambda: few)
    monkeypatch.setattr(bench, "RACY_SECONDS", 0.0)
    monkeypatch.setattr(bench.time, "sleep", lambda seconds: None)


def test_the_whole_bench_and_what_it_leaves(quick, tmp_path, monkeypatch):
    monkeypatch.setenv("SOSR_CACHE", str(tmp_path / "cache"))
    results = bench.bench_registry(entries=5, repeats=1, sizes=(3, 6), folder=tmp_path)
    assert list(results["verify"]) == [
        "sha256sum",
        "hashlib.sha256",
        "resolve + verify",
        "resolve + cached verify",
    ]
    assert all(row["median_ms"] > 0 for row in results["verify"].values())
    assert results["verify"]["sha256sum"]["ratio"] == 1
    assert list(results["command_line"]) == ["sosr-det --help", "sosr-det registry ls"]
    assert list(results["resolve"]) == ["3", "6"]
    assert json.loads(json.dumps(results)) == results
    assert list(tmp_path.iterdir()) == []  # nor in the user's cache
    assert os.environ["SOSR_CACHE"] == str(tmp_path / "cache")


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"entries": 0}, {"sizes": (10, 0)}])
def test_nothing_is_measured_zero_times(wrong, tmp_path):
    with pytest.raises(ConfigError, match="must be at least 1"):
        bench.bench_registry(folder=tmp_path, **wrong)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_is_wanted(monkeypatch):
    results = {
        "entries": 1000,
        "repeats": 7,
        "peer": "coreutils sha256sum",
        "blob_bytes": 94_000_000,
        "verify": {
            "sha256sum": {"median_ms": 80.0, "ratio": 1.0},
            "resolve + verify": {"median_ms": 88.0, "ratio": 1.1},
        },
        "command_line": {"sosr-det --help": {"cpu_s": 0.21}},
        "resolve": {"10000": {"median_ms": 0.5}},
    }
    asked = []

    def fake(entries, repeats):
        asked.append((entries, repeats))
        return results

    monkeypatch.setattr(bench, "bench_registry", fake)
    text = CliRunner().invoke(app, ["registry", "--entries", "1000", "--repeats", "3"]).stdout
    assert asked == [(1000, 3)]
    for said in (
        "ResNet-50 (94 MB), 7 rounds",
        "resolve + verify             88.00 ms   1.100 of sha256sum",
        "at most 1.3, cached at most 5 ms",
        "sosr-det --help              0.210 s",
        "less than 0.5 s each",
        "10,000                       0.500 ms",
    ):
        assert said in text
    assert json.loads(CliRunner().invoke(app, ["registry", "--json"]).stdout) == results

"""Available memory: the machine's, and what enclosing control groups leave of it."""

from __future__ import annotations

import sys

import pytest

from sosr_det.data.memory import available_memory_bytes

KB = 1024


@pytest.fixture
def system(tmp_path):
    meminfo, own = tmp_path / "meminfo", tmp_path / "cgroup"
    meminfo.write_text("MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:    5000 kB\n")
    own.write_text("")
    (tmp_path / "fs").mkdir()
    return meminfo, own, tmp_path / "fs"


def group(folder, limit, usage, inactive=0, names=("memory.max", "memory.current")):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\n")


def test_the_machines_own(system):
    assert available_memory_bytes(*system) == 5000 * KB


def test_unknown_systems_have_none(system, tmp_path):
    _, own, root = system
    assert available_memory_bytes(tmp_path / "absent", own, root) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\n")
    assert available_memory_bytes(tmp_path / "meminfo", own, root) is None


def test_a_batch_jobs_group_and_those_around_it(system):
    meminfo, own, root = system
    own.write_text("0::/slurm/job_7/step_0\n")
    group(root / "slurm" / "job_7" / "step_0", "max", 100)
    group(root / "slurm" / "job_7", 3000 * KB, 2000 * KB, inactive=500 * KB)
    assert available_memory_bytes(meminfo, own, root) == 1500 * KB
    group(root / "slurm", 3100 * KB, 3000 * KB)
    assert available_memory_bytes(meminfo, own, root) == 100 * KB
    group(root / "slurm", 3000 * KB, 3100 * KB)
    assert available_memory_bytes(meminfo, own, root) == 0


def test_a_container_whose_group_is_the_mount(system):
    meminfo, own, root = system
    own.write_text("0::/docker/abc\n")
    group(root, 2000 * KB, 500 * KB)
    assert available_memory_bytes(meminfo, own, root) == 1500 * KB


def test_version_one_groups(system):
    meminfo, own, root = system
    own.write_text("9:cpu,cpuacct:/other\n4:memory:/job\nnot a line\n")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group(root / "memory" / "job", 800 * KB, 300 * KB, names=names)
    group(root / "memory", 9223372036854771712, 300 * KB, names=names)
    assert available_memory_bytes(meminfo, own, root) == 500 * KB


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_on_this_machine():
    available = available_memory_bytes()
    assert available is None or 1e6 < available < 1e14

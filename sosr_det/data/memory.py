"""How much memory a process may still take."""

from __future__ import annotations

from pathlib import Path


def available_memory_bytes(
    meminfo: Path = Path("/proc/meminfo"),
    own_cgroup: Path = Path("/proc/self/cgroup"),
    cgroup_root: Path = Path("/sys/fs/cgroup"),
) -> int | None:
    """Bytes that can be allocated without swapping or meeting the limit of a container or batch job.

    The least of the machine's available memory and what each enclosing control group (Docker, Kubernetes, Slurm)
    leaves. None where the system does not tell (not Linux).
    """
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    return min([available, *_left_in_control_groups(own_cgroup, cgroup_root)])


def _left_in_control_groups(own_cgroup: Path, root: Path) -> list[int]:
    try:
        entries = [line.split(":", 2) for line in own_cgroup.read_text().splitlines()]
    except OSError:
        return []
    left = []
    for entry in entries:
        if len(entry) != 3:
            continue
        _, controllers, group = entry
        if controllers == "":
            base, limit, usage = root, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, usage = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = base / group.lstrip("/")
        # Inside a container the group's own path may not exist below the mount, which then is the group.
        while folder != base.parent:
            left += _left_in(folder, limit, usage)
            folder = folder.parent
    return left


def _left_in(folder: Path, limit_name: str, usage_name: str) -> list[int]:
    try:
        limit, usage = (folder / limit_name).read_text().strip(), int((folder / usage_name).read_text())
        if limit == "max":
            return []
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return []
    reclaimable = int(statistics.get("inactive_file", 0))  # page cache that the kernel gives back
    return [max(int(limit) - usage + reclaimable, 0)]

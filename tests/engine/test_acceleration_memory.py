"""Freed memory is kept on the CPU, unless somebody has said otherwise."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

from sosr_det.engine.acceleration.memory import keep_freed_memory

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another libc's allocator")
# Page faults of taking and freeing 24 MB, twenty times, after the first.
FAULTS = """
import ctypes, resource, sys
from sosr_det.engine.acceleration.memory import keep_freed_memory
assert keep_freed_memory() is (sys.argv[1] == "keep")
def use():
    block = bytearray(24 << 20)
    del block
for _ in range(3): use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how, **environment):
    result = subprocess.run(
        [sys.executable, "-c", FAULTS, how], env={"PATH": "", **environment}, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


@GLIBC
def test_freed_blocks_are_not_fetched_from_the_system_again():
    block_pages = (24 << 20) // resource.getpagesize()
    assert faults("keep") < block_pages  # of 20 blocks
    # The negative control: with a fixed threshold below, every block is mapped and unmapped.
    assert faults("leave", MALLOC_MMAP_THRESHOLD_="1000000") > 10 * block_pages


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SOSR_KEEP_FREED_MEMORY", "0"),
        ("MALLOC_ARENA_MAX", "2"),
        ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1"),
        ("LD_PRELOAD", "libtcmalloc.so"),
    ],
)
def test_what_is_set_by_hand_stays(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert keep_freed_memory() is False

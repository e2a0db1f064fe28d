"""The command line starts fast: what a command does not need is not imported."""

import subprocess
import sys

import pytest

from sosr_det.registry.layout import MARKER, MARKER_BYTES
from sosr_det.registry.manifest import Summary
from sosr_det.registry.refs import Ref

LIMIT = 0.5  # seconds of process time beyond `python -c pass`

CODE = """
import resource, subprocess, sys

def cost(arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

print(cost(sys.argv[1:]) - cost(["-c", "pass"]))
"""


def process_time(*arguments, limit):
    """Seconds of process time beyond an idle Python's, the least of a few runs: other work on the machine adds some."""
    best = float("inf")
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", CODE, *arguments], check=True, capture_output=True)
        best = min(best, float(done.stdout))
        if best < limit:
            break
    return best


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """A registry with 1,000 tags; only the files that a list reads."""
    root = tmp_path_factory.mktemp("thousand")
    (root / MARKER).write_bytes(MARKER_BYTES)
    for number in range(1000):
        digest = f"{number:064x}"
        summary = Summary(
            kind="backbone",
            arch="resnet50",
            data="imagenet-1k",
            recipe="resnet50_sosr_8xb32-90e_in1k",
            metrics={"top1": 76.1 + number / 1000, "ece": 0.03},
            size_bytes=102_000_000,
            num_tensors=320,
            tensors_digest=digest,
            parents=(),
            license="Apache-2.0",
            created="2026-11-22T17:05:00Z",
        )
        folder = root / "refs" / f"model-{number:04d}"
        folder.mkdir(parents=True)
        ref = Ref(folder.name, "latest", digest, "2026-11-22T17:05:00Z", None, summary)
        (folder / "latest.json").write_bytes(ref.to_bytes())
    return root


@pytest.mark.skipif(sys.platform == "win32", reason="no process times of children")
@pytest.mark.parametrize("arguments", [["--help"], ["registry", "--help"], ["train", "--help"]])
def test_help_comes_at_once(arguments):
    assert process_time("-m", "sosr_det.cli", *arguments, limit=LIMIT) < LIMIT


@pytest.mark.skipif(sys.platform == "win32", reason="no process times of children")
def test_a_thousand_entries_are_listed_at_once(thousand):
    arguments = ("-m", "sosr_det.cli", "registry", "ls", "--registry", str(thousand))
    listed = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)
    assert listed.stdout.count("model-") == 1000
    assert process_time(*arguments, limit=LIMIT) < LIMIT


@pytest.mark.skipif(sys.platform == "win32", reason="no process times of children")
def test_the_measurement_sees_a_heavy_import():
    """The control: importing torch alone takes longer than all of this may."""
    assert process_time("-c", "import torch", limit=float("inf")) > LIMIT


def test_the_command_tree_imports_nothing_heavy():
    code = (
        "import sys, sosr_det.cli.main\n"
        "heavy = {'torch', 'numpy', 'mmengine', 'mmdet', 'mmcv', 'safetensors', 'fsspec', 'filelock', 'timm', 'rich', "
        "'matplotlib', 'optuna', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

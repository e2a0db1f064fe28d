"""Fixtures for all tests."""

import ctypes
import functools
import gc
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """Two costs that are no test's point and would be a fifth of all the time."""
    # What the test modules imported stays; the collector would walk through half a million objects of it for every
    # data set that mmengine builds (0.2 s each) and after every test of a remote registry.
    gc.collect()
    gc.freeze()
    if "mmengine" in sys.modules:
        _format_a_config_once()


def _format_a_config_once() -> None:
    """A run has yapf format the same text about seven times, for its files, its logs and each visualizer."""
    from yapf.yapflib import yapf_api

    real, known = yapf_api.FormatCode, {}

    @functools.wraps(real)
    def format_code(text, *arguments, **options):
        key = (text, repr(arguments), repr(options))
        if key not in known:
            known[key] = real(text, *arguments, **options)
        return known[key]

    yapf_api.FormatCode = format_code


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """glibc keeps what trained networks took, 3 GB in the end, and forking costs 0.1 s for each of them."""
    if nextitem is None or nextitem.path != item.path:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            gc.collect()
            trim(0)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Tests neither use nor fill the user's cache of verified blobs and remote registries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOSR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with small pieces of real data: $SOSR_SHARED_DATA, or shared/data beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SOSR_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no shared test data at {folder} (set SOSR_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def unpacked(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``unpacked("bccd")``: the folder in shared data's ``bccd.tar`` (or ``.tar.xz``), unpacked once per session."""
    parent = tmp_path_factory.mktemp("shared_data")
    done: set[str] = set()

    def unpack(name: str) -> Path:
        if name not in done:
            candidates = [shared_data / f"{name}{suffix}" for suffix in (".tar", ".tar.xz")]
            archive = next((path for path in candidates if path.is_file()), None)
            if archive is None:
                pytest.skip(f"no {name}.tar or {name}.tar.xz in {shared_data}")
            with tarfile.open(archive) as tar:
                tar.extractall(parent, filter="data")
            done.add(name)
        return parent / name

    return unpack

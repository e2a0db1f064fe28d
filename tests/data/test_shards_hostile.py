"""Shards that someone made up, and stores that answer in their own ways."""

from __future__ import annotations

import functools
import http.server
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sosr_det.cli.main import app
from sosr_det.data.imagenet import ImageNetFolder
from sosr_det.data.shards.dataset import ShardedImages
from sosr_det.data.shards.opening import open_shards
from sosr_det.data.shards.storage import Storage
from sosr_det.data.shards.table import read_table, write_table
from sosr_det.data.shards.write import write_shards
from sosr_det.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SOSR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def written(tmp_path):
    """Two shards of six images, and their data set of folders."""
    from torchvision.io import encode_jpeg

    draws = torch.Generator().manual_seed(0)
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            folder = tmp_path / "in" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                image = torch.randint(0, 256, (3, 60, 60), dtype=torch.uint8, generator=draws)
                (folder / f"{number}.JPEG").write_bytes(bytes(encode_jpeg(image, 95)))
    folders = ImageNetFolder(str(tmp_path / "in"), "train", [])
    assert len(write_shards(folders, tmp_path / "out", "train", 30_000).index.shards) > 1
    return tmp_path / "out", folders


def test_an_index_of_endless_lists_is_damaged(written):
    out, _ = written
    (out / "train/index.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="damaged or was changed by hand"):
        open_shards(out, "train")


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("begin", 2**64 - 10, "beyond the end of a shard"),  # begin + size is small again in 64 bits
        ("begin", 2**63, "beyond the end of a shard"),
        ("size", 2**32 - 1, "beyond the end of a shard"),
        ("offsets", 2**31, "paths"),
    ],
)
def test_places_that_cannot_be_are_refused_on_opening(written, column, value, problem):
    out, _ = written
    file = out / "train/samples.idx"
    table = read_table(file)
    values = getattr(table, column).copy()
    values[0] = value
    setattr(table, column, values)
    write_table(file, table)
    with pytest.raises(DataError, match=problem):
        open_shards(out, "train")


class _RangesToo(http.server.SimpleHTTPRequestHandler):
    """Python's server lacks ranges, which every real one has."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        asked = self.headers.get("Range")
        if asked is None:
            super().do_GET()
            return
        data = Path(self.translate_path(self.path)).read_bytes()
        first, last = asked.removeprefix("bytes=").split("-")
        part = data[int(first) : int(last or len(data) - 1) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


@pytest.mark.parametrize("options", [{}, {"keep": True}, {"read_ahead_bytes": 5_000}])
def test_a_web_server_whose_listing_has_no_sizes(written, options):
    pytest.importorskip("aiohttp")
    out, folders = written
    handler = functools.partial(_RangesToo, directory=str(out))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            shards = ShardedImages(f"http://127.0.0.1:{server.server_port}", "train", [], **options)
            for place in (0, 3, 5):
                assert torch.equal(shards[place]["inputs"], folders[place]["inputs"])
        finally:
            server.shutdown()
            thread.join()


class _NoCredentials(Exception):
    """As botocore's: no OSError."""


def test_a_stores_own_exceptions_are_told_as_an_unreachable_store(monkeypatch):
    storage = Storage("memory://nowhere")

    def refuse(*args, **kwargs):
        raise _NoCredentials("Unable to locate credentials")

    monkeypatch.setattr(type(storage.filesystem), "ls", refuse)
    with pytest.raises(DataError, match=r"Unable to locate credentials.*Is the disk or the store in reach"):
        open_shards("memory://nowhere", "train")


def test_reading_on_in_a_store_that_lost_its_credentials(written, monkeypatch):
    import fsspec

    out, folders = written
    memory = fsspec.filesystem("memory")
    for file in (out / "train").iterdir():
        if not file.name.startswith("."):
            memory.pipe_file(f"/lost/train/{file.name}", file.read_bytes())
    shards = ShardedImages("memory://lost", "train", [])

    def refuse(*args, **kwargs):
        raise _NoCredentials("token expired")

    monkeypatch.setattr("sosr_det.data.shards.reader._PAUSES_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(type(memory), "cat_file", refuse)
    with pytest.raises(DataError, match="token expired"):
        shards[0]
    memory.rm("/lost", recursive=True)
    assert np.array_equal(shards.labels, folders.labels)


@pytest.mark.parametrize(
    "reason", [ConnectionError("nobody answers"), PermissionError(13, "Permission denied")]
)
def test_a_store_that_cannot_be_written_is_told_by_the_command(written, monkeypatch, reason):
    _, folders = written

    def refuse(*args, **kwargs):
        raise reason

    monkeypatch.setattr("sosr_det.data.shards.storage.Storage.sizes", refuse)
    arguments = ["data", "shard", str(folders.root), "--out", "memory://elsewhere", "--split", "train"]
    with pytest.raises(DataError, match=r"memory://elsewhere cannot be written: .*The same command goes on"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)

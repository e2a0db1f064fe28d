"""Downloading: continued, checked, and quick to say that there is no network. Servers run in threads of the test."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import io
import re
import socket
import threading
import time
import zipfile
from collections.abc import Iterator

import pytest

from sosr_det.data.prepare import Archive, Patience, catalogue, dataset_entry, prepare_dataset
from sosr_det.data.prepare.catalogue import OfficialSplit
from sosr_det.data.prepare.download import DownloadError, download_archive
from sosr_det.errors import DataError

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes, more than one read
QUICK = Patience(contact_s=3, stall_s=0.4, retries=2, pause_s=0.01)


class Server(http.server.ThreadingHTTPServer):
    """A file server whose faults the test chooses."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.supports_range = True
        self.cut_after: list[int] = []  # for each request: close after so many bytes of the body
        self.hang_after: int | None = None  # fall silent after so many bytes
        self.statuses: list[int] = []  # for each request: answer with this status instead
        self.shift = 0  # answer a range this many bytes too early
        self.ranges: list[str | None] = []  # what was asked for
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        body, total = server.content, len(server.content)
        match = re.fullmatch(r"bytes=(\d+)-", asked or "")
        if match and server.supports_range:
            start = max(0, int(match[1]) - server.shift)
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            body = body[start:]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.cut_after:
            self.wfile.write(body[: server.cut_after.pop(0)])
            return
        if server.hang_after is not None:
            self.wfile.write(body[: server.hang_after])
            self.wfile.flush()
            server.released.wait(20)
            return
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def serve() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


server_fixture = pytest.fixture(serve, name="server")
mirror_fixture = pytest.fixture(serve, name="mirror")


def archive_at(url: str, content: bytes = CONTENT) -> Archive:
    return Archive("file.bin", hashlib.md5(content).hexdigest(), len(content), url)


def part_of(target):
    return target.with_name(target.name + ".part")


def test_a_plain_download_with_progress(server, tmp_path):
    seen = []
    target = tmp_path / "file.bin"
    download_archive(archive_at(server.url), target, patience=QUICK, progress=lambda *args: seen.append(args))
    assert target.read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]
    downloading = [(done, total) for activity, done, total in seen if activity == "downloading file.bin"]
    assert downloading[-1] == (len(CONTENT), len(CONTENT))
    assert downloading == sorted(downloading)


def test_a_partial_file_is_continued(server, tmp_path):
    target = tmp_path / "file.bin"
    part_of(target).write_bytes(CONTENT[:100_000])
    download_archive(archive_at(server.url), target, patience=QUICK)
    assert target.read_bytes() == CONTENT
    assert server.ranges == ["bytes=100000-"]


def test_a_server_without_range_starts_again(server, tmp_path):
    server.supports_range = False
    target = tmp_path / "file.bin"
    part_of(target).write_bytes(b"x" * 100_000)  # kept bytes would give a wrong file
    download_archive(archive_at(server.url), target, patience=QUICK)
    assert target.read_bytes() == CONTENT
    assert server.ranges == ["bytes=100000-"]


def test_a_server_that_answers_an_earlier_range_is_put_in_place(server, tmp_path):
    server.shift = 4096
    target = tmp_path / "file.bin"
    part_of(target).write_bytes(CONTENT[:100_000])
    download_archive(archive_at(server.url), target, patience=QUICK)
    assert target.read_bytes() == CONTENT


def test_a_complete_part_needs_no_more_bytes(server, tmp_path):
    target = tmp_path / "file.bin"
    part_of(target).write_bytes(CONTENT)
    download_archive(archive_at(server.url), target, patience=QUICK)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    target = tmp_path / "file.bin"
    part_of(target).write_bytes(CONTENT + b"more")
    download_archive(archive_at(server.url), target, patience=QUICK)
    assert target.read_bytes() == CONTENT


def test_a_part_of_another_version_is_fetched_again_from_the_start(server, tmp_path):
    target = tmp_path / "file.bin"
    part_of(target).write_bytes(b"old version" * 1000)
    download_archive(archive_at(server.url), target, patience=QUICK)
    assert target.read_bytes() == CONTENT
    assert server.ranges == ["bytes=11000-", None]


@pytest.mark.parametrize("supports_range", [True, False])
def test_a_cut_connection_is_mended(server, tmp_path, supports_range):
    server.supports_range = supports_range
    server.cut_after = [100_000, 150_000]
    target = tmp_path / "file.bin"
    download_archive(archive_at(server.url), target, patience=QUICK)
    assert target.read_bytes() == CONTENT
    second = "bytes=250000-" if supports_range else "bytes=150000-"
    assert server.ranges == [None, "bytes=100000-", second]


def test_progress_resets_the_count_of_failures(server, tmp_path):
    server.cut_after = [50_000] * 8  # more cuts than retries, but each brings new bytes
    target = tmp_path / "file.bin"
    download_archive(archive_at(server.url), target, patience=QUICK)
    assert target.read_bytes() == CONTENT


def test_a_server_that_never_gets_further_is_given_up_and_the_part_kept(server, tmp_path):
    server.supports_range = False
    server.cut_after = [1000] * 50
    target = tmp_path / "file.bin"
    with pytest.raises(
        DownloadError, match=r"broke off at 1,000 bytes .*closed after 1,000 of 512,000.*3 times"
    ) as e:
        download_archive(archive_at(server.url), target, patience=QUICK)
    assert len(server.ranges) == 1 + 1 + QUICK.retries
    assert str(part_of(target)) in str(e.value)
    assert part_of(target).stat().st_size == 1000
    assert not target.exists()


def test_a_server_that_falls_silent_is_given_up_in_time(server, tmp_path):
    server.supports_range = False
    server.hang_after = 1000
    started = time.monotonic()
    with pytest.raises(DownloadError, match="fell silent"):
        download_archive(archive_at(server.url), tmp_path / "file.bin", patience=QUICK)
    assert 0.4 * 3 < time.monotonic() - started < 5


def test_a_wrong_checksum_is_named_and_removed(server, tmp_path):
    archive = archive_at(server.url, CONTENT[:-1] + b"!")
    target = tmp_path / "file.bin"
    with pytest.raises(DownloadError) as error:
        download_archive(archive, target, patience=QUICK)
    assert archive.md5 in str(error.value)
    assert hashlib.md5(CONTENT).hexdigest() in str(error.value)
    assert list(tmp_path.iterdir()) == []
    assert server.ranges == [None]  # a fresh download is not repeated


def test_a_web_page_instead_of_the_file_is_recognised(server, tmp_path):
    server.content = b"\n<!DOCTYPE html><title>Log in to the network</title>"
    with pytest.raises(DownloadError, match="web page"):
        download_archive(archive_at(server.url), tmp_path / "file.bin", patience=QUICK)


def test_not_found_is_not_tried_again(server, tmp_path):
    server.statuses = [404] * 9
    with pytest.raises(DownloadError, match="404 Not Found"):
        download_archive(archive_at(server.url), tmp_path / "file.bin", patience=QUICK)
    assert len(server.ranges) == 1


def test_a_busy_server_is_tried_again(server, tmp_path):
    server.statuses = [503, 503]
    download_archive(archive_at(server.url), tmp_path / "file.bin", patience=QUICK)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert len(server.ranges) == 3
    server.statuses = [503] * 9
    with pytest.raises(DownloadError, match="503"):
        download_archive(archive_at(server.url), tmp_path / "again.bin", patience=QUICK)
    assert len(server.ranges) == 3 + 1 + QUICK.retries


def test_proxy_variables_are_used(server, tmp_path, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    download_archive(archive_at("http://nowhere.invalid/file.bin"), tmp_path / "file.bin", patience=QUICK)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_no_network_is_told_at_once(tmp_path):
    started = time.monotonic()
    with pytest.raises(
        DownloadError, match=r"cannot reach http://127.0.0.1:\d+/file.bin: Connection refused"
    ):
        download_archive(archive_at(f"http://127.0.0.1:{closed_port()}/file.bin"), tmp_path / "file.bin")
    assert time.monotonic() - started < 2  # with the default patience: no retries without contact
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_never_answers_is_given_up_after_the_contact_time(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        archive = archive_at(f"http://127.0.0.1:{silent.getsockname()[1]}/file.bin")
        started = time.monotonic()
        with pytest.raises(DownloadError, match=r"cannot reach .* no answer within 0.5 seconds"):
            download_archive(archive, tmp_path / "file.bin", patience=Patience(contact_s=0.5, stall_s=0.8))
        assert 0.5 <= time.monotonic() - started < 2
        time.sleep(0.5)  # the abandoned thread closes its socket


def test_a_slow_name_server_counts_as_contact_time(tmp_path, monkeypatch):
    released = threading.Event()

    def slow(*_, **__):
        released.wait(10)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"no answer within 0\.3 seconds"):
        download_archive(
            archive_at("http://nowhere.invalid/f"), tmp_path / "file.bin", patience=Patience(contact_s=0.3)
        )
    assert time.monotonic() - started < 2
    released.set()


# ---- mirrors ----


def with_mirrors(url: str, *mirrors: str) -> Archive:
    return dataclasses.replace(archive_at(url), mirrors=mirrors)


def test_a_mirror_is_not_asked_while_the_first_place_answers(server, mirror, tmp_path):
    download_archive(with_mirrors(server.url, mirror.url), tmp_path / "file.bin", patience=QUICK)
    assert ((tmp_path / "file.bin").read_bytes(), mirror.ranges) == (CONTENT, [])


@pytest.mark.parametrize("trouble", ["no server", "not found", "another file"])
def test_a_mirror_gives_what_the_first_place_does_not(server, mirror, tmp_path, trouble):
    url = f"http://127.0.0.1:{closed_port()}/file.bin" if trouble == "no server" else server.url
    server.statuses = [404] if trouble == "not found" else []
    server.content = b"something else" if trouble == "another file" else CONTENT
    archive = with_mirrors(url, f"http://127.0.0.1:{closed_port()}/file.bin", mirror.url)
    download_archive(archive, tmp_path / "file.bin", patience=QUICK)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_a_mirror_goes_on_where_the_first_place_broke_off(server, mirror, tmp_path):
    server.cut_after, server.supports_range = [100_000] * 9, False
    download_archive(with_mirrors(server.url, mirror.url), tmp_path / "file.bin", patience=QUICK)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert mirror.ranges == ["bytes=100000-"]


def test_when_no_place_gives_it_each_says_why(server, mirror, tmp_path):
    mirror.content = b"something else"
    archive = with_mirrors(f"http://127.0.0.1:{closed_port()}/file.bin", server.url, mirror.url)
    server.statuses = [404]
    with pytest.raises(DownloadError) as error:
        download_archive(archive, tmp_path / "file.bin", patience=QUICK)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    for line, (url, reason) in zip(
        lines,
        (
            (archive.url, "Connection refused"),
            (server.url, "404"),
            (mirror.url, "did not give the published"),
        ),
        strict=True,
    ):
        assert url in line
        assert reason in line
    assert list(tmp_path.iterdir()) == []


# ---- through prepare_dataset ----


@pytest.mark.parametrize("there", [0, 1])
def test_voc_without_network_says_which_files_to_bring(tmp_path, monkeypatch, there):
    """The real catalogue: every place, size, checksum and target of what is missing, and the command to run then."""

    def refused(*_, **__):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    entry = dataset_entry("voc")
    root = tmp_path / "data"
    root.mkdir()
    for archive in entry.archives[:there]:  # brought already
        (root / archive.filename).write_bytes(b"x")
        replaced = dataclasses.replace(archive, md5=hashlib.md5(b"x").hexdigest())
        entry = dataclasses.replace(entry, archives=(replaced, *entry.archives[1:]))
    monkeypatch.setattr(catalogue, "CATALOGUE", {"voc": entry})
    with pytest.raises(DataError) as error:
        prepare_dataset("voc", root)
    message = str(error.value)
    assert "name resolution" in message
    for archive in entry.archives[there:]:
        for needed in (archive.url, *archive.mirrors, archive.md5, f"{archive.size / 1e6:,.1f} MB"):
            assert needed in message
        assert f"-> {root / archive.filename}" in message
        assert len(archive.mirrors) == 1
    for archive in entry.archives[:there]:
        assert archive.md5 not in message
    assert f"sosr-det data prepare voc --root {root}" in message


@functools.cache  # a zip holds the time, so making it twice may give other bytes
def miniature_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for wnid in ("n00000001", "n00000002"):
            archive.writestr(f"mini/train/{wnid}/images/{wnid}_0.JPEG", b"not decoded here")
        archive.writestr("mini/val/images/val_0.JPEG", b"1")
        archive.writestr("mini/val/images/val_1.JPEG", b"2")
        archive.writestr("mini/val/val_annotations.txt", "val_0.JPEG\tn00000001\nval_1.JPEG\tn00000002\n")
    return buffer.getvalue()


@pytest.fixture
def miniature(server, monkeypatch):
    """A Tiny ImageNet of two classes that the test's server offers."""
    server.content = miniature_zip()
    entry = dataclasses.replace(
        dataset_entry("tiny-imagenet"),
        archives=(dataclasses.replace(archive_at(server.url, server.content), filename="mini.zip"),),
        archive_top="mini",
        unpacked_bytes=10_000,
        splits={"train": OfficialSplit(2, 1), "val": OfficialSplit(2, 1)},
        classes=2,
    )
    monkeypatch.setattr(catalogue, "CATALOGUE", {**catalogue.CATALOGUE, "tiny-imagenet": entry})
    return entry


def test_prepare_downloads_unpacks_and_does_nothing_twice(server, miniature, tmp_path):
    prepared = prepare_dataset("tiny-imagenet", tmp_path, patience=QUICK)
    assert prepared.folder == tmp_path / "tiny-imagenet-200"
    assert prepared.images == {"train": 2, "val": 2}
    assert (prepared.folder / "train/n00000002/images/n00000002_0.JPEG").is_file()
    assert prepared.archives == (tmp_path / "mini.zip",)
    asked = len(server.ranges)
    again = prepare_dataset("tiny-imagenet", tmp_path, patience=QUICK)
    assert again.already_there
    assert not prepared.already_there
    assert len(server.ranges) == asked


def test_prepare_goes_on_after_an_interrupted_download(server, miniature, tmp_path):
    server.cut_after = [100] * 9
    server.supports_range = False
    with pytest.raises(DataError, match="broke off"):
        prepare_dataset("tiny-imagenet", tmp_path, patience=QUICK)
    assert not (tmp_path / "tiny-imagenet-200").exists()
    server.cut_after, server.supports_range, server.ranges = [], True, []
    prepare_dataset("tiny-imagenet", tmp_path, patience=QUICK)
    assert server.ranges == ["bytes=100-"]


def test_prepare_says_what_to_place_when_there_is_no_network(miniature, tmp_path, monkeypatch):
    url = f"http://127.0.0.1:{closed_port()}/mini.zip"
    archive = dataclasses.replace(miniature.archives[0], url=url)
    entry = dataclasses.replace(miniature, archives=(archive,))
    monkeypatch.setattr(catalogue, "CATALOGUE", {"tiny-imagenet": entry})
    root = tmp_path / "my data"
    with pytest.raises(DataError) as error:
        prepare_dataset("tiny-imagenet", root)
    message = str(error.value)
    for needed in (url, archive.md5, str(root / "mini.zip"), f"prepare tiny-imagenet --root '{root}'"):
        assert needed in message
    # Following the advice works, without network.
    assert "make the folder if it is missing" in message
    root.mkdir()
    (root / "mini.zip").write_bytes(miniature_zip())
    assert prepare_dataset("tiny-imagenet", root).images == {"train": 2, "val": 2}


def test_no_request_is_made_when_the_disk_is_too_small(server, miniature, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("sosr_det.data.prepare.staging.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"Tiny ImageNet needs about 0\.00 GB more .* --root"):
        prepare_dataset("tiny-imagenet", tmp_path, patience=QUICK)
    assert server.ranges == []

"""What a root may be, and how it is opened: a path, file://, a store, a web server that can only be read."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading

import pytest

from sosr_det.errors import RegistryError
from sosr_det.registry.digest import tensors_digest
from sosr_det.registry.opening import open_registry, registry_root
from sosr_det.registry.remote import faults
from sosr_det.registry.remote.store import RemoteRegistry
from sosr_det.registry.remote.urls import is_remote, parse_remote
from sosr_det.registry.store import Registry


def test_paths_and_file_urls_are_folders(tmp_path, monkeypatch):
    for root in (
        tmp_path / "r",
        str(tmp_path / "r"),
        f"file://{tmp_path}/r",
        f"file://localhost{tmp_path}/r",
    ):
        opened = open_registry(root)
        assert type(opened) is Registry
        assert opened.root == tmp_path / "r"
    for bad in ("file://host/share", "file://relative"):
        with pytest.raises(RegistryError, match=r"three slashes"):
            open_registry(bad)
    monkeypatch.chdir(tmp_path)
    assert open_registry().root == tmp_path / "registry"
    monkeypatch.setenv("SOSR_REGISTRY", f"file://{tmp_path}/env")
    assert open_registry().root == tmp_path / "env"
    monkeypatch.setenv("SOSR_REGISTRY", "S3://bucket/prefix/")
    assert isinstance(open_registry(), RemoteRegistry)
    assert open_registry().root == "s3://bucket/prefix"
    assert registry_root() == "S3://bucket/prefix/"


@pytest.mark.parametrize(
    "root",
    [
        "s3://",
        "s3://bucket//x",
        "s3://bucket/../x",
        "s3://b/x?y=1",
        "simplecache::s3://b/x",
        "s3://b/x#1",
        "s3://b/\nx",
    ],
)
def test_urls_that_cannot_be_a_root_are_refused(root):
    with pytest.raises(RegistryError, match="expected a path, or a URL such as"):
        parse_remote(root)


def test_an_unknown_protocol_is_explained():
    with pytest.raises(RegistryError, match="cannot be opened"):
        open_registry("gopher://host/x").resolve("sosr://a")


@pytest.mark.parametrize("root", ["s3://bucket/x", "s3:/bucket/x", "memory://x"])
def test_a_folder_is_never_made_of_a_url(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RegistryError, match="URL of a store"):
        Registry(root)
    monkeypatch.setenv("SOSR_REGISTRY", root)
    with pytest.raises(RegistryError, match="URL of a store"):
        Registry()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", ["s3:/bkt/reg", "S3:/bkt/reg"])
def test_a_lost_slash_is_found(given):
    with pytest.raises(RegistryError, match=rf"did you mean {given.replace(':/', '://')}\?") as caught:
        open_registry(given)
    assert "open_registry" not in str(caught.value)


def test_registries_do_not_share_a_cache_folder():
    roots = [
        "s3://b/x",
        "s3://b/y",
        "s3://b/x/y",
        "s3://b/x_y",
        "gs://b/x",
        "s3://me:1@b/x",
        "s3://b/" + "x" * 300,
    ]
    names = [parse_remote(root).folder_name for root in roots]
    assert len(set(names)) == len(names)
    assert all(len(name) < 90 and "/" not in name and "me:1" not in name for name in names)
    assert parse_remote("s3://b/x/").folder_name == names[0]


def test_opening_imports_neither_fsspec_nor_torch():
    code = (
        "import sys; from sosr_det.registry.opening import open_registry; open_registry('s3://b/x');"
        "bad = {'fsspec', 's3fs', 'torch', 'mmengine', 'aiohttp'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(params=["with an index of its folders", "without"])
def web(request, tmp_path, state, fields):
    """A local registry behind a web server: (URL, entry)."""
    entry = Registry(tmp_path / "www" / "registry").publish(state, fields, "r50", ["latest", "v1"])

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def list_directory(self, path):
            if request.param == "without":
                self.send_error(403, "no listing")
                return None
            return super().list_directory(path)

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path / "www"))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/registry", entry, request.param == "without"
    server.shutdown()
    server.server_close()
    thread.join(10)
    from fsspec.implementations.http import HTTPFileSystem

    HTTPFileSystem.clear_instance_cache()


def test_a_registry_behind_a_web_server_can_be_read_and_not_written(web, state, fields, monkeypatch, caplog):
    pytest.importorskip("aiohttp")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    url, entry, unlisted = web
    registry = open_registry(url)
    assert tensors_digest(registry.load("sosr://r50@v1")) == entry.tensors_digest
    assert open_registry(url).resolve(entry.pinned_uri).digest == entry.digest
    assert registry.check(registry.resolve("sosr://r50")) == []
    if unlisted:
        with pytest.raises(RegistryError, match=r"access denied|cannot list"):
            registry.names()
        with pytest.raises(RegistryError, match=r"'r60'|cannot list"):
            registry.resolve("sosr://r60")
    else:
        assert registry.names() == ["r50"]
        assert registry.tags("r50") == ["latest", "v1"]
        assert registry.manifest_digests() == [entry.digest]
        with pytest.raises(RegistryError, match="Near names: r50"):
            registry.resolve("sosr://r51")
    with registry.hold(entry.digest) as pin:
        assert pin.key is None
    for change in (
        lambda: registry.publish(state, fields, "x"),
        lambda: registry.tag("sosr://r50", ["y"]),
        lambda: registry.remove("r50", "v1"),
        lambda: registry.collect(0, dry_run=False),
        lambda: registry.collect(0),  # of folders that need not be listed: "0 entries stay" would be made up
    ):
        caplog.clear()
        with pytest.raises(RegistryError, match="is read-only"):
            change()
        assert not caplog.records
    content = bytearray(entry.blob_path.read_bytes())
    entry.blob_path.write_bytes(content[: len(content) // 2])
    shutil.rmtree(os.environ["SOSR_CACHE"])
    with pytest.raises(RegistryError, match=r"expected \d+ bytes, found \d+ bytes"):
        open_registry(url).load("sosr://r50")


@pytest.mark.parametrize("trouble", ["gone", 503, 403])
def test_a_web_server_in_trouble_is_not_an_empty_one(trouble, monkeypatch, state, fields, tmp_path):
    """fsspec says "no such file" for whatever a web server answers, and when there is none."""
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(faults, "DELAYS", (0.01,))
    Registry(tmp_path / "registry").publish(state, fields, "r50")
    broken = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def send_head(self):
            return self.send_error(trouble) if broken else super().send_head()

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def close():  # without the shutdown the thread would go on for ever, asking a closed socket
        server.shutdown()
        server.server_close()
        thread.join(10)

    try:
        url = f"http://127.0.0.1:{server.server_port}/registry"
        registry = open_registry(url)
        digest = registry.resolve("sosr://r50").digest
        registry.load("sosr://r50")
        broken.append(True)
        if trouble == "gone":
            close()
        said = {"gone": "cannot be reached", 503: "the store failed", 403: "access denied"}[trouble]
        for ask in (
            lambda: open_registry(url).resolve("sosr://r50"),
            lambda: registry.resolve("sosr://r50"),
            lambda: registry.list_refs(),
        ):
            with pytest.raises(RegistryError, match=said):
                ask()
        monkeypatch.setenv("SOSR_OFFLINE", "1")  # nothing of what was seen is forgotten
        assert open_registry(url).resolve("sosr://r50").digest == digest
    finally:
        close()


def test_a_store_with_folders_and_no_conditions_works_too(tmp_path, state, fields, caplog):
    """SFTP, WebDAV and their like: fsspec's own local file system under another name stands for them."""
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    class Elsewhere(LocalFileSystem):
        protocol = "elsewhere"
        cachable = False

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(str(path).removeprefix("elsewhere:/"))

        def put_file(self, lpath, rpath, callback=None, **kwargs):
            shutil.copyfile(lpath, rpath)

        def pipe_file(self, path, value, **kwargs):
            with open(path, "wb") as file:
                file.write(value)

    fsspec.register_implementation("elsewhere", Elsewhere, clobber=True)
    assert is_remote("elsewhere://x")
    registry = open_registry(f"elsewhere:/{tmp_path}/shared")
    entry = registry.publish(state, fields, "r50", ["latest", "v1"])
    assert "no conditional writes" in caplog.text
    assert Registry(tmp_path / "shared").resolve("sosr://r50").digest == entry.digest
    Registry(tmp_path / "shared").verify("sosr://r50@v1")
    shutil.rmtree(os.environ["SOSR_CACHE"])
    assert (
        tensors_digest(open_registry(f"elsewhere:/{tmp_path}/shared").load("sosr://r50"))
        == entry.tensors_digest
    )
    assert not list((tmp_path / "shared" / "tmp").iterdir())
    assert registry.remove("r50", "v1") == [("r50", "v1")]
    assert {item.kind for item in registry.collect(0).garbage} == set()

"""Checkpoint addresses inside MMEngine: each is fetched, checked and read safely, or refused."""

from __future__ import annotations

import hashlib
import http.server
import io
import threading
from functools import partial

import pytest
import torch
from mmengine.runner import CheckpointLoader, load_checkpoint
from mmengine.runner import checkpoint as theirs

import sosr_det.register  # noqa: F401
from sosr_det.engine import safe_loaders
from sosr_det.engine.safe_loaders import LOADERS, load_from_refused, register_safe_loaders
from sosr_det.errors import CheckpointError
from sosr_det.registry.hub_cache import fetch


class Server:
    """Files of a folder over HTTP, and what was asked for."""

    def __init__(self, folder):
        self.folder, self.asked = folder, []
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                super().do_GET()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(Handler, directory=str(folder))
        )
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    (tmp_path / "served").mkdir()
    server = Server(tmp_path / "served")
    yield server
    server.close()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "torch" / "hub" / "checkpoints"


def serve(server, content, name="net.pth"):
    """Serve what torch.save makes of ``content``; HASH in the name becomes the first digits of its SHA-256."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    name = name.replace("HASH", hashlib.sha256(buffer.getvalue()).hexdigest()[:8])
    path = server.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return f"{server.url}/{name}"


def files_below(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def load(address):
    return CheckpointLoader.load_checkpoint(address, map_location="cpu", logger="silent")


def test_mmengine_has_no_address_left_that_it_reads_itself():
    ours = {"": "sosr_det.registry.scheme", "sosr://": "sosr_det.registry.scheme"}
    for prefix, loader in CheckpointLoader._schemes.items():
        assert loader.__module__ == ours.get(prefix, "sosr_det.engine.safe_loaders"), prefix
        assert loader.__name__.startswith("load_from_")  # MMEngine logs the rest of the name
    assert CheckpointLoader._schemes.keys() == LOADERS.keys() | ours.keys()


def test_registering_again_changes_nothing_and_new_addresses_of_mmengine_are_refused(monkeypatch):
    before = dict(CheckpointLoader._schemes)
    register_safe_loaders()
    assert list(before.items()) == list(CheckpointLoader._schemes.items())
    monkeypatch.setattr(CheckpointLoader, "_schemes", before | {"hf://": theirs.load_from_http})
    register_safe_loaders()
    assert CheckpointLoader._schemes["hf://"] is load_from_refused
    with pytest.raises(CheckpointError, match=r"hf://x .*Download the file"):
        load("hf://x")


def test_a_file_is_downloaded_once_and_read(server, cache):
    url = serve(server, {"state_dict": {"a": torch.arange(3)}, "meta": {"cfg": "x"}}, "net-HASH.pth")
    for _ in range(2):
        loaded = load(url)
        assert loaded["state_dict"]["a"].tolist() == [0, 1, 2]
        assert loaded["meta"] == {}
    assert len(server.asked) == 1
    assert files_below(cache) == [url.rpartition("/")[2]]
    assert (cache / url.rpartition("/")[2]).is_file()  # where torchvision looks for it


def test_hostile_files_behind_an_address_do_not_run(server, hostile, canary, cache, few_form):
    path = hostile(few_form, server.folder)
    with pytest.raises(CheckpointError, match=rf"It came from {server.url}/{path.name}"):
        load(f"{server.url}/{path.name}")
    with pytest.raises(CheckpointError):
        load_checkpoint(torch.nn.Linear(1, 1), f"{server.url}/{path.name}")
    assert not canary.touched


def test_mmengine_would_run_them(server, hostile, canary):
    """The negative control: the loader that ours replaces."""
    path = hostile("in meta", server.folder)
    theirs.load_from_http(f"{server.url}/{path.name}", map_location="cpu")
    assert canary.touched


def test_named_weights_lead_to_the_same_reader(server, hostile, canary, monkeypatch):
    path = hostile("in meta", server.folder)
    table = {"net": f"{server.url}/{path.name}", "good": serve(server, {"a": torch.ones(1)}, "good.pth")}
    table["classifier"] = serve(
        server, {"state_dict": {"backbone.a": torch.ones(1), "head.b": torch.ones(1)}}
    )
    for name in ("get_torchvision_models", "get_external_models", "get_mmcls_models"):
        monkeypatch.setattr(theirs, name, lambda: table)
    for scheme in ("torchvision", "modelzoo", "open-mmlab", "openmmlab", "mmcls"):
        with pytest.raises(CheckpointError, match="It came from"):
            load(f"{scheme}://net")
        with pytest.raises(CheckpointError, match=r"no weights of that name. Near names: good\."):
            load(f"{scheme}://goods")
    assert not canary.touched
    assert load("torchvision://good") == {"a": torch.ones(1)}
    assert load("openmmlab://good") == {"a": torch.ones(1)}
    assert list(load("mmcls://classifier")["state_dict"]) == ["a"]


def test_weights_of_the_users_own_list_are_read_safely(hostile, canary, tmp_path, monkeypatch):
    monkeypatch.setenv("MMENGINE_HOME", str(tmp_path / "home"))
    path = hostile("in meta", tmp_path / "home")
    (tmp_path / "home" / "open_mmlab.json").write_text(f'{{"mine": "{path.name}"}}')
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        load("open-mmlab://mine")
    assert not canary.touched


@pytest.mark.parametrize("address", ["s3://b/a.pth", "x:s3://b/a.pth", "petrel://b/a.pth"])
def test_petrel_files_are_read_safely(hostile, canary, tmp_path, monkeypatch, address):
    path = hostile("in meta", tmp_path / "files")
    backend = type("Backend", (), {"get": lambda self, name: path.read_bytes()})()
    monkeypatch.setattr(safe_loaders, "get_file_backend", lambda name, backend_args: backend)
    with pytest.raises(CheckpointError, match=address):
        load(address)
    assert not canary.touched
    torch.save({"a": torch.ones(1)}, path)
    assert load(address)["a"].tolist() == [1.0]


def test_what_cannot_be_read_safely_or_at_all_is_refused():
    with pytest.raises(CheckpointError, match="cannot be read here without running code"):
        load("pavi://x/y")
    with pytest.raises(CheckpointError, match="Petrel, which is not installed"):
        load("s3://bucket/a.pth")


# ---- the cache ------------------------------------------------------------------------------------------------------


def test_another_hash_than_the_names_is_refused_fresh_and_cached(server, cache):
    url = serve(server, {"a": torch.ones(1)}, "net-HASH.pth")
    name = url.rpartition("/")[2]
    fetch(url)
    (cache / name).write_bytes((cache / name).read_bytes() + b"x")
    with pytest.raises(CheckpointError, match=r"its name promises .*was not opened"):
        fetch(url)
    (server.folder / "net-0123abcd.pth").write_bytes(b"other")
    with pytest.raises(CheckpointError, match="promises 0123abcd"):
        fetch(f"{server.url}/net-0123abcd.pth")
    with pytest.raises(CheckpointError, match="promises 0123abcd"):
        load(f"{server.url}/net-0123abcd.pth")


def test_digits_that_are_no_hash_are_not_taken_for_one(server):
    for name in ("net-50.pth", "net-20210831.pth", "net_0123abcd.pth"):
        assert fetch(serve(server, {"a": torch.ones(1)}, name)).is_file()


def test_two_addresses_with_one_file_name_are_two_files(server):
    one = serve(server, {"a": torch.zeros(1)}, "x/epoch_12.pth")
    other = serve(server, {"a": torch.ones(1)}, "y/epoch_12.pth")
    assert load(one)["a"] == 0
    assert load(other)["a"] == 1
    assert load(f"{one}?version=2")["a"] == 0


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1/",
        "http://127.0.0.1",
        "http:///a.pth",
        "http://127.0.0.1/..",
        "http://127.0.0.1/a%2F..%2Fb",
        "http://127.0.0.1/a\\b.pth",
        "http://127.0.0.1/a\0b.pth",
        "http://127.0.0.1/a\nb.pth",
        "http://127.0.0.1/.hidden",
        "http://127.0.0.1/" + "a" * 300,
        "http://127.0.0.1/\N{RIGHT-TO-LEFT OVERRIDE}htp.pth",
        "http://[::1/a.pth",
        "file:///etc/passwd",
        "ftp://127.0.0.1/a.pth",
    ],
)
def test_names_that_could_lead_elsewhere_are_refused_unasked(server, cache, address):
    with pytest.raises(CheckpointError):
        fetch(address)
    assert not cache.exists()


def test_no_server_no_file_and_no_network_are_explained(server, cache, monkeypatch):
    with pytest.raises(CheckpointError, match=r"cannot be downloaded.*404"):
        fetch(f"{server.url}/absent.pth")
    with pytest.raises(CheckpointError, match=r"cannot be downloaded"):
        fetch("http://127.0.0.1:1/a.pth")
    assert files_below(cache) == []
    url = serve(server, {"a": torch.ones(1)})
    monkeypatch.setenv("SOSR_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"SOSR_OFFLINE is set. Put the file at .*net\.pth"):
        fetch(url)
    monkeypatch.delenv("SOSR_OFFLINE")
    fetch(url)
    monkeypatch.setenv("SOSR_OFFLINE", "1")
    assert fetch(url).is_file()


def test_a_redirect_to_a_local_file_is_not_followed(server, tmp_path):
    (tmp_path / "secret").write_text("x")

    class Redirect(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", f"file://{tmp_path / 'secret'}")
            self.end_headers()

        def log_message(self, *_):
            pass

    server.server.RequestHandlerClass = Redirect
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        fetch(f"{server.url}/a.pth")

"""A real S3 endpoint over HTTP on this machine (moto), whose requests a test can count, fail and alter."""

import contextlib
import gc
import io
import itertools
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sosr_det.cache_root import cache_root
from sosr_det.registry.opening import open_registry
from sosr_det.registry.remote.store import RemoteRegistry

Rule = Callable[[dict], tuple[str, bytes] | None]


@dataclass
class Endpoint:
    """WSGI middleware around moto: one request at a time, because moto checks a condition and writes in two steps."""

    app: Callable
    url: str = ""
    rules: list[Rule] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    bodies: list[Callable[[str, bytes], bytes]] = field(default_factory=list)
    hide_checksums: bool = False  # of changed bodies: many stores send none
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __call__(self, environ: dict, start_response: Callable) -> list[bytes]:
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        self.requests.append(request)
        for rule in self.rules:
            if answer := rule(environ):
                read_body(environ)
                start_response(answer[0], [("Content-Type", "application/xml")])
                return [answer[1]] if environ["REQUEST_METHOD"] != "HEAD" else []
        with self.lock:
            given: list = []
            body = b"".join(self.app(environ, lambda status, headers, *_: given.extend((status, headers))))
            given = given[-2:]  # an app may think again
        for change in self.bodies:
            body = change(request, body)
        if self.bodies and self.hide_checksums:
            given[1] = [row for row in given[1] if not row[0].lower().startswith("x-amz-checksum")]
        start_response(*given)
        return [body]

    def fail(self, status: str, code: str, match: Callable[[str], bool], times: int | None = 1) -> list[str]:
        """Answer matching requests ("PUT /bucket/key") with an error, ``times`` times (None: always)."""
        seen: list[str] = []

        def rule(environ: dict) -> tuple[str, bytes] | None:
            request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
            if not match(request) or (times is not None and len(seen) >= times):
                return None
            seen.append(request)
            return status, f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()

        self.rules.append(rule)
        return seen

    def record_writes(self, suffix: str) -> list[bytes]:
        """Contents that writes to the object really left there, in their order, as they come."""
        history: list[bytes] = []
        app = self.app

        def noting(environ: dict, start_response: Callable) -> list[bytes]:
            if environ["REQUEST_METHOD"] != "PUT" or not environ["PATH_INFO"].endswith(suffix):
                return app(environ, start_response)
            body, statuses = read_body(environ), []

            def note(status: str, *rest: object) -> object:
                statuses.append(status)
                return start_response(status, *rest)

            result = list(app(environ, note))
            if statuses[-1].startswith("200"):
                history.append(body[body.index(b"{") : body.rindex(b"}") + 1])  # it may be aws-chunked
            return result

        self.app = noting
        return history

    def before(self, match: Callable[[str], bool], action: Callable[[], None]) -> None:
        """Do something once, just before the first matching request is answered."""
        done = []

        def rule(environ: dict) -> None:
            if not done and match(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"):
                done.append(True)
                action()

        self.rules.append(rule)


def read_body(environ: dict) -> bytes:
    """The body of a request, which stays readable for the app."""
    length = environ.get("CONTENT_LENGTH")
    if not length and not environ.get("wsgi.input_terminated"):
        return b""
    body = environ["wsgi.input"].read(*([int(length)] if length else []))
    environ["wsgi.input"] = io.BytesIO(body)
    return body


@pytest.fixture(scope="session")
def _server() -> Iterator[Endpoint]:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *args: object) -> None:
            pass

    endpoint = Endpoint(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, endpoint, threaded=True, request_handler=Quiet)
    endpoint.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield endpoint
    server.shutdown()
    server.server_close()
    thread.join(10)


def forget_filesystems() -> None:
    """Close fsspec's cached file systems, so that the next test connects anew."""
    with contextlib.suppress(ImportError):
        import s3fs

        for fs in list(s3fs.S3FileSystem._cache.values()):
            s3fs.S3FileSystem.close_session(fs.loop, fs._s3)
        s3fs.S3FileSystem.clear_instance_cache()
    gc.collect()


@pytest.fixture
def forget() -> Callable[[], None]:
    """``forget()`` closes all connections, so that changed settings count."""
    return forget_filesystems


@pytest.fixture
def fresh_cache() -> Callable[[], Path]:
    """``fresh_cache()`` empties the cache, as on another machine, and returns its folder."""

    def empty() -> Path:
        shutil.rmtree(cache_root(), ignore_errors=True)
        return cache_root()

    return empty


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SOSR_CACHE", str(tmp_path / "cache"))
    for name in ("SOSR_OFFLINE", "SOSR_REGISTRY"):
        monkeypatch.delenv(name, raising=False)


_buckets = itertools.count()


@pytest.fixture
def s3(_server, monkeypatch, tmp_path) -> Iterator[Endpoint]:
    """The endpoint with a new, empty bucket; ``endpoint.root`` is a registry's URL in it."""
    import urllib.request

    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": _server.url,
        "AWS_MAX_ATTEMPTS": "1",  # our own retries are under test
        "AWS_CONFIG_FILE": str(tmp_path / "no-aws-config"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    bucket = f"bucket{next(_buckets)}"
    request = urllib.request.Request(f"{_server.url}/{bucket}", method="PUT")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    _server.bucket, _server.root = bucket, f"s3://{bucket}/models/registry"
    _server.rules.clear()
    _server.bodies.clear()
    _server.requests.clear()
    app = _server.app
    yield _server
    _server.app = app
    _server.rules.clear()
    _server.bodies.clear()
    forget_filesystems()


@pytest.fixture
def memory() -> Iterator[str]:
    """The URL of a registry in this process's memory."""
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield "memory://shared/registry"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(params=["memory", "s3"])
def remote(request) -> RemoteRegistry:
    """A remote registry that does not exist yet."""
    given = request.getfixturevalue(request.param)
    return open_registry(given if request.param == "memory" else given.root)

"""A store that fails: retried where that helps, said clearly where not, and nothing half-published is ever met."""

import pickle
import re
import time

import pytest

from sosr_det.errors import CorruptEntryError, InstallationError, RegistryError
from sosr_det.registry.digest import tensors_digest
from sosr_det.registry.opening import open_registry
from sosr_det.registry.remote import faults


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(faults, "DELAYS", (0.01, 0.01))


def puts(part):
    return lambda request: request.startswith("PUT ") and part in request


def snapshot(registry):
    return {key: registry.objects.read(key, 1 << 24).data for key in registry.objects.list("")}


@pytest.mark.parametrize("part", ["blobs/", "manifests/", "refs/", "registry.json"])
@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Slow Down"])
def test_a_write_that_fails_twice_is_tried_again(s3, state, fields, part, status):
    seen = s3.fail(status, "InternalError", puts(part), times=2)
    entry = open_registry(s3.root).publish(state, fields, "r50")
    assert len(seen) == 2
    assert tensors_digest(open_registry(s3.root).load("sosr://r50")) == entry.tensors_digest


@pytest.mark.parametrize("part", ["registry.json", "manifests/", "blobs/", "refs/"])
def test_a_read_that_fails_is_tried_again(s3, state, fields, part, fresh_cache):
    open_registry(s3.root).publish(state, fields, "r50")
    fresh_cache()
    seen = s3.fail("500 Internal", "InternalError", lambda r: r.startswith("GET ") and part in r, times=2)
    open_registry(s3.root).load("sosr://r50")
    assert len(seen) == 2


@pytest.mark.parametrize("part", ["blobs/", "manifests/", "refs/r50/latest", "refs/r50/v2"])
def test_a_publish_that_fails_for_good_leaves_at_most_unreferenced_objects(s3, state, fields, part):
    registry = open_registry(s3.root)
    first = registry.publish(state, fields, "r50", ["latest"])
    before = snapshot(registry)
    seen = s3.fail("500 Internal Server Error", "InternalError", puts(part), times=None)
    with pytest.raises(RegistryError, match=r"the store failed \(HTTP 500\) 3 times") as caught:
        registry.publish(state | {"extra": state["half"]}, fields, "r50", ["latest", "v2"])
    assert re.search(rf"cannot write s3://\S+/{part}", str(caught.value))
    assert len(seen) >= 3
    s3.rules.clear()
    after = snapshot(registry)
    assert {key: after[key] for key in before} == before  # also the first of two tags is back where it was
    assert all(key.startswith(("blobs/", "manifests/")) for key in after.keys() - before.keys())
    assert open_registry(s3.root).resolve("sosr://r50").digest == first.digest
    again = registry.publish(state | {"extra": state["half"]}, fields, "r50", ["latest", "v2"])
    assert registry.resolve("sosr://r50@v2").digest == again.digest


def test_no_permission_no_bucket_no_network_no_credentials(s3, state, fields, monkeypatch, forget):
    registry = open_registry(s3.root)
    registry.publish(state, fields, "r50")
    s3.fail("403 Forbidden", "AccessDenied", puts("blobs/"), times=None)
    with pytest.raises(RegistryError, match=r"access denied \(HTTP 403\).*AWS_PROFILE"):
        registry.publish(state | {"x": state["half"]}, fields, "r50")
    s3.rules.clear()
    s3.fail("403 Forbidden", "InvalidAccessKeyId", lambda r: r.startswith("GET"), times=None)
    with pytest.raises(RegistryError, match=r"no valid credentials.*AWS_ACCESS_KEY_ID"):
        open_registry(s3.root).resolve("sosr://r50")
    s3.rules.clear()
    with pytest.raises(
        RegistryError, match=r"no such bucket.*s3://nobucket/x|s3://nobucket/x.*no such bucket"
    ):
        open_registry("s3://nobucket/x").resolve("sosr://r50")
    with pytest.raises(RegistryError, match="no such bucket"):
        open_registry("s3://nobucket/x").publish(state, fields, "r50")
    with pytest.raises(RegistryError, match=r"there is no registry at s3://\S+/elsewhere"):
        open_registry(f"{s3.root}/elsewhere").resolve("sosr://r50")
    forget()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(RegistryError) as caught:
        open_registry(s3.root).resolve("sosr://r50")
    assert time.monotonic() - started < 20
    assert "cannot be reached after 3 attempts" in str(caught.value)
    assert re.search(
        r"SOSR_OFFLINE=1 would use r50@latest as it was seen at \d{4}-\d\d-\d\dT", str(caught.value)
    )
    with pytest.raises(RegistryError) as caught:
        open_registry(s3.root).resolve("sosr://never-seen")
    assert "SOSR_OFFLINE" not in str(caught.value)
    forget()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    with pytest.raises(RegistryError, match=r"no valid credentials.*Unable to locate credentials"):
        open_registry(s3.root).resolve("sosr://r50")


@pytest.mark.parametrize("hide_checksums", [False, True], ids=["with the store's checksum", "without"])
def test_a_wrong_object_is_refused_and_leaves_no_trace_in_the_cache(
    s3, state, fields, fresh_cache, hide_checksums
):
    s3.hide_checksums = hide_checksums
    entry = open_registry(s3.root).publish(state, fields, "r50")
    cache = fresh_cache()

    def flip(request, body):
        return (
            body[:-1] + bytes([body[-1] ^ 1]) if request.startswith("GET") and "/blobs/" in request else body
        )

    s3.bodies.append(flip)
    registry = open_registry(s3.root)
    with pytest.raises(CorruptEntryError) as caught:
        registry.load("sosr://r50")
    damage = caught.value.damage
    assert (
        damage.file == f"{s3.root}/blobs/sha256/{entry.tensors_digest[:2]}/{entry.tensors_digest}.safetensors"
    )
    assert damage.part.startswith("tensor '" if hide_checksums else "content")
    assert damage.expected != damage.actual
    assert "--repair" in str(caught.value) or not hide_checksums
    kept = [path for path in cache.rglob("*") if path.is_file()]
    assert not [path for path in kept if "blobs" in path.parts or path.suffix == ".part"]
    s3.bodies.clear()
    assert tensors_digest(registry.load("sosr://r50")) == entry.tensors_digest


def test_an_object_that_disappears_is_said_to(s3, state, fields, fresh_cache):
    registry = open_registry(s3.root)
    entry = registry.publish(state, fields, "r50")
    key = f"blobs/sha256/{entry.tensors_digest[:2]}/{entry.tensors_digest}.safetensors"
    fresh_cache()
    reader = open_registry(s3.root)
    found = reader.resolve("sosr://r50")
    registry.objects.delete(key)
    with pytest.raises(CorruptEntryError, match="no such file"):
        reader.load(found)
    registry.publish(state, fields, "r50")
    other = open_registry(s3.root)
    found = other.resolve("sosr://r50")
    fresh_cache()
    s3.before(lambda r: r.startswith("GET") and key in r, lambda: registry.objects.delete(key))
    with pytest.raises(CorruptEntryError, match=r"no such object \(any more\)"):
        other.load(found)


def test_a_publisher_that_loses_the_race_for_a_blob_uses_the_other_ones(s3, state, fields, tmp_path):
    source = open_registry(tmp_path / "source").publish(state, fields, "r50")
    key = f"blobs/sha256/{source.tensors_digest[:2]}/{source.tensors_digest}.safetensors"
    registry, other = open_registry(s3.root), open_registry(s3.root)
    registry.marker.create()
    s3.before(
        lambda r: r.startswith("PUT") and key in r,
        lambda: other.objects.put(key, source.blob_path.read_bytes()),
    )
    content = source.manifest_path.read_bytes()
    assert registry.add(content, source.blob_path, "r50").digest == source.digest
    writes = [request for request in s3.requests if request.startswith("PUT") and key in request]
    assert len(writes) == 2  # the other one's, and the one that was refused


def test_what_is_collected_under_a_publisher_is_stored_again(s3, state, fields, caplog):
    registry, collector = open_registry(s3.root), open_registry(s3.root)
    entry = registry.publish(state, fields, "r50")
    registry.remove("r50")
    s3.before(
        lambda r: r.startswith("PUT") and "refs/r50" in r,
        lambda: collector.objects.delete(
            f"blobs/sha256/{entry.tensors_digest[:2]}/{entry.tensors_digest}.safetensors"
        ),
    )
    registry.publish(state, fields, "r50")
    assert "was collected while it was published" in caplog.text
    open_registry(s3.root).verify("sosr://r50", use_cache=False)


def test_errors_survive_pickling_and_show_no_secrets(memory):
    error = faults.remote_error(
        open_registry("ftp://me:secret@host/x").url, "k", "read", "network", OSError("x")
    )
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert "secret" not in str(copy)
    assert "secret" not in open_registry("ftp://me:secret@host/x").root


@pytest.mark.parametrize(
    ("root", "package"), [("gs://bucket/x", "gcsfs"), ("az://c/x", "adlfs"), ("sftp://h/x", "paramiko")]
)
def test_a_missing_package_is_named_with_its_remedy(root, package, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InstallationError, match=rf"{package}.*pip install") as caught:
        open_registry(root).resolve("sosr://a")
    assert root in str(caught.value)


def test_bugs_are_not_dressed_up_as_trouble_with_the_store(memory, monkeypatch):
    registry = open_registry(memory)
    with pytest.raises(TypeError):
        faults.attempt(registry.url, "k", "read", lambda: len(1))
    assert faults.classify(ValueError("x")) is None
    assert faults.classify(TimeoutError()) == "network"
    assert faults.classify(PermissionError()) == "denied"


def test_errors_of_protocols_that_nobody_here_knows_name_the_url(monkeypatch):
    class ConnectError(Exception):
        pass

    monkeypatch.setattr(ConnectError, "__module__", "some_client")
    url = open_registry("hf://foo/bar").url
    for error in (ConnectError("no such host"), TypeError("x")):

        def failing(error=error):
            raise error

        with pytest.raises(faults.RemoteError, match=r"cannot read hf://foo/bar/k: \w+Error: "):
            faults.attempt(url, "k", "read", failing)


def test_undoing_a_failed_publish_leaves_what_others_set_meanwhile(remote, state, fields, monkeypatch):
    """The first of two tags is set, somebody else moves it on, the second fails: theirs stays."""
    remote.publish(state, fields, "r50", ["latest"])
    theirs = open_registry(remote.root).publish(state, fields | {"seed": 5}, "other")
    update = remote.updates.update

    def failing(key, change):
        if key == "refs/r50/v2.json":
            open_registry(remote.root).tag(theirs.pinned_uri, ["latest"], name="r50")
            raise RegistryError("no more")
        return update(key, change)

    monkeypatch.setattr(remote.updates, "update", failing)
    with pytest.raises(RegistryError, match="no more"):
        remote.publish(state, fields | {"seed": 6}, "r50", ["latest", "v2"])
    assert open_registry(remote.root).resolve("sosr://r50").digest == theirs.digest

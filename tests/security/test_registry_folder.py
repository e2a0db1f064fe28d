"""A registry folder that others can write: planted links, absurd sizes, forged documents, names that lead elsewhere."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import struct
import tracemalloc

import pytest
import torch

from sosr_det.errors import CheckpointError, CorruptEntryError, RegistryError
from sosr_det.registry import layout as layout_module
from sosr_det.registry.audit import audit_all
from sosr_det.registry.blob import blob_layout
from sosr_det.registry.digest import TensorSpec, canonical_json, digest_of_specs, sha256_hex
from sosr_det.registry.manifest import SIZE_LIMIT, Manifest
from sosr_det.registry.names import check_name, check_tag, parse_uri
from sosr_det.registry.refs import Ref
from sosr_det.registry.safe_load import load_state_file
from sosr_det.registry.store import Registry
from sosr_det.registry.strict_json import MAX_DEPTH, parse_json

BIG = 64 << 20  # bytes


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "registry", lock_timeout=3)


@pytest.fixture
def entry(registry, manifest_fields):
    return registry.publish(
        {"a": torch.arange(4.0), "b": torch.ones(2)}, manifest_fields, "net", ["latest", "v1"]
    )


def peak_bytes(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# ---- names ---------------------------------------------------------------------------------------------------------

BAD_NAMES = [
    "", ".", "..", "../x", "a/../b", "/etc/passwd", "a/b", "a\\b", "..\\x", "C:\\x", "C:x", "\\\\host\\share",
    "a\0b", "a\nb", "a b", " a", "a ", "a.", "-a", ".a", "_a", "a%2fb", "%2e%2e", "a%00", "con", "NUL.txt", "Com1",
    "lpt9.a", "aux", "a\N{FULLWIDTH SOLIDUS}b", "\N{CYRILLIC SMALL LETTER A}", "a\N{COMBINING ACUTE ACCENT}",
    "a\N{RIGHT-TO-LEFT OVERRIDE}b", "\N{TWO DOT LEADER}", "a" * 129, "sha256", "SHA256-x", "a..b", "~", "~root",
    "$HOME", "a;b", "a|b", "a*", "a?", "a:b", "a@b@c", "\udcff", "\N{LATIN SMALL LETTER DOTLESS I}",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_and_tags_that_could_lead_elsewhere_are_refused(
    registry, entry, manifest_fields, name, tmp_path
):
    before = sorted(tmp_path.rglob("*"))
    for check in (check_name, check_tag):
        with pytest.raises(RegistryError):
            check(name)
    for uri in (f"sosr://{name}/x", f"sosr://net@{name}/", f"sosr://{name}@latest") if name else ("sosr://",):
        with pytest.raises(RegistryError):
            registry.resolve(uri)
    with pytest.raises(RegistryError):
        registry.publish({"a": torch.ones(1)}, manifest_fields, name)
    with pytest.raises(RegistryError):
        registry.publish({"a": torch.ones(1)}, manifest_fields, "good", [name])
    with pytest.raises(RegistryError):
        registry.tag("sosr://net", [name])
    with pytest.raises(RegistryError):
        registry.tag("sosr://net", ["x"], name=name)
    with pytest.raises(RegistryError):
        registry.remove(name, None)
    with pytest.raises(RegistryError):
        registry.remove("net", name)
    assert registry.tags(name) == []
    locks = {".locks", "tmp"}
    assert [p for p in sorted(tmp_path.rglob("*")) if not locks & {*p.parts}] == [
        p for p in before if not locks & {*p.parts}
    ]


@pytest.mark.parametrize(
    "digest",
    ["", "0" * 63, "0" * 65, "../" * 21 + "x", "g" * 64, "0" * 62 + "/x", "0" * 63 + "\n", "\0" * 64],
)
def test_digests_are_hex_and_nothing_else(registry, entry, digest):
    for uri in (f"sosr://sha256:{digest}", f"sosr://SHA256:{digest}"):
        with pytest.raises(RegistryError):
            parse_uri(uri)
        with pytest.raises(RegistryError):
            registry.resolve(uri)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a\0b", "..", "C:\\x", "\x1b[2J", "a\nb", "x" * 10_000])
def test_tensor_names_are_only_ever_keys(registry, manifest_fields, name, tmp_path):
    """A tensor may have any name: it is no path, and no file is named after it."""
    registry.publish({name: torch.ones(1)}, manifest_fields, "net")
    assert list(registry.load("sosr://net")) == [name]
    assert registry.verify("sosr://net", use_cache=False)
    names = {path.name for path in tmp_path.rglob("*")}
    assert not any(part in names for part in ("x", "a", "a\0b", "\x1b[2J"))


# ---- links ---------------------------------------------------------------------------------------------------------


def test_the_registrys_own_folder_may_be_a_link(registry, entry, tmp_path):
    (tmp_path / "link").symlink_to(registry.root)
    through = Registry(tmp_path / "link")
    assert through.resolve("sosr://net").digest == entry.digest
    assert through.load("sosr://net")["a"].tolist() == [0, 1, 2, 3]


def paths_of(entry, root):
    return {
        "registry.json": root / "registry.json",
        "refs": root / "refs",
        "name": root / "refs" / "net",
        "ref": root / "refs" / "net" / "latest.json",
        "manifests": root / "manifests",
        "manifests/sha256": root / "manifests" / "sha256",
        "manifest": entry.manifest_path,
        "blobs": root / "blobs",
        "blobs/sha256": root / "blobs" / "sha256",
        "prefix": entry.blob_path.parent,
        "blob": entry.blob_path,
    }


LEVELS = [
    "registry.json", "refs", "name", "ref", "manifests", "manifests/sha256", "manifest", "blobs", "blobs/sha256",
    "prefix", "blob",
]  # fmt: skip


@pytest.mark.parametrize("level", LEVELS)
def test_a_link_inside_the_registry_is_not_followed(registry, entry, manifest_fields, tmp_path, level):
    """Even to the right content: where a link leads today says nothing about tomorrow."""
    path = paths_of(entry, registry.root)[level]
    elsewhere = tmp_path / "elsewhere"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)
    before = {p: p.read_bytes() for p in [elsewhere, *elsewhere.rglob("*")] if p.is_file()}
    reading = Registry(registry.root)
    with pytest.raises(RegistryError, match="link"):
        reading.load("sosr://net")
    with pytest.raises(RegistryError, match="link"):
        reading.verify("sosr://net")
    same = {"a": torch.arange(4.0), "b": torch.ones(2)}
    with pytest.raises(RegistryError, match="link"):
        reading.publish(same, manifest_fields, "net")
    after = {p: p.read_bytes() for p in [elsewhere, *elsewhere.rglob("*")] if p.is_file()}
    assert after == before
    if level != "registry.json":
        assert not audit_all(Registry(registry.root)).ok


@pytest.mark.parametrize("place", ["tmp", ".locks", "lock"])
@pytest.mark.parametrize("kind", ["file", "folder", "absent"])
def test_writing_through_a_planted_link_harms_nobody(registry, entry, manifest_fields, tmp_path, place, kind):
    victim = tmp_path / "victim"
    if kind == "file":
        victim.write_text("precious")
    elif kind == "folder":
        victim.mkdir()
        (victim / "precious").write_text("precious")
    path = registry.layout.lock_path if place == "lock" else registry.root / place
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(victim)
    for work in (
        lambda: registry.publish({"a": torch.zeros(1)}, manifest_fields, "other"),
        lambda: registry.tag("sosr://net", ["v2"]),
        lambda: registry.remove("net", "v1"),
        lambda: registry.collect(0, dry_run=False),
    ):
        with pytest.raises(RegistryError, match="link"):
            work()
    if kind == "file":
        assert victim.read_text() == "precious"
    elif kind == "folder":
        assert [p.name for p in victim.iterdir()] == ["precious"]
    else:
        assert not victim.exists()
    assert Registry(registry.root).load("sosr://net")  # readers need neither


def test_links_among_temporary_files_are_not_collected_through(registry, entry, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("x")
    (registry.root / "tmp").mkdir(exist_ok=True)
    for name in ("host-1-abc.part", "x", "host-1-abc"):
        (registry.root / "tmp" / name).symlink_to(victim)
    (registry.root / "tmp" / "host-2-abc.part").symlink_to(victim / "precious")
    try:
        registry.collect(0, dry_run=False)
    except RegistryError as error:
        assert "link" in str(error)  # noqa: PT017  (removing the link itself is as good)
    assert (victim / "precious").read_text() == "x"


def test_a_planted_link_among_the_pins_is_not_written_through(registry, entry, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    for path in (registry.layout.pins_dir, registry.layout.pins_dir / entry.digest):
        shutil.rmtree(registry.layout.pins_dir, ignore_errors=True)
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(victim)
        with contextlib.suppress(RegistryError):  # a pin is a courtesy; work goes on without it
            registry.hold(entry.digest).release()
        with contextlib.suppress(RegistryError):
            registry.collect(0, dry_run=False)
        assert list(victim.iterdir()) == []
        path.unlink()


@pytest.mark.parametrize("level", ["registry.json", "ref", "manifest", "blob"])
def test_pipes_and_folders_in_the_place_of_files_neither_hang_nor_crash(registry, entry, level):
    path = paths_of(entry, registry.root)[level]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RegistryError):
        Registry(registry.root).load("sosr://net")
    path.unlink()
    path.mkdir()
    with pytest.raises(RegistryError):
        Registry(registry.root).load("sosr://net")
    if level != "registry.json":
        assert not audit_all(Registry(registry.root)).ok


# ---- sizes ---------------------------------------------------------------------------------------------------------


def sparse(path, size, head=b""):
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)


@pytest.mark.parametrize("level", ["registry.json", "ref", "manifest"])
def test_documents_of_any_size_are_read_in_bounded_memory(registry, entry, level):
    path = paths_of(entry, registry.root)[level]
    limit = SIZE_LIMIT if level == "manifest" else 64 * 1024
    head = path.read_bytes()
    sparse(path, 4 << 30, head)

    def work():
        for attempt in (lambda: registry.resolve("sosr://net"), lambda: audit_all(registry).ok or 1 / 0):
            with pytest.raises((CorruptEntryError, ZeroDivisionError)):
                attempt()

    assert peak_bytes(work) < 3 * limit + (8 << 20)


def test_a_blob_of_any_size_is_not_read_when_its_size_is_wrong(registry, entry):
    sparse(entry.blob_path, 1 << 40)
    started = os.times().user
    with pytest.raises(CorruptEntryError, match="1099511627776 bytes"):
        registry.load("sosr://net")
    assert peak_bytes(lambda: audit_all(registry)) < BIG
    assert os.times().user - started < 5


@pytest.mark.parametrize("length", [1 << 62, (1 << 64) - 1, 99_000_000, 20_000_000, 0, 1])
def test_a_stray_blobs_absurd_header_costs_little(registry, entry, length):
    digest = "ab" + "0" * 62
    path = registry.layout.blob_path(digest)
    path.parent.mkdir(exist_ok=True)
    sparse(path, 100_000_100, struct.pack("<Q", length) + b"{")
    audit = None

    def work():
        nonlocal audit
        audit = audit_all(registry)

    assert peak_bytes(work) < BIG
    assert [damage.file for damage in audit.damages] == [str(path)]


@pytest.mark.parametrize("length", [1 << 62, (1 << 64) - 1, 99_000_000, 20_000_000])
def test_a_safetensors_file_with_an_absurd_header_costs_little(tmp_path, length):
    sparse(tmp_path / "a.safetensors", 100_000_100, struct.pack("<Q", length) + b"{")

    def work():
        with pytest.raises(CheckpointError):
            load_state_file(tmp_path / "a.safetensors")

    assert peak_bytes(work) < BIG


# ---- documents that are well placed but hostile --------------------------------------------------------------------

DOCUMENTS = {
    "deep list": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "just too deep": b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2),
    "key twice": b'{"schema_version":2,"schema_version":2}',
    "nan": b'{"a":NaN}',
    "infinity": b'{"a":-Infinity}',
    "overflow": b'{"schema_version":1e999}',
    "long integer": b'{"schema_version":' + b"9" * 1_000_000 + b"}",
    "long fraction": b'{"schema_version":0.' + b"9" * 1_000_000 + b"}",
    "invalid utf-8": b'{"a":"\xff\xfe"}',
    "lone surrogate": b'{"a":"\\ud800"}',
    "utf-16": '{"a":1}'.encode("utf-16"),
    "bom": b"\xef\xbb\xbf{}",
    "zero bytes": b"\0" * 1000,
    "empty": b"",
    "text": b'"text"',
    "null": b"null",
    "boolean version": b'{"schema_version":true}',
    "prototype": b'{"__proto__":{},"__class__":"x","constructor":1}',
}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_hostile_manifests_and_refs_are_damage(registry, entry, document):
    content = DOCUMENTS[document]
    with pytest.raises(RegistryError):
        Manifest.from_bytes(content, "file", sha256_hex(content))
    # Well named, so that the digest is right, and pointed to by a proper ref.
    registry.layout.manifest_path(sha256_hex(content)).write_bytes(content)
    ref = Ref("net", "latest", sha256_hex(content), "2026-11-22T17:05:00Z")
    path = registry.layout.ref_path("net", "latest")
    path.write_bytes(ref.to_bytes())
    for work in (registry.resolve, registry.load, registry.verify):
        with pytest.raises(RegistryError):
            work("sosr://net")
    assert not audit_all(registry).ok
    path.write_bytes(content)
    with pytest.raises(CorruptEntryError):
        registry.resolve("sosr://net")
    assert any(listing.error for listing in registry.list_refs())
    assert registry.resolve("sosr://net@v1").digest == entry.digest  # its neighbours are not harmed


def changed(entry, edit):
    document = json.loads(entry.manifest_path.read_bytes())
    edit(document)
    return canonical_json(document) + b"\n"


MANIFESTS = {
    "size out of range": lambda d: d["tensors"]["a"].update(shape=[1 << 60]),
    "sizes whose product overflows": lambda d: d["tensors"]["a"].update(shape=[1 << 40] * 20),
    "nothing of overflowing strides": lambda d: d["tensors"]["a"].update(shape=[0, 1 << 40, 1 << 40]),
    "negative size": lambda d: d["tensors"]["a"].update(shape=[-4]),
    "many dimensions": lambda d: d["tensors"]["a"].update(shape=[1] * 65),
    "fractional size": lambda d: d["tensors"]["a"].update(shape=[4.0]),
    "other type": lambda d: d["tensors"]["a"].update(dtype="object"),
    "attribute of torch as type": lambda d: d["tensors"]["a"].update(dtype="load"),
    "blob elsewhere": lambda d: d.update(tensors_digest="../" * 20 + "abcd"),
    "reserved name": lambda d: d["tensors"].update({"__metadata__": d["tensors"].pop("a")}),
    "unknown field": lambda d: d.update(custom_imports={"imports": ["evil"]}),
    "huge size": lambda d: d.update(size_bytes=1 << 62),
    "newer schema": lambda d: d.update(schema_version=99),
    "kind": lambda d: d.update(kind="config"),
}


@pytest.mark.parametrize("change", MANIFESTS)
def test_forged_manifests_are_refused_whatever_their_digest(registry, entry, change):
    content = changed(entry, MANIFESTS[change])
    digest = sha256_hex(content)
    registry.layout.manifest_path(digest).write_bytes(content)

    def work():
        for attempt in (registry.resolve, registry.load, registry.verify):
            with pytest.raises(RegistryError):
                attempt(f"sosr://sha256:{digest}")

    assert peak_bytes(work) < BIG


@pytest.mark.parametrize("shape", [(0, 1 << 40, 1 << 40), (1 << 47, 1 << 47, 0), (0, *[2] * 63)])
def test_a_consistent_entry_that_torch_cannot_hold_is_refused(registry, entry, shape):
    """Every digest and size is right, and nothing is stored: only the strides overflow."""
    specs = {"a": TensorSpec("float32", shape, sha256_hex(b""))}
    layout = blob_layout(specs)
    tensors_digest = digest_of_specs(specs)

    def edit(document):
        row = {"dtype": "float32", "shape": list(shape), "sha256": specs["a"].sha256}
        document.update(tensors={"a": row}, tensors_digest=tensors_digest, size_bytes=layout.size)

    content = changed(entry, edit)
    registry.layout.manifest_path(sha256_hex(content)).write_bytes(content)
    blob = registry.layout.blob_path(tensors_digest)
    blob.parent.mkdir(exist_ok=True)
    blob.write_bytes(layout.header)
    with pytest.raises(RegistryError, match="shape"):
        registry.load(f"sosr://sha256:{sha256_hex(content)}")


@pytest.mark.slow
def test_a_manifest_of_a_hundred_thousand_tensors_costs_memory_in_proportion(registry, entry):
    def edit(document):
        row = document["tensors"]["a"]
        document["tensors"] = {f"t{number}": row for number in range(95_000)}

    content = changed(entry, edit)
    assert 10 << 20 < len(content) < SIZE_LIMIT

    def work():
        with pytest.raises(RegistryError):
            Manifest.from_bytes(content, "file", sha256_hex(content))

    peak = peak_bytes(work)
    assert peak < 40 * len(content)


def test_a_ref_of_another_name_or_with_another_digest_is_not_followed(registry, entry, manifest_fields):
    other = registry.publish({"a": torch.zeros(1)}, manifest_fields, "other")
    refs = registry.root / "refs"
    good = (refs / "net" / "latest.json").read_bytes()
    shutil.copy(refs / "other" / "latest.json", refs / "net" / "latest.json")
    with pytest.raises(CorruptEntryError, match="name and tag"):
        registry.resolve("sosr://net")
    (refs / "net" / "latest.json").write_bytes(good.replace(entry.digest.encode(), other.digest.encode()))
    with pytest.raises(CorruptEntryError, match="checksum"):
        registry.resolve("sosr://net")


def test_parsed_json_keeps_to_its_depth():
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert parse_json(b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH)
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(opening * (MAX_DEPTH + 2) + b"1" + closing * (MAX_DEPTH + 2))


# ---- others who write while this one reads -------------------------------------------------------------------------


def test_what_is_loaded_is_what_was_hashed(registry, entry, monkeypatch):
    """Swapping the blob after `verify` said yes, or between opening and reading it, gains nothing."""
    good = entry.blob_path.read_bytes()
    bad = bytearray(good)
    bad[-1] ^= 0x40
    verified = registry.verify("sosr://net")
    entry.blob_path.write_bytes(bad)
    with pytest.raises(CorruptEntryError, match="sha256"):
        registry.load(verified)
    from sosr_det.registry import blob as blob_module

    entry.blob_path.write_bytes(good)
    opened = blob_module.open_regular

    def swap_after_opening(path):
        file = opened(path)
        replacement = path.with_name("new")
        replacement.write_bytes(bad)
        os.replace(replacement, path)
        return file

    monkeypatch.setattr(blob_module, "open_regular", swap_after_opening)
    assert registry.load(verified)["a"].tolist() == [0, 1, 2, 3]  # the opened file, not the new one
    monkeypatch.setattr(blob_module, "open_regular", opened)
    with pytest.raises(CorruptEntryError):
        registry.load(verified)


def test_a_changed_blob_is_not_vouched_for_by_an_earlier_check(registry, entry):
    for path in (entry.blob_path,):
        old = path.stat()
        os.utime(path, ns=(old.st_atime_ns - 10**12, old.st_mtime_ns - 10**12))
    registry.verify("sosr://net")
    old = entry.blob_path.stat()
    data = bytearray(entry.blob_path.read_bytes())
    data[-1] ^= 1
    with entry.blob_path.open("r+b") as file:
        file.write(data)
    os.utime(entry.blob_path, ns=(old.st_atime_ns, old.st_mtime_ns))
    with pytest.raises(CorruptEntryError):
        registry.verify("sosr://net")


def test_a_registry_cannot_vouch_for_itself(registry, entry, tmp_path, monkeypatch):
    """The memory of earlier checks is kept away from a folder that others write."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(registry.root))
    for name in ("SOSR_CACHE", "SOSR_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    before = sorted(registry.root.rglob("*"))
    registry.verify("sosr://net")
    assert sorted(registry.root.rglob("*")) == before


@pytest.mark.skipif(os.name == "nt", reason="no such modes")
def test_a_folder_that_everybody_can_write_is_warned_about(registry, entry, caplog):
    def warnings_of(mode, folder):
        old = folder.stat().st_mode & 0o7777
        folder.chmod(mode)
        layout_module._WARNED.clear()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            Registry(registry.root).resolve("sosr://net")
        folder.chmod(old)
        return [record.getMessage() for record in caplog.records if "everybody" in record.getMessage()]

    for folder in (registry.root, registry.root / "refs", registry.root / "blobs" / "sha256"):
        (warning,) = warnings_of(0o777, folder)
        assert str(folder) in warning
        assert f"chmod o-w {folder}" in warning
        assert warnings_of(0o775, folder) == []  # a group's registry is as it should be
    assert warnings_of(0o1777, registry.root / "refs")  # sticky keeps nobody from adding a tag
    assert warnings_of(0o1777, registry.root) == []

"""Single files: links, special files, size caps, modes, and errors of the operating system."""

import errno
import os
import stat

import pytest

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry.files import Staging, ensure_dir, open_regular, os_errors, read_small, refuse_links


def test_links_folders_and_pipes_are_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    assert read_small(tmp_path / "file", 1) == b"x"
    for name, said in (("link", "symbolic link"), ("pipe", "not a plain file")):
        with pytest.raises(RegistryError, match=said):
            open_regular(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "absent")


def test_links_on_the_way_are_refused(tmp_path):
    root = tmp_path / "root"
    (tmp_path / "elsewhere").mkdir()
    root.mkdir()
    (root / "refs").symlink_to(tmp_path / "elsewhere")
    refuse_links(root, root / "blobs" / "absent")
    for path in (root / "refs", root / "refs" / "a", tmp_path / "elsewhere"):
        with pytest.raises(RegistryError, match=r"symbolic link|plain files"):
            refuse_links(root, path)
    with pytest.raises(RegistryError):
        ensure_dir(root, root / "refs" / "new")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_sizes_are_capped(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_small(tmp_path / "file", 5) == b"12345"
    with pytest.raises(CorruptEntryError, match="at most 4 bytes"):
        read_small(tmp_path / "file", 4)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "bytes are free"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "ask the owner"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "check the disk"),
    ],
)
def test_os_errors_name_the_path_and_what_to_do(tmp_path, code, said):
    with pytest.raises(RegistryError, match=said) as caught, os_errors(tmp_path / "x", "write"):
        raise OSError(code, os.strerror(code))
    assert str(tmp_path / "x") in str(caught.value)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_follow_the_umask(tmp_path, umask, mode):
    old = os.umask(umask)
    try:
        with Staging(tmp_path, tmp_path / "tmp") as staging:
            staging.place(staging.write([b"x"], tmp_path / "a"), tmp_path / "a")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_rollback_restores_what_was_there(tmp_path):
    (tmp_path / "old").write_bytes(b"old")
    with Staging(tmp_path, tmp_path / "tmp") as staging:
        for name in ("old", "new"):
            staging.place(staging.write([b"changed"], tmp_path / name), tmp_path / name, keep_old=True)
        staging.rollback()
    assert (tmp_path / "old").read_bytes() == b"old"
    assert not (tmp_path / "new").exists()
    assert not list((tmp_path / "tmp").iterdir())


def test_every_part_of_a_path_is_looked_at(tmp_path):
    """A link at any depth is refused, also one that leads back into the registry, and '..' is not a way round."""
    root = tmp_path / "root"
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "b" / "c" / "file").touch()
    refuse_links(root, root / "a" / "b" / "c" / "file")
    refuse_links(root, root)
    for part in ("a", "a/b", "a/b/c", "a/b/c/file"):
        place = root / part
        place.rename(tmp_path / "moved")
        place.symlink_to(tmp_path / "moved")
        with pytest.raises(RegistryError, match="symbolic link"):
            refuse_links(root, root / "a" / "b" / "c" / "file")
        place.unlink()
        (tmp_path / "moved").rename(place)
    (root / "loop").symlink_to(root / "a")
    for path in (root / "loop" / "b", root / "a" / ".." / ".." / "x", tmp_path / "elsewhere"):
        with pytest.raises(RegistryError):
            refuse_links(root, path)


def test_a_guard_is_asked_before_every_change_in_place(tmp_path):
    calls = []
    with Staging(tmp_path, tmp_path / "tmp") as staging:
        staging.guard = lambda: calls.append((tmp_path / "a").exists())
        staging.place(staging.write([b"x"], tmp_path / "a"), tmp_path / "a")
        staging.remove(tmp_path / "a")
    assert calls == [False, True]

    def stop():
        raise RegistryError("lost")

    with Staging(tmp_path, tmp_path / "tmp") as staging:
        staged = staging.write([b"x"], tmp_path / "b")
        (tmp_path / "c").write_bytes(b"c")
        staging.guard = stop
        for action in (lambda: staging.place(staged, tmp_path / "b"), lambda: staging.remove(tmp_path / "c")):
            with pytest.raises(RegistryError, match="lost"):
                action()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "tmp"]
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("unguarded", [False, True])
def test_nothing_is_taken_back_without_the_lock_unless_that_cannot_hurt(tmp_path, unguarded, caplog):
    def stop():
        raise RegistryError("lost")

    (tmp_path / "old").write_bytes(b"old")
    with Staging(tmp_path, tmp_path / "tmp") as staging:
        staging.place(staging.write([b"x"], tmp_path / "new"), tmp_path / "new")
        staging.remove(tmp_path / "old")
        staging.guard = stop
        staging.rollback(unguarded=unguarded)
    assert (tmp_path / "old").exists() is unguarded
    assert (tmp_path / "new").exists() is not unguarded
    assert ("not taking back" in caplog.text) is not unguarded
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_the_only_copy_of_what_cannot_be_brought_back_is_kept(tmp_path, monkeypatch, caplog, how):
    """A rollback that fails must not end with the old file deleted as a temporary one: it is named instead."""
    (tmp_path / "refs").mkdir()
    old = tmp_path / "refs" / "old"
    old.write_bytes(b"old")
    real = os.replace

    def replace(source, target):
        if target == old and tampered:
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    tampered = False
    monkeypatch.setattr(os, "replace", replace)
    with Staging(tmp_path, tmp_path / "tmp") as staging:
        if how == "removed":
            staging.remove(old)
        else:
            staging.place(staging.write([b"new"], old), old, keep_old=True)
        tampered = True
        staging.rollback()
    [kept] = (tmp_path / "tmp").iterdir()
    assert kept.read_bytes() == b"old"
    assert str(kept) in caplog.text


def test_a_folder_that_went_with_its_last_file_comes_back(tmp_path):
    """Removing the last tag removes the folder of the name; an interrupt after that must not lose the tag."""
    (tmp_path / "refs").mkdir()
    old = tmp_path / "refs" / "old"
    old.write_bytes(b"old")
    with Staging(tmp_path, tmp_path / "tmp") as staging:
        staging.remove(old)
        old.parent.rmdir()
        staging.rollback()
    assert old.read_bytes() == b"old"
    assert not list((tmp_path / "tmp").iterdir())


def test_removing_what_is_not_there(tmp_path):
    with Staging(tmp_path, tmp_path / "tmp") as staging, pytest.raises(FileNotFoundError):
        staging.remove(tmp_path / "absent")


def test_temporary_names_say_who_writes(tmp_path):
    from sosr_det.registry.files import TEMPORARY
    from sosr_det.registry.owner import Owner

    with Staging(tmp_path, tmp_path / "tmp") as staging:
        name = staging.write([b"x"], tmp_path / "a").name
    owner = Owner.from_label(name.removesuffix(TEMPORARY).rpartition("-")[0])
    assert (owner.host, owner.pid) == (Owner.current().host, os.getpid())


def test_a_folder_that_may_not_be_entered_is_an_error_with_advice(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        for name in ("open", "stat", "lstat"):
            patch.setattr(os, name, refuse)
        with pytest.raises(RegistryError, match=r"cannot read .*Permission denied; you may not do that there"):
            open_regular(tmp_path / "a")

"""A file that appears whole or not at all, and never in another's place by accident."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sosr_det.errors import CheckpointError


@contextmanager
def new_file(target: Path, force: bool) -> Iterator[Path]:
    """A temporary path beside ``target`` to write to; on leaving the block it is synced and put in place.

    When anything fails, ``target`` is as before and the temporary file is gone. Without ``force`` an existing file is
    never replaced, also one that appears meanwhile; a link is replaced itself, not what it points to.

    Raises:
        CheckpointError: the file exists, its folder does not, or the disk refuses.
    """
    target = target.expanduser()
    if target.is_dir():
        raise CheckpointError(f"{target} is a folder; name a file in it with --out.")
    if os.path.lexists(target) and not force:
        raise _exists(target)
    if not target.parent.is_dir():
        raise CheckpointError(
            f"the folder {target.parent} does not exist; create it, or choose another --out."
        )
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        # Made here with the umask's mode, which some writers would not use (safetensors writes 0600).
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        mode = temporary.stat().st_mode & 0o777
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        _place(temporary, target, force)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {target}: {error.strerror or error}. Check access and free space, or choose another --out."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _place(temporary: Path, target: Path, force: bool) -> None:
    if force:
        os.replace(temporary, target)
        return
    try:
        os.link(temporary, target)  # unlike a rename it fails where the name is taken
    except FileExistsError:
        raise _exists(target) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK):
            raise
        if os.path.lexists(target):  # a file system without links (FAT, some network mounts)
            raise _exists(target) from None
        os.replace(temporary, target)


def _exists(target: Path) -> CheckpointError:
    return CheckpointError(f"{target} exists already; choose another --out, or replace it with --force.")

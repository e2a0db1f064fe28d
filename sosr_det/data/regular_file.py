"""Opening files of data sets without waiting: a named pipe that nobody writes to would stop a worker for ever."""

from __future__ import annotations

import errno
import os
import stat

NOT_REGULAR = "no regular file"


def open_regular_file(path: str | os.PathLike, flags: int = os.O_RDONLY) -> int:
    """A descriptor, as ``os.open`` gives it; may be the ``opener`` of ``open``.

    Raises:
        OSError: it cannot be opened, or is a folder, pipe, socket or device.
    """
    # Without O_NONBLOCK, opening a pipe waits for a writer. Regular files do not know it.
    wanted = flags | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_BINARY", "O_CLOEXEC"))
    descriptor = os.open(path, wanted)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, NOT_REGULAR, os.fspath(path))
    return descriptor

"""One of several processes fails: its error is said once, with its rank, and not drowned by the others'.

Under ``tools/*.sh`` the processes of a machine leave what they have to say in a folder (``$SOSR_LAUNCH_DIR``), and the
launcher (:mod:`sosr_det.engine.torchrun`) says it when all have ended. Under srun or a torchrun of the user's own each
says it itself.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

FOLDER = "SOSR_LAUNCH_DIR"
# An error that all have in common is rank 0's to say: it ends the job, and with it the others before they say it too.
_GRACE_SECONDS = 2.0
_STOPPED = 75  # sosr_det.engine.signals.STOPPED, whose module would be imported by every command
_RANK_VARIABLES = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)
# How gloo, NCCL and torch's store say that another process is gone.
_LOST = re.compile(
    r"Connection (closed|reset) by peer|Connection refused|Broken pipe|gloo/transport|\bNCCL\b|ncclRemoteError|"
    r"recvValue failed|Socket (closed|Timeout)|failed to recv|Timed out waiting \d+ms|Application timeout caused|"
    r"heartbeat|DistStoreError|DistNetworkError|DistBackendError",
    re.IGNORECASE,
)
_LOST_CONTACT = (
    "lost contact with another process of this run, which failed, was killed or did not answer in time: its message, "
    "if it could leave one, is the one to look for"
)


def own_rank(arguments: Sequence[str]) -> int | None:
    """Rank of this process among several that were started together, or None."""
    if not _launcher(arguments):
        return None
    for rank, size in _RANK_VARIABLES:
        if os.environ.get(rank, "").isdigit() and os.environ.get(size, "").isdigit():
            return int(os.environ[rank]) if int(os.environ[size]) > 1 else None
    return None


def _launcher(arguments: Sequence[str]) -> bool:
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--launcher":
            return (value or "".join(arguments[place + 1 : place + 2])) not in ("", "none")
    return False


def lost_contact(error: BaseException) -> bool:
    """Whether an error of torch.distributed only says that another process is gone."""
    cause: BaseException | None = error
    while cause is not None:
        kind = type(cause)
        if kind.__module__.startswith("torch") and kind.__name__.startswith("Dist"):
            return True
        if kind is RuntimeError and _LOST.search(str(cause)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


@contextmanager
def exit_noted(arguments: Sequence[str]) -> Iterator[None]:
    """Leave the exit code for the launcher, if there is one."""
    rank = own_rank(arguments)
    if rank is None:
        yield
        return
    _note(rank, code=None)
    try:
        yield
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code == _STOPPED:
            # All is saved, and a launcher that ends this process for being slower than the others changes the code.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _note(rank, code=code, **_said)
        raise
    except BaseException:  # with SOSR_TRACEBACK=1
        _note(rank, code=1)
        raise
    _note(rank, code=0)


_said: dict[str, str | bool] = {}


def say(message: str, error: BaseException, arguments: Sequence[str]) -> None:
    """Print an error's message on stderr, or hand it to the launcher."""
    rank = own_rank(arguments)
    if rank is None:
        print(message, file=sys.stderr)
        return
    lost = lost_contact(error)
    text = f"error: {_LOST_CONTACT}. torch says: {_first_line(error)}" if lost else message
    text = f"rank {rank}: {text}"
    _said.update(message=text, lost=lost)
    if _note(rank, code=None, **_said):
        return
    if rank > 0 or lost:
        time.sleep(_GRACE_SECONDS)
    print(text, file=sys.stderr, flush=True)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return "".join(c for c in lines[0] if c.isprintable())[:200]


def _note(rank: int, **fields: object) -> bool:
    """Replace this rank's note; False where that is not possible."""
    if not os.environ.get(FOLDER):
        return False
    path = Path(os.environ[FOLDER]) / f"rank-{rank}.json"
    temporary = path.with_suffix(".tmp")
    text = json.dumps({"rank": rank, "time": time.time(), **fields})
    # torch's handler of SIGCHLD raises RuntimeError wherever the process is, when a data-loading one has died.
    for _ in range(3):
        try:
            temporary.write_text(text)
            temporary.replace(path)
        except OSError:
            return False
        except RuntimeError:
            continue
        return True
    return False

"""``python -m sosr_det.engine.torchrun``: torchrun, ended so that people and schedulers know why.

Same arguments, same processes. What differs is the end:

- the error of the process that failed first is the last thing said, once, instead of a traceback of torchrun's;
- exit code 75 (``EX_TEMPFAIL``: run again with --resume) when the processes stopped on request with that code, which
  torchrun turns into 1;
- SIGUSR1, with which Slurm announces the end of a job's time, asks the processes to stop as SIGTERM does; torchrun
  dies of it and leaves them behind;
- they have 300 s to save (``$TORCH_ELASTIC_SHUTDOWN_TIMEOUT``) and not 30, where torch is new enough to listen (2.9);
- each process gets its share of the CPU cores as threads where there is no GPU; torchrun gives each one thread.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STOPPED = 75  # EX_TEMPFAIL of sysexits.h
_FOLDER = "SOSR_LAUNCH_DIR"  # of sosr_det.cli.rank_errors, which writes the notes
_SHUTDOWN_SECONDS = "300"
_ENDED_BY_LAUNCHER = (-signal.SIGTERM, 128 + signal.SIGTERM)


def main(arguments: Sequence[str]) -> int:
    """Run torchrun with these arguments; returns the exit code."""
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    folder = Path(tempfile.mkdtemp(prefix="sosr-launch-"))
    os.environ[_FOLDER] = str(folder)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _SHUTDOWN_SECONDS)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_process(run.parse_args(list(arguments)))))
    if "LOGLEVEL" not in os.environ:
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("torch.distributed.elastic"):  # torch has set each one's level
                logging.getLogger(name).setLevel(logging.CRITICAL)
    failed: dict[int, int] = {}
    sent: int | None = None
    try:
        run.main(list(arguments))
    except ChildFailedError as error:
        failed = {rank: failure.exitcode for rank, failure in error.failures.items()}
    except SignalException as error:
        sent = int(error.sigval)
    finally:
        notes = read_notes(folder)
        shutil.rmtree(folder, ignore_errors=True)
    code, lines = outcome(notes, failed, sent)
    for line in lines:
        print(line, file=sys.stderr, flush=True)
    return code


def threads_per_process(arguments: Any) -> int:
    """OpenMP threads for each process: 1 beside GPUs, whose work is elsewhere, else its share of the cores."""
    import torch
    from torch.distributed.run import determine_local_world_size

    processes = determine_local_world_size(arguments.nproc_per_node)
    if torch.cuda.is_available():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)


def read_notes(folder: Path) -> dict[int, dict[str, Any]]:
    """What the processes of this machine left: rank -> ``code`` (None: none yet), ``time``, ``message``, ``lost``."""
    notes = {}
    for path in sorted(folder.glob("rank-*.json")):
        note = json.loads(path.read_text())
        notes[int(note["rank"])] = note
    return notes


def outcome(
    notes: Mapping[int, Mapping[str, Any]], failed: Mapping[int, int], sent: int | None
) -> tuple[int, list[str]]:
    """Exit code and last lines of a job.

    Args:
        notes: of :func:`read_notes`.
        failed: rank -> exit code of the processes that torchrun saw failing; negative: the signal that ended it.
        sent: the signal that torchrun was sent, None where it ended by itself.

    Returns:
        75 where some process stopped with that code and the others did too or were ended by the launcher; 128 + signal
        where the job was sent one, or a process was killed by one; else the code of the process that failed first.
    """
    codes: dict[int, int | None] = {rank: note.get("code") for rank, note in notes.items()}
    for rank, code in failed.items():
        if codes.get(rank) is None:
            codes[rank] = code
    messages = sorted(
        (note for note in notes.values() if note.get("message")),
        key=lambda note: (bool(note.get("lost")), note["time"]),
    )
    first = messages[0] if messages else None
    # Without a signal, a process that left no code was ended by torchrun when another one ended.
    fine = (0, STOPPED, *_ENDED_BY_LAUNCHER, *([None] if sent is None else []))
    if STOPPED in codes.values() and all(code in fine for code in codes.values()):
        return STOPPED, [str(first["message"])] if first is not None else []
    lines = _lines(first, codes, sent)
    if sent is not None:
        return 128 + sent, lines
    if not failed:
        return 0, lines
    if first is not None and not first.get("lost"):
        return codes.get(first["rank"]) or 1, lines
    killed = [code for code in codes.values() if _is_killed(code)]
    code = killed[0] if killed else failed[min(failed)]
    return (128 - code if code < 0 else code), lines


def _is_killed(code: int | None) -> bool:
    """Ended by a signal that was not the launcher's."""
    return code is not None and code < 0 and code not in _ENDED_BY_LAUNCHER


def _lines(first: Mapping[str, Any] | None, codes: Mapping[int, int | None], sent: int | None) -> list[str]:
    if first is not None and not first.get("lost"):
        return [str(first["message"])]
    for rank, code in codes.items():
        if _is_killed(code):
            why = " (out of memory? `dmesg` or `sacct` tell)" if code == -signal.SIGKILL else ""
            return [f"rank {rank}: error: killed by {signal.Signals(-code).name}{why}."]
    unfinished = [str(rank) for rank, code in codes.items() if code is None]
    if unfinished and sent is not None:
        return [
            f"error: rank {', '.join(unfinished)} had not ended {os.environ.get('TORCH_ELASTIC_SHUTDOWN_TIMEOUT')} s "
            "after the signal and was killed. TORCH_ELASTIC_SHUTDOWN_TIMEOUT gives more seconds."
        ]
    return [str(first["message"])] if first is not None else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

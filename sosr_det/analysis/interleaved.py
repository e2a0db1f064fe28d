"""Timing of peers in turns (A B A B …), so that a change of the machine's speed meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from sosr_det.errors import ConfigError


def time_interleaved(
    peers: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 2,
    device: str = "cpu",
    before: Callable[[str], object] | None = None,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Seconds that each peer took in each round.

    Args:
        peers: name -> work without arguments. The first is the base of :func:`summarise`.
        rounds: at least 1.
        warm_up: rounds before them that are not counted.
        device: where the work runs; ``cuda…`` is waited for.
        before: called with a peer's name before each of its turns, untimed.
        clock: seconds, by default wall time; ``time.process_time`` counts what this process used and not what others
            took from it, for work of one thread that waits for nothing.

    The order is turned round by one each time: a peer is not always the one that runs after the slowest.

    Raises:
        ValueError: fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"repeats must be at least 1, got {rounds}")
    clock = clock or time.perf_counter
    names = list(peers)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + warm_up):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if before is not None:
                before(name)
            synchronize(device)
            begin = clock()
            peers[name]()
            synchronize(device)
            if number >= warm_up:
                times[name].append(clock() - begin)
    return times


def require_device(name: str) -> str:
    """The name of a device that work can be timed on: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ConfigError: no such device here; the message lists what there is.
    """
    import torch

    available = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if len(available) > 1:
        available.insert(1, "cuda")
    if name not in available:
        missing = "; PyTorch finds no CUDA device" if name.startswith("cuda") and len(available) == 1 else ""
        raise ConfigError(
            f"--device {name!r} is not available{missing}. Choose one of: {', '.join(available)}."
        )
    return name


def summarise(times: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    """name -> ``median_ms`` and ``ratio``: the median over the rounds of this peer's time over the first peer's."""
    base = next(iter(times.values()))
    return {
        name: {
            "median_ms": 1000 * statistics.median(taken),
            "ratio": statistics.median(a / b for a, b in zip(taken, base, strict=True)),
        }
        for name, taken in times.items()
    }


def synchronize(device: str) -> None:
    """Wait for the work that was given to a CUDA device; nothing for ``cpu``."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)

"""``sosr-det bench train``: our engine's step beside a bare loop's and other trainers', in one process and in turns."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from sosr_det.analysis.bench_train.bare import BareLoop
from sosr_det.analysis.bench_train.by_hook import HookMeter
from sosr_det.analysis.bench_train.ours import train_in_turns
from sosr_det.analysis.bench_train.torchvision_loop import TorchvisionLoop
from sosr_det.analysis.bench_train.turns import HOST, Turns
from sosr_det.analysis.bench_train.work import Work, find_work
from sosr_det.analysis.interleaved import require_device
from sosr_det.errors import ConfigError, InstallationError

BASE = "bare"


def bench_train(
    work: str = "cifar",
    peers: Sequence[str] = (),
    *,
    steps_per_turn: int = 10,
    rounds: int = 10,
    batch_size: int | None = None,
    device: str = "cpu",
    extra_hooks: Sequence[dict] = (),
    by_hook: bool = False,
) -> dict[str, Any]:
    """Train one network on the same batches in each loop, taking turns.

    All start from the same weights, so that :func:`largest_difference` of what they learned shows that they did the
    same work.

    Args:
        work: key of :data:`sosr_det.analysis.bench_train.work.WORKS`.
        peers: names of :data:`PEERS` beside the bare loop, which always takes part.
        steps_per_turn: training steps of a turn, at least 1.
        rounds: turns of each that are counted, at least 1; two more come before.
        batch_size: images per step; None takes the work's.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        extra_hooks: configs of hooks that our engine gets besides its own.
        by_hook: also measure our engine's hooks one by one, which adds a little to its steps.

    Returns:
        ``dict(rows={name: row}, work=..., device=..., torch=..., threads=...)``, and with ``by_hook`` ``hooks_cpu_ms``,
        the milliseconds per step of each hook (:mod:`sosr_det.analysis.bench_train.by_hook`). A row has

        - ``step_ms`` (median over the rounds) and ``img_per_s``;
        - ``ratio`` to the bare loop: median of the rounds' ratios, with the quartiles ``ratio_q25`` and ``ratio_q75``;
        - ``cpu_ratio``, the same of the processor time: others on the machine do not change it much; work on a GPU is
          not in it;
        - ``ours_ratio``: our engine's time over this contender's, likewise;
        - ``weight_difference``: the largest difference to the bare loop's weights in the end.

    Raises:
        ConfigError: an unknown work, peer or device, numbers below 1.
        InstallationError: a peer that is not installed; the message says how to get it.
    """
    _require_engine_device(device)
    for name, value in (
        ("steps per turn", steps_per_turn),
        ("rounds", rounds),
        ("batch size", batch_size or 1),
    ):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    task = find_work(work, device, batch_size)
    names = list(dict.fromkeys([BASE, *peers]))
    meter = HookMeter() if by_hook else None
    with tempfile.TemporaryDirectory(prefix="sosr_bench_train_") as name:
        folder = Path(name)
        makers = {peer: _maker(peer) for peer in names}
        num_steps = Turns({}, steps_per_turn, rounds).host_steps
        loops = {peer: make(task, folder, num_steps) for peer, make in makers.items()}
        guests: dict[str, Iterator[None]] = {peer: loop.steps() for peer, loop in loops.items()}
        turns = Turns(guests, steps_per_turn, rounds, device=device)
        with torch.cuda.device(device) if device != "cpu" else contextlib.nullcontext():
            ours = train_in_turns(task, turns, folder, extra_hooks, meter)
    networks = {HOST: ours, **{peer: loop.network for peer, loop in loops.items()}}
    rows = summarise_turns(turns.times, steps_per_turn, task.batch_size)
    for peer, row in rows.items():
        row["cpu_ratio"] = median_ratio(turns.cpu_times[peer], turns.cpu_times[BASE])
        row["weight_difference"] = largest_difference(networks[peer], loops[BASE].network)
    return {
        "work": {key: getattr(task, key) for key in ("name", "arch", "image_size_px", "batch_size")},
        "steps_per_turn": steps_per_turn,
        "rounds": rounds,
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": rows,
        **({} if meter is None else {"hooks_cpu_ms": meter.ms_per_step()}),
    }


def _require_engine_device(device: str) -> None:
    """The engine trains on the GPU where there is one."""
    require_device(device)
    if device == "cpu" and torch.cuda.is_available():
        raise ConfigError(
            "--device cpu: our engine trains on the GPU of this machine. Give --device cuda, or hide the GPU with "
            "CUDA_VISIBLE_DEVICES=''."
        )


def summarise_turns(
    times: dict[str, list[float]], steps_per_turn: int, batch_size: int
) -> dict[str, dict[str, float]]:
    """The rows of :func:`bench_train`, without ``weight_difference``; the bare loop's first."""
    rows = {}
    for name in sorted(times, key=lambda name: (name != BASE, name != HOST)):
        step = statistics.median(times[name]) / steps_per_turn
        ratios = [own / base for own, base in zip(times[name], times[BASE], strict=True)]
        quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        rows[name] = {
            "step_ms": 1000 * step,
            "img_per_s": batch_size / step,
            "ratio": statistics.median(ratios),
            "ratio_q25": quartiles[0],
            "ratio_q75": quartiles[2],
            "ours_ratio": median_ratio(times[HOST], times[name]),
        }
    return rows


def median_ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Median over the rounds of one's time over the other's."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def largest_difference(one: torch.nn.Module, other: torch.nn.Module) -> float:
    """Largest absolute difference between two networks' parameters and buffers of the same names; 0 is bit-equality."""
    theirs = other.state_dict()
    return max(
        float((value.double() - theirs[name].double()).abs().max())
        for name, value in one.state_dict().items()
    )


def report_lines(results: dict[str, Any]) -> list[str]:
    """A table for the terminal."""
    work = results["work"]
    lines = [
        f"{work['arch']}, {work['batch_size']} images of {work['image_size_px']} px a step, fp32, "
        f"{results['rounds']} rounds of {results['steps_per_turn']} steps in turns, {results['device']} "
        f"({results['threads']} threads), torch {results['torch']}",
        f"  {'loop':<12}{'ms/step':>10}{'img/s':>9}{'time / bare':>13}{'quartiles':>16}{'CPU / bare':>12}"
        f"{'ours / this':>13}{'weights differ':>16}",
    ]
    for name, row in results["rows"].items():
        quartiles = f"{row['ratio_q25']:.3f}-{row['ratio_q75']:.3f}"
        lines.append(
            f"  {name:<12}{row['step_ms']:>10.2f}{row['img_per_s']:>9.1f}{row['ratio']:>13.3f}{quartiles:>16}"
            f"{row['cpu_ratio']:>12.3f}{row['ours_ratio']:>13.3f}{row['weight_difference']:>16.2g}"
        )
    hooks = results.get("hooks_cpu_ms")
    if hooks:
        lines.append(f"  processor time of our hooks, ms per step ({sum(hooks.values()):.3f} in all)")
        lines += [f"    {name:<28}{value:>8.3f}" for name, value in hooks.items() if value >= 0.001]
    return lines


def _timm(work: Work, folder: Path, num_steps: int) -> Any:
    from sosr_det.analysis.bench_train.timm_loop import TimmLoop

    return TimmLoop(work)


def _mmpretrain(work: Work, folder: Path, num_steps: int) -> Any:
    try:
        from sosr_det.analysis.bench_train.mmpretrain_loop import MMPretrainLoop
    except (ImportError, TypeError) as error:  # 1.3.6 raises TypeError beside transformers 5
        raise InstallationError(
            f"--vs mmpretrain: mmpretrain does not import here ({type(error).__name__}: {error}). Install it with "
            "pip install 'sosr-det[mmpretrain]', in an environment without transformers 5."
        ) from error
    return MMPretrainLoop(work, folder / "mmpretrain", num_steps)


PEERS: dict[str, Callable[[Work, Path, int], Any]] = {
    BASE: lambda work, folder, num_steps: BareLoop(work),
    "torchvision": lambda work, folder, num_steps: TorchvisionLoop(work),
    "timm": _timm,
    "mmpretrain": _mmpretrain,
}


def _maker(name: str) -> Callable[[Work, Path, int], Any]:
    if name not in PEERS:
        raise ConfigError(f"--vs must be one of {', '.join(PEERS)}, got {name!r}")
    return PEERS[name]

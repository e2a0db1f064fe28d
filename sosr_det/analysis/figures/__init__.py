"""The paper's figures and what it should have had, from the records that ``TrainingDynamicsHook`` leaves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sosr_det.errors import ConfigError

__all__ = ["draw_figures", "require_folder"]


def draw_figures(runs: Iterable[Path], folder: Path, labels: Sequence[str] | None = None) -> list[Path]:
    """Write every figure that the runs' records allow, as PNG and JSON; returns the files.

    Args:
        runs: run folders, or folders that hold run folders. Runs of one config name are one group: their mean is
            drawn, with three standard deviations to either side.
        folder: where to write; made if absent.
        labels: legend names of the groups.

    Raises:
        CheckpointError, ConfigError: see :func:`sosr_det.analysis.figures.runs.load_groups` and
            :func:`require_folder`.
    """
    # Here, because other figures use this room's canvas without the training records, which need torch to read.
    from sosr_det.analysis.figures.curves import draw_curves
    from sosr_det.analysis.figures.fig1 import draw_figure_1
    from sosr_det.analysis.figures.fig2 import draw_figure_2
    from sosr_det.analysis.figures.fig3 import draw_figure_3
    from sosr_det.analysis.figures.reliability import draw_reliability
    from sosr_det.analysis.figures.runs import load_groups

    require_folder(folder)
    groups = load_groups(runs, labels)
    drawers = (draw_figure_1, draw_figure_2, draw_figure_3, draw_reliability, draw_curves)
    return [path for draw in drawers for path in draw(groups, folder)]


def require_folder(out: Path) -> None:
    """Refuse a place for the figures that cannot be a folder, before anything is measured or drawn.

    Raises:
        ConfigError: ``out``, or what it would lie in, is a file.
    """
    existing = next(path for path in (Path(out), *Path(out).absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ConfigError(
            f"--out {out}: {existing} is a file, expected a folder (made if absent). Choose another --out."
        )

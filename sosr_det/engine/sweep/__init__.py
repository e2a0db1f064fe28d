"""Grids of training runs: ``sosr-det sweep``."""

from sosr_det.engine.sweep.sweep import SweepOptions, run_sweep

__all__ = ["SweepOptions", "run_sweep"]

"""Precision, memory layout, compilation, optimizer kernels and weight averaging: chosen by device, each overridable.

:func:`plan_acceleration` decides before anything is built; :meth:`Plan.applied_to` does what it decided, measures what
is left to a measurement, and says all of it in one line.
"""

from sosr_det.engine.acceleration.plan import Plan, plan_acceleration
from sosr_det.engine.acceleration.settings import Settings

__all__ = ["Plan", "Settings", "plan_acceleration"]

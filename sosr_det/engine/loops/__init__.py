"""mmengine's training loops, made to go on exactly where they were stopped."""

from sosr_det.engine.loops.epoch_loop import ExactEpochLoop
from sosr_det.engine.loops.iter_loop import ExactIterLoop

__all__ = ["ExactEpochLoop", "ExactIterLoop"]

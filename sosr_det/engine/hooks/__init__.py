"""Hooks that every run of this project carries."""

from sosr_det.engine.checkpoints.plain import PlainCheckpointHook
from sosr_det.engine.hooks.backbone_contract import BackboneContractHook
from sosr_det.engine.hooks.batch_digest import BatchDigestHook
from sosr_det.engine.hooks.data_contract import DataContractHook
from sosr_det.engine.hooks.divergence import DivergenceHook
from sosr_det.engine.hooks.due_validation import DueValidationHook
from sosr_det.engine.hooks.growing_history import GrowingHistoryHook
from sosr_det.engine.hooks.loss_epoch import LossEpochHook
from sosr_det.engine.hooks.rank_zero_buffers import RankZeroBuffersHook
from sosr_det.engine.hooks.record import RunRecordHook
from sosr_det.engine.hooks.throughput import ThroughputHook
from sosr_det.engine.hooks.train_loss_plateau import TrainLossPlateauHook, TrainLossPlateauLR
from sosr_det.engine.hooks.training_dynamics import TrainingDynamicsHook
from sosr_det.engine.hooks.unreadable_images import UnreadableImagesHook

__all__ = [
    "BackboneContractHook",
    "BatchDigestHook",
    "DataContractHook",
    "DivergenceHook",
    "DueValidationHook",
    "GrowingHistoryHook",
    "LossEpochHook",
    "PlainCheckpointHook",
    "RankZeroBuffersHook",
    "RunRecordHook",
    "ThroughputHook",
    "TrainLossPlateauHook",
    "TrainLossPlateauLR",
    "TrainingDynamicsHook",
    "UnreadableImagesHook",
]

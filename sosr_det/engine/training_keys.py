"""Which settings of a config decide what a run learns, and which only how it is run, watched or tested.

A setting changes the training when, with everything else alike, the trained weights would be others for more than the
last bits of their rounding. Names that are not known here count as if they did: a refusal can be overruled, a mixture
of two recipes that nobody was told of cannot be taken back.
"""

from __future__ import annotations

from collections.abc import Sequence

from sosr_det.engine.configs import bare_type

# Top-level names that say where and how a run is started, not what it is; never compared.
VOLATILE = frozenset({"work_dir", "launcher", "resume", "model_wrapper_cfg", "experiment_name", "_scope_"})
# Top-level names that configs are written with and nothing reads: the sections hold what became of them.
VARIABLES = frozenset({
    "backend_args", "classes", "dataset_type", "file_client_args", "holdout_fraction", "image_scale", "img_norm_cfg",
    "img_scale", "img_scales", "max_epochs", "metainfo", "norm_cfg", "num_classes", "total_epochs", "train_dataset",
    "tta_model", "val_dataset", "vis_backends", "voc2007_trainval", "voc2012_trainval",
})  # fmt: skip
# Sections that nothing learned depends on. Validation keeps the state of the random generators.
_HARMLESS_SECTIONS = frozenset({
    "compile", "custom_imports", "data_root", "default_scope", "env_cfg", "log_level", "log_processor", "publish",
    "save_every_minutes",
    "test_cfg", "test_dataloader", "test_evaluator", "val_cfg", "val_dataloader", "val_evaluator", "visualizer",
    "unreadable_images",  # skipping goes on where the run would have stopped
})  # fmt: skip
_HARMLESS_KEYS = frozenset({
    # How the loader works. Augmentation is drawn by (seed, epoch, sample), whichever worker does it.
    "train_dataloader.num_workers", "train_dataloader.persistent_workers", "train_dataloader.pin_memory",
    "train_dataloader.pin_memory_device", "train_dataloader.prefetch_factor", "train_dataloader.timeout",
    "train_dataloader.multiprocessing_context",
    # When the run is validated.
    "train_cfg.val_interval", "train_cfg.val_begin", "train_cfg.dynamic_intervals",
    # Which of several kernels computes the same function.
    "randomness.deterministic", "acceleration.channels_last", "acceleration.compile", "acceleration.compile_mode",
    "acceleration.fused_optimizer", "acceleration.cudnn_benchmark",
    "find_unused_parameters",
})  # fmt: skip
# Hooks that watch, check, record or save.
_HARMLESS_HOOKS = frozenset({
    "AtomicCheckpointHook", "BackboneContractHook", "BatchDigestHook", "CheckpointHook", "DataContractHook",
    "DetVisualizationHook", "DivergenceHook", "DueValidationHook", "GrowingHistoryHook", "IterTimerHook",
    "LoggerHook", "MetricsHook", "NaiveVisualizationHook", "PlainCheckpointHook", "RunRecordHook",
    "ThroughputHook", "TrainingDynamicsHook", "UnreadableImagesHook",
})  # fmt: skip
_HARMLESS_HOOK_NAMES = frozenset({"timer", "logger", "checkpoint", "visualization"})
# Sections that say nothing where they are absent, key by key.
ALL_DEFAULTS = frozenset({"acceleration"})
# Where weights come from before the first step; a resumed run takes them from its own checkpoint.
START_KEYS = frozenset({"init_cfg", "load_from", "pretrained"})
# Folders that the same data may have been moved to, and how its files are reached.
_PLACES = frozenset({"data_root", "backend_args", "file_client_args"})


def is_volatile(key: str) -> bool:
    """Whether a top-level name says nothing about the run itself, so that it is not compared."""
    return key in VOLATILE or key in VARIABLES or key.endswith("_pipeline")


def changes_training(path: Sequence[str]) -> bool:
    """Whether the setting at ``path`` decides about the trained weights.

    Args:
        path: the parts of the dotted key; a hook in ``custom_hooks`` is named by its type instead of its place.
    """
    section = path[0]
    if section in _HARMLESS_SECTIONS or ".".join(path[:2]) in _HARMLESS_KEYS or _PLACES & {*path}:
        return False
    if section == "default_hooks" and len(path) > 1:
        return path[1] not in _HARMLESS_HOOK_NAMES
    if section == "custom_hooks" and len(path) > 1:
        return bare_type(path[1]) not in _HARMLESS_HOOKS
    return True

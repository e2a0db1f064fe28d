"""The one module with import side effects: everything of ours that mmengine must know by name.

Import it before anything of ``mmdet`` (a config does so with ``custom_imports = dict(imports=['sosr_det.register'])``):
it makes mmcv's ops work without their compiled extension, registers the ``sosr://`` scheme and safe readers for
checkpoints of every other address, for pickles and for YAML, and our models, data sets, metrics and hooks in
mmengine's root registries, where MMDetection's own scope finds them too. It also lets every mmengine ``Runner`` check
its backbone against the registry entry that it came from, without a line in ``custom_hooks``.
"""

from sosr_det.compat import install_mmcv_ops

install_mmcv_ops()  # before anything below may import mmcv.ops

import sosr_det.data.classification
import sosr_det.engine.acceleration.bfloat16_wrapper
import sosr_det.engine.acceleration.weight_average
import sosr_det.engine.checkpoints.hook
import sosr_det.engine.hooks
import sosr_det.engine.loops
import sosr_det.engine.telemetry.hook
import sosr_det.evaluation.classification
import sosr_det.evaluation.voc_metric
import sosr_det.models
from sosr_det.engine.hooks.backbone_contract import attach_to_every_runner
from sosr_det.engine.safe_files import register_safe_files
from sosr_det.engine.safe_loaders import register_safe_loaders
from sosr_det.registry.scheme import register_schemes

register_schemes()
register_safe_loaders()
register_safe_files()
attach_to_every_runner()


def _register_lazily() -> None:
    """``CheckedVOCDataset`` under its name, importing MMDetection (8 s) only when one is built."""
    from mmengine.registry import DATASETS

    if "CheckedVOCDataset" in DATASETS.module_dict:
        return

    def checked_voc_dataset(**arguments):
        from sosr_det.data.voc import CheckedVOCDataset

        return CheckedVOCDataset(**arguments)

    DATASETS.register_module(name="CheckedVOCDataset", module=checked_voc_dataset)


_register_lazily()

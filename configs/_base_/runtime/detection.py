# Runtime of detection: MMDetection's, plus our names, curves, and a checkpoint for the best epoch.
# The backbone is compared with its registry entry, tensor by tensor, before the first step.
# `sosr-det train` adds the hooks that every run needs (data contract, run record, …).
_base_ = "mmdet::_base_/default_runtime.py"
custom_imports = dict(imports=["sosr_det.register"], allow_failed_imports=False)
stage = "detection"
custom_hooks = [dict(type="BackboneContractHook")]
default_hooks = dict(
    checkpoint=dict(
        type="CheckpointHook", interval=1, max_keep_ckpts=2, save_best="voc/map_11point", rule="greater"
    )
)
vis_backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
visualizer = dict(vis_backends=vis_backends)
randomness = dict(seed=0)

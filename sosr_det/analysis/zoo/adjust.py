"""Changes to a zoo config that let it run in seconds, without weights from elsewhere, on any machine.

They keep the model's structure: layers, heads and losses stay. Each is recorded with the result.
"""

from __future__ import annotations

from typing import Any

from sosr_det.engine.configs import walk_dicts

MOST_QUERIES = 100  # of a decoder, or proposals that are learned
MOST_PROPOSALS = 20  # that leave a region proposal network, and boxes before non-maximum suppression: 100
MOST_BOXES = 100
LOW_SCORE = 1e-3
NO_WHOLE_MODEL = "no checkpoint of a whole model"


def adjust(cfg: Any, checkpoint: str, image_size: int) -> list[str]:
    """Change a config in place for a sweep; returns a phrase for every kind of change.

    Args:
        cfg: ``mmengine.config.Config``.
        checkpoint: the swapped backbone's, which stays wherever it is.
        image_size: side of the images in pixels; batches are not enlarged beyond it.
    """
    done = [
        _small_batches(cfg, image_size),
        _fewer_queries(cfg),
        _fewer_boxes(cfg),
        _all_boxes(cfg),
        _plain_batch_norm(cfg),
        _plain_precision(cfg),
        _no_checkpointing(cfg),
        _clipped_boxes(cfg),
    ]
    return [phrase for phrase in [*_no_other_weights(cfg, checkpoint), *done] if phrase]


def _no_other_weights(cfg: Any, checkpoint: str) -> list[str]:
    """Drop every other checkpoint: they would be downloaded, and a sweep is about the backbone."""
    phrases = []
    for node in walk_dicts(cfg.model):
        init_cfg = node.get("init_cfg")
        if isinstance(init_cfg, dict) and init_cfg.get("checkpoint") not in (None, checkpoint):
            node["init_cfg"] = None
            phrases.append(NO_WHOLE_MODEL if "backbone" in node else "no checkpoint of other parts")
        if node.get("teacher_ckpt"):
            node["teacher_ckpt"] = None
            phrases.append("the teacher has random weights (its checkpoint would be downloaded)")
    return sorted(set(phrases))


def _small_batches(cfg: Any, size: int) -> str | None:
    """Batch augmentations pad or resize to a fixed size, such as 1024 pixels."""
    changed = False
    for node in walk_dicts(cfg.model):
        for augment in node.get("batch_augments") or ():
            for key in ("size", "scale"):
                if key in augment:
                    augment[key] = (size, size)
                    changed = True
    return "batches are not padded or resized to the config's large size" if changed else None


def _fewer_queries(cfg: Any) -> str | None:
    changed = [cap(node, "num_queries", MOST_QUERIES) for node in walk_dicts(cfg.model)]
    changed += [cap(node, "num_proposals", MOST_QUERIES) for node in walk_dicts(cfg.model)]
    return f"at most {MOST_QUERIES} queries" if any(changed) else None


def _fewer_boxes(cfg: Any) -> str | None:
    changed = False
    for name, node in _named_dicts(cfg.model):
        if name in ("rpn", "rpn_proposal"):
            changed |= cap(node, "nms_pre", MOST_BOXES) | cap(node, "max_per_img", MOST_PROPOSALS)
        elif "nms_pre" in node:
            changed |= cap(node, "nms_pre", MOST_BOXES)
        if "max_per_img" in node:
            changed |= cap(node, "max_per_img", MOST_BOXES)
    return (
        f"at most {MOST_PROPOSALS} proposals, {MOST_BOXES} boxes before and after suppression"
        if changed
        else None
    )


def _all_boxes(cfg: Any) -> str | None:
    """Untrained heads are sure of nothing; without this, a prediction would end before its last steps."""
    changed = False
    for name, node in _named_dicts(cfg.model):
        for key in ("score_thr", "filter_thr"):
            if name in ("test_cfg", "rcnn") and (node.get(key) or 0) > LOW_SCORE:
                node[key] = LOW_SCORE
                changed = True
    return f"score threshold {LOW_SCORE:g}, so that untrained heads predict something" if changed else None


def _plain_batch_norm(cfg: Any) -> str | None:
    """PyTorch's synchronised batch norm needs a GPU and a process group; it has the same tensors as the plain one."""
    changed = False
    for node in walk_dicts(cfg.model):
        if node.get("type") in ("SyncBN", "MMSyncBN", "NaiveSyncBN"):
            node["type"] = "BN"
            changed = True
    return "plain batch norm instead of the synchronised one" if changed else None


def _plain_precision(cfg: Any) -> str | None:
    if cfg.get("optim_wrapper", {}).get("type") != "AmpOptimWrapper":
        return None
    cfg.optim_wrapper.type = "OptimWrapper"
    for key in ("loss_scale", "dtype"):
        cfg.optim_wrapper.pop(key, None)
    return "float32 instead of mixed precision"


def _no_checkpointing(cfg: Any) -> str | None:
    """Activation checkpointing of some layers needs another package, fairscale."""
    changed = False
    for node in walk_dicts(cfg.model):
        if node.get("num_cp"):
            node["num_cp"] = 0
            changed = True
    return "no activation checkpointing" if changed else None


def _clipped_boxes(cfg: Any) -> str | None:
    """Untrained boxes may lie outside the image altogether, where mmdet's pasting of masks on a CPU fails."""
    changed = False
    for node in walk_dicts(cfg.model):
        if "mask_head" in node and "bbox_head" in node:
            for inner in walk_dicts(node["bbox_head"]):
                if inner.get("clip_border") is False:
                    inner["clip_border"] = True
                    changed = True
    return "boxes clipped to the image" if changed else None


def cap(node: dict, key: str, most: int) -> bool:
    """Lower a whole number to at most ``most``; tells whether that changed anything."""
    if not isinstance(node.get(key), int) or node[key] <= most:
        return False
    node[key] = most
    return True


def _named_dicts(node: Any, name: str = ""):
    """Every dict inside a config with the key that it stands under; in lists, the list's."""
    if isinstance(node, dict):
        yield name, node
        for key, value in node.items():
            yield from _named_dicts(value, key)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _named_dicts(value, name)

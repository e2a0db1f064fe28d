"""Tiny inputs for one step and one prediction of any family: what its config's own pipeline would have loaded.

Images are noise with a few painted rectangles as objects. Annotations follow the config: masks, semantic maps,
proposals, instance ids over frames, lanes and the branches of semi-supervised training are there where the pipeline
or the model asks for them, and only there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

NUM_OBJECTS = 3
TEXT_PROMPT = ("cat", "dog")  # the two classes that objects have


@dataclass(frozen=True)
class Needs:
    """What a config's training pipeline loads besides images and boxes."""

    task: str  # "detection", "tracking", "semi" or "lanes"
    masks: bool = False
    semantic: bool = False
    proposals: bool = False
    num_classes: int = 1
    num_things: int = 1
    num_stuff: int = 0
    text: bool = False  # the names of the objects, as a prompt
    height: int = 128  # pixels
    width: int = 128


def needs_of(cfg: Any, image_size: int = 128) -> Needs:
    """Read from a whole config what its model must be fed.

    Args:
        cfg: ``mmengine.config.Config`` of a detector, with its data pipeline.
        image_size: height and width of the images in pixels, where the model does not fix them.
    """
    steps = [step for step in _walk(_training_data(cfg)) if isinstance(step.get("type"), str)]
    loaders = [step for step in steps if step["type"].startswith("Load") and "Annotations" in step["type"]]
    panoptic = any(step["type"] == "LoadPanopticAnnotations" for step in loaders)
    processor = cfg.model.get("data_preprocessor", {}).get("type", "")
    task = {"TrackDataPreprocessor": "tracking", "MultiBranchDataPreprocessor": "semi"}.get(
        processor, "detection"
    )
    if processor == "LineDetDataProcessor":
        return Needs("lanes", height=320, width=800)
    nodes = list(_walk(cfg.model))
    return Needs(
        task,
        masks=panoptic or any(step.get("with_mask") for step in loaders),
        semantic=panoptic or any(step.get("with_seg") for step in loaders),
        proposals=any(step["type"] == "LoadProposals" for step in steps),
        num_classes=_num_classes(nodes),
        num_things=max((n.get("num_things_classes") or 0 for n in nodes), default=0),
        num_stuff=max((n.get("num_stuff_classes") or 0 for n in nodes), default=0),
        text=any("language_model" in node for node in nodes),
        height=image_size,
        width=image_size,
    )


def training_batch(needs: Needs, seed: int = 0) -> dict:
    """A batch as the config's data loader would collate it, for ``model.train_step``."""
    random = np.random.RandomState(seed)
    if needs.task == "lanes":
        return _lanes(needs, random)
    if needs.task == "tracking":
        return _collate([_video(needs, random, index) for index in range(2)])
    if needs.task == "semi":
        return _semi_supervised(needs, random)
    return _collate([_image(needs, random, index) for index in range(2)])


def prediction_batch(needs: Needs, seed: int = 1) -> dict:
    """One image (or video) without annotations, for ``model.test_step``."""
    random = np.random.RandomState(seed)
    if needs.task == "lanes":
        return _lanes(needs, random)
    if needs.task == "tracking":
        return _collate([_video(needs, random, 0, annotated=False)])
    return _collate([_image(needs, random, 0, annotated=False)])


def _image(
    needs: Needs, random: np.random.RandomState, index: int, annotated: bool = True, boxes=None
) -> dict:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData, PixelData

    height, width = needs.height, needs.width
    boxes = _boxes(random, height, width) if boxes is None else boxes
    image = _paint(random, boxes, height, width)
    sample = DetDataSample(metainfo=_meta(index, height, width))
    if needs.text:
        sample.set_metainfo({"text": TEXT_PROMPT, "custom_entities": True})
    if needs.proposals:
        sample.proposals = InstanceData(
            bboxes=torch.from_numpy(np.concatenate([boxes, _boxes(random, height, width)])),
            scores=torch.linspace(1, 0.1, 2 * NUM_OBJECTS),
        )
    if annotated:
        labels = np.arange(NUM_OBJECTS) % min(needs.num_classes, 2)
        objects = InstanceData(bboxes=torch.from_numpy(boxes), labels=torch.from_numpy(labels).long())
        filled = [_rectangle(box, height, width) for box in boxes]
        if needs.masks:
            from mmdet.structures.mask import BitmapMasks

            objects.masks = BitmapMasks(np.stack(filled).astype(np.uint8), height, width)
        sample.gt_instances = objects
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        if needs.semantic:
            # Background is the first stuff class, or the last class where things and stuff are not told apart.
            background = needs.num_things if needs.num_stuff else 2
            semantic = np.full((height, width), background, dtype=np.int64)
            for mask, label in zip(filled, labels, strict=True):
                semantic[mask] = label
            sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(semantic[None]))
    return {"inputs": torch.from_numpy(image), "data_samples": sample}


def _video(needs: Needs, random: np.random.RandomState, index: int, annotated: bool = True) -> dict:
    """Two frames; the objects of the first move on by a few pixels and keep their ids."""
    from mmdet.structures import TrackDataSample

    boxes = _boxes(random, needs.height, needs.width)
    frames = []
    for frame in range(2):
        moved = (boxes + 2 * frame).clip(0, min(needs.height, needs.width))
        image = _image(needs, random, index, annotated, moved)
        sample = image["data_samples"]
        sample.set_metainfo({"frame_id": frame, "video_id": index, "video_length": 2, "ori_video_length": 2})
        if annotated:
            sample.gt_instances.instances_ids = torch.arange(NUM_OBJECTS)
        frames.append(image)
    track = TrackDataSample(video_data_samples=[frame["data_samples"] for frame in frames])
    track.set_metainfo({"key_frames_inds": [0], "ref_frames_inds": [1]} if annotated else {})
    return {"inputs": torch.stack([frame["inputs"] for frame in frames]), "data_samples": track}


def _semi_supervised(needs: Needs, random: np.random.RandomState) -> dict:
    """One labelled image, and one without labels seen by teacher and student."""
    inputs: dict[str, list] = {}
    samples: dict[str, list] = {}
    for branch in ("sup", "unsup_teacher", "unsup_student"):
        item = _image(needs, random, 0, annotated=branch == "sup")
        item["data_samples"].set_metainfo({"homography_matrix": np.eye(3, dtype=np.float32)})
        # The other branches' slots are None, as mmdet's MultiBranch transform leaves them.
        inputs[branch], samples[branch] = [item["inputs"]], [item["data_samples"]]
    return {"inputs": inputs, "data_samples": samples}


def _lanes(needs: Needs, random: np.random.RandomState) -> dict:
    """Two images with two lanes each, as the config's last pipeline steps encode them."""
    from mmdet.datasets.transforms import LinesToArray, PackLineDetectionInputs

    encode = LinesToArray(img_height=needs.height, img_width=needs.width, max_lines=4, num_points=72)
    items = []
    for _ in range(2):
        rows = np.linspace(needs.height - 1, needs.height * 0.4, 12)
        lines = [
            [(needs.width * (place + 0.1 * (1 - row / needs.height)), row) for row in rows]
            for place in random.uniform(0.2, 0.7, 2)
        ]
        semantic = np.zeros((needs.height, needs.width), dtype=np.int64)
        for label, line in enumerate(lines, start=1):
            for x, y in line:
                semantic[int(y), max(int(x) - 3, 0) : int(x) + 3] = label
        image = random.randint(0, 256, (needs.height, needs.width, 3)).astype(np.uint8)
        sample = {"img": image, "lines": lines, "org_lines": lines, "gt_seg_map": semantic}
        items.append(
            PackLineDetectionInputs()(encode(sample | {"org_height": needs.height, "org_width": needs.width}))
        )
    return _collate(items)


def _collate(items: list[dict]) -> dict:
    return {key: [item[key] for item in items] for key in items[0]}


def _meta(index: int, height: int, width: int) -> dict:
    return {
        "img_id": index, "img_path": f"noise-{index}.png", "img_shape": (height, width), "ori_shape": (height, width),
        "scale_factor": (1.0, 1.0), "flip": False, "flip_direction": None,
    }  # fmt: skip


def _boxes(random: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """[NUM_OBJECTS, 4] corners in pixels: one small, one middle, one large object inside the image."""
    sides = (
        np.array([0.15, 0.35, 0.6])[:, None] * [width, height] * random.uniform(0.9, 1.1, (NUM_OBJECTS, 2))
    )
    corner = random.uniform(0, 1, (NUM_OBJECTS, 2)) * ([width, height] - sides - 4)
    return np.concatenate([corner, corner + sides], axis=1).round().astype(np.float32)


def _rectangle(box: np.ndarray, height: int, width: int) -> np.ndarray:
    left, top, right, bottom = box.astype(int)
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def _paint(random: np.random.RandomState, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    image = random.randint(0, 256, (3, height, width)).astype(np.uint8)
    for box in boxes:
        image[:, _rectangle(box, height, width)] = random.randint(0, 256, (3, 1))
    return image


def _training_data(cfg: Any) -> list:
    return [cfg.get("train_dataloader"), cfg.get("train_pipeline")]


def _num_classes(nodes: list[dict]) -> int:
    """The smallest number of classes of any head but a region proposal head's."""
    counts = [
        node["num_classes"]
        for node in nodes
        if isinstance(node.get("num_classes"), int) and "RPN" not in str(node.get("type"))
    ]
    return min(counts, default=1)


def _walk(node: Any) -> Iterator[dict]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _walk(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _walk(value)

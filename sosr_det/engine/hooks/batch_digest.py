"""Which batches a run was trained on, as one number per epoch, so that two runs can be shown to have had the same."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from sosr_det.data.sample_seeds import SampleSeededDataset, seed_all
from sosr_det.engine.backbone.places import live_backbones
from sosr_det.errors import ConfigError
from sosr_det.registry.digest import tensors_digest

# Where a picture lies is not what is in it.
_UNFINISHED = "unfinished_batches"  # in the message hub
_NOT_CONTENT = ("img_path", "ori_filename", "filename", "file_name")


@HOOKS.register_module()
class BatchDigestHook(Hook):
    """Seeds every epoch by its number, and hashes every training batch before the model touches it.

    `sosr-det train --paired` adds it; every training of `sosr-det train` augments by (seed, epoch, sample) already.
    What the model draws itself (dropout, CutMix in the preprocessor) is seeded from (seed, epoch, rank) too, so that it
    does not depend on what was drawn before training.

    Leaves in ``run.json``:

    - ``batches``: per epoch ``epoch`` (from 1), ``digest`` (SHA-256 over everything in every batch of every process in
      order: images, boxes, labels, sizes, flips; each batch's digest is hashed with the one before, so that a run can
      be stopped between two batches), ``num_batches`` (of one process), ``random_state`` (SHA-256 of what the CPU
      generators had got to at the end of the epoch: equal where the model drew the same numbers);
    - ``initial_weights``: digests of all weights inside and outside of the backbone, before the first step.

    Raises (in ``before_train``):
        ConfigError: the training data are not seeded by sample, or the run counts iterations and no epochs.
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self._digest, self._num_batches = "", 0

    def before_train(self, runner) -> None:
        self._dataset = _seeded_dataset(runner.train_dataloader.dataset)
        if runner.seed is None or not hasattr(runner.train_loop, "run_epoch"):
            raise ConfigError(
                "--paired is for runs that count epochs; this config's train_cfg counts iterations."
            )
        info = runner.message_hub.runtime_info
        known = info.get("batches") or [] if runner.epoch else []
        # Through the message hub they travel in the checkpoint, so a resumed run has them as of that checkpoint.
        runner.message_hub.update_info("batches", [each for each in known if each["epoch"] <= runner.epoch])
        place = getattr(runner.train_loop, "place", None)
        self._goes_on = bool(place and place.batches_done)
        if not runner.iter:
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            runner.message_hub.update_info("initial_weights", weight_digests(model))

    def before_train_epoch(self, runner) -> None:
        self._dataset.set_epoch(runner.seed, runner.epoch)
        if self._goes_on:  # in the middle of this epoch, with the random states it had there
            ranks = runner.message_hub.get_info(_UNFINISHED)
            self._digest, self._num_batches = ranks[get_rank()]
            self._goes_on = False
            return
        number = seed_all("epoch", runner.seed, runner.epoch, get_rank())
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(number)
        self._digest, self._num_batches = "", 0

    def before_train_iter(self, runner, batch_idx: int, data_batch: Any = None) -> None:
        batch = hashlib.sha256(self._digest.encode())
        add_to_digest(batch, data_batch)
        self._digest = batch.hexdigest()
        self._num_batches += 1

    def before_save_mid_epoch(self, runner) -> None:
        """Every rank's unfinished digest goes into the checkpoint."""
        own = [self._digest, self._num_batches]
        runner.message_hub.update_info(_UNFINISHED, all_gather_object(own))

    def after_train_epoch(self, runner) -> None:
        own = [self._digest, _random_state()]
        ranks = all_gather_object(own)
        batches, states = ([each[place] for each in ranks] for place in (0, 1))
        entry = {
            "epoch": runner.epoch + 1,  # mmengine counts the finished epoch after this hook
            "digest": _joined(batches),
            "num_batches": self._num_batches,
            "random_state": _joined(states),
        }
        runner.message_hub.update_info("batches", [*runner.message_hub.get_info("batches"), entry])


def weight_digests(model: torch.nn.Module) -> dict[str, Any]:
    """Digests of the weights of the backbones and of everything else, and of the latter's names and shapes alone."""
    backbones = tuple(f"{name}." for name in live_backbones(model))
    parts: tuple[dict, dict] = ({}, {})
    for name, tensor in model.state_dict().items():
        parts[not name.startswith(backbones)][name] = tensor
    inside, outside = parts
    layout = hashlib.sha256(
        repr([(name, tuple(t.shape)) for name, t in outside.items()]).encode()
    ).hexdigest()
    return {
        "backbone": tensors_digest(inside) if inside else None,
        "outside_backbone": tensors_digest(outside),
        "outside_backbone_layout": layout,
        "num_tensors_outside_backbone": len(outside),
    }


def add_to_digest(digest: Any, value: Any) -> None:
    """Feed a batch to a hash: nested containers, tensors, arrays, mmengine's data elements, plain values.

    Types and shapes are part of it, so that no two different batches read the same.

    Raises:
        ConfigError: something whose content cannot be told.
    """
    if isinstance(value, torch.Tensor):
        dense = value.detach().cpu().contiguous()
        _add(digest, "tensor", f"{dense.dtype}{tuple(dense.shape)}".encode())
        # As bytes, since numpy has no bfloat16; as_strided, as a dimension of size 1 may have any stride.
        flat = dense.as_strided((dense.numel(),), (1,))
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    elif isinstance(value, np.ndarray):
        if value.dtype == object:
            raise ConfigError("a training batch holds an array of Python objects, which cannot be compared.")
        _add(digest, "array", f"{value.dtype.str}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        items = [(str(key), value[key]) for key in value if str(key) not in _NOT_CONTENT]
        _add_items(digest, "mapping", sorted(items, key=lambda item: item[0]))
    elif isinstance(value, (list, tuple)):
        _add(digest, "sequence", str(len(value)).encode())
        for item in value:
            add_to_digest(digest, item)
    elif hasattr(value, "all_items"):  # mmengine's BaseDataElement
        items = [(key, item) for key, item in value.all_items() if key not in _NOT_CONTENT]
        _add_items(digest, type(value).__name__, sorted(items, key=lambda item: item[0]))
    elif isinstance(value, np.generic) or value is None or isinstance(value, (bool, int, float, str, bytes)):
        plain = value.item() if isinstance(value, np.generic) else value
        _add(digest, type(plain).__name__, repr(plain).encode())
    elif hasattr(value, "tensor"):  # MMDetection's boxes
        _add(digest, type(value).__name__)
        add_to_digest(digest, value.tensor)
    elif hasattr(value, "masks"):  # MMDetection's masks
        _add(digest, type(value).__name__)
        add_to_digest(digest, [value.masks, value.height, value.width])
    else:
        raise ConfigError(
            f"--paired: a training batch holds a {type(value).__name__}, whose content cannot be compared."
        )


def _add_items(digest: Any, kind: str, items: list[tuple[str, Any]]) -> None:
    _add(digest, kind, str(len(items)).encode())
    for key, item in items:
        _add(digest, "key", key.encode())
        add_to_digest(digest, item)


def _add(digest: Any, kind: str, content: bytes = b"") -> None:
    """Kind and content with their lengths before them, so that none can pass for another."""
    digest.update(struct.pack("<II", len(kind), len(content)) + kind.encode() + content)


def _joined(digests: list[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _random_state() -> str:
    digest = hashlib.sha256(torch.get_rng_state().numpy().tobytes())
    numpy_state = np.random.get_state()
    digest.update(repr(random.getstate()).encode())
    digest.update(numpy_state[1].tobytes() + repr(numpy_state[2:]).encode())
    return digest.hexdigest()


def _seeded_dataset(dataset: Any) -> SampleSeededDataset:
    while dataset is not None and not isinstance(dataset, SampleSeededDataset):
        dataset = vars(dataset).get("_dataset")  # mmengine's num_batch_per_epoch puts a slice around it
    if dataset is None:
        raise ConfigError(
            "BatchDigestHook needs the training data in a SampleSeededDataset; use `sosr-det train --paired`, or the "
            "loop ExactEpochLoop."
        )
    return dataset

"""Refuses to train on a backbone that is not what its checkpoint holds."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from sosr_det.engine.backbone.frozen_tensors import FrozenTensors
from sosr_det.engine.backbone.live_contract import (
    Weights,
    check_backbone,
    initial_weights,
    load_weights,
    warn,
)
from sosr_det.engine.backbone.places import live_backbones
from sosr_det.errors import BackboneMismatchError, SosrError
from sosr_det.registry.names import SCHEME
from sosr_det.registry.opening import open_registry
from sosr_det.transfer.contract import Allowance


@HOOKS.register_module()
class BackboneContractHook(Hook):
    """Compares the live backbone with its source before the first step, and its frozen tensors after the last.

    Works for any model with modules named ``backbone`` (nested ones too) whose ``init_cfg`` is ``Pretrained``.
    ``before_train`` is after mmengine has initialised the weights (``PretrainedInit`` is never strict and only logs
    what it could not load) and before any update. It checks, for each backbone:

    - every tensor, bit for bit: matched, missing, unexpected, misshapen, different, NaN, negative variance;
    - for a registry entry also architecture, stride style, preprocessing, and the probe's features.

    ``after_train`` checks that the tensors that were frozen in every step are still those of the source. A resumed run
    is compared only then: its backbone has moved on.

    Args:
        allow: exceptions by name, see :class:`sosr_det.transfer.contract.Allowance`.
        automatic: set where no config named the hook, but importing ``sosr_det.register`` added it. Then a ``sosr://``
            backbone is held to the contract all the same; for other sources differences are warnings, because a
            config of other people may want them.

    Raises (in ``before_train``):
        BackboneMismatchError: anything but a full match with only the classifier head left over, features that differ
            from the probe's, or a backbone with frozen stages and no pretrained weights.
        ConfigError: the registry entry was trained with another depth, stride style or preprocessing.

    Raises (in ``after_train``):
        BackboneMismatchError: frozen tensors changed (a warning where the above are).
    """

    priority = "VERY_LOW"

    def __init__(self, allow: Sequence[str] = (), automatic: bool = False) -> None:
        self.allowance = Allowance(allow)
        self.automatic = automatic
        self._frozen: list[tuple[FrozenTensors, bool]] = []  # and whether a change is an error
        self._pins: dict[str, Any] = {}

    def before_train(self, runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._frozen = []
        with self._released_on_error():
            for name, backbone in live_backbones(model).items():
                self._check(runner, model, name, backbone)
        if self.allowance.unused and not runner.iter and not self.automatic:
            warn(f"backbone: not needed: --allow {' '.join(self.allowance.unused)}")

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for frozen, _ in self._frozen:
            frozen.observe()
        for pin in self._pins.values():
            pin.refresh()

    def after_train(self, runner) -> None:
        with self._released_on_error():
            for frozen, strict in self._frozen:
                try:
                    count = frozen.require_unchanged()
                except BackboneMismatchError as error:
                    if strict:
                        raise
                    warn(f"backbone: {error}")
                    continue
                if count and is_main_process():
                    print_log(
                        f"contract kept: {count} frozen tensors are still those of {frozen.uri}, bit for bit",
                        logger="current",
                    )

    def after_run(self, runner) -> None:
        self.release()

    def release(self) -> None:
        """Tell the registry that its entries are not used any more; a process that ends tells it, too."""
        for pin in self._pins.values():
            pin.release()
        self._pins = {}

    @contextmanager
    def _released_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.release()
            raise

    def _check(self, runner: Any, model: Any, name: str, backbone: Any) -> None:
        uri, load = _source_of(runner, model, name, backbone)
        if load is None:
            if not runner.iter:
                self._random(backbone)
            return
        strict = not self.automatic or uri.startswith(SCHEME)
        try:
            weights = load()
            self._hold(weights, runner)
            if not runner.iter:
                self._compare(runner, model, name, backbone, weights)
        except Exception as error:
            if (strict and not runner.iter) or isinstance(error, AssertionError):
                raise
            warn(f"backbone: {uri} is not compared: {error}" if runner.iter else f"backbone: {error}")
            return
        if "teacher" not in name.split("."):  # which follows the student, frozen or not
            frozen = FrozenTensors(backbone, weights.tensors, weights.uri)
            self._frozen.append((frozen, strict))
            changed = frozen.keep_equal()  # at a start, what was allowed to differ by name
            if changed and runner.iter:
                warn(
                    f"backbone: {len(changed)} frozen tensors are not those of {uri} as this run is resumed "
                    f"({', '.join(changed[:3])}, …): they came from elsewhere (load_from?) and are not watched."
                )

    def _hold(self, weights: Weights, runner: Any) -> None:
        """Tell the registry that this run uses the entry, so that ``registry gc`` leaves it alone; once per machine."""
        if weights.digest and weights.digest not in self._pins and os.environ.get("LOCAL_RANK", "0") == "0":
            self._pins[weights.digest] = open_registry().hold(
                weights.digest, note=f"training in {runner.work_dir}"
            )

    def _compare(self, runner: Any, model: Any, name: str, backbone: Any, weights: Weights) -> None:
        checked = check_backbone(model, name, backbone, weights, self.allowance, runner.cfg)
        if "backbone_transfer" not in runner.message_hub.runtime_info:
            runner.message_hub.update_info("backbone_transfer", checked.record(self.allowance))
        if is_main_process():
            where = "" if name == "backbone" else f" ({name})"
            print_log(f"contract kept{where}: {checked.report.describe()}", logger="current")
            for line in checked.lines:
                print_log(line, logger="current")

    def _random(self, backbone: Any) -> None:
        try:
            _refuse_frozen_random(backbone)
        except SosrError as error:
            if not self.automatic:
                raise
            warn(f"backbone: {error}")
        if not self.automatic:
            print_log("backbone: random initialisation, no checkpoint to compare with", logger="current")


def attach_to_every_runner() -> None:
    """Let every mmengine ``Runner`` carry the hook, whether its config names it or not. Again changes nothing.

    A Runner that has the hook already, from its config, gets no second one.
    """
    original = Runner.register_hooks
    if getattr(original, "adds_backbone_contract", False):
        return

    @functools.wraps(original)
    def register_hooks(self, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if not any(isinstance(hook, BackboneContractHook) for hook in self.hooks):
            self.register_hook(BackboneContractHook(automatic=True))

    register_hooks.adds_backbone_contract = True
    Runner.register_hooks = register_hooks


def _source_of(runner: Any, model: Any, name: str, backbone: Any) -> tuple[str, Any]:
    """What a backbone should hold, and how to load it: `load_from`, which comes last, else an `init_cfg`."""
    load_from = getattr(runner, "_load_from", None)
    if load_from is not None and not runner.iter:
        return str(load_from), lambda: load_weights(load_from, only=name)
    return initial_weights(model, name, backbone) or ("", None)


def _refuse_frozen_random(backbone: Any) -> None:
    frozen = getattr(backbone, "frozen_stages", -1)
    if frozen >= 0 or getattr(backbone, "norm_eval", False):
        raise BackboneMismatchError(
            f"the backbone has random weights but frozen_stages={frozen} and "
            f"norm_eval={getattr(backbone, 'norm_eval', False)}: frozen random layers cannot learn. "
            "Give it a checkpoint (--backbone sosr://NAME), or train from scratch with --backbone random, "
            "which unfreezes everything."
        )

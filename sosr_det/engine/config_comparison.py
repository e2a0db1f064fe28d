"""Where the config in use differs from the one that a run recorded: every setting, by its dotted name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sosr_det.engine.configs import bare_type
from sosr_det.engine.exact_engine import EQUIVALENT_TYPES
from sosr_det.engine.recorded_config import recorded_values
from sosr_det.engine.training_keys import ALL_DEFAULTS, START_KEYS, changes_training, is_volatile

_LONGEST = 60  # characters of a value that is shown
_RECORDER = "RunRecordHook"  # it holds what the command line decided, which is recorded beside the config


class _Absent:
    """The place of a value that one of the two configs does not have."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()


@dataclass(frozen=True)
class Difference:
    """One setting that differs.

    Attributes:
        key: its dotted name, as ``--cfg-options`` takes it; hooks in ``custom_hooks`` are named by their type.
        old: the recorded value, or ``ABSENT``.
        new: the value in use, or ``ABSENT``.
        changes_training: False where only speed, logs, checkpoints' schedule or tests depend on it; see
            :func:`sosr_det.engine.training_keys.changes_training`.
    """

    key: str
    old: Any
    new: Any
    changes_training: bool

    def to_dict(self) -> dict[str, Any]:
        """For run.json: the values as text, at full length; None for an absent one."""
        return {
            "key": self.key,
            "old": None if self.old is ABSENT else repr(self.old),
            "new": None if self.new is ABSENT else repr(self.new),
            "changes_training": self.changes_training,
        }


def config_differences(
    recorded_text: str, cfg: Any, *, resuming: bool = True, source: str = "run.json"
) -> list[Difference]:
    """Compare the whole config that a run recorded with the one in use.

    Left out: the work directory, the launcher and other names that say only where a run is started; variables that
    configs are written with and no section is read from; ``RunRecordHook``, which holds the command line's choices.
    Lists and tuples of equal values are equal (a dump may turn one into the other), ``mmdet.RandomFlip`` is
    ``RandomFlip``, and mmengine's loops and checkpoint hook are this project's. Items of a list that grew are matched
    by type, so that one more transform is one difference.

    Args:
        recorded_text: ``config_text`` of a run record.
        cfg: ``mmengine.config.Config`` in use, as it will be recorded: resolved, with its hooks.
        resuming: weights come from the run's own checkpoint, so ``load_from`` and ``init_cfg`` are not compared.
        source: the record's path, for messages.

    Returns:
        Differences in the order of the recorded config; those that change the training first.

    Raises:
        ConfigError: the recorded text is more than assignments of literals.
    """
    before = recorded_values(recorded_text, source)
    now = cfg.to_dict() if hasattr(cfg, "to_dict") else dict(cfg)
    # A config's dump and its data are compared alike: what cannot be written as a literal was written as text.
    found = []
    for name in dict.fromkeys([*before, *now]):
        if is_volatile(name) or (resuming and name in START_KEYS):
            continue
        absent = {} if name in ALL_DEFAULTS else ABSENT
        found += _compare((name,), before.get(name, absent), now.get(name, absent), resuming)
    return sorted(found, key=lambda each: not each.changes_training)


def difference_lines(found: Sequence[Difference]) -> list[str]:
    """``key: old -> new``, one line each, the arrows' left sides aligned; long values are cut.

    Those that do not change what is learned are marked so.
    """
    keys = [f"{each.key}:" for each in found]
    width = min(max(map(len, keys), default=0), 60)
    return [
        f"{key:<{width}} {shortened(each.old)} -> {shortened(each.new)}"
        + ("" if each.changes_training else "  (same training)")
        for key, each in zip(keys, found, strict=True)
    ]


def _compare(path: tuple[str, ...], before: Any, now: Any, resuming: bool) -> Iterator[Difference]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            if key == "_scope_" or (resuming and key in START_KEYS):
                continue
            yield from _compare((*path, str(key)), before.get(key, ABSENT), now.get(key, ABSENT), resuming)
        return
    if path == ("custom_hooks",):
        yield from _compare_hooks(before, now, resuming)
        return
    if _is_list(before) and _is_list(now):
        if not any(isinstance(each, (Mapping, list, tuple)) for each in (*before, *now)):
            if _plain(before) != _plain(now):
                yield _difference(path, before, now)
            return
        for index, one, other in _aligned(before, now):
            yield from _compare((*path, str(index)), one, other, resuming)
        return
    if _plain(before) != _plain(now) and not (path[-1] == "type" and _same_type(before, now)):
        yield _difference(path, before, now)


def _compare_hooks(before: Any, now: Any, resuming: bool) -> Iterator[Difference]:
    """By type: most of these hooks are independent of their order."""
    sides = [_by_type(hooks if _is_list(hooks) else []) for hooks in (before, now)]
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        if name != _RECORDER:
            one, other = (side.get(name, ABSENT) for side in sides)
            yield from _compare(("custom_hooks", name), one, other, resuming)


def _by_type(hooks: Sequence[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for hook in hooks:
        name = _kind(hook.get("type")) if isinstance(hook, Mapping) else str(hook)
        while name in found:  # the same type twice
            name += "'"
        found[name] = hook
    return found


def _aligned(before: Sequence[Any], now: Sequence[Any]) -> Iterator[tuple[int, Any, Any]]:
    """Pairs of items with their place in the list in use; items of one list alone are paired with ``ABSENT``."""
    if len(before) == len(now):
        yield from ((index, one, other) for index, (one, other) in enumerate(zip(before, now, strict=True)))
        return
    names = [[_name(each) for each in side] for side in (before, now)]
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, *names, autojunk=False).get_opcodes():
        paired = min(i2 - i1, j2 - j1) if tag in ("equal", "replace") else 0
        for step in range(paired):
            yield j1 + step, before[i1 + step], now[j1 + step]
        for place in range(i1 + paired, i2):
            yield place, before[place], ABSENT
        for place in range(j1 + paired, j2):
            yield place, ABSENT, now[place]


def _difference(path: tuple[str, ...], before: Any, now: Any) -> Difference:
    return Difference(".".join(path), before, now, changes_training(path))


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _plain(value: Any) -> Any:
    """Tuples as lists, and nothing else changed."""
    if _is_list(value):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items() if key != "_scope_"}
    return value


def _name(item: Any) -> str:
    return _kind(item["type"]) if isinstance(item, Mapping) and "type" in item else repr(_plain(item))


def _same_type(before: Any, now: Any) -> bool:
    names = {_kind(before), _kind(now)}
    return len(names) == 1 or names in EQUIVALENT_TYPES


def _kind(kind: Any) -> str:
    return bare_type(kind) if kind is not ABSENT else "(absent)"


def shortened(value: Any) -> str:
    """A setting's value as text, cut to what fits a line."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"

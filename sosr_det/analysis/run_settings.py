"""Whether two runs are the same experiment: the settings in their run records, read without running any of it.

Settings are a dict of dotted keys, such as ``model.loss.weight``, to their values as text, so that 1 and 1.0 are equal.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sosr_det.engine import hooks
from sosr_det.engine.configs import RUNNER_KEYS, config_names, load_config
from sosr_det.errors import CheckpointError

UNSET = "unset"

# How a run is carried out and watched, not what is trained; no plain variable of a config file is a setting either.
_SETTING_KEYS = set(RUNNER_KEYS) - {
    "work_dir", "resume", "launcher", "publish", "env_cfg", "log_processor", "log_level", "visualizer",
    "default_scope", "custom_imports", "experiment_name", "test_dataloader", "test_cfg", "test_evaluator",
    "model_wrapper_cfg", "find_unused_parameters", "compile", "activation_checkpointing",
}  # fmt: skip

_NO_SETTING = re.compile(
    r"(.+\.)?data_root"  # where the data lie; which data they are, the record says itself
    r"|randomness(\.(seed|deterministic))?"
    r"|(train|val)_dataloader\.(num_workers|persistent_workers|pin_memory|prefetch_factor)"
    r"|val_dataloader\.batch_size"
    r"|default_hooks\.(logger|timer|visualization)(\..+)?"
    r"|default_hooks\.checkpoint\.(interval|max_keep_ckpts|save_last)"
)

_LONG_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")

# The hooks of this project check and record: with or without them the same is trained.
_OWN_HOOKS = frozenset(hooks.__all__)


def run_settings(record: Mapping[str, Any], file: Path) -> dict[str, str]:
    """The settings of a run: its resolved config, number of processes, and fingerprints of its data.

    Left out is what repetitions of one experiment may differ in: seed, folders, publishing, logging, launcher, worker
    processes, and the hooks of this project.

    Args:
        record: see :func:`sosr_det.engine.run_record.read_run_record`.
        file: where it was read, for messages.

    Raises:
        CheckpointError: the record holds no config, or one that is no plain Python.
    """
    try:
        settings = config_settings(record["config_text"])
    except (KeyError, TypeError, ValueError, SyntaxError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: its config_text cannot be read ({type(error).__name__}: {error}), so nothing tells which other "
            "runs it may be averaged with. Leave this run out."
        ) from error
    if record.get("world_size") is not None:
        settings["world_size"] = _text(record["world_size"])
    for part, data in (record.get("data") or {}).items():
        if data and data.get("fingerprint"):
            settings[f"data.{part}.fingerprint"] = data["fingerprint"][:12]
    return settings


def config_settings(text: str) -> dict[str, str]:
    """The settings in the source of a resolved config (mmengine's ``pretty_text``), which is parsed and never run.

    Raises:
        SyntaxError, ValueError, RecursionError: not Python that can be parsed.
    """
    settings: dict[str, str] = {}
    for statement in ast.parse(text).body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            continue
        key, value = statement.targets[0].id, _value(statement.value)
        if key == "custom_hooks":
            value = _foreign_hooks(value)
        if key == "train_dataloader":
            value = _without_seeding(value)
        if key in _SETTING_KEYS and not (key in ("custom_hooks", "load_from") and not value):
            _flatten(key, value, settings)
    return {key: value for key, value in settings.items() if not _NO_SETTING.fullmatch(key)}


def differences(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys whose values are not the same in all of the settings, sorted."""
    keys = sorted(set().union(*settings))
    return [key for key in keys if len({each.get(key, UNSET) for each in settings}) > 1]


def changes_from_shipped(record: Mapping[str, Any], file: Path) -> dict[str, dict[str, str]] | None:
    """What a run changed of the shipped config whose name it bears: key -> ``shipped`` and ``run``.

    The data are not compared. The number of processes is, where the config's learning rate is for a total batch size.

    Returns:
        Empty where nothing was changed; None where no config of that name is shipped.

    Raises:
        CheckpointError: see :func:`run_settings`.
    """
    shipped = _shipped_settings(record["config_name"])
    if shipped is None:
        return None
    own = {
        key: value
        for key, value in run_settings(record, file).items()
        if not key.startswith("data.") and (key != "world_size" or key in shipped)
    }
    backbone = record.get("backbone") or {}
    if backbone.get("pinned_uri"):  # the config names the entry, the run its digest
        pinned, named = _text(backbone["pinned_uri"]), _text(backbone["uri"].removesuffix("@latest"))
        own = {key: named if value == pinned else value for key, value in own.items()}
    expected = {key: value for key, value in shipped.items() if key != "world_size" or key in own}
    return {
        key: {"shipped": expected.get(key, UNSET), "run": own.get(key, UNSET)}
        for key in differences([expected, own])
    }


@functools.cache
def _shipped_settings(stem: str) -> dict[str, str] | None:
    name = next((name for name in config_names() if name.rpartition("/")[2] == stem), None)
    if name is None:
        return None
    cfg = load_config(name)
    settings = config_settings(cfg.pretty_text)
    base = (cfg.get("auto_scale_lr") or {}).get("base_batch_size")
    batch_size = (cfg.get("train_dataloader") or {}).get("batch_size")
    if base and batch_size and base % batch_size == 0:
        settings["world_size"] = _text(base // batch_size)
    return settings


def _value(node: ast.expr) -> Any:
    """Dicts, lists (tuples too) and literals as themselves, any other expression as its source."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        # Keys that are no identifiers come as dict({'a-b': 1}).
        pairs = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg is None)]
        found: dict[str, Any] = {}
        for part in map(_value, pairs):
            if not isinstance(part, dict):
                raise ValueError(f"line {node.lineno} is no plain dict")
            found |= part
        return found | {keyword.arg: _value(keyword.value) for keyword in node.keywords if keyword.arg}
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {str(_value(key)): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _foreign_hooks(hooks: Any) -> dict[str, Any]:
    """Hooks by type, without this project's own: which of those a run carries depends on its version alone."""
    found: dict[str, Any] = {}
    for hook in hooks or []:
        arguments = dict(hook) if isinstance(hook, dict) else {"type": _text(hook)}
        kind = str(arguments.pop("type", None))
        if kind not in _OWN_HOOKS:
            found.setdefault(kind, []).append(arguments)
    return {kind: each if len(each) > 1 else each[0] for kind, each in found.items()}


def _without_seeding(loader: Any) -> Any:
    """A paired run's data set without its wrapper: where its random numbers come from changes nothing else."""
    dataset = loader.get("dataset") if isinstance(loader, dict) else None
    if isinstance(dataset, dict) and dataset.get("type") == "SampleSeededDataset":
        return {**loader, "dataset": dataset["dataset"]}
    return loader


def _flatten(key: str, value: Any, settings: dict[str, str]) -> None:
    if isinstance(value, dict) and value:
        items = value.items()
    elif isinstance(value, list) and _holds_dict(value):
        items = enumerate(value)
    else:
        settings[key] = _text(value)
        return
    for part, inner in items:
        _flatten(f"{key}.{part}", inner, settings)


def _holds_dict(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_holds_dict, value)))


def _text(value: Any) -> str:
    """As Python source; whole floats as integers, as a weight of 1.0 is one of 1, and digests shortened."""
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return repr(int(value))
    return _LONG_DIGEST.sub(r"\1", repr(value))

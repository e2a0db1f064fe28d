"""Finding, loading and overriding configs, with unknown names and keys refused instead of ignored."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sosr_det.engine.config_copies import rebased, temporary_copy
from sosr_det.engine.config_cost import metafiles_read_once
from sosr_det.engine.paper import paper_config_names, paper_config_text
from sosr_det.errors import ConfigError

# Top-level keys that mmengine's Runner reads. Other names are plain variables of a config, which
# makes a misspelt key vanish without a word: see `_refuse_misspelt_keys`.
RUNNER_KEYS = (
    "model", "work_dir", "train_dataloader", "val_dataloader", "test_dataloader", "train_cfg", "val_cfg",
    "test_cfg", "auto_scale_lr", "optim_wrapper", "param_scheduler", "val_evaluator", "test_evaluator",
    "default_hooks", "custom_hooks", "data_preprocessor", "load_from", "resume", "launcher", "env_cfg",
    "log_processor", "log_level", "visualizer", "default_scope", "randomness", "custom_imports", "publish", "stage",
    "model_wrapper_cfg", "find_unused_parameters", "sync_bn", "compile", "acceleration", "activation_checkpointing",
    "efficient_conv_bn_eval", "experiment_name",
)  # fmt: skip


def config_roots() -> list[Path]:
    """Folders with this project's configs: the checkout's ``configs/``, or the installed package's copy."""
    package = Path(__file__).resolve().parents[1]
    return [root for root in (package.parent / "configs", package / ".mim" / "configs") if root.is_dir()]


def config_names() -> list[str]:
    """Names of all shipped configs, such as ``pretrain/resnet50_sosr_8xb32-90e_in1k``.

    Those of the paper's experiments that have no file are generated: see :mod:`sosr_det.engine.paper`.
    """
    names = set(paper_config_names())
    for root in config_roots():
        for path in root.rglob("*.py"):
            relative = path.relative_to(root)
            if relative.parts[0] != "_base_":
                names.add(relative.with_suffix("").as_posix())
    return sorted(names)


def find_config(name: str) -> Path:
    """Resolve a config given as a file, as a shipped name (with or without ``.py``) or as ``mmdet::…``.

    A generated config becomes a file that lives as long as this process.

    Raises:
        ConfigError: nothing has that name; the message lists near names.
    """
    path = _find_file(name)
    if path is not None:
        return path
    text, folder = config_text(name)
    return temporary_copy(_wanted(name), rebased(text, folder))


def config_text(name: str) -> tuple[str, Path]:
    """Source of a config, and the folder that its relative ``_base_`` start from.

    Raises:
        ConfigError: as :func:`find_config`; a file that is no config.
    """
    path = _find_file(name)
    if path is not None:
        if Path(name).is_file():
            _require_config(path)
        return path.read_text(), path.parent
    wanted = _wanted(name)
    if wanted not in paper_config_names():
        raise ConfigError(_unknown(name))
    root = next((root for root in config_roots() if (root / "_base_").is_dir()), None)
    if root is None:
        raise ConfigError(
            f"config {wanted} is generated from base configs that this installation lacks; install sosr-det again."
        )
    return paper_config_text(wanted), (root / wanted).parent


def write_config_copy(name: str, out: Path) -> Path:
    """Save a config as a file of one's own; its bases stay those of this installation.

    Inside the folder of the shipped configs they are named relative to the copy, elsewhere by absolute path.

    Raises:
        ConfigError: unknown name, a file that exists already, a folder that does not.
    """
    text, folder = config_text(name)
    out = Path(out)
    if out.is_dir():
        out = out / f"{_wanted(name).rpartition('/')[2]}.py"
    if out.suffix != ".py":
        raise ConfigError(f"--out {out}: a config is a Python file; give a name ending in .py, or a folder.")
    if out.exists():
        raise ConfigError(f"{out} exists; choose another --out or remove it first.")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}.")
    place = out.parent.resolve()
    among_ours = any(place.is_relative_to(root.resolve()) for root in config_roots())
    out.write_text(rebased(text, folder, place if among_ours else None))
    return out


def _wanted(name: str) -> str:
    return name.removeprefix("configs/").removesuffix(".py")


def _find_file(name: str) -> Path | None:
    """The file that a name stands for, or None where it can only be a generated config."""
    path = Path(name)
    if path.is_file():
        return path
    if "::" in name:
        return _find_package_config(name)
    candidates = (root / f"{_wanted(name)}.py" for root in config_roots())
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def near_names(name: str) -> str:
    """A sentence that names the shipped configs most like ``name``, or says how to list all."""
    names = config_names()
    wanted = _wanted(name)
    whole = difflib.get_close_matches(wanted, names, n=3, cutoff=0.4)
    # A part of a name, as the patterns of `sosr-det configs` are, is not like any whole name.
    parts = {part: name for name in reversed(names) for part in re.split("[/_]", name)}
    near = whole or [parts[part] for part in difflib.get_close_matches(wanted, parts, n=3, cutoff=0.6)]
    if near:
        return f"Near names: {', '.join(near)}."
    return f"There are {len(names)} shipped configs: `sosr-det configs`."


def _unknown(name: str) -> str:
    return f"no config file and no shipped config is called {name!r}. {near_names(name)}"


def _require_config(path: Path) -> None:
    """Refuse a file that is no config; read, not run, since it may be any script.

    Raises:
        ConfigError: it is not Python, or sets nothing that a config sets.
    """
    try:
        statements = ast.parse(path.read_bytes()).body if path.suffix == ".py" else None
    except (SyntaxError, ValueError, OSError) as error:
        raise ConfigError(f"{path} is no config: it cannot be read as Python: {error}") from error
    if statements is None:
        raise ConfigError(f"{path} is no config: a config is a Python file whose name ends in .py.")
    targets = [target for node in statements if isinstance(node, ast.Assign) for target in node.targets]
    names = {target.id for target in targets if isinstance(target, ast.Name)}
    if not names & {"_base_", *RUNNER_KEYS} and "read_base" not in ast.dump(ast.Module(statements, [])):
        raise ConfigError(
            f"{path} is no config: it sets none of _base_, model, train_dataloader, … that a config sets."
        )


def _find_package_config(name: str) -> Path:
    from mmengine.config import Config

    try:
        found, _ = Config._get_cfg_path(name if name.endswith(".py") else f"{name}.py", "")
    except Exception as error:
        near = _near_package_configs(name)
        raise ConfigError(f"config {name!r} cannot be found: {near or error}") from error
    if not Path(found).is_file():
        near = _near_package_configs(name)
        raise ConfigError(f"config {name!r} cannot be found: {near or f'no file {found}'}")
    return Path(found)


def _near_package_configs(name: str) -> str:
    """A sentence with the configs of an installed package most like ``mmdet::folder/name``; empty without such."""
    from importlib.util import find_spec

    package, _, wanted = name.partition("::")
    spec = find_spec(package) if package.isidentifier() else None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        root = Path(place, ".mim", "configs")
        names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.py"))]
        # Near names of a thousand long ones take a while; those of the same folder come first.
        folder = wanted.rpartition("/")[0]
        same = [other for other in names if folder and other.rpartition("/")[0] == folder]
        for among in filter(None, (same, names)):
            if near := difflib.get_close_matches(wanted, among, n=3, cutoff=0.6):
                return (
                    f"{package} has no such config. Near names: {', '.join(f'{package}::{n}' for n in near)}."
                )
    return ""


def load_config(name: str, overrides: Sequence[str] = ()):
    """Load a config and apply ``KEY=VALUE`` overrides.

    Args:
        name: see :func:`find_config`.
        overrides: as OpenMMLab's ``--cfg-options``: dotted keys, Python literals or bare strings.

    Returns:
        ``mmengine.config.Config``.

    Raises:
        ConfigError: the file does not load, a top-level key looks misspelt, or an override names a key that the
            config does not have and its class does not take.
    """
    from mmengine.config import Config

    path = find_config(name)
    try:
        with metafiles_read_once():
            cfg = Config.fromfile(path)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"config {path} does not load: {type(error).__name__}: {error}") from error
    _refuse_misspelt_keys(cfg, path)
    for key, value in map(parse_override, overrides):
        _refuse_unknown_override(cfg, key)
        try:
            cfg.merge_from_dict({key: value})
        except (KeyError, TypeError, IndexError, AssertionError) as error:
            raise ConfigError(f"--cfg-options {key}={value!r} does not fit the config: {error}") from error
    return cfg


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``KEY=VALUE``; the value is a Python literal where it parses as one, else a string.

    ``true``/``false``/``none`` in any case are accepted as on OpenMMLab's command line.

    Raises:
        ConfigError: no ``=`` or an empty key.
    """
    key, equals, raw = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--cfg-options expects KEY=VALUE, got {text!r}")
    lowered = raw.lower()
    if lowered in ("true", "false", "none"):
        return key, {"true": True, "false": False, "none": None}[lowered]
    try:
        return key, ast.literal_eval(raw)
    except (ValueError, SyntaxError):
        pass
    from mmengine.config import DictAction

    try:
        return key, DictAction._parse_iterable(raw)  # OpenMMLab's own syntax: a,b  [a,b]  [(a,b),(c,d)]
    except AssertionError as error:
        raise ConfigError(f"--cfg-options {text}: {error}") from error


def bare_type(kind: Any, scope: str | None = None) -> str:
    """The name of a config's ``type``: a class (in Python-style configs), or a text with or without a scope.

    With ``scope`` only that scope is taken off: ``mmpretrain.ResNet`` is not MMDetection's ``ResNet``.
    """
    name = getattr(kind, "__name__", str(kind))
    return name.rpartition(".")[2] if scope is None else name.removeprefix(f"{scope}.")


def walk_dicts(node: Any) -> Iterator[dict]:
    """Every dict inside a config, depth first."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk_dicts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from walk_dicts(value)


def _refuse_misspelt_keys(cfg, path: Path) -> None:
    for key, value in cfg.items():
        if key in RUNNER_KEYS or not isinstance(value, (dict, list)):
            continue
        near = difflib.get_close_matches(key, RUNNER_KEYS, n=1, cutoff=0.88)
        if near:
            raise ConfigError(
                f"{path}: unknown config key {key!r}, which nothing reads; did you mean {near[0]!r}?"
            )


def _refuse_unknown_override(cfg, key: str) -> None:
    """An override must name an existing key, or an argument that the class at that place takes."""
    node: Any = cfg._cfg_dict
    parts = key.split(".")
    if parts[0] in _BY_FLAG:
        raise ConfigError(f"--cfg-options {key}: use {_BY_FLAG[parts[0]]} for this.")
    if parts[0] in cfg and parts[0] not in RUNNER_KEYS:
        raise ConfigError(
            f"--cfg-options {key}: {parts[0]} is a variable of the config file that was used up when it was read, so "
            "changing it now would do nothing. Override where it is used (for example train_dataloader.…, "
            "train_cfg.…), or use --data-root or --total-epochs."
        )
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        here = ".".join(parts[:position]) or "the config"
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(
                    f"--cfg-options {key}: {here} is a list of {len(node)}, {part!r} is no index in it"
                )
            node = node[int(part)]
            continue
        if not isinstance(node, dict):
            if node is None and last:
                return
            raise ConfigError(f"--cfg-options {key}: {here} holds {node!r}, which has no key {part!r}")
        if part in node:
            node = node[part]
            continue
        known = set(node)
        accepted = _accepted_at(parts[:position], node)
        if accepted is None or part in accepted:
            return
        near = difflib.get_close_matches(part, known | accepted, n=3, cutoff=0.5)
        hint = (
            f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(sorted(known | accepted))}."
        )
        raise ConfigError(f"--cfg-options {key}: {here} has no key {part!r}; {hint}")


# Overrides that the command line would silently win over.
_BY_FLAG = {"resume": "--resume", "launcher": "--launcher", "data_root": "--data-root"}


def _accepted_at(path: Sequence[str], node: dict) -> set[str] | None:
    """Keys that may be added to the dict at ``path``; None where any may."""
    if not path:
        return set(RUNNER_KEYS)
    if path[0] == "acceleration":
        return None  # checked where it is read
    if path == ["default_hooks"] or path[-1] in ("init_cfg", "metainfo", "model_wrapper_cfg"):
        return None
    if "type" in node:
        accepted = _accepted_arguments(node["type"])
        if accepted is not None and path == ["optim_wrapper"]:
            accepted |= {"constructor", "paramwise_cfg"}  # the builder takes these before the class sees them
        return accepted
    if path[-1].endswith("_dataloader"):
        from torch.utils.data import DataLoader

        return set(inspect.signature(DataLoader.__init__).parameters) - {"self"}
    if path == ["randomness"]:
        return {"seed", "diff_rank_seed", "deterministic"}
    return {"arch", "init_cfg"} if path[-1] == "backbone" else set()


def _accepted_arguments(type_name: Any) -> set[str] | None:
    """Constructor arguments of a registered class; None where anything may be accepted (``**kwargs`` to the root)."""
    if not isinstance(type_name, str):
        return set()
    cls = find_registered(type_name)
    if cls is None:
        return None
    if not inspect.isclass(cls):
        parameters = inspect.signature(cls).parameters.values()
        return None if any(p.kind == p.VAR_KEYWORD for p in parameters) else {p.name for p in parameters}
    names: set[str] = set()
    for base in cls.__mro__[:-1]:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names |= {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)} - {"self"}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return names
    return names


def find_registered(type_name: str) -> Any:
    import mmengine.registry as registry_module
    from mmengine.registry import Registry

    name = type_name.rpartition("::")[2].removeprefix("mmdet.")
    roots = [r for r in vars(registry_module).values() if isinstance(r, Registry)]
    for root in roots:
        for registry in (root, *root.children.values()):
            if name in registry.module_dict:
                return registry.module_dict[name]
    return None

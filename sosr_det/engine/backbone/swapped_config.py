"""``sosr-det swap``: a config with another backbone, shown as a difference and written as a small file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sosr_det.engine.backbone.config_difference import (
    base_reference,
    config_source,
    one_line,
    overrides,
    text_difference,
    write_config,
)
from sosr_det.engine.backbone.swap import SwapReport, swap_backbone
from sosr_det.engine.configs import load_config
from sosr_det.errors import ConfigError
from sosr_det.registry.layout import ENV_ROOT
from sosr_det.registry.remote.urls import is_remote, parse_remote

_HOOK = "BackboneContractHook"
_REGISTER = "sosr_det.register"


@dataclass
class SwappedConfig:
    """A config before and after a swap, as plain data, and what the swap did."""

    name: str
    before: dict[str, Any]
    after: dict[str, Any]
    report: SwapReport
    asked: str
    registry_root: str | None = None  # as given by --registry, else $SOSR_REGISTRY

    @property
    def difference(self) -> list[str]:
        """Lines of a unified diff, of the changed parts."""
        return text_difference(self.before, self.after, self.name)


def swap_config(
    name: str,
    uri: str,
    allow: Sequence[str] = (),
    *,
    registry_root: str | None = None,
    set_depth: bool = False,
) -> SwappedConfig:
    """Load a config and swap its backbone; add what MMDetection's own tools need to check it at start-up.

    Args:
        name: config file, shipped name or ``mmdet::…``.
        uri: see :func:`swap_backbone`. A file's path becomes absolute.
        allow, registry_root, set_depth: see :func:`swap_backbone`.

    Raises:
        SosrError: see :func:`swap_backbone`.
    """
    asked = uri
    if "://" not in uri and Path(uri).expanduser().exists():
        uri = str(Path(uri).expanduser().resolve())
    cfg = load_config(name)
    before = cfg.to_dict()
    report = swap_backbone(cfg, uri, allow, registry_root=registry_root, set_depth=set_depth)
    after = cfg.to_dict()
    imports = dict(after.get("custom_imports") or {"allow_failed_imports": False})
    modules = imports.get("imports") or []
    modules = [modules] if isinstance(modules, str) else list(modules)
    if _REGISTER not in modules:  # first: it must come before anything that imports mmdet
        after["custom_imports"] = {"imports": [_REGISTER, *modules], **_without(imports, "imports")}
    hooks = list(after.get("custom_hooks") or [])
    if not any(hook.get("type") == _HOOK for hook in hooks):
        hooks.append({"type": _HOOK})
    if report.allowed:
        hooks = [{**hook, "allow": report.allowed} if hook.get("type") == _HOOK else hook for hook in hooks]
    after["custom_hooks"] = hooks
    root = registry_root or os.environ.get(ENV_ROOT) if report.kind == "entry" else None
    return SwappedConfig(name, before, after, report, asked, root)


def require_writable(out: Path, force: bool) -> None:
    """Refuse before any work is done what could not be written after it.

    Raises:
        ConfigError: a name that is no config's, a file that exists, a folder that does not.
    """
    if out.suffix != ".py":
        raise ConfigError(f"--out {out}: a config is a Python file; give a name ending in .py.")
    if out.exists() and not (force and out.is_file()):
        raise ConfigError(f"{out} exists; choose another --out, or --force to replace it.")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}.")


def write_swapped(swapped: SwappedConfig, out: Path, force: bool = False) -> str:
    """Write the config; it inherits the original and holds the differences, where that loads as the same.

    Returns:
        "differences", or "whole" where the original cannot be inherited and the file holds everything.

    Raises:
        ConfigError: see :func:`require_writable`; or neither form loads as what was meant.
    """
    require_writable(out, force)
    report = swapped.report
    flags = "".join(f" --allow {one_line(name)!r}" for name in report.allowed)
    header = (
        f"# {one_line(swapped.name)} on the backbone {one_line(report.uri)}.\n"
        f"# Written by: sosr-det swap {one_line(swapped.name)} --backbone {one_line(swapped.asked)}{flags}\n"
    )
    if swapped.registry_root:
        root = swapped.registry_root
        shown = str(parse_remote(root)) if is_remote(root) else root  # no password of a URL in a file
        header += f"# The digest is in the registry {one_line(shown)} (--registry or ${ENV_ROOT}).\n"
    notes = {report.checkpoint: report.uri} if report.checkpoint != report.uri else {}
    reference = base_reference(swapped.name, out)
    if reference is not None:
        values = {"_base_": reference, **_in_order(overrides(swapped.before, swapped.after))}
        if write_config(header + config_source(values, notes), out, swapped.after):
            return "differences"
    if write_config(header + config_source(swapped.after, notes), out, swapped.after):
        return "whole"
    raise ConfigError(f"the swapped config does not load as what was meant, so {out} was not written.")


def _in_order(values: dict[str, Any]) -> dict[str, Any]:
    first = [key for key in ("custom_imports", "custom_hooks") if key in values]
    return {key: values[key] for key in [*first, *(key for key in values if key not in first)]}


def _without(values: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != key}

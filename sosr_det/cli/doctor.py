"""``sosr-det doctor``: can this environment run SOSR-Det, and with what?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sosr_det.registry.layout import RegistryLayout

_OPENMMLAB_MODULES = ("mmengine", "mmcv", "mmdet")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print versions, device, mmcv ops provider and disk space; exit 1 where the environment cannot work."""
    import json

    facts, problems = diagnose()
    if as_json:
        typer.echo(json.dumps({"facts": facts, "problems": problems}, indent=1))
    else:
        width = max(map(len, facts))
        for key, value in facts.items():
            typer.echo(f"{key.ljust(width)}  {value}")
        for problem in problems:
            typer.echo(f"PROBLEM: {problem}", err=True)
        typer.echo(
            "this environment is ready" if not problems else f"{len(problems)} problem(s) found",
            err=bool(problems),
        )
    if problems:
        raise typer.Exit(1)


def diagnose() -> tuple[dict[str, str], list[str]]:
    """Facts by name, and problems as full sentences with their remedy."""
    import os
    import platform
    import shutil

    from sosr_det.engine.provenance import library_versions
    from sosr_det.registry.layout import RegistryLayout
    from sosr_det.registry.opening import registry_root
    from sosr_det.registry.remote.urls import is_remote, parse_remote

    problems = overlapping_packages(_providers())
    facts = {"platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"}
    facts |= library_versions()
    facts |= _torch_facts(problems)
    if not problems:  # a mixed installation may not even import
        facts |= _vision_facts(problems)
    for label, path in (("disk here", "."), ("disk temporary", os.environ.get("TMPDIR", "/tmp"))):
        free = shutil.disk_usage(path).free / 2**30
        facts[label] = f"{free:.1f} GiB free"
        if free < 1:
            problems.append(f"{label}: only {free:.2f} GiB are free; checkpoints need more. Free some space.")
    root = registry_root()
    if is_remote(root):
        facts["registry"] = f"{parse_remote(root)} (a store; not contacted)"
    else:
        facts["registry"] = f"{root} ({_registry_state(RegistryLayout(root), problems)})"
        if warnings := RegistryLayout(root).permissions_warnings():
            facts["registry access"] = " ".join(warnings)
    return facts, problems


def _registry_state(layout: RegistryLayout, problems: list[str]) -> str:
    """A few words about a registry folder; whatever keeps it from being used becomes a problem."""
    from sosr_det.errors import SosrError

    try:
        if not layout.root.exists():
            return "not there yet; made at the first publish"
        if layout.root.is_dir() and not any(layout.root.iterdir()):
            return "empty; made a registry at the first publish"
        layout.require()
    except (SosrError, OSError) as error:
        problems.append(f"registry: {error}")
        return "cannot be used"
    return "exists"


def overlapping_packages(providers: dict[str, list[str]]) -> list[str]:
    """One problem for each import name that several installed distributions provide.

    Stock ``mmengine``/``mmcv``/``mmdet`` and their ``onedl-`` successors write into the same folders, so whichever was
    installed last wins file by file.
    """
    problems = []
    for module in _OPENMMLAB_MODULES:
        found = sorted(set(providers.get(module, [])))
        if len(found) > 1:
            stock = [name for name in found if not name.startswith("onedl-")]
            problems.append(
                f"`import {module}` is provided by {' and '.join(found)}, which overwrite each other's files. "
                f"Run: pip uninstall -y {' '.join(found)} && pip install --force-reinstall --no-deps "
                f"{' '.join(name for name in found if name not in stock) or found[0]}"
            )
        elif not found:
            problems.append(f"`import {module}` is not installed. Run: pip install -e . in the checkout.")
        elif not found[0].startswith("onedl-"):
            problems.append(
                f"`import {module}` comes from the stock package {found[0]}, which cannot resume its own checkpoints "
                f"on torch >= 2.6. Run: pip uninstall -y {found[0]} && pip install onedl-{_successor(module)}"
            )
    return problems


def _successor(module: str) -> str:
    return "mmdetection" if module == "mmdet" else module


def _providers() -> dict[str, list[str]]:
    from importlib import metadata

    return {
        module: [name.lower() for name in names]
        for module, names in metadata.packages_distributions().items()
        if module in _OPENMMLAB_MODULES
    }


def _torch_facts(problems: list[str]) -> dict[str, str]:
    try:
        import torch
        import torchvision
    except Exception as error:
        problems.append(
            f"torch or torchvision does not import: {error}. Install versions that belong together."
        )
        return {}
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        device = f"{len(names)} CUDA: {', '.join(names)}"
    else:
        device = f"CPU, {torch.get_num_threads()} threads"
    facts = {"device": device}
    try:
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except RuntimeError as error:
        problems.append(
            f"torchvision's ops do not fit this torch: {str(error).splitlines()[0]}. Reinstall torchvision."
        )
    return facts


def _vision_facts(problems: list[str]) -> dict[str, str]:
    facts = {}
    try:
        import cv2

        facts["cv2"] = cv2.__version__
    except ImportError as error:
        problems.append(
            f"cv2 does not import: {error}. On a machine without a desktop run: pip uninstall -y opencv-python && "
            "pip install --force-reinstall --no-deps opencv-python-headless"
        )
        return facts
    from sosr_det.compat import mmcv_ops_provider

    provider = mmcv_ops_provider()
    fallback = "torchvision fallback (mmcv has no compiled ops)"
    facts["mmcv ops"] = "compiled" if provider == "compiled" else fallback
    return facts

"""timm's pretrained models by name, and timm's own checkpoints."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sosr_det.errors import CheckpointError, ConfigError
from sosr_det.registry.hub_cache import fetch
from sosr_det.registry.manifest import Preprocessing
from sosr_det.registry.offline import ENV_OFFLINE, is_offline
from sosr_det.registry.strict_json import number, parse_json
from sosr_det.transfer.foreign.architectures import canonical_timm_name
from sosr_det.transfer.foreign.evidence import Evidence
from sosr_det.transfer.foreign.preprocessing import from_unit_scale

SCHEME = "timm://"
_STYLE_WHY = "timm strides in the 3x3 convolution"
_FILE = "model.safetensors"


def pretrained_cfg(name: str) -> Any:
    """timm's settings of pretrained weights, ``NAME`` or ``NAME.TAG``.

    Raises:
        ConfigError: timm has no such model, or no such weights of it; near names are listed.
    """
    import timm

    base = name.partition(".")[0]
    if not timm.is_model(base):
        near = difflib.get_close_matches(base, timm.list_models(), n=4, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them."
        raise ConfigError(f"timm {timm.__version__} has no model {base!r}; {hint}")
    try:
        cfg = timm.models.get_pretrained_cfg(name)
    except RuntimeError:
        cfg = None
    if cfg is None:
        tags = timm.list_pretrained(f"{base}.*")
        raise ConfigError(
            f"timm {timm.__version__} has no pretrained weights {name!r}; it has {', '.join(tags[:8]) or 'none'}"
            f"{' …' if len(tags) > 8 else ''}."
        )
    return cfg


def preprocessing_of(cfg: Any) -> Preprocessing:
    """timm's mean and std are for RGB pixels from 0 to 1."""
    height, width = cfg.input_size[-2:]
    return from_unit_scale(cfg.mean, cfg.std, cfg.interpolation, (height, width))


def find_weights(name: str) -> tuple[Path, str, Evidence]:
    """The file of timm's pretrained weights, its full name, and what timm says about it.

    The file is looked for in the Hugging Face cache and downloaded there, as timm does; weights that timm keeps at a
    web address go through torch.hub's cache.

    Raises:
        ConfigError: unknown name.
        CheckpointError: the file is neither there nor to be had.
    """
    cfg = pretrained_cfg(name)
    full_name = f"{cfg.architecture}.{cfg.tag}" if cfg.tag else cfg.architecture
    assumptions = [] if name == full_name else [f"{SCHEME}{name} means {SCHEME}{full_name}, timm's default"]
    if cfg.file:
        path = Path(cfg.file)
    elif cfg.hf_hub_id:
        path = _from_hub(cfg.hf_hub_id, cfg.hf_hub_filename or _FILE)
    elif cfg.url:
        path = fetch(cfg.url)
    else:
        raise ConfigError(f"timm knows no file with weights of {full_name!r}.")
    evidence = evidence_of(cfg, "its name", cfg.architecture)
    evidence.assumptions = assumptions
    return path, f"{SCHEME}{full_name}", evidence


def evidence_of(cfg: Any, why: str, model_name: str) -> Evidence:
    """What timm's settings say; timm keeps no accuracy in them."""
    import timm

    heads = cfg.classifier or ()
    return Evidence(
        project=f"timm {timm.__version__} ({cfg.architecture}{'.' + cfg.tag if cfg.tag else ''})",
        why=why,
        arch=canonical_timm_name(model_name),
        style="pytorch",
        style_why=_STYLE_WHY,
        preprocessing=preprocessing_of(cfg),
        preprocessing_why=f"timm's settings of {cfg.architecture}{'.' + cfg.tag if cfg.tag else ''}",
        head_names=(heads,) if isinstance(heads, str) else tuple(heads),
        license=cfg.license,
        license_why="timm's settings" if cfg.license else "timm names none",
    )


def evidence_of_checkpoint(content: Mapping[str, Any]) -> Evidence | None:
    """What a checkpoint of timm's training script says, or None where it is none."""
    import timm

    args, arch = content.get("args"), content.get("arch")
    if not isinstance(args, dict) or not isinstance(arch, str) or content.get("version") != 2:
        return None
    base = arch.partition(".")[0]
    if not timm.is_model(base):
        return None
    cfg = timm.models.get_pretrained_cfg(base, allow_unregistered=True)
    evidence = evidence_of(cfg, "its 'arch', 'args' and 'version' are those of timm's train.py", base)
    evidence.project, evidence.license = f"timm's train.py ({arch})", None
    evidence.license_why = "a training checkpoint states none"
    # timm takes what the command line leaves open from the model's settings.
    try:
        evidence.preprocessing = _with_arguments(preprocessing_of(cfg), args)
    except (TypeError, ValueError, IndexError):
        evidence.preprocessing, evidence.preprocessing_why = (
            None,
            "'args' of the checkpoint cannot be understood",
        )
        return evidence
    stated = args.get("mean") and args.get("std")
    evidence.preprocessing_why = (
        "'args' of the checkpoint"
        if stated
        else f"timm's settings of {base}; the checkpoint's 'args' set none"
    )
    return evidence


def _with_arguments(known: Preprocessing, args: Mapping[str, Any]) -> Preprocessing:
    """What timm makes of the command line. Raises ValueError or TypeError where it holds something else."""
    mean = args.get("mean") or [value / 255 for value in known.mean]
    std = args.get("std") or [value / 255 for value in known.std]
    size = int(args.get("img_size") or (args.get("input_size") or [0])[-1])
    found = from_unit_scale(
        mean,
        std,
        str(args.get("interpolation") or known.interpolation),
        (size, size) if size else known.input_size,
    )
    values = [number(value) for value in (*found.mean, *found.std)]  # finite
    if len(values) != 6 or len(found.mean) != 3 or not min(found.std) > 0:
        raise ValueError
    return found


def evidence_of_config_json(folder: Path) -> Evidence | None:
    """What ``config.json`` beside a file from the Hugging Face hub says, or None where it is not timm's."""
    import timm
    from timm.models import PretrainedCfg

    path = folder / "config.json"
    if not path.is_file() or path.stat().st_size > 1 << 20:
        return None
    try:
        settings = parse_json(path.read_bytes())
        name, values = settings["architecture"], settings["pretrained_cfg"]
        allowed = {
            key: values[key] for key in ("mean", "std", "interpolation", "license", "tag", "classifier")
        }
        cfg = PretrainedCfg(architecture=name, input_size=tuple(values["input_size"]), **allowed)
        if not timm.is_model(name):
            return None
        return evidence_of(cfg, f"{path.name} beside it", name)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _from_hub(repository: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    offline = is_offline()
    try:
        return Path(hf_hub_download(repository, file, local_files_only=offline))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        reason = (
            f"${ENV_OFFLINE} is set"
            if offline
            else f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        )
        raise CheckpointError(
            f"{file} of https://huggingface.co/{repository} is not in the Hugging Face cache and cannot be fetched "
            f"({reason}). Download it on a machine with a connection (`hf download {repository}`) and import the file "
            f"with --preprocessing timm:{repository.rpartition('/')[2]}."
        ) from error

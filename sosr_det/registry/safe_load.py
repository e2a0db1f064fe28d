"""Reading checkpoint files from anywhere without ever executing code from them."""

from __future__ import annotations

import os
import pickle
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sosr_det.errors import CheckpointError
from sosr_det.registry import pickle_standins

if TYPE_CHECKING:
    import torch
    from torch import Tensor

HEADER_LIMIT = 16 << 20  # bytes; the header of a file with 100 000 tensors has about 10 MB
_INFLATION_LIMIT = 4  # bytes unpacked per byte of the file; torch.save packs nothing
_SMALL = 16 << 20  # bytes that may always be unpacked

_FORMS = "expected a .safetensors file, or a file written by torch.save or by mmengine's checkpoint hook"
# Where a refused class comes from -> what to do in the program that wrote the file.
_ADVICE = {
    "omegaconf": "it holds a config object; save OmegaConf.to_container(cfg) instead of it, or the state dict alone",
    "hydra": "it holds a config object; save OmegaConf.to_container(cfg) instead of it, or the state dict alone",
    "yacs": "it holds a yacs config; save cfg.dump() instead of cfg, or the state dict alone",
    "mmcv": "it holds an mmcv config object; save cfg.pretty_text instead of cfg, or the state dict alone",
    "addict": "it holds an addict.Dict; save cfg.to_dict() instead of cfg, or the state dict alone",
    "pytorch_lightning": "it holds hyper-parameters as objects; save the state dict alone",
    "lightning": "it holds hyper-parameters as objects; save the state dict alone",
}


def load_state_file(
    path: str | os.PathLike[str], map_location: str | torch.device | Callable[..., Any] | dict | None = "cpu"
) -> dict[str, Any]:
    """Read a checkpoint file: a state dict, or a training checkpoint's dict around one.

    safetensors files are read by safetensors; all others by torch's restricted unpickler, which besides
    tensors and plain Python data admits what real training checkpoints hold, and nothing else: mmengine's
    ``HistoryBuffer``, numpy arrays of numbers, paths (they come back as pure paths), and ``argparse.Namespace`` and
    mmengine's config objects (they come back as dicts). ``map_location`` as in ``torch.load``; None means the
    CPU.

    Raises:
        CheckpointError: no such file, a folder, empty, truncated, no checkpoint at all, no dict inside, a pickle
            that wants to run code, or a file that would unpack to much more than its size.
    """
    file = Path(path).expanduser()
    head = _head(file)
    if file.suffix == ".safetensors" or _looks_like_safetensors(head, file):
        _check_header(file, head)
        return _load_safetensors(file, "cpu" if map_location is None else map_location)
    if not head.startswith((b"PK\x03\x04", b"\x80")):
        raise CheckpointError(f"{file} is {_describe(head)}; {_FORMS}. Check the path, or download it again.")
    if head.startswith(b"PK"):
        _check_archive(file)
    content = _load_torch(file, "cpu" if map_location is None else map_location)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{file} holds a {type(content).__name__}, expected a dict of tensors or a checkpoint's dict. "
            "Save module.state_dict() instead."
        )
    return content


def safetensors_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The ``__metadata__`` texts of a safetensors file; empty for other files. It is whatever its writer claims.

    Raises:
        CheckpointError: missing or unreadable, or a damaged safetensors file.
    """
    file = Path(path).expanduser()
    head = _head(file)
    if file.suffix != ".safetensors" and not _looks_like_safetensors(head, file):
        return {}
    _check_header(file, head)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return dict(opened.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} is no sound safetensors file: {error}. Fetch it again.") from error


def extract_state_dict(content: Mapping[str, Any], key: str | None = None) -> dict[str, Tensor]:
    """The state dict in what :func:`load_state_file` returned, tensors by name.

    Without ``key``: ``content`` itself if it is one, or what lies under ``state_dict`` unless other tensors in
    ``content`` go by the same names, as averaged (EMA) weights do. With ``key``: what lies under that key
    ("ema_state_dict", "model"...).

    Raises:
        CheckpointError: nothing there or more than one candidate (they are listed), or a value that is
            no tensor.
    """
    import torch

    if not isinstance(content, Mapping):
        raise CheckpointError(f"expected a checkpoint's dict, found a {type(content).__name__}.")
    inside = {k: v for k, v in content.items() if isinstance(v, Mapping) and _has_tensors(v)}
    loose = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}
    hint = f"tensors by name are found under: {', '.join(map(repr, inside)) or 'no key'}"
    if key is None and loose and not inside:
        return _only_tensors(content)
    if key is None and "state_dict" not in inside:
        raise CheckpointError(
            f"the checkpoint has no state dict at the top or under 'state_dict'; {hint}; its keys are "
            f"{', '.join(map(repr, list(content)[:10])) or 'none'}. Say which is meant by its key."
        )
    if key is None:
        rivals = [repr(k) for k, v in inside.items() if k != "state_dict" and _alike(v, inside["state_dict"])]
        rivals += ["the top level"] if _alike(loose, inside["state_dict"]) else []
        if rivals:
            raise CheckpointError(
                f"the checkpoint is ambiguous: the same tensor names are under 'state_dict' and "
                f"{', '.join(rivals)}. Say which is meant by its key."
            )
    elif key not in inside:
        raise CheckpointError(
            f"there are no tensors by name under {key!r}; {hint}. Choose one of these keys."
        )
    return _only_tensors(inside[key or "state_dict"])


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a tensor name of ``one``, also without wrapper prefixes, is one of ``other``."""
    bare = {str(name).removeprefix("module.") for name in other}
    return any(str(name).removeprefix("module.") in bare for name in one)


def _has_tensors(value: Mapping[str, Any]) -> bool:
    import torch

    return any(isinstance(item, torch.Tensor) for item in value.values())


def _only_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    import torch

    wrong = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    wrong += [name for name in state if not isinstance(name, str) and name not in wrong]
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} of {len(state)} entries of the state dict are no named tensors, e.g. {wrong[0]!r} "
            f"({type(state[wrong[0]]).__name__}). Save module.state_dict() of the model alone."
        )
    return {name: value.detach() for name, value in state.items()}


def _head(file: Path) -> bytes:
    """The first bytes of a plain file.

    Raises:
        CheckpointError: missing, not a plain file, empty, or unreadable.
    """
    try:
        mode = file.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError(f"{file} is a folder, not a checkpoint; {_FORMS}. Name a file in it.")
        if not stat.S_ISREG(mode):
            raise CheckpointError(f"{file} is a pipe or device, not a checkpoint; {_FORMS}.")
        with file.open("rb") as stream:
            head = stream.read(64)
    except FileNotFoundError:
        raise CheckpointError(f"{file} does not exist; {_FORMS}. Check the path.") from None
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read: {error.strerror or error}. Check its access."
        ) from error
    if not head:
        raise CheckpointError(f"{file} is empty; {_FORMS}. Its writing was probably interrupted.")
    return head


def _looks_like_safetensors(head: bytes, file: Path) -> bool:
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and length <= file.stat().st_size - 8


def _check_header(file: Path, head: bytes) -> None:
    """Refuse a header that is far larger than any model's before anything reads it."""
    length = int.from_bytes(head[:8], "little")
    if len(head) >= 8 and HEADER_LIMIT < length <= file.stat().st_size:
        raise CheckpointError(
            f"{file} says that its safetensors header has {length} bytes; at most {HEADER_LIMIT} are read, which is "
            "enough for more than 100 000 tensors. It is damaged or made to exhaust memory; fetch it again."
        )


def _check_archive(file: Path) -> None:
    """Refuse a zip archive that unpacks to far more than its size, before torch unpacks it."""
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError) as error:
        raise CheckpointError(
            f"{file} cannot be read as a checkpoint ({type(error).__name__}: {_first_line(error)}); {_FORMS}. "
            "It is probably truncated or damaged; fetch it again."
        ) from error
    size = file.stat().st_size
    if unpacked > _INFLATION_LIMIT * size + _SMALL:
        raise CheckpointError(
            f"{file} has {size} bytes and would unpack to {unpacked}; torch.save packs nothing, so it is made to "
            "exhaust memory or was packed again by another program. Unpack it there and save it with torch.save."
        )


def _describe(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself (run `git lfs pull`)"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page, not a checkpoint"
    if all(byte in b"\t\n\r" or byte >= 32 for byte in head):
        return f"text ({head[:20].decode('utf-8', 'replace')!r}...), not a checkpoint"
    return f"no checkpoint that is known here (it starts with {head[:8].hex()})"


def _load_safetensors(file: Path, map_location: Any) -> dict[str, Any]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file, device="cpu")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{file} is no sound safetensors file: {error}. It is probably truncated or damaged; fetch it again."
        ) from error
    if map_location == "cpu":
        return tensors
    if not isinstance(map_location, (str, torch.device)):
        raise CheckpointError(
            f"map_location is {map_location!r}; for safetensors files it must be a device such as 'cpu' or 'cuda:0'."
        )
    return {name: tensor.to(map_location) for name, tensor in tensors.items()}


def _load_torch(file: Path, map_location: Any) -> Any:
    import torch

    try:
        with pickle_standins.only_standins():
            content = torch.load(file, map_location=map_location, weights_only=True)
        return pickle_standins.finish(content)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} holds more than tensors and plain data, and loading that could run code, so it was not "
            f"loaded ({_first_line(error)}{_advice(error)}) Expected a state dict or an mmengine checkpoint; if you "
            "trust where it comes from, save module.state_dict() from there again, best as .safetensors."
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{file} cannot be read as a checkpoint ({type(error).__name__}: {_first_line(error)}); {_FORMS}. "
            "It is probably truncated or damaged; fetch it again."
        ) from error


def _advice(error: BaseException) -> str:
    """What to do about a class that is known and still not admitted."""
    name = str(error).partition("GLOBAL ")[2].partition(" ")[0]
    advice = _ADVICE.get(name.partition(".")[0])
    return f" In the program that wrote the file: {advice}." if advice else ""


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in lines:
        if "WeightsUnpickler error: " in line:
            # torch goes on to say how to allow the class; that is not our advice.
            return line.partition("WeightsUnpickler error: ")[2].partition(" Please use")[0][:200]
    # How to load a file without protection is not our advice either.
    own = [
        line for line in lines if not line.startswith(("Weights only load failed", "Check the documentation"))
    ]
    return (own or lines or ["no message"])[0][:200]

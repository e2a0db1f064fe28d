"""``sosr://`` for MMEngine: usable wherever a checkpoint path is (``init_cfg``, ``load_from``).

The only module of this package that imports mmengine. It also replaces MMEngine's loader of local files by a
safe one: onedl-mmengine's falls back to unrestricted unpickling when the restricted one refuses a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, broadcast_object_list, get_dist_info
from mmengine.runner import CheckpointLoader

from sosr_det import errors
from sosr_det.errors import CheckpointError, RegistryError, SosrError
from sosr_det.registry.disarm import disarm
from sosr_det.registry.names import SCHEME
from sosr_det.registry.opening import open_registry
from sosr_det.registry.safe_load import load_state_file
from sosr_det.registry.store import Registry


def load_from_sosr(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Load a registry entry for MMEngine, verified.

    In a distributed run every rank must call this. Rank 0 resolves the URI and all ranks load the digest that
    it found, each from its own registry root. From a remote registry the first rank of each machine downloads the
    weights, then the others read its copy. If one rank fails, all raise that rank's error.

    Returns:
        ``{"state_dict": tensors by name, "meta": {"sosr_uri": as given, "sosr_digest": the manifest's digest,
        "manifest": plain JSON data}}``.

    Raises:
        RegistryError: see :meth:`sosr_det.registry.store.Registry.load`.
        CheckpointError: ``map_location`` is a function or a dict; expected a device or None (the CPU).
    """
    pinned = on_rank_0(lambda: open_registry().resolve(filename).pinned_uri)
    if get_dist_info()[1] > 1:
        on_all_ranks(lambda: _fetch_on_first_rank(pinned))
    return on_all_ranks(lambda: _load_pinned(filename, pinned, map_location))


def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Load a local checkpoint file for MMEngine without executing code from it, neither now nor when it is resumed.

    Raises:
        CheckpointError: see :func:`sosr_det.registry.safe_load.load_state_file`.
    """
    return disarm(load_state_file(filename, map_location), Path(filename).expanduser().parent)


def register_schemes() -> None:
    """Make MMEngine use the two loaders above. Calling it again changes nothing."""
    CheckpointLoader.register_scheme(prefixes=SCHEME, loader=load_from_sosr, force=True)
    CheckpointLoader.register_scheme(prefixes="", loader=load_from_local, force=True)


def _fetch_on_first_rank(pinned: str) -> dict[str, Any]:
    """Bring a remote entry into this machine's cache, on the rank that its launcher calls the machine's first.

    Where the launcher names no local rank, or none is the first, several ranks come here or none: the cache has a lock
    per blob, so it is downloaded once all the same.
    """
    registry = open_registry()
    if not isinstance(registry, Registry) and os.environ.get("LOCAL_RANK", "0") == "0":
        registry.fetch(registry.resolve(pinned))
    return {}


def _load_pinned(uri: str, pinned: str, map_location: Any) -> dict[str, Any]:
    import torch

    if map_location is not None and not isinstance(map_location, (str, torch.device)):
        raise CheckpointError(
            f"map_location is {map_location!r}; for {SCHEME} it must be a device or None (CPU)."
        )
    registry = open_registry()
    entry = registry.resolve(pinned)
    tensors = registry.load(entry)
    if map_location is not None:
        tensors = {name: tensor.to(map_location) for name, tensor in tensors.items()}
    meta = {"sosr_uri": uri, "sosr_digest": entry.digest, "manifest": entry.manifest.to_dict()}
    return {"state_dict": tensors, "meta": meta}


def on_rank_0(work: Callable[[], str]) -> str:
    """Run ``work`` on rank 0 and give its result, or its error, to every rank."""
    rank, world_size = get_dist_info()
    if world_size == 1:
        return work()
    box: list[Any] = [None]
    cause: Exception | None = None
    if rank == 0:
        try:
            box = [("ok", work())]
        except Exception as error:
            box, cause = [_as_message(error, rank)], error
    broadcast_object_list(box, src=0)
    kind, value = box[0]
    if kind == "ok":
        return value
    raise _as_error(kind, value) from cause


def on_all_ranks(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run ``work`` on every rank; if it fails anywhere, raise everywhere, so that nobody waits forever."""
    rank, world_size = get_dist_info()
    if world_size == 1:
        return work()
    result: dict[str, Any] = {}
    failure: tuple[str, str] | None = None
    cause: Exception | None = None
    try:
        result = work()
    except Exception as error:
        failure, cause = _as_message(error, rank), error
    for message in all_gather_object(failure):
        if message is not None:
            raise _as_error(*message) from cause
    return result


def _as_message(error: Exception, rank: int) -> tuple[str, str]:
    if isinstance(error, SosrError):
        return type(error).__name__, f"rank {rank}: {error}"
    return "RegistryError", f"rank {rank}: unexpected {type(error).__name__}: {error}"


def _as_error(kind: str, text: str) -> SosrError:
    cls = getattr(errors, kind, RegistryError)
    return cls(text)

"""Loaders for MMEngine's checkpoint addresses that fetch what theirs fetch and never unpickle it freely.

MMEngine's own loaders of ``http(s)://`` and of everything that leads there (``torchvision://``, ``open-mmlab://``,
``mmcls://``) end in ``torch.hub.load_state_dict_from_url``, whose default is unrestricted unpickling; the others fall
back to it when the restricted reader refuses a file. Together with :func:`sosr_det.registry.scheme.register_schemes`
this leaves no address that is read in such a way.
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.fileio import get_file_backend
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as theirs

from sosr_det.errors import CheckpointError
from sosr_det.registry import hub_cache
from sosr_det.registry.disarm import disarm
from sosr_det.registry.safe_load import load_state_file
from sosr_det.registry.scheme import on_all_ranks, on_rank_0


def load_from_http(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Download a checkpoint once, see :func:`sosr_det.registry.hub_cache.fetch`, and read it safely.

    In a distributed run every rank must call this: rank 0 downloads first, then the other ranks find the file, or
    download it on a host of their own.

    Raises:
        CheckpointError: it cannot be downloaded or has another hash than its name says; see also
            :func:`sosr_det.registry.safe_load.load_state_file`.
    """

    def read() -> dict[str, Any]:
        path = hub_cache.fetch(filename)
        try:
            return disarm(load_state_file(path, map_location))
        except CheckpointError as error:
            raise CheckpointError(f"{error} It came from {filename}.") from error

    on_rank_0(lambda: str(hub_cache.fetch(filename)))
    return on_all_ranks(read)


def load_from_torchvision(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Load torchvision's weights by name: ``torchvision://resnet50`` or ``torchvision://resnet50.imagenet1k_v2``.

    Raises:
        CheckpointError: no such weights (near names are listed), or as :func:`load_from_http`.
    """
    return load_from_http(_address(filename, theirs.get_torchvision_models()), map_location)


def load_from_openmmlab(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Load weights of OpenMMLab's list, ``open-mmlab://detectron2/resnet50_caffe``, or of ``$MMENGINE_HOME``.

    Raises:
        CheckpointError: as :func:`load_from_torchvision`.
    """
    scheme, _, name = filename.partition("://")
    name = theirs.get_deprecated_model_names().get(name, name)
    address = _address(f"{scheme}://{name}", theirs.get_external_models())
    if address.startswith(("http://", "https://")):
        return load_from_http(address, map_location)
    path = Path(theirs._get_mmengine_home()) / address
    return disarm(load_state_file(path, map_location))


def load_from_mmcls(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Load the backbone of a classifier of OpenMMLab's list: ``mmcls://resnet50``.

    Raises:
        CheckpointError: as :func:`load_from_torchvision`.
    """
    loaded = load_from_http(_address(filename, theirs.get_mmcls_models()), map_location)
    return theirs._process_mmcls_checkpoint(loaded)


def load_from_ceph(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Load a checkpoint through MMEngine's Petrel backend, by way of a temporary file.

    Raises:
        CheckpointError: the backend is not installed, or as :func:`sosr_det.registry.safe_load.load_state_file`.
    """
    try:
        content = get_file_backend(filename, backend_args={"backend": "petrel"}).get(filename)
    except ImportError as error:
        raise CheckpointError(
            f"{filename} is read through Petrel, which is not installed ({error}). Download the file and give its "
            "path; a registry on S3 needs no Petrel: $SOSR_REGISTRY=s3://BUCKET/PATH and sosr://NAME."
        ) from error
    with tempfile.TemporaryDirectory(prefix="sosr-det-") as folder:
        path = Path(folder) / ("download.safetensors" if filename.endswith(".safetensors") else "download")
        path.write_bytes(content)
        try:
            return disarm(load_state_file(path, map_location))
        except CheckpointError as error:
            raise CheckpointError(f"{filename}: {error}") from error


def load_from_refused(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Refuse an address that MMEngine itself would unpickle without restriction.

    Raises:
        CheckpointError: always.
    """
    raise CheckpointError(
        f"{filename} is of a kind that cannot be read here without running code from it. Download the file and give "
        "its path."
    )


# MMEngine's own prefixes (regular expressions that an address begins with), and who answers them now.
LOADERS = {
    "http://": load_from_http,
    "https://": load_from_http,
    "modelzoo://": load_from_torchvision,
    "torchvision://": load_from_torchvision,
    "open-mmlab://": load_from_openmmlab,
    "openmmlab://": load_from_openmmlab,
    "mmcls://": load_from_mmcls,
    r"(\S+\:)?s3://": load_from_ceph,
    r"(\S+\:)?petrel://": load_from_ceph,
    "pavi://": load_from_refused,
}


def register_safe_loaders() -> None:
    """Make MMEngine use these loaders. Calling it again changes nothing.

    A prefix that a later MMEngine brings along is refused until somebody has looked at it.
    """
    for prefix, loader in LOADERS.items():
        CheckpointLoader.register_scheme(prefixes=prefix, loader=loader, force=True)
    for prefix, loader in list(CheckpointLoader._schemes.items()):
        if loader.__module__.partition(".")[0] == "mmengine" and prefix:
            CheckpointLoader.register_scheme(prefixes=prefix, loader=load_from_refused, force=True)


def _address(filename: str, addresses: Mapping[str, str]) -> str:
    name = filename.partition("://")[2]
    if name not in addresses:
        near = difflib.get_close_matches(name, addresses, n=5, cutoff=0.5)
        known = f"Near names: {', '.join(near)}." if near else f"{len(addresses)} names are known."
        raise CheckpointError(f"{filename}: there are no weights of that name. {known}")
    return addresses[name]

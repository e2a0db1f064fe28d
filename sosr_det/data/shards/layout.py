"""What lies in a folder of shards, and ``index.json``, which says so.

``ROOT/<split>/000000.tar`` and on hold the images as WebDataset has them (``00000012.jpg`` beside ``00000012.cls``),
``samples.idx`` where each lies (:mod:`sosr_det.data.shards.table`), and ``index.json`` the rest. ``index.json`` is
written last: without it there is no data set, only an unfinished one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sosr_det.errors import DataError

INDEX = "index.json"
SAMPLES = "samples.idx"
PLAN = "plan.json"
FORMAT = "sosr-det shards"
VERSION = 1

_HEX = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[0-9]{6,}\.tar")


@dataclass(frozen=True)
class Shard:
    """One tar file.

    Attributes:
        name: file name.
        bytes: size.
        sha256: of the file, in hexadecimal.
        samples: how many images it holds, at least 1.
    """

    name: str
    bytes: int
    sha256: str
    samples: int


@dataclass(frozen=True)
class ShardsIndex:
    """The content of ``index.json``.

    Attributes:
        split: ``train``, ``val`` or ``test``.
        classes: class names by label.
        fingerprint: of the data set that the shards were made from, and so of this one.
        shard_bytes: the size that no shard exceeds, unless one image alone does.
        shuffle_seed: in which order the images lie: None for the data set's own.
        shards: in the order of their numbers.
    """

    split: str
    classes: Sequence[str]
    fingerprint: str
    shard_bytes: int
    shuffle_seed: int | None
    shards: Sequence[Shard]

    @property
    def num_samples(self) -> int:
        """Images in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def digest(self) -> str:
        """sha256 over all that is said of the shards and classes; ``samples.idx`` belongs to the one that it names."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def to_text(self) -> str:
        """As JSON, in ASCII: names of folders need not be Unicode."""
        about = {"format": FORMAT, "version": VERSION, "num_samples": self.num_samples, "digest": self.digest}
        return json.dumps({**about, **asdict(self)}, indent=1) + "\n"


def parse_index(text: bytes | str, place: str) -> ShardsIndex:
    """Read and check ``index.json``.

    Args:
        text: its content.
        place: what messages call it.

    Raises:
        DataError: another version, or not what was written.
    """
    again = "Write the shards again with `sosr-det data shard`, into another folder."
    try:
        values: dict[str, Any] = json.loads(text)
        if values.get("format") != FORMAT:
            raise ValueError(f"its format is {values.get('format')!r}, expected {FORMAT!r}")
        if values.get("version") != VERSION:
            raise DataError(
                f"{place} is of version {values.get('version')!r}, and this SOSR-Det reads version {VERSION}. "
                f"Use the SOSR-Det that wrote it. {again}"
            )
        index = ShardsIndex(
            split=values["split"],
            classes=list(values["classes"]),
            fingerprint=values["fingerprint"],
            shard_bytes=values["shard_bytes"],
            shuffle_seed=values["shuffle_seed"],
            shards=[Shard(**shard) for shard in values["shards"]],
        )
        for shard in index.shards:
            # A name is joined to the folder's: it must not lead out of it.
            if not _NAME.fullmatch(shard.name) or not _HEX.fullmatch(shard.sha256) or shard.samples < 1:
                raise ValueError(f"{shard} is no shard")
        if values["digest"] != index.digest:
            raise ValueError("its digest is not that of its content")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{place} is damaged or was changed by hand: {error}. {again}") from error
    return index

"""Shards as a classification data set: the same images, labels, classes and order as the folders that they hold."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.registry import DATASETS

from sosr_det.data.decode.encoded import EncodedImage
from sosr_det.data.image_dataset import ClassificationDataset
from sosr_det.data.shards.opening import open_shards
from sosr_det.data.shards.reader import ShardReader
from sosr_det.errors import UnreadableImageError


@DATASETS.register_module()
class ShardedImages(ClassificationDataset):
    """What `sosr-det data shard` wrote, read image by image at random.

    Sample ``i`` is the one that the data set in folders has there, wherever it lies in the shards, so a run on shards
    is the run on folders bit for bit.

    Args:
        data_root: folder or fsspec URL (``s3://bucket/imagenet``) that holds the splits, as given with ``--out``.
        split: ``'train'``, ``'val'`` or ``'test'``.
        pipeline: transform configs, as in ClassificationDataset.
        keep: of a URL: fetch whole shards into this user's cache, checked by sha256, instead of single images. It
            takes the room of the shards on each machine.
        keep_bytes: with ``keep``, the most room; the shards that were unused for longest are removed. None: no limit.
        read_ahead_bytes: of a URL without ``keep``: read blocks of this size ahead; 0 reads single images.
        check: compare each image with its CRC-32 (0.1 ms for a usual one).

    Raises:
        DataError: no shards, unfinished ones, another version, a shard that is missing or cut off (named).
    """

    def __init__(
        self,
        data_root: str,
        split: str,
        pipeline: Sequence[dict],
        keep: bool = False,
        keep_bytes: int | None = None,
        read_ahead_bytes: int = 0,
        check: bool = True,
    ) -> None:
        opened = open_shards(data_root, split)
        super().__init__(Path(data_root), opened.table, opened.index.classes, pipeline)
        self.index = opened.table
        self._reader = ShardReader(opened.storage, opened.index.shards, keep, keep_bytes, read_ahead_bytes)
        self._check = check

    @property
    def shard_numbers(self) -> np.ndarray:
        """int32 ``[N]``: in which shard each image lies."""
        return self.index.shard

    @property
    def shard_positions(self) -> np.ndarray:
        """uint64 ``[N]``: where in its shard, in bytes."""
        return self.index.begin

    def read_encoded(self, index: int) -> EncodedImage:
        """The stored file.

        Raises:
            UnreadableImageError: it is not what was written.
            DataError: the shard is missing, cut off or out of reach.
        """
        table = self.index
        number = int(table.shard[index])
        data = self._reader.read(number, int(table.begin[index]), int(table.size[index]))
        if self._check and zlib.crc32(data) != int(table.crc32[index]):
            raise UnreadableImageError(
                f"image {self.sample_name(index)} is damaged: its checksum is not the one that was written. Copy the "
                "shard again from where it was made, and check all with `sosr-det data shard --verify`."
            )
        return EncodedImage(data, self.sample_name(index))

    def sample_name(self, index: int) -> str:
        """What messages call the sample: its shard, and the path that it had."""
        shard = self._reader.shards[int(self.index.shard[index])]
        return f"{self._reader.storage.where(shard.name)}:{self.index.path(index)}"

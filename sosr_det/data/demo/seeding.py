"""One random stream per image, so that no image depends on how many others are made."""

import zlib

import numpy as np


def image_rng(seed: int, stream: str, *index: int) -> np.random.Generator:
    """Return the random generator of one image.

    Args:
        seed: the data set's seed, 0 or more.
        stream: which list of images, for example ``"imagenet/train"``.
        index: the image's place in that list, each 0 or more (class and number, say).

    The stream's name enters as a CRC because Python's own ``hash`` of a string changes from run to run.
    """
    return np.random.default_rng([seed, zlib.crc32(stream.encode()), *index])

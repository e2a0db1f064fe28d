"""The ImageNet part: ``imagenet/{train,val}/<wnid>/*.JPEG`` with one drawn object in each image."""

from collections.abc import Iterator

from sosr_det.data.demo.kinds import KINDS
from sosr_det.data.demo.portrait import portrait
from sosr_det.data.demo.seeding import image_rng

FOLDER = "imagenet"


def imagenet_files(seed: int, *, train_per_class: int, val_per_class: int) -> Iterator[tuple[str, bytes]]:
    """Yield each file's path inside the demo folder and its content.

    The classes are the twenty object kinds, ``n00000001`` to ``n00000020`` in Pascal VOC's order; ``words.txt`` gives
    each one's name (``wnid``, tab, name), as in Tiny ImageNet.
    """
    words = "".join(f"{wnid(number)}\t{kind.name}\n" for number, kind in enumerate(KINDS))
    yield f"{FOLDER}/words.txt", words.encode()
    for number in range(len(KINDS)):
        for index in range(train_per_class):
            path = f"{FOLDER}/train/{wnid(number)}/{wnid(number)}_{index + 1}.JPEG"
            yield path, _image(seed, "imagenet/train", number, index)
        for index in range(val_per_class):
            name = f"ILSVRC2012_val_{index * len(KINDS) + number + 1:08d}.JPEG"
            yield f"{FOLDER}/val/{wnid(number)}/{name}", _image(seed, "imagenet/val", number, index)


def wnid(number: int) -> str:
    """Return the folder name of class ``number``, 0-19, in the form of a WordNet id."""
    return f"n{number + 1:08d}"


def _image(seed: int, stream: str, number: int, index: int) -> bytes:
    return portrait(
        image_rng(seed, stream, number, index),
        KINDS[number].draw,
        image_side=(80, 120),
        object_share=(0.65, 1.0),
        max_angle=20,
        max_cut=0.08,
    ).jpeg

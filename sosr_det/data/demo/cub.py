"""The CUB part: fine-grained birds in the layout of CUB-200-2011, with 16 classes instead of 200.

Any two classes share at most one of beak, wing, tail and crest, and colours tell nothing, so a model has to look at
the parts. The files that only the full data set has (attributes, parts, segmentations) are not made.
"""

from collections.abc import Iterator

import numpy as np

from sosr_det.data.demo.birds import BEAKS, CRESTS, TAILS, WINGS, BirdParts, bird
from sosr_det.data.demo.portrait import Portrait, portrait
from sosr_det.data.demo.seeding import image_rng

FOLDER = "CUB_200_2011"

_DOUBLED = (0, 2, 3, 1)
# Sums and doubles in the field of four elements (addition is XOR) make the forms of tail and crest a pair of
# orthogonal Latin squares over beak and wing: hence "at most one part in common".
BIRD_CLASSES = tuple(
    BirdParts(beak=beak, wing=wing, tail=beak ^ wing, crest=beak ^ _DOUBLED[wing])
    for beak in range(len(BEAKS))
    for wing in range(len(WINGS))
)


def class_name(number: int) -> str:
    """Return the name of bird class ``number``, 0-15, as ``classes.txt`` and the image folders have it."""
    parts = BIRD_CLASSES[number]
    words = CRESTS[parts.crest], WINGS[parts.wing], f"{TAILS[parts.tail]}tail", f"{BEAKS[parts.beak]}bill"
    return f"{number + 1:03d}.{'_'.join(words)}"


def cub_files(seed: int, *, train_per_class: int, test_per_class: int) -> Iterator[tuple[str, bytes]]:
    """Yield each file's path inside the demo folder and its content.

    ``bounding_boxes.txt`` holds ``id x y width height`` in pixels, (x, y) the upper left pixel counted from 0.
    """
    images, labels, splits, boxes = [], [], [], []
    for number in range(len(BIRD_CLASSES)):
        name = class_name(number)
        for place, (is_train, index) in enumerate(_mixed(train_per_class, test_per_class)):
            picture = _image(seed, "cub/train" if is_train else "cub/test", number, index)
            identity = len(images) + 1
            path = f"{name}/{name[4:]}_{place + 1:04d}_{identity}.jpg"
            yield f"{FOLDER}/images/{path}", picture.jpeg
            images.append(f"{identity} {path}")
            labels.append(f"{identity} {number + 1}")
            splits.append(f"{identity} {int(is_train)}")
            left, top, width, height = _box(picture.mask)
            boxes.append(f"{identity} {left}.0 {top}.0 {width}.0 {height}.0")
    classes = [f"{number + 1} {class_name(number)}" for number in range(len(BIRD_CLASSES))]
    for file, lines in (
        ("images.txt", images),
        ("image_class_labels.txt", labels),
        ("train_test_split.txt", splits),
        ("classes.txt", classes),
        ("bounding_boxes.txt", boxes),
    ):
        yield f"{FOLDER}/{file}", "".join(f"{line}\n" for line in lines).encode()


def _mixed(train: int, test: int) -> list[tuple[bool, int]]:
    """Return (is train, index) pairs with the two splits mixed evenly, as in the real list.

    A reader that ignores ``train_test_split.txt`` then gets visibly wrong splits, not accidentally right ones.
    """
    places = [((index + 0.5) / train, True, index) for index in range(train)]
    places += [((index + 0.5) / test, False, index) for index in range(test)]
    return [(is_train, index) for _, is_train, index in sorted(places)]


def _image(seed: int, stream: str, number: int, index: int) -> Portrait:
    return portrait(
        image_rng(seed, stream, number, index),
        lambda pen, rng: bird(pen, rng, BIRD_CLASSES[number]),
        image_side=(110, 150),
        object_share=(0.8, 0.95),
        max_angle=12,
        max_cut=0.0,
    )


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top

"""The Pascal VOC part: ``VOCdevkit/VOC2007`` (trainval and test) and ``VOCdevkit/VOC2012`` (trainval)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sosr_det.data.demo.composition import Box, Scene, SceneObject, compose
from sosr_det.data.demo.kinds import KINDS
from sosr_det.data.demo.seeding import image_rng
from sosr_det.data.demo.size import MAX_VOC_IMAGES

FOLDER = "VOCdevkit"


@dataclass
class _Lists:
    """The images of one year: for each split the ids, and what each image holds."""

    splits: dict[str, list[str]] = field(default_factory=dict)
    objects: dict[str, tuple[SceneObject, ...]] = field(default_factory=dict)


def voc_files(
    seed: int, *, voc2007_trainval: int, voc2007_test: int, voc2012_trainval: int
) -> Iterator[tuple[str, bytes]]:
    """Yield each file's path inside the demo folder and its content."""
    year = _Lists(splits={"train": [], "val": [], "trainval": [], "test": []})
    for index in range(voc2007_trainval):
        yield from _image(seed, "VOC2007", "trainval", index, f"{index + 1:06d}", year)
    for index in range(voc2007_test):
        yield from _image(seed, "VOC2007", "test", index, f"{MAX_VOC_IMAGES + index + 1:06d}", year)
    yield from _image_sets("VOC2007", year)

    year = _Lists(splits={"train": [], "val": [], "trainval": []})
    for index in range(voc2012_trainval):
        yield from _image(seed, "VOC2012", "trainval", index, f"2008_{index + 1:06d}", year)
    yield from _image_sets("VOC2012", year)


def voc_scene(seed: int, folder: str, split: str, index: int) -> Scene:
    """Return the scene of one image.

    Args:
        seed: the data set's seed.
        folder: ``"VOC2007"`` or ``"VOC2012"``.
        split: ``"trainval"`` or ``"test"``.
        index: the image's place in its split, from 0. Its first object is of kind ``index % 20``.
    """
    rng = image_rng(seed, f"{folder}/{split}", index)
    return compose(rng, index % len(KINDS))


def _image(
    seed: int, folder: str, split: str, index: int, identity: str, year: _Lists
) -> Iterator[tuple[str, bytes]]:
    scene = voc_scene(seed, folder, split, index)
    yield f"{FOLDER}/{folder}/JPEGImages/{identity}.jpg", scene.jpeg
    yield f"{FOLDER}/{folder}/Annotations/{identity}.xml", _annotation(folder, identity, scene).encode()
    year.objects[identity] = scene.objects
    year.splits[split].append(identity)
    if split == "trainval":
        # Swapped after every twenty images, so that each kind comes first in both halves in turn.
        half = "train" if (index + index // len(KINDS)) % 2 == 0 else "val"
        year.splits[half].append(identity)


def _image_sets(folder: str, year: _Lists) -> Iterator[tuple[str, bytes]]:
    main = f"{FOLDER}/{folder}/ImageSets/Main"
    for split, identities in year.splits.items():
        yield f"{main}/{split}.txt", "".join(f"{identity}\n" for identity in identities).encode()
        for number, kind in enumerate(KINDS):
            lines = (
                f"{identity} {_presence(year.objects[identity], number):2d}\n" for identity in identities
            )
            yield f"{main}/{kind.name}_{split}.txt", "".join(lines).encode()


def _presence(objects: tuple[SceneObject, ...], kind: int) -> int:
    """Return 1 if the image shows the kind, 0 if only difficult ones, -1 if none: the devkit's convention."""
    found = [item.difficult for item in objects if item.kind == kind]
    if not found:
        return -1
    return 0 if all(found) else 1


def _annotation(folder: str, identity: str, scene: Scene) -> str:
    height, width = scene.size
    lines = [
        "<annotation>",
        f"\t<folder>{folder}</folder>",
        f"\t<filename>{identity}.jpg</filename>",
        "\t<source>",
        "\t\t<database>SOSR-Det demo data</database>",
        f"\t\t<annotation>drawn in the format of PASCAL {folder}</annotation>",
        "\t\t<image>drawn</image>",
        "\t</source>",
        "\t<size>",
        f"\t\t<width>{width}</width>",
        f"\t\t<height>{height}</height>",
        "\t\t<depth>3</depth>",
        "\t</size>",
        "\t<segmented>0</segmented>",
    ]
    for item in scene.objects:
        lines += _object(item, newer=folder != "VOC2007")
    return "\n".join([*lines, "</annotation>", ""])


def _object(item: SceneObject, *, newer: bool) -> list[str]:
    """Return the lines of one object. From 2008 on, VOC has ``occluded``, and ``difficult`` comes after the box."""
    kind = KINDS[item.kind]
    side = "Right" if item.faces_right else "Left"
    difficult = f"\t\t<difficult>{int(item.difficult)}</difficult>"
    lines = [
        "\t<object>",
        f"\t\t<name>{kind.name}</name>",
        f"\t\t<pose>{side if kind.sided else 'Frontal'}</pose>",
        f"\t\t<truncated>{int(item.truncated)}</truncated>",
        f"\t\t<occluded>{int(item.occluded)}</occluded>" if newer else difficult,
        *_bndbox(item.box, "\t\t"),
    ]
    if newer:
        lines.append(difficult)
    for name, box in item.parts:
        lines += ["\t\t<part>", f"\t\t\t<name>{name}</name>", *_bndbox(box, "\t\t\t"), "\t\t</part>"]
    return [*lines, "\t</object>"]


def _bndbox(box: Box, indent: str) -> list[str]:
    return [
        f"{indent}<bndbox>",
        f"{indent}\t<xmin>{box.xmin}</xmin>",
        f"{indent}\t<ymin>{box.ymin}</ymin>",
        f"{indent}\t<xmax>{box.xmax}</xmax>",
        f"{indent}\t<ymax>{box.ymax}</ymax>",
        f"{indent}</bndbox>",
    ]

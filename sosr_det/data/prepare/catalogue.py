"""What is known about each data set: its archives, where they come from, and its official counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sosr_det.errors import ConfigError


@dataclass(frozen=True)
class Archive:
    """One file of a data set as its authors publish it.

    Attributes:
        filename: its published name.
        md5: its published MD5, hex digits. MD5 is what is published; against damage and a stale mirror it is enough.
        md5_source: whose the MD5 is where the publisher gives none, as a phrase; empty where it is the publisher's.
        size: bytes. Used to plan disk space and to explain a wrong checksum; the checksum alone decides.
        url: where it can be downloaded; None where the terms ask for an account.
        mirrors: other places for the same file, asked in turn when ``url`` does not give it; the checksum decides.
    """

    filename: str
    md5: str
    size: int
    url: str | None = None
    md5_source: str = ""
    mirrors: tuple[str, ...] = ()


@dataclass(frozen=True)
class OfficialSplit:
    """Size of a split as published.

    Attributes:
        images: number of images.
        images_per_class: the same number for every class, or None where classes differ.
    """

    images: int
    images_per_class: int | None = None


@dataclass(frozen=True)
class DatasetEntry:
    """One data set.

    Attributes:
        name: its name on the command line.
        title: its usual name.
        layout: key of :data:`sosr_det.data.prepare.layouts.READERS`.
        folder: its usual folder below the data root, the last part of the configs' ``data_root``.
        archives: the files it is made from.
        archive_top: folder at the top of the archives that becomes the data set; what lies beside it is left out.
        nested: whether ``archive_top`` stays a folder inside ``folder`` (CIFAR) instead of becoming ``folder``.
        unpacked_bytes: disk space of the unpacked files, counted in blocks of 4 KiB.
        splits: official splits by name.
        classes: official number of classes; None where images have no single class.
        config_tag: the last part of the names of shipped configs that train on it.
        page: where the data set is described, and where an account is made.
        terms: what may be done with it, in one sentence.
    """

    name: str
    title: str
    layout: str
    folder: str
    archives: tuple[Archive, ...]
    archive_top: str
    nested: bool
    unpacked_bytes: int
    splits: Mapping[str, OfficialSplit]
    classes: int | None
    config_tag: str
    page: str
    terms: str


_CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_CIFAR_TERMS = "No licence is stated; its page asks for a citation of Krizhevsky 2009."
_VOC_URL = "https://thor.robots.ox.ac.uk/pascal/VOC"
_VOC_MIRROR = "https://data.pjreddie.com/files"  # of Darknet's author; Oxford's server is often out of reach

# Checksums: torchvision.datasets (CIFAR, ImageNet, VOC); CaltechDATA record 65de6-vp158 (CUB); Stanford publishes none
# for Tiny ImageNet (see its `md5_source`).
_ENTRIES = (
    DatasetEntry(
        name="cifar10",
        title="CIFAR-10",
        layout="cifar10",
        folder="cifar10",
        archives=(
            Archive(
                "cifar-10-python.tar.gz",
                "c58f30108f718f92721af3b95e74349a",
                170_498_071,
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            ),
        ),
        archive_top="cifar-10-batches-py",
        nested=True,
        unpacked_bytes=187_000_000,
        splits={"train": OfficialSplit(50_000, 5000), "test": OfficialSplit(10_000, 1000)},
        classes=10,
        config_tag="cifar10",
        page=_CIFAR_PAGE,
        terms=_CIFAR_TERMS,
    ),
    DatasetEntry(
        name="cifar100",
        title="CIFAR-100",
        layout="cifar100",
        folder="cifar100",
        archives=(
            Archive(
                "cifar-100-python.tar.gz",
                "eb9058c3a382ffc7106e4002c42a8d85",
                169_001_437,
                "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            ),
        ),
        archive_top="cifar-100-python",
        nested=True,
        unpacked_bytes=187_000_000,
        splits={"train": OfficialSplit(50_000, 500), "test": OfficialSplit(10_000, 100)},
        classes=100,
        config_tag="cifar100",
        page=_CIFAR_PAGE,
        terms=_CIFAR_TERMS,
    ),
    DatasetEntry(
        name="tiny-imagenet",
        title="Tiny ImageNet",
        layout="tiny-imagenet",
        folder="tiny-imagenet-200",
        archives=(
            Archive(
                "tiny-imagenet-200.zip",
                "90528d7ca1a48142e341f4ef8d21d0de",
                248_100_043,
                "https://cs231n.stanford.edu/tiny-imagenet-200.zip",
                md5_source="not Stanford's, which publishes none, but the one that avalanche and many other projects "
                "hold for this file",
            ),
        ),
        archive_top="tiny-imagenet-200",
        nested=False,
        unpacked_bytes=510_000_000,
        splits={"train": OfficialSplit(100_000, 500), "val": OfficialSplit(10_000, 50)},
        classes=200,
        config_tag="tiny-imagenet",
        page="https://cs231n.stanford.edu/",
        terms="Images from ImageNet: non-commercial research and education.",
    ),
    DatasetEntry(
        name="imagenet",
        title="ImageNet-1k (ILSVRC 2012)",
        layout="imagenet",
        folder="imagenet",
        archives=(
            Archive("ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e", 147_897_477_120),
            Archive("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622", 6_744_924_160),
            Archive("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf", 2_568_145),
        ),
        archive_top="",
        nested=False,
        unpacked_bytes=158_000_000_000,
        splits={"train": OfficialSplit(1_281_167), "val": OfficialSplit(50_000, 50)},
        classes=1000,
        config_tag="in1k",
        page="https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
        terms="Non-commercial research and education, after registration.",
    ),
    DatasetEntry(
        name="cub200",
        title="CUB-200-2011",
        layout="cub200",
        folder="CUB_200_2011",
        archives=(
            Archive(
                "CUB_200_2011.tgz",
                "97eceeb196236b17998738112f37df78",
                1_150_585_339,
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
            ),
        ),
        archive_top="CUB_200_2011",
        nested=False,
        unpacked_bytes=1_250_000_000,
        splits={"train": OfficialSplit(5994), "test": OfficialSplit(5794)},
        classes=200,
        config_tag="cub200",
        page="https://data.caltech.edu/records/65de6-vp158",
        terms="Images belong to their photographers: non-commercial research and education.",
    ),
    DatasetEntry(
        name="voc",
        title="PASCAL VOC 2007 and 2012",
        layout="voc",
        folder="VOCdevkit",
        archives=(
            Archive(
                "VOCtrainval_06-Nov-2007.tar",
                "c52e279531787c972589f7e41ab4ae64",
                460_032_000,
                f"{_VOC_URL}/voc2007/VOCtrainval_06-Nov-2007.tar",
                mirrors=(f"{_VOC_MIRROR}/VOCtrainval_06-Nov-2007.tar",),
            ),
            Archive(
                "VOCtest_06-Nov-2007.tar",
                "b6e924de25625d8de591ea690078ad9f",
                451_020_800,
                f"{_VOC_URL}/voc2007/VOCtest_06-Nov-2007.tar",
                mirrors=(f"{_VOC_MIRROR}/VOCtest_06-Nov-2007.tar",),
            ),
            Archive(
                "VOCtrainval_11-May-2012.tar",
                "6cd6e144f989b92b3379bac3b3de84fd",
                1_999_639_040,
                f"{_VOC_URL}/voc2012/VOCtrainval_11-May-2012.tar",
                mirrors=(f"{_VOC_MIRROR}/VOCtrainval_11-May-2012.tar",),
            ),
        ),
        archive_top="VOCdevkit",
        nested=False,
        unpacked_bytes=3_000_000_000,
        splits={
            "VOC2007/trainval": OfficialSplit(5011),
            "VOC2007/test": OfficialSplit(4952),
            "VOC2012/trainval": OfficialSplit(11_540),
        },
        classes=None,
        config_tag="voc0712",
        page="http://host.robots.ox.ac.uk/pascal/VOC/",
        terms="Images from flickr, under flickr's terms of use.",
    ),
)

CATALOGUE: Mapping[str, DatasetEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""All data sets by their name on the command line."""

VOC_FORMAT = DatasetEntry(
    name="voc-format",
    title="Data set in VOC format",
    layout="voc-format",
    folder="",
    archives=(),
    archive_top="",
    nested=False,
    unpacked_bytes=0,
    splits={},
    classes=None,
    config_tag="",
    page="",
    terms="",
)
"""Anyone's data set with VOC's folders: there is nothing to download and no official count, but all else to check."""


def dataset_entry(name: str) -> DatasetEntry:
    """Return the catalogue's entry.

    Raises:
        ConfigError: there is no data set of that name.
    """
    if name not in CATALOGUE:
        raise ConfigError(f"unknown data set {name!r}; known are {', '.join(CATALOGUE)}.")
    return CATALOGUE[name]

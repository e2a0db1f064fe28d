"""Verifying a devkit: a sound one passes, and of each corruption exactly it is told, with file and reason."""

from __future__ import annotations

import dataclasses
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from sosr_det.data.prepare import OfficialSplit, VerifyReport, catalogue, dataset_entry, verify_dataset
from sosr_det.data.prepare.voc.effects import EFFECTS
from sosr_det.data.voc_classes import VOC_CLASSES
from sosr_det.errors import ConfigError, DataError

WIDTH, HEIGHT = 60, 40
LISTS = {
    "VOC2007": {"train": "000001 000002", "val": "000003", "test": "000004 000005"},
    "VOC2012": {"train": "2008_000001", "val": "2008_000002"},
}
XML = "VOC2007/Annotations/000002.xml"
JPEG = "VOC2007/JPEGImages/000002.jpg"


def jpeg(identity: str, width: int = WIDTH, height: int = HEIGHT, suffix: str = ".jpg") -> bytes:
    pixels = np.random.default_rng(random.Random(identity).getrandbits(32)).integers(
        0, 256, (height, width, 3)
    )
    return cv2.imencode(suffix, pixels.astype(np.uint8))[1].tobytes()


def thing(box: str = "5 6 30 40", name: str = "dog", difficult: str = "0", truncated: str = "1") -> str:
    coordinates = "".join(
        f"<{tag}>{v}</{tag}>" for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=True)
    )
    return (
        f"<object><name>{name}</name><truncated>{truncated}</truncated><difficult>{difficult}</difficult>"
        f"<bndbox>{coordinates}</bndbox></object>"
    )


def xml(identity: str, *objects: str, size: str | None = f"{WIDTH} {HEIGHT}") -> str:
    width, height = size.split() if size else ("", "")
    size_text = (
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>" if size else ""
    )
    return f"<annotation><filename>{identity}.jpg</filename>{size_text}{''.join(objects)}</annotation>"


@pytest.fixture
def devkit(tmp_path, monkeypatch) -> Path:
    """Five images of VOC2007 and two of VOC2012, with boxes that touch the border; its counts are the official ones."""
    root = tmp_path / "VOCdevkit"
    for year, lists in LISTS.items():
        for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
            (root / year / folder).mkdir(parents=True)
        lists = lists | {"trainval": f"{lists['train']} {lists['val']}"}
        for name, ids in lists.items():
            (root / year / "ImageSets/Main" / f"{name}.txt").write_text("\n".join(ids.split()) + "\n")
        (root / year / "ImageSets/Main/dog_trainval.txt").write_text("000001  1\n000002 -1\n")
        for identity in f"{lists['trainval']} {lists.get('test', '')}".split():
            (root / year / "JPEGImages" / f"{identity}.jpg").write_bytes(jpeg(identity))
            things = [thing(), thing(f"1 1 {WIDTH} {HEIGHT}", "person", difficult="1")]
            if identity == "2008_000002":  # one of each other class
                things += [thing(name=name) for name in VOC_CLASSES if name not in ("dog", "person")]
            text = xml(identity, *things)
            (root / year / "Annotations" / f"{identity}.xml").write_text(text)
    splits = {"VOC2007/trainval": 3, "VOC2007/test": 2, "VOC2012/trainval": 2}
    entry = dataclasses.replace(
        dataset_entry("voc"), splits={name: OfficialSplit(count) for name, count in splits.items()}
    )
    monkeypatch.setattr(catalogue, "CATALOGUE", {**catalogue.CATALOGUE, "voc": entry})
    return root


def found(report: VerifyReport) -> list[tuple[str, str]]:
    assert report.ok == (not report.problems)
    return sorted((problem.kind, problem.path) for problem in report.problems)


# ---- the negative control ----


@pytest.mark.parametrize("name", ["voc", "voc-format"])
def test_a_sound_devkit_passes(devkit, name):
    report = verify_dataset(name, devkit, workers=2)
    assert (report.problems, report.notes, report.decoded, report.effects) == ([], [], 7, {})
    assert verify_dataset(name, devkit.parent).ok
    assert report.objects["VOC2007/test"].as_dict() == {
        "objects": 4,
        "difficult_objects": 2,
        "truncated_objects": 4,
        "images_without_objects": 0,
        "objects_by_class": {
            "dog": {"objects": 2, "difficult": 0, "truncated": 2, "images": 2},
            "person": {"objects": 2, "difficult": 2, "truncated": 2, "images": 2},
        },
    }


def test_what_is_worth_knowing_is_no_problem(devkit):
    again = thing("2.5 3 20 30") * 2
    (devkit / XML).write_text(xml("other", again, thing(truncated="Unspecified"), size=None))
    (devkit / "VOC2007/Annotations/000003.xml").write_text(xml("000003"))
    shutil.copy(devkit / XML, devkit / "VOC2007/Annotations/000099.xml")
    (devkit / JPEG).write_bytes(jpeg("x", suffix=".png"))
    report = verify_dataset("voc", devkit)
    assert report.ok
    assert report.objects["VOC2007/trainval"].without_objects == 1
    assert report.notes == [
        "VOC2007: 1 annotations are in none of the lists; they are not used",
        f"{JPEG} is a PNG file",
        f"1 × <filename> names another file than the list; training goes by the list: {XML}",
        f"1 × <truncated> is neither 0 nor 1; only the analysis of errors reads it: {XML}",
        f"1 × no <size>; the image's own is used: {XML}",
        f"2 × fractions in coordinates; they are cut off: {XML}, {XML}",
        f"1 × the same box of the same class again: {XML}",
        "1 × no objects; filter_empty_gt leaves the image out of training: VOC2007/Annotations/000003.xml",
    ]


# ---- corruptions: (what is done, the problems, what their reasons say, further problems of the published data) ----


def boxes(*objects: str, size: str = f"{WIDTH} {HEIGHT}") -> Callable[[Path], object]:
    return lambda root: (root / XML).write_text(xml("000002", *objects, size=size))


def put(file: str, content: bytes | str | None) -> Callable[[Path], object]:
    def plant(root: Path) -> None:
        path = root / file
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    return plant


def append(*files: str, line: str) -> Callable[[Path], object]:
    def plant(root: Path) -> None:
        for file in files:
            with open(root / "VOC2007/ImageSets/Main" / file, "a") as stream:
                stream.write(f"{line}\n")

    return plant


BOMB = (
    '<!DOCTYPE a [<!ENTITY e0 "xxxxxxxxxx">'
    + "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    + "]><annotation>&e9;</annotation>"
)
MAIN = "VOC2007/ImageSets/Main"
COUNT = ("count", "VOC2007/trainval")
CORRUPTIONS = {
    "truncated JPEG": (put(JPEG, jpeg("000002")[:700]), [("undecodable", JPEG)], r"\(700 bytes\)", []),
    "JPEG without its last byte": (put(JPEG, jpeg("000002")[:-1]), [("undecodable", JPEG)], "bytes", []),
    "truncated PNG": (put(JPEG, jpeg("x", suffix=".png")[:-40]), [("undecodable", JPEG)], "bytes", []),
    "zero bytes": (put(JPEG, b""), [("empty", JPEG)], "has 0 bytes", []),
    "a web page": (put(JPEG, b"<html>"), [("undecodable", JPEG)], "no image of a known kind", []),
    "missing image": (put(JPEG, None), [("missing", JPEG)], "train.* lists it", [COUNT]),
    "missing XML": (put(XML, None), [("missing", XML)], "train.* lists it", []),
    "malformed XML": (put(XML, xml("000002", thing())[:-9]), [("malformed", XML)], "line 1, column", []),
    "empty XML": (put(XML, b""), [("malformed", XML)], "no element found", []),
    "another kind of XML": (put(XML, "<html><body/></html>"), [("foreign", XML)], "<html>, expected <annot", []),
    "entity bomb": (put(XML, BOMB), [("malformed", XML)], "amplification", []),
    "NaN coordinate": (boxes(thing("5 nan 30 40")), [("malformed", XML)], r"object 1 .*<ymin> must be.*'nan'", []),
    "no box": (boxes("<object><name>dog</name></object>"), [("malformed", XML)], "no <bndbox>", []),
    "size of zero": (boxes(thing(), size="0 0"), [("malformed", XML)], "positive whole number", []),
    "degenerate box": (
        boxes(thing(), thing("30 6 30 40")),
        [("degenerate", XML)],
        r"object 2 \(dog\): box 30,6,30,40 has no area: xmax <= xmin$",
        [],
    ),
    "box of a fraction of a pixel": (boxes(thing("5.2 6 5.9 40")), [("degenerate", XML)], "box 5,6,5,40", []),
    "box outside": (
        boxes(thing("61 6 90 40"), thing()),
        [("outside", XML)],
        r"object 1 \(dog\): box 61,6,90,40 is outside of the image of 60 x 40",
        [],
    ),
    "box a pixel too wide": (boxes(thing(f"5 6 {WIDTH + 1} 40")), [("clipped", XML)], "box 5,6,61,40 is partly", []),
    "box a pixel too high": (boxes(thing(f"5 6 30 {HEIGHT + 1}")), [("clipped", XML)], "partly outside", []),
    "box from 0": (boxes(thing("0 6 30 40")), [("clipped", XML)], "count from 1", []),
    "unknown class": (
        boxes(thing(name="Dogs"), thing()),
        [("class", XML)],
        "object 1: 'Dogs' is none of the 20 classes; is 'dog' meant",
        [],
    ),
    "class with a space": (boxes(thing(name="dog ")), [("class", XML)], "'dog ' is none .* is 'dog' meant", []),
    "difficult is 2": (boxes(thing(difficult="2")), [("flag", XML)], "object 1 .*<difficult> is '2'", []),
    "difficult is yes": (boxes(thing(difficult="yes")), [("malformed", XML)], "must be 0 or 1, got 'yes'", []),
    "wrong size in XML": (
        boxes(thing(), size="90 80"),
        [("size", XML)],
        "is 90 x 80, but the image is 60 x 40 pixels$",
        [],
    ),
    "size exchanged": (
        lambda r: (boxes(thing("1 1 9 9"), size=f"{HEIGHT} {WIDTH}")(r)),
        [("size", XML)],
        "40 x 60, but the image is 60 x 40 pixels .*exchanged",
        [],
    ),
    "listed twice": (
        append("trainval.txt", line="000002"),
        [("repeated", f"{MAIN}/trainval.txt")],
        "000002 more than once",
        [],
    ),
    "in trainval and test": (
        append("test.txt", line="000002"),
        [("overlap", f"{MAIN}/test.txt")] * 2,  # of train and of trainval
        "lists 000002, which train",
        [("count", "VOC2007/test")],
    ),
    "in train and val": (
        append("val.txt", line="000002"),
        [("overlap", f"{MAIN}/val.txt")],
        "lists 000002, which train.txt lists as well",
        [],
    ),
    "in train, not in trainval": (
        lambda r: put(f"{MAIN}/trainval.txt", "000001\n000003\n")(r),
        [("lists", f"{MAIN}/trainval.txt")],
        r"lacks 1 images \(000002\) of train.txt and val.txt",
        [COUNT],
    ),
    "a list of a class": (
        put(f"{MAIN}/trainval.txt", "000001  1\n000002 -1\n000003  1\nx\n"),
        [("lists", f"{MAIN}/trainval.txt")] * 2 + [("missing", f"VOC2007/{f}/{i}{s}")
         for f, s in (("JPEGImages", ".jpg"), ("Annotations", ".xml"))
         for i in ("000001  1", "000002 -1", "000003  1", "x")],
        "second column|neither|lacks|trainval.txt lists it$",
        [COUNT],
    ),
    "a list with a byte-order mark": (
        put(f"{MAIN}/val.txt", "\ufeff000003\n"),
        [("malformed", f"{MAIN}/val.txt")],
        "byte-order mark",
        [],
    ),
    "an empty list": (
        put(f"{MAIN}/test.txt", "\n"),
        [("malformed", f"{MAIN}/test.txt")],
        "no image ids",
        [("count", "VOC2007/test")],
    ),
    "another ending": (
        lambda r: (r / JPEG).rename(r / JPEG.replace(".jpg", ".JPG")),
        [("missing", JPEG)],
        "there is a 000002.JPG",
        [COUNT],
    ),
}  # fmt: skip


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corruption_is_told_with_file_and_reason_and_nothing_else(devkit, corruption):
    plant, expected, reason, of_published = CORRUPTIONS[corruption]
    plant(devkit)
    report = verify_dataset("voc-format", devkit, workers=2, classes=VOC_CLASSES)
    assert found(report) == sorted(expected)
    assert all(re.search(reason, problem.reason) for problem in report.problems), report.problems
    assert set(report.effects) == {kind for kind, _ in expected} <= set(EFFECTS)
    assert found(verify_dataset("voc", devkit, workers=2)) == sorted([*expected, *of_published])


def edit(pattern: str, replacement: str) -> Callable[[Path], None]:
    """Change the first place in a real XML file."""

    def change(file: Path) -> None:
        text, count = re.subn(pattern, replacement, file.read_text(), count=1, flags=re.DOTALL)
        assert count == 1, file
        file.write_text(text)

    return change


def of_xml(change: Callable[[Path], None]) -> Callable[[Path, str], None]:
    return lambda folder, identity: change(folder / "Annotations" / f"{identity}.xml")


def of_jpeg(change: Callable[[Path], object]) -> Callable[[Path, str], object]:
    return lambda folder, identity: change(folder / "JPEGImages" / f"{identity}.jpg")


REAL_CORRUPTIONS = {  # by the kind that they must be told as; one file each
    "undecodable": of_jpeg(lambda path: path.write_bytes(path.read_bytes()[:5000])),
    "empty": of_jpeg(lambda path: path.write_bytes(b"")),
    "missing": of_xml(Path.unlink),
    "malformed": of_xml(edit("</object>", "")),
    "degenerate": of_xml(edit(r"<xmin>(\d+)</xmin>(.*?)<xmax>\d+<", r"<xmin>\1</xmin>\2<xmax>\1<")),
    "outside": of_xml(edit(r"<xmin>\d+</xmin>(.*?)<xmax>\d+<", r"<xmin>2001</xmin>\1<xmax>2005<")),
    "clipped": of_xml(edit(r"<ymin>\d+<", "<ymin>0<")),
    "class": of_xml(edit(r"<object>(\s*)<name>\w+<", r"<object>\1<name>unicorn<")),
    "size": of_xml(edit(r"<width>\d+<", "<width>1999<")),
    "flag": of_xml(edit(r"<difficult>\d<", "<difficult>3<")),
}


def test_ten_corruptions_of_real_annotations_are_told_once_each(unpacked, tmp_path):
    """Real XML files, with drawn images of their sizes."""
    source = unpacked("voc0712-annotations") / "VOCdevkit/VOC2007"
    folder = tmp_path / "VOCdevkit/VOC2007"
    for name in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (folder / name).mkdir(parents=True)
    for split in ("trainval", "test"):
        ids = (source / f"ImageSets/Main/{split}.txt").read_text().split()[:12]
        (folder / f"ImageSets/Main/{split}.txt").write_text("\n".join(ids))
        for identity in ids:
            text = (source / f"Annotations/{identity}.xml").read_text()
            (folder / f"Annotations/{identity}.xml").write_text(text)
            width, height = (int(re.search(rf"<{tag}>(\d+)<", text)[1]) for tag in ("width", "height"))
            (folder / f"JPEGImages/{identity}.jpg").write_bytes(jpeg(identity, width, height))
    assert found(verify_dataset("voc-format", folder, classes=VOC_CLASSES)) == []
    expected = []
    ids = (folder / "ImageSets/Main/trainval.txt").read_text().split()
    for identity, (kind, corrupt) in zip(ids, REAL_CORRUPTIONS.items(), strict=False):
        corrupt(folder, identity)
        image = kind in ("undecodable", "empty")
        expected.append((kind, f"JPEGImages/{identity}.jpg" if image else f"Annotations/{identity}.xml"))
    assert found(verify_dataset("voc-format", folder, classes=VOC_CLASSES)) == sorted(expected)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("000002  1", "second column, as VOC's lists of a class have: use the plain list"),
        ("000002.jpg", "list ids without the file's ending"),
        ("unknown", "train.txt lists it"),
    ],
)
def test_the_reason_of_a_missing_file_says_how_it_comes_about(devkit, line, hint):
    append("train.txt", "trainval.txt", line=line)(devkit)
    report = verify_dataset("voc-format", devkit)
    assert found(report) == [
        ("missing", f"VOC2007/Annotations/{line}.xml"),
        ("missing", f"VOC2007/JPEGImages/{line}.jpg"),
    ]
    assert all(problem.reason.endswith(hint) for problem in report.problems)


# ---- what is said of training is what training does ----


def test_effects_are_those_of_the_data_set_that_trains(devkit, tmp_path):
    from sosr_det.data.voc import CheckedVOCDataset

    def learned(root: Path, **policy) -> dict[str, list[tuple[int, ...]]] | None:
        """The boxes that training would learn, 1-based, by image; None if it stops."""
        try:
            data = CheckedVOCDataset(
                data_root=str(root),
                ann_file="VOC2007/ImageSets/Main/trainval.txt",
                data_prefix={"sub_data_root": "VOC2007/"},
                pipeline=[{"type": "mmdet.LoadImageFromFile"}],
                test_mode=True,
                **policy,
            )
            records = [data[index] for index in range(len(data))]
        except DataError:
            return None
        return {
            record["img_id"]: [tuple(int(v) + 1 for v in item["bbox"]) for item in record["instances"]]
            for record in records
        }

    sound = learned(devkit)
    assert sound == {f"00000{i}": [(5, 6, 30, 40), (1, 1, WIDTH, HEIGHT)] for i in (1, 2, 3)}
    skipped = {name: boxes for name, boxes in sound.items() if name != "000002"}
    skip = {"on_problem": "skip", "max_skipped_fraction": 1.0}
    for name, (plant, expected, _, _) in CORRUPTIONS.items():
        root = tmp_path / "copies" / name / "VOCdevkit"
        shutil.copytree(devkit, root)
        plant(root)
        here = {(kind, path) for kind, path in expected if not path.endswith(("/val.txt", "/test.txt"))}
        kinds = {kind for kind, _ in here}
        boxes = learned(root)
        assert (boxes is None) == any(EFFECTS[kind].startswith("training stops") for kind in kinds), name
        if kinds <= {"missing", "malformed", "class"} and {path for _, path in here} <= {XML, JPEG} and here:
            assert learned(root, **skip) == skipped, name
        if kinds <= {"empty", "undecodable", "repeated"} and here:
            assert learned(root, **skip) is None, name
        if "class" in kinds:
            others = learned(root, unknown_classes="ignore")["000002"]
            assert len(others) == sum(item.count("<object>") for item in [(root / XML).read_text()]) - 1
        if "foreign" in kinds:
            assert boxes["000002"] == []
        if kinds & {"degenerate", "outside"}:
            assert boxes["000002"] == ([(5, 6, 30, 40)] if "fraction" not in name else []), name
        if "clipped" in kinds:
            ((xmin, ymin, xmax, ymax),) = boxes["000002"]
            assert 1 <= xmin < xmax <= WIDTH, name
            assert 1 <= ymin < ymax <= HEIGHT, name


def test_published_counts_of_the_real_annotations(unpacked):
    """Against the numbers on VOC's own pages: images and objects that are not difficult, and those with them."""
    root = unpacked("voc0712-annotations") / "VOCdevkit"
    report = verify_dataset("voc", root, subset_ok=True)
    assert found(report) == [("missing", "VOC2007/JPEGImages"), ("missing", "VOC2012/JPEGImages")]
    counts = {
        split: (len(root.joinpath(split.replace("/", "/ImageSets/Main/") + ".txt").read_text().split()),
                objects.total("objects") - objects.total("difficult"), objects.total("objects"))
        for split, objects in report.objects.items()
    }  # fmt: skip
    assert counts == {
        "VOC2007/trainval": (5011, 12608, 15662),
        "VOC2007/test": (4952, 12032, 14976),
        "VOC2012/trainval": (11540, 27450, 31561),
    }
    assert [note for note in report.notes if "found 0 of" not in note] == [
        "VOC2012: 5,585 annotations are in none of the lists; they are not used"
    ]
    person = report.objects["VOC2007/test"].classes["person"]
    assert (person.images, person.objects - person.difficult) == (2097, 4528)


# ---- one's own data set ----


def test_bccd_has_its_two_degenerate_boxes(unpacked):
    root = unpacked("bccd")
    report = verify_dataset("voc-format", root)
    assert report.folder == root / "VOCdevkit"
    assert found(report) == [
        ("degenerate", "VOC2007/Annotations/BloodImage_00338.xml"),
        ("degenerate", "VOC2007/Annotations/BloodImage_00343.xml"),
    ]
    assert (report.notes, report.decoded) == ([], 364)
    objects = Counter()
    for split in ("trainval", "test"):
        objects.update({n: c.objects for n, c in report.objects[f"VOC2007/{split}"].classes.items()})
    assert objects == {"RBC": 4155, "WBC": 372, "Platelets": 361}


def test_classes_may_be_named(devkit):
    assert found(verify_dataset("voc-format", devkit / "VOC2007", classes=["dog", "person"])) == []
    report = verify_dataset("voc-format", devkit / "VOC2007", classes=["dog", "persons", "zebra"])
    assert set(found(report)) == {("class", f"Annotations/00000{i}.xml") for i in range(1, 6)}
    assert "'person' is none of the 3 classes; is 'persons' meant?" in report.problems[0].reason
    assert [p.path for p in report.problems] == sorted(p.path for p in report.problems)  # not in the lists' order
    assert report.notes == [
        "objects of unknown classes: 'person' (5); known are dog, persons, zebra",
        "no objects of 2 of the 3 classes: persons, zebra",
    ]


@pytest.mark.parametrize("classes", [[], [""], ["a", "a"], ["a", " "]])
def test_class_names_that_cannot_be_meant(devkit, classes):
    with pytest.raises(ConfigError, match="--classes"):
        verify_dataset("voc-format", devkit, classes=classes)


def test_classes_are_for_ones_own_data(devkit):
    with pytest.raises(ConfigError, match="sosr-det data verify voc-format --root DIR --classes"):
        verify_dataset("voc", devkit, classes=["dog"])


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        ("Dog", True),
        ("dog ", True),
        ("dogs", True),
        ("do g", True),
        ("d_og", True),
        ("hog", False),
        ("god", False),
    ],
)
def test_names_that_look_alike_are_problems_of_a_scan(devkit, other, alike):
    boxes(thing(), thing(name=other))(devkit)
    report = verify_dataset("voc-format", devkit / "VOC2007")
    assert bool(report.problems) == alike
    if alike:
        assert f"{other!r} (1 objects) looks like 'dog' (5)" in report.problems[0].reason
        assert {problem.kind for problem in report.problems} == {"spelling"}
    assert verify_dataset("voc-format", devkit / "VOC2007", classes=["dog", "person", other]).ok


def test_images_of_test_that_are_trained_on_under_another_name(devkit):
    shutil.copy(devkit / "VOC2012/JPEGImages/2008_000001.jpg", devkit / "VOC2007/JPEGImages/000004.jpg")
    report = verify_dataset("voc-format", devkit)
    assert found(report) == [("leak", "VOC2007/JPEGImages/000004.jpg")]
    assert "VOC2012/JPEGImages/2008_000001.jpg" in report.problems[0].reason
    # Of the published data it would be a peculiarity, not a fault of this copy.
    report = verify_dataset("voc", devkit)
    assert report.notes == [
        "VOC2007/JPEGImages/000004.jpg is byte for byte VOC2012/JPEGImages/2008_000001.jpg"
    ]
    assert report.ok


def test_images_with_another_ending_are_found_and_the_setting_is_told(devkit):
    for path in (devkit / "VOC2012/JPEGImages").iterdir():
        path.unlink()
        path.with_suffix(".png").write_bytes(jpeg(path.stem, suffix=".png"))
    report = verify_dataset("voc-format", devkit)
    assert (report.ok, report.decoded) == (True, 7)
    assert report.notes == ["VOC2012: images end in .png; to train on them, set img_suffix='auto'"]


def test_exif_turns_an_image_as_training_turns_it(devkit):
    """A phone's photograph: stored 60 x 40, shown (and loaded by OpenCV) 40 x 60."""
    import struct

    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    turned = jpeg("000002")
    turned = turned[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + turned[2:]
    (devkit / JPEG).write_bytes(turned)
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (WIDTH, HEIGHT, 3)
    report = verify_dataset("voc", devkit)
    assert found(report) == [("size", XML)]
    assert "EXIF" in report.problems[0].reason


@pytest.mark.parametrize("missing", ["lists", "all"])
def test_a_folder_in_another_format_is_told_what_is_expected(devkit, missing):
    folder = devkit / "VOC2007"
    shutil.rmtree(folder / "ImageSets")
    if missing == "all":
        shutil.rmtree(folder / "Annotations")
    with pytest.raises(DataError, match=r"ImageSets/Main/<split>\.txt, Annotations/<id>\.xml") as error:
        verify_dataset("voc-format", folder)
    assert ("Write lists of image ids" in str(error.value)) == (missing == "lists")


def test_a_folder_of_images_that_is_not_there_is_one_problem(devkit):
    shutil.rmtree(devkit / "VOC2012/JPEGImages")
    assert found(verify_dataset("voc-format", devkit)) == [("missing", "VOC2012/JPEGImages")]

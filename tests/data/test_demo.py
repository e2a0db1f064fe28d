"""The demo data: readable by readers that are not ours, the same bytes every time, and boxes that fit."""

import json
import shutil
import xml.etree.ElementTree as ET
from collections import Counter, namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest
from torchvision.datasets import ImageFolder, VOCDetection

from sosr_det.data.demo import DemoSize, generate, generate_demo_data
from sosr_det.data.demo import record as record_module
from sosr_det.data.demo.cub import BIRD_CLASSES, class_name
from sosr_det.data.demo.imagenet import imagenet_files
from sosr_det.data.demo.kinds import KINDS
from sosr_det.data.demo.shapes import Pen
from sosr_det.data.demo.voc import voc_scene
from sosr_det.errors import DataError

SMALL = DemoSize(
    imagenet_train_per_class=2,
    imagenet_val_per_class=1,
    cub_train_per_class=2,
    cub_test_per_class=1,
    voc2007_trainval=40,
    voc2007_test=20,
    voc2012_trainval=40,
)
TINY = DemoSize(1, 1, 1, 1, 20, 20, 20)
VOC_CLASSES = [kind.name for kind in KINDS]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return generate_demo_data(tmp_path_factory.mktemp("demo") / "out", size=SMALL)


def annotation(root: Path, identity: str) -> ET.Element:
    return ET.parse(root / "Annotations" / f"{identity}.xml").getroot()


def box_of(element: ET.Element) -> tuple[int, int, int, int]:
    return tuple(int(element.find(f"bndbox/{bound}").text) for bound in ("xmin", "ymin", "xmax", "ymax"))


def tree_bytes(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


# --- formats, by independent readers ---------------------------------------------------------------------------


def test_the_kinds_are_vocs_classes_in_its_order():
    assert " ".join(VOC_CLASSES) == (
        "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
        "pottedplant sheep sofa train tvmonitor"
    )


def test_imagenet_folders_load_with_torchvision(demo):
    train, val = ImageFolder(demo.imagenet / "train"), ImageFolder(demo.imagenet / "val")
    assert train.classes == val.classes == [f"n{number:08d}" for number in range(1, 21)]
    assert Counter(train.targets) == dict.fromkeys(range(20), 2)
    assert Counter(val.targets) == dict.fromkeys(range(20), 1)
    for picture, _ in train:
        assert picture.mode == "RGB"
        assert 80 <= min(picture.size) <= max(picture.size) <= 120
    words = dict(line.split("\t") for line in (demo.imagenet / "words.txt").read_text().splitlines())
    assert list(words) == train.classes
    assert list(words.values()) == VOC_CLASSES
    assert len({path.name for path in (demo.imagenet / "val").rglob("*.JPEG")}) == 20


def test_cub_lists_agree_with_each_other_and_the_pictures(demo):
    def table(name):
        return [line.split(" ") for line in (demo.cub / name).read_text().splitlines()]

    images, classes = dict(table("images.txt")), dict(table("classes.txt"))
    labels, splits = dict(table("image_class_labels.txt")), dict(table("train_test_split.txt"))
    boxes = {identity: tuple(map(float, box)) for identity, *box in table("bounding_boxes.txt")}
    assert list(images) == list(labels) == list(splits) == list(boxes) == [str(n) for n in range(1, 49)]
    assert len(classes) == len(set(classes.values())) == len(BIRD_CLASSES) == demo.classes["CUB_200_2011"]
    assert Counter(splits.values()) == {"1": 32, "0": 16}
    for identity, path in images.items():
        folder = classes[labels[identity]]
        number, name = folder.split(".")
        assert int(number) == int(labels[identity])
        assert path.startswith(f"{folder}/{name}_0")
        picture = cv2.imread(str(demo.cub / "images" / path))
        x, y, width, height = boxes[identity]
        assert min(x, y) >= 0
        assert x + width <= picture.shape[1]
        assert y + height <= picture.shape[0]
        assert min(width, height) > 20
    assert {file.name for file in (demo.cub / "images").iterdir()} == set(classes.values())


def test_bird_classes_share_at_most_one_part():
    forms = [(bird.beak, bird.wing, bird.tail, bird.crest) for bird in BIRD_CLASSES]
    for number, one in enumerate(forms):
        for other in forms[:number]:
            assert sum(a == b for a, b in zip(one, other, strict=True)) <= 1
    assert class_name(0) == "001.Bald_Plain_Stubtail_Conebill"


@pytest.mark.parametrize(
    ("year", "split", "count"),
    [("2007", "trainval", 40), ("2007", "test", 20), ("2012", "trainval", 40), ("2012", "train", 20)],
)
def test_voc_loads_with_torchvision(demo, year, split, count):
    data = VOCDetection(str(demo.root), year=year, image_set=split, download=False)
    assert len(data) == count
    seen = set()
    for picture, target in data:
        parsed = target["annotation"]
        assert parsed["folder"] == f"VOC{year}"
        assert picture.size == (int(parsed["size"]["width"]), int(parsed["size"]["height"]))
        assert 1 <= len(parsed["object"]) <= 4
        for item in parsed["object"]:
            seen.add(item["name"])
            box = {bound: int(value) for bound, value in item["bndbox"].items()}
            assert 1 <= box["xmin"] < box["xmax"] <= picture.width
            assert 1 <= box["ymin"] < box["ymax"] <= picture.height
    assert seen == set(VOC_CLASSES) or split == "train"


@pytest.mark.parametrize(("year", "first", "splits"), [("2007", "000001", 4), ("2012", "2008_000001", 3)])
def test_voc_image_sets_follow_the_annotations(demo, year, first, splits):
    root = demo.voc_devkit / f"VOC{year}"
    main = root / "ImageSets" / "Main"
    lists = {file.stem: file.read_text().splitlines() for file in main.glob("*.txt")}
    assert len(lists) == splits * 21
    assert lists["trainval"][0] == first
    assert sorted(lists["train"] + lists["val"]) == lists["trainval"]
    everything = lists["trainval"] + lists.get("test", [])
    assert sorted(file.stem for file in (root / "JPEGImages").iterdir()) == everything
    assert sorted(file.stem for file in (root / "Annotations").iterdir()) == everything
    for split in ("train", "val", "trainval", "test")[:splits]:
        for name in VOC_CLASSES:
            expected = []
            for identity in lists[split]:
                flags = [
                    item.find("difficult").text
                    for item in annotation(root, identity).iter("object")
                    if item.find("name").text == name
                ]
                expected.append(f"{identity} {-1 if not flags else 1 if '0' in flags else 0:2d}")
            assert lists[f"{name}_{split}"] == expected
            # Each class has an object that counts: a class without any drops out of the mean AP.
            assert any(line.endswith(" 1") for line in expected)


def test_difficult_truncated_and_parts_are_present(demo):
    count = Counter()
    for file in demo.voc_devkit.rglob("*.xml"):
        tree = ET.parse(file).getroot()
        width, height = int(tree.find("size/width").text), int(tree.find("size/height").text)
        for item in tree.iter("object"):
            left, top, right, bottom = box_of(item)
            # With more objects, one of them may hide the end that touches the border.
            if item.find("truncated").text == "1" and len(tree.findall("object")) == 1:
                assert left == 1 or top == 1 or right == width or bottom == height
            for flag in ("difficult", "truncated", "occluded"):
                count[flag] += item.findtext(flag) == "1"
            for part in item.iter("part"):
                assert item.find("name").text == "person"
                count[part.find("name").text] += 1
                inner = box_of(part)
                assert left <= inner[0] <= inner[2] <= right
                assert top <= inner[1] <= inner[3] <= bottom
    assert min(count[key] for key in ("difficult", "truncated", "occluded", "head", "hand", "foot")) >= 2


# --- boxes -----------------------------------------------------------------------------------------------------


def test_boxes_are_tight_around_what_can_be_seen(demo):
    """Recompute who owns each pixel on a wide canvas, one sprite after the other, and read the boxes off it."""
    margin, checked = 250, 0
    for split, shift in (("trainval", 0), ("test", 5000)):
        for index in range(20):
            scene = voc_scene(0, "VOC2007", split, index)
            height, width = scene.size
            canvas = np.full((height + 2 * margin, width + 2 * margin), -1)
            whole = []
            for number, item in enumerate(scene.placed):
                rows, columns = np.nonzero(item.sprite.cover >= 0.5)
                canvas[rows + item.top + margin, columns + item.left + margin] = number
                whole.append(len(rows))
            image = canvas[margin:-margin, margin:-margin]
            root = demo.voc_devkit / "VOC2007"
            found = annotation(root, f"{shift + index + 1:06d}").findall("object")
            assert len(found) == len(scene.placed)
            for number, (item, placed) in enumerate(zip(found, scene.placed, strict=True)):
                rows, columns = np.nonzero(image == number)
                # 1-based and inclusive: the first column is 1, and a one-pixel box has xmin == xmax.
                assert box_of(item) == (columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1)
                assert item.find("name").text == KINDS[placed.kind].name
                in_view = sum(
                    0 <= row + placed.top < height and 0 <= column + placed.left < width
                    for row, column in np.argwhere(placed.sprite.cover >= 0.5)
                )
                assert (item.find("truncated").text == "1") == (in_view < whole[number])
                small = max(np.ptp(rows), np.ptp(columns)) + 1 < 20
                hidden = len(rows) < 0.4 * whole[number]
                assert (item.find("difficult").text == "1") == (small or hidden)
                checked += 1
    assert checked > 50


def test_the_first_object_is_the_promised_kind_and_counts():
    for index in range(20):
        first = voc_scene(3, "VOC2012", "trainval", index).objects[0]
        assert first.kind == index
        assert not first.difficult


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_no_drawing_leaves_its_canvas(kind):
    """What falls off the pen's canvas is lost without a trace: a box would be right and the object cut."""
    for number in range(12):
        pen = Pen(60, angle=-30 + 5 * number, mirrored=bool(number % 2), stretch=0.85 + 0.03 * number)
        kind.draw(pen, np.random.default_rng(number))
        cover = pen._canvas[..., 3]
        assert not any(edge.any() for edge in (cover[0], cover[-1], cover[:, 0], cover[:, -1]))


# --- determinism -----------------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_bytes(demo, tmp_path):
    again = generate_demo_data(tmp_path / "again", size=SMALL)
    assert not again.reused
    assert again.digest == demo.digest
    assert tree_bytes(again.root) == tree_bytes(demo.root)


def test_another_seed_gives_other_pictures(demo):
    old = tree_bytes(demo.root)
    for path, content in imagenet_files(1, train_per_class=1, val_per_class=1):
        assert (content == old[path]) == path.endswith("words.txt")
    assert voc_scene(1, "VOC2007", "test", 0).jpeg != voc_scene(0, "VOC2007", "test", 0).jpeg


def test_counts_do_not_shift_other_images(demo):
    """The pictures and annotations of a smaller set are among those of a larger one."""
    old, birds = tree_bytes(demo.root), 0
    for path, content in generate._all_files(0, TINY):
        if path.startswith("CUB_200_2011/images/"):  # their names hold a running number, as in the real set
            assert content in old.values()
            birds += 1
        elif path.endswith((".JPEG", ".jpg", ".xml")):
            assert old[path] == content
    assert birds == 32


def test_record_describes_the_tree(demo):
    record = json.loads((demo.root / "DEMO.json").read_text())
    images = [path for path in tree_bytes(demo.root) if path.endswith((".jpg", ".JPEG"))]
    assert record["seed"] == demo.seed == 0
    assert record["digest"] == demo.digest
    assert sum(record["images"].values()) == len(images)
    assert record["files"] == demo.files == len(tree_bytes(demo.root)) - 1
    assert record["bytes"] == demo.bytes
    assert str(demo.root) not in json.dumps(record)


# --- writing safely --------------------------------------------------------------------------------------------


@pytest.fixture
def copy(demo, tmp_path):
    """A copy of the demo tree that a test may damage."""
    return Path(shutil.copytree(demo.root, tmp_path / "copy"))


def test_existing_demo_data_is_reused(copy, demo):
    before = {file: file.stat().st_mtime_ns for file in copy.rglob("*")}
    summary = generate_demo_data(copy, size=SMALL)
    assert summary.reused
    assert (summary.images, summary.digest) == (demo.images, demo.digest)
    assert {file: file.stat().st_mtime_ns for file in copy.rglob("*")} == before


def test_other_parameters_are_refused(copy):
    with pytest.raises(DataError, match=r"seed 0, but 5 was asked for"):
        generate_demo_data(copy, seed=5, size=SMALL)
    with pytest.raises(DataError, match=r"size \{.*'voc2007_test': 20\b.*but \{.*'voc2007_test': 120\b"):
        generate_demo_data(copy)


def test_another_generator_version_is_refused(copy, monkeypatch):
    monkeypatch.setattr(record_module, "GENERATOR_VERSION", 999)
    with pytest.raises(DataError, match="generator_version 1, but 999"):
        generate_demo_data(copy, size=SMALL)


@pytest.mark.parametrize("change", ["edit", "add", "remove"])
def test_changed_demo_data_is_refused(copy, change):
    file = copy / "CUB_200_2011" / "images.txt"
    if change == "edit":
        file.write_text(file.read_text() + "49 x.jpg\n")
    elif change == "add":
        (copy / "notes.txt").write_text("mine")
    else:
        file.unlink()
    with pytest.raises(DataError, match="changed after it was made"):
        generate_demo_data(copy, size=SMALL)


@pytest.mark.parametrize("record", [b"{", b"[1]", b"\xff\xfe\x00", b"{}"])
def test_a_damaged_record_is_refused(copy, record):
    (copy / "DEMO.json").write_bytes(record)
    with pytest.raises(DataError, match=r"DEMO\.json|format None"):
        generate_demo_data(copy, size=SMALL)


def test_a_users_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"no DEMO\.json, but holds thesis\.tex"):
        generate_demo_data(tmp_path, size=SMALL)
    assert tree_bytes(tmp_path) == {"thesis.tex": b"years of work"}
    with pytest.raises(DataError, match="is a file"):
        generate_demo_data(tmp_path / "thesis.tex", size=SMALL)


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="the folder you are in"):
        generate_demo_data(".", size=SMALL)


def test_an_empty_folder_is_filled(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    done = []
    generate_demo_data(out, size=TINY, progress=lambda *step: done.append(step))
    assert (out / "DEMO.json").exists()
    assert done == [(number, 132) for number in range(1, 133)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_run_leaves_nothing(tmp_path, fault):
    def stop(done, total):
        if done == 3:
            raise fault

    with pytest.raises(DataError if isinstance(fault, OSError) else fault):
        generate_demo_data(tmp_path / "out", size=SMALL, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_at_once_end_with_one_tree(copy, demo, tmp_path, monkeypatch):
    """Another process renames its finished tree into place while ours is still drawing."""
    out = tmp_path / "out"

    def draw_slowly(*_):
        yield "first.jpg", b""
        copy.rename(out)

    monkeypatch.setattr(generate, "_all_files", draw_slowly)
    summary = generate_demo_data(out, size=SMALL)
    assert summary.reused
    assert summary.digest == demo.digest
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(DataError, match=r"needs about 34 MB, but .* has only 1 MB free"):
        generate_demo_data(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_a_data_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot make the demo data"):
        generate_demo_data(tmp_path / "file" / "out", size=SMALL)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DataError, match="Cannot make the demo data"):
        generate_demo_data(tmp_path / "loop" / "out", size=SMALL)


# --- parameters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("imagenet_train_per_class", 0, "must be 1 or more, got 0"),
        ("cub_test_per_class", -3, "must be 1 or more, got -3"),
        ("voc2007_test", 19, "must be 20 to 5000, got 19"),
        ("voc2012_trainval", 5001, "must be 20 to 5000, got 5001"),
        ("voc2007_trainval", 30.0, "must be an integer, got 30.0"),
        ("imagenet_val_per_class", True, "must be an integer, got True"),
    ],
)
def test_sizes_out_of_range_are_refused(name, value, message):
    with pytest.raises(ValueError, match=f"{name} {message}"):
        DemoSize(**{name: value})


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_bad_seeds_are_refused(tmp_path, seed):
    with pytest.raises(ValueError, match=f"seed must be .*got {seed}"):
        generate_demo_data(tmp_path / "out", seed=seed, size=SMALL)
    assert list(tmp_path.iterdir()) == []

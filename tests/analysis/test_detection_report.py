"""The report on a detector's errors: its files, its pictures, names that want to be markup, and failures on the way."""

from __future__ import annotations

import html.parser
import json
import logging
import re

import cv2
import numpy as np
import pytest

from sosr_det.analysis.detection_report import write_report
from sosr_det.analysis.detection_report.image_files import image_file, read_image
from sosr_det.analysis.detection_report.labels import LabelPlacer
from sosr_det.analysis.detection_report.pictures import FOUND, IGNORED, MISSED, WRONG, draw_picture
from sosr_det.analysis.detection_report.replaced_folder import replaced_folder
from sosr_det.analysis.detection_report.text import number, percent, plot_text, plural, tame
from sosr_det.errors import ConfigError, DataError
from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.errors import analyze_errors
from sosr_det.evaluation.voc_ap import evaluate_voc

SIZE = (160, 120)
HOSTILE = ("<script>alert(1)</script>", "$\\frac{x", '_"quoted" & co', "名前\n\u202e\x00")


def make_set(paths=None, names=("cat", "dog"), ids=("a", "b", "c"), sizes=True):
    """Three images: all well, one of each kind of error, and a difficult object."""
    cat, dog = names[:2]
    easy = [[x, 90, x + 19, 109] for x in range(10, 140, 25)]  # found at scores below the errors'
    first, second, third, loose = [10, 10, 49, 49], [100, 10, 139, 49], [20, 20, 59, 59], [115, 10, 159, 49]
    on_dog, again = [10, 70, 49, 109], [12, 10, 49, 49]
    truth = {
        cat: ([0, 1, 1, 2, *[0] * len(easy)], [first, first, second, third, *easy], [0, 0, 0, 1, *[0] * len(easy)]),
        dog: ([1], [on_dog], [0]),
    }  # fmt: skip
    found = {
        cat: (
            [0, 1, 1, 2, 1, 1, *[0] * len(easy)],
            [first, first, loose, third, on_dog, again, *easy],
            [0.9, 0.8, 0.7, 0.9, 0.75, 0.6, *[0.5] * len(easy)],
        ),
        dog: ([1, 1], [[100, 80, 139, 109], on_dog], [0.95, 0.9]),
    }
    gt = {name: GroundTruth(*truth[name]) if name in truth else GroundTruth.empty() for name in names}
    det = {name: Detections(*found[name]) if name in found else Detections.empty() for name in names}
    return EvaluationSet(names, ids, gt, det, [SIZE] * 3 if sizes else None, paths)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = []
    for name in "abc":
        paths.append(str(folder / f"{name}.png"))
        cv2.imwrite(paths[-1], rng.integers(90, 110, (SIZE[1], SIZE[0], 3), np.uint8))
    return paths


@pytest.fixture
def no_plots(monkeypatch):
    """Figures take the most time, and most tests do not look at them."""
    monkeypatch.setattr("sosr_det.analysis.detection_report.report.draw_plots", lambda *_: [])


class Page(html.parser.HTMLParser):
    """Checks that tags are closed in order, and keeps what matters."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for key, value in attributes if key in ("href", "src")]
        assert not any(key.startswith("on") for key, _ in attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read_page(path):
    return Page(path.read_text(encoding="utf-8"))


def test_the_report_holds_what_it_promises(tmp_path, images):
    data = make_set(images)
    path = write_report(data, tmp_path / "run", title="A test")
    folder = tmp_path / "run" / "report"
    assert path == folder / "index.html"
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert names == [
        "by_size.png",
        "errors.json",
        "errors.png",
        "index.html",
        "precision_recall.png",
        "worst/01.jpg",
    ]
    assert [p.name for p in folder.parent.iterdir()] == ["report"]  # nothing left beside it
    for name in names:
        if name.endswith(("png", "jpg")):
            picture = cv2.imread(str(folder / name))
            assert picture.shape[1] >= 400
            assert picture.std() > 5
    page = read_page(path)
    text = "".join(page.text)
    assert {"script", "iframe", "object", "form"}.isdisjoint(page.tags)
    for link in page.links:  # relative, and there
        assert not re.match(r"[a-z]+:|/", link)
        assert (folder / link).is_file()
    assert "A test" in text
    assert "could not be drawn" not in text
    document = json.loads((folder / "errors.json").read_text())
    voc = evaluate_voc(data.ground_truth, data.detections, data.class_names)
    assert document["all_classes"]["map_area"] == voc.map_area
    assert f"{100 * voc.map_area:.2f}" in text
    assert document["worst_images"][0]["image"] == "b"
    assert document == analyze_errors(data).to_dict()
    assert "localisation: cat 0.7 at (115, 10, 159, 49), IoU 0.42 with a cat" in text


def test_names_are_text_everywhere(tmp_path, images):
    ids = ("../../etc/passwd", "<img src=x onerror=alert(1)>\r\n", "c")
    data = make_set(images, names=HOSTILE, ids=ids)
    path = write_report(data, tmp_path, title="</title><script>alert(2)</script>")
    raw = path.read_text(encoding="utf-8")
    page = Page(raw)
    assert "script" not in page.tags
    assert page.links.count("x") == 0
    assert "<script" not in raw
    assert "onerror" in "".join(page.text)  # shown, not run
    assert {p.name for p in (path.parent / "worst").iterdir()} == {"01.jpg"}
    assert all(c.isprintable() or c == "\n" for c in raw)
    assert set(json.loads((path.parent / "errors.json").read_text())["classes"]) == set(HOSTILE)


def test_a_lone_surrogate_does_not_stop_the_page(tmp_path, no_plots):
    write_report(make_set(names=("cat\ud800", "dog"), ids=("a\udfff", "b", "c")), tmp_path, max_pictures=0)


def test_text_helpers():
    assert tame("a\x1b[31m\n") == "a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}"
    assert tame("x" * 50 + "y" * 50, 11) == "xxxxx…yyyyy"
    assert plot_text("a$b$") == r"a\$b\$"
    assert (percent(0.123456), percent(None), percent(float("nan")), percent(0.0)) == (
        "12.35",
        "–",
        "–",
        "0.00",
    )
    assert (number(1234567), plural(1, "class"), plural(2, "class"), plural(0, "image")) == (
        "1,234,567", "1 class", "2 classes", "0 images",
    )  # fmt: skip


def test_a_new_report_replaces_the_old_one_whole(tmp_path, images, no_plots):
    path = write_report(make_set(images), tmp_path)
    (path.parent / "left.txt").write_text("from before")
    assert (path.parent / "worst").is_dir()
    again = write_report(make_set(images), tmp_path, max_pictures=0, title="second")
    assert again == path
    assert not (path.parent / "worst").exists()
    assert not (path.parent / "left.txt").exists()
    assert "second" in "".join(read_page(path).text)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_failure_leaves_the_old_report_and_nothing_else(tmp_path, images, monkeypatch, no_plots):
    path = write_report(make_set(images), tmp_path, title="first")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sosr_det.analysis.detection_report.report.render", fail)
    with pytest.raises(OSError, match="No space"):
        write_report(make_set(images), tmp_path)
    assert "first" in "".join(read_page(path).text)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "report"]


def test_somebody_elses_folder_is_left_alone(tmp_path):
    own = tmp_path / "report"
    own.mkdir()
    (own / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"is not a report .*left as it is"):
        write_report(make_set(), tmp_path)
    assert (own / "thesis.tex").read_text() == "years of work"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "report").symlink_to(own)
    with pytest.raises(ConfigError, match="is not a folder"):
        write_report(make_set(), elsewhere)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file, expected a folder"):
        write_report(make_set(), tmp_path / "file")
    with pytest.raises(ValueError, match="max_pictures must be at least 0, got -1"):
        write_report(make_set(), tmp_path, max_pictures=-1)


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    target = tmp_path / "out"
    with replaced_folder(target, "mark") as fresh:
        (fresh / "mark").write_text("old")
    import os

    rename = os.rename

    def failing(source, destination):
        if "-new-" in str(source):
            raise PermissionError("no")
        rename(source, destination)

    monkeypatch.setattr("os.rename", failing)
    with pytest.raises(PermissionError), replaced_folder(target, "mark") as fresh:
        (fresh / "mark").write_text("new")
    assert (target / "mark").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_without_image_files_everything_else_is_there(tmp_path, caplog, no_plots):
    path = write_report(make_set(), tmp_path / "no_paths")
    assert "do not say where the images are" in "".join(read_page(path).text)
    with caplog.at_level(logging.WARNING):
        path = write_report(make_set(["gone/a.jpg", "gone/b.jpg", "gone/c.jpg"]), tmp_path / "moved")
    text = "".join(read_page(path).text)
    assert "1 of 1 picture could not be drawn" in text
    assert "the image file of 'b' is not at hand (at gone/b.jpg)" in text
    assert "not at hand" in caplog.text
    assert not (path.parent / "worst").exists()


def test_a_damaged_or_another_image_is_told(tmp_path, images, no_plots):
    cv2.imwrite(images[1], np.zeros((50, 60, 3), np.uint8))
    text = "".join(read_page(write_report(make_set(images), tmp_path)).text)
    assert "it has 60 x 50 pixels, but the detections are for 160 x 120; it is another image" in text
    for content in (b"", b"not an image"):
        with open(images[1], "wb") as stream:
            stream.write(content)
        text = "".join(read_page(write_report(make_set(images), tmp_path)).text)
        assert "cannot be decoded as an image" in text


def test_a_mistake_in_drawing_is_reported_as_one_and_ends_nothing(
    tmp_path, images, monkeypatch, caplog, no_plots
):
    def broken(*_):
        raise KeyError("oops")

    monkeypatch.setattr("sosr_det.analysis.detection_report.worst.draw_picture", broken)
    path = write_report(make_set(images), tmp_path)
    assert "failed unexpectedly, please report it: KeyError: 'oops'" in "".join(read_page(path).text)
    assert any(record.levelno == logging.ERROR and record.exc_info for record in caplog.records)


def test_where_images_are_looked_for(tmp_path, images):
    root = tmp_path / "images"
    data = make_set(["old/place/a.png", str(tmp_path / "b.png"), "images/c.png"])
    assert image_file(data, 0, root) == root / "a.png"  # the recorded name
    assert image_file(data, 1, root) == root / "b.png"
    assert image_file(data, 2, tmp_path) == tmp_path / "images/c.png"
    assert image_file(make_set(), 0, root) == root / "a.png"  # the id
    voc = tmp_path / "VOC2007"
    (voc / "JPEGImages").mkdir(parents=True)
    (voc / "JPEGImages" / "a.jpg").write_bytes(b"x")
    assert image_file(make_set(), 0, voc) == voc / "JPEGImages" / "a.jpg"
    # An id may not lead out of the folder that was named.
    with pytest.raises(DataError, match="not at hand"):
        image_file(make_set(ids=("../images/a", "b", "c")), 0, voc)
    with pytest.raises(DataError, match="not at hand"):
        image_file(make_set(ids=("x" * 5000, "b\x00", "c")), 0, root)


def test_exif_rotation_is_applied_as_in_training(tmp_path):
    from PIL import Image

    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), (200, 10, 10)).save(path, exif=exif)
    pixels = read_image(path, np.array([20, 40]))
    assert pixels.shape == (40, 20, 3)
    assert pixels[..., 0].mean() > 150 > 100 > pixels[..., 2].mean()  # RGB


def colours_near(picture, x, y):
    """Exact colours within a few pixels of a point of a picture."""
    pixels = np.asarray(picture)[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5].reshape(-1, 3)
    return {tuple(each) for each in pixels.tolist()}


@pytest.mark.parametrize("first_pixel", [0, 1])
def test_boxes_are_where_they_belong_and_in_their_colours(first_pixel):
    data = make_set()
    analysis = analyze_errors(data)
    image = np.full((SIZE[1], SIZE[0], 3), 100, np.uint8)
    picture = draw_picture(image, analysis.outcomes, analysis.worst[0], "title", first_pixel)
    scale, top = (
        5,
        picture.height - 5 * SIZE[1] - 3 * 20 - 12,
    )  # 160 px become 800; three lines of legend below

    def at(x, y):
        return colours_near(picture, int(x * scale), int(top + y * scale))

    shift = -first_pixel
    assert FOUND in at(10 + shift, 30 + shift)
    assert WRONG in at(115 + shift, 40 + shift)  # the loose box
    assert any(MISSED in at(100 + shift, y) for y in range(22, 40))  # dashes
    assert WRONG in at(139.8 + shift, 95 + shift)  # the last pixel belongs to the box
    assert {FOUND, WRONG, MISSED, IGNORED}.isdisjoint(at(75, 100))
    assert not (np.asarray(picture) == IGNORED).all(axis=-1).any()  # nothing difficult here
    assert picture.size[0] == 800


def test_extreme_boxes_and_shapes_can_be_drawn():
    truth = {"cat": GroundTruth([0], [[0, 0, 5, 5]], [0])}
    found = {"cat": Detections([0, 0], [[-1e9, -50, 1e9, 1e9], [9, 9, 3, 3]], [0.9, 0.8])}
    data = EvaluationSet(["cat"], ["im"], truth, found)
    analysis = analyze_errors(data)
    for height, width in ((1, 1), (2, 900), (900, 2), (3000, 2000)):
        picture = draw_picture(
            np.zeros((height, width, 3), np.uint8), analysis.outcomes, analysis.worst[0], "a long title " * 20
        )
        assert max(picture.size) < 2000


def test_labels_never_cover_each_other_while_there_is_room():
    placer = LabelPlacer(800, 600)
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(60):
        x, y = rng.uniform(0, 700), rng.uniform(0, 550)
        areas.append(placer.place((x, y, x + 60, y + 40), 90, 18, required=True).area)
    for i, a in enumerate(areas):
        assert 0 <= a[0] <= a[2] <= 800
        assert 0 <= a[1] <= a[3] <= 600
        assert not any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for b in areas[:i])
    crowded = LabelPlacer(100, 20)
    assert crowded.place((0, 0, 100, 20), 100, 18, required=False) is not None
    assert crowded.place((0, 0, 100, 20), 100, 18, required=False) is None
    assert crowded.place((0, 0, 100, 20), 100, 18, required=True) is not None  # over the other


def test_many_classes_and_none_at_all(tmp_path, monkeypatch):
    for module in ("plots", "page"):
        monkeypatch.setattr(f"sosr_det.analysis.detection_report.{module}.MOST_CLASSES", 4)
    names = tuple(f"class {i}" for i in range(7))
    data = make_set(names=names)
    one = GroundTruth([0], [[0, 0, 9, 9]], [0])
    data = EvaluationSet(names, data.image_ids, dict.fromkeys(names, one), data.detections)
    text = "".join(read_page(write_report(data, tmp_path / "many")).text)
    assert "the 4 classes of 7 with the lowest AP" in text
    nothing = EvaluationSet(["cat"], [], {"cat": GroundTruth.empty()}, {"cat": Detections.empty()})
    path = write_report(nothing, tmp_path / "nothing")
    text = "".join(read_page(path).text)
    assert "1 class without an object to be found" in text
    assert "No image has an error" in text
    assert sorted(p.name for p in path.parent.iterdir()) == ["errors.json", "index.html"]


def test_scores_of_any_size_are_readable(tmp_path):
    """1e300 in full would be wider than any figure."""
    truth = {"cat": GroundTruth([0], [[0, 0, 9, 9]], [0])}
    found = {"cat": Detections([0, 0], [[0, 0, 9, 9], [50, 50, 70, 70]], [1e299, 1e300])}
    path = write_report(EvaluationSet(["cat"], ["a"], truth, found), tmp_path)
    text = " ".join(read_page(path).text)
    assert "1e+300" in text
    assert "1e+299" in text
    assert not re.search(r"\d{40}", text)
    picture = cv2.imread(str(path.parent / "precision_recall.png"))
    assert max(picture.shape) < 2000


def test_long_lists_of_errors_are_cut(tmp_path, no_plots):
    boxes = np.array([[0, 0, 9, 9], *([20 * i, 50, 20 * i + 9, 59] for i in range(300))], float)
    data = EvaluationSet(
        ["cat"],
        ["a"],
        {"cat": GroundTruth([0], boxes[:1], [0])},
        {"cat": Detections([0] * 301, boxes, [1.0] * 301)},
    )
    text = " ".join(read_page(write_report(data, tmp_path)).text)
    assert text.count("background: cat") == 200
    assert "and 100 more" in text


def test_places_that_cannot_be_written_are_known_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("sosr_det.analysis.detection_report.report.analyze_errors", lambda *_, **__: 1 / 0)

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    with pytest.raises(ConfigError, match=r"report: cannot be written: Permission denied"):
        write_report(make_set(), tmp_path / "new")
    assert not (tmp_path / "new").exists()

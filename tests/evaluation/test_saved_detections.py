"""``detections.npz``: every bit comes back, and nothing else than such a file is taken for one."""

from __future__ import annotations

import os
import pickle
import zipfile

import numpy as np
import pytest

from sosr_det.errors import DataError
from sosr_det.evaluation import saved_detections
from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.saved_detections import read_detections_file, write_detections


def make_set(**changes):
    rng = np.random.default_rng(0)
    names = ["cat", "猫 été", "empty"]
    fields = {
        "class_names": names,
        "image_ids": ["a", "ü\0b", "001", "d e"],
        "ground_truth": {
            "cat": GroundTruth([3, 0], [[1, 2, 3.5, 4], [5, 6, 7, 8]], [True, False], [False, True]),
            "猫 été": GroundTruth([1], [[1, 1, 2, 2]], [False]),
            "empty": GroundTruth.empty(),
        },
        "detections": {
            # Not sorted in any way, numbers that no decimal notation holds, equal scores, a box that covers nothing.
            "cat": Detections(rng.integers(4, size=50), rng.normal(0, 1e3, (50, 4)), rng.normal(size=50)),
            "猫 été": Detections(
                [3, 3, 1], [[9, 9, 1, 1], [0.1, 0.2, 0.3, 1e9 / 3], [-0.0] * 4], [0.5, 0.5, 5e-324]
            ),
            "empty": Detections.empty(),
        },
        "image_sizes": [[500, 375], [1, 1], [20000, 2], [3, 4]],
        "image_paths": ["/data/a.jpg", "relative/b.jpg", "x y/ü.png", ""],
    }
    return EvaluationSet(**fields | changes)


def assert_same(a, b):
    assert (a.class_names, a.image_ids, a.image_paths) == (b.class_names, b.image_ids, b.image_paths)
    assert (a.image_sizes is None) == (b.image_sizes is None)
    if a.image_sizes is not None:
        np.testing.assert_array_equal(a.image_sizes, b.image_sizes)
    for name in a.class_names:
        for kind, fields in (
            ("ground_truth", ("image_index", "boxes", "difficult", "truncated")),
            ("detections", ("image_index", "boxes", "scores")),
        ):
            for field in fields:
                if field == "truncated" and len(a.ground_truth[name]) == 0:
                    continue  # of no boxes it is as good as known
                left, right = (getattr(getattr(each, kind)[name], field) for each in (a, b))
                assert (left is None) == (right is None), (name, field)
                if left is not None:
                    assert left.dtype == right.dtype, (name, field)
                    assert left.tobytes() == right.tobytes(), (name, field)  # also the sign of zero


def test_every_bit_comes_back(tmp_path):
    data = make_set()
    path = write_detections(tmp_path / "new" / "folder" / "detections.npz", data)
    assert_same(read_detections_file(path), data)
    assert_same(read_detections_file(path.parent), data)  # the folder will do
    bare = make_set(image_sizes=None, image_paths=None)
    write_detections(path, bare)
    assert_same(read_detections_file(path), bare)


def test_sets_without_anything(tmp_path):
    for images in ([], ["a"]):
        nothing = EvaluationSet(["cat"], images, {"cat": GroundTruth.empty()}, {"cat": Detections.empty()})
        read = read_detections_file(write_detections(tmp_path / "d.npz", nothing))
        assert (read.num_images, read.num_detections) == (len(images), 0)
        assert_same(read, nothing)


def test_truncated_flags_are_known_per_class(tmp_path):
    read = read_detections_file(write_detections(tmp_path / "d.npz", make_set()))
    assert read.ground_truth["cat"].truncated.tolist() == [False, True]
    assert read.ground_truth["猫 été"].truncated is None


@pytest.mark.parametrize("what", ["image_ids", "image_paths"])
def test_names_that_would_not_come_back_are_refused(what, tmp_path):
    data = make_set(**{what: ["a", "b", "c\0", "d"]})
    with pytest.raises(ValueError, match=r"'c\\x00' cannot be saved: it ends in a NUL"):
        write_detections(tmp_path / "d.npz", data)
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_detections(tmp_path / "d.npz", make_set())
    before = path.read_bytes()

    def full(stream, **arrays):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved_detections.np, "savez_compressed", full)
    with pytest.raises(DataError, match=r"d.npz: the detections cannot be saved: .*No space left"):
        write_detections(path, make_set())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["d.npz"]


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be saved"):
        write_detections(tmp_path / "file" / "d.npz", make_set())


def test_missing(tmp_path):
    with pytest.raises(DataError, match=r"detections.npz: no such file; `sosr-det test` leaves"):
        read_detections_file(tmp_path)


class Explosive:
    def __reduce__(self):
        return (os.mkdir, (os.environ["SOSR_TEST_TRAP"],))


def rewritten(path, **changes):
    """The file with arrays replaced, or left out where None is given."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files} | changes
    np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})


def test_pickles_are_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("SOSR_TEST_TRAP", str(tmp_path / "trap"))
    path = write_detections(tmp_path / "d.npz", make_set())
    rewritten(path, score=np.array([Explosive()] * 53, dtype=object))
    with pytest.raises(DataError, match="allow_pickle"):
        read_detections_file(path)
    path.write_bytes(pickle.dumps(Explosive()))
    with pytest.raises(DataError, match="not detections that"):
        read_detections_file(path)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_off(share, tmp_path):
    path = write_detections(tmp_path / "d.npz", make_set())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"d.npz: not detections that `sosr-det test` saved, or damaged"):
        read_detections_file(path)


def test_any_flipped_byte_is_an_error_or_changes_nothing(tmp_path):
    path = write_detections(tmp_path / "d.npz", make_set())
    good, data = path.read_bytes(), make_set()
    rng = np.random.default_rng(0)
    for position in rng.choice(len(good), 150, replace=False):
        bad = bytearray(good)
        bad[position] ^= 1 << rng.integers(8)
        path.write_bytes(bad)
        try:
            read = read_detections_file(path)
        except DataError:
            continue
        assert_same(read, data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": np.array("sosr-det detections 2")}, "its format is 'sosr-det detections 2', expected"),
        ({"format": None}, "it has no 'format"),
        ({"box": None}, "it has no 'box"),
        ({"class_names": np.array("cat")}, ""),
        ({"class_names": np.array(["cat", "cat", "dog"])}, "class_names holds 'cat' more than once"),
        ({"image_ids": np.array(["a", "a", "b", "c"])}, "image_ids holds 'a' more than once"),
        ({"label": np.full(53, 3)}, "label goes beyond its 3 classes"),
        ({"gt_label": np.array([0, 0, -1])}, "gt_label goes beyond its 3 classes"),
        ({"label": np.zeros(52, int)}, "boolean index did not match"),
        ({"image": np.full(53, 4)}, r"class 'cat': detections: image_index must be in 0..3, got 4"),
        (
            {"gt_image": np.zeros(3)},
            r"class 'cat': ground truth: image_index must hold integers, got float64",
        ),
        ({"score": np.full(53, np.nan)}, r"class 'cat': detections: score nan in image"),
        (
            {"box": np.zeros((53, 5))},
            r"class 'cat': detections: boxes must have shape \[N, 4\], got \[50, 5\]",
        ),
        ({"gt_box": np.full((3, 4), np.inf)}, "is not finite"),
        ({"gt_difficult": np.array([0, 1, 2])}, r"difficult must hold booleans"),
        ({"class_names": np.array(["cat", "x\ud800", "dog"])}, r"'x\\ud800' is not text that can be written"),
        ({"image_ids": np.array(["a", "\udcff", "b", "c"])}, r"'\\udcff' is not text that can be written"),
        ({"box": np.full((53, 4), 1e200)}, r"class 'cat': detections: .*coordinate.* greater than 1e\+09"),
        (
            {"gt_box": np.full((3, 4), -1e10)},
            r"class 'cat': ground truth: .*coordinate.* greater than 1e\+09",
        ),
        ({"image_sizes": np.zeros((3, 2), int)}, r"image_sizes must have shape \[4, 2\], got \[3, 2\]"),
        ({"image_paths": np.array(["a"])}, "image_paths holds 1 files for 4 images"),
    ],
)
def test_contents_that_do_not_fit_are_named(changes, message, tmp_path):
    path = write_detections(tmp_path / "d.npz", make_set())
    rewritten(path, **changes)
    with pytest.raises(DataError, match=rf"d.npz: not detections that .*{message}"):
        read_detections_file(path)


def test_a_small_file_cannot_fill_the_memory(tmp_path):
    path = write_detections(tmp_path / "d.npz", make_set())
    rewritten(path, padding=np.zeros(20_000_000))  # 160 MB in 160 kB
    assert path.stat().st_size < 1_000_000
    with pytest.raises(DataError, match=r"it would expand to 160,\d{3},\d{3} bytes"):
        read_detections_file(path)
    # Nor one whose array says that it has 10^15 elements.
    header = np.lib.format.magic(1, 0) + b"\x76\x00"
    header += b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }".ljust(0x75) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("score.npy", header)
    with pytest.raises(DataError, match="not detections that"):
        read_detections_file(path)

"""Pickled results of MMDetection: real ones are read exactly, without torch's unpickler, and odd ones are refused."""

from __future__ import annotations

import pickle
import re

import mmengine
import numpy as np
import pytest
import torch
from mmengine.evaluator import DumpResults
from mmengine.structures import BaseDataElement, InstanceData

from sosr_det import tensor_pickle
from sosr_det.errors import DataError
from sosr_det.evaluation.formats.image_names import ImageNames
from sosr_det.evaluation.formats.mmdet_pickle import read_mmdet_pickle
from sosr_det.tensor_pickle import load_with_tensors

CLASSES = ["cat", "dog", "owl"]
NAMES = ImageNames(["000001", "000002"])


def sample(image, rows, **meta):
    """As a detector gives it; ``rows``: label, x1, y1, x2, y2, score. The boxes are parts of a larger tensor."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    element = BaseDataElement(
        metainfo={"img_id": image, "ori_shape": (9, 9), "scale_factor": (2.0, 2.0), **meta}
    )
    element.pred_instances = InstanceData(bboxes=table[:, 1:5], labels=table[:, 0].long(), scores=table[:, 5])
    return element


def dump(path, samples):
    """What ``tools/test.py --out`` does: MMDetection's DumpDetResults is this metric, with masks packed."""
    metric = DumpResults(out_file_path=str(path))
    metric.process({}, [each.to_dict() for each in samples])
    metric.dataset_meta = {}
    metric.evaluate(len(samples))
    return path


def plain(image, boxes=((1.0, 2, 3, 4),), labels=(0,), scores=(0.5,)):
    found = {
        "bboxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": np.array(labels, np.int64),
        "scores": np.array(scores, np.float32),
    }
    return {"img_id": image, "pred_instances": found}


def replaced(**changes):
    entry = plain("000002")
    entry["pred_instances"].update(changes)
    return entry


def write(path, content):
    path.write_bytes(pickle.dumps(content))
    return path


# ---- tensors


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
DTYPES += [torch.int8, torch.uint8, torch.bool]


@pytest.mark.parametrize("usual", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_numbers_come_back_exactly(dtype, usual, monkeypatch):
    if not usual:  # by unpickling what describes the storage
        monkeypatch.setattr(tensor_pickle, "_USUAL", re.compile(rb"never"))
    tensors = [
        torch.randn(5, 4).mul(9).to(dtype),
        torch.arange(6).to(dtype)[None],
        torch.zeros(0, 4, dtype=dtype),
    ]
    tensors += [tensors[0].t()[1:3], tensors[0][:, 1], torch.tensor(3).to(dtype), torch.ones(300).to(dtype)]
    for protocol in range(2, 6):
        for tensor, array in zip(tensors, load_with_tensors(pickle.dumps(tensors, protocol)), strict=True):
            assert array.shape == tuple(tensor.shape)
            assert torch.equal(torch.from_numpy(array.astype(np.float64)), tensor.double())


def test_what_torch_writes_is_read_the_fast_way(monkeypatch):
    monkeypatch.setattr(tensor_pickle, "_described", lambda content: pytest.fail("not as usual"))
    for count in (0, 1, 255, 256, 65_535, 65_536):
        assert load_with_tensors(pickle.dumps(torch.zeros(count))).shape == (count,)


def test_other_tensors_are_refused():
    for tensor in (
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, 2).to_sparse(),
        torch.nn.Parameter(torch.zeros(2)),
    ):
        with pytest.raises(pickle.UnpicklingError):
            load_with_tensors(pickle.dumps(tensor))
    with pytest.raises(pickle.UnpicklingError, match="reaches beyond"):
        load_with_tensors(pickle.dumps(torch.ones(1).expand(1000)))


# ---- version 3


def test_results_of_version_3(tmp_path):
    path = dump(
        tmp_path / "r.pkl",
        [
            sample("000002", [[2, 1.5, 2, 3, 4, 0.1], [0, 5, 6, 7, 8, 0.9]]),
            sample(77, [], img_path="data/VOCdevkit/VOC2007/JPEGImages/000001.jpg"),
        ],
    )
    results = read_mmdet_pickle(path, NAMES, CLASSES)
    assert results.layout == 3
    assert results.image_index.tolist() == [1, 1]
    assert results.labels.tolist() == [2, 0]
    assert results.boxes.tolist() == [[1.5, 2, 3, 4], [5, 6, 7, 8]]
    np.testing.assert_array_equal(results.scores, np.float32([0.1, 0.9]).astype(float))


def test_ground_truth_in_the_file_does_no_harm(tmp_path):
    from mmdet.structures.bbox import HorizontalBoxes

    entry = plain("000001") | {
        "gt_instances": {"bboxes": HorizontalBoxes(torch.ones(1, 4)), "labels": torch.ones(1)}
    }
    path = tmp_path / "r.pkl"
    mmengine.dump([entry, plain("000002")], str(path))
    assert len(read_mmdet_pickle(path, NAMES, CLASSES).scores) == 2
    np.testing.assert_array_equal(
        load_with_tensors(path.read_bytes())[0]["gt_instances"]["bboxes"], np.ones((1, 4))
    )


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            plain("000002", scores=[np.nan]),
            r"entry 2 \('000002'\): the score of detection 1 is not finite: nan",
        ),
        (plain("000002", boxes=[[1, 2, np.inf, 4]]), "the box of detection 1 is not finite"),
        (plain("000002", labels=[3]), r"label 3 is outside of 0..2 \(3 classes\)"),
        (plain("000002", labels=[-1]), "label -1 is outside"),
        (plain("000002", labels=[0, 1]), r"have the shapes \[1, 4\], \[2\] and \[1\]"),
        (replaced(bboxes=np.zeros((1, 5))), r"have the shapes \[1, 5\]"),
        (replaced(labels=np.zeros(1)), "labels are float64, expected whole numbers"),
        (replaced(scores=np.array([True])), "boxes and scores are float32 and bool, expected real numbers"),
        (replaced(bboxes=np.array(1.0)), r"have the shapes \[\], \[1\] and \[1\]"),
        (plain(10**5000), "image <int of absurd size> is not in the image set"),
        (replaced(scores=None), "has no tensor scores"),
        ({"img_id": "000002"}, r"entry 2 has no pred_instances \(with the keys 'img_id'\)"),
        ([1], "entry 2 has no pred_instances"),
        (plain("000001"), r"entry 2: image '000001' comes twice, first as entry 1"),
        (plain("000009"), r"image '000009' is not in the image set \(2 images\); 1 of 2 entries"),
        (plain(None), "image None is not in the image set"),
        (None, r"1 of the image set's 2 images have no entry, first '000002'. Was only a part"),
    ],
)
def test_unusable_entries_are_named(tmp_path, second, message):
    entries = [plain("000001"), second] if second is not None else [plain("000001")]
    with pytest.raises(DataError, match=message):
        read_mmdet_pickle(write(tmp_path / "r.pkl", entries), NAMES, CLASSES)


# ---- version 2


def arrays(*counts):
    return [np.arange(5 * count, dtype=np.float32).reshape(-1, 5) for count in counts]


@pytest.mark.parametrize("with_masks", [False, True])
def test_results_of_version_2(tmp_path, with_masks):
    entries = [arrays(1, 0, 2), arrays(0, 0, 1)]
    content = [(entry, [[], [], []]) for entry in entries] if with_masks else entries
    results = read_mmdet_pickle(write(tmp_path / "r.pkl", content), NAMES, CLASSES)
    assert results.layout == 2
    assert results.image_index.tolist() == [0, 0, 0, 1]
    assert results.labels.tolist() == [0, 2, 2, 2]
    assert results.boxes.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [5, 6, 7, 8], [0, 1, 2, 3]]
    assert results.scores.tolist() == [4, 4, 9, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([arrays(1, 0, 2)], r"1 entries for an image set of 2 images.*detections of another split"),
        ([arrays(1, 0), arrays(1, 0)], r"entry 1 has detections of 2 classes, expected 3: cat, dog, owl"),
        (
            [arrays(1, 0, 1), [*arrays(1, 0), np.zeros((2, 4))]],
            r"entry 2, class 'owl': expected an array \[N, 5\], got",
        ),
        ([arrays(1, 0, 1), [*arrays(1, 0), None]], r"entry 2, class 'owl'.*got None"),
        ([arrays(1, 0, 1), 7], "entry 2 is 7"),
        ([], "expected what `tools/test.py --out`"),
        ({"a": 1}, "expected what"),
    ],
)
def test_other_layouts_are_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_mmdet_pickle(write(tmp_path / "r.pkl", content), NAMES, CLASSES)

"""Holding a part of a list out: by each image's id and nothing else."""

from __future__ import annotations

import hashlib
import random

import pytest

from sosr_det.data.holdout import check_holdout, holdout_part, is_held_out
from sosr_det.errors import ConfigError, DataError


def test_one_id_by_hand():
    # $ printf 000005 | sha256sum  ->  begins with this
    start = hashlib.sha256(b"000005").hexdigest()[:16]
    share = int(start, 16) / 16**16
    assert not is_held_out("000005", share)
    assert is_held_out("000005", share * (1 + 1e-12))
    assert not is_held_out("000005", share * (1 - 1e-12))
    assert not is_held_out("000005", 0)
    assert is_held_out("000005", 1)


def test_known_ids():
    """Fixed for good: another rule would mix what was trained on with what epochs were chosen on."""
    ids = [f"{number:06d}" for number in range(200)]
    assert holdout_part(ids, 0.05, "val", "x") == [
        i for i in ids if int(hashlib.sha256(i.encode()).hexdigest()[:16], 16) / 2**64 < 0.05
    ]
    assert holdout_part(ids, 0.02, "val", "x") == KNOWN


KNOWN = ["000022", "000044", "000053", "000071"]


def test_parts_make_up_the_list_in_its_order():
    ids = [f"2008_{number:06d}" for number in range(3000)]
    random.Random(0).shuffle(ids)
    train, val = (holdout_part(ids, 0.05, part, "x") for part in ("train", "val"))
    assert holdout_part(ids, 0.05, "all", "x") == ids
    assert set(train) | set(val) == set(ids)
    assert not set(train) & set(val)
    assert [i for i in ids if i in set(train)] == train
    assert 0.035 < len(val) / len(ids) < 0.065  # 5 % +- 3.8 standard deviations
    assert holdout_part(ids[::-2], 0.05, "val", "x") == [i for i in ids[::-2] if i in set(val)]
    assert set(val) <= set(holdout_part(ids, 0.06, "val", "x"))


@pytest.mark.parametrize("fraction", [0, 1, 1.5, -0.1, float("nan"), True, "0.05", None])
def test_unusable_fractions(fraction):
    with pytest.raises(ConfigError, match=r"holdout\.fraction must lie between 0 and 1, both excluded, got"):
        check_holdout({"fraction": fraction, "part": "val"})


def test_unusable_options():
    assert check_holdout(None) is None
    assert check_holdout({"fraction": 0.05, "part": "train"}) == (0.05, "train")
    with pytest.raises(ConfigError, match=r"holdout\.part must be one of 'train', 'val', 'all', got 'test'"):
        check_holdout({"fraction": 0.05, "part": "test"})
    for holdout in (0.05, {"fraction": 0.05}, {"fraction": 0.05, "part": "val", "seed": 3}):
        with pytest.raises(
            ConfigError, match=r"holdout must be like holdout=dict\(fraction=0\.05, part='train'\)"
        ):
            check_holdout(holdout)


def test_an_empty_part_is_an_error():
    with pytest.raises(
        DataError, match=r"list\.txt: with holdout .* 1e-09, none of its 2 images .*'val'.*larger"
    ):
        holdout_part(["a", "b"], 1e-9, "val", "list.txt")
    with pytest.raises(DataError, match=r"none of its 2 images belongs to part 'train'.*smaller"):
        holdout_part(["a", "b"], 1 - 1e-9, "train", "list.txt")

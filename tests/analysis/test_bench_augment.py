"""The augmentation benchmark: both sides do the same work, and ours is the faster by far."""

from __future__ import annotations

import pytest
import torch

from sosr_det.analysis import bench_augment as bench


def epoch_batches(monkeypatch, maker, *arguments):
    """What an epoch of the benchmark produces, caught where each side finishes its batches."""
    batches = []
    collate, normalise = bench.default_collate, bench.ClassificationPreprocessor.forward

    def caught_collate(samples):
        batches.append(collate(samples))

    def caught_normalise(self, data, training=False):
        batches.append(normalise(self, data, training))

    monkeypatch.setattr(bench, "default_collate", caught_collate)
    monkeypatch.setattr(bench.ClassificationPreprocessor, "forward", caught_normalise)
    maker(*arguments)()
    monkeypatch.undo()
    return batches


@pytest.mark.parametrize("cutout", [None, 4])
def test_both_sides_make_the_same_batches(monkeypatch, cutout):
    """With one grey level for each image, only padding, cut and normalisation show: they must be the same."""
    images = (
        torch.arange(1, 21, dtype=torch.uint8).mul(12).view(20, 1, 1, 1).expand(20, 3, 16, 16).contiguous()
    )
    indices = [[3, 1, 2], [0, 19]]
    steps = [bench.BatchRandomCrop(2), bench.BatchRandomHorizontalFlip()]
    if cutout:
        steps.append(bench.BatchCutout(cutout, bench.MEAN))
    theirs = epoch_batches(monkeypatch, bench._per_sample_epoch, images, indices, 2, cutout)
    ours = epoch_batches(monkeypatch, bench._in_memory_epoch, images, indices, steps)
    for mine, peer, wanted in zip(ours, theirs, indices, strict=True):
        assert mine["inputs"].dtype == peer["inputs"].dtype == torch.float32
        assert mine["inputs"].shape == peer["inputs"].shape == (len(wanted), 3, 16, 16)
        assert mine["labels"].tolist() == peer["labels"].tolist() == wanted
        for side in (mine, peer):
            black = ((0 - torch.tensor(bench.MEAN)) / torch.tensor(bench.STD)).view(3, 1, 1)
            for image, index in zip(side["inputs"], wanted, strict=True):
                grey = ((12 * (index + 1) - torch.tensor(bench.MEAN)) / torch.tensor(bench.STD)).view(3, 1, 1)
                # The mean colour, rounded to whole grey levels on our side: 0 within 0.5 / 62.
                parts = [(image - value).abs() < 1e-2 for value in (black, grey, torch.zeros(3, 1, 1))]
                shares = [part.all(0).float().mean().item() for part in parts]
                assert sum(shares) == pytest.approx(1)
                assert shares[1] > 0.5
                assert (shares[2] > 0) == (cutout is not None)


def test_rows_and_speed():
    """The target is 6 times; a loaded machine gets room here, as the figures are for `sosr-det bench augment`."""
    threads = torch.get_num_threads()
    rows = bench.bench_augment(num_images=384, repeats=3)
    assert torch.get_num_threads() == threads
    assert list(rows) == [
        f"{side}, {steps}"
        for steps in ("crop + flip", "crop + flip + cutout")
        for side in ("torchvision PIL", "in memory")
    ]
    for name, row in rows.items():
        assert row["img_per_s"] == pytest.approx(384 / row["median_ms"] * 1000)
        assert ("speedup" in row) == name.startswith("in memory")
        assert row.get("speedup", 9) > 3


@pytest.mark.parametrize(("num_images", "image_size", "repeats"), [(0, 32, 1), (8, 4, 1), (8, 32, 0)])
def test_bad_sizes(num_images, image_size, repeats):
    with pytest.raises(ValueError, match="at least"):
        bench.bench_augment(num_images, image_size, repeats)

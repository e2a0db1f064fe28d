"""Views drawn by the loader and made by a decoder of batches: the same draws; DALI's pixels where DALI is installed."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import sosr_det.register  # noqa: F401
from sosr_det.data.decode.crop_box import CropBox
from sosr_det.data.decode.dali import DaliDecoder
from sosr_det.data.decode.encoded import EncodedImage
from sosr_det.data.decode.planned import PLAN, PlanRandomResizedCrop, collate_planned
from sosr_det.data.decode.rows import ImageSource
from sosr_det.data.decode.transforms import DecodeRandomResizedCrop
from sosr_det.errors import ConfigError, DataError, InstallationError
from sosr_det.models import ClassificationPreprocessor

SIZE = (40, 36)


def photograph(height: int, width: int, kind: str = "JPEG", mode: str = "RGB") -> EncodedImage:
    coarse = np.random.default_rng(height).integers(0, 256, (9, 7, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    image.save(file, kind)
    return EncodedImage(file.getvalue(), f"{height}x{width}.{kind.lower()}")


IMAGES = [
    photograph(120, 160),
    photograph(90, 60, mode="L"),
    photograph(70, 81, "PNG"),
    photograph(70, 82, mode="CMYK"),
    photograph(71, 83, "WEBP"),
]


class ByHand:
    """A decoder of batches that is not DALI: image by image, by what the other transforms use."""

    def __call__(self, files, plan, device):
        views = []
        for file, (num_bytes, top, left, height, width, flip) in zip(files, plan.tolist(), strict=True):
            source = ImageSource(EncodedImage(file[:num_bytes].numpy().tobytes(), "in batch"))
            step = DecodeRandomResizedCrop(SIZE, reducing_gap=None)
            views.append(step.view(source, CropBox(top, left, height, width), flip=bool(flip)))
        return torch.stack(views).to(device)


def planned_batch(seed: int) -> dict:
    plan = PlanRandomResizedCrop(flip_prob=0.5)
    torch.manual_seed(seed)
    return collate_planned([{"inputs": plan(image), "labels": n} for n, image in enumerate(IMAGES)])


def decoded_batch(seed: int) -> torch.Tensor:
    step = DecodeRandomResizedCrop(SIZE, flip_prob=0.5, reducing_gap=None)
    torch.manual_seed(seed)
    return torch.stack([step(image) for image in IMAGES])


def preprocessor(decoder) -> ClassificationPreprocessor:
    made = ClassificationPreprocessor([10, 20, 30], [2, 4, 8])
    made.batch_decoder = decoder
    return made


@pytest.mark.parametrize("seed", range(4))
def test_planned_views_are_those_of_the_decoding_transform(seed):
    batch = planned_batch(seed)
    assert batch["inputs"].shape[0] == len(batch["inputs"]) == len(IMAGES)
    assert batch["labels"].tolist() == list(range(len(IMAGES)))
    expected = decoded_batch(seed)
    views = ByHand()(batch["inputs"], batch[PLAN], torch.device("cpu"))
    torch.testing.assert_close(views, expected, rtol=0, atol=0)
    out = preprocessor(ByHand())(batch, training=True)
    offset, scale = torch.tensor([10, 20, 30]).view(3, 1, 1), torch.tensor([2, 4, 8]).view(3, 1, 1)
    torch.testing.assert_close(out["inputs"], (expected.float() - offset) / scale)
    assert set(out) == {"inputs", "labels"}


def test_jpegs_travel_as_they_are_and_the_rest_as_png():
    batch = planned_batch(0)
    for row, image, kept in zip(batch["inputs"], IMAGES, [True, True, False, False, False], strict=True):
        data = row.numpy().tobytes()
        assert data.startswith(image.data if kept else b"\x89PNG")
        assert not any(data[len(image.data) :]) or not kept


def test_loader_workers_can_send_them():
    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return len(IMAGES)

        def __getitem__(self, index):
            return {"inputs": PlanRandomResizedCrop()(IMAGES[index]), "labels": index}

    loader = torch.utils.data.DataLoader(Data(), batch_size=2, num_workers=1, collate_fn=collate_planned)
    assert [len(batch["inputs"]) for batch in loader] == [2, 2, 1]


def test_files_that_were_cut_off_are_refused_by_name():
    damaged = EncodedImage(IMAGES[0].data[:-100], "cut.jpg")
    with pytest.raises(DataError, match=r"cut\.jpg \(\d+ bytes\) cannot be decoded"):
        PlanRandomResizedCrop()(damaged)


def test_wrong_combinations_are_named():
    with pytest.raises(
        ConfigError, match=r"PlanRandomResizedCrop gives files and not images: set model\.data_prep"
    ):
        preprocessor(None)(planned_batch(0))
    with pytest.raises(
        ConfigError, match="collate_planned' is for pipelines that consist of PlanRandomResizedCrop"
    ):
        collate_planned([{"inputs": torch.zeros(3, 8, 8, dtype=torch.uint8), "labels": 0}])


def test_absent_dali_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(
        InstallationError, match=r"DaliDecoder needs NVIDIA DALI.+pip install 'sosr-det\[dali\]'"
    ):
        ClassificationPreprocessor([0, 0, 0], [1, 1, 1], batch_decoder={"type": "DaliDecoder", "size": 8})


@pytest.mark.parametrize(
    "arguments", [{"size": 0}, {"size": 8, "num_threads": 0}, {"size": 8, "num_threads": 1.5}]
)
def test_wrong_arguments(arguments):
    with pytest.raises(ConfigError, match=r"DaliDecoder: (size|num_threads) must be"):
        DaliDecoder(**arguments)


@pytest.fixture
def dali_decoder() -> DaliDecoder:
    pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is optional: pip install 'sosr-det[dali]'")
    return DaliDecoder(SIZE, num_threads=1)


def test_dali_makes_the_same_views(dali_decoder):
    """On the CPU, where DALI is installed; its GPU decoder needs a GPU."""
    for seed in range(3):
        batch = planned_batch(seed)
        views = preprocessor(dali_decoder)(batch)["inputs"] * torch.tensor([2, 4, 8]).view(3, 1, 1)
        views += torch.tensor([10, 20, 30]).view(3, 1, 1)
        difference = views - decoded_batch(seed).float()
        assert views.shape == (len(IMAGES), 3, *SIZE)
        assert difference.abs().max() < 12
        assert difference.abs().mean() < 0.5
        assert difference.mean().abs() < 0.1
        assert (views.flip(-1) - decoded_batch(seed)).abs().mean() > 5  # another flip would be seen


def test_dali_takes_smaller_and_larger_batches_and_goes_on_after_an_error(dali_decoder):
    batch = planned_batch(0)
    for count in (2, 5, 1):
        views = dali_decoder(batch["inputs"][:count], batch[PLAN][:count], torch.device("cpu"))
        assert views.shape == (count, 3, *SIZE)
    with pytest.raises(DataError, match="DALI cannot decode a batch"):
        dali_decoder(torch.zeros_like(batch["inputs"]), batch[PLAN], torch.device("cpu"))
    assert dali_decoder(batch["inputs"], batch[PLAN], torch.device("cpu")).shape == (5, 3, *SIZE)

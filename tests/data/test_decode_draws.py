"""What is drawn, against torchvision's RandomResizedCrop and RandomHorizontalFlip; and the data sets that use it."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest, chi2_contingency, ks_2samp
from torchvision import transforms

import sosr_det.register  # noqa: F401
from sosr_det.data.cifar import CIFAR
from sosr_det.data.decode.crop_box import CropBox, draw_crop_box
from sosr_det.data.decode.encoded import EncodedImage, takes_encoded
from sosr_det.data.decode.transforms import DecodeRandomResizedCrop
from sosr_det.data.image_dataset import ClassificationDataset
from sosr_det.data.in_memory import InMemoryDataset
from sosr_det.data.sample_seeds import SampleSeededDataset
from sosr_det.data.transforms import build_pipeline
from sosr_det.engine.hooks.record import _interpolation
from sosr_det.errors import ConfigError, DataError

DRAWS = 4000
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
# (height, width): usual, portrait, square, wide enough that ten tries fail now and then, always
IMAGES = [(375, 500), (500, 333), (64, 64), (60, 240), (10, 400)]
P_VALUE = 1e-4


def encoded(height: int, width: int, kind: str = "JPEG", pixels: np.ndarray | None = None) -> EncodedImage:
    if pixels is None:
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return EncodedImage(file.getvalue(), f"{height}x{width}.{kind}")


def features(boxes: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
    top, left, rows, columns = boxes.T.astype(float)
    noise = (
        np.random.default_rng(0).random((2, len(boxes))) - 0.5
    )  # of the rounding, so that KS sees a continuum
    return {
        "area": rows * columns / (height * width),
        "aspect": columns / rows,
        "rows": rows,
        "vertical centre": (top + rows / 2) / height,
        "horizontal centre": (left + columns / 2) / width,
        "top": (top + noise[0]) / np.maximum(height - rows, 1),
        "left": (left + noise[1]) / np.maximum(width - columns, 1),
    }


def our_boxes(height: int, width: int, scale=SCALE, ratio=RATIO) -> np.ndarray:
    torch.manual_seed(1)

    def uniform(count):
        return torch.rand(count, dtype=torch.float64).tolist()

    return np.array([draw_crop_box(height, width, scale, ratio, uniform) for _ in range(DRAWS)])


def their_boxes(height: int, width: int, scale=SCALE, ratio=RATIO, draws=DRAWS) -> np.ndarray:
    torch.manual_seed(2)
    image = torch.empty(3, height, width, dtype=torch.uint8)
    draw = transforms.RandomResizedCrop.get_params
    return np.array([draw(image, list(scale), list(ratio)) for _ in range(draws)])


def differing(ours: np.ndarray, theirs: np.ndarray, height: int, width: int) -> list[str]:
    a, b = features(ours, height, width), features(theirs, height, width)
    return [name for name in a if ks_2samp(a[name], b[name]).pvalue < P_VALUE]


@pytest.mark.parametrize(("height", "width"), IMAGES)
def test_boxes_are_distributed_as_torchvisions(height, width):
    ours, theirs = our_boxes(height, width), their_boxes(height, width)
    assert differing(ours, theirs, height, width) == []
    top, left, rows, columns = ours.T
    assert ((top >= 0) & (left >= 0) & (rows >= 1) & (columns >= 1)).all()
    assert ((top + rows <= height) & (left + columns <= width)).all()
    # The last place is as likely as the first one.
    assert (top + rows).max() == theirs[:, [0, 2]].sum(1).max()
    assert (left + columns).max() == theirs[:, [1, 3]].sum(1).max()


@pytest.mark.parametrize(
    ("name", "scale", "ratio"),
    [("area", (0.13, 1.0), RATIO), ("aspect", SCALE, (0.7, 4 / 3)), ("area", (0.08, 0.8), RATIO)],
)
def test_other_bounds_are_seen(name, scale, ratio):
    """Negative control: distributions this near to each other are told apart."""
    height, width = IMAGES[0]
    assert name in differing(
        our_boxes(height, width, scale, ratio), their_boxes(height, width), height, width
    )


def test_uneven_places_are_seen():
    height, width = IMAGES[0]
    ours = our_boxes(height, width)
    ours[:, 0] = np.maximum(ours[:, 0] - 8, 0)
    assert "top" in differing(ours, their_boxes(height, width), height, width)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (10, 400, CropBox(0, 193, 10, 13)),  # wider than 4/3: the middle, 10 x 13.33
        (400, 10, CropBox(193, 0, 13, 10)),
        (30, 31, CropBox(0, 0, 30, 31)),  # within the bounds: all of it
    ],
)
def test_after_ten_misfits_the_middle_is_taken(height, width, box):
    asked = []

    def misfit(count):
        asked.append(count)
        return [1.0, 1.0 if height <= width else 0.0, 0.5, 0.5]  # the largest area, at an extreme aspect

    assert draw_crop_box(height, width, (0.08, 2.0), RATIO, misfit) == box
    assert len(asked) == 10
    assert tuple(box) in {tuple(each) for each in their_boxes(height, width, (1.9, 2.0), draws=20).tolist()}


def test_flips_are_as_frequent_as_told():
    image = encoded(20, 20, pixels=np.tile(np.arange(0, 200, 10, dtype=np.uint8)[None, :, None], (20, 1, 3)))
    torch.manual_seed(0)
    for probability in (0.0, 0.3, 0.5, 1.0):
        step = DecodeRandomResizedCrop(8, flip_prob=probability)
        views = torch.stack([step(image) for _ in range(1000)]).float()
        flipped = int((views[..., 0] > views[..., -1]).all(-1).all(-1).sum())
        if probability in (0.0, 1.0):
            assert flipped == 1000 * probability
        else:
            assert binomtest(flipped, 1000, probability).pvalue > P_VALUE
            assert binomtest(flipped, 1000, probability + 0.1).pvalue < P_VALUE


def test_flips_do_not_depend_on_the_box():
    torch.manual_seed(0)
    step, seen = DecodeRandomResizedCrop(8, flip_prob=0.5), []
    step.view = lambda source, box, flip: seen.append((box.height * box.width, box.top, box.left, flip))
    for _ in range(DRAWS):
        step.decode(type("Source", (), {"height": 375, "width": 500})())
    seen = np.array(seen, dtype=float)
    for column in range(3):
        high = seen[:, column] > np.median(seen[:, column])
        table = [[np.sum(high & (seen[:, 3] == f)), np.sum(~high & (seen[:, 3] == f))] for f in (0, 1)]
        assert chi2_contingency(table).pvalue > P_VALUE


def test_colours_and_places_are_those_of_the_pil_pipeline():
    """Mean and spread of each channel over random views, against the customary PIL transforms."""
    generator = np.random.default_rng(3)
    coarse = generator.integers(0, 256, (6, 8, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC))
    image = encoded(120, 160, pixels=pixels)
    customary = transforms.Compose(
        [transforms.RandomResizedCrop(32), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    )
    picture = Image.open(io.BytesIO(image.data))
    picture.load()
    step = DecodeRandomResizedCrop(32, flip_prob=0.5)
    torch.manual_seed(0)
    count = 1500
    ours = torch.stack([step(image) for _ in range(count)]).float()
    theirs = torch.stack([customary(picture) for _ in range(count)]).float()
    for statistic in (lambda views: views.mean((2, 3)), lambda views: views.std((2, 3))):
        for channel in range(3):
            a, b = statistic(ours)[:, channel], statistic(theirs)[:, channel]
            assert ks_2samp(a, b).pvalue > P_VALUE
            error = (a.std() ** 2 / count + b.std() ** 2 / count) ** 0.5
            assert abs(a.mean() - b.mean()) < 4 * error
    # Where the colours are: the mean view, pixel by pixel.
    error = (ours.var(0) / count + theirs.var(0) / count) ** 0.5
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 5 * error).float().mean() > 0.999
    assert (
        (ours.flip(1).mean(0) - theirs.mean(0)).abs() < 5 * error
    ).float().mean() < 0.9  # BGR would be seen


# ---- random numbers ------------------------------------------------------------------------------------------------


def test_views_follow_from_torchs_seed_alone():
    step, image = DecodeRandomResizedCrop(16, flip_prob=0.5), encoded(60, 240)
    views = []
    for other in (1, 2):
        torch.manual_seed(5)
        random.seed(other)
        np.random.seed(other)
        states = random.getstate(), np.random.get_state()[1].tobytes()
        views.append(torch.stack([step(image) for _ in range(20)]))
        assert (random.getstate(), np.random.get_state()[1].tobytes()) == states
    assert torch.equal(*views)
    assert not torch.equal(views[0][0], views[0][1])


def test_most_images_take_one_call_of_the_generator(monkeypatch):
    calls, rand = [], torch.rand
    monkeypatch.setattr(torch, "rand", lambda *a, **k: calls.append(a) or rand(*a, **k))
    step, image = DecodeRandomResizedCrop(16, flip_prob=0.5), encoded(75, 100)
    for _ in range(300):
        step(image)
    assert 300 <= len(calls) < 450


# ---- data sets -----------------------------------------------------------------------------------------------------

CROP = {"type": "DecodeRandomResizedCrop", "size": 24, "flip_prob": 0.5}


@pytest.fixture
def folders(tmp_path):
    for number, name in enumerate(["ant", "bee"]):
        folder = tmp_path / name
        folder.mkdir()
        for each in range(3):
            kind = "PNG" if each == 2 else "JPEG"
            data = encoded(40 + each, 50 + number, kind).data
            (folder / f"{each}.{kind.lower()}").write_bytes(data)
    return tmp_path


def data_set(root, pipeline) -> ClassificationDataset:
    classes = ["ant", "bee"]
    samples = [
        (path, label) for label, name in enumerate(classes) for path in sorted((root / name).iterdir())
    ]
    return ClassificationDataset(root, samples, classes, pipeline)


def test_a_data_set_gives_files_to_a_decoding_pipeline(folders):
    data = data_set(folders, [CROP, {"type": "torchvision/CenterCrop", "size": 20}])
    assert takes_encoded(data.transform)
    assert not takes_encoded(build_pipeline([]))
    for index in range(len(data)):
        sample = data[index]
        assert sample["inputs"].shape == (3, 20, 20)
        assert sample["inputs"].dtype == torch.uint8
        assert sample["labels"] == index // 3
        assert data.read_encoded(index).name == data.sample_name(index)
    batches = list(torch.utils.data.DataLoader(data, batch_size=3, num_workers=2))
    assert [batch["inputs"].shape for batch in batches] == [(3, 3, 20, 20)] * 2


def test_resize_and_decode_resize_are_the_same_data(folders):
    size = [18, 18]
    before = data_set(folders, [{"type": "torchvision/Resize", "size": size, "antialias": True}])
    now = data_set(folders, [{"type": "DecodeResize", "size": size}])
    assert all(torch.equal(before[index]["inputs"], now[index]["inputs"]) for index in range(len(now)))


def test_views_follow_from_seed_epoch_and_sample(folders):
    seeded = SampleSeededDataset(data_set(folders, [CROP]))
    seeded.set_epoch(7, 0)
    views = [seeded[index]["inputs"] for index in range(6)]
    assert torch.equal(seeded[3]["inputs"], views[3])  # whatever was drawn in between
    torch.rand(3)
    assert torch.equal(seeded[3]["inputs"], views[3])
    seeded.set_epoch(7, 1)
    assert not torch.equal(seeded[3]["inputs"], views[3])


def test_missing_and_damaged_files_are_named(folders):
    data = data_set(folders, [CROP])
    path = folders / "ant" / "0.jpeg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"ant/0\.jpeg \(\d+ bytes\) cannot be decoded"):
        data[0]
    path.unlink()
    with pytest.raises(DataError, match=r"ant/0\.jpeg is missing; was the data set moved"):
        data[0]


def test_decoding_comes_first(folders):
    flip = {"type": "torchvision/RandomHorizontalFlip"}
    with pytest.raises(
        ConfigError, match=r"DecodeRandomResizedCrop decodes the image file itself, so it must be"
    ):
        data_set(folders, [flip, CROP])
    with pytest.raises(ConfigError, match=r"must be the first step"):
        data_set(folders, [CROP, CROP])


def test_random_crops_are_refused_where_images_are_decoded_once(folders):
    with pytest.raises(ConfigError, match="draws random numbers"):
        InMemoryDataset(data_set(folders, [CROP]))
    held = InMemoryDataset(data_set(folders, [{"type": "DecodeResize", "size": (9, 9)}]))
    assert held.images.shape == (6, 3, 9, 9)


def test_published_cifar_files_hold_no_image_files():
    data = object.__new__(CIFAR)
    data.name, data._images = "cifar10", torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(ConfigError, match="hold pixels, not image files"):
        data.read_encoded(0)


def test_runs_record_the_interpolation_of_the_decoding_resize():
    val = {"dataset": {"pipeline": [{"type": "DecodeResize", "size": 256}]}}
    assert _interpolation({"val_dataloader": val}) == "bilinear"

"""The decoded views against torchvision's and PIL's: the same pixels, the same files, the same errors."""

from __future__ import annotations

import io
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as peer

from sosr_det.data.decode.crop_box import CropBox, draw_crop_box
from sosr_det.data.decode.encoded import EncodedImage
from sosr_det.data.decode.rows import ImageSource
from sosr_det.data.decode.transforms import DecodeRandomResizedCrop, DecodeResize
from sosr_det.errors import ConfigError, DataError

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with edges and fine texture, uint8 ``[H, W, 3]``."""
    generator = np.random.default_rng(seed)
    coarse = generator.random((6, 8, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    edges = (np.indices((height, width)).sum(0) % 40 < 20)[..., None] * 0.2
    noise = generator.normal(0, 0.05, (height, width, 3))
    return (np.clip(smooth * 0.8 + edges + noise, 0, 1) * 255).astype(np.uint8)


def encode(pixels: np.ndarray, kind: str = "JPEG", mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


QUARTER_TURN = bytes.fromhex("457869660000 49492a0008000000 0100 1201030001000000 06000000 00000000")
FILES = {
    "4:2:0": encode(scene(243, 331), quality=90, subsampling="4:2:0"),
    "4:2:2": encode(scene(242, 330), quality=80, subsampling="4:2:2"),
    "4:4:4": encode(scene(241, 329), quality=97, subsampling="4:4:4"),
    "grey": encode(scene(243, 331), mode="L", quality=90),
    "progressive": encode(scene(243, 331), quality=90, progressive=True),
    "restarts": encode(scene(243, 331), quality=90, restart_marker_rows=1),
    "rgb inside": encode(scene(120, 90), quality=90, keep_rgb=True),
    "rotated by exif": encode(scene(120, 90), quality=90, exif=QUARTER_TURN),
    "four components": encode(scene(120, 90), mode="CMYK", quality=90),
    "png": encode(scene(120, 90), "PNG"),
    "png with alpha": encode(scene(60, 50), "PNG", mode="RGBA"),
    "png with palette": encode(scene(60, 50), "PNG", mode="P"),
    "webp": encode(scene(120, 90), "WEBP", lossless=True),
    "gif": encode(scene(60, 50), "GIF", mode="P"),
    "one pixel": encode(scene(1, 1)),
    "one row": encode(scene(1, 500)),
    "one column": encode(scene(700, 1)),
    "trailing bytes": encode(scene(243, 331), quality=90) + b"\0" * 1000,
}  # fmt: skip


def image(name: str) -> EncodedImage:
    return EncodedImage(FILES[name], f"{name}.file")


def whole(name: str) -> torch.Tensor:
    """What the reader without these transforms gives."""
    return decode_image(torch.frombuffer(bytearray(FILES[name]), dtype=torch.uint8), mode=ImageReadMode.RGB)


@pytest.mark.parametrize("name", FILES)
def test_views_are_those_of_torchvision_bit_for_bit(name, capfd):
    plain = whole(name)
    height, width = plain.shape[1:]
    step = DecodeRandomResizedCrop((40, 36))
    source = ImageSource(image(name))
    assert (source.height, source.width) == (height, width)
    torch.manual_seed(0)
    for number in range(20):
        box = draw_crop_box(height, width, SCALE, RATIO, lambda count: torch.rand(count).tolist())
        if min(box.height / 40, box.width / 36) >= 2 * step.reducing_gap:
            continue  # decoded at half size: not bit for bit
        expected = peer.resized_crop(plain, *box, size=[40, 36], antialias=True)
        if number % 2:
            expected = peer.horizontal_flip(expected)
        view = step.view(source, box, flip=bool(number % 2))
        assert view.dtype == torch.uint8
        assert view.is_contiguous()
        torch.testing.assert_close(view, expected, rtol=0, atol=0)
    sys.stdout.flush()
    assert capfd.readouterr() == ("", "")  # libjpeg does not complain about what was left out


@pytest.mark.parametrize("size", [48, (30, 70), 300])
@pytest.mark.parametrize("name", ["4:2:0", "grey", "rotated by exif", "four components", "png", "one row"])
def test_resize_is_that_of_torchvision_bit_for_bit(name, size):
    if name == "one row":
        size = 2
    expected = peer.resize(whole(name), [size] if isinstance(size, int) else list(size), antialias=True)
    torch.testing.assert_close(DecodeResize(size)(image(name)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["4:2:0", "4:2:2", "4:4:4", "grey"])
@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_rows_above_any_row_are_those_of_the_whole_image(name, reduction):
    source = ImageSource(image(name))
    plain = source.pixels(reduction=reduction)
    fewer = 0
    for bottom in range(1, source.height + 1, 2 if reduction == 1 else 5):
        rows = -(-bottom // reduction)
        top = source.pixels(bottom, reduction)
        assert top.shape[0] >= rows
        fewer += top.shape[0] < plain.shape[0]
        np.testing.assert_array_equal(top[:rows], plain[:rows])
    assert fewer > source.height / (2 if reduction == 1 else 5) * 0.8  # and it is less work


@pytest.mark.parametrize("name", ["progressive", "restarts", "trailing bytes"])
def test_other_orders_of_rows_are_decoded_whole(name):
    source = ImageSource(image(name))
    assert source.pixels(bottom=16).shape[0] == source.height


def test_the_fast_kernel_gets_what_it_needs(monkeypatch):
    """Any other stride, that of the batch of one too, and PyTorch takes the kernel for planes: same pixels, late."""
    seen = []

    def caught(tensor, **options):
        result = torch.nn.functional.interpolate(tensor, **options)
        seen.append((tensor.stride(), result.stride()))
        return result

    monkeypatch.setattr("sosr_det.data.decode.resample.interpolate", caught)
    source = ImageSource(image("4:2:0"))
    DecodeRandomResizedCrop((40, 36)).view(source, CropBox(5, 6, 70, 50), flip=False)
    assert seen == [((70 * 50 * 3, 1, 50 * 3, 3), (40 * 36 * 3, 1, 36 * 3, 3))]


def test_real_photographs_are_those_of_torchvision(imagenet_sample):
    step = DecodeRandomResizedCrop(224, reducing_gap=None)
    torch.manual_seed(0)
    for path in imagenet_sample[::4]:
        source = ImageSource(EncodedImage(path.read_bytes(), str(path)))
        box = draw_crop_box(
            source.height, source.width, SCALE, RATIO, lambda count: torch.rand(count).tolist()
        )
        expected = peer.resized_crop(
            decode_image(str(path), ImageReadMode.RGB), *box, size=[224, 224], antialias=True
        )
        torch.testing.assert_close(step.view(source, box, flip=False), expected, rtol=0, atol=0)


# ---- quality, against PIL ------------------------------------------------------------------------------------------


def pil_view(pixels: np.ndarray, box: CropBox, size: tuple[int, int]) -> np.ndarray:
    part = Image.fromarray(pixels).crop((box.left, box.top, box.left + box.width, box.top + box.height))
    return np.asarray(part.resize(size[::-1], Image.Resampling.BILINEAR))


def psnr(view: np.ndarray, expected: np.ndarray) -> float:
    error = np.mean((view.astype(np.float64) - expected) ** 2)
    return 10 * np.log10(255**2 / max(error, 1e-9))


def nearest(pixels: np.ndarray, box: CropBox, size: tuple[int, int]) -> np.ndarray:
    part = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
    return cv2.resize(part, size[::-1], interpolation=cv2.INTER_NEAREST)


def two_taps(pixels: np.ndarray, box: CropBox, size: tuple[int, int]) -> np.ndarray:
    part = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
    return cv2.resize(part, size[::-1], interpolation=cv2.INTER_LINEAR)


def zone_plate(side: int) -> np.ndarray:
    """All frequencies up to Nyquist's at the borders: what aliases shows as false rings."""
    rows, columns = np.indices((side, side)) - (side - 1) / 2
    wave = 127.5 + 120 * np.cos(np.pi * (rows**2 + columns**2) / side)
    return np.repeat(wave[..., None], 3, axis=2).astype(np.uint8)


# crop's height and width -> PSNR to PIL's view. PIL rounds between its two passes, PyTorch's kernel does, too: 1 level.
BOXES = [CropBox(3, 7, 300, 240), CropBox(11, 5, 120, 170), CropBox(0, 0, 64, 64), CropBox(40, 33, 30, 41)]


@pytest.mark.parametrize("box", BOXES, ids=lambda box: f"{box.height}x{box.width}")
@pytest.mark.parametrize("content", ["scene", "zone plate"])
def test_as_good_as_pil(box, content):
    pixels = scene(320, 280) if content == "scene" else zone_plate(320)
    data = encode(pixels, quality=98, subsampling="4:4:4")
    decoded = np.asarray(Image.open(io.BytesIO(data)))
    size = (64, 64)
    source = ImageSource(EncodedImage(data, "scene"))
    step = DecodeRandomResizedCrop(size, reducing_gap=None)
    view = step.view(source, box, flip=False).permute(1, 2, 0).numpy()
    expected = pil_view(decoded, box, size)
    assert psnr(view, expected) > 48
    assert np.abs(view.astype(int) - expected).max() <= 2
    assert abs(view.astype(float).mean() - expected.mean()) < 0.2
    if box.height != size[0]:  # negative controls: worse filters do not pass
        assert psnr(nearest(decoded, box, size), expected) < 40
    if min(box.height / size[0], box.width / size[1]) > 1.5:
        assert psnr(two_taps(decoded, box, size), expected) < 40


def shift_of(view: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(rows, columns) in pixels by which the view lies off, least squares on the brightness's slopes."""
    view, expected = (each.astype(np.float64).mean(2) for each in (view, expected))
    slopes = np.stack([slope.ravel() for slope in np.gradient(expected)], axis=1)
    return -np.linalg.lstsq(slopes, (view - expected).ravel(), rcond=None)[0]


@pytest.mark.parametrize(("reduction", "side"), [(2, 400), (4, 800), (8, 1600)])
def test_reduced_decoding_is_close_to_full_decoding(reduction, side):
    """The gap of 3: thumbnail and full resampling can hardly be told apart, and nothing moves or gets darker."""
    size = (64, 64)
    pixels = scene(side + 37, side + 53)
    source = ImageSource(EncodedImage(encode(pixels, quality=95), "scene"))
    box = CropBox(24, 16, side, side)
    step = DecodeRandomResizedCrop(size, reducing_gap=3.0)
    assert step._reduction(source, box) == reduction
    view = step.view(source, box, flip=False).permute(1, 2, 0).numpy()
    full = (
        DecodeRandomResizedCrop(size, reducing_gap=None)
        .view(source, box, flip=False)
        .permute(1, 2, 0)
        .numpy()
    )
    assert 38 < psnr(view, full) < 60  # not the same either: it was reduced
    assert abs(view.astype(float).mean() - full.mean()) < 0.2
    assert np.abs(shift_of(view, full)).max() < 0.05
    moved = step.view(source, CropBox(24, 16 + side // 128, side, side), flip=False).permute(1, 2, 0).numpy()
    assert abs(shift_of(moved, full)[1]) > 0.2  # half a pixel of the result would show
    assert psnr(nearest(np.asarray(Image.open(io.BytesIO(source.encoded.data))), box, size), full) < 33


def test_reduction_keeps_the_gap():
    source = ImageSource(EncodedImage(encode(scene(1000, 800)), "scene"))
    for gap in (1.0, 1.5, 2.0, 3.0):
        step = DecodeRandomResizedCrop(50, reducing_gap=gap)
        for side in range(50, 800, 13):
            for box in (CropBox(0, 0, side, 800), CropBox(0, 0, 1000, side)):
                reduction = step._reduction(source, box)
                assert reduction == 1 or side / reduction >= gap * 50
                assert reduction == 8 or side / (2 * reduction) < gap * 50
    assert DecodeRandomResizedCrop(50, reducing_gap=None)._reduction(source, CropBox(0, 0, 1000, 800)) == 1
    png = ImageSource(EncodedImage(encode(scene(1000, 800), "PNG"), "scene"))
    assert DecodeRandomResizedCrop(50)._reduction(png, CropBox(0, 0, 1000, 800)) == 1


# ---- damaged files and wrong arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 2, 300, 5000, -2])
@pytest.mark.parametrize("step", [DecodeRandomResizedCrop(40), DecodeResize(40)], ids=["crop", "resize"])
def test_files_that_were_cut_off_are_refused_by_name(step, kept):
    torch.manual_seed(0)
    for _ in range(10):  # wherever the crop is
        with pytest.raises(
            DataError, match=r"cut/off\.jpg \(\d+ bytes\) cannot be decoded: .+Replace the file"
        ):
            step(EncodedImage(FILES["4:2:0"][:kept], "cut/off.jpg"))


def test_other_files_are_refused_by_name():
    for data in (b"no image at all", FILES["png"][:200], FILES["webp"][:100]):
        with pytest.raises(DataError, match=r"odd\.jpg \(\d+ bytes\) cannot be decoded"):
            DecodeResize(40)(EncodedImage(data, "odd.jpg"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": 0}, "size must be"),
        ({"size": (1, 2, 3)}, "size must be"),
        ({"size": "224"}, "size must be"),
        ({"size": True}, "size must be"),
        ({"size": 8, "scale": (0, 1)}, "scale must be two numbers with 0 < low <= high <= 1"),
        ({"size": 8, "scale": (0.5, 1.1)}, "scale must be"),
        ({"size": 8, "scale": 0.5}, "scale must be"),
        ({"size": 8, "ratio": (2, 1)}, "ratio must be two numbers with 0 < low <= high"),
        ({"size": 8, "ratio": (1, float("inf"))}, "ratio must be"),
        ({"size": 8, "flip_prob": 2}, "p is a probability"),
        ({"size": 8, "reducing_gap": 0.5}, "reducing_gap must be None or a number of at least 1"),
    ],
)
def test_wrong_arguments(arguments, said):
    with pytest.raises(ConfigError, match=f"DecodeRandomResizedCrop: {said}"):
        DecodeRandomResizedCrop(**arguments)


def test_a_decoded_image_is_refused():
    with pytest.raises(ConfigError, match=r"DecodeResize decodes image files and got Tensor: put it first"):
        DecodeResize(8)(torch.zeros(3, 8, 8, dtype=torch.uint8))

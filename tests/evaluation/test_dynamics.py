"""Measures of the paper's figures against hand-worked cases, slow loops and peer libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import multiclass_calibration_error

from sosr_det.evaluation.classification import ClassificationMetric
from sosr_det.evaluation.dynamics import (
    SampleMeasures,
    calibration_sums,
    cross_entropy_gradient_norm,
    expected_calibration_error,
    grey_entropy_bits,
    incorrect_logit_spread,
    measure_samples,
    output_gradient_norm,
    sum_measures,
    summarise,
)
from sosr_det.losses import CrossEntropy, OnlineLabelSmoothing, SOSRLoss, is_overconfident


def random_case(num_samples=40, num_classes=7, scale=6.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(num_samples, num_classes, generator=generator)
    labels = logits.argmax(dim=1)
    wrong = torch.arange(num_samples) % 3 == 0
    labels[wrong] = torch.randint(num_classes, (int(wrong.sum()),), generator=generator)
    return logits, labels


# ---- grey-level entropy --------------------------------------------------------------------------------------------


def grey_image(levels):
    """[1, 3, 16, 16] whose 256 pixels are grey (equal channels)."""
    return torch.tensor(levels, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)


@pytest.mark.parametrize(
    ("levels", "bits"),
    [
        ([77] * 256, 0.0),
        ([0, 255] * 128, 1.0),
        ([10, 20, 30, 40] * 64, 2.0),
        (list(range(256)), 8.0),
        # shares 1/2, 1/4, 1/4: 0.5 * 1 + 2 * 0.25 * 2
        ([1, 1, 2, 3] * 64, 1.5),
    ],
)
def test_entropy_by_hand(levels, bits):
    assert grey_entropy_bits(grey_image(levels)).tolist() == pytest.approx([bits], abs=1e-12)


def literal_entropy(image):
    pixels = list(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L").tobytes())
    shares = [pixels.count(level) / len(pixels) for level in set(pixels)]
    return -math.fsum(share * math.log2(share) for share in shares)


def test_entropy_equals_a_loop_over_pil_images(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (9, 3, 13, 11), dtype=torch.uint8, generator=generator)
    images[1:4] //= 16  # few levels
    images[4, :, :6] = 200
    expected = [literal_entropy(image) for image in images]
    assert grey_entropy_bits(images).tolist() == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr("sosr_det.evaluation.dynamics._PIXELS_PER_CHUNK", 300)  # chunks of two images
    assert grey_entropy_bits(images).tolist() == pytest.approx(expected, abs=1e-12)


def test_every_colour_has_the_grey_of_pil():
    """Entropy counts levels, so a luma off by one would merge or split them: compare each level."""
    generator = torch.Generator().manual_seed(2)
    colours = torch.randint(256, (4000, 3), dtype=torch.uint8, generator=generator)
    colours[:2] = torch.tensor([[0, 0, 0], [255, 255, 255]])
    grey = np.asarray(Image.fromarray(colours.numpy()[None]).convert("L"))[0]
    for level in range(0, 255, 5):
        # One pixel of this colour among 255 of a grey level: 0 bits exactly if they are the same grey.
        rows = np.flatnonzero(grey == level)[:3]
        for row in rows:
            for neighbour, same in ((level, True), (level + 1, False)):
                image = grey_image([neighbour] * 256).clone()
                image[0, :, 0, 0] = colours[row]
                assert (grey_entropy_bits(image).item() == 0) is same


def test_entropy_is_not_that_of_the_colours():
    red_and_blue = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    red_and_blue[0, 0, :8] = 29  # luma of (29, 0, 0) is 9, of (0, 0, 76) is 9
    red_and_blue[0, 2, 8:] = 76
    assert grey_entropy_bits(red_and_blue).item() == 0


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 4, 4),
        torch.zeros(3, 4, 4, dtype=torch.uint8),
        torch.zeros(1, 1, 4, 4, dtype=torch.uint8),
    ],
)
def test_entropy_refuses(images):
    with pytest.raises(ValueError, match="uint8"):
        grey_entropy_bits(images)


# ---- output gradient -----------------------------------------------------------------------------------------------


def test_gradient_of_cross_entropy_is_softmax_minus_onehot():
    logits, labels = random_case()
    onehot = torch.nn.functional.one_hot(labels, 7)
    expected = (logits.softmax(dim=1) - onehot).norm(dim=1)
    torch.testing.assert_close(output_gradient_norm(logits, labels, CrossEntropy()), expected)
    torch.testing.assert_close(cross_entropy_gradient_norm(logits, labels), expected)


def test_gradient_of_sosr_by_hand():
    """K = 4, one over-confident sample: CE part softmax - onehot, SOSR part 2 beta / K (o - mean) on the incorrect."""
    logits = torch.tensor([[9.0, 1.0, 2.0, 3.0], [0.0, 5.0, 0.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0])
    beta = 0.8
    ours = output_gradient_norm(logits, labels, SOSRLoss(threshold=0.9, weight=beta))
    gradient = logits.softmax(dim=1)
    gradient[:, 0] -= 1
    gradient[0] += torch.tensor([0.0, -1.0, 0.0, 1.0]) * 2 * beta / 4  # the mean of 1, 2, 3 is 2
    torch.testing.assert_close(ours, gradient.norm(dim=1))
    # The second sample is wrong, not over-confident: cross-entropy alone.
    torch.testing.assert_close(ours[1], cross_entropy_gradient_norm(logits, labels)[1])
    # The first one is not selected by a higher threshold.
    higher = output_gradient_norm(logits, labels, SOSRLoss(threshold=0.999, weight=beta))
    torch.testing.assert_close(higher, cross_entropy_gradient_norm(logits, labels))


@pytest.mark.parametrize(
    "criterion",
    [
        CrossEntropy(label_smoothing=0.1),
        SOSRLoss(threshold=0.5, weight=2.0),
        SOSRLoss(base=CrossEntropy(label_smoothing=0.1)),
        torch.nn.MultiMarginLoss(),
    ],
)
def test_gradient_equals_each_sample_alone(criterion):
    logits, labels = random_case()
    expected = []
    for row, label in zip(logits, labels, strict=True):
        leaf = row[None].clone().requires_grad_()
        criterion(leaf, label[None]).backward()
        expected.append(leaf.grad.norm())
    with torch.no_grad():  # as in the hook
        found = output_gradient_norm(logits, labels, criterion)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert not found.requires_grad


def test_gradient_does_not_depend_on_the_batch():
    logits, labels = random_case()
    whole = output_gradient_norm(logits, labels, SOSRLoss(threshold=0.5))
    halves = [
        output_gradient_norm(logits[s], labels[s], SOSRLoss(threshold=0.5))
        for s in (slice(7), slice(7, None))
    ]
    torch.testing.assert_close(whole, torch.cat(halves))
    assert output_gradient_norm(logits[:0], labels[:0], SOSRLoss()).shape == (0,)


def test_measuring_leaves_online_label_smoothing_as_it_was():
    logits, labels = random_case()
    criterion = OnlineLabelSmoothing(num_classes=7).eval()
    before = {name: value.clone() for name, value in criterion.state_dict().items()}
    measure_samples(logits, labels, criterion, 0.9)
    assert all(torch.equal(value, before[name]) for name, value in criterion.state_dict().items())


# ---- logit spread --------------------------------------------------------------------------------------------------


def test_logit_spread_by_hand_and_by_loop():
    assert incorrect_logit_spread(
        torch.tensor([[50.0, 1.0, 3.0], [4.0, 4.0, -9.0]]), torch.tensor([0, 2])
    ).tolist() == [1.0, 0.0]
    logits, labels = random_case()
    expected = [
        np.std([row[k] for k in range(7) if k != label])
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    assert incorrect_logit_spread(logits, labels).tolist() == pytest.approx(expected, rel=1e-5)
    assert incorrect_logit_spread(logits[:, :2], labels % 2).tolist() == [0.0] * 40


def test_penalty_is_the_squared_spread_of_the_selected():
    from sosr_det.losses import sosr_penalty

    logits, labels = random_case()
    selected = is_overconfident(logits, labels, 0.9)
    squares = incorrect_logit_spread(logits, labels).square() * selected
    assert sosr_penalty(logits, labels, 0.9).item() == pytest.approx(
        (6 / 7 * squares.mean()).item(), rel=1e-5
    )


# ---- calibration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_bins", [1, 7, 15])
def test_ece_equals_torchmetrics_and_the_metric_of_validation(num_bins):
    logits, labels = random_case(500)
    logits[:20] *= 50  # confidences of exactly 1
    scores = logits.softmax(dim=1)
    assert (scores.amax(dim=1) == 1).sum() >= 10
    measures = measure_samples(logits, labels, CrossEntropy(), 0.99)
    ours = expected_calibration_error(calibration_sums(measures.confidence, measures.correct, num_bins))
    peer = multiclass_calibration_error(scores.double(), labels, num_classes=7, n_bins=num_bins).item()
    assert ours == pytest.approx(peer, abs=1e-6)  # it sums in float32
    metric = ClassificationMetric(topk=(1,), num_bins=num_bins)
    metric.process(None, [{"scores": s, "label": int(y)} for s, y in zip(scores, labels, strict=True)])
    values = metric.compute_metrics(metric.results)
    assert ours == pytest.approx(values["ece"], abs=1e-12)
    assert 100 * measures.correct.double().mean().item() == values["top1"]


def test_calibration_by_hand():
    confidence = torch.tensor([0.50, 0.74, 0.75, 1.0, 1.0000001])
    correct = torch.tensor([True, False, True, True, False])
    sums = calibration_sums(confidence, correct, num_bins=4)
    assert sums[0].tolist() == [0, 0, 2, 1, 2]
    assert sums[1].tolist() == pytest.approx([0, 0, 1.24, 0.75, 2])
    assert sums[2].tolist() == [0, 0, 1, 1, 1]
    # (|1 - 1.24| + |1 - 0.75| + |1 - 2|) / 5
    assert expected_calibration_error(sums) == pytest.approx(1.49 / 5)


# ---- sums and summary ----------------------------------------------------------------------------------------------


def measures_of(label_probability, **others):
    number = len(label_probability)
    values = {name: torch.zeros(number) for name in SampleMeasures._fields}
    values["confidence"] = torch.full((number,), 0.5)
    values |= {"label_probability": torch.tensor(label_probability)}
    values |= {name: torch.tensor(value) for name, value in others.items()}
    return SampleMeasures(**values)


def test_counts_on_both_sides_of_p():
    below, above = math.nextafter(0.9, 0), math.nextafter(0.9, 1)
    measures = measures_of(np.array([below, 0.9, above, 0.95, 0.1]).tolist())
    measures = measures._replace(
        label_probability=torch.tensor([below, 0.9, above, 0.95, 0.1], dtype=torch.float64)
    )
    entropy = torch.tensor([1.0, 2.0, 4.0, 5.0, 7.0])
    summary = summarise(sum_measures(measures, [0.9, 0.5, 0.99], 15, entropy), [0.9, 0.5, 0.99])
    assert summary["above_probability"] == [
        {"p": 0.9, "num_samples": 2, "mean_entropy_bits": 4.5},
        {"p": 0.5, "num_samples": 4, "mean_entropy_bits": 3.0},
        {"p": 0.99, "num_samples": 0, "mean_entropy_bits": None},
    ]
    assert summary["mean_entropy_bits"] == pytest.approx(3.8)


def test_overconfident_means_are_over_the_overconfident_only():
    measures = measures_of(
        [0.9, 0.2, 0.9],
        overconfident=[True, False, True],
        logit_spread=[1.0, 10.0, 3.0],
        gradient_norm=[0.5, 9.0, 0.25],
    )
    summary = summarise(sum_measures(measures, [0.5]), [0.5])
    assert summary["overconfident_fraction"] == pytest.approx(2 / 3)
    assert summary["overconfident_logit_spread"] == 2.0
    assert summary["overconfident_gradient_norm"] == 0.375
    assert summary["logit_spread"] == pytest.approx(14 / 3)
    assert "mean_entropy_bits" not in summary


def test_no_overconfident_sample_has_no_mean():
    summary = summarise(sum_measures(measures_of([0.2]), [0.5]), [0.5])
    assert summary["overconfident_logit_spread"] is None
    assert summary["overconfident_fraction"] == 0


@pytest.mark.parametrize("split", [0, 13, 40])
def test_sums_of_parts_are_the_sums_of_the_whole(split):
    logits, labels = random_case()
    entropy = torch.linspace(0, 8, 40)
    probabilities = [0.5, 0.9, 0.99]

    def sums(rows):
        measures = measure_samples(logits[rows], labels[rows], SOSRLoss(threshold=0.9), 0.9)
        return sum_measures(measures, probabilities, 15, entropy[rows])

    first, second = sums(slice(split)), sums(slice(split, None))
    joined = summarise({name: first[name] + second[name] for name in first}, probabilities)
    whole = summarise(sums(slice(None)), probabilities)
    for name, value in whole.items():
        if isinstance(value, float):
            assert joined[name] == pytest.approx(value, rel=1e-6), name
    assert joined["above_probability"][0] == pytest.approx(whole["above_probability"][0])
    assert joined["calibration"]["num_samples"] == whole["calibration"]["num_samples"]
    assert (
        0 < whole["above_probability"][2]["num_samples"] < whole["above_probability"][0]["num_samples"] < 40
    )


def test_half_precision_logits_are_measured_in_full():
    logits, labels = random_case()
    half = measure_samples(logits.bfloat16(), labels, SOSRLoss(), 0.99)
    full = measure_samples(logits.bfloat16().float(), labels, SOSRLoss(), 0.99)
    assert all(torch.equal(a, b) for a, b in zip(half, full, strict=True))

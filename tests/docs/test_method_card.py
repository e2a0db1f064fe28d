"""docs/method_card.md: its code, its formula's example, its limits, and its table against the paper's."""

from __future__ import annotations

import re
import types

import pytest
import torch

from sosr_det.losses import SOSRLoss, sosr_penalty


@pytest.fixture
def card(checks):
    return (checks.docs / "method_card.md").read_text()


def test_the_example(checks):
    page = checks.docs / "method_card.md"
    names = {}
    exec(compile(checks.python_code(page), str(page), "exec"), names)
    terms = types.SimpleNamespace(**names).terms
    assert terms.loss_sosr.item() == pytest.approx(0.375, rel=1e-6)
    assert terms.overconfident_fraction.item() == 0.5


def test_the_limits():
    two = torch.tensor([[20.0, -3.0], [1.0, 19.0]])
    assert sosr_penalty(two, torch.tensor([0, 1])) == 0
    three = torch.tensor([[20.0, 19.0, -3.0]])
    assert sosr_penalty(three, torch.tensor([[0.6, 0.4, 0.0]])) == 0
    four = torch.tensor([[20.0, 19.0, -3.0, 4.0]])
    assert sosr_penalty(four, torch.tensor([[0.6, 0.4, 0.0, 0.0]])) > 0  # negative control
    teacher = torch.tensor([[0.9, 0.06, 0.03, 0.01]])
    assert sosr_penalty(four, teacher) == 0
    sure = torch.tensor([[20.0, 3.0, -3.0, 4.0]])
    with_tiny_share = sosr_penalty(sure, torch.tensor([[1 - 1e-6, 0.0, 0.0, 1e-6]]))
    assert with_tiny_share.item() == pytest.approx((3**2 + 3**2) / 4)  # the logit 4 is left alone
    assert sosr_penalty(sure, torch.tensor([0])) > with_tiny_share


def test_the_settings_are_the_defaults(card):
    loss = SOSRLoss()
    assert f"| `threshold` (P) | {loss.threshold} |" in card
    assert f"| `weight` (beta) | {loss.weight} |" in card
    assert loss.start_epoch == 0


def test_claimed_results_are_the_papers(card):
    rows_of = pytest.importorskip(
        "sosr_det.engine.paper.rows", reason="the paper's tables are not in this package"
    )
    claims = re.findall(r"^\| ([1-7]) \| (.+?) \| ([\d.±]+) \| ([\d.±]+) \|$", card, flags=re.MULTILINE)
    assert len(claims) == 10
    for number, label, baseline, ours in claims:
        table = rows_of.TABLES[int(number)]
        network = re.search(r"(ResNet-\d+|WRN-28-10|MobileNet|PyramidNet-110-84)", label)[0]
        rows = [row for row in table.rows if row[0].startswith(network)]
        if int(number) == 3:  # baseline and ours stand below each other
            printed = {(rows[0][1], rows[1][1])}
        else:
            printed = {tuple(row[-2:]) for row in rows if "CutMix" not in label or "CutMix" in " ".join(row)}
        assert (baseline, ours) in printed, f"Table {number}: {label}"


def test_largest_and_smallest_gain_of_table_1():
    rows_of = pytest.importorskip(
        "sosr_det.engine.paper.rows", reason="the paper's tables are not in this package"
    )
    rows = rows_of.TABLES[1].rows
    gains = {row[0]: float(row[2].split("±")[0]) - float(row[1].split("±")[0]) for row in rows}
    assert len(rows) == 11
    assert max(gains, key=gains.get) == "MobileNet"
    assert min(gains, key=gains.get) == "PyramidNet-110-84"

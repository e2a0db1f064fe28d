"""The proof that twins saw the same batches."""

from __future__ import annotations

import json

import pytest

import sosr_det.register  # noqa: F401
from sosr_det.engine.compare.proof import prove_pairs
from sosr_det.engine.run_record import write_run_record


def test_twins_with_the_same_batches(runs, tmp_path, compare):
    study, _ = compare(tmp_path / "c")
    proof = prove_pairs(study, study.seeds)
    assert proof["paired"]
    assert (proof["problems"], proof["warnings"]) == ([], [])
    assert [(row["seed"], row["equal_batches"], row["num_batches"]) for row in proof["seeds"]] == [
        (0, True, 6), (1, True, 6)
    ]  # fmt: skip
    assert not prove_pairs(study, [])["paired"]  # nothing is no proof


def change(study, arm, seed, **parts):
    run_dir = study.cell(study.arms[arm], seed).run_dir
    record = json.loads((run_dir / "run.json").read_text())
    write_run_record(run_dir, {**record, **parts})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"batches": [{"epoch": 1, "digest": "1-1", "num_batches": 3, "random_state": "r"}]}, "2 and 1 epochs"),
        (
            {"batches": [{"epoch": e, "digest": f"1-{e * e}", "num_batches": 3, "random_state": "r"} for e in (1, 2)]},
            "other batches in epoch 2",
        ),
        ({"batches": None}, "no digests"),
        ({"backbone": {"digest": "e" * 64}}, "started from eeeeeeeeeeee, expected bbbbbbbbbbbb"),
    ],
)  # fmt: skip
def test_twins_without(parts, message, runs, tmp_path, compare):
    study, _ = compare(tmp_path / "c")
    change(study, 1, 1, **parts)
    proof = prove_pairs(study, study.seeds)
    assert not proof["paired"]
    (problem,) = proof["problems"]
    assert message in problem
    assert "b@v1" in problem
    assert "seed 1" in problem


def test_what_the_model_draws_counts_where_it_mixes_images(runs, tmp_path, compare):
    study, _ = compare(tmp_path / "c")
    batches = [
        {"epoch": e, "digest": f"0-{e}", "num_batches": 3, "random_state": f"other{e}"} for e in (1, 2)
    ]
    change(study, 1, 0, batches=batches)
    assert prove_pairs(study, study.seeds)["paired"]
    change(study, 1, 0, batches=batches, config_text="model = dict(batch_augments=[dict(type='CutMix')])")
    (problem,) = prove_pairs(study, study.seeds)["problems"]
    assert "seed 0: in epoch 1 the two drew different random numbers" in problem


def test_another_start_outside_of_the_backbone_is_a_warning(runs, tmp_path, compare):
    study, _ = compare(tmp_path / "c")
    change(study, 1, 0, initial_weights={"outside_backbone": "x", "outside_backbone_layout": "l"})
    proof = prove_pairs(study, study.seeds)
    assert proof["paired"]
    assert proof["warnings"] == [
        "a and b@v1, seed 0: the weights outside of the backbone (neck, head) did not start the same"
    ]
    change(study, 1, 0, initial_weights={"outside_backbone": "x", "outside_backbone_layout": "m"})
    assert "other shapes" in prove_pairs(study, study.seeds)["warnings"][0]


def start(backbone):
    return {
        "initial_weights": {"backbone": backbone, "outside_backbone": "w", "outside_backbone_layout": "l"}
    }


def test_a_weights_file_is_tied_to_the_runs(runs, tmp_path, compare):
    """Its name and the digest of the plan prove nothing about what a run loaded; the tensors at the start do."""
    weights = tmp_path / "mine.pth"
    weights.write_text("weights")
    study, _ = compare(tmp_path / "c", backbones=[str(weights), "sosr://a"], seeds="0..2")
    assert prove_pairs(study, study.seeds)["paired"]
    change(study, 0, 1, **start("f" * 64))
    proof = prove_pairs(study, study.seeds)
    assert not proof["paired"]
    (problem,) = proof["problems"]
    assert problem.startswith("mine: the backbones of its runs did not start the same")
    assert "seed 0 from s, seed 1 from ffffffffffff, seed 2 from s" in problem
    change(study, 0, 1, **start(None))
    (problem,) = prove_pairs(study, study.seeds)["problems"]
    assert "mine, seed 1: the run has no digest of its backbone at the start" in problem


def test_other_starts_of_entries_and_random_backbones_are_no_problem(runs, tmp_path, compare):
    """An entry is proven by its own digest (tensors that --allow leaves out are random), and random ones differ."""
    study, _ = compare(tmp_path / "c", backbones=["sosr://a", "random"])
    for arm in (0, 1):
        change(study, arm, 1, **start("f" * 64))
    assert prove_pairs(study, study.seeds)["paired"]
    assert prove_pairs(study, study.seeds)["warnings"] == []


def test_random_tensors_of_a_weights_file_are_a_warning(runs, tmp_path, compare):
    weights = tmp_path / "mine.pth"
    weights.write_text("weights")
    study, _ = compare(tmp_path / "c", backbones=[str(weights), "sosr://a"], allow=["layer4.*"])
    change(study, 0, 1, **start("f" * 64))
    proof = prove_pairs(study, study.seeds)
    assert proof["paired"]
    assert "mine: the backbones of its runs did not start the same" in proof["warnings"][0]


def validated(*numbers):
    return [{"epoch": e, "train": {}, **({"val": {"m": 0.5}} if e in numbers else {})} for e in (1, 2, 3)]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ((1, 2, 3), (1, 3), "epoch 2 only in the first"),
        ((3,), (1, 2, 3), "epoch 1, 2 only in the second"),
        ((1, 2), (2, 3), "epoch 1 only in the first; epoch 3 only in the second"),
    ],
)
def test_a_lost_validation_is_told(first, second, told, runs, tmp_path, compare):
    study, _ = compare(tmp_path / "c")
    for arm in (0, 1):
        change(study, arm, 0, epochs=validated(1, 3))
    assert prove_pairs(study, study.seeds)["warnings"] == []
    change(study, 0, 1, epochs=validated(*first))
    change(study, 1, 1, epochs=validated(*second))
    proof = prove_pairs(study, study.seeds)
    assert proof["paired"]
    assert proof["warnings"] == [
        f"a and b@v1, seed 1: not the same epochs were validated ({told}), so they chose their best from different ones"
    ]

"""Two processes (gloo) beside one: the same learning, the same metrics, and an end when one of them dies.

The network has no batch norm: with it, a process normalises with its own share of the batch, and two of 4 images are
not one of 8. (That is what --sync-bn is for, which needs GPUs.) Loss: SOSR with cross-entropy, its penalty at work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("two_rank_worker.py")
CONFIG = f"""
_base_ = {str(ROOT / "configs/demo/resnet18_sosr_1xb32-6e_demo-imagenet.py")!r}
model = dict(backbone=dict(arch="timm/test_convnext"), loss=dict(threshold=0.06, weight=0.5))
param_scheduler = []
custom_hooks = [dict(type="CaptureHook"), dict(type="FailHook", place=None)]
"""
WITHIN_SECONDS = 60  # on a machine that does other things, too; by itself a job takes 2


def run_jobs(folder, images, jobs):
    """name -> (command, ranks, more arguments); results by name, and the folder of the runs."""
    config = folder / "config.py"
    config.write_text(CONFIG)
    written = {}
    for name, (ranks, more, options) in jobs.items():
        arguments = more if more[:1] == ["call"] else [
            "train", str(config), "--work-dir", str(folder / name / "run"), "--data-root", str(images),
            "--total-epochs", "2", "--no-publish", *more, "--cfg-options",
            "train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False",
            "val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False",
            "val_dataloader.batch_size=3", *options,
        ]  # fmt: skip
        written[name] = {"ranks": ranks, "arguments": arguments, "timeout": WITHIN_SECONDS}
    (folder / "jobs.json").write_text(json.dumps(written))
    subprocess.run(
        [sys.executable, str(WORKER), str(folder / "jobs.json"), str(folder / "results.json")],
        check=True, timeout=WITHIN_SECONDS * len(jobs), cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def results(demo, tmp_path_factory):
    """What :mod:`two_rank_worker` tells of each rank of each job; and the folder of the runs."""
    folder = tmp_path_factory.mktemp("two_ranks")
    batch = "train_dataloader.batch_size=4"

    def fail(place, how="error", rank=1):
        options = {"place": place, "how": how, "rank": rank}
        return (2, [], [batch, *(f"custom_hooks.1.{key}={value}" for key, value in options.items())])

    stop = [batch, *(f"custom_hooks.1.{each}" for each in ("place=training", "how=stop", "iteration=13"))]
    jobs = {
        "joined": (1, ["--paired"], ["train_dataloader.batch_size=8"]),
        "two": (2, ["--paired"], [batch]),
        "accumulated": (2, ["--paired", "--accumulate", "2"], ["train_dataloader.batch_size=2"]),
        "other_labels": (
            2, ["--paired"],
            [batch, "custom_hooks.0.spoil_labels_on_rank=1"],
        ),
        "metrics": (2, ["call", "gather_metrics", str(folder / "metrics")], []),
        "owed": (2, ["call", "owe_validation", str(folder / "owed")], []),
        "stopped": (2, ["--paired"], stop),
        "continued": (2, ["--paired", "--resume", "--work-dir", str(folder / "stopped" / "run")], stop),
        "tried": (2, ["--dry-run"], [batch, "model.backbone.arch=timm/test_resnet"]),  # with batch norm
        "killed": fail("training", "kill"),
        "validation": fail("validation"),
        "disk": fail("checkpoint", "disk", rank=0),
        "config": (2, [], ["model.no_such_key=1"]),
    }  # fmt: skip
    return run_jobs(folder, demo.imagenet, jobs), folder


def test_a_dry_run_of_two_ranks_resumes_both_and_leaves_nothing(results):
    """Only the first one saves; each has a temporary folder of its own."""
    by_job, folder = results
    assert [rank["code"] for rank in by_job["tried"]] == [0, 0], by_job["tried"][1]["err"][-3000:]
    assert not (folder / "tried" / "run").exists()


LEARNED = {"joined": 1, "two": 2, "accumulated": 2, "other_labels": 2}


@pytest.fixture(scope="module")
def learned(results):
    """Captures (:class:`two_rank_worker.CaptureHook`) of each rank, by job; and the folder."""
    by_job, folder = results
    for name in (*LEARNED, "metrics", "owed"):
        assert all(rank["code"] == 0 for rank in by_job[name]), by_job[name][0]["err"][-3000:]
    captures = {
        name: [
            torch.load(folder / name / "run" / f"capture-{rank}.pt", weights_only=True)
            for rank in range(ranks)
        ]
        for name, ranks in LEARNED.items()
    }
    return captures, folder


def largest_difference(one, other):
    """Of vectors, relative to the longer one's length."""
    return max(
        float((a - b).norm() / torch.maximum(a.norm(), b.norm())) for a, b in zip(one, other, strict=True)
    )


def losses(ranks, accumulated=1):
    """Mean over the ranks (and the accumulated batches) of each update."""
    return (
        torch.tensor([each["loss"] for each in ranks], dtype=torch.float64)
        .mean(0)
        .view(-1, accumulated)
        .mean(1)
    )


@pytest.mark.parametrize(("job", "accumulated"), [("two", 1), ("accumulated", 2)])
def test_two_ranks_learn_what_one_process_does_from_the_joined_batch(learned, job, accumulated):
    captures, _ = learned
    (one,), two = captures["joined"], captures[job]
    assert len(one["gradient"]) == 20  # updates, none lost: 80 images, two epochs, 8 at a time
    assert losses(two, accumulated).tolist() == pytest.approx(one["loss"], rel=1e-6)
    assert largest_difference(two[0]["gradient"], one["gradient"]) < 3e-6  # the last of 20 steps apart
    assert largest_difference(two[0]["gradient"][:1], one["gradient"][:1]) < 1e-6
    assert largest_difference([two[0]["weights"]], [one["weights"]]) < 1e-6
    assert torch.equal(two[0]["weights"], two[1]["weights"])
    # The two ranks had different images all the while.
    assert all(a != b for a, b in zip(two[0]["loss"], two[1]["loss"], strict=True))


def test_a_rank_with_other_labels_is_seen(learned):
    """The negative control of the tolerances above."""
    captures, _ = learned
    (one,), other = captures["joined"], captures["other_labels"]
    assert largest_difference(other[0]["gradient"][:1], one["gradient"][:1]) > 1e-2
    assert abs(losses(other)[0] - one["loss"][0]) > 1e-2
    assert torch.equal(other[0]["weights"], other[1]["weights"])  # wrong, but in step


def test_the_penalty_was_at_work(learned):
    _, folder = learned
    for epoch in json.loads((folder / "two" / "run" / "run.json").read_text())["epochs"]:
        assert epoch["train"]["loss_sosr"] > 1e-3


def test_the_record_holds_means_over_both_ranks(learned):
    captures, folder = learned
    epochs = {
        job: json.loads((folder / job / "run" / "run.json").read_text())["epochs"]
        for job in ("joined", "two")
    }
    for one, two in zip(epochs["joined"], epochs["two"], strict=True):
        for name in ("loss", "loss_ce", "loss_sosr", "overconfident_fraction"):
            assert two["train"][name] == pytest.approx(one["train"][name], rel=1e-5)
    own = sum(captures["two"][0]["loss"][:10]) / 10
    assert abs(epochs["two"][0]["train"]["loss"] - own) > 1e-4  # rank 0's own mean is another number


def test_validation_and_the_choice_of_the_best_epoch_are_the_same_on_both_ranks(learned):
    captures, folder = learned
    one, two = captures["joined"][0], captures["two"]
    assert two[0]["val"] == two[1]["val"]
    assert [each["accuracy/num_samples"] for each in two[0]["val"]] == [40, 40]
    for mine, alone in zip(two[0]["val"], one["val"], strict=True):
        assert mine["accuracy/nll"] == pytest.approx(alone["accuracy/nll"], rel=1e-5)
    assert two[0]["best"] == two[1]["best"] == max(each["accuracy/top1"] for each in two[0]["val"])
    record = json.loads((folder / "two" / "run" / "run.json").read_text())
    assert record["best"]["value"] == two[0]["best"]
    assert (folder / "two" / "run" / record["best"]["checkpoint"]).is_file()


def test_paired_runs_on_two_ranks_see_the_same_batches(learned):
    _, folder = learned
    digests = {
        job: [
            epoch["digest"]
            for epoch in json.loads((folder / job / "run" / "run.json").read_text())["batches"]
        ]
        for job in ("two", "other_labels", "accumulated")
    }
    assert digests["two"] == digests["other_labels"]  # labels were changed after the batch was made
    assert len({*digests["two"], *digests["accumulated"]}) == 4  # epochs differ, and so do other batches


def test_metrics_of_uneven_splits_are_those_of_one_process(learned):
    """1, 2, 7 and 10 images on two ranks in batches of 1 and 3, in order and shuffled."""
    _, folder = learned
    ranks = [json.loads((folder / "metrics" / f"metrics-{rank}.json").read_text()) for rank in (0, 1)]
    assert len(ranks[0]) == 2 * 4 * 2 * 2
    assert not (folder / ".dist_test").exists()  # mmengine's pickles, in the folder that one is in
    for mine, other in zip(*ranks, strict=True):
        name, processed, got, expected = mine
        size = int(name.split("-")[1])
        assert got == other[2], name  # what every rank is told
        assert got == pytest.approx(expected, rel=1e-12, nan_ok=True), name
        assert got.get("num_samples", got.get("num_images")) == size
        # The sampler had dealt out as many to both, so that one was there twice where the number is odd.
        assert processed == other[1] == (size + 1) // 2


def test_a_validation_that_is_owed_is_made_by_both(learned):
    _, folder = learned
    assert [json.loads((folder / "owed" / f"owed-{rank}.json").read_text()) for rank in (0, 1)] == [[1], [1]]


def test_one_rank_is_asked_to_stop_and_both_save_and_go_on_exactly(results, learned):
    by_job, folder = results
    assert [rank["code"] for rank in by_job["stopped"]] == [75, 75]
    assert [rank["code"] for rank in by_job["continued"]] == [0, 0], by_job["continued"][0]["err"][-3000:]
    captures, _ = learned
    for rank in (0, 1):
        again = torch.load(folder / "stopped" / "run" / f"capture-{rank}.pt", weights_only=True)
        remaining = len(again["loss"])
        assert remaining in (4, 5, 6)  # of 20: asked in the 14th step, agreed upon in one of the next
        assert torch.equal(again["weights"], captures["two"][rank]["weights"])
        assert again["loss"] == captures["two"][rank]["loss"][-remaining:]


# One rank fails.

LOST = "error: lost contact with another process of this run"


def last_line(rank):
    return rank["err"].strip().splitlines()[-1]


def test_a_killed_rank_ends_the_other(results):
    by_job, folder = results
    first, second = by_job["killed"]
    assert (first["code"], second["code"]) == (1, -9)
    assert last_line(first).startswith(f"rank 0: {LOST}")
    assert first["seconds"] - second["seconds"] < 20  # not after the timeout of 600 s
    assert json.loads((folder / "killed" / "run" / "run.json").read_text())["status"] == "failed"


def test_an_error_in_the_validation_of_one_rank_ends_both(results):
    first, second = results[0]["validation"]
    assert (first["code"], second["code"]) == (1, 1)
    assert "rank 1: error: unexpected ValueError: broken validation" in second["err"]
    assert last_line(first).startswith(f"rank 0: {LOST}")


def test_a_full_disk_on_rank_0_ends_both_with_its_error(results):
    first, second = results[0]["disk"]
    assert 0 not in (first["code"], second["code"])
    assert "No space left on device" in first["err"].strip().splitlines()[-1]
    assert second["code"] == 1


def test_what_is_wrong_for_all_is_said_by_rank_0_first(results):
    first, second = results[0]["config"]
    assert (first["code"], second["code"]) == (1, 1)
    assert last_line(first).startswith("rank 0: error: --cfg-options model.no_such_key: ")
    assert (
        second["seconds"] - first["seconds"] > 1
    )  # a launcher ends it in this time, before it says it again

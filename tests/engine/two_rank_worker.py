"""Runs `sosr-det` commands on one or two ranks for the tests, without importing torch anew for each of them.

    python two_rank_worker.py JOBS.json RESULTS.json

JOBS holds ``{name: {"ranks": 1 or 2, "arguments": [...], "timeout": seconds}}``; arguments that begin with ``call``
name a function of this module. This process imports what a run needs and forks every rank of every job, before torch
has made a thread. RESULTS gets ``{name: [{"code", "err", "seconds"} per rank]}``; a rank that does not end in time is
killed: code "timeout".
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import matplotlib.figure  # noqa: F401
import timm  # noqa: F401  imported once, not by every rank of every job
import torch
import torch.utils.tensorboard
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_rank
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.utils.data import DataLoader

import sosr_det.engine.train
import sosr_det.register  # noqa: F401
from sosr_det.cli.main import main
from sosr_det.engine.distribution import gather_in_memory
from sosr_det.engine.hooks.due_validation import DueValidationHook
from sosr_det.evaluation.classification import ClassificationMetric
from sosr_det.evaluation.voc_metric import VOCDevkitMetric


@HOOKS.register_module()
class CaptureHook(Hook):
    """Leaves ``capture-<rank>.pt``: losses and gradients of every update, metrics, the choice of the best epoch."""

    priority = "VERY_LOW"

    def __init__(self, spoil_labels_on_rank=None):
        self.spoil = spoil_labels_on_rank
        self.captured = {"loss": [], "gradient": [], "val": [], "best": None}

    def before_train(self, runner):
        def keep(optimizer, *_):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            self.captured["gradient"].append(torch.cat([p.grad.flatten() for p in parameters]).clone())

        runner.optim_wrapper.optimizer.register_step_pre_hook(keep)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.spoil == get_rank():
            data_batch["labels"] = torch.zeros_like(data_batch["labels"])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.captured["loss"].append(float(outputs["loss"]))

    def after_val_epoch(self, runner, metrics=None):
        self.captured["val"].append({"epoch": runner.epoch, **metrics})

    def after_train(self, runner):
        model = getattr(runner.model, "module", runner.model)
        self.captured["best"] = runner.message_hub.get_info("best_score", None)
        self.captured["weights"] = torch.cat([p.detach().flatten() for p in model.parameters()])
        torch.save(self.captured, Path(runner.work_dir) / f"capture-{get_rank()}.pt")


@HOOKS.register_module()
class FailHook(Hook):
    """One rank fails at one place: by SIGKILL, or with an error; or it alone is asked to stop."""

    def __init__(self, place, how="error", rank=1, iteration=2):
        self.place, self.how, self.rank, self.iteration = place, how, rank, iteration

    def fail(self, place):
        if place != self.place or get_rank() != self.rank:
            return
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "stop":
            os.kill(os.getpid(), signal.SIGUSR1)
            return
        raise OSError(28, "No space left on device") if self.how == "disk" else ValueError(f"broken {place}")

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            self.fail("training")

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.fail("validation")

    def before_save_checkpoint(self, runner, checkpoint):
        self.fail("checkpoint")


def classified(index):
    """What a classifier of 3 classes says about image ``index``, right for some."""
    scores = torch.softmax(torch.tensor([1.0, 0.3 * (index % 5), 0.7 * (index % 3)]) + 0.01 * index, 0)
    return {"scores": scores, "label": index % 3}


def detected(index):
    """One true box and two detections, one of them right for some images; no two scores are equal."""
    box = torch.tensor([[10.0, 10.0, 50.0, 60.0]])
    boxes = torch.cat([box + 3 * (index % 4), box + 100])
    nothing = {"bboxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    labels = torch.tensor([index % 2, (index + 1) % 2])
    return {
        "img_id": f"image{index}", "ori_shape": (200, 200), "ignored_instances": nothing,
        "gt_instances": {"bboxes": box, "labels": torch.tensor([index % 2])},
        "pred_instances": {"bboxes": boxes, "labels": labels, "scores": torch.tensor([0.5, 0.4]) + 0.01 * index},
    }  # fmt: skip


METRICS = {
    "classification": (ClassificationMetric, {"topk": (1, 2)}, classified),
    "detection": (VOCDevkitMetric, {}, detected),
}


def gather_metrics(folder):
    """Uneven splits, each metric, each batch size, in order and shuffled: what all ranks get, beside one process's."""
    rows = []
    for name, (kind, options, sample) in METRICS.items():
        for size in (1, 2, 7, 10):
            alone = kind(**options)
            alone.dataset_meta = {"classes": ["a", "b"]}
            alone.process(None, [sample(index) for index in range(size)])
            expected = alone.compute_metrics(alone.results)
            for batch in (1, 3):
                for shuffle in (False, True):
                    sampler = DefaultSampler(range(size), shuffle=shuffle, seed=0, round_up=True)
                    metric = kind(**options)
                    if batch == 1:
                        gather_in_memory(Evaluator([metric]))
                    else:
                        metric.collect_dir = f"{folder}/{name}-{size}-{batch}-{shuffle}"
                    metric.dataset_meta = alone.dataset_meta
                    for indices in DataLoader(range(size), batch_size=batch, sampler=sampler):
                        metric.process(None, [sample(index) for index in indices.tolist()])
                    processed = len(metric.results)
                    got = metric.evaluate(size)
                    got = {key.split("/", 1)[1]: value for key, value in got.items()}
                    rows.append([f"{name}-{size}-{batch}-{shuffle}", processed, got, expected])
    Path(folder, f"metrics-{get_rank()}.json").write_text(json.dumps(rows))


def owe_validation(folder):
    """Only rank 0 can see that a validation is owed; both must make it."""
    ran = []

    class Runner:
        epoch = 1
        work_dir = folder
        message_hub = SimpleNamespace(log_scalars={}, runtime_info={})
        logger = logging.getLogger("two ranks")
        train_loop = type("Loop", (), {"validate": lambda self: ran.append(1)})()

    hook = DueValidationHook()
    for owed in (True, False):
        hook._is_owed = lambda runner, owed=owed: owed if get_rank() == 0 else ran.append("looked")
        hook.before_train(Runner())
    Path(folder, f"owed-{get_rank()}.json").write_text(json.dumps(ran))


def run_rank(rank: int, ranks: int, port: int, arguments: list[str], output: Path) -> None:
    """In a forked process: never returns."""
    code = 1
    try:
        stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        torch.set_num_threads(1)
        launcher = ["--launcher", "pytorch"] if ranks > 1 else []
        try:
            if arguments[0] == "call":
                torch.distributed.init_process_group("gloo")
                globals()[arguments[1]](*arguments[2:])
            else:
                main([*arguments[:2], *launcher, *arguments[2:]])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # nothing of the parent's is cleaned up twice


def run_job(job: dict, folder: Path) -> list[dict]:
    """All ranks of a job; none outlives it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.monotonic()
    outputs = [folder / f"rank-{rank}.log" for rank in range(job["ranks"])]
    processes = {}
    for rank, output in enumerate(outputs):
        child = os.fork()
        if child == 0:
            run_rank(rank, job["ranks"], port, job["arguments"], output)
        processes[child] = rank
    results: list[dict] = [{} for _ in outputs]
    while processes:
        for child, rank in list(processes.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                del processes[child]
                results[rank] = {
                    "code": os.waitstatus_to_exitcode(status),
                    "seconds": time.monotonic() - started,
                }
        if processes and time.monotonic() - started > job["timeout"]:
            for child, rank in processes.items():
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                results[rank] = {"code": "timeout", "seconds": time.monotonic() - started}
            processes = {}
        time.sleep(0.02)
    for result, output in zip(results, outputs, strict=True):
        result["err"] = output.read_text(errors="replace") if output.exists() else ""
    return results


if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text())
    all_results = {}
    for name, job in jobs.items():
        place = Path(sys.argv[2]).parent / name
        place.mkdir()
        all_results[name] = run_job(job, place)
    Path(sys.argv[2]).write_text(json.dumps(all_results))

"""How fast VOC AP is: beside MMDetection's ``eval_map``, in turns, and for up to ten million detections."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sosr_det.analysis.interleaved import summarise, time_interleaved
from sosr_det.errors import ConfigError
from sosr_det.evaluation.all_metrics import evaluate_detections
from sosr_det.evaluation.boxes import Detections, EvaluationSet, GroundTruth
from sosr_det.evaluation.coco_ap import IOU_THRESHOLDS, evaluate_coco
from sosr_det.evaluation.formats.devkit import choose_file_name, read_detections
from sosr_det.evaluation.formats.ground_truth import read_ground_truth
from sosr_det.evaluation.formats.voc_folder import find_voc_folder, image_set_file, read_image_set

WANTED_SPEEDUP = 20
CURVE = (10_000, 100_000, 1_000_000, 10_000_000)
OURS = "11-point and area AP"
PEER = "eval_map, area AP"
# Those of a public YOLOv2 on VOC2007 test.
_NUM_DETECTIONS, _NUM_IMAGES, _NUM_CLASSES = 101_139, 4952, 20
# More images than this do not make the work harder.
_MOST_IMAGES = 100_000
_MB = 1e6


def synthetic_detections(
    num_detections: int = _NUM_DETECTIONS,
    num_images: int = _NUM_IMAGES,
    num_classes: int = _NUM_CLASSES,
    seed: int = 0,
) -> EvaluationSet:
    """Three objects an image, a tenth of them difficult; a fifth of the detections near one, the others anywhere."""
    names = [f"class {index}" for index in range(num_classes)]
    ground_truth, detections = {}, {}
    for index, name in enumerate(names):
        rng = np.random.default_rng([seed, index])
        num_objects = max(1, 3 * num_images // num_classes)
        objects = _boxes(rng, num_objects)
        image = rng.integers(num_images, size=num_objects)
        ground_truth[name] = GroundTruth(image, objects, rng.random(num_objects) < 0.1)
        count = num_detections // num_classes + (index < num_detections % num_classes)
        near = rng.integers(num_objects, size=count // 5)
        det_image = np.concatenate([image[near], rng.integers(num_images, size=count - len(near))])
        boxes = _boxes(rng, count)
        boxes[: len(near)] = objects[near] + rng.normal(0, 8, (len(near), 4))
        detections[name] = Detections(det_image, boxes, rng.random(count))
    return EvaluationSet(names, [f"{index:06d}" for index in range(num_images)], ground_truth, detections)


def read_devkit_detections(
    directory: str | Path, voc_root: str | Path, year: str = "2007", split: str = "test"
) -> EvaluationSet:
    """The development kit's ``comp*_det_<split>_<class>.txt`` and their ground truth.

    Raises:
        DataError: missing or unusable files.
    """
    folder = find_voc_folder(voc_root, year)
    image_ids = read_image_set(image_set_file(folder, split))
    file_name, classes = choose_file_name(directory, split)
    return EvaluationSet(
        classes,
        image_ids,
        read_ground_truth(folder / "Annotations", image_ids, classes, unknown_classes="ignore"),
        read_detections(directory, image_ids, classes, file_name=file_name),
    )


def as_mmdet_lists(data: EvaluationSet) -> tuple[list[list[np.ndarray]], list[dict[str, np.ndarray]]]:
    """What ``eval_map`` takes, as MMDetection's ``VOCMetric`` makes it: float32 arrays for each image and class."""
    detections = [
        _split(
            found.image_index,
            np.column_stack([found.boxes, found.scores]).astype(np.float32),
            data.num_images,
        )
        for found in (data.detections[name] for name in data.class_names)
    ]
    truth = [data.ground_truth[name] for name in data.class_names]
    image = np.concatenate([each.image_index for each in truth])
    boxes = np.concatenate([each.boxes for each in truth]).astype(np.float32)
    label = np.repeat(np.arange(len(truth)), [len(each) for each in truth])
    difficult = np.concatenate([each.difficult for each in truth])
    annotations: list[dict[str, np.ndarray]] = [{} for _ in range(data.num_images)]
    for chosen, suffix in ((~difficult, ""), (difficult, "_ignore")):
        for what, values in (("bboxes", boxes), ("labels", label)):
            parts = _split(image[chosen], values[chosen], data.num_images)
            for annotation, part in zip(annotations, parts, strict=True):
                annotation[what + suffix] = part
    return [list(of_image) for of_image in zip(*detections, strict=True)], annotations


def bench_peers(data: EvaluationSet, repeats: int = 3, coco: bool = False) -> dict[str, Any]:
    """Time both VOC metrics, in one pass, against ``eval_map``'s area AP, in turns; inputs are prepared before.

    Args:
        repeats: rounds, at least 1; medians are reported.
        coco: also COCO AP, with ``faster-coco-eval`` (ours) and with ``pycocotools``.

    Returns:
        ``peers``: name -> ``median_ms`` and ``ratio`` to ours, see :func:`sosr_det.analysis.interleaved.summarise`;
        ``processes`` of ``eval_map``; ``largest_difference`` between its area AP of a class and ours.

    Raises:
        ConfigError: fewer than one round.
    """
    if repeats < 1:
        raise ConfigError(f"repeats must be at least 1, got {repeats}.")
    with contextlib.redirect_stdout(sys.stderr):  # it says there what it does without
        from mmdet.evaluation.functional import eval_map

    lists = as_mmdet_lists(data)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = min(
        4, cores
    )  # VOCMetric leaves it at eval_map's 4; more than there are cores would only harm it
    found: dict[str, Any] = {}

    def ours() -> None:
        found["ours"] = evaluate_detections(data)

    def peer() -> None:
        _, found["peer"] = eval_map(
            *lists,
            iou_thr=0.5,
            logger="silent",
            nproc=processes,
            use_legacy_coordinate=True,
            eval_mode="area",
        )

    peers: dict[str, Callable[[], object]] = {
        OURS: ours,
        f"the same at {len(IOU_THRESHOLDS)} IoU thresholds": lambda: evaluate_detections(
            data, iou_thresholds=IOU_THRESHOLDS
        ),
        PEER: peer,
    }
    if coco:
        peers["COCO AP"] = lambda: evaluate_coco(data)
        peers["COCO AP by pycocotools"] = lambda: evaluate_coco(data, "pycocotools")
    times = time_interleaved(peers, repeats, warm_up=1)
    pairs = zip(found["ours"].first.per_class.values(), found["peer"], strict=True)
    differences = [abs(a.ap_area - b["ap"]) for a, b in pairs if a.num_ground_truth]
    return {
        "num_detections": data.num_detections,
        "num_images": data.num_images,
        "num_classes": len(data.class_names),
        "repeats": repeats,
        "processes": processes,
        "peers": summarise(times),
        "largest_difference": max(differences, default=0.0),
    }


def bench_curve(sizes: Sequence[int] = CURVE, repeats: int = 3) -> list[dict[str, float]]:
    """Time and memory of both metrics for so many synthetic detections, each size in a process of its own.

    Returns:
        For each size ``num_detections``, ``num_images``, ``seconds`` (median), ``seconds_per_million``; where the
        system tells (Linux) ``peak_mb`` of the process, and ``times_input``: what input and evaluation take at most,
        over what the input alone takes.
    """
    code = "import sys, json; from sosr_det.analysis.bench_eval_voc import measure; "
    code += "print(json.dumps(measure(*map(int, sys.argv[1:]))))"
    rows = []
    for size in sizes:
        command = [sys.executable, "-c", code, str(size), str(repeats)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout))
    return rows


def measure(num_detections: int, repeats: int) -> dict[str, float]:
    """One row of :func:`bench_curve`, measured in this process."""
    num_images = min(_MOST_IMAGES, max(1, num_detections * _NUM_IMAGES // _NUM_DETECTIONS))
    evaluate_detections(synthetic_detections(100, 10))  # what is loaded or made at first use
    data = synthetic_detections(num_detections, num_images)
    gc.collect()
    before = _reset_peak()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        evaluate_detections(data)
        seconds.append(time.perf_counter() - begin)
    peak = _memory("VmHWM")
    row = {
        "num_detections": num_detections,
        "num_images": num_images,
        "seconds": median(seconds),
        "seconds_per_million": median(seconds) / num_detections * 1e6,
    }
    if before is not None and peak is not None:
        of_input = _input_bytes(data)
        row |= {"peak_mb": peak / _MB, "times_input": (of_input + peak - before) / of_input}
    return row


def report_lines(results: dict[str, Any]) -> list[str]:
    """``peers`` (of :func:`bench_peers`) and ``curve`` (of :func:`bench_curve`) as text."""
    lines = []
    if "peers" in results:
        run = results["peers"]
        lines.append(
            f"{run['num_detections']:,} detections of {run['num_classes']} classes in {run['num_images']:,} images, "
            f"{run['repeats']} rounds in turns, medians; eval_map with {run['processes']} processes"
        )
        for name, row in run["peers"].items():
            lines.append(f"  {name:<28} {row['median_ms']:11.1f} ms   {row['ratio']:8.1f} times {OURS}")
        lines.append(
            f"  wanted: eval_map at least {WANTED_SPEEDUP} times, for one of the two metrics; "
            f"largest difference of a class's area AP {run['largest_difference']:.1e}"
        )
    if "curve" in results:
        lines.append("both metrics, synthetic detections of 20 classes")
        lines.append("      detections      images    seconds   s / million   peak MB   memory / input's")
        for row in results["curve"]:
            memory = f"{row['peak_mb']:9.0f}   {row['times_input']:16.2f}" if "peak_mb" in row else ""
            lines.append(
                f"  {row['num_detections']:14,}  {row['num_images']:10,}  {row['seconds']:9.3f}  "
                f"{row['seconds_per_million']:12.3f} {memory}"
            )
    return lines


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner = rng.uniform(1, 300, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(10, 200, (count, 2))], axis=1)


def _split(image_index: np.ndarray, values: np.ndarray, num_images: int) -> list[np.ndarray]:
    """The rows of each image, in their order."""
    order = np.argsort(image_index, kind="stable")
    return np.split(values[order], np.searchsorted(image_index[order], np.arange(1, num_images)))


def _input_bytes(data: EvaluationSet) -> int:
    truth = [(t.image_index, t.boxes, t.difficult) for t in data.ground_truth.values()]
    found = [(d.image_index, d.boxes, d.scores) for d in data.detections.values()]
    return sum(array.nbytes for arrays in truth + found for array in arrays)


def _reset_peak() -> int | None:
    """Forget the highest use of memory so far (Linux); the present one in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _memory("VmRSS")


def _memory(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)

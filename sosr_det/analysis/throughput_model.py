"""Throughput on paper: images per second and hours of a run from the machine's figures, before anybody has the machine.

A step takes as long as the slower of computing and reading images, plus what of the gradients' exchange is not hidden:

    compute    = batch / img_per_s_per_gpu
    input      = batch / (cores_per_gpu * img_per_s_per_core)
    exchange   = 2 (g-1)/g * bytes / gpu_link  +  2 (m-1)/m * bytes / node_link  +  latencies
    exposed    = max(exchange - 2/3 compute, exchange * last_bucket / bytes)
    step       = max(compute + exposed, input)

with g GPUs in each of m nodes: a ring inside a node, then one between the nodes; each byte is sent and received
2 (n-1)/n times (Patarasu & Yuan 2009, https://doi.org/10.1016/j.jpdc.2008.09.002). DistributedDataParallel sends while
the backward pass, two thirds of a step, still runs; only its last bucket cannot hide. It is an upper bound: stragglers,
optimizer, logging and checkpoints are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sosr_det.errors import ConfigError

_BACKWARD = 2 / 3  # of a training step: gradients of inputs and of weights, each as dear as the forward pass
_BUCKET_BYTES = 25 * 2**20  # DistributedDataParallel's default
_LATENCY_SECONDS = 20e-6  # of one message between neighbours, several hops included


@dataclass(frozen=True)
class Workload:
    """What is to be trained.

    Attributes:
        images: per pass over the training data; passes: number of passes.
        val_images: evaluated after each of ``val_passes`` epochs; a forward pass is a third of a training step.
        parameters: that have gradients, 4 bytes each on the way.
        forward_gmacs: 10^9 multiply-adds of one image's forward pass.
        batch_size_per_gpu: images.
        img_per_s_per_core: default of what one CPU core decodes and augments.
    """

    images: int
    passes: int
    val_images: int
    val_passes: int
    parameters: int
    forward_gmacs: float
    batch_size_per_gpu: int
    img_per_s_per_core: float

    @property
    def gradient_bytes(self) -> int:
        """Of one exchange, in float32."""
        return 4 * self.parameters


WORKLOADS = {
    # pretrain/resnet50_*_8xb32-90e_in1k: torchvision's resnet50 at 224 px, 50,000 images after each epoch.
    "imagenet-90e": Workload(1_281_167, 90, 50_000, 90, 25_557_032, 4.09, 32, 480),
    # detection/retinanet_r50-*_1x_voc0712: 12 passes, 800x608 px (VOC's 500x375 enlarged and padded); no validation.
    "voc0712-1x": Workload(16_551, 12, 0, 0, 36_498_648, 100.8, 2, 60),
}

# Images per second of one GPU. ResNet-50 of both precisions: published by NVIDIA (DeepLearningExamples, PyTorch,
# resnet50v1.5, container 21.03). RetinaNet on a V100: MMDetection's 0.205 s for 16 images on 8 GPUs (docs/en/model_zoo)
# at 1344x800 px (222.6 GMACs), scaled to 800x608 by multiply-adds; on an A100 assumed to gain as ResNet-50 does. With
# mixed precision nothing is published for it.
_RETINANET_V100 = 16 / 8 / 0.205 * 222.6 / 100.8
GPUS = {
    "v100-fp32": {"imagenet-90e": 367.0, "voc0712-1x": _RETINANET_V100},
    "v100-amp": {"imagenet-90e": 1200.0},
    "a100-tf32": {"imagenet-90e": 938.0, "voc0712-1x": _RETINANET_V100 * 938 / 367},
    "a100-amp": {"imagenet-90e": 2470.0},
}


@dataclass(frozen=True)
class Machine:
    """Where it is to be trained.

    Attributes:
        img_per_s_per_gpu: training steps of one GPU that waits for nothing, in images.
        img_per_s_per_core: of the input pipeline.
        cores_per_gpu: CPU cores that read images for one GPU.
        gpus_per_node: at least 1.
        gpu_link_gb_per_s: between GPUs of a node, 10^9 bytes per second and direction (NVLink 3: 230 in practice; PCIe
            4: some 20).
        node_link_gb_per_s: between nodes, of a whole node (one 200 Gbit/s adapter: 25).
    """

    img_per_s_per_gpu: float
    img_per_s_per_core: float
    cores_per_gpu: int = 8
    gpus_per_node: int = 8
    gpu_link_gb_per_s: float = 230.0
    node_link_gb_per_s: float = 25.0


def machine_of(workload_name: str, gpu: str, **measured: Any) -> Machine:
    """A GPU's published figures, with what was measured (keyword arguments that are not None) in their place.

    Raises:
        ConfigError: an unknown workload or GPU, or no figure for the two together.
    """
    for kind, name, known in (("workload", workload_name, WORKLOADS), ("GPU", gpu, GPUS)):
        if name not in known:
            raise ConfigError(f"unknown {kind} {name!r}; known: {', '.join(known)}.")
    rate = measured.get("img_per_s_per_gpu") or GPUS[gpu].get(workload_name)
    if rate is None:
        raise ConfigError(
            f"nothing is published for {workload_name} on {gpu}: measure it with `sosr-det bench train` and give "
            "--img-per-s-per-gpu."
        )
    machine = Machine(rate, WORKLOADS[workload_name].img_per_s_per_core)
    return replace(machine, **{name: value for name, value in measured.items() if value is not None})


def predict(workload: Workload, machine: Machine, gpus: int) -> dict[str, Any]:
    """What the model says of a run on ``gpus`` GPUs.

    Returns:
        ``compute_s``, ``input_s``, ``exchange_s``, ``exposed_s`` and ``step_s`` of one step in seconds; ``img_per_s``
        of all GPUs; ``efficiency``: of as many single GPUs that wait for nothing, 0 to 1; ``bound``: compute, input or
        exchange; ``hours`` of the run.

    Raises:
        ConfigError: a figure that is not positive; more than one node, but not whole ones.
    """
    for name, value in {"gpus": gpus, **asdict(machine)}.items():
        if not value > 0 or not math.isfinite(value):
            raise ConfigError(f"{name} must be a positive number, got {value}")
    nodes = math.ceil(gpus / machine.gpus_per_node)
    if nodes > 1 and gpus % machine.gpus_per_node:
        raise ConfigError(f"{gpus} GPUs are not whole nodes of {machine.gpus_per_node}")
    batch = workload.batch_size_per_gpu
    compute = batch / machine.img_per_s_per_gpu
    per_gpu_input = machine.cores_per_gpu * machine.img_per_s_per_core
    reading = batch / per_gpu_input
    exchange = _ring(min(gpus, machine.gpus_per_node), machine.gpu_link_gb_per_s, workload.gradient_bytes)
    exchange += _ring(nodes, machine.node_link_gb_per_s, workload.gradient_bytes)
    last = min(1.0, _BUCKET_BYTES / workload.gradient_bytes)
    exposed = max(exchange - _BACKWARD * compute, exchange * last)
    step = max(compute + exposed, reading)
    rate = gpus * batch / step
    val_rate = gpus * min(3 * machine.img_per_s_per_gpu, per_gpu_input)
    seconds = workload.images * workload.passes / rate + workload.val_images * workload.val_passes / val_rate
    bound = "input" if step == reading else "exchange" if exposed > compute else "compute"
    return {
        "gpus": gpus,
        "compute_s": compute,
        "input_s": reading,
        "exchange_s": exchange,
        "exposed_s": exposed,
        "step_s": step,
        "img_per_s": rate,
        "efficiency": rate / (gpus * machine.img_per_s_per_gpu),
        "bound": bound,
        "hours": seconds / 3600,
    }


def _ring(size: int, gb_per_s: float, num_bytes: int) -> float:
    """Seconds of an all-reduce among ``size`` neighbours."""
    return 2 * (size - 1) / size * num_bytes / (gb_per_s * 1e9) + 2 * (size - 1) * _LATENCY_SECONDS


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of predictions."""
    lines = [
        "| GPUs | img/s | of ideal | step | compute | input | exchange, not hidden | bound by | hours |",
        "|-----:|------:|---------:|-----:|--------:|------:|---------------------:|----------|------:|",
    ]
    for row in rows:
        ms = {name: f"{1000 * row[name]:.1f} ms" for name in ("step_s", "compute_s", "input_s", "exposed_s")}
        lines.append(
            f"| {row['gpus']} | {row['img_per_s']:,.0f} | {100 * row['efficiency']:.1f} % | {ms['step_s']} | "
            f"{ms['compute_s']} | {ms['input_s']} | {ms['exposed_s']} | {row['bound']} | {row['hours']:.2f} |"
        )
    return "\n".join(lines)

"""A backbone for a sweep that needs none of its own: seeded random weights, published like any other."""

from __future__ import annotations

from pathlib import Path

from sosr_det.registry.manifest import Preprocessing
from sosr_det.registry.store import Entry, Registry
from sosr_det.transfer.probe import compute_probe

_CHANNELS = {18: (64, 128, 256, 512), 34: (64, 128, 256, 512)}


def publish_demo_backbone(root: str | Path, depth: int = 50, seed: int = 0) -> Entry:
    """Publish a torchvision ResNet with random weights as ``zoo-resnet{depth}`` in the registry at ``root``.

    Its features have the size of a trained network's: each block adds little to what it was given, and the batch norm
    statistics are those of noise. With torchvision's initial ones, features grow from block to block, untrained heads
    are sure of what they say, and losses overflow.

    Args:
        root: registry folder, made where absent.
        depth: 18, 34, 50, 101 or 152.
        seed: of weights and noise.
    """
    preprocessing = Preprocessing(
        "rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "0-255", "bilinear", (224, 224)
    )
    network = _network(depth, seed)
    tensors = {name: t for name, t in network.state_dict().items() if not name.startswith("fc.")}
    fields = {
        "arch": {
            "name": f"resnet{depth}",
            "library": "torchvision",
            "style": "pytorch",
            "stem": "7x7/2+maxpool",
            "feature_channels": list(_CHANNELS.get(depth, (256, 512, 1024, 2048))),
        },
        "preprocessing": preprocessing,
        "probe": compute_probe(network, preprocessing),
        "classes": [],
        "metrics": {},
        "seed": seed,
        "notes": "random weights, for the model-zoo sweep only",
    }
    return Registry(root).publish(tensors, fields, f"zoo-resnet{depth}", ["latest"])


def _network(depth: int, seed: int):
    """torchvision's ResNet in eval mode, with seeded weights and sane statistics."""
    import torch
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = getattr(torchvision.models, f"resnet{depth}")(weights=None)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # a plain average over all batches
            if hasattr(module, "downsample"):
                last = module.bn3 if hasattr(module, "bn3") else module.bn2
                torch.nn.init.constant_(last.weight, 0.2)
        with torch.no_grad():
            network.train()
            for _ in range(2):
                network(torch.randn(4, 3, 128, 128))
    return network.eval()

"""How fast the registry is: checking a ResNet-50 beside ``sha256sum``, listing, and finding one entry among many."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sosr_det.analysis.interleaved import summarise, time_interleaved
from sosr_det.cache_root import ENV_CACHE
from sosr_det.errors import ConfigError
from sosr_det.registry import Registry, TensorSpec
from sosr_det.registry.blob import blob_layout
from sosr_det.registry.manifest import Manifest
from sosr_det.registry.refs import Ref
from sosr_det.registry.verified_cache import RACY_SECONDS

PEER = "sha256sum"
WANTED_RATIO = 1.3
WANTED_CACHED_MS = 5
WANTED_CPU_S = 0.5
_CHUNK = 1 << 20
_PREPROCESSING = {
    "channel_order": "rgb",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "scale": "0-255",
    "interpolation": "bilinear",
    "input_size": [224, 224],
}


def resnet50_types() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names, dtypes and shapes of torchvision's ResNet-50 without its classifier: 318 tensors, 94 MB."""
    types: dict[str, tuple[str, tuple[int, ...]]] = {}

    def add_norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            types[f"{name}.{part}"] = ("float32", (channels,))
        types[f"{name}.num_batches_tracked"] = ("int64", ())

    def add_conv(name: str, norm: str, *shape: int) -> None:
        types[f"{name}.weight"] = ("float32", shape)
        add_norm(norm, shape[0])

    add_conv("conv1", "bn1", 64, 3, 7, 7)
    width_in = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            at = f"layer{stage + 1}.{block}"
            add_conv(f"{at}.conv1", f"{at}.bn1", width, width_in, 1, 1)
            add_conv(f"{at}.conv2", f"{at}.bn2", width, width, 3, 3)
            add_conv(f"{at}.conv3", f"{at}.bn3", 4 * width, width, 1, 1)
            if block == 0:
                add_conv(f"{at}.downsample.0", f"{at}.downsample.1", 4 * width, width_in, 1, 1)
            width_in = 4 * width
    return types


def publish_resnet50(root: Path) -> str:
    """Publish random weights of that size under ``resnet50``; returns the URI."""
    import torch

    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.zeros(shape, dtype=torch.int64)
        if dtype == "int64"
        else torch.randn(shape, generator=generator)
        for name, (dtype, shape) in resnet50_types().items()
    }
    return Registry(root).publish(tensors, _fields("resnet50", 0), "resnet50").uri


def fill_registry(root: Path, count: int) -> None:
    """Make a registry with ``count`` names, each with a manifest of its own, all with the same small weights.

    Manifests and refs are the library's own bytes, written without its locks and syncs, which would take minutes. Every
    fourth entry is a detector on one of the backbones before it.
    """
    import torch

    registry = Registry(root)
    first = registry.publish({"weight": torch.zeros(8)}, _fields("backbone-00000", 0), "backbone-00000")
    digests = [first.digest]
    specs: Mapping[str, TensorSpec] = first.manifest.tensors
    for number in range(1, count):
        is_detector = number % 4 == 3
        name = f"{'detector' if is_detector else 'backbone'}-{number:05d}"
        fields = _fields(name, number)
        if is_detector:
            parent = {"uri": "sosr://parent", "digest": digests[number // 2], "relation": "detector-on"}
            metrics = {"map_11point": 0.6 + number / count / 5}
            fields |= {"kind": "detector", "parents": [parent], "metrics": metrics}
        manifest = Manifest.build(specs, fields)
        content = manifest.to_bytes()
        digest = hashlib.sha256(content).hexdigest()
        registry.layout.manifest_path(digest).write_bytes(content)
        path = registry.layout.ref_path(name, "latest")
        path.parent.mkdir(parents=True)
        path.write_bytes(Ref(name, "latest", digest, manifest.created, None, manifest.summary()).to_bytes())
        digests.append(digest)


def bench_registry(
    entries: int = 1000,
    repeats: int = 7,
    sizes: Sequence[int] = (10, 1000, 10_000),
    folder: Path | None = None,
) -> dict[str, Any]:
    """Measure everything in registries made for it.

    Args:
        entries: how many names ``registry ls`` lists.
        repeats: rounds, at least 1; medians are reported.
        sizes: registries of so many entries for the time to find one.
        folder: where to make the registries, which are removed at the end; default: the system's temporary folder.

    Returns:
        ``verify``: peer -> median_ms and ratio to ``sha256sum`` of the same file, see
        :func:`sosr_det.analysis.interleaved.summarise`; ``command_line``: command -> ``cpu_s``, its CPU time without
        that of ``python -c pass``; ``resolve``: entries -> ``median_ms``; and what was measured with.

    Raises:
        ConfigError: fewer than one round or entry.
    """
    if repeats < 1 or entries < 1 or min(sizes, default=1) < 1:
        raise ConfigError(
            f"repeats ({repeats}), entries ({entries}) and sizes {list(sizes)} must be at least 1."
        )
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix="bench-registry-"))
        root = Path(place)
        fill_registry(root / "many", entries)
        stack.enter_context(_own_cache(root / "cache"))
        return {
            "entries": entries,
            "repeats": repeats,
            "peer": "coreutils sha256sum" if shutil.which(PEER) else "hashlib.sha256",
            "blob_bytes": blob_layout(
                {n: TensorSpec(d, s, "") for n, (d, s) in resnet50_types().items()}
            ).size,
            "verify": _bench_verify(root / "resnet50", repeats),
            "command_line": bench_command_line(root / "many", repeats),
            "resolve": {str(size): _bench_resolve(root / f"n{size}", size, repeats) for size in sizes},
        }


@contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    """What is verified here is not remembered in the user's own cache."""
    before = os.environ.get(ENV_CACHE)
    os.environ[ENV_CACHE] = str(folder)
    try:
        yield
    finally:
        del os.environ[ENV_CACHE]
        if before is not None:
            os.environ[ENV_CACHE] = before


def report_lines(results: dict[str, Any]) -> list[str]:
    """The results of :func:`bench_registry` as text, each beside what is wanted of it."""
    verify, commands = results["verify"], results["command_line"]
    megabytes = results["blob_bytes"] / 1e6
    lines = [
        f"weights of a ResNet-50 ({megabytes:.0f} MB), {results['repeats']} rounds in turns, medians; "
        f"the peer is {results['peer']}",
    ]
    for name, row in verify.items():
        lines.append(f"  {name:<24} {row['median_ms']:9.2f} ms   {row['ratio']:.3f} of {PEER}")
    lines.append(f"  wanted: resolve + verify at most {WANTED_RATIO}, cached at most {WANTED_CACHED_MS} ms")
    lines.append(f"CPU time of the process beyond `python -c pass`, {results['entries']} entries to list")
    for name, row in commands.items():
        lines.append(f"  {name:<24} {row['cpu_s']:9.3f} s")
    lines.append(f"  wanted: less than {WANTED_CPU_S} s each")
    lines.append("resolve one name among")
    for size, row in results["resolve"].items():
        lines.append(f"  {int(size):<24,} {row['median_ms']:9.3f} ms")
    return lines


def _bench_verify(root: Path, repeats: int) -> dict[str, dict[str, float]]:
    uri = publish_resnet50(root)
    blob = Registry(root).resolve(uri).blob_path
    time.sleep(RACY_SECONDS + 0.1)  # a file as young as this one is not remembered
    Registry(root).verify(uri)
    peers: dict[str, Callable[[], object]] = {
        PEER: lambda: sha256_of(blob),
        "hashlib.sha256": lambda: hashlib_sha256_of(blob),
        "resolve + verify": lambda: Registry(root).verify(uri, use_cache=False),
        "resolve + cached verify": lambda: Registry(root).verify(uri),
    }
    return summarise(time_interleaved(peers, repeats))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file by coreutils' program, or by hashlib where that is missing."""
    program = shutil.which(PEER)
    if program is None:
        return hashlib_sha256_of(path)
    done = subprocess.run([program, str(path)], check=True, capture_output=True, text=True)
    return done.stdout.split()[0].lstrip("\\")


def hashlib_sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in the pieces in which the registry reads."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def bench_command_line(root: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Command -> ``cpu_s``: user and system time of its process, less that of ``python -c pass``, in turns."""
    ours = [sys.executable, "-m", "sosr_det.cli"]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "sosr-det --help": [*ours, "--help"],
        "sosr-det registry ls": [*ours, "registry", "ls", "--registry", str(root)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}

    def timed(name: str) -> Callable[[], None]:
        def work() -> None:
            seconds[name].append(_cpu_seconds(commands[name]))

        return work

    time_interleaved({name: timed(name) for name in commands}, repeats, warm_up=1)
    kept = {name: times[-repeats:] for name, times in seconds.items()}
    base = kept.pop("python -c pass")
    return {
        name: {"cpu_s": statistics.median(a - b for a, b in zip(times, base, strict=True))}
        for name, times in kept.items()
    }


def _cpu_seconds(command: Sequence[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _bench_resolve(root: Path, count: int, repeats: int) -> dict[str, float]:
    fill_registry(root, count)
    middle = count // 2
    name = f"{'detector' if middle % 4 == 3 else 'backbone'}-{middle:05d}"
    times = time_interleaved({"resolve": lambda: Registry(root).resolve(f"sosr://{name}")}, 10 * repeats)
    return {"median_ms": 1000 * statistics.median(times["resolve"])}


def _fields(name: str, number: int) -> dict[str, Any]:
    return {
        "arch": {
            "name": "resnet50",
            "library": "torchvision",
            "style": "pytorch",
            "stem": "7x7/2+maxpool",
            "feature_channels": [256, 512, 1024, 2048],
        },
        "preprocessing": _PREPROCESSING,
        "metrics": {"top1": 70 + number % 100 / 10, "ece": 0.03},
        "recipe": {"config_name": f"config-{number % 7}", "config_text": json.dumps({"name": name})},
        "data": {"name": "ImageNet-1k", "fingerprint": "0" * 64, "num_samples": 1281167},
        "library_versions": {"python": "3"},
        "seed": number,
    }

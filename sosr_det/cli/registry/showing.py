"""``sosr-det registry show``: all that is known about one entry, and how to use it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from sosr_det.cli.registry.columns import bold, table
from sosr_det.cli.registry.common import (
    JsonOption,
    RootOption,
    UriArgument,
    age,
    as_uri,
    clean,
    print_json,
    size,
)
from sosr_det.cli.registry.listing import identity
from sosr_det.errors import ConfigError
from sosr_det.registry.entry import Entry
from sosr_det.registry.lineage import Branch, family_tree
from sosr_det.registry.metric_names import metric_of, metric_text
from sosr_det.registry.opening import open_registry
from sosr_det.registry.plain_text import clean_lines
from sosr_det.registry.trees import tree_lines
from sosr_det.registry.usage import mmdetection_command, mmdetection_lines

if TYPE_CHECKING:
    from sosr_det.registry.store import Registry

_MOST_METRICS = 12  # lines; a detector has two more per class


def show_command(
    uri: UriArgument,
    config: Annotated[
        bool, typer.Option("--config", help="Print the text of the recipe, and only that.")
    ] = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="List all tensors, and only them.")] = False,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what an entry is, where it comes from, what came of it, and how to use it."""
    registry = open_registry(root)
    entry = registry.resolve(as_uri(uri))
    if config + tensors + as_json > 1:
        raise ConfigError(
            "--config, --tensors and --json each print something of their own; give one of them."
        )
    if config:
        if entry.manifest.recipe is None:
            raise ConfigError(f"{entry.uri} has no recipe: it was not trained with sosr-det.")
        typer.echo(_clean_lines(entry.manifest.recipe.config_text))
        return
    if tensors:
        typer.echo("\n".join(_tensor_lines(entry)))
        return
    trees = family_tree(registry, entry)
    names = sorted(_names(trees))
    if as_json:
        lineage = [tree.to_dict() for tree in trees]
        print_json(
            identity(entry)
            | {"names": names, "previous": _previous(registry, entry), "lineage": lineage}
            | {"manifest": entry.manifest.to_dict()}
        )
        return
    typer.echo(_headline(entry))
    for title, lines in _sections(registry, entry, names, trees):
        typer.echo(f"\n{bold(title)}")
        typer.echo("\n".join(f"  {line}" for line in lines))


def _names(trees: list[Branch]) -> set[str]:
    """All ``name@tag`` that lead to the entry whose trees these are."""
    found: set[str] = set()
    for tree in trees:
        if tree.is_subject and tree.node:
            found |= set(tree.node.names)
        found |= _names(tree.children)
    return found


def _headline(entry: Entry) -> str:
    manifest = entry.manifest
    parts = [manifest.kind, f"{clean(manifest.arch.name)} of {clean(manifest.arch.library)}"]
    parts += [f"{len(manifest.tensors)} tensors, {size(manifest.size_bytes)}", f"{age(manifest.created)} old"]
    return f"{bold(entry.uri)}\n{' · '.join(parts)}"


def _sections(
    registry: Registry, entry: Entry, names: list[str], trees: list[Branch]
) -> list[tuple[str, list[str]]]:
    sections = [
        ("identity", _pairs(_identity(registry, entry, names)) + _notes(entry.manifest.notes or "-")),
        ("network and preprocessing", _pairs(_network(entry))),
        ("metrics", _metrics(entry.manifest.metrics)),
        ("made from", _pairs(_origin(entry))),
        ("lineage", tree_lines(trees)),
    ]
    lines = mmdetection_lines(entry)
    if lines:
        command = mmdetection_command(entry)
        sections.append(("use it in MMDetection", [f"{command}", "# or, in a config:", *lines]))
    else:
        arch = json.dumps(clean(entry.manifest.arch.name))
        lines = ["# MMDetection's ResNet cannot hold it; under a classifier of sosr-det:"]
        lines += ["model = dict(backbone=dict(", f"    arch={arch},"]
        lines += [f'    init_cfg=dict(type="Pretrained", checkpoint="{entry.uri}"),', "))"]
        sections.append(("use it", lines))
    return sections


def _pairs(pairs: list[tuple[str, str]]) -> list[str]:
    return [f"{clean(title):<16} {clean(value)}" for title, value in pairs]


def _notes(text: str) -> list[str]:
    """Their lines below each other, where no title of ours stands."""
    first, *others = clean_lines(text)
    return [f"{'notes':<16} {first}", *(f"{'':<16} {line}".rstrip() for line in others)]


def _identity(registry: Registry, entry: Entry, names: list[str]) -> list[tuple[str, str]]:
    manifest = entry.manifest
    before = _previous(registry, entry)
    return [
        ("pinned uri", entry.pinned_uri),
        *([("before", f"sha256:{before}")] if before else []),
        ("names", ", ".join(names) or "none; only its digest leads to it"),
        ("weights", str(entry.blob_path)),
        ("weights digest", f"sha256:{entry.tensors_digest}"),
        ("size", f"{manifest.size_bytes} bytes"),
        ("license", manifest.license or "not stated"),
        ("created", manifest.created),
    ]


def _previous(registry: Registry, entry: Entry) -> str | None:
    """The digest that the tag meant before it was moved to this entry; `registry tag` takes it back there."""
    if entry.name is None or entry.tag is None:
        return None
    ref = registry.read_ref(entry.name, entry.tag)
    return ref.previous if ref.digest == entry.digest != ref.previous else None


def _network(entry: Entry) -> list[tuple[str, str]]:
    arch, prep = entry.manifest.arch, entry.manifest.preprocessing
    style = f", {arch.style} style" if arch.style else ""
    stem = f", stem {arch.stem}" if arch.stem != "-" else ""
    channels = ", ".join(map(str, arch.feature_channels))
    height, width = prep.input_size
    pairs = [("arch", f"{arch.name} of {arch.library}{style}{stem}")]
    pairs += [("feature channels", channels)] if channels else []
    probe = entry.manifest.probe
    return [
        *pairs,
        ("pixels", f"{prep.channel_order}, {prep.scale}"),
        ("mean", ", ".join(map(str, prep.mean))),
        ("std", ", ".join(map(str, prep.std))),
        ("input", f"{height} x {width} pixels (height x width), {prep.interpolation}"),
        ("probe", f"{probe.input}: {', '.join(sorted(probe.stages))}" if probe else "none"),
    ]


def _metrics(metrics: dict[str, float]) -> list[str]:
    if not metrics:
        return ["none recorded"]
    main = {name: value for name, value in metrics.items() if "/" not in name}
    rows = [[clean(metric_of(name).title), clean(metric_text(name, main[name]))] for name in sorted(main)]
    lines = table(["", ""], rows[:_MOST_METRICS])[1:]
    hidden = len(metrics) - len(lines)
    return [*lines, f"{hidden} more: --json"] if hidden else lines


def _origin(entry: Entry) -> list[tuple[str, str]]:
    manifest = entry.manifest
    recipe, data = manifest.recipe, manifest.data
    versions = ", ".join(f"{name} {version}" for name, version in sorted(manifest.library_versions.items()))
    pairs = [
        ("recipe", f"{recipe.config_name}, sha256:{recipe.config_digest} (text: --config)" if recipe else "-")
    ]
    pairs.append(
        ("data", f"{data['name']}, fingerprint {data['fingerprint'] or 'not known'}" if data else "-")
    )
    for key, value in sorted((data or {}).items()):
        if key not in ("name", "fingerprint"):
            pairs.append(
                (f"  {key}"[:16], value if isinstance(value, str) else json.dumps(value, sort_keys=True))
            )
    return [
        *pairs,
        (
            "classes",
            f"{len(manifest.classes)}, sha256:{manifest.classes_sha256}" if manifest.classes else "-",
        ),
        ("seed", "-" if manifest.seed is None else str(manifest.seed)),
        ("git commit", manifest.git_commit or "-"),
        ("imported with" if manifest.is_imported else "libraries", versions or "-"),
    ]


def _tensor_lines(entry: Entry) -> list[str]:
    tensors = entry.manifest.tensors
    rows = [
        [clean(name), spec.dtype, str(list(spec.shape)), spec.sha256]
        for name, spec in sorted(tensors.items())
    ]
    return table(["tensor", "dtype", "shape", "sha256"], rows)


def _clean_lines(text: str) -> str:
    return "\n".join(clean(line.replace("\t", "    ")) for line in text.splitlines())

"""A sweep from its options to its files: which families, which backbone, what is kept, what is said."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sosr_det.analysis.zoo.families import find_families
from sosr_det.analysis.zoo.result import Trial
from sosr_det.analysis.zoo.results import Results, environment
from sosr_det.analysis.zoo.sweep import Sweep
from sosr_det.analysis.zoo.table import render
from sosr_det.engine.backbone.uri import look_up
from sosr_det.errors import ConfigError
from sosr_det.registry.opening import open_registry, registry_root

_DEPTH = 50  # of the random backbone, and where a weights file does not say its own


def run_and_report(
    names: Sequence[str],
    backbone: str | None,
    registry: str | None,
    *,
    json_file: Path | None = None,
    markdown: Path | None = None,
    jobs: int = 1,
    resume: bool = False,
    image_size: int = 128,
    time_limit: float = 300,
    memory_limit: float = 8,
    say: Callable[[str], None] = print,
) -> list[Trial]:
    """Run a sweep; returns the trials of it that failed.

    Args:
        names: families or configs, empty for all.
        backbone: URI, or None for a random ResNet-50.
        registry: root, None for the default.
        json_file: where results are kept, each as it comes.
        markdown: where the page goes, at the end.
        jobs: families at a time.
        resume: go on with ``json_file``.
        image_size: pixels.
        time_limit: seconds for one family.
        memory_limit: GiB for one family.
        say: gets every line for the user.

    Raises:
        ConfigError: an unknown family; ``json_file`` exists and ``resume`` is not set, or it is from another backbone
            or other versions.
        RegistryError: unknown backbone.
    """
    _check_files(json_file, markdown, resume)
    with _backbone(backbone, registry) as (uri, root):
        source = look_up(uri, root)
        entry = open_registry(root).resolve(source.checkpoint) if source.digest else None
        found = find_families(names, source.depth or _DEPTH)
        results = Results(
            environment(
                uri,
                entry.tensors_digest if entry else None,
                source.arch.name if source.arch else None,
                image_size,
            )
        )
        if resume and json_file is not None and json_file.exists():
            results = _continued(json_file, results)
        results.note(found)
        wanted = [f for f in found if f.config and (names or not _has_passed(results, f.config))]
        sweep = Sweep(source.checkpoint, root, image_size, time_limit, memory_limit, jobs)
        say(
            f"{len(wanted)} configs to try, {len(found) - len(wanted)} without such a ResNet or passed already"
        )
        tried: list[Trial] = []

        def keep(trial: Trial) -> None:
            tried.append(trial)
            results.add(trial)
            if json_file is not None:
                results.write(json_file)
            say(f"{len(tried):3}/{len(wanted)}  {describe(trial)}")

        sweep.run(wanted, keep)
    if json_file is not None:
        results.write(json_file)
    if markdown is not None:
        markdown.write_text(render(results))
    failed = sorted((trial for trial in tried if not trial.passed), key=lambda trial: trial.config)
    say(f"{len(tried) - len(failed)} of {len(tried)} passed")
    return failed


def describe(trial: Trial) -> str:
    """One line about a trial."""
    seconds = f"{sum(trial.seconds.values()):5.1f} s"
    if trial.passed:
        return f"ok      {seconds}  {trial.family}: loss {trial.loss:.4g}, {trial.predicted}"
    return f"failed  {seconds}  {trial.family}: {trial.failed}: {trial.reason}"


def _check_files(json_file: Path | None, markdown: Path | None, resume: bool) -> None:
    """Before minutes of work, not after."""
    if resume and json_file is None:
        raise ConfigError("--resume goes on with a file of results: name it with --json FILE.")
    if json_file is not None and json_file.exists() and not resume:
        raise ConfigError(
            f"{json_file} exists. Go on with it by --resume, or choose another --json or remove it first."
        )
    for option, path in (("--json", json_file), ("--markdown", markdown)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise ConfigError(f"{option} {path}: expected a file in a folder that exists.")


@contextlib.contextmanager
def _backbone(uri: str | None, registry: str | None) -> Iterator[tuple[str, str]]:
    """The URI and its registry's root; a random backbone lives as long as the sweep."""
    if uri is not None:
        yield uri, str(registry_root(registry))
        return
    from sosr_det.analysis.zoo.demo_backbone import publish_demo_backbone

    with tempfile.TemporaryDirectory() as folder:
        yield publish_demo_backbone(folder, _DEPTH).uri, folder


def _continued(json_file: Path, fresh: Results) -> Results:
    """The results of a file, if they can be mixed with those of this sweep."""
    old = Results.read(json_file)
    for key, value in fresh.environment.items():
        if old.environment.get(key) != value:
            raise ConfigError(
                f"{json_file} cannot be gone on with: its {key} is {old.environment.get(key)}, now it is {value}. "
                "Start another file."
            )
    return old


def _has_passed(results: Results, config: str) -> bool:
    trial = results.trials.get(config)
    return trial is not None and trial.passed

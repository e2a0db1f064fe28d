"""Annotations of many files at once."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from sosr_det.data.no_collection import no_collection
from sosr_det.data.voc_annotations import cache as kept
from sosr_det.data.voc_annotations.files import UNKNOWN, Folder, Identity, open_folder, parse
from sosr_det.data.voc_annotations.table import AnnotationTable, TableBuilder
from sosr_det.errors import DataError

_NUM_EXAMPLES = 5


@dataclass(frozen=True, eq=False)
class ReadAnnotations:
    """What :func:`read_annotations` found.

    Attributes:
        table: One image per path, in their order; one with a problem has no objects, and 0, 0 as its size.
        problems: Number of a path -> why the file cannot be used; empty unless ``on_problem='collect'``. A file that
            does not exist is a :class:`~sosr_det.data.voc_annotations.files.MissingAnnotationError`.
        num_parsed: Files that were read now, the rest came from the cache.
    """

    table: AnnotationTable
    problems: dict[int, DataError] = field(default_factory=dict)
    num_parsed: int = 0


def read_annotations(
    paths: Sequence[str | Path],
    *,
    cache: bool = True,
    on_problem: Literal["error", "collect"] = "error",
) -> ReadAnnotations:
    """Read VOC annotations: each as :func:`sosr_det.data.voc_xml.parse_voc_xml` would, only faster.

    Needs neither torch nor MMDetection. One process and no threads, so it can run in loader workers and in each
    process of a distributed job.

    Args:
        paths: XML files on this machine, in one folder or several; a path may come more than once.
        cache: Take unchanged files from this user's cache and keep the others there, see
            :mod:`sosr_det.data.voc_annotations.cache`.
        on_problem: ``'error'``, or ``'collect'`` to have the files that cannot be used in ``problems``.

    Raises:
        DataError: Unless they are collected: files are missing or malformed; all are counted and the first ones
            named with the reason.
    """
    if on_problem not in ("error", "collect"):
        raise ValueError(f"on_problem must be 'error' or 'collect', got {on_problem!r}")
    folders: dict[str, tuple[list[int], list[str]]] = {}
    for number, path in enumerate(paths):
        folder, name = _split(os.fspath(path))
        numbers, names = folders.setdefault(folder, ([], []))
        numbers.append(number)
        names.append(name)
    parts = [read_folder(folder, names, cache=cache) for folder, (_, names) in folders.items()]
    order = [number for numbers, _ in folders.values() for number in numbers]
    problems = {
        numbers[at]: error
        for (numbers, _), part in zip(folders.values(), parts, strict=True)
        for at, error in part.problems.items()
    }
    if problems and on_problem == "error":
        raise _summary([problems[number] for number in sorted(problems)], len(paths))
    table = parts[0].table if len(parts) == 1 else AnnotationTable.concatenate([part.table for part in parts])
    if order != list(range(len(order))):
        table = table.take(np.argsort(np.array(order)))
    return ReadAnnotations(table, dict(sorted(problems.items())), sum(part.num_parsed for part in parts))


def _split(path: str) -> tuple[str, str]:
    """``os.path.split``, several times as fast on systems with one separator."""
    if os.altsep or os.sep not in path:
        return os.path.split(path)
    folder, _, name = path.rpartition(os.sep)
    return folder or os.sep, name


def read_folder(path: str, names: Sequence[str], *, cache: bool = True) -> ReadAnnotations:
    """Read files of one folder, problems collected; the rest as :func:`read_annotations`.

    Args:
        path: The folder.
        names: Files, relative to it.
        cache: See there.
    """
    use_cache = cache and kept.is_enabled()
    cached = kept.load(path) if use_cache else None
    started = time.time()
    with open_folder(path) as folder:
        rows = np.full(len(names), -1) if cached is None else _unchanged_rows(folder, names, cached)
        to_parse = np.flatnonzero(rows < 0)
        builder = TableBuilder()
        identities: list[Identity] = []
        problems: dict[int, DataError] = {}
        wanted = [names[number] for number in to_parse.tolist()]
        with no_collection():
            for number, read in zip(to_parse.tolist(), folder.read(wanted), strict=True):
                identity = UNKNOWN
                try:
                    if isinstance(read, DataError):
                        raise read
                    content, identity = read
                    builder.add(*parse(content, path, names[number]))
                except DataError as error:
                    problems[number] = error
                    builder.add(None, ())
                identities.append(identity)
            parsed = builder.build()
    if use_cache and len(to_parse):
        good = np.array([number not in problems for number in to_parse.tolist()])
        new = np.array(identities, np.int64)
        _keep(
            path,
            cached,
            [names[n] for n in to_parse.tolist()],
            new,
            parsed,
            good & kept.trusted(new, started),
        )
    if cached is None:
        return ReadAnnotations(parsed, problems, len(to_parse))
    # The cached images first, then those read now; each to its place.
    table = cached.table if not len(to_parse) else AnnotationTable.concatenate([cached.table, parsed])
    rows[to_parse] = len(cached.table) + np.arange(len(to_parse))
    return ReadAnnotations(table.take(rows), problems, len(to_parse))


def _unchanged_rows(folder: Folder, names: Sequence[str], cached: kept.CachedFolder) -> np.ndarray:
    """Of each file, its row in the cache, or -1 if it is not there or has changed; int64 [N]."""
    rows = np.array([cached.rows.get(name, -1) for name in names], np.int64)
    known = np.flatnonzero(rows >= 0)
    now = np.array(folder.identities([names[n] for n in known.tolist()]), np.int64).reshape(-1, 5)
    changed = (now != cached.identities[rows[known]]).any(axis=1)
    rows[known[changed]] = -1
    return rows


def _keep(
    path: str,
    cached: kept.CachedFolder | None,
    names: list[str],
    identities: np.ndarray,
    parsed: AnnotationTable,
    worth: np.ndarray,
) -> None:
    """Put the files that are worth it into the cache, with what it holds of others that still exist."""
    new = {names[number]: number for number in np.flatnonzero(worth).tolist()}  # one row of a repeated path
    if not new:
        return
    rows = np.array(list(new.values()), np.int64)
    all_names, all_identities, table = list(new), identities[rows], parsed.take(rows)
    if cached is not None:
        parsed_now = set(names)
        try:
            there = set(os.listdir(path or os.curdir))
        except OSError:
            there = set()
        # A name with a folder in it is not listed here, but rare enough to be kept unseen.
        old = {
            name: row
            for name, row in cached.rows.items()
            if name not in parsed_now and (name in there or os.sep in name)
        }
        old_rows = np.array(list(old.values()), np.int64)
        all_names += old
        all_identities = np.concatenate([all_identities, cached.identities[old_rows]])
        table = AnnotationTable.concatenate([table, cached.table.take(old_rows)])
    kept.save(path, all_names, all_identities, table)


def _summary(errors: list[DataError], num_files: int) -> DataError:
    if len(errors) == 1:
        return errors[0]
    shown = "".join(f"\n  {error}" for error in errors[:_NUM_EXAMPLES])
    more = f"\n  ... and {len(errors) - _NUM_EXAMPLES} more" if len(errors) > _NUM_EXAMPLES else ""
    return DataError(f"{len(errors)} of {num_files} annotation files cannot be used:{shown}{more}")

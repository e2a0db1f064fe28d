"""Where a data set, its archives and its downloads lie below the data root."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sosr_det.data.prepare.catalogue import Archive, DatasetEntry
from sosr_det.errors import ConfigError, DataError


@dataclass(frozen=True)
class Places:
    """The folders of one data set.

    Attributes:
        root: the data root as the user gave it.
        home: the data set's folder, the ``data_root`` of the configs: ``root/<usual name>``, or ``root`` itself if
            it has that name.
        final: the folder that unpacking makes; ``home``, or a folder in it.
        downloads: where downloaded archives go; beside ``final``, never in it.
    """

    root: Path
    home: Path
    final: Path
    downloads: Path

    @classmethod
    def of(cls, entry: DatasetEntry, root: Path) -> Places:
        """Find out whether ``root`` is the folder of all data sets or of this one."""
        is_home = root.absolute().name == entry.folder
        home = root if is_home else root / entry.folder
        becomes_home = bool(entry.archive_top) and not entry.nested  # archives in it would be in the way
        return cls(
            root=root,
            home=home,
            final=home / entry.archive_top if entry.nested else home,
            downloads=root.absolute().parent if is_home and becomes_home else root,
        )

    @property
    def archive_folders(self) -> tuple[Path, ...]:
        """Where archives are looked for."""
        return tuple(dict.fromkeys((self.downloads, self.root, self.home)))


def find_archives(entry: DatasetEntry, places: Places, given: Sequence[Path]) -> dict[Archive, Path]:
    """Find the archives that are there already: those the user named, then those in the usual places.

    Raises:
        ConfigError: a named file is none of this data set's archives.
        DataError: a named file does not exist.
    """
    found: dict[Archive, Path] = {}
    for path in given:
        if not path.is_file():
            raise DataError(f"--archive {path} is not a file.")
        wanted = [archive for archive in entry.archives if archive.filename == path.name]
        if not wanted and len(entry.archives) == 1:
            wanted = [entry.archives[0]]  # a renamed copy; the checksum decides
        if not wanted:
            names = ", ".join(archive.filename for archive in entry.archives)
            raise ConfigError(
                f"--archive {path} has none of the names that {entry.title} comes with: {names}."
            )
        found[wanted[0]] = path
    for archive in entry.archives:
        for folder in places.archive_folders:
            if archive not in found and (folder / archive.filename).is_file():
                found[archive] = folder / archive.filename
    return found


def how_to_place(entry: DatasetEntry, archives: Sequence[Archive], places: Places) -> str:
    """Say which files to put where, and the command to run then."""
    lines = []
    for archive in archives:
        lines += [
            f"  {archive.url or archive.filename}",
            *(f"    or {mirror}" for mirror in archive.mirrors),
            f"    {archive.size / 1e6:,.1f} MB, md5 {archive.md5}"
            + (f" ({archive.md5_source})" if archive.md5_source else ""),
            f"    -> {places.downloads.absolute() / archive.filename}",
        ]
    command = prepare_command(entry, places)
    return "\n".join(
        [
            *lines,
            "(make the folder if it is missing) and run the command again (files elsewhere: --archive FILE for each):",
            f"  {command}",
        ]
    )


def prepare_command(entry: DatasetEntry, places: Places) -> str:
    """The command that prepares this data set there."""
    return f"sosr-det data prepare {entry.name} --root {shlex.quote(str(places.root))}"

"""Where things lie in a registry folder, and whether a folder is a registry at all."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from sosr_det.errors import RegistryError
from sosr_det.registry.damage import Damage
from sosr_det.registry.digest import canonical_json
from sosr_det.registry.files import Staging, logger, os_errors, read_small, refuse_links
from sosr_det.registry.names import check_name, check_tag

ENV_ROOT = "SOSR_REGISTRY"
MARKER = "registry.json"
MARKER_BYTES = canonical_json({"format": "sosr-det registry", "layout_version": 1}) + b"\n"

# A URL, also one that went through Path() and lost a slash; one letter is a drive of Windows.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_HINT = f"Pass --registry, set ${ENV_ROOT}, or publish there to create one"
_WARNED: set[Path] = set()
_OWN = {MARKER, "blobs", "manifests", "refs", "pins", "tmp", ".locks"}


def default_root() -> Path:
    """The folder of the registry when none is given: ``$SOSR_REGISTRY``, or ``registry`` in the working folder."""
    return Path(os.environ.get(ENV_ROOT) or "registry")


class RegistryLayout:
    """Paths inside one registry folder. Nothing on disk is touched before it is asked for."""

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        given = os.fspath(root) if root is not None else os.environ.get(ENV_ROOT) or "registry"
        if _URL.match(given):
            if "://" in given:  # only from Python: the commands open these
                raise RegistryError(
                    f"{given} is the URL of a store, not a folder; `open_registry` opens both."
                )
            meant = given.replace(":/", "://", 1)
            raise RegistryError(f"{given} is neither a folder nor the URL of a store; did you mean {meant}?")
        # The folder itself may be reached through links; below it none are followed.
        self.root = Path(os.path.realpath(Path(given).expanduser()))

    @property
    def tmp_dir(self) -> Path:
        """Where files are written before they are moved into place."""
        return self.root / "tmp"

    @property
    def lock_path(self) -> Path:
        """The lock that every writer holds while it moves files into place.

        Not "write.lock": earlier versions left an empty file of that name, which would count as held for ever.
        """
        return self.root / ".locks" / "writer.lease"

    @property
    def pins_dir(self) -> Path:
        """What running work uses: one folder per manifest digest."""
        return self.root / "pins"

    @property
    def refs_dir(self) -> Path:
        """The folder of all names."""
        return self.root / "refs"

    @property
    def blobs_dir(self) -> Path:
        """The folder of the blobs' two-digit folders."""
        return self.root / "blobs" / "sha256"

    @property
    def manifests_dir(self) -> Path:
        """The folder of all manifests."""
        return self.root / "manifests" / "sha256"

    def blob_path(self, tensors_digest: str) -> Path:
        """The blob of a tensors digest (64 hex digits)."""
        return self.blobs_dir / tensors_digest[:2] / f"{tensors_digest}.safetensors"

    def manifest_path(self, digest: str) -> Path:
        """The manifest of a manifest digest (64 hex digits)."""
        return self.manifests_dir / f"{digest}.json"

    def ref_path(self, name: str, tag: str) -> Path:
        """The ref of a name and tag. Raises :class:`RegistryError` when either is not allowed."""
        return self.refs_dir / check_name(name) / f"{check_tag(tag)}.json"

    def refuse_links(self, path: Path) -> None:
        """Raise :class:`RegistryError` unless ``path`` is reached inside the registry without links."""
        refuse_links(self.root, path)

    def read(self, path: Path, limit: int) -> bytes:
        """All bytes of a small file inside the registry, reached without links.

        Raises:
            FileNotFoundError: there is no such file.
            RegistryError: a link on the way, not a plain file, too large, or unreadable.
        """
        self.refuse_links(path)
        return read_small(path, limit)

    def listdir(self, path: Path) -> list[str]:
        """Sorted names in a folder inside the registry, without hidden ones; empty if there is none.

        Raises:
            RegistryError: a link on the way, or the folder cannot be read.
        """
        self.refuse_links(path)
        try:
            with os_errors(path, "list"):
                return sorted(name for name in os.listdir(path) if not name.startswith("."))
        except RegistryError as error:
            if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
                return []
            raise

    def permissions_warnings(self) -> list[str]:
        """What is wrong with who may write here, one sentence per folder; empty when nothing is.

        A shared registry has many owners and is writable for its group: that is as it should be. A folder that
        everybody on the machine may write is not: anybody could point a tag to other weights, which then verify.
        A sticky folder, where others can add files but not replace them, is left out, except for tags.
        """
        if os.name == "nt":
            return []
        warnings = []
        for folder in (self.root, self.refs_dir, self.blobs_dir, self.manifests_dir, self.lock_path.parent):
            try:
                mode = folder.lstat().st_mode
            except OSError:
                continue
            if mode & stat.S_IWOTH and (folder == self.refs_dir or not mode & stat.S_ISVTX):
                warnings.append(
                    f"everybody on this machine can write to {folder}, so everybody can change what the names in the "
                    f"registry mean. Close it with `chmod o-w {folder}`, or pin entries by digest (sosr://sha256:...)."
                )
        return warnings

    def _warn_once(self) -> None:
        if self.root not in _WARNED:
            _WARNED.add(self.root)
            for warning in self.permissions_warnings():
                logger.warning("%s", warning)

    def require(self) -> None:
        """Check that the folder is a registry of a layout known here; warn once if anybody may write to it.

        Raises:
            RegistryError: it does not exist, is no registry, or a newer sosr-det made it.
            CorruptEntryError: its marker file is damaged.
        """
        hint = _HINT
        with os_errors(self.root, "open the registry"):
            there = self.root.exists()
        if not there:
            raise RegistryError(f"there is no registry at {self.root}: no such folder. {hint}.")
        if not self.root.is_dir():
            raise RegistryError(f"{self.root} is not a folder; expected a registry. {hint}.")
        marker = self.root / MARKER
        try:
            content = self.read(marker, 4096)
        except FileNotFoundError:
            raise RegistryError(
                f"{self.root} is not a registry: it has no {MARKER}. {hint} (in an empty or a new folder)."
            ) from None
        if content == MARKER_BYTES:
            self._warn_once()
            return
        if content.startswith(b'{"format":"sosr-det registry","layout_version":') and content.endswith(
            b"}\n"
        ):
            raise RegistryError(
                f"{self.root} has another layout ({content.decode('utf-8', 'replace').strip()}), this sosr-det "
                "knows layout_version 1. Upgrade sosr-det."
            )
        expected = MARKER_BYTES.decode("ascii").strip()
        raise Damage(str(marker), "content", expected, repr(content[:120])).error(
            advice="If this folder is a registry, write the expected line into that file; nothing else is stored there."
        )

    def create(self) -> None:
        """Make the folder a registry unless it is one. Safe when several processes do so at once.

        Raises:
            RegistryError: it holds other files, or it cannot be written.
        """
        with os_errors(self.root, "create the registry"):
            if self.root.exists() and not self.root.is_dir():
                raise RegistryError(f"{self.root} is not a folder; expected a registry. {_HINT}.")
            if not self.root.is_dir():
                self.root.mkdir(parents=True, exist_ok=True)
            content = set(os.listdir(self.root))
        if MARKER in content:
            self.require()
            return
        if foreign := sorted(content - _OWN):
            raise RegistryError(
                f"{self.root} is not a registry and holds other files ({', '.join(foreign[:5])}); expected an "
                "empty or a new folder. Choose another --registry, or empty this one."
            )
        with Staging(self.root, self.tmp_dir) as staging:
            marker = self.root / MARKER
            staging.place(staging.write([MARKER_BYTES], marker), marker)

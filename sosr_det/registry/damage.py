"""One way to say that a stored file is not what it should be, for errors and for reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from sosr_det.errors import CorruptEntryError

_REPAIR = (
    "Do not use it. Restore the file from a copy, or publish the same weights again: publishing replaces "
    "damaged files. `sosr-det registry verify --all` lists everything that is damaged."
)


@dataclass(frozen=True)
class Damage:
    """A stored file whose content is not what its digest or checksum promises.

    ``part`` says which piece ("tensor 'conv1.weight'", "header", "size"); ``expected`` and ``actual``
    are texts: digests, sizes or types.
    """

    file: str
    part: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return f"{self.file} is damaged: {self.part}: expected {self.expected}, found {self.actual}"

    def as_dict(self) -> dict[str, str]:
        """The fields as plain JSON data."""
        return asdict(self)

    def error(self, others: int = 0, advice: str = _REPAIR) -> CorruptEntryError:
        """The error to raise; ``others`` is how many more damages the same file has, ``advice`` what to do.

        The error carries this object as its attribute ``damage``, so that reports need not parse text.
        """
        more = f" ({others} more in the same file)" if others else ""
        error = CorruptEntryError(f"{self}{more}. {advice}")
        error.damage = self
        return error


def damage_of(error: CorruptEntryError, file: Path | str) -> Damage:
    """The :class:`Damage` behind an error, or one made from its text for ``file``."""
    known = getattr(error, "damage", None)
    if isinstance(known, Damage):
        return known
    return Damage(str(file), "content", "a valid file", str(error))

"""Refs: the small files ``refs/<name>/<tag>.json`` that point to a manifest, the only ones that change.

A ref names its own name, tag and checksum, so that a flipped bit, a hand edit or a file copied under another
name is noticed instead of followed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sosr_det.errors import RegistryError
from sosr_det.registry.damage import Damage
from sosr_det.registry.digest import canonical_json, is_sha256, sha256_hex
from sosr_det.registry.manifest import Summary
from sosr_det.registry.strict_json import Fields, parse_json, text, word

SIZE_LIMIT = 64 * 1024  # bytes


@dataclass(frozen=True)
class Ref:
    """``name``@``tag`` points to the manifest ``digest`` since ``updated`` (UTC); before, to ``previous``.

    ``summary`` repeats what a list shows of the manifest, so that listing thousands of entries reads refs alone; refs
    that an older sosr-det wrote have none.
    """

    name: str
    tag: str
    digest: str
    updated: str
    previous: str | None = None
    summary: Summary | None = None

    def _fields(self) -> dict[str, Any]:
        fields = {key: getattr(self, key) for key in ("name", "tag", "digest", "updated", "previous")}
        return fields if self.summary is None else fields | {"summary": self.summary.to_dict()}

    def checksum(self) -> str:
        """SHA-256 over the other fields, 64 hex digits."""
        return sha256_hex(canonical_json(self._fields()))

    def to_bytes(self) -> bytes:
        """The exact bytes of the ref file."""
        fields = self._fields()
        return canonical_json(fields | {"checksum": sha256_hex(canonical_json(fields))}) + b"\n"

    @classmethod
    def from_bytes(cls, content: bytes, file: Path, name: str, tag: str) -> Ref:
        """Read the ref file ``file``, which must be the one of ``name`` and ``tag``.

        Raises:
            CorruptEntryError: damaged, edited by hand, or another name's or tag's file.
        """
        try:
            fields = Fields(parse_json(content), "", label="ref")
            ref = cls(
                name=fields.take("name", text, "a name"),
                tag=fields.take("tag", text, "a tag"),
                digest=fields.take("digest", _digest, "64 hex digits"),
                updated=fields.take("updated", word, "a UTC time"),
                previous=fields.maybe("previous", _digest, "64 hex digits"),
                summary=Summary.from_dict(fields.take("summary", lambda v: v, "an object"), "ref")
                if "summary" in fields.keys()  # noqa: SIM118  (a method of Fields, not of a dict)
                else None,
            )
            checksum = fields.take("checksum", text, "64 hex digits")
            fields.close()
        except (ValueError, RegistryError) as error:
            raise Damage(str(file), "content", "a ref written by sosr-det", str(error)).error() from None
        if ref.to_bytes() != content:
            if checksum != ref.checksum():
                expected = f"sha256 {ref.checksum()} over its fields"
                raise Damage(str(file), "checksum", expected, f"sha256 {checksum}").error()
            raise Damage(str(file), "content", "canonical JSON", "the same data written differently").error()
        if (ref.name, ref.tag) != (name, tag):
            raise Damage(str(file), "name and tag", f"{name}@{tag}", f"{ref.name}@{ref.tag}").error()
        return ref


def _digest(value: object) -> str:
    if not is_sha256(value):
        raise ValueError
    return str(value)

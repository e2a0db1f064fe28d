"""Blobs that come over the network: hashed while they come, refused at the first wrong bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping

from sosr_det.registry.blob import blob_layout
from sosr_det.registry.damage import Damage
from sosr_det.registry.digest import TensorSpec

ADVICE = (
    "The copy in the store is wrong, and nothing was kept of it. Push the entry again from a registry that holds it "
    "(`sosr-det registry push --repair`), or publish the same weights again."
)


def verified_stream(
    chunks: Iterable[bytes], specs: Mapping[str, TensorSpec], label: str
) -> Iterator[bytes | memoryview]:
    """Hand on the bytes of a blob while comparing them with ``specs``: header byte by byte, tensors by SHA-256.

    What was handed on may be used only once the iterator is exhausted: damage is known at the end of each tensor.

    Raises:
        CorruptEntryError: ``label`` (the object's URL) is not that blob; part, expected and actual are named.
    """
    layout = blob_layout(specs)
    header = bytearray()
    order = iter(layout.order)
    name: str | None = None
    left, digest, done = 0, hashlib.sha256(), 0

    def next_tensor() -> None:
        """Close the tensor that is complete, and all that follow it without a single byte."""
        nonlocal name, left, digest
        while left == 0:
            if name is not None and digest.hexdigest() != specs[name].sha256:
                found = f"sha256 {digest.hexdigest()}"
                raise Damage(label, f"tensor {name!r}", f"sha256 {specs[name].sha256}", found).error(
                    advice=ADVICE
                )
            name = next(order, None)
            if name is None:
                return
            left, digest = specs[name].nbytes, hashlib.sha256()

    for chunk in chunks:
        view = memoryview(chunk)
        done += view.nbytes
        missing = len(layout.header) - len(header)
        if missing > 0:
            header += view[:missing]
            if header != layout.header[: len(header)]:
                at = next(i for i, (a, b) in enumerate(zip(header, layout.header, strict=False)) if a != b)
                raise Damage(
                    label, f"header, byte {at}", f"0x{layout.header[at]:02x}", f"0x{header[at]:02x}"
                ).error(advice=ADVICE)
            yield view[:missing]
            view = view[missing:]
            if len(header) == len(layout.header):
                next_tensor()
        while view.nbytes and name is not None:
            piece = view[:left]
            digest.update(piece)
            left -= piece.nbytes
            yield piece
            view = view[piece.nbytes :]
            if left == 0:
                next_tensor()
    if done != layout.size:
        raise Damage(label, "size", f"{layout.size} bytes", f"{done} bytes").error(advice=ADVICE)

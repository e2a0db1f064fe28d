"""A look through a pickle before it is read, for numbers that alone would fill the memory.

Python's reader keeps what a pickle stores under the number that the pickle gives, in a table as long as the greatest
number: twelve bytes make it take 32 GB. Whoever writes pickles counts from 0, so that no number is greater than the
pickle's length in bytes.

Source: ``Modules/_pickle.c``, ``_Unpickler_MemoPut``; the opcodes are those of ``pickletools``.
"""

from __future__ import annotations

import functools
import re
from pickle import UnpicklingError

# A repeat without an end would need memory for every step.
_LONGEST_RUN = 1000


def check_memo(content: bytes, start: int = 0) -> int:
    """Look through the pickle at ``start`` of ``content``; the place after its end.

    Whatever else is wrong with it is left to the reader.

    Raises:
        UnpicklingError: a number beyond the content's length.
    """
    run, lengths = _opcodes()
    position, size = start, len(content)
    while position < size:
        position = run.match(content, position).end()
        opcode = content[position : position + 1]
        if opcode == b"r":
            number = int.from_bytes(content[position + 1 : position + 5], "little")
            position += 5
        elif opcode == b"p":
            end = content.find(b"\n", position)
            digits = content[position + 1 : end] if end > 0 else b""
            number = int(digits) if digits.isdigit() and len(digits) < 20 else size + 1 if digits else 0
            position = end + 1 if end > 0 else size
        elif opcode in lengths:
            width = lengths[opcode]
            position += 1 + width + int.from_bytes(content[position + 1 : position + 1 + width], "little")
            continue
        elif opcode == b".":
            return position + 1
        elif run.match(content, position).end() == position:
            return size  # no opcode, or cut off: the reader will say so
        else:
            continue
        if number > size:
            raise UnpicklingError(
                f"it stores something under the number {number}, which is made to fill the memory"
            )
    return size


@functools.cache
def _opcodes() -> tuple[re.Pattern[bytes], dict[bytes, int]]:
    """A run of opcodes whose arguments end by themselves; and those with a length before: bytes of the length."""
    import pickletools

    widths = {
        pickletools.TAKEN_FROM_ARGUMENT1: 1,
        pickletools.TAKEN_FROM_ARGUMENT4: 4,
        pickletools.TAKEN_FROM_ARGUMENT4U: 4,
        pickletools.TAKEN_FROM_ARGUMENT8U: 8,
    }
    lengths: dict[bytes, int] = {}
    alternatives: dict[bytes, list[bytes]] = {}
    for each in pickletools.opcodes:
        code = each.code.encode("latin-1")
        if code in (b".", b"r", b"p"):
            continue
        if each.arg is not None and each.arg.n in widths:
            lengths[code] = widths[each.arg.n]
            continue
        if each.arg is None:
            argument = b""
        elif each.arg.n == pickletools.UP_TO_NEWLINE:
            lines = 2 if each.name in ("GLOBAL", "INST") else 1
            argument = rb"[^\n]*\n" * lines
        else:
            argument = b".{%d}" % each.arg.n
        alternatives.setdefault(argument, []).append(re.escape(code))
    choices = b"|".join(b"[%s]%s" % (b"".join(codes), argument) for argument, codes in alternatives.items())
    return re.compile(b"(?s:%s){0,%d}" % (choices, _LONGEST_RUN)), lengths

"""Reading a pickle step by step, with every key of a dict and member of a set looked at before it is hashed.

A few hundred bytes can make a tuple of tuples that are shared over and over, with 10 ** 60 numbers when written out.
Building it takes no time, but hashing it never ends, and Python's compiled reader then does not even answer Ctrl-C. So
keys and members may only be what data has: texts, numbers, and short tuples of these. The reader in pure Python, in
which that can be looked at, takes twice the time per object; arrays of numbers are read as fast.

Source: ``Lib/pickle.py``, ``_Unpickler``, which documents each step's name; the opcodes are those of ``pickletools``.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pickle import UnpicklingError
from typing import Any, ClassVar

_ATOMS = (str, bytes, float, bool, type(None))
_LONGEST_TUPLE = 64
_DEEPEST_TUPLE = 4
_LARGEST_INT = 1 << 64  # hashing a number of a million digits takes as long as reading it, every time


def check_keys(keys: Iterable[object]) -> None:
    """Look at objects before they are hashed; takes no longer than a tuple's length allows.

    Raises:
        UnpicklingError: one is anything but a text, bytes, a number of at most 64 bits, None, or a short tuple of these
            (of tuples, to a few levels, no more objects in all than a short one has).
    """
    for key in keys:
        if type(key) in _ATOMS:
            continue
        if type(key) is tuple:
            _check_tuple(key)
        elif not _is_number(key):
            raise UnpicklingError(f"a {type(key).__name__} as key of a dict or in a set")


def _check_tuple(key: tuple[Any, ...]) -> None:
    level, size = list(key), 0
    for _ in range(_DEEPEST_TUPLE):
        size += len(level)
        if size > _LONGEST_TUPLE:
            break
        deeper: list[Any] = []
        for part in level:
            if type(part) is tuple:
                if len(part) > _LONGEST_TUPLE:
                    raise UnpicklingError("a long tuple as key of a dict or in a set")
                deeper.extend(part)
            elif type(part) not in _ATOMS and not _is_number(part):
                raise UnpicklingError(f"a {type(part).__name__} in a key of a dict or in a set")
        if not deeper:
            return
        level = deeper
    raise UnpicklingError("a tuple of many tuples as key of a dict or in a set")


def _is_number(key: object) -> bool:
    # numpy's numbers are the only objects of numpy that a restricted reader makes by itself.
    return -_LARGEST_INT <= key <= _LARGEST_INT if type(key) is int else type(key).__module__ == "numpy"


class StepwiseUnpickler(pickle._Unpickler):  # type: ignore[name-defined,misc]  # documented in its source alone
    """The reader; a subclass must say in ``find_class`` what names stand for."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

    def find_class(self, module: str, name: str) -> Any:
        raise UnpicklingError(f"it wants to use {module}.{name}, which could run code")

    def _setitem(self) -> None:
        check_keys(self.stack[-2:-1])
        super().load_setitem()

    def _setitems(self) -> None:
        check_keys(self.stack[::2])
        super().load_setitems()

    def _dict(self) -> None:
        check_keys(self.stack[::2])
        super().load_dict()

    def _members(self) -> None:
        check_keys(self.stack)
        super().load_additems()

    def _frozenset(self) -> None:
        check_keys(self.stack)
        super().load_frozenset()

    def _bytearray(self) -> None:
        # Not, as there, room for as many as the pickle says it has: it may not.
        length = int.from_bytes(self.read(8), "little")
        content = self.read(length)
        if len(content) != length:
            raise UnpicklingError("pickle data was truncated")
        self.append(bytearray(content))

    for _opcode, _step in (
        (pickle.SETITEM, _setitem),
        (pickle.SETITEMS, _setitems),
        (pickle.DICT, _dict),
        (pickle.ADDITEMS, _members),
        (pickle.FROZENSET, _frozenset),
        (pickle.BYTEARRAY8, _bytearray),
    ):
        dispatch[_opcode[0]] = _step
    del _opcode, _step


def plain_set(values: object = ()) -> set[Any]:
    """Stands in for ``set``."""
    return set(_members_of(values))


def plain_frozenset(values: object = ()) -> frozenset[Any]:
    """Stands in for ``frozenset``."""
    return frozenset(_members_of(values))


def _members_of(values: object) -> list[Any] | tuple[Any, ...]:
    if not isinstance(values, (list, tuple)):
        raise UnpicklingError(f"a set of a {type(values).__name__}")
    check_keys(values)
    return values


def plain_bytearray(content: object = b"", encoding: object = None) -> bytearray:
    """Stands in for ``bytearray``, which would also make any number of zeros."""
    if isinstance(content, str) and encoding in ("latin1", "latin-1"):
        return bytearray(content, "latin-1")
    if isinstance(content, bytes) and encoding is None:
        return bytearray(content)
    raise UnpicklingError(f"a bytearray of a {type(content).__name__}")

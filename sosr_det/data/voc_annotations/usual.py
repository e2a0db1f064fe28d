"""The usual shape of a VOC annotation, read by regular expressions about ten times as fast as by an XML parser.

Only files of which nothing can be misread are accepted: plain ASCII, no comment, CDATA section, entity, attribute,
processing instruction or document type; every element that counts at most once in its parent; whole or decimal
numbers without blanks. Children may come in any order, and further elements in between are allowed to a depth of
two, such as the parts of people (which have names and boxes of their own). Whatever else a file holds, valid or not, is
left to :func:`sosr_det.data.voc_xml.parse_voc_xml`, which also words the errors: this module never raises one.

Alternatives never match the same text in two ways, so that no file makes the expressions try many combinations; and
possessive quantifiers are avoided, since early releases of Python 3.11 get them wrong.
"""

from __future__ import annotations

import re

from sosr_det.data.voc_annotations.table import RawObject

_SPACE = rb"[ \t\r\n]*"
_TEXT_CHARACTERS = rb" -%'-;=?-~"  # printable ASCII without & < >
_TEXT = rb"[\t\r\n" + _TEXT_CHARACTERS + rb"]*"
_TAG = rb"[A-Za-z_][A-Za-z0-9_.-]*"  # no colon, which would need a declared namespace
_NAME = rb"[" + _TEXT_CHARACTERS + rb"]+"
_NUMBER = rb"-?[0-9]{1,9}(?:\.[0-9]{1,20})?"
_POSITIVE = rb"[1-9][0-9]{0,8}"
_FLAG = rb"[01]"


def _once(tag: bytes, content: bytes, group: int) -> bytes:
    """``<tag>content</tag>`` with the content as ``group``, which must not have matched before."""
    return rb"<%s>(?(%d)(?!))(%s)</%s>" % (tag, group, content, tag)


def _text(tag: bytes) -> bytes:
    """``<tag>text</tag>``: faster than :func:`_other`, which must exclude the tag then, for tags in most files."""
    return rb"<%s>%s</%s>" % (tag, _TEXT, tag)


def _leaf(group: int) -> bytes:
    """Any element that holds text; its name is ``group``."""
    return rb"<(%s)>%s</\%d>" % (_TAG, _TEXT, group)


def _other(group: int, excluded: bytes) -> bytes:
    """Any element but the ``excluded`` ones, with text, or elements with text or leaves; uses four groups.

    A parent has at least one child here: without one, ``<a> </a>`` could be read as a leaf and as a parent.
    """
    parent = rb"<(%s)>%s(?:%s%s)+</\%d>" % (_TAG, _SPACE, _leaf(group + 3), _SPACE, group + 2)
    children = rb"(?:(?:%s|%s)%s)+" % (_leaf(group + 1), parent, _SPACE)
    return rb"<(?!(?:%s)>)(%s)>(?:%s|%s%s)</\%d>" % (excluded, _TAG, _TEXT, _SPACE, children, group)


def _all_of(*groups: int) -> bytes:
    """Goes on only if all these groups have matched."""
    return b"".join(rb"(?(%d)|(?!))" % group for group in groups)


def _any_order(*choices: bytes) -> bytes:
    return rb"(?:(?:%s)%s)*" % (rb"|".join(choices), _SPACE)


_COORDINATES = [
    _once(tag, _NUMBER, group) for group, tag in enumerate((b"xmin", b"ymin", b"xmax", b"ymax"), 4)
]
# The first box counts; a second one is not usual.
_BOX = rb"<bndbox>(?(4)(?!))%s%s</bndbox>%s" % (_SPACE, _any_order(*_COORDINATES), _all_of(4, 5, 6, 7))
_OBJECT = re.compile(
    rb"<object>%s%s</object>%s%s"
    % (
        _SPACE,
        _any_order(
            _once(b"name", _NAME, 1),
            _text(b"pose"),
            _once(b"truncated", _FLAG, 2),
            _once(b"difficult", _FLAG, 3),
            _BOX,
            _text(b"occluded"),
            _other(8, rb"name|pose|truncated|difficult|bndbox|occluded"),
        ),
        _all_of(1, 4),
        _SPACE,
    )
)
_SIZE = rb"<size>(?(1)(?!))%s%s</size>%s" % (
    _SPACE,
    _any_order(_once(b"width", _POSITIVE, 1), _once(b"height", _POSITIVE, 2), _text(b"depth")),
    _all_of(1, 2),
)
_BETWEEN_OBJECTS = _any_order(
    _text(b"folder"),
    _text(b"filename"),
    _text(b"segmented"),
    _SIZE,
    _other(3, rb"folder|filename|segmented|size|object"),
)
_DECLARATION = rb'(?:<\?xml version="1\.0"(?: encoding="(?:utf-8|UTF-8)")?\?>)?'
_START = re.compile(rb"%s%s<annotation>%s%s" % (_DECLARATION, _SPACE, _SPACE, _BETWEEN_OBJECTS))
_BETWEEN = re.compile(_BETWEEN_OBJECTS)
_END = re.compile(rb"</annotation>%s\Z" % _SPACE)


def parse_usual(content: bytes) -> tuple[tuple[int, int] | None, list[RawObject]] | None:
    """``(size, objects)`` of a file of the usual shape, None for any other.

    Args:
        content: the file's bytes.

    Returns:
        What :func:`sosr_det.data.voc_xml.parse_voc_xml` finds in it: ``(width, height)`` in pixels or None where
        there is no ``<size>``, and the objects in the file's order, their texts still bytes.
    """
    between = _START.match(content)
    if between is None:
        return None
    size = None
    objects = []
    match_object = _OBJECT.match
    while True:
        if between[1] is not None:
            if size is not None:
                return None
            size = (int(between[1]), int(between[2]))
        position = between.end()
        found = match_object(content, position)
        if found is None:
            return (size, objects) if _END.match(content, position) else None
        while found is not None:
            objects.append(found.group(1, 2, 3, 4, 5, 6, 7))
            position = found.end()
            found = match_object(content, position)
        between = _BETWEEN.match(content, position)

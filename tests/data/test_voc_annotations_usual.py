"""The fast reader of usual annotations: it agrees with the strict parser or leaves the file to it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sosr_det.data.voc_annotations.files import parse
from sosr_det.data.voc_annotations.table import TableBuilder
from sosr_det.data.voc_annotations.usual import parse_usual
from sosr_det.data.voc_xml import parse_voc_xml
from sosr_det.errors import DataError


def by_the_strict_parser(content):
    """``(size, objects)``, or the error's text."""
    try:
        annotation = parse_voc_xml(content, "a.xml")
    except DataError as error:
        return str(error)
    return annotation.size, [(o.name, o.truncated, o.difficult, o.box) for o in annotation.objects]


def by_ours(content):
    """The same through ``parse`` and a table."""
    try:
        size, objects = parse(content, "a.xml")
    except DataError as error:
        return str(error)
    builder = TableBuilder()
    builder.add(size, objects)
    table = builder.build()
    known = zip(table.truncated.tolist(), table.truncated_known.tolist(), strict=True)
    objects = zip(
        [table.class_names[index] for index in table.class_index],
        [truncated if is_known else None for truncated, is_known in known],
        table.difficult.tolist(),
        map(tuple, table.boxes.tolist()),
        strict=True,
    )
    return tuple(table.sizes[0].tolist()) if table.sizes[0].any() else None, list(objects)


def document(objects=(), size=(500, 375), before="", after="", root="annotation"):
    width, height = size
    size_xml = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<{root}>\n{before}{size_xml}{''.join(objects)}{after}\n</{root}>".encode()


def an_object(
    name="<name>dog</name>",
    flags="<truncated>1</truncated><difficult>0</difficult>",
    box="<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40.5</ymax></bndbox>",
    more="",
):
    return f"<object>{name}{flags}{box}{more}</object>"


PART = (
    "<part><name>head</name><bndbox><xmin>7</xmin><ymin>8</ymin><xmax>9</xmax><ymax>10</ymax></bndbox></part>"
)

USUAL = {
    "plain": document([an_object()]),
    "nothing in it": document(),
    "no size": b"<annotation></annotation>",
    "blanks": document([an_object().replace("><", ">\r\n\t <")]),
    "declaration": b'<?xml version="1.0" encoding="UTF-8"?>\n' + document([an_object()]),
    "size last": b"<annotation>" + an_object().encode() + document(size=(1, 2))[12:],
    "parts before the box": document([an_object(flags=PART + PART)]),
    "parts after the box": document([an_object(more=PART)]),
    "coordinates in another order": document(
        [an_object(box="<bndbox><xmax>30</xmax><xmin>1</xmin><ymax>4</ymax><ymin>-2.25</ymin></bndbox>")]
    ),
    "name last": document([an_object(name="", more="<name>potted plant</name>")]),
    "no flags": document([an_object(flags="<pose>Left</pose>")]),
    "names elsewhere": document([an_object()], before="<owner><name>x</name></owner>"),
}  # fmt: skip

UNUSUAL = {
    "comment": document([an_object()], before="<!-- <object> -->"),
    "object in a comment": document([f"<!--{an_object()}-->", an_object()]),
    "cdata": document([an_object(name="<name><![CDATA[dog]]></name>")]),
    "end of cdata in text": document([an_object()], before="<folder>]]></folder>"),
    "entity": document([an_object(name="<name>dog &amp; cat</name>")]),
    "number as characters": document([an_object(name="<name>&#100;og</name>")]),
    "own entity": b'<!DOCTYPE a [<!ENTITY d "dog">]>' + document([an_object(name="<name>&d;</name>")]),
    "attribute": document([an_object().replace("<object>", "<object id='1'>")]),
    "attribute of the root": document([an_object()]).replace(b"<annotation>", b'<annotation verified="yes">'),
    "empty element": document([an_object(more="<pose/>")]),
    "processing instruction": document([an_object()], before="<?x y?>"),
    "byte order mark": b"\xef\xbb\xbf" + document([an_object()]),
    "utf-16": document([an_object()]).decode().encode("utf-16"),
    "latin-1": b'<?xml version="1.0" encoding="latin-1"?>' + document([an_object(name="<name>K\xe4fer</name>")])
    .decode().encode("latin-1"),
    "not ascii": document([an_object(name="<name>Käfer</name>")]),
    "broken utf-8": document([an_object()], before="<folder>X</folder>").replace(b"X", b"\xff"),
    "two names": document([an_object(more="<name>cat</name>")]),
    "two boxes": document([an_object(more=an_object()[an_object().index("<bndbox>"):-len("</object>")])]),
    "an empty box first": document([an_object(flags="<bndbox></bndbox>")]),
    "half a box first": document(
        [an_object(flags="<bndbox><xmin>1</xmin><ymin>1</ymin></bndbox>",
                   box="<bndbox><xmax>5</xmax><ymax>5</ymax></bndbox>")]
    ),
    "two xmin": document([an_object().replace("<xmin>", "<xmin>3</xmin><xmin>")]),
    "two flags": document([an_object(more="<difficult>1</difficult>")]),
    "two sizes": document([an_object()], after="<size><width>7</width><height>7</height></size>"),
    "two sizes in a row": document(after="<size><width>7</width><height>7</height></size>"),
    "a size without width": document(size=("", 3)),
    "size 0": document(size=(0, 3)),
    "size with a sign": document(size=("+5", 3)),
    "size in a size": document(size=("<width>3</width>", 3)),
    "huge size": document(size=(3_000_000_000, 3)),
    "no name": document([an_object(name="")]),
    "empty name": document([an_object(name="<name></name>")]),
    "name with a child": document([an_object(name="<name>dog<b>x</b></name>")]),
    "name over two lines": document([an_object(name="<name>dog\r\n</name>")]),
    "no box": document([an_object(box="")]),
    "no xmax": document([an_object().replace("<xmax>30</xmax>", "")]),
    "blanks in a number": document([an_object().replace(">30<", "> 30 <")]),
    "exponent": document([an_object().replace(">30<", ">3e1<")]),
    "underscore": document([an_object().replace(">30<", ">3_0<")]),
    "infinite": document([an_object().replace(">30<", ">inf<")]),
    "not a number": document([an_object().replace(">30<", ">thirty<")]),
    "other digits": document([an_object().replace(">30<", ">３０<")]),
    "difficult 2": document([an_object(flags="<difficult>2</difficult>")]),
    "difficult empty": document([an_object(flags="<difficult></difficult>")]),
    "truncated in words": document([an_object(flags="<truncated>yes</truncated>")]),
    "truncated 2": document([an_object(flags="<truncated>2</truncated>")]),
    "box only in a part": document([an_object(box=PART)]),
    "namespace": document([an_object(more="<a:b>1</a:b>")]),
    "default namespace": document([an_object()]).replace(b"<annotation>", b'<annotation xmlns="x">'),
    "text after the end": document([an_object()]) + b"x",
    "second root": document([an_object()]) * 2,
    "text between elements": document([an_object()], before="x"),
    "not closed": document([an_object()])[:-5],
    "wrong tag closed": document([an_object(more="<pose>Left</Pose>")]),
    "crossed tags": document([an_object()], before="<a><b>x</a></b>"),
    "null byte": document([an_object()], before="<folder>\0</folder>"),
    "control character": document([an_object()], before="<folder>\x0b</folder>"),
    "form feed as a blank": document([an_object()]).replace(b"\n", b"\x0c"),
    "another root": document([an_object()], root="annotations"),
    "blanks before the declaration": b' <?xml version="1.0"?>' + document([an_object()]),
    "deep": document([an_object()], before="<a><b><c><d>1</d></c></b></a>"),
    "empty": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", USUAL)
def test_usual_files_are_read_fast_and_right(name):
    content = USUAL[name]
    assert parse_usual(content) is not None
    assert by_ours(content) == by_the_strict_parser(content)
    assert not isinstance(by_ours(content), str)


@pytest.mark.parametrize("name", UNUSUAL)
def test_anything_else_is_left_to_the_strict_parser(name):
    assert parse_usual(UNUSUAL[name]) is None
    assert by_ours(UNUSUAL[name]) == by_the_strict_parser(UNUSUAL[name])


def test_real_files(unpacked):
    """Every annotation of VOC2007, VOC2012 and BCCD; all but a few with ampersands or attributes are usual."""
    paths = [
        path
        for folder in ("voc0712-annotations", "bccd")
        for path in sorted((unpacked(folder) / "VOCdevkit").glob("VOC20*/Annotations/*.xml"))
    ]
    assert len(paths) == 9963 + 17125 + 364
    unusual = []
    for path in paths:
        content = path.read_bytes()
        assert by_ours(content) == by_the_strict_parser(content), path
        if parse_usual(content) is None:
            unusual.append(content)
    assert len(unusual) == 151  # 148 with an ampersand, 3 with an attribute
    assert all(b"&" in content or b"<annotation verified" in content for content in unusual)


# --- random files

_SNIPPETS = [
    "<object>", "</object>", "<name>", "</name>", "<name>dog</name>", "<bndbox>", "</bndbox>", "<xmin>1</xmin>",
    "<ymin>2</ymin>", "<xmax>3</xmax>", "<ymax>4</ymax>", "<size>", "</size>", "<width>5</width>",
    "<height>6</height>", "<difficult>1</difficult>", "<truncated>0</truncated>", "<part>", "</part>", "<a>", "</a>",
    "<a>x</a>", "<a/>", "<!--", "-->", "<![CDATA[", "]]>", "&amp;", "&lt;", "<?a b?>", "<", ">", "&", "]", " ",
    "\n", "\r", "\x0b", "é", "0", "1", "-", ".", "e", "+", "<annotation>", "</annotation>", 'a="b"', PART,
    an_object(), '<?xml version="1.0"?>', "<!DOCTYPE annotation>", "\x7f", "\x00",
]  # fmt: skip
_BLANKS = st.text(" \t\r\n", max_size=2)


@st.composite
def elements(draw, tag, children):
    blank = draw(_BLANKS)
    return f"<{tag}>{blank}{blank.join(draw(children))}{blank}</{tag}>"


def leaves(tag, texts):
    return texts.map(lambda text: f"<{tag}>{text}</{tag}>")


def in_some_order(*choices):
    """Mostly each once, at times one twice or not at all."""
    complete = st.tuples(*choices).flatmap(st.permutations)
    return st.one_of(complete, complete, st.lists(st.one_of(*choices), max_size=len(choices) + 1))


_NUMBERS = st.one_of(
    st.integers(-5, 2000).map(str),
    st.sampled_from(["1.5", "12.25", "-0.5", "1e2", " 7", "", "nan", "007", "0", "1.", ".5", "+3", "9" * 12]),
)
_FLAGS = st.sampled_from(["0", "1", "0", "1", "2", "", " 1", "no"])
_NAMES = st.one_of(
    st.sampled_from(["dog", "cat", "potted plant", " dog", "", "a&amp;b", "<![CDATA[x]]>"]), st.text()
)
_BOXES = elements(
    "bndbox", in_some_order(*(leaves(tag, _NUMBERS) for tag in ("xmin", "ymin", "xmax", "ymax")))
)
_OTHERS = st.one_of(
    leaves("pose", st.sampled_from(["Left", "", "<b>x</b>", "<b> </b>", "<!-- x -->"])),
    leaves("p.a_r-t", st.sampled_from(["<name>head</name>", f"<q>{PART}</q>", PART])),
)
_OBJECTS = elements(
    "object",
    in_some_order(
        leaves("name", _NAMES), leaves("truncated", _FLAGS), leaves("difficult", _FLAGS), _BOXES, _OTHERS
    ),
)
_SIZES = elements("size", in_some_order(*(leaves(tag, _NUMBERS) for tag in ("width", "height", "depth"))))
_DOCUMENTS = elements("annotation", in_some_order(_SIZES, _OBJECTS, _OBJECTS, _OTHERS, _OTHERS))


def check(text: str):
    content = text.encode("utf-8", "surrogatepass")
    assert by_ours(content) == by_the_strict_parser(content)


@settings(max_examples=400, deadline=None)
@given(_DOCUMENTS)
def test_random_documents(text):
    check(text)


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(sorted(USUAL)),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 12), st.sampled_from(_SNIPPETS)), max_size=4),
)
def test_damaged_documents(name, damages):
    text = USUAL[name].decode()
    for position, length, snippet in damages:
        position %= len(text) + 1
        text = text[:position] + snippet + text[position + length :]
    check(text)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(_SNIPPETS), max_size=12), st.booleans())
def test_random_snippets(snippets, inside_an_object):
    middle = "".join(snippets)
    check(
        document([an_object(more=middle)]).decode() if inside_an_object else document(after=middle).decode()
    )


@pytest.mark.parametrize(
    "piece", ["<b> </b>", "<b><c> </c></b>", PART, "<bndbox>", "<a><b><c>", " ", an_object()]
)
@pytest.mark.parametrize("start", ["<annotation>", "<annotation><object>", "<annotation><object><p><q>"])
def test_no_file_takes_long(piece, start):
    """Linear in the file's size. With two ways to match one piece, 22 of them already take seconds."""
    for count in (22, 2000):
        for end in ("<", "</p>", "</object></annotation>", "</q></p></object>"):
            content = f"{start}{piece * count}{end}".encode()
            began = time.process_time()
            assert parse_usual(content) is None
            assert time.process_time() - began < 1

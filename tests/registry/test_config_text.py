"""Reading settings out of a config's text: what is a literal comes out, and nothing is ever run."""

import pytest

from sosr_det.registry.config_text import config_values, walk


def test_literals_as_python_reads_them():
    text = """
# a comment
a = 1
b = dict(x=(1, 2.5), y=[None, True, 'text'], z={'k': -3})
a.b = 4
c, d = 5, 6
e = dict(dict(x=1))
f = dict(**b)
import os
g = os.getcwd()
h = [i for i in range(3)]
"""
    assert config_values(text) == {
        "a": 1,
        "b": {"x": (1, 2.5), "y": [None, True, "text"], "z": {"k": -3}},
        "e": None,
        "f": {},
        "g": None,
        "h": None,
    }


def test_it_reads_what_mmengine_writes():
    from mmengine.config import Config

    values = {
        "model": {"type": "X", "backbone": {"depth": 18}, "in_channels": [64, 128]},
        "scale": (160, 120),
        "lr": 1e-05,
        "inf": {"nothing": None},
    }
    assert config_values(Config(values).pretty_text) == values


def test_code_is_not_run(tmp_path):
    target = tmp_path / "touched"
    for code in (
        f"x = open({str(target)!r}, 'w')",
        f"x = dict(a=open({str(target)!r}, 'w'))",
        f"x = [__import__('pathlib').Path({str(target)!r}).touch()]",
        f"x: int = open({str(target)!r}, 'w')",
        f"class A:\n    x = open({str(target)!r}, 'w')",
    ):
        config_values(code)
        assert not target.exists()


@pytest.mark.parametrize(
    "text",
    [
        "not python (",
        "x = 1\0",
        "x = 1\n" + "#" * (1 << 20),
        "x=" + "(" * 100_000,
        "x=" + "-" * 100_000 + "1",
        "x=1" + "+1" * 100_000,
        "x=a" + ".a" * 100_000,
        "x=" + "not " * 100_000 + "1",
        "x=a" + "()" * 100_000,
    ],
)
def test_no_python_and_absurd_texts_give_nothing(text):
    assert config_values(text) == {}


def test_deep_nesting_ends_somewhere():
    value = config_values("x=" + "[" * 90 + "1" + "]" * 90)["x"]
    for _ in range(60):
        (value,) = value
    assert value in ([None], None)


def test_walk_finds_every_dict_outer_ones_first():
    found = list(walk({"a": [{"b": 1}, ({"c": {"d": 2}},)], "e": "text"}))
    assert [sorted(table) for table in found] == [["a", "e"], ["b"], ["c"], ["d"]]
    assert list(walk(None)) == list(walk("text")) == []

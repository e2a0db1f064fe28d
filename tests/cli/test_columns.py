"""Tables without rich: alignment, wide characters, and what happens on a narrow terminal."""

from sosr_det.cli.registry.columns import table

ROWS = [["a-long-name", "1.5", "a-recipe-with-a-long-name"], ["b", "-", "-"]]
TITLES = ["name", "top-1", "recipe"]


def test_alignment_and_no_trailing_blanks():
    assert table(TITLES, ROWS, right=["top-1"]) == [
        "name         top-1  recipe",
        "a-long-name    1.5  a-recipe-with-a-long-name",
        "b                -  -",
    ]
    assert table(["a", "b"], []) == ["a  b"]


def test_columns_without_titles_have_widths_of_their_own():
    assert table(["", ""], [["a-long-name", "1"], ["b", "22"]])[1:] == ["a-long-name  1", "b            22"]


def test_wide_and_combining_characters_take_the_room_that_they_take():
    lines = table(["x", "y"], [["한국", "1"], ["e\u0301", "2"], ["abcd", "3"]])
    assert lines == ["x     y", "한국  1", "e\u0301     2", "abcd  3"]


def test_a_narrow_terminal_shortens_then_drops_and_never_touches_the_rest():
    fits = {"right": ["top-1"], "shrink": ["recipe"], "drop": ["recipe"]}
    assert table(TITLES, ROWS, width=45, **fits) == table(TITLES, ROWS, right=["top-1"])
    shortened = table(TITLES, ROWS, width=44, **fits)
    assert shortened[1] == "a-long-name    1.5  a-recipe-with-a-long-na…"
    assert max(map(len, shortened)) == 44
    assert table(TITLES, ROWS, width=32, **fits)[1].endswith("a-recipe-wi…")
    dropped = ["name         top-1", "a-long-name    1.5", "b                -"]
    assert table(TITLES, ROWS, width=31, **fits) == dropped
    assert table(TITLES, ROWS, width=5, **fits) == dropped

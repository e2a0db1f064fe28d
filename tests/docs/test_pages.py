"""The pages themselves: links that lead somewhere, code that is tested, lines that fit."""

from __future__ import annotations

from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files(page, checks):
    for target in checks.links.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.parent.name == "anywhere"], ids=lambda page: page.stem
)
def test_every_page_with_code_has_a_test_that_runs_it(page, checks):
    assert "```python" in page.read_text()
    names = (f'run_page("{page.stem}")', f'"{page.name}"')
    tests = [
        path
        for path in Path(__file__).parent.glob("test_*_page.py")
        if any(n in path.read_text() for n in names)
    ]
    assert tests, f"no test runs {page.name}"


def test_only_python_blocks_are_extracted(tmp_path, checks):
    page = tmp_path / "page.md"
    page.write_text("# Title\n```bash\nrm x\n```\n```python\na = 1\n```\ntext\n```python\nb = a\n```\n")
    assert checks.python_code(page) == "\n\n\n\n\na = 1\n\n\n\nb = a\n\n"

"""docs/security.md names a test for every entry, and the tests are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
HERE = Path(__file__).parent


def rows():
    lines = (
        PAGE.partition("## How each input is read")[2].partition("## What is not protected")[0].splitlines()
    )
    return [line for line in lines if line.startswith("| ") and not line.startswith("| entry")]


def test_every_row_names_a_test():
    assert len(rows()) > 30
    for row in rows():
        assert "test_" in row.split(" | ")[-1], row


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+\.py::test_\w+)`", PAGE))))
def test_the_named_test_exists(name):
    file, _, function = name.partition("::")
    body = ast.parse((HERE / file).read_text()).body
    assert function in {node.name for node in body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:sosr_det|tests)/[\w/.]+)`", PAGE))))
def test_the_named_files_exist(path):
    assert (ROOT / path).exists()


def test_every_address_of_mmengine_is_in_the_table():
    from sosr_det.engine.safe_loaders import LOADERS

    for prefix in LOADERS:
        assert f"`{prefix.rpartition(')?')[2]}`" in PAGE


def test_stated_limits_are_those_of_the_code():
    from sosr_det.registry import blob, manifest, refs, safe_load, strict_json

    assert refs.SIZE_LIMIT == 64 * 1024
    assert manifest.SIZE_LIMIT == blob.HEADER_LIMIT == safe_load.HEADER_LIMIT == 16 << 20
    assert strict_json.MAX_DEPTH == 64
    assert "refs 64 KiB, manifests and headers 16 MiB, 64 levels of JSON" in PAGE

"""The loader's benchmark: it generates annotations of VOC's shapes, compares records, and times the right things."""

from __future__ import annotations

import json
import os

import pytest
from typer.testing import CliRunner

from sosr_det.analysis import bench_annotations as bench
from sosr_det.analysis.interleaved import time_interleaved
from sosr_det.cli.bench import app
from sosr_det.data.voc_annotations import cache as kept
from sosr_det.data.voc_annotations import read_annotations
from sosr_det.data.voc_annotations.usual import parse_usual
from sosr_det.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def any_age(monkeypatch):
    """Files written just now are kept, without waiting."""
    monkeypatch.setattr(kept, "RACY_SECONDS", -0.1)


def test_generated_annotations_are_like_vocs(tmp_path):
    for name in ("a", "b"):
        bench.generate_annotations(tmp_path / name, 1500, seed=3)
    files = {n: sorted((tmp_path / n / "VOC2007" / "Annotations").iterdir()) for n in ("a", "b")}
    contents = [path.read_bytes() for path in files["a"]]
    assert contents == [path.read_bytes() for path in files["b"]]
    table = read_annotations(files["a"], cache=False).table
    assert len(table) == 1500
    assert len(table.class_names) == 20
    assert 2 < len(table.boxes) / 1500 < 3.5  # VOC: 2.9
    assert (table.boxes[:, 2:] > table.boxes[:, :2]).all()
    assert (table.boxes[:, :2] >= 1).all()
    assert (table.boxes[:, 2:] <= table.sizes[table.image_index]).all()
    assert 0.1 < table.difficult.mean() < 0.2
    assert table.truncated_known.all()
    unusual = sum(parse_usual(content) is None for content in contents)
    assert 3 < unusual < 40
    assert 500 < sum(content.index(b"<object>") < content.index(b"<size>") for content in contents) < 700


def test_it_runs_and_leaves_the_users_cache_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("SOSR_CACHE", str(tmp_path / "users"))
    monkeypatch.setenv("SOSR_ANNOTATION_CACHE", "0")
    result = CliRunner().invoke(app, ["annotations", "--files", "300", "--repeats", "2", "--json"])
    assert result.exit_code == 0, result.output
    results = json.loads(result.stdout[result.stdout.index("{") :])
    assert (results["files"], results["data"], results["repeats"]) == (300, "generated", 2)
    assert 500 < results["boxes"] < 1200
    for part in ("memory", "disk") if hasattr(os, "posix_fadvise") else ("memory",):
        assert list(results[part]) == [bench.PEER, bench.UNCACHED, bench.CACHED]
        assert results[part][bench.PEER]["ratio"] == 1
        assert results[part][bench.CACHED]["ratio"] < 1
    text = "\n".join(bench.report_lines(results))
    assert "300 annotations (generated, trainval)" in text
    assert text.count("times as fast") == 2 * text.count("\nfiles ")
    assert not (tmp_path / "users").exists()
    assert os.environ["SOSR_ANNOTATION_CACHE"] == "0"


def test_each_peer_does_what_its_name_says(tmp_path, monkeypatch):
    bench.generate_annotations(tmp_path / "kit", 20)
    with bench._own_cache(tmp_path / "cache"):
        loader = bench._Loader(tmp_path / "kit", "trainval")
        parsed = []
        real = kept.load
        monkeypatch.setattr(
            kept, "load", lambda folder: parsed.append(real(folder) is not None) or real(folder)
        )
        loader._prepare(bench.UNCACHED)
        loader.ours()
        assert parsed == [False]
        loader._prepare(bench.UNCACHED)
        loader._prepare(bench.CACHED)
        loader.ours()
        assert parsed == [False, False, True]


def test_other_records_are_refused(tmp_path):
    bench.generate_annotations(tmp_path, 5)
    file = tmp_path / "VOC2007" / "Annotations" / "000003.xml"
    text = file.read_text()
    file.write_text(text.replace(text[text.index("<xmax>") : text.index("</xmax>")], "<xmax>0"))
    with pytest.raises(
        DataError, match=r"000003\.xml: the record differs from MMDetection's; degenerate boxes"
    ):
        bench.bench_annotations(tmp_path, repeats=1)
    with pytest.raises(DataError, match="no list 'val'"):
        bench.bench_annotations(tmp_path, "val", repeats=1)
    with pytest.raises(ConfigError, match=r"repeats \(0\)"):
        bench.bench_annotations(tmp_path, repeats=0)


def test_what_comes_before_a_turn_is_not_timed():
    calls = []
    times = time_interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        2,
        warm_up=0,
        before=lambda name: calls.append(f"before {name}"),
    )
    assert calls == ["before a", "a", "before b", "b", "before b", "b", "before a", "a"]
    assert {name: len(taken) for name, taken in times.items()} == {"a": 2, "b": 2}

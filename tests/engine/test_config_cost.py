"""Configs are formatted and looked up once, and come out as they would without that."""

from __future__ import annotations

import pytest
from mmengine.config import Config, utils
from yapf.yapflib import yapf_api
from yapf.yapflib.errors import YapfError

from sosr_det.engine.config_cost import _MOST_TEXTS, formatted_once, metafiles_read_once
from sosr_det.engine.configs import load_config


@pytest.fixture
def formatted(monkeypatch):
    """Every text that is really formatted; the suite's own memory of them is set aside."""
    texts = []
    real = getattr(yapf_api.FormatCode, "__wrapped__", yapf_api.FormatCode)

    def format_code(text, **options):
        texts.append(text)
        return real(text, **options)

    monkeypatch.setattr(yapf_api, "FormatCode", format_code)
    return texts


def test_a_text_is_formatted_once_and_a_changed_config_again(formatted):
    before = yapf_api.FormatCode
    cfg = Config({"model": {"depth": 18, "layers": list(range(40))}})
    plain = cfg.pretty_text
    assert len(formatted) == 1
    with formatted_once():
        assert [cfg.pretty_text, cfg.pretty_text] == [plain, plain]
        assert len(formatted) == 2
        cfg.model.depth = 50
        assert "depth=50" in cfg.pretty_text
        assert len(formatted) == 3
        with formatted_once():
            assert cfg.pretty_text == cfg.pretty_text
        assert len(formatted) == 3  # the outer one remembers
        for number in range(_MOST_TEXTS):
            cfg.model.depth = number
            assert f"depth={number}" in cfg.pretty_text
        cfg.model.depth = 18
        assert cfg.pretty_text == plain  # forgotten, and formatted again
        assert len(formatted) == 4 + _MOST_TEXTS
    assert yapf_api.FormatCode is before


def test_another_style_is_another_text():
    with formatted_once():
        wide, _ = yapf_api.FormatCode("x = f(aaaa, bbbb)\n", style_config={"column_limit": 80})
        narrow, _ = yapf_api.FormatCode("x = f(aaaa, bbbb)\n", style_config={"column_limit": 12})
    assert wide != narrow


def test_errors_are_raised_and_leave_nothing_behind(formatted):
    before = yapf_api.FormatCode
    with pytest.raises(YapfError), formatted_once():
        yapf_api.FormatCode("x = (\n")
    assert yapf_api.FormatCode is before


def test_metafiles_are_read_once_for_all_bases_of_a_config(monkeypatch):
    name = "detection/retinanet_r50-ce-pre_fpn_1x_voc0712"
    read = []
    load = utils.load

    def counted(path):
        read.append(path)
        return load(path)

    monkeypatch.setattr(utils, "load", counted)
    cfg = load_config(name)
    assert len(read) == len(set(read)) > 50
    assert utils.load is counted
    read.clear()
    plain = Config.fromfile(cfg.filename)
    assert len(read) > len(set(read))  # negative control: mmengine alone reads them again
    assert plain.to_dict() == cfg.to_dict()
    with pytest.raises(ZeroDivisionError), metafiles_read_once():
        raise ZeroDivisionError
    assert utils.load is counted

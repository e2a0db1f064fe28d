"""How arguments come in and errors go out."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from sosr_det.cli.doctor import _registry_state, overlapping_packages
from sosr_det.cli.main import app, expand_cfg_options, explain, main
from sosr_det.errors import DataError
from sosr_det.registry.layout import RegistryLayout


def test_openmmlab_cfg_options_are_expanded():
    arguments = ["train", "c", "--cfg-options", "a=1", "b.c=[1,2]", "--seed", "3"]
    assert expand_cfg_options(arguments) == [
        "train", "c", "--cfg-options", "a=1", "--cfg-options", "b.c=[1,2]", "--seed", "3",
    ]  # fmt: skip


def test_our_error_is_one_message():
    assert explain(DataError("the folder x is empty")) == ("error: the folder x is empty", 1)


def test_an_error_inside_another_is_found():
    outer = RuntimeError("outer")
    outer.__cause__ = DataError("inner")
    assert explain(outer) == ("error: inner", 1)


def test_worker_tracebacks_are_cut():
    text = (
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 3, in f\n    raise DataError(\nsosr_det.errors.DataError: image a.jpg cannot be decoded\n'
    )
    assert explain(DataError(text))[0] == "error: image a.jpg cannot be decoded"


def test_full_disk_and_unexpected_errors():
    assert "no space left" in explain(OSError(errno.ENOSPC, "No space left on device"))[0]
    full = OSError(errno.ENOSPC, "No space left on device")
    assert "--resume" not in explain(full, ["analyze-errors", "x"])[0]
    assert "--resume" in explain(full, ["train", "x"])[0]
    message, code = explain(ZeroDivisionError("division by zero"))
    assert "SOSR_TRACEBACK=1" in message
    assert code == 1


def test_an_unexpected_errors_text_is_cut():
    message, _ = explain(ValueError("\n".join(f"line {i}" for i in range(200))))
    assert "line 3" in message
    assert "line 4" not in message
    assert len(message.splitlines()) <= 6
    assert "(shortened)" in message
    assert "(shortened)" not in explain(ValueError("a\nb\nc\nd"))[0]
    assert len(explain(ValueError("x" * 9000))[0]) < 1000


def test_an_interrupt_is_found_inside_another_error():
    """mmengine's Config.pretty_text turns every exception into a SyntaxError with the config's text."""
    outer = SyntaxError("Failed to format the config file")
    outer.__context__ = KeyboardInterrupt()
    assert explain(outer) == ("interrupted", 130)
    assert explain(KeyboardInterrupt("continue with --resume")) == (
        "interrupted; continue with --resume", 130,
    )  # fmt: skip


@pytest.mark.parametrize(("text", "said"), [("", "interrupted\n"), ("go on", "interrupted; go on\n")])
def test_ctrl_c_is_said_and_exits_130(monkeypatch, capsys, text, said):
    def interrupted():
        raise KeyboardInterrupt(text)

    monkeypatch.setattr("sosr_det.cli.doctor.diagnose", interrupted)
    with pytest.raises(SystemExit) as end:
        main(["doctor"])
    assert end.value.code == 130
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("providers", "problem"),
    [
        ({m: [f"onedl-{m}"] for m in ("mmengine", "mmcv", "mmdet")}, None),
        (
            {
                "mmengine": ["mmengine", "onedl-mmengine"],
                "mmcv": ["onedl-mmcv"],
                "mmdet": ["onedl-mmdetection"],
            },
            "overwrite",
        ),
        ({"mmengine": ["mmengine"], "mmcv": ["onedl-mmcv"], "mmdet": ["onedl-mmdetection"]}, "stock package"),
        (
            {
                "mmengine": ["onedl-mmengine"],
                "mmcv": ["mmcv-lite", "onedl-mmcv"],
                "mmdet": ["onedl-mmdetection"],
            },
            "mmcv-lite",
        ),
        ({"mmcv": ["onedl-mmcv"], "mmdet": ["onedl-mmdetection"]}, "not installed"),
    ],
)
def test_doctor_refuses_overlapping_packages(providers, problem):
    problems = overlapping_packages(providers)
    if problem is None:
        assert problems == []
    else:
        assert len(problems) == 1
        assert problem in problems[0]


def test_doctor_knows_a_registry_from_a_folder(tmp_path):
    def state(path):
        problems = []
        return _registry_state(RegistryLayout(path), problems), problems

    assert state(tmp_path / "none") == ("not there yet; made at the first publish", [])
    RegistryLayout(tmp_path / "registry").create()
    assert state(tmp_path / "registry") == ("exists", [])
    (tmp_path / "photos").mkdir()
    assert state(tmp_path / "photos") == ("empty; made a registry at the first publish", [])
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "file").touch()
    for name, said in (("photos", "is not a registry"), ("file", "is not a folder")):
        text, problems = state(tmp_path / name)
        assert text == "cannot be used"
        assert len(problems) == 1
        assert said in problems[0]


def test_test_reads_the_registry_that_it_is_given(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SOSR_REGISTRY", str(tmp_path / "other"))  # restored at the end
    detector = "demo/retinanet_r18-sosr-pre_fpn_3e_demo-voc"
    with pytest.raises(SystemExit) as end:
        main(["test", detector, "sosr://nothing", "--registry", str(tmp_path / "given")])
    assert end.value.code == 1
    assert f"there is no registry at {tmp_path / 'given'}" in capsys.readouterr().err


def run(*arguments, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "sosr_det.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        **kwargs,
    )


def test_errors_exit_non_zero_without_a_traceback(tmp_path):
    result = run("train", "pretrain/nothing-like-this", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_that_cannot_show_a_character_gets_another_one():
    """Latin-1 lacks the dots of shortened cells and the lines of family trees."""
    code = "import typer\nfrom sosr_det.cli.main import app, main\n"
    code += "app.command('say')(lambda: typer.echo('sosr \\u2026 \\u2514 \\xe4'))\nmain(['say'])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=os.environ | {"PYTHONIOENCODING": "latin-1"}
    )
    assert (run.returncode, run.stderr) == (0, b"")
    assert run.stdout.split() == [b"sosr", b"?", b"?", b"\xe4"]


def test_wrong_usage_exits_2():
    assert run("train").returncode == 2
    assert run("no-such-command").returncode == 2


ROOT = Path(__file__).parents[2]
COMMANDS = {
    "analyze-errors", "compare", "configs", "doctor", "eval-voc", "export", "figures", "report", "swap", "sweep",
    "test", "train", "zoo",
}  # fmt: skip
GROUPS = {
    "bench": {
        "annotations",
        "augment",
        "eval-voc",
        "faults",
        "index",
        "loss",
        "model",
        "pipeline",
        "registry",
        "start",
        "step",
        "train",
    },
    "data": {"demo", "index", "prepare", "shard", "verify"},
    "registry": {
        "ls",
        "show",
        "diff",
        "card",
        "resolve",
        "verify",
        "tag",
        "rm",
        "gc",
        "push",
        "pull",
        "import",
        "export",
    },
}


def commands_in(text: str) -> set[tuple[str, ...]]:
    """``(command,)`` or ``(group, command)`` of every ``sosr-det …`` in a page's code."""
    code = " ".join(re.findall(r"```.*?```|`[^`]+`", text, flags=re.DOTALL))
    found = re.findall(r"sosr-det ([a-z][a-z-]*)(?: ([a-z][a-z-]*)(?![\w/.=]))?", code)
    return {(first, second) if first in GROUPS and second else (first,) for first, second in found}


def test_commands_are_found_in_text():
    text = (
        "`sosr-det doctor` and sosr-det prose\n```\nsosr-det data prepare x\nsosr-det report work_dirs\n```\n"
    )
    assert commands_in(text) == {("doctor",), ("data", "prepare"), ("report",)}


def help_of(*command):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    return end.value.code


def test_every_command_of_the_readme_is_there(capsys):
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    named = commands_in("\n".join(page.read_text() for page in pages))
    assert len({command[0] for command in named}) >= 6, named
    for command in sorted(named):
        assert help_of(*command) == 0, f"sosr-det {' '.join(command)} --help: {capsys.readouterr().err}"
        assert f" {' '.join(command)} [OPTIONS]" in " ".join(capsys.readouterr().out.split())


def test_every_command_answers_help(capsys):
    commands = [(name,) for name in COMMANDS | set(GROUPS)]
    commands += [(group, part) for group, parts in GROUPS.items() for part in parts]
    for command in sorted(commands):
        assert help_of(*command) == 0, command
        assert f" {' '.join(command)} [OPTIONS]" in " ".join(capsys.readouterr().out.split())
    assert help_of("no-such-command") == help_of("data", "no-such-command") == 2  # the negative control
    tree = typer.main.get_command(app).commands
    assert set(tree) == COMMANDS | set(GROUPS)  # a new command belongs into the lists above
    assert {group: set(tree[group].commands) for group in GROUPS} == GROUPS


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["configs"], ["--version"]])
def test_light_commands_import_no_heavy_library(arguments):
    code = (
        "import sys\nfrom sosr_det.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "heavy = {'torch', 'mmengine', 'mmdet', 'mmcv', 'numpy', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr

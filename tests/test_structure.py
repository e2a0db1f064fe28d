"""The rules of the layout: who may import whom, what stays light, what the wheel carries."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sosr_det"

# room -> rooms of sosr_det that it must not import
_TOP = {"analysis", "cli", "register"}
_STAGES = _TOP | {"transfer", "engine"}
FORBIDDEN = {
    "losses": _STAGES | {"models", "data", "registry", "evaluation", "compat"},
    "integrations": _STAGES | {"models", "data", "registry", "evaluation"},
    "models": _STAGES | {"registry", "evaluation"},
    "data": _STAGES | {"models", "registry", "evaluation"},
    "evaluation": _STAGES | {"models", "registry"},
    "registry": _STAGES | {"models", "data", "evaluation"},
    "compat": _STAGES | {"losses", "models", "data", "registry", "evaluation"},
    "transfer": _TOP | {"engine", "evaluation"},
    "engine": {"cli"},
    "analysis": {"cli", "register"},
}


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_dependencies_point_one_way(room):
    for path in (PACKAGE / room).rglob("*.py"):
        rooms = {name.split(".")[1] for name in imported_modules(path) if name.startswith("sosr_det.")}
        assert not rooms & FORBIDDEN[room], f"{path.relative_to(ROOT)} imports {rooms & FORBIDDEN[room]}"


def test_nothing_of_ours_needs_an_integration():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "integrations":
            assert not any(name.startswith("sosr_det.integrations") for name in imported_modules(path)), path


def test_package_imports_neither_tools_nor_configs():
    for path in PACKAGE.rglob("*.py"):
        tops = {name.partition(".")[0] for name in imported_modules(path)}
        assert not tops & {"tools", "configs", "tests"}, path


def test_the_loss_needs_torch_alone():
    for path in (PACKAGE / "losses").rglob("*.py"):
        tops = {name.partition(".")[0] for name in imported_modules(path)} - set(sys.stdlib_module_names)
        assert tops <= {"torch", "sosr_det"}, path


def test_only_the_scheme_knows_mmengine_in_the_registry():
    for path in (PACKAGE / "registry").rglob("*.py"):
        if path.name in ("scheme.py", "safe_load.py", "pickle_standins.py"):
            continue
        assert not any(name.startswith("mmengine") for name in imported_modules(path)), path


def test_config_inheritance_is_at_most_three_deep():
    def depth(path: Path) -> int:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_base_":
                bases = ast.literal_eval(node.value)
                own = [b for b in ([bases] if isinstance(bases, str) else bases) if "::" not in b]
                return 1 + max((depth(path.parent / base) for base in own), default=0)
        return 1

    for path in (ROOT / "configs").rglob("*.py"):
        if "_base_" not in path.relative_to(ROOT / "configs").parts:
            assert depth(path) <= 3, path


def test_no_committed_file_is_large_or_names_a_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    home = str(Path.home())
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file():
            continue
        assert path.stat().st_size <= 1_000_000, name
        if len(home) > 3 and home != "/root":
            assert home not in path.read_text(errors="ignore"), name


def test_the_wheel_carries_configs_where_mmengine_looks(tmp_path):
    pytest.importorskip("hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    for path in (ROOT / "configs").rglob("*.py"):
        assert f"sosr_det/.mim/configs/{path.relative_to(ROOT / 'configs').as_posix()}" in names
    # The installed copy finds its configs by name, without the checkout.
    code = (
        "import sosr_det, sys\nassert 'installed' in sosr_det.__file__, sosr_det.__file__\n"
        "from sosr_det.engine.configs import load_config\n"
        "print(load_config('pretrain/resnet50_sosr_8xb32-90e_in1k').publish.name)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "installed", capture_output=True, text=True, timeout=120
    )
    assert result.stdout.strip() == "resnet50-in1k-sosr", result.stderr

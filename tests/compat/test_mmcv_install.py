"""Who provides ``mmcv._ext``, how the stand-in gets in place, and what OpenMMLab sees of it."""

import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import mmcv
import mmcv.ops
import pytest
import torch
from mmcv import _ext
from torch.utils.data import DataLoader, Dataset

from sosr_det.compat import install, install_mmcv_ops, mmcv_ops_provider
from sosr_det.errors import CompiledOpMissingError, InstallationError

REPOSITORY = Path(__file__).resolve().parents[2]


def run_python(script: str, tmp_path: Path) -> str:
    """Run ``script`` in a fresh process, as a file (spawned workers import it again), and return its output."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_and_question_are_cheap(tmp_path):
    output = run_python(
        """
        import sys
        from sosr_det.compat import mmcv_ops_provider
        print(mmcv_ops_provider())
        print(sorted({"torch", "mmcv", "mmengine", "mmdet", "mmcv._ext"} & set(sys.modules)))
        """,
        tmp_path,
    )
    assert output.split() == ["torchvision", "[]"]


def test_install_is_idempotent(caplog):
    finders, extension = list(sys.meta_path), sys.modules["mmcv._ext"]
    with caplog.at_level("INFO", logger="sosr_det"):
        assert install_mmcv_ops() == "torchvision"
    assert mmcv_ops_provider() == "torchvision"
    assert sys.meta_path == finders
    assert sys.modules["mmcv._ext"] is extension is mmcv._ext
    assert caplog.records == []


def test_fall_back_is_logged_once(monkeypatch, caplog):
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    monkeypatch.setattr(mmcv, "_ext", None)
    with caplog.at_level("INFO", logger="sosr_det"):
        for _ in range(3):
            assert install_mmcv_ops() == "torchvision"
    assert mmcv._ext is sys.modules["mmcv._ext"]
    assert mmcv._ext.__spec__.name == "mmcv._ext"
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert "mmcv has no compiled ops" in record.message


@pytest.mark.parametrize("stand_in_waits", [False, True])
def test_compiled_ops_win(tmp_path, stand_in_waits):
    """The compiled extension is imported, even with the stand-in's finder in place (as in child processes)."""
    (tmp_path / "fake_ext.py").write_text("nms = 'compiled nms'")
    output = run_python(
        f"""
        import importlib.util, sys
        from pathlib import Path
        from sosr_det.compat import install, install_mmcv_ops, mmcv_ops_provider

        class CompiledFinder:
            @staticmethod
            def find_spec(fullname, path=None, target=None):
                if fullname == "mmcv._ext":
                    fake = Path(__file__).with_name("fake_ext.py")
                    return importlib.util.spec_from_file_location(fullname, fake)

        sys.meta_path.append(CompiledFinder)
        if {stand_in_waits}:
            install._add_finder()
        finders = list(sys.meta_path)
        assert mmcv_ops_provider() == "compiled"
        assert install_mmcv_ops() == "compiled"
        assert sys.meta_path == finders
        from mmcv import _ext
        print(_ext.nms)
        assert mmcv_ops_provider() == install_mmcv_ops() == "compiled"
        """,
        tmp_path,
    )
    assert output.strip() == "compiled nms"


def test_without_mmcv(monkeypatch):
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None)
    for function in (mmcv_ops_provider, install_mmcv_ops):
        with pytest.raises(InstallationError, match="pip install onedl-mmcv"):
            function()


def test_an_op_without_fallback_raises_only_when_called():
    dets, scores = torch.zeros(2, 5), torch.zeros(2)
    with pytest.raises(CompiledOpMissingError, match=r"'nms_rotated'.*--no-binary onedl-mmcv"):
        mmcv.ops.nms_rotated(dets, scores, 0.5)
    with pytest.raises(CompiledOpMissingError, match="'border_align_forward'"):
        mmcv.ops.border_align(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 4), 1)
    assert _ext.furthest_point_sampling_forward.__name__ == "furthest_point_sampling_forward"
    # Tools that probe modules for special attributes must get an honest answer.
    with pytest.raises(AttributeError):
        _ext.__wrapped__  # noqa: B018


def test_signatures_equal_the_bindings():
    """Every fallback takes exactly the arguments of mmcv's C++ binding (mmcv.ops passes most by keyword)."""
    bindings = Path(mmcv.__file__).parent / "ops" / "csrc" / "pytorch" / "pybind.cpp"
    if not bindings.is_file():
        pytest.skip(f"this mmcv comes without its sources: {bindings}")
    declared = {
        name: re.findall(r'py::arg\("(\w+)"\)', body)
        for name, body in re.findall(r'm\.def\(\s*"(\w+)"(.*?)\);', bindings.read_text(), re.DOTALL)
    }
    provided = {name: list(inspect.signature(getattr(_ext, name)).parameters) for name in _ext.__all__}
    assert provided == {name: declared.get(name) for name in _ext.__all__}


def test_openmmlab_sees_the_ops():
    from mmcv.utils import collect_env as mmcv_collect_env
    from mmdet.utils import collect_env as mmdet_collect_env
    from mmengine.utils.dl_utils.misc import mmcv_full_available

    assert mmcv_full_available()
    report = mmcv_collect_env()
    assert "torchvision" in report["MMCV Compiler"]
    assert report["MMCV CUDA Compiler"] == "not available"
    assert mmdet_collect_env()["MMDetection"]


@pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="mmcv's check uses pkgutil.find_loader, gone in Python 3.14"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mmcv_own_check_sees_the_ops():
    from mmcv.utils.ext_loader import check_ops_exist

    assert check_ops_exist()


class NmsInWorker(Dataset):
    """Runs an op in the worker; the layer is unpickled there by its name in ``mmcv.ops``."""

    def __init__(self) -> None:
        self.layer = mmcv.ops.RoIAlign(1)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4]])
        return mmcv.ops.nms(boxes, torch.tensor([0.1, 0.2]), 0.5)[1]


def test_forked_workers_run_ops():
    loader = DataLoader(NmsInWorker(), num_workers=1, multiprocessing_context="fork")
    assert torch.cat(list(loader)).flatten().tolist() == [1, 1]


def test_fresh_workers_run_ops(tmp_path):
    """No worker calls install_mmcv_ops: the stand-in has to reach them by itself."""
    output = run_python(
        """
        from torch.utils.data import DataLoader, Dataset

        def kept(boxes, scores):
            import mmcv.ops
            return mmcv.ops.nms(boxes, scores, 0.5)[1]

        class Data(Dataset):
            def __len__(self):
                return 1

            def __getitem__(self, index):
                import torch
                return kept(torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4]]), torch.tensor([0.1, 0.2]))

        if __name__ == "__main__":
            from sosr_det.compat import install_mmcv_ops
            install_mmcv_ops()
            import mmcv.ops
            data = Data()
            data.layer = mmcv.ops.RoIAlign(1)
            for method in ("spawn", "forkserver"):
                loader = DataLoader(data, num_workers=1, multiprocessing_context=method)
                print([batch.tolist() for batch in loader])
        """,
        tmp_path,
    )
    assert output.split() == ["[[[1]]]", "[[[1]]]"]

"""``sosr://`` and local files inside MMEngine: verified, safe, and the same on every rank."""

import multiprocessing
import os
import pickletools
import subprocess
import sys
import zipfile

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from torch.utils.data import DataLoader

from sosr_det.errors import CheckpointError, CorruptEntryError, RegistryError
from sosr_det.registry.safe_load import extract_state_dict, load_state_file
from sosr_det.registry.scheme import load_from_sosr, register_schemes
from sosr_det.registry.store import Registry


@pytest.fixture(autouse=True)
def _schemes():
    """The loaders under test, and MMEngine's own ones back afterwards."""
    before = CheckpointLoader._schemes
    register_schemes()
    yield
    CheckpointLoader._schemes = before


@pytest.fixture
def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))


@pytest.fixture
def published(tmp_path, monkeypatch, net, fields):
    monkeypatch.setenv("SOSR_REGISTRY", str(tmp_path / "registry"))
    return Registry().publish(net.state_dict(), fields, "tiny")


class TinyModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(4, 4)
        self.fc = torch.nn.Linear(4, 2)

    def forward(self, inputs, labels, mode="tensor"):
        logits = self.fc(self.backbone(inputs))
        return {"loss": torch.nn.functional.cross_entropy(logits, labels)} if mode == "loss" else logits


@pytest.fixture
def trained(tmp_path):
    """A checkpoint as a real run of MMEngine writes it, and the model that it holds."""
    from mmengine.logging import MessageHub

    MessageHub.get_instance("tiny").update_scalar("train/empty", 1.0)
    samples = [(torch.randn(4), torch.tensor(i % 2)) for i in range(8)]
    model = TinyModel()
    model.data_preprocessor.forward = lambda data, training=False: {"inputs": data[0], "labels": data[1]}
    runner = Runner(
        model=model,
        work_dir=str(tmp_path / "run"),
        train_dataloader=DataLoader(samples, batch_size=4),
        train_cfg={"by_epoch": True, "max_epochs": 2},
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)),
        param_scheduler=[{"type": "MultiStepLR", "milestones": [1]}],
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        log_level="ERROR",
        experiment_name=f"tiny-{os.getpid()}-{tmp_path.name}",
    )
    runner.train()
    return tmp_path / "run" / "epoch_2.pth", model


def test_training_checkpoints_of_mmengine_are_read_whole(trained):
    path, model = trained
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    assert any("HistoryBuffer" in str(argument) for _, argument, _ in pickletools.genops(pickled))
    content = load_state_file(path)
    unsafe = torch.load(path, weights_only=False)
    assert content.keys() == unsafe.keys()
    assert content["meta"]["epoch"] == 2
    buffers = content["message_hub"]["log_scalars"]
    assert buffers
    for name, buffer in buffers.items():
        assert type(buffer) is HistoryBuffer
        for ours, theirs in zip(buffer.data, unsafe["message_hub"]["log_scalars"][name].data, strict=True):
            assert type(ours) is type(theirs)
            assert ours.dtype == theirs.dtype
            assert ours.tolist() == theirs.tolist()
        buffer.update(1.0)
        assert buffer.current() == 1.0
    state = extract_state_dict(content)
    assert all(state[name].equal(tensor) for name, tensor in model.state_dict().items())


def test_mmengine_resumes_from_a_safely_loaded_checkpoint(trained, tmp_path):
    path, _ = trained
    model = TinyModel()
    model.data_preprocessor.forward = lambda data, training=False: {"inputs": data[0], "labels": data[1]}
    runner = Runner(
        model=model,
        work_dir=str(tmp_path / "resumed"),
        train_dataloader=DataLoader([(torch.randn(4), torch.tensor(0))] * 4, batch_size=4),
        train_cfg={"by_epoch": True, "max_epochs": 3},
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)),
        load_from=str(path),
        resume=True,
        log_level="ERROR",
        experiment_name=f"resumed-{os.getpid()}-{tmp_path.name}",
    )
    runner.train()
    assert runner.epoch == 3
    assert extract_state_dict(load_state_file(tmp_path / "resumed" / "epoch_3.pth"))


def test_plain_processes_read_training_checkpoints_too(trained):
    code = (
        "import sys; from sosr_det.registry import load_state_file; c = load_state_file(sys.argv[1]); "
        "assert type(next(iter(c['message_hub']['log_scalars'].values()))).__name__ == 'HistoryBuffer'"
    )
    subprocess.run([sys.executable, "-c", code, str(trained[0])], check=True)


def test_pretrained_init_and_load_checkpoint_use_the_scheme(published, net):
    from mmengine.model import PretrainedInit

    for load in (
        lambda module: PretrainedInit("sosr://tiny")(module),
        lambda module: load_checkpoint(module, published.pinned_uri, strict=True),
    ):
        other = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        load(other)
        assert all(other.state_dict()[name].equal(tensor) for name, tensor in net.state_dict().items())


def test_what_the_loader_returns(published, net):
    content = CheckpointLoader.load_checkpoint("sosr://tiny@latest", map_location="cpu")
    assert content["state_dict"].keys() == net.state_dict().keys()
    assert content["meta"] == {
        "sosr_uri": "sosr://tiny@latest",
        "sosr_digest": published.digest,
        "manifest": published.manifest.to_dict(),
    }
    with pytest.raises(CheckpointError, match="map_location"):
        load_from_sosr("sosr://tiny", lambda storage, location: storage)


def test_damaged_entries_and_unknown_names_stop_mmengine(published, net):
    with pytest.raises(RegistryError, match="Near names: tiny"):
        load_checkpoint(net, "sosr://tinny")
    content = bytearray(published.blob_path.read_bytes())
    content[-1] ^= 1
    published.blob_path.write_bytes(content)
    with pytest.raises(CorruptEntryError, match="expected sha256"):
        load_checkpoint(net, "sosr://tiny")


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_hostile_local_files_are_refused(tmp_path, net):
    target = tmp_path / "touched"
    torch.save({"state_dict": net.state_dict(), "meta": Touch(target)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="run code"):
        load_checkpoint(net, str(tmp_path / "a.pth"))
    assert not target.exists()
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(net, str(tmp_path / "absent.pth"))


def test_registering_twice_changes_nothing():
    before = dict(CheckpointLoader._schemes)
    register_schemes()
    assert dict(CheckpointLoader._schemes) == before
    loaders = {
        name: CheckpointLoader._get_checkpoint_loader(name).__name__ for name in ("sosr://a", "a.pth", "/a")
    }
    assert loaders == {"sosr://a": "load_from_sosr", "a.pth": "load_from_local", "/a": "load_from_local"}
    assert CheckpointLoader._get_checkpoint_loader("https://a").__name__ == "load_from_http"


def _rank(rank, folder, roots, uri):
    import datetime

    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    os.environ["SOSR_REGISTRY"] = roots[rank]
    if rank == 1:  # rank 0 alone may look at tags
        Registry.read_ref = None
    try:
        meta = load_from_sosr(uri)["meta"]
        text = f"ok {meta['sosr_digest']} {meta['sosr_uri']}"
    except Exception as error:
        text = f"{type(error).__name__} {error}"
    with open(f"{folder}/rank{rank}", "w") as file:
        file.write(text)
    os._exit(0)


def run_ranks(folder, roots, uri):
    folder.mkdir()
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_rank, args=(rank, folder, roots, uri)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(90)
        assert child.exitcode == 0
    return [(folder / f"rank{rank}").read_text() for rank in range(2)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_all_ranks_load_what_rank_0_resolved_or_fail_together(published, tmp_path):
    root = str(tmp_path / "registry")
    same = run_ranks(tmp_path / "same", [root, root], "sosr://tiny")
    assert same == [f"ok {published.digest} sosr://tiny"] * 2
    unknown = run_ranks(tmp_path / "unknown", [root, root], "sosr://tinny")
    assert unknown[0] == unknown[1]
    assert unknown[0].startswith("RegistryError rank 0: there is no 'tinny'")
    absent = run_ranks(tmp_path / "absent", [root, str(tmp_path / "nowhere")], "sosr://tiny")
    assert absent[0] == absent[1]
    assert absent[0].startswith("RegistryError rank 1: there is no registry at")

"""Shards: the same data as the folders, wherever they are; damage is named; writing goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import tarfile
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image

import sosr_det.register  # noqa: F401
from sosr_det.data.classification import CUB200, ImageNetFolder, ShardedImages
from sosr_det.data.sample_seeds import SampleSeededDataset
from sosr_det.data.shards.opening import open_shards
from sosr_det.data.shards.storage import Storage
from sosr_det.data.shards.verify import verify_shards
from sosr_det.data.shards.write import parse_size, write_shards
from sosr_det.engine.setup import apply_data_root
from sosr_det.errors import ConfigError, DataError, UnreadableImageError

RANDOM_CROPS = [
    {"type": "torchvision/RandomResizedCrop", "size": 16, "antialias": True},
    {"type": "torchvision/RandomHorizontalFlip", "p": 0.5},
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SOSR_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """40 training images of three classes and several sizes, JPEG and PNG, and 6 of validation."""
    root = tmp_path_factory.mktemp("folders")
    draws = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 6)):
        for number in range(count):
            folder = root / split / ("cat", "dog", "owl ä")[number % 3]
            folder.mkdir(parents=True, exist_ok=True)
            size = tuple(draws.integers(20, 60, 2).tolist())
            pixels = draws.integers(0, 255, (*size, 3), np.uint8)
            suffix = ".png" if number % 7 == 0 else ".JPEG"
            Image.fromarray(pixels).save(folder / f"image.{number}{suffix}")
    return root


@pytest.fixture(params=["folder", "memory"])
def out(request, tmp_path):
    """Where shards are written to: here, or a store behind a URL."""
    if request.param == "folder":
        yield str(tmp_path / "shards")
        return
    name = f"memory://{uuid.uuid4().hex}/shards"
    yield name
    fsspec.filesystem("memory").rm(name.removeprefix("memory:/").rpartition("/")[0], recursive=True)


def source(folders: Path, split: str = "train", pipeline=()) -> ImageNetFolder:
    return ImageNetFolder(str(folders), split, list(pipeline))


def write(folders: Path, out: str, **options):
    return write_shards(source(folders), out, "train", **{"shard_bytes": 20_000, **options})


def snapshot(out: str, split: str = "train") -> dict[str, bytes]:
    storage = Storage(out).below(split)
    return {name: storage.read(name) for name in storage.sizes() if not name.startswith(".")}


def change(out: str, name: str, content: bytes | None) -> None:
    storage = Storage(out).below("train")
    storage.remove(name) if content is None else storage.write(name, content)


@pytest.mark.parametrize("shuffle_seed", [None, 5])
@pytest.mark.parametrize(
    "options", [{}, {"keep": True}, {"keep": True, "keep_bytes": 0}, {"read_ahead_bytes": 3000}]
)
def test_shards_are_the_folders_bit_for_bit(folders, out, shuffle_seed, options):
    written = write(folders, out, shuffle_seed=shuffle_seed)
    assert len(written.index.shards) > 3
    assert max(shard.bytes for shard in written.index.shards) <= 20_000
    mine = DATASETS.build(
        {"type": "ShardedImages", "data_root": out, "split": "train", "pipeline": RANDOM_CROPS, **options}
    )
    theirs = source(folders, pipeline=RANDOM_CROPS)
    assert (len(mine), mine.metainfo, mine.fingerprint()) == (
        len(theirs),
        theirs.metainfo,
        theirs.fingerprint(),
    )
    assert mine.labels.tolist() == theirs.labels.tolist()
    seeded = [SampleSeededDataset(data) for data in (mine, theirs)]
    for data in seeded:
        data.set_epoch(1, 2)
    order = torch.randperm(len(mine), generator=torch.Generator().manual_seed(0)).tolist()
    for index in order:
        assert mine.read_encoded(index).data == theirs.read_encoded(index).data
        ours, other = (data[index] for data in seeded)
        assert ours["labels"] == other["labels"]
        assert torch.equal(ours["inputs"], other["inputs"])
    assert mine.sample_name(0).endswith(":" + theirs.index.path(0))
    assert verify_shards(out, "train") == (len(written.index.shards), 40)


def test_they_may_be_read_by_workers_of_both_kinds(folders, out):
    write(folders, out)
    data = ShardedImages(out, "train", [])
    expected = [data.read_encoded(index).data for index in range(len(data))]
    again = pickle.loads(pickle.dumps(data))  # what a spawned worker gets
    assert [again.read_encoded(index).data for index in range(len(data))] == expected
    assert again.index.source is not None
    assert len(pickle.dumps(data)) < 12_000  # no table in it
    loader = torch.utils.data.DataLoader(
        ShardedImages(out, "train", [{"type": "torchvision/Resize", "size": [8, 8]}]),
        batch_size=5, num_workers=2, multiprocessing_context="fork",
    )  # fmt: skip
    assert torch.cat([batch["labels"] for batch in loader]).tolist() == data.labels.tolist()


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning:webdataset"
)
def test_webdataset_reads_them(folders, tmp_path):
    wds = pytest.importorskip("webdataset")
    written = write(folders, str(tmp_path), shuffle_seed=1)
    files = [str(tmp_path / "train" / shard.name) for shard in written.index.shards]
    theirs = source(folders)
    seen = []
    for sample in wds.WebDataset(files, shardshuffle=False):
        index = int(sample["__key__"])
        seen.append(index)
        assert int(sample["cls"]) == theirs.labels[index]
        suffix = Path(theirs.index.path(index)).suffix[1:].lower()
        assert sample[suffix] == theirs.read_encoded(index).data
    assert sorted(seen) == list(range(40))
    assert seen != sorted(seen)  # shuffled, as asked
    decoded = next(iter(wds.WebDataset(files, shardshuffle=False).decode("pil").to_tuple("jpeg;png", "cls")))
    assert isinstance(decoded[1], int)


def test_tar_reads_them_and_the_bytes_are_always_the_same(folders, tmp_path):
    write(folders, str(tmp_path / "a"))
    write(folders, str(tmp_path / "b"))
    first = snapshot(str(tmp_path / "a"))
    assert first == snapshot(str(tmp_path / "b"))
    with tarfile.open(tmp_path / "a" / "train" / "000000.tar") as archive:
        assert archive.getnames()[:2] == ["00000000.png", "00000000.cls"]
    assert set(first) == {"index.json", "samples.idx", *(n for n in first if n.endswith(".tar"))}
    index = json.loads(first["index.json"])
    for shard in index["shards"]:
        assert hashlib.sha256(first[shard["name"]]).hexdigest() == shard["sha256"]


@pytest.mark.parametrize("at", [0, 1, 3])
def test_an_interrupted_writing_goes_on(folders, out, tmp_path, at, monkeypatch):
    write(folders, str(tmp_path / "reference"), shuffle_seed=2)
    real = Storage.put

    def put(self, file, name):
        if name == f"{at:06d}.tar":
            raise OSError(28, "No space left on device")
        real(self, file, name)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put", put)
        with pytest.raises(OSError, match="No space left"):
            write(folders, out, shuffle_seed=2)
    assert not [name for name in snapshot(out) if name.endswith(".part")]
    with pytest.raises(DataError, match="are unfinished: run the same"):
        ShardedImages(out, "train", [])
    with pytest.raises(DataError, match="unfinished writing of other data or with other options"):
        write(folders, out, shuffle_seed=3)
    assert write(folders, out, shuffle_seed=2).kept == at
    assert snapshot(out) == snapshot(str(tmp_path / "reference"))
    assert write(folders, out, shuffle_seed=2).already_there
    with pytest.raises(DataError, match="already holds shards, but with another shard_bytes"):
        write(folders, out, shuffle_seed=2, shard_bytes=30_000)


def test_a_shard_that_was_cut_off_meanwhile_is_written_again(folders, tmp_path, monkeypatch):
    out = str(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write", fail_at(Storage.write, "index.json"))
        with pytest.raises(OSError, match=r"index\.json"):
            write(folders, out)
    file = tmp_path / "out" / "train" / "000001.tar"
    os.truncate(file, 100)
    assert write(folders, out).kept == 1
    verify_shards(out, "train")


def fail_at(real, wanted):
    def write(self, name, content):
        if name == wanted:
            raise OSError(f"cannot write {name}")
        real(self, name, content)

    return write


def test_missing_and_cut_off_shards_are_named_on_opening(folders, out):
    write(folders, out)
    tar = snapshot(out)["000001.tar"]
    change(out, "000001.tar", tar[:-512])
    with pytest.raises(
        DataError, match=r"shard \S+/train/000001\.tar has \d+ bytes instead of \d+.*Copy it again"
    ):
        ShardedImages(out, "train", [])
    change(out, "000001.tar", None)
    with pytest.raises(DataError, match=r"000001\.tar is missing"):
        ShardedImages(out, "train", [])
    with pytest.raises(DataError, match=r"000001\.tar is missing"):
        verify_shards(out, "train")


@pytest.mark.parametrize("options", [{}, {"keep": True}, {"read_ahead_bytes": 3000}])
def test_damage_that_comes_later_is_named_too(folders, out, options):
    write(folders, out)
    data = ShardedImages(out, "train", [], **options)
    row = int(np.flatnonzero(data.shard_numbers == 2)[-1])
    tar = bytearray(snapshot(out)["000002.tar"])
    whole = bytes(tar)
    tar[int(data.shard_positions[row]) + 30] ^= 1
    change(out, "000002.tar", bytes(tar))
    kept = "keep" in options and "://" in out
    with pytest.raises(DataError, match=r"000002\.tar.*(checksum is not|its sha256 is)") as caught:
        data.read_encoded(row)
    assert (
        isinstance(caught.value, UnreadableImageError) != kept
    )  # a whole shard that is wrong is no single image
    if not kept:
        other = int(np.flatnonzero(data.shard_numbers == 2)[0])
        assert data.read_encoded(other).data
        assert ShardedImages(out, "train", [], check=False).read_encoded(row).data
    with pytest.raises(DataError, match=r"1 of \d+ shards .* are damaged:\n000002\.tar: its sha256 is"):
        verify_shards(out, "train")
    data = ShardedImages(out, "train", [], **options)
    change(out, "000002.tar", whole[:1500])
    with pytest.raises(DataError, match=r"000002\.tar is (cut off|damaged)"):
        data.read_encoded(row)


def test_a_wrong_label_in_an_archive_is_found(folders, tmp_path):
    """The archive and its sha256 agree with each other, and not with the table."""
    out = str(tmp_path)
    write(folders, out)
    folder = tmp_path / "train"
    tar = (folder / "000000.tar").read_bytes()
    index = json.loads((folder / "index.json").read_text())
    with tarfile.open(folder / "000000.tar") as archive:
        place = archive.getmember("00000000.cls").offset_data
    changed = tar[:place] + b"9" + tar[place + 1 :]
    (folder / "000000.tar").write_bytes(changed)
    opened = open_shards(out, "train")
    object.__setattr__(opened.index.shards[0], "sha256", hashlib.sha256(changed).hexdigest())
    from sosr_det.data.shards import verify

    problem = verify._problem(
        opened.storage, opened.index.shards[0], opened.table, np.flatnonzero(opened.table.shard == 0)
    )
    assert problem == "the label in 00000000.cls is not the one in samples.idx"
    assert index["num_samples"] == 40


def test_other_versions_and_changed_indexes_are_refused(folders, out):
    write(folders, out)
    text = snapshot(out)["index.json"].decode()
    for old, new, message in (
        ('"version": 1', '"version": 2', "is of version 2, and this SOSR-Det reads version 1"),
        ('"cat"', '"cow"', "its digest is not that of its content"),
        ('"000000.tar"', '"../00000.tar"', "is no shard"),
        ("{", "", "is damaged or was changed by hand"),
    ):
        change(out, "index.json", text.replace(old, new, 1).encode())
        with pytest.raises(DataError, match=message):
            ShardedImages(out, "train", [])
    change(out, "index.json", text.encode())
    table = bytearray(snapshot(out)["samples.idx"])
    table[-100] ^= 255
    change(out, "samples.idx", bytes(table))
    shutil.rmtree(Path(os.environ["SOSR_CACHE"]) / "shards", ignore_errors=True)
    with pytest.raises(DataError, match=r"samples\.idx is damaged"):
        ShardedImages(out, "train", [])


def test_a_table_of_other_shards_is_refused(folders, tmp_path):
    write(folders, str(tmp_path / "a"))
    write(folders, str(tmp_path / "b"), shuffle_seed=1)
    shutil.copy(tmp_path / "b" / "train" / "samples.idx", tmp_path / "a" / "train" / "samples.idx")
    with pytest.raises(DataError, match="it belongs to shards that were written another time"):
        ShardedImages(str(tmp_path / "a"), "train", [])


def test_a_store_without_a_cache_works(folders, tmp_path, monkeypatch):
    out = f"memory://{uuid.uuid4().hex}"
    write(folders, out)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SOSR_CACHE", str(tmp_path / "file"))
    data = ShardedImages(out, "train", [])
    assert pickle.loads(pickle.dumps(data)).read_encoded(3).data == source(folders).read_encoded(3).data


def test_kept_shards_make_room_for_others(folders, tmp_path):
    out = f"memory://{uuid.uuid4().hex}"
    written = write(folders, out)
    most = 2 * 20_000
    data = ShardedImages(out, "train", [], keep=True, keep_bytes=most)
    for index in range(len(data)):
        data.read_encoded(index)
    kept = list((tmp_path / "cache" / "shards").glob("*.tar"))
    assert 1 <= len(kept) <= 3 < len(written.index.shards)


def test_what_cannot_be_written_is_refused(folders, tmp_path):
    with pytest.raises(DataError, match="no shards in"):
        ShardedImages(str(tmp_path / "nowhere"), "train", [])
    with pytest.raises(DataError, match=r"s3://b/x::memory://y: chained addresses"):
        ShardedImages("s3://b/x::memory://y", "train", [])
    with pytest.raises(DataError, match=r"nosuch://\S* cannot be opened"):
        ShardedImages("nosuch://user:secret@host/x", "train", [])
    with pytest.raises(ConfigError, match="at least 10000 bytes"):
        write(folders, str(tmp_path / "x"), shard_bytes=10)
    (tmp_path / "full" / "train").mkdir(parents=True)
    (tmp_path / "full" / "train" / "mine.txt").write_text("")
    with pytest.raises(DataError, match=r"is not empty \(it holds mine\.txt\)"):
        write(folders, str(tmp_path / "full"))
    assert [parse_size(text) for text in ("256MB", "1GiB", "1.5 kB", "12345")] == [
        256 * 10**6,
        2**30,
        1500,
        12345,
    ]
    for text in ("", "MB", "12XB", "nan MB", "1e400"):
        with pytest.raises(ConfigError, match="is no size"):
            parse_size(text)


def test_an_image_larger_than_a_shard_has_one_of_its_own(folders, tmp_path):
    root = tmp_path / "large"
    shutil.copytree(folders, root)
    draws = np.random.default_rng(1)
    Image.fromarray(draws.integers(0, 255, (120, 120, 3), np.uint8)).save(root / "train" / "dog" / "a.png")
    written = write_shards(source(root), str(tmp_path / "out"), "train", 20_000)
    assert [shard.samples for shard in written.index.shards if shard.bytes > 20_000] == [1]
    verify_shards(str(tmp_path / "out"), "train")


def test_cub(tmp_path, folders):
    root = tmp_path / "cub"
    files = sorted((folders / "train").rglob("*.JPEG"))[:4]
    for number, file in enumerate(files):
        place = root / "images" / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    (root / "images.txt").write_text("".join(f"{n + 1} {n}.jpg\n" for n in range(4)))
    (root / "image_class_labels.txt").write_text("1 1\n2 2\n3 1\n4 2\n")
    (root / "train_test_split.txt").write_text("1 1\n2 1\n3 0\n4 0\n")
    write_shards(CUB200(str(root), "test", []), str(tmp_path / "out"), "test", 20_000)
    data = ShardedImages(str(tmp_path / "out"), "test", [])
    assert data.labels.tolist() == [0, 1]
    assert data.fingerprint() == CUB200(str(root), "test", []).fingerprint()


def test_the_shipped_data_config_and_a_url_as_data_root(folders, out):
    """It differs from the one of folders in the type alone, and --data-root points it to either kind of place."""
    root = Path(__file__).resolve().parents[2] / "configs" / "_base_" / "datasets"
    shards, plain = (Config.fromfile(root / f"imagenet_224{name}.py") for name in ("_shards", ""))
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        mine, theirs = shards[loader].to_dict(), plain[loader].to_dict()
        assert mine["dataset"].pop("type") == "ShardedImages"
        assert mine["dataset"].pop("data_root") == "data/imagenet-shards"
        del theirs["dataset"]["type"], theirs["dataset"]["data_root"]
        assert mine == theirs
    write(folders, out)
    apply_data_root(shards, out)
    assert shards.train_dataloader.dataset.data_root.rstrip("/") == out
    assert len(DATASETS.build(shards.train_dataloader.dataset)) == 40
    with pytest.raises(DataError, match=r"s3://b/x is a URL, and ImageNetFolder reads files"):
        apply_data_root(plain, "s3://b/x")

"""The blob file: readable by safetensors, and no bit of it can change unnoticed."""

from io import FileIO

import pytest
import torch
from safetensors.torch import load_file, save_file

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry import blob
from sosr_det.registry.blob import blob_chunks, check_blob, digest_blob, verified_chunks
from sosr_det.registry.digest import DTYPES, digest_of_specs, tensor_bytes, tensor_specs, tensors_digest


def write(path, state):
    specs = {}
    path.write_bytes(b"".join(bytes(chunk) for chunk in blob_chunks(state, specs)))
    return specs


def test_written_blobs_are_canonical_and_plain_safetensors(tmp_path, state):
    path, again = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    specs = write(path, state)
    write(again, dict(reversed(state.items())))
    assert path.read_bytes() == again.read_bytes()
    assert specs == tensor_specs(state)
    assert digest_blob(path) == digest_of_specs(specs) == tensors_digest(state)
    assert check_blob(path, specs) == []
    loaded = load_file(path)
    assert tensors_digest(loaded) == tensors_digest(state)


def test_every_dtype_survives_and_is_aligned(tmp_path):
    state = {
        f"{name}.{i}": torch.arange(3 * width, dtype=torch.uint8).view(getattr(torch, name))
        for name, (_, width) in DTYPES.items()
        for i in range(2)
        if name != "bool"
    } | {"bool": torch.tensor([True, False]), "scalar": torch.tensor(1.5, dtype=torch.bfloat16)}
    path = tmp_path / "a.safetensors"
    specs = write(path, state)
    loaded = load_file(path)
    assert tensors_digest(loaded) == digest_of_specs(specs) == tensors_digest(state)


def test_every_flipped_bit_is_found(tmp_path, state):
    path = tmp_path / "a.safetensors"
    specs = write(path, {key: state[key] for key in ("bn1.running_var", "bn1.num_batches_tracked", "mask")})
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for bit in range(len(content) * 8):
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        damages = check_blob(path, specs)
        assert len(damages) == 1, bit
        assert damages[0].file == str(path)
        assert damages[0].expected != damages[0].actual
        assert damages[0].part.startswith("header" if bit // 8 < header else "tensor "), bit


def test_damaged_values_name_each_tensor_and_both_digests(tmp_path, state):
    path = tmp_path / "a.safetensors"
    specs = write(path, state)
    changed = state | {"half": state["half"] + 1, "mask": ~state["mask"]}
    other = write(path, changed)
    damages = {damage.part: damage for damage in check_blob(path, specs)}
    assert damages.keys() == {"tensor 'half'", "tensor 'mask'"}
    assert specs["half"].sha256 in damages["tensor 'half'"].expected
    assert other["half"].sha256 in damages["tensor 'half'"].actual


def test_other_tensors_of_the_same_size_are_named(tmp_path):
    path = tmp_path / "a.safetensors"
    specs = tensor_specs({"a": torch.zeros(2, 3), "b": torch.zeros(2)})
    write(path, {"a": torch.zeros(3, 2), "b": torch.zeros(2)})
    (damage,) = check_blob(path, specs)
    assert (damage.part, damage.expected, damage.actual) == (
        "header, tensor 'a'",
        "float32 [2, 3]",
        "float32 [3, 2]",
    )
    write(path, {"a": torch.zeros(2, 3), "c": torch.zeros(2)})
    (damage,) = check_blob(path, specs)
    assert (damage.part, damage.actual) == ("header, tensor 'b'", "none")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_truncation_and_growth_are_found(tmp_path, state, share):
    path = tmp_path / "a.safetensors"
    specs = write(path, state)
    content = path.read_bytes()
    for broken in (content[: int(len(content) * share)], content + bytes(int(100 * share) + 1)):
        path.write_bytes(broken)
        (damage,) = check_blob(path, specs)
        assert (damage.part, damage.expected, damage.actual) == (
            "size",
            f"{len(content)} bytes",
            f"{len(broken)} bytes",
        )
        with pytest.raises(CorruptEntryError):
            digest_blob(path)


def test_short_reads_are_continued(tmp_path, state, monkeypatch):
    """Network file systems may return fewer bytes than asked for."""

    class Dribble(FileIO):
        def readinto(self, buffer):
            return super().readinto(memoryview(buffer)[:5])

        def read(self, size=-1):
            return super().read(min(size, 5))

    path = tmp_path / "a.safetensors"
    specs = write(path, state)
    monkeypatch.setattr(blob, "open_regular", lambda path: Dribble(path))
    assert check_blob(path, specs) == []
    assert digest_blob(path) == digest_of_specs(specs)
    buffers = {name: bytearray(spec.nbytes) for name, spec in specs.items()}
    assert check_blob(path, specs, lambda name: memoryview(buffers[name])) == []
    assert all(buffers[name] == bytes(tensor_bytes(name, state[name])) for name in state)


def test_a_file_that_shrinks_while_it_is_read_is_damage(tmp_path, state, monkeypatch):
    class Shrinking(FileIO):
        def readinto(self, buffer):
            return 0

    path = tmp_path / "a.safetensors"
    specs = write(path, state)
    monkeypatch.setattr(blob, "open_regular", lambda path: Shrinking(path))
    damages = check_blob(path, specs)
    assert len(damages) == len(state) - 1  # one has no values
    assert "ended after 0 of 432 bytes" in next(d.actual for d in damages if "conv1.weight" in d.part)


def test_missing_files_links_and_folders(tmp_path, state):
    path = tmp_path / "a.safetensors"
    specs = tensor_specs(state)
    assert check_blob(path, specs)[0].actual == "no such file"
    write(tmp_path / "real", state)
    path.symlink_to("real")
    with pytest.raises(RegistryError, match="symbolic link"):
        check_blob(path, specs)
    with pytest.raises(RegistryError, match="not a plain file"):
        check_blob(tmp_path, specs)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x02\0\0\0\0\0\0\0",
        (1 << 62).to_bytes(8, "little") + b"{}",
        b"\x08\0\0\0\0\0\0\0{}      ",
        b"\x08\0\0\0\0\0\0\0[[[[[[[[",
        (4096).to_bytes(8, "little") + b"[" * 4096,
        b'\x38\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}  ',
    ],
)
def test_hostile_headers_are_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CorruptEntryError, match="header"):
        digest_blob(path)


def test_foreign_safetensors_files_are_not_taken_for_blobs(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata={"format": "pt"})
    with pytest.raises(CorruptEntryError, match="canonical header"):
        digest_blob(path)


def test_no_tensors_is_an_error():
    with pytest.raises(RegistryError, match="no tensors"):
        list(blob_chunks({}, {}))


def test_a_tensor_changed_while_it_is_written_is_described_as_written():
    tensor = torch.zeros(4)
    specs = {}
    chunks = blob_chunks({"a": tensor}, specs)
    written = [next(chunks), next(chunks)]
    tensor += 1
    written += list(chunks)
    assert specs == tensor_specs({"a": torch.zeros(4)})
    assert bytes(written[1]) == bytes(16)


def test_a_copy_is_the_same_bytes_and_any_damage_stops_it(tmp_path, state):
    path = tmp_path / "a.safetensors"
    specs = write(path, state)
    content = path.read_bytes()
    assert b"".join(verified_chunks(path, specs)) == content
    for bit in range(0, len(content) * 8, 97):
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        (found,) = check_blob(path, specs)
        with pytest.raises(CorruptEntryError) as caught:
            list(verified_chunks(path, specs))
        assert caught.value.damage == found
    for share in (0, 0.01, 0.5, 0.99, 1.01):
        path.write_bytes((content * 2)[: int(len(content) * share)])
        with pytest.raises(CorruptEntryError, match="size"):
            list(verified_chunks(path, specs))
    path.unlink()
    with pytest.raises(CorruptEntryError, match="no such file"):
        list(verified_chunks(path, specs))


def test_a_copy_of_a_file_that_shrinks_meanwhile_stops(tmp_path, state, monkeypatch):
    class Shrinking(FileIO):
        def read(self, size=-1):
            return b"" if self.tell() > 600 else super().read(min(size, 100))

    path = tmp_path / "a.safetensors"
    specs = write(path, state)
    assert path.stat().st_size > 700
    monkeypatch.setattr(blob, "open_regular", lambda path: Shrinking(path))
    with pytest.raises(CorruptEntryError, match=r"ended \d+ bytes early"):
        list(verified_chunks(path, specs))

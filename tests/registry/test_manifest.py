"""The manifest: canonical bytes, strict reading, errors that name the field."""

import copy
import json
from pathlib import Path

import pytest
import torch

from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry.digest import canonical_json, sha256_hex, tensor_specs, tensors_digest
from sosr_det.registry.manifest import SIZE_LIMIT, Arch, Manifest, Parent
from sosr_det.registry.refs import Ref


@pytest.fixture
def manifest(state, fields) -> Manifest:
    return Manifest.build(tensor_specs(state), fields)


def test_round_trip_is_exact(manifest, state, fields):
    content = manifest.to_bytes()
    assert Manifest.from_bytes(content, "m.json", manifest.digest) == manifest
    assert manifest.digest == sha256_hex(content)
    document = json.loads(content)
    assert list(document) == sorted(document)
    assert document["tensors_digest"] == tensors_digest(state)
    assert document["tensors"]["conv1.weight"]["shape"] == [4, 3, 3, 3]
    assert document["recipe"]["config_digest"] == sha256_hex(fields["recipe"]["config_text"].encode())
    assert document["arch"] == fields["arch"]
    assert document["classes_sha256"] == sha256_hex(b'["tench","crane","crane"]')


def test_bytes_do_not_depend_on_the_order_of_fields(manifest, state, fields):
    shuffled = {key: fields[key] for key in reversed(fields)}
    shuffled["arch"] = dict(reversed(fields["arch"].items()))
    again = Manifest.build(dict(reversed(tensor_specs(state).items())), shuffled)
    assert again.to_bytes() == manifest.to_bytes()


def test_dataclasses_numpy_numbers_and_defaults_are_accepted(state, fields):
    import numpy as np

    few = {"arch": Arch(**fields["arch"]), "preprocessing": fields["preprocessing"]}
    few["metrics"] = {"top1": np.float32(0.5), "top5": 1}
    few["parents"] = [Parent("sosr://a", None, "finetuned-from")]
    manifest = Manifest.build(tensor_specs(state), few)
    assert manifest.metrics == {"top1": 0.5, "top5": 1.0}
    assert type(manifest.metrics["top5"]) is float
    assert (manifest.seed, manifest.recipe, manifest.notes) == (None, None, "")
    assert manifest.library_versions["torch"] == torch.__version__.partition("+")[0]
    assert manifest.created.endswith("Z")
    assert Manifest.from_bytes(manifest.to_bytes(), "m", manifest.digest) == manifest


def set_at(document, path, value):
    *parents, last = path.split(".")
    for key in parents:
        document = document[key]
    document[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tensors_digest", "0" * 64),
        ("tensors_digest", "abc"),
        ("size_bytes", 1),
        ("size_bytes", -1),
        ("size_bytes", True),
        ("classes_sha256", "0" * 64),
        ("classes", "abc"),
        ("classes", [1]),
        ("arch", None),
        ("arch.name", ""),
        ("arch.style", "keras"),
        ("arch.feature_channels", [256, 0]),
        ("arch.feature_channels", [2.5]),
        ("preprocessing.mean", []),
        ("preprocessing.mean", [1.0]),
        ("preprocessing.mean", [1, 2, float("nan")]),
        ("preprocessing.std", [0, 1, 1]),
        ("preprocessing.channel_order", "RGB"),
        ("preprocessing.scale", "255"),
        ("preprocessing.input_size", [224]),
        ("metrics", [1]),
        ("metrics", {"top1": "76"}),
        ("metrics", {"top1": float("inf")}),
        ("metrics", {"top1": True}),
        ("recipe.config_digest", "0" * 64),
        ("recipe.config_text", None),
        ("parents", [{"uri": "x", "digest": "y", "relation": "z"}]),
        ("parents", ["x"]),
        ("seed", 1.5),
        ("library_versions", {"torch": 2}),
        ("git_commit", ""),
        ("data", {"name": "x"}),
        ("data", {"fingerprint": "x"}),
        ("data", {"name": "x", "fingerprint": "y", "mean": float("nan")}),
        ("created", "2026-11-22"),
        ("created", "2026-13-22T17:05:00Z"),
        ("notes", None),
        ("tensors", []),
        ("tensors", {}),
    ],
)
def test_wrong_values_are_named(manifest, path, value):
    document = manifest.to_dict()
    set_at(document, path, value)
    with pytest.raises(RegistryError, match=path.partition(".")[0] if value != {} else "no tensors|tensors"):
        Manifest.from_dict(document)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dtype", "F32"),
        ("dtype", ["float32"]),
        ("shape", [-1]),
        ("shape", 3),
        ("shape", [True]),
        ("sha256", "A" * 64),
    ],
)
def test_wrong_tensor_rows_are_named(manifest, key, value):
    document = manifest.to_dict()
    document["tensors"]["half"][key] = value
    with pytest.raises(RegistryError, match=rf"tensors\.half\.{key}"):
        Manifest.from_dict(document)


def test_every_field_is_required_and_no_other_is_known(manifest):
    full = manifest.to_dict()

    def objects(document, path=""):
        yield path, document
        for key, value in document.items():
            if isinstance(value, dict) and key not in {"metrics", "library_versions", "data", "tensors"}:
                yield from objects(value, f"{path}.{key}".lstrip("."))

    for path, found in objects(full):
        for key in found:
            broken = copy.deepcopy(full)
            del dict(objects(broken))[path][key]
            with pytest.raises(RegistryError, match=rf"{key}.* is missing"):
                Manifest.from_dict(broken)
        broken = copy.deepcopy(full)
        dict(objects(broken))[path]["extra"] = 1
        with pytest.raises(RegistryError, match=r"unknown field .*extra"):
            Manifest.from_dict(broken)


def test_computed_and_missing_fields_of_a_publisher_are_named(state, fields):
    with pytest.raises(RegistryError, match="tensors_digest cannot be given"):
        Manifest.build(tensor_specs(state), fields | {"tensors_digest": "0" * 64})
    with pytest.raises(RegistryError, match="'arch' is missing"):
        Manifest.build(tensor_specs(state), {k: v for k, v in fields.items() if k != "arch"})
    with pytest.raises(RegistryError, match=r"recipe\.config_name"):
        Manifest.build(tensor_specs(state), fields | {"recipe": {"config_text": "x"}})
    with pytest.raises(RegistryError, match="classes"):
        Manifest.build(tensor_specs(state), fields | {"classes": 5})


def test_every_flipped_bit_is_found(manifest):
    content = manifest.to_bytes()
    for bit in range(0, len(content) * 8, 7):
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptEntryError, match=r"m\.json is damaged") as caught:
            Manifest.from_bytes(bytes(broken), "m.json", manifest.digest)
        assert manifest.digest in caught.value.damage.expected
        assert sha256_hex(bytes(broken)) in caught.value.damage.actual


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda content: b"", "JSON"),
        (lambda content: content.replace(b'"seed":3', b'"seed":NaN'), "NaN"),
        (lambda content: content.replace(b'"seed":3', b'"seed":3,"seed":3'), "twice"),
        (lambda content: content.replace(b'"seed":3', b'"seed": 3'), "canonical"),
        (lambda content: b"[" * 100_000, "deep|JSON"),
        (lambda content: b"\xff" + content, "JSON"),
        (lambda content: content.replace(b'"seed":3', b'"seed":"x"'), "seed"),
    ],
)
def test_bytes_with_the_right_digest_are_still_read_strictly(manifest, make, said):
    content = make(manifest.to_bytes())
    with pytest.raises(CorruptEntryError, match=said):
        Manifest.from_bytes(content, "m.json", sha256_hex(content))


def test_a_newer_schema_says_to_upgrade(manifest):
    content = manifest.to_bytes().replace(b'"schema_version":2', b'"schema_version":3')
    with pytest.raises(RegistryError, match="Upgrade sosr-det") as caught:
        Manifest.from_bytes(content, "m.json", sha256_hex(content))
    assert not isinstance(caught.value, CorruptEntryError)


def test_a_manifest_of_schema_1_reads_as_it_was_written(manifest):
    document = manifest.to_dict() | {"schema_version": 1}
    del document["kind"], document["probe"]
    content = canonical_json(document) + b"\n"
    old = Manifest.from_bytes(content, "m.json", sha256_hex(content))
    assert (old.kind, old.probe, old.digest) == ("backbone", None, sha256_hex(content))
    content = canonical_json(document | {"kind": "backbone"}) + b"\n"
    with pytest.raises(CorruptEntryError, match="unknown field 'kind'"):
        Manifest.from_bytes(content, "m.json", sha256_hex(content))


def test_the_summary_survives_its_ref(manifest):
    summary = manifest.summary()
    assert (summary.arch, summary.metrics, summary.num_tensors) == (
        "resnet50",
        manifest.metrics,
        len(manifest.tensors),
    )
    ref = Ref("r50", "v1", manifest.digest, "2026-11-22T17:05:00Z", None, summary)
    assert Ref.from_bytes(ref.to_bytes(), Path("v1.json"), "r50", "v1") == ref
    edited = ref.to_bytes().replace(b"76.13", b"99.13")
    with pytest.raises(CorruptEntryError, match="checksum"):
        Ref.from_bytes(edited, Path("v1.json"), "r50", "v1")


def test_the_size_is_capped(state, fields):
    with pytest.raises(RegistryError, match=str(SIZE_LIMIT)):
        Manifest.build(tensor_specs(state), fields | {"notes": "x" * SIZE_LIMIT}).to_bytes()

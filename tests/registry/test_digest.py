"""Identical tensors have identical digests, and nothing else has."""

import hashlib
import struct

import pytest
import torch

from sosr_det.errors import RegistryError
from sosr_det.registry.digest import DTYPES, digest_of_specs, tensor_bytes, tensor_specs, tensors_digest


def test_digest_follows_its_definition():
    rows = (
        f'[["a","float32",[2],"{hashlib.sha256(struct.pack("<2f", 1.5, -2.0)).hexdigest()}"],'
        f'["b","int64",[],"{hashlib.sha256(struct.pack("<q", 7)).hexdigest()}"]]'
    )
    state = {"b": torch.tensor(7), "a": torch.tensor([1.5, -2.0])}
    assert tensors_digest(state) == hashlib.sha256(rows.encode()).hexdigest()


def test_order_strides_storage_and_wrapping_do_not_matter(state):
    digest = tensors_digest(state)
    assert tensors_digest(dict(reversed(state.items()))) == digest
    assert digest_of_specs(dict(reversed(tensor_specs(state).items()))) == digest
    shared = torch.randn(10, 3, 3, 3)
    shared[4:8] = state["conv1.weight"]
    for same in (
        state["conv1.weight"].clone(memory_format=torch.channels_last),
        state["conv1.weight"].permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        shared[4:8],
        torch.nn.Parameter(state["conv1.weight"]),
    ):
        assert tensors_digest(state | {"conv1.weight": same}) == digest


def test_expanded_and_negated_views_are_hashed_by_value():
    expanded = torch.tensor([2.0]).expand(3)
    assert tensors_digest({"a": expanded}) == tensors_digest({"a": torch.full((3,), 2.0)})
    lonely = torch.arange(6.0)[1::4][:1]
    assert lonely.is_contiguous()
    assert lonely.stride() == (4,)
    assert tensors_digest({"a": lonely}) == tensors_digest({"a": torch.tensor([1.0])})
    lazy = torch.tensor([1 + 2j], dtype=torch.complex64).conj()
    assert lazy.is_conj()
    assert tensors_digest({"a": lazy}) == tensors_digest({"a": lazy.resolve_conj()})
    assert tensors_digest({"a": lazy.imag}) == tensors_digest({"a": lazy.imag.resolve_neg()})


def test_name_dtype_shape_and_every_bit_matter():
    base = torch.zeros(2, 2)
    digests = [
        tensors_digest({"a": value})
        for value in (
            base,
            base.to(torch.int32),  # the same bytes
            base.reshape(4),
            base.reshape(1, 4),
            torch.tensor([[0.0, 0.0], [0.0, -0.0]]),
            torch.tensor([[0.0, 0.0], [0.0, 1e-45]]),
        )
    ]
    digests += [tensors_digest({"b": base}), tensors_digest({}), tensors_digest({"a": base, "b": base})]
    assert len(set(digests)) == len(digests)


def test_every_listed_dtype_is_hashed_with_its_width():
    for name, (_, width) in DTYPES.items():
        tensor = torch.zeros(6, dtype=torch.uint8).repeat(width).view(getattr(torch, name))
        spec = tensor_specs({"a": tensor})["a"]
        assert (spec.dtype, spec.shape, spec.nbytes) == (name, (6,), 6 * width)
        assert spec.sha256 == hashlib.sha256(bytes(6 * width)).hexdigest()


def test_contiguous_tensors_are_not_copied():
    tensor = torch.zeros(4)
    tensor_bytes("a", tensor)[0] = 1
    assert tensor[0] != 0


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("a", [1.0], "a list, expected a torch.Tensor"),
        ("a", torch.zeros(2, device="meta"), "meta"),
        ("a", torch.eye(2).to_sparse(), "sparse"),
        ("a", torch.zeros(2, dtype=torch.complex128), "complex128"),
        ("", torch.zeros(2), "cannot name a tensor"),
        ("__metadata__", torch.zeros(2), "cannot name a tensor"),
        (3, torch.zeros(2), "cannot name a tensor"),
        ("\ud800", torch.zeros(2), "not valid Unicode"),
    ],
)
def test_what_cannot_be_stored_is_refused(name, value, said):
    with pytest.raises(RegistryError, match=said):
        tensors_digest({name: value})

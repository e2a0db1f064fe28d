"""Lineage: who came from whom, over names, without names, across gaps, and when damage makes loops."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sosr_det.registry.entry import Listing
from sosr_det.registry.lineage import Lineage, family_tree
from sosr_det.registry.manifest import Summary


@pytest.fixture
def publish(registry, fields):
    """``publish(name, *(parent, relation), **fields)``: an entry with weights of its own."""
    count = iter(range(1000))

    def call(name, *parents, tags=("latest",), **changes):
        given = [
            {"uri": p, "digest": None, "relation": r}
            if isinstance(p, str)
            else {"uri": p.uri, "digest": p.digest, "relation": r}
            for p, r in parents
        ]
        second = next(count)
        created = {"created": f"2026-11-22T17:05:{second:02d}Z"}
        tensors = {"weight": torch.full((2,), float(second))}
        return registry.publish(tensors, fields | created | {"parents": given} | changes, name, list(tags))

    return call


@pytest.fixture
def family(publish):
    """pretrain -> fine-tune -> detector, pretrain -> detector, and a stranger with a detector of its own."""
    pre = publish("pre", tags=["v1", "latest"])
    fine = publish("fine", (pre, "finetuned-from"))
    near = publish("near", (pre, "detector-on"), kind="detector", metrics={"map_11point": 0.7})
    far = publish("far", (fine, "detector-on"), kind="detector", metrics={"map_11point": 0.8})
    stranger = publish("stranger")
    other = publish("other", (stranger, "detector-on"), kind="detector", metrics={"map_11point": 0.9})
    return {"pre": pre, "fine": fine, "near": near, "far": far, "stranger": stranger, "other": other}


def drawn(branch):
    """A tree as nested tuples: label, relation, state, children."""
    marks = ("*" if branch.is_subject else "") + ("^" if branch.repeated else "")
    return (
        f"{branch.label}{marks}",
        branch.relation,
        branch.state,
        [drawn(child) for child in branch.children],
    )


def shape(branches):
    """Labels alone, nested."""
    return [(drawn(b)[0], shape(b.children)) for b in branches]


def test_both_ways_over_several_generations(registry, family):
    lineage = Lineage(registry.list_refs())
    digest = {name: entry.digest for name, entry in family.items()}
    assert lineage.ancestors(digest["far"]) == [digest["fine"], digest["pre"]]
    assert set(lineage.descendants(digest["pre"])) == {digest["fine"], digest["near"], digest["far"]}
    assert lineage.descendants(digest["far"]) == lineage.ancestors(digest["pre"]) == []
    assert {node.label for node in lineage.detectors_below(digest["pre"])} == {"near@latest", "far@latest"}
    assert [node.label for node in lineage.detectors_below(digest["fine"])] == ["far@latest"]
    assert [node.label for node in lineage.detectors_below(digest["stranger"])] == ["other@latest"]
    assert lineage.children("0" * 64) == lineage.parents("0" * 64) == lineage.ancestors("0" * 64) == []


def test_one_entry_under_several_names_is_one_node(registry, family):
    lineage = Lineage(registry.list_refs())
    node = lineage.nodes[family["pre"].digest]
    assert node.names == ["pre@latest", "pre@v1"]
    assert node.label == "pre@v1"  # latest moves on


def test_the_tree_holds_ancestors_and_descendants_and_no_one_else(registry, family):
    assert [drawn(tree) for tree in family_tree(registry, family["fine"])] == [
        (
            "pre@v1",
            None,
            "entry",
            [("fine@latest*", "finetuned-from", "entry", [("far@latest", "detector-on", "entry", [])])],
        )
    ]
    assert shape(family_tree(registry, family["pre"])) == [
        ("pre@v1*", [("fine@latest", [("far@latest", [])]), ("near@latest", [])])
    ]


def test_parents_that_are_not_here_are_shown_as_such(registry, publish, tmp_path):
    entry = publish("child", ("torchvision://resnet50", "imported-from"))
    (tree,) = family_tree(registry, entry)
    assert drawn(tree) == (
        "torchvision://resnet50",
        None,
        "outside",
        [("child@latest*", "imported-from", "entry", [])],
    )
    gone = publish("gone")
    entry = publish("orphan", (gone, "finetuned-from"))
    registry.layout.ref_path("gone", "latest").unlink()
    registry.layout.manifest_path(gone.digest).unlink()
    (tree,) = family_tree(registry, entry)
    assert drawn(tree)[:3] == ("sosr://gone@latest", None, "absent")
    assert tree.digest == gone.digest


def test_an_entry_without_a_name_still_links_its_family(registry, publish):
    pre = publish("pre")
    middle = publish("middle", (pre, "finetuned-from"))
    last = publish("last", (middle, "detector-on"), kind="detector")
    publish("middle", (pre, "finetuned-from"), seed=99)  # the name moves on to other weights
    expected = [("pre@latest", [(f"sha256:{middle.digest}", [("last@latest*", [])])])]
    assert shape(family_tree(registry, last)) == expected
    (tree,) = family_tree(registry, registry.resolve(middle.pinned_uri))
    assert shape([tree]) == [("pre@latest", [(f"sha256:{middle.digest}*", [("last@latest", [])])])]
    assert "last@latest" in str(shape(family_tree(registry, pre)))


def test_two_parents_and_a_shared_grandparent(registry, publish):
    top = publish("top")
    left, right = publish("left", (top, "finetuned-from")), publish("right", (top, "finetuned-from"))
    child = publish("child", (left, "merged-from"), (right, "merged-from"))
    publish("below", (child, "finetuned-from"))
    assert shape(family_tree(registry, child)) == [
        (
            "top@latest",
            [
                ("left@latest", [("child@latest*", [("below@latest", [])])]),
                ("right@latest", [("child@latest*^", [])]),
            ],
        )
    ]


def test_a_damaged_manifest_on_the_way_is_marked(registry, family):
    path = family["fine"].manifest_path
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-3])
    (tree,) = family_tree(registry, family["far"])
    assert drawn(tree)[0] == "pre@v1"
    assert drawn(tree.children[0])[:3] == ("fine@latest", None, "damaged")


def test_the_json_form_is_plain_data(registry, family):
    import json

    (tree,) = [tree.to_dict() for tree in family_tree(registry, family["fine"])]
    assert json.loads(json.dumps(tree)) == tree
    child = tree["children"][0]
    assert (tree["names"], tree["is_subject"], child["is_subject"]) == (["pre@latest", "pre@v1"], False, True)
    assert (child["digest"], child["relation"]) == (family["fine"].digest, "finetuned-from")
    assert child["children"][0]["metrics"] == {"map_11point": 0.8}


# ---- loops: content addressing forbids them, damaged or forged refs may still claim them -----------------------------


def listing(name, *parents):
    summary = Summary(
        "backbone", "resnet50", None, None, {}, 1, 1, "0" * 64, tuple(p * 64 for p in parents), None, ""
    )
    return Listing(name, "latest", name * 64, summary)


def test_loops_end(registry):
    lineage = Lineage([listing("a", "c"), listing("b", "a"), listing("c", "b"), listing("d", "d", "c")])
    assert lineage.ancestors("a" * 64) == ["c" * 64, "b" * 64]
    assert lineage.descendants("a" * 64) == ["b" * 64, "c" * 64, "d" * 64]
    assert lineage.ancestors("d" * 64) == ["c" * 64, "b" * 64, "a" * 64]


def test_a_tree_of_a_loop_ends(registry, family, monkeypatch):
    """Refs that claim pre is a child of far, while far descends from pre; the manifests cannot be read either."""
    forged = []
    for ref in registry.list_refs():
        if ref.name == "pre":
            parents = (family["far"].digest, family["pre"].digest)
            ref = dataclasses.replace(ref, summary=dataclasses.replace(ref.summary, parents=parents))
        forged.append(ref)
    monkeypatch.setattr(registry, "list_refs", lambda: forged)
    for name in ("pre", "far", "fine"):
        trees = family_tree(registry, family[name])
        assert any("*" in str(shape([tree])) for tree in trees)


def test_a_very_long_chain_is_cut_and_not_followed_for_ever(registry, fields, monkeypatch):
    chain = [listing(f"{number}", f"{number - 1}") for number in range(1, 10)]
    lineage = Lineage(chain)
    assert len(lineage.ancestors("9" * 64)) == 8
    deep = Lineage([_numbered(number) for number in range(3000)])
    assert len(deep.descendants(f"{0:064x}")) == 2999
    assert len(deep.ancestors(f"{2999:064x}")) == 2999


def _numbered(number):
    parents = (f"{number - 1:064x}",) if number else ()
    summary = Summary("backbone", "resnet50", None, None, {}, 1, 1, "0" * 64, parents, None, "")
    return Listing(f"n{number}", "latest", f"{number:064x}", summary)

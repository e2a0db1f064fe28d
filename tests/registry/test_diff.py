"""registry diff: distances against numpy, fields, recipes, and what is left out."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sosr_det.cli.registry import app
from sosr_det.errors import CorruptEntryError, RegistryError
from sosr_det.registry.diff import changed_fields, compare_specs, compare_values, diff_entries, recipe_diff
from sosr_det.registry.digest import tensor_specs


@pytest.fixture
def run(registry):
    def call(*arguments):
        return CliRunner().invoke(app, ["diff", *arguments, "--registry", str(registry.root)])

    return call


def compare(a, b):
    diff = compare_specs(tensor_specs(a), tensor_specs(b))
    distances, stages = compare_values(a, b, diff)
    return diff, {row.name: row for row in distances}, {row.stage: row for row in stages}


def test_distances_are_numpys():
    generator = torch.Generator().manual_seed(0)
    a = {f"layer{k}.{i}.weight": torch.randn(7, 5, generator=generator) for k in (1, 2) for i in range(3)}
    b = {name: tensor + 0.1 * torch.randn(7, 5, generator=generator) for name, tensor in a.items()}
    b["layer1.0.weight"] = a["layer1.0.weight"].clone()
    diff, distances, stages = compare(a, b)
    assert diff.identical == ["layer1.0.weight"]
    assert list(distances) == sorted(distances, key=lambda name: -distances[name].relative_l2)
    for name in diff.different:
        x, y = a[name].double().numpy(), b[name].double().numpy()
        assert distances[name].relative_l2 == pytest.approx(
            np.linalg.norm(y - x) / np.linalg.norm(x), rel=1e-12
        )
        assert distances[name].max_abs == pytest.approx(np.abs(y - x).max(), rel=1e-12)
        cosine = (x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)
        assert distances[name].cosine == pytest.approx(cosine, rel=1e-12)
    for stage, (number, different) in {"layer1": (3, 2), "layer2": (3, 3)}.items():
        x, y = (np.concatenate([t[n].double().numpy() for n in a if n.startswith(stage)]) for t in (a, b))
        assert (stages[stage].num_tensors, stages[stage].num_different) == (number, different)
        assert stages[stage].relative_l2 == pytest.approx(
            np.linalg.norm(y - x) / np.linalg.norm(x), rel=1e-12
        )


def test_special_values_give_no_nonsense():
    a = {
        "zero": torch.zeros(3),
        "opposite": torch.ones(3),
        "nan": torch.ones(2),
        "inf": torch.ones(2),
        "count": torch.tensor(3),
        "mask": torch.tensor([True, False]),
        "empty": torch.empty(0),
        "half": torch.full((2,), 6e4, dtype=torch.float16),
        "complex": torch.tensor([3 + 4j]),
    }
    b = {
        "zero": torch.tensor([0.0, 2, 0]),
        "opposite": -torch.ones(3),
        "nan": torch.tensor([1.0, float("nan")]),
        "inf": torch.tensor([1.0, float("inf")]),
        "count": torch.tensor(4),
        "mask": torch.tensor([True, True]),
        "empty": torch.empty(0),
        "half": torch.full((2,), -6e4, dtype=torch.float16),
        "complex": torch.tensor([0j]),
    }
    diff, distances, _ = compare(a, b)
    assert diff.identical == ["empty"]
    assert distances["zero"].relative_l2 == math.inf
    assert (distances["zero"].max_abs, distances["zero"].cosine) == (2, None)
    assert (distances["opposite"].relative_l2, distances["opposite"].cosine) == (2, -1)
    assert distances["count"].relative_l2 == pytest.approx(1 / 3)
    assert distances["mask"].max_abs == 1
    assert distances["half"].max_abs == pytest.approx(
        2 * a["half"].double()[0].item()
    )  # beyond float16's range
    assert (distances["complex"].relative_l2, distances["complex"].cosine) == (1, None)
    for name in ("nan", "inf"):
        assert math.isnan(distances[name].relative_l2)
        assert math.isnan(distances[name].max_abs)


def test_counters_do_not_drown_a_stage():
    a = {"bn1.weight": torch.ones(4), "bn1.num_batches_tracked": torch.tensor(1)}
    b = {"bn1.weight": torch.ones(4) * 1.5, "bn1.num_batches_tracked": torch.tensor(1_000_000)}
    _, distances, stages = compare(a, b)
    assert stages["bn1"].relative_l2 == 0.5
    assert stages["bn1"].num_different == 2
    assert distances["bn1.num_batches_tracked"].max_abs == 999_999
    assert list(distances) == ["bn1.weight", "bn1.num_batches_tracked"]


def test_names_and_types_that_do_not_match_are_told_apart():
    a = {"same": torch.ones(2), "shape": torch.ones(2), "dtype": torch.ones(2), "a": torch.ones(1)}
    b = {"same": torch.ones(2), "shape": torch.ones(3), "dtype": torch.ones(2).half(), "b": torch.ones(1)}
    diff = compare_specs(tensor_specs(a), tensor_specs(b))
    assert (diff.identical, diff.different, diff.only_a, diff.only_b) == (["same"], [], ["a"], ["b"])
    assert diff.other_type == {
        "dtype": ("float32 [2]", "float16 [2]"),
        "shape": ("float32 [2]", "float32 [3]"),
    }


def test_fields_by_path_and_a_recipe_as_git_shows_it(registry, state, fields):
    a = registry.publish(state, fields, "a")
    recipe = {"config_name": "resnet50_ce", "config_text": "loss = 'ce'\n"}
    changes = {
        "seed": 4,
        "metrics": {"top1": 75.0, "top5": 92.0},
        "recipe": recipe,
        "classes": ["x"],
        "notes": "n",
    }
    changes["preprocessing"] = fields["preprocessing"] | {"channel_order": "bgr"}
    changes["created"] = "2020-01-01T00:00:00Z"
    b = registry.publish(state, fields | changes, "b")
    assert {(c.field, str(c.a), str(c.b)) for c in changed_fields(a.manifest, b.manifest)} == {
        ("seed", "3", "4"),
        ("preprocessing.channel_order", "rgb", "bgr"),
        ("recipe", "resnet50_sosr_8xb32-90e_in1k", "resnet50_ce"),
        ("classes", "3 classes", "1 classes"),
        ("classes_sha256", a.manifest.classes_sha256, b.manifest.classes_sha256),
        ("notes", "", "n"),
    }
    assert recipe_diff(a, b) == [
        "--- sosr://a@latest",
        "+++ sosr://b@latest",
        "@@ -1 +1 @@",
        "-loss = 'sosr'",
        "+loss = 'ce'",
    ]
    diff = diff_entries(registry, a, b)
    assert [(c.field, c.a, c.b) for c in diff.metrics] == [
        ("ece", 0.037, None),
        ("top1", 76.13, 75.0),
        ("top5", None, 92.0),
    ]
    assert (diff.same_weights, diff.identical) == (True, False)


def test_the_probe_counts_only_where_it_is_not_the_weights_consequence(registry, state, fields):
    probes = [{"input": "sosr-probe-1", "stages": {"layer1": [value]}} for value in (1.0, 2.0)]
    a = registry.publish(state, fields | {"probe": probes[0]}, "a")
    same_weights = registry.publish(state, fields | {"probe": probes[1]}, "b")
    other = registry.publish(state | {"half": state["half"] * 2}, fields | {"probe": probes[1]}, "c")
    assert [c.field for c in changed_fields(a.manifest, same_weights.manifest)] == ["probe.stages.layer1"]
    assert changed_fields(a.manifest, other.manifest) == []


def test_when_it_was_published_is_no_difference(registry, state, fields):
    a = registry.publish(state, fields, "a")
    b = registry.publish(state, fields | {"created": "2020-01-01T00:00:00Z"}, "b")
    assert a.digest != b.digest
    assert diff_entries(registry, a, b).identical


def test_a_backbone_beside_a_detector_is_compared_with_the_one_in_it(registry, state, fields):
    backbone = registry.publish(state, fields, "backbone")
    moved = {f"backbone.{name}": value for name, value in state.items()}
    moved["backbone.conv1.weight"] = state["conv1.weight"] * 2
    detector = registry.publish(
        moved | {"head.weight": torch.ones(3)}, fields | {"kind": "detector"}, "detector"
    )
    diff = diff_entries(registry, backbone, detector).tensors
    assert diff.different == ["conv1.weight"]
    assert diff.distances[0].relative_l2 == pytest.approx(1)
    assert (len(diff.identical), diff.only_a, diff.only_b) == (len(state) - 1, [], ["head.weight"])
    both = diff_entries(registry, detector, detector).tensors
    assert "backbone.conv1.weight" in both.identical


def test_the_command_prints_all_of_it(run, registry, state, fields):
    registry.publish(state, fields, "a")
    b = state | {"conv1.weight": state["conv1.weight"] * 1.5, "mask": ~state["mask"], "half": torch.ones(2)}
    registry.publish(b, fields | {"seed": 4, "metrics": {"top1": 77.13, "ece": 0.03}}, "b")
    result = run("a", "b")
    assert result.exit_code == 0
    text = result.stdout
    assert "seed   3  4" in text
    assert "top-1   76.13 %  77.13 %  +1.00" in text
    assert "ECE     0.037    0.03     -0.007" in text
    assert "4 identical, 2 of other values, 1 of another shape or dtype, 0 only in A, 0 only in B" in text
    assert "half: float16 [5] in A, float32 [2] in B" in text
    row = next(line for line in text.splitlines() if line.strip().startswith("conv1.weight"))
    assert row.split()[1] == "0.5"
    assert row.split()[-1] == "1.000000"
    assert "recipe" not in text
    assert "… 1 nearer ones: --top 2" in run("a", "b", "--top", "1").stdout
    assert "conv1.weight" not in run("a", "b", "--no-tensors").stdout


def test_figures_of_classes_that_one_lacks_do_not_flood_the_metrics(run, registry, state, fields):
    registry.publish(state, fields | {"metrics": {"top1": 1.0, "ap_11point/cat": 0.5}}, "a")
    registry.publish(
        state, fields | {"metrics": {"map_11point": 0.6, "ap_11point/cat": 0.6, "ap_area/cat": 0.7}}, "b"
    )
    text = run("a", "b").stdout
    assert "VOC AP 11-point cat  50.00 %  60.00 %  +10.00" in text
    assert "AP area cat" not in text
    assert "1 figures of classes that one of them lacks: --json" in text
    assert {change["field"] for change in json.loads(run("a", "b", "--json").stdout)["metrics"]} == {
        "top1",
        "map_11point",
        "ap_11point/cat",
        "ap_area/cat",
    }


def test_exit_codes(run, registry, state, fields):
    registry.publish(state, fields, "a", ["latest", "v1"])
    registry.publish(state, fields | {"seed": 9}, "b")
    assert [run("a", "b", *more).exit_code for more in ([], ["--exit-code"], ["--exit-code", "--json"])] == [
        0,
        1,
        1,
    ]
    assert run("a", "a@v1", "--exit-code").exit_code == 0
    assert "nothing differs" in run("a", "a@v1").stdout
    assert isinstance(run("a", "nothing").exception, RegistryError)


def test_json_is_complete_and_strict(run, registry, state, fields):
    a = registry.publish(state, fields, "a")
    b = registry.publish(state | {"half": torch.full((5,), float("inf")).half()}, fields, "b")
    document = json.loads(run("a", "b", "--json").stdout, parse_constant=pytest.fail)
    assert (document["a"]["digest"], document["b"]["uri"]) == (a.digest, b.uri)
    assert document["tensors"]["different"] == ["half"]
    assert document["tensors"]["distances"][0]["relative_l2"] == "nan"
    assert document["identical"] is False
    assert json.loads(run("a", "b", "--json", "--no-tensors").stdout)["tensors"]["distances"] is None


def test_damaged_weights_are_found_before_they_are_compared(run, registry, state, fields):
    a = registry.publish(state, fields, "a")
    registry.publish(state | {"half": state["half"] * 2}, fields, "b")
    content = bytearray(a.blob_path.read_bytes())
    content[-1] ^= 1
    a.blob_path.chmod(0o644)
    a.blob_path.write_bytes(content)
    assert isinstance(run("a", "b").exception, CorruptEntryError)
    assert run("a", "b", "--no-tensors").exit_code == 0


def test_torch_is_loaded_only_where_values_are_compared(registry, state, fields):
    registry.publish(state, fields, "a")
    registry.publish(state, fields | {"seed": 9}, "same")
    registry.publish(state | {"half": state["half"] * 2}, fields, "other")
    code = """
import sys
from sosr_det.cli.registry import app
app(["diff", "a", *sys.argv[2:], "--registry", sys.argv[1]], standalone_mode=False)
print("torch" in sys.modules)
"""
    for arguments, loaded in ((["same"], "False"), (["other", "--no-tensors"], "False"), (["other"], "True")):
        done = subprocess.run(
            [sys.executable, "-c", code, str(registry.root), *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == loaded

"""``sosr-det registry``: exact output for scripts, readable output for people, exit codes for both."""

import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from sosr_det.cli.registry import app
from sosr_det.errors import ConfigError, CorruptEntryError, RegistryError
from sosr_det.registry.metric_names import metric_of


@pytest.fixture
def run(registry):
    def call(*arguments):
        return CliRunner().invoke(app, [*arguments, "--registry", str(registry.root)])

    return call


@pytest.fixture
def entry(registry, state, fields):
    return registry.publish(state, fields, "r50", ["latest", "v1"])


def flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_resolve_prints_digest_and_path(run, entry):
    for uri in ("r50", "sosr://r50@v1", entry.pinned_uri, f"sha256:{entry.digest}"):
        result = run("resolve", uri)
        assert (result.exit_code, result.stdout) == (0, f"sha256:{entry.digest}\n{entry.blob_path}\n")
    assert json.loads(run("resolve", "r50@v1", "--json").stdout) == {
        "uri": "sosr://r50@v1",
        "pinned_uri": entry.pinned_uri,
        "name": "r50",
        "tag": "v1",
        "digest": entry.digest,
        "tensors_digest": entry.tensors_digest,
        "blob_path": str(entry.blob_path),
        "manifest_path": str(entry.manifest_path),
    }


def test_ls_lists_one_line_per_name_and_content(run, entry, registry, state, fields):
    registry.publish({"a": torch.ones(2)}, {k: fields[k] for k in ("arch", "preprocessing")}, "bare")
    header, bare, full = run("ls").stdout.splitlines()
    titles = ["name", "tags", "arch", "data", "recipe", "top-1", "ECE", "VOC", "mAP", "size", "age"]
    assert header.split() == titles
    assert bare.split()[:8] == ["bare", "latest", "resnet50", "-", "-", "-", "-", "-"]
    cells = full.split()
    assert cells[:5] == ["r50", "latest,v1", "resnet50", "imagenet-1k", fields["recipe"]["config_name"]]
    assert cells[5:7] == ["76.13", "0.0370"]
    rows = json.loads(run("ls", "--json").stdout)
    assert [row["name"] for row in rows] == ["bare", "r50"]
    assert rows[1]["tags"] == ["latest", "v1"]
    assert (rows[1]["digest"], rows[1]["top1"], rows[1]["error"]) == (entry.digest, 76.13, None)


def test_ls_of_an_empty_and_of_a_damaged_registry(run, registry, entry):
    registry.layout.ref_path("r50", "v1").write_text("{}")
    result = run("ls")
    assert result.exit_code == 0
    assert "DAMAGED" in result.stdout
    assert "verify --all" in result.stderr
    for tag in ("v1", "latest"):
        registry.layout.ref_path("r50", tag).unlink()
    result = run("ls")
    assert (result.exit_code, "is empty" in result.stdout) == (0, True)
    assert json.loads(run("ls", "--json").stdout) == []


# ---- ls: filters, order, what detectors reached ----------------------------------------------------------------------


@pytest.fixture
def zoo(registry, fields):
    """Two backbones, a fine-tuned one, three detectors, with values that sort differently by each column."""
    size = iter(range(1, 9))

    def publish(name, *parents, tags=("latest",), **changes):
        parents = [{"uri": p.uri, "digest": p.digest, "relation": relation} for p, relation in parents]
        number = next(size)
        changes = {"created": f"2026-11-0{number}T00:00:00Z", "parents": parents} | changes
        return registry.publish({"w": torch.zeros(9 - number)}, fields | changes, name, list(tags))

    def described(top1, ece, data, recipe):
        recipe = {"config_name": recipe, "config_text": "x"}
        return {
            "metrics": {"top1": top1, "ece": ece},
            "data": {"name": data, "fingerprint": None},
            "recipe": recipe,
        }

    ce = publish("r50-ce", **described(76.0, 0.05, "ImageNet-1k", "resnet50_ce"))
    sosr = publish("r50-sosr", tags=["v1", "latest"], **described(77.0, 0.04, "ImageNet-1k", "resnet50_sosr"))
    cub = publish("a-cub", (sosr, "finetuned-from"), **described(84.5, 0.06, "CUB-200-2011", "cub_sosr"))
    detector = {"kind": "detector", "arch": fields["arch"] | {"name": "RetinaNet"}}
    publish("d-near", (sosr, "detector-on"), metrics={"map_11point": 0.712}, **detector)
    publish("d-far", (cub, "detector-on"), metrics={"map_11point": 0.701}, **detector)
    publish("d-unknown", (ce, "detector-on"), metrics={"map": 0.36}, **detector)
    return registry


def names(result):
    return [row["name"] for row in json.loads(result.stdout)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["a-cub", "d-far", "d-near", "d-unknown", "r50-ce", "r50-sosr"]),
        (["r50-*"], ["r50-ce", "r50-sosr"]),
        (["--name", "*-[cn]*"], ["a-cub", "d-near", "r50-ce"]),
        (["R50-*"], []),
        (["--arch", "RETINA"], ["d-far", "d-near", "d-unknown"]),
        (["--arch", "resnet5?"], ["a-cub", "r50-ce", "r50-sosr"]),
        (["--arch", "resnet?"], []),
        (["--data", "cub"], ["a-cub"]),
        (["--recipe", "*_sosr"], ["a-cub", "r50-sosr"]),
        (["--kind", "detector"], ["d-far", "d-near", "d-unknown"]),
        (["--kind", "backbone", "--data", "imagenet", "--max", "ece=0.04"], ["r50-sosr"]),
        (["--min", "top1=77"], ["a-cub", "r50-sosr"]),
        (["--min", "top1=77.001"], ["a-cub"]),
        (["--min", "top1=70", "--min", "map=70.1"], ["a-cub", "r50-sosr"]),
        (["--min", "map=71"], ["d-near", "r50-sosr"]),
        (["--sort", "top1"], ["a-cub", "r50-sosr", "r50-ce", "d-far", "d-near", "d-unknown"]),
        (["--sort", "top1", "--reverse"], ["r50-ce", "r50-sosr", "a-cub", "d-far", "d-near", "d-unknown"]),
        (["--sort", "ece", "--kind", "backbone"], ["r50-sosr", "r50-ce", "a-cub"]),
        (["--sort", "map"], ["d-near", "r50-sosr", "a-cub", "d-far", "d-unknown", "r50-ce"]),
        (["--sort", "size", "--limit", "2"], ["r50-ce", "r50-sosr"]),
        (["--sort", "created", "--limit", "1"], ["d-unknown"]),
        (["--sort", "created", "--reverse", "--limit", "1"], ["r50-ce"]),
        (["--reverse", "--limit", "1"], ["r50-sosr"]),
    ],
)
def test_ls_filters_and_sorts(run, zoo, arguments, expected):
    assert names(run("ls", "--json", *arguments)) == expected


def test_ls_shows_the_best_map_of_the_detectors_below_and_how_many(run, zoo):
    header, *lines = run("ls").stdout.splitlines()
    assert header.split()[2] == "kind"  # not all are backbones
    shown = {line.split()[0]: line for line in lines}
    assert "71.2 (2)" in shown["r50-sosr"]
    assert "70.1 (1)" in shown["a-cub"]
    assert " - (1)" in shown["r50-ce"]  # a detector without a VOC mAP
    assert " 71.2 " in shown["d-near"]
    assert "(" not in shown["d-near"]
    rows = {row["name"]: row for row in json.loads(run("ls", "--json").stdout)}
    assert rows["r50-sosr"]["map"] == pytest.approx(71.2)
    assert [d["uri"] for d in rows["r50-sosr"]["detectors"]] == [
        "sosr://d-near@latest",
        "sosr://d-far@latest",
    ]
    assert (rows["r50-ce"]["map"], rows["r50-ce"]["num_detectors"]) == (None, 1)
    header = run("ls", "--kind", "backbone").stdout.splitlines()[0]
    assert "kind" not in header
    assert header.split()[:3] == ["name", "tags", "arch"]


def test_ls_says_what_it_left_out(run, zoo):
    assert run("ls", "--limit", "2").stdout.splitlines()[-1].startswith("… 4 more")
    assert "None of 6 entries fits" in run("ls", "--name", "x*").stdout
    assert json.loads(run("ls", "--name", "x*", "--json").stdout) == []


def test_no_filter_hides_damage_but_that_of_other_names(run, zoo):
    zoo.layout.ref_path("r50-ce", "latest").write_text("{}")
    for arguments in (["--min", "top1=99"], ["--kind", "detector"], ["--data", "x"]):
        assert "r50-ce" in names(run("ls", "--json", *arguments))
    assert names(run("ls", "--json", "d-*")) == ["d-far", "d-near", "d-unknown"]
    assert "DAMAGED" in run("ls", "r50*").stdout


def test_ls_calls_what_it_cannot_read_unreadable_and_not_damaged(run, registry, entry):
    path = registry.layout.ref_path("r50", "v1")
    path.unlink()
    path.mkdir()
    result = run("ls")
    assert (result.exit_code, "DAMAGED" in result.output) == (0, False)
    assert "unreadable" in result.stdout
    assert f"unreadable r50@v1: {path} is not a plain file" in result.stderr
    assert "damaged" not in result.stderr
    rows = json.loads(run("ls", "--json").stdout)
    assert [(row["tags"], row["damaged"], row["error"] is None) for row in rows] == [
        (["latest"], False, True),
        (["v1"], False, False),
    ]


def test_push_to_a_file_says_what_ls_says(run, entry, tmp_path):
    file = tmp_path / "README.md"
    file.write_text("x")
    said = f"{file} is not a folder; expected a registry."
    result = run("push", "r50", "--to", str(file))
    assert (result.exit_code, said in result.stderr) == (1, True)
    assert said in str(CliRunner().invoke(app, ["ls", "--registry", str(file)]).exception)


def test_a_name_like_no_other_gets_no_near_names(run, entry):
    said = str(run("show", "zzzz").exception)
    assert "Near names" not in said
    assert "Its one name is another" in said
    assert run("tag", "r50", "v1", "--name", "yolo").exit_code == 0
    said = str(run("show", "zzzz").exception)
    assert "None of its 2 names is near" in said
    assert "`sosr-det registry ls` lists all" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--min", "top1"], "is not METRIC=NUMBER"),
        (["--min", "top1=x"], "is not METRIC=NUMBER"),
        (["--max", "seed=3"], "one of top1, ece, map"),
        (["--sort", "loss"], "choose one of name, top1, ece, map, size, created"),
        (["--kind", "neck"], "choose one of backbone, detector or all"),
        (["a*", "--name", "b*"], "two patterns"),
    ],
)
def test_ls_refuses_what_it_does_not_know(run, zoo, arguments, said):
    assert said in str(run("ls", *arguments).exception)


# ---- show ------------------------------------------------------------------------------------------------------------


def test_show_names_everything_and_json_is_the_manifest(run, entry, fields):
    text = run("show", "r50").stdout
    for part in (
        entry.digest,
        entry.tensors_digest,
        str(entry.blob_path),
        "resnet50 of torchvision, pytorch style",
    ):
        assert part in text
    for part in (
        "7x7/2+maxpool",
        "123.675",
        "rgb, 0-255",
        "224 x 224 pixels",
        "3, sha256:",
        "top-1  76.13 %",
        "ECE    0.037",
        "imagenet-1k, fingerprint abc",
        "num_images",
        "Apache-2.0",
        "r50@latest, r50@v1",
    ):
        assert part in text
    shown = json.loads(run("show", "r50", "--json").stdout)
    assert shown["manifest"] == entry.manifest.to_dict()
    assert (shown["uri"], shown["names"]) == ("sosr://r50@latest", ["r50@latest", "r50@v1"])
    assert shown["lineage"][0]["digest"] == entry.digest


def test_show_prints_whole_names_of_metrics_below_each_other(run, registry, state, fields):
    metrics = {"map_11point": 0.7, "map_area": 0.72, "num_images": 4952.0, "negative_log_likelihood": 1.5}
    registry.publish(state, fields | {"metrics": metrics}, "long")
    lines = run("show", "long").stdout.split("\nmetrics\n")[1].split("\n\n")[0].splitlines()
    names, values = zip(*(line.strip().rsplit("  ", 1) for line in lines), strict=True)
    assert {name.strip() for name in names} == {metric_of(name).title for name in metrics}
    assert len({len(line) - len(value) for line, value in zip(lines, values, strict=True)}) == 1


def test_lines_of_notes_are_kept_and_cannot_pass_for_others(run, registry, entry, state, fields):
    registry.publish(state, fields | {"notes": "one\nlicense          MIT\x1b[1m\r\n\tthree"}, "noted")
    lines = run("show", "noted").stdout.splitlines()
    begin = next(place for place, line in enumerate(lines) if line.startswith("  notes"))
    gap = " " * 17
    expected = ["one", "license          MIT\ufffd[1m", "\ufffdthree"]
    assert lines[begin] == f"  notes            {expected[0]}"
    assert lines[begin + 1 : begin + 3] == [f"  {gap}{line}" for line in expected[1:]]
    shown = run("diff", "r50", "noted").stdout.splitlines()
    begin = next(place for place, line in enumerate(shown) if line.startswith("  notes"))
    assert [line.strip() for line in shown[begin + 1 : begin + 3]] == expected[1:]
    assert all(line.startswith("      ") for line in shown[begin + 1 : begin + 3])


def test_show_tells_what_the_tag_meant_before(run, registry, entry, state, fields):
    assert "before" not in run("show", "r50").stdout
    moved = registry.publish(state, fields | {"seed": 4}, "r50", ["latest"])
    assert f"before           sha256:{entry.digest}" in run("show", "r50").stdout
    assert json.loads(run("show", "r50", "--json").stdout)["previous"] == entry.digest
    assert "before" not in run("show", "r50@v1").stdout
    assert json.loads(run("show", moved.pinned_uri, "--json").stdout)["previous"] is None
    assert run("tag", f"sha256:{entry.digest}", "latest", "--name", "r50").exit_code == 0
    assert registry.resolve("sosr://r50").digest == entry.digest


def test_show_has_no_digest_of_no_classes(run, registry, state, fields):
    made = registry.publish(state, fields | {"classes": []}, "bare")
    assert made.manifest.classes_sha256 not in run("show", "bare").stdout


def test_show_leaves_the_hooks_of_a_config_alone(run, entry):
    text = run("show", "r50").stdout
    assert "custom_hooks" not in text
    assert "# compares what was loaded with the entry" in text


def test_show_draws_the_family_both_ways(run, zoo):
    lines = run("show", "a-cub").stdout.splitlines()
    begin = lines.index("lineage")
    assert lines[begin + 1 : begin + 4] == [
        "  r50-sosr@v1  (resnet50, top-1 77.00 %, ECE 0.04)",
        "  └─ finetuned-from: a-cub@latest  (resnet50, top-1 84.50 %, ECE 0.06)  ◀ this entry",
        "     └─ detector-on: d-far@latest  (detector RetinaNet, VOC mAP 11-point 70.10 %)",
    ]
    lines = run("show", "r50-sosr").stdout.splitlines()
    begin = lines.index("lineage")
    assert [line[:5] for line in lines[begin + 1 : begin + 5]] == ["  r50", "  ├─ ", "  │  ", "  └─ "]


def test_show_prints_config_lines_that_load_in_mmdetection(run, entry, registry, monkeypatch):
    """The lines, put under a real config, pass our own checks of what a backbone needs; a wrong mean would not."""
    from mmengine.config import Config

    from sosr_det.engine.backbone.source import pin_checkpoints

    monkeypatch.setenv("SOSR_REGISTRY", str(registry.root))
    lines = run("show", "r50").stdout.split("# or, in a config:\n")[1]
    code = "\n".join(line[2:] for line in lines.splitlines()).replace("sosr_det.register", "math")

    def merged(code):
        model = {"type": "RetinaNet", "backbone": {"type": "ResNet", "depth": 18}}
        cfg = Config(
            {"model": model | {"data_preprocessor": {"type": "DetDataPreprocessor", "mean": [0, 0, 0]}}}
        )
        cfg.merge_from_dict(Config.fromstring(code, ".py").to_dict())
        return cfg

    cfg = merged(code)
    assert pin_checkpoints(cfg)["digest"] == entry.digest
    assert (cfg.model.backbone.depth, cfg.model.backbone.style) == (50, "pytorch")
    with pytest.raises(ConfigError, match="mean"):
        pin_checkpoints(merged(code.replace("123.675", "123.0")))


def test_show_scales_mean_and_std_and_says_what_mmdetection_cannot_hold(run, registry, state, fields):
    unit = fields["preprocessing"] | {"scale": "0-1", "mean": [0.5, 0.4, 0.25], "channel_order": "bgr"}
    registry.publish(state, fields | {"preprocessing": unit | {"std": [0.2, 0.2, 0.2]}}, "unit")
    text = run("show", "unit").stdout
    assert "mean=[127.5, 102.0, 63.75], std=[51.0, 51.0, 51.0], bgr_to_rgb=False" in text
    registry.publish(
        state, fields | {"arch": fields["arch"] | {"name": 'timm/"x"', "library": "timm"}}, "other"
    )
    text = run("show", "other").stdout
    assert "cannot hold it" in text
    assert r'arch="timm/\"x\""' in text
    registry.publish(state, fields | {"kind": "detector"}, "detector")
    text = run("show", "detector").stdout
    assert 'load_from = "sosr://detector@latest"' in text
    assert "sosr-det test CONFIG sosr://detector@latest" in text


def test_show_of_the_recipe_and_of_the_tensors_alone(run, entry, registry, state, fields):
    assert run("show", "r50", "--config").stdout == "loss = 'sosr'\n"
    header, *lines = run("show", "r50", "--tensors").stdout.splitlines()
    assert header.split() == ["tensor", "dtype", "shape", "sha256"]
    assert [line.split()[0] for line in lines] == sorted(state)
    assert entry.manifest.tensors["half"].sha256 in next(line for line in lines if line.startswith("half"))
    registry.publish(state, {k: fields[k] for k in ("arch", "preprocessing")}, "bare")
    assert "has no recipe" in str(run("show", "bare", "--config").exception)
    assert "give one of them" in str(run("show", "r50", "--config", "--json").exception)


def test_control_characters_of_a_manifest_do_not_reach_the_terminal(run, registry, state, fields):
    evil = "x\x1b]0;owned\x07\n[bold]y"
    fields["data"]["name"] = fields["notes"] = fields["arch"]["name"] = fields["recipe"]["config_text"] = evil
    fields["metrics"] = {evil: 1.0}
    fields["parents"] = [{"uri": evil, "digest": None, "relation": evil}]
    state = {f"evil{evil}": state["half"], "other": state["half"]}
    registry.publish(state, fields, "evil")
    registry.publish(
        {"other": state["other"] + 1}, fields | {"arch": fields["arch"] | {"name": f"2{evil}"}}, "evil2"
    )
    commands = (["ls"], ["show", "evil"], ["show", "evil", "--config"], ["show", "evil", "--tensors"])
    for command in (*commands, ["diff", "evil", "evil2"]):
        out = run(*command).stdout
        assert "\x1b" not in out
        assert "\x07" not in out
        assert "[bold]y" in out


def test_verify_of_a_sound_registry(run, entry):
    for arguments in (
        ["r50"],
        ["r50@v1"],
        [entry.pinned_uri],
        [f"sosr://sha256:{entry.tensors_digest}"],
        ["--all"],
    ):
        result = run("verify", *arguments)
        assert (result.exit_code, "all sound" in result.stdout) == (0, True)
        answer = json.loads(run("verify", *arguments, "--json").stdout)
        assert (answer["ok"], answer["damages"]) == (True, [])
        assert str(entry.blob_path) in answer["files_checked"]


def test_verify_lists_every_damage_and_exits_with_1(run, registry, entry, fields):
    other = registry.publish({"a": torch.ones(2)}, fields, "other")
    flip_last_byte(entry.blob_path)
    flip_last_byte(other.manifest_path)
    result = run("verify", "--all")
    assert result.exit_code == 1
    for path in (entry.blob_path, other.manifest_path):
        assert f"DAMAGED  {path}" in result.stdout
    assert result.stdout.count("  expected  sha256 ") == result.stdout.count("  found     sha256 ") == 2
    assert "2 damaged" in result.stdout
    result = run("verify", "--all", "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert {damage["file"] for damage in answer["damages"]} == {
        str(entry.blob_path),
        str(other.manifest_path),
    }
    assert run("verify", "r50").exit_code == 1
    assert run("verify", entry.pinned_uri).exit_code == 1
    flip_last_byte(registry.layout.ref_path("r50", "v1"))
    flip_last_byte(entry.blob_path)
    assert run("verify", "r50@latest").exit_code == 0
    assert run("verify", "r50").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["show", "r51"], RegistryError, "Near names: r50"),
        (["resolve", "r50@v9"], RegistryError, "its tags are latest, v1"),
        (["resolve", "../x"], RegistryError, "cannot be a registry name"),
        (["verify", "r51"], RegistryError, "Near names: r50"),
        (["verify", "r50@v9"], RegistryError, "its tags are"),
        (["verify", f"sha256:{'0' * 64}"], RegistryError, "no manifest and no weights"),
        (["verify"], ConfigError, "expected a name or --all, not neither"),
        (["verify", "r50", "--all"], ConfigError, "not both"),
    ],
)
def test_mistakes_are_errors_for_the_user(run, entry, arguments, error, said):
    result = run(*arguments)
    assert isinstance(result.exception, error)
    assert said in str(result.exception)
    assert result.stdout == ""


def test_show_of_a_damaged_entry_fails(run, entry):
    flip_last_byte(entry.manifest_path)
    assert isinstance(run("show", "r50").exception, CorruptEntryError)


def test_no_command_imports_torch(entry, registry, fields):
    registry.publish({"a": torch.ones(2)}, fields, "other")
    code = """
import sys
from sosr_det.cli.registry import app
commands = "ls", "show r50", "resolve r50", "verify --all", "diff r50 other --no-tensors", "card r50"
for command in commands:
    app([*command.split(), "--registry", sys.argv[1]], standalone_mode=False)
heavy = {"torch", "numpy", "mmengine", "safetensors", "fsspec", "filelock", "rich"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(registry.root)], check=True, capture_output=True, text=True
    )
    assert entry.digest in done.stdout
    assert done.stderr == ""

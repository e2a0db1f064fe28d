"""The model card: front matter that the Hub accepts, claims that the manifest makes, and no text that injects."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from sosr_det.cli.registry import app
from sosr_det.errors import ConfigError
from sosr_det.registry.card import front_matter, model_card
from sosr_det.registry.plain_text import code_block, code_span, yaml_lines

NASTY = [
    "x\n---\nlicense: mit",
    "x: [y, z] # comment",
    '"quoted" \\ back\\\\slash',
    "'single'",
    "!!python/object/apply:os.system ['true']",
    "*alias &anchor",
    "yes",
    "1e5",
    "null",
    "{a: b}",
    "- item",
    "\ud55c\uad6d\uc5b4 \U0001f600",
    "tab\tbell\x07esc\x1b[31m nel\x85 ls\u2028 bom\ufeff",
    "`code` ``two`` </code>",
    "<script>alert(1)</script>",
    "[link](https://evil.example) ![image](x)",
    "| a | b |",
    "```\n# heading\n````",
    "@user #1 https://evil.example",
    "`",
    "``",
    " ",
    "\\",
]


def parts(card):
    """Front matter as data, and the body."""
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


def section(body, title):
    return body.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


@pytest.fixture
def entry(registry, state, fields):
    fields["metrics"] |= {"top5": 92.9, "num_samples": 50000.0, "nll": 1e-5}
    evaluated = {"name": "imagenet-val", "fingerprint": "def", "num_samples": 50000}
    fields["data"] |= {"num_samples": 1281167, "evaluated_on": evaluated}
    fields["recipe"]["config_text"] = (
        "model = dict(loss=dict(threshold=0.99, type='SOSRLoss', weight=0.5))\ntrain_cfg = dict(max_epochs=90)\n"
    )
    return registry.publish(state, fields, "r50", ["v1", "latest"])


def test_the_front_matter_is_what_the_hub_reads(registry, entry):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(model_card(registry, entry))
    data = card.data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "sosr-det",
        "image-feature-extraction",
    )
    assert data.tags == ["sosr-det", "backbone", "resnet50", "torchvision"]
    assert data.datasets == ["imagenet-1k"]
    assert data.model_name == "r50"
    results = {result.metric_type: result for result in data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        "accuracy": 76.13,
        "top_5_accuracy": 92.9,
        "expected_calibration_error": 0.037,
        "nll": 1e-5,
    }
    assert {result.dataset_name for result in results.values()} == {"imagenet-val"}
    assert results["accuracy"].task_type == "image-classification"
    assert results["accuracy"].metric_name == "top-1 (%)"


def test_the_card_tells_what_the_manifest_says(registry, entry):
    _, body = parts(model_card(registry, entry))
    training = section(body, "How it was trained")
    for said in (
        "`resnet50_sosr_8xb32-90e_in1k`",
        "Epochs of the whole schedule: 90.",
        "with the SOSR term (threshold 0.99, weight 0.5)",
        "`imagenet-1k`, 1281167 samples, fingerprint `abc`",
        "Seed: 3.",
        "`torch 2.14.1`",
        "commit not recorded",
    ):
        assert said in training
    results = section(body, "Results")
    assert "Measured on `imagenet-val`, 50000 samples, fingerprint `def`." in results
    assert "| top-1 | 76.13 % |" in results
    assert "Also recorded, as reported: `num_samples` 50000" in results
    assert "| mean | 123.675, 116.28, 103.53 |" in section(body, "Preprocessing")
    usage = section(body, "How to use it")
    assert 'init_cfg=dict(type="Pretrained", checkpoint="sosr://r50@v1")' in usage
    assert "--format torchvision" in usage
    for digest in (entry.digest, entry.tensors_digest, entry.manifest.classes_sha256):
        assert f"`sha256:{digest}`" in section(body, "Integrity")
    assert "n = 1" in section(body, "Limits")
    assert "2103.15383" in section(body, "Citation")


def test_what_is_not_recorded_is_not_claimed(registry, state, fields):
    bare = registry.publish(state, {key: fields[key] for key in ("arch", "preprocessing")}, "bare")
    front, body = parts(model_card(registry, bare))
    assert front["license"] == "unknown"
    assert not front.keys() & {"datasets", "metrics", "model-index"}
    assert "No metrics are recorded." in body
    for unclaimed in ("Epochs", "SOSR term", "n = 1", "SOSR paper", "ImageNet", "Built on it"):
        assert unclaimed not in body
    assert "Recipe: not recorded" in body
    assert "No licence is recorded" in body
    other = {
        "config_name": "ce",
        "config_text": "train_cfg = dict(max_epochs=epochs)\nmodel = dict(loss=SOSRLoss())\n",
    }
    entry = registry.publish(state, fields | {"recipe": other}, "other")
    training = section(model_card(registry, entry), "How it was trained")
    assert "Epochs" not in training
    assert "SOSR term" not in training


def test_the_paper_is_cited_where_its_loss_was_used_here_or_before(registry, entry, state, fields):
    def cited(name, recipe, *parents):
        changes = {"parents": list(parents), "recipe": recipe and {"config_name": name, "config_text": recipe}}
        made = registry.publish(state, fields | changes, name)
        assert ("## Citation" in model_card(registry, made)) == ("SOSR paper" in model_card(registry, made))
        return "## Citation" in model_card(registry, made)

    parent = {"uri": "sosr://r50@v1", "digest": entry.digest, "relation": "finetuned-from"}
    absent = {"uri": "a.pth", "digest": "b" * 64, "relation": "imported-from"}
    assert not cited("plain", "model = dict(loss=dict(type='CrossEntropy'))")
    assert not cited("foreign", None, absent)
    assert cited("child", "lr = 1", absent, parent)
    child = registry.resolve("sosr://child").digest
    assert cited("grandchild", None, parent | {"uri": "sosr://child", "digest": child})


def test_an_imported_entry_was_not_trained_with_the_importers_libraries(registry, state, fields):
    parent = {"uri": "a.pth", "digest": "b" * 64, "relation": "imported-from"}
    entry = registry.publish(state, fields | {"parents": [parent], "classes": []}, "foreign")
    body = model_card(registry, entry)
    assert "Imported with `torch 2.14.1`; what it was trained with is not recorded." in body
    assert "Code: commit" not in body
    assert entry.manifest.classes_sha256 not in body


def test_notes_keep_their_lines_and_stay_in_their_block(registry, state, fields):
    notes = "one\r\n\n## Integrity\n```\n| manifest | `sha256:0` |\x1b[1m\n"
    body = model_card(registry, registry.publish(state, fields | {"notes": notes}, "noted"))
    block = next(text for kind, text in markdown_tokens(body) if kind == "fence" and text.startswith("one"))
    assert block == "one\n\n## Integrity\n```\n| manifest | `sha256:0` |\ufffd[1m\n"


def test_imported_metrics_are_called_what_they_are(registry, state, fields):
    parent = {"uri": "torchvision://resnet50", "digest": "a" * 64, "relation": "imported-from"}
    entry = registry.publish(state, fields | {"parents": [parent], "recipe": None}, "imported")
    body = model_card(registry, entry)
    assert "Stated by whoever imported the weights, not measured here" in body
    assert "n = 1" not in body
    assert "Started from: `torchvision://resnet50`" in body


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("MIT", {"license": "mit"}),
        ("My-Own-1.0", {"license": "other", "license_name": "My-Own-1.0"}),
        (None, {"license": "unknown"}),
    ],
)
def test_licences_by_the_hubs_ids(registry, state, fields, given, expected):
    front = front_matter(registry.publish(state, fields | {"license": given}, "x"))
    assert {key: value for key, value in front.items() if key.startswith("license")} == expected


def test_a_detector_and_the_backbone_under_it(registry, state, fields):
    backbone = registry.publish(state, fields, "r50")
    parent = {"uri": backbone.uri, "digest": backbone.digest, "relation": "detector-on"}
    changes = {
        "kind": "detector",
        "arch": fields["arch"]
        | {"name": "RetinaNet", "library": "mmdet", "stem": "-", "feature_channels": []},
        "metrics": {
            "map_11point": 0.7712,
            "ap_11point/cat": 0.9,
            "ap_11point/dog": 0.6424,
            "ap_area/cat": 0.95,
        },
        "parents": [parent],
        "data": {"name": "VOC", "fingerprint": None},
    }
    detector = registry.publish(state | {"x": torch.ones(1)}, fields | changes, "retina")
    front, body = parts(model_card(registry, detector))
    assert front["pipeline_tag"] == "object-detection"
    metric = front["model-index"][0]["results"][0]["metrics"][0]
    assert (metric["type"], metric["value"], metric["name"]) == ("map_11point", 77.12, "VOC mAP 11-point (%)")
    assert "| `cat` | 90.00 % |" in body
    assert 'load_from = "sosr://retina@latest"' in body
    assert "build_backbone" not in body
    assert "└─ detector-on: retina@latest" in section(body, "Lineage")
    built = section(model_card(registry, backbone), "Built on it")
    assert "| `retina@latest` | `RetinaNet` | `VOC` | 77.12 % |" in built


def test_results_on_cub_carry_their_warning(registry, state, fields):
    data = {"name": "CUB200", "fingerprint": None}
    for number, (name, warned) in enumerate({"CUB200": True, "imagenet-1k": False}.items()):
        entry = registry.publish(state, fields | {"data": data | {"name": name}}, f"e{number}")
        assert ("Some test images of CUB-200-2011" in model_card(registry, entry)) == warned


# ---- texts of others -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", NASTY)
def test_no_text_becomes_yaml_or_markup(registry, state, fields, text):
    """The same card with a harmless word differs from the nasty one in that word alone."""

    def card(word, name):
        changes = {
            "arch": fields["arch"] | {"name": word or "x", "library": word, "stem": word},
            "notes": word,
            "license": word,
            "git_commit": word,
            "metrics": {"top1": 1.0, f"ap_11point/{word}": 0.5, f"other{word}": 2.0},
            "recipe": {"config_name": word, "config_text": "x"},
            "data": {"name": word, "fingerprint": word, "evaluated_on": {"name": word, "fingerprint": word}},
            "parents": [{"uri": word, "digest": None, "relation": word}],
            "library_versions": {word: word},
            "preprocessing": fields["preprocessing"] | {"interpolation": word},
        }
        return model_card(registry, registry.publish(state, fields | changes, name))

    word = text if text.strip() else "?"
    nasty, plain = card(word, "nasty"), card("harmless", "plain")
    shown = "".join(char if char.isprintable() else "\ufffd" for char in word)
    front, body = parts(nasty)
    expected, plain_body = parts(plain)
    assert list(front) == [key for key in expected if key != "datasets" or "datasets" in front]
    assert front["license"] == "other"
    assert front["license_name"] == shown
    assert front["tags"] == ["sosr-det", "backbone", shown, shown]
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == shown
    tokens, plain_tokens = markdown_tokens(body), markdown_tokens(plain_body)
    assert [kind for kind, _ in tokens] == [kind for kind, _ in plain_tokens]
    changed = {kind for (kind, a), (_, b) in zip(tokens, plain_tokens, strict=True) if a != b}
    assert changed <= {"code_inline", "fence"}  # what others wrote stands in code, and nowhere else
    assert any(shown.strip() in content for kind, content in tokens if kind == "code_inline")


def markdown_tokens(markdown):
    """What a CommonMark parser with tables reads: (type, content) of every token."""
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    tokens = []
    for token in parser.parse(markdown):
        if token.type == "inline":
            tokens += [(child.type, child.content) for child in token.children]
        else:
            tokens.append((token.type, token.content))
    return tokens


def test_the_parser_sees_what_is_not_in_code():
    """Negative control: the nasty texts are markup where they stand outside of code."""
    kinds = {kind for text in NASTY for kind, _ in markdown_tokens(f"a {text} b\n\n{text}")}
    assert {"html_inline", "html_block", "link_open", "image", "heading_open"} <= kinds


def test_spans_and_blocks():
    assert code_span("a") == "`a`"
    assert code_span("a`b") == "``a`b``"
    assert code_span("`a") == "`` `a ``"
    assert code_span("a|b\nc") == "`a\\|b\ufffdc`"
    assert code_span("") == "` `"
    assert code_block(["a", "```", "b\nc"], "text") == ["````text", "a", "```", "b\ufffdc", "````"]


@pytest.mark.parametrize("value", [*NASTY, 0, -1, True, None, 1.5, 1e-7, 1e22, 123456789.0, 0.1 + 0.2])
def test_yaml_gives_back_what_went_in(value):
    shown = "".join(c if c.isprintable() else "\ufffd" for c in value) if isinstance(value, str) else value
    document = {"a": value, "b": [value, {"c": value, "d": [value]}], "e": {"f": value}}
    read = yaml.safe_load("\n".join(yaml_lines(document)))
    assert read == {"a": shown, "b": [shown, {"c": shown, "d": [shown]}], "e": {"f": shown}}
    assert type(read["a"]) is type(shown)


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_and_writes(registry, entry, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(app, ["card", "r50@v1", "--registry", str(registry.root), *arguments])

    text = model_card(registry, registry.resolve("sosr://r50@v1"))
    assert run().stdout == text
    file = tmp_path / "README.md"
    assert run("--out", str(file)).stdout == f"wrote {file}\n"
    assert file.read_text() == text
    assert isinstance(run("--out", str(file)).exception, ConfigError)
    file.write_text("old")
    assert run("--out", str(file), "--force").exit_code == 0
    assert file.read_text() == text
    assert isinstance(run("--out", str(tmp_path / "no" / "README.md")).exception, ConfigError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "registry"]
    answer = json.loads(run("--json").stdout)
    assert (answer["card"], answer["digest"]) == (text, entry.digest)
    assert answer["front_matter"] == parts(text)[0]


def test_a_file_system_that_refuses_writing_is_an_error_with_advice(registry, entry, tmp_path, monkeypatch):
    """On one that is read-only, removing the temporary file fails too."""

    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    arguments = ["card", "r50@v1", "--registry", str(registry.root), "--out", str(tmp_path / "README.md")]
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, ConfigError)
    assert "Read-only file system" in str(error)

"""docs/anywhere/huggingface.md, run as it stands, with a real Trainer and a ViT made from a config (no download)."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset

from sosr_det.losses import SOSRLoss

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed (optional group 'peers')"
)
pytest.importorskip("accelerate", reason="accelerate is not installed (optional group 'peers')")


@pytest.fixture
def page(run_page):
    return run_page("huggingface")


class Samples(Dataset):
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": int(self.labels[index])}


def vit(checks, scale=1.0):
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, num_channels=checks.num_classes, num_labels=checks.num_classes, hidden_size=32,
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    model.classifier.weight.data *= scale
    return model


def resnet(checks):
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        num_channels=checks.num_classes, num_labels=checks.num_classes, embedding_size=8, hidden_sizes=[8, 16],
        depths=[1, 1], layer_type="basic",
    )  # fmt: skip
    return transformers.ResNetForImageClassification(config)


def arguments(tmp_path, **changes):
    settings = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 48, "per_device_eval_batch_size": 48,
        "learning_rate": 1e-2, "num_train_epochs": 1, "logging_steps": 1, "save_strategy": "no", "report_to": [],
        "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False, "seed": 0,
    }  # fmt: skip
    return transformers.TrainingArguments(**settings | changes)


@pytest.mark.parametrize("build", [vit, resnet])
@pytest.mark.parametrize("mixing", [True, False], ids=["cutmix", "labels"])
def test_training_logs_the_loss_of_what_is_in_the_images(
    page, checks, readable_images, tmp_path, build, mixing
):
    model = build(checks)
    recorder = checks.Recorder(model)
    samples = Samples(*readable_images)
    trainer = page.SOSRTrainer(
        model,
        arguments(tmp_path, num_train_epochs=60, lr_scheduler_type="constant"),
        train_dataset=samples,
        eval_dataset=samples,
        num_classes=checks.num_classes if mixing else None,
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    checks.assert_run(logs, recorder.calls, mixes=mixing)
    for log in logs:
        assert log["loss"] == pytest.approx(log["loss_base"] + log["loss_sosr"], rel=1e-3, abs=2e-4)
    assert logs[-1]["loss_base"] < logs[0]["loss_base"]

    # Evaluation sees the images as they are, with the same loss.
    metrics = trainer.evaluate()
    with torch.no_grad():
        logits = model.eval()(pixel_values=readable_images[0]).logits
    expected = checks.reference_terms(logits, checks.shares_in(readable_images[0]))
    assert metrics["eval_loss"] == pytest.approx(expected["loss_base"] + expected["loss_sosr"], rel=1e-3)


def gradient_of_one_step(
    trainer_class, checks, readable_images, tmp_path, batch_size, accumulation, num_classes
):
    """Weights after one SGD step of one epoch, and the penalty's activity."""
    model = vit(checks, scale=300)
    trainer = trainer_class(
        model,
        arguments(
            tmp_path, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation, optim="sgd",
            learning_rate=1.0, lr_scheduler_type="constant", max_grad_norm=0.0,
        ),
        train_dataset=Samples(*readable_images), num_classes=num_classes,
    )  # fmt: skip
    if num_classes is not None:
        trainer.train_collator.probability = 0.0  # soft labels, but the same images however they are split
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    trainer.train()
    assert trainer.state.global_step == 1
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    return before - after, trainer.state.log_history[0]


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft_targets"])
def test_accumulated_gradients_are_those_of_one_batch(page, checks, readable_images, tmp_path, soft):
    common = (checks, readable_images, tmp_path)
    num_classes = checks.num_classes if soft else None
    whole, log = gradient_of_one_step(page.SOSRTrainer, *common, 48, 1, num_classes)
    assert log["loss_sosr"] > 1e-3  # the penalty takes part
    scale = whole.abs().max()
    halves, halves_log = gradient_of_one_step(page.SOSRTrainer, *common, 24, 2, num_classes)
    uneven, _ = gradient_of_one_step(page.SOSRTrainer, *common, 32, 2, num_classes)  # 32 + 16
    assert (halves - whole).abs().max() < 1e-4 * scale
    assert (uneven - whole).abs().max() < 1e-4 * scale
    assert halves_log["loss"] == pytest.approx(log["loss"], rel=1e-3)

    # Negative control: the plain mean, which the page warns of, is twice as large.
    class WithoutScaling(page.SOSRTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            scaled = self.compute_loss_func
            self.compute_loss_func = lambda outputs, labels, num_items_in_batch=None: scaled(outputs, labels)

        def log(self, logs, *args, **kwargs):
            transformers.Trainer.log(self, logs, *args, **kwargs)

    doubled, _ = gradient_of_one_step(WithoutScaling, *common, 24, 2, num_classes)
    assert (doubled - 2 * whole).abs().max() < 1e-4 * scale


def test_the_models_own_smoothing_is_not_used(page, checks, readable_images, tmp_path):
    # label_smoothing_factor is silently without effect beside compute_loss_func, as the page says.
    losses = []
    for factor in (0.0, 0.3):
        trainer = page.SOSRTrainer(
            vit(checks),
            arguments(tmp_path, label_smoothing_factor=factor),
            train_dataset=Samples(*readable_images),
        )
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss_base"])
    assert losses[0] == losses[1]


def test_without_a_count_the_mean_is_returned(page, checks):
    logits, labels = torch.randn(4, checks.num_classes), torch.arange(4)
    objective = page.SOSRObjective(SOSRLoss())
    loss = objective(type("Outputs", (), {"logits": logits}), labels)
    assert loss == SOSRLoss()(logits, labels)

"""docs/anywhere/lightning.md, run as it stands, with a real Trainer on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

lightning = pytest.importorskip("lightning", reason="lightning is not installed (optional group 'peers')")


class KeepLogs(lightning.Callback):
    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})


@pytest.mark.parametrize(
    ("cutmix_probability", "precision"),
    [(0.0, "32-true"), (0.5, "32-true"), (0.5, "bf16-mixed"), (0.5, "bf16-true"), (0.5, "64-true")],
)
def test_fit(run_page, checks, readable_images, tmp_path, cutmix_probability, precision):
    lightning.seed_everything(0, verbose=False)
    loader = DataLoader(TensorDataset(*readable_images), batch_size=24)
    network = checks.small_network(confident=True)
    recorder, logs = checks.Recorder(network), KeepLogs()
    module = run_page("lightning").Classifier(network, checks.num_classes, cutmix_probability)
    trainer = lightning.Trainer(
        max_epochs=10, accelerator="cpu", devices=1, precision=precision, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, log_every_n_steps=1,
        callbacks=[logs],
    )  # fmt: skip
    trainer.fit(module, loader, loader)

    checks.assert_run(logs.steps, recorder.calls, mixes=cutmix_probability > 0)
    for step in logs.steps:
        assert step["loss"] == pytest.approx(step["loss_base"] + step["loss_sosr"], rel=1e-5)

    # Validation images are never mixed: the network is sure of every one, which it could not be of a mix.
    assert float(trainer.callback_metrics["val_accuracy"]) == 1
    assert float(trainer.callback_metrics["val_loss_ce"]) < 1e-3


def test_accumulation_is_one_big_batch(run_page, checks, readable_images, tmp_path):
    def weights_after_one_step(batch_size, accumulate):
        torch.manual_seed(0)
        network = checks.small_network(confident=True)
        module = run_page("lightning").Classifier(network, checks.num_classes, cutmix_probability=0.0)
        loader = DataLoader(TensorDataset(*readable_images), batch_size=batch_size)
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            accumulate_grad_batches=accumulate, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, loader)
        assert trainer.global_step == 1
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    torch.testing.assert_close(
        weights_after_one_step(12, 4), weights_after_one_step(48, 1), rtol=1e-4, atol=1e-5
    )

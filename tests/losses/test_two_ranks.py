"""Two gloo processes under DDP give the gradient of one process on the joined batch."""

from __future__ import annotations

import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sosr_det.losses import OnlineLabelSmoothing, SOSRLoss


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5)).double()


def make_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = 8 * torch.randn(16, 6, generator=generator, dtype=torch.float64)
    # What the network says already is the label of most samples: these become over-confident.
    labels = make_network()(images).argmax(1)
    labels[::4] = torch.randint(5, (4,), generator=generator)
    return images, labels


class Training(nn.Module):
    """The network with its criterion as a child, as a LightningModule holds it: DDP then handles its buffers too."""

    def __init__(self) -> None:
        super().__init__()
        self.network = make_network()
        self.smoothing = OnlineLabelSmoothing(5).double()

    def forward(self, images, labels):
        logits = self.network(images)
        self.smoothing(logits.detach(), labels)
        return SOSRLoss(0.5, 3.0)(logits, labels)


def train_rank(rank: int, port: int, results) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    training = Training()
    wrapped = DistributedDataParallel(training)  # broadcasts buffers before every forward pass
    images, labels = (t[rank * 8 : rank * 8 + 8] for t in make_batch())
    wrapped(images, labels).backward()
    wrapped(images, labels)  # a second batch: what the first one gathered must still be there
    network, smoothing = training.network, training.smoothing
    smoothing.next_epoch()
    results[rank] = ([p.grad.tolist() for p in network.parameters()], smoothing.soft_labels.tolist())
    dist.destroy_process_group()


def test_two_ranks_equal_one_process():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = mp.get_context("spawn").Manager().dict()
    mp.spawn(train_rank, args=(port, results), nprocs=2)
    network, (images, labels) = make_network(), make_batch()
    terms = SOSRLoss(0.5, 3.0).terms(network(images), labels)
    assert terms.loss_sosr > 0
    (terms.loss_base + terms.loss_sosr).backward()
    smoothing = OnlineLabelSmoothing(5).double()
    smoothing(network(images).detach(), labels)
    smoothing.next_epoch()
    for rank in (0, 1):
        gradients, soft_labels = results[rank]
        for found, parameter in zip(gradients, network.parameters(), strict=True):
            torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), parameter.grad)
        torch.testing.assert_close(torch.tensor(soft_labels, dtype=torch.float64), smoothing.soft_labels)

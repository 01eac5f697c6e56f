"""What autoencoders log in evaluation: the same on two processes as on one, the draws of examples included."""

from typing import Any

import pytest
import torch
from kit import quiet_trainer
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from zoo import VAE, Autoencoder

NETS = {
    "denoising": (Autoencoder, {"corruption": "gaussian"}),
    "variational": (VAE, {"importance_samples": 3, "conditional": True}),
}


def evaluate(name: str, ranks: int) -> dict[str, float]:
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(20, 1, 4, 4).round(), torch.arange(20) % 10)
    cls, arguments = NETS[name]
    task: Any = cls(input_shape=[1, 4, 4], latent_dim=2, widths=[8], **arguments)

    def loader() -> DataLoader:
        sampler = DistributedSampler(data, ranks, task.global_rank, shuffle=False)
        return DataLoader(data, 7 - 2 * ranks, sampler=sampler)  # batches are cut elsewhere, too

    task.test_dataloader = loader
    trainer = quiet_trainer(ranks=ranks, use_distributed_sampler=False)
    return dict(trainer.test(task, verbose=False)[0])


@pytest.mark.parametrize("name", NETS)
def test_two_ranks_log_what_one_logs(name: str) -> None:
    one = evaluate(name, 1)
    assert one.keys() >= ({"test/denoised_mse"} if name == "denoising" else {"test/iwae", "test/active_units"})
    assert evaluate(name, 2) == pytest.approx(one, rel=1e-6)

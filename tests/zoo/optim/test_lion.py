"""Lion by its formula, and what it refuses."""

import pytest
import torch
from torch import nn

from zoo.optim import Lion


def test_steps_are_those_of_algorithm_2() -> None:
    g = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(5, generator=g).double(), torch.randn(6, 5, generator=g).double()
    p = nn.Parameter(start.clone())
    optimizer = Lion([p], lr=0.1, betas=(0.8, 0.6), weight_decay=0.2)
    weights, momentum = start, torch.zeros(5).double()
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
        direction = (0.8 * momentum + 0.2 * gradient).sign()
        weights = weights - 0.1 * (direction + 0.2 * weights)
        momentum = 0.6 * momentum + 0.4 * gradient
        torch.testing.assert_close(p.data, weights, rtol=1e-12, atol=1e-12)


def test_a_weight_without_a_gradient_stays() -> None:
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Lion([first, second], lr=0.5, weight_decay=0.1)
    first.grad = torch.tensor([1.0, 0.0])
    optimizer.step()
    torch.testing.assert_close(first.data, torch.tensor([0.45, 0.95]))
    assert torch.equal(second.data, torch.ones(2))


def test_a_closure_computes_the_gradient() -> None:
    p = nn.Parameter(torch.tensor([2.0]))
    optimizer = Lion([p], lr=0.5)

    def closure() -> torch.Tensor:
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert p.item() == 1.5


def test_bad_arguments() -> None:
    for bad in ({"lr": 0.0}, {"betas": (0.9, 1.0)}, {"betas": (0.9,)}, {"weight_decay": -0.1}):
        with pytest.raises(ValueError, match="Lion takes lr > 0, two betas"):
            Lion([nn.Parameter(torch.ones(1))], **bad)
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2).to_sparse()
    with pytest.raises(ValueError, match="sparse=False"):
        Lion([p]).step()

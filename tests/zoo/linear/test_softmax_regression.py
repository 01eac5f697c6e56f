"""Softmax regression: the temperature, and scikit-learn as the oracle of the trained model."""

import math

import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

import zoo
from zoo.linear import SoftmaxRegression


def test_temperature_divides_the_logits() -> None:
    net, x = SoftmaxRegression(4, 3, temperature=2.0), torch.rand(5, 4)
    torch.testing.assert_close(net(x), net.fc(x) / 2)
    hot, cold = SoftmaxRegression(4, 3, temperature=1e6), SoftmaxRegression(4, 3, temperature=1e-6)
    torch.testing.assert_close(hot(x).softmax(1), torch.full((5, 3), 1 / 3), atol=1e-5, rtol=0)
    assert (cold(x).softmax(1).amax(1) > 0.999).all()


def test_newton_finds_scikit_learns_solution() -> None:
    x, y = load_iris(return_X_y=True)
    x = torch.tensor((x - x.mean(0)) / x.std(0))
    y = torch.tensor(y)
    task = zoo.SoftmaxRegressionClassifier(in_features=4, num_classes=3, optimizer="Newton", lr=1.0).double()
    optimizer = task.configure_optimizers()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        # scikit-learn's L2: sum of losses + |W|^2 / (2C) with C = 1, the bias free
        loss = task.training_losses((x, y))[0] + task.net.fc.weight.square().sum() / (2 * len(x))
        loss.backward()
        return loss

    for _ in range(12):
        optimizer.step(closure)
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(x.numpy(), y.numpy())
    torch.testing.assert_close(task.net.fc.weight.data, torch.tensor(theirs.coef_), atol=1e-4, rtol=0)


def test_a_zeroed_model_has_the_expected_initial_loss() -> None:
    task = zoo.SoftmaxRegressionClassifier(in_features=4, num_classes=3)
    for p in task.parameters():
        torch.nn.init.zeros_(p)
    loss, *_ = task.training_losses((torch.rand(6, 4), torch.arange(6) % 3))
    assert loss.item() == pytest.approx(math.log(3)) == pytest.approx(task.expected_initial_loss())


def test_bad_arguments_and_input() -> None:
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        SoftmaxRegression(temperature=0)
    with pytest.raises(ValueError, match="takes 784 numbers an example, got 64: set in_features=64"):
        SoftmaxRegression()(torch.rand(2, 1, 8, 8))

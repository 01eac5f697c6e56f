"""Logistic regression against scikit-learn and a float64 formula."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression as Theirs

import zoo
from zoo.testing import check_module


def test_newton_finds_scikit_learns_solution() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    x, y = torch.tensor((x - x.mean(0)) / x.std(0)), torch.tensor(y)
    c = 0.5
    task = zoo.LogisticRegressionClassifier(l2=1 / (c * len(x)), optimizer="Newton", lr=1.0).double()
    optimizer = task.configure_optimizers()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = task.training_losses((x, y))[0]
        loss.backward()
        return loss

    for p in task.parameters():
        torch.nn.init.zeros_(p)
    for _ in range(15):
        optimizer.step(closure)
    theirs = Theirs(C=c, tol=1e-10, max_iter=10_000).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(task.net.fc.weight.detach(), theirs.coef_, atol=1e-4)
    np.testing.assert_allclose(task.net.fc.bias.detach(), theirs.intercept_, atol=1e-4)
    probabilities = task.predict_step(x)["probabilities"].detach()
    np.testing.assert_allclose(probabilities, theirs.predict_proba(x.numpy()), atol=1e-4)


def test_the_penalty_is_part_of_the_loss_and_logged_apart() -> None:
    task = zoo.LogisticRegressionClassifier(4, l2=0.3)
    batch = torch.rand(8, 4), torch.arange(8) % 2
    loss, means, _ = task.training_losses(batch)
    wanted = 0.15 * sum(w**2 for w in task.net.fc.weight.flatten().tolist())
    assert means["penalty"].item() == pytest.approx(wanted, rel=1e-5)
    assert loss.item() == pytest.approx(means["loss"].item() + wanted, rel=1e-5)
    plain = zoo.LogisticRegressionClassifier(4)
    plain.load_state_dict(task.state_dict())
    assert plain.training_losses(batch)[0].item() == pytest.approx(means["loss"].item())
    assert set(plain.training_losses(batch)[1]) == {"loss", "acc"}


def test_one_logit_and_its_threshold() -> None:
    task = zoo.LogisticRegressionClassifier(2, threshold=0.9)
    task.net.fc.weight.data = torch.tensor([[1.0, 0.0]])
    task.net.fc.bias.data.zero_()
    assert task(torch.rand(3, 2)).shape == (3, 1)
    got = task.predict_step(torch.tensor([[2.0, 0.0], [2.5, 0.0]]))  # sigmoid: 0.881, 0.924
    assert got["label"] == ["0", "1"]


def test_contract_of_several_labels() -> None:
    task = zoo.LogisticRegressionClassifier(64, 3, mode="multilabel", l2=1e-3)
    batch = torch.randn(8, 64), (torch.arange(24) % 5 < 2).float().view(8, 3)
    assert task(batch[0]).shape == (8, 3)
    assert set(check_module(task, batch).values()) == {"ok"}


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="mode must be binary or multilabel, got 'multiclass'"):
        zoo.LogisticRegressionClassifier(mode="multiclass")
    with pytest.raises(ValueError, match="l2 must be 0 or above, got -1"):
        zoo.LogisticRegressionClassifier(l2=-1)
    with pytest.raises(ValueError, match="for two classes, got num_classes=3"):
        zoo.LogisticRegressionClassifier(num_classes=3)

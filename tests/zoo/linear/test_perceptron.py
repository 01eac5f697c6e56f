"""The perceptron's rule by hand, what it can learn (AND) and what it cannot (XOR)."""

from typing import Any

import pytest
import torch
from sklearn.linear_model import Perceptron as Theirs
from sklearn.metrics import hinge_loss

import zoo

CORNERS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
GATES = {"and": torch.tensor([0, 0, 0, 1]), "or": torch.tensor([0, 1, 1, 1]), "xor": torch.tensor([0, 1, 1, 0])}


def best_accuracy(gate: str, rule: str, epochs: int = 200) -> float:
    """The best accuracy on the four corners after any step, training on single examples."""
    y = GATES[gate]
    task = zoo.PerceptronClassifier(2, rule=rule, optimizer="SGD", lr=0.1)
    optimizer, best = task.configure_optimizers(), 0.0
    for step in range(4 * epochs):
        i = step % 4
        optimizer.zero_grad()
        task.training_losses((CORNERS[i : i + 1], y[i : i + 1]))[0].backward()
        optimizer.step()
        best = max(best, task.training_losses((CORNERS, y))[1]["acc"].item())
    return best


@pytest.mark.parametrize("rule", ["perceptron", "hinge"])
def test_and_or_can_be_learned_and_xor_cannot(rule: str) -> None:
    assert best_accuracy("and", rule) == 1.0
    assert best_accuracy("or", rule) == 1.0
    assert best_accuracy("xor", rule) <= 0.75


def test_no_weights_solve_xor() -> None:
    """The proof behind the test above: s(00) + s(11) = s(01) + s(10), so the signs cannot differ pairwise."""
    net = zoo.PerceptronClassifier(2).net.double()
    for _ in range(100):
        torch.nn.init.normal_(net.fc.weight, std=10)
        torch.nn.init.normal_(net.fc.bias, std=10)
        s = net(CORNERS.double()).flatten()
        assert (s[0] + s[3] - s[1] - s[2]).abs().item() < 1e-12
        assert ((s >= 0).long() == GATES["xor"]).sum().item() <= 3


def test_a_step_is_rosenblatts_rule() -> None:
    """From zero weights, one example at a time, lr 1: the integers that the rule gives, and scikit-learn's."""
    x = torch.randint(-5, 6, (40, 3)).float()
    y = (x @ torch.tensor([1.0, -2.0, 1.0]) + 1 >= 0).long()
    task = zoo.PerceptronClassifier(3, optimizer="SGD", lr=1.0)
    for p in task.parameters():
        torch.nn.init.zeros_(p)
    optimizer = task.configure_optimizers()
    w, b = torch.zeros(3), 0.0
    for i in range(40):
        t = 2 * y[i].item() - 1
        if t * (w @ x[i] + b) <= 0:
            w, b = w + t * x[i], b + t
        optimizer.zero_grad()
        task.training_losses((x[i : i + 1], y[i : i + 1]))[0].backward()
        optimizer.step()
        assert task.net.fc.weight[0].tolist() == w.tolist()
        assert task.net.fc.bias.item() == b
    theirs = Theirs(alpha=0, max_iter=1, tol=None, shuffle=False).fit(x.numpy(), y.numpy())
    assert theirs.coef_[0].tolist() == w.tolist()


def test_hinge_loss_is_scikit_learns() -> None:
    task = zoo.PerceptronClassifier(4, rule="hinge", class_weight=[1.0, 3.0])
    x, y = torch.randn(50, 4), torch.randint(2, (50,))
    s = task(x).detach().squeeze(1)
    weight = torch.tensor([1.0, 3.0])[y]
    assert task.example_losses(task(x), y, training=False).mean().item() == pytest.approx(hinge_loss(y, s), rel=1e-5)
    wanted = hinge_loss(y, s, sample_weight=weight) * weight.mean().item()
    assert task.training_losses((x, y))[0].item() == pytest.approx(wanted, rel=1e-5)


def test_prediction_is_a_decision() -> None:
    task = zoo.PerceptronClassifier(1)
    task.net.fc.weight.data.fill_(1.0)
    task.net.fc.bias.data.fill_(-2.0)
    got = task.predict_step(torch.tensor([[1.9], [2.0], [50.0]]))
    assert got["label"] == ["0", "1", "1"]
    assert got["probabilities"].tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "delta"}, "rule must be perceptron or hinge, got 'delta'"),
        ({"mode": "multilabel"}, "a perceptron has two classes"),
        ({"num_classes": 3}, "for two classes, got num_classes=3"),
        ({"threshold": 0.7}, "threshold does not apply: leave it at 0.5"),
        ({"label_smoothing": 0.1}, "label_smoothing does not apply"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.PerceptronClassifier(**arguments)

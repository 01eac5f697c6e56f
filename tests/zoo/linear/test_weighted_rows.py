"""Weights of rows in training: what has weight 0 changes no loss, no logged mean and no gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo

TASKS: dict[str, tuple[Callable[[], zoo.Task], Callable[[int], Tensor]]] = {
    "linear_regression": (lambda: zoo.LinearRegressor(4, 2), lambda n: torch.randn(n, 2)),
    "mlp_regression": (lambda: zoo.MLPRegressor(4, 1, [3]), lambda n: torch.randn(n)),
    "mlp": (lambda: zoo.MLPClassifier(4, 3, [3], class_weight=[1.0, 2.0, 3.0]), lambda n: torch.randint(3, (n,))),
    "highway": (lambda: zoo.HighwayClassifier(3, -1.0, 4, 3), lambda n: torch.randint(3, (n,))),
    "softmax_regression": (lambda: zoo.SoftmaxRegressionClassifier(4, 3), lambda n: torch.randint(3, (n,))),
    "logistic_regression": (lambda: zoo.LogisticRegressionClassifier(4, l2=0.5), lambda n: torch.randint(2, (n,))),
    "several_labels": (
        lambda: zoo.LogisticRegressionClassifier(4, 3, "multilabel"),
        lambda n: torch.randint(2, (n, 3)).float(),
    ),
    **{
        rule: (lambda rule=rule: zoo.PerceptronClassifier(4, rule=rule), lambda n: torch.randint(2, (n,)))
        for rule in ("perceptron", "hinge")
    },
    "gaussian": (lambda: zoo.GLMRegressor(4, 2), lambda n: torch.randn(n, 2)),
    "one_gaussian": (lambda: zoo.GLMRegressor(4), lambda n: torch.randn(n)),
    "bernoulli": (lambda: zoo.GLMRegressor(4, 2, "bernoulli"), lambda n: torch.randint(2, (n, 2))),
    "poisson": (lambda: zoo.GLMRegressor(4, 1, "poisson"), lambda n: torch.randint(5, (n,))),
    "categorical": (lambda: zoo.GLMRegressor(4, 3, "categorical"), lambda n: torch.randint(3, (n,))),
    "max_likelihood": (lambda: zoo.MaximumLikelihood("Gumbel", 4), lambda n: torch.zeros(n)),
}
every_task = pytest.mark.parametrize("name", TASKS)


def setting(name: str) -> tuple[zoo.Task, Tensor, Tensor]:
    """A task with weights off zero, and eleven rows."""
    build, targets = TASKS[name]
    task = build().double()
    for p in task.parameters():
        torch.nn.init.normal_(p)
    y = targets(11)
    return task, torch.randn(11, 4, dtype=torch.float64), y.double() if y.is_floating_point() else y


def outcome(task: zoo.Task, batch: Any) -> tuple[Tensor, dict[str, float], float, list[Tensor]]:
    """Loss, logged means, their denominator, and the gradient."""
    task.zero_grad()
    loss, means, count = task.training_losses(batch)
    loss.backward()
    return loss, {k: v.item() for k, v in means.items()}, float(count), [p.grad.clone() for p in task.parameters()]


def assert_equal(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    """Loss and gradient to the last digits; accuracies are in single precision."""
    torch.testing.assert_close((one[0], one[3]), (other[0], other[3]), rtol=1e-12, atol=1e-14)
    assert one[1] == pytest.approx(other[1], rel=1e-6)
    assert one[2] == other[2]


@every_task
def test_rows_of_weight_zero_do_not_count(name: str) -> None:
    task, x, y = setting(name)
    weight = (torch.arange(11) % 3 > 0).double()
    kept = weight > 0
    without = outcome(task, (x[kept], y[kept]))
    assert without[2] == 7
    assert_equal(outcome(task, (x, y, weight)), without)
    whole = outcome(task, (x, y))
    assert not torch.allclose(whole[0], without[0])  # the other rows do make a difference
    assert_equal(outcome(task, (x, y, torch.ones_like(weight))), whole)


@every_task
def test_a_weight_of_two_is_a_row_twice(name: str) -> None:
    task, x, y = setting(name)
    twice = torch.cat([torch.arange(11), torch.tensor([4])])
    weight = torch.ones(11, dtype=torch.float64)
    weight[4] = 2
    assert_equal(outcome(task, (x, y, weight)), outcome(task, (x[twice], y[twice])))


@every_task
def test_a_factor_of_all_weights_changes_only_their_total(name: str) -> None:
    task, x, y = setting(name)
    weight = torch.rand(11, dtype=torch.float64) + 0.1
    one, other = outcome(task, (x, y, weight)), outcome(task, (x, y, 0.01 * weight))
    assert other[2] == pytest.approx(0.01 * one[2])
    assert_equal((*one[:2], other[2], one[3]), other)


@every_task
def test_a_batch_in_which_nothing_counts_has_loss_zero(name: str) -> None:
    task, x, y = setting(name)
    loss, means, count, gradients = outcome(task, (x, y, torch.zeros(11, dtype=torch.float64)))
    penalty = means.get("penalty", 0.0)
    assert loss.item() == penalty
    assert means["loss"] == count == 0
    if not penalty:
        assert not any(gradient.any() for gradient in gradients)


def test_each_target_of_a_glm_may_have_a_weight() -> None:
    task, x, y = setting("gaussian")
    weight = (torch.arange(22).view(11, 2) % 4 > 0).double()
    eta = task(x).detach()
    wanted = ((eta - y).square() / 2 + 0.9189385332046727)[weight > 0].mean()
    loss, means, count, _ = outcome(task, (x, y, weight))
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)
    assert count == 16
    metrics = task.build_metrics()
    task.update_metrics(metrics, (x, y, weight))
    assert metrics["loss"].compute().item() == pytest.approx(wanted.item(), rel=1e-6)
    assert metrics["mae"].compute().item() == pytest.approx(means["mae"], rel=1e-6)

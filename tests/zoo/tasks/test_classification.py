"""Losses and metrics against float64 formulas and scikit-learn."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from kit import quiet_trainer
from lightning.pytorch import LightningDataModule, Trainer
from sklearn import metrics as sk
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import zoo
from datamodules import DatasetDataModule
from zoo.tasks import ClassificationTask


class Table(nn.Module):
    """Gives its input back as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Data(LightningDataModule):
    """A datamodule of ready batches that describes itself."""

    def __init__(self, x: Tensor, y: Tensor, batch_size: int = 7, **attributes: Any) -> None:
        super().__init__()
        self.set, self.batch_size = TensorDataset(x, y), batch_size
        for name, value in attributes.items():
            setattr(self, name, value)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.set, self.batch_size)

    val_dataloader = test_dataloader = train_dataloader


def trainer(tmp_path: Any, **kwargs: Any) -> Trainer:
    return quiet_trainer(default_root_dir=tmp_path, **{"max_epochs": 1, "log_every_n_steps": 50, **kwargs})


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(50, 4)


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(4, (50,))


def cross_entropy(logits: Tensor, target: Tensor) -> np.ndarray:
    """-sum_k t_k ln p_k in float64; ``target`` holds probabilities."""
    z = logits.double().numpy()
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    return -(target.double().numpy() * log_p).sum(1)


def test_multiclass_loss(logits: Tensor, labels: Tensor) -> None:
    onehot = torch.eye(4)[labels]
    plain = ClassificationTask(Table(), 4)
    assert plain.training_losses((logits, labels))[0].item() == pytest.approx(
        cross_entropy(logits, onehot).mean(), rel=1e-6
    )
    smooth = ClassificationTask(Table(), 4, label_smoothing=0.2)
    wanted = cross_entropy(logits, onehot * 0.8 + 0.2 / 4).mean()
    assert smooth.training_losses((logits, labels))[0].item() == pytest.approx(wanted, rel=1e-6)
    weighted = ClassificationTask(Table(), 4, class_weight=[1.0, 2.0, 0.0, 0.5])
    weight = np.array([1.0, 2.0, 0.0, 0.5])[labels]
    wanted = (weight * cross_entropy(logits, onehot)).mean()  # over examples: exact whatever the batch
    assert weighted.training_losses((logits, labels))[0].item() == pytest.approx(wanted, rel=1e-6)


def test_binary_loss_is_the_two_class_softmax(labels: Tensor) -> None:
    z, y = torch.randn(50, 1), labels % 2
    task = ClassificationTask(Table(), 2, mode="binary", class_weight=[0.5, 3.0])
    losses = cross_entropy(torch.cat([torch.zeros_like(z), z], 1), torch.eye(2)[y])
    wanted = (np.array([0.5, 3.0])[y] * losses).mean()
    assert task.training_losses((z, y))[0].item() == pytest.approx(wanted, rel=1e-6)


def test_multilabel_loss(logits: Tensor) -> None:
    y = (torch.rand(50, 4) < 0.3).float()
    task = ClassificationTask(Table(), 4, mode="multilabel", class_weight=[1.0, 2.0, 3.0, 4.0])
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    t, w = y.double().numpy(), np.array([1.0, 2.0, 3.0, 4.0])
    wanted = -(w * t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    assert task.training_losses((logits, y))[0].item() == pytest.approx(wanted, rel=1e-6)


class WithHeads(Table):
    """Has two auxiliary heads in training."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, list[Tensor]]:
        return (x * self.scale, [x * 2 * self.scale, -x]) if self.training else x * self.scale


@pytest.mark.parametrize(("mode", "k"), [("multiclass", 4), ("binary", 2), ("multilabel", 4)])
def test_auxiliary_heads_of_any_net(mode: str, k: int, tmp_path: Any) -> None:
    """Their losses count by their weight and are logged apart; evaluation and prediction know nothing of them."""
    z = torch.randn(21, 1 if mode == "binary" else k)
    y = (torch.rand(21, 4) < 0.3).float() if mode == "multilabel" else torch.arange(21) % k
    arguments: dict[str, Any] = {"mode": mode, "class_weight": [0.5] * k, "optimizer": "SGD", "lr": 1e-12}
    plain, task = (
        ClassificationTask(Table(), k, **arguments),
        ClassificationTask(WithHeads(), k, aux_weight=0.2, **arguments),
    )
    losses = [plain.training_losses((factor * z, y))[0] for factor in (1, 2, -1)]
    loss, means, _ = task.training_losses((z, y))
    torch.testing.assert_close(loss, losses[0] + 0.2 * losses[1] + 0.2 * losses[2])
    torch.testing.assert_close([means["loss"], means["aux1_loss"], means["aux2_loss"]], losses)
    torch.testing.assert_close(means["acc"], plain.training_losses((z, y))[1]["acc"])
    assert task.predict_step(z)["label"] == plain.predict_step(z)["label"]
    run = trainer(tmp_path)
    run.fit(task, datamodule=Data(z, y))
    logged = {name: value.item() for name, value in run.callback_metrics.items() if "aux" in name}
    assert logged == {
        "train/aux1_loss": pytest.approx(losses[1].item(), rel=1e-5),
        "train/aux2_loss": pytest.approx(losses[2].item(), rel=1e-5),
    }
    assert run.callback_metrics["train/loss"].item() == pytest.approx(losses[0].item(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
@pytest.mark.parametrize(("mode", "k"), [("multiclass", 4), ("binary", 2)])
def test_loss_floor_is_what_the_best_logits_reach(mode: str, k: int, smoothing: float) -> None:
    task = ClassificationTask(Table(), k, mode=mode, label_smoothing=smoothing)
    z = torch.zeros(1, 1 if mode == "binary" else k, requires_grad=True)
    optimizer = torch.optim.LBFGS([z], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = task.example_losses(z, torch.tensor([1]), training=True).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert closure().item() == pytest.approx(task.loss_floor(), abs=1e-5)


def evaluate(task: ClassificationTask, x: Tensor, y: Tensor, tmp_path: Any) -> dict[str, float]:
    return trainer(tmp_path).validate(task, DataLoader(TensorDataset(x, y), 7), verbose=False)[0]


def test_multiclass_metrics(logits: Tensor, labels: Tensor, tmp_path: Any) -> None:
    # smoothing and weights must not reach evaluation
    task = ClassificationTask(Table(), 4, top_k=2, label_smoothing=0.3, class_weight=[1.0, 5.0, 2.0, 0.1])
    got, guess = evaluate(task, logits, labels, tmp_path), logits.argmax(1)
    top2 = (logits.topk(2).indices == labels[:, None]).any(1).float().mean().item()
    assert got == pytest.approx(
        {
            "val/loss": cross_entropy(logits, torch.eye(4)[labels]).mean(),
            "val/acc": sk.accuracy_score(labels, guess),
            "val/f1": sk.f1_score(labels, guess, average="macro"),
            "val/acc_top2": top2,
        },
        rel=1e-5,
    )
    assert np.array_equal(task.metrics["confusion"].compute(), sk.confusion_matrix(labels, guess))


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_binary_metrics(labels: Tensor, tmp_path: Any, threshold: float) -> None:
    z, y = torch.randn(50, 1), labels % 2
    task = ClassificationTask(Table(), 2, mode="binary", threshold=threshold)
    got, guess = evaluate(task, z, y, tmp_path), (z.sigmoid()[:, 0] >= threshold).long()
    assert got["val/acc"] == pytest.approx(sk.accuracy_score(y, guess))
    assert got["val/f1"] == pytest.approx(sk.f1_score(y, guess, average="macro"))
    assert np.array_equal(task.metrics["confusion"].compute(), sk.confusion_matrix(y, guess))
    hits = task.training_losses((z, y))[1]["acc"]
    assert hits.item() == pytest.approx(got["val/acc"])


def test_multilabel_metrics(logits: Tensor, tmp_path: Any) -> None:
    y = (torch.rand(50, 4) < 0.3).float()
    task = ClassificationTask(Table(), 4, mode="multilabel", threshold=0.6)
    got, guess = evaluate(task, logits, y, tmp_path), (logits.sigmoid() >= 0.6).long()
    assert got["val/acc"] == pytest.approx((guess == y).float().mean().item())
    assert got["val/f1"] == pytest.approx(sk.f1_score(y, guess, average="macro"))
    assert np.array_equal(task.metrics["confusion"].compute(), sk.multilabel_confusion_matrix(y, guess))


class Told(ClassificationTask):
    """Logs the entries of the confusion matrix, too."""

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        for i, count in enumerate(self.metrics["confusion"].compute().flatten()):
            self.log(f"test/matrix{i}", count.float(), sync_dist=True, reduce_fx="max")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("mode", ["multiclass", "multilabel"])
def test_a_class_that_neither_occurs_nor_is_predicted_is_left_out_of_the_f1(mode: Any, ranks: int) -> None:
    """Class 0 occurs late and is never predicted, which counts as 0; 3 is predicted and never occurs, too; 4 is left out."""
    guess = torch.tensor([1, 1, 2, 2, 3, 2, 1, 1, 2, 1, 2])
    truth = torch.tensor([1, 2, 2, 1, 1, 2, 1, 1, 2, 0, 2])
    y = truth if mode == "multiclass" else nn.functional.one_hot(truth, 5)
    test = TensorDataset(torch.eye(5)[guess] * 8 - 4 - 0.1 * torch.arange(5), y)
    data = DatasetDataModule(test, test=test, class_names=list("abcde"), batch_size=4 // ranks, val_fraction=0.3)
    model = Told(Table(), 5, mode=mode, top_k=2 if mode == "multiclass" else None)
    (got,) = quiet_trainer(ranks=ranks).test(model, data, verbose=False)
    f1 = [2 * hits / (predicted + true) for hits, predicted, true in [(0, 0, 1), (3, 5, 5), (4, 5, 5), (0, 1, 0)]]
    assert got["test/f1"] == pytest.approx(sum(f1) / 4)
    if mode == "multiclass":
        matrix = sk.confusion_matrix(truth, guess, labels=range(5))
        assert got["test/acc_top2"] == pytest.approx(8 / 11)  # the second is always 0
    else:
        matrix = sk.multilabel_confusion_matrix(y, nn.functional.one_hot(guess, 5))
    assert got["test/acc"] == pytest.approx(
        (7 if mode == "multiclass" else 55 - 8) / (11 if mode == "multiclass" else 55)
    )
    assert [got[f"test/matrix{i}"] for i in range(matrix.size)] == matrix.flatten().tolist()


def test_a_perfect_multilabel_model_has_an_f1_of_one() -> None:
    y = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    metrics = ClassificationTask(Table(), 3, mode="multilabel").build_metrics()
    metrics["f1"].update(y.float(), y)
    assert metrics["f1"].compute() == 1
    metrics["f1"].reset()
    metrics["f1"].update(0 * y.float(), 0 * y)
    assert metrics["f1"].compute().isnan()


def test_rows_of_weight_zero_count_nowhere(logits: Tensor, labels: Tensor) -> None:
    task = ClassificationTask(Table(), 4)
    weight = (torch.arange(50) % 3 > 0).float()
    kept = weight.bool()
    both = []
    for batch in [(logits, labels, weight), (logits[kept], labels[kept])]:
        metrics = task.build_metrics()
        task.update_metrics(metrics, batch)
        both.append({name: metric.compute() for name, metric in metrics.items()})
    for name, value in both[0].items():
        torch.testing.assert_close(value, both[1][name])


def test_training_means_are_exact_over_uneven_batches(logits: Tensor, labels: Tensor, tmp_path: Any) -> None:
    """50 examples in batches of 7: the last has one. A mean over batches would be wrong."""
    task = ClassificationTask(Table(), 4, optimizer="SGD", lr=1e-12)
    run = trainer(tmp_path, log_every_n_steps=3)
    seen: list[dict[str, float]] = []
    log = task.log
    task.log = lambda name, value, **kwargs: (seen.append({name: float(value)}), log(name, value, **kwargs))[1]
    run.fit(task, datamodule=Data(logits, labels))
    losses = cross_entropy(logits, torch.eye(4)[labels])
    steps = [d["train/loss_step"] for d in seen if "train/loss_step" in d]
    assert steps == pytest.approx([losses[:21].mean(), losses[21:42].mean()], rel=1e-5)
    assert run.callback_metrics["train/loss"].item() == pytest.approx(losses.mean(), rel=1e-6)
    assert run.callback_metrics["train/acc"].item() == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_no_step_is_logged_where_none_is_wanted(logits: Tensor, labels: Tensor, tmp_path: Any) -> None:
    run = trainer(tmp_path, log_every_n_steps=0)
    run.fit(ClassificationTask(Table(), 4), datamodule=Data(logits, labels))
    assert "train/loss" in run.callback_metrics
    assert "train/loss_step" not in run.callback_metrics


def test_a_closure_that_runs_a_batch_again_counts_it_once(logits: Tensor, labels: Tensor, tmp_path: Any) -> None:
    task = ClassificationTask(Table(), 4, optimizer="LBFGS", lr=1e-12)
    run = trainer(tmp_path)
    run.fit(task, datamodule=Data(logits, labels))
    losses = cross_entropy(logits, torch.eye(4)[labels])
    assert run.callback_metrics["train/loss"].item() == pytest.approx(losses.mean(), rel=1e-5)


def test_input_is_standardized_with_the_training_split(tmp_path: Any) -> None:
    x, y = torch.rand(20, 3, 8, 8), torch.arange(20) % 4
    mean, std = x.mean(dim=(0, 2, 3)), x.std(dim=(0, 2, 3))
    data = Data(x, y, mean=mean, std=std, num_classes=4, class_names=list("abcd"), input_shape=(3, 8, 8))
    task = zoo.create_model("resnet20", width=2, num_classes=4)
    trainer(tmp_path).fit(task, datamodule=data)
    z = task.standardize(x)
    torch.testing.assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-5, rtol=0)
    assert (task.class_names, task.input_shape) == (["a", "b", "c", "d"], (3, 8, 8))
    # fine-tuning on other data keeps what the weights were trained with
    other = Data(x, y, mean=mean + 1, std=std, num_classes=4)
    trainer(tmp_path).fit(task, datamodule=other)
    assert torch.equal(task.mean, mean)


def test_a_loaded_model_keeps_its_statistics(tmp_path: Any) -> None:
    task = zoo.create_model("resnet20", width=2)
    task.mean, task.std = torch.tensor([0.1, 0.2, 0.3]), torch.ones(3)
    loaded = zoo.load(task.save_pretrained(tmp_path / "model"))
    data = Data(torch.rand(8, 3, 8, 8), torch.arange(8), mean=torch.zeros(3), std=torch.ones(3))
    trainer(tmp_path).fit(loaded, datamodule=data)
    assert torch.equal(loaded.mean, task.mean)


def test_balanced_weights(logits: Tensor, tmp_path: Any) -> None:
    y = torch.tensor([0] * 20 + [1] * 20 + [2] * 8 + [3] * 2)
    counts = [20, 20, 8, 2]
    task = ClassificationTask(Table(), 4, class_weight="balanced")
    trainer(tmp_path).fit(task, datamodule=Data(logits, y, class_counts=counts, num_classes=4))
    torch.testing.assert_close(task.class_weight, 50 / (4 * torch.tensor([20.0, 20.0, 8.0, 2.0])))
    many = (torch.rand(50, 4) < 0.3).float()
    several = ClassificationTask(Table(), 4, mode="multilabel", class_weight="balanced")
    trainer(tmp_path).fit(several, datamodule=Data(logits, many, class_counts=many.sum(0).tolist()))
    torch.testing.assert_close(several.class_weight, (1 - many).sum(0) / many.sum(0))
    task = ClassificationTask(Table(), 4, class_weight="balanced")
    with pytest.raises(ValueError, match="needs a datamodule with class_counts: give a list"):
        trainer(tmp_path).fit(task, datamodule=Data(logits, y))
    with pytest.raises(ValueError, match="a class without training examples"):
        trainer(tmp_path).fit(task, datamodule=Data(logits, y, class_counts=[25, 25, 0, 0]))


def test_balanced_weights_are_counted_for_a_pretrained_net(tmp_path: Any) -> None:
    folder = zoo.create_model("resnet20", width=2, num_classes=4).save_pretrained(tmp_path / "model")
    task = zoo.create_model("resnet20", weights=folder, width=2, num_classes=4, class_weight="balanced")
    data = Data(torch.rand(8, 3, 8, 8), torch.arange(8) % 4, class_counts=[20, 20, 8, 2], num_classes=4)
    trainer(tmp_path).fit(task, datamodule=data)
    counted = 50 / (4 * torch.tensor([20.0, 20.0, 8.0, 2.0]))
    torch.testing.assert_close(task.class_weight, counted)
    data.class_counts = [10, 20, 10, 10]  # once counted, they are the model's
    trainer(tmp_path).fit(task, datamodule=data)
    torch.testing.assert_close(task.class_weight, counted)


class AsTorchvision(nn.Module):
    """Has auxiliary heads in training, as torchvision's nets give them."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.fc, self.heads = nn.Linear(3, 4), heads

    def forward(self, x: Tensor) -> Any:
        return (self.fc(x), *[2 * self.fc(x)] * self.heads) if self.training else self.fc(x)


@pytest.mark.parametrize("heads", [1, 2])
def test_auxiliary_heads_as_torchvision_gives_them(heads: int) -> None:
    batch = torch.rand(5, 3), torch.arange(5) % 4
    net = AsTorchvision(heads)
    loss, means, _ = ClassificationTask(net, 4, aux_weight=0.2).train().training_losses(batch)
    other = torch.nn.functional.cross_entropy(2 * net.fc(batch[0]), batch[1])
    torch.testing.assert_close(loss, means["loss"] + heads * 0.2 * other)


def test_data_that_do_not_fit_are_refused_before_training(tmp_path: Any) -> None:
    x, y = torch.rand(8, 1, 28, 28), torch.arange(8)
    with pytest.raises(ValueError, match="num_classes is 10, but Data has 7 classes"):
        trainer(tmp_path).fit(zoo.create_model("lenet5"), datamodule=Data(x, y, num_classes=7))
    with pytest.raises(ValueError, match=r"LeNet takes images of shape \(B, 1, 32, 32\), got \(1, 1, 28, 28\)"):
        trainer(tmp_path).fit(zoo.create_model("lenet5"), datamodule=Data(x, y, input_shape=(1, 28, 28)))
    linear = ClassificationTask(nn.Linear(5, 10))
    with pytest.raises(ValueError, match=r"Linear cannot take the data's input of shape \(1, 28, 28\)"):
        trainer(tmp_path).fit(linear, datamodule=Data(x, y, input_shape=(1, 28, 28)))
    for labels in (torch.arange(8) + 3, torch.arange(8) - 1):
        with pytest.raises(ValueError, match=r"labels must lie in 0..9 for num_classes=10, got"):
            trainer(tmp_path).fit(ClassificationTask(Table()), datamodule=Data(torch.rand(8, 10), labels))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes must be 2 or more, got 1"),
        ({"mode": "binary", "num_classes": 3}, "for two classes, got num_classes=3"),
        ({"mode": "softmax"}, "mode must be multiclass, binary or multilabel, got 'softmax'"),
        ({"class_weight": "even"}, "must be 'balanced' or a list"),
        ({"class_weight": [1.0, 2.0]}, "wants 10 weights"),
        ({"label_smoothing": 1.0}, r"must lie in \[0, 1\), got 1.0"),
        ({"top_k": 10}, "top_k must lie in 2..9 in multiclass mode, got 10"),
        ({"threshold": 0.0}, "threshold is a probability"),
        ({"monitor": "acc"}, "monitor names a logged metric such as 'val/acc'"),
        ({"aux_weight": -0.1}, "aux_weight must be 0 or more, got -0.1"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassificationTask(Table(), **arguments)


def test_predictions_can_be_read(logits: Tensor) -> None:
    task = ClassificationTask(Table(), 4)
    task.class_names = ["cat", "dog", "eel", "fox"]
    got = task.predict_step(torch.tensor([[0.0, math.log(3), 0.0, 0.0]]))
    assert got["label"] == ["dog"]
    assert got["probability"].item() == pytest.approx(0.5)
    binary = ClassificationTask(Table(), 2, mode="binary", threshold=0.9).predict_step(torch.tensor([[1.0], [3.0]]))
    assert binary["label"] == ["0", "1"]
    torch.testing.assert_close(
        binary["probability"], torch.tensor([1 - 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-3))])
    )
    multi = ClassificationTask(Table(), 3, mode="multilabel").predict_step(torch.tensor([[1.0, -1.0, 2.0]]))
    assert multi["label"] == [["0", "2"]]


def test_binary_mode_gives_the_net_one_output() -> None:
    task = zoo.create_model("lenet5", num_classes=2, mode="binary")
    assert task(torch.rand(3, 1, 32, 32)).shape == (3, 1)
    assert task.expected_initial_loss() == pytest.approx(math.log(2))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 0.0]])
def test_a_soft_target_costs_the_mean_of_what_its_classes_cost(
    logits: Tensor, smoothing: float, weights: list[float] | None
) -> None:
    task = ClassificationTask(Table(), 4, label_smoothing=smoothing, class_weight=weights)
    shares = torch.rand(50, 4).softmax(1)
    each = torch.stack([task.example_losses(logits, torch.full((50,), k), training=True) for k in range(4)], dim=1)
    loss, means, count = task.training_losses((logits, shares))
    torch.testing.assert_close(loss, (shares * each).sum(1).mean())
    assert (means["acc"].item(), count) == (pytest.approx(shares[range(50), logits.argmax(1)].mean().item()), 50)
    hard = torch.arange(50) % 4
    torch.testing.assert_close(
        task.training_losses((logits, torch.eye(4)[hard]))[0], task.training_losses((logits, hard))[0]
    )


@pytest.mark.parametrize(
    ("mode", "y", "message"),
    [
        ("multiclass", torch.full((50, 4), 0.3), "shares of 4 classes that sum to 1"),
        ("multiclass", torch.full((50, 5), 0.2), "shares of 4 classes that sum to 1"),
        ("multiclass", torch.tensor([[1.5, -0.5, 0.0, 0.0]] * 50), "shares of 4 classes that sum to 1"),
        ("binary", torch.full((50, 2), 0.5), r"binary targets must have shape \(B,\) .* soft ones \(mixup"),
        ("binary", torch.full((50,), 0.5), "binary targets must .* be whole numbers"),
        ("multilabel", torch.full((50, 4), 0.25), "multilabel targets must .* be whole numbers"),
    ],
)
def test_soft_targets_that_are_none_are_refused(
    logits: Tensor, tmp_path: Any, mode: Any, y: Tensor, message: str
) -> None:
    x = logits[:, :1] if mode == "binary" else logits
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path).fit(ClassificationTask(Table(), 2 if mode == "binary" else 4, mode), Data(x, y))


def test_soft_targets_are_not_for_evaluation(logits: Tensor, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"multiclass targets must have shape \(B,\) .* are for training"):
        trainer(tmp_path).test(ClassificationTask(Table(), 4), Data(logits, logits.softmax(1)), verbose=False)

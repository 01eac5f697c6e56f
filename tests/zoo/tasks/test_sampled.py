"""Samples that can be repeated, and how they are judged: known centers, a judge, any number of processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kit import quiet_trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import zoo
from datamodules import CirclesDataModule, DigitsDataModule, GaussianRingDataModule
from zoo.blocks import Adversaries
from zoo.tasks import AdversarialTask

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

TINY = {"widths": [8], "latent_dim": 3}


def trainer(**options: Any) -> Trainer:
    return quiet_trainer(**({"max_epochs": 1, "limit_train_batches": 1} | options))


class Real(nn.Module):
    """A generator that gives real digits, of the class asked for, told by its noise which one."""

    def __init__(self, share: float = 1.0) -> None:
        super().__init__()
        self.share = share
        data = DigitsDataModule()
        data.setup("test")
        part = data._parts["test"]
        self.x, self.y = part.inputs(torch.arange(len(part))) / 255, part.y

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        places = (z[:, 0].abs() * 1e4).long()
        y = places % 10 if y is None else torch.where(z[:, 1].abs() < self.share * 100, y, (y + 1) % 10)
        own = [(self.y == k).nonzero().flatten() for k in range(10)]
        rows = torch.stack([own[k][i % len(own[k])] for k, i in zip(y.tolist(), places.tolist(), strict=True)])
        return torch.logit(self.x[rows], eps=1e-4)


def digits_task(classes: int = 0, generator: nn.Module | None = None, **task: Any) -> AdversarialTask:
    critic = zoo.create_model("gan_mlp", input_shape=[1, 8, 8], conditional=bool(classes), **TINY).net.discriminator
    net = Adversaries(generator or Real(), critic, [1, 8, 8], 3, classes)
    return AdversarialTask(net, output="sigmoid", **{"judge": "resnet20_digits", "num_judged": 400, **task})


def test_samples_are_a_function_of_the_seed() -> None:
    task = zoo.create_model("dcgan", input_shape=[1, 8, 8], width=4, latent_dim=3)  # has batch norms
    task.net.train()
    task.net.discriminator.eval()
    before = torch.random.get_rng_state()
    first = task.sample(5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert task.net.generator.training
    assert not task.net.discriminator.training
    assert first.shape == (5, 1, 8, 8)
    assert 0 <= first.min() <= first.max() <= 1
    torch.testing.assert_close(task.sample(3), first[:3])  # no example depends on another
    assert not torch.equal(task.sample(5, seed=1), first)
    assert not first.requires_grad
    torch.testing.assert_close(task.sample(600)[-5:], task.eval()(task.noise(600)[-5:]).detach())  # made in parts


def test_classes_are_asked_for() -> None:
    task = zoo.create_model("gan_mlp", input_shape=[4], conditional=True, num_classes=3, **TINY).eval()
    z = task.noise(6)
    for asked, classes in (
        (None, [0, 1, 2, 0, 1, 2]),
        (2, [2] * 6),
        (torch.tensor([1, 1, 0, 0, 2, 2]), [1, 1, 0, 0, 2, 2]),
    ):
        torch.testing.assert_close(task.sample(6, asked), task(z, torch.tensor(classes)).detach())
    assert (task.sample(6, 0) - task.sample(6, 1)).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"y must be one class in 0\.\.2, or 2 of them, got 3"):
        task.sample(2, 3)
    with pytest.raises(ValueError, match="count must be 1 or more, got 0"):
        task.sample(0)
    with pytest.raises(ValueError, match="takes no class"):
        zoo.create_model("gan_mlp", **TINY).sample(2, 1)


def test_the_way_between_two_noises_lies_on_the_sphere() -> None:
    task = zoo.create_model("gan_mlp", input_shape=[4], **TINY).eval()
    z0, z1 = task.noise(2), task.noise(2, seed=1)
    z1 = z1 * z0.norm(dim=1, keepdim=True) / z1.norm(dim=1, keepdim=True)
    got = task.interpolate(z0, z1, steps=5)
    assert got.shape == (2, 5, 4)
    torch.testing.assert_close(got[:, 0], task(z0).detach())
    torch.testing.assert_close(got[:, -1], task(z1).detach())
    middle = (z0 + z1) * z0.norm(dim=1, keepdim=True) / (z0 + z1).norm(dim=1, keepdim=True)
    torch.testing.assert_close(got[:, 2], task(middle).detach(), atol=1e-5, rtol=1e-4)


def test_the_ways_between_noises_keep_their_classes() -> None:
    """Examples of one way are of one class: the last layer gives the class back."""
    task = zoo.create_model("gan_mlp", input_shape=[1], conditional=True, num_classes=3, latent_dim=2, widths=[]).eval()
    with torch.no_grad():
        task.net.generator.net.fc.weight.copy_(torch.tensor([[0.0, 0.0, 0.0, 1.0, 2.0]]))
        task.net.generator.net.fc.bias.zero_()
    for asked, classes in ((torch.tensor([2, 0, 1]), [2, 0, 1]), (None, [0, 1, 2]), (1, [1, 1, 1])):
        got = task.interpolate(task.noise(3), task.noise(3, seed=1), steps=4, y=asked)
        assert got.squeeze(2).tolist() == [[float(k)] * 4 for k in classes]


def test_points_are_judged_by_the_centers_of_their_data() -> None:
    """A generator whose points lie on five of the eight centers, one more on none."""
    data = GaussianRingDataModule(count=200)

    class Five(nn.Module):
        def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
            k = (z[:, 0].abs() * 1e4).long() % 6
            points = torch.cat([data.centers[:5], torch.zeros(1, 2)])
            return (points[k] - data.mean) / data.std

    critic = zoo.create_model("gan_mlp", input_shape=[2], **TINY).net.discriminator
    task = AdversarialTask(Adversaries(Five(), critic, [2], 3))
    data.setup("fit")
    task.mean, task.std, task._standardized = data.mean, data.std, True
    (got,) = trainer().test(task, datamodule=data, verbose=False)
    assert got["test/modes"] == 5
    assert got["test/high_quality"] == pytest.approx(5 / 6, abs=0.03)
    assert task.monitor is None


def test_real_digits_pass_the_judge() -> None:
    task = digits_task()
    (real,) = trainer().test(task, datamodule=DigitsDataModule(), verbose=False)
    assert set(real) == {"test/frechet", "test/classes", "test/class_entropy"}
    assert real["test/classes"] == 10
    assert real["test/class_entropy"] == pytest.approx(2.3, abs=0.02)
    noise = digits_task(generator=zoo.create_model("gan_mlp", input_shape=[1, 8, 8], **TINY).net.generator)
    (made,) = trainer().test(noise, datamodule=DigitsDataModule(), verbose=False)
    assert made["test/frechet"] > 20 * real["test/frechet"]
    assert made["test/classes"] < 10
    assert task.monitor == ("val/frechet", "min")


def test_the_judge_counts_samples_of_the_class_asked_for() -> None:
    task = digits_task(10, num_judged=607)  # more than are judged at once
    task.classes = lambda count, y: torch.arange(count) // 61  # the first 500 have other classes than the rest
    (got,) = trainer().test(task, datamodule=DigitsDataModule(), verbose=False)
    assert set(got) == {"test/frechet", "test/judged_acc"}
    assert got["test/judged_acc"] > 0.98
    (wrong,) = trainer().test(digits_task(10, Real(share=0.0)), datamodule=DigitsDataModule(), verbose=False)
    assert wrong["test/judged_acc"] < 0.02


def test_the_judge_is_no_part_of_the_model() -> None:
    task = digits_task()
    task.__dict__["trainer"] = None
    run = trainer()
    run.test(task, datamodule=DigitsDataModule(), verbose=False)
    assert task._judge is not None
    assert not any("judge" in name or "conv1" in name for name in task.state_dict())
    held = {id(p) for o in task.configure_optimizers() for g in o.param_groups for p in g["params"]}
    assert not held & {id(p) for p in task._judge.parameters()}


@pytest.mark.parametrize("classes", [0, 10])
def test_two_ranks_judge_as_one(tmp_path: Path, classes: int) -> None:
    class Keep(Callback):
        def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            values = {k: v.item() for k, v in trainer.callback_metrics.items()}
            torch.save(values, tmp_path / f"{trainer.world_size}-{trainer.global_rank}.pt")

    for ranks in (1, 2):
        run = quiet_trainer(Keep(), ranks=ranks)
        run.test(digits_task(classes, num_judged=101), datamodule=DigitsDataModule(batch_size=50), verbose=False)
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert first == second
    assert first == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize(
    ("judge", "data", "message"),
    [
        (
            "resnet20_digits",
            DigitsDataModule(size=16),
            r"knows examples of shape \(1, 8, 8\), the data have \(1, 16, 16\)",
        ),
        ("no_such_judge", DigitsDataModule(), "no_such_judge"),
        (
            "softmax",
            DigitsDataModule(),
            "judge must be a convolutional classifier, .*, got SoftmaxRegressionClassifier",
        ),
    ],
)
def test_a_judge_that_cannot_judge_is_refused(tmp_path: Path, judge: str, data: Any, message: str) -> None:
    if judge == "softmax":
        judge = str(zoo.create_model("softmax_regression", in_features=64).save_pretrained(tmp_path))
    task = zoo.create_model("gan_mlp", input_shape=list(data.input_shape), judge=judge, **TINY)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        trainer().fit(task, datamodule=data)


def test_a_lost_loss_is_named_before_samples_are_judged() -> None:
    """And what is advised can be followed: the trainer refuses gradient_clip_val here."""
    model = zoo.create_model("gan_mlp", input_shape=[1, 8, 8], **TINY, judge="resnet20_digits", num_judged=20, lr=1e30)
    with pytest.raises(
        FloatingPointError, match=r"train/[dg]_loss is (nan|inf) .* clip the gradient \(clip_grad\), or"
    ):
        trainer(limit_train_batches=3, limit_val_batches=1).fit(model, datamodule=DigitsDataModule())


def test_predictions_want_no_judge() -> None:
    model = zoo.create_model("gan_mlp", input_shape=[1, 8, 8], **TINY, judge="of_another_machine.ckpt")
    (got,) = trainer().predict(model, DataLoader(TensorDataset(torch.rand(3, 1, 8, 8), torch.arange(3)), 3))
    assert got["score"].shape == (3,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": [1, 28, 28]}, r"input_shape is \[1, 28, 28\], but the data have \[2\]: build the model with"),
        (
            {"input_shape": [2], "conditional": True, "num_classes": 5},
            "conditional on 5 classes, the data have 2: .* num_classes=2",
        ),
    ],
)
def test_data_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer().fit(zoo.create_model("gan_mlp", **TINY, **arguments), datamodule=CirclesDataModule())


def test_render() -> None:
    digits = (torch.rand(4, 1, 8, 8), torch.arange(4))
    plain = zoo.create_model("gan_mlp", input_shape=[1, 8, 8], output="sigmoid", **TINY)
    assert {name: image.shape[0] for name, image in plain.render(digits).items()} == {"samples": 3, "interpolation": 3}
    assert torch.equal(plain.render(digits)["samples"], plain.render(digits)["samples"])  # always of the same noise
    conditional = zoo.create_model("gan_mlp_conditional", input_shape=[1, 8, 8], output="sigmoid", **TINY)
    picture = conditional.render(digits)["samples"]
    assert picture.shape[1] / picture.shape[2] == pytest.approx(10 / 8, abs=0.01)  # a row a class, eight in it
    points = zoo.create_model("gan_mlp", input_shape=[2], **TINY)
    assert points.render((torch.randn(9, 2), torch.zeros(9)))["samples"].dtype == torch.uint8
    assert zoo.create_model("gan_mlp", input_shape=[7], **TINY).render((torch.randn(9, 7), None)) == {}

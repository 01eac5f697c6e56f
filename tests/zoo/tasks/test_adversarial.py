"""Adversarial training, step by step against a loop written by hand: the losses, who steps when, and what is counted."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import quiet_trainer
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from zoo.blocks import Adversaries, WithClass
from zoo.losses.adversarial import LOSSES, discriminator_loss, generator_loss, gradient_penalty_of
from zoo.tasks import AdversarialTask

BATCHES, SIZE = 6, 4
WASSERSTEIN = {"loss": "wasserstein", "gradient_penalty": 10.0}


def build(classes: int = 0, seed: int = 0, **task: Any) -> AdversarialTask:
    torch.manual_seed(seed)
    generator = nn.Sequential(nn.Linear(2 + classes, 5), nn.Tanh(), nn.Linear(5, 3))
    discriminator = nn.Sequential(nn.Linear(3 + classes, 5), nn.Tanh(), nn.Linear(5, 1))
    net = Adversaries(WithClass(generator, classes), WithClass(discriminator, classes, ()), [3], 2, classes)
    return AdversarialTask(net, **{"optimizer": "SGD", "lr": 0.1, **task}).double()


def data(classes: int = 2) -> TensorDataset:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(BATCHES * SIZE, 3, generator=g, dtype=torch.float64)
    return TensorDataset(x, torch.arange(len(x)) % max(classes, 1))


def fit(task: LightningModule, *callbacks: Callback, **options: Any) -> Trainer:
    seed_everything(7, verbose=False)
    trainer = quiet_trainer(*callbacks, **({"max_epochs": 2, "limit_val_batches": 0} | options))
    validation = DataLoader(data()) if isinstance(task, AdversarialTask) else None
    trainer.fit(task, DataLoader(data(), batch_size=SIZE, shuffle=False), validation)
    return trainer


def by_hand(task: AdversarialTask, epochs: int = 2) -> AdversarialTask:
    """Algorithm 1 of Goodfellow et al. 2014 (and of the Wasserstein papers) in a plain loop."""
    task, h = copy.deepcopy(task), task.hparams
    g, d = task.net.generator, task.net.discriminator
    steps = {g: torch.optim.SGD(g.parameters(), h.lr), d: torch.optim.SGD(d.parameters(), h.discriminator_lr or h.lr)}
    seed_everything(7, verbose=False)
    batch = 0
    for _ in range(epochs):
        for x, y in DataLoader(data(), batch_size=SIZE, shuffle=False):
            batch += 1
            fake = g(torch.randn(SIZE, 2, dtype=torch.float64), y).detach()
            real_score, fake_score = d(x, y), d(fake, y)
            one, zero = torch.ones(SIZE).double(), torch.zeros(SIZE).double()
            if h.loss == "wasserstein":
                loss = fake_score.mean() - real_score.mean()
                if h.gradient_penalty:
                    t = torch.rand(SIZE, dtype=torch.float64)[:, None]
                    between = (t * x + (1 - t) * fake).requires_grad_()
                    (slope,) = torch.autograd.grad(d(between, y).sum(), between, create_graph=True)
                    loss = loss + h.gradient_penalty * ((slope.square().sum(1).sqrt() - 1) ** 2).mean()
            elif h.loss == "least_squares":
                loss = 0.5 * F.mse_loss(real_score, one) + 0.5 * F.mse_loss(fake_score, zero)
            else:
                halves = [F.binary_cross_entropy_with_logits(*pair) for pair in ((real_score, one), (fake_score, zero))]
                loss = sum(halves) / 2
            steps[d].zero_grad()
            loss.backward()
            steps[d].step()
            if h.weight_clip:
                for p in d.parameters():
                    p.data.clamp_(-h.weight_clip, h.weight_clip)
            if batch % h.n_critic:
                continue
            score = d(g(torch.randn(SIZE, 2, dtype=torch.float64), y), y)
            losses = {
                "non_saturating": -score.sigmoid().log().mean(),
                "minimax": (1 - score.sigmoid()).log().mean(),
                "least_squares": 0.5 * ((score - 1) ** 2).mean(),
                "wasserstein": -score.mean(),
            }
            steps[g].zero_grad()
            losses[h.loss].backward()
            steps[g].step()
    return task


def gap(one: nn.Module, two: nn.Module) -> float:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


@pytest.mark.parametrize(
    "task",
    [
        {},
        {"loss": "minimax"},
        {"loss": "least_squares", "discriminator_lr": 0.3},
        {**WASSERSTEIN, "n_critic": 5},
        {"loss": "wasserstein", "weight_clip": 0.2, "n_critic": 2},
        {"classes": 2, "n_critic": 3},
        {"classes": 2, **WASSERSTEIN},
    ],
    ids=str,
)
def test_training_is_the_loop_written_by_hand(task: dict[str, Any]) -> None:
    ours, start = build(**task), build(**task)
    wanted = by_hand(start)
    trainer = fit(ours)
    assert gap(ours, wanted) < 1e-12
    assert gap(ours.net.generator, start.net.generator) > 1e-3
    assert trainer.global_step == 2 * BATCHES  # batches, not the steps of two optimizers


@pytest.mark.parametrize("n_critic", [1, 5])
def test_the_trainer_counts_batches(n_critic: int) -> None:
    seen = []

    class Steps(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            seen.append(trainer.global_step)

    trainer = fit(build(n_critic=n_critic), Steps(), max_steps=8, max_epochs=-1)
    assert seen == [*range(1, 9)]
    assert trainer.fit_loop.epoch_loop.total_batch_idx + 1 == trainer.global_step == 8


class Stock(LightningModule):
    """A GAN as Lightning's documentation has it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build().net
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, fake = batch[0], self.net.generator(torch.randn(len(batch[0]), 2, dtype=torch.float64))
        g, d = self.optimizers()
        for optimizer, loss in (
            (g, lambda: F.softplus(-self.net.discriminator(fake)).mean()),
            (
                d,
                lambda: discriminator_loss("minimax", self.net.discriminator(x), self.net.discriminator(fake.detach())),
            ),
        ):
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(loss())
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net.generator, self.net.discriminator)]


def test_stock_lightning_counts_each_batch_twice() -> None:
    trainer = fit(Stock(), max_steps=8, max_epochs=-1)
    assert trainer.fit_loop.epoch_loop.total_batch_idx + 1 == 4


@pytest.mark.parametrize("game", LOSSES)
def test_the_losses_are_those_of_the_papers(game: str) -> None:
    real, fake = torch.randn(2, 50, dtype=torch.float64)
    p, q = real.sigmoid(), fake.sigmoid()
    cross_entropy = -(p.log().mean() + (1 - q).log().mean()) / 2
    wanted = {
        "minimax": (cross_entropy, (1 - q).log().mean()),
        "non_saturating": (cross_entropy, -q.log().mean()),
        "least_squares": (((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2, ((fake - 1) ** 2).mean() / 2),
        "wasserstein": (fake.mean() - real.mean(), -fake.mean()),
    }[game]
    torch.testing.assert_close((discriminator_loss(game, real, fake), generator_loss(game, fake)), wanted)


def test_the_penalty_of_a_plane_is_known() -> None:
    """D(x) = w x has the slope w everywhere: (|w| - 1)^2, with the gradient 2 (|w| - 1) w / |w|."""
    net = nn.Linear(3, 1, bias=False)
    w = torch.tensor([[2.0, 0.0, -1.5]])
    net.weight.data = w
    critic = WithClass(net, 0, ())
    real, fake = torch.randn(2, 8, 3)
    penalty = gradient_penalty_of(critic, real, fake, None, torch.rand(8))
    assert penalty.item() == pytest.approx(1.5**2)
    penalty.backward()
    torch.testing.assert_close(net.weight.grad, 2 * 1.5 * w / 2.5)


def test_the_penalty_looks_between_the_two() -> None:
    """Of a parabola x^2 the slope is 2 x: share 1 looks at the real example, 0 at the made one."""

    class Parabola(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
            return (self.one * x.square()).flatten(1).sum(1)

    real, fake = torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), -1.0)
    for share, x in ((1.0, 3.0), (0.0, -1.0), (0.25, 0.0)):
        got = gradient_penalty_of(Parabola(), real, fake, None, torch.tensor([share]))
        assert got.item() == pytest.approx((2 * abs(x) - 1) ** 2)


def test_the_penalty_is_computed_in_float32_under_bfloat16() -> None:
    task = build(**WASSERSTEIN).float()
    real, fake, share = torch.randn(8, 3), torch.randn(8, 3), torch.rand(8)
    wanted = gradient_penalty_of(task.net.discriminator, real, fake, None, share)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = gradient_penalty_of(task.net.discriminator, real, fake.bfloat16(), None, share)
        assert got.dtype == torch.float32
        assert torch.equal(gradient_penalty_of(task.net.discriminator, real, fake, None, share), wanted)


def test_a_sigmoid_output_is_shown_as_the_data_are() -> None:
    """The discriminator sees made images standardized with the data's own statistics."""
    task = build(output="sigmoid")
    task.mean, task.std = torch.tensor([0.2, 0.5, 0.7]).double(), torch.tensor([0.3, 0.1, 2.0]).double()
    torch.manual_seed(1)
    fake = task._fake(5, None)
    torch.manual_seed(1)
    made = task(torch.randn(5, 2, dtype=torch.float64))
    assert 0 < made.min() < made.max() < 1
    torch.testing.assert_close(fake, (made - task.mean) / task.std)


def test_what_is_logged() -> None:
    task = build(**WASSERSTEIN)
    trainer = fit(task, max_epochs=1, log_every_n_steps=1)
    names = {"d_loss", "g_loss", "d_real", "d_fake", "penalty"}
    assert {f"train/{name}" for name in names} <= trainer.callback_metrics.keys()
    start = build()
    _, means, count = start.training_losses(next(iter(DataLoader(data(), batch_size=SIZE))))
    assert (means.keys(), count) == (names - {"penalty"}, SIZE)
    assert 0 < means["d_real"] < 1  # a probability
    assert means["d_loss"].item() == pytest.approx(0.69, abs=0.2)  # ln 2, who knows nothing


@pytest.mark.parametrize("game", LOSSES)
def test_logged_are_the_scores_of_real_and_of_made_examples(game: str) -> None:
    """Before the discriminator's step; probabilities where the loss is a cross-entropy, else the scores themselves."""
    task = build(**{**WASSERSTEIN, "loss": game} if game == "wasserstein" else {"loss": game})
    task.net.discriminator.net[2].weight.data *= 20  # scores that differ
    x, _ = data()[:5]
    torch.manual_seed(1)
    means = task.training_losses((x, None))[1]
    torch.manual_seed(1)
    made = task.net(torch.randn(5, 2, dtype=torch.float64))
    real, fake = task.net.discriminator(x), task.net.discriminator(made)
    shown = [s.sigmoid() if game in ("minimax", "non_saturating") else s for s in (real, fake)]
    assert abs(shown[0].mean() - shown[1].mean()) > 1e-2
    torch.testing.assert_close([means["d_real"], means["d_fake"]], [s.mean() for s in shown])
    wanted = {
        "minimax": (1 - fake.sigmoid()).log().mean(),
        "non_saturating": -fake.sigmoid().log().mean(),
        "least_squares": (fake - 1).square().mean() / 2,
        "wasserstein": -fake.mean(),
    }
    torch.testing.assert_close(means["g_loss"], wanted[game])


def test_predictions_are_scores() -> None:
    task, (x, y) = build(classes=2), data()[:5]
    score = task.predict_step((x, y))["score"]
    torch.testing.assert_close(score, task.net.discriminator(x, y).sigmoid().float())
    with pytest.raises(ValueError, match=r"needs the class y of each example, in 0\.\.1, got none"):
        task.predict_step(x)


@pytest.mark.parametrize(
    ("task", "error", "message"),
    [
        ({"loss": "hinge"}, ValueError, "loss must be one of minimax, non_saturating, .*, got 'hinge'"),
        ({"loss": "wasserstein"}, ValueError, r"wants its discriminator bounded in one way: .*, got neither"),
        ({**WASSERSTEIN, "weight_clip": 0.1}, ValueError, "got weight_clip and gradient_penalty"),
        (
            {"gradient_penalty": 10.0},
            ValueError,
            "gradient_penalty is for loss='wasserstein', got loss='non_saturating'",
        ),
        ({"clip_grad": 0.0}, ValueError, "clip_grad must be above 0"),
        ({"discriminator_lr": -1.0}, ValueError, "discriminator_lr must be above 0"),
        ({"n_critic": 0}, ValueError, "n_critic must be 1 or more, got 0"),
        ({"num_judged": 1}, ValueError, "num_judged must be 2 or more, got 1"),
        ({"layer_decay": 0.5}, ValueError, "here are two: set lr and discriminator_lr"),
        ({"optimizer": "LBFGS"}, ValueError, "LBFGS evaluates a loss several times"),
        ({"optimizer": "Adm"}, ValueError, "unknown optimizer 'Adm', did you mean"),
    ],
)
def test_wrong_arguments_are_refused(task: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(**task)


def test_nets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TypeError, match=r"must be a zoo.blocks.Adversaries, .*, got Linear"):
        AdversarialTask(nn.Linear(2, 3))
    critic = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    net = Adversaries(WithClass(nn.Linear(2, 3), 0), WithClass(critic, 0, ()), [3], 2)
    with pytest.raises(ValueError, match="looks at each example by itself, this one has batch norm"):
        AdversarialTask(net, **WASSERSTEIN)
    for arguments, message in (
        (([3], 0), "latent_dim must be 1 or more, got 0"),
        (([3, 4], 2), r"input_shape must be \[D\] or \[C, H, W\]"),
        (([3], 2, 1), r"num_classes must be 0 \(not conditional\) or 2 or more, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Adversaries(nn.Linear(2, 3), nn.Linear(3, 1), *arguments)

"""The variational bound in nats: against torch.distributions, closed forms and likelihoods that are known exactly."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import quiet_trainer
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.utils.data import DataLoader, TensorDataset

from zoo.tasks import VariationalTask
from zoo.tasks.variational import ActiveUnits, kl_to_standard_normal

SIGMA = 0.7  # of the observations


class LinearGaussian(nn.Module):
    """z ~ N(0, I), x ~ N(W z + b, SIGMA^2 I): posterior and likelihood are known (Bishop 2006, section 12.2).

    The encoder gives the exact posterior's mean times ``slack``, and its variances divided by it; W has orthogonal columns, so
    that the posterior is diagonal.
    """

    def __init__(self, slack: float = 1.0) -> None:
        super().__init__()
        self.input_shape, self.latent_dim = (5,), 2
        generator = torch.Generator().manual_seed(0)
        q, _ = torch.linalg.qr(torch.randn(5, 2, generator=generator, dtype=torch.float64))
        self.weight = nn.Parameter((q * torch.tensor([1.5, 0.8], dtype=torch.float64)).contiguous())  # (5, 2)
        self.bias = nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
        self.slack = slack

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        precision = self.weight.square().sum(dim=0) / SIGMA**2 + 1  # (2,)
        mean = (x - self.bias) @ self.weight / SIGMA**2 / precision
        return mean * self.slack, (1 / self.slack / precision).log().expand_as(mean)

    def decode(self, z: Tensor) -> Tensor:
        return z @ self.weight.T + self.bias

    def log_p(self, x: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + SIGMA**2 * torch.eye(5, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(self.bias, covariance).log_prob(x)


def linear_gaussian(slack: float = 1.0, **arguments: Any) -> VariationalTask:
    arguments = {"likelihood": "gaussian", "output": "linear", "observation_std": SIGMA} | arguments
    return VariationalTask(LinearGaussian(slack), **arguments).double()


def eps(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Coin(nn.Module):
    """Logits and posteriors that do not look at the example; the class, if it is told, is a logit."""

    def __init__(self, shape: tuple[int, ...] = (1, 4, 4), logit: float = 0.0, conditional: bool = False) -> None:
        super().__init__()
        self.input_shape, self.latent_dim = shape, 2
        self.conditional, self.num_classes = conditional, 3
        self.logit = nn.Parameter(torch.tensor(logit))
        self.mean, self.log_variance = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

    def encode(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        zeros = x.flatten(1)[:, :2] * 0
        return zeros + self.mean, zeros + self.log_variance

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        told = 0.0 if y is None else y.to(z.dtype)[:, None]
        logits = self.logit + told + z[:, :1] * 0
        return logits.expand(-1, int(torch.Size(self.input_shape).numel())).unflatten(1, self.input_shape)


def bits(count: int = 6) -> tuple[Tensor, Tensor]:
    return (torch.rand(count, 1, 4, 4) > 0.5).float(), torch.arange(count) % 3


def evaluated(task: VariationalTask, *batches: Any) -> dict[str, float]:
    metrics = task.build_metrics()
    with torch.no_grad():
        for batch in batches:
            task.update_metrics(metrics, batch)
    return {name: metric.compute().item() for name, metric in metrics.items()}


# Terms ----------------------------------------------------------------------------------------------------------------


def test_kl_is_that_of_torch_distributions() -> None:
    mean, log_variance = eps(50, 7), eps(50, 7).flip(0) * 2
    wanted = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros(7), torch.ones(7))).sum(dim=1)
    assert (kl_to_standard_normal(mean, log_variance) - wanted).abs().max() <= 1e-6
    assert kl_to_standard_normal(torch.zeros(3, 4), torch.zeros(3, 4)).tolist() == [0, 0, 0]


def test_the_likelihoods_are_those_of_torch_distributions_summed_over_values() -> None:
    x = bits()[0]
    coin = VariationalTask(Coin(logit=0.4))
    wanted = Bernoulli(logits=torch.tensor(0.4)).log_prob(x).sum(dim=(1, 2, 3))
    assert torch.allclose(coin.log_likelihood(x, torch.zeros(6, 2)), wanted)
    task, x, z = linear_gaussian(), eps(4, 5), eps(4, 2)
    wanted = Normal(task.net.decode(z), SIGMA).log_prob(x).sum(dim=1)
    assert torch.allclose(task.log_likelihood(x, z), wanted)


def test_independent_fair_pixels_cost_ln_2_each() -> None:
    """Mean-reduced terms would give ln 2 in all, or a 16th of it."""
    loss, means, _ = VariationalTask(Coin()).training_losses(bits())
    assert loss.item() == pytest.approx(16 * math.log(2))
    assert means["kl"].item() == 0
    task = VariationalTask(Coin())
    with torch.no_grad():
        task.net.mean.copy_(torch.tensor([1.0, 2.0]))
    loss, means, _ = task.training_losses(bits())
    assert means["kl"].item() == pytest.approx(2.5)  # 1/2 (1 + 4), summed over the code's numbers
    assert loss.item() == pytest.approx(16 * math.log(2) + 2.5)
    assert -means["elbo"].item() == pytest.approx(loss.item())


def test_a_linear_output_is_in_units_of_the_data() -> None:
    task = linear_gaussian()
    task.mean, task.std = eps(5), eps(5).exp()
    x, z = eps(4, 5), eps(4, 2)
    wanted = Normal(task.net.decode(z) * task.std + task.mean, SIGMA).log_prob(x).sum(dim=1)
    assert torch.allclose(task.log_likelihood(x, z), wanted)


# The bounds -----------------------------------------------------------------------------------------------------------


def test_with_the_exact_posterior_every_draw_gives_the_likelihood() -> None:
    task, x = linear_gaussian(), eps(20, 5) * 2
    wanted = task.net.log_p(x)
    for samples in (1, 3):
        assert (task.iwae(x, None, eps(20, samples, 2)) - wanted).abs().max() <= 1e-9
    # the bound's own draws vary, its expectation does not
    found = torch.sub(*task.elbo(x.repeat_interleave(4000, 0), None, eps(20 * 4000, 2))).unflatten(0, (20, 4000))
    error = found.std(dim=1) / math.sqrt(4000)
    assert ((found.mean(dim=1) - wanted).abs() < 5 * error).all()


def test_elbo_below_iwae_below_the_likelihood() -> None:
    task, x = linear_gaussian(slack=0.4), eps(20, 5)
    wanted, draws = task.net.log_p(x), torch.Generator().manual_seed(2)

    def bound(samples: int, repeats: int) -> Tensor:
        noise = torch.randn(20 * repeats, samples, 2, generator=draws, dtype=torch.float64)
        return task.iwae(x.repeat_interleave(repeats, 0), None, noise).unflatten(0, (20, repeats)).mean(dim=1)

    noise = torch.randn(20 * 4000, 2, generator=draws, dtype=torch.float64)
    elbo = torch.sub(*task.elbo(x.repeat_interleave(4000, 0), None, noise)).unflatten(0, (20, 4000)).mean(dim=1)
    one, five, many = bound(1, 4000), bound(5, 2000), bound(5000, 1)
    assert torch.allclose(elbo, one, atol=0.3)  # one sample is the bound itself
    assert (one < five).all()
    assert (five < wanted).all()
    assert (many - wanted).abs().max() < 0.1
    exact = wanted - kl_of_posteriors(task, x)  # ELBO = log p(x) - KL(q || p(z | x))
    assert torch.allclose(elbo, exact, atol=0.3)


def kl_of_posteriors(task: VariationalTask, x: Tensor) -> Tensor:
    (m, v), (m0, v0) = task.posterior(x), linear_gaussian().posterior(x)
    return kl_divergence(Normal(m, (v / 2).exp()), Normal(m0, (v0 / 2).exp())).sum(dim=1)


def test_the_bound_decodes_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    task, x = linear_gaussian(0.5), eps(4, 5)
    noise = eps(4, 7, 2)
    wanted = task.iwae(x, None, noise)
    monkeypatch.setattr("zoo.tasks.variational._CHUNK", 40)  # two of seven at once
    assert torch.allclose(task.iwae(x, None, noise), wanted)


def test_the_gradient_is_that_of_finite_differences() -> None:
    """Through the draw too: z = mu + sigma eps."""
    task, x, noise = linear_gaussian(0.6), eps(3, 5), eps(3, 2)
    weight = task.net.weight
    (got,) = torch.autograd.grad(torch.sub(*task.elbo(x, None, noise)).sum(), weight)
    wanted = torch.zeros_like(weight)
    with torch.no_grad():
        for place in range(weight.numel()):
            ends = []
            for step in (1e-5, -1e-5):
                weight.view(-1)[place] += step
                ends.append(torch.sub(*task.elbo(x, None, noise)).sum())
                weight.view(-1)[place] -= step
            wanted.view(-1)[place] = (ends[0] - ends[1]) / 2e-5
    assert torch.allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_the_std_of_the_observations_is_learned() -> None:
    task = linear_gaussian(observation_std=None)
    assert "log_std" in dict(task.net.named_parameters())
    x, z = eps(200, 5) * 0.3, eps(200, 2)
    task.std = torch.full((1,), 2.0).double()
    wanted = Normal(task.net.decode(z) * 2, 2.0).log_prob(x).sum(dim=1)
    assert torch.allclose(task.log_likelihood(x, z), wanted)  # at first the deviation of the data
    task.std = torch.ones(1).double()
    optimizer = torch.optim.Adam(task.net.parameters(), lr=0.05)
    torch.manual_seed(0)
    for _ in range(150):
        optimizer.zero_grad()
        task.training_losses((x, None))[0].backward()
        optimizer.step()
    assert task.net.log_std.exp().item() == pytest.approx(0.3, abs=0.05)


# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.5, 4.0])
def test_beta_weighs_the_kl_of_training_only(beta: float) -> None:
    task = VariationalTask(Coin(), beta=beta)
    with torch.no_grad():
        task.net.mean.copy_(torch.tensor([1.0, 2.0]))
    loss, means, _ = task.training_losses(bits())
    assert loss.item() == pytest.approx(16 * math.log(2) + 2.5 * beta)
    assert means["elbo"].item() == pytest.approx(-16 * math.log(2) - 2.5)
    assert evaluated(task, bits())["loss"] == pytest.approx(16 * math.log(2) + 2.5)


class Weights(Callback):
    """The weight of the kl at each step; a checkpoint after three."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: dict[int, float] = {}

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Tensor) -> None:
        self.seen[trainer.global_step] = pl_module.kl_weight()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            trainer.save_checkpoint(self.path)


def fit(warmup: float, path: Path, resume: bool = False, **options: Any) -> tuple[dict[int, float], dict[str, Tensor]]:
    """Two epochs of five steps."""
    weights = Weights(path)
    trainer = quiet_trainer(weights, **({"max_epochs": 2, "limit_val_batches": 0} | options))
    task = VariationalTask(Coin(), beta=2.0, kl_warmup=warmup)
    data = DataLoader(TensorDataset(*bits(20)), 4)
    trainer.fit(task, data, data, ckpt_path=path if resume else None, weights_only=True if resume else None)
    return weights.seen, trainer.callback_metrics


def test_the_warm_up_rises_from_0_to_beta(tmp_path: Path) -> None:
    steps, logged = fit(4, tmp_path / "a.ckpt")
    assert list(steps.values()) == pytest.approx([0, 0.5, 1, 1.5, 2, 2, 2, 2, 2, 2])
    assert logged["train/kl_weight_step"] == logged["train/kl_weight"] == 2
    assert fit(0.4, tmp_path / "b.ckpt")[0] == steps  # of ten
    assert list(fit(0.5, tmp_path / "c.ckpt", accumulate_grad_batches=3)[0].values()) == pytest.approx([0, 1, 2, 2])


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_the_warm_up_goes_on_after_a_stop(tmp_path: Path) -> None:
    whole, _ = fit(0.8, tmp_path / "three.ckpt")
    rest, _ = fit(0.8, tmp_path / "three.ckpt", resume=True)
    assert list(rest) == list(range(3, 10))
    assert rest == {step: whole[step] for step in rest}


def test_without_a_trainer_the_weight_is_beta() -> None:
    assert VariationalTask(Coin(), beta=3.0, kl_warmup=0.5).kl_weight() == 3


# Evaluation -----------------------------------------------------------------------------------------------------------


def test_evaluation_repeats_its_draws_whatever_the_batch() -> None:
    task = linear_gaussian(0.5, importance_samples=3)
    x, y = eps(7, 5), torch.arange(7)
    state = torch.get_rng_state()
    whole = evaluated(task, (x, y))
    parts = evaluated(task, (x[:2], y[:2]), (x[2:], y[2:]))
    assert parts == pytest.approx(whole, rel=1e-6)
    assert torch.equal(torch.get_rng_state(), state)
    assert whole.keys() == {"loss", "elbo", "reconstruction", "kl", "iwae", "active_units"}
    assert whole["loss"] == -whole["elbo"]
    assert whole["elbo"] == pytest.approx(whole["reconstruction"] - whole["kl"], rel=1e-6)
    assert task.predict_step((x, y))["elbo"].mean().item() == pytest.approx(whole["elbo"], rel=1e-6)
    assert task.monitor == ("val/elbo", "max")


def test_rows_of_weight_0_count_nowhere() -> None:
    task = linear_gaussian(0.5, importance_samples=2)
    x, y = eps(4, 5), torch.arange(4)
    wanted = evaluated(task, (x[:2], y[:2]))
    x[2:] = 1e3
    assert evaluated(task, (x, y, torch.tensor([1.0, 1.0, 0.0, 0.0]))) == pytest.approx(wanted)


def test_the_importance_weighted_bound_is_left_out_of_a_fit() -> None:
    data = DataLoader(TensorDataset(*bits(8)), 4)
    task = VariationalTask(Coin(), importance_samples=2)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(task, data, data)
    assert "val/elbo" in trainer.callback_metrics
    assert "val/iwae" not in trainer.callback_metrics
    for evaluate in (trainer.validate, trainer.test):
        (found,) = evaluate(task, data, verbose=False)
        assert any(name.endswith("/iwae") for name in found)


def test_active_units() -> None:
    metric = ActiveUnits()
    values = torch.stack([torch.linspace(-1, 1, 10), torch.full((10,), 5.0), torch.linspace(0, 0.3, 10)], dim=1)
    metric.update(values[:3])
    metric.update(values[3:])
    assert metric.compute() == 1  # the variance of the last one is 0.0101 over nine, 0.0092 over ten


# Conditional nets, and what users call --------------------------------------------------------------------------------


def test_a_conditional_net_is_told_the_class() -> None:
    task = VariationalTask(Coin(conditional=True))
    x, y = bits()
    assert task.forward_args((x, y)) == (x, y)
    made = task.reconstruct(x, y)
    assert torch.allclose(made[:, 0, 0, 0], y.float().sigmoid())
    assert torch.allclose(task.sample(6)[:, 0, 0, 0], torch.tensor([0.0, 1, 2, 0, 1, 2]).sigmoid())
    assert torch.allclose(task.sample(2, y=2)[:, 0, 0, 0], torch.tensor([2.0, 2]).sigmoid())
    assert torch.allclose(task.latent_grid(2, y=1)[:, 0, 0, 0], torch.ones(4).sigmoid())
    assert evaluated(task, (x, y), (x, y))["kl"] == 0
    with pytest.raises(ValueError, match="Coin is conditional: give the class y"):
        task.predict_step(x)
    for wrong in (3, -1, torch.tensor([0, 1, 2])):
        with pytest.raises(ValueError, match=r"y must be one class in 0\.\.2, or 2 of them"):
            task.sample(2, y=wrong)
    for asked in (
        lambda y: task.encode(x, y),
        lambda y: task.reconstruct(x, y),
        lambda y: task.decode(x.flatten(1), y),
    ):
        with pytest.raises(ValueError, match=rf"y must be one class in 0\.\.2, or {len(x)} of them"):
            asked(y + 1)  # a net that looks for the class's place would take it for none of all
    with pytest.raises(ValueError, match="takes no class"):
        VariationalTask(Coin()).sample(2, y=1)


def test_samples_are_repeatable_and_leave_the_generator_alone() -> None:
    task, state = linear_gaussian().train(), torch.get_rng_state()
    one = task.sample(5)
    assert one.shape == (5, 5)
    assert torch.equal(task.sample(5), one)
    assert not torch.equal(task.sample(5, seed=1), one)
    assert torch.equal(torch.get_rng_state(), state)
    assert task.training
    assert not one.requires_grad
    with pytest.raises(ValueError, match="count must be 1 or more, got 0"):
        task.sample(0)


def test_samples_have_the_models_distribution() -> None:
    task = linear_gaussian()
    made = task.sample(20_000)
    wanted = (task.net.weight @ task.net.weight.T).detach()
    assert (torch.cov(made.T) - wanted).abs().max() < 0.06
    assert (made.mean(dim=0) - task.net.bias.detach()).abs().max() < 0.06


def test_the_latent_grid_is_at_quantiles_of_the_normal() -> None:
    task = linear_gaussian()
    grid = task.latent_grid(4)
    z = torch.linalg.lstsq(task.net.weight.detach(), (grid - task.net.bias.detach()).T).solution.T  # (16, 2)
    wanted = Normal(0.0, 1.0).icdf(torch.tensor([0.125, 0.375, 0.625, 0.875])).double()
    assert torch.allclose(z[:4, 0], wanted, atol=1e-5)
    assert torch.allclose(z[::4, 1], wanted.flip(0), atol=1e-5)


def test_what_is_drawn() -> None:
    batch = bits(40)
    found = VariationalTask(Coin()).render(batch)
    assert found.keys() == {"reconstructions", "samples", "interpolation", "codes", "latent_grid"}
    assert all(picture.dtype == torch.uint8 and picture.shape[0] == 3 for picture in found.values())
    found = VariationalTask(Coin(conditional=True)).render(batch)
    assert found.keys() == {"reconstructions", "samples", "interpolation", "codes"}
    assert found["samples"].shape == (3, 8 * 66 + 2, 3 * 66 + 2)
    brightness = [found["samples"][0, 2:66, 2 + 66 * k : 66 + 66 * k].float().mean() for k in range(3)]
    assert brightness == sorted(brightness)  # a column a class
    assert brightness[0] < brightness[2]
    assert linear_gaussian().render((eps(9, 5), torch.arange(9))) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"likelihood": "poisson"}, "likelihood must be bernoulli or gaussian, got 'poisson'"),
        ({"output": "linear"}, "likelihood='bernoulli' wants output='sigmoid', got 'linear'"),
        ({"beta": -1.0}, "beta must be 0 or above, got -1"),
        ({"kl_warmup": -0.1}, "kl_warmup must be 0 or above, got -0.1"),
        ({"importance_samples": -1}, "importance_samples must be 0 or above, got -1"),
        ({"observation_std": 0.0}, "observation_std must be above 0, or None to learn it, got 0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VariationalTask(Coin(), **arguments)


def test_data_that_no_bernoulli_gives() -> None:
    batch = torch.full((4, 1, 4, 4), -0.5), torch.arange(4)
    with pytest.raises(
        ValueError, match=r"is of values in \[0, 1\], got some from -0.5 to -0.5: take likelihood='gaussian'"
    ):
        VariationalTask(Coin()).training_losses(batch)


def test_a_share_of_a_run_without_an_end(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kl_warmup=0.5 is a share of the run, which has no end"):
        fit(0.5, tmp_path / "a.ckpt", max_epochs=-1)

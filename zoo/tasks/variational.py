"""Variational inference: an encoder's posterior over codes, and a bound of the likelihood in nats."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from zoo.tasks.draws import normal_of
from zoo.tasks.generative import CodingTask, Output
from zoo.tasks.render_codes import render_variational

Likelihood = Literal["bernoulli", "gaussian"]
_CHUNK = 2**24  # numbers that the importance-weighted bound decodes at once


class VariationalTask(CodingTask):
    """Train a variational autoencoder: Kingma and Welling 2014, "Auto-Encoding Variational Bayes", arXiv:1312.6114.

    The loss is ``-(reconstruction - beta * kl)``, a mean over examples; all terms are nats per EXAMPLE:

    - ``reconstruction``: log p(x | z) of one z = mu + sigma eps, SUMMED over the values of x;
    - ``kl``: from the posterior to the standard normal, 1/2 sum(mu^2 + sigma^2 - log sigma^2 - 1) over the numbers of z;
    - ``elbo``: reconstruction - kl, whatever beta is; log p(x) is not below it.

    Evaluation logs these, ``loss`` (-elbo) and ``active_units`` (Burda et al. 2016: codes' numbers whose posterior mean varies,
    by more than 0.01). It draws the same eps for an example every time. Of testing and validating by themselves, not within a
    fit, ``iwae`` is logged as well where ``importance_samples`` are asked for.

    Args:
        net: ``encode(x)`` gives mean and log variance, ``(B, latent_dim)`` each; else as for :class:`CodingTask`.
        likelihood: of a value: "bernoulli", for what lies in [0, 1] (the net gives logits); or "gaussian", any numbers.
        output: see :class:`GenerativeTask`: where the mean of "gaussian" lies; "bernoulli" wants "sigmoid".
        observation_std: of "gaussian", in units of the data, > 0; None: one number that is learned, at first
            the deviation of the data.
        beta: weight of the kl in training, >= 0; not 1: Higgins et al. 2017, "beta-VAE".
        kl_warmup: the weight of the kl rises from 0 in so many steps; below 1, in that share of the run. Logged as
            ``train/kl_weight``.
        importance_samples: K >= 0 of the importance-weighted bound (Burda et al. 2016, "Importance Weighted Autoencoders",
            arXiv:1509.00519); 0: none.
        task: arguments of :class:`zoo.Task`.

    Shape:
        batch: ``(x, y)`` or ``(x, y, weight)``; a conditional net is told y, the rest looks at it in pictures only.

    Raises:
        ValueError: an argument out of its range, or a bernoulli's data outside of [0, 1].
    """

    def __init__(
        self,
        net: nn.Module,
        likelihood: Likelihood = "bernoulli",
        output: Output = "sigmoid",
        observation_std: float | None = None,
        beta: float = 1.0,
        kl_warmup: float = 0.0,
        importance_samples: int = 0,
        **task: Any,
    ) -> None:
        if likelihood not in ("bernoulli", "gaussian"):
            raise ValueError(f"likelihood must be bernoulli or gaussian, got {likelihood!r}")
        if likelihood == "bernoulli" and output != "sigmoid":
            raise ValueError(f"likelihood='bernoulli' wants output='sigmoid', got {output!r}: or likelihood='gaussian'")
        for name, value in (("beta", beta), ("kl_warmup", kl_warmup), ("importance_samples", importance_samples)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 or above, got {value}")
        if observation_std is not None and not observation_std > 0:
            raise ValueError(f"observation_std must be above 0, or None to learn it, got {observation_std}")
        if likelihood == "gaussian" and observation_std is None and isinstance(net, nn.Module):
            net.register_parameter("log_std", nn.Parameter(torch.zeros(())))  # the net's: the optimizer has it
        super().__init__(net, output=output, **task)
        self._range_is_known = False

    @property
    def monitor(self) -> tuple[str, str]:
        """The bound."""
        return "val/elbo", "max"

    # The bound ------------------------------------------------------------------------------------------------------

    def codes(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The means of the posteriors, ``(B, latent_dim)``."""
        return self.posterior(x, y)[0]

    def posterior(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | x), ``(B, latent_dim)`` each."""
        mean, log_variance = self.net.encode(self.standardize(x), *self.labels(y))
        return mean.to(x.dtype), log_variance.to(x.dtype)

    def log_likelihood(self, x: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x | z) in nats, summed over the values of each example: ``(B,)``."""
        raw = self.net.decode(z, *self.labels(y)).to(x.dtype)
        if self.hparams["likelihood"] == "bernoulli":
            return -F.binary_cross_entropy_with_logits(raw, x, reduction="none").flatten(1).sum(dim=1)
        fixed = self.hparams["observation_std"]
        log_std = self.net.log_std + self.std.mean().log() if fixed is None else x.new_tensor(math.log(fixed))
        residuals = (x - self.to_data(raw)) / log_std.exp()
        return -(residuals.square() / 2 + log_std + math.log(2 * math.pi) / 2).flatten(1).sum(dim=1)

    def elbo(self, x: Tensor, y: Tensor | None, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and kl, ``(B,)`` each, of the codes that ``eps`` ``(B, latent_dim)`` draws: z = mu + sigma eps."""
        mean, log_variance = self.posterior(x, y)
        reconstruction = self.log_likelihood(x, mean + (log_variance / 2).exp() * eps, y)
        return reconstruction, kl_to_standard_normal(mean, log_variance)

    def iwae(self, x: Tensor, y: Tensor | None, eps: Tensor) -> Tensor:
        """The importance-weighted bound, log mean_k p(x, z_k) / q(z_k | x): eps ``(B, K, latent_dim)`` -> ``(B,)``."""
        mean, log_variance = (part[:, None] for part in self.posterior(x, y))  # (B, 1, latent_dim)
        z = mean + (log_variance / 2).exp() * eps
        # log p(z) - log q(z | x): the constants are the same
        weights = (eps.square() + log_variance - z.square()).sum(dim=2) / 2  # (B, K)
        found = []
        for part in z.split(max(1, _CHUNK // x.numel()), dim=1):
            k = part.shape[1]
            told = None if y is None else y.repeat_interleave(k, dim=0)
            likelihoods = self.log_likelihood(x.repeat_interleave(k, dim=0), part.flatten(0, 1), told)
            found.append(likelihoods.unflatten(0, (-1, k)))  # (B k,) -> (B, k)
        return (torch.cat(found, dim=1) + weights).logsumexp(dim=1) - math.log(eps.shape[1])

    # Fitting --------------------------------------------------------------------------------------------------------

    def kl_weight(self) -> float:
        """beta, times how far the warm-up is: a function of the trainer's progress alone, so that a resumed run continues."""
        beta, steps = self.hparams["beta"], self.hparams["kl_warmup"]
        if not steps or self._trainer is None:
            return beta
        if steps < 1:
            run = self.trainer.estimated_stepping_batches
            if math.isinf(run):
                raise ValueError(
                    f"kl_warmup={steps} is a share of the run, which has no end: give the Trainer max_epochs or max_steps"
                )
            steps *= run
        return beta * min(1.0, self.trainer.global_step / steps)

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int]:
        """Minus the bound, with the kl at its weight; the terms are logged beside it."""
        x, y = batch[0], batch[1]
        self._check_range(x)
        eps = torch.randn(len(x), self.net.latent_dim, dtype=x.dtype, device=x.device)
        reconstruction, kl = (term.mean() for term in self.elbo(x, y, eps))
        weight = self.kl_weight()
        loss = weight * kl - reconstruction
        means = {"loss": loss, "elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}
        if self.hparams["kl_warmup"]:
            means["kl_weight"] = torch.full_like(loss, weight)
        return loss, means, len(x)

    def _check_range(self, x: Tensor) -> None:
        """Refuse numbers that no bernoulli gives; the first batch is looked at."""
        if self._range_is_known or self.hparams["likelihood"] != "bernoulli":
            return
        low, high = (value.item() for value in x.aminmax())
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"likelihood='bernoulli' is of values in [0, 1], got some from {low:.4g} to {high:.4g}: take "
                f"likelihood='gaussian' with output='linear'"
            )
        self._range_is_known = True

    # Evaluation -----------------------------------------------------------------------------------------------------

    def build_metrics(self) -> dict[str, Metric]:
        """The bound and its terms; the importance-weighted one outside of a fit."""
        names = ["loss", "elbo", "reconstruction", "kl"]
        if self.hparams["importance_samples"] and (self._trainer is None or self.trainer.state.fn != "fit"):
            names.append("iwae")
        return {name: MeanMetric(nan_strategy="disable") for name in names} | {"active_units": ActiveUnits()}

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        """Add a batch; rows of weight 0 count nowhere."""
        x, y, *rest = batch
        self._check_range(x)
        counts = rest[0] > 0 if rest else torch.ones(len(x), dtype=torch.bool, device=x.device)
        reconstruction, kl = self.elbo(x, y, normal_of(x, self.net.latent_dim))
        bound = reconstruction - kl
        found = {
            "loss": -bound,
            "elbo": bound,
            "reconstruction": reconstruction,
            "kl": kl,
            "active_units": self.codes(x, y),
        }
        if "iwae" in metrics:
            samples = self.hparams["importance_samples"]
            eps = normal_of(x, samples * self.net.latent_dim, seed=1).unflatten(1, (samples, -1))
            found["iwae"] = self.iwae(x, y, eps)
        for name, values in found.items():
            metrics[name].update(values[counts])

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """What a user can read: an example as the net gives it back, and the bound of its log-likelihood.

        Returns:
            ``reconstruction``, of the input's shape, in units of the data, and ``elbo`` ``(B,)`` in nats.
        """
        x, y = (batch, None) if isinstance(batch, Tensor) else batch[:2]
        reconstruction, kl = self.elbo(x, y, normal_of(x, self.net.latent_dim))
        return {"reconstruction": self(x, y).to(x.dtype), "elbo": reconstruction - kl}

    def render(self, batch: Any) -> dict[str, Any]:
        """Reconstructions, samples, ways from one example to another; of codes of two numbers their plane."""
        return render_variational(self, batch)

    # For users ------------------------------------------------------------------------------------------------------

    def sample(self, count: int, y: Tensor | int | None = None, seed: int = 0) -> Tensor:
        """New examples, in units of the data: means of p(x | z) of codes from the standard normal.

        Args:
            count: how many, >= 1.
            y: their class, or the class of each ``(count,)``, where the net is told; None: one class after the other.
            seed: chooses the codes; the global generators are left alone.

        Raises:
            ValueError: no example, or a class that there is not.
        """
        if count < 1:
            raise ValueError(f"count must be 1 or more, got {count}")
        z = torch.randn(count, self.net.latent_dim, generator=torch.Generator().manual_seed(seed)).to(self.mean)
        return self.decode(z, self.classes(count, y))

    def latent_grid(self, side: int = 16, y: Tensor | int | None = None) -> Tensor:
        """What the plane of codes stands for, at places between which equal shares of the standard normal lie.

        Returns:
            ``(side * side, *input_shape)``, row by row from the top.
        """
        shares = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        places = torch.special.ndtri(shares).to(self.mean)
        return self.latent_plane(places, places, self.classes(side * side, y))


class ActiveUnits(Metric):
    """How many columns of what it is given vary by more than 0.01: ``(B, D)``; sums are gathered over ranks."""

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(3, 1), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add rows."""
        rows = values.float()
        self.sums = self.sums + torch.stack([torch.ones_like(rows), rows, rows.square()]).sum(dim=1)  # (3, D)

    def compute(self) -> Tensor:
        """The number of columns."""
        count, total, squares = self.sums
        return ((squares / count - (total / count).square()) > 0.01).sum().float()


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback and Leibler's divergence from a diagonal normal to the standard one, in nats: ``(B, D)`` twice -> ``(B,)``."""
    return (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1) / 2

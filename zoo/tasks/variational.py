"""Variational inference: an encoder's posterior over codes, and a bound of the likelihood in nats."""

import math
from typing import Any, Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from zoo.blocks.noise import normal_of
from zoo.drawing import images
from zoo.internals import has_trainer, is_fitting
from zoo.losses.means import counted, weighted_mean
from zoo.losses.variational import kl_to_standard_normal
from zoo.metrics.codes import ACTIVE, ActiveUnits
from zoo.model import Makes
from zoo.tasks.base import TaskArguments, input_of
from zoo.tasks.generative import COLUMNS, SIDE, CodingTask, Output

Likelihood = Literal["bernoulli", "gaussian"]
_CHUNK = 2**24  # numbers that the importance-weighted bound decodes at once


class VariationalArguments(TaskArguments, total=False):
    """Arguments of :class:`VariationalTask` but the net."""

    likelihood: Likelihood
    output: Output
    observation_std: float | None
    beta: float
    kl_warmup: float
    importance_samples: int


class VariationalTask(CodingTask):
    """Train a variational autoencoder: Kingma and Welling 2014, "Auto-Encoding Variational Bayes", arXiv:1312.6114.

    The loss is ``-(reconstruction - beta * kl)``, a mean over examples; all terms are nats per EXAMPLE:

    - ``reconstruction``: log p(x | z) of one z = mu + sigma eps, SUMMED over the values of x;
    - ``kl``: from the posterior to the standard normal, 1/2 sum(mu^2 + sigma^2 - log sigma^2 - 1) over the numbers of z;
    - ``elbo``: reconstruction - kl, whatever beta is; a lower bound of log p(x).

    Evaluation logs these, ``loss`` (-elbo) and ``active_units`` (Burda et al. 2016: codes' numbers whose posterior mean varies,
    by more than 0.01). It draws the same eps for an example every time. Testing and validation outside of a fit also log
    ``iwae`` where ``importance_samples`` is above 0.

    Args:
        net: ``encode(x)`` gives mean and log variance, ``(B, latent_dim)`` each; else as for
            :class:`~zoo.tasks.generative.CodingTask`.
        likelihood: Of a value: "bernoulli", for data in [0, 1] (the net gives logits); or "gaussian", any numbers.
        output: See :class:`~zoo.tasks.generative.GenerativeTask`: where the mean of "gaussian" lies; "bernoulli" wants "sigmoid".
        observation_std: Standard deviation of "gaussian", in units of the data, > 0; None: one number that is learned, initially
            the deviation of the data.
        beta: Weight of the kl in training, >= 0; not 1: Higgins et al. 2017, "beta-VAE".
        kl_warmup: Number of steps in which the weight of the kl rises from 0; below 1, a share of the run. Logged as
            ``train/kl_weight``.
        importance_samples: Number K >= 0 of samples of the importance-weighted bound (Burda et al. 2016, "Importance Weighted
            Autoencoders", arXiv:1509.00519); 0: it is not computed.
        task: Arguments of :class:`zoo.Task`.

    Shape:
        batch: ``(x, y)`` or ``(x, y, weight)``, weight ``(B,)``; a conditional net takes y, others use it in pictures only.

    Raises:
        ValueError: An argument out of its range, or data outside of [0, 1] for a bernoulli.
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
        **task: Unpack[TaskArguments],
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
    def sample_options(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*(["latent_grid"] if self.net.latent_dim == 2 else []), *super().sample_options)

    @property
    def samples(self) -> Makes:
        return self.data_kind

    @property
    def monitor(self) -> tuple[str, str]:
        return "val/elbo", "max"

    # The bound ------------------------------------------------------------------------------------------------------

    def codes(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the means of the posteriors, ``(B, latent_dim)``."""
        return self.posterior(x, y)[0]

    def posterior(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of q(z | x), ``(B, latent_dim)`` each."""
        mean, log_variance = self.net.encode(self.standardize(x), *self.labels(y))
        dtype = self.net_dtype
        return mean.to(dtype), log_variance.to(dtype)

    def log_likelihood(self, x: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return log p(x | z) in nats, summed over the values of each example: ``(B,)``."""
        raw = self.net.decode(z.to(self.net_dtype), *self.labels(y)).to(x.dtype)
        if self.hparams["likelihood"] == "bernoulli":
            return -F.binary_cross_entropy_with_logits(raw, x, reduction="none").flatten(1).sum(dim=1)
        fixed = self.hparams["observation_std"]
        log_std = self.net.log_std + self.std.mean().log() if fixed is None else x.new_tensor(math.log(fixed))
        residuals = (x - self.to_data(raw)) / log_std.exp()
        return -(residuals.square() / 2 + log_std + math.log(2 * math.pi) / 2).flatten(1).sum(dim=1)

    def elbo(self, x: Tensor, y: Tensor | None, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Return reconstruction and kl, ``(B,)`` each, of the codes z = mu + sigma eps, eps ``(B, latent_dim)``."""
        mean, log_variance = self.posterior(x, y)
        reconstruction = self.log_likelihood(x, mean + (log_variance / 2).exp() * eps, y)
        return reconstruction, kl_to_standard_normal(mean, log_variance)

    def iwae(self, x: Tensor, y: Tensor | None, eps: Tensor) -> Tensor:
        """Return the importance-weighted bound, log mean_k p(x, z_k) / q(z_k | x): eps ``(B, K, latent_dim)`` -> ``(B,)``."""
        mean, log_variance = (part[:, None] for part in self.posterior(x, y))  # (B, 1, latent_dim)
        z = mean + (log_variance / 2).exp() * eps
        # log p(z) - log q(z | x): the constants are the same
        weights = (eps.square() + log_variance - z.square()).sum(dim=2) / 2  # (B, K)
        likelihoods = []
        for part in z.split(max(1, _CHUNK // x.numel()), dim=1):
            k = part.shape[1]
            classes = None if y is None else y.repeat_interleave(k, dim=0)
            likelihood = self.log_likelihood(x.repeat_interleave(k, dim=0), part.flatten(0, 1), classes)
            likelihoods.append(likelihood.unflatten(0, (-1, k)))  # (B k,) -> (B, k)
        return (torch.cat(likelihoods, dim=1) + weights).logsumexp(dim=1) - math.log(eps.shape[1])

    # Fitting --------------------------------------------------------------------------------------------------------

    def kl_weight(self) -> float:
        """Return beta times the progress of the warm-up, a function of the trainer's progress: a resumed run continues it."""
        beta, steps = self.hparams["beta"], self.hparams["kl_warmup"]
        if not steps or not has_trainer(self):
            return beta
        if steps < 1:
            run = self.trainer.estimated_stepping_batches
            if math.isinf(run):
                raise ValueError(
                    f"kl_warmup={steps} is a share of the run, which has no end: give the Trainer max_epochs or max_steps"
                )
            steps *= run
        return beta * min(1.0, self.trainer.global_step / steps)

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return minus the bound, with the kl at its weight; the terms are logged beside it."""
        x, y, *rest = batch
        example_weight = rest[0] if rest else None
        self._check_range(x)
        eps = torch.randn(len(x), self.net.latent_dim, dtype=x.dtype, device=x.device)
        (reconstruction, count), (kl, _) = (weighted_mean(term, example_weight) for term in self.elbo(x, y, eps))
        weight = self.kl_weight()
        loss = weight * kl - reconstruction
        means = {"loss": loss, "elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}
        if self.hparams["kl_warmup"]:
            means["kl_weight"] = torch.full_like(loss, weight)
        return loss, means, count

    def _check_range(self, x: Tensor) -> None:
        """Refuse numbers outside of a bernoulli's range; the first batch is checked."""
        if self._range_is_known or self.hparams["likelihood"] != "bernoulli":
            return
        low, high = torch.stack(x.aminmax()).tolist()
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"likelihood='bernoulli' is of values in [0, 1], got some from {low:.4g} to {high:.4g}: take "
                f"likelihood='gaussian' with output='linear'"
            )
        self._range_is_known = True

    # Evaluation -----------------------------------------------------------------------------------------------------

    @property
    def unfit_diagnoses(self) -> tuple[str, ...]:
        """A bound may be of any sign, and its size is that of the data's entropy."""
        return (
            "loss exploded",
            "plateau from initialization",
            "rate too low",
            "rate too high",
            "underfit",
            "validation too easy",
        )

    def diagnostic_numbers(self, batch: Any) -> dict[str, float]:
        """Return ``active_share``: of the numbers of the code, the share whose posterior mean varies by more than 0.01."""
        x, y = batch[:2]
        return {"active_share": float((self.codes(x, y).var(dim=0) > ACTIVE).double().mean())} if len(x) > 1 else {}

    def build_metrics(self) -> dict[str, Metric]:
        """Return the bound and its terms; outside of a fit the importance-weighted one too."""
        names = ["loss", "elbo", "reconstruction", "kl"]
        if self.hparams["importance_samples"] and not is_fitting(self):
            names.append("iwae")
        return {name: MeanMetric(nan_strategy="disable") for name in names} | {"active_units": ActiveUnits()}

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        x, y, *rest = batch
        weight = rest[0] if rest else None
        self._check_range(x)
        reconstruction, kl = self.elbo(x, y, normal_of(x, self.net.latent_dim))
        bound = reconstruction - kl
        values = {"loss": -bound, "elbo": bound, "reconstruction": reconstruction, "kl": kl}
        if "iwae" in metrics:
            samples = self.hparams["importance_samples"]
            eps = normal_of(x, samples * self.net.latent_dim, seed=1).unflatten(1, (samples, -1))
            values["iwae"] = self.iwae(x, y, eps)
        for name, value in values.items():
            metrics[name].update(counted(value, weight))
        codes = self.codes(x, y)
        metrics["active_units"].update(codes if weight is None else codes[weight > 0])

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """Return ``reconstruction``, of the input's shape in units of the data, and ``elbo`` ``(B,)`` in nats."""
        x, y = (batch, None) if isinstance(batch, Tensor) else batch[:2]
        reconstruction, kl = self.elbo(x, y, normal_of(x, self.net.latent_dim))
        return {"reconstruction": self(x, y).to(x.dtype), "elbo": reconstruction - kl}

    def render(self, batch: Any) -> dict[str, Any]:
        """Return pictures: ``reconstructions``, ``samples`` of always the same codes, and those of the codes."""
        x, y = input_of(batch), batch[1]
        if not images.are_images(x):
            return {"samples": images.clouds(x, self.sample(512))} if x.shape[1:] == (2,) else {}
        made = self.reconstruct(x[:COLUMNS], y[:COLUMNS])
        columns = self.net.num_classes if self.conditional else 8
        return {
            "reconstructions": images.image_rows([x[:COLUMNS], made]),
            "samples": images.image_wall(self.sample(8 * columns), columns),
            **self.render_codes(x, y),
        }

    def grid_for(self, codes: Tensor) -> Tensor:
        return self.latent_grid(SIDE)

    # For users ------------------------------------------------------------------------------------------------------

    def sample(self, count: int, y: Tensor | int | None = None, seed: int = 0) -> Tensor:
        """Return new examples, in units of the data: means of p(x | z) of codes from the standard normal.

        Args:
            count: Number of examples, >= 1.
            y: Conditional nets: the class of all, or of each ``(count,)``; None takes all classes in turn.
            seed: Seed of the codes; the global generators are left alone.

        Raises:
            ValueError: No example, or a class that does not exist.
        """
        if count < 1:
            raise ValueError(f"count must be 1 or more, got {count}")
        z = torch.randn(count, self.net.latent_dim, generator=torch.Generator().manual_seed(seed)).to(
            self.mean.device, self.net_dtype
        )
        return self.decode(z, self.classes(count, y))

    def latent_grid(self, side: int = 16, y: Tensor | int | None = None) -> Tensor:
        """Return the examples of the latent plane, at places between which equal shares of the standard normal lie.

        Returns:
            ``(side * side, *input_shape)``, row by row from the top.
        """
        shares = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        places = torch.special.ndtri(shares).to(self.mean.device, self.net_dtype)
        return self.latent_plane(places, places, self.classes(side * side, y))

"""Adversarial training: a generator and a discriminator that learn from each other."""

import math
import warnings
from contextlib import nullcontext
from typing import Any, Unpack

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.blocks.adversaries import Adversaries
from zoo.internals import BATCH_NORMS
from zoo.losses.adversarial import LOSSES, Loss, discriminator_loss, generator_loss, gradient_penalty_of
from zoo.model import Reads
from zoo.optim.optimizers import CLOSURE_OPTIMIZERS, build_optimizer
from zoo.tasks.batch_norm import explained
from zoo.tasks.sampled import SampledArguments, SampledTask
from zoo.tasks.shared_random import counts

GENERATOR, DISCRIMINATOR = 0, 1  # the numbers of their optimizers


class AdversarialArguments(SampledArguments, total=False):
    """Arguments of :class:`AdversarialTask` but the net."""

    loss: Loss
    n_critic: int
    discriminator_lr: float | None
    weight_clip: float | None
    gradient_penalty: float | None
    clip_grad: float | None


class AdversarialTask(SampledTask):
    """Train a generator to make examples that a discriminator, trained on the same batch just before, takes for real.

    Each batch the discriminator makes a step on real and freshly made examples, and then, on every ``n_critic``-th batch, the
    generator one against that discriminator, with fresh noise (Goodfellow et al. 2014, arXiv:1406.2661, algorithm 1). The
    trainer counts batches (``global_step``, ``max_steps``, schedules), not optimizer steps. Optimizer 0 is the generator's
    (``grad_norm/0``, ``LRSchedule(optimizer=0)``), 1 the discriminator's. Several processes (strategies ``ddp...``) see what one
    with the global batch would: each takes its rows of the same noise, and gradients and statistics of norms are averaged.
    Gradients cannot be accumulated over batches. An example of weight 0 counts as any other, but for a process that has nothing
    else.

    Logs ``d_loss`` and ``g_loss`` (before the discriminator's step), ``d_real`` and ``d_fake`` (its mean output: a probability of
    being real, or the score itself where the loss is of scores) and ``penalty``. The metrics of evaluation are those of
    :class:`~zoo.tasks.sampled.SampledTask`.

    Args:
        net: A generator and a discriminator.
        loss: "non_saturating", "minimax", "least_squares" or "wasserstein", see :mod:`zoo.losses.adversarial`.
        n_critic: Batches from one step of the generator to the next, >= 1.
        discriminator_lr: Its learning rate, > 0; None: ``lr``, which is the generator's (two rates: Heusel et al. 2017).
        weight_clip: "wasserstein": the largest size of the discriminator's weights, > 0 (Arjovsky et al. 2017: 0.01).
        gradient_penalty: "wasserstein": weight of the penalty on its gradient, > 0 (Gulrajani et al. 2017: 10).
        clip_grad: Largest norm of each optimizer's gradient, > 0; None does not clip.
        task: Arguments of :class:`zoo.tasks.sampled.SampledTask`.

    Shape:
        batch: ``(x, y)``, x ``(B, *input_shape)`` in units of the data, y ``(B,)`` the classes (used where the net is conditional).

    Raises:
        ValueError: An argument out of its range, or arguments that do not go together.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Loss = "non_saturating",
        n_critic: int = 1,
        discriminator_lr: float | None = None,
        weight_clip: float | None = None,
        gradient_penalty: float | None = None,
        clip_grad: float | None = None,
        **task: Unpack[SampledArguments],
    ) -> None:
        given_net: Any = net
        if not isinstance(given_net, Adversaries | str):
            raise TypeError(
                f"the net must be a zoo.blocks.Adversaries, a generator and its discriminator, got {type(net).__name__}"
            )
        if loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
        bounds = {"weight_clip": weight_clip, "gradient_penalty": gradient_penalty}
        for name, value in {**bounds, "discriminator_lr": discriminator_lr, "clip_grad": clip_grad}.items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, or null for none, got {value}")
        if n_critic < 1:
            raise ValueError(f"n_critic must be 1 or more, got {n_critic}")
        given = [name for name, value in bounds.items() if value is not None]
        if loss == "wasserstein" and len(given) != 1:
            raise ValueError(
                f"loss='wasserstein' wants its discriminator bounded in one way: gradient_penalty (10, say) or weight_clip "
                f"(0.01, say), got {' and '.join(given) or 'neither'}"
            )
        if loss != "wasserstein" and given:
            raise ValueError(f"{given[0]} is for loss='wasserstein', got loss={loss!r}")
        if gradient_penalty and any(isinstance(m, BATCH_NORMS) for m in _critic(net)):
            raise ValueError(
                "gradient_penalty wants a discriminator that looks at each example by itself, this one has batch norm: build it "
                "with norm 'none' or 'layer'"
            )
        if task.get("layer_decay", 1.0) != 1.0:
            raise ValueError("layer_decay is of the layers of one net, and here are two: set lr and discriminator_lr")
        if task.get("penalties"):
            raise ValueError(
                "penalties are terms of one loss, and here are two nets with a loss each: set weight_decay"
            )
        if task.get("optimizer") in CLOSURE_OPTIMIZERS:
            raise ValueError(
                f"{task['optimizer']} evaluates a loss several times a step, and here two nets change it: take Adam"
            )
        super().__init__(net, **task)
        self.automatic_optimization = False

    @property
    def reads(self) -> Reads:
        """The discriminator judges images or rows."""
        return "image" if self.data_kind == "image" else "row"

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """Return ``score`` ``(B,)`` of the discriminator: a probability of being real where the loss is a cross-entropy, else a
        number that is large for real examples."""
        x, y = self._parts(batch)
        return {"score": self._output_of(self.net.discriminator(self.standardize(x), y).float())}

    # Training -------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> list[Optimizer]:  # type: ignore[override]
        """Return the generator's optimizer and the discriminator's: of one kind, each with its own learning rate."""
        h = self.hparams
        rates = {"generator": h["lr"], "discriminator": h["discriminator_lr"] or h["lr"]}
        arguments = (h["weight_decay"], h["optimizer_args"] or {}, h["decay_norm_and_bias"])
        return [
            build_optimizer(getattr(self.net, name), h["optimizer"], lr, *arguments, fused=self.may_fuse)
            for name, lr in rates.items()
        ]

    def setup(self, stage: str) -> None:
        """Refuse data and strategies that it cannot be trained with."""
        if stage == "fit" and self.trainer.world_size > 1 and not isinstance(self.trainer.strategy, DDPStrategy):
            raise ValueError(
                f"adversarial training on several devices wants --trainer.strategy ddp, got {type(self.trainer.strategy).__name__}"
            )
        super().setup(stage)
        # a checkpoint is of the weights after its step, as of any other task
        warnings.filterwarnings("ignore", "Using ModelCheckpoint with manual optimization and every_n_train_steps")
        classes = getattr(getattr(self.trainer, "datamodule", None), "num_classes", self.net.num_classes) or 0
        if stage == "fit" and self.net.num_classes and self.net.num_classes != classes:
            raise ValueError(
                f"the net is conditional on {self.net.num_classes} classes, the data have {classes}: build it with "
                + (f"num_classes={classes}" if classes else "conditional=False")
            )

    def try_example(self) -> None:
        if (shape := self.example_shape) != self.net.input_shape:
            raise ValueError(
                f"input_shape is {list(self.net.input_shape)}, but the data have {list(shape)}: build the model with "
                f"input_shape={list(shape)}"
            )
        super().try_example()

    def example_output(self) -> Tensor:
        """Return the discriminator's score of an example."""
        x = torch.zeros(1, *self.example_shape, device=self.mean.device, dtype=self.net_dtype)
        y = torch.zeros(1, dtype=torch.long, device=x.device)
        return self.net.discriminator(self.standardize(x), y)

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int]:
        """Return both losses in one graph, for inspection: training takes them apart."""
        x, y = self._parts(batch)
        loss, means = self._discriminator_loss(self.standardize(x), y)
        return loss + self._generator_loss(len(x), y), means, len(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Make the discriminator's step; then, on every ``n_critic``-th batch, the generator's."""
        x, y = self._parts(batch)
        count = len(x) * counts(batch)
        with explained(self), self.shared_random(batch, batch_idx):
            loss, means = self._discriminator_loss(self.standardize(x), y)
        self._descend(loss, DISCRIMINATOR, count)
        if (limit := self.hparams["weight_clip"]) is not None:
            with torch.no_grad():
                for parameter in self.net.discriminator.parameters():
                    parameter.clamp_(-limit, limit)
        if self.trainer.global_step % self.hparams["n_critic"] == 0:  # this batch's step is counted
            with explained(self), self.shared_random(batch, batch_idx):
                g_loss = self._generator_loss(len(x), y)
            self._descend(g_loss, GENERATOR, count)
        self._means.update(means, count)
        return loss.detach()

    # Diagnostics ----------------------------------------------------------------------------------------------------

    @property
    def unfit_diagnoses(self) -> tuple[str, ...]:
        """Two losses play against each other: neither has to fall, and one of a Wasserstein distance may be negative."""
        return (
            *("loss exploded", "plateau from initialization", "rate too low", "rate too high", "underfit", "overfit"),
            *("validation too easy", "saturation"),
        )

    def diagnostic_numbers(self, batch: Any) -> dict[str, float]:
        """Return ``sample_diversity``: mean distance of samples of the same class over that of real examples, 1 at most."""
        x, y = self._parts(batch)
        if len(x) < 2:
            return {}
        made = self._make(self.noise(len(x)), y)
        same = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device) if y is None else y[:, None] == y
        pairs = same.triu(diagonal=1)
        if not pairs.any():
            return {}
        apart = [
            float(torch.cdist(flat, flat)[pairs].mean()) for flat in (made.flatten(1).float(), x.flatten(1).float())
        ]
        return {"sample_diversity": min(1.0, apart[0] / apart[1])} if apart[1] > 0 else {}

    def _parts(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        x, y = (batch, None) if isinstance(batch, Tensor) else (batch[0], batch[1])
        return x, y if self.net.num_classes else None

    def _discriminator_loss(self, real: Tensor, y: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        h, discriminator = self.hparams, self.net.discriminator
        with torch.no_grad():
            fake = self._fake(len(real), y)
        scores = [_exact(discriminator(x, y)) for x in (real, fake)]
        loss = discriminator_loss(h["loss"], *scores)
        means = {"d_loss": loss, "g_loss": generator_loss(h["loss"], scores[1])}
        means |= {name: self._output_of(s).mean() for name, s in zip(("d_real", "d_fake"), scores, strict=True)}
        if h["gradient_penalty"] is not None:
            share = torch.rand(len(real), device=real.device, dtype=self.net_dtype)
            penalty = gradient_penalty_of(discriminator, real, fake, y, share)
            loss = loss + h["gradient_penalty"] * penalty
            means["penalty"] = penalty
        return loss, means

    def _generator_loss(self, count: int, y: Tensor | None) -> Tensor:
        return generator_loss(self.hparams["loss"], _exact(self.net.discriminator(self._fake(count, y), y)))

    def _fake(self, count: int, y: Tensor | None) -> Tensor:
        """Generated examples, standardized as the discriminator sees real ones."""
        z = torch.randn(count, self.net.latent_dim, device=self.mean.device, dtype=self.net_dtype)
        raw = self.net(z, y)
        return raw if self.hparams["output"] == "linear" else self.standardize(self.to_data(raw))

    def _output_of(self, scores: Tensor) -> Tensor:
        return scores.sigmoid() if self.hparams["loss"] in ("minimax", "non_saturating") else scores

    def _descend(self, loss: Tensor, which: int, count: int) -> None:
        """Make one step of one optimizer along the gradient of the loss by its own parameters, averaged over all examples."""
        optimizers: Any = self.optimizers()
        optimizer, strategy = optimizers[which], self.trainer.strategy
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        optimizer.zero_grad()
        if parameters:
            # DDP would wait for the gradients of both nets
            with getattr(strategy, "block_backward_sync", nullcontext)():
                self.manual_backward(loss, inputs=parameters)
            self._average([p.grad for p in parameters if p.grad is not None], count)
        if which == DISCRIMINATOR:
            optimizer.step()  # on each batch: the one that the trainer counts
        else:
            strategy.optimizer_step(optimizer.optimizer, _no_closure, model=self)

    @torch.no_grad()
    def _average(self, gradients: list[Tensor], count: int) -> None:
        """Average gradients and the statistics of norms over the examples of all processes, in one exchange."""
        if self.trainer.world_size == 1:
            return
        tensors = gradients + [buffer for buffer in self.net.buffers() if buffer.is_floating_point()]
        flat = torch.cat([*(tensor.flatten() for tensor in tensors), torch.ones_like(tensors[0].flatten()[:1])])
        flat *= count
        dist.all_reduce(flat)
        *means, _ = (flat / flat[-1].clamp(min=1)).split([*(tensor.numel() for tensor in tensors), 1])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.view_as(tensor))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient: it is unscaled here, and callbacks have already read it."""
        if (limit := self.hparams["clip_grad"]) is not None:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], limit)


def _exact(scores: Tensor) -> Tensor:
    """Scores ``(B,)`` in float32 at least."""
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def _critic(net: Any) -> list[nn.Module]:
    return [] if isinstance(net, str) else list(net.discriminator.modules())


def _no_closure() -> None:
    """No-op closure: the gradients are already computed."""

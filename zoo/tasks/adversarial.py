"""Adversarial training: a generator and a discriminator that learn from each other."""

import math
import warnings
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.blocks.adversaries import Adversaries
from zoo.tasks.games import GAMES, Game, discriminator_loss, generator_loss, slope_penalty
from zoo.tasks.optimizers import build_optimizer
from zoo.tasks.sampled import SampledTask

GENERATOR, DISCRIMINATOR = 0, 1  # the numbers of their optimizers


class AdversarialTask(SampledTask):
    """Train a generator to make examples that a discriminator, trained on the same batch just before, takes for real.

    Each batch the discriminator makes a step on real and freshly made examples, and then, on every ``n_critic``-th batch, the
    generator one against that discriminator, with fresh noise (Goodfellow et al. 2014, arXiv:1406.2661, algorithm 1). The
    trainer counts batches (``global_step``, ``max_steps``, schedules), not optimizer steps. Optimizer 0 is the generator's
    (``grad_norm/0``, ``LRSchedule(optimizer=0)``), 1 the discriminator's. Several processes (strategies ``ddp...``) see what one
    with the global batch would: each takes its rows of the same noise, and gradients and statistics of norms are averaged.

    Logs ``d_loss`` and ``g_loss`` (before the discriminator's step), ``d_real`` and ``d_fake`` (its mean output: a probability of
    being real, or the score itself where the loss is of scores) and ``penalty``. :class:`~zoo.tasks.sampled.SampledTask` tells
    the metrics of evaluation.

    Args:
        net: a generator and a discriminator.
        loss: "non_saturating", "minimax", "least_squares" or "wasserstein", see :mod:`zoo.tasks.games`.
        n_critic: batches from one step of the generator to the next, >= 1.
        discriminator_lr: its learning rate, > 0; None: ``lr``, which is the generator's (two rates: Heusel et al. 2017).
        weight_clip: "wasserstein": the largest size of the discriminator's weights, > 0 (Arjovsky et al. 2017: 0.01).
        gradient_penalty: "wasserstein": weight of the penalty on its slope, > 0 (Gulrajani et al. 2017: 10).
        clip_grad: largest norm of each optimizer's gradient, > 0; None does not clip.
        task: arguments of :class:`zoo.tasks.sampled.SampledTask`.

    Shape:
        batch: ``(x, y)``, x ``(B, *input_shape)`` in units of the data, y ``(B,)`` the classes (used where the net is conditional).

    Raises:
        ValueError: an argument out of its range, or arguments that do not go together.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Game = "non_saturating",
        n_critic: int = 1,
        discriminator_lr: float | None = None,
        weight_clip: float | None = None,
        gradient_penalty: float | None = None,
        clip_grad: float | None = None,
        **task: Any,
    ) -> None:
        given_net: Any = net
        if not isinstance(given_net, Adversaries | str):
            raise TypeError(
                f"the net must be a zoo.blocks.Adversaries, a generator and its discriminator, got {type(net).__name__}"
            )
        if loss not in GAMES:
            raise ValueError(f"loss must be one of {', '.join(GAMES)}, got {loss!r}")
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
        if gradient_penalty and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in _critic(net)):
            raise ValueError(
                "gradient_penalty wants a discriminator that looks at each example by itself, this one has batch norm: build it "
                "with norm 'none' or 'layer'"
            )
        if task.get("layer_decay", 1.0) != 1.0:
            raise ValueError("layer_decay is of the layers of one net, and here are two: set lr and discriminator_lr")
        if task.get("optimizer") in ("LBFGS", "Newton"):
            raise ValueError(f"{task['optimizer']} goes over a loss several times, and in a game it moves: take Adam")
        super().__init__(net, **task)
        self.automatic_optimization = False

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """How real the discriminator takes examples to be.

        Returns:
            ``score``: ``(B,)``, a probability where the loss is a cross-entropy, else a number that is large for real ones.
        """
        x, y = self._parts(batch)
        return {"score": self._told(self.net.discriminator(self.standardize(x), y).float())}

    # Training -------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> list[Optimizer]:  # type: ignore[override]
        """The generator's optimizer and the discriminator's: of one kind, each at its own rate."""
        h = self.hparams
        rates = {"generator": h["lr"], "discriminator": h["discriminator_lr"] or h["lr"]}
        arguments = (h["weight_decay"], h["optimizer_args"] or {}, h["decay_norm_and_bias"])
        return [build_optimizer(getattr(self.net, n), h["optimizer"], lr, *arguments) for n, lr in rates.items()]

    def setup(self, stage: str) -> None:
        """Refuse what it cannot be trained on or under, too."""
        super().setup(stage)
        # a checkpoint is of the weights after its step, as of any other task
        warnings.filterwarnings("ignore", "Using ModelCheckpoint with manual optimization and every_n_train_steps")
        classes = getattr(getattr(self.trainer, "datamodule", None), "num_classes", self.net.num_classes) or 0
        if stage == "fit" and self.net.num_classes and self.net.num_classes != classes:
            raise ValueError(
                f"the net can be asked for {self.net.num_classes} classes, the data have {classes}: build it with "
                + (f"num_classes={classes}" if classes else "conditional=False")
            )
        if stage == "fit" and self.trainer.world_size > 1 and not isinstance(self.trainer.strategy, DDPStrategy):
            raise ValueError(
                f"adversarial training on several devices wants --trainer.strategy ddp, got {type(self.trainer.strategy).__name__}"
            )

    def _try_input(self, shape: tuple[int, ...]) -> None:
        if shape != self.net.input_shape:
            raise ValueError(
                f"input_shape is {list(self.net.input_shape)}, but the data have {list(shape)}: build the model with "
                f"input_shape={list(shape)}"
            )
        super()._try_input(shape)

    def output_for(self, x: Tensor) -> Tensor:
        """The discriminator's score."""
        y = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return self.net.discriminator(self.standardize(x), y)

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int]:
        """Both losses in one graph, to look at: training takes them apart."""
        x, y = self._parts(batch)
        loss, means = self._discriminator_loss(self.standardize(x), y)
        return loss + self._generator_loss(len(x), y), means, len(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The discriminator's step; then, when it is its turn, the generator's."""
        x, y = self._parts(batch)
        loss, means = self._discriminator_loss(self.standardize(x), y)
        self._descend(loss, DISCRIMINATOR)
        if (limit := self.hparams["weight_clip"]) is not None:
            with torch.no_grad():
                for parameter in self.net.discriminator.parameters():
                    parameter.clamp_(-limit, limit)
        if self.trainer.global_step % self.hparams["n_critic"] == 0:  # this batch's step is counted
            self._descend(self._generator_loss(len(x), y), GENERATOR)
        self._means.update(means, len(x))
        return loss.detach()

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
        means |= {name: self._told(s).mean() for name, s in zip(("d_real", "d_fake"), scores, strict=True)}
        if h["gradient_penalty"] is not None:
            share = self._my_rows(torch.rand, len(real))
            penalty = slope_penalty(discriminator, real, fake, y, share)
            loss = loss + h["gradient_penalty"] * penalty
            means["penalty"] = penalty
        return loss, means

    def _generator_loss(self, count: int, y: Tensor | None) -> Tensor:
        return generator_loss(self.hparams["loss"], _exact(self.net.discriminator(self._fake(count, y), y)))

    def _fake(self, count: int, y: Tensor | None) -> Tensor:
        """Made examples, standardized as the discriminator sees real ones."""
        raw = self.net(self._my_rows(torch.randn, count, self.net.latent_dim), y)
        return raw if self.hparams["output"] == "linear" else self.standardize(self.to_data(raw))

    def _my_rows(self, draw: Any, count: int, *size: int) -> Tensor:
        """Draw for the examples of all processes, which have equal generators, and take those of this one."""
        ranks, rank = (1, 0) if self._trainer is None else (self.trainer.world_size, self.global_rank)
        return draw(count * ranks, *size, device=self.mean.device, dtype=self.mean.dtype)[rank::ranks]

    def _told(self, scores: Tensor) -> Tensor:
        return scores.sigmoid() if self.hparams["loss"] in ("minimax", "non_saturating") else scores

    def _descend(self, loss: Tensor, which: int) -> None:
        """One step of one optimizer along the loss's gradient over its own parameters, the mean over all processes."""
        optimizers: Any = self.optimizers()
        optimizer, strategy = optimizers[which], self.trainer.strategy
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        optimizer.zero_grad()
        if parameters:
            # DDP would wait for the gradients of both nets
            with getattr(strategy, "block_backward_sync", nullcontext)():
                self.manual_backward(loss, inputs=parameters)
            self._average([p.grad for p in parameters if p.grad is not None])
        if which == DISCRIMINATOR:
            optimizer.step()  # on each batch: the one that the trainer counts
        else:
            strategy.optimizer_step(optimizer.optimizer, _nothing, model=self)

    @torch.no_grad()
    def _average(self, gradients: list[Tensor]) -> None:
        """The mean over processes of gradients and of norms' statistics, exchanged at once."""
        if self.trainer.world_size == 1:
            return
        tensors = gradients + [buffer for buffer in self.net.buffers() if buffer.is_floating_point()]
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.trainer.world_size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip: here the gradient is unscaled, and callbacks have seen it as it was."""
        if (limit := self.hparams["clip_grad"]) is not None:
            if getattr(optimizer, "_step_supports_amp_scaling", False) and _scaler(self) is not None:
                limit *= _scaler(self).get_scale()  # a fused one unscales by itself, later
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], limit)


def _exact(scores: Tensor) -> Tensor:
    """Scores ``(B,)`` in float32 at least."""
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def _scaler(task: AdversarialTask) -> Any:
    return getattr(task.trainer.precision_plugin, "scaler", None)


def _critic(net: Any) -> list[nn.Module]:
    return [] if isinstance(net, str) else list(net.discriminator.modules())


def _nothing() -> None:
    """An optimizer's closure where the gradient is there."""

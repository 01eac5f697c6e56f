"""Pruning of the weights of smallest magnitude."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from callbacks.checks import check_integer
from callbacks.ema import EMA
from callbacks.internals import callbacks_of, has_whole_parameters, is_fitting, set_callbacks
from callbacks.layer_weights import check_layers, computed_weights, layer_weights, named_parts
from callbacks.learning_curves import LearningCurves
from callbacks.max_norm import MaxNorm
from callbacks.run_length import run_length


class MagnitudePruning(Callback):
    """Set the weights of smallest magnitude to zero and keep them there, in one shot or in rounds (Han et al. 2015,
    arXiv:1506.02626).

    A round comes before the first batch of an epoch, and training goes on with the weights that are left. After round r of n,
    ``1 - (1 - sparsity) ** (r / n)`` of the weights are pruned: each round takes the same share of what is left (Frankle and Carbin
    2019, arXiv:1803.03635). What is pruned are weights of linear, convolutional, recurrent and attention layers that an optimizer
    has, frozen or not; biases, norms, embeddings, and weights tied to an embedding never are.

    A pruned weight is exactly 0 from then on, in every checkpoint and folder: they hold plain dense tensors, which load without
    this callback. Its gradient is zeroed where it arises, so the norm of the gradient, clipping and SAM's first step are those of
    the pruned net. After each optimizer step the weight is zeroed again, with all that the optimizer keeps for it (momentum). The
    average of :class:`~callbacks.EMA` is pruned, too. :class:`~callbacks.MaxNorm` acts after this callback wherever it stands in
    the list: its norm is that of the weights that are left.

    Which weights are pruned stands in the callback's own entry of a checkpoint, not in buffers of the module: a resumed run
    continues exactly, and the model has no further keys. At each round ``ModelCheckpoint``, ``EarlyStopping`` and
    :class:`~callbacks.LearningCurves` forget what was best before, so that ``best.ckpt`` is of a net that has been through all
    rounds.

    Logs ``sparsity``, the share of these weights that are pruned, at the end of each epoch (``sparsity/0``, ``sparsity/1`` ... of
    several callbacks with layers of their own). All ranks prune alike.

    Args:
        sparsity: Share of the weights that are pruned in the end, in [0, 1).
        scope: Whether magnitudes are compared over all of these layers ("global"), or each weight matrix loses the same share
            ("layer"; it keeps one weight at least).
        layers: Names of layers, or of parts of the net that hold some, as ``module.named_modules()`` has them, "net." in front left
            out at will; None: all layers of these kinds, the output layer among them.
        start_epoch: Epoch of the first round, from 0; in epoch 0, the weights with which the fit begins are pruned.
        rounds: Number of rounds n, >= 1; 1 is one-shot pruning.
        every: Epochs from one round to the next, >= 1.

    Raises:
        ValueError: An argument is out of its range; there is no such layer, it has no such weights, no optimizer has them, or they
            are computed from others (weight norm, spectral norm); two callbacks prune the same weights; the run ends before the
            last round; a checkpoint of other layers is resumed; another callback averages the weights.
        TypeError: An argument has another type, or the strategy shards the parameters.

    Example:
        >>> MagnitudePruning(0.9, start_epoch=10, rounds=5, every=2).sparsity_after(1)
        0.36904265551980675
    """

    def __init__(
        self,
        sparsity: float,
        scope: Literal["global", "layer"] = "global",
        layers: Sequence[str] | None = None,
        *,
        start_epoch: int = 1,
        rounds: int = 1,
        every: int = 1,
    ) -> None:
        if isinstance(sparsity, bool) or not isinstance(sparsity, int | float):
            raise TypeError(f"sparsity must be a number in [0, 1), got {sparsity!r}")
        if not 0 <= sparsity < 1:
            cure = f": {sparsity:g}% is {sparsity / 100:g}" if 1 < sparsity < 100 else ""
            raise ValueError(f"sparsity is a share of the weights in [0, 1), got {sparsity}{cure}")
        if scope not in ("global", "layer"):
            raise ValueError(f"scope must be one of global, layer, got {scope!r}")
        check_integer("start_epoch", start_epoch, 0)
        check_integer("rounds", rounds, 1)
        check_integer("every", every, 1)
        self.sparsity, self.scope, self.layers = float(sparsity), scope, check_layers(layers)
        self.start_epoch, self.rounds, self.every = start_epoch, rounds, every
        self.pruned: dict[str, Tensor] = {}  # by name of the weight, True where it is pruned
        self._done = 0  # rounds
        self._weights: dict[str, Tensor] = {}
        self._masks: dict[int, Tensor] = {}  # id of a weight -> where it is pruned
        self._hooked: set[str] = set()  # weights whose gradient is zeroed
        self._handles: list[RemovableHandle] = []
        self._steps: list[RemovableHandle] = []

    @property
    @override
    def state_key(self) -> str:
        return "MagnitudePruning" if self.layers is None else f"MagnitudePruning{{layers={self.layers}}}"

    def sparsity_after(self, rounds: int) -> float:
        """Return the share of the weights that are pruned after so many rounds."""
        return self.sparsity if rounds >= self.rounds else 1 - (1 - self.sparsity) ** (rounds / self.rounds)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not has_whole_parameters(trainer):
            raise TypeError(
                f"{type(trainer.strategy).__name__} shards parameters, and magnitudes are compared over whole layers: "
                "MagnitudePruning works on a single device and with ddp"
            )
        self._find(pl_module)
        callbacks = callbacks_of(trainer)
        averaging = [c for c in callbacks if isinstance(c, WeightAveraging | StochasticWeightAveraging)]
        if averaging:
            raise ValueError(
                f"{type(averaging[0]).__name__} keeps an average that MagnitudePruning does not prune: take callbacks.EMA"
            )
        # a checkpoint to resume from is loaded after this
        self.pruned, self._done = {}, 0
        first = next((i for i, c in enumerate(callbacks) if isinstance(c, MaxNorm)), len(callbacks))
        if first < callbacks.index(self):
            others = [c for c in callbacks if c is not self]
            set_callbacks(trainer, [*others[:first], self, *others[first:]])

    def _find(self, module: LightningModule) -> dict[str, Tensor]:
        """Return the weights of the layers by name."""
        for part in named_parts(module, self.layers, "MagnitudePruning"):
            if computed := computed_weights(part):
                raise ValueError(
                    f"MagnitudePruning: {computed[0]} of {type(part).__name__} is computed from other parameters (weight norm, "
                    "spectral norm), so no zero would stay in it: name other layers in layers, or build the net without it"
                )
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        return {names[id(weight)]: weight for _, weight in layer_weights(module, self.layers, "MagnitudePruning")}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._remove()
        self._weights = self._held(trainer, pl_module)
        self._check_others(trainer)
        last, length = self.start_epoch + (self.rounds - 1) * self.every, run_length(trainer, "epoch")
        if last >= length and not getattr(trainer, "fast_dev_run", False):
            raise ValueError(
                f"the last round of pruning would be in epoch {last}, but the run's epochs are 0..{length - 1:g}: start earlier "
                "(start_epoch), prune in fewer rounds or more often (every), or train longer"
            )
        empty = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in self._weights.items()}
        self.pruned = {name: self.pruned.get(name, mask).to(mask.device) for name, mask in empty.items()}
        self._masks = {id(weight): self.pruned[name] for name, weight in self._weights.items()}

    def _held(self, trainer: Trainer, module: LightningModule) -> dict[str, Tensor]:
        """Return the weights that an optimizer has."""
        found = self._find(module)
        trained = {
            id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]
        }
        lost = [name for name, weight in found.items() if id(weight) not in trained]
        if lost and (self.layers is not None or len(lost) == len(found)):
            raise ValueError(
                f"MagnitudePruning: no optimizer has {lost[0]} of {type(module).__name__}, and what is not trained is not pruned: "
                "name other layers in layers, or leave MagnitudePruning out"
            )
        return {name: weight for name, weight in found.items() if name not in lost}

    def _check_others(self, trainer: Trainer) -> None:
        names = self._weights.keys()
        for other in callbacks_of(trainer):
            if isinstance(other, MagnitudePruning) and other is not self and (both := names & other.pruned.keys()):
                raise ValueError(f"two MagnitudePruning would prune {min(both)}: give each layers of its own")

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # not in on_train_epoch_start, which a run resumed from the last batch of an epoch does not call for the next one
        due = min(self.rounds, 1 + (trainer.current_epoch - self.start_epoch) // self.every)
        if due > self._done:
            self._done = due
            self._prune(trainer, pl_module)
        self._attach(trainer)

    @torch.no_grad()
    def _prune(self, trainer: Trainer, module: LightningModule) -> None:
        """Prune to the sparsity of the round that has come."""
        sparsity = self.sparsity_after(self._done)
        names = [*self._weights]
        for group in [[name] for name in names] if self.scope == "layer" else [names]:
            _add_smallest([self._weights[name] for name in group], [self.pruned[name] for name in group], sparsity)
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, LBFGS):
                optimizer.state.clear()  # its steps, one vector for all parameters, lead along weights that are gone
            self._zero(optimizer)
        places = dict(module.named_parameters(remove_duplicate=False))  # a tied weight has several names
        for callback in callbacks_of(trainer):
            if isinstance(callback, EMA):
                for name, average in callback.average.items():
                    if (mask := self._masks.get(id(places.get(name)))) is not None:
                        average.masked_fill_(mask, 0)
            _forget_best(callback, trainer)
        rank_zero_info(
            f"MagnitudePruning: epoch {trainer.current_epoch + 1} begins with {self.share_pruned():.2%} of the weights pruned"
        )
        if empty := [name for name, mask in self.pruned.items() if mask.all()]:
            more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
            rank_zero_warn(
                f"MagnitudePruning: nothing is left of {empty[0]}{more}, so no signal passes: take scope='layer', or a lower "
                "sparsity"
            )

    def share_pruned(self) -> float:
        """Return the share of the weights that are pruned now, 0 before the fit."""
        total = sum(mask.numel() for mask in self.pruned.values())
        return sum(int(mask.sum()) for mask in self.pruned.values()) / total if total else 0.0

    def _attach(self, trainer: Trainer) -> None:
        """Zero gradients and what steps move, from now on."""
        if not self._steps:
            # not at the start of training, so that callbacks which measure the step itself (UpdateRatio) have their hooks before
            self._steps = [o.register_step_post_hook(lambda o, *_: self._zero(o)) for o in trainer.optimizers]
        for name, weight in self._weights.items() if self._done else ():
            if weight.requires_grad and name not in self._hooked:  # what is unfrozen later gets its hook then
                self._hooked.add(name)
                self._handles.append(weight.register_hook(partial(_without, self.pruned[name])))

    @torch.no_grad()
    def _zero(self, optimizer: Optimizer) -> None:
        """Zero pruned weights and all that the optimizer keeps for them."""
        if not self._done:
            return
        for weight in (p for group in optimizer.param_groups for p in group["params"]):
            if (mask := self._masks.get(id(weight))) is not None:
                weight.masked_fill_(mask, 0)  # a product would keep nan
                for value in optimizer.state.get(weight, {}).values():
                    if isinstance(value, Tensor) and value.shape == weight.shape:
                        value.masked_fill_(mask, 0)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        several = [c for c in callbacks_of(trainer) if isinstance(c, MagnitudePruning)]
        name = "sparsity" if len(several) == 1 else f"sparsity/{several.index(self)}"
        # the same on all ranks: their maximum is the value
        pl_module.log(name, self.share_pruned(), batch_size=1, sync_dist=True, reduce_fx="max")

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._remove()
        if self._done < self.rounds and not getattr(trainer, "fast_dev_run", False):
            rank_zero_warn(
                f"MagnitudePruning: the run ended after {self._done} of {self.rounds} rounds, with {self.share_pruned():.2%} of "
                "the weights pruned"
            )

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._remove()

    def _remove(self) -> None:
        for handle in [*self._handles, *self._steps]:
            handle.remove()
        self._handles, self._steps, self._hooked = [], [], set()

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        saved = [key for key in checkpoint.get("callbacks", {}) if key.startswith("MagnitudePruning")]
        if is_fitting(trainer) and saved and self.state_key not in saved:
            raise ValueError(
                f"the checkpoint was trained with {' and '.join(saved)}, and this run has {self.state_key}: resume with the same "
                "layers"
            )

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"rounds": self._done, "pruned": dict(self.pruned)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._done, self.pruned = state_dict["rounds"], dict(state_dict["pruned"])


def _add_smallest(weights: list[Tensor], masks: list[Tensor], sparsity: float) -> None:
    """Mark weights of smallest magnitude, equal ones in their order, until a share of them all is marked.

    What is marked stays so. One weight at least is left.
    """
    sizes = torch.cat(
        [weight.abs().masked_fill(mask, -1).flatten() for weight, mask in zip(weights, masks, strict=True)]
    )
    count = min(round(sparsity * len(sizes)), len(sizes) - 1)
    smallest = torch.zeros_like(sizes, dtype=torch.bool)
    smallest[torch.sort(sizes, stable=True).indices[:count]] = True  # nan is the largest
    for mask, part in zip(masks, smallest.split([mask.numel() for mask in masks]), strict=True):
        mask.logical_or_(part.view(mask.shape))


def _without(mask: Tensor, gradient: Tensor) -> Tensor:
    return gradient.masked_fill(mask, 0)


def _forget_best(callback: Callback, trainer: Trainer) -> None:
    """Let a callback find the best metric anew: what it has seen was a net with more weights."""
    if isinstance(callback, ModelCheckpoint) and callback.monitor is not None:
        callback.best_k_models, callback.best_model_path, callback.best_model_score = {}, "", None
    elif isinstance(callback, EarlyStopping):
        callback.best_score = torch.tensor(-math.inf if callback.mode == "max" else math.inf)
    elif isinstance(callback, LearningCurves):
        callback.forget_best(trainer)

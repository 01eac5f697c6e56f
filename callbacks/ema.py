"""Exponential moving average of the weights."""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from typing_extensions import override

from callbacks.checks import check_integer
from callbacks.internals import StateTensors, callbacks_of, is_fitting, set_callbacks


class EMA(Callback):
    """Keep an exponential moving average of the weights, and evaluate with it (Polyak and Juditsky 1992; Tarvainen and Valpola
    2017, arXiv:1703.01780).

    At the first update the average is a copy of the weights. At the t-th update, counted from ``start_step``, parameters and
    floating-point buffers (statistics of norms) follow ``average = d * average + (1 - d) * weights`` with ``d = min(decay, (1 +
    t) / (10 + t))``; other buffers are copied. A fixed decay would hold on to the untrained weights for about ``1 / (1 -
    decay)`` updates: a GAN's first samples would be flat gray. Before the first update, the module is evaluated with its own
    weights.

    A checkpoint holds both sets of weights, and a resumed run continues exactly. Its ``state_dict`` is the set that was
    evaluated, so whatever loads the file (``zoo.load``, ``zoo test``, ``load_from_checkpoint``) gets the weights that the logged
    metrics belong to; ``zoo.load(path, average=...)`` chooses. After the fit, the module holds the evaluated set.

    Args:
        decay: Share of the average that is kept at each update once there have been about ``9 / (1 - decay)``, in [0, 1).
        start_step: Optimizer step of the first update, >= 0; steps are counted from 1.
        every_n_steps: Optimizer steps from one update to the next, >= 1.
        evaluate: Whether to validate, test and finish with the average, or with the weights themselves.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> EMA(decay=0.99, start_step=100).decay
        0.99
    """

    KEY = "ema"  # of the other set of weights in a checkpoint

    def __init__(
        self, decay: float = 0.999, start_step: int = 0, every_n_steps: int = 1, evaluate: bool = True
    ) -> None:
        if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        check_integer("start_step", start_step, 0)
        check_integer("every_n_steps", every_n_steps, 1)
        self.decay, self.start_step, self.every_n_steps, self.evaluate = decay, start_step, every_n_steps, evaluate
        self.average: dict[str, Tensor] = {}  # by state-dict key; empty before the first update
        self._updated_at = 0  # optimizer step of the last update
        self._exchanged = False
        self._state = StateTensors()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        # a checkpoint to resume from is loaded after this
        self.average, self._updated_at, self._exchanged = {}, 0, False
        callbacks = [c for c in callbacks_of(trainer) if c is not self]
        place = next((i for i, c in enumerate(callbacks) if isinstance(c, Checkpoint)), len(callbacks))
        # before the checkpoint callbacks, after all others: these see the weights that were validated
        set_callbacks(trainer, [*callbacks[:place], self, *callbacks[place:]])

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the module to its device: a checkpoint is loaded before the trainer moves it there."""
        tensors = self._state.of(pl_module)
        self.average = {name: average.to(tensors[name].device) for name, average in self.average.items()}

    @override
    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step = trainer.global_step
        first = max(self.start_step, 1)
        if step == self._updated_at or step < first or (step - first) % self.every_n_steps:
            return  # also within an accumulation window, where the step does not change
        self._updated_at = step
        now = self._state.of(pl_module)
        if not self.average:
            self.average = {name: tensor.detach().clone() for name, tensor in now.items()}
            return
        count = (step - first) // self.every_n_steps
        update = get_ema_multi_avg_fn(min(self.decay, (1 + count) / (10 + count)))
        floating = [name for name, tensor in now.items() if tensor.is_floating_point()]
        update([self.average[name] for name in floating], [now[name] for name in floating], 1)
        for name in now.keys() - set(floating):
            self.average[name].copy_(now[name])

    # Evaluation -----------------------------------------------------------------------------------------------------

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.evaluate and is_fitting(trainer):
            self._exchange(pl_module, True)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_fitting(trainer):
            self._exchange(pl_module, False)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if is_fitting(trainer):
            self._exchange(pl_module, False)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.evaluate:
            self._exchange(pl_module, True)  # a checkpoint saved after the fit still holds both sets

    @torch.no_grad()
    def _exchange(self, module: LightningModule, averaged: bool) -> None:
        """Let the module hold the average or its own weights, by swapping the two sets where it holds the other one."""
        if averaged == self._exchanged or not self.average:
            return
        self._exchanged = averaged
        if averaged and dist.is_available() and dist.is_initialized():
            for name, _ in module.named_buffers():  # in the same order on all ranks
                if name in self.average:
                    dist.broadcast(
                        self.average[name], 0
                    )  # norms have other statistics on each rank: evaluate with one set
        places: dict[Any, str] = {}
        for name, tensor in self._state.of(module).items():
            first = places.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
            if first != name:  # tied: exchanged already, under its first name
                self.average[name].copy_(self.average[first])
                continue
            weights = tensor.clone()
            tensor.copy_(self.average[name])
            self.average[name].copy_(weights)

    # Checkpoints ----------------------------------------------------------------------------------------------------

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self.average:
            return
        weights, average = checkpoint["state_dict"], {k: v.clone() for k, v in self.average.items()}
        if self._exchanged:  # saved while the average is evaluated
            weights, average = average, weights
        checkpoint[self.KEY] = {"evaluate": self.evaluate, "other": weights if self.evaluate else average}
        checkpoint["state_dict"] = average if self.evaluate else weights

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not is_fitting(trainer):
            self.average, self._exchanged = {}, False  # the module gets other weights
            return
        if (saved := checkpoint.get(self.KEY)) is None:
            return
        average, weights = checkpoint["state_dict"], saved["other"]
        if not saved["evaluate"]:
            average, weights = weights, average
        tensors = self._state.of(pl_module)
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(weights[name])
        self.average = {name: average[name].to(tensor.device, copy=True) for name, tensor in tensors.items()}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"updated_at": self._updated_at}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._updated_at = state_dict["updated_at"]

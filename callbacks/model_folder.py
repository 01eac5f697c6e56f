"""The trained model as a folder."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from callbacks.contract import check_defines
from callbacks.internals import completed_epochs, folder_after_fit, is_validate_call


class ModelFolder(Callback):
    """Write the model that is evaluated after a fit into the run folder, as ``model/``, by its ``save_pretrained``.

    ``zoo fit`` tests the best checkpoint when training is over, or validates it where there is no test part: that model is
    written, with the metrics on its card. An evaluation without a fit writes nothing. A module without
    ``save_pretrained`` is refused; where it cannot save a folder (a class that is not registered by ``zoo.register``), there is a
    warning.

    Example:
        >>> callback = ModelFolder()
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            check_defines(pl_module, "ModelFolder", "save_pretrained(folder, training)")

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module, "test/")

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_validate_call(trainer):
            self._write(trainer, pl_module, "val/")

    def _write(self, trainer: Trainer, module: Any, stage: str) -> None:
        folder = folder_after_fit(trainer)
        if folder is None or not trainer.is_global_zero:
            return
        data: Any = getattr(trainer, "datamodule", None)
        metrics = {k: round(float(v), 6) for k, v in trainer.callback_metrics.items() if k.startswith(stage)}
        training = {
            "epochs": completed_epochs(trainer),
            "steps": trainer.global_step,
            "data": getattr(data, "data_identity", None) or type(data).__name__,
            "metric": metrics,
        }
        try:
            module.save_pretrained(folder / "model", training)
        except ValueError as error:  # a class that is not registered; its checkpoints are there
            rank_zero_warn(f"ModelFolder wrote nothing: {error}")

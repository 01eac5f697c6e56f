"""The contract that every registered model meets, as a kit for modules of your own too.

Any LightningModule can be checked; what it may offer to be checked for more is listed in :mod:`zoo.protocol`.

Example:
    >>> import torch, zoo
    >>> from zoo.testing import check_module
    >>> batch = torch.rand(8, 1, 32, 32), torch.arange(8)
    >>> check_module(zoo.create_model("lenet5"), batch, only=["gradients", "independence"])
    {'gradients': 'ok', 'independence': 'ok'}
"""

from zoo.testing.files import check_checkpoint, check_folder, check_hyperparameters
from zoo.testing.fits import check_accumulation, check_processes
from zoo.testing.kit import CHECKS, check_module
from zoo.testing.parts import NotApplicable
from zoo.testing.programs import check_compile, check_export, check_export_length
from zoo.testing.series import check_causality, check_incremental, check_padding
from zoo.testing.training import check_bf16, check_gradients, check_independence, check_memorization

__all__ = [
    "CHECKS",
    "NotApplicable",
    "check_accumulation",
    "check_bf16",
    "check_causality",
    "check_checkpoint",
    "check_compile",
    "check_export",
    "check_export_length",
    "check_folder",
    "check_gradients",
    "check_hyperparameters",
    "check_incremental",
    "check_independence",
    "check_memorization",
    "check_module",
    "check_padding",
    "check_processes",
]

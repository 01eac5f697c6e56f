"""Random features: Rahimi and Recht 2007, "Random Features for Large-Scale Kernel Machines" (NeurIPS 20).

With rectifiers, as in Belkin, Hsu, Ma and Mandal 2019, "Reconciling modern machine learning practice and the bias-variance
trade-off", arXiv:1812.11118, whose least-squares classifier shows double descent: its test error has a peak where there are as many
features as training examples.

Deviations from the paper: the features are divided by the root of their number, so that a ridge means the same for any number; it
changes nothing without a ridge.
"""

from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torchmetrics.utilities.distributed import gather_all_tensors
from typing_extensions import override

from zoo.blocks import Classifier, flatten_features
from zoo.registry import arguments_of, register
from zoo.tasks import ClassificationArguments, ClassificationTask

_APPLY = ("monitor", "weights")  # of the arguments of the task; all others are for training by gradient


class RandomFeatures(Classifier):
    """Rectified projections on random directions, which are not trained, and one linear layer: f(x) = W relu(V x) / sqrt(N).

    The rows of V are uniform on the unit sphere, and in the state dict as ``directions``. There is no bias.

    Args:
        in_features: Number of inputs D; images and series are flattened.
        num_classes: Number of classes K.
        num_features: Number of random features N.

    Shape:
        ``(B, ...)`` with D numbers an example -> scores ``(B, K)``.

    Raises:
        ValueError: Input that does not have D numbers an example.
    """

    directions: Tensor

    def __init__(self, in_features: int = 40, num_classes: int = 10, num_features: int = 400) -> None:
        super().__init__()
        self.num_features = num_features
        self.register_buffer("directions", F.normalize(torch.randn(num_features, in_features), dim=1))
        self.fc = nn.Linear(num_features, num_classes, bias=False)

    def project(self, x: Tensor) -> Tensor:
        """Return the random features, ``(B, ...)`` -> ``(B, N)``, in the precision and on the device of ``x``."""
        directions = self.directions.to(x)
        rows = flatten_features(self, x, directions.shape[1])
        return F.relu(rows @ directions.T) / self.num_features**0.5  # (B, D) -> (B, N)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores: of each class an estimate of 1 where it is the true one, of 0 elsewhere."""
        return self.fc(self.project(x))


class RandomFeaturesClassifier(ClassificationTask):
    """A :class:`RandomFeatures` whose last layer is the least-squares solution for targets of 0 and 1, not trained by gradient.

    At the end of an epoch, and one is all it takes, the last layer is set to the :func:`least_squares` solution for all examples of
    that epoch, in float64: among all solutions with the smallest error that of the smallest norm. Gradient descent from weights of
    0 ends there, too, but slowly where there are about as many features as examples. ``train/loss`` and ``train/acc`` are those of
    the solution. Several processes solve for the examples of all. Give the data module ``drop_last=False``, or a batch size that
    divides the number of examples, so that the epoch has all of them.

    The loss is the squared error, a sum over the K classes and a mean over examples: 1 for scores of 0. There are no probabilities:
    those of ``predict_step`` are 0 or 1.

    Args:
        in_features: Number of inputs D.
        num_classes: Number of classes K.
        num_features: Number of random features N.
        ridge: Weight >= 0 of the sum of squared weights, which is added to the sum of squared errors of all examples.
        task: Arguments of :class:`zoo.ClassificationTask`; but for ``monitor`` and ``weights`` they do not apply.

    Raises:
        ValueError: A negative ridge, or an argument that does not apply.
    """

    net: RandomFeatures

    def __init__(
        self,
        in_features: int = 40,
        num_classes: int = 10,
        num_features: int = 400,
        ridge: float = 0.0,
        **task: Unpack[ClassificationArguments],
    ) -> None:
        if ridge < 0:
            raise ValueError(f"ridge must be 0 or more, got {ridge}")
        known = arguments_of(ClassificationTask)
        for name, value in task.items():
            if name in known and name not in _APPLY and value != (default := known[name].default):
                raise ValueError(
                    f"random features are solved for, in multi-class mode, and not trained by gradient, so {name} does not apply: "
                    f"leave it at {default!r}"
                )
        net = RandomFeatures(in_features=in_features, num_classes=num_classes, num_features=num_features)
        super().__init__(net, num_classes, **task)
        self.automatic_optimization = False
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []  # the epoch's examples, their targets and weights

    # Losses and decisions -------------------------------------------------------------------------------------------

    @override
    def example_losses(self, logits: Tensor, y: Tensor, training: bool) -> Tensor:
        """Return the squared error of each example, a sum over the classes, ``(B,)``."""
        return (logits - self._targets(y, logits.dtype)).square().sum(dim=1)

    def _targets(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """Ones and zeros, ``(B,)`` -> ``(B, K)``; soft targets are what they are."""
        return (y if y.ndim == 2 else F.one_hot(y, self.num_classes)).to(dtype)

    @override
    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the decision for the largest score as probabilities 0 and 1, ``(B, K)``."""
        return F.one_hot(logits.argmax(dim=1), self.num_classes).to(logits.dtype)

    output_meaning = "the decision as probabilities (B, K): 0 or 1"

    @override
    def expected_initial_loss(self) -> float:
        """Return 1, the squared error of scores of 0."""
        return 1.0

    @override
    def loss_floor(self) -> float:
        """Return 0, the loss of a solution through all targets."""
        return 0.0

    # Fitting --------------------------------------------------------------------------------------------------------

    @override
    def configure_optimizers(self) -> Optimizer:
        """Return one that makes the step to the solution."""
        return SGD(self.net.fc.parameters(), lr=1.0)

    @override
    def on_train_start(self) -> None:
        """Refuse data without an end.

        Raises:
            ValueError: The number of batches of an epoch is not known.
        """
        super().on_train_start()
        if self.trainer.num_training_batches == float("inf"):
            raise ValueError(
                "random features are solved for at the end of an epoch, and these data do not say where it is: take a data module "
                "with a length, or set limit_train_batches to a number"
            )

    @override
    def on_train_epoch_start(self) -> None:
        """Forget the examples of an epoch that was not finished."""
        super().on_train_epoch_start()
        self._seen = []

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:  # type: ignore[override]
        """Keep the examples; at the last batch of the epoch, solve, and return the loss.

        Raises:
            ValueError: The fit was resumed in the middle of an epoch.
        """
        x, y, *rest = batch
        self._seen.append((x, y, rest[0] if rest else torch.ones(len(y), device=y.device)))
        if not self.trainer.is_last_batch:
            return None
        if len(self._seen) != batch_idx + 1:
            raise ValueError(
                f"random features are solved for all examples of an epoch, and this one was resumed after "
                f"{batch_idx + 1 - len(self._seen)} of {batch_idx + 1} batches: start a new run, which takes one epoch"
            )
        x, y, weight = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen = []
        with torch.no_grad():
            self._step_to(self.solve(x, y, weight))
            loss, means, count = self.training_losses((x, y, weight))
        self._means.update(means, count)
        return loss

    def solve(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Return the weights of the last layer for the examples of all processes, float64 ``(K, N)``.

        Shape:
            ``(B, ...)`` in units of the data, ``(B,)``, ``(B,)``.
        """
        rows = [self.standardize(x).flatten(1), self._targets(y, torch.float64), weight]
        if self.trainer.world_size > 1:
            rows = [torch.cat(gather_all_tensors(part.contiguous())) for part in rows]
        x, target, share = (part.cpu().double() for part in rows)
        root = share.sqrt().unsqueeze(1)
        return least_squares(self.net.project(x) * root, target * root, self.hparams["ridge"]).T

    def _step_to(self, solution: Tensor) -> None:
        """Make one step of the optimizer, which the trainer counts, to the solution."""
        weight, optimizer = self.net.fc.weight, self.optimizers()
        wanted = solution.to(weight)
        weight.grad = weight - wanted
        optimizer.step()  # type: ignore[union-attr]
        weight.copy_(wanted)  # to the last digit
        weight.grad = None


def least_squares(features: Tensor, targets: Tensor, ridge: float = 0.0) -> Tensor:
    """Return the weights of the smallest norm that minimize the sum of squared errors plus ``ridge`` times that of squared weights.

    By a singular value decomposition, in the precision of the arguments; where the peak of double descent is, float32 has too few
    digits. Singular values below the rounding error of the largest one are taken for 0.

    Args:
        features: Inputs of a linear map without a bias.
        targets: What the map shall give.
        ridge: Penalty >= 0.

    Shape:
        ``(B, N)``, ``(B, K)`` -> ``(N, K)``.

    Example:
        >>> features, targets = torch.tensor([[1.0, 1.0]]).double(), torch.tensor([[4.0]]).double()
        >>> least_squares(features, targets).flatten().float()  # of all weights that sum to 4
        tensor([2., 2.])
        >>> least_squares(features, targets, ridge=2.0).flatten().float()
        tensor([1., 1.])
    """
    left, values, right = torch.linalg.svd(features, full_matrices=False)  # (B, R), (R,), (R, N)
    least = values.max() * torch.finfo(values.dtype).eps * max(features.shape)
    factors = torch.where(values > least, values / (values.square() + ridge), 0.0)
    return right.T @ (factors.unsqueeze(1) * (left.T @ targets))


register("random_features", RandomFeaturesClassifier)

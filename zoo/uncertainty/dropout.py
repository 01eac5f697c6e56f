"""Monte Carlo dropout: Gal and Ghahramani 2016, "Dropout as a Bayesian Approximation: Representing Model Uncertainty in Deep
Learning", arXiv:1506.02142.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth
from typing_extensions import override

from zoo.blocks.attention import MultiHeadAttention
from zoo.blocks.dropout import VanillaDropout
from zoo.blocks.modes import evaluating
from zoo.internals import TorchFunctionMode, default_generator
from zoo.model import Model
from zoo.uncertainty.ensemble import check_classifier, is_multilabel
from zoo.uncertainty.mixture import mixture

_FUNCTIONS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
# the modules that call them
_LAYERS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
# Modules that look at their mode themselves, and have nothing in training mode but what they drop; and where its probability is.
_OWN_MODE: dict[type[nn.Module], str] = {
    VanillaDropout: "p",
    StochasticDepth: "p",
    MultiHeadAttention: "dropout",
    nn.MultiheadAttention: "dropout",
    nn.RNNBase: "dropout",
}


class MCDropout(nn.Module):
    """A classifier whose dropout stays on: the mean of its probabilities over several masks, and how far they disagree.

    On are ``nn.Dropout`` and its kin, dropout by ``torch.nn.functional``, :class:`zoo.blocks.VanillaDropout`, dropout of attention
    weights and between layers of recurrent nets, and stochastic depth (torchvision's and timm's); in frozen layers, too. All
    else, such as batch norm, is in evaluation mode. What a net drops in another way, by its own ``if self.training:``, stays off.

    The masks come from a seed of their own, the same in each call, and no random number of the program is used up. Examples of
    a batch have masks of their own.

    Args:
        model: The classifier.
        samples: Number of masks, >= 1.
        seed: Seed of the masks.

    Raises:
        TypeError: The model is no classifier.
        ValueError: It has no dropout of a probability above 0, or ``samples`` is out of its range.

    Example:
        >>> import zoo
        >>> model = zoo.MLPClassifier(in_features=4, num_classes=3, dropout=0.3)
        >>> {name: tuple(value.shape) for name, value in MCDropout(model, samples=10).outputs(torch.rand(2, 4)).items()}
        {'probabilities': (2, 3), 'entropy': (2,), 'disagreement': (2,)}
    """

    def __init__(self, model: Model, samples: int = 30, seed: int = 0) -> None:
        super().__init__()
        check_classifier(model, "Monte Carlo dropout")
        if samples < 1:
            raise ValueError(f"samples must be 1 or more, got {samples}")
        if not has_dropout(model):
            raise ValueError(
                f"this {type(model).__name__} has no dropout of a probability above 0, so all its samples would be equal: train it "
                f"with dropout, or ask an ensemble"
            )
        self.model, self.samples, self.seed = model, samples, seed

    @property
    def label_names(self) -> list[str]:
        """Names of the classes."""
        return self.model.label_names

    def outputs(self, x: Any) -> dict[str, Tensor]:
        """Return mean ``probabilities``, their ``entropy`` and the samples' ``disagreement``, see :func:`mixture`."""
        with _dropping(self.model), _own_generators(self.model, self.seed):
            predictions = (self.model.outputs(x)["probabilities"] for _ in range(self.samples))
            return mixture(predictions, is_multilabel(self.model))


def has_dropout(model: Model) -> bool:
    """Return whether a model drops anything in training with a probability above 0, see :class:`MCDropout`."""
    if any(_rate(part) > 0 or (isinstance(part, _LAYERS) and part.p > 0) for part in model.modules()):
        return True
    with _dropping(model) as functions, _own_generators(model, 0):
        model(*model.example_inputs())
    return functions.drops


def _rate(part: nn.Module) -> float:
    """The probability with which a module drops by its own mode; 0 for all other modules."""
    if isinstance(part, nn.RNNBase) and part.num_layers == 1:
        return 0.0  # it drops between layers
    for kind, name in _OWN_MODE.items():
        if isinstance(part, kind):
            return float(getattr(part, name))
    return float(getattr(part, "drop_prob", None) or 0)  # timm's DropPath


class _Functions(TorchFunctionMode):
    """While active, the functions of dropout drop whatever mode they are told.

    Attributes:
        drops: Whether any had a probability above 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drops = False

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _FUNCTIONS:
            return func(*args, **kwargs)
        given = dict(zip(("input", "p", "training", "inplace"), args, strict=False)) | kwargs | {"training": True}
        self.drops |= given.get("p", 0.5) > 0
        return func(**given)


@contextmanager
def _dropping(model: nn.Module) -> Iterator[_Functions]:
    """Let a model drop, in evaluation mode otherwise, and without gradients."""
    with evaluating(model), _Functions() as functions:
        for part in model.modules():
            part.training = _rate(part) > 0
        yield functions


@contextmanager
def _own_generators(model: nn.Module, seed: int) -> Iterator[None]:
    """Seed the global generators that a model draws from, and put their states back."""
    devices = {torch.device("cpu"), *(t.device for t in (*model.parameters(), *model.buffers()))}
    generators = [generator for device in devices if (generator := default_generator(device)) is not None]
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

"""Deep ensembles: Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles",
arXiv:1612.01474. Without the adversarial training, which the paper has as an option.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from zoo.blocks.modes import evaluating
from zoo.model import Model
from zoo.uncertainty.mixture import mixture


def check_classifier(model: Any, what: str) -> None:
    """Refuse what predicts no classes.

    Raises:
        TypeError: It does not.
    """
    if (
        getattr(model, "makes", "label") != "label"
        or not hasattr(model, "outputs")
        or not hasattr(model, "label_names")
    ):
        raise TypeError(f"{what} is for classifiers, and {type(model).__name__} predicts no classes")


def is_multilabel(model: Any) -> bool:
    """Return whether an example may have several labels."""
    return getattr(model, "mode", None) == "multilabel"


class DeepEnsemble(nn.Module):
    """Several classifiers of the same classes and inputs: the mean of their probabilities, and how far they disagree.

    The members are what makes it one: the same recipe trained from several seeds. They are asked in evaluation mode, each
    with its own standardization.

    Args:
        models: The members, one or more.

    Raises:
        TypeError: A member is no classifier.
        ValueError: No member, or members of other classes, inputs or vocabularies than the first.

    Example:
        >>> import torch, zoo
        >>> ensemble = DeepEnsemble([zoo.create_model("lenet5") for seed in range(3)])
        >>> {name: tuple(value.shape) for name, value in ensemble.outputs(torch.rand(2, 1, 32, 32)).items()}
        {'probabilities': (2, 10), 'entropy': (2,), 'disagreement': (2,)}
    """

    def __init__(self, models: Sequence[Model]) -> None:
        super().__init__()
        if not models:
            raise ValueError("an ensemble has one model or more, got none")
        first: Any = models[0]
        for i, model in enumerate(models, start=1):
            check_classifier(model, "a deep ensemble")
            for what, name in _ALIKE.items():
                one, other = getattr(first, name, None), getattr(model, name, None)
                if one != other:
                    raise ValueError(
                        f"the members of an ensemble must have the same {what}: model 1 has {_shown(one, other)}, model {i} "
                        f"{_shown(other, one)}"
                    )
        self.models = nn.ModuleList(models)

    @property
    def label_names(self) -> list[str]:
        """Names of the classes."""
        first: Any = self.models[0]
        names: list[str] = first.label_names
        return names

    def outputs(self, x: Any) -> dict[str, Tensor]:
        """Return mean ``probabilities``, their ``entropy`` and the members' ``disagreement``, see :func:`mixture`."""
        members: list[Any] = list(self.models)
        with evaluating(self):
            return mixture((member.outputs(x)["probabilities"] for member in members), is_multilabel(members[0]))


# what members must have in common, and their attribute for it
_ALIKE = {
    "classes": "label_names",
    "mode": "mode",
    "shape of an input": "input_shape",
    "vocabulary": "vocabulary",
    "source vocabulary": "source_vocabulary",
}


def _shown(value: Any, other: Any) -> str:
    """A value in a message; of a list or dict that is long, where it differs."""
    if isinstance(value, list) and isinstance(other, list) and len(value) > 6:
        differ = [item for item in value if item not in other]
        return f"{len(value)}" + (f", among them {differ[0]!r}" if differ else ", in another order")
    return f"{value!r}"[:200]

"""Chosen examples of a dataloader, instead of those that come next."""

from typing import Any

from torch import Tensor

from callbacks.internals import leaves


def first_loader(loaders: Any) -> Any:
    """Return the first of nested dataloaders; None if there is none."""
    return next(iter(leaves(loaders)), None)


def has_indices(loader: Any) -> bool:
    """Whether the dataset's examples can be read by their index."""
    dataset = getattr(loader, "dataset", None)
    return hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")


def read(loader: Any, indices: list[int]) -> Any:
    """Return the examples at ``indices`` as the loader would batch them, as in evaluation."""
    dataset = loader.dataset
    if hasattr(dataset, "for_evaluation"):  # our datasets, which would augment
        dataset = dataset.for_evaluation()
    batched = getattr(dataset, "__getitems__", None)
    return loader.collate_fn(batched(indices) if batched else [dataset[index] for index in indices])


def counted(weight: Tensor) -> Tensor:
    """Return the mask ``(B,)`` of the examples that count, from weights ``(B,)`` or of the targets' shape."""
    return (weight > 0).flatten(1).any(dim=1) if weight.ndim > 1 else weight > 0

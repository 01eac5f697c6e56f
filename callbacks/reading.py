"""Chosen examples of a dataloader, instead of those that come next."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, SubsetRandomSampler

from callbacks.internals import leaves


def first_loader(loaders: Any) -> Any:
    """Return the first of nested dataloaders; None if there is none."""
    return next(iter(leaves(loaders)), None)


def has_indices(loader: Any) -> bool:
    """Whether the dataset's examples can be read by their index."""
    dataset = getattr(loader, "dataset", None)
    return hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")


def indices_of(loader: Any) -> list[int]:
    """Return the indices of the loader's examples: all of its dataset, or those of its ``SubsetRandomSampler``."""
    sampler = getattr(loader, "sampler", None)
    return list(sampler.indices if isinstance(sampler, SubsetRandomSampler) else range(len(loader.dataset)))


def batches(loader: Any, parts: list[list[int]]) -> Iterator[Any]:
    """Yield the examples at each list of indices as the loader would batch them, as in evaluation, with as many workers."""
    yield from DataLoader(
        _as_in_evaluation(loader.dataset),
        batch_sampler=parts,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=torch.Generator(),
    )


def read(loader: Any, indices: list[int]) -> Any:
    """Return the examples at ``indices`` as the loader would batch them, as in evaluation."""
    dataset = _as_in_evaluation(loader.dataset)
    batched = getattr(dataset, "__getitems__", None)
    return loader.collate_fn(batched(indices) if batched else [dataset[index] for index in indices])


def _as_in_evaluation(dataset: Any) -> Any:
    if hasattr(dataset, "for_evaluation"):  # our datasets, which would augment
        dataset = dataset.for_evaluation()
    return dataset


def counted(weight: Tensor) -> Tensor:
    """Return the mask ``(B,)`` of the examples that count, from weights ``(B,)`` or of the targets' shape."""
    return (weight > 0).flatten(1).any(dim=1) if weight.ndim > 1 else weight > 0

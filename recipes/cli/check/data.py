"""Checks of the data: inputs near 0 and 1, balance of the classes, examples of validation that were trained on."""

import hashlib
import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import IterableDataset

from recipes.cli.check.rows import Row, not_applicable
from recipes.cli.check.start import Start
from zoo.tasks.base import input_of
from zoo.testing.parts import tensors_of

_MOST = {"train": 20_000, "val": 5_000}  # examples that are read
_NEAREST = {"train": 10_000, "val": 2_000}  # examples that are compared with each other
_SECONDS = 8.0  # for reading a split
_CHUNK = 256
_SIDE = 16  # pixels of the side of images that are compared
_FEW = 4  # numbers of an example, below which neighbors are near by chance
_UNEVEN, _UNEVEN_PIXELS = 10, 100  # times as many examples, or pixels (most are background), as of the rarest class
_NEAR = {1: 0.1, 16: 0.25}  # share of the usual distance of neighbors, from so many numbers on


@dataclass
class Split:
    """Examples of a split as they are before they are augmented.

    Attributes:
        total: Number of examples of the split.
        indices: Those that were read.
        digests: A digest of the input of each.
        rows: Numbers of the input of each, ``(N, D)``; None where the input is none, such as a text.
        labels: Class of each, int64 ``(N,)``; None where the target is no single class.
        names: Names of examples, for messages.
    """

    total: int
    indices: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    rows: Tensor | None = None
    labels: Tensor | None = None
    dataset: Any = None

    def name_of(self, position: int) -> str:
        """Return the name of an example that was read: its file, or its index."""
        index = self.indices[position]
        name = getattr(self.dataset, "name_of", None)
        return str(name(index)) if name else str(index)

    @property
    def whole(self) -> bool:
        """Whether all of its examples were read."""
        return len(self.indices) == self.total


def read(loader: Any, part: str) -> Split | None:
    """Read the examples of a loader, or as many of a large split as there is time for.

    Returns:
        None where the data are a stream, or there are none.

    """
    dataset = getattr(loader, "dataset", None)
    if dataset is None or isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") or not len(dataset):
        return None
    dataset = dataset.for_evaluation() if hasattr(dataset, "for_evaluation") else dataset
    split = Split(len(dataset), dataset=dataset)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[: _MOST[part]].tolist()
    rows, labels = list[Tensor](), list[Tensor]()
    end = time.monotonic() + _SECONDS
    for first in range(0, len(order), _CHUNK):
        chosen = order[first : first + _CHUNK]
        x, y = _inputs_and_targets(dataset, chosen, loader)
        leaves = tensors_of(x)
        split.indices += chosen
        for i in range(len(chosen)):
            digest = hashlib.blake2b(digest_size=16)
            for leaf in leaves:
                digest.update(leaf[i].contiguous().cpu().numpy().tobytes())
            split.digests.append(digest.digest())
        if (numbers := _numbers(leaves)) is not None:
            rows.append(numbers)
        if isinstance(y, Tensor) and y.ndim == 1 and not y.is_floating_point() and y.dtype != torch.bool:
            labels.append(y.long().cpu())
        if time.monotonic() > end:
            break
    if rows and len({x.shape[1] for x in rows}) == 1:
        split.rows = torch.cat(rows)
    split.labels = torch.cat(labels) if labels else None
    return split


def _inputs_and_targets(dataset: Any, chosen: list[int], loader: Any) -> tuple[Any, Any]:
    if hasattr(dataset, "__getitems__"):
        batch = dataset.__getitems__(chosen)
        batch = loader.collate_fn(batch) if isinstance(batch, list) else batch
    else:
        batch = loader.collate_fn([dataset[i] for i in chosen])
    parts: Any = batch if type(batch) in (tuple, list) else (batch,)
    return input_of(batch), parts[1] if len(parts) > 1 else None


def _numbers(leaves: list[Tensor]) -> Tensor | None:
    """Return what is compared of an input: images ``(N, C, H, W)`` made smaller, all else as it is, as ``(N, D)``."""
    numbers = [x for x in leaves if x.is_floating_point() or (x.dtype == torch.uint8 and x.ndim > 2)]
    if not numbers or numbers[0].ndim < 2:
        return None
    x = numbers[0].detach().cpu().float()
    if x.ndim == 4 and max(x.shape[-2:]) > _SIDE:
        x = F.adaptive_avg_pool2d(x, _SIDE)
    return x.flatten(1)


# The checks --------------------------------------------------------------------------------------------------------------


def check_inputs(start: Start) -> Row:
    """What the net is given has a mean near 0 and a deviation near 1."""
    name, module = "inputs", start.module
    parts = []
    for batch in start.batches:
        x = input_of(batch)
        lengths = getattr(x, "lengths", None)
        x = module.standardize(x) if hasattr(module, "standardize") else x
        leaves = [leaf for leaf in tensors_of(x) if leaf.is_floating_point() and leaf.ndim > 1]
        if leaves:
            values = leaves[0]
            if lengths is not None:
                values = values[torch.arange(values.shape[1]) < lengths[:, None]]  # (B, T, D) -> (sum of lengths, D)
            parts.append(values)
    if not parts:
        return not_applicable(name, "tokens have no mean")
    axis = getattr(module, "standardize_axis", 1) % parts[0].ndim
    axis = 1 if parts[0].ndim == 2 else axis
    columns = torch.cat([x.movedim(axis, 0).flatten(1) for x in parts], dim=1).double()  # (C, all others)
    if not columns.isfinite().all():
        cure = "fill or remove values that are nan or infinite; look for a column that is constant"
        return Row(name, "fail", "not finite after standardization", cure)
    mean, std = columns.mean().item(), columns.std().item()
    each = columns.std(dim=1)
    worst = int((each.clamp(min=1e-3).log().abs() * (each > 0)).argmax())
    detail = f"mean {mean:.2f}, std {std:.2f}"
    more = {"mean": mean, "std": std}
    if len(columns) > 1:
        detail += f" over {len(columns)} columns; furthest from 1: column {worst} with {each[worst]:.2g}"
    constant = int((each == 0).sum())
    detail += f"; {constant} constant" if constant and len(columns) > 1 else ""
    cure = "give the datamodule mean and std of the training split (describe), or standardize the columns"
    if std == 0:
        return Row(name, "fail", f"all inputs are the same number, {mean:.3g}", "look at how the data are read", more)
    if abs(mean) > 1 or not 0.3 <= std <= 3 or each.max() > 10:
        return Row(name, "warn", detail, cure, more)
    return Row(name, "pass", detail, more=more)


def check_balance(start: Start, train: Split | None) -> Row:
    """No class is missing, and none is much rarer than others."""
    name, data = "class balance", start.data
    classes = data_classes(start)
    counts = getattr(data, "class_counts", None) if classes else None
    if counts is None and train is not None and train.labels is not None and classes:
        counts = torch.bincount(train.labels.clamp(min=0), minlength=classes).tolist()
    if not counts:
        return not_applicable(name, "the model learns no classes")
    names = getattr(data, "class_names", None) or [str(k) for k in range(len(counts))]
    label = lambda k: str(names[k]) if k < len(names) else str(k)  # noqa: E731
    rare, common = min(range(len(counts)), key=counts.__getitem__), max(range(len(counts)), key=counts.__getitem__)
    share = counts[common] / max(sum(counts), 1)
    detail = f"{len(counts)} classes, {label(rare)!r} {counts[rare]:,} to {label(common)!r} {counts[common]:,}; the most frequent "
    detail = f"{detail}is {share:.0%}" if rare != common else f"{len(counts)} classes of {counts[rare]:,} each"
    more = {"counts": list(counts)}
    if missing := [k for k, count in enumerate(counts) if not count]:
        text = f"no training example of {', '.join(repr(label(k)) for k in missing[:5])}{' ...' * (len(missing) > 5)}"
        return Row(
            name,
            "fail" if len(missing) < len(counts) else "warn",
            text,
            "bring examples of it, or leave the class out",
            more,
        )
    most = _UNEVEN_PIXELS if getattr(data, "kind", None) == "segmentation" else _UNEVEN
    if counts[common] > most * counts[rare]:
        cure = "more examples of it, model.class_weight=balanced where the model has it; judge by more than accuracy"
        return Row(name, "warn", detail, cure, more)
    return Row(name, "pass", detail, more=more)


def data_classes(start: Start) -> int | None:
    """Return the number of classes that the model learns, by the data or by itself; None where it learns none."""
    makes, samples = getattr(start.module, "makes", None), getattr(start.module, "samples", None)
    if makes not in (None, "label", "mask") or samples:  # such as an autoencoder of pictures that have classes
        return None
    given = getattr(start.data, "num_classes", None)
    return int(given or getattr(start.module, "num_classes", 0) or 0) or None


def why_no_overlap(start: Start, train: Split | None, val: Split | None) -> Row | None:
    """Return the row where there are not two splits to compare."""
    name = "overlap"
    if start.val is None or not start.val_batches:
        cure = "hold some out: data.val_fraction=0.1"
        return Row(name, "warn", "no validation: nothing tells which checkpoint is best, or when to stop", cure)
    if train is None or val is None:
        return not_applicable(name, "the data are a stream, which cannot be read twice")
    return None


def check_overlap(train: Split, val: Split) -> Row:
    """No example validates that was trained on, by a digest of its input."""
    trained = {digest: i for i, digest in enumerate(train.digests)}
    same = [(i, trained[digest]) for i, digest in enumerate(val.digests) if digest in trained]
    of = f"{len(val.indices):,} of validation and {len(train.indices):,} of training" + _part_of(train, val)
    pairs = [[val.name_of(i), train.name_of(j)] for i, j in same[:20]]
    if not same:
        return Row("overlap", "pass", f"no input is in both: {of}")
    share = len(same) / len(val.digests)
    repeated = 1 - len(trained) / len(train.digests)
    detail = f"{len(same):,} inputs ({share:.1%}) are in both, such as {pairs[0][0]} = {pairs[0][1]}: {of}"
    cure = "remove them from the training part; split by what belongs together (a patient, a document, a day)"
    if repeated >= share / 4:  # there are few different inputs, as of short strings: no mistake of the split
        detail += f"; {repeated:.1%} of training repeat an input of their own part"
        return Row(
            "overlap", "warn", detail, "judge by inputs that are in no other part", {"pairs": pairs, "share": share}
        )
    return Row("overlap", "fail" if share >= 0.05 else "warn", detail, cure, {"pairs": pairs, "share": share})


def _part_of(train: Split, val: Split) -> str:
    return "" if train.whole and val.whole else f" (of {val.total:,} and {train.total:,})"


def check_near_duplicates(start: Start, train: Split, val: Split) -> Row:
    """No example of validation is almost one that was trained on."""
    name = "near-duplicates"
    if getattr(start.data, "kind", None) == "forecasting":
        return not_applicable(name, "windows of one series follow each other")
    if train.rows is None or val.rows is None or train.rows.shape[1] != val.rows.shape[1]:
        return not_applicable(name, "inputs are not numbers of one shape: another token is another text")
    if train.rows.shape[1] < _FEW:
        return not_applicable(name, f"with {train.rows.shape[1]} numbers an example, neighbors are near by chance")
    x, y = train.rows[: _NEAREST["train"]], val.rows[: _NEAREST["val"]]
    trained = set(train.digests)
    mean, std = x.mean(), x.std().clamp(min=1e-12)
    if x.shape[1] < 64:  # columns of a table have units of their own
        mean, std = x.mean(0), x.std(0).clamp(min=1e-12)
    x, y = (x - mean) / std, (y - mean) / std
    distances, nearest = _nearest(y, x)
    own, _ = _nearest(x[:1000], x, skip_same=True)
    usual = own[own > 0].median().item() if (own > 0).any() else 0.0
    limit = usual * next(share for least, share in sorted(_NEAR.items(), reverse=True) if x.shape[1] >= least)
    near = [i for i in range(len(y)) if distances[i] < limit and val.digests[i] not in trained]
    of = f"{len(y):,} of validation and {len(x):,} of training compared"
    if not near:
        return Row(name, "pass", f"none: {of}")
    near.sort(key=lambda i: float(distances[i]))
    pairs = [[val.name_of(i), train.name_of(int(nearest[i]))] for i in near[:20]]
    share = len(near) / len(y)
    detail = f"{len(near):,} ({share:.1%}) are almost a training example, such as {pairs[0][0]} and {pairs[0][1]}: {of}"
    cure = "look at them; frames of one scene and copies of one file belong into one part"
    return Row(name, "fail" if share >= 0.05 else "warn", detail, cure, {"pairs": pairs, "share": share})


def _nearest(y: Tensor, x: Tensor, skip_same: bool = False) -> tuple[Tensor, Tensor]:
    """Return the distance to the nearest row of x and its index; ``(N, D)``, ``(M, D)`` -> ``(N,)``, ``(N,)``."""
    distances, indices = [], []
    for first in range(0, len(y), 500):
        d = torch.cdist(
            y[first : first + 500],
            x,
            compute_mode="donot_use_mm_for_euclid_dist" if x.shape[1] < 16 else "use_mm_for_euclid_dist",
        )
        if skip_same:
            d[torch.arange(len(d)), torch.arange(first, first + len(d))] = math.inf
        found = d.min(dim=1)
        distances.append(found.values)
        indices.append(found.indices)
    return torch.cat(distances), torch.cat(indices)

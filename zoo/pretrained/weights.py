"""``weights=``: weights from anywhere, put into a task."""

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zoo.pretrained.report import LoadReport, compare, put, tied
from zoo.pretrained.sources import Found, find
from zoo.registry import get, name_of
from zoo.tasks import Task

AUXILIARY = ("net.aux1.", "net.aux2.")  # heads for training only: a net may be built without those the file has


def use_weights(module: Task, weights: str, name: str | None = None) -> None:
    """Load weights into a task and take what else they tell: standardization, class names, input shape.

    A head for another number of classes keeps its fresh values, the first convolution is adapted to other image channels, all
    else must fit. ``module.load_report`` tells what became of each tensor.

    Args:
        module: receives the weights; its net may be on the meta device, see :func:`zoo.pretrained.skeleton.skeleton`.
        weights: see :func:`zoo.create_model`.
        name: the registered name of the model; by default the one that fits.

    Raises:
        FileNotFoundError, ConnectionError: there is no such file; the hub or the download cannot be reached.
        ValueError: no such weights, damaged or hostile ones, or those of another architecture.
    """
    if module.hparams["init"] is not None:
        raise ValueError(f"init {module.hparams['init']!r} would draw what weights {weights!r} bring: give one of them")
    found = find(weights, name or name_of(module))
    wanted = {k: t for k, t in module.state_dict().items() if k.startswith("net.")}
    state = {f"net.{k}": t for k, t in _unwrapped(found.net, module.net.state_dict()).items()}
    report, taken = compare(wanted, state, tied(module))
    head = f"net.{_last_layer(module.net)}"
    classes = tuple(s[f"{head}.weight"].shape[0] if f"{head}.weight" in s else None for s in (state, wanted))
    if reason := _misfit(module, found, report, state, wanted, classes):
        raise ValueError(f"{found.origin} cannot be the weights of this {type(module.net).__name__}: {reason}")
    channels = getattr(module.net, "in_channels", None)
    for key, value in found.buffers.items():
        if key in ("mean", "std"):
            fits = value.numel() in (1, channels) or channels is None
            taken[key] = value if fits else value.mean().view(1)  # one number for whatever channels come
        elif key != "class_weight" and key in module.state_dict() and getattr(module, key).shape == value.shape:
            taken[key] = value  # class weights belong to training data: those to come
    for key in taken.keys() & {"mean", "std"}:
        setattr(module, key, torch.empty_like(taken[key]))
    put(module, taken, assign=any(p.is_meta for p in module.parameters()))
    data = dict(found.data)
    if classes[0] != classes[1]:
        data["class_names"] = None
    if channels is not None and len(shape := data.get("input_shape") or []) == 3:
        data["input_shape"] = [channels, *shape[1:]]
    module.describe_data(data)
    module.load_report = report


def _last_layer(net: nn.Module) -> str:
    """The name of the layer that gives the logits: as the net tells, or the last that has a matrix of weights."""
    if (told := getattr(net, "head_name", None)) is not None:
        return str(told)
    names = [name for name, part in net.named_modules() if getattr(getattr(part, "weight", None), "ndim", 0) > 1]
    return names[-1] if names else ""


def _unwrapped(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what wraps all names: "net." or "model." of a task, "module." of DDP, "_orig_mod." of a compiled net."""
    state = dict(state)
    while not state.keys() & wanted.keys() and len({key.partition(".")[0] for key in state}) == 1:
        if any("." not in key for key in state):  # a name alone wraps nothing
            break
        state = {key.partition(".")[2]: t for key, t in state.items()}
    return state


def _misfit(
    module: Task,
    found: Found,
    report: LoadReport,
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    classes: tuple[int | None, ...],
) -> str | None:
    """Why the weights cannot be used, both values named; None if they can."""

    def is_classifier(key: str) -> bool:  # GoogLeNet has three; FCN also maps classes to classes
        old, new = state[key].shape, wanted[key].shape
        sizes = list(zip(old, new, strict=False))
        return len(old) == len(new) and sizes[0] == classes and all(a == b or (a, b) == classes for a, b in sizes)

    convolutions = [n for n, part in module.net.named_modules() if isinstance(part, nn.Conv2d)]
    first = f"net.{convolutions[0]}.weight" if convolutions else ""
    shapes = [k for k in report.reinitialized if not is_classifier(k)] + [k for k in report.adapted if k != first]
    missing = [k for k in report.missing if not k.endswith("num_batches_tracked") and not k.startswith(AUXILIARY)]
    unexpected = [k for k in report.unexpected if not k.startswith(AUXILIARY)]
    if not (shapes or missing or unexpected):
        return None
    if found.model is not None and get(found.model).cls is not type(module):
        return f"they are of {found.model}"
    own = inspect.signature(type(module).__init__).parameters.keys() - {
        "self",
        "task",
        "net",
        "num_classes",
        "in_channels",
    }
    told = found.hparams or {}
    if differ := sorted(k for k in own & told.keys() if told[k] != module.hparams[k]):
        return ", ".join(f"{k} is {told[k]!r} there and {module.hparams[k]!r} here" for k in differ)
    if shapes and (key := shapes[0]) == first and state[key].shape[0] == wanted[key].shape[0]:
        old, new = (tensors[key].shape for tensors in (state, wanted))
        if old[2:] == new[2:]:
            return f"its first convolution sees {old[1]} channels, here it has {new[1]}: up to 16 can be adapted"
    reasons = []
    if shapes:
        there, here = (tuple(tensors[shapes[0]].shape) for tensors in (state, wanted))
        more = f" ({len(shapes) - 1} more differ)" if len(shapes) > 1 else ""
        reasons.append(f"{shapes[0].removeprefix('net.')} is {there} there and {here} here{more}")
    for keys, what in ((missing, "missing"), (unexpected, "unknown here")):
        if keys:
            reasons.append(f"{len(keys)} tensors are {what} ({keys[0].removeprefix('net.')})")
    return ", ".join(reasons)

"""Optimizers by name, and their parameter groups."""

import inspect
import math
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from zoo.blocks.layers import layer_groups, parameters_of
from zoo.internals import no_capture_checks
from zoo.optim.fused import FUSED, KERNELS, can_fuse, guard
from zoo.optim.initializers import weights_of
from zoo.optim.lion import Lion
from zoo.optim.muon import MuonAdamW
from zoo.optim.newton import Newton
from zoo.optim.sam import SAM, check_rho
from zoo.optim.schedule_free import averaged_weights, is_schedule_free
from zoo.spelling import suggest

OWN: dict[str, type[Optimizer]] = {"Lion": Lion, "MuonAdamW": MuonAdamW, "Newton": Newton, "SAM": SAM}
SCHEDULE_FREE = "AdamWScheduleFree"  # of the package schedulefree
CLOSURE_OPTIMIZERS = ("LBFGS", "Newton", "SAM")  # they evaluate the loss several times in a step
SAM_ARGUMENTS = ("rho", "base", "base_args")  # base: the name of the optimizer that makes the steps
CURES = {"SparseAdam": "; take Adam", "Muon": "; take MuonAdamW"}  # what trains a net instead
_DEVICE_ARGUMENTS = ("fused", "foreach", "capturable")  # whether there is such a kernel depends on the device


def optimizer_class(name: str) -> type[Optimizer]:
    """Return an optimizer class by name.

    Args:
        name: Any of ``torch.optim`` ("SGD", "AdamW", "LBFGS" ...), "Lion", "MuonAdamW", "Newton", "SAM", "AdamWScheduleFree"
            of the package schedulefree, or a dotted path "package.module.Class".

    Raises:
        ValueError: No such optimizer; the message suggests the closest. Or its package is not installed.
    """
    if "." in name:
        module, _, attribute = name.rpartition(".")
        try:
            cls = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"optimizer {name!r} cannot be imported: {error}") from error
        if not (isinstance(cls, type) and issubclass(cls, Optimizer)):
            raise ValueError(f"optimizer {name!r} is no torch.optim.Optimizer class, got {cls!r}: name a class")
        return cls
    known = {
        k: v
        for k, v in vars(torch.optim).items()
        if isinstance(v, type) and issubclass(v, Optimizer) and v is not Optimizer
    }
    known |= OWN
    if name == SCHEDULE_FREE:
        try:
            from schedulefree import AdamWScheduleFree
        except ImportError as error:
            raise ValueError(
                f"optimizer {name} is of the package schedulefree, which is not installed: pip install "
                "'lightning-zoo[schedulefree]', or give another optimizer, as in zoo.load(path, optimizer='AdamW')"
            ) from error
        return AdamWScheduleFree
    if name not in known:
        known[SCHEDULE_FREE] = Optimizer
        raise ValueError(f"unknown optimizer {name!r}{suggest(name, known)}; known: {', '.join(sorted(known))}")
    return known[name]


def check_optimizer(name: str, lr: float, weight_decay: float, arguments: dict[str, Any]) -> None:
    """Check the arguments of :func:`build_optimizer`, before any work is done; :func:`try_optimizer` checks more, with the net.

    Raises:
        ValueError: An unknown optimizer, ``lr`` not above 0, a negative ``weight_decay``, or one that the optimizer does not have.
        TypeError: An argument that the optimizer does not have.
    """
    known: Iterable[str] = SAM_ARGUMENTS if name == "SAM" else inspect.signature(optimizer_class(name)).parameters
    if not lr > 0:
        raise ValueError(f"lr must be above 0, got {lr}")
    if weight_decay < 0:
        raise ValueError(f"weight_decay must be 0 or above, got {weight_decay}")
    if weight_decay and "weight_decay" not in known and name != "SAM":
        raise ValueError(f"{name} has no weight decay: leave weight_decay at 0, got {weight_decay}")
    for argument in arguments:
        if argument in ("lr", "weight_decay", "params"):
            raise TypeError(f"optimizer_args has {argument!r}: give {argument} to the task itself")
        if argument not in known:
            cure = "; those of the optimizer that makes the steps are in base_args" if name == "SAM" else ""
            raise TypeError(f"optimizer_args: {name} has no argument {argument!r}{suggest(argument, known)}{cure}")
    if infinite := [k for k, v in arguments.items() if isinstance(v, float) and not math.isfinite(v)]:
        raise ValueError(f"optimizer_args {infinite[0]} must be a finite number, got {arguments[infinite[0]]}")
    if name == "SAM":
        _check_sam(lr, weight_decay, arguments)


def _check_sam(lr: float, weight_decay: float, arguments: dict[str, Any]) -> None:
    """Check what the arguments of SAM say of its base.

    Raises:
        ValueError, TypeError: As :func:`check_optimizer`, or an optimizer that cannot be a base.
    """
    base, base_args, own = _sam_parts(arguments)
    check_rho(**own)
    wrong = not isinstance(base, str) or "." in base or base in CLOSURE_OPTIMIZERS
    if wrong or is_schedule_free(optimizer_class(base)):
        raise ValueError(
            f"optimizer_args base: SAM takes the name of an optimizer that steps by one gradient at one set of weights (SGD, "
            f"AdamW, Lion, MuonAdamW ...), got {base!r}"
        )
    if not isinstance(base_args, Mapping):
        raise TypeError(f"optimizer_args base_args are arguments of {base} by name, got {base_args!r}")
    check_optimizer(base, lr, weight_decay, dict(base_args))


def _sam_parts(arguments: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the name of SAM's base, the base's arguments, and SAM's own."""
    own = {"rho": arguments["rho"]} if "rho" in arguments else {}
    return arguments.get("base", "SGD"), arguments.get("base_args") or {}, own


def try_optimizer(
    net: nn.Module,
    name: str,
    lr: float,
    weight_decay: float,
    arguments: dict[str, Any],
    decay_norm_and_bias: bool,
    layer_decay: float = 1.0,
    others: Mapping[str, nn.Module | nn.Parameter] | None = None,
) -> None:
    """Take one step with an optimizer of torch's or the zoo's, to see when a task is built that it can train the net.

    The step is made on the CPU, wherever the net is: its gradients are zero, and in each parameter group a small tensor stands for
    the parameters of the same number of dimensions and type. An optimizer of your own, named by a dotted path, is not tried.

    Args:
        As of :func:`build_optimizer`.

    Raises:
        ValueError: The optimizer refuses an argument, the groups or a parameter.
    """
    if name == "SAM":
        base, base_args, _ = _sam_parts(arguments)
        try_optimizer(net, base, lr, weight_decay, base_args, decay_norm_and_bias, layer_decay, others)
        if _sparse_parameters(net, others):
            raise ValueError(
                f"optimizer SAM cannot train {type(net).__name__}: its embeddings give sparse gradients; build them "
                "with sparse=False"
            )
        return
    cls = optimizer_class(name)
    if cls.__module__.partition(".")[0] not in ("torch", "zoo", "schedulefree"):
        return
    arguments = {**arguments}
    groups = _groups_for(cls, net, lr, weight_decay, decay_norm_and_bias, layer_decay, others)
    sparse = {id(p) for p in _sparse_parameters(net, others)}
    with torch.device("cpu"):
        small = [_small(group, sparse) for group in groups]
        optimizer = _build(name, small, lr, {}, arguments)  # checks all of its arguments
        if kernels := [argument for argument in _DEVICE_ARGUMENTS if argument in arguments]:
            arguments = {k: v for k, v in arguments.items() if k not in kernels}
            optimizer = _build(name, [_small(group, sparse) for group in groups], lr, {}, arguments)
        try:
            with no_capture_checks():  # a process that is forked afterwards could not use CUDA
                optimizer.step(lambda: torch.zeros(()))  # type: ignore[arg-type, return-value]
            averaged_weights([optimizer])
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"optimizer {name} cannot train {type(net).__name__}: {reason}{CURES.get(name, '')}"
            ) from error


def _small(group: dict[str, Any], sparse: set[int]) -> dict[str, Any]:
    """Return a parameter group with a small tensor for each number of dimensions, type and kind of gradient that it has."""
    kinds = {(p.ndim, p.dtype, id(p) in sparse) for p in group["params"] if not isinstance(p, UninitializedParameter)}
    tensors = []
    for ndim, dtype, is_sparse in sorted(kinds, key=str):
        tensors.append(parameter := nn.Parameter(torch.zeros((2,) * ndim, dtype=dtype)))
        parameter.grad = torch.zeros_like(parameter).to_sparse() if is_sparse else torch.zeros_like(parameter)
    rows = {"rows": [[2]] * len(tensors)} if "rows" in group else {}
    return {**group, "params": tensors, **rows}


def parameter_groups(
    net: nn.Module,
    lr: float,
    weight_decay: float,
    decay_norm_and_bias: bool,
    layer_decay: float = 1.0,
    others: Mapping[str, nn.Module | nn.Parameter] | None = None,
    matrices: bool = False,
) -> list[dict[str, Any]]:
    """Return the named parameter groups of a net.

    Norms, biases (parameters of one dimension or none), embeddings, tied ones included, and what a module names in its
    ``no_weight_decay()`` (timm's position embeddings) get no weight decay unless ``decay_norm_and_bias`` is set. A tied
    parameter is in the group of the last layer that has it.

    Args:
        net: Net whose parameters are grouped, frozen ones included.
        lr: Learning rate of the head and of ``others``.
        weight_decay: Weight decay of weights.
        decay_norm_and_bias: Whether norms, biases and embeddings have it too.
        layer_decay: Factor from the learning rate of a layer group to that of the one below it, in (0, 1].
        others: Further trained parts beside the net, by name.
        matrices: Whether the matrices of hidden layers have groups of their own, as :class:`MuonAdamW` takes them: see
            :func:`hidden_matrices`.

    Returns:
        One group "all", or "decay" and "no_decay" where the difference matters; with ``layer_decay`` those of each layer group,
        from the input to the head: "0/decay", "0/no_decay", "1/decay" ..., each with its ``lr``. With ``matrices`` such a group is
        split into the matrices, "all/matrices", with their ``rows``, and the rest, "all".
    """
    if matrices:
        groups = parameter_groups(net, lr, weight_decay, decay_norm_and_bias, layer_decay, others)
        return _by_matrices(groups, hidden_matrices(net))
    parts = {"": net, **(others or {})}
    modules = [module for part in parts.values() if isinstance(part, nn.Module) for module in part.modules()]
    embeddings = {id(p) for m in modules if isinstance(m, nn.Embedding | nn.EmbeddingBag) for p in m.parameters()}
    embeddings |= {id(p) for module in modules for p in _without_decay(module)}
    extra = [list(p.parameters()) if isinstance(p, nn.Module) else [p] for p in (others or {}).values()]
    if layer_decay == 1:
        everything = _unique([list(net.parameters()), *extra])
        return _by_decay("", [p for part in everything for p in part], weight_decay, decay_norm_and_bias, embeddings)
    layers = [parameters_of(net, names) for names in layer_groups(net)]
    named = []
    for i, parameters in enumerate(_unique([*layers, *extra])):
        rate = lr * layer_decay ** max(0, len(layers) - 1 - i)
        groups = _by_decay(f"{i}/", parameters, weight_decay, decay_norm_and_bias, embeddings)
        named += [{**group, "lr": rate} for group in groups if group["params"]]  # all may be tied to a layer above
    return named


def hidden_matrices(net: nn.Module) -> dict[int, list[int]]:
    """Return, by the ``id`` of the parameter, the rows of each matrix that a parameter of a hidden layer stacks.

    Those are the weights of linear, attention and recurrent layers of the net, but neither embeddings nor what is in the head (the
    last of :func:`zoo.blocks.layers.layer_groups`), nor a weight that is tied to one of these.
    """
    found: dict[int, list[int]] = {}
    excluded = {id(p) for p in parameters_of(net, layer_groups(net)[-1])}
    for module in net.modules():
        for parameter, layers in weights_of(module):
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                excluded.add(id(parameter))
            elif parameter.ndim == 2:
                found[id(parameter)] = [len(layer) for layer in layers]
    return {key: rows for key, rows in found.items() if key not in excluded}


def _by_matrices(groups: list[dict[str, Any]], rows: dict[int, list[int]]) -> list[dict[str, Any]]:
    """Split each group into the matrices of hidden layers and the rest."""
    split = []
    for group in groups:
        inside = [p for p in group["params"] if id(p) in rows]
        rest = [p for p in group["params"] if id(p) not in rows]
        named = {"name": f"{group['name']}/matrices", "params": inside, "rows": [rows[id(p)] for p in inside]}
        split += [{**group, **named}, {**group, "params": rest}]
    return [group for group in split if group["params"]]


def _without_decay(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a module says should have no weight decay, as the nets of timm and others do."""
    names = getattr(module, "no_weight_decay", None)
    own = dict(module.named_parameters()) if callable(names) else {}
    return [own[name] for name in (names() if callable(names) else ()) if name in own]


def _unique(layers: list[list[nn.Parameter]]) -> list[list[nn.Parameter]]:
    """Keep each parameter once: a tied one in the last layer that has it."""
    last = {id(p): i for i, parameters in enumerate(layers) for p in parameters}
    return [list({id(p): p for p in parameters if last[id(p)] == i}.values()) for i, parameters in enumerate(layers)]


def _by_decay(
    prefix: str,
    parameters: Iterable[nn.Parameter],
    weight_decay: float,
    decay_norm_and_bias: bool,
    embeddings: set[int],
) -> list[dict[str, Any]]:
    parameters = list(parameters)
    if not weight_decay or decay_norm_and_bias:
        return [{"name": f"{prefix}all", "params": parameters, "weight_decay": weight_decay}]
    decays = [p.ndim > 1 and id(p) not in embeddings for p in parameters]
    kept = [p for p, d in zip(parameters, decays, strict=True) if d]
    rest = [p for p, d in zip(parameters, decays, strict=True) if not d]
    groups = [
        {"name": f"{prefix}decay", "params": kept, "weight_decay": weight_decay},
        {"name": f"{prefix}no_decay", "params": rest, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    net: nn.Module,
    name: str,
    lr: float,
    weight_decay: float,
    arguments: dict[str, Any],
    decay_norm_and_bias: bool,
    layer_decay: float = 1.0,
    others: Mapping[str, nn.Module | nn.Parameter] | None = None,
    fused: bool = True,
) -> Optimizer:
    """Build an optimizer by name, over the groups of :func:`parameter_groups`.

    SGD, Adam, AdamW and Adagrad step with torch's fused kernel where it has one for the parameters (as they are now: on their
    device, of their type), unless ``fused`` is False or the arguments name ``fused``, ``foreach`` or ``differentiable``. A state
    that is loaded brings its kernel along.
    """
    if name == "SAM":
        base, base_args, own = _sam_parts(arguments)
        rest = (decay_norm_and_bias, layer_decay, others, fused)
        return SAM(build_optimizer(net, base, lr, weight_decay, base_args, *rest), **own)
    cls = optimizer_class(name)
    groups = _groups_for(cls, net, lr, weight_decay, decay_norm_and_bias, layer_decay, others)
    chosen = not fused or any(kernel in arguments for kernel in KERNELS)
    parameters = [p for group in groups for p in group["params"]]
    if not chosen and not _sparse_parameters(net, others) and can_fuse(cls, parameters, arguments):
        arguments = {**arguments, "fused": True}
    optimizer = _build(name, groups, lr, {}, arguments)
    if cls in FUSED:
        guard(optimizer)
    return optimizer


def _groups_for(
    cls: type[Optimizer],
    net: nn.Module,
    lr: float,
    weight_decay: float,
    decay_norm_and_bias: bool,
    layer_decay: float,
    others: Mapping[str, nn.Module | nn.Parameter] | None,
) -> list[dict[str, Any]]:
    """Return the parameter groups of a net as an optimizer takes them."""
    matrices = issubclass(cls, MuonAdamW)
    groups = parameter_groups(net, lr, weight_decay, decay_norm_and_bias, layer_decay, others, matrices)
    if "weight_decay" not in inspect.signature(cls).parameters:
        for group in groups:
            del group["weight_decay"]
    return groups


def _sparse_parameters(net: nn.Module, others: Mapping[str, nn.Module | nn.Parameter] | None) -> list[Tensor]:
    """Return the weights of embeddings that give sparse gradients, which no fused kernel takes."""
    modules = [m for part in (net, *(others or {}).values()) if isinstance(part, nn.Module) for m in part.modules()]
    return [m.weight for m in modules if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse]


def _build(
    name: str, groups: list[dict[str, Any]], lr: float, decay: dict[str, Any], arguments: dict[str, Any]
) -> Optimizer:
    """Build an optimizer.

    Raises:
        ValueError: It refuses an argument; the message names the optimizer and its arguments.
    """
    try:
        optimizer: Any = optimizer_class(name)(groups, lr=lr, **decay, **arguments)  # type: ignore[call-arg]
        if is_schedule_free(optimizer):
            optimizer.train()
        return optimizer
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"optimizer {name} cannot work with optimizer_args {arguments}: {error}{CURES.get(name, '')}"
        ) from error

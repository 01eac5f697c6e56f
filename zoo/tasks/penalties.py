"""Penalties: terms that a task adds to its training loss, of weights and of activations."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo.optim.optimizers import parameter_groups
from zoo.spelling import suggest

PENALTIES = ("l1", "l2", "orthogonal", "activity_l1", "activity_l2")
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


class Penalties:
    """The penalties of a net, each a factor times a sum.

    - "l1": the absolute values of the weights. "l2": half their squares, so that under SGD it is weight decay. Weights are what
      weight decay acts on: no norms, biases, embeddings, and nothing that is frozen.
    - "orthogonal": ``||W' W - I||^2`` (Frobenius) of the recurrent matrix W of each gate of torch's recurrent layers, so that
      states neither grow nor vanish (Vorontsov et al. 2017, arXiv:1702.00071).
    - "activity_l1", "activity_l2": absolute values, or half the squares, of the outputs of named layers, summed over a batch and
      divided by what its loss is a mean over: examples, tokens or pixels (Glorot et al. 2011, "Deep Sparse Rectifier Neural
      Networks"). An example of weight 0 adds nothing, nor does a batch in which nothing counts; steps of padding do.

    Args:
        net: The net, of which names are kept only.
        given: Name of a penalty -> its factor >= 0, or ``{"weight": factor, "layers": names}`` for some layers alone, named as
            in ``net.named_modules()``. Penalties of activity want their layers named.

    Raises:
        ValueError: No such penalty or layer, a factor out of its range, or layers that have nothing to penalize.
        TypeError: A value of another type.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
        >>> Penalties(net, {"l1": 0.1, "activity_l1": {"weight": 0.01, "layers": "1"}}).factors
        {'l1': 0.1, 'activity_l1': 0.01}
    """

    def __init__(self, net: nn.Module, given: Mapping[str, Any] | None) -> None:
        self.factors: dict[str, float] = {}
        self.layers: dict[str, list[str] | None] = {}  # None: the whole net
        self._outputs: dict[str, list[Tensor]] = {}
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"penalties are factors by name, such as {{'l2': 1e-4}}, got {given!r}")
        for name, value in (given or {}).items():
            if name not in PENALTIES:
                raise ValueError(f"penalties has no {name!r}{suggest(name, PENALTIES)}; known: {', '.join(PENALTIES)}")
            factor, layers = _parts(name, value)
            self.factors[name] = factor
            self.layers[name] = layers
            self._check(net, name, layers)

    def _check(self, net: nn.Module, name: str, layers: list[str] | None) -> None:
        known = [layer for layer, _ in net.named_modules() if layer]
        for layer in layers or []:
            if layer not in known:
                raise ValueError(
                    f"penalties {name}: {type(net).__name__} has no layer {layer!r}{suggest(layer, known)}; the first are "
                    f"{', '.join(known[:5])}"
                )
        if name.startswith("activity"):
            if not layers:
                first = known[0] if known else ""
                raise ValueError(
                    f"penalties {name} wants the layers whose outputs count: {{weight: 1e-4, layers: [{first}]}}"
                )
        elif not (_recurrent_matrices(net, layers) if name == "orthogonal" else _weights(net, layers)):
            what = "recurrent matrix (nn.RNN, nn.LSTM, nn.GRU)" if name == "orthogonal" else "weight that decays"
            where = (
                f"layers {', '.join(layers)} of {type(net).__name__} have" if layers else f"{type(net).__name__} has"
            )
            raise ValueError(f"penalties {name}: {where} no {what}: leave it out or name other layers")

    @contextmanager
    def watching(self, net: nn.Module) -> Iterator[None]:
        """Keep the outputs of the layers whose activity is penalized, for :meth:`terms`."""
        self._outputs = {name: [] for name in self.factors if name.startswith("activity")}
        handles = [
            net.get_submodule(layer).register_forward_hook(_keeper(kept))
            for name, kept in self._outputs.items()
            for layer in self.layers[name] or []
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def terms(self, net: nn.Module, batch: Any, count: int | float | Tensor) -> dict[str, Tensor]:
        """Return each penalty, times its factor, as a term of the mean loss of a batch; 0 where nothing of the batch counts.

        Args:
            net: The net.
            batch: The batch that the net has seen under :meth:`watching`.
            count: What its loss is a mean over.
        """
        if not self.factors:
            return {}
        outputs, self._outputs = self._outputs, {}
        found = {}
        with torch.autocast(next(net.parameters()).device.type, enabled=False):  # sums of many numbers
            for name, factor in self.factors.items():
                if name.startswith("activity"):
                    total = _total([_size(name, output, batch) for output in outputs[name]], net)
                    value = total / (
                        count.clamp(min=torch.finfo(torch.float32).tiny) if isinstance(count, Tensor) else count or 1
                    )
                elif name == "orthogonal":
                    value = _total([_from_orthogonal(w) for w in _recurrent_matrices(net, self.layers[name])], net)
                else:
                    weights = [_exact(w) for w in _weights(net, self.layers[name])]
                    value = _total([w.abs().sum() if name == "l1" else w.square().sum() / 2 for w in weights], net)
                counts: Any = (count > 0).to(value.dtype) if isinstance(count, Tensor) else float(count > 0)
                found[name] = factor * value * counts
        return found


def _parts(name: str, value: Any) -> tuple[float, list[str] | None]:
    """Return factor and layers of a penalty as it is given."""
    layers = None
    if isinstance(value, Mapping):
        if unknown := [key for key in value if key not in ("weight", "layers")]:
            raise ValueError(f"penalties {name} takes weight and layers, got {unknown[0]!r}")
        if "weight" not in value:
            raise ValueError(f"penalties {name} has layers and no weight: {{weight: 1e-4, layers: [...]}}")
        layers, value = value.get("layers"), value["weight"]
        layers = [layers] if isinstance(layers, str) else layers
        if layers is not None and not (isinstance(layers, list | tuple) and all(isinstance(x, str) for x in layers)):
            raise TypeError(f"penalties {name}: layers is a name or a list of names, got {layers!r}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"penalties {name} is a number, or {{weight: number, layers: names}}, got {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"penalties {name} must be 0 or above, got {value}")
    return float(value), list(layers) if layers else None


def _weights(net: nn.Module, layers: list[str] | None) -> list[Tensor]:
    """Return the trained weights that weight decay acts on, each once."""
    groups = parameter_groups(net, 1.0, 1.0, decay_norm_and_bias=False)
    decaying = [p for group in groups if group["name"] == "decay" for p in group["params"] if p.requires_grad]
    if layers is None:
        return decaying
    inside = {id(p) for layer in layers for p in net.get_submodule(layer).parameters()}
    return [p for p in decaying if id(p) in inside]


def _recurrent_matrices(net: nn.Module, layers: list[str] | None) -> list[Tensor]:
    """Return the trained recurrent matrix of each gate: ``(W, W)``."""
    parts = [net] if layers is None else [net.get_submodule(layer) for layer in layers]
    found = {
        id(p): (p, module.hidden_size)
        for part in parts
        for module in part.modules()
        if isinstance(module, _RECURRENT)
        for name, p in module.named_parameters()
        if name.startswith("weight_hh") and p.requires_grad
    }
    return [gate for matrices, width in found.values() for gate in matrices.split(int(width))]


def _from_orthogonal(w: Tensor) -> Tensor:
    w = _exact(w)
    return (w.mT @ w - torch.eye(w.shape[1], dtype=w.dtype, device=w.device)).square().sum()


def _size(name: str, output: Tensor, batch: Any) -> Tensor:
    """Return the sum over an output ``(B, ...)`` of the examples that count."""
    output = _exact(output)
    sizes = output.abs() if name == "activity_l1" else output.square() / 2
    if type(batch) not in (tuple, list) or len(batch) < 3:
        return sizes.sum()
    weight = batch[2] if batch[2].ndim == 1 else (batch[2].flatten(1) > 0).any(dim=1)
    if len(weight) != len(sizes):
        raise ValueError(
            f"penalties {name}: a layer's output is {list(output.shape)}, so it is not known which of the {len(weight)} weighted "
            "examples is which: name a layer whose output has a row an example"
        )
    return (sizes.flatten(1).sum(dim=1) * weight if sizes.ndim > 1 else sizes * weight).sum()


def _keeper(kept: list[Tensor]) -> Any:
    def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple | list) else output)

    return hook


def _total(values: list[Tensor], net: nn.Module) -> Tensor:
    return torch.stack(values).sum() if values else _exact(next(net.parameters())).new_zeros(())


def _exact(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values

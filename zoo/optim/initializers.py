"""Initialization by name."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.blocks.attention import MultiHeadAttention
from zoo.blocks.kernels import kernel
from zoo.internals import CONVOLUTIONS
from zoo.spelling import suggest


def _lecun_normal(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="linear")


def _lecun_uniform(weight: Tensor) -> None:
    nn.init.kaiming_uniform_(weight, nonlinearity="linear")


def _kaiming_normal(weight: Tensor, mode: str = "fan_in", nonlinearity: str = "relu") -> None:
    nn.init.kaiming_normal_(weight, mode=mode, nonlinearity=nonlinearity)  # type: ignore[arg-type]


def _kaiming_uniform(weight: Tensor, mode: str = "fan_in", nonlinearity: str = "relu") -> None:
    nn.init.kaiming_uniform_(weight, mode=mode, nonlinearity=nonlinearity)  # type: ignore[arg-type]


def _gaussian(weight: Tensor, std: float = 0.01) -> None:
    nn.init.normal_(weight, std=std)


def _constant(weight: Tensor, value: float = 0.0) -> None:
    nn.init.constant_(weight, value)


def _orthogonal(weight: Tensor, gain: float = 1.0) -> None:
    nn.init.orthogonal_(weight, gain)


_DRAWS: dict[str, Callable[..., Any]] = {
    "xavier_normal": nn.init.xavier_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "lecun_normal": _lecun_normal,
    "lecun_uniform": _lecun_uniform,
    "kaiming_normal": _kaiming_normal,
    "kaiming_uniform": _kaiming_uniform,
    "orthogonal": _orthogonal,
    "gaussian": _gaussian,
    "constant": _constant,
}
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def initialize(net: nn.Module, name: str, arguments: dict[str, Any] | None = None) -> None:
    """Draw new weights for the linear, convolution, attention, recurrent and embedding layers of a net.

    Biases become 0; norms and the parameters of other modules stay as they are. Where a module stacks several layers in one
    matrix, each is drawn as a layer of its own: queries, keys and values of an attention; the gates of a recurrent layer, its
    input and its recurrent matrices. A bilinear layer is a linear one over the n_in products of its inputs. An embedding is drawn
    as the linear layer that shares its matrix with it: n_in is its number of columns; its padding row becomes 0. A matrix that
    several modules share is drawn once.

    Args:
        net: Changed in place.
        name: Variance of a weight, n_in and n_out being the layer's fans:
            "xavier_normal", "xavier_uniform": 2 / (n_in + n_out) (Glorot and Bengio 2010, eq. 16); ``gain``.
            "lecun_normal", "lecun_uniform": 1 / n_in, the other "Xavier" (LeCun et al. 1998, "Efficient BackProp", eq. 16).
            "kaiming_normal", "kaiming_uniform": 2 / n_in (He et al. 2015, arXiv:1502.01852); ``mode``, ``nonlinearity``.
            "orthogonal": rows (or columns) orthonormal (Saxe et al. 2014, arXiv:1312.6120); ``gain``.
            "gaussian": ``std`` ** 2, 0.01 ** 2 by default.
            "constant": all weights ``value``, 0 by default; it shows that units which start equal stay equal.
            "kernels": the first convolution gets hand-crafted kernels, ``names`` in turn (see :func:`zoo.blocks.kernel`), the
            same for each image channel and averaged over them; all other layers stay as they are.
            "recurrent": the recurrent matrix of each gate is orthogonal (Saxe et al. 2014), so that states neither grow nor vanish
            at the start, and an LSTM's forget gates begin open (Jozefowicz et al. 2015, "An Empirical Exploration of Recurrent
            Network Architectures", section 2.2): their bias, the sum of torch's two, is ``forget_bias``, 1 by default. Input
            matrices and all other layers as "xavier_uniform".
        arguments: The arguments named above.

    Raises:
        ValueError: An unknown name, kernels for a net that has no convolution they fit, or "recurrent" for one without recurrent
            layers.
        TypeError: An argument that the initialization does not have.
    """
    arguments = arguments or {}
    check_init(name, arguments)
    if name in _WHOLE:
        _WHOLE[name](net, **arguments)
        return
    drawn: set[int] = set()
    for module in net.modules():
        for parameter, layers in weights_of(module):
            if id(parameter) not in drawn:
                drawn.add(id(parameter))
                for weight in layers:
                    _DRAWS[name](weight, **arguments)
        for bias in _biases(module):
            nn.init.zeros_(bias)
    for module in net.modules():  # after all draws: another module may share the matrix
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None:
            nn.init.zeros_(module.weight.detach()[module.padding_idx])


def weights_of(module: nn.Module) -> Iterator[tuple[Tensor, Sequence[Tensor]]]:
    """Yield the weights that a module has itself, not in its children, each with the layers that it stacks."""
    own: Any = module
    if isinstance(module, (nn.Linear, CONVOLUTIONS, nn.Embedding, nn.EmbeddingBag)):
        yield own.weight, [own.weight]
    elif isinstance(module, nn.Bilinear):
        yield own.weight, [own.weight.detach().flatten(1)]  # (out, in1, in2) -> (out, in1 in2)
    elif isinstance(module, (MultiHeadAttention, nn.MultiheadAttention)):
        if own.in_proj_weight is not None:
            sizes = own.sizes if isinstance(own, MultiHeadAttention) else len(own.in_proj_weight) // 3
            yield own.in_proj_weight, own.in_proj_weight.detach().split(sizes)  # queries, keys, values
        else:  # keys and values of other widths
            for weight in (own.q_proj_weight, own.k_proj_weight, own.v_proj_weight):
                yield weight, [weight]
    elif isinstance(module, _RECURRENT):
        for name, weight in module.named_parameters(recurse=False):
            if name.startswith("weight"):  # one matrix a gate; the projection of an LSTM's state has fewer rows
                yield weight, weight.detach().split(own.hidden_size)


def _biases(module: nn.Module) -> list[Tensor]:
    """Return the biases of the layers of :func:`weights_of`."""
    own: Any = module
    if isinstance(module, _RECURRENT):
        return [p for name, p in module.named_parameters(recurse=False) if name.startswith("bias")]
    bias = None
    if isinstance(module, (MultiHeadAttention, nn.MultiheadAttention)):
        bias = own.in_proj_bias
    elif isinstance(module, (nn.Linear, CONVOLUTIONS, nn.Bilinear)):
        bias = own.bias
    return [] if bias is None else [bias]


def check_init(name: str, arguments: dict[str, Any]) -> None:
    """Check the arguments of :func:`initialize`.

    Raises:
        ValueError: An unknown name.
        TypeError: An argument that the initialization does not have.
    """
    if name not in KNOWN:
        raise ValueError(f"unknown init {name!r}{suggest(name, KNOWN)}; known: {', '.join(KNOWN)}")
    known = list(inspect.signature(_WHOLE[name] if name in _WHOLE else _DRAWS[name]).parameters)[1:]
    for argument in arguments:
        if argument not in known or argument == "generator":
            raise TypeError(f"init {name!r} has no argument {argument!r}{suggest(argument, known)}")


@torch.no_grad()
def _set_kernels(net: nn.Module, names: list[str] | None = None) -> None:
    names = ["sobel_x", "sobel_y", "laplacian", "sharpen", "gaussian", "box"] if names is None else names
    first = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.kernel_size[0] != first.kernel_size[1]:
        raise ValueError(
            f"init 'kernels' is for a net that begins with a square convolution, got {type(net).__name__}: take another init"
        )
    if not names:
        raise ValueError("init 'kernels' takes at least one name of a kernel, got none: leave names out for all six")
    for i, weight in enumerate(first.weight):  # (in_channels, k, k)
        weight.copy_(kernel(names[i % len(names)], weight.shape[-1]) / weight.shape[0])
    if first.bias is not None:
        nn.init.zeros_(first.bias)


@torch.no_grad()
def _set_recurrent(net: nn.Module, forget_bias: float = 1.0) -> None:
    layers: list[Any] = [module for module in net.modules() if isinstance(module, _RECURRENT)]
    if not layers:
        raise ValueError(
            f"init 'recurrent' is for a net with recurrent layers, got {type(net).__name__}: take another init"
        )
    initialize(net, "xavier_uniform")
    for layer in layers:
        width = layer.hidden_size
        for name, parameter in layer.named_parameters(recurse=False):
            if name.startswith("weight_hh"):
                for gate in parameter.split(width):
                    nn.init.orthogonal_(gate)
            elif name.startswith("bias_ih") and isinstance(layer, (nn.LSTM, nn.LSTMCell)):
                parameter[width : 2 * width] = forget_bias  # torch's order: input, forget, cell, output


_WHOLE: dict[str, Callable[..., None]] = {"kernels": _set_kernels, "recurrent": _set_recurrent}
KNOWN = (*_DRAWS, *_WHOLE)

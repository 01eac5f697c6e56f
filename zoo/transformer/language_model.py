"""Transformer language models: GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners") and Llama
(Touvron et al. 2023, arXiv:2302.13971), two settings of one net.

Deviations: none of GPT-2. Rotary positions pair features as the Llama files of the Hugging Face hub do, see
:class:`zoo.blocks.RotaryPositions`. The Llama paper does not tell how weights are drawn: here as in GPT-2.
"""

import math
from typing import Any, Literal, Unpack

from torch import Tensor, nn

from zoo.blocks import MultiHeadAttention, TransformerLayer, build_token_norm, hidden_size, reorder_rows
from zoo.blocks.positions import build_positions
from zoo.registry import register
from zoo.tasks import LanguageModelTask, TaskArguments

STD = 0.02  # of fresh weights (GPT-2's code)


class TransformerLM(nn.Module):
    """Embedded tokens with their positions, layers of causal self-attention, a norm, and the logits of the next token.

    Each layer normalizes what it reads, x + part(norm(x)). Weights are drawn as in GPT-2: normal with a deviation of 0.02, in
    the matrix that ends a part of a layer divided by sqrt(2 ``num_layers``), so that the sum of all parts does not grow with them.

    Args:
        vocab_size: Size V of the vocabulary.
        width: Width D of a token.
        num_layers: Number of layers.
        num_heads: Number of heads of each attention, a divisor of the width.
        num_kv_heads: Number of heads of keys and values, which those of queries share in groups; None: as many.
        hidden_dim: Number of hidden units of the feed-forward nets; None: 4 D, of "swiglu" 8 / 3 D.
        max_length: Largest number of tokens that are read. "learned" positions have a vector for each and need it; for the others
            None sets no limit: they read on beyond the lengths of the training, but what they predict there gets worse.
        positions: "learned", "sinusoidal" (added to embeddings that are multiplied by sqrt(D), as in Vaswani et al. 2017), or
            "rotary" (queries and keys are turned), see :mod:`zoo.blocks.positions`.
        norm: "layer" or "rms", see :class:`zoo.blocks.TransformerLayer`.
        feed_forward: "relu", "gelu", "gelu_tanh", "swiglu" or "relu2", see :class:`zoo.blocks.TransformerLayer`.
        qk_norm: Whether queries and keys are normalized, see :class:`zoo.blocks.MultiHeadAttention`.
        tied: Whether the weights of the output are those of the embedding: they are one parameter.
        bias: Whether linear maps and layer norms have a bias; the output has none.
        dropout: Probability in [0, 1) of dropping a value of the embedded tokens, of the output of each part of a layer, or an
            attention weight, in training.
        norm_eps: Added to the variance, or to the mean square, by the norms.
        rotary_base: Ratio of the longest wavelength of "rotary" positions to the shortest.

    Shape:
        int64 ``(B, T)`` -> logits ``(B, T, V)``.

    Raises:
        ValueError: An argument out of its range, or more tokens than ``max_length``.

    Example:
        >>> import torch
        >>> net = TransformerLM(vocab_size=11, width=8, num_layers=2, num_heads=2)
        >>> net(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 11])
    """

    head_name = "fc"
    layers: Any

    def __init__(
        self,
        vocab_size: int = 256,
        width: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        hidden_dim: int | None = None,
        max_length: int | None = 1024,
        positions: Literal["learned", "sinusoidal", "rotary"] = "learned",
        norm: Literal["layer", "rms"] = "layer",
        feed_forward: Literal["relu", "gelu", "gelu_tanh", "swiglu", "relu2"] = "gelu",
        qk_norm: bool = False,
        tied: bool = True,
        bias: bool = True,
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        rotary_base: float = 10000.0,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers must be 1 or more, got {num_layers}")
        self.vocab_size, self.max_length = vocab_size, max_length
        self.embedding = nn.Embedding(vocab_size, width)
        self.scale = math.sqrt(width) if positions == "sinusoidal" else 1.0
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(
                width,
                num_heads,
                hidden_size(width, feed_forward, hidden_dim),
                dropout=dropout,
                attention_dropout=dropout,
                norm=norm,
                norm_first=True,
                feed_forward=feed_forward,
                num_kv_heads=num_kv_heads,
                qk_norm=qk_norm,
                bias=bias,
                norm_eps=norm_eps,
            )
            for _ in range(num_layers)
        )
        self.positions = build_positions(positions, width, num_heads, max_length, rotary_base)
        self.norm = build_token_norm(norm, width, norm_eps, bias)
        self.fc = nn.Linear(width, vocab_size, bias=False)
        self._draw(num_layers)
        if tied:
            self.fc.weight = self.embedding.weight

    def _draw(self, num_layers: int) -> None:
        for name, part in self.named_modules():
            std = STD / math.sqrt(2 * num_layers) if name.endswith(("out_proj", "linear2")) else STD
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=std)
            elif isinstance(part, MultiHeadAttention):
                nn.init.normal_(part.in_proj_weight, std=std)
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> Tensor:
        x, angles = self._embed(x, 0)
        for layer in self.layers:
            x = layer(x, causal=True, rotary=angles)
        return self.fc(self.norm(x))

    def attention_weights(self, x: Tensor) -> list[Tensor]:
        """Return the weights with which each token attends to itself and to those before it, ``(B, heads, T, T)`` of each layer."""
        x, angles = self._embed(x, 0)
        found = []
        for layer in self.layers:
            x, weights = layer.with_weights(x, causal=True, rotary=angles)
            found.append(weights["self"])
        return found

    def init_state(self, batch_size: int) -> list[Any]:
        """Return the state before the first token: of each layer, no keys and values."""
        return [layer.init_state(batch_size) for layer in self.layers]

    def step(self, x_t: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        """Read one token of each text, ``(B,)``; return the logits of the next, ``(B, V)``, and the new state."""
        x, state = self._go_on(x_t[:, None], state)
        return self.fc(x[:, 0]), state

    def prefill(self, tokens: Tensor, state: list[Any]) -> list[Any]:
        """Read several tokens of each text at once, ``(B, T)``: the state after as many steps."""
        return self._go_on(tokens, state)[1]

    def reorder_state(self, state: list[Any], index: Tensor) -> Any:
        """Return the state of other texts: those at ``index``, int64 ``(N,)``."""
        return reorder_rows(state, index)

    def layer_groups(self) -> list[list[str]]:
        """Return the embedding, each layer, and the last norm with the output."""
        layers = [[f"layers.{i}"] for i in range(len(self.layers))]
        return [["embedding", "positions", "dropout"], *layers, ["norm", "fc"]]

    def _embed(self, tokens: Tensor, start: int) -> tuple[Tensor, Any]:
        """Tokens from the position ``start`` on: vectors ``(B, T, D)``, and angles for rotary positions."""
        x, angles = self.positions(self.embedding(tokens) * self.scale, start)
        return self.dropout(x), angles

    def _go_on(self, tokens: Tensor, state: list[Any]) -> tuple[Tensor, list[Any]]:
        """The output of the last norm for the next tokens, ``(B, T, D)``, and the state after them."""
        x, angles = self._embed(tokens, state[0].tokens.keys.shape[2])
        after = []
        for layer, before in zip(self.layers, state, strict=True):
            x, kept = layer.step(x, before, angles)
            after.append(kept)
        return self.norm(x), after


class TransformerLanguageModel(LanguageModelTask):
    """:class:`TransformerLM`, trained to predict the next token. Arguments: those of the net, then ``**task``."""

    net: TransformerLM

    def __init__(
        self,
        vocab_size: int = 256,
        width: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        hidden_dim: int | None = None,
        max_length: int | None = 1024,
        positions: Literal["learned", "sinusoidal", "rotary"] = "learned",
        norm: Literal["layer", "rms"] = "layer",
        feed_forward: Literal["relu", "gelu", "gelu_tanh", "swiglu", "relu2"] = "gelu",
        qk_norm: bool = False,
        tied: bool = True,
        bias: bool = True,
        dropout: float = 0.0,
        norm_eps: float = 1e-5,
        rotary_base: float = 10000.0,
        **task: Unpack[TaskArguments],
    ) -> None:
        net = TransformerLM(
            vocab_size=vocab_size,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            hidden_dim=hidden_dim,
            max_length=max_length,
            positions=positions,
            norm=norm,
            feed_forward=feed_forward,
            qk_norm=qk_norm,
            tied=tied,
            bias=bias,
            dropout=dropout,
            norm_eps=norm_eps,
            rotary_base=rotary_base,
        )
        super().__init__(net, vocab_size, **task)


GPT2: dict[str, Any] = {
    "vocab_size": 50257,
    "max_length": 1024,
    "positions": "learned",
    "norm": "layer",
    "feed_forward": "gelu_tanh",
    "tied": True,
    "bias": True,
    "dropout": 0.1,
}
# table 2 of Radford et al. 2019, whose numbers of parameters are too low by the authors' own word; heads of 64
SIZES = {"gpt2": (12, 768), "gpt2_medium": (24, 1024), "gpt2_large": (36, 1280), "gpt2_xl": (48, 1600)}

register("transformer_lm", TransformerLanguageModel)
for _name, (_layers, _width) in SIZES.items():
    register(_name, TransformerLanguageModel, num_layers=_layers, width=_width, num_heads=_width // 64, **GPT2)
register(
    "llama_7b",
    TransformerLanguageModel,
    vocab_size=32000,
    width=4096,
    num_layers=32,
    num_heads=32,
    hidden_dim=11008,  # 8 / 3 of the width, up to the next multiple of 256 (the authors' code)
    max_length=None,
    positions="rotary",
    norm="rms",
    feed_forward="swiglu",
    tied=False,
    bias=False,
    norm_eps=1e-6,
)

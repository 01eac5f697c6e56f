"""Transformers: beam and greedy search with cached keys and values, the memory of these, and a training step beside torch.nn."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.decoding import compare
from benchmarks.harness import Row
from zoo.decoding import beam_search, greedy
from zoo.internals import tree_leaves
from zoo.transformer import Transformer

DEVICES = ("cpu",)
ROUNDS = 9
VOCABULARY, WIDTH, LAYERS, BEAM, SOURCE, LENGTH = 96, 256, 3, 4, 24, 64
PAD, END = 0, 1


def net_of(width: int = WIDTH, num_layers: int = LAYERS) -> Transformer:
    """A transformer whose weights are large, so that it does not say the same at each step."""
    torch.manual_seed(0)
    net = Transformer(VOCABULARY, VOCABULARY, PAD, width=width, num_layers=num_layers, dropout=0.0, norm_first=True)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("in_proj_weight"):
                p[: 2 * width] *= 8  # queries and keys: each token looks at few others
            elif name.endswith(("embedding.weight", "fc.weight")):
                p *= 2 if name.endswith("embedding.weight") else 6
    return net.eval()


def sources_of(count: int, length: int = SOURCE) -> Tensor:
    """Sources of several lengths, with their end."""
    g = torch.Generator().manual_seed(0)
    source = torch.randint(2, VOCABULARY, (count, length), generator=g)
    for row, n in enumerate(torch.randint(length // 2, length + 1, (count,), generator=g).tolist()):
        source[row, n - 1], source[row, n:] = END, PAD
    return source


class TorchTwin(nn.Module):
    """The same net by layers of torch.nn: ``nn.Transformer`` between embeddings and a linear layer, with the weights of ours.

    Args:
        net: Ours, with the switches that torch.nn has: sinusoidal positions, layer norms, "relu" or "gelu".
    """

    def __init__(self, net: Transformer) -> None:
        super().__init__()
        layer: Any = net.encoder.layers[0]
        width, count = net.fc.in_features, len(net.encoder.layers)
        options = {"activation": layer.feed_forward, "norm_first": layer.norm_first, "batch_first": True}
        sizes = width, layer.self_attn.num_heads, layer.linear1.out_features, 0.0
        # the paper has no norm after the last layer, where each part has one
        norms = [nn.LayerNorm(width) if layer.norm_first else None for _ in range(2)]
        encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(*sizes, **options), count, norms[0], False)
        decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(*sizes, **options), count, norms[1])
        self.net: Any = nn.Transformer(width, batch_first=True, custom_encoder=encoder, custom_decoder=decoder)
        self.net.to(net.fc.weight.dtype)
        self.net.load_state_dict({k: v for k, v in net.state_dict().items() if ".layers." in k or ".norm." in k})
        self.source = nn.Embedding.from_pretrained(net.encoder.embedding.weight.detach().clone(), False, net.padding)
        self.target = nn.Embedding.from_pretrained(net.decoder.embedding.weight.detach().clone(), False, net.padding)
        self.fc = nn.Linear(width, net.fc.out_features, bias=False, dtype=net.fc.weight.dtype)
        self.fc.weight.data.copy_(net.fc.weight)
        self.padding, self.width = net.padding, width

    def embed(self, embedding: nn.Embedding, tokens: Tensor) -> Tensor:
        """Return embedded tokens with sinusoidal positions."""
        x = embedding(tokens) * self.width**0.5
        place = torch.arange(tokens.shape[1], dtype=x.dtype)[:, None]
        angles = place / 10000 ** (torch.arange(0, self.width, 2, dtype=x.dtype) / self.width)
        added = torch.zeros(tokens.shape[1], self.width, dtype=x.dtype)
        added[:, 0::2], added[:, 1::2] = angles.sin(), angles.cos()
        return x + added

    def forward(self, x: Any) -> Tensor:
        """Return the logits ``(B, T, V)``."""
        padded = x.source == self.padding
        source = self.embed(self.source, x.source)
        future = nn.Transformer.generate_square_subsequent_mask(x.target.shape[1], dtype=source.dtype)
        y = self.net(
            source,
            self.embed(self.target, x.target),
            tgt_mask=future,
            tgt_is_causal=True,
            src_key_padding_mask=padded,
            memory_key_padding_mask=padded,
        )
        return self.fc(y)


# Decoding without a cache -------------------------------------------------------------------------------------------------


class Recomputing:
    """The decoder without a cache: its state is all that was read, and each step reads it again; sources are read once."""

    def __init__(self, net: Transformer) -> None:
        self.net = net

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return no tokens, the encoded sources, and which of them are no padding."""
        real = self.net.encoder.real(source)
        assert real is not None
        memory = self.net.encoder.read(self.net.encoder.embed(source), real)
        return torch.zeros(len(source), 0, dtype=torch.long), memory, real[:, None, None]

    def step(
        self, tokens: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Read all tokens."""
        before, memory, mask = state
        tokens = torch.cat([before, tokens[:, None]], dim=1)
        return self.net.fc(self.net.decoder(tokens, memory, mask)[:, -1]), (tokens, memory, mask)


@torch.no_grad()
def beam_by_hand(net: Transformer, source: Tensor, beam: int, length: int) -> list[int]:
    """Beam search as one writes it first: sentence by sentence, lists of hypotheses, each read again at each step.

    Args:
        net: A transformer.
        source: One source, ``(S,)``, without padding.
        beam: Number of hypotheses.
        length: Largest number of tokens.

    Returns:
        The tokens of the best hypothesis by the mean of its log-probabilities, with its end.
    """
    memory = net.encoder(source[None])
    hypotheses: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    for t in range(length):
        longer = []
        for total, tokens in hypotheses:
            states = net.decoder(torch.tensor([[END, *tokens]]), memory, None)
            log_probs = net.fc(states[0, -1]).log_softmax(dim=0)
            values, choice = log_probs.topk(beam)
            longer += [(total + value, [*tokens, k]) for value, k in zip(values.tolist(), choice.tolist(), strict=True)]
        longer = sorted(longer, key=lambda pair: -pair[0])[:beam]
        finished += [(total / (t + 1), tokens) for total, tokens in longer if tokens[-1] == END]
        hypotheses = [pair for pair in longer if pair[1][-1] != END]
        best = max((total for total, _ in hypotheses), default=None)
        if best is None or (finished and best / length <= max(finished)[0]):  # none can pass the best any more
            break
    else:
        finished += [(total / length, tokens) for total, tokens in hypotheses]
    return max(finished)[1]


def rows_of(found: list[list[int]], length: int) -> Tensor:
    """Rows of tokens, padded."""
    return torch.tensor([[*row, *[PAD] * (length - len(row))] for row in found])


def by_hand(net: Transformer, sources: Tensor, length: int = LENGTH) -> Tensor:
    """The sentences of a batch, one after another."""
    return rows_of([beam_by_hand(net, row[row != PAD], BEAM, length) for row in sources], length)


def by_beam(net: Any, sources: Tensor, length: int = LENGTH) -> Tensor:
    """Ours, all sentences at once."""
    start = torch.full((len(sources),), END)
    with torch.no_grad():
        state = net.encode(sources)
    found = beam_search(net, state, start, length, beam=BEAM, end=END, padding=PAD).tokens[:, 0]
    return F.pad(found, (0, length - found.shape[1]), value=PAD)


def by_greedy(net: Any, sources: Tensor, length: int) -> Tensor:
    """Greedy search of a number of tokens."""
    start = torch.full((len(sources),), END)
    with torch.no_grad():
        state = net.encode(sources)
    return greedy(net, state, start, length).tokens


def bytes_of(net: Transformer, source: Tensor, length: int) -> int:
    """What the state holds after a number of tokens, beyond what it held before."""
    tokens = torch.full((len(source),), END)
    with torch.no_grad():
        state = net.encode(source)
        before = sum(x.numel() * x.element_size() for x in tree_leaves(state) if isinstance(x, Tensor))
        for _ in range(length):
            tokens, state = (lambda logits, after: (logits.argmax(dim=1), after))(*net.step(tokens, state))
    return sum(x.numel() * x.element_size() for x in tree_leaves(state) if isinstance(x, Tensor)) - before


def run(device: str = "cpu") -> list[Row]:
    """All rows of this benchmark."""
    torch.set_num_threads(1)
    net = net_of()
    name = f"transformer of {LAYERS}+{LAYERS} layers of {WIDTH}"
    rows = []
    for count, target in ((4, 14.0), (16, 20.0)):
        sources = sources_of(count)
        rows.append(
            compare(
                f"beam search of {BEAM}, {name}, {count} sentences, up to {LENGTH} tokens",
                partial(by_beam, net, sources),
                partial(by_hand, net, sources),
                "lists in Python, without a cache",
                target,
                3,
            )
        )
    return rows

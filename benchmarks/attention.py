"""Transformers: beam and greedy search with cached keys and values, the memory of these, and a training step beside torch.nn."""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.decoding import compare
from benchmarks.harness import Row, alternate, clock, peak_memory, ratio, spread
from zoo import TransformerSeq2Seq
from zoo.blocks import SentencePair
from zoo.decoding import beam_search, greedy
from zoo.internals import tree_leaves
from zoo.pretrained.language import renamed
from zoo.transformer import Transformer
from zoo.transformer.language_model import TransformerLM

DEVICES = ("cpu",)
ROUNDS = 9
VOCABULARY, WIDTH, LAYERS, BEAM = 96, 256, 3, 4
SENTENCES, SOURCE, LENGTH, LENGTHS = 16, 24, 64, (40, 160)
BATCH, STEPS = (32, 24), 3  # pairs and their tokens; steps that are timed at once
PAD, END = 0, 1
NAME = f"transformer of {LAYERS}+{LAYERS} layers of {WIDTH}"


def net_of(width: int = WIDTH, num_layers: int = LAYERS) -> Transformer:
    """A transformer whose weights are large, so that it does not say the same at each step."""
    torch.manual_seed(0)
    net = Transformer(VOCABULARY, VOCABULARY, PAD, width=width, num_layers=num_layers, dropout=0.0, norm_first=True)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("in_proj_weight"):
                p[: 2 * width] *= 8  # queries and keys: each token looks at few others
            elif name.endswith(("embedding.weight", "fc.weight")):
                p.mul_(2 if name.endswith("embedding.weight") else 6)
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


# Memory, training, transformers -------------------------------------------------------------------------------------------


def kept(net: Transformer, sources: Tensor, length: int) -> int:
    """Bytes of the state after a number of tokens, beyond those that it had of the sources."""
    tokens = torch.full((len(sources),), END)
    with torch.no_grad():
        state = net.encode(sources)
        first = _bytes(state)
        for _ in range(length):
            logits, state = net.step(tokens, state)
            tokens = logits.argmax(dim=1)
    return _bytes(state) - first


def _bytes(state: Any) -> int:
    return sum(x.numel() * x.element_size() for x in tree_leaves(state) if isinstance(x, Tensor))


def peak(length: int, device: str) -> None:
    """Greedy search of a number of tokens, for its peak of memory."""
    by_greedy(net_of(), sources_of(SENTENCES), length)


def memory() -> Row:
    """What decoding keeps, and takes at its peak, of short and of long texts."""
    net, sources = net_of(), sources_of(SENTENCES)
    short, long = (kept(net, sources, length) for length in LENGTHS)
    peaks = [peak_memory(partial(peak, length), "cpu") for length in LENGTHS]
    times = LENGTHS[1] / LENGTHS[0]
    return Row(
        f"greedy search, {NAME}, {SENTENCES} sentences: keys and values after {LENGTHS[1]} tokens",
        f"{long / 2**20:.1f} MiB",
        f"{short / 2**20:.1f} MiB after {LENGTHS[0]}; at the peak {peaks[1]:.0f} and {peaks[0]:.0f} MB with the net",
        f"{long / short:.2f}x",
        f"<= {times:g}x, linear in the length",
        long <= times * short,
    )


def pair_of(count: int, length: int) -> tuple[SentencePair, Tensor]:
    """A batch of random pairs."""
    source = sources_of(count, length)
    y = sources_of(count, length).roll(1, 0)
    return SentencePair(source, torch.cat([torch.full((count, 1), END), y[:, :-1].where(y[:, :-1] != END, PAD)], 1)), y


def training() -> Row:
    """A step of the task, beside one of the same net by layers of torch.nn: forward, backward, optimizer."""
    sizes: dict[str, Any] = {"source_vocab_size": VOCABULARY, "vocab_size": VOCABULARY, "padding": PAD}
    torch.manual_seed(0)
    task = TransformerSeq2Seq(**sizes, width=WIDTH, num_layers=LAYERS, dropout=0.0)
    plain = TorchTwin(task.net).train()
    batch = pair_of(*BATCH)
    x, y = batch
    optimizers = [
        task.configure_optimizers(),
        torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0, fused=True),
    ]

    def of_torch() -> Tensor:
        return F.cross_entropy(plain(x).flatten(0, 1), y.flatten(), ignore_index=PAD)

    def of_ours() -> Tensor:
        return task.training_losses(batch)[0]

    first = [float(loss().detach()) for loss in (of_ours, of_torch)]
    if abs(first[0] - first[1]) > 1e-5:
        raise AssertionError(f"another loss than that of torch.nn: {first}")

    def steps(loss: Callable[[], Tensor], optimizer: Any) -> float:
        started = clock()
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        return clock() - started

    variants: dict[str, Callable[[], float]] = {
        "ours": partial(steps, of_ours, optimizers[0]),
        "torch": partial(steps, of_torch, optimizers[1]),
    }
    times = alternate(variants, ROUNDS)
    slower = ratio(times["ours"], times["torch"])
    milliseconds = {name: f"{1e3 * spread(values).median / STEPS:.0f} ms" for name, values in times.items()}
    return Row(
        f"training step, {NAME}, {BATCH[0]} pairs of {BATCH[1]} tokens, the same loss",
        milliseconds["ours"],
        f"{milliseconds['torch']}, nn.Transformer",
        f"{slower:.3f}x",
        "<= 1.03x",
        slower.median <= 1.03,
    )


def gpt2() -> tuple[Any, Any]:
    """A small GPT-2 of transformers with random weights, and ours with the same."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    width, layers, heads = WIDTH, 2 * LAYERS, 8
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=LENGTHS[1],
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=None,
    )
    theirs = GPT2LMHeadModel(config).eval()
    ours = TransformerLM(
        VOCABULARY, width, layers, heads, max_length=LENGTHS[1], feed_forward="gelu_tanh", positions="learned"
    )
    ours.load_state_dict(renamed(theirs.state_dict()))
    return ours.eval(), theirs


def generated(model: Any, start: Tensor, beam: int) -> Tensor:
    """Let transformers do it: ``(B,)`` -> ``(B, T)``."""
    options = {"num_beams": beam, "do_sample": False, "max_new_tokens": LENGTH, "pad_token_id": PAD}
    mask = torch.ones_like(start[:, None])
    found = model.generate(start[:, None], attention_mask=mask, eos_token_id=None, bos_token_id=None, **options)
    return found[:, 1:]


def beside_transformers() -> list[Row]:
    """Greedy and beam search of ours and of ``transformers.generate``, on the same weights of a GPT-2."""
    if importlib.util.find_spec("transformers") is None:
        print("attention: transformers is missing, so its rows are left out (pip install transformers)")
        return []
    from transformers import __version__, logging

    logging.set_verbosity_error()
    ours, theirs = gpt2()
    start = torch.arange(2, 2 + SENTENCES)
    state = ours.init_state(len(start))

    def greedily() -> Tensor:
        return greedy(ours, state, start, LENGTH).tokens

    def by_beams() -> Tensor:
        return beam_search(ours, state, start, LENGTH, beam=BEAM).tokens[:, 0]

    rows = []
    for name, beam, search in (("greedy search", 1, greedily), (f"beam search of {BEAM}", BEAM, by_beams)):
        what = f"{name}, GPT-2 of {2 * LAYERS} layers of {WIDTH}, {SENTENCES} sentences, {LENGTH} tokens"
        peer = partial(generated, theirs, start, beam)
        rows.append(compare(what, search, peer, f"transformers.generate {__version__}", None, 5))
    return rows


def run(device: str = "cpu") -> list[Row]:
    """All rows of this benchmark."""
    torch.set_num_threads(1)
    net = net_of()
    rows = []
    for count, target in ((4, 14.0), (SENTENCES, 20.0)):
        sources = sources_of(count)
        rows.append(
            compare(
                f"beam search of {BEAM}, {NAME}, {count} sentences, up to {LENGTH} tokens",
                partial(by_beam, net, sources),
                partial(by_hand, net, sources),
                "sentences and hypotheses one by one in Python, without a cache",
                target,
                3,
            )
        )
    sources = sources_of(SENTENCES)
    for length, target in zip(LENGTHS, (5.0, 10.0), strict=True):
        rows.append(
            compare(
                f"greedy search, {NAME}, {SENTENCES} sentences, {length} tokens: with cached keys and values",
                partial(by_greedy, net, sources, length),
                partial(by_greedy, Recomputing(net), sources, length),
                "reading all tokens again at each step",
                target,
                3,
            )
        )
    return [*rows, memory(), training(), *beside_transformers()]

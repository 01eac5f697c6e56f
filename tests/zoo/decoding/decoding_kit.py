"""Nets whose next token depends on the whole history, and decoding written out in plain Python: one sequence at a time, lists."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.blocks import reorder_rows

ROWS = 50_021  # a prime


class TableNet(nn.Module):
    """Logits by the history: each token leads to another row of a random table."""

    def __init__(self, vocabulary: int, seed: int = 0, spread: float = 1.0) -> None:
        super().__init__()
        table = spread * torch.randn(ROWS, vocabulary, generator=torch.Generator().manual_seed(seed)).double()
        self.register_buffer("table", table)
        self.rows: list[int] = []  # how many each step was made for

    def init_state(self, batch_size: int) -> Tensor:
        return torch.arange(batch_size) * 1000  # each example has a context of its own

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        self.rows.append(len(x_t))
        state = (state * 31 + x_t + 7) % ROWS
        return self.table[state], state

    def reorder_state(self, state: Tensor, index: Tensor) -> Tensor:
        return reorder_rows(state, index)


class GRUNet(nn.Module):
    """A language model: embedding, GRU of two layers, linear layer."""

    def __init__(self, vocabulary: int = 16, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embedding = nn.Embedding(vocabulary, width)
        self.gru = nn.GRU(width, width, num_layers=2, batch_first=True)
        self.fc = nn.Linear(width, vocabulary)
        with torch.no_grad():
            for p in self.parameters():
                p.uniform_(-1, 1)
            self.embedding.weight.normal_().mul_(3)  # what was read matters; token 3 comes at different times

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.gru(self.embedding(x))[0])

    def init_state(self, batch_size: int) -> Tensor:
        return self.fc.weight.new_zeros(2, batch_size, self.gru.hidden_size)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        output, state = self.gru(self.embedding(x_t)[:, None], state)
        return self.fc(output[:, 0]), state

    def reorder_state(self, state: Tensor, index: Tensor) -> Tensor:
        return reorder_rows(state, index, batch_axis=1)


class Recomputing:
    """The same net without a state of its own: each step reads all tokens so far again."""

    def __init__(self, net: Any) -> None:
        self.net = net

    def init_state(self, batch_size: int) -> Tensor:
        return torch.zeros(batch_size, 0, dtype=torch.long)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.cat([state, x_t[:, None]], dim=1)
        return self.net(state)[:, -1], state

    def reorder_state(self, state: Tensor, index: Tensor) -> Tensor:
        return reorder_rows(state, index)


# Written out ----------------------------------------------------------------------------------------------------------

RULES: dict[str, dict[str, Any]] = {
    "end": {"end": 2},
    "no end": {},
    "min_length": {"end": 2, "min_length": 3},
    "bigrams": {"end": 2, "no_repeat_ngram": 2},
    "no token twice": {"end": 2, "no_repeat_ngram": 1, "min_length": 2},
    "forbidden": {"end": 2, "forbid": [0]},
}


@dataclass(frozen=True)
class Written:
    """The rules, as they would be told to a person."""

    max_length: int
    end: int | None = None
    alpha: float = 1.0
    min_length: int = 0
    no_repeat_ngram: int | None = None
    prefix: Sequence[int] = ()
    forbid: Sequence[int] = ()

    def may_follow(self, sequence: list[int], token: int) -> bool:
        place = len(sequence)
        if place < len(self.prefix):
            return token == self.prefix[place]
        if token in self.forbid or (token == self.end and place + 1 < self.min_length):
            return False
        if (n := self.no_repeat_ngram) is None:
            return True
        grams = [tuple([*sequence, token][i : i + n]) for i in range(place + 2 - n)]
        return not grams or grams[-1] not in grams[:-1]

    def is_whole(self, sequence: list[int]) -> bool:
        return len(sequence) == self.max_length or (self.end is not None and sequence[-1:] == [self.end])

    def score(self, log_probs: Sequence[float]) -> float:
        return sum(log_probs) / len(log_probs) ** self.alpha


def log_probs_of(net: TableNet, context: int, start: int, sequence: Sequence[int]) -> list[float]:
    """The logarithms of the probabilities of all tokens that may come after a sequence."""
    row = context
    for token in (start, *sequence):
        row = (row * 31 + token + 7) % ROWS
    logits = net.table[row].tolist()
    total = math.log(sum(math.exp(x) for x in logits))
    return [x - total for x in logits]


def all_sequences(net: TableNet, context: int, start: int, rules: Written) -> list[tuple[float, list[int]]]:
    """Every sequence that the rules allow, with its score, best first."""
    found = []
    vocabulary = range(net.table.shape[1])
    for length in range(1, rules.max_length + 1):
        for sequence in itertools.product(vocabulary, repeat=length):
            tokens = list(sequence)
            if rules.is_whole(tokens) and all(
                rules.may_follow(tokens[:t], token) and not (t and rules.is_whole(tokens[:t]))
                for t, token in enumerate(tokens)
            ):
                each = [log_probs_of(net, context, start, tokens[:t])[token] for t, token in enumerate(tokens)]
                found.append((rules.score(each), tokens))
    return sorted(found, reverse=True)


def beam_of_one(
    net: TableNet, context: int, start: int, rules: Written, beam: int, best: int
) -> list[tuple[float, list[int]]]:
    """Beam search for one sentence, always up to the largest length."""
    hypotheses: list[tuple[list[float], list[int]]] = [([], [])]
    aside = []
    for _ in range(rules.max_length):
        longer = []
        for each, tokens in hypotheses:
            log_probs = log_probs_of(net, context, start, tokens)
            longer += [
                ([*each, log_probs[token]], [*tokens, token])
                for token in range(len(log_probs))
                if rules.may_follow(tokens, token)
            ]
        longer = sorted(longer, key=lambda pair: -sum(pair[0]))[:beam]
        aside += [(rules.score(each), tokens) for each, tokens in longer if rules.is_whole(tokens)]
        hypotheses = [pair for pair in longer if not rules.is_whole(pair[1])]
    return sorted(aside, reverse=True)[:best]

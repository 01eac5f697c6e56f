"""What a state saves in greedy search, a batch in beam search, and ``transformers.generate`` beside them on the same weights."""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Row, alternate, clock, ratio, spread
from zoo.blocks import reorder_rows
from zoo.decoding import beam_search, greedy

DEVICES = ("cpu",)
ROUNDS = 7
SENTENCES, LENGTH, VOCABULARY, WIDTH, BEAM, END = 16, 100, 64, 128, 4, 3


class GRULanguageModel(nn.Module):
    """Embedding, GRU, linear layer; its weights are large, so that it does not say the same at each step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.fc = nn.Linear(WIDTH, VOCABULARY)
        with torch.no_grad():
            for p in self.parameters():
                p.mul_(3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of all steps, ``(B, T)`` -> ``(B, T, V)``."""
        return self.fc(self.gru(self.embedding(x))[0])

    def init_state(self, batch_size: int) -> Tensor:
        """Return zeros."""
        return torch.zeros(1, batch_size, WIDTH)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read one token of each sentence."""
        output, state = self.gru(self.embedding(x_t)[:, None], state)
        return self.fc(output[:, 0]), state

    def reorder_state(self, state: Tensor, index: Tensor) -> Tensor:
        """Reorder the sentences."""
        return reorder_rows(state, index, batch_axis=1)


class Recomputing:
    """A net whose state is all that was read, and that reads it again at each step."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def init_state(self, batch_size: int) -> Tensor:
        """Return no tokens."""
        return torch.zeros(batch_size, 0, dtype=torch.long)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read all tokens."""
        state = torch.cat([state, x_t[:, None]], dim=1)
        return self.net(state)[:, -1], state


class GPT2(nn.Module):
    """GPT-2 of transformers, whose cache is the state."""

    def __init__(self) -> None:
        from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

        super().__init__()
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=VOCABULARY, n_positions=LENGTH + 1, n_embd=WIDTH, n_layer=2, n_head=4, initializer_range=0.3
        )
        self.model = GPT2LMHeadModel(config).eval()
        self.empty = partial(DynamicCache, config=config)

    def init_state(self, batch_size: int) -> Any:
        """Return an empty cache."""
        return self.empty()

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read one token of each sentence; the cache grows in place."""
        output = self.model(x_t[:, None], cache=state, use_cache=True)
        return output.logits[:, -1], output.cache

    def reorder_state(self, state: Any, index: Tensor) -> Any:
        """Reorder the sentences, in place."""
        state.batch_select_indices(index)
        return state

    def generate(self, start: Tensor, beam: int) -> Tensor:
        """Let transformers do it: ``(B,)`` -> ``(B, T)``."""
        found = self.model.generate(
            start[:, None],
            attention_mask=torch.ones_like(start[:, None]),
            num_beams=beam,
            do_sample=False,
            max_new_tokens=LENGTH,
            pad_token_id=0,
            eos_token_id=None,
            bos_token_id=None,
        )
        return found[:, 1:]


def seconds(decode: Callable[[], Any]) -> float:
    """Time of one call."""
    started = clock()
    decode()
    return clock() - started


def compare(
    what: str, ours: Callable[[], Tensor], peer: Callable[[], Tensor], name: str, target: float | None, rounds: int
) -> Row:
    """Time both, once they have given the same tokens."""
    wanted, got = peer(), ours()
    if not torch.equal(wanted, got):
        raise AssertionError(f"{what}: other tokens than {name}, in {(wanted != got).any(dim=-1).sum()} sentences")
    times = alternate({"ours": partial(seconds, ours), "peer": partial(seconds, peer)}, rounds)
    faster = ratio(times["peer"], times["ours"])
    milliseconds = {key: f"{1e3 * spread(values).median:.0f} ms" for key, values in times.items()}
    return Row(
        f"{what}, the same tokens",
        milliseconds["ours"],
        f"{milliseconds['peer']}, {name}",
        f"{faster:.2f}x",
        "" if target is None else f">= {target:g}x",
        None if target is None else faster.median >= target,
    )


def by_state(net: Any, start: Tensor) -> Tensor:
    """Greedy search."""
    return greedy(net, net.init_state(len(start)), start, LENGTH).tokens


def by_beam(net: Any, start: Tensor, end: int | None = END) -> Tensor:
    """Beam search; after the end of a sentence stands 0, up to the largest length."""
    found = beam_search(net, net.init_state(len(start)), start, LENGTH, beam=BEAM, end=end, padding=0).tokens[:, 0]
    return nn.functional.pad(found, (0, LENGTH - found.shape[1]))


def one_by_one(net: Any, start: Tensor) -> Tensor:
    """Beam search, a sentence at a time."""
    return torch.cat([by_beam(net, one) for one in start.split(1)])


def run(device: str = "cpu") -> list[Row]:
    """All rows of this benchmark."""
    torch.set_num_threads(1)
    net, start = GRULanguageModel(), torch.arange(SENTENCES)
    shape = f"{SENTENCES} sentences, {LENGTH} tokens"
    rows = [
        compare(
            f"greedy search, GRU of {WIDTH}, {shape}: with a state",
            partial(by_state, net, start),
            partial(by_state, Recomputing(net), start),
            "reading all tokens again at each step",
            5.0,
            3,
        ),
        compare(
            f"beam search of {BEAM}, the same GRU, up to {LENGTH} tokens: {SENTENCES} sentences at once",
            partial(by_beam, net, start),
            partial(one_by_one, net, start),
            "one after another",
            4.0,
            ROUNDS,
        ),
    ]
    if importlib.util.find_spec("transformers") is None:
        print("decoding: transformers is missing, so its rows are left out (pip install transformers)")
        return rows
    from transformers import __version__, logging

    logging.set_verbosity_error()
    gpt = GPT2()
    for name, beam, ours in (
        ("greedy search", 1, partial(by_state, gpt, start)),
        (f"beam search of {BEAM}", BEAM, partial(by_beam, gpt, start, None)),
    ):
        with torch.no_grad():
            peer = f"transformers.generate {__version__}"
            what = f"{name}, GPT-2 of 2 layers of {WIDTH}, {shape}"
            rows.append(compare(what, ours, partial(gpt.generate, start, beam), peer, None, ROUNDS))
    return rows

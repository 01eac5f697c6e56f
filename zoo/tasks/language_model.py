"""Language models: the next token of a text, from those before it; the text may go on from batch to batch."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice, takewhile
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from zoo import decoding
from zoo.blocks.modes import evaluating
from zoo.blocks.vocabulary import Vocabulary
from zoo.decoding.sampling import seeds_of
from zoo.internals import is_fitting, tree_leaves, tree_map
from zoo.losses.means import counted, weighted_mean
from zoo.metrics.labels import IGNORED, Accuracy
from zoo.metrics.pixels import exact_dtype
from zoo.metrics.tokens import BitsPer, NatsPer, Perplexity
from zoo.model import Makes, Reads
from zoo.tasks.base import Task, TaskArguments, input_of

EXAMPLE_LENGTH = 16  # tokens of an example where no data told theirs
CONTINUED = 40  # tokens that a prediction goes on for
WRITTEN = 200  # tokens after a prompt, unless told otherwise
SHOWN = (2, 200)  # texts that are shown in evaluation, and their tokens
PROMPT = 16  # tokens of a text that they begin with


class LanguageModelTask(Task):
    """Train a net to predict the next token of a text.

    The loss is the cross-entropy in nats a token, a mean over all tokens that count. Evaluation logs ``loss``, ``perplexity`` (its
    exponential), ``acc`` (share of tokens that are predicted), and, of a text that is spelled out, ``bpc`` and ``bpb``: bits for
    each character and for each UTF-8 byte that the targets stand for, which compare models with different tokens.

    What the tokens stand for is the model's ``vocabulary``, which comes from the datamodule and stays with the model: see
    :class:`zoo.blocks.Vocabulary`. Targets that are its padding do not count.

    Truncated backpropagation through time (Williams and Peng 1990, "An Efficient Gradient-Based Algorithm for On-Line Training of
    Recurrent Network Trajectories"): where x is a ``Segment(tokens, starts)``, row b goes on from the state in which row b of the
    batch before ended, unless ``starts[b]``. The gradient is cut between batches, so memory does not grow with the text. The net
    needs ``read(tokens, state)``, which returns the logits and the state after them, tensors whose axis 1 is the batch. In
    evaluation, states start anew, and those of the training stay as they are. A checkpoint holds the states of all processes, so
    that a run goes on in the middle of a text, on more or fewer processes too.

    Args:
        net: Tokens int64 ``(B, T)`` -> logits ``(B, T, V)``. To write text it needs ``init_state`` and ``step``, see
            :class:`zoo.Incremental`; with ``prefill`` and ``reorder_state`` it reads a prompt at once. ``max_length``, if it has
            one, is the largest number of tokens that it can read.
        vocab_size: Size V of the vocabulary; on the command line the data fill it in.
        task: Arguments of :class:`zoo.Task`.

    Shape:
        batch: ``(x, y)`` or ``(x, y, weight)``: tokens x and targets y int64 ``(B, T)``, weight ``(B,)`` or ``(B, T)``; or a
        ``Segment`` of tokens ``(B, T)`` and starts, bool ``(B,)``, for x.

    Raises:
        ValueError: A vocabulary of fewer than two tokens.
    """

    sample_options = ("prompt", "temperature", "top_k", "top_p", "min_p", "tokens")
    output_meaning = "log-probabilities of the next token (B, T, V), in nats"
    causal = True
    _read_by: tuple[dict[str, Any], Vocabulary, Tensor | None] | None = None  # the description, and what was made of it
    # States of the rows, where the text goes on. An optimizer may look at a batch several times, always from the state before it.
    _before: Any = None
    _after: Any = None
    _evaluated: Any = None

    def __init__(self, net: nn.Module, vocab_size: int = 256, **task: Unpack[TaskArguments]) -> None:
        if vocab_size < 2:
            raise ValueError(f"vocab_size must be 2 or more, got {vocab_size}")
        super().__init__(net, **task)

    @property
    def reads(self) -> Reads:
        return "text"

    @property
    def makes(self) -> Makes:
        return "text"

    @property
    def samples(self) -> Makes:
        return "text"

    @property
    def learns(self) -> tuple[str, ...]:
        return ("text",)

    @property
    def vocab_size(self) -> int:
        return int(self.hparams["vocab_size"])

    @property
    def padding(self) -> int | None:
        """Index of the token that pads texts at their end; None if nothing does."""
        return None if self.vocabulary is None else self.vocabulary.get("padding")

    @property
    def tokenizer(self) -> Vocabulary:
        """The vocabulary, which reads and writes text.

        Raises:
            ValueError: The model has none yet.
        """
        if self.vocabulary is None:
            raise ValueError(
                f"this {type(self).__name__} has no vocabulary, so it can neither read nor write text: train it on data that have "
                "one, or set its vocabulary"
            )
        return self._described(self.vocabulary)[0]

    def _described(self, description: dict[str, Any]) -> tuple[Vocabulary, Tensor | None]:
        """The vocabulary, and the number of characters and of bytes that each token stands for, ``(2, V)``."""
        if self._read_by is None or self._read_by[0] is not description:
            vocabulary = Vocabulary(description)
            numbers = vocabulary.num_characters, vocabulary.num_bytes
            units = None if None in numbers else torch.tensor(numbers)
            self._read_by = description, vocabulary, units
        return self._read_by[1:]

    def example_inputs(self, batch_size: int = 1) -> tuple[Tensor]:
        length = self.input_shape[0] if self.input_shape else min(EXAMPLE_LENGTH, self.most_tokens or EXAMPLE_LENGTH)
        return (torch.zeros(batch_size, length, dtype=torch.long, device=self.mean.device),)

    def expected_initial_loss(self) -> float:
        """Return ln V."""
        return math.log(self.vocab_size)

    # The forward pass -----------------------------------------------------------------------------------------------

    def forward(self, x: Any) -> Tensor:
        """Return the logits ``(B, T, V)`` of the token after each; every row begins here, those of a ``Segment`` too."""
        logits: Tensor = self.net(getattr(x, "tokens", x))
        return logits

    def outputs(self, x: Any) -> dict[str, Tensor]:
        """Return ``log_probabilities`` of the next token, ``(B, T, V)``, in nats."""
        return {"log_probabilities": _at_least_float32(self(x)).log_softmax(dim=-1)}

    def _logits(self, x: Any, before: Any) -> tuple[Tensor, Any]:
        """The logits, and the states of the rows afterwards, where the text goes on from ``before``."""
        starts = getattr(x, "starts", None)
        if starts is None:
            return self(x), None
        net: Any = self.net
        fresh = net.init_state(len(starts))
        rows = None if before is None else tree_leaves(before)[0].shape[1]
        if rows != len(starts):
            if not starts.all():
                raise ValueError(
                    f"{int((~starts).sum())} of {len(starts)} rows of a batch go on from the batch before, of which {rows or 0} "
                    "are known: batches come in the order of the text, each with as many rows, and a resumed run has the global "
                    "batch of before"
                )
            before = fresh
        logits, after = net.read(x.tokens, tree_map(partial(_start_where, starts), before, fresh))
        return logits, tree_map(Tensor.detach, after)

    def _losses(self, logits: Tensor, y: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The loss of each token in nats and its weight, ``(B, T)`` each."""
        losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)
        counts = torch.ones_like(losses) if self.padding is None else (y != self.padding).to(losses.dtype)
        if weight is not None:
            counts = counts * (weight[:, None] if weight.ndim == 1 else weight)
        return losses, counts

    # Training and evaluation ----------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Let the first batch begin, and refuse to accumulate gradients over a text that goes on.

        Raises:
            ValueError: Data with another vocabulary, or gradients are accumulated over batches that continue each other.
        """
        super().setup(stage)
        if stage == "fit":
            self._before = self._after = None
            if getattr(getattr(self.trainer, "datamodule", None), "order", None) == "lanes":
                self._refuse_accumulation()

    def _refuse_accumulation(self) -> None:
        if (batches := self.trainer.accumulate_grad_batches) > 1:
            raise ValueError(
                f"accumulate_grad_batches is {batches}, but batches continue each other, and the gradient is cut between them: set "
                f"it to 1, and take {batches} times as many rows in a batch, or segments {batches} times as long"
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Go on from the last state, and check tokens in the first epoch: on a GPU a wrong one would be an unreadable assert."""
        self._before = self._after
        x, y = batch[0], batch[1]
        if getattr(x, "starts", None) is not None:
            self._refuse_accumulation()
            if not hasattr(self.net, "read"):
                raise TypeError(
                    f"the batches continue each other, and {type(self.net).__name__} cannot go on from a state: define "
                    "read(tokens, state), which returns the logits and the state after them, or take windows in random order"
                )
        if self.trainer.current_epoch == 0:
            for name, part in (("tokens", getattr(x, "tokens", x)), ("targets", y)):
                lowest, highest = (int(n) for n in part.aminmax())
                if lowest < 0 or highest >= self.vocab_size:
                    raise ValueError(
                        f"{name} must lie in 0..{self.vocab_size - 1} for vocab_size={self.vocab_size}, got {lowest}..{highest}"
                    )

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return the mean cross-entropy in nats, and the number of tokens that count."""
        x, y, *weight = batch
        logits, after = self._logits(x, self._before)
        self._after = self._after if self.looks_again else after  # of the weights, not of perturbed ones
        loss, count = weighted_mean(*self._losses(logits, y, *weight))
        return loss, {"loss": loss}, count

    def loss_in_evaluation(self, batch: Any) -> Tensor | None:
        """Return the loss of a batch of windows; batches that continue each other have none by themselves."""
        return None if getattr(batch[0], "starts", None) is not None else super().loss_in_evaluation(batch)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._evaluated = None

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._evaluated = None

    def build_metrics(self) -> dict[str, Metric]:
        """Return loss, perplexity, accuracy, and bits for each character and byte."""
        dtype = exact_dtype(self.mean.device)
        spelled = {} if self._units() is None else {"bpc": BitsPer(dtype), "bpb": BitsPer(dtype)}
        return {"loss": NatsPer(dtype), "perplexity": Perplexity(dtype), "acc": Accuracy(), **spelled}

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        x, y, *weight = batch
        logits, self._evaluated = self._logits(x, self._evaluated)
        losses, counts = self._losses(_at_least_float32(logits), y, *weight)
        nats, targets = counted(losses, counts), counted(y, counts)
        for name in ("loss", "perplexity"):
            metrics[name].update(nats, torch.ones_like(targets))
        metrics["acc"].update(logits.argmax(dim=2), y.masked_fill(counts == 0, IGNORED))
        if (units := self._units()) is not None:
            for name, numbers in zip(("bpc", "bpb"), units.to(y.device), strict=True):
                metrics[name].update(nats, numbers[targets])

    def _units(self) -> Tensor | None:
        """Number of characters and of bytes that each token stands for, ``(2, V)``; None if texts are not spelled out."""
        return None if self.vocabulary is None else self._described(self.vocabulary)[1]

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the states of the rows of all processes, as one: rank r of W has the rows ``r::W``."""
        super().on_save_checkpoint(checkpoint)
        if self._after is not None:
            checkpoint["zoo"]["carried"] = tree_map(self._of_all_processes, self._after)

    def _of_all_processes(self, state: Tensor) -> Tensor:
        """States of the rows of all processes: ``(L, B, W)`` of each."""
        rank, processes = self.global_rank, self.trainer.world_size
        if processes == 1:
            return state
        rows = state.new_zeros(len(state), state.shape[1] * processes, *state.shape[2:])
        rows[:, rank::processes] = state
        return self._sum_over_ranks(rows)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take this process's rows.

        Raises:
            ValueError: The processes cannot divide the rows.
        """
        super().on_load_checkpoint(checkpoint)
        carried = (checkpoint.get("zoo") or {}).get("carried")
        if carried is None or not is_fitting(self):
            return
        rank, processes = self.global_rank, self.trainer.world_size
        if (rows := tree_leaves(carried)[0].shape[1]) % processes:
            raise ValueError(
                f"the checkpoint is of a text that goes on in {rows} rows, which {processes} processes cannot divide: resume with "
                f"a number of processes that divides {rows}"
            )
        self._after = tree_map(lambda state: state[:, rank::processes], carried)

    # Text -----------------------------------------------------------------------------------------------------------

    def batch_of(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the batch ``(x, y, weight)`` that :meth:`predict_step` takes of texts, padded at the end.

        A text begins after the end token, or as a new line does, after a line feed; if the vocabulary has neither, its first token
        is given, and predicts the second.

        Raises:
            ValueError: A text that cannot be read, or too short a one.
        """
        rows = []
        for i, text in enumerate(texts):
            tokens = [*self._opening(), *self.tokenizer.encode(text)]
            if len(tokens) < 2:
                what = "a single token" if text else "empty"
                which = f"text {i + 1}" if len(texts) > 1 else "the text"
                raise ValueError(f"{which} is {what}: there is nothing to predict in it, give a longer one")
            rows.append(torch.tensor(tokens))
        self._check_length(max(len(row) for row in rows) - 1)
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.padding or 0).to(self.mean.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.mean.device)
        counts = torch.arange(1, padded.shape[1], device=self.mean.device) < lengths[:, None]
        return padded[:, :-1], padded[:, 1:], counts.float()

    def predict_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Any]:
        """Return how probable texts are, and how they go on.

        Args:
            batch: As in training, or of :meth:`batch_of`; or tokens alone ``(B, T)``, the first of which is given.
            batch_idx: Not used.

        Returns:
            ``log_probability`` of all targets in nats, ``tokens``, their number, ``perplexity``, ``(B,)`` each, and
            ``bits_per_character``, if texts are spelled out; ``continuation``, the most probable next tokens, one at a time, as
            text.
        """
        if type(batch) in (tuple, list):
            x, y, *weight = batch
            x = getattr(x, "tokens", x)
        else:
            tokens = input_of(batch)
            x, y, weight = tokens[:, :-1], tokens[:, 1:], []
        losses, counts = self._losses(_at_least_float32(self(x)), y, *weight)
        counts = (counts > 0).to(losses.dtype)
        nats, number = (losses * counts).sum(dim=1), counts.sum(dim=1)
        found: dict[str, Any] = {"log_probability": -nats, "tokens": number.long(), "perplexity": (nats / number).exp()}
        if (units := self._units()) is not None:
            characters = (units[0].to(y.device)[y] * counts).sum(dim=1)
            found["bits_per_character"] = nats / characters / math.log(2)
        if self.vocabulary is not None and hasattr(self.net, "step"):
            place = torch.arange(1, y.shape[1] + 1, device=y.device)
            ends = (counts * place).amax(dim=1).long().tolist()  # after the last target that counts
            texts = torch.cat([x[:, :1], y], dim=1).tolist()
            found["continuation"] = self._continued([text[: end + 1] for text, end in zip(texts, ends, strict=True)])
        return found

    def _continued(self, rows: list[list[int]]) -> list[str]:
        """The most probable text after each row of tokens, up to its end."""
        longest = max(len(row) for row in rows) - 1
        length = longest + CONTINUED if self.most_tokens is None else min(longest + CONTINUED, self.most_tokens)
        arguments = self._arguments(rows, length)
        made = decoding.greedy(**arguments)
        end, texts = self.tokenizer.end, []
        for prefix, tokens in zip(arguments["prefix"], made.tokens.tolist(), strict=True):
            new = tokens[len(prefix) : len(prefix) + CONTINUED]
            texts.append(self.tokenizer.decode(new[: new.index(end)] if end in new else new))
        return texts

    def sample(
        self,
        count: int,
        seed: int = 0,
        prompt: str = "",
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        tokens: int | None = None,
    ) -> list[str]:
        """Write texts, which begin with the prompt.

        Args:
            count: Number of texts, >= 1.
            seed: Seed of the draws.
            prompt: What every text begins with, after an end token or, where there is none, as a new line.
            temperature, top_k, top_p, min_p: See :func:`zoo.decoding.sample`.
            tokens: Largest number of tokens after the prompt, >= 1; None: 200, or fewer where the net can read no more.

        Raises:
            ValueError: An argument out of its range, or a prompt that cannot be read.
        """
        filters: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        return self._written(*self._beginning(prompt), count, tokens, seed=seed, **filters)

    def stream(
        self,
        seed: int = 0,
        prompt: str = "",
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        tokens: int | None = None,
        index: int = 0,
    ) -> Iterator[str]:
        """Yield one text of :meth:`sample` piece by piece, as it is written, in whole characters.

        Args:
            seed, prompt, temperature, top_k, top_p, min_p, tokens: See :meth:`sample`.
            index: Which of the texts that :meth:`sample` would write, from 0.

        Raises:
            ValueError: See :meth:`sample`.
        """
        filters: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        given, shown = self._beginning(prompt)
        seeds = seeds_of(seed, index + 1)[-1:]
        arguments = self._drawn(given, 1, tokens)
        drawn = islice(decoding.stream(**arguments, seed=seeds, **filters), len(arguments["prefix"][0]), None)
        return self.tokenizer.stream(chain(shown, (int(token) for token in drawn)))

    def _written(self, given: list[int], shown: list[int], count: int, tokens: int | None, **draws: Any) -> list[str]:
        arguments = self._drawn(given, count, tokens)
        made = decoding.sample(**arguments, **draws)
        forced = len(arguments["prefix"][0])
        return [self.tokenizer.decode([*shown, *row[forced:]]) for row in made.tokens.tolist()]

    def _beginning(self, prompt: str) -> tuple[list[int], list[int]]:
        """The tokens that are given, and those of them that the text shows: all but what it begins after."""
        shown, opening = self.tokenizer.encode(prompt), self._opening()
        if not opening and not shown:
            raise ValueError("the vocabulary has neither an end token nor a line feed to begin after: give a prompt")
        return [*opening, *shown], shown

    def _opening(self) -> list[int]:
        """The token that a text begins after: its end, or a line feed; none where the vocabulary has neither.

        A net that has read one long text hardly knows how to begin without any.
        """
        if self.tokenizer.end is not None:
            return [self.tokenizer.end]
        try:
            line = self.tokenizer.encode("\n")
        except ValueError:  # not in the vocabulary
            return []
        return line if len(line) == 1 else []

    def _drawn(self, given: list[int], count: int, tokens: int | None) -> dict[str, Any]:
        """Arguments of :func:`zoo.decoding.sample`, without those of the draws."""
        if tokens is None:
            left = WRITTEN if self.most_tokens is None else self.most_tokens - len(given) + 1
            tokens = max(1, min(WRITTEN, left))
        if count < 1 or tokens < 1:
            raise ValueError(f"count and tokens must be 1 or more, got count={count}, tokens={tokens}")
        self._check_length(len(given) - 1 + tokens)
        ends = {"end": self.tokenizer.end, "padding": self.padding}
        return {**self._arguments([given] * count, len(given) - 1 + tokens), **ends}

    def _arguments(self, rows: list[list[int]], length: int) -> dict[str, Any]:
        """Arguments of :mod:`zoo.decoding` for texts that begin with the rows and have ``length`` tokens after the first.

        A net with ``prefill`` reads at once as many tokens as all rows have; they are then no part of the ``prefix``, with which
        the result begins.
        """
        net: Any = self.net
        if missing := [name for name in ("init_state", "step") if not hasattr(net, name)]:
            raise TypeError(f"to write text, {type(net).__name__} needs {missing[0]}, see zoo.Incremental")
        at_once = hasattr(net, "prefill") and hasattr(net, "reorder_state")
        read = min(length, *(len(row) for row in rows)) - 1 if at_once else 0
        with evaluating(self):
            if read > 0 and all(row == rows[0] for row in rows):
                state = net.prefill(self._tensor([rows[0][:read]]), net.init_state(1))
                state = net.reorder_state(state, self._tensor([0] * len(rows)))
            else:
                state = net.init_state(len(rows))
                state = net.prefill(self._tensor([row[:read] for row in rows]), state) if read > 0 else state
        return {
            "net": net,
            "state": state,
            "start": self._tensor([row[read] for row in rows]),
            "prefix": [row[read + 1 :] for row in rows],
            "max_length": length - read,
            "forbid": [] if self.padding is None else [self.padding],
        }

    def _tensor(self, tokens: list[Any]) -> Tensor:
        return torch.tensor(tokens, dtype=torch.long, device=self.mean.device)

    @property
    def most_tokens(self) -> int | None:
        """Largest number of tokens that the net can read; None: any."""
        most: int | None = getattr(self.net, "max_length", None)
        return most

    def _check_length(self, tokens: int) -> None:
        """Refuse a text that is longer than the net can read."""
        if (most := self.most_tokens) is not None and tokens > most:
            raise ValueError(
                f"the text would have {tokens} tokens, and the net reads {most} at most: give a shorter one"
            )

    def render(self, batch: Any) -> dict[str, Any]:
        """Return two texts that begin as the first of the batch does, up to the bar."""
        x = getattr(batch[0], "tokens", batch[0])
        if self.vocabulary is None or not hasattr(self.net, "step"):
            return {}
        first, *given = x[0, :PROMPT].tolist()
        given = list(takewhile(lambda token: token not in (self.tokenizer.end, self.padding), given))
        count, tokens = SHOWN
        if self.most_tokens is not None:
            tokens = max(1, min(tokens, self.most_tokens - len(given)))
        texts = self._written([first, *given], [first, *given], count, tokens, seed=0, temperature=0.8)
        prompt = self.tokenizer.decode([first, *given])
        return {"text": "\n\n".join(f"{prompt}|{text.removeprefix(prompt)}" for text in texts)}


def _start_where(starts: Tensor, before: Tensor, fresh: Tensor) -> Tensor:
    """States ``(L, B, W)``: fresh ones of the rows that start."""
    return torch.where(starts.view(-1, *[1] * (fresh.ndim - 2)), fresh, before.to(fresh))


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))

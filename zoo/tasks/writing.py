"""What tasks share whose net writes a text about what it reads, token by token: the loss of true texts, and texts of its own."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Literal, Unpack, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from zoo import decoding
from zoo.blocks.modes import evaluating
from zoo.blocks.vocabulary import Vocabulary
from zoo.internals import is_fitting
from zoo.losses.means import counted, weighted_mean
from zoo.metrics.labels import IGNORED, Accuracy
from zoo.metrics.pixels import exact_dtype
from zoo.metrics.tokens import NatsPer, Perplexity
from zoo.model import VOCABULARIES, Makes, spelled
from zoo.tasks.base import Task, TaskArguments

Schedule = Literal["constant", "linear", "exponential", "inverse_sigmoid"]
LONGEST = 100  # tokens of a written text where no data told theirs
FORCED = ("loss", "perplexity", "acc")  # metrics of targets that are read as they are


class WritingArguments(TaskArguments, total=False):
    """Arguments of :class:`WritingTask` but the net and its sizes, for ``**task: Unpack[WritingArguments]``."""

    label_smoothing: float
    teacher_forcing: float
    forcing_schedule: Schedule
    forcing_end: float
    forcing_steps: float
    beam: int
    max_length: int | None


class WritingTask(Task):
    """A task whose net reads something and writes a text about it, of which the data have a true one.

    The loss is the cross-entropy in nats a token, a mean over all tokens of the targets, their end tokens included. Evaluation logs
    ``loss``, ``perplexity`` (its exponential) and ``acc`` (share of tokens that are predicted right) of targets that are read as
    they are ("teacher forcing"), and metrics of the texts that the net writes by itself.

    Scheduled sampling (Bengio et al. 2015, "Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks",
    arXiv:1506.03099): in training, each token that the decoder reads is the true one with a probability, the ratio, and otherwise
    the most probable one after the token before. At step i of the optimizer the ratio is ``end + (start - end) f(i)``, with
    ``start = teacher_forcing``, ``end = forcing_end``, k = ``forcing_steps`` and f(i) = 1 for "constant", max(0, 1 - i / k) for
    "linear", exp(-i / k) for "exponential", and k / (k + exp(i / k)) for "inverse_sigmoid". With a ratio of 1 whole targets are
    read at once; otherwise the net goes through them step by step, with gradients, but none through the choice of a token.

    A subclass says what is read and what is written: :meth:`_start`, :meth:`encoded`, :meth:`written_metrics`,
    :meth:`token_parts`, :meth:`longest_target`.

    Args:
        net: Gives the logits of the next token of targets, ``(..., T, V)``. To write text it needs ``encode``, ``step`` and, for
            beam search, ``reorder_state``, see :class:`zoo.EncoderDecoder`.
        vocab_size: Number of tokens V of the targets; on the command line the data fill it in.
        padding: Token that pads targets at their end; on the command line the data fill it in.
        label_smoothing: Share of the target that is spread over all tokens in training, in [0, 1).
        teacher_forcing: Ratio of teacher forcing at the beginning, in [0, 1]; 0: the decoder reads what it writes.
        forcing_schedule: How the ratio changes.
        forcing_end: Ratio that a schedule other than "constant" ends with, in [0, ``teacher_forcing``].
        forcing_steps: k of the schedule, in optimizer steps, > 0.
        beam: Number of hypotheses with which evaluation and prediction write, beside the most probable token at each step, which
            is always one; 1: that alone.
        max_length: Largest number of tokens of a written text, with its end; None: twice as many as the longest target of the
            training data has, and never more than the net can read.
        task: Arguments of :class:`zoo.Task`.

    Raises:
        ValueError: An argument out of its range, or a ratio below 1 for a net that does not go step by step.
    """

    _read_by: dict[str, tuple[dict[str, Any], Vocabulary]] | None = None  # descriptions, and what was made of them

    def __init__(
        self,
        net: nn.Module,
        vocab_size: int = 256,
        padding: int = 0,
        label_smoothing: float = 0.0,
        teacher_forcing: float = 1.0,
        forcing_schedule: Schedule = "constant",
        forcing_end: float = 0.0,
        forcing_steps: float = 1000.0,
        beam: int = 1,
        max_length: int | None = None,
        **task: Unpack[TaskArguments],
    ) -> None:
        if vocab_size < 2:
            raise ValueError(f"vocab_size must be 2 or more, got {vocab_size}")
        if not 0 <= padding < vocab_size:
            raise ValueError(f"padding must be a token, 0..{vocab_size - 1} for vocab_size={vocab_size}, got {padding}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        if forcing_schedule not in get_args(Schedule):
            raise ValueError(
                f"forcing_schedule must be one of {', '.join(get_args(Schedule))}, got {forcing_schedule!r}"
            )
        if not 0 <= teacher_forcing <= 1:
            raise ValueError(f"teacher_forcing is a probability in [0, 1], got {teacher_forcing}")
        if forcing_schedule != "constant" and not 0 <= forcing_end <= teacher_forcing:
            raise ValueError(
                f"forcing_end must lie in 0..teacher_forcing, which is {teacher_forcing:g}, got {forcing_end}"
            )
        if not forcing_steps > 0:
            raise ValueError(f"forcing_steps must be above 0, got {forcing_steps}")
        if beam < 1:
            raise ValueError(f"beam must be 1 or more, got {beam}")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length must be 1 or more, or None, got {max_length}")
        forced = teacher_forcing == 1 and (forcing_schedule == "constant" or forcing_end == 1)
        if not forced and (missing := missing_parts(net)):
            raise ValueError(
                f"scheduled sampling goes step by step, for which {type(net).__name__} needs {missing[0]}, see "
                "zoo.EncoderDecoder: define it, or set teacher_forcing=1 and forcing_schedule='constant'"
            )
        super().__init__(net, **task)

    # What a subclass gives ------------------------------------------------------------------------------------------

    @abstractmethod
    def _start(self, batch: Any) -> tuple[Any, Tensor]:
        """Return what is read of a batch, and the tokens that its texts begin after, int64 ``(B,)``."""

    @abstractmethod
    def encoded(self, given: Any) -> Any:
        """Return the net's state before the first token, with a row for each text that is written about what is read."""

    @abstractmethod
    def written_metrics(self) -> dict[str, Metric]:
        """Return fresh metrics of written texts by name."""

    @abstractmethod
    def token_parts(self, batch: Any) -> list[tuple[str, Tensor, str]]:
        """Return all tokens of a batch: the name of a part, the part, and the argument that is the number of its tokens.

        Raises:
            TypeError: The batch is another one than the task takes.
        """

    @abstractmethod
    def longest_target(self) -> int | None:
        """Return the number of tokens of the longest target in the data, with its end; None before any were seen."""

    # What it is -----------------------------------------------------------------------------------------------------

    @property
    def makes(self) -> Makes:
        return "text"

    @property
    def predict_options(self) -> tuple[str, ...]:
        """Options of ``zoo predict``; attention can be drawn where the net has some."""
        return ("beam", "best", *(("attention",) if self.has_attention else ()))

    @property
    def vocab_size(self) -> int:
        return int(self.hparams["vocab_size"])

    @property
    def padding(self) -> int:
        """Index of the token that pads texts at their end."""
        return int(self.hparams["padding"])

    @property
    def has_attention(self) -> bool:
        """Whether the net tells where it looks in what it reads."""
        return hasattr(self.net, "attention") and bool(getattr(self.net, "has_attention", True))

    @property
    def tokenizer(self) -> Vocabulary:
        """The vocabulary of the texts that are written.

        Raises:
            ValueError: The model has none yet.
        """
        return self._described("vocabulary")

    def _described(self, name: str) -> Vocabulary:
        description = getattr(self, name)
        if description is None:
            raise ValueError(
                f"this {type(self).__name__} has no {spelled(name)}, so it can neither read nor write text: train it on data that "
                f"have one, or set its {name}"
            )
        known = self._read_by or {}
        if name not in known or known[name][0] is not description:
            self._read_by = known = {**known, name: (description, Vocabulary(description))}
        return known[name][1]

    def expected_initial_loss(self) -> float:
        """Return ln V."""
        return math.log(self.vocab_size)

    def loss_floor(self) -> float:
        """Return the entropy of a smoothed target."""
        share, size = self.hparams["label_smoothing"], self.vocab_size
        wrong = share / size
        right = 1 - share + wrong
        return -right * math.log(right) - ((size - 1) * wrong * math.log(wrong) if wrong else 0.0)

    # The forward pass -----------------------------------------------------------------------------------------------

    def outputs(self, x: Any) -> dict[str, Tensor]:
        """Return ``log_probabilities`` of the next token of the target, ``(..., T, V)``, in nats."""
        return {"log_probabilities": _at_least_float32(self(x)).log_softmax(dim=-1)}

    def attention(self, x: Any) -> Tensor:
        """Return how much each step of the targets looks at each part of what is read, ``(..., T, S)``: tokens, cells of a map.

        Raises:
            TypeError: The net has no attention.
        """
        if not self.has_attention:
            raise TypeError(f"this {type(self.net).__name__} has no attention that could be shown")
        net: Any = self.net
        weights: Tensor = net.attention(self.standardize(x))
        return weights

    def _losses(
        self, logits: Tensor, y: Tensor, weight: Sequence[Tensor], label_smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of each token in nats and its weight, ``(..., T)`` each."""
        losses = F.cross_entropy(
            logits.flatten(0, -2), y.flatten(), reduction="none", label_smoothing=label_smoothing
        ).view(y.shape)
        counts = (y != self.padding).to(losses.dtype)
        for w in weight:
            counts = counts * (w.view(-1, *[1] * (y.ndim - 1)) if w.ndim == 1 else w)
        return losses, counts

    # Training -------------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse texts that are padded with another token, or do not end.

        Raises:
            ValueError: They are, or the data have another vocabulary than the model.
        """
        data = getattr(self.trainer, "datamodule", None)
        for name in VOCABULARIES:
            if (vocabulary := getattr(data, name, None)) is None:
                continue
            if vocabulary["padding"] != self.padding:
                raise ValueError(
                    f"padding is {self.padding}, but the {spelled(name)} of {type(data).__name__} has {vocabulary['padding']}: "
                    f"leave padding out on the command line, or build the model with padding={vocabulary['padding']}"
                )
            if vocabulary.get("end") is None:
                raise ValueError(
                    f"the {spelled(name)} of {type(data).__name__} has no end token, after which a text begins and with which it "
                    "ends: give it one"
                )
        super().setup(stage)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Check tokens in the first epoch: on a GPU a wrong one would be an unreadable assert."""
        parts = self.token_parts(batch)
        if self.trainer.current_epoch == 0:
            for name, part, argument in parts:
                size, (lowest, highest) = self.hparams[argument], (int(n) for n in part.aminmax())
                if lowest < 0 or highest >= size:
                    raise ValueError(
                        f"tokens of {name} must lie in 0..{size - 1} for {argument}={size}, got {lowest}..{highest}"
                    )

    def forcing_ratio(self, step: int) -> float:
        """Return the probability that the decoder reads a true token, at a step of the optimizer."""
        h = self.hparams
        start, end, k = h["teacher_forcing"], h["forcing_end"], h["forcing_steps"]
        if h["forcing_schedule"] == "constant":
            return float(start)
        share = {
            "linear": max(0.0, 1 - step / k),
            "exponential": math.exp(-step / k),
            "inverse_sigmoid": k / (k + math.exp(min(step / k, 700.0))),
        }[h["forcing_schedule"]]
        return float(end + (start - end) * share)

    def _ratio(self) -> float:
        """Return the probability that the decoder reads a true token, at this step of the optimizer."""
        return self.forcing_ratio(self.trainer.global_step if is_fitting(self) else 0)

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return the mean cross-entropy in nats, and the number of tokens that count."""
        x, y, *weight = batch
        ratio = self._ratio()
        logits = self(x) if ratio == 1 else self._sampled(x, ratio)
        loss, count = weighted_mean(*self._losses(logits, y, weight, self.hparams["label_smoothing"]))
        return loss, {"loss": loss}, count

    @abstractmethod
    def _sampled(self, x: Any, ratio: float) -> Tensor:
        """The logits where the decoder reads true tokens with a probability, and else what it would write."""

    def stepped(self, state: Any, target: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Go through targets step by step, reading true tokens or what the net would write.

        Args:
            state: The net's state before the first token.
            target: What the decoder reads, int64 ``(N, T)``; the first token of each is always read.
            true: Where it reads that, not what it would write, bool ``(N, T)``.

        Returns:
            The logits ``(N, T, V)``, and what was read ``(N, T)``.
        """
        net: Any = self.net
        forbidden = target.new_tensor(self.forbidden())
        tokens, steps, read = target[:, 0], list[Tensor](), list[Tensor]()
        for t in range(target.shape[1]):
            if t:
                written = steps[-1].detach().index_fill(1, forbidden, -math.inf).argmax(dim=1)
                tokens = torch.where(true[:, t], target[:, t], written)
            logits, state = net.step(tokens, state)
            steps.append(logits)
            read.append(tokens)
        return torch.stack(steps, dim=1), torch.stack(read, dim=1)  # (N, V) T times -> (N, T, V)

    # Evaluation -----------------------------------------------------------------------------------------------------

    def build_metrics(self) -> dict[str, Metric]:
        """Return loss, perplexity and accuracy, and metrics of the texts that the net writes."""
        dtype = exact_dtype(self.mean.device)
        written = {} if missing_parts(self.net) else self.written_metrics()
        return {"loss": NatsPer(dtype), "perplexity": Perplexity(dtype), "acc": Accuracy(), **written}

    def diagnostic_numbers(self, batch: Any) -> dict[str, float]:
        """Return what tells whether the net reads and whether it can do without the true text.

        ``attention_movement``: by how much of its weight attention differs from one step of a text to the next, half the sum of the
        absolute differences. ``forced_accuracy`` and ``written_accuracy``: share of the tokens that are right where the true ones
        are read, and where the net reads its own.
        """
        x, y, *_ = batch
        y = y if y.ndim == 2 else y[:, 0]  # the first of several captions
        known = y != self.padding
        numbers: dict[str, float] = {}
        if self.has_attention:
            weights = self.attention(x)
            weights = weights if weights.ndim == 3 else weights[:, 0]  # (B, T, S)
            moved = (weights[:, 1:] - weights[:, :-1]).abs().sum(dim=2) / 2
            steps = known[:, 1:]
            if steps.any():
                numbers["attention_movement"] = float(moved[steps].double().mean())
        if not missing_parts(self.net) and known.any():
            logits = self(x)
            forced = (logits if logits.ndim == 3 else logits[:, 0]).argmax(dim=-1)
            made = self._write(*self._start(batch), beam=1).tokens[:, 0, : y.shape[1]]
            made = F.pad(made, (0, y.shape[1] - made.shape[1]), value=self.padding)
            for name, tokens in (("forced", forced), ("written", made)):
                numbers[f"{name}_accuracy"] = float((tokens == y)[known].double().mean())
        return numbers

    def _update_forced(self, metrics: dict[str, Metric], logits: Tensor, y: Tensor, weight: Sequence[Tensor]) -> Tensor:
        """Add targets that are read as they are to the metrics of them; return the weights of their tokens ``(..., T)``."""
        losses, counts = self._losses(_at_least_float32(logits), y, weight)
        nats = counted(losses, counts)
        for name in ("loss", "perplexity"):
            metrics[name].update(nats, torch.ones_like(nats, dtype=torch.long))
        metrics["acc"].update(logits.argmax(dim=-1), y.masked_fill(counts == 0, IGNORED))
        return counts

    # Writing --------------------------------------------------------------------------------------------------------

    def longest(self, max_length: int | None = None) -> int:
        """Return the largest number of tokens of a written text: as given, or else ``max_length``, see the class."""
        most = max_length if max_length is not None else self.hparams["max_length"]
        known = getattr(self.net, "max_length", None)
        if most is None:
            target = self.longest_target()
            most = LONGEST if target is None else 2 * target
            return int(most if known is None else min(most, known))
        if known is not None and most > known:
            raise ValueError(f"max_length is {most}, and the net reads {known} tokens of a target at most: lower it")
        return int(most)

    def forbidden(self) -> list[int]:
        """Return the tokens that are never written: padding, and the one that stands for unknown words."""
        unknown = None if self.vocabulary is None else self.tokenizer.unknown
        return [self.padding] if unknown is None else [self.padding, unknown]

    def _write(
        self,
        given: Any,
        start: Tensor,
        beam: int | None = None,
        best: int = 1,
        max_length: int | None = None,
    ) -> decoding.Decoded:
        """Return the best texts that the net writes: tokens ``(B, N, T)``, lengths and scores ``(B, N)``.

        Args:
            given, start: See :meth:`_start`.
            beam, best, max_length: See :meth:`predict_step`.
        """
        beam = self.hparams["beam"] if beam is None else beam
        if not 1 <= best <= max(1, beam) or beam < 1:
            raise ValueError(f"beam must be 1 or more, and best in 1..beam, got beam={beam}, best={best}")
        arguments = self._arguments(given, start, max_length)
        if beam == 1:
            made = decoding.greedy(**arguments)
            return decoding.Decoded(*(part.unsqueeze(1) for part in made))  # (B, ...) -> (B, 1, ...)
        return decoding.beam_search(**arguments, beam=beam, best=best, with_greedy=True)

    def _arguments(self, given: Any, start: Tensor, max_length: int | None = None) -> dict[str, Any]:
        """Return arguments of :mod:`zoo.decoding`, see :meth:`_write`."""
        net: Any = self.net
        if missing := missing_parts(net):
            raise TypeError(f"to write text, {type(net).__name__} needs {missing[0]}, see zoo.EncoderDecoder")
        with evaluating(self):
            state = self.encoded(given)
        common = {"end": self._end(start), "padding": self.padding, "forbid": self.forbidden()}
        return {"net": net, "state": state, "start": start, "max_length": self.longest(max_length), **common}

    def _end(self, start: Tensor) -> int:
        """Return the end token: that of the vocabulary; without one, that which texts begin after."""
        known = None if self.vocabulary is None else self.tokenizer.end
        return int(start[0]) if known is None else known

    def text_of(self, tokens: Sequence[int], vocabulary: str = "vocabulary", end: int | None = None) -> str:
        """Return tokens up to their end as text; as numbers if the model has no such vocabulary.

        Args:
            tokens: Tokens of one text.
            vocabulary: "vocabulary" or "source_vocabulary".
            end: The end token; None: that of the vocabulary.
        """
        known = None if getattr(self, vocabulary) is None else self._described(vocabulary)
        stops = {self.padding, end if known is None or end is not None else known.end}
        row = list(takewhile(lambda token: token not in stops, tokens))
        return " ".join(map(str, row)) if known is None else known.decode(row)

    def predict_step(
        self, batch: Any, batch_idx: int = 0, beam: int | None = None, best: int = 1, max_length: int | None = None
    ) -> dict[str, Any]:
        """Return what the net writes about what it reads.

        Args:
            batch: As in training, of which the targets are not looked at; or what is read alone.
            batch_idx: Not used.
            beam: Number of hypotheses; None: that of the model. 1: the most probable token at each step. Otherwise that text is
                always among those that are compared, so no score is below its.
            best: Number N of texts about each example, 1 to ``beam``.
            max_length: Largest number of tokens of a text, with its end; None: that of the model.

        Returns:
            ``text``, the best of each example; ``texts``, the N best, best first; ``scores`` ``(B, N)``, the mean log-probability
            of their tokens in nats, ``-inf`` where a beam has found fewer than N; ``tokens`` ``(B, N, T)``.
        """
        given, start = self._start(batch)
        made = self._write(given, start, beam, best, max_length)
        end = self._end(start)
        texts = [[self.text_of(row, end=end) for row in rows] for rows in made.tokens.tolist()]
        return {"text": [rows[0] for rows in texts], "texts": texts, "scores": made.scores, "tokens": made.tokens}

    def _labels(self, tokens: Sequence[int], vocabulary: str = "vocabulary") -> list[str]:
        """Return what each token stands for; padding is left out."""
        real = [token for token in tokens if token != self.padding]
        if getattr(self, vocabulary) is None:
            return [str(token) for token in real]
        known = self._described(vocabulary)
        return ["<end>" if token == known.end else known.decode([token]) for token in real]

    def _read_again(self, start: Tensor, tokens: Tensor) -> Tensor:
        """Return what a decoder reads that writes tokens, int64 ``(B, T)``: each after the one before it."""
        ended = (tokens == self._end(start)).cumsum(dim=1) > 0
        return torch.cat([start[:, None], tokens[:, :-1].masked_fill(ended[:, :-1], self.padding)], dim=1)


def missing_parts(net: Any) -> list[str]:
    """Return what a net lacks for writing texts step by step."""
    return [name for name in ("encode", "step") if not hasattr(net, name)]


def uniform_rows(seeds: Tensor, count: int) -> Tensor:
    """Return numbers in [0, 1) from a stream of each row: int64 seeds ``(B,)`` -> ``(B, count)``.

    The first numbers of a row depend neither on their count nor on other rows, so they are the same however examples are cut into
    batches and padded.
    """
    return ((streams(seeds, count) >> 40) & 0xFFFFFF).float() / 2**24


def streams(seeds: Tensor, count: int) -> Tensor:
    """Return integers of 64 bits from a stream of each row: int64 seeds ``(B,)`` -> ``(B, count)``.

    The streams are those of SplitMix64 (Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators").
    """
    place = torch.arange(1, count + 1, device=seeds.device)
    z = seeds[:, None] + place * -0x61C8864680B583EB  # integers overflow: arithmetic modulo 2^64
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return z


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))

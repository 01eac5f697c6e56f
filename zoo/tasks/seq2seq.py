"""Sequence to sequence: read one text and write another, token by token."""

import math
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any, Literal, Unpack, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from zoo import decoding
from zoo.blocks.modes import evaluating
from zoo.blocks.pairs import SentencePair
from zoo.blocks.vocabulary import Vocabulary
from zoo.decoding.sampling import seeds_of
from zoo.drawing.figures import attention_maps
from zoo.internals import is_fitting
from zoo.losses.means import counted, weighted_mean
from zoo.metrics.labels import IGNORED, Accuracy
from zoo.metrics.pixels import exact_dtype
from zoo.metrics.texts import text_metrics
from zoo.metrics.tokens import NatsPer, Perplexity
from zoo.model import VOCABULARIES, Makes, Reads, spelled
from zoo.tasks.base import Task, TaskArguments, input_of

Schedule = Literal["constant", "linear", "exponential", "inverse_sigmoid"]
EXAMPLE_LENGTH = 16  # tokens of an example where no data told theirs
LONGEST = 100  # tokens of a written text where no data told theirs
SHOWN, DRAWN = 8, 4  # texts that are shown in evaluation, those of them whose attention is drawn
FORCED = ("loss", "perplexity", "acc")  # metrics of targets that are read as they are


class Seq2SeqArguments(TaskArguments, total=False):
    """Arguments of :class:`Seq2SeqTask` but the net and its sizes, for ``**task: Unpack[Seq2SeqArguments]``."""

    label_smoothing: float
    teacher_forcing: float
    forcing_schedule: Schedule
    forcing_end: float
    forcing_steps: float
    beam: int
    max_length: int | None


class Seq2SeqTask(Task):
    """Train a net that reads one text and writes another, such as its translation.

    The loss is the cross-entropy in nats a token, a mean over all tokens of the targets, their end tokens included. Evaluation logs
    ``loss``, ``perplexity`` (its exponential) and ``acc`` (share of tokens that are predicted right) of targets that are read as
    they are ("teacher forcing"); and of texts that the net writes by itself ``exact``, the share that is the target, ``bleu1`` to
    ``bleu4`` and ``chrf``, see :mod:`zoo.metrics.texts`.

    Scheduled sampling (Bengio et al. 2015, "Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks",
    arXiv:1506.03099): in training, each token that the decoder reads is the true one with a probability, the ratio, and otherwise
    the most probable one after the token before. At step i of the optimizer the ratio is ``end + (start - end) f(i)``, with
    ``start = teacher_forcing``, ``end = forcing_end``, k = ``forcing_steps`` and f(i) = 1 for "constant", max(0, 1 - i / k) for
    "linear", exp(-i / k) for "exponential", and k / (k + exp(i / k)) for "inverse_sigmoid". With a ratio of 1 whole targets are
    read at once; otherwise the net goes through them step by step, with gradients, but none through the choice of a token.

    Args:
        net: Reads a :class:`zoo.SentencePair` and gives logits ``(B, T, V)``. To write text it needs ``encode``, ``step`` and, for
            beam search, ``reorder_state``, see :class:`zoo.EncoderDecoder`.
        source_vocab_size: Number of tokens of the sources; on the command line the data fill it in.
        vocab_size: Number of tokens V of the targets; on the command line the data fill it in.
        padding: Token that pads sources and targets at their end; on the command line the data fill it in.
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

    Shape:
        batch: ``(x, y)`` or ``(x, y, weight)``: x a :class:`zoo.SentencePair`, y int64 ``(B, T)``, weight ``(B,)`` or ``(B, T)``.

    Raises:
        ValueError: An argument out of its range, or a ratio below 1 for a net that does not go step by step.
    """

    sample_options = ("prompt", "temperature", "top_k", "top_p", "min_p", "tokens")
    output_meaning = "log-probabilities of the next token of the target (B, T, V), in nats"
    causal = "target"
    _read_by: dict[str, tuple[dict[str, Any], Vocabulary]] | None = None  # descriptions, and what was made of them

    def __init__(
        self,
        net: nn.Module,
        source_vocab_size: int = 256,
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
        for name, size in (("source_vocab_size", source_vocab_size), ("vocab_size", vocab_size)):
            if size < 2:
                raise ValueError(f"{name} must be 2 or more, got {size}")
            if not 0 <= padding < size:
                raise ValueError(
                    f"padding must be a token of both texts, 0..{size - 1} for {name}={size}, got {padding}"
                )
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
        if not forced and (missing := _missing(net)):
            raise ValueError(
                f"scheduled sampling goes step by step, for which {type(net).__name__} needs {missing[0]}, see "
                "zoo.EncoderDecoder: define it, or set teacher_forcing=1 and forcing_schedule='constant'"
            )
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
        return ("translation",)

    @property
    def predict_options(self) -> tuple[str, ...]:
        """Options of ``zoo predict``; attention can be drawn where the net has some."""
        return ("beam", "best", *(("attention",) if self.has_attention else ()))

    @property
    def vocab_size(self) -> int:
        return int(self.hparams["vocab_size"])

    @property
    def source_vocab_size(self) -> int:
        return int(self.hparams["source_vocab_size"])

    @property
    def padding(self) -> int:
        """Index of the token that pads sources and targets at their end."""
        return int(self.hparams["padding"])

    @property
    def has_attention(self) -> bool:
        """Whether the net tells which tokens of the source it looks at."""
        return hasattr(self.net, "attention") and bool(getattr(self.net, "has_attention", True))

    @property
    def tokenizer(self) -> Vocabulary:
        """The vocabulary of the targets, which are written.

        Raises:
            ValueError: The model has none yet.
        """
        return self._described("vocabulary")

    @property
    def source_tokenizer(self) -> Vocabulary:
        """The vocabulary of the sources, which are read.

        Raises:
            ValueError: The model has none yet.
        """
        return self._described("source_vocabulary")

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

    def example_inputs(self, batch_size: int = 1) -> tuple[SentencePair]:
        """Return pairs of texts of a token that pads nothing."""
        lengths = self.input_shape or (EXAMPLE_LENGTH, EXAMPLE_LENGTH)
        token = int(self.padding == 0)
        return (SentencePair(*(torch.full((batch_size, n), token, device=self.mean.device) for n in lengths)),)

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

    def forward(self, x: Any) -> Tensor:
        """Return the logits ``(B, T, V)`` of the token after each of the target."""
        logits: Tensor = self.net(x)
        return logits

    def outputs(self, x: Any) -> dict[str, Tensor]:
        """Return ``log_probabilities`` of the next token of the target, ``(B, T, V)``, in nats."""
        return {"log_probabilities": _at_least_float32(self(x)).log_softmax(dim=-1)}

    def attention(self, x: Any) -> Tensor:
        """Return how much each step of the target looks at each token of the source, ``(B, T, S)``.

        Raises:
            TypeError: The net has no attention.
        """
        if not self.has_attention:
            raise TypeError(f"this {type(self.net).__name__} has no attention that could be shown")
        net: Any = self.net
        weights: Tensor = net.attention(x)
        return weights

    def _losses(
        self, logits: Tensor, y: Tensor, weight: Sequence[Tensor], label_smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """The loss of each token in nats and its weight, ``(B, T)`` each."""
        losses = F.cross_entropy(
            logits.flatten(0, 1), y.flatten(), reduction="none", label_smoothing=label_smoothing
        ).view(y.shape)
        counts = (y != self.padding).to(losses.dtype)
        for w in weight:
            counts = counts * (w[:, None] if w.ndim == 1 else w)
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
        x, y = batch[0], batch[1]
        if not hasattr(x, "source"):
            raise TypeError(
                f"x of a batch must be a zoo.SentencePair of source and target, got a {type(x).__name__}: take data such as "
                "datamodules.SentencePairsDataModule"
            )
        if self.trainer.current_epoch == 0:
            for name, part in (("source", x.source), ("target", x.target), ("y", y)):
                argument = "source_vocab_size" if name == "source" else "vocab_size"
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

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return the mean cross-entropy in nats, and the number of tokens that count."""
        x, y, *weight = batch
        ratio = self.forcing_ratio(self.trainer.global_step if is_fitting(self) else 0)
        logits = self(x) if ratio == 1 else self._sampled(x, ratio)
        smoothing = self.hparams["label_smoothing"]
        loss, count = weighted_mean(*self._losses(logits, y, weight, smoothing))
        return loss, {"loss": loss}, count

    def _sampled(self, x: Any, ratio: float) -> Tensor:
        """The logits where the decoder reads true tokens with a probability, and else what it would write."""
        net: Any = self.net
        target, steps = x.target, list[Tensor]()
        padding = target.new_tensor([self.padding])
        seeds = torch.randint(2**62, (len(target),), device=target.device)
        true = uniform_rows(seeds, target.shape[1]) < ratio  # (B, T)
        state, tokens = net.encode(x.source), target[:, 0]
        for t in range(target.shape[1]):
            if t:
                written = steps[-1].detach().index_fill(1, padding, -math.inf).argmax(dim=1)
                tokens = torch.where(true[:, t], target[:, t], written)
            logits, state = net.step(tokens, state)
            steps.append(logits)
        return torch.stack(steps, dim=1)  # (B, V) T times -> (B, T, V)

    # Evaluation -----------------------------------------------------------------------------------------------------

    def build_metrics(self) -> dict[str, Metric]:
        """Return loss, perplexity and accuracy, and metrics of the texts that the net writes."""
        dtype = exact_dtype(self.mean.device)
        written = {} if _missing(self.net) else text_metrics()
        return {"loss": NatsPer(dtype), "perplexity": Perplexity(dtype), "acc": Accuracy(), **written}

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        x, y, *weight = batch
        logits = self(x)
        losses, counts = self._losses(_at_least_float32(logits), y, weight)
        nats = counted(losses, counts)
        for name in ("loss", "perplexity"):
            metrics[name].update(nats, torch.ones_like(nats, dtype=torch.long))
        metrics["acc"].update(logits.argmax(dim=2), y.masked_fill(counts == 0, IGNORED))
        rows = (counts > 0).any(dim=1)
        if "exact" in metrics and rows.any():
            written = {name: metric for name, metric in metrics.items() if name not in FORCED}
            self._update_written(written, x.source[rows], x.target[rows, 0], y[rows])

    def _update_written(self, metrics: dict[str, Metric], source: Tensor, start: Tensor, y: Tensor) -> None:
        """Add texts that the net writes by itself to metrics of texts."""
        end, made = self._end(start), self._write(source, start).tokens[:, 0]
        predictions, references = ([self.text_of(row, end=end) for row in rows.tolist()] for rows in (made, y))
        for metric in metrics.values():
            metric.update(predictions, references)

    # Writing --------------------------------------------------------------------------------------------------------

    def longest(self, max_length: int | None = None) -> int:
        """Return the largest number of tokens of a written text: as given, or else ``max_length``, see the class."""
        most = max_length if max_length is not None else self.hparams["max_length"]
        known = getattr(self.net, "max_length", None)
        if most is None:
            most = LONGEST if self.input_shape is None else 2 * self.input_shape[1]
            return int(most if known is None else min(most, known))
        if known is not None and most > known:
            raise ValueError(f"max_length is {most}, and the net reads {known} tokens of a target at most: lower it")
        return int(most)

    def _write(
        self,
        source: Tensor,
        start: Tensor,
        beam: int | None = None,
        best: int = 1,
        max_length: int | None = None,
    ) -> decoding.Decoded:
        """The best texts that the net writes: tokens ``(B, N, T)``, lengths and scores ``(B, N)``."""
        beam = self.hparams["beam"] if beam is None else beam
        if not 1 <= best <= max(1, beam) or beam < 1:
            raise ValueError(f"beam must be 1 or more, and best in 1..beam, got beam={beam}, best={best}")
        given = self._arguments(source, start, max_length)
        if beam == 1:
            made = decoding.greedy(**given)
            return decoding.Decoded(*(part.unsqueeze(1) for part in made))  # (B, ...) -> (B, 1, ...)
        return decoding.beam_search(**given, beam=beam, best=best, with_greedy=True)

    def _arguments(self, source: Tensor, start: Tensor, max_length: int | None = None) -> dict[str, Any]:
        """Arguments of :mod:`zoo.decoding`."""
        net: Any = self.net
        if missing := _missing(net):
            raise TypeError(f"to write text, {type(net).__name__} needs {missing[0]}, see zoo.EncoderDecoder")
        with evaluating(self):
            state = net.encode(source)
        common = {"end": self._end(start), "padding": self.padding, "forbid": [self.padding]}
        return {"net": net, "state": state, "start": start, "max_length": self.longest(max_length), **common}

    def batch_of(self, texts: Sequence[str]) -> Tensor:
        """Return texts as the tokens of sources, as :meth:`predict_step` takes them: int64 ``(B, S)``, each with its end, padded.

        Raises:
            ValueError: A text that cannot be read, an empty one, or one that is longer than the net can read.
        """
        vocabulary, most = self.source_tokenizer, getattr(self.net, "max_source_length", None)
        rows = []
        for i, text in enumerate(texts):
            which = f"text {i + 1}" if len(texts) > 1 else "the text"
            tokens = vocabulary.encode(text)
            if not tokens:
                raise ValueError(f"{which} is empty: there is nothing to read in it")
            if most is not None and len(tokens) + 1 > most:
                raise ValueError(
                    f"{which} has {len(tokens)} tokens, and the net reads {most - 1} at most, and the end: give a shorter one"
                )
            rows.append(torch.tensor([*tokens, vocabulary.end]))
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.padding)
        return padded.to(self.mean.device)

    def _start(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Sources of a batch, and the tokens that their translations begin after."""
        x = input_of(batch)
        if hasattr(x, "source"):
            return x.source, x.target[:, 0]
        return x, torch.full((len(x),), self.tokenizer.end or 0, device=x.device)

    def _end(self, start: Tensor) -> int:
        """The end token: that of the vocabulary; without one, that which texts begin after."""
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
        """Return what the net writes for sources.

        Args:
            batch: As in training, of which only the sources are read; or of :meth:`batch_of`: tokens ``(B, S)``.
            batch_idx: Not used.
            beam: Number of hypotheses; None: that of the model. 1: the most probable token at each step. Otherwise that text is
                always among those that are compared, so no score is below its.
            best: Number N of texts for each source, 1 to ``beam``.
            max_length: Largest number of tokens of a text, with its end; None: that of the model.

        Returns:
            ``text``, the best of each source; ``texts``, the N best, best first; ``scores`` ``(B, N)``, the mean log-probability of
            their tokens in nats, ``-inf`` where a beam has found fewer than N; ``tokens`` ``(B, N, T)``.
        """
        source, start = self._start(batch)
        made = self._write(source, start, beam, best, max_length)
        end = self._end(start)
        texts = [[self.text_of(row, end=end) for row in rows] for rows in made.tokens.tolist()]
        return {"text": [rows[0] for rows in texts], "texts": texts, "scores": made.scores, "tokens": made.tokens}

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
        """Draw translations of one text.

        Args:
            count: Number of texts, >= 1.
            seed: Seed of the draws.
            prompt: The text that is translated.
            temperature, top_k, top_p, min_p: See :func:`zoo.decoding.sample`.
            tokens: Largest number of tokens of a text, >= 1; None: that of the model.

        Raises:
            ValueError: An argument out of its range, or a prompt that cannot be read.
        """
        filters: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        made = decoding.sample(**self._drawn(prompt, count, tokens), seed=seed, **filters)
        return [self.text_of(row) for row in made.tokens.tolist()]

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
        seeds = seeds_of(seed, index + 1)[-1:]
        drawn = decoding.stream(**self._drawn(prompt, 1, tokens), seed=seeds, **filters)
        return self.tokenizer.stream(int(token) for token in drawn)

    def _drawn(self, prompt: str, count: int, tokens: int | None) -> dict[str, Any]:
        """Arguments of :func:`zoo.decoding.sample`, without those of the draws."""
        if count < 1 or (tokens is not None and tokens < 1):
            raise ValueError(f"count and tokens must be 1 or more, got count={count}, tokens={tokens}")
        if not prompt:
            raise ValueError("there is nothing to translate: give a text as the prompt")
        source, start = self._start(self.batch_of([prompt]))
        return self._arguments(source.expand(count, -1), start.expand(count).contiguous(), tokens)

    # Pictures -------------------------------------------------------------------------------------------------------

    def draw_attention(self, batch: Any, tokens: Tensor) -> Tensor:
        """Draw where the net looks in sources as it writes texts: an image ``(3, H, W)``, with a heat map for each.

        Args:
            batch: Sources, as :meth:`predict_step` takes them.
            tokens: The tokens that are written, with their ends, padded, ``(B, T)``.

        Raises:
            TypeError: The net has no attention.
        """
        source, start = self._start(batch)
        ended = (tokens == self._end(start)).cumsum(dim=1) > 0
        target = torch.cat([start[:, None], tokens[:, :-1].masked_fill(ended[:, :-1], self.padding)], dim=1)
        with evaluating(self):
            weights = self.attention(SentencePair(source, target)).float().cpu()
        maps, sources, targets = [], [], []
        for read, written, part in zip(source.tolist(), tokens.tolist(), weights, strict=True):
            sources.append(self._labels(read, "source_vocabulary"))
            targets.append(self._labels(written, "vocabulary"))
            maps.append(part[: len(targets[-1]), : len(sources[-1])])
        return attention_maps(maps, sources, targets)

    def _labels(self, tokens: Sequence[int], vocabulary: str) -> list[str]:
        """What each token stands for; padding is left out."""
        real = [token for token in tokens if token != self.padding]
        if getattr(self, vocabulary) is None:
            return [str(token) for token in real]
        known = self._described(vocabulary)
        return ["<end>" if token == known.end else known.decode([token]) for token in real]

    def render(self, batch: Any) -> dict[str, Any]:
        """Return a table of sources, targets and what the net writes, and where it looks as it writes the first of them."""
        x, y = batch[0], batch[1]
        if _missing(self.net):
            return {}
        source, start, y = x.source[:SHOWN], x.target[:SHOWN, 0], y[:SHOWN]
        end, made = self._end(start), self._write(source, start).tokens[:, 0]
        columns = [
            [self.text_of(row, "source_vocabulary", end) for row in source.tolist()],
            *([self.text_of(row, end=end) for row in part.tolist()] for part in (y, made)),
        ]
        shown: dict[str, Any] = {"texts": [["source", "target", "written"], *map(list, zip(*columns, strict=True))]}
        if self.has_attention:
            first = SentencePair(source[:DRAWN], x.target[:DRAWN])
            shown["attention"] = self.draw_attention(first, made[:DRAWN])
        return shown


def _missing(net: Any) -> list[str]:
    """What a net lacks for writing texts step by step."""
    return [name for name in ("encode", "step") if not hasattr(net, name)]


def uniform_rows(seeds: Tensor, count: int) -> Tensor:
    """Return numbers in [0, 1) from a stream of each row: int64 seeds ``(B,)`` -> ``(B, count)``.

    The first numbers of a row depend neither on their count nor on other rows, so they are the same however examples are cut into
    batches and padded. The streams are those of SplitMix64 (Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators").
    """
    place = torch.arange(1, count + 1, device=seeds.device)
    z = seeds[:, None] + place * -0x61C8864680B583EB  # integers overflow: arithmetic modulo 2^64
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return ((z >> 40) & 0xFFFFFF).float() / 2**24


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))

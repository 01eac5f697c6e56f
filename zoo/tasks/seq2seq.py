"""Sequence to sequence: read one text and write another, token by token."""

from collections.abc import Iterator, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from zoo import decoding
from zoo.blocks.modes import evaluating
from zoo.blocks.pairs import SentencePair
from zoo.blocks.vocabulary import Vocabulary
from zoo.decoding.sampling import seeds_of
from zoo.drawing.figures import attention_maps
from zoo.metrics.texts import text_metrics
from zoo.model import Makes, Reads
from zoo.tasks.base import input_of
from zoo.tasks.writing import FORCED, WritingArguments, WritingTask, missing_parts, uniform_rows

EXAMPLE_LENGTH = 16  # tokens of an example where no data told theirs
SHOWN, DRAWN = 8, 4  # texts that are shown in evaluation, those of them whose attention is drawn


class Seq2SeqArguments(WritingArguments, total=False):
    """Arguments of :class:`Seq2SeqTask` but the net and its sizes, for ``**task: Unpack[Seq2SeqArguments]``."""


class Seq2SeqTask(WritingTask):
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

    def __init__(
        self,
        net: nn.Module,
        source_vocab_size: int = 256,
        vocab_size: int = 256,
        padding: int = 0,
        **task: Unpack[WritingArguments],
    ) -> None:
        for name, size in (("source_vocab_size", source_vocab_size), ("vocab_size", vocab_size)):
            if size < 2:
                raise ValueError(f"{name} must be 2 or more, got {size}")
            if not 0 <= padding < size:
                raise ValueError(
                    f"padding must be a token of both texts, 0..{size - 1} for {name}={size}, got {padding}"
                )
        super().__init__(net, vocab_size, padding, **task)

    @property
    def reads(self) -> Reads:
        return "text"

    @property
    def samples(self) -> Makes:
        return "text"

    @property
    def learns(self) -> tuple[str, ...]:
        return ("translation",)

    @property
    def source_vocab_size(self) -> int:
        return int(self.hparams["source_vocab_size"])

    @property
    def source_tokenizer(self) -> Vocabulary:
        """The vocabulary of the sources, which are read.

        Raises:
            ValueError: The model has none yet.
        """
        return self._described("source_vocabulary")

    def example_inputs(self, batch_size: int = 1) -> tuple[SentencePair]:
        """Return pairs of texts of a token that pads nothing."""
        lengths = self.input_shape or (EXAMPLE_LENGTH, EXAMPLE_LENGTH)
        token = int(self.padding == 0)
        return (SentencePair(*(torch.full((batch_size, n), token, device=self.mean.device) for n in lengths)),)

    # The forward pass -----------------------------------------------------------------------------------------------

    def forward(self, x: Any) -> Tensor:
        """Return the logits ``(B, T, V)`` of the token after each of the target."""
        logits: Tensor = self.net(x)
        return logits

    # Training -------------------------------------------------------------------------------------------------------

    def token_parts(self, batch: Any) -> list[tuple[str, Tensor, str]]:
        x, y = batch[0], batch[1]
        if not hasattr(x, "source"):
            raise TypeError(
                f"x of a batch must be a zoo.SentencePair of source and target, got a {type(x).__name__}: take data such as "
                "datamodules.SentencePairsDataModule"
            )
        return [
            ("source", x.source, "source_vocab_size"),
            ("target", x.target, "vocab_size"),
            ("y", y, "vocab_size"),
        ]

    def _sampled(self, x: Any, ratio: float) -> Tensor:
        seeds = torch.randint(2**62, (len(x.target),), device=x.target.device)
        true = uniform_rows(seeds, x.target.shape[1]) < ratio  # (B, T)
        return self.stepped(self.encoded(x.source), x.target, true)[0]

    # Evaluation -----------------------------------------------------------------------------------------------------

    def written_metrics(self) -> dict[str, Metric]:
        return text_metrics()

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        x, y, *weight = batch
        rows = (self._update_forced(metrics, self(x), y, weight) > 0).any(dim=1)
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

    def longest_target(self) -> int | None:
        return None if self.input_shape is None else self.input_shape[1]

    def _start(self, batch: Any) -> tuple[Tensor, Tensor]:
        x = input_of(batch)
        if hasattr(x, "source"):
            return x.source, x.target[:, 0]
        return x, torch.full((len(x),), self.tokenizer.end or 0, device=x.device)

    def encoded(self, given: Any) -> Any:
        net: Any = self.net
        return net.encode(given)

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
        with evaluating(self):
            weights = self.attention(SentencePair(source, self._read_again(start, tokens))).float().cpu()
        maps, sources, targets = [], [], []
        for read, written, part in zip(source.tolist(), tokens.tolist(), weights, strict=True):
            sources.append(self._labels(read, "source_vocabulary"))
            targets.append(self._labels(written))
            maps.append(part[: len(targets[-1]), : len(sources[-1])])
        return attention_maps(maps, sources, targets)

    def render(self, batch: Any) -> dict[str, Any]:
        """Return a table of sources, targets and what the net writes, and where it looks as it writes the first of them."""
        x, y = batch[0], batch[1]
        if missing_parts(self.net):
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

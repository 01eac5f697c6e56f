"""Captioning: read an image and write what is in it, token by token."""

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from zoo.blocks.modes import evaluating
from zoo.blocks.pairs import CaptionedImage
from zoo.drawing.captions import captioned_images, word_maps
from zoo.internals import has_trainer
from zoo.losses.means import weighted_mean
from zoo.metrics.captions import caption_metrics
from zoo.model import Reads
from zoo.tasks.base import input_of
from zoo.tasks.writing import FORCED, WritingArguments, WritingTask, missing_parts, streams, uniform_rows

EXAMPLE_LENGTH = 16  # tokens of an example where no data told theirs
SHOWN, DRAWN = 18, 4  # images that are shown in evaluation, those of them whose attention is drawn


class CaptioningArguments(WritingArguments, total=False):
    """Arguments of :class:`CaptioningTask` but the net and its sizes, for ``**task: Unpack[CaptioningArguments]``."""

    attention_penalty: float


class CaptioningTask(WritingTask):
    """Train a net that writes captions of images.

    An image may have several captions, R in a batch: all are learned, and the image is encoded once. The loss is the cross-entropy
    in nats a token, a mean over all tokens of all captions, their end tokens included. Evaluation logs ``loss``, ``perplexity``
    (its exponential) and ``acc`` (share of tokens that are predicted right) of captions that are read as they are ("teacher
    forcing"); and of the one caption that the net writes of an image ``exact``, the share that equals one of its captions,
    ``bleu1`` to ``bleu4`` and ``ciderd``, see :mod:`zoo.metrics.texts` and :class:`zoo.metrics.CIDErD`. If the datamodule has
    ``attributes``, phrases by name, there is one more metric for each name: see :class:`zoo.metrics.AttributesRight`.

    Scheduled sampling is that of :class:`zoo.Seq2SeqTask`.

    With an ``attention_penalty`` lambda the decoder is held to look at every cell of the map about equally much in the course of a
    caption (Xu et al. 2015, "Show, Attend and Tell", arXiv:1502.03044, eq. 14): each caption adds
    ``lambda sum_i (1 - sum_t a_ti)^2`` to its sum of cross-entropies, a_ti the weight of cell i at its t-th token, of which padding
    is none. The sums of all captions are divided by their tokens. It is logged as ``train/penalty``; evaluation leaves it out.

    Args:
        net: Reads a :class:`zoo.CaptionedImage` and gives logits ``(B, R, T, V)``. To write captions it needs ``encode``, ``step``
            and, for beam search, ``reorder_state``, see :class:`zoo.captioning.Captioner`, which has all.
        vocab_size: Number of tokens V of the captions; on the command line the data fill it in.
        padding: Token that pads captions at their end; on the command line the data fill it in.
        attention_penalty: Weight lambda >= 0 of the penalty, for a net with attention.
        label_smoothing: Share of the target that is spread over all tokens in training, in [0, 1).
        teacher_forcing: Ratio of teacher forcing at the beginning, in [0, 1]; 0: the decoder reads what it writes.
        forcing_schedule: How the ratio changes.
        forcing_end: Ratio that a schedule other than "constant" ends with, in [0, ``teacher_forcing``].
        forcing_steps: k of the schedule, in optimizer steps, > 0.
        beam: Number of hypotheses with which evaluation and prediction write, beside the most probable token at each step, which
            is always one; 1: that alone.
        max_length: Largest number of tokens of a written caption, with its end; None: twice as many as the longest caption of the
            data has, and never more than the net can read.
        task: Arguments of :class:`zoo.Task`.

    Attributes:
        caption_length: Number of tokens of the longest caption of the data, with its end; None before any data were seen.

    Shape:
        batch: ``(x, y)`` or ``(x, y, weight)``: x a :class:`zoo.CaptionedImage`, y int64 ``(B, R, T)``, weight ``(B,)`` or
        ``(B, R, T)``. Padding, and so an image's missing captions, counts nothing.

    Raises:
        ValueError: An argument out of its range, a ratio below 1 for a net that does not go step by step, or a penalty for one
            without attention.
    """

    output_meaning = "log-probabilities of the next token of the captions (B, R, T, V), in nats"
    causal = "caption"
    caption_length: int | None = None

    def __init__(
        self,
        net: nn.Module,
        vocab_size: int = 256,
        padding: int = 0,
        attention_penalty: float = 0.0,
        **task: Unpack[WritingArguments],
    ) -> None:
        if not attention_penalty >= 0:
            raise ValueError(f"attention_penalty must be 0 or more, got {attention_penalty}")
        looks = hasattr(net, "attention") and getattr(net, "has_attention", True)
        if attention_penalty and not (looks and hasattr(net, "read")):
            raise ValueError(
                f"attention_penalty is {attention_penalty:g}, and this {type(net).__name__} has no attention, which it would hold "
                "to look everywhere: set it to 0, or take a net with attention"
            )
        super().__init__(net, vocab_size, padding, **task)

    @property
    def reads(self) -> Reads:
        return "image"

    @property
    def learns(self) -> tuple[str, ...]:
        return ("captioning",)

    def example_inputs(self, batch_size: int = 1) -> tuple[CaptionedImage]:
        """Return black images with one caption of a token that pads nothing."""
        most = getattr(self.net, "max_length", None)
        length = self.caption_length or min(EXAMPLE_LENGTH, most or EXAMPLE_LENGTH)
        device = self.mean.device
        image = torch.zeros(batch_size, *self.example_shape, device=device, dtype=self.net_dtype)
        return (CaptionedImage(image, torch.full((batch_size, 1, length), int(self.padding == 0), device=device)),)

    # Data -----------------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse captions that the net cannot read, or cannot learn to end.

        Raises:
            ValueError: They are longer than its ``max_length``, are padded with another token, or do not end; or the data have
                another vocabulary than the model.
        """
        data = getattr(self.trainer, "datamodule", None)
        longest, most = getattr(data, "caption_length", None), getattr(self.net, "max_length", None)
        if longest is not None and most is not None and longest > most:
            raise ValueError(
                f"the longest caption of {type(data).__name__} has {longest} tokens with its end, and {type(self.net).__name__} "
                f"reads {most} at most: build it for more (max_positions={longest} of a zoo.TransformerCaptioner), or leave longer "
                f"captions out, with max_length={most} of the data"
            )
        super().setup(stage)

    def _take_from(self, data: Any) -> None:
        if (longest := getattr(data, "caption_length", None)) is not None:
            self.caption_length = int(longest)
        super()._take_from(data)

    def data_description(self) -> dict[str, Any]:
        """Return what the model remembers of its data: see :meth:`zoo.Model.data_description`; ``caption_length``."""
        return {**super().data_description(), "caption_length": self.caption_length}

    def describe_data(self, description: Mapping[str, Any]) -> None:
        """Set what :meth:`data_description` gave."""
        super().describe_data(description)
        longest = description.get("caption_length")
        self.caption_length = None if longest is None else int(longest)

    # Training -------------------------------------------------------------------------------------------------------

    def token_parts(self, batch: Any) -> list[tuple[str, Tensor, str]]:
        x, y = batch[0], batch[1]
        if not hasattr(x, "caption"):
            raise TypeError(
                f"x of a batch must be a zoo.CaptionedImage of image and caption, got a {type(x).__name__}: take data such as "
                "datamodules.CaptionFileDataModule"
            )
        if x.caption.ndim != 3 or y.shape != x.caption.shape:
            raise ValueError(
                f"captions and y must be of one shape, (B, R, T): R captions of each image, got {tuple(x.caption.shape)} and "
                f"{tuple(y.shape)}"
            )
        return [("caption", x.caption, "vocab_size"), ("y", y, "vocab_size")]

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return the mean cross-entropy in nats plus the penalty, each by itself, and the number of tokens that count."""
        penalty = self.hparams["attention_penalty"]
        if not penalty:
            return super().training_losses(batch)
        x, y, *weight = batch
        net: Any = self.net
        ratio, state, read = self._ratio(), self._states(x), x.caption.flatten(0, 1)
        stepped = None
        if ratio < 1:
            stepped, read = self.stepped(state, read, self._true(x, ratio))
        logits, looks = net.read(read, state)
        logits = (logits if stepped is None else stepped).view(*y.shape, -1)
        losses, counts = self._losses(logits, y, weight, self.hparams["label_smoothing"])
        loss, count = weighted_mean(losses, counts)
        real = (y != self.padding).to(looks.dtype)  # (B, R, T)
        seen = (looks.view(*y.shape, -1) * real[..., None]).sum(dim=2)  # (B, R, S)
        captions = counts.sum(dim=2) / real.sum(dim=2).clamp(min=1)  # (B, R): the mean weight of their tokens
        unequal = ((1 - seen).square().sum(dim=2) * captions).sum()
        added = penalty * unequal / counts.sum().clamp(min=torch.finfo(losses.dtype).tiny)
        loss = loss + added
        return loss, {"loss": loss, "penalty": added}, count

    def _states(self, x: Any) -> Any:
        """States before the first token, a row for each caption; images are encoded once."""
        net: Any = self.net
        state, (images, captions) = self.encoded(x.image), x.caption.shape[:2]
        rows = torch.arange(images, device=x.caption.device).repeat_interleave(captions)
        return state if captions == 1 else net.reorder_state(state, rows)

    def _true(self, x: Any, ratio: float) -> Tensor:
        """Where the decoder reads true tokens, bool ``(B R, T)``: each caption of an image has a stream of its own."""
        images, captions, length = x.caption.shape
        seeds = torch.randint(2**62, (images,), device=x.caption.device)
        return uniform_rows(streams(seeds, captions).flatten(), length) < ratio

    def _sampled(self, x: Any, ratio: float) -> Tensor:
        logits, _ = self.stepped(self._states(x), x.caption.flatten(0, 1), self._true(x, ratio))
        return logits.view(*x.caption.shape, -1)

    # Evaluation and writing -----------------------------------------------------------------------------------------

    def written_metrics(self) -> dict[str, Metric]:
        known = has_trainer(self) and self.vocabulary is not None  # else texts are numbers
        return caption_metrics(
            getattr(getattr(self.trainer, "datamodule", None), "attributes", None) if known else None
        )

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        x, y, *weight = batch
        counts = self._update_forced(metrics, self(x), y, weight)
        known = (counts > 0).any(dim=2)  # (B, R): captions that count
        if "exact" not in metrics or not (rows := known.any(dim=1)).any():
            return
        start = self._first(x.caption[rows])
        end = self._end(start)
        made = self._write(x.image[rows], start).tokens[:, 0]
        predictions = self._texts(made, end)
        references = [self._references(part[real], end) for part, real in zip(y[rows], known[rows], strict=True)]
        for name, metric in metrics.items():
            if name not in FORCED:
                metric.update(predictions, references)

    def _texts(self, captions: Tensor, end: int) -> list[str]:
        return [self.text_of(row, end=end) for row in captions.tolist()]

    def _references(self, captions: Tensor, end: int) -> list[str]:
        """Texts to compare with."""
        texts = self._texts(captions, end)
        return texts if self.vocabulary is None else [self.tokenizer.as_reference(text) for text in texts]

    def _first(self, caption: Tensor) -> Tensor:
        """The token that the captions of each image begin after: the end of the vocabulary, else that of any of them."""
        known = None if self.vocabulary is None else self.tokenizer.end
        if known is None:
            first = caption[:, :, 0].flatten()
            real = first[first != self.padding]
            known = int(real[0]) if len(real) else self.padding
        return caption.new_full((len(caption),), known)

    def longest_target(self) -> int | None:
        return self.caption_length

    def _start(self, batch: Any) -> tuple[Tensor, Tensor]:
        x = input_of(batch)
        if hasattr(x, "caption"):
            return x.image, self._first(x.caption)
        return x, torch.full((len(x),), self.tokenizer.end or 0, device=x.device)

    def encoded(self, given: Tensor) -> Any:
        net: Any = self.net
        return net.encode(self.standardize(given))

    # Pictures -------------------------------------------------------------------------------------------------------

    def draw_attention(self, batch: Any, tokens: Tensor) -> Tensor:
        """Draw where the net looks in images as it writes captions: an image ``(3, H, W)``, with a heat map for each word.

        Args:
            batch: Images, as :meth:`predict_step` takes them.
            tokens: The tokens that are written, with their ends, padded, ``(B, T)``.

        Raises:
            TypeError: The net has no attention, or does not tell the size of the map that it looks at.
        """
        image, start = self._start(batch)
        with evaluating(self):
            weights = (
                self.attention(CaptionedImage(image, self._read_again(start, tokens)[:, None]))[:, 0].float().cpu()
            )
        encoder: Any = getattr(self.net, "encoder", None)
        if not hasattr(encoder, "map_size"):
            raise TypeError(
                f"to draw attention, the encoder of {type(self.net).__name__} must tell the size of its map: define "
                "encoder.map_size(image), see zoo.encoders.ImageEncoder"
            )
        size, words = encoder.map_size(image), [self._labels(row) for row in tokens.tolist()]
        maps = [part[: len(text)].unflatten(1, size) for part, text in zip(weights, words, strict=True)]
        return word_maps(image, words, maps)

    def render(self, batch: Any) -> dict[str, Any]:
        """Return images with the captions that the net writes and their true ones, a table of both, and where it looks."""
        if missing_parts(self.net):
            return {}
        x, y = (part[:SHOWN] for part in (batch[0].image, batch[1]))
        start = self._first(batch[0].caption[:SHOWN])
        end, made = self._end(start), self._write(x, start).tokens[:, 0]
        written = self._texts(made, end)
        true = [self._texts(part[(part != self.padding).any(dim=1)], end) for part in y]
        most = max(1, *map(len, true))
        head = ["written", *(["true"] if most == 1 else [f"true {i}" for i in range(1, most + 1)])]
        rows = [[text, *refs, *[""] * (most - len(refs))] for text, refs in zip(written, true, strict=True)]
        shown: dict[str, Any] = {"captions": captioned_images(x, written, true), "texts": [head, *rows]}
        if self.has_attention and hasattr(getattr(self.net, "encoder", None), "map_size"):
            first = CaptionedImage(x[:DRAWN], batch[0].caption[:DRAWN])
            shown["attention"] = self.draw_attention(first, made[:DRAWN])
        return shown

"""Pairs of texts, of which the second is to be written after reading the first: a translation."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain, compress
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler
from typing_extensions import override

from datamodules.base import DataModule
from datamodules.checks import check_integer, check_share
from datamodules.examples import Examples, SentencePair
from datamodules.samplers import SimilarLengthSampler
from datamodules.splits import digest, held_out
from datamodules.texts import Tokenization, check_tokenizer, encode, ended, short_enough, size_of, vocabulary_of

Pairs = tuple[Sequence[str], Sequence[str]]  # sources, and the target of each
Tokens = tuple[list[Tensor], list[Tensor]]


class PairDataModule(DataModule):
    """Pairs of a source and a target, both as tokens. A subclass gives :meth:`examples`, vocabularies and ``input_shape``.

    Batches are ``(x, y)``. x is a :class:`~datamodules.SentencePair`: ``source`` the tokens of the source and the end, ``target``
    the end and the tokens of the target, which a decoder reads. y are the tokens of the target and the end, which it is to write,
    int64 ``(B, T)``. All are padded at the end, up to the longest of the batch. Both vocabularies have padding and end at the same
    indices.

    Args:
        similar_lengths: Whether training batches are of pairs of similar length, source and target together, so that there is
            little padding (see :class:`~datamodules.SimilarLengthSampler`).
        batch_size, num_workers, val_fraction, split_seed, drop_last: See :class:`~datamodules.DataModule`.

    Attributes:
        source_vocabulary, vocabulary: The vocabularies of sources and of targets as plain data, which a model keeps: "kind", the
            tokenizer; "tokens", None for bytes; "padding" and "end", their indices; "tokenizer", that of the library tokenizers as
            JSON, for BPE.
        input_shape: ``(S, T)``, the numbers of tokens of the longest source and of the longest target, with their ends.
    """

    kind = "translation"
    vocabulary: Mapping[str, Any]
    source_vocabulary: Mapping[str, Any]
    input_shape: tuple[int, ...]

    def __init__(
        self,
        similar_lengths: bool = True,
        batch_size: int = 64,
        num_workers: int = 0,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        drop_last: bool = True,
    ) -> None:
        super().__init__(batch_size, num_workers, val_fraction, split_seed, drop_last)
        self.similar_lengths = similar_lengths

    @property
    def vocab_size(self) -> int:
        """Number of tokens V of the targets' vocabulary, with those for padding and end."""
        return size_of(self.vocabulary)

    @property
    def source_vocab_size(self) -> int:
        """Number of tokens of the sources' vocabulary, with those for padding and end."""
        return size_of(self.source_vocabulary)

    @property
    def padding(self) -> int:
        """Index of the token that pads sources and targets at their end."""
        return int(self.vocabulary["padding"])

    @override
    def make_sampler(
        self, dataset: Examples, *, seed: int, epoch: int, start: int, num_replicas: int, rank: int
    ) -> Sampler[Any]:
        place = {"seed": seed, "epoch": epoch, "start": start, "num_replicas": num_replicas, "rank": rank}
        if not self.similar_lengths:
            return super().make_sampler(dataset, **place)
        lengths = _lengths(dataset.x, self.padding) + _lengths(dataset.y, self.padding)
        return SimilarLengthSampler(lengths, self.batch_size, drop_last=self.drop_last, **place)

    @override
    def collate(self, batch: Any) -> Any:
        """Cut the padding to the longest source and the longest target of the batch."""
        x, y, *weight = batch
        longest, written = (int(_lengths(tokens, self.padding).max()) for tokens in (x.source, y))
        return (SentencePair(x.source[:, :longest], x.target[:, :written]), y[:, :written], *weight)


class PairRows(Examples):
    """Sources ``(N, S)`` and targets ``(N, T)`` as tokens of a small type, each with its end, padded; a batch has them as int64.

    Args:
        source: Tokens of the sources.
        target: Tokens of the targets.
        source_vocabulary: Their meaning; its padding and end are those of both.
        vocabulary: That of the targets.
    """

    def __init__(
        self,
        source: Tensor,
        target: Tensor,
        source_vocabulary: Mapping[str, Any],
        vocabulary: Mapping[str, Any],
    ) -> None:
        super().__init__(source, target)
        self.vocabularies = source_vocabulary, vocabulary

    @override
    def batch(self, index: Tensor) -> tuple[Any, ...]:
        source, y = self.x[index].long(), self.y[index].long()
        padding, end = (self.vocabularies[1][name] for name in ("padding", "end"))
        target = y.roll(1, dims=1)
        target[target == end] = padding  # a decoder reads nothing after the end
        target[:, 0] = end
        return SentencePair(source, target), y

    @override
    def subset(self, chosen: Tensor) -> "PairRows":
        return PairRows(self.x[chosen], self.y[chosen], *self.vocabularies)

    @override
    def fingerprint(self, validates: Tensor) -> str:
        """Return 16 hexadecimal digits that identify the tokens, their meaning, and which pairs validate."""
        return digest(self.x, self.y, validates, json.dumps(self.vocabularies, sort_keys=True))


class _Loaded(NamedTuple):
    """What the texts become."""

    rows: dict[str, PairRows]  # "train" with those that validate, "test" where there is one
    validates: Tensor
    source_vocabulary: dict[str, Any]
    vocabulary: dict[str, Any]
    input_shape: tuple[int, int]


class TextPairDataModule(PairDataModule):
    """Pairs of texts in memory, a text and its translation. A subclass defines :meth:`texts`.

    Characters are those of all sources, or of all targets: otherwise, one that the training part lacks would make the rest
    unreadable. What BPE joins is learned from the training part alone.

    Where there is no test part, ``test_fraction`` of the sources is split off, always with seed 0; where there is no validation
    part, ``val_fraction`` of the remaining sources. A source that occurs several times is in one part alone, with all its targets.

    Args:
        tokenizer: What a token is: "characters", "bytes" (of UTF-8), or "bpe", byte pair encoding (Sennrich et al. 2016,
            arXiv:1508.07909), which needs the library tokenizers (the extra ``text``).
        vocab_size: Most tokens of BPE of each side, >= 258 (default 1000); None for other tokenizers.
        shared_vocabulary: Whether sources and targets have one vocabulary, that of both together, as a model with shared embeddings
            needs (Vaswani et al. 2017, section 5.1).
        max_length: Most tokens of a source or of a target with its end, >= 2. Pairs that have more are left out of every part, and
            a warning says how many.
        test_fraction: Share of the sources for the test part where there is none, in [0, 1).
        **pairs: Arguments of :class:`PairDataModule`.

    Attributes:
        fingerprint: See :class:`~datamodules.DataModule`.

    Raises:
        ValueError: An argument is out of its range, or the pairs cannot be learned from.
        TypeError: An argument has another type.
        ModuleNotFoundError: The library tokenizers is needed and is not installed.

    Example:
        >>> class Squares(TextPairDataModule):
        ...     def texts(self):
        ...         numbers = range(100)
        ...         return {"train": ([str(n) for n in numbers], [str(n * n) for n in numbers])}
        >>> data = Squares(batch_size=8)
        >>> data.setup()
        >>> data.input_shape, {name: len(data._parts[name]) for name in ("train", "val", "test")}
        ((3, 5), {'train': 72, 'val': 8, 'test': 20})
    """

    def __init__(
        self,
        tokenizer: Tokenization = "characters",
        vocab_size: int | None = None,
        shared_vocabulary: bool = False,
        max_length: int = 256,
        test_fraction: float = 0.2,
        **pairs: Any,
    ) -> None:
        super().__init__(**pairs)
        check_tokenizer(tokenizer, vocab_size)
        check_integer("max_length", max_length, 2)
        check_share("test_fraction", test_fraction, "all sources")
        self.tokenizer = tokenizer
        self.shared_vocabulary = shared_vocabulary
        self.max_length = max_length
        self.test_fraction = test_fraction
        self._bpe_size = vocab_size

    # What a subclass defines ----------------------------------------------------------------------------------------

    def texts(self) -> dict[str, Pairs]:
        """Return the pairs of the parts: "train" always, "val" and "test" if there are some. It is called once."""
        raise TypeError(f"{type(self).__name__} must define texts(), which returns the pairs of its parts")

    # What is known before fit ---------------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> Mapping[str, Any]:  # type: ignore[override]
        """The vocabulary of targets, see :class:`PairDataModule`."""
        return self._loaded.vocabulary

    @property
    def source_vocabulary(self) -> Mapping[str, Any]:  # type: ignore[override]
        """The vocabulary of sources, see :class:`PairDataModule`."""
        return self._loaded.source_vocabulary

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """``(S, T)``, see :class:`PairDataModule`."""
        return self._loaded.input_shape

    @property
    @override
    def has_test(self) -> bool:
        return "test" in self._loaded.rows

    # Splits ---------------------------------------------------------------------------------------------------------

    @override
    def examples(self, part: Literal["train", "test"]) -> Examples:
        if part not in self._loaded.rows:
            raise ValueError("there is no test part: give test_fraction > 0, or test pairs")
        return self._loaded.rows[part]

    @override
    def validation_mask(self, examples: Examples) -> Tensor:
        return self._loaded.validates

    @cached_property
    def _loaded(self) -> _Loaded:
        parts = self._split({name: _checked(name, pairs) for name, pairs in self.texts().items()})
        whole, train = _joined(parts.values()), parts["train"]
        if self.shared_vocabulary:
            whole, train = ((both := [*sources, *targets], both) for sources, targets in (whole, train))
        source_vocabulary, vocabulary = (
            vocabulary_of(self.tokenizer, texts, learned, self._bpe_size, ended=True)
            for texts, learned in zip(whole, train, strict=True)
        )
        tokens = self._short_enough(
            {name: (encode(pairs[0], source_vocabulary), encode(pairs[1], vocabulary)) for name, pairs in parts.items()}
        )
        longest, written = (1 + max(map(len, side)) for side in _joined(tokens.values()))
        rows = {
            name: PairRows(
                ended(sides[0], longest, source_vocabulary),
                ended(sides[1], written, vocabulary),
                source_vocabulary,
                vocabulary,
            )
            for name, sides in {
                **tokens,
                "train": _joined(tokens[name] for name in ("train", "val") if name in tokens),
            }.items()
            if name != "val"
        }
        validates = torch.arange(len(rows["train"])) >= len(tokens["train"][0])
        return _Loaded(rows, validates, source_vocabulary, vocabulary, (longest, written))

    def _split(self, parts: dict[str, Pairs]) -> dict[str, Pairs]:
        """Return all parts, those that are none yet split off the training part."""
        for name in ("test", "val"):
            if name in parts or not self.holds_out(name):
                continue
            sources, targets = parts["train"]
            number = {source: i for i, source in enumerate(dict.fromkeys(sources))}
            if name == "val":
                mask = self.hold_out(len(number), things="different sources")
            else:
                mask = held_out("test_fraction", self.test_fraction, len(number), 0, things="different sources")
            chosen = mask.tolist()
            held = [chosen[number[source]] for source in sources]
            for part, wanted in ((name, True), ("train", False)):
                kept = [is_held is wanted for is_held in held]
                parts[part] = list(compress(sources, kept)), list(compress(targets, kept))
        return parts

    def _short_enough(self, tokens: dict[str, Tokens]) -> dict[str, Tokens]:
        """Return the pairs whose source and target have at most ``max_length`` tokens with their ends."""
        lengths = {name: [*map(max, map(len, sides[0]), map(len, sides[1]))] for name, sides in tokens.items()}
        kept = short_enough(lengths, self.max_length, "pairs")
        return {
            name: (list(compress(sides[0], kept[name])), list(compress(sides[1], kept[name])))
            for name, sides in tokens.items()
        }


def _checked(name: str, pairs: Pairs) -> Pairs:
    """Return pairs that are some, each with a source and a target that are not empty."""
    sources, targets = pairs
    if len(sources) != len(targets):
        raise ValueError(f"the {name} part has {len(sources)} sources, but {len(targets)} targets: give one for each")
    if not sources:
        raise ValueError(f"the {name} part has no pairs: give some")
    for side, texts in (("source", sources), ("target", targets)):
        if "" in texts:
            raise ValueError(
                f"the {side} of pair {list(texts).index('')} of the {name} part is empty: leave the pair out"
            )
    return pairs


def _joined(parts: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Return the sources of all parts, one after another, and their targets."""
    sources, targets = zip(*parts, strict=True)
    return list(chain(*sources)), list(chain(*targets))


def _lengths(tokens: Tensor, padding: int) -> Tensor:
    """Return the number of tokens of each row without the padding: ``(N, T)`` -> ``(N,)``."""
    return (tokens != padding).sum(dim=1)

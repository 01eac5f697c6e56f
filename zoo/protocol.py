"""What callbacks, the contract kit and the command line use of a module, so that a LightningModule of your own can offer it.

Nothing has to be inherited: a module that has the members meets a protocol. The members of :class:`TrainableModule` are required,
and every LightningModule has them. All others are optional; who uses one does without it, or says that it is missing:

- ``layer_groups()``, ``group_of(layer)``, ``frozen``, ``freeze(below)``: for ``callbacks.LayerFreezing``.
- ``render(batch)``: for ``callbacks.Samples`` and ``callbacks.WrongExamples``.
- ``sample(count)``: for ``callbacks.NearestNeighbors`` and ``zoo sample``.
- ``stream(seed, index, **options)``: yields the pieces of a text; ``zoo sample`` prints them as they come.
- ``batch_of(texts)``: the batch that ``predict_step`` takes of texts; for ``zoo predict``.
- ``monitor``: which checkpoint is best, for early stopping, ``LearningCurves`` and ``LayerFreezing(patience=...)``.
- ``class_names``: for pictures and tables, which show numbers without it.
- ``expected_initial_loss()``, ``example_inputs(batch_size)``: for the first look at a fit and for ``zoo models``.
- ``save_pretrained(folder)``: for ``callbacks.ModelFolder``, and for the kit's check of folders.

:class:`ZooModule` is what every :class:`zoo.Task` offers of them. The contract kit, :mod:`zoo.testing`, also looks for:

- ``training_losses(batch)``: the loss without a trainer, the means to log, and the number that they are means over. Without it the
  loss is that of ``training_step``, and batches count equally, however many examples they have.
- ``forward_args(batch)``: what ``forward`` takes of a batch; without it the batch's first part.
- ``loss_floor()``: the smallest loss that can be reached; without it 0.
- ``net``: the part that is compiled; without it the whole module.
- ``shared_random(batch, batch_idx)``: the promise that several processes draw the random numbers that one would draw.
- ``causal``: True if the output at a time does not depend on later inputs, along axis 1; or the name of the field of the input, a
  NamedTuple, of which that is true. A module that says False is not gone through step by step, though it has ``step``.
- ``padding``: the token or value that pads series at their end; None if nothing does. ``target_padding``: the same for targets;
  without it they are padded with ``padding``.
- ``init_state(batch_size)``, ``step(x_t, state)``: see :class:`Incremental`; of the module or of its net.
- ``prefill(tokens, state)``: the state after several steps at once, tokens ``(B, T)``; so language models read a prompt.
- ``reorder_state(state, index)``: see :class:`Decodable`, which :mod:`zoo.decoding` asks for.
- ``encode(source)``: see :class:`EncoderDecoder`, of a net that reads one text, or an image, and writes another text.
"""

from collections.abc import MutableMapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class TrainableModule(Protocol):
    """The required members: those of any LightningModule."""

    @property
    def hparams(self) -> MutableMapping[str, Any]:
        """Arguments of the constructor, as plain data."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output for a batch's input."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loss of a batch: a tensor, or a dict with "loss"."""

    def configure_optimizers(self) -> Any:
        """Return the optimizers."""


@runtime_checkable
class ZooModule(TrainableModule, Protocol):
    """What every :class:`zoo.Task` offers to callbacks and to the command line."""

    def layer_groups(self) -> list[list[str]]:
        """Return the names of the layers by depth, input first; those that are frozen together are in one list."""

    def group_of(self, layer: str) -> int:
        """Return the index of the layer group that holds a layer.

        Raises:
            ValueError: There is no such layer.
        """

    @property
    def frozen(self) -> int:
        """Number of frozen layer groups, counted from the input."""

    def freeze(self, below: int | str | None = None) -> Any:
        """Freeze the layer groups below one of them, and unfreeze all others; None: freeze all."""

    def render(self, batch: Any) -> dict[str, Any]:
        """Return what is worth looking at, by name: uint8 images ``(3, H, W)``, texts, or tables (lists of rows)."""

    @property
    def monitor(self) -> tuple[str, str] | None:
        """The metric that decides which checkpoint is best, and its mode, "min" or "max"; None where there is none."""

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes, None where the data have none."""

    def expected_initial_loss(self) -> float | None:
        """Return the loss in nats of a fresh net that knows nothing, or None where there is no such number."""

    def example_inputs(self, batch_size: int = 1) -> tuple[Any, ...]:
        """Return inputs of :meth:`forward` of the right structure, type and shape."""


@runtime_checkable
class Incremental(Protocol):
    """A module that goes through a series step by step: the same as its forward pass over the whole series."""

    def init_state(self, batch_size: int) -> Any:
        """Return the state before the first step."""

    def step(self, x_t: Any, state: Any) -> tuple[Any, Any]:
        """Return the output of one step, ``(B, ...)``, and the next state.

        ``x_t`` is ``x[:, t]``; of an input of several parts, those without a time axis are given whole at each step.
        """


@runtime_checkable
class Decodable(Incremental, Protocol):
    """A net that goes through texts token by token, of which :mod:`zoo.decoding` makes texts.

    A state is whatever the net likes: a tensor, or tensors in tuples, lists and dicts. What a text depends on besides its tokens,
    such as an encoded image, is part of the state, in a row for each text. ``step`` takes tokens, int64 ``(B,)``, and gives the
    logits of those that may follow, ``(B, V)``. It leaves the state that it was given as it is.
    """

    def reorder_state(self, state: Any, index: Any) -> Any:
        """Return a state whose row n is row ``index[n]`` of the given one.

        ``index`` is int64 ``(N,)``, and N may differ from the number of rows: rows are repeated and left out.
        :func:`zoo.blocks.reorder_rows` does this for tensors.
        """


@runtime_checkable
class EncoderDecoder(Protocol):
    """A net that reads something and writes a text about it, with which :mod:`zoo.decoding` writes: one that reads texts, which
    :class:`zoo.Seq2SeqTask` trains, or one that reads images, which :class:`zoo.CaptioningTask` trains.

    ``forward(pair)`` takes a :class:`zoo.SentencePair` and gives the logits ``(B, T, V)`` of the token after each of
    ``pair.target``, all of them read ("teacher forcing"). Going through ``pair.target`` with ``step``, from ``encode(pair.source)``
    on, gives the same. Padding at the end of either text changes nothing.

    Of images, ``forward(x)`` takes a :class:`zoo.CaptionedImage` and gives ``(B, R, T, V)`` for R captions of each. Going through
    one of them, from the row of its image in ``encode(x.image)``, gives the same. Neither padding nor other captions change it.

    It may also have

    - ``attention(x)``: how much each step of the target looks at each token of the source, ``(B, T, S)``, or at each cell of a map,
      ``(B, R, T, h w)``: a row is at least 0, sums to 1, and is 0 where the source is padded. A net that has it for some of its
      arguments alone says so in ``has_attention``.
    - ``max_source_length``, ``max_length``: the longest source and target that it can read, with their end tokens; None: any.
    - ``read(tokens, state)``: of nets of images, the logits ``(N, T, V)`` of whole captions at once and the weights of attention
      ``(N, T, S)``; for the attention penalty.
    """

    def encode(self, source: Any) -> Any:
        """Return the state before the first token of the target, with a row for each source ``(B, S)`` or image ``(B, C, H, W)``.

        Whatever the target needs of the source is part of it: its encoded tokens, which of them are padding.
        """

    def step(self, tokens: Any, state: Any) -> tuple[Any, Any]:
        """Read one token of each target, int64 ``(B,)``; return the logits of the next ``(B, V)`` and the new state.

        The given state is left as it is, so that gradients can flow through it, and two texts can go on from it.
        """

    def reorder_state(self, state: Any, index: Any) -> Any:
        """Return a state whose row n is row ``index[n]`` of the given one, see :class:`Decodable`."""

"""Recurrent captioners: Vinyals et al. 2015, "Show and Tell", arXiv:1411.4555; with attention: Xu et al. 2015, "Show, Attend and
Tell", arXiv:1502.03044, in its deterministic, "soft" form.

Without attention the mean of the map, through a matrix, is the first input of the cell, once, and the words follow. With attention
the state before a step looks at all cells of the map, and the step reads what it sees beside the word; the first state is made of
the map's mean.

Deviations: in both papers the encoder was trained beforehand on images with labels. Of Vinyals et al. the image is the mean of a
map, which is what ResNets have before their classes, where theirs are the features of an Inception net; they take no step of their
own to a start token, as captions begin after the end token here. Of Xu et al. the first state has one layer and tanh, as the
authors' code has; the output is equation 7 of the paper, to which their code adds tanh. Positions, by which attention can tell left
from right in any map, are in neither paper.
"""

from typing import Any, NamedTuple, Unpack

import torch
from torch import Tensor, nn
from typing_extensions import override

from zoo.blocks.positions import SinusoidalPositions2D
from zoo.blocks.recurrent import Cell, Recurrent
from zoo.blocks.scored_attention import Score, ScoredAttention
from zoo.blocks.state import reorder_rows
from zoo.captioning.captioner import Captioner
from zoo.encoders import ImageEncoder, build_encoder
from zoo.registry import register
from zoo.tasks import CaptioningArguments, CaptioningTask


class CaptionState(NamedTuple):
    """What a caption goes on from: the state of the cell, and what is known of the image.

    Attributes:
        recurrent: State of the cell, ``(1, N, W)``, of an LSTM two.
        memory: Cells of the map, ``(N, S, D)``; without attention empty, ``(N, 0, D)``.
        keys: What scores need of them, ``(N, S, k)``.
    """

    recurrent: Any
    memory: Tensor
    keys: Tensor


class RecurrentCaptioner(Captioner):
    """A recurrent cell writes what it reads from a map of the image.

    Args:
        encoder: Gives the map, as tokens.
        vocab_size: Number of tokens V.
        padding: Token that pads captions at their end.
        cell: "rnn_tanh", "rnn_relu", "lstm" or "gru", see :class:`zoo.blocks.Recurrent`.
        width: Size W of its state.
        embedding_dim: Size E of the embedding of a token, which is also what logits are made of with attention; None: W.
        attention: Score with which the state looks at the cells of the map, see :class:`zoo.blocks.ScoredAttention`, "additive" in
            the paper; None: the image is read once, at the beginning.
        gate: Whether what attention sees is multiplied by a number between 0 and 1 of the state (Xu et al., section 4.2.1).
        positions: Whether sinusoidal positions are added to the map that attention looks at, see
            :class:`zoo.blocks.SinusoidalPositions2D`.
        dropout: Probability in [0, 1) of dropping a value of an embedding, and of what logits are made of, in training.

    Shape:
        ``(B, C, H, W)`` and ``(B, R, T)``, of a :class:`zoo.CaptionedImage` -> logits ``(B, R, T, V)``.

    Raises:
        ValueError: An argument out of its range, or arguments that do not go together.

    Example:
        >>> from zoo import CaptionedImage
        >>> from zoo.cnn import CIFARResNet
        >>> from zoo.encoders import ImageEncoder
        >>> net = RecurrentCaptioner(ImageEncoder(CIFARResNet(8, width=4)), vocab_size=9, width=8, attention="additive")
        >>> x = CaptionedImage(torch.rand(2, 3, 16, 12), torch.ones(2, 5, 7, dtype=torch.long))
        >>> net(x).shape, net.attention(x).shape
        (torch.Size([2, 5, 7, 9]), torch.Size([2, 5, 7, 12]))
    """

    head_name = "fc"

    def __init__(
        self,
        encoder: ImageEncoder,
        vocab_size: int = 256,
        padding: int = 0,
        cell: Cell = "lstm",
        width: int = 512,
        embedding_dim: int | None = None,
        attention: Score | None = None,
        gate: bool = True,
        positions: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(encoder, vocab_size, padding)
        size, channels = width if embedding_dim is None else embedding_dim, encoder.out_channels
        if size < 1:
            raise ValueError(f"embedding_dim must be 1 or more, got {size}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        if positions and attention is None:
            raise ValueError(
                "positions=True tells attention where the cells of the map are, and there is none: set attention"
            )
        if attention in ("dot", "scaled_dot") and width != channels:
            raise ValueError(
                f"attention={attention!r} multiplies vectors of one size, and the map has {channels} channels, the state {width}: "
                f"set width={channels}, or attention='general', which has a matrix between them"
            )
        self.embedding = nn.Embedding(vocab_size, size, padding_idx=padding)
        self.decoder = Recurrent(size + (0 if attention is None else channels), width, cell)
        self.positions = SinusoidalPositions2D(channels) if positions else None
        self.attend: ScoredAttention | None = None
        if attention is None:
            self.image = nn.Linear(channels, size)  # W_e of Vinyals et al., section 3.1, of the image
            self.fc = nn.Linear(width, vocab_size)
        else:
            self.attend = ScoredAttention(width, channels, attention, width)
            self.initial = nn.ModuleList(nn.Linear(channels, width) for _ in range(1 + (cell == "lstm")))  # f_init
            self.gate = nn.Linear(width, 1) if gate else None  # f_beta
            self.hidden_output = nn.Linear(width, size)  # L_h
            self.context_output = nn.Linear(channels, size, bias=False)  # L_z
            self.fc = nn.Linear(size, vocab_size)  # L_o
        self.dropout = nn.Dropout(dropout)

    @property
    @override
    def has_attention(self) -> bool:
        """Whether the net looks at the map as it writes."""
        return self.attend is not None

    @override
    def encode(self, image: Tensor) -> CaptionState:
        """Read images ``(B, C, H, W)``; return the state before the first token of their captions."""
        cells = self.encoder.feature_map(image)
        rows, columns = cells.shape[-2:]
        memory = cells.flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, h w, D)
        mean = memory.mean(dim=1)
        if self.attend is None:
            _, recurrent = self.decoder(self.image(mean).unsqueeze(1))
            return CaptionState(recurrent, memory[:, :0], memory[:, :0])
        parts = tuple(layer(mean).tanh().unsqueeze(0) for layer in self.initial)  # (B, W) -> (1, B, W)
        if self.positions is not None:
            memory = self.positions(memory, rows, columns)
        return CaptionState(parts if self.decoder.cell == "lstm" else parts[0], memory, self.attend.keys(memory))

    @override
    def step(self, tokens: Tensor, state: CaptionState) -> tuple[Tensor, CaptionState]:
        """Read one token of each caption, ``(N,)``; return the logits of the next, ``(N, V)``, and the new state."""
        logits, _, recurrent = self._read(tokens.unsqueeze(1), state)
        return logits[:, 0], state._replace(recurrent=recurrent)

    @override
    def reorder_state(self, state: CaptionState, index: Tensor) -> CaptionState:
        """Return the state of other captions: those at ``index``, int64 ``(N,)``."""
        return CaptionState(self.decoder.reorder_state(state.recurrent, index), *reorder_rows(state[1:], index))

    @override
    def read(self, tokens: Tensor, state: CaptionState) -> tuple[Tensor, Tensor]:
        """Read whole captions ``(N, T)``: logits ``(N, T, V)``, and weights of attention ``(N, T, S)``, without ``(N, T, 0)``."""
        logits, weights, _ = self._read(tokens, state)
        return logits, weights

    def _read(self, tokens: Tensor, state: CaptionState) -> tuple[Tensor, Tensor, Any]:
        """Logits, weights of attention, and the state of the cell afterwards."""
        x = self.dropout(self.embedding(tokens))
        if self.attend is None:
            outputs, recurrent = self.decoder(x, None, state.recurrent)
            outputs = outputs.contiguous()  # dropout is drawn by rows, which several processes divide
            return self.fc(self.dropout(outputs)), outputs[..., :0], recurrent
        recurrent, steps = state.recurrent, []
        for x_t in x.split(1, dim=1):
            before = recurrent[0] if self.decoder.cell == "lstm" else recurrent
            h = before.transpose(0, 1)  # (1, N, W) -> (N, 1, W)
            seen, weights = self.attend(h, state.memory, None, state.keys)
            if self.gate is not None:
                seen = seen * self.gate(h).sigmoid()
            output, recurrent = self.decoder(torch.cat([x_t, seen], dim=2), None, recurrent)
            steps.append((output, seen, weights))
        outputs, seen, weights = (torch.cat(parts, dim=1) for parts in zip(*steps, strict=True))
        y = x + self.hidden_output(outputs) + self.context_output(seen)  # equation 7
        return self.fc(self.dropout(y)), weights, recurrent


class RecurrentCaptioning(CaptioningTask):
    """A :class:`RecurrentCaptioner` trained to describe images. Arguments: those below, then ``**task``.

    Args:
        encoder: Name of a convolutional classifier, see ``zoo models``, or of another net, see :class:`zoo.UNetSegmenter`.
        encoder_args: Arguments of its class, e.g. ``{"width": 32}``.
        encoder_weights: Where the encoder's weights come from, see :func:`zoo.create_model`: "pretrained", a name, a path.
            Their standardization is used, too. Like ``weights`` it is no hyperparameter.
        stage: Which of its maps, finest first; -1: the last.
        vocab_size: Number of tokens V; on the command line the data fill it in.
        padding: Token that pads captions at their end; on the command line the data fill it in.
        in_channels: Number of channels C of the image.
        cell, width, embedding_dim, attention, gate, positions, dropout: See :class:`RecurrentCaptioner`.
        task: Arguments of :class:`zoo.CaptioningTask`.
    """

    net: RecurrentCaptioner
    weight_sources = ("weights", "encoder_weights")
    filled_arguments = ("encoder_args",)

    def __init__(
        self,
        encoder: str = "resnet50",
        encoder_args: dict[str, Any] | None = None,
        encoder_weights: str | None = None,
        stage: int = -1,
        vocab_size: int = 256,
        padding: int = 0,
        in_channels: int = 3,
        cell: Cell = "lstm",
        width: int = 512,
        embedding_dim: int | None = None,
        attention: Score | None = None,
        gate: bool = True,
        positions: bool = False,
        dropout: float = 0.0,
        **task: Unpack[CaptioningArguments],
    ) -> None:
        built = build_encoder(type(self), encoder, encoder_args, in_channels, encoder_weights)
        net = RecurrentCaptioner(
            encoder=ImageEncoder(built.net, stage),
            vocab_size=vocab_size,
            padding=padding,
            cell=cell,
            width=width,
            embedding_dim=embedding_dim,
            attention=attention,
            gate=gate,
            positions=positions,
            dropout=dropout,
        )
        super().__init__(net, vocab_size, padding, **task)
        built.complete(self)


register("lstm_captioner", RecurrentCaptioning, cell="lstm")
register("attention_captioner", RecurrentCaptioning, cell="lstm", attention="additive")

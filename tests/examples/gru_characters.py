"""A character model: a GRU (Cho et al. 2014, arXiv:1406.1078) that learns two poems by heart.

A net, a task and data of your own, in one file outside of the zoo: what to write where no task of the zoo trains your model. In the
folder of this file, ``zoo fit -c poems.yaml`` trains it, and ``zoo sample runs/poems/version_0 --poem 1`` writes lines. This is
``poems.yaml``::

    seed_everything: 0
    model: {class_path: gru_characters.CharacterModel, init_args: {lr: 1.0e-2}}
    data: {class_path: gru_characters.PoemsDataModule}
    trainer:
      max_epochs: 60
      callbacks: [{class_path: callbacks.Samples, init_args: {every_n_epochs: 20}}]
"""

import math
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

import zoo
from datamodules import DataModule, Examples
from zoo import decoding
from zoo.losses import counted, weighted_mean
from zoo.tasks import Task, TaskArguments

PADDING, NEWLINE = 0, 1  # indices in the vocabulary; a new line begins and ends every line
POEMS = {
    "The Tyger": """Tyger Tyger, burning bright,
In the forests of the night;
What immortal hand or eye,
Could frame thy fearful symmetry?
In what distant deeps or skies
Burnt the fire of thine eyes?
On what wings dare he aspire?
What the hand, dare seize the fire?""",
    "The Star": """Twinkle, twinkle, little star,
How I wonder what you are!
Up above the world so high,
Like a diamond in the sky.
When the blazing sun is gone,
When he nothing shines upon,
Then you show your little light,
Twinkle, twinkle, all the night.""",
}  # William Blake, 1794; Jane Taylor, 1806


class Line(NamedTuple):
    """What the net reads: lines, each with the poem that it is of.

    Shape:
        tokens: int64 ``(B, T)``, indices in the vocabulary, ``PADDING`` after the end; poem: int64 ``(B,)``.
    """

    tokens: Tensor
    poem: Tensor


class PoemsDataModule(DataModule):
    """The lines of the poems; a batch is ``(Line, y)``, where y holds the next character at each place.

    The poems are to be learned by heart, so nothing is held out, and the test asks for the same lines.

    Args:
        batch_size: Number of lines in a batch.
    """

    def __init__(self, batch_size: int = 8) -> None:
        super().__init__(batch_size=batch_size, val_fraction=0.0)
        self.lines = [(line, k) for k, poem in enumerate(POEMS.values()) for line in poem.splitlines()]
        letters = sorted({letter for line, _ in self.lines for letter in line})
        self.class_names = ["<pad>", "\n", *letters]  # the vocabulary, which the model keeps
        self.input_shape = (1 + max(len(line) for line, _ in self.lines),)

    def examples(self, part: Literal["train", "test"]) -> Examples:
        index = {name: k for k, name in enumerate(self.class_names or [])}
        padded = torch.full((len(self.lines), self.input_shape[0] + 1), PADDING)  # (N, T + 1)
        for row, (line, _) in zip(padded, self.lines, strict=True):
            row[: len(line) + 2] = torch.tensor([NEWLINE, *(index[letter] for letter in line), NEWLINE])
        poem = torch.tensor([k for _, k in self.lines])
        return Examples(Line(padded[:, :-1], poem), padded[:, 1:])

    def collate(self, batch: Any) -> Any:
        """Cut the padding to the longest line of the batch."""
        (tokens, poem), y, *weight = batch
        longest = int((y != PADDING).sum(dim=1).max())
        return (Line(tokens[:, :longest], poem), y[:, :longest], *weight)


# The net ----------------------------------------------------------------------------------------------------------------


class CharacterGRU(nn.Module):
    """The sum of two embeddings, of the character and of the poem, a GRU, and a linear layer.

    Args:
        num_classes: Size of the vocabulary V.
        width: Size W of the embeddings and of the state.
        num_poems: Number of poems.

    Shape:
        :class:`Line` -> logits of the next characters ``(B, T, V)``.
    """

    def __init__(self, num_classes: int, width: int = 64, num_poems: int = 2) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.width = width
        self.tokens = nn.Embedding(num_classes, width, padding_idx=PADDING)
        self.poem = nn.Embedding(num_poems, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Line) -> Tensor:
        embedded = self.tokens(x.tokens) + self.poem(x.poem)[:, None]  # (B, T) -> (B, T, W)
        return self.fc(self.gru(embedded)[0])

    def init_state(self, batch_size: int) -> Tensor:
        """Return the state before the first character, ``(1, B, W)``."""
        return self.fc.weight.new_zeros(1, batch_size, self.width)

    def step(self, x_t: Line, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read one character of each line, ``(B,)``; return the logits of the next, ``(B, V)``, and the new state."""
        embedded = self.tokens(x_t.tokens) + self.poem(x_t.poem)  # (B,) -> (B, W)
        output, state = self.gru(embedded[:, None], state)
        return self.fc(output[:, 0]), state


# The task ---------------------------------------------------------------------------------------------------------------


class CharacterModel(Task):
    """:class:`CharacterGRU`, trained to predict the next character.

    The loss is the cross-entropy in nats, a mean over all characters but padding. Evaluation logs ``loss`` and ``acc``, the share
    of characters that are predicted.

    Args:
        num_classes, width, num_poems: See :class:`CharacterGRU`.
        task: Arguments of :class:`zoo.Task`.

    Shape:
        batch: ``(Line, y)`` or ``(Line, y, weight)``, y int64 ``(B, T)``, weight ``(B,)``.
    """

    net: CharacterGRU
    reads = "text"
    samples = "text"
    sample_options = ("prompt", "poem", "temperature")
    monitor = ("train/loss", "min")
    causal = "tokens"  # no output sees a later one of these
    padding = PADDING

    def __init__(self, num_classes: int, width: int = 64, num_poems: int = 2, **task: Unpack[TaskArguments]) -> None:
        super().__init__(CharacterGRU(num_classes=num_classes, width=width, num_poems=num_poems), **task)

    def example_inputs(self, batch_size: int = 1) -> tuple[Line]:
        tokens = torch.zeros(batch_size, *self.example_shape, dtype=torch.long, device=self.device)
        return (Line(tokens, tokens[:, 0]),)

    def expected_initial_loss(self) -> float:
        return math.log(self.net.num_classes)

    def _losses(self, logits: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """Return the loss of each character and its weight, ``(B, T)`` each; padding does not count."""
        _, y, *weight = batch
        counts = (y != PADDING).float()
        losses = F.cross_entropy(logits.transpose(1, 2), y, reduction="none")  # it wants (B, V, T)
        return losses, counts * weight[0][:, None] if weight else counts

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        loss, count = weighted_mean(*self._losses(self(batch[0]), batch))
        return loss, {"loss": loss}, count

    def build_metrics(self) -> dict[str, Metric]:
        return {"loss": MeanMetric(), "acc": MeanMetric()}

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        logits = self(batch[0])
        losses, weight = self._losses(logits, batch)
        metrics["loss"].update(counted(losses, weight))
        metrics["acc"].update(counted((logits.argmax(dim=2) == batch[1]).float(), weight))

    def render(self, batch: Any) -> dict[str, Any]:
        return {f"poem_{k}": "\n".join(self.sample(8, poem=k)) for k in range(self.net.poem.num_embeddings)}

    def sample(self, count: int, seed: int = 0, prompt: str = "", poem: int = 0, temperature: float = 1.0) -> list[str]:
        """Write lines.

        Args:
            count: Number of lines.
            seed: Seed of the draws.
            prompt: What every line begins with.
            poem: Index of the poem.
            temperature: Divides the logits, > 0; near 0 only the most probable character is drawn.

        Raises:
            ValueError: A character that is not in the vocabulary, a prompt that is too long, or a temperature of 0 or below.
        """
        names = self.label_names
        if unknown := sorted(set(prompt) - set(names[2:])):
            raise ValueError(f"prompt must be of the characters {''.join(names[2:])!r}, got {unknown[0]!r}")
        start, poems = (torch.full((count,), index, device=self.device) for index in (NEWLINE, poem))
        net = SimpleNamespace(step=lambda token, state: self.net.step(Line(token, poems), state))
        options = {"prefix": [names.index(letter) for letter in prompt], "end": NEWLINE, "forbid": [PADDING]}
        state, length = self.net.init_state(count), self.example_shape[0]
        lines = decoding.sample(net, state, start, length, temperature=temperature, seed=seed, **options).tokens
        return ["".join(names[k] for k in line).rstrip("\n") for line in lines.tolist()]


zoo.register("character_gru", CharacterModel)

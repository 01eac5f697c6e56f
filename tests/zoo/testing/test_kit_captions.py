"""Checks of nets that write captions: a net that meets all of them, and the bugs that they catch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo import CaptionedImage
from zoo.blocks import reorder_rows
from zoo.captioning import Captioner
from zoo.encoders import ImageEncoder
from zoo.tasks import CaptioningTask
from zoo.testing import CHECKS, check_module

V, WIDTH = 7, 24


class Eye(nn.Module):
    """One convolution, and its norm: a map of stride 4."""

    in_channels = 3

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 4, 4), norm

    def features(self, x: Tensor) -> list[Tensor]:
        return [self.norm(self.conv(x)).relu()]


class Words(Captioner):
    """A GRU that looks at the cells of the map after each step."""

    has_attention = True

    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__(ImageEncoder(Eye(norm or nn.GroupNorm(4, 16))), V)
        self.embedding = nn.Embedding(V, WIDTH, padding_idx=0)
        self.initial = nn.Linear(self.encoder.out_channels, WIDTH)
        self.rnn = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.query = nn.Linear(WIDTH, self.encoder.out_channels)
        self.fc = nn.Linear(WIDTH + self.encoder.out_channels, V)

    def encode(self, image: Tensor) -> Any:
        cells = self.encoder(image)
        return cells, self.initial(cells.mean(dim=1)).tanh()

    def going(self, tokens: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        cells, h = state
        outputs, after = self.rnn(self.embedding(tokens), h.unsqueeze(0))
        weights = (self.query(outputs) @ cells.transpose(1, 2)).softmax(dim=2)
        return self.fc(torch.cat([outputs, weights @ cells], dim=2)), weights, (cells, after[0])

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, _, state = self.going(tokens[:, None], state)
        return logits[:, 0], state

    def read(self, tokens: Tensor, state: Any) -> tuple[Tensor, Tensor]:
        return self.going(tokens, state)[:2]

    def reorder_state(self, state: Any, index: Tensor) -> Any:
        return reorder_rows(state, index)


def batch() -> tuple[CaptionedImage, Tensor]:
    """Eight images, with one or two captions of four to six tokens and their ends."""
    g = torch.Generator().manual_seed(0)
    y = torch.zeros(8, 2, 6, dtype=torch.long)
    for i, length in enumerate((4, 5, 6, 5, 4, 6, 5, 4)):
        y[i, 0, : length - 1] = torch.randint(2, V, (length - 1,), generator=g)
        y[i, 0, length - 1] = 1
    y[::3, 1] = y[::3, 0].clone()
    caption = torch.where(y.roll(1, dims=2) == 1, 0, y.roll(1, dims=2))
    caption[:, :, 0] = (y[:, :, 0] != 0).long()
    return CaptionedImage(torch.rand(8, 3, 8, 12, generator=g), caption), y


def test_a_captioner_meets_the_contract() -> None:
    report = check_module(CaptioningTask(Words(), V), batch(), lr=0.01)
    assert list(report) == list(CHECKS)
    others = {name: result for name, result in report.items() if result != "ok"}
    assert others.keys() == {"hyperparameters", "checkpoint", "folder", "export_length"}
    assert others["export_length"] == "skipped: torch.export unrolls nn.GRU over the time steps of its example"


def test_so_does_one_that_is_held_to_look_everywhere_and_reads_its_own_words() -> None:
    checks = ["gradients", "padding", "bf16", "accumulation", "processes"]
    model = CaptioningTask(Words(), V, attention_penalty=0.2, teacher_forcing=0.7)
    assert set(check_module(model, batch(), only=checks).values()) == {"ok"}


def test_norms_of_batches_are_no_leak() -> None:
    report = check_module(
        CaptioningTask(Words(nn.BatchNorm2d(16)), V),
        batch(),
        only=["independence", "padding", "accumulation", "processes"],
    )
    assert set(report.values()) == {"ok"}


class Ahead(Words):
    """Looks at the next word."""

    def read(self, tokens: Tensor, state: Any) -> tuple[Tensor, Tensor]:
        logits, weights = super().read(tokens, state)
        return logits + nn.functional.pad(logits[:, 1:], (0, 0, 0, 1)), weights


class Counts(Words):
    """Sees how many captions there are, and how long the longest is."""

    def forward(self, x: Any) -> Tensor:
        return super().forward(x) * x.caption.shape[1]


class Long(Words):
    def read(self, tokens: Tensor, state: Any) -> tuple[Tensor, Tensor]:
        logits, weights = super().read(tokens, state)
        return logits + 0.01 * tokens.shape[1], weights


class Neighbors(Words):
    """Gives each image the map of the one before it."""

    def encode(self, image: Tensor) -> Any:
        return super().encode(image.roll(1, 0))


class Others(Words):
    """Captions of an image see each other."""

    def forward(self, x: Any) -> Tensor:
        logits = super().forward(x)
        return logits + logits.mean(dim=1, keepdim=True)


class Shifted(Words):
    """Rows of the state are those of other images."""

    def reorder_state(self, state: Any, index: Tensor) -> Any:
        return reorder_rows(state, index.roll(1))


class Stale(Words):
    """The step forgets what was read."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        return super().step(tokens, state)[0], state


class Fixed(Words):
    """Its program knows one number of captions."""

    def forward(self, x: Any) -> Tensor:
        logits = super().forward(x)
        return logits if x.caption.shape[1] == 2 else logits + 1


@pytest.mark.parametrize(
    ("net", "check", "message"),
    [
        (Ahead, "causality", r"outputs before step \d see the input from step \d on"),
        (Ahead, "incremental", "step 0 differs from the forward pass"),
        (Counts, "padding", "padding changes outputs of real steps"),
        (Long, "padding", "padding changes outputs of real steps"),
        (Others, "padding", "padding changes outputs of real steps"),
        (Neighbors, "independence", "examples of a batch leak into each other"),
        (Shifted, "incremental", "does not go on as row"),
        (Stale, "incremental", "step 1 differs from the forward pass"),
    ],
)
def test_a_bug_is_caught(net: type[Words], check: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_module(CaptioningTask(net(), V), batch(), only=[check])


class Flat(Words):
    """Without a recurrent layer, so that any length can be exported."""

    def __init__(self) -> None:
        super().__init__()
        del self.rnn

    def going(self, tokens: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        cells, h = state
        outputs = self.embedding(tokens) + h.unsqueeze(1)
        weights = (self.query(outputs) @ cells.transpose(1, 2)).softmax(dim=2)
        return self.fc(torch.cat([outputs, weights @ cells], dim=2)), weights, state


class FlatFixed(Flat, Fixed):
    pass


def test_programs_of_any_number_of_captions_and_length() -> None:
    assert check_module(CaptioningTask(Flat(), V), batch(), only=["export_length"]) == {"export_length": "ok"}
    with pytest.raises(AssertionError, match="the exported program does not take one caption an image"):
        check_module(CaptioningTask(FlatFixed(), V), batch(), only=["export_length"])

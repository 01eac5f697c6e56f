"""Checks of series: a language model that meets all of them, and the bugs that they catch."""

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from zoo import testing
from zoo.tasks import Task
from zoo.testing import CHECKS, check_module

PAD, VOCABULARY, WIDTH = 0, 9, 16


class GRULanguageModel(nn.Module):
    """Predicts the next token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH, padding_idx=PAD)
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.fc = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden, state = self.gru(self.embedding(x))
        return self.fc(hidden), state

    def init_state(self, batch_size: int) -> Tensor:
        return self.fc.weight.new_zeros(1, batch_size, WIDTH)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden, state = self.gru(self.embedding(x_t).unsqueeze(1), state)
        return self.fc(hidden.squeeze(1)), state


def token_loss(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over real tokens, and their number."""
    count = (y != PAD).sum()
    total = F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=PAD, reduction="sum")
    return total / count.clamp(min=1), count


class LanguageTask(Task):
    causal = True
    padding = PAD

    def __init__(self, **task: Any) -> None:
        super().__init__(GRULanguageModel(), **task)

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        loss, count = token_loss(self(batch[0])[0], batch[1])
        return loss, {"loss": loss}, count


class LanguageModule(LightningModule):
    """The same as no task of the zoo."""

    causal = True
    padding = PAD

    def __init__(self) -> None:
        super().__init__()
        self.net = GRULanguageModel()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[0]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return token_loss(self(batch[0]), batch[1])[0]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def tokens() -> tuple[Tensor, Tensor]:
    """Sentences of four to seven tokens, each with a first token of its own."""
    x = torch.randint(1, VOCABULARY, (8, 7), generator=torch.Generator().manual_seed(0))
    x[:, 0] = torch.arange(8) + 1
    missing = torch.tensor([0, 1, 0, 3, 2, 3, 1, 3])  # neither halves nor every other one have equally many tokens
    x[torch.arange(7) >= 7 - missing[:, None]] = PAD
    return x[:, :-1], x[:, 1:]


UNROLLED = "skipped: torch.export unrolls nn.GRU over the time steps of its example"


def test_a_language_model_meets_the_contract() -> None:
    report = check_module(LanguageTask(), tokens(), lr=0.02)
    assert list(report) == list(CHECKS)
    assert report.pop("folder") == "skipped: LanguageTask is not registered"
    assert report.pop("export_length") == UNROLLED
    assert set(report.values()) == {"ok"}


def test_a_module_of_ones_own_meets_it_but_for_uneven_batches() -> None:
    """Its loss is a mean of tokens, and Lightning gives batches equal weights however many tokens they have."""
    report = check_module(LanguageModule(), tokens(), lr=0.02, only=CHECKS.keys() - {"accumulation", "processes"})
    assert {name for name, result in report.items() if result != "ok"} == {"folder", "export_length"}
    x, y = tokens()
    for name in ("accumulation", "processes"):
        with pytest.raises(AssertionError, match="train other weights than whole batches"):
            check_module(LanguageModule(), (x, y), only=[name])
        full = x.clamp(min=1), y.clamp(min=1)
        assert check_module(LanguageModule(), full, only=[name]) == {name: "ok"}


# Causality ------------------------------------------------------------------------------------------------------------


class Net(LightningModule):
    """Applies a function to series."""

    causal: bool | str = True

    def __init__(self, function: Any, embed: bool = False) -> None:
        super().__init__()
        self.function = function
        self.embedding = nn.Embedding(VOCABULARY, 3) if embed else nn.Identity()

    def forward(self, x: Any) -> Tensor:
        return self.function(self.embedding(x))


def one_step_ahead(x: Tensor) -> Tensor:
    return x + F.pad(x[:, 1:], (0, 0, 0, 1))


def last_step_ahead(x: Tensor) -> Tensor:
    return x.cumsum(1) + 1e-6 * x[:, -1:]


def far_ahead(x: Tensor) -> Tensor:
    """Only the first output sees the last step."""
    return torch.cat([x[:, :1] + x[:, -1:], x[:, 1:]], dim=1)


@pytest.mark.parametrize("embed", [False, True], ids=["floats", "tokens"])
@pytest.mark.parametrize("function", [one_step_ahead, last_step_ahead, far_ahead])
def test_a_net_that_looks_ahead_is_caught(function: Any, embed: bool) -> None:
    batch = (tokens()[0],) if embed else (torch.randn(8, 6, 3),)
    testing.check_causality(Net(lambda x: x.cumsum(1), embed), batch)
    with pytest.raises(AssertionError, match=r"outputs before step \d see the input from step \d on"):
        testing.check_causality(Net(function, embed), batch)


class Pair(NamedTuple):
    source: Tensor
    target: Tensor


def test_only_one_field_may_be_causal() -> None:
    batch = (Pair(torch.randn(8, 5, 3), torch.randn(8, 6, 3)),)
    net = Net(lambda pair: pair.target.cumsum(1) + pair.source.mean(1, keepdim=True))
    net.causal = "target"
    testing.check_causality(net, batch)
    net.function = lambda pair: pair.target.mean(1, keepdim=True) + pair.target
    with pytest.raises(AssertionError, match="outputs before step 1 see the input"):
        testing.check_causality(net, batch)


@pytest.mark.parametrize(
    ("function", "batch", "message"),
    [
        (lambda x: x.mean(1), torch.randn(8, 6, 3), r"no output has a time axis, axis 1, of the input's 6 steps"),
        (torch.sin, torch.ones(8, 6, 3), "causality needs series that differ from step 1 on"),
        (torch.sin, torch.randn(8, 1, 3), "causality needs series of two steps or more, got 1"),
    ],
)
def test_what_says_nothing_of_causality_is_refused(function: Any, batch: Tensor, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        testing.check_causality(Net(function), (batch,))


# Padding --------------------------------------------------------------------------------------------------------------


class CountsPadding(LanguageModule):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, count = token_loss(self(batch[0]), batch[1])
        return loss * count / batch[1].numel()


class SeesPadding(LanguageModule):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(1)).flip(1)


class GradientOfPadding(LanguageModule):
    """Outputs and loss are right, and padding pulls at the weights."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        weight = self.net.fc.weight.sum()
        return super().training_step(batch, batch_idx) + (batch[0] == PAD).sum() * (weight - weight.detach())


class LongerOutput(LanguageModule):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, : x.shape[1]]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (CountsPadding, "padding changes the loss from .* counts padded steps"),
        (SeesPadding, r"padding changes outputs of real steps by \d"),
        (GradientOfPadding, r"padding changes the gradient of net.fc.weight by \d"),
        (LongerOutput, r"2 padded steps change the output's shape from \(8, 6, 6\) to \(8, 8, 8\)"),
    ],
)
def test_padding_that_counts_is_caught(module: type[LanguageModule], message: str) -> None:
    testing.check_padding(LanguageModule(), tokens())
    with pytest.raises(AssertionError, match=message):
        testing.check_padding(module(), tokens())


class Noisy(LanguageModule):
    """Drops tokens and units in training; targets are padded with another number, and weighted."""

    target_padding = -100

    def __init__(self, inner: float = 0.0) -> None:
        super().__init__()
        self.inner = nn.GRU(VOCABULARY, VOCABULARY, 2, dropout=inner, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        logits = F.dropout(super().forward(x), 0.5, self.training)
        noise = torch.randn_like(logits) if self.training else torch.zeros_like(logits)
        return self.inner(logits + noise)[0]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, weight = batch
        losses = F.cross_entropy(self(x).flatten(0, 1), y.flatten(), ignore_index=-100, reduction="none")
        return (losses * weight.flatten()).sum() / weight.sum()


class WrongTarget(LanguageModule):
    """Pads targets with a token that counts."""

    target_padding = 3


@pytest.mark.parametrize("inner", [0.0, 0.5])
def test_random_draws_do_not_disturb_padding(inner: float) -> None:
    """Dropout between torch's recurrent layers cannot be frozen: then it is off."""
    x, y = tokens()
    testing.check_padding(Noisy(inner), (x, y.masked_fill(y == PAD, -100), torch.rand(8, 6)))


def test_targets_have_their_own_padding() -> None:
    with pytest.raises(AssertionError, match="padding changes the loss"):
        testing.check_padding(WrongTarget(), tokens())


# Step by step ---------------------------------------------------------------------------------------------------------


class Forgetful(GRULanguageModel):
    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return super().step(x_t, state)[0], state


class Inexact(GRULanguageModel):
    """Right in float32 only."""

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        output, state = super().step(x_t, state)
        return output.float().to(output.dtype), state


class WithoutTime(GRULanguageModel):
    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        output, state = super().step(x_t, state)
        return output[:, :2], state


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Forgetful, r"step 1 differs from the forward pass by .* in float64"),
        (Inexact, r"step 0 differs from the forward pass by .*e-0[789] in float64"),
        (WithoutTime, r"step by step gives \(8, 6, 2\), the forward pass \(8, 6, 9\)"),
    ],
)
def test_a_wrong_step_is_caught(net: type[nn.Module], message: str) -> None:
    module = LanguageModule()
    testing.check_incremental(module, tokens())
    module.net = net()
    with pytest.raises(AssertionError, match=message):
        testing.check_incremental(module, tokens())


class Reordered(GRULanguageModel):
    def reorder_state(self, state: Tensor, index: Tensor) -> Tensor:
        return state.index_select(1, index)


class Unmoved(Reordered):
    def reorder_state(self, state: Tensor, index: Tensor) -> Tensor:
        return state[:, : len(index)]


class Overwriting(Reordered):
    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        output, after = super().step(x_t, state)
        return output, state.copy_(after)


@pytest.mark.parametrize("net", [Unmoved, Overwriting])
def test_a_wrong_order_of_states_is_caught(net: type[nn.Module]) -> None:
    module = LanguageModule()
    module.net = Reordered()
    testing.check_incremental(module, tokens())
    module.net = net()
    with pytest.raises(
        AssertionError, match=r"row n of reorder_state\(state, index\) does not go on as row index\[n\]"
    ):
        testing.check_incremental(module, tokens())


class Sum(nn.Module):
    """A running sum of standardized numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.cumsum(1)

    def init_state(self, batch_size: int) -> Tensor:
        return self.scale.new_zeros(batch_size, 3)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.scale * (state + x_t), state + x_t


class Shifted(NamedTuple):
    values: Tensor
    shift: Tensor


class ShiftedSum(Sum):
    """Adds a number of each series to all steps."""

    def forward(self, x: Shifted) -> Tensor:
        return super().forward(x.values) + x.shift[:, None, None]

    def step(self, x_t: Shifted, state: Tensor) -> tuple[Tensor, Tensor]:
        output, state = super().step(x_t.values, state)
        return output + x_t.shift[:, None], state


def test_what_is_no_series_is_given_at_each_step() -> None:
    module = LanguageModule()
    module.net = ShiftedSum()
    module.forward = module.net
    testing.check_incremental(module, (Shifted(torch.randn(8, 6, 3), torch.randn(8)),))


class SumTask(Task):
    causal = True
    standardize_axis = -1

    def __init__(self, **task: Any) -> None:
        super().__init__(Sum(), **task)


def test_a_net_steps_through_standardized_input() -> None:
    task, batch = SumTask(), (torch.randn(8, 6, 3), torch.randn(8, 6, 3))
    task.set_standardization([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    report = check_module(task, batch, only=["causality", "incremental", "export", "export_length"])
    assert set(report.values()) == {"ok"}
    assert len(report) == 4


class Texts(NamedTuple):
    source: Tensor
    target: Tensor


class Translator(nn.Module):
    """Reads a source, and adds it to what it knows of the target; without init_state, but with encode."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.fc = nn.Embedding(VOCABULARY, WIDTH, padding_idx=PAD), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x: Texts) -> Tensor:
        return self.fc(self.encode(x.source)[:, None] + self.embedding(x.target).cumsum(dim=1))

    def encode(self, source: Tensor) -> Tensor:
        return self.embedding(source).sum(dim=1)

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = state + self.embedding(tokens)
        return self.fc(state), state

    def reorder_state(self, state: Tensor, index: Tensor) -> Tensor:
        return state[index]


class Forgetful(Translator):
    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return super().step(tokens, state)[0], state


class Stuck(Translator):
    def reorder_state(self, state: Tensor, index: Tensor) -> Tensor:
        return state[torch.arange(len(index)) % len(state)]


class Overwriting(Translator):
    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state += self.embedding(tokens)
        return self.fc(state), state


class TranslationModule(LanguageModule):
    causal = "target"

    def forward(self, x: Texts) -> Tensor:
        return self.net(x)


def test_a_net_that_reads_and_writes_steps_through_its_targets() -> None:
    x, y = tokens()
    module, batch = TranslationModule(), (Texts(y[:, :4].contiguous(), x), y)
    for net, message in (
        (Translator(), None),
        (Forgetful(), "step 1 differs from the forward pass"),
        (Stuck(), r"row n of reorder_state\(state, index\) does not go on"),
        (Overwriting(), "which step must not change"),
    ):
        module.net = net
        if message is None:
            report = check_module(module, batch, only=["causality", "padding", "incremental", "independence"])
            assert set(report.values()) == {"ok"}
            continue
        with pytest.raises(AssertionError, match=message):
            testing.check_incremental(module, batch)


# Export ---------------------------------------------------------------------------------------------------------------


class Loop(LanguageModule):
    """A loop over the steps, which a program unrolls."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Embedding(VOCABULARY, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.net(x)
        return torch.stack([x[:, : t + 1].sum(1) for t in range(x.shape[1])], dim=1)


def test_a_program_of_one_length_is_caught() -> None:
    testing.check_export(Loop(), tokens())
    with pytest.raises(AssertionError, match="the exported program does not take length 5"):
        testing.check_export_length(Loop(), tokens())
    with pytest.raises(AssertionError, match="lengths are compared of series of 3 steps or more, got 2"):
        testing.check_export_length(Loop(), (tokens()[0][:, :2],))

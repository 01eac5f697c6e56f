"""Layer groups of nets from outside: what is opened, what is shared, what a frozen group keeps to the bit."""

from typing import Any

import pytest
import torch
from kit import quiet_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from zoo.blocks import layer_groups
from zoo.optim import parameter_groups
from zoo.tasks import ClassificationTask


class Block(nn.Module):
    """A block of a vision transformer, with timm's names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm2, self.mlp = (
            nn.LayerNorm(width),
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, D, h w) -> (B, h w, D)


class VisionTransformer(nn.Module):
    """timm's layout: tokens of the net itself, ``patch_embed``, ``blocks``, ``norm``, ``head``."""

    def __init__(self, width: int = 8, depth: int = 8, num_classes: int = 3) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(width)
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 5, width))
        self.pos_drop = nn.Dropout(0.0)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(self.pos_drop(x)))[:, 0])


class Stage(nn.Module):
    """A stage of a ConvNeXt, with timm's names."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.downsample = nn.Sequential(nn.GroupNorm(1, channels), nn.Conv2d(channels, width, 1))
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Conv2d(width, width, 3, padding=1)) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class ConvNeXt(nn.Sequential):
    """timm's layout: ``stem``, ``stages``, ``head``."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 4, 4), nn.GroupNorm(1, 8))
        self.stages = nn.Sequential(Stage(8, 8, 2), Stage(8, 16, 2), Stage(16, 16, 3))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))


def trained(task: ClassificationTask) -> set[str]:
    return {name for name, p in task.net.named_parameters() if p.requires_grad}


def fit(task: ClassificationTask, x: Tensor, **options: Any) -> dict[str, Tensor]:
    """Fit a few batches; return the parameters of the net before."""
    before = {name: p.detach().clone() for name, p in task.net.named_parameters()}
    data = DataLoader(TensorDataset(x, torch.arange(len(x)) % task.hparams["num_classes"]), 4)
    quiet_trainer(max_epochs=2, **options).fit(task, data, data)
    return before


def changed(task: ClassificationTask, before: dict[str, Tensor]) -> set[str]:
    return {name for name, p in task.net.named_parameters() if not torch.equal(p, before[name])}


# What is opened --------------------------------------------------------------------------------------------------------


def test_the_blocks_of_a_foreign_vision_transformer_are_groups() -> None:
    net = VisionTransformer()
    assert layer_groups(net) == [
        ["cls_token", "pos_embed", "patch_embed", "pos_drop"],
        *([f"blocks.{i}"] for i in range(7)),
        ["blocks.7", "norm"],
        ["head"],
    ]
    task = ClassificationTask(net, 3, optimizer="SGD", lr=0.1).freeze("blocks.6")
    assert task.frozen == 7
    above = ("blocks.6.", "blocks.7.", "norm.", "head.")
    assert trained(task) == {name for name, _ in net.named_parameters() if name.startswith(above)}
    before = fit(task, torch.rand(8, 1, 8, 8))
    assert changed(task, before) == trained(task)


def test_the_stages_of_a_foreign_convnext_are_groups() -> None:
    net = ConvNeXt()
    assert layer_groups(net) == [
        ["stem.0", "stem.1"], ["stages.0"], ["stages.1"], ["stages.2", "head.0", "head.1"], ["head.2"],
    ]  # fmt: skip
    task = ClassificationTask(net, 3)
    assert task.freeze("stages.1").frozen == task.freeze("stages.1.downsample").frozen == 2
    assert {name.split(".")[0] for name in trained(task)} == {"stages", "head"}
    assert not any(name.startswith("stages.0") for name in trained(task))
    assert task.group_of("stages") == 1


@pytest.mark.parametrize(
    "joins", [nn.PReLU(), nn.BatchNorm1d(3), nn.LayerNorm(3)], ids=lambda part: type(part).__name__
)
def test_norms_and_learned_slopes_join_the_layer_before_them(joins: nn.Module) -> None:
    assert layer_groups(nn.Sequential(nn.Linear(2, 3), joins, nn.Linear(3, 2))) == [["0", "1"], ["2"]]


def test_a_container_is_opened_from_nine_tenths_on() -> None:
    """Of a stem and blocks of equally many parameters, 9 blocks are nine tenths of all, 8 are less."""

    def net(blocks: int) -> nn.Module:
        body = (nn.ModuleDict({"layer": nn.Linear(3, 2)}) for _ in range(blocks))
        return nn.ModuleDict({"stem": nn.Linear(3, 2), "body": nn.Sequential(*body)})

    assert layer_groups(net(8)) == [["stem"], ["body"]]
    assert layer_groups(net(9)) == [["stem"], *([f"body.{i}"] for i in range(9))]


@pytest.mark.parametrize(
    ("net", "name", "group"),
    [
        (VisionTransformer, "blocks.6.mlp", "blocks.6"),
        (VisionTransformer, "blocks.6.attn.out_proj.weight", "blocks.6"),
        (ConvNeXt, "stages.1.blocks", "stages.1"),
    ],
)
def test_a_name_inside_a_group_is_refused_with_the_groups_name(net: Any, name: str, group: str) -> None:
    task = ClassificationTask(net(), 3)
    with pytest.raises(ValueError, match=f"'{name}' lies inside the layer group '{group}', which is frozen as a whole"):
        task.freeze(name)
    assert task.frozen == 0
    with pytest.raises(ValueError, match=f"no layer '{group}.nothing'"):
        task.freeze(f"{group}.nothing")
    with pytest.raises(ValueError, match=r"no layer 'pos_drop\.nothing'"):
        ClassificationTask(VisionTransformer(), 3).freeze("pos_drop.nothing")


# Recurrent nets --------------------------------------------------------------------------------------------------------


class Reader(nn.Module):
    """Classifies a series by the last state of a stacked LSTM."""

    def __init__(self, bidirectional: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, 2, batch_first=True, bidirectional=bidirectional, dropout=dropout)
        self.fc = nn.Linear(10 if bidirectional else 5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0][:, -1])


def lstm_layer(layer: int, reverse: bool = False) -> list[str]:
    parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return [f"lstm.{part}_l{layer}{end}" for end in ("", *["_reverse"] * reverse) for part in parts]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_each_layer_of_a_recurrent_stack_is_a_group(bidirectional: bool) -> None:
    assert layer_groups(Reader(bidirectional)) == [
        lstm_layer(0, bidirectional),
        lstm_layer(1, bidirectional),
        ["fc"],
    ]
    assert layer_groups(nn.Sequential(nn.GRU(3, 5), nn.Linear(5, 2))) == [["0"], ["1"]]
    below = nn.ModuleDict({"embedding": nn.Embedding(7, 3), "rnn": nn.RNN(3, 5, 2)})
    assert [group[0] for group in layer_groups(below)] == ["embedding", "rnn.weight_ih_l0", "rnn.weight_ih_l1"]


def test_a_parametrized_weight_belongs_to_its_layer() -> None:
    net = Reader()
    nn.utils.parametrizations.weight_norm(net.lstm, "weight_hh_l1")
    groups = layer_groups(net)
    assert sum(len(names) for names in groups[:2]) == len(list(net.lstm.parameters())) == 9
    assert [name for name in groups[1] if "parametrizations" in name] == [
        f"lstm.parametrizations.weight_hh_l1.original{k}" for k in (0, 1)
    ]


@pytest.mark.parametrize("below", [1, "lstm.weight_ih_l1"])
def test_a_frozen_lower_layer_of_a_stack_stays_to_the_bit(below: int | str) -> None:
    task = ClassificationTask(Reader(), 2, lr=0.05, weight_decay=0.1).freeze(below)
    before = fit(task, torch.rand(8, 6, 3))
    assert changed(task, before) == {*lstm_layer(1), "fc.weight", "fc.bias"}


def test_a_recurrent_stack_is_in_evaluation_mode_once_it_is_frozen() -> None:
    """Its dropout acts between the layers, and is one for all of them."""
    task = ClassificationTask(Reader(dropout=0.5), 2)
    modes = [task.freeze(count).train().net.lstm.training for count in (0, 1, 2, 3, 1)]
    assert modes == [True, True, False, False, True]


# Shared matrices -------------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """Names the token that occurs most: the embedding's matrix is the head's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.middle, self.head = nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.embedding(x).mean(dim=1)))


TOKENS = (torch.arange(24) % 6)[:, None].expand(-1, 3)


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_shared_matrix_is_in_one_parameter_group(layer_decay: float, weight_decay: float) -> None:
    net = Tied()
    groups = parameter_groups(net, 1.0, weight_decay, decay_norm_and_bias=False, layer_decay=layer_decay)
    places = [(group["name"], p) for group in groups for p in group["params"]]
    assert all(group["params"] for group in groups)
    assert sorted(id(p) for _, p in places) == sorted(id(p) for p in net.parameters())
    (group,) = (group for group in groups if any(p is net.embedding.weight for p in group["params"]))
    assert group["weight_decay"] == 0  # an embedding
    if layer_decay != 1:
        assert group["lr"] == 1.0  # the head's
        assert group["name"] == ("2/no_decay" if weight_decay else "2/all")


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_a_net_with_a_shared_matrix_trains(layer_decay: float) -> None:
    torch.manual_seed(0)
    task = ClassificationTask(Tied(), 6, lr=0.1, layer_decay=layer_decay)
    first = task.training_losses((TOKENS, TOKENS[:, 0]))[0].item()
    fit(task, TOKENS, log_every_n_steps=0)
    assert task.net.head.weight is task.net.embedding.weight
    assert task.training_losses((TOKENS, TOKENS[:, 0]))[0].item() < 0.5 * first


def test_a_shared_matrix_is_frozen_with_the_last_of_its_groups() -> None:
    task = ClassificationTask(Tied(), 6, lr=0.1).freeze(-1)
    assert trained(task) == {"embedding.weight", "head.bias"}
    assert changed(task, fit(task, TOKENS)) == {"embedding.weight", "head.bias"}
    assert trained(task.freeze()) == set()
    own = Tied()
    own.layer_groups = lambda: [["embedding"], ["middle"], ["head"]]  # type: ignore[assignment]
    assert layer_groups(own) == [["embedding"], ["middle"], ["head"]]


# Names -----------------------------------------------------------------------------------------------------------------


class Wrapper(nn.Module):
    """Has a part that is called as a task's net is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.net, self.head = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(self.stem(x)))


def test_a_part_of_the_net_may_have_the_name_of_a_part_of_the_task() -> None:
    task = ClassificationTask(Wrapper(), 2).freeze("net").train()
    assert trained(task) == {"net.weight", "net.bias", "head.weight", "head.bias"}
    task.freeze(2).train()
    assert trained(task) == {"head.weight", "head.bias"}
    assert [part.training for part in (task.net.stem, task.net.net, task.net.head)] == [False, False, True]

"""Freezing is declared state: no gradient, nothing stored, norms fixed, dropout off, through train() and a checkpoint."""

from pathlib import Path

import pytest
import torch
from kit import quiet_trainer
from torch import nn

import zoo
from datamodules import DigitsDataModule
from zoo.blocks import layer_groups


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_models_groups_hold_each_parameter_once(name: str) -> None:
    with torch.device("meta"):
        task = zoo.create_model(name)
    groups = task.layer_groups()
    named = dict(
        task.net.named_parameters(remove_duplicate=False)
    )  # a tied one belongs to each group that has a name of it
    parts = dict(task.net.named_modules(remove_duplicate=False))
    held = [id(p) for names in groups for n in names for p in ([named[n]] if n in named else parts[n].parameters())]
    assert sorted(held) == sorted(id(p) for p in named.values())
    head = getattr(task.net, "head_name", None)
    if head is not None:
        assert head in groups[-1]


def test_groups_of_known_nets() -> None:
    assert layer_groups(zoo.create_model("resnet18", width=2).net) == [
        ["conv1", "bn1", "relu", "maxpool"], ["layer1"], ["layer2"], ["layer3"], ["layer4"], ["fc"],
    ]  # fmt: skip
    assert [g[0] for g in layer_groups(zoo.create_model("mlp").net)] == ["layers.0", "layers.1", "fc"]


def test_a_net_that_forgets_a_parameter_is_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net.layer_groups = lambda: [["0"]]  # type: ignore[assignment]
    with pytest.raises(ValueError, match="must name every parameter once"):
        layer_groups(net)


def test_nothing_below_is_stored_or_moved() -> None:
    task = zoo.create_model("resnet18", width=2, num_classes=10, dropout=0.5).freeze(-1).train()
    before = {k: v.clone() for k, v in task.net.state_dict().items()}
    x = torch.rand(4, 3, 32, 32)
    maps = task.net.features(x)
    assert not any(m.requires_grad for m in maps)
    assert torch.equal(maps[-1], task.net.features(x)[-1])  # dropout is off
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t) or t, lambda t: t):
        loss, _, _ = task.training_losses((x, torch.arange(4)))
    assert max(t.numel() for t in stored) <= 10 * 16  # the head's own input, weight and logits
    loss.backward()
    assert [n for n, p in task.net.named_parameters() if p.grad is not None] == ["fc.weight", "fc.bias"]
    assert all(torch.equal(v, before[k]) for k, v in task.net.state_dict().items())
    assert torch.equal(maps[-1], task.eval().net.features(x)[-1])


def test_a_name_freezes_what_is_below_it() -> None:
    task = zoo.create_model("resnet18", width=2)
    assert task.freeze("layer3").frozen == 3
    assert not task.net.bn1.training  # at once, also where nobody calls train()
    assert task.freeze("layer3.0.conv1").frozen == 3
    assert {n.split(".")[0] for n, p in task.net.named_parameters() if not p.requires_grad} == {
        "conv1",
        "bn1",
        "layer1",
        "layer2",
    }
    modes = {n: m.training for n, m in task.train().net.named_children()}
    assert modes == {"conv1": False, "bn1": False, "relu": False, "maxpool": False, "layer1": False, "layer2": False,
                     "layer3": True, "layer4": True, "fc": True}  # fmt: skip
    assert all(p.requires_grad for p in task.unfreeze().net.parameters())
    assert all(m.training for m in task.train().modules())
    assert not any(p.requires_grad for p in task.freeze().net.parameters())


def test_a_fit_keeps_it_and_so_does_the_checkpoint(tmp_path: Path) -> None:
    """Validation in between calls eval() and train(); stock freeze() would be undone there."""
    torch.manual_seed(0)
    task = zoo.create_model("resnet20", width=2, in_channels=1).freeze(-1)
    frozen = {k: v.clone() for k, v in task.net.state_dict().items() if not k.startswith("fc")}
    head = task.net.fc.weight.clone()
    trainer = quiet_trainer(max_epochs=2, limit_train_batches=2, limit_val_batches=1)
    trainer.fit(task, datamodule=DigitsDataModule(batch_size=32))
    assert all(torch.equal(v, frozen[k]) for k, v in task.net.state_dict().items() if k in frozen)
    assert not torch.equal(task.net.fc.weight, head)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    for again in (zoo.load(tmp_path / "a.ckpt"), zoo.CIFARResNetClassifier.load_from_checkpoint(tmp_path / "a.ckpt")):
        assert again.frozen == 4
        assert [n for n, p in again.net.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]


def test_a_container_means_its_lowest_group() -> None:
    task = zoo.create_model("vgg11", width=4, init="gaussian")
    groups = task.layer_groups()
    assert task.group_of("features") == task.group_of("all") == 0
    assert "classifier.0" in groups[task.group_of("classifier")]
    assert task.group_of("head") == len(groups) - 1
    assert task.freeze("head").frozen == len(groups) - 1


@pytest.mark.parametrize(
    ("below", "message"),
    [
        ("layr3", "no layer 'layr3', did you mean 'layer3'"),
        (7, r"has 6 layer groups: freeze 0..6, got 7"),
        (-7, "got -7"),
    ],
)
def test_bad_layers(below: int | str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.create_model("resnet18", width=2).freeze(below)


@pytest.mark.parametrize("below", [1.5, True])
def test_what_is_neither_a_number_nor_a_name(below: object) -> None:
    with pytest.raises(TypeError, match=f"a number of layer groups or the name of a module, got {below}"):
        zoo.create_model("resnet18", width=2).freeze(below)  # type: ignore[arg-type]

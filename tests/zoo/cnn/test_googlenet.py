"""GoogLeNet against torchvision, a formula in float64, and the statements of the paper."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import zoo
from zoo.blocks import FeatureMap, Style, layer_groups
from zoo.cnn import GoogLeNet
from zoo.cnn.googlenet import CHANNELS, Inception


def small(**arguments: object) -> GoogLeNet:
    return GoogLeNet(**{"num_classes": 7, "width": 4, "dropout": 0.0, "dropout_aux": 0.0, **arguments})


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "count", "with_heads"),
    [
        ("googlenet", 6_624_904, 13_004_888),  # torchvision's meta["num_params"]
        ("googlenet_published", 6_998_552, 13_378_280),  # Caffe's bvlc_googlenet
    ],
)
def test_published_parameter_count(name: str, count: int, with_heads: int) -> None:
    with torch.device("meta"):
        assert parameters(zoo.create_model(name).net) == with_heads
        assert parameters(zoo.create_model(name, aux_logits=False).net) == count


def test_parameters_of_the_published_modules() -> None:
    """Table 1, in units of 1024. Its later rows contradict their own channels."""
    with torch.device("meta"):
        net = zoo.create_model("googlenet_published").net
    for name, published in (("3a", 159), ("3b", 380)):
        assert parameters(net.get_submodule(f"inception{name}")) / 1024 == pytest.approx(published, abs=1)


def test_the_naive_net_widens() -> None:
    """The pooling of a module adds all channels of its input (section 4)."""
    channels, count = 192, 7 * 7 * 3 * 64 + 64 * 64 + 9 * 64 * 192 + 2 * (64 + 64 + 192)
    for row in (row for rows in CHANNELS.values() for row in rows.values()):
        one, _, three, _, five, _ = row
        count += channels * (one + 9 * three + 25 * five) + 2 * (one + three + five)
        channels += one + three + five
    with torch.device("meta"):
        net = zoo.create_model("googlenet_naive", aux_logits=False).net
    assert net.num_features == channels
    assert parameters(net) == count + channels * 1000 + 1000


def test_keys_logits_and_gradients_equal_torchvision() -> None:
    theirs = torchvision.models.googlenet(num_classes=7, init_weights=False)
    for p in theirs.parameters():  # random norms and biases too
        p.data += 0.02 * torch.randn_like(p)
    ours = GoogLeNet(num_classes=7)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, y = torch.rand(2, 3, 64, 47), torch.tensor([1, 5])
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=0)
    for net in (ours, theirs):
        torch.manual_seed(0)  # the same units are dropped
        output = net.train()(x)
        logits, first, second = (output[0], *output[1]) if net is ours else (output[0], output[2], output[1])
        losses = [F.cross_entropy(z, y) for z in (logits, first, second)]
        (losses[0] + 0.3 * losses[1] + 0.3 * losses[2]).backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("module", ["reduced", "naive"])
def test_the_module_equals_the_formula(module: str, kernel: int) -> None:
    block = Inception(6, (4, 2, 3, 2, 5, 7), module, kernel, Style(norm="none")).double()
    x, w = torch.randn(2, 6, 8, 9, dtype=torch.float64), block.state_dict()

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:  # by unfolding: patches times weights
        weight, bias = w[f"{name}.conv.weight"], w[f"{name}.conv.bias"]
        patches = F.unfold(x, weight.shape[-1], padding=weight.shape[-1] // 2)
        return (weight.flatten(1) @ patches + bias[:, None]).unflatten(2, x.shape[2:]).clamp(min=0)

    padded = F.pad(x, (1, 1, 1, 1), value=-torch.inf)
    pooled = torch.stack([padded[:, :, i : i + 8, j : j + 9] for i in range(3) for j in range(3)]).amax(0)
    if module == "naive":
        wanted = [conv(x, "branch1"), conv(x, "branch2"), conv(x, "branch3"), pooled]
    else:
        deep = [conv(conv(x, f"branch{i}.0"), f"branch{i}.1") for i in (2, 3)]
        wanted = [conv(x, "branch1"), *deep, conv(pooled, "branch4.1")]
    assert [part.shape[1] for part in wanted] == [4, 3, 5, 6 if module == "naive" else 7]
    torch.testing.assert_close(block(x), torch.cat(wanted, 1), rtol=1e-12, atol=1e-12)


def test_the_loss_adds_the_auxiliary_heads_which_are_logged_apart() -> None:
    task = zoo.create_model("googlenet", num_classes=7, width=4, dropout=0.0, dropout_aux=0.0, aux_weight=0.5)
    x, y = torch.rand(4, 3, 32, 32), torch.arange(4)
    logits, heads = task(x)
    assert [z.shape for z in (logits, *heads)] == [(4, 7)] * 3
    losses = [F.cross_entropy(z, y) for z in (logits, *heads)]
    loss, means, count = task.training_losses((x, y))
    torch.testing.assert_close(loss, losses[0] + 0.5 * losses[1] + 0.5 * losses[2])
    logged = [means[name] for name in ("loss", "aux1_loss", "aux2_loss")]
    torch.testing.assert_close(logged, losses)
    assert (count, len({z.item() for z in logged})) == (4, 3)
    assert zoo.create_model("googlenet", width=4).hparams["aux_weight"] == 0.3  # section 5


def test_evaluation_and_export_are_without_auxiliary_heads() -> None:
    net, bare = small().eval(), small(aux_logits=False).eval()
    assert set(bare.state_dict()) == {name for name in net.state_dict() if not name.startswith("aux")}
    bare.load_state_dict(net.state_dict(), strict=False)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(net(x), bare(x))
    program = torch.export.export(net, (x,))
    used = {node.name for node in program.graph.nodes if node.users}
    assert any("fc" in name for name in used)
    assert not any("aux" in name for name in used)


def test_auxiliary_heads_are_trained_with_the_head() -> None:
    """Of a frozen trunk; a net that is frozen as a whole does not use them."""
    task = zoo.create_model("googlenet", num_classes=7, width=4).freeze(-1).train()
    x = torch.rand(4, 3, 32, 32)
    task.training_losses((x, torch.arange(4)))[0].backward()
    assert {n.split(".")[0] for n, p in task.net.named_parameters() if p.grad is not None} == {"fc", "aux1", "aux2"}
    groups = layer_groups(task.net)
    assert [name for group in groups[:3] for name in group] == ["conv1", "maxpool1", "conv2"]
    assert groups[-1] == ["fc", "dropout", "aux1", "aux2"]
    assert layer_groups(small(aux_logits=False))[-1] == ["fc", "dropout"]
    frozen = task.freeze().train()
    assert frozen.net.training
    assert torch.equal(frozen(x), frozen(x))  # logits alone, and dropout is off


def test_reset_head_replaces_all_heads() -> None:
    net, x = small(), torch.rand(2, 3, 32, 32)
    fixed = net.aux1.fc1.weight
    net.reset_head(5)
    logits, heads = net(x)
    assert [z.shape for z in (logits, *heads)] == [(2, 5)] * 3
    assert net.aux1.fc1.weight is fixed
    net.reset_head(0)
    assert net(x).shape == (2, net.num_features)  # in training too: there is nothing to classify
    binary = zoo.create_model("googlenet", num_classes=2, width=4, mode="binary")
    assert [z.shape for z in binary(x)[1]] == [(2, 1)] * 2


def test_strides_channels_and_receptive_fields() -> None:
    def by_hand(kernel: int) -> list[FeatureMap]:
        third = 11 + 2 * 4 + 2 * 4 + 2 * (kernel - 1) * 8  # 11 after 7x7/2 and pooling; conv3, maxpool2, 3a, 3b
        fourth = third + 2 * 8 + 5 * (kernel - 1) * 16
        fifth = fourth + 1 * 16 + 2 * (kernel - 1) * 32
        fields = [7, 11 + 2 * 4, third, fourth, fifth]
        channels = [64, 192, 480, 832, 1024]
        return [FeatureMap(c, 2**i, r) for i, (c, r) in enumerate(zip(channels, fields, strict=True), start=1)]

    with torch.device("meta"):
        assert GoogLeNet().feature_maps() == by_hand(3)
        assert GoogLeNet(branch5x5=True).feature_maps() == by_hand(5)
        maps = GoogLeNet().features(torch.empty(1, 3, 224, 224))
    assert [m.shape[-1] for m in maps] == [112, 56, 28, 14, 7]  # table 1


def test_features_are_not_overwritten() -> None:
    net, x = small(norm="none").eval(), torch.rand(1, 3, 64, 64)
    maps = net.features(x)
    assert torch.equal(maps[0], net.conv1(x))
    assert torch.equal(maps[1], net.conv3(net.conv2(net.maxpool1(maps[0]))))
    assert torch.equal(maps[2], net.inception3b(net.inception3a(net.maxpool2(maps[1]))))
    assert torch.equal(maps[4], net.inception5b(net.inception5a(net.maxpool4(maps[3]))))


def test_as_a_convolution_it_is_the_same_net() -> None:
    net, x = small().eval(), torch.rand(2, 3, 96, 64)
    y = net.as_convolution()(x)
    assert y.shape == (2, 7, 3, 2)
    torch.testing.assert_close(y.mean(dim=(2, 3)), net(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "group", "instance", "none"])
def test_norm_and_activation_by_name(norm: str) -> None:
    net = small(norm=norm, activation="gelu")
    kinds = {type(m) for m in net.modules() if "Norm" in type(m).__name__}
    assert kinds == {"instance": {nn.InstanceNorm2d}, "none": set()}.get(norm, {nn.GroupNorm})
    assert not any(isinstance(m, nn.ReLU) for m in net.modules())
    assert net(torch.rand(2, 3, 64, 64))[0].isfinite().all()


def test_images_that_leave_no_map_are_refused() -> None:
    net = small().eval()
    assert net(torch.rand(1, 3, 15, 15)).shape == (1, 7)
    with pytest.raises(ValueError, match="GoogLeNet takes images of 15x15 pixels or more, got 14x20"):
        net(torch.rand(1, 3, 14, 20))
    with pytest.raises(ValueError, match="set in_channels=1"):
        net(torch.rand(1, 1, 32, 32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"module": "plain"}, "module must be 'reduced' or 'naive', got 'plain'"),
        ({"width": 3}, "width must be 4 or more, got 3"),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\), got 1.0"),
        ({"dropout_aux": -0.1}, r"dropout_aux is a probability in \[0, 1\), got -0.1"),
        ({"aux_weight": -1.0}, "aux_weight must be 0 or more, got -1.0"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.GoogLeNetClassifier(**{"width": 4, **arguments})


def test_weights_go_between_nets_with_and_without_auxiliary_heads(tmp_path: Path) -> None:
    heads = zoo.create_model("googlenet", num_classes=3, width=4)
    bare = zoo.create_model("googlenet", num_classes=3, width=4, aux_logits=False)
    for name, source, arguments in (("heads", heads, {"aux_logits": False}), ("bare", bare, {"aux_logits": True})):
        path = tmp_path / f"{name}.pt"
        torch.save(source.net.state_dict(), path)
        twin = zoo.create_model("googlenet", num_classes=3, width=4, weights=path, **arguments)
        state = source.net.state_dict()
        shared = {k: v for k, v in twin.net.state_dict().items() if not k.startswith("aux")}
        assert all(torch.equal(v, state[k]) for k, v in shared.items())
        assert (twin.net.aux2 is not None) is arguments["aux_logits"]

"""ViT against torchvision and a formula in float64, and its layer groups."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

import zoo
from zoo.blocks import MultiHeadAttention
from zoo.transformer import ViT

SMALL = {"image_size": 24, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 40}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vit_b_16", 86_567_656),
        ("vit_b_32", 88_224_232),
        ("vit_l_16", 304_326_632),
        ("vit_l_32", 306_535_400),
        ("vit_h_14", 632_045_800),
    ],
)
def test_published_parameter_count_and_keys(name: str, count: int) -> None:
    with torch.device("meta"):
        ours, theirs = zoo.create_model(name).net, getattr(torchvision.models, name)()
    assert sum(p.numel() for p in ours.parameters()) == count
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"])
def test_logits_and_gradients_equal_torchvision(name: str) -> None:
    """With the patches and heads of each preset, and smaller sizes otherwise."""
    entry = zoo.registry.get(name).preset
    sizes = {**entry, "image_size": 2 * entry["patch_size"], "num_layers": 2, "mlp_dim": 40}
    sizes["hidden_dim"] = 2 * sizes["num_heads"]
    theirs = VisionTransformer(num_classes=7, **sizes)
    for p in theirs.parameters():  # a head of zeros would hide all other layers
        p.data += 0.05 * torch.randn_like(p)
    ours = ViT(num_classes=7, **sizes)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, y = torch.rand(3, 3, sizes["image_size"], sizes["image_size"]), torch.tensor([1, 5, 2])
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    for net in (ours, theirs):
        logits = net.train()(x)
        F.cross_entropy(logits, y).backward()
    for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # not to the bit: torch's attention holds tokens before examples, so sums over both are in another order
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


def test_equals_the_formula() -> None:
    net, x = ViT(**SMALL, num_classes=7).double().eval(), torch.rand(2, 3, 24, 24, dtype=torch.float64)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    w = net.state_dict()

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        scaled = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    # 3 x 3 patches, row by row, each as 3 * 8 * 8 numbers
    patches = [x[:, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8].flatten(1) for i in range(3) for j in range(3)]
    tokens = [p @ w["conv_proj.weight"].flatten(1).T + w["conv_proj.bias"] for p in patches]
    z = torch.stack([w["class_token"][0].expand(2, -1), *tokens], dim=1) + w["encoder.pos_embedding"]  # eq. 1
    for i in range(2):
        block = f"encoder.layers.encoder_layer_{i}"
        h, weight, bias = (
            norm(z, f"{block}.ln_1"),
            w[f"{block}.self_attention.in_proj_weight"],
            w[f"{block}.self_attention.in_proj_bias"],
        )
        q, k, v = (h @ a.T + b for a, b in zip(weight.split(16), bias.split(16), strict=True))
        heads = [
            (q[..., s] @ k[..., s].mT / 8**0.5).softmax(-1) @ v[..., s] for s in (slice(0, 8), slice(8, 16))
        ]  # two heads of 8
        z = z + linear(torch.cat(heads, -1), f"{block}.self_attention.out_proj")  # eq. 2
        h = linear(norm(z, f"{block}.ln_2"), f"{block}.mlp.0")
        h = 0.5 * h * (1 + torch.erf(h / 2**0.5))  # gelu
        z = z + linear(h, f"{block}.mlp.3")  # eq. 3
    wanted = linear(norm(z[:, 0], "encoder.ln"), "heads.head")  # eq. 4
    torch.testing.assert_close(net(x), wanted, rtol=1e-12, atol=1e-12)


def test_a_fresh_net_has_the_expected_initial_loss() -> None:
    task = zoo.ViTClassifier(**SMALL, num_classes=7)
    loss = task.training_losses((torch.rand(4, 3, 24, 24), torch.arange(4)))[0]
    assert loss.item() == pytest.approx(math.log(7), abs=1e-6)
    assert task.expected_initial_loss() == math.log(7)


def test_positions_matter() -> None:
    net, x = ViT(**SMALL).eval(), torch.rand(1, 3, 24, 24)
    nn.init.normal_(net.heads.head.weight)
    swapped = torch.cat([x[..., 8:16], x[..., :8], x[..., 16:]], dim=-1)  # two columns of patches
    assert not torch.allclose(net(x), net(swapped))
    nn.init.zeros_(net.encoder.pos_embedding)  # without them, patches are a set
    torch.testing.assert_close(net(x), net(swapped))


@pytest.mark.parametrize("which", ["dropout", "attention_dropout"])
def test_dropout_acts_in_training_only(which: str) -> None:
    net, x = ViT(**SMALL, **{which: 0.5}), torch.rand(2, 3, 24, 24)
    nn.init.normal_(net.heads.head.weight)
    assert torch.equal(net.eval()(x), net(x))
    assert not torch.equal(net.train()(x), net(x))


def test_attention_weights_and_values_are_dropped_by_rates_of_their_own() -> None:
    net = ViT(**SMALL, dropout=0.25, attention_dropout=0.5)
    assert {m.p for m in net.modules() if isinstance(m, nn.Dropout)} == {0.25}
    assert {m.dropout for m in net.modules() if isinstance(m, MultiHeadAttention)} == {0.5}


def test_layer_groups_and_freezing() -> None:
    task = zoo.ViTClassifier(**SMALL, dropout=0.5)
    assert task.layer_groups() == [
        ["conv_proj", "class_token", "encoder.pos_embedding", "encoder.dropout"],
        ["encoder.layers.encoder_layer_0"],
        ["encoder.layers.encoder_layer_1"],
        ["encoder.ln", "heads.head"],
    ]
    task.freeze("encoder.layers.encoder_layer_1").train()
    free = {name for name, p in task.net.named_parameters() if p.requires_grad}
    assert {name.removeprefix("encoder.").split(".")[0] for name in free} == {"layers", "ln", "heads"}
    assert not any("encoder_layer_0" in name for name in free)
    assert not task.net.class_token.requires_grad
    assert not task.net.encoder.pos_embedding.requires_grad
    assert not task.net.encoder.dropout.training
    assert not task.net.encoder.layers.encoder_layer_0.mlp[2].training
    assert task.net.encoder.layers.encoder_layer_1.mlp[2].training


def test_reset_head() -> None:
    net, x = ViT(**SMALL), torch.rand(2, 3, 24, 24)
    net.reset_head(0)
    assert net(x).shape == (2, 16)
    net.reset_head(5)
    assert net(x).shape == (2, 5)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ViT takes images of shape \(B, 3, 24, 24\), got \(1, 3, 32, 32\): set"):
        ViT(**SMALL)(torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 7}, "patches of 7 pixels do not divide images of 24"),
        ({"num_heads": 3}, "3 heads do not divide a width of 16"),
        ({"num_layers": 0}, "num_layers must be 1 or more, got 0"),
        ({"mlp_dim": 0}, "mlp_dim must be 1 or more, got 0"),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\), got 1.0"),
        ({"attention_dropout": -0.1}, r"dropout is a probability in \[0, 1\), got -0.1"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.ViTClassifier(**{**SMALL, **arguments})

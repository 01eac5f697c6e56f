"""Transformer captioner: against torch's encoder and decoder, step by step, all captions at once, and what is refused."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo import CaptionedImage
from zoo.blocks.skeleton import skeleton
from zoo.captioning import TransformerCaptioner
from zoo.cnn import CIFARResNet
from zoo.decoding import beam_search, greedy
from zoo.encoders import ImageEncoder
from zoo.testing import check_module

V, WIDTH, CHANNELS = 7, 8, 16  # the encoder's last map has 16 channels and, of images of 12 x 8 pixels, 3 x 2 cells
FORMS: dict[str, dict[str, Any]] = {
    "norm first": {},
    "norm last": {"norm_first": False, "hidden_dim": 12},
    "no encoder": {"encoder_layers": 0},
    "no encoder, norm last": {"encoder_layers": 0, "norm_first": False, "num_layers": 1},
    "two layers each": {"encoder_layers": 2, "num_heads": 4},
}


def build(stage: int = -1, **arguments: Any) -> TransformerCaptioner:
    torch.manual_seed(0)
    encoder = ImageEncoder(CIFARResNet(8, width=4), stage)
    net = TransformerCaptioner(encoder, V, **{"width": WIDTH, "num_heads": 2, "dropout": 0.0, **arguments}).double()
    for name, p in net.named_parameters():
        if not name.startswith("encoder.") and p.ndim == 1:  # biases and norms that are no identities
            p.data += 0.3 * torch.randn_like(p)
    return net.eval()


def captioned() -> CaptionedImage:
    """Three images of 12 x 8 pixels with two captions each, of which some are shorter and one is missing."""
    caption = torch.tensor([[[1, 2, 3, 6], [1, 4, 0, 0]], [[1, 5, 0, 0], [1, 2, 2, 4]], [[1, 3, 3, 0], [0, 0, 0, 0]]])
    return CaptionedImage(torch.rand(3, 3, 12, 8, generator=torch.Generator().manual_seed(1)).double(), caption)


def sinusoids(places: int, width: int) -> Tensor:
    """Sinusoidal positions by their formula, ``(places, width)``."""
    rows = [
        [(math.cos if i % 2 else math.sin)(place / 10000 ** (2 * (i // 2) / width)) for i in range(width)]
        for place in range(places)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def memory_by_torch(net: TransformerCaptioner, image: Tensor) -> Tensor:
    """What the decoder attends to, by torch's encoder: ``(B, 6, D)``."""
    y = net.encoder.net.features(image)[-1]
    cells = torch.stack([y[:, :, i, j] for i in range(3) for j in range(2)], dim=1)
    x = cells @ net.tokens.projection.weight.T + net.tokens.projection.bias
    half = [sinusoids(n, WIDTH // 2) for n in (3, 2)]
    x = x + torch.stack([torch.cat([half[0][i], half[1][j]]) for i in range(3) for j in range(2)])
    first, count = isinstance(net.tokens.norm, nn.LayerNorm), len(net.tokens.layers)
    if not count:
        return net.tokens.norm(x)
    some: Any = net.tokens.layers[0]
    layer = nn.TransformerEncoderLayer(
        WIDTH,
        some.self_attn.num_heads,
        some.linear1.out_features,
        0.0,
        layer_norm_eps=1e-6,
        batch_first=True,
        norm_first=first,
    )
    norm = nn.LayerNorm(WIDTH, 1e-6) if first else None
    theirs = nn.TransformerEncoder(layer, count, norm, enable_nested_tensor=False).double().eval()
    theirs.load_state_dict({k: v for k, v in net.tokens.state_dict().items() if not k.startswith("projection")})
    return theirs(x)


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_equals_torch(form: str) -> None:
    net, x = build(**FORMS[form]), captioned()
    some: Any = net.decoder.layers[0]
    first = some.norm_first
    layer = nn.TransformerDecoderLayer(
        WIDTH, some.self_attn.num_heads, some.linear1.out_features, 0.0, batch_first=True, norm_first=first
    )
    theirs = nn.TransformerDecoder(layer, len(net.decoder.layers), nn.LayerNorm(WIDTH) if first else None)
    theirs = theirs.double().eval()
    theirs.load_state_dict({k: v for k, v in net.decoder.state_dict().items() if not k.startswith("embedding")})
    looks: list[Tensor] = []
    attention: Any = theirs.layers[-1].multihead_attn
    forward = attention.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        y, weights = forward(*args, **{**kwargs, "need_weights": True})
        looks.append(weights)
        return y, weights

    attention.forward = watched
    memory, mask = memory_by_torch(net, x.image), torch.ones(4, 4, dtype=torch.bool).triu(1)
    logits, weights = net(x), net.attention(x)
    for r in range(2):
        embedded = net.decoder.embedding.weight[x.caption[:, r]] * WIDTH**0.5 + sinusoids(4, WIDTH)
        wanted = theirs(embedded, memory, tgt_mask=mask) @ net.fc.weight.T
        torch.testing.assert_close(logits[:, r], wanted, rtol=0, atol=1e-10)
        torch.testing.assert_close(weights[:, r], looks[r], rtol=0, atol=1e-10)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=3), torch.ones(3, 2, 4, dtype=torch.float64))


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_step_by_step_equals_at_once(form: str) -> None:
    net, x = build(**FORMS[form]), captioned()
    logits, state = net(x), net.encode(x.image)
    for t in range(4):
        step, state = net.step(x.caption[:, 0, t], state)
        torch.testing.assert_close(step, logits[:, 0, t], rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_reordered_state_goes_on_with_the_other_image() -> None:
    net, x = build(), captioned()
    logits, state = net(x), net.encode(x.image)
    for t, index in enumerate(([2, 0, 1], [1, 2, 0], [0, 0, 2, 1])):
        state = net.reorder_state(state, torch.tensor(index))
        image = torch.tensor([2, 0, 1])[torch.tensor([1, 2, 0])] if t else torch.tensor([2, 0, 1])
        image = image[torch.tensor(index)] if t == 2 else image
        assert state.sources.tolist() == image.tolist()
        step, state = net.step(x.caption[image, 0, t], state)
        torch.testing.assert_close(step, logits[image, 0, t], rtol=0, atol=1e-12)


@torch.no_grad()
def test_hypotheses_of_one_image_leave_its_keys_and_values_where_they_are() -> None:
    net, x = build(), captioned()
    state = net.repeated(net.encode(x.image), 3, 2)
    _, state = net.step(torch.full((6,), 2), state)
    after = net.reorder_state(state, torch.tensor([1, 1, 2, 2, 5, 4]))
    assert after.layers[0].memory is state.layers[0].memory
    assert torch.equal(after.layers[0].tokens.keys[0], state.layers[0].tokens.keys[1])


@torch.no_grad()
def test_greedy_and_beam_search_find_the_best_of_all_captions() -> None:
    """All sequences of three words and the end, up to four tokens, as captions of one batch; the beam holds all."""
    net, image = build(), captioned().image
    net.fc.weight.mul_(3)  # far from alike
    words, end, longest = (2, 3, 4), 1, 4
    sequences = [(*body, end) for n in range(longest) for body in itertools.product(words, repeat=n)]
    sequences += itertools.product(words, repeat=longest)
    written = torch.zeros(len(sequences), longest, dtype=torch.long)
    for i, sequence in enumerate(sequences):
        written[i, : len(sequence)] = torch.tensor(sequence)
    read = torch.cat([torch.ones(len(written), 1, dtype=torch.long), written[:, :-1]], dim=1)
    logits = net(CaptionedImage(image, read.expand(3, -1, -1)))  # (B, R, T, V)
    each = logits.log_softmax(dim=3).gather(3, written.expand(3, -1, -1)[..., None])[..., 0]
    real = (written != 0).double()
    means = (each * real).sum(dim=2) / real.sum(dim=1)  # (B, R)
    rules: dict[str, Any] = {"end": end, "padding": 0, "forbid": [0, 5, 6]}
    start = torch.ones(3, dtype=torch.long)
    made = beam_search(net, net.encode(image), start, longest, beam=3**3 * 4, best=2, **rules)
    for b in range(3):
        best = means[b].topk(2)
        torch.testing.assert_close(made.scores[b], best.values, rtol=0, atol=1e-12)
        for n, i in enumerate(best.indices.tolist()):
            assert made.tokens[b, n, : made.lengths[b, n]].tolist() == list(sequences[i])
    decoded = greedy(net, net.encode(image), start, longest, **rules)
    for b, (row, length) in enumerate(zip(decoded.tokens, decoded.lengths, strict=True)):
        caption = row.flatten()[: int(length)].tolist()
        i = sequences.index(tuple(caption))
        for t, token in enumerate(caption):
            allowed = [*words, end]
            assert token == allowed[int(logits[b, i, t, allowed].argmax())]


@torch.no_grad()
def test_a_caption_looks_at_cells_in_the_order_of_rows() -> None:
    """Where only one cell is bright, and brightness is all that is attended to, the weights stand there."""

    class Bright(nn.Module):
        in_channels = 1

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def features(self, x: Tensor) -> list[Tensor]:
            return [x[:, :, ::4, ::4] * self.scale]

    net = TransformerCaptioner(ImageEncoder(Bright()), V, width=8, num_heads=1, num_layers=1, encoder_layers=0).eval()
    net.tokens.norm = nn.Identity()
    net.tokens.projection.weight.fill_(1000.0)  # beside which positions are nothing
    attention: Any = net.decoder.layers[0].multihead_attn
    attention.in_proj_weight.zero_()
    attention.in_proj_weight[8:16] = torch.eye(8)  # keys are the tokens themselves
    attention.in_proj_bias.zero_()
    attention.in_proj_bias[:8] = 1.0  # and queries ones
    for row, column in ((0, 0), (0, 2), (2, 1), (1, 3)):
        image = torch.zeros(1, 1, 12, 16)
        image[0, 0, 4 * row, 4 * column] = 1
        weights = net.attention(CaptionedImage(image, torch.tensor([[[1, 2, 3]]])))
        assert weights.shape == (1, 1, 3, 12)
        assert weights.argmax(dim=3).unique().tolist() == [4 * row + column]
        assert weights.max(dim=3).values.min() > 0.99


@torch.no_grad()
def test_captions_do_not_change_each_other_and_images_of_any_size_are_read() -> None:
    net, x = build(), captioned()
    one = net(CaptionedImage(x.image[1:2], x.caption[1:2, 1:]))
    torch.testing.assert_close(net(x)[1:2, 1:], one, rtol=0, atol=1e-12)
    for height, width in ((8, 20), (9, 23)):
        image = torch.rand(3, 3, height, width).double()
        cells = math.prod(net.encoder.map_size(image))
        assert net.attention(CaptionedImage(image, x.caption)).shape == (3, 2, 4, cells)


def test_number_of_parameters_by_hand() -> None:
    """Of a map of 40 channels, 50 tokens and a width of 64, without those of the encoder."""
    with skeleton():
        net = TransformerCaptioner(ImageEncoder(CIFARResNet(8, width=10)), 50, width=64, num_layers=3, encoder_layers=2)
    count = sum(p.numel() for name, p in net.named_parameters() if not name.startswith("encoder."))
    attention, feed, norm = 4 * 64 * 64 + 4 * 64, 2 * 64 * 256 + 256 + 64, 2 * 64
    assert count == sum(
        [
            41 * 64 + 2 * (attention + feed + 2 * norm) + norm,
            50 * 64 + 3 * (2 * attention + feed + 3 * norm) + norm,
            50 * 64,
        ]
    )


def test_layer_groups_and_freezing_the_encoder() -> None:
    model = zoo.TransformerCaptioning(encoder="resnet20", encoder_args={"depth": 8, "width": 4}, vocab_size=V, width=8)
    assert model.layer_groups()[-6:] == [
        ["tokens.projection", "tokens.positions", "tokens.dropout"],
        ["tokens.layers.0", "tokens.norm"],
        ["decoder.embedding", "decoder.positions", "decoder.dropout"],
        ["decoder.layers.0"],
        ["decoder.layers.1", "decoder.norm"],
        ["fc"],
    ]
    model.freeze("tokens.projection").train()
    free = {name.split(".")[0] for name, p in model.net.named_parameters() if p.requires_grad}
    assert free == {"tokens", "decoder", "fc"}
    before = model.net.encoder.net.bn1.running_mean.clone()
    model.net.encode(torch.rand(4, 3, 12, 8))
    assert torch.equal(model.net.encoder.net.bn1.running_mean, before)


def test_the_module_hands_all_arguments_to_the_net(tmp_path: Path) -> None:
    source = zoo.create_model("resnet20", depth=8, width=4, num_classes=3)
    source.set_standardization(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 3.0]))
    source.save_pretrained(tmp_path)
    model = zoo.TransformerCaptioning(
        encoder="resnet20",
        encoder_args={"depth": 8, "width": 4},
        encoder_weights=str(tmp_path),
        stage=1,
        vocab_size=V,
        padding=2,
        width=8,
        num_layers=3,
        encoder_layers=2,
        num_heads=2,
        hidden_dim=12,
        dropout=0.25,
        norm_first=False,
        max_positions=9,
    )
    net = model.net
    assert (net.encoder.stage, net.vocab_size, net.padding, net.max_length) == (1, V, 2, 9)
    assert (len(net.decoder.layers), len(net.tokens.layers), net.fc.weight.shape) == (3, 2, (V, 8))
    for layer in (*net.decoder.layers, *net.tokens.layers):
        assert (layer.self_attn.num_heads, layer.linear1.out_features) == (2, 12)
        assert (layer.dropout.p, layer.norm_first) == (0.25, False)
    assert net.decoder.embedding.padding_idx == 2
    assert torch.equal(net.encoder.net.conv1.weight, source.net.conv1.weight)
    assert model.std.flatten().tolist() == [1.0, 2.0, 3.0]
    again = zoo.TransformerCaptioning(**model.hparams)
    again.load_state_dict(model.state_dict(), strict=True)


def test_all_that_is_trained_has_a_gradient() -> None:
    net, x = build(), captioned()
    net(x).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("form", ["norm last", "no encoder"])
def test_the_contract_holds_for_every_form(form: str) -> None:
    """Padding, causality along the caption, step by step, reordered states; accumulated batches."""
    torch.manual_seed(0)
    args = {"encoder": "resnet20", "encoder_args": {"depth": 8, "width": 4, "norm": "layer"}}
    model = zoo.TransformerCaptioning(**args, vocab_size=V, width=8, num_heads=2, dropout=0.0, **FORMS[form])
    x = captioned()
    y = torch.tensor([[[2, 3, 6, 1], [4, 1, 0, 0]], [[5, 1, 0, 0], [2, 2, 4, 1]], [[3, 3, 1, 0], [0, 0, 0, 0]]])
    batch = CaptionedImage(x.image.float().repeat(2, 1, 1, 1), x.caption.repeat(2, 1, 1)), y.repeat(2, 1, 1)
    checks = ["gradients", "independence", "causality", "padding", "incremental", "accumulation", "folder"]
    assert set(check_module(model, batch, only=checks).values()) == {"ok"}


def test_dropout_acts_in_training_alone() -> None:
    net = build(dropout=0.5)
    assert torch.equal(net(captioned()), net(captioned()))
    net.train()
    net.encoder.eval()
    assert not torch.equal(net(captioned()), net(captioned()))
    assert {m.p for part in (net.tokens, net.decoder) for m in part.modules() if isinstance(m, nn.Dropout)} == {0.5}


def test_a_caption_beyond_the_positions_is_refused() -> None:
    net, x = build(max_positions=3), captioned()
    assert net.max_length == 3
    with pytest.raises(ValueError, match="a text of 4 tokens is longer than the 3 positions of the net"):
        net(x)
    assert build(max_positions=None).max_length is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layers": 0}, "the number of layers must be 1 or more, got 0"),
        ({"encoder_layers": -1}, "the number of layers must be 0 or more, got -1"),
        ({"num_heads": 3}, "3 heads do not divide a width of 8"),
        ({"width": 9, "num_heads": 3}, "so its width must be even, got 9"),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\), got 1.0"),
        ({"max_positions": 0}, "max_positions must be 1 or more"),
        ({"padding": V}, "padding one of its tokens, got vocab_size=7, padding=7"),
        ({"stage": 5}, "choose one of -3..2, got 5"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)

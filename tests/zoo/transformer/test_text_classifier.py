"""The encoder of texts with a classifier: torch.nn.TransformerEncoder beside it, pooling, padding, and texts as input."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import quiet_trainer
from torch import Tensor, nn

import zoo
from datamodules import TextTableDataModule
from zoo.transformer import TextTransformer, TransformerClassifier

PAD = 9
SMALL: dict[str, Any] = {
    "vocab_size": 10,
    "num_classes": 3,
    "padding": PAD,
    "width": 16,
    "num_heads": 4,
    "dropout": 0.0,
}


def net_with(**options: Any) -> TextTransformer:
    """In float64, with weights that leave the linear range."""
    torch.manual_seed(1)
    net = TextTransformer(**{**SMALL, **options}).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.4)
    return net


def text(rows: int = 4, length: int = 6) -> Tensor:
    """Tokens 0..8 of different lengths."""
    x = torch.randint(9, (rows, length), generator=torch.Generator().manual_seed(0))
    for b in range(rows):
        x[b, length - b :] = PAD
    return x


def twin(net: TextTransformer, x: Tensor, pooling: str) -> Tensor:
    """The same by layers of torch, as one writes it with them."""
    layer: Any = net.encoder.layers[0]
    width = net.num_features
    options = {"activation": layer.feed_forward, "norm_first": layer.norm_first, "batch_first": True}
    block = nn.TransformerEncoderLayer(width, 4, layer.linear1.out_features, 0.0, **options)
    norm = nn.LayerNorm(width) if layer.norm_first else None
    theirs = nn.TransformerEncoder(block, len(net.encoder.layers), norm, enable_nested_tensor=False).double()
    state = {k.removeprefix("encoder."): v for k, v in net.state_dict().items() if ".layers." in k or ".norm." in k}
    theirs.load_state_dict(state)
    h = net.encoder.embedding.weight[x] * width**0.5
    padded = x == PAD
    if pooling == "class_token":
        assert net.class_token is not None
        h = torch.cat([net.class_token.expand(len(x), 1, -1), h], dim=1)
        padded = F.pad(padded, (1, 0), value=False)
    place = torch.arange(h.shape[1]).double()[:, None]
    angles = place / 10000 ** (torch.arange(0, width, 2).double() / width)
    h = h + torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
    h = theirs.train()(h, src_key_padding_mask=padded)
    pooled = (
        h[:, 0]
        if pooling == "class_token"
        else torch.stack([row[~p].mean(0) for row, p in zip(h, padded, strict=True)])
    )
    return pooled @ net.fc.weight.T + net.fc.bias


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "class_token"])
def test_logits_equal_torchs(pooling: Any, norm_first: bool) -> None:
    net, x = net_with(pooling=pooling, norm_first=norm_first), text()
    torch.testing.assert_close(net(x), twin(net, x, pooling), rtol=0, atol=1e-10)


@pytest.mark.parametrize("pooling", ["mean", "class_token"])
def test_parameters(pooling: Any) -> None:
    """Attention 4 (D D + D), feed-forward 2 D F + F + D with F = 4 D, a norm 2 D."""
    with torch.device("meta"):
        net = TextTransformer(**SMALL, pooling=pooling, num_layers=3)
    d, f = 16, 64
    layer = 4 * (d * d + d) + 2 * d * f + f + d + 2 * 2 * d
    own = d if pooling == "class_token" else 0
    assert sum(p.numel() for p in net.parameters()) == 10 * d + 3 * layer + 2 * d + own + 3 * d + 3


@pytest.mark.parametrize(
    "options", [{}, {"pooling": "class_token"}, {"positions": "rotary", "norm": "rms", "norm_first": False}]
)
def test_padding_changes_nothing(options: dict[str, Any]) -> None:
    net, x = net_with(**options), text()
    before = net(x)
    torch.testing.assert_close(net(F.pad(x, (0, 3), value=PAD)), before, rtol=0, atol=1e-12)
    alone = torch.cat([net(row[row != PAD][None]) for row in x])
    torch.testing.assert_close(alone, before, rtol=0, atol=1e-12)
    whole = net_with(**options, padding=None)
    torch.testing.assert_close(whole(x[:1]), before[:1], rtol=0, atol=1e-12)
    assert (whole(x)[1:] - before[1:]).abs().max() > 1e-3


def test_a_text_of_padding_alone_is_finite() -> None:
    """It is read as its first token, as recurrent nets do."""
    net = net_with()
    x = torch.full((2, 5), PAD)
    torch.testing.assert_close(net(x), net(x[:, :1]), rtol=0, atol=1e-12)
    assert net(x).isfinite().all()


def test_no_mask_is_made_where_nothing_pads(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[Any] = []
    kernel = F.scaled_dot_product_attention

    def watched(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        masks.append((options["attn_mask"] is None, options["is_causal"], options["dropout_p"]))
        return kernel(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    TextTransformer(**SMALL | {"padding": None}).eval()(text())
    TextTransformer(**SMALL, attention_dropout=0.5).eval()(text())
    assert masks == [(True, False, 0.0)] * 2 + [(False, False, 0.0)] * 2


def test_a_head_is_replaced_or_left_out() -> None:
    net, x = net_with(), text()
    net.reset_head(0)
    assert net(x).shape == (4, 16)
    task = TransformerClassifier(**SMALL | {"num_classes": 2}, mode="binary")
    assert task(x).shape == (4, 1)


def test_layers_are_frozen_by_depth() -> None:
    groups = TransformerClassifier(**SMALL, pooling="class_token").layer_groups()
    assert [group[0] for group in groups] == ["encoder.embedding", "encoder.layers.0", "encoder.layers.1", "fc"]
    assert "class_token" in groups[0]
    assert "encoder.norm" in groups[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "3 heads do not divide a width of 16"),
        ({"num_heads": 16, "positions": "rotary"}, "must be even, got 1"),
        ({"padding": 10}, r"padding must be a token, 0\.\.9, got 10"),
        ({"pooling": "max"}, "pooling must be one of mean, class_token, got 'max'"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerClassifier(**{**SMALL, **options})


@pytest.mark.parametrize(("pooling", "most"), [("mean", 5), ("class_token", 6)])
def test_a_text_longer_than_the_positions_is_refused(pooling: Any, most: int) -> None:
    net = TextTransformer(**SMALL, pooling=pooling, max_positions=most)
    net(text(2, 5))
    with pytest.raises(ValueError, match=f"{most + 1} tokens is longer than the {most} positions of the net: cut it"):
        net(text(2, 6))


# Texts --------------------------------------------------------------------------------------------------------------------


def table(folder: Path, rows: int = 60) -> TextTableDataModule:
    """Texts that have an "x" where their class is "yes", anywhere."""
    g = torch.Generator().manual_seed(0)
    lines = ["text,label"]
    for i in range(rows):
        letters = [chr(97 + k) for k in torch.randint(5, (3 + i % 5,), generator=g).tolist()]
        if i % 2:
            letters[i % len(letters)] = "x"
        lines.append(f"{''.join(letters)},{'yes' if i % 2 else 'no'}")
    path = folder / "texts.csv"
    path.write_text("\n".join(lines))
    return TextTableDataModule(str(path), batch_size=16, max_length=7)


def test_it_learns_from_a_table_and_reads_texts(tmp_path: Path) -> None:
    data = table(tmp_path)
    sizes = {"vocab_size": data.vocab_size, "padding": data.padding, "num_classes": 2}
    task = TransformerClassifier(**sizes, width=16, num_layers=1, num_heads=2, dropout=0.0, lr=1e-2)
    trainer = quiet_trainer(max_epochs=15, limit_val_batches=0)
    trainer.fit(task, datamodule=data)
    (found,) = trainer.test(task, datamodule=data, verbose=False)
    assert found["test/acc"] == 1
    task.eval()
    texts = ["abcx", "abc", "xa"]
    assert task.predict_step(task.batch_of(texts))["label"] == ["yes", "no", "yes"]
    task.save_pretrained(tmp_path / "folder")
    again = zoo.load(tmp_path / "folder")
    assert again.reads == "text"
    assert again.predict_step(again.batch_of(texts))["label"] == ["yes", "no", "yes"]
    assert again.batch_of(["abcabcabc"]).shape == (1, 7)  # cut, as in the data
    assert again.batch_of(texts)[:, 2:].tolist()[2] == [data.padding] * 2
    with pytest.raises(ValueError, match="text 2 is empty"):
        again.batch_of(["a", ""])


def test_an_example_is_of_tokens_that_pad_nothing() -> None:
    assert TransformerClassifier(**SMALL).example_inputs(2)[0].tolist() == [[0] * 16] * 2
    task = TransformerClassifier(**SMALL | {"padding": 0})
    task.input_shape = (5,)
    assert task.example_inputs()[0].tolist() == [[1] * 5]


def test_other_data_are_refused(tmp_path: Path) -> None:
    data, trainer = table(tmp_path), quiet_trainer(max_epochs=1)
    other = TransformerClassifier(data.vocab_size, 2, padding=0, width=16)
    with pytest.raises(
        ValueError, match=f"padding is 0, but the data pad their texts with {data.padding}: leave padding out"
    ):
        trainer.fit(other, datamodule=data)
    short = TransformerClassifier(data.vocab_size, 2, padding=data.padding, width=16, max_positions=6)
    with pytest.raises(ValueError, match=r"cannot take the data's input of shape \(7,\).*longer than the 6 positions"):
        trainer.fit(short, datamodule=data)
    with pytest.raises(ValueError, match="has no vocabulary, so it cannot read text"):
        TransformerClassifier(**SMALL).batch_of(["a"])

"""The recurrent autoencoder against torch's own layers, each series by itself, and its orders."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.autoencoder import RecurrentAutoencoderNet
from zoo.blocks import Series, real_steps
from zoo.testing import check_module

F64 = torch.float64
LENGTHS = torch.tensor([6, 2, 5, 1, 6, 4, 3, 6])


def series(dtype: torch.dtype = F64) -> Series:
    values = torch.randn(8, 6, 3, dtype=dtype)
    return Series(values.masked_fill(~real_steps(LENGTHS, 6)[..., None], 0), LENGTHS)


def build(**arguments: Any) -> RecurrentAutoencoderNet:
    net = RecurrentAutoencoderNet((6, 3), **{"width": 5, **arguments}).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.6)
    return net


@pytest.mark.parametrize("order", ["reversed", "same"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_decoder_goes_on_from_the_last_state(cell: Any, layers: int, order: Any) -> None:
    net, x = build(cell=cell, num_layers=layers, order=order), series().values
    kind: Any = nn.LSTM if cell == "lstm" else nn.GRU
    encoder, decoder = (kind(size, 5, layers, batch_first=True).double() for size in (3, 5))
    for theirs, ours in ((encoder, net.encoder), (decoder, net.decoder)):
        for i, layer in enumerate(ours.layers):
            for name, value in layer.named_parameters():
                getattr(theirs, name.replace("_l0", f"_l{i}")).data.copy_(value.data)
    _, state = encoder(x)
    inputs = torch.zeros(8, 6, 5, dtype=F64)
    inputs[:, 0] = net.start
    outputs, _ = decoder(inputs, state)
    wanted = net.fc(outputs.flip(1) if order == "reversed" else outputs)
    torch.testing.assert_close(net(x), wanted, rtol=1e-12, atol=1e-12)
    code = net.encode(x)
    parts = torch.cat(state) if cell == "lstm" else state
    assert code.shape == (8, net.latent_dim)
    torch.testing.assert_close(code.view(8, -1, 5), parts.transpose(0, 1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(net.decode(code), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ["reversed", "same"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_padded_series_are_coded_as_if_alone(cell: Any, order: Any) -> None:
    net, x = build(cell=cell, num_layers=2, order=order), series()
    codes, made = net.encode(x), net(x)
    for b, n in enumerate(LENGTHS.tolist()):
        alone = x.values[b : b + 1, :n]
        torch.testing.assert_close(codes[b : b + 1], net.encode(alone), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(made[b : b + 1, :n], net(alone), rtol=1e-12, atol=1e-12)
        assert not made[b, n:].any()


def test_reversed_the_last_step_is_written_first() -> None:
    """What is written first is the same however long the series: it is at the end of each."""
    net, z = build(order="reversed"), torch.randn(1, 10, dtype=F64)
    long, short = net.decode(z), net.decode(z, steps=2)
    torch.testing.assert_close(long[:, -2:], short, rtol=1e-12, atol=1e-12)
    padded = net.decode(z.expand(2, -1), torch.tensor([6, 2]))
    torch.testing.assert_close(padded[1, :2], short[0], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(build(order="same").decode(z)[:, -2:], build(order="same").decode(z, steps=2))


def task(**arguments: Any) -> zoo.RecurrentAutoencoder:
    model = zoo.RecurrentAutoencoder([6, 3], **{"width": 5, **arguments}).double()
    for p in model.net.parameters():
        nn.init.normal_(p, std=0.6)
    return model.set_standardization([0.3, -1.0, 2.0], [0.5, 2.0, 1.0])


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 0, 1, 1, 2, 0, 1, 1])])
@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_the_loss_is_a_mean_over_the_steps_before_the_ends(loss: Any, weight: Tensor | None) -> None:
    model, x = task(loss=loss), series()
    made, total, count = model(x), 0.0, 0.0
    for b, n in enumerate(LENGTHS.tolist()):
        error = made[b, :n] - x.values[b, :n]
        each = (error.square() if loss == "mse" else error.abs()).mean(dim=1)
        share = 1.0 if weight is None else float(weight[b])
        total, count = total + share * each.sum(), count + share * n
    got, _, denominator = model.training_losses((x, None) if weight is None else (x, None, weight))
    assert float(denominator) == count
    torch.testing.assert_close(got, total / count, rtol=1e-9, atol=1e-12)


def test_metrics_and_predictions_end_with_their_series() -> None:
    model, x = task(), series()
    metrics = model.build_metrics()
    for part in (slice(3), slice(3, 8)):
        model.update_metrics(metrics, (Series(x.values[part], LENGTHS[part]), None))
    errors = (model(x) - x.values)[real_steps(LENGTHS, 6)].detach()
    assert float(metrics["mse"].compute()) == pytest.approx(float(errors.square().mean()), rel=1e-5)
    assert float(metrics["mae"].compute()) == pytest.approx(float(errors.abs().mean()), rel=1e-5)
    found = model.predict_step((x, None))
    for b, n in enumerate(LENGTHS.tolist()):
        wanted = (model(x)[b, :n] - x.values[b, :n]).square().mean()
        torch.testing.assert_close(found["error"][b], wanted)


def test_output_in_units_of_the_data() -> None:
    model, x = task(), series()
    torch.testing.assert_close(model(x), model.net(model.standardize(x)) * model.std + model.mean)
    bounded = zoo.RecurrentAutoencoder([6, 3], output="sigmoid")(torch.rand(2, 6, 3))
    assert 0 < bounded.min() < bounded.max() < 1


def test_contract() -> None:
    """With lengths, which the rows of the registered models have not."""
    model = zoo.RecurrentAutoencoder([6, 3], width=16, num_layers=2, cell="gru")
    only = ["gradients", "independence", "padding", "accumulation", "processes", "checkpoint"]
    assert set(check_module(model, (series(torch.float32), torch.zeros(8)), only=only).values()) == {"ok"}


@pytest.mark.parametrize("size", [2, 5])
def test_pictures(size: int) -> None:
    model = zoo.RecurrentAutoencoder([6, size], width=2, cell="gru")
    x, y = torch.randn(8, 6, size), torch.arange(8) % 2
    for batch in ((x, y), (Series(x, LENGTHS), y)):
        shown = model.render(batch)
        assert shown.keys() == ({"reconstructions"} if batch[0] is not x else {"reconstructions", "codes"})
        assert all(image.dtype == torch.uint8 and image.shape[0] == 3 for image in shown.values())


def test_a_denoiser_reads_series_of_one_length() -> None:
    model = zoo.RecurrentAutoencoder([6, 3], width=5, corruption="gaussian")
    assert model.training_losses((torch.randn(8, 6, 3), None))[2] == 48
    with pytest.raises(ValueError, match="corruption='gaussian' is for series that are equally long"):
        model.training_losses((series(torch.float32), None))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (3,)}, r"input_shape must be \(T, D\), steps and values of a step, got \(3,\)"),
        ({"order": "backwards"}, "order must be one of reversed, same, got 'backwards'"),
        ({"width": 0}, "width must be 1 or more, got 0"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecurrentAutoencoderNet(**arguments)

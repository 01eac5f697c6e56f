"""The FCN for series: equal to the formula of its layers, each series by itself, whatever stands beyond its end."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import zoo
from zoo import Series
from zoo.cnn import SeriesFCN, SeriesFCNClassifier

LENGTHS = torch.tensor([7, 1, 4])


@pytest.fixture
def net() -> SeriesFCN:
    net = SeriesFCN(num_classes=3, input_size=2, width=4).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    return net


def by_formula(net: SeriesFCN, rows: list[Tensor]) -> Tensor:
    """Logits of series of any lengths in training mode: each convolved alone, with statistics over all steps of all of them."""
    maps = [row.T for row in rows]  # (D, T)
    for block, kernel in zip(net.blocks, (8, 5, 3), strict=True):
        before = (kernel - 1) // 2
        padded = [F.pad(x, (before, kernel - 1 - before)) for x in maps]
        maps = [
            torch.stack(
                [(block.conv.weight * x[:, t : t + kernel]).sum(dim=(1, 2)) for t in range(x.shape[1] - kernel + 1)],
                dim=1,
            )
            for x in padded
        ]
        steps = torch.cat(maps, dim=1)
        mean, var = steps.mean(dim=1, keepdim=True), steps.var(dim=1, correction=0, keepdim=True)
        scale, shift = block.bn.weight[:, None], block.bn.bias[:, None]
        maps = [((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0) for x in maps]
    return torch.stack([net.fc(x.mean(dim=1)) for x in maps])


def test_training_is_the_formula_over_all_real_steps(net: SeriesFCN) -> None:
    rows = [torch.randn(n, 2, dtype=torch.float64) for n in LENGTHS]
    values = torch.full((3, 9, 2), 99.0, dtype=torch.float64)  # not even the padding is 0, as after a standardization
    for row, value in zip(rows, values, strict=True):
        value[: len(row)] = row
    torch.testing.assert_close(net(Series(values, LENGTHS)), by_formula(net, rows), rtol=1e-10, atol=1e-10)
    equal = torch.randn(3, 5, 2, dtype=torch.float64)
    torch.testing.assert_close(net(equal), by_formula(net, list(equal)), rtol=1e-10, atol=1e-10)


def test_evaluation_gives_each_series_what_it_has_alone(net: SeriesFCN) -> None:
    net.eval()
    values = torch.randn(3, 9, 2, dtype=torch.float64)
    for block in net.blocks:
        block.bn.running_mean.normal_()
    together = net(Series(values, LENGTHS))
    alone = torch.cat([net(value[None, :n]) for value, n in zip(values, LENGTHS, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    maps = net.features(Series(values, LENGTHS))
    assert [tuple(x.shape) for x in maps] == [(3, 4, 9), (3, 8, 9), (3, 4, 9)]
    assert not any(x[1, :, 1:].any() for x in maps)


def test_running_statistics_are_of_real_steps(net: SeriesFCN) -> None:
    values = torch.randn(3, 9, 2, dtype=torch.float64)
    net(Series(values, LENGTHS))
    (longer := SeriesFCN(3, 2, 4).double()).load_state_dict(net.state_dict())
    for each in (net, longer):
        for block in each.blocks:
            block.bn.reset_running_stats()
    net(Series(values, LENGTHS))
    longer(Series(F.pad(values, (0, 0, 0, 5), value=3.0), LENGTHS))
    for one, other in zip(net.blocks, longer.blocks, strict=True):
        torch.testing.assert_close(one.bn.running_mean, other.bn.running_mean)
        torch.testing.assert_close(one.bn.running_var, other.bn.running_var)


def test_the_number_of_parameters() -> None:
    with torch.device("meta"):
        net = SeriesFCN()
    convolutions = 1 * 8 * 128 + 128 * 5 * 256 + 256 * 3 * 128
    assert sum(p.numel() for p in net.parameters()) == convolutions + 2 * (128 + 256 + 128) + 129 * 10


def test_it_is_a_model_of_series() -> None:
    model = zoo.create_model("fcn_series", num_classes=2, input_size=3, width=2)
    assert isinstance(model, SeriesFCNClassifier)
    assert (model.reads, model.makes, model.example_shape) == ("series", "label", (16, 3))
    model.set_standardization([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    x = model.standardize(Series(torch.tensor([[[2.0, 4.0, 7.0]]]), torch.tensor([1])))
    assert x.values.tolist() == [[[1.0, 1.0, 1.0]]]


def test_bad_arguments_and_input() -> None:
    with pytest.raises(ValueError, match="width must be 1 or more, got 0"):
        SeriesFCN(width=0)
    with pytest.raises(ValueError, match=r"kernel_sizes must be three numbers of steps, 1 or more, got \[8, 5\]"):
        SeriesFCN(kernel_sizes=(8, 5))
    with pytest.raises(ValueError, match=r"SeriesFCN takes series of shape \(B, T, 2\), got \(3, 5, 1\)"):
        SeriesFCN(input_size=2)(torch.ones(3, 5, 1))

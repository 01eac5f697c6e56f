"""Reconstruction: the loss against a formula, corruption, what is logged, drawn and predicted."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.tasks import ReconstructionTask


class Pass(nn.Module):
    """The code is the example, standardized; what comes out is ``shift`` off."""

    def __init__(self, shape: tuple[int, ...] = (1, 2, 2), shift: float = 0.0) -> None:
        super().__init__()
        self.input_shape, self.latent_dim = shape, int(torch.Size(shape).numel())
        self.shift = nn.Parameter(torch.tensor(shift))

    def encode(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        return z.unflatten(1, self.input_shape) + self.shift

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def images(count: int = 6) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 1, 2, 2), torch.arange(count)


def evaluated(task: ReconstructionTask, *batches: Any) -> dict[str, float]:
    metrics = task.build_metrics()
    with torch.no_grad():
        for batch in batches:
            task.update_metrics(metrics, batch)
    return {name: metric.compute().item() for name, metric in metrics.items()}


@pytest.mark.parametrize(("loss", "value"), [("mse", 0.04), ("mae", 0.2)])
def test_the_loss_is_a_mean_over_all_values_in_units_of_the_data(loss: Any, value: float) -> None:
    task = ReconstructionTask(Pass(shift=0.1), loss=loss)
    task.mean, task.std = torch.tensor([0.5]), torch.tensor([2.0])
    batch = images()
    got, means, count = task.training_losses(batch)
    assert (got.item(), means["loss"].item(), count) == (pytest.approx(value), pytest.approx(value), 6)
    assert torch.allclose(task(batch[0]), batch[0] + 0.2)
    assert evaluated(task, batch) == pytest.approx({"loss": value, "mse": 0.04, "mae": 0.2})


def test_a_sigmoid_output_is_data() -> None:
    task = ReconstructionTask(Pass(), output="sigmoid")
    x = images()[0]
    assert torch.allclose(task(x), x.sigmoid())
    assert torch.allclose(task.decode(task.encode(x)), x.sigmoid())


def test_masking_sets_a_share_of_the_values_to_0() -> None:
    task = ReconstructionTask(Pass((1, 50, 50)), corruption="masking", corruption_level=0.3)
    x = torch.rand(8, 1, 50, 50) + 0.1
    for repeatable in (True, False):
        seen = task.corrupt(x, repeatable)
        assert (seen == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
        assert torch.equal(seen[seen != 0], x[seen != 0])


def test_gaussian_noise_has_its_standard_deviation() -> None:
    task = ReconstructionTask(Pass((1, 50, 50)), corruption="gaussian", corruption_level=0.4)
    task.std = torch.tensor([3.0])  # the level is in units of the data
    x = torch.rand(8, 1, 50, 50)
    for repeatable in (True, False):
        noise = task.corrupt(x, repeatable) - x
        assert noise.std().item() == pytest.approx(0.4, abs=0.01)
        assert abs(noise.mean().item()) < 0.01


def test_training_corrupts_anew_and_evaluation_always_alike() -> None:
    task = ReconstructionTask(Pass(), corruption="gaussian", corruption_level=0.5)
    batch = images()
    torch.manual_seed(0)
    one = task.training_losses(batch)[0]
    other = task.training_losses(batch)[0]
    torch.manual_seed(0)
    assert one != other
    assert task.training_losses(batch)[0] == one  # the global generator's draws: a resumed run has them again
    whole = evaluated(task, batch)
    parts = evaluated(task, [part[:1] for part in batch], [part[1:] for part in batch])
    assert parts == pytest.approx(whole, rel=1e-6)
    assert whole["loss"] == 0  # of the clean input
    assert whole["denoised_mse"] == pytest.approx(whole["corrupted_mse"])  # the net changes nothing
    assert whole["corrupted_mse"] == pytest.approx((task.corrupt(batch[0]) - batch[0]).square().mean().item())
    assert task.monitor == ("val/denoised_mse", "min")


def test_the_target_of_a_denoiser_is_the_clean_input() -> None:
    task = ReconstructionTask(Pass(), corruption="masking", corruption_level=0.999999)
    x = torch.ones(4, 1, 2, 2)
    assert task.training_losses((x, None))[0].item() == 1  # it saw zeros


def test_rows_of_weight_0_count_nowhere() -> None:
    task = ReconstructionTask(Pass(shift=0.5), corruption="masking")
    x, y = images(4)
    wanted = evaluated(task, (x[:2], y[:2]))
    x[2:] = 1e6
    assert evaluated(task, (x, y, torch.tensor([1.0, 1.0, 0.0, 0.0]))) == pytest.approx(wanted)


def test_a_plain_autoencoder_logs_no_denoising() -> None:
    task = ReconstructionTask(Pass())
    assert evaluated(task, images()).keys() == {"loss", "mse", "mae"}
    assert task.monitor == ("val/loss", "min")
    x = images()[0]
    assert task.corrupt(x) is x


def test_prediction() -> None:
    task = ReconstructionTask(Pass(shift=0.5))
    x, y = images()
    for batch in (x, (x, y)):
        found = task.predict_step(batch)
        assert torch.allclose(found["reconstruction"], x + 0.5)
        assert torch.allclose(found["error"], torch.full((6,), 0.25))


def test_the_way_from_one_example_to_another() -> None:
    task = ReconstructionTask(Pass()).train()
    x0, x1 = torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
    way = task.interpolate(x0, x1, steps=5)
    assert way.shape == (3, 5, 1, 2, 2)
    assert torch.allclose(way[1].mean(dim=(1, 2, 3)), torch.linspace(0, 1, 5))
    assert not way.requires_grad
    assert task.training
    with pytest.raises(ValueError, match="steps must be 2 or more, got 1"):
        task.interpolate(x0, x1, steps=1)


class Labeled(Pass):
    """Adds the class to what it decodes."""

    conditional, num_classes = True, 5

    def encode(self, x: Tensor, y: Tensor) -> Tensor:
        return super().encode(x)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        return super().decode(z) + y.view(-1, 1, 1, 1)


def test_the_ways_between_examples_keep_their_classes() -> None:
    y = torch.tensor([4, 0, 2])
    way = ReconstructionTask(Labeled()).interpolate(torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2), steps=3, y=y)
    assert torch.allclose(way[:, :, 0, 0, 0], torch.tensor([0.0, 0.5, 1.0]) + y[:, None])


def test_the_plane_of_codes_lies_as_one_looks_at_it() -> None:
    task = ReconstructionTask(Pass((2,)))
    grid = task.latent_plane(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([10.0, 20.0]))
    assert grid.tolist() == [[0, 20], [1, 20], [2, 20], [0, 10], [1, 10], [2, 10]]
    codes = torch.stack([torch.linspace(0, 100, 101), torch.linspace(0, 10, 101)], dim=1)
    corners = task.latent_grid(3, codes)[[0, 8]]
    assert torch.allclose(corners, torch.tensor([[5.0, 9.5], [95.0, 0.5]]))
    with pytest.raises(ValueError, match="codes of 4 numbers are no plane"):
        ReconstructionTask(Pass()).latent_grid(3, codes)


@pytest.mark.parametrize("corruption", ["none", "masking"])
def test_what_is_drawn(corruption: Any) -> None:
    task = ReconstructionTask(Pass((1, 8, 8)), corruption=corruption, corruption_level=0.9)
    found = task.render((torch.ones(12, 1, 8, 8), torch.arange(12) % 3))
    assert found.keys() == {"reconstructions", "interpolation"}
    picture = found["reconstructions"]
    assert picture.dtype == torch.uint8
    rows = 2 if corruption == "none" else 3
    assert picture.shape == (3, rows * 66 + 2, 12 * 66 + 2)
    assert picture[:, 2:66, 2:66].float().mean() == 255  # the input
    dark = picture[:, 68:132].float().mean() < 100
    assert dark == (corruption == "masking")
    assert torch.equal(picture[:, 68:132], picture[:, -66:-2])  # what becomes of the corrupted one
    assert task.render((torch.rand(12, 5), torch.rand(12))) == {}


class Flat(Pass):
    """A code of two numbers: the means of the upper and the lower half."""

    def __init__(self) -> None:
        super().__init__((1, 2, 2))
        self.latent_dim = 2

    def encode(self, x: Tensor) -> Tensor:
        return x.mean(dim=3).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        return z[:, None, :, None].expand(-1, 1, 2, 2)


def test_codes_of_two_numbers_are_drawn_by_class() -> None:
    task = ReconstructionTask(Flat())
    x = torch.rand(30, 1, 2, 2)
    found = task.render((x, torch.arange(30) % 3))
    assert found.keys() == {"reconstructions", "codes", "latent_grid", "interpolation"}
    grid = found["latent_grid"].float()
    assert grid.shape[1:] == (16 * 66 + 2, 16 * 66 + 2)
    # across: the upper half brightens; from the bottom to the top: the lower half does
    assert grid[0, 10, 2:66].mean() < grid[0, 10, -66:-2].mean() - 50
    assert grid[0, -5, 10] < grid[0, 60, 10] - 50
    pixels = found["codes"].flatten(1).T.float()  # (3, H, W) -> (H W, 3)
    for color in ((31, 119, 180), (255, 127, 14), (44, 160, 44)):
        blended = 0.8 * torch.tensor(color) + 0.2 * 255
        assert (pixels - blended).abs().amax(dim=1).min() < 8, color
    gray = task.render((x, torch.rand(30)))["codes"].float()  # of a number there are no classes
    assert (gray.amax(dim=0) - gray.amin(dim=0)).max() < 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "huber"}, "loss must be mse or mae, got 'huber'"),
        ({"corruption": "salt"}, "corruption must be none, gaussian or masking, got 'salt'"),
        ({"corruption": "gaussian", "corruption_level": 0}, "corruption_level must be above 0, got 0"),
        ({"corruption": "masking", "corruption_level": 1}, r"corruption_level must be a share in \(0, 1\), got 1"),
        ({"output": "tanh"}, "output must be 'linear' or 'sigmoid'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReconstructionTask(Pass(), **arguments)


def test_a_net_that_gives_another_shape_is_refused() -> None:
    net = Pass()
    net.input_shape = (2, 2)
    with pytest.raises(ValueError, match=r"gives \(6, 2, 2\) for input \(6, 1, 2, 2\)"):
        ReconstructionTask(net).training_losses(images())
    task = ReconstructionTask(net)
    task.input_shape = (1, 2, 2)
    assert task.output_shape() == (1, 2, 2)  # so that a fit refuses it before it begins

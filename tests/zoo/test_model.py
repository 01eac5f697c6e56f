"""What one uses of a model: its input, standardized as declared, and what it says of itself."""

import re
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.blocks.skeleton import skeleton
from zoo.tasks import ClassificationTask, RegressionTask, Task


class Series(NamedTuple):
    values: Tensor
    lengths: Tensor


class SeriesTask(Task):
    """Of series (B, T, D): the last axis is standardized."""

    standardize_axis = -1


def test_only_numbers_are_standardized_along_the_declared_axis() -> None:
    task = SeriesTask(nn.Identity()).set_standardization([1.0, 2.0], [2.0, 4.0])
    series = Series(torch.tensor([[[3.0, 6.0], [1.0, 2.0], [5.0, 10.0]]]), torch.tensor([3]))
    values, lengths = task.standardize(series)
    assert values.tolist() == [[[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]]]
    assert lengths.tolist() == [3]
    assert type(task.standardize(series)) is Series
    tokens = torch.tensor([[4, 7]])
    assert task.standardize(tokens) is tokens
    mask = torch.tensor([[True, False]])
    assert task.standardize(mask) is mask
    images = Task(nn.Identity()).set_standardization([0.0, 1.0], [1.0, 2.0])
    assert images.standardize(torch.full((1, 2, 1, 1), 5.0)).flatten().tolist() == [5.0, 2.0]
    assert images.standardize(torch.full((1, 2, 1, 1), 5, dtype=torch.uint8)).flatten().tolist() == [5.0, 2.0]


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (1, 1, 8, 8), (3, 8, 8)])
def test_inputs_of_other_channels_are_refused(shape: tuple[int, ...]) -> None:
    """One channel would be broadcast without a word; an image without a batch has its height where the channels are."""
    task = Task(nn.Identity()).set_standardization([0.0, 1.0, 2.0], [1.0, 2.0, 3.0])
    words = f"Task knows mean and deviation of 3 channels or columns, and axis 1 of an input of shape {shape} has {shape[1]}"
    with pytest.raises(ValueError, match=re.escape(words)):
        task.standardize(torch.zeros(shape))


@pytest.mark.parametrize(
    ("mean", "std"), [(0.0, 0.0), (0.0, -1.0), ([0.0, 1.0], 1.0), (0.0, float("nan")), (float("nan"), 1.0)]
)
def test_a_standardization_that_cannot_be(mean: object, std: object) -> None:
    with pytest.raises(ValueError, match="mean and std must be equally many finite numbers, std above 0"):
        Task(nn.Identity()).set_standardization(mean, std)


@pytest.mark.parametrize(
    ("name", "arguments", "shapes"),
    [
        ("lenet5", {}, [(2, 1, 32, 32)]),
        ("resnet20", {}, [(2, 3, 32, 32)]),
        ("mlp_regression", {"in_features": 7}, [(2, 7)]),
        ("unet", {"encoder_args": {"width": 4, "depth": 2}}, [(2, 3, 224, 224)]),
        ("vae_mlp", {"input_shape": [1, 6, 6]}, [(2, 1, 6, 6)]),
        ("cvae_mlp", {"input_shape": [1, 6, 6]}, [(2, 1, 6, 6), (2,)]),
        ("gan_mlp", {"input_shape": [5], "latent_dim": 3}, [(2, 3)]),
        ("gan_mlp_conditional", {"input_shape": [5], "latent_dim": 3}, [(2, 3), (2,)]),
    ],
)
def test_example_inputs_are_what_forward_takes(
    name: str, arguments: dict[str, object], shapes: list[tuple[int, ...]]
) -> None:
    model = zoo.create_model(name, **arguments).double().eval()
    inputs = model.example_inputs(2)
    assert [tuple(part.shape) for part in inputs] == shapes
    assert inputs[0].dtype == torch.float64
    with torch.no_grad():
        assert len(model(*inputs)) == 2


def test_an_unknown_shape_is_told() -> None:
    task = ClassificationTask(nn.Linear(3, 10))
    assert task.reads is None
    with pytest.raises(
        ValueError, match="ClassificationTask has seen no data, and its net, a Linear, does not tell it"
    ):
        task.example_inputs()
    task.input_shape = (3,)
    assert task.reads == "row"
    assert task.example_inputs(4)[0].shape == (4, 3)


@pytest.mark.parametrize(
    ("name", "arguments", "reads", "makes", "learns", "predicts", "samples", "options"),
    [
        ("lenet5", {}, "image", "label", ("classification",), {"top", "features"}, None, set()),
        ("mlp", {"in_features": 4}, "row", "label", ("classification",), {"top", "features"}, None, set()),
        ("mlp_regression", {}, "row", "number", ("regression",), {"features"}, None, set()),
        ("unet", {"encoder_args": {"width": 4}}, "image", "mask", ("segmentation",), set(), None, set()),
        ("autoencoder_mlp", {}, "image", "image", (), set(), None, {"interpolate"}),
        ("autoencoder_linear", {"input_shape": [4], "latent_dim": 2}, "row", "row", (), set(), None, {"interpolate"}),
        ("vae_mlp", {"latent_dim": 2}, "image", "image", (), set(), "image", {"latent_grid", "interpolate"}),
        ("cvae_mlp", {}, "image", "image", (), {"label"}, "image", {"interpolate", "label"}),
        ("gan_mlp", {}, "image", None, (), set(), "image", set()),
        ("gan_mlp_conditional", {"input_shape": [2]}, "row", None, (), set(), "row", {"label"}),
        ("glm_categorical", {}, "row", "number", ("classification", "regression"), set(), None, set()),
    ],
)
def test_capabilities(
    name: str,
    arguments: dict[str, object],
    reads: str,
    makes: str | None,
    learns: tuple[str, ...],
    predicts: set[str],
    samples: str | None,
    options: set[str],
) -> None:
    model = zoo.create_model(name, **arguments)
    assert (model.reads, model.makes, model.learns, model.samples) == (reads, makes, learns, samples)
    assert set(model.predict_options) == predicts
    assert set(model.sample_options) == options


def test_names_of_classes() -> None:
    task = zoo.create_model("lenet5", num_classes=3)
    assert task.label_names == ["0", "1", "2"]
    task.class_names = ["a", "b", "c"]
    assert task.label_names == ["a", "b", "c"]
    assert RegressionTask(nn.Linear(2, 1)).label_names == []


class NumberTask(Task):
    """An example is one token; has a table of its own, computed when it is built."""

    def __init__(self, size: int = 3, **task: Any) -> None:
        super().__init__(nn.Embedding(size, 2), **task)

    def register_task_buffers(self) -> None:
        super().register_task_buffers()
        self.register_buffer("table", torch.arange(self.hparams["size"]) * 2)

    def example_inputs(self, batch_size: int = 1) -> tuple[Tensor]:
        return (torch.zeros(batch_size, *self.example_shape, dtype=torch.long),)


def test_an_example_may_be_one_number() -> None:
    task = NumberTask()
    task.input_shape = ()
    task.try_example()
    task.set_standardization([0.0, 1.0], [1.0, 1.0])
    with pytest.raises(ValueError, match=r"was standardized for 2 channels, the data have 1 \(shape \(\)\)"):
        task.try_example()


def test_the_standardization_is_of_the_channels_that_lie_along_its_axis() -> None:
    images = zoo.create_model("resnet20", width=2).set_standardization([0.1, 0.2, 0.3], [1.0, 1.0, 1.0])
    images.input_shape = (3, 20, 24)
    images.check_description()
    images.set_standardization([0.1] * 20, [1.0] * 20)
    with pytest.raises(ValueError, match=r"was standardized for 20 channels, the data have 3 \(shape \(3, 20, 24\)\)"):
        images.check_description()
    series = SeriesTask(nn.Identity()).set_standardization([0.0] * 5, [1.0] * 5)
    series.input_shape = (7, 5)
    series.check_description()
    series.input_shape = (5, 7)
    with pytest.raises(ValueError, match=r"was standardized for 5 channels, the data have 7"):
        series.check_description()


def test_the_tasks_own_tensors_are_real_where_the_net_is_not() -> None:
    with skeleton():
        task = NumberTask()
    assert task.net.weight.is_meta
    assert task.table.tolist() == [0, 2, 4]
    assert not task.mean.is_meta


def test_the_type_of_a_nets_numbers_is_read_off_its_first_one() -> None:
    """Steps ask it, and a walk over a whole net costs more than a small step."""
    task = Task(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).double())
    seen: list[str] = []

    class Counted(nn.Sequential):
        def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
            for name, parameter in super().named_parameters(*args, **kwargs):
                seen.append(name)
                yield name, parameter

    task.net = Counted(*task.net.children())
    assert task.net_dtype == torch.float64
    assert seen == ["0.weight"]
    task.net = nn.BatchNorm1d(2, affine=False)  # buffers alone
    assert task.net_dtype == torch.float32
    task.net = nn.Identity()
    assert task.net_dtype == task.mean.dtype

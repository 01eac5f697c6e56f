"""Statistics of batch norms against float64 formulas, and in whole runs: averages, ranks, weights of examples, frozen layers."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Patterns, PatternTask, SaveEverywhere, fit_patterns, quiet_trainer, same_weights
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset

import zoo
from callbacks import EMA, BatchNormReestimation, LayerFreezing
from callbacks.batch_norm_reestimation import Moments
from datamodules import GaussianRingDataModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
]


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("shape", [(), (4,), (3, 5)])
def test_moments_of_batches_of_any_size_are_those_of_all(shape: tuple[int, ...], offset: float) -> None:
    parts = [
        torch.randn(count, 3, *shape) * torch.tensor([1.0, 5.0, 0.1]).view(3, *[1] * len(shape)) + offset
        for count in (1, 7, 2)
    ]
    moments, others = Moments(), Moments()
    for part in parts[:2]:
        moments.add_values(part)
    others.add_values(parts[2])
    moments.add(*others.on_cpu())
    moments.add(*Moments().on_cpu())  # of a rank without examples
    values = torch.cat(parts).double().movedim(1, 0).flatten(1)  # (C, N ...)
    assert moments.count == values.shape[1]
    torch.testing.assert_close(moments.mean, values.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        moments.squares / moments.count, values.var(1, correction=0), rtol=1e-4 if offset else 1e-5, atol=0
    )


class Own(LightningModule):
    """Nothing but a net: each validation keeps the statistics that it has seen, and the output for the training data."""

    def __init__(self, net: nn.Module, x: Tensor, lr: float = 0.1) -> None:
        super().__init__()
        self.net, self.x, self.lr = net, x, lr
        self.seen: list[dict[str, Tensor]] = []
        self.modes: list[list[bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.modes.append([part.training for part in self.modules()])
        return self(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.modes.append([part.training for part in self.modules()])
        self.seen.append({n: v.clone() for n, v in self.net.state_dict().items()} | {"output": self(self.x)})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def fit(module: LightningModule, dataset: Dataset, size: int, *callbacks: Callback, **options: Any) -> None:
    train = options.pop("train") if "train" in options else DataLoader(dataset, size, shuffle=True)
    trainer = quiet_trainer(*callbacks, **{"max_epochs": 2, **options})
    trainer.fit(module, train, DataLoader(TensorDataset(torch.zeros(1)), 1))


def small_net(width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    hidden = [nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(width, 2), nn.SyncBatchNorm(2))


def test_the_first_layer_has_the_mean_and_variance_of_all_examples_whatever_the_batches() -> None:
    x = torch.randn(23, 3) * 3 + 1
    module = Own(small_net(), x)
    fit(module, TensorDataset(x), 5, BatchNormReestimation())
    assert len(module.seen) == 2
    for seen in module.seen:
        hidden = x.double() @ seen["0.weight"].double().T + seen["0.bias"].double()
        torch.testing.assert_close(seen["1.running_mean"].double(), hidden.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(seen["1.running_var"].double(), hidden.var(0, correction=0), rtol=1e-5, atol=1e-6)
    assert [int(seen["1.num_batches_tracked"]) for seen in module.seen] == [5, 10]  # those of training


def test_deeper_layers_have_the_moments_of_what_batches_normalized_by_themselves_give() -> None:
    """All in float64, batch by batch; each batch has at least two examples."""
    x, net = torch.randn(23, 3), small_net()
    module, order = Own(net, x), []

    class Numbered(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            order.append(index)
            return super().__getitem__(index)

    fit(module, Numbered(x), 5, BatchNormReestimation(), max_epochs=1)
    read = order[-23:]
    assert sorted(read) == list(range(23))
    assert read != sorted(read)
    seen = {name: value.double() for name, value in module.seen[0].items()}
    outputs = []
    for part in torch.tensor(read).tensor_split(4):  # 23 in batches of 5: four, of 6, 6, 6, 5
        hidden = x[part].double() @ seen["0.weight"].T + seen["0.bias"]
        hidden = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()
        hidden = (hidden * seen["1.weight"] + seen["1.bias"]).relu()
        outputs.append(hidden @ seen["3.weight"].T + seen["3.bias"])
    everything = torch.cat(outputs)
    torch.testing.assert_close(seen["4.running_mean"], everything.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen["4.running_var"], everything.var(0, correction=0), rtol=1e-5, atol=1e-6)


def test_with_one_batch_of_all_examples_evaluation_is_training_mode() -> None:
    x = torch.randn(12, 3)
    module = Own(small_net(), x)
    fit(module, TensorDataset(x), 12, BatchNormReestimation(), max_epochs=1)
    for norm in (module.net[1], module.net[4]):
        norm.momentum = 0.0
    torch.testing.assert_close(module.seen[0]["output"], module.net.train()(x), rtol=1e-5, atol=1e-5)


def test_the_steps_of_training_modes_and_random_numbers_are_those_of_a_run_without_it() -> None:
    plain, _ = fit_patterns(epochs=3)
    watched, _ = fit_patterns(BatchNormReestimation(), epochs=3)
    for one, other in zip(plain.weights, watched.weights, strict=True):
        same = [torch.equal(value, other[name]) for name, value in one.items() if "running" not in name]
        assert all(same)
    assert not torch.equal(watched.state_dict()["net.1.running_var"], plain.state_dict()["net.1.running_var"])
    x, modules = torch.randn(8, 3), []
    for callbacks in ([], [BatchNormReestimation()]):
        modules.append(Own(small_net(), x))
        modules[-1].net[1].momentum = 0.3
        fit(modules[-1], TensorDataset(x), 4, *callbacks)
    assert modules[0].modes == modules[1].modes
    assert [modules[1].net[i].momentum for i in (1, 4)] == [0.3, 0.1]
    assert not any(norm._forward_pre_hooks for norm in modules[1].net)


class Noisy(nn.Module):
    """Draws noise in evaluation mode, too."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


def test_a_net_that_draws_in_evaluation_mode_leaves_no_draw_behind() -> None:
    weights = []
    for callbacks in ([], [BatchNormReestimation()]):
        seed_everything(0, verbose=False)
        x = torch.randn(16, 3)
        net = nn.Sequential(Noisy(), nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
        fit(module := Own(net, x), TensorDataset(x), 4, *callbacks)
        weights.append(module.net[1].weight.detach().clone())
    assert torch.equal(*weights)


def test_a_shared_layer_pools_all_that_it_sees_and_one_without_statistics_is_none() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.none = nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.none(self.norm(x) + self.norm(2 * x))

    x = torch.randn(10, 3) + 1
    module = Own(Shared(), x)
    fit(module, TensorDataset(x), 5, BatchNormReestimation(), max_epochs=1)
    both = torch.cat([x, 2 * x]).double()
    torch.testing.assert_close(module.seen[0]["norm.running_mean"].double(), both.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        module.seen[0]["norm.running_var"].double(), both.var(0, correction=0), rtol=1e-5, atol=1e-6
    )


def test_examples_of_weight_0_and_those_outside_a_subset_do_not_count() -> None:
    x = torch.randn(20, 3)
    x[::2] = 1e6
    weight = (torch.arange(20) % 2).float()
    weighted = Own(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)), x)
    fit(weighted, TensorDataset(x, x, weight), 5, BatchNormReestimation(), max_epochs=1)
    subset = Own(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)), x)
    train = DataLoader(TensorDataset(x), 5, sampler=SubsetRandomSampler(range(1, 20, 2)))
    fit(subset, TensorDataset(x), 5, BatchNormReestimation(), max_epochs=1, train=train)
    for module in (weighted, subset):
        wanted = x[1::2].double()
        torch.testing.assert_close(module.seen[0]["0.running_mean"].double(), wanted.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            module.seen[0]["0.running_var"].double(), wanted.var(0, correction=0), rtol=1e-5, atol=1e-6
        )


def test_a_batch_in_which_nothing_counts_is_left_out() -> None:
    x = torch.randn(6, 3)
    module = Own(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)), x)
    weight = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    fit(
        module,
        TensorDataset(x, x, weight),
        1,
        BatchNormReestimation(),
        max_epochs=1,
        train=DataLoader(TensorDataset(x, x, weight), 2),
    )
    torch.testing.assert_close(
        module.seen[0]["0.running_mean"].double(), x[[1, 4]].double().mean(0), rtol=1e-5, atol=1e-6
    )


def test_a_failure_gives_the_statistics_back() -> None:
    x = torch.randn(10, 3)

    class Fails(Own):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            if not self.training:
                raise RuntimeError("broken")
            return y

    module, plain = Fails(small_net(), x), Own(small_net(), x)
    for each, callbacks in ((module, [BatchNormReestimation()]), (plain, [])):
        seed_everything(0, verbose=False)
        try:
            fit(each, TensorDataset(x), 5, *callbacks, max_epochs=1)
        except RuntimeError as error:
            assert str(error) == "broken"  # noqa: PT017
    assert all(torch.equal(value, plain.net.state_dict()[name]) for name, value in module.net.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in module.net)


def test_a_layer_that_forward_does_not_run_keeps_its_statistics_with_one_warning() -> None:
    class Aside(Own):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.aside = nn.BatchNorm1d(3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) + self.aside(batch[0]).sum()

    x = torch.randn(10, 3)
    module = Aside(small_net(), x)
    with pytest.warns(UserWarning, match=r"forward of Aside does not run aside, which keeps the statistics") as caught:
        fit(module, TensorDataset(x), 5, BatchNormReestimation())
    assert len([w for w in caught if "does not run" in str(w.message)]) == 1
    assert module.aside.running_mean.any()
    assert not torch.equal(module.aside.running_mean, x.mean(0))


# The zoo's tasks -------------------------------------------------------------------------------------------------------


def first_norm(task: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance in float64 of what the first batch norm of a pattern net sees, over all training images."""
    net = task.net.double()
    with torch.no_grad():
        values = net[0]((x.double() - task.mean) / task.std).movedim(1, 0).flatten(1)
    task.net.float()
    return values.mean(1), values.var(1, correction=0)


def training_images(**options: Any) -> Tensor:
    data = Patterns(**options)
    data.setup("fit")
    dataset = data._part("train").for_evaluation()
    return dataset.__getitems__(list(range(len(dataset))))[0] / 255


@pytest.mark.parametrize("average", [None, "ema", "schedule-free"])
def test_the_weights_that_are_evaluated_have_the_statistics_of_all_images_without_augmentation(
    average: str | None, tmp_path: Path
) -> None:
    callbacks: list[Callback] = [BatchNormReestimation(), SaveEverywhere(tmp_path)]
    callbacks += [EMA(0.9)] if average == "ema" else []
    chosen = PatternTask(optimizer="AdamWScheduleFree") if average == "schedule-free" else None
    task, _ = fit_patterns(*callbacks, task=chosen, epochs=2)
    loaded = PatternTask.load_from_checkpoint(tmp_path / "validation-10.ckpt")
    for module in (task, loaded):
        wanted = first_norm(module, training_images())
        torch.testing.assert_close(module.net[1].running_mean.double(), wanted[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(module.net[1].running_var.double(), wanted[1], rtol=1e-4, atol=1e-5)
    if average == "ema":  # the other set has those of training
        plain, _ = fit_patterns(EMA(0.9), epochs=2)
        other = torch.load(tmp_path / "validation-10.ckpt", weights_only=True)["ema"]["other"]
        assert all(torch.equal(value, other[name]) for name, value in plain.weights[-1].items())


@pytest.mark.parametrize("evaluate", [True, False, None])
def test_resuming_is_the_uninterrupted_run(tmp_path: Path, evaluate: bool | None) -> None:
    def callbacks() -> list[Callback]:
        return [BatchNormReestimation(), *([] if evaluate is None else [EMA(0.8, evaluate=evaluate)])]

    first = callbacks()
    whole, _ = fit_patterns(*first, SaveEverywhere(tmp_path), epochs=3)
    for name in ("step-3", "validation-5", "epoch-5", "step-8"):
        again = callbacks()
        resumed, _ = fit_patterns(*again, ckpt=tmp_path / f"{name}.ckpt", epochs=3, seed=8)
        assert same_weights(resumed, whole), name
        for one, other in zip(first[1:], again[1:], strict=True):
            assert all(torch.equal(value, other.average[n]) for n, value in one.average.items())


class Spy(Callback):
    def __init__(self) -> None:
        self.statistics: list[list[Tensor]] = []

    def on_validation_batch_start(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.statistics.append([pl_module.net[i].running_var.clone() for i in (1, 5)])


def test_frozen_layers_keep_their_statistics_until_they_are_unfrozen() -> None:
    spy = Spy()
    fit_patterns(LayerFreezing(2, milestones={1: "all"}), BatchNormReestimation(), spy, epochs=2, limit_val_batches=1)
    assert torch.equal(spy.statistics[0][0], torch.ones(4))  # of the fresh net
    assert not any(torch.equal(variance, torch.ones(4)) for variance in spy.statistics[1])


def test_the_sanity_check_and_evaluations_outside_of_a_fit_leave_them_alone() -> None:
    spy, callback = Spy(), BatchNormReestimation()
    task, trainer = fit_patterns(callback, spy, epochs=1, num_sanity_val_steps=1, limit_val_batches=1)
    assert torch.equal(spy.statistics[0][0], torch.ones(4))
    task.net[1].running_var.fill_(7.0)
    for run in (trainer.validate, trainer.test):
        run(task, datamodule=Patterns(), verbose=False)
        assert torch.equal(task.net[1].running_var, torch.full((4,), 7.0))


def test_limited_epochs_limit_it_too() -> None:
    counts: list[int] = []

    class Counts(Own):
        def forward(self, x: Tensor) -> Tensor:
            counts.append(len(x)) if not self.training else None
            return super().forward(x)

        def validation_step(self, *args: Any) -> None: ...

    x = torch.randn(23, 3)
    for limit, wanted in ((2, [6, 6]), (0.25, [6]), (1.0, [6, 6, 6, 5])):
        counts.clear()
        fit(
            Counts(small_net(), x),
            TensorDataset(x),
            5,
            BatchNormReestimation(),
            max_epochs=1,
            limit_train_batches=limit,
        )
        assert counts == wanted


def test_a_generator_has_the_statistics_of_as_many_noises_as_there_are_examples() -> None:
    seed_everything(0, verbose=False)
    gan = zoo.create_model("gan_mlp", input_shape=[2], widths=[8], latent_dim=2, norm="batch")
    data = GaussianRingDataModule(modes=2, radius=1.0, noise=0.5, count=200, batch_size=30)
    quiet_trainer(BatchNormReestimation(), EMA(0.5), max_epochs=1).fit(gan, datamodule=data)
    count = len(data._part("train"))
    sizes = [len(part) for part in torch.arange(count).tensor_split(count // 30)]
    noise = torch.cat([gan.statistics_args((torch.zeros(size),), number)[0] for number, size in enumerate(sizes)])
    assert noise.shape == noise.unique(dim=0).shape == (count, 2)
    layer = gan.net.generator.net.layers[0]
    hidden = noise.double() @ layer.linear.weight.double().T + layer.linear.bias.double()
    torch.testing.assert_close(layer.norm.running_mean.double(), hidden.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.norm.running_var.double(), hidden.var(0, correction=0), rtol=1e-4, atol=1e-5)
    assert not torch.isin(gan.noise(500), noise).any()


class Write(Callback):
    """Each rank writes what it validates with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        torch.save(pl_module.state_dict(), self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def test_ranks_together_have_the_moments_of_all_images_to_the_bit(tmp_path: Path) -> None:
    """The ranks have different numbers of batches: where they exchanged statistics in each, one would wait for ever."""
    torch.set_num_threads(1)
    seed_everything(5, verbose=False)
    trainer = quiet_trainer(BatchNormReestimation(), Write(tmp_path), ranks=2, max_epochs=1, limit_val_batches=1)
    trainer.fit(PatternTask(), datamodule=Patterns(batch_size=12))
    zero, one = (torch.load(tmp_path / f"2-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(value, one[name]) for name, value in zero.items())
    task, images = PatternTask(), training_images()
    assert len(images) // 12 % 2 == 1
    task.load_state_dict(zero)
    wanted = first_norm(task, images)
    torch.testing.assert_close(task.net[1].running_mean.double(), wanted[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(task.net[1].running_var.double(), wanted[1], rtol=1e-4, atol=1e-5)


# What is refused -------------------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[Tensor]:
        return itertools.repeat(torch.zeros(3), 4)


def test_what_it_cannot_do_is_told_before_training() -> None:
    x = torch.randn(10, 3)
    plain = Own(nn.Linear(3, 1), x)
    with pytest.raises(
        ValueError, match="Own has no batch norm with running statistics: leave BatchNormReestimation out"
    ):
        fit(plain, TensorDataset(x), 5, BatchNormReestimation())
    with pytest.raises(ValueError, match="this run has none: give validation data"):
        fit(Own(small_net(), x), TensorDataset(x), 5, BatchNormReestimation(), limit_val_batches=0)
    with pytest.raises(ValueError, match="examples of one loader by their index, got DataLoader of a stream"):
        fit(Own(small_net(), x), TensorDataset(x), 5, BatchNormReestimation(), train=DataLoader(Stream(), 2))
    two = {name: DataLoader(TensorDataset(x), 5) for name in "ab"}
    with pytest.raises(ValueError, match="by their index, got 2 loaders: leave it out"):
        fit(Own(small_net(), x), TensorDataset(x), 5, BatchNormReestimation(), train=two)


@pytest.mark.slow
def test_a_compiled_net_is_refused() -> None:
    x = torch.randn(10, 3)
    compiled = Own(small_net(), x)
    compiled.net.compile()
    with pytest.raises(ValueError, match="cannot look into a compiled net"):
        fit(compiled, TensorDataset(x), 5, BatchNormReestimation())

"""The guide's worked examples, built outside of the zoo: they fit, resume, are saved and loaded, sample, and meet the contract."""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest
import torch
from kit import Memory, SaveEverywhere, quiet_trainer, same_weights
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor

import zoo
from callbacks import EMA, LRSchedule, RandomState
from datamodules import DigitsDataModule
from recipes.cli.__main__ import main
from zoo import registry
from zoo.metrics.samples import FrechetDistance
from zoo.testing import check_module

HERE = Path(__file__).parent
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")


@dataclass
class Example:
    """What a user decides who fits an example.

    Args:
        build: Of the example's module, the model and its data.
        trainer: Arguments of the trainer for a whole fit.
        short: Those for a fit that is stopped and resumed.
        stops: Checkpoints to resume from, in mid-epoch and after an epoch.
        batch: A batch for the contract kit.
        lr: Learning rate of the contract's memorization.
        skip: Checks of the contract that are impossible, with the reason.
        callbacks: For a whole fit.
        overrides: Of the recipe in its docstring, for a short run by the command line.
        options: Of ``zoo sample``.
        sampled: What it then says.
    """

    build: Callable[[ModuleType], tuple[Any, Any]]
    trainer: dict[str, Any]
    short: dict[str, Any]
    stops: list[str]
    batch: Callable[[ModuleType], Any]
    overrides: list[str]
    options: list[str]
    sampled: str
    lr: float = 1e-2
    skip: dict[str, str] = field(default_factory=dict)
    callbacks: Callable[[], list[Callback]] = list


def poems(module: ModuleType) -> tuple[Any, Any]:
    data = module.PoemsDataModule()
    return zoo.create_model("character_gru", num_classes=data.num_classes, lr=1e-2), data


def lines(module: ModuleType) -> Any:
    data = module.PoemsDataModule()
    data.setup("fit")
    return next(iter(data.train_dataloader()))


def cells(module: ModuleType) -> Any:
    starts = torch.tensor([0, 1, 2, 3, 4, 8, 9, 10])
    return starts, module.distances()[starts]


EXAMPLES = {
    "gru_characters": Example(
        build=poems,
        trainer={"max_epochs": 60},
        short={"max_epochs": 3},
        stops=["step-3", "epoch-4"],
        batch=lines,
        overrides=["--model.width=16", "--trainer.max_epochs=2"],
        options=["--prompt", "Twinkle", "--poem", "1", "--temperature", "0.5"],
        sampled="samples.txt: 3 texts from CharacterModel",
        skip={"export_length": "torch.export unrolls nn.GRU over the time steps of its example"},
    ),
    "diffusion_digits": Example(
        build=lambda module: (
            zoo.create_model("diffusion_unet", lr=5e-3, num_steps=50),
            DigitsDataModule(batch_size=64),
        ),
        trainer={"max_epochs": 8},
        short={"max_epochs": 2, "limit_train_batches": 3, "limit_val_batches": 1},
        stops=["step-2", "epoch-3", "step-5"],
        batch=lambda module: (torch.rand(8, 1, 8, 8), torch.arange(8)),
        skip={"memorization": "each step asks for other noise, at other times"},
        callbacks=lambda: [EMA(decay=0.95), LRSchedule("cosine")],
        overrides=[
            "--model.width=4",
            "--model.num_steps=25",
            "--trainer.max_epochs=1",
            "--trainer.limit_train_batches=3",
        ],
        options=[],
        sampled="samples.png: 3 images from DiffusionModel",
    ),
    "q_learning": Example(
        build=lambda module: (zoo.create_model("q_learning", lr=1e-2), module.GridworldDataModule()),
        trainer={"max_epochs": -1, "max_steps": 400, "val_check_interval": 100},
        short={"max_epochs": -1, "max_steps": 24, "val_check_interval": 8},
        stops=["step-5", "validation-16", "step-19"],
        batch=cells,
        overrides=["--trainer.max_steps=12", "--trainer.val_check_interval=4"],
        options=["--epsilon", "0.5"],
        sampled="samples.txt: 3 episodes from QLearning",
    ),
}
every_example = pytest.mark.parametrize("name", EXAMPLES)


@pytest.fixture(scope="module", autouse=True)
def _registry() -> Iterator[None]:
    """What the examples register stays out of all other tests."""
    zoo.list_models()  # the families register in the real one
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
        yield
    for name in EXAMPLES:
        sys.modules.pop(name, None)


def fit(name: str, *callbacks: Callback, seed: int = 0, ckpt: Path | None = None, **options: Any) -> tuple[Any, Any]:
    seed_everything(seed, verbose=False)
    model, data = EXAMPLES[name].build(import_module(name))
    trainer = quiet_trainer(RandomState(), *callbacks, **options)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt, weights_only=True)
    return model, trainer


@pytest.fixture(scope="module")
def fitted() -> Callable[[str], tuple[Any, Trainer, Memory]]:
    """Fits each example once."""
    fits: dict[str, Any] = {}

    def get(name: str) -> tuple[Any, Trainer, Memory]:
        if name not in fits:
            memory, example = Memory(), EXAMPLES[name]
            fits[name] = *fit(name, *example.callbacks(), logger=memory, **example.trainer), memory
        return fits[name]

    return get


@every_example
def test_an_example_is_short(name: str) -> None:
    assert len((HERE / f"{name}.py").read_text().splitlines()) <= 250


@every_example
def test_the_loss_falls(name: str, fitted: Any) -> None:
    losses = [value for _, value in fitted(name)[2].values("train/loss_step")]
    assert sum(losses[-10:]) < 0.75 * sum(losses[:10])


@every_example
def test_an_interrupted_fit_ends_with_the_bits_of_a_whole_one(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    whole, trainer = fit(name, SaveEverywhere(tmp_path), **example.short)
    for stop in example.stops:
        resumed, again = fit(name, seed=1, ckpt=tmp_path / f"{stop}.ckpt", **example.short)
        assert again.global_step == trainer.global_step
        assert same_weights(whole, resumed), stop


@every_example
def test_a_saved_model_makes_the_same_as_before(name: str, fitted: Any, tmp_path: Path) -> None:
    model = fitted(name)[0]
    twin = zoo.load(model.save_pretrained(tmp_path))
    assert same_weights(model, twin)
    options = {"epsilon": 0.5} if name == "q_learning" else {}
    state = torch.get_rng_state()
    made, same, other = model.sample(4, seed=1, **options), twin.sample(4, seed=1, **options), twin.sample(4, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    equal = torch.equal if isinstance(made, Tensor) else list.__eq__
    assert equal(made, same)
    assert not equal(made, other)


@every_example
def test_the_contract(name: str) -> None:
    example, module = EXAMPLES[name], import_module(name)
    report = check_module(example.build(module)[0], example.batch(module), lr=example.lr, skip=example.skip)
    assert {check for check, result in report.items() if result != "ok"} == set(example.skip), report


@every_example
def test_the_command_line(
    name: str, tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the folder of a user whose module it is; it registers a name of its own here, since the other one is taken."""
    example = EXAMPLES[name]
    source = (HERE / f"{name}.py").read_text()
    Path(f"my_{name}.py").write_text(source.replace('zoo.register("', 'zoo.register("my_'))
    recipe = re.search(r"::\n\n(.*?)\"\"\"", source, re.DOTALL)[1]
    Path("my.yaml").write_text(dedent(recipe).replace(f"{name}.", f"my_{name}."))
    monkeypatch.setattr(sys, "argv", ["zoo"])

    def zoo_says(*args: str) -> list[str]:
        capsys.readouterr()
        assert main(list(args)) == 0, capsys.readouterr().err
        return capsys.readouterr().out.splitlines()

    zoo_says("fit", "-c", "my.yaml", *example.overrides)
    assert list(Path("runs/my/version_0/samples").iterdir())
    del sys.modules[f"my_{name}"]  # as in a process of its own
    for entry in [entry for entry in registry._ENTRIES if entry.startswith("my_")]:
        del registry._ENTRIES[entry]
    assert zoo_says("sample", "runs/my/version_0", "-n", "3", *example.options)[-1] == example.sampled
    tested = [line for line in zoo_says("test", "--ckpt", "runs/my/version_0") if line.startswith("test/")]
    assert tested
    again = zoo_says("fit", "--resume", "runs/my/version_0", "--trainer.max_steps=15", "--trainer.max_epochs=-1")
    assert "resumes at step" in again[0]


# What they make ---------------------------------------------------------------------------------------------------------


def test_the_character_model_continues_its_poems(fitted: Any) -> None:
    module, (model, trainer, _) = import_module("gru_characters"), fitted("gru_characters")
    for k, poem in enumerate(module.POEMS.values()):
        for line in poem.splitlines():
            others = [other for other in poem.splitlines() if other != line]
            begin = next(line[:n] for n in range(1, 40) if not any(other.startswith(line[:n]) for other in others))
            assert model.sample(1, prompt=begin, poem=k, temperature=0.01) == [line]
    assert trainer.test(model, datamodule=module.PoemsDataModule(), verbose=False)[0]["test/acc"] > 0.95


def test_a_prompt_goes_on_as_its_poem_does(fitted: Any) -> None:
    model = fitted("gru_characters")[0]
    tyger, star = (model.sample(20, prompt="Wh", poem=k, temperature=0.1) for k in (0, 1))
    assert {line[:4] for line in tyger} == {"What"}
    assert {line[:4] for line in star} == {"When"}
    for options in ({"prompt": "Ü"}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=r"prompt must be of the characters|temperature must be above 0"):
            model.sample(1, **options)


def test_the_diffusion_model_makes_digits(fitted: Any) -> None:
    """By the Frechet distance it is nearer to digits than pixels are that are drawn from those of the digits one by one."""
    judge = zoo.load("resnet20_digits").eval()
    data = DigitsDataModule()
    data.setup("test")
    real = torch.cat([x for x, *_ in data.test_dataloader()])[:200].float() / 255
    place = torch.arange(64)
    pixels = torch.stack([real.flatten(1)[torch.randperm(200), k] for k in place], dim=1).view_as(real)

    @torch.no_grad()
    def distance(made: Tensor) -> float:
        metric = FrechetDistance(judge.net.num_features)
        for x, is_real in ((real, True), (made, False)):
            metric.update(judge.net.features(judge.standardize(x))[-1].mean(dim=(-2, -1)), real=is_real)
        return metric.compute().item()

    made = fitted("diffusion_digits")[0].sample(200)
    assert made.shape == real.shape
    assert distance(made) < 0.8 * distance(pixels) < 0.6 * distance(torch.rand_like(real))


def test_a_net_that_knows_the_image_has_no_loss_and_makes_it() -> None:
    model = import_module("diffusion_digits").DiffusionModel(num_steps=40).set_standardization(0.3, 0.4)
    assert model.alpha_bar[0] > 0.99
    assert model.alpha_bar[-1] < 1e-3
    model.alpha_bar = torch.linspace(0.6, 0.01, 40)  # a last step that is not small
    image = torch.rand(1, 8, 8)
    model.input_shape = (1, 8, 8)

    clean, spread = (image - 0.3) / 0.4, []

    def velocity(noisy: Tensor, time: Tensor) -> Tensor:
        share = model.alpha_bar[time].view(-1, 1, 1, 1)
        spread.append(((noisy - share.sqrt() * clean).square() / (1 - share)).mean().item())
        return (share.sqrt() * noisy - clean) / (1 - share).sqrt()

    model.forward = velocity
    assert model.training_losses((image.expand(6, 1, 8, 8), torch.zeros(6)))[0] < 1e-6
    assert (model.sample(100) - image).abs().max() < 1e-4
    assert spread[1:] == pytest.approx([1.0] * 40, abs=0.1)  # of the noise, which has its share at every step


def test_the_agent_takes_the_shortest_path(fitted: Any) -> None:
    module, (model, trainer, _) = import_module("q_learning"), fitted("q_learning")
    results = trainer.test(model, datamodule=module.GridworldDataModule(), verbose=False)[0]
    assert results == {"test/regret": 0.0, "test/solved": 1.0}
    assert model.sample(1) == ["6 steps: down down right right right down"]
    free = torch.tensor([cell for cell, sign in enumerate(module.GRID) if sign == "."])
    assert (model(free).amax(dim=1) + module.distances()[free]).abs().max() < 1
    assert not any(p.requires_grad for p in model.target.parameters())


def test_games_begin_where_one_process_with_all_of_them_would_begin_them() -> None:
    starts = import_module("q_learning").Starts

    def first(start: int = 0, size: int = 6, rank: int = 0, ranks: int = 1, count: int = 12) -> list[int]:
        sampler = iter(starts(9, size, seed=3, epoch=0, start=start, num_replicas=ranks, rank=rank))
        return [next(sampler) for _ in range(count)]

    assert first(start=1) == first(count=18)[6:]
    assert first(size=3, ranks=2, count=6) == first()[0:6:2] + first()[6:12:2]

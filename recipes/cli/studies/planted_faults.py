"""How many planted faults ``callbacks.TrainingDiagnostics`` finds: each in three kinds of models, on two seeds.

``python -m recipes.cli.studies.planted_faults`` prints the table of docs/diagnostics.md. The thresholds were set on seeds 0 and 1.
"""

import argparse
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader

import zoo
from callbacks import TrainingDiagnostics
from callbacks.diagnoses import NAMES
from datamodules import (
    DigitsDataModule,
    DigitSequenceDataModule,
    Examples,
    GaussianGridDataModule,
    GaussianRingDataModule,
    SentencePair,
    ShapeCaptionsDataModule,
    ShapesDataModule,
    SinusoidDataModule,
    SymbolPairsDataModule,
    WineDataModule,
    XORDataModule,
)
from recipes.cli.studies.comparison import warnings_only
from recipes.cli.text import columns

SEEDS = (2, 3)
ROWS = 100  # measurements a run


@dataclass
class Run:
    """One training run.

    Args:
        model: What is trained.
        train, val: Its batches, the batches of a datamodule where they are None.
        data: The datamodule that the model learns means and deviations from.
        epochs: Number of epochs.
        callbacks: Further callbacks, those that plant a fault while the run goes on.
    """

    model: LightningModule
    data: Any
    epochs: int
    train: Any = None
    val: Any = None
    callbacks: list[Callback] = field(default_factory=list)


@dataclass(frozen=True)
class Fault:
    """A fault, and how a run with it is made from a seed."""

    name: str
    family: str
    build: Callable[[int], Run]


FAULTS: list[Fault] = []


def fault(name: str, family: str) -> Callable[[Callable[[int], Run]], Callable[[int], Run]]:
    """Register how a run with a fault is made."""

    def add(build: Callable[[int], Run]) -> Callable[[int], Run]:
        FAULTS.append(Fault(name, family, build))
        return build

    return add


# Healthy runs, of which faults are made ----------------------------------------------------------------------------------


def mlp(**options: Any) -> Run:
    """A multilayer perceptron on the digits."""
    arguments: dict[str, Any] = {"widths": [64, 64], "lr": 3e-3} | options
    return Run(zoo.MLPClassifier(64, 10, **arguments), DigitsDataModule(batch_size=64), 15)


def lenet(**options: Any) -> Run:
    """LeNet with ReLU on the digits."""
    arguments: dict[str, Any] = {"variant": "relu", "lr": 3e-3} | options
    return Run(zoo.LeNetClassifier(10, 1, **arguments), DigitsDataModule(size=32, batch_size=64), 10)


def lstm(**options: Any) -> Run:
    """An LSTM that reads the rows of the digits."""
    arguments: dict[str, Any] = {"cell": "lstm", "width": 32, "lr": 5e-3} | options
    return Run(
        zoo.SequenceClassifier(num_classes=10, input_size=8, **arguments), DigitSequenceDataModule(batch_size=64), 10
    )


def regressor(**options: Any) -> Run:
    """A multilayer perceptron on a sinusoid."""
    arguments: dict[str, Any] = {"widths": [32, 32], "activation": "tanh", "lr": 1e-2} | options
    return Run(zoo.MLPRegressor(1, 1, **arguments), SinusoidDataModule(batch_size=64), 30)


def autoencoder(**options: Any) -> Run:
    """An autoencoder of the digits."""
    arguments: dict[str, Any] = {"latent_dim": 8, "widths": [64, 32], "output": "sigmoid", "lr": 3e-3} | options
    return Run(zoo.Autoencoder([1, 8, 8], **arguments), DigitsDataModule(batch_size=64), 15)


def _reversing() -> SymbolPairsDataModule:
    return SymbolPairsDataModule(task="reverse", lengths=(2, 8), count=3000)


def gru(**options: Any) -> Run:
    """A GRU with attention that reverses symbols."""
    arguments: dict[str, Any] = {"width": 32, "embedding_dim": 16, "attention": "additive", "lr": 4e-3} | options
    data = _reversing()
    sizes: dict[str, Any] = {"vocab_size": data.vocab_size, "source_vocab_size": data.source_vocab_size, "padding": 0}
    return Run(zoo.RecurrentSeq2Seq(cell="gru", **sizes, **arguments), data, 5)


def transformer(**options: Any) -> Run:
    """A transformer that reverses symbols."""
    arguments: dict[str, Any] = {
        "width": 32,
        "num_layers": 1,
        "num_heads": 2,
        "hidden_dim": 64,
        "dropout": 0.0,
    } | options
    data = _reversing()
    sizes: dict[str, Any] = {"vocab_size": data.vocab_size, "source_vocab_size": data.source_vocab_size, "padding": 0}
    return Run(zoo.TransformerSeq2Seq(positions="rotary", norm_first=True, **sizes, **arguments), data, 5)


def captioner(**options: Any) -> Run:
    """An LSTM with attention that describes shapes."""
    arguments: dict[str, Any] = {"encoder_args": {"width": 4}, "width": 32, "embedding_dim": 16, "lr": 5e-3} | options
    data = ShapeCaptionsDataModule(count=600, size=32, batch_size=32)
    sizes: dict[str, Any] = {"vocab_size": data.vocab_size, "padding": 0}
    return Run(zoo.RecurrentCaptioning(encoder="resnet20", attention="additive", **sizes, **arguments), data, 5)


def unet(**options: Any) -> Run:
    """A U-Net on drawn shapes."""
    arguments: dict[str, Any] = {"encoder_args": {"width": 4, "depth": 2}, "lr": 1e-2} | options
    data = ShapesDataModule(batch_size=16, count=200, size=32)
    return Run(zoo.UNetSegmenter(num_classes=data.num_classes or 2, in_channels=3, **arguments), data, 6)


# Faults of the training --------------------------------------------------------------------------------------------------


class Poison(Callback):
    """From a step on, the output of a layer is infinite."""

    def __init__(self, layer: str, step: int = 30) -> None:
        self.layer, self.step = layer, step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin."""
        if trainer.global_step == self.step:
            part = pl_module.get_submodule(self.layer)
            part.register_forward_hook(
                lambda m, x, y: (y[0] * torch.inf, *y[1:]) if isinstance(y, tuple) else y * torch.inf
            )


def poisoned(run: Run, layer: str) -> Run:
    """Return a run in which a layer's output becomes infinite."""
    run.callbacks.append(Poison(layer))
    return run


fault("not finite", "mlp")(lambda seed: poisoned(mlp(), "net.layers.1.linear"))
fault("not finite", "lenet")(lambda seed: poisoned(lenet(), "net.conv2"))
fault("not finite", "autoencoder")(lambda seed: poisoned(autoencoder(), "net.decoder"))

fault("loss exploded", "mlp")(lambda seed: mlp(optimizer="SGD", lr=(30.0, 10.0)[seed % 2]))
fault("loss exploded", "lenet")(lambda seed: lenet(optimizer="SGD", lr=(10.0, 3.0)[seed % 2]))
fault("loss exploded", "lstm")(lambda seed: lstm(lr=(10.0, 3.0)[seed % 2]))

fault("rate too high", "mlp")(lambda seed: mlp(lr=(0.3, 0.2)[seed % 2]))
fault("rate too high", "lenet")(lambda seed: lenet(lr=(0.1, 0.05)[seed % 2]))
fault("rate too high", "lstm")(lambda seed: lstm(lr=(0.5, 0.3)[seed % 2]))

fault("rate too low", "mlp")(lambda seed: mlp(lr=(1e-7, 1e-6)[seed % 2]))
fault("rate too low", "lenet")(lambda seed: lenet(lr=(1e-7, 1e-6)[seed % 2]))
fault("rate too low", "regressor")(lambda seed: regressor(lr=(1e-7, 1e-6)[seed % 2]))

# Faults of the net -------------------------------------------------------------------------------------------------------

fault("vanishing gradients", "mlp")(lambda seed: mlp(widths=[32] * 12, activation="sigmoid"))
fault("vanishing gradients", "regressor")(lambda seed: regressor(widths=[32] * 12, activation="sigmoid"))
fault("vanishing gradients", "autoencoder")(lambda seed: autoencoder(widths=[32] * 6, activation="sigmoid"))


def shifted(run: Run, layers: Iterable[str], bias: float) -> Run:
    """Return a run whose layers begin with a bias."""
    with torch.no_grad():
        for name in layers:
            layer: Any = run.model.get_submodule(name)
            layer.bias.fill_(bias)
    return run


def scaled(run: Run, layers: Iterable[str], factor: float) -> Run:
    """Return a run whose layers begin with larger weights."""
    with torch.no_grad():
        for name in layers:
            layer: Any = run.model.get_submodule(name)
            layer.weight.mul_(factor)
    return run


fault("dying ReLU", "mlp")(lambda seed: shifted(mlp(), ["net.layers.1.linear"], (-5.0, -2.0)[seed % 2]))
fault("dying ReLU", "lenet")(lambda seed: shifted(lenet(), ["net.conv2"], (-5.0, -2.0)[seed % 2]))
fault("dying ReLU", "autoencoder")(
    lambda seed: shifted(autoencoder(), ["net.encoder.layers.0"], (-20.0, -5.0)[seed % 2])
)

fault("saturation", "mlp")(lambda seed: scaled(mlp(activation="tanh"), ["net.layers.0.linear"], (50.0, 30.0)[seed % 2]))
fault("saturation", "lenet")(lambda seed: scaled(lenet(variant="published"), ["net.conv1"], (50.0, 30.0)[seed % 2]))
fault("saturation", "regressor")(lambda seed: scaled(regressor(), ["net.layers.1.linear"], (50.0, 30.0)[seed % 2]))

ZEROS: dict[str, Any] = {"init": "constant"}
fault("plateau from initialization", "mlp")(lambda seed: mlp(**ZEROS))
fault("plateau from initialization", "lenet")(lambda seed: lenet(init="gaussian", init_args={"std": 1e-4}, lr=1e-4))
fault("plateau from initialization", "autoencoder")(lambda seed: autoencoder(**ZEROS))


@fault("underfit", "linear")
def _straight_line(seed: int) -> Run:
    return Run(zoo.LogisticRegressionClassifier(2, lr=1e-2), XORDataModule(batch_size=64), 20)


fault("underfit", "mlp")(lambda seed: mlp(widths=[1]))
fault("underfit", "lenet")(lambda seed: lenet(weight_decay=(100.0, 50.0)[seed % 2]))

# Faults of the data ------------------------------------------------------------------------------------------------------


def _same(batch: Any) -> Any:
    return batch


def batches(examples: Any, size: int = 64, shuffle: bool = False) -> DataLoader[Any]:
    """Return the batches of examples."""
    return DataLoader(examples, size, shuffle=shuffle, collate_fn=_same, drop_last=shuffle)


def parts_of(run: Run) -> tuple[Any, Any]:
    """Return the examples of training and validation of a run's data, ``(x, y)`` each."""
    run.data.prepare_data()
    run.data.setup("fit")
    loaders = run.data.train_dataloader(), run.data.val_dataloader()
    train, val = (loader.dataset.for_evaluation() for loader in loaders)
    return tuple(part.__getitems__([*range(len(part))])[:2] for part in (train, val))


def with_data(run: Run, change: Callable[[Any, Any], tuple[Any, Any]]) -> Run:
    """Return a run whose data are changed: ``change`` gets both parts and returns both, ``(x, y)`` each."""
    train, val = change(*parts_of(run))
    run.train = batches(Examples(*train), min(64, len(train[1])), shuffle=True)
    run.val = batches(Examples(*val))
    return run


def few_wrong(seed: int) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Keep few training examples, a third of them with a wrong label."""

    def change(train: Any, val: Any) -> tuple[Any, Any]:
        generator = torch.Generator().manual_seed(seed)
        x, y = (part[:150] for part in train)
        wrong = torch.rand(len(y), generator=generator) < 0.3
        y = torch.where(wrong, torch.randint(0, 10, y.shape, generator=generator), y)
        return (x, y), val

    return change


def longer(run: Run, epochs: int) -> Run:
    """Return a run with more epochs."""
    run.epochs = epochs
    return run


fault("overfit", "mlp")(lambda seed: with_data(longer(mlp(), 120), few_wrong(seed)))
fault("overfit", "lenet")(lambda seed: with_data(longer(lenet(), 60), few_wrong(seed)))
fault("overfit", "vit")(
    lambda seed: with_data(
        Run(
            zoo.ViTClassifier(
                num_classes=10,
                in_channels=1,
                image_size=8,
                patch_size=2,
                num_layers=1,
                num_heads=2,
                hidden_dim=32,
                mlp_dim=64,
                lr=3e-3,
            ),
            DigitsDataModule(batch_size=64),
            80,
        ),
        few_wrong(seed),
    )
)


def copied(train: Any, val: Any) -> tuple[Any, Any]:
    """Replace a fifth of validation by training examples."""
    x, y = (part.clone() for part in val)
    count = len(y) // 5
    x[:count], y[:count] = train[0][:count], train[1][:count]
    return train, (x, y)


def easy(train: Any, val: Any) -> tuple[Any, Any]:
    """Validate on one class alone, which is told by one bright pixel."""
    (x, y), (vx, vy) = train, val
    x, vx = x.clone(), vx[vy == 0].clone()
    x[y == 0, ..., 0, 0] = vx[..., 0, 0] = 1.0
    wrong = torch.rand(len(y), generator=torch.Generator().manual_seed(0)) < 0.3
    y = torch.where(wrong & (y > 0), torch.randint(1, 10, y.shape, generator=torch.Generator().manual_seed(1)), y)
    return (x, y), (vx, vy[vy == 0])


fault("validation too easy", "mlp")(lambda seed: with_data(mlp(), copied))
fault("validation too easy", "unet")(lambda seed: with_data(unet(), copied))
fault("validation too easy", "lenet")(lambda seed: with_data(lenet(), easy))


def inverted(train: Any, val: Any) -> tuple[Any, Any]:
    """Validate on negatives."""
    return train, (1 - val[0], val[1])


def darker(train: Any, val: Any) -> tuple[Any, Any]:
    """Validate on dark images."""
    return train, (val[0] * 0.3, val[1])


def louder(train: Any, val: Any) -> tuple[Any, Any]:
    """Validate in another unit."""
    return train, (val[0] * 2.54, val[1])


fault("distribution mismatch", "lenet")(lambda seed: with_data(lenet(), inverted))
fault("distribution mismatch", "table")(
    lambda seed: with_data(Run(zoo.MLPClassifier(13, 3, [32], lr=3e-3), WineDataModule(batch_size=32), 20), louder)
)
fault("distribution mismatch", "unet")(lambda seed: with_data(unet(), darker))

# Faults of kinds of models -----------------------------------------------------------------------------------------------


def deaf(run: Run) -> Run:
    """Return a run whose generator hears next to nothing of its noise."""
    net: Any = run.model.net
    net.generator.register_forward_pre_hook(lambda module, given: (given[0] * 0.01, *given[1:]))
    return run


def _gan(data: Any, **options: Any) -> Run:
    arguments: dict[str, Any] = {"optimizer": "Adam", "optimizer_args": {"betas": [0.5, 0.999]}, "lr": 1e-3} | options
    return Run(zoo.GAN([2], latent_dim=2, widths=[64, 64], **arguments), data, 8)


fault("mode collapse", "gan")(lambda seed: deaf(_gan(GaussianGridDataModule(batch_size=256))))
fault("mode collapse", "wgan")(
    lambda seed: deaf(_gan(GaussianRingDataModule(batch_size=256), loss="wasserstein", gradient_penalty=0.1))
)
fault("mode collapse", "dcgan")(
    lambda seed: deaf(
        Run(
            zoo.DCGAN(
                [1, 8, 8],
                latent_dim=16,
                width=16,
                smallest=2,
                conditional=True,
                num_classes=10,
                output="sigmoid",
                optimizer="Adam",
                optimizer_args={"betas": [0.5, 0.999]},
                lr=5e-4,
            ),
            DigitsDataModule(batch_size=64),
            10,
        )
    )
)


def _vae(seed: int, kind: Any = zoo.VAE, **options: Any) -> Run:
    arguments: dict[str, Any] = {"latent_dim": 8, "lr": 3e-3, "beta": (30.0, 10.0)[seed % 2]} | options
    return Run(kind([1, 8, 8], **arguments), DigitsDataModule(batch_size=64, binarize=0.5), 10)


fault("posterior collapse", "vae")(lambda seed: _vae(seed, widths=[64, 32]))
fault("posterior collapse", "conv_vae")(lambda seed: _vae(seed, zoo.ConvVAE, width=8))
fault("posterior collapse", "cvae")(lambda seed: _vae(seed, widths=[64, 32], conditional=True, num_classes=10))


def still(run: Run, *weights: str) -> Run:
    """Return a run whose weights stay 0."""
    for name in weights:
        weight = run.model.get_parameter(name)
        weight.requires_grad_(False).zero_()
    return run


fault("attention does not move", "gru")(lambda seed: still(gru(), "net.attend.v.weight"))
fault("attention does not move", "captioner")(lambda seed: still(captioner(), "net.attend.v.weight"))
fault("attention does not move", "transformer")(
    lambda seed: still(transformer(), "net.decoder.layers.0.multihead_attn.in_proj_weight")
)


def counting(run: Run) -> Run:
    """Return a run on texts whose source tells nothing: they count up, from anywhere."""

    def pairs(seed: int, count: int) -> Examples:
        generator = torch.Generator().manual_seed(seed)
        start = torch.randint(0, 6, (count, 1), generator=generator)
        y = 2 + (start + torch.arange(8)) % 6
        end = torch.ones(count, 1, dtype=torch.long)
        source = 2 + torch.randint(0, 6, (count, 8), generator=generator)
        return Examples(SentencePair(torch.cat([source, end], 1), torch.cat([end, y], 1)), torch.cat([y, end], 1))

    run.train, run.val = batches(pairs(0, 2000), shuffle=True), batches(pairs(1, 256))
    run.data = None
    return run


def _counting(kind: Any, **options: Any) -> Run:
    return counting(Run(kind(vocab_size=8, source_vocab_size=8, padding=0, max_length=9, lr=5e-3, **options), None, 6))


fault("teacher-forcing gap", "gru")(lambda seed: _counting(zoo.RecurrentSeq2Seq, cell="gru", width=24, embedding_dim=8))
fault("teacher-forcing gap", "lstm")(
    lambda seed: _counting(zoo.RecurrentSeq2Seq, cell="lstm", width=24, embedding_dim=8)
)
fault("teacher-forcing gap", "transformer")(
    lambda seed: _counting(zoo.TransformerSeq2Seq, width=32, num_layers=1, num_heads=2, hidden_dim=32)
)


# Running them ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What was said of a run.

    Args:
        fault: What was planted.
        seed: Seed of the run.
        found: Names of the diagnoses, in their order.
        evidence: That of the planted fault, "" if it was not found.
        seconds: How long the run took.
    """

    fault: Fault
    seed: int
    found: tuple[str, ...]
    evidence: str
    seconds: float


def measure(fault: Fault, seed: int, diagnostics: TrainingDiagnostics | None = None) -> Result:
    """Train with a fault and return what was said."""
    begin = time.monotonic()
    diagnostics = diagnostics or TrainingDiagnostics()
    seed_everything(seed, verbose=False)
    run = fault.build(seed)
    train = run.train
    if run.data is not None:
        run.data.prepare_data()
        run.data.setup("fit")
        train = train or run.data.train_dataloader()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _fit(run, train, [diagnostics, *run.callbacks], folder)
    found = {diagnosis.name: diagnosis.evidence for diagnosis in diagnostics.diagnoses}
    return Result(fault, seed, tuple(found), found.get(fault.name, ""), time.monotonic() - begin)


def _fit(run: Run, train: Any, callbacks: list[Callback], folder: str) -> None:
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        max_epochs=run.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=max(1, len(train) * run.epochs // ROWS),
        callbacks=callbacks,
    )
    try:
        if run.train is None:
            trainer.fit(run.model, datamodule=run.data)
        else:
            trainer.fit(run.model, run.train, run.val)
    except FloatingPointError:
        pass  # the end of a run whose loss is not finite


def table(results: Sequence[Result]) -> str:
    """Return a row for each fault: in how many runs it was found, and what else was said in how many of them."""
    rows: list[tuple[object, ...]] = [("planted", "found", "missed in", "also said")]
    for name in dict.fromkeys(result.fault.name for result in results):
        mine = [result for result in results if result.fault.name == name]
        others = Counter(said for result in mine for said in result.found if said != name)
        missed = Counter(result.fault.family for result in mine if name not in result.found)
        shown = [", ".join(f"{key} {count}" for key, count in each.most_common()) for each in (missed, others)]
        rows.append((name, f"{sum(name in result.found for result in mine)} of {len(mine)}", *shown))
    found = sum(result.fault.name in result.found for result in results)
    rows.append(("all", f"{found} of {len(results)} ({found / len(results):.0%})", "", ""))
    return columns(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the faults, a line each, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m recipes.cli.studies.planted_faults", description=__doc__)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[*SEEDS], help="even ones plant more severe faults than odd ones"
    )
    parser.add_argument("--fault", choices=NAMES, action="append", help="only this one")
    arguments = parser.parse_args(argv)
    results = []
    with warnings_only():
        for each in FAULTS:
            if each.name not in (arguments.fault or NAMES):
                continue
            for seed in arguments.seeds:
                results.append(measure(each, seed))
                said = ", ".join(results[-1].found) or "nothing"
                print(f"{each.name:28} {each.family:12} seed {seed} {results[-1].seconds:5.1f} s: {said}", flush=True)
    print(f"\n{table(results)}")


if __name__ == "__main__":
    main()

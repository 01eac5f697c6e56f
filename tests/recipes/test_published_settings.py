"""Recipes that claim somebody's settings, against a table of these, written down from the source by hand."""

import inspect
from typing import Any

import pytest
import yaml

import callbacks
import datamodules
import zoo
from recipes.cli import catalog
from zoo.registry import arguments_of

RECIPES = {recipe.name: recipe for recipe in catalog.shipped()}
MONITORS = {"GradNorm", "UpdateRatio", "WeightNorm", "ActivationStats", "GradientNoiseScale"}
WATCHING = MONITORS | {
    "Throughput",
    "DataWait",
    "PeakMemory",
    "Samples",
    "NearestNeighbors",
}  # callbacks that change nothing of the training

DCGAN = {  # arXiv:1511.06434, section 4: "Details of adversarial training"
    "batch_size": 128,
    "optimizer": "Adam",
    "lr": 2e-4,
    "betas": [0.5, 0.999],
    "discriminator_lr": None,
    "loss": "non_saturating",
    "n_critic": 1,
    "latent_dim": 100,
    "weight_decay": 0.0,
    "norm": "batch",
    "discriminator_norm": "batch",
    "init": None,  # N(0, 0.02), see tests/zoo/test_start.py
}
PAPERS: dict[str, dict[str, Any]] = {
    "cnn/resnet20_cifar10": {  # He et al. 2015, arXiv:1512.03385, section 4.2, and table 6
        "depth": 20,
        "width": 16,
        "shortcut": "identity",  # option A
        "norm": "batch",
        "dropout": 0.0,  # "no dropout"
        "optimizer": "SGD",
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-4,
        "decay_norm_and_bias": True,  # all parameters, as in the authors' Caffe and Torch code
        "label_smoothing": 0.0,
        "batch_size": 128,
        "val_fraction": 0.1,  # 45k/5k
        "crop": 4,  # "4 pixels are padded on each side, and a 32x32 crop is randomly sampled"
        "flip": True,
        "max_steps": 64_000,
        "schedule": "step",
        "interval": "step",
        "milestones": [32_000, 48_000],
        "gamma": 0.1,
        "warmup": 0,
    },
    "cnn/resnet110_cifar100": {  # Huang et al. 2016, arXiv:1603.09382, section 4, and for the warm-up He et al., section 4.2
        "depth": 110,
        "width": 16,
        "shortcut": "identity",
        "norm": "batch",
        "dropout": 0.0,
        "optimizer": "SGD",
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 1e-4,
        "decay_norm_and_bias": True,
        "label_smoothing": 0.0,
        "batch_size": 128,
        "val_fraction": 0.1,
        "crop": 4,
        "flip": True,
        "max_epochs": 500,
        "schedule": "step",
        "interval": "step",
        "milestones": [0.5, 0.75],
        "gamma": 0.1,
        "warmup": 400,  # iterations
    },
    "cnn/resnet50_imagenet": {  # torchvision, references/classification/train.py, its defaults and README
        "depth": 50,
        "width": 64,
        "norm": "batch",
        "dropout": 0.0,
        "optimizer": "SGD",
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-4,
        "decay_norm_and_bias": True,
        "label_smoothing": 0.0,
        "batch_size": 256,  # 8 GPUs with 32 each
        "size": 224,
        "resized_crop": 0.08,
        "center": 0.875,  # 224 of 256
        "flip": True,
        "max_epochs": 90,
        "schedule": "step",
        "interval": "epoch",
        "milestones": [30, 60],  # --lr-step-size 30
        "gamma": 0.1,
        "warmup": 0,
    },
    "cnn/lenet_mnist": {  # LeCun et al. 1998, fig. 2; the optimizer is the recipe's own
        "variant": "published",
        "width": 6,
        "size": 32,
        "max_epochs": 20,  # section III.B: "20 iterations through the entire training data"
    },
    "cnn/lenet_fashion_mnist": {"variant": "relu", "width": 6, "size": 32, "flip": True},  # two convolutions, pooling
    "linear/mlp_mnist": {  # Keras, examples/mnist_mlp.py, and the defaults of its RMSprop
        "widths": [512, 512],
        "activation": "relu",
        "norm": "none",
        "dropout": 0.2,
        "optimizer": "RMSprop",
        "lr": 1e-3,
        "alpha": 0.9,  # "rho"
        "momentum": 0,
        "weight_decay": 0.0,
        "batch_size": 128,
        "max_epochs": 20,
        "schedule": None,
    },
    "autoencoder/vae_mnist": {  # Burda et al. 2016, arXiv:1509.00519, section 5: one stochastic layer
        "latent_dim": 50,
        "widths": [200, 200],
        "activation": "tanh",
        "beta": 1.0,
        "kl_warmup": 0.0,
        "likelihood": "bernoulli",
        "binarize": 0.5,
    },
    "gan/dcgan_cifar10": {**DCGAN, "width": 128},  # figure 1
    "gan/dcgan_mnist": {
        **DCGAN,
        "width": 64,
        "conditional": True,
        "max_epochs": 25,
    },  # authors' code: --ngf 64 --niter 25
    "segmentation/fcn8s_voc": {  # Long et al. 2015, arXiv:1411.4038, section 4
        "encoder": "vgg16",
        "encoder_weights": "imagenet",
        "variant": "8s",
        "loss": "cross_entropy",
        "ignore_index": 255,
        "flip": True,
    },
    "segmentation/unet_pets": {
        "encoder": "resnet34",
        "encoder_weights": "imagenet",
    },  # the model that it is compared with
}


def settings(recipe: catalog.Recipe) -> dict[str, Any]:
    """All settings of a run by name, defaults included: of model, optimizer, data, trainer and schedule."""
    config = yaml.safe_load(recipe.path.read_text())
    known: dict[str, Any] = {"schedule": None}
    for part, package in (("data", datamodules), ("model", zoo)):
        cls = getattr(package, config[part]["class_path"].rpartition(".")[2])
        known |= {p.name: p.default for p in arguments_of(cls).values()} | config[part].get("init_args", {})
    cls = zoo.optim.optimizers.optimizer_class(known["optimizer"])
    own = {p.name: p.default for p in inspect.signature(cls).parameters.values()}
    known = own | known | (known["optimizer_args"] or {})
    for callback in config["trainer"].pop("callbacks", []):
        name = callback["class_path"].rpartition(".")[2]
        if name == "LRSchedule":
            schedule = callbacks.LRSchedule(**callback.get("init_args", {}))
            known |= {"schedule": schedule.schedule, "interval": schedule.interval, "warmup": schedule.warmup}
            known |= schedule.options
        else:
            assert name in WATCHING | {"EMA"}, f"{name} changes the training: add it here"
    return known | config["trainer"]


@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_has_the_settings_that_it_claims(name: str) -> None:
    known = settings(RECIPES[name])
    assert {key: known[key] for key in PAPERS[name]} == PAPERS[name]


def test_every_recipe_with_a_published_number_is_in_the_table() -> None:
    published = {name for name, recipe in RECIPES.items() if recipe.expect.startswith("published")}
    assert published == set(PAPERS)

"""``zoo models``: the list, and the description of one model."""

import re

import pytest
import yaml
from cli_kit import Zoo, assert_one_line

import zoo as package
from recipes.cli import catalog


def test_list_has_every_model_with_its_parameters(zoo: Zoo) -> None:
    out = zoo("models").out
    for name in package.list_models():
        assert re.search(rf"(?m)^{name} +zoo\.\w+ +[\d,]+  \w", out), name
    assert re.search(r"(?m)^resnet152 +zoo.ResNetClassifier +60,192,808  ResNet: He et al. 2015$", out)


def test_a_pattern_selects(zoo: Zoo) -> None:
    out = zoo("models", "lenet*").out
    assert "lenet5_relu" in out
    assert "resnet" not in out
    assert_one_line(zoo("models", "x*"), "no model matches 'x*'")


@pytest.mark.parametrize(
    ("args", "lines"),
    [
        # 1.81 G multiply-adds: table 1 of the paper says 1.8e9
        (
            ["resnet18"],
            [
                "11,689,512",
                "1,814,073,344",
                "B x 3 x 224 x 224",
                "B x 512 x 7 x 7",
                "B x 1000",
                "1512.03385",
                "imagenet, IMAGENET1K_V1",
            ],
        ),
        (["resnet18", "--size", "64"], ["B x 3 x 64 x 64", "B x 512 x 2 x 2"]),
        (["resnet20"], ["269,722", "B x 3 x 32 x 32", "B x 64 x 8 x 8", "cnn/resnet_digits", "resnet20_digits"]),
        # by hand: 28*28*6*25 + 10*10*16*150 + 400*120 + 120*84 + 84*10
        (["lenet5"], ["61,706", "416,520", "B x 6 x 14 x 14", "cnn/lenet_digits"]),
        # 569 M multiply-adds: table 6 of the paper; 17.56 G: torchvision's figure
        (["mobilenet_v1"], ["4,231,976", "568,740,352", "B x 3 x 224 x 224", "B x 1024 x 7 x 7"]),
        (["vit_b_16"], ["86,567,656", "17,563,828,224", "B x 3 x 224 x 224", "B x 1000", "2010.11929"]),
        (
            ["autoencoder_linear"],
            ["50,992", "50,176", "B x 1 x 28 x 28", "code    B x 32", "autoencoder/linear_digits"],
        ),
        (
            ["unet_resnet34"],
            ["encoder 1  B x 64 x 112 x 112", "output     B x 2 x 224 x 224", "segmentation/unet_pets"],
        ),
        (["cvae_mlp"], ["B x 1 x 28 x 28", "code    B x 16", "autoencoder/cvae_digits"]),
        (["gan_mlp_conditional"], ["input   B x 64", "output  B x 1 x 28 x 28"]),
        (["dcgan"], ["input   B x 100", "output  B x 3 x 64 x 64"]),
        (["softmax_regression"], ["7,850", "7,840", "B x 784", "linear/softmax_digits"]),
    ],
)
def test_one_model(zoo: Zoo, args: list[str], lines: list[str]) -> None:
    out = zoo("models", *args).out
    for text in lines:
        assert text in out, text


def test_models_refuses(zoo: Zoo) -> None:
    assert_one_line(zoo("models", "resnet19"), "unknown model 'resnet19'", "did you mean 'resnet18'?")
    assert_one_line(zoo("models", "lenet5", "--size", "40"), "(B, 1, 32, 32)")
    assert_one_line(zoo("models", "lenet5", "--size", "0"), "--size must be 1 or more")


def test_every_recipe_is_listed_by_its_model(zoo: Zoo) -> None:
    classes = {package.registry.get(name).cls.__name__: name for name in package.list_models()}
    for recipe in catalog.shipped():
        name = yaml.safe_load(recipe.path.read_text())["model"]["class_path"].rpartition(".")[2]
        assert recipe.name in zoo("models", classes[name]).out

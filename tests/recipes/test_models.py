"""``zoo models``: the list, and the description of one model."""

import re
from pathlib import Path

import pytest
import yaml
from cli_kit import Zoo, assert_one_line

import zoo as package
from recipes.cli import catalog, index
from zoo.pretrained import bundled


def test_the_index_is_that_of_the_registry() -> None:
    assert index.read() == index.build(), "run `make index`"
    assert list(index.read()) == [name for name in package.list_models() if name in index.read()]  # natural order


def test_list_has_every_model_with_its_parameters(zoo: Zoo) -> None:
    out = zoo("models").out
    assert max(map(len, out.splitlines())) <= 80
    for name in package.list_models():
        if name in index.read():  # not those that other tests register
            assert re.search(rf"(?m)^  {name} +[\d,]+  zoo\.\w+$", out), name
    groups = [group.split("\n") for group in out.split("\n\n")]
    (resnet,) = (group for group in groups if group[0].startswith("ResNet: "))
    assert resnet[0] + " " + resnet[1] == (
        'ResNet: He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385.'
    )
    assert ["resnet152", "60,192,808", "zoo.ResNetClassifier"] in [line.split() for line in resnet]
    assert len({line.index("  zoo.") for line in out.splitlines() if "  zoo." in line}) == 1  # one column
    assert [line.split()[0] for line in resnet[2:]] == [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]
    assert "FCN: Long, Shelhamer and Darrell 2015" in out
    assert out.endswith(f"{len(index.read())} models: name, parameters, class. Describe one with: zoo models alexnet\n")


def test_models_of_ones_own_are_there_when_their_module_is_named(zoo: Zoo, tmp_cwd: Path) -> None:
    name = f"own_{tmp_cwd.name}".replace("-", "_")
    Path(f"{name}.py").write_text(
        '"""Own net: of nobody."""\nimport zoo\n\n'
        "class Own(zoo.create_model('lenet5').__class__): ...\n\n"
        f"zoo.register('{name}', Own, num_classes=3)\n"
    )
    assert_one_line(zoo("models", name), f"unknown model '{name}'", "--module MODULE")
    assert f"  {name}" in zoo("models", "--module", name).out
    for module in (name, f"{name}.py"):
        out = zoo("models", name, "--module", module).out
        assert f"{name}.Own(num_classes=3)" in out
        assert "B x 3\n" in out
    assert_one_line(zoo("models", "--module", "nothing_like_it"), "--module nothing_like_it: there is no such module")
    assert_one_line(zoo("models", "--module", "json"), "--module json registers no model")
    Path(f"{name}_broken.py").write_text("import nothing_like_it_either")
    assert_one_line(zoo("models", "--module", f"{name}_broken"), "nothing_like_it_either")


def test_a_pattern_selects(zoo: Zoo) -> None:
    out = zoo("models", "lenet*").out
    assert "lenet5_relu" in out
    assert "resnet" not in out
    assert_one_line(zoo("models", "x*"), "no model matches 'x*'")


def test_arguments_of_the_net_and_of_training_are_apart(zoo: Zoo) -> None:
    out = re.sub(r"\n +", " ", zoo("models", "resnet34").out)
    net, training = (re.search(rf"(?m)^{name} +(.*)$", out) for name in ("arguments", "of training"))
    assert net
    assert training
    assert net[1].startswith("depth=34, num_classes=1000, in_channels=3")
    assert "optimizer='AdamW', lr=0.001" in training[1]
    assert "weights=None" in training[1]
    assert max(map(len, zoo("models", "resnet34").out.splitlines())) <= 80
    assert "lenet5_digits (bundled)" in zoo("models", "lenet5").out


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


def test_weights_and_what_they_reach(zoo: Zoo) -> None:
    """What their cards say, each in a block of its own."""
    out = zoo("models", "--weights").out
    assert max(map(len, out.splitlines())) <= 80
    *blocks, end = out.rstrip("\n").split("\n\n")
    assert [block.split()[0] for block in blocks] == bundled.names()
    total = sum(bundled.size(name) for name in bundled.names()) / 1e6
    assert end.startswith(f"{len(blocks)} bundled nets, {total:.2f} MB: ")
    assert "torchvision" in end
    for block, (name, config) in zip(blocks, bundled.configs().items(), strict=True):
        training = config["training"]
        metric, value = next((key.removeprefix("test/"), value) for key, value in training["metric"].items())
        assert re.match(rf"{name} +\d+\.\d\d MB  {metric} {re.escape(str(value))} \(3 seeds: ", block)
        lowest, highest = re.search(r"seeds: (\S+) to (\S+)\)", block).groups()  # type: ignore[union-attr]
        assert float(lowest) == min(training["seeds"].values())
        assert float(highest) == max(training["seeds"].values())
        assert f"model {config['model']}, recipe {training['recipe']}" in block
        assert training["data"] in re.sub(r"\n +", " ", block)


def test_weights_of_a_pattern_or_of_a_model(zoo: Zoo) -> None:
    def names(pattern: str) -> list[str]:
        return [block.split()[0] for block in zoo("models", pattern, "--weights").out.split("\n\n")[:-1]]

    assert names("dates*") == ["dates_gru", "dates_transformer"]
    assert names("lenet5") == names("lenet5_digits") == ["lenet5_digits"]
    assert "1 bundled nets" not in zoo("models", "lenet5", "--weights").out


def test_models_refuses(zoo: Zoo) -> None:
    assert_one_line(zoo("models", "resnet19"), "unknown model 'resnet19'", "did you mean 'resnet18'?")
    assert_one_line(zoo("models", "lenet5", "--size", "40"), "(B, 1, 32, 32)")
    assert_one_line(zoo("models", "lenet5", "--size", "0"), "--size must be 1 or more")


def test_every_recipe_is_listed_by_its_model(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.cli.run.flops.multiply_adds", lambda *_: 0)  # which take long to count
    classes = {package.registry.get(name).cls.__name__: name for name in index.read()}
    recipes: dict[str, list[str]] = {}
    for recipe in catalog.shipped():
        model = yaml.safe_load(recipe.path.read_text())["model"]
        name = model["init_args"].get("net") or classes[model["class_path"].rpartition(".")[2]]
        recipes.setdefault(name, []).append(recipe.name)
    for name, names in recipes.items():
        out = zoo("models", name).out
        assert [recipe for recipe in names if recipe not in out] == []


def test_shapes_of_texts_and_series_have_a_t(zoo: Zoo) -> None:
    text = zoo("models", "gru_lm").out
    assert re.search(
        r"(?m)^input +B x T  tokens, V = 256\noutput +B x T x 256\n\nT is any length; .* T = 16\.\n\Z", text
    )
    assert re.search(r"(?m)^input +B x T x 1\noutput +B x 10$", zoo("models", "gru_classifier").out)
    assert re.search(r"(?m)^input +B x T x 1\noutput +B x 12 x 1$", zoo("models", "gru_forecaster").out)
    assert re.search(r"(?m)^features 1 +B x 128 x T$", zoo("models", "fcn_series").out)
    assert " x T" not in zoo("models", "lenet5").out
    for name, size in (("transformer_base", 37000), ("gru_attention_seq2seq", 256)):
        text = zoo("models", name).out
        assert re.search(
            rf"(?m)^source +B x S  tokens, V = {size}\ntarget +B x T  tokens, V = {size}\noutput +B x T x {size}$", text
        )
        most = "at most 1024" if name == "transformer_base" else "any length"
        assert text.endswith(f"\n\nS and T are {most}; multiply-adds are for S = 16, T = 16.\n")
    for name, score in (("lstm_captioner", "None"), ("attention_captioner", "'additive'")):
        text = zoo("models", name).out
        assert f"attention={score}" in text
        caption = r"caption +B x 1 x T  tokens, V = 256"
        assert re.search(rf"(?m)^image +B x 3 x 224 x 224\n{caption}\noutput +B x 1 x T x 256$", text)
        assert text.endswith("\n\nT is any length; multiply-adds are for T = 16.\n")
    for name in ("transformer_lm", "transformer_classifier"):
        assert "\n\nT is at most 1024; " in zoo("models", name).out
    assert "\n\nT is any length; " in zoo("models", "llama_7b").out

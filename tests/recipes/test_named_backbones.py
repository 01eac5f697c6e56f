"""Nets by name on the command line: fitted, tested, resumed, used, and listed; with weights from a stand-in for the hub."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from cli_kit import Zoo, assert_one_line
from PIL import Image
from safetensors.torch import load_file, save

import zoo as library
from recipes.cli.__main__ import main

FIT = ("fit", "-c", "transfer/image_folder", "--data.size=32", "--data.num_workers=0", "--data.batch_size=4")
SCRATCH = ("--model.weights=null", "--data.center=1.0", "--trainer.callbacks=null")
RUN = Path("runs/transfer/image_folder/version_0")
OWN = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes: int, width: int = 2):
        if width % 2:
            raise ValueError("width must be even")
        super().__init__(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
"""


@pytest.fixture(autouse=True)
def _images(tmp_cwd: Path) -> None:
    rng = np.random.default_rng(0)
    for k, name in enumerate(("cat", "dog")):
        Path("images", name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(100 * k, 100 * k + 150, (40, 44, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"images/{name}/{i}.png")


@pytest.fixture
def own_net(tmp_cwd: Path) -> Iterator[str]:
    Path("own_backbone.py").write_text(OWN)
    yield "own_backbone.Net"
    sys.modules.pop("own_backbone", None)


def publish(hub: dict[str, dict[str, bytes]], **arguments: Any) -> torch.nn.Module:
    """Put a net of timm's into the stand-in."""
    net = timm.create_model("test_resnet", **arguments).eval()
    config = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "input_size": [3, 32, 32], "interpolation": "bicubic"}
    config |= {"crop_pct": 0.75, "num_classes": net.num_classes, "classifier": "fc", "first_conv": "conv1.0"}
    content = {"architecture": "test_resnet", "num_classes": net.num_classes, "pretrained_cfg": config}
    hub["me/net"] = {"config.json": json.dumps(content).encode(), "model.safetensors": save(net.state_dict())}
    return net


def test_a_net_of_timm_is_fitted_tested_and_used(zoo: Zoo) -> None:
    fit = (*FIT, *SCRATCH, "--model.net=timm/test_convnext", "--trainer.max_epochs=1")
    assert (result := zoo(*fit)).code == 0, result.err
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    assert config["model"]["init_args"]["net"] == "timm/test_convnext"
    assert "test/acc" in zoo("test", RUN).out
    rows = json.loads(zoo("predict", RUN, "images", "--json").out)
    assert len(rows) == 16
    assert {row["label"] for row in rows} <= {"cat", "dog"}
    model: Any = library.load(RUN / "checkpoints/best.ckpt")
    image = torch.from_numpy(np.array(Image.open("images/cat/0.png").resize((32, 32), 2, (2, 0, 42, 40))))
    x = image.permute(2, 0, 1)[None] / 255
    row = zoo("predict", RUN, "images/cat/0.png", "--features").out.split("\t")
    with torch.no_grad():
        pooled = model.net.model.forward_head(model.net.model.forward_features(model.standardize(x)), pre_logits=True)
    assert [float(value) for value in row[1:]] == pytest.approx(pooled[0].tolist(), abs=1e-4)
    assert zoo("export", RUN, "-o", "net.safetensors").code == 0
    exported = load_file("net.safetensors")
    assert all(torch.equal(exported[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_a_resumed_fit_is_the_one_that_was_never_stopped(zoo: Zoo) -> None:
    """With stochastic depth, and a rate for each of timm's groups."""
    fit = (*FIT, *SCRATCH, "--model.net=timm/test_convnext", "--model.net_args.drop_path_rate=0.5")
    assert zoo(*fit, "--trainer.max_epochs=2").code == 0
    assert zoo(*fit, "--trainer.max_epochs=1").code == 0
    other = RUN.with_name("version_1")
    assert zoo("fit", "--resume", other, "--trainer.max_epochs=2").code == 0
    ends = [torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (RUN, other)]
    assert all(torch.equal(ends[0]["state_dict"][key], tensor) for key, tensor in ends[1]["state_dict"].items())
    rates = {round(group["lr"], 8) for group in ends[0]["optimizer_states"][0]["param_groups"]}
    net = timm.create_model("test_convnext")
    depths = {*timm.models.group_parameters(net, net.group_matcher(coarse=True), reverse=True).values()}
    assert rates == {round(1e-3 * 0.7 ** (max(depths) - depth), 8) for depth in depths}


def test_finetune_reads_images_as_the_weights_were_trained(zoo: Zoo, hub: dict[str, dict[str, bytes]]) -> None:
    publish(hub)
    few = ("--epochs", 2, "--batch-size", 4, "--data.num_workers=0", "--data.resized_crop=0")
    result = zoo("finetune", "images", "--model", "hf/me/net", *few)
    assert (result.code, result.err) == (0, "")
    assert "model    hf/me/net at 32x32, pretrained weights; epoch 1 trains the head" in result.out
    data = yaml.safe_load((RUN / "config.yaml").read_text())["data"]["init_args"]
    assert (data["size"], data["center"], data["interpolation"]) == (32, 0.75, "bicubic")
    model = library.load(RUN / "checkpoints/best.ckpt")
    assert torch.equal(model.mean, torch.tensor([0.5, 0.4, 0.3]))
    assert (model.preparation or {})["interpolation"] == "bicubic"
    image = torch.from_numpy(np.array(Image.open("images/cat/0.png").resize((32, 32), 3, (7, 5, 37, 35))))  # 30 of 40
    expected = model.outputs(image.permute(2, 0, 1)[None] / 255)["probabilities"].detach().max()
    (row,) = json.loads(zoo("predict", RUN, "images/cat/0.png", "--json").out)
    assert row["probability"] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.filterwarnings("default:the net was trained on images")
def test_weights_of_color_images_are_adapted_to_gray_ones(zoo: Zoo, hub: dict[str, dict[str, bytes]]) -> None:
    source = publish(hub)
    args = (*FIT, "--model.net=hf/me/net", "--data.color=gray", "--trainer.callbacks=null", "--trainer.max_epochs=1")
    result = zoo(*args, "--model.lr=1e-12", "--model.weight_decay=0")
    assert result.code == 0, result.err
    assert (
        result.err.count("of interpolation bicubic, center 0.75, the data have interpolation bilinear, center 0.875")
        == 1
    )
    state = library.load(RUN / "checkpoints/best.ckpt").state_dict()
    weight = source.state_dict()["conv1.0.weight"]
    torch.testing.assert_close(state["net.model.conv1.0.weight"], weight.sum(1, keepdim=True))
    assert torch.equal(state["mean"], torch.tensor([0.4]))


def test_a_net_of_ones_own_is_that_of_its_run(zoo: Zoo, own_net: str) -> None:
    fit = (*FIT, *SCRATCH, f"--model.net={own_net}", "--model.net_args.width=4", "--trainer.max_epochs=1")
    assert (result := zoo(*fit)).code == 0, result.err
    seen = []
    for model in (RUN, RUN / "checkpoints/best.ckpt"):
        sys.modules.pop("own_backbone")
        seen.append(zoo("predict", model, "images", "--json").out)
    assert len(json.loads(seen[0])) == 16
    assert seen[0] == seen[1]
    assert zoo("export", RUN, "-o", "own.safetensors").code == 0
    sys.modules.pop("own_backbone")
    Path("alone.ckpt").write_bytes((RUN / "checkpoints/best.ckpt").read_bytes())
    result = zoo("predict", "alone.ckpt", "images")
    assert_one_line(result, "alone.ckpt", "'own_backbone.Net'", "give the run folder", "pass net='own_backbone.Net'")
    assert "own_backbone" not in sys.modules
    Path("own_backbone.py").unlink()
    assert_one_line(zoo("predict", RUN, "images"), "own_backbone.Net, which cannot be imported", "own_backbone.py")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("=own_backbone.Nope",), ("model.net is own_backbone.Nope, which cannot be imported",)),
        (("=no_module_here.X",), ("no module 'no_module_here'",)),
        (("=own_backbone.Net", ".widht=3"), ("own_backbone.Net has no argument 'widht', did you mean 'width'?",)),
        (("=own_backbone.Net", ".num_classes=x"), ("net.init_args.num_classes must be a whole number, got x",)),
        (("=own_backbone.Net", ".num_classes=2", ".width=3"), ("own_backbone.Net: width must be even",)),
        (("=own_backbone.Net",), ("own_backbone.Net requires", "--model.net.init_args.num_classes VALUE")),
    ],
)
def test_a_class_that_cannot_be_built_says_why(zoo: Zoo, own_net: str, given: Any, words: tuple[str, ...]) -> None:
    first, *more = given
    options = [f"--model.net.class_path{first}", *(f"--model.net.init_args{word}" for word in more)]
    assert_one_line(zoo(*FIT, *SCRATCH, *options), *words)


def test_nets_of_timm_are_listed_and_described(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    out = zoo("models", "timm/test_res*").out
    assert [line.split()[0] for line in out.splitlines() if line.strip().startswith("timm/")] == [
        f"timm/{name}" for name in timm.list_models("test_res*")
    ]
    described = zoo("models", "timm/test_resnet").out
    count = sum(p.numel() for p in timm.create_model("test_resnet", num_classes=10).parameters())
    assert f"{count:,}" in described
    assert "r160_in1k" in described
    assert_one_line(zoo("models", "timm/test_resnt"), "timm has no net 'test_resnt', did you mean 'test_resnet'?")
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "timm" else find(name, *more))
    for args in (
        ("models", "timm/*"),
        ("models", "timm/test_resnet"),
        (*FIT, *SCRATCH, "--model.net=timm/test_resnet"),
    ):
        assert_one_line(zoo(*args), "need timm: pip install 'lightning-zoo[timm]'")
    assert main(["models", "resnet18"]) == 0

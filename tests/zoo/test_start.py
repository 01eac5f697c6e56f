"""The start of every registered model: the distribution of each of its weights, declared here by hand, and measured.

Where torchvision has the net, the same declaration is held against torchvision's own weights, too.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn

import zoo
from zoo import registry

ERRORS = 5  # standard errors that a mean or a variance may be off


@dataclass(frozen=True)
class Draw:
    """A "normal" or a "uniform" distribution."""

    kind: str
    std: float
    mean: float = 0.0


Rule = Callable[
    [Tensor, Tensor], Draw | Tensor
]  # of a parameter and its layer's weight: a distribution, or exact values


def constant(value: float) -> Rule:
    return lambda parameter, weight: torch.full_like(parameter, value)


def normal(std: float, mean: float = 0.0) -> Rule:
    return lambda parameter, weight: Draw("normal", std, mean)


def he_in(parameter: Tensor, weight: Tensor) -> Draw:
    """He et al. 2015, arXiv:1502.01852, eq. 10: variance 2 / (values that a unit reads)."""
    return Draw("normal", math.sqrt(2 / weight[0].numel()))


def he_out(parameter: Tensor, weight: Tensor) -> Draw:
    """He et al. 2015, eq. 14: variance 2 / (units that read a value)."""
    return Draw("normal", math.sqrt(2 / (weight.shape[0] * weight[0, 0].numel())))


def stock(parameter: Tensor, weight: Tensor) -> Draw:
    """PyTorch's default of a layer, its bias too: uniform in +-1 / sqrt(values that a unit reads)."""
    return Draw("uniform", math.sqrt(1 / (3 * weight[0].numel())))


def recurrent(parameter: Tensor, weight: Tensor) -> Draw:
    """PyTorch's default of recurrent layers: uniform in +-1 / sqrt(width), here of 64 units, whatever a unit reads."""
    return Draw("uniform", math.sqrt(1 / (3 * 64)))


def lecun(parameter: Tensor, weight: Tensor) -> Draw:
    """Variance 1 / (values that a unit reads)."""
    return Draw("normal", math.sqrt(1 / weight[0].numel()))


def xavier(parameter: Tensor, weight: Tensor) -> Draw:
    """Glorot and Bengio 2010, eq. 16: uniform with variance 2 / (inputs + outputs)."""
    return Draw("uniform", math.sqrt(2 / sum(parameter.shape)))


def bilinear(parameter: Tensor, weight: Tensor) -> Tensor:
    """Interpolation of each class by itself, between the middles of cells twice as large."""
    hat = torch.tensor([0.25, 0.75, 0.75, 0.25])
    return torch.eye(len(parameter))[:, :, None, None] * torch.outer(hat, hat)


ZERO, ONE = constant(0.0), constant(1.0)
# Patterns of "<type of the module> <name of the parameter>": the first that is found holds.
NORMS: dict[str, Rule] = {r"Norm\S* .*weight$": ONE, r"Norm\S* .*bias$": ZERO}
STOCK: dict[str, Rule] = {r"^(Linear|Conv2d) ": stock}
VGG = {r"bias$": ZERO, r"^Linear ": normal(0.01), r"^Conv2d ": he_out}  # torchvision's; 0.01: the paper's section 3.1
RESNET = {r"^Conv2d ": he_out, r"^Linear ": stock}  # section 3.4 cites He et al.; eq. 14: the authors' code
DENSENET = {r"^Conv2d ": he_in, r"^Linear .*weight": stock, r"^Linear .*bias": ZERO}  # section 4.2; the authors' code
HIGHWAY_GATES = {"highway10": -1.0, "highway20": -2.0, "highway50": -3.0, "highway100": -4.0}
FCN = {r"^Score ": ZERO, r"^Upsampling ": bilinear, **VGG}  # section 4.2
UNET_DECODER = {r"^ConvTranspose2d ": stock, r" head": stock, r"^Conv2d stages": he_in}  # section 3
DCGAN = {
    r"^BatchNorm2d .*weight": normal(0.02, mean=1.0),
    r"^Conv\S* ": normal(0.02),
}  # section 4; scales: the authors' code

GLOROT = {r"^(Linear|MultiHeadAttention) \S*weight$": xavier, r"^(Linear|MultiHeadAttention) \S*bias$": ZERO}

START: dict[str, dict[str, Rule]] = {  # by the name of the model, else by its class
    "AlexNetClassifier": STOCK,
    "Autoencoder": STOCK,
    "CIFARDenseNetClassifier": DENSENET,
    "CIFARResNetClassifier": RESNET,
    "ConvAutoencoder": STOCK,
    "ConvHighwayClassifier": {
        r"gate_bias": constant(-2.0),
        r"gate\.weight|bias$|^Linear ": stock,
        r"^Conv2d ": he_in,
    },
    "ConvVAE": STOCK,
    "DCGAN": DCGAN,
    "DenseNetClassifier": DENSENET,
    "FCNSegmenter": FCN,
    "GAN": STOCK,
    "GLMRegressor": STOCK,
    "GoogLeNetClassifier": {r"^Linear |^Conv2d .*bias": stock, r"^Conv2d ": he_in},
    **{name: {r"gate_bias": constant(bias), **STOCK} for name, bias in HIGHWAY_GATES.items()},
    # ViT's projection of patches, and its head
    "HybridClassifier": {
        r"class_token|^Linear fc": ZERO,
        r"projection\.weight": lecun,
        r"^LearnedPositions ": normal(0.02),
        r"^Conv2d ": he_out,
        **GLOROT,
    },
    "LeNetClassifier": STOCK,
    "LinearRegressor": STOCK,
    "LogisticRegressionClassifier": STOCK,
    "MLPClassifier": STOCK,
    "MLPRegressor": STOCK,
    "MaximumLikelihood": {r"^ParameterDict ": ZERO},
    "MobileNetClassifier": {r"^Conv2d ": he_in, r"^Linear ": stock},
    "PerceptronClassifier": STOCK,
    "PreActResNetClassifier": RESNET,
    "ResNetClassifier": RESNET,
    # torch's layers: +-1 / sqrt(W), where all read as many numbers as a state has
    "RecurrentForecaster": {r"^(RNN|LSTM|GRU) ": recurrent, **STOCK},
    "RecurrentLanguageModel": {r"^Embedding ": normal(1.0), r"^(RNN|LSTM|GRU|Linear) ": stock},
    "RecurrentCaptioning": {r"^Embedding ": normal(1.0), r"^LSTM ": recurrent, **RESNET},
    "RecurrentSeq2Seq": {r"^Embedding ": normal(1.0), r"^(RNN|LSTM|GRU) ": recurrent, **STOCK},
    "RecurrentAutoencoder": {r"start$": normal(1.0), r"^(LSTM|GRU) ": recurrent, **STOCK},
    **{f"Sequence{kind}": {r"^(RNN|LSTM|GRU) ": recurrent, **STOCK} for kind in ("Classifier", "Regressor")},
    "SeriesFCNClassifier": {r"^(Linear|Conv1d) ": stock},
    "RandomFeaturesClassifier": STOCK,
    "SoftmaxRegressionClassifier": STOCK,
    # GPT-2's code: the matrix that ends a part of a layer is divided by sqrt(2 layers)
    "TransformerLanguageModel": {
        r"bias$": ZERO,
        r"(out_proj|linear2)\.weight$": normal(0.01),
        r"^(Embedding|LearnedPositions|Linear|MultiHeadAttention) ": normal(0.02),
    },
    # of 64 units: fairseq's
    "TransformerCaptioning": {
        r"^Embedding ": normal(1 / 8),
        r"projection\.weight": lecun,
        r"^Conv2d ": he_out,
        **GLOROT,
    },
    "TransformerSeq2Seq": {r"^Embedding ": normal(1 / 8), **GLOROT},
    **{f"transformer_{n}": {r"^Embedding |^Linear fc": normal(1 / 8), **GLOROT} for n in ("base", "big")},  # tied
    "TransformerClassifier": {r"^Embedding ": normal(1 / 8), r"^Linear fc": stock, **GLOROT},
    "UNetSegmenter": {**UNET_DECODER, r"^Conv2d encoder": he_in},
    "unet_resnet34": {**UNET_DECODER, r"^Conv2d encoder": he_out},
    "unet_vgg16": {**UNET_DECODER, r"^Conv2d encoder.*bias": ZERO, r"^Conv2d encoder": he_out},
    "VAE": STOCK,
    "VGGClassifier": VGG,
    "ViTClassifier": {  # torchvision's
        r"class_token|bias$|heads": ZERO,
        r"pos_embedding": normal(0.02),
        r"in_proj_weight|mlp\S*weight": xavier,
        r"out_proj\.weight": stock,
        r"^Conv2d \S*weight": lecun,
    },
}
START["ViTClassifier"] = {r"^Linear \S*mlp\S*bias": normal(1e-6), **NORMS, **START["ViTClassifier"]}

VIT = (32, 8, 2, 2, 32, 64)
CODED: dict[str, Any] = {"input_shape": [1, 8, 8], "latent_dim": 8}
SMALL: dict[
    str, dict[str, Any]
] = {  # arguments that make a model small, but large enough to measure; by name, else class
    "AlexNetClassifier": {"width": 4},
    "Autoencoder": CODED,
    **{cls: {**CODED, "width": 8} for cls in ("ConvAutoencoder", "ConvVAE")},
    "CIFARDenseNetClassifier": {"depth": 16, "growth_rate": 8},
    "CIFARResNetClassifier": {"width": 8},
    "ConvHighwayClassifier": {"width": 8, "blocks": [1, 1, 1]},
    "DCGAN": {"input_shape": [3, 16, 16], "latent_dim": 8, "width": 8},
    "DenseNetClassifier": {"blocks": [1, 2, 2, 1], "growth_rate": 8},
    "FCNSegmenter": {"encoder_args": {"width": 4}},
    "GAN": {**CODED, "widths": [64, 32]},
    **{f"{name}Regressor": {"in_features": 400} for name in ("GLM", "Linear")},
    "LogisticRegressionClassifier": {"in_features": 400},
    "GoogLeNetClassifier": {"width": 8},
    "HighwayClassifier": {"in_features": 64},
    "HybridClassifier": {"encoder_args": {"width": 8}, "width": 64, "num_layers": 1, "num_heads": 4, "hidden_dim": 128},
    "MLPClassifier": {"widths": [64, 32]},
    "MobileNetClassifier": {"width": 0.25},
    "PerceptronClassifier": {"in_features": 400},
    "PreActResNetClassifier": {"depth": 11, "width": 8},
    "preresnet110": {"depth": 8, "width": 8},
    "RecurrentLanguageModel": {"vocab_size": 50, "width": 32},
    "ResNetClassifier": {"width": 8},
    "RecurrentCaptioning": {"encoder": "resnet18", "encoder_args": {"width": 8}, "vocab_size": 50, "width": 64},
    "RecurrentSeq2Seq": {"source_vocab_size": 50, "vocab_size": 50, "width": 64},
    "RecurrentAutoencoder": {"input_shape": [6, 8], "width": 64},
    **{f"Sequence{kind}": {"input_size": 8, "width": 64} for kind in ("Classifier", "Regressor")},
    "SeriesFCNClassifier": {"width": 16},
    "TransformerLanguageModel": {
        "vocab_size": 50,
        "width": 64,
        "num_layers": 2,
        "num_heads": 4,
        "hidden_dim": 128,
        "max_length": 50,
    },
    "TransformerSeq2Seq": {"source_vocab_size": 50, "vocab_size": 50, "width": 64, "num_layers": 1, "hidden_dim": 128},
    "TransformerCaptioning": {
        "encoder": "resnet18",
        "encoder_args": {"width": 8},
        "vocab_size": 50,
        "width": 64,
        "num_layers": 1,
        "hidden_dim": 128,
    },
    "TransformerClassifier": {"vocab_size": 50, "padding": 0, "width": 64, "num_layers": 1},
    "UNetSegmenter": {"encoder_args": {"width": 8}},
    "VAE": CODED,
    "VGGClassifier": {"width": 4},
    "ViTClassifier": dict(
        zip(("image_size", "patch_size", "num_layers", "num_heads", "hidden_dim", "mlp_dim"), VIT, strict=True)
    ),
}


class NarrowLinear(nn.Linear):
    """torchvision's VGG and AlexNet cannot be built narrower, and nine tenths of the time would go into dense layers."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(min(inputs, 100), min(outputs, 200), bias)


PEERS: dict[str, Callable[[], nn.Module]] = {  # not GoogLeNet: its docstring tells how it begins, and torchvision's
    "alexnet": tv.alexnet,
    "densenet121": lambda: tv.DenseNet(8, (1, 2, 2, 1), 16),
    "resnet18": lambda: tv.ResNet(tv.resnet.BasicBlock, [1, 1, 1, 1]),
    "resnet50": lambda: tv.ResNet(tv.resnet.Bottleneck, [1, 1, 1, 1]),
    "vgg11": lambda: tv.VGG(tv.vgg.make_layers([16, "M", 32, 64])),
    "vgg16_bn": lambda: tv.VGG(tv.vgg.make_layers([16, "M", 32, 64], batch_norm=True)),
    "vit_b_16": lambda: tv.VisionTransformer(*VIT),
}


def flaws(values: Tensor, draw: Draw) -> list[str]:
    """What numbers have that such random ones would not."""
    z, n = (values.detach().double().flatten() - draw.mean) / draw.std, values.numel()
    found = []
    if abs(z.mean()) > ERRORS / math.sqrt(n):
        found.append(f"mean {float(z.mean()):.2f} deviations off")
    spread = {"normal": 2.0, "uniform": 0.8}[draw.kind]  # variance of z^2
    if n >= 50 and abs(z.square().mean() - 1) > ERRORS * math.sqrt(spread / n):
        found.append(f"variance {float(z.square().mean()):.2f} times what it should be")
    largest, edge = float(z.abs().max()), math.sqrt(3)
    if draw.kind == "uniform" and not edge * (1 - 15 / n) <= largest <= edge * (1 + 1e-6):
        found.append(f"largest {largest:.3f} deviations, where a uniform one has {edge:.3f}")
    if draw.kind == "normal" and n >= 200 and not 1.05 * edge < largest < 7:
        found.append(f"largest {largest:.3f} deviations")
    return found


def misfits(net: nn.Module, rules: dict[str, Rule]) -> list[str]:
    """What is wrong with the weights of a net: each by itself, and all of one rule together."""
    wrong, together = [], defaultdict(list)
    for prefix, module in net.named_modules():
        own = dict(module.named_parameters(recurse=False))
        weight = next((p for p in own.values() if p.ndim > 1), None)
        for leaf, parameter in own.items():
            label = f"{type(module).__name__} {prefix}.{leaf}"
            rule = next((rule for pattern, rule in rules.items() if re.search(pattern, label)), None)
            if rule is None:
                wrong.append(f"{label} has no declared start")
                continue
            expected = rule(parameter, parameter if weight is None else weight)
            if isinstance(expected, Tensor):
                if not torch.equal(parameter, expected):
                    wrong.append(f"{label} is not exactly what it should be")
                continue
            wrong += [f"{label}: {flaw}" for flaw in flaws(parameter, expected)]
            together[rule, expected.kind].append((parameter.detach().flatten() - expected.mean) / expected.std)
    for (rule, kind), parts in together.items():
        wrong += [
            f"all of {getattr(rule, '__name__', rule)}: {flaw}" for flaw in flaws(torch.cat(parts), Draw(kind, 1.0))
        ]
    for name, buffer in net.named_buffers():
        if name == "directions":  # of random features: on the unit sphere
            torch.testing.assert_close(buffer.norm(dim=1), torch.ones(len(buffer)))
            wrong += flaws(buffer[:, 0], Draw("normal", buffer.shape[1] ** -0.5))
            continue
        start = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0}[name.rpartition(".")[2]]
        if not (buffer == start).all():
            wrong.append(f"{name} does not begin at {start}")
    return wrong


def rules_of(name: str) -> dict[str, Rule]:
    cls = registry.get(name).cls.__name__
    assert name in START or cls in START, f"{name} has no declared start: add {cls} to START"
    return {**START.get(name, START.get(cls, {})), **NORMS}


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_weight_begins_as_declared(name: str) -> None:
    cls = registry.get(name).cls.__name__
    model = zoo.create_model(name, **SMALL.get(name, SMALL.get(cls, {})))
    assert misfits(model.net, rules_of(name)) == []
    assert model.mean.tolist() == [0.0]
    assert model.std.tolist() == [1.0]


@pytest.mark.parametrize("name", PEERS)
def test_so_do_those_of_torchvision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn, "Linear", NarrowLinear)
    NarrowLinear.__name__ = "Linear"
    assert misfits(PEERS[name](), rules_of(name)) == []


@pytest.mark.parametrize(
    ("spoil", "flaw"),
    [
        (lambda net: nn.init.kaiming_normal_(net.features[3].weight, mode="fan_in"), "variance"),
        (
            lambda net: nn.init.kaiming_normal_(net.features[3].weight, mode="fan_out", nonlinearity="linear"),
            "variance",
        ),
        (
            lambda net: nn.init.kaiming_uniform_(net.features[3].weight, mode="fan_out", nonlinearity="relu"),
            "largest",
        ),
        (lambda net: net.features[3].weight.data.abs_(), "mean"),
        (lambda net: net.features[3].bias.data.fill_(0.01), "not exactly"),
        (lambda net: net.register_parameter("scale", nn.Parameter(torch.ones(3))), "no declared start"),
    ],
    ids=["fan", "gain", "kind", "sign", "bias", "undeclared"],
)
def test_a_wrong_start_is_noticed(spoil: Callable[[Any], object], flaw: str) -> None:
    net = zoo.create_model("vgg11", width=4).net
    spoil(net)  # the second convolution maps 4 channels to 8
    assert any(flaw in wrong for wrong in misfits(net, rules_of("vgg11")))

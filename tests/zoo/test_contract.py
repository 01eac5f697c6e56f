"""Every registered model, held against the contract kit; a model without a case fails."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from device_kit import real, to_gpu
from kit import run_onnx
from safetensors.torch import load_file
from torch import nn

import zoo
from zoo import registry, testing
from zoo.blocks import split_series
from zoo.internals import tree_leaves, tree_map
from zoo.tasks import ClassificationTask
from zoo.testing import CHECKS, check_module

ENTROPY = {"memorization": "the likelihood of a count stays below 1, however well its mean is known"}
DENSITY = {"memorization": "a density has an entropy, which no fit goes below"}
GAME = {
    "memorization": "two nets play against each other: no step lowers both losses",
    "accumulation": "the training step optimizes by hand",
}

TINY_SEQ2SEQ = {
    "source_vocab_size": 7,
    "vocab_size": 7,
    "width": 32,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_dim": 64,
    "dropout": 0.0,
}
SLIM_ENCODER = {"encoder": "resnet20", "encoder_args": {"depth": 8, "width": 8}}
TINY_VIT = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
TINY_HYBRID = {
    **SLIM_ENCODER,
    "width": 32,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 64,
    "dropout": 0.0,
    "num_classes": 10,
}
TINY_LM = {"vocab_size": 7, "width": 32, "num_layers": 2, "num_heads": 2, "max_length": 16}

GOOGLENETS = ("googlenet", "googlenet_published", "googlenet_naive")
SHALLOW = {"blocks": [1, 2, 2, 1]}


torch.manual_seed(0)  # the batches below are the same in every process


def images(channels: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(8, channels, size, size), torch.arange(8)


def masks(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of one class each, the brighter the higher, but for a row of pixels that is ignored."""
    y = torch.arange(8).view(8, 1, 1).repeat(1, size, size) % 4
    x = (y.unsqueeze(1) + torch.rand(8, 3, size, size)) / 4
    y[:, 0] = 255
    return x, y


def table(columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(8, columns), torch.randn(8)


# so slim a net learns too slowly while half of its units are dropped, and from dense layers that start near 0
SLIM = {"width": 4, "num_classes": 10, "dropout": 0.0, "init": "kaiming_normal"}

# for what is coded by eight numbers
CODED = {"input_shape": [1, 16, 16], "latent_dim": 8}
DENSE, CONV = {**CODED, "widths": [64]}, {**CODED, "width": 16}


def bits() -> tuple[torch.Tensor, torch.Tensor]:
    """Zeros and ones, in squares of four pixels."""
    return torch.rand(8, 1, 4, 4).round().repeat_interleave(4, 2).repeat_interleave(4, 3), torch.arange(8)


UNROLLED = {"export_length": "torch.export unrolls recurrent layers over the steps of its example"}
LENGTHS = torch.tensor([6, 2, 5, 1, 6, 4, 3, 6])  # of series of 6 steps


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """Eight texts of six tokens, each with the next one."""
    tokens = torch.randint(
        7, (8, 7), generator=torch.Generator().manual_seed(0)
    )  # draws nothing that other rows would have
    return tokens[:, :-1], tokens[:, 1:]


def pairs() -> tuple[zoo.SentencePair, torch.Tensor]:
    """Eight pairs of texts of different lengths, of tokens from 2 on; 0 pads them, and 1 ends them."""
    g = torch.Generator().manual_seed(0)
    ends = torch.tensor([[5, 2], [3, 4], [1, 3], [5, 1], [2, 4], [4, 0], [5, 4], [3, 2]])
    source, y = (torch.randint(2, 7, (8, size), generator=g) for size in (6, 5))
    for tokens, end in zip((source, y), ends.T, strict=True):
        place = torch.arange(tokens.shape[1])
        tokens[place == end[:, None]], tokens[place > end[:, None]] = 1, 0
    target = torch.cat([torch.ones(8, 1, dtype=torch.long), y[:, :-1].where(y[:, :-1] != 1, 0)], dim=1)
    return zoo.SentencePair(source, target), y


def captioned() -> tuple[zoo.CaptionedImage, torch.Tensor]:
    """The targets of :func:`pairs`, two an image, of which one image has one, and images of 16 pixels."""
    x, y = pairs()
    captions, y = (torch.stack([part, part.roll(1, dims=0)], dim=1) for part in (x.target, y))
    captions[3, 1] = y[3, 1] = 0
    image = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return zoo.CaptionedImage(image, captions), y


def shape_of(x: Any) -> tuple[int, ...]:
    """Shape of one example; of pairs of texts, both lengths; of images with captions, that of the image."""
    if isinstance(x, zoo.SentencePair):
        return x.source.shape[1], x.target.shape[1]
    if isinstance(x, zoo.CaptionedImage):
        return tuple(x.image.shape[1:])
    return tuple(split_series(x)[0].shape[1:])


def series() -> zoo.Series:
    """Series of three numbers a step, of different lengths."""
    values = torch.randn(8, 6, 3, generator=torch.Generator().manual_seed(0))
    return zoo.Series(values * (torch.arange(6) < LENGTHS[:, None])[..., None], LENGTHS)


def forecasts() -> tuple[torch.Tensor, torch.Tensor]:
    """Contexts of four steps, and the two after them."""
    steps = torch.randn(8, 6, 1, generator=torch.Generator().manual_seed(0))
    return steps[:, :4], steps[:, 4:]


# name -> (arguments that shrink it, batch, reasons for checks that are impossible)
CASES = {
    "softmax_regression": ({}, images(1, 28), {}),
    "linear_regression": ({"in_features": 64}, table(64), {}),
    "logistic_regression": ({"in_features": 64}, (torch.randn(8, 64), torch.arange(8) % 2), {}),
    "glm_gaussian": ({"in_features": 64}, table(64), {}),
    "glm_bernoulli": ({"in_features": 64}, (torch.randn(8, 64), torch.arange(8) % 2), {}),
    "glm_categorical": ({"in_features": 64}, (torch.randn(8, 64), torch.arange(8) % 3), {}),
    "glm_poisson": ({}, (torch.randn(8, 10), torch.arange(8)), ENTROPY),
    "mlp": ({"widths": [32, 32]}, images(1, 28), {}),
    "mlp_maxout": ({"widths": [32, 32]}, images(1, 28), {}),
    "mlp_regression": ({}, table(10), {}),
    "perceptron": ({"in_features": 64}, (torch.randn(8, 64), torch.arange(8) % 2), {}),
    "perceptron_hinge": ({"in_features": 64}, (torch.randn(8, 64), torch.arange(8) % 2), {}),
    "random_features": (
        {"in_features": 64, "num_features": 128},
        (torch.randn(8, 64, generator=torch.Generator().manual_seed(0)), torch.arange(8)),
        {"accumulation": "the last layer is solved for, at the end of an epoch"},
    ),
    "max_likelihood_gumbel": ({}, table(1), DENSITY),
    **{f"highway{d}": ({"in_features": 64, "depth": 8}, images(1, 8), {}) for d in (10, 20, 50, 100)},
    "lenet5": ({}, images(1, 32), {}),
    "lenet5_relu": ({}, images(3, 32), {}),
    "alexnet": (SLIM, images(3, 64), {}),
    **{f"vgg{d}{bn}": (SLIM, images(3, 32), {}) for d in (11, 13, 16, 19) for bn in ("", "_bn")},
    # 64 pixels: on the CPU torch's bfloat16 gradient of a 5x5 kernel over a map of one pixel reads memory that nobody wrote
    **{n: ({"width": 4, "num_classes": 10, "dropout_aux": 0.0}, images(3, 64), {}) for n in GOOGLENETS},
    **{
        f"densenet{d}": ({**SHALLOW, "growth_rate": 8, "num_classes": 10}, images(3, 32), {})
        for d in (121, 161, 169, 201)
    },
    **{f"densenet_bc{d}": ({"depth": 16, "growth_rate": 4}, images(3, 8), {}) for d in (100, 190, 250)},
    **{f"resnet{d}": ({"width": 4, "num_classes": 10}, images(3, 32), {}) for d in (18, 34, 50)},
    **{f"resnet{d}": ({"width": 4, "num_classes": 10, "depth": 18}, images(3, 32), {}) for d in (101, 152)},
    **{f"{n}20": ({"width": 4}, images(3, 8), {}) for n in ("resnet", "plain")},
    **{
        f"{n}{d}": ({"width": 4, "depth": 14}, images(3, 8), {}) for n in ("resnet", "plain") for d in (32, 44, 56, 110)
    },
    "conv_highway19": ({"width": 8, "blocks": [1, 1, 1]}, images(3, 8), {}),
    "mobilenet_v1": ({"width": 0.125, "num_classes": 10}, images(3, 32), {}),
    **{f"mobilenet_v1_{p}": ({"width": 0.125, "num_classes": 10}, images(3, 32), {}) for p in (25, 50, 75)},
    "fcn_series": (
        {"input_size": 3, "width": 16},
        (zoo.Series(torch.randn(8, 6, 3), torch.tensor([6, 2, 5, 1, 6, 4, 3, 6])), torch.arange(8)),
        {},
    ),
    "preresnet110": ({"width": 4, "depth": 8}, images(3, 8), {}),
    **{f"preresnet{d}": ({"width": 4, "depth": 11}, images(3, 8), {}) for d in (164, 1001)},
    **{
        f"fcn{v}_vgg16": ({"encoder": "vgg11_bn", "encoder_args": {"width": 4, "dropout": 0.0}}, masks(33), {})
        for v in ("32s", "8s")
    },
    "fcn16s_vgg16": ({"encoder": "lenet5_relu", "encoder_args": {}, "num_classes": 4}, masks(15), {}),
    "fcn8s_resnet50": ({**SLIM_ENCODER, "num_classes": 4}, masks(9), {}),
    **{
        n: ({"encoder_args": {"width": 8, "depth": 2}, "num_classes": 4}, masks(9), {}) for n in ("unet", "unet_noskip")
    },
    "unet_resnet34": ({**SLIM_ENCODER, "num_classes": 4}, masks(9), {}),
    "unet_vgg16": ({"encoder": "lenet5_relu", "encoder_args": {"width": 12}, "num_classes": 4}, masks(15), {}),
    "autoencoder_linear": ({"input_shape": [1, 8, 8], "latent_dim": 8}, images(1, 8), {}),
    "autoencoder_mlp": (DENSE, images(1, 16), {}),
    **{
        f"autoencoder_{n}": ({"input_shape": [6, 3], "width": 64}, (series(), torch.arange(8)), UNROLLED)
        for n in ("lstm", "gru")
    },
    "autoencoder_conv": (CONV, images(1, 16), {}),
    "autoencoder_denoising": (DENSE, images(1, 16), {}),
    "vae_mlp": (DENSE, bits(), {}),
    "vae_conv": (CONV, bits(), {}),
    "cvae_mlp": (DENSE, bits(), {}),
    **{
        n: ({"input_shape": [1, 8, 8], "latent_dim": 8, "widths": [16]}, images(1, 8), GAME)
        for n in ("gan_mlp", "gan_mlp_conditional", "lsgan_mlp", "wgan_mlp", "wgan_gp_mlp")
    },
    **{
        n: ({"input_shape": [3, 16, 16], "latent_dim": 8, "width": 4}, images(3, 16), GAME)
        for n in ("dcgan", "dcgan_conditional", "wgan_gp_dcgan")
    },
    **{n: ({"vocab_size": 7, "width": 32}, texts(), UNROLLED) for n in ("rnn_lm", "lstm_lm", "gru_lm")},
    **{
        f"{n}_seq2seq": ({"source_vocab_size": 7, "vocab_size": 7, "width": 32}, pairs(), UNROLLED)
        for n in ("rnn", "lstm", "gru", "gru_attention")
    },
    "transformer_lm": (TINY_LM, texts(), {}),
    **{n: ({**TINY_LM, "dropout": 0.0}, texts(), {}) for n in ("gpt2", "gpt2_medium", "gpt2_large", "gpt2_xl")},
    "llama_7b": ({**TINY_LM, "num_kv_heads": 1, "hidden_dim": 64}, texts(), {}),
    **{f"{cell}_forecaster": ({"width": 32, "horizon": 2}, forecasts(), {}) for cell in ("rnn", "lstm", "gru")},
    **{
        f"{n}_{kind}": ({"input_size": 3, "width": 32}, (series(), targets), UNROLLED)
        for n in ("rnn", "lstm", "gru")
        for kind, targets in (("classifier", torch.arange(8)), ("regressor", LENGTHS / 3))
    },
    **{n: (TINY_SEQ2SEQ, pairs(), {}) for n in ("transformer_seq2seq", "transformer_base", "transformer_big")},
    "transformer_captioner": (
        {**SLIM_ENCODER, "vocab_size": 7, "width": 32, "num_heads": 2, "hidden_dim": 64, "dropout": 0.0},
        captioned(),
        {},
    ),
    **{
        f"{n}_captioner": (
            {"encoder": "resnet18", "encoder_args": {"width": 4}, "stage": 2, "vocab_size": 7, "width": 64},
            captioned(),
            UNROLLED,
        )
        for n in ("lstm", "attention")
    },
    "transformer_classifier": (
        {"vocab_size": 7, "padding": 0, "width": 32},
        (pairs()[0].source, torch.arange(8)),
        {},
    ),
    "hybrid_resnet20": ({**TINY_HYBRID, "pooling": "mean"}, images(3, 16), {}),
    "hybrid_resnet18": ({**TINY_HYBRID, "image_size": 16, "positions": "learned"}, images(3, 16), {}),
    "hybrid_vit_b_32_resnet50": ({**TINY_HYBRID, "image_size": 16}, images(3, 16), {}),
    **{
        f"vit_{n}": ({**TINY_VIT, "num_classes": 10}, images(3, 32), {})
        for n in ("b_16", "b_32", "l_16", "l_32", "h_14")
    },
}


def _net_of(name: str) -> tuple[type, str]:
    """What is built for the test of a model: the rows of several that differ in their sizes only build the same net."""
    entry = registry.get(name)
    arguments = CASES[name][0] if name in CASES else {}
    return entry.cls, repr(sorted({**entry.preset, **arguments}.items()))


DISTINCT = [*{_net_of(name): name for name in reversed(zoo.list_models())}.values()][::-1]
FIRST_OF_CLASS = {registry.get(name).cls: name for name in reversed(zoo.list_models())}.values()
COSTLY = {  # made for the first model of each class: the others differ in their sizes only
    "compile": "tracing takes a second",
    "processes": "two processes take half a second",
}
PROGRAMS = {"export", "export_length", "compile"}
# Their files have the operations of a relative's: fewer layers than vgg19_bn or highway100, the generator of gan_mlp, the cell
# of lstm_lm or rnn_classifier, the head of the gru's.
EXPORTED_ALIKE = {
    *("vgg13", "vgg16", "vgg13_bn", "vgg16_bn", "highway20", "highway50", "resnet34", "resnet32", "plain32"),
    *("lsgan_mlp", "wgan_mlp", "wgan_gp_mlp", "wgan_gp_dcgan"),
    *("rnn_seq2seq", "rnn_forecaster", "lstm_forecaster", "lstm_classifier", "rnn_regressor", "lstm_regressor"),
}
TRACED_LATER = (  # first models of their classes whose programs take 3 seconds and more: the slow tests make them
    "attention_captioner",
    "autoencoder_gru",
    "densenet121",
    "densenet_bc100",
    "googlenet",
    "gru_attention_seq2seq",
    "gru_forecaster",
    "hybrid_resnet18",
    "mobilenet_v1",
    "plain20",
    "preresnet110",
    "transformer_base",
    "transformer_captioner",
    "transformer_classifier",
    "unet",
)


def test_every_model_has_a_case() -> None:
    ours = {name for name in zoo.list_models() if registry.get(name).cls.__module__.startswith("zoo.")}
    assert ours <= CASES.keys(), "a model is registered without a contract case: add a row to CASES"
    assert CASES.keys() >= EXPORTED_ALIKE


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FIRST_OF_CLASS else pytest.mark.slow) for n in DISTINCT]
)
def test_contract(name: str) -> None:
    arguments, batch, skip = CASES[name]
    skip = skip if name in FIRST_OF_CLASS else {**COSTLY, **skip}
    model = zoo.create_model(name, **arguments)
    later = PROGRAMS if name in TRACED_LATER and not real() else set()
    if real():  # `make test-gpu`
        model, batch = model.to("cuda"), to_gpu(batch)
    report = check_module(model, batch, skip={**dict.fromkeys(later, "see below"), **skip})
    assert {check for check, result in report.items() if result != "ok"} - later == skip.keys() - later


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACED_LATER)
def test_programs_of_those_that_take_long(name: str) -> None:
    arguments, batch, skip = CASES[name]
    others = dict.fromkeys(CHECKS.keys() - PROGRAMS, "see above")
    report = check_module(zoo.create_model(name, **arguments), batch, skip={**others, **skip})
    assert report["compile"] == report["export"] == "ok"
    assert report.get("export_length", "ok") == "ok" or "export_length" in skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DISTINCT if name not in EXPORTED_ALIKE])
def test_every_model_is_exported(name: str, tmp_path: Path) -> None:
    """Each file gives what the model gives, at a batch size that no export has seen."""
    arguments, batch, _ = CASES[name]
    model = zoo.create_model(name, **arguments).eval()
    for parameter in model.parameters():  # heads that begin with zeros would give the same for any input
        parameter.data += 0.01 * torch.randn_like(parameter)
    model.input_shape = shape_of(batch[0])
    paths = [zoo.export(model, tmp_path / f"model.{suffix}") for suffix in ("onnx", "pt2", "safetensors")]
    inputs = tree_map(lambda x: torch.rand_like(x) if x.is_floating_point() else x, model.example_inputs(5))
    tensors = tree_leaves(inputs)
    with torch.no_grad():
        expected = list(model.outputs(*inputs).values())
        program = torch.export.load(paths[1]).module()(*tensors)
    torch.testing.assert_close(list(program.values()), expected, rtol=1e-3, atol=1e-5)
    outputs = [torch.as_tensor(y) for y in run_onnx(paths[0], *tensors)]
    torch.testing.assert_close(outputs, expected, rtol=1e-3, atol=1e-5)
    for key, tensor in load_file(paths[2]).items():
        assert torch.equal(tensor, model.state_dict()[key]), key


def test_a_residual_net_of_110_layers_learns() -> None:
    """Its row has fewer layers, to be fast."""
    report = check_module(zoo.create_model("resnet110", width=4), images(3, 8), only=["gradients", "memorization"])
    assert report == {"gradients": "ok", "memorization": "ok"}


@pytest.mark.parametrize(
    ("arguments", "targets"),
    [
        ({"mode": "binary", "num_classes": 2}, torch.arange(8) % 2),
        ({"mode": "multilabel", "num_classes": 3}, (torch.arange(24) % 5 < 2).float().view(8, 3)),
        ({"label_smoothing": 0.1, "class_weight": [1.0] * 10}, torch.arange(8)),
    ],
    ids=["binary", "multilabel", "smoothed"],
)
def test_contract_of_every_mode(arguments: dict, targets: torch.Tensor) -> None:
    report = check_module(zoo.create_model("lenet5", **arguments), (torch.rand(8, 1, 32, 32), targets))
    assert set(report.values()) == {"ok"}


class Leaky(nn.Module):
    """Subtracts the batch's mean: examples leak into each other."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x - x.mean(dim=0))


class Unused(nn.Module):
    """Has a layer that takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.idle = nn.Linear(4, 10), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


class Detached(Unused):
    """Learns nothing below its last layer, and too little with it."""

    def __init__(self) -> None:
        super().__init__()
        self.idle.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x).clamp(-0.01, 0.01)


class Fixed(nn.Sequential):
    """Its exported program knows one batch size only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[0](x) if len(x) == 8 else self[0](x) + 1


BATCH = (torch.rand(8, 4), torch.arange(8))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Leaky, "leak into each other"),
        (Unused, "idle.weight gets no gradient"),
        (Detached, "not learned by heart"),
        (lambda: Fixed(nn.Linear(4, 10)), "does not take batch size 3"),
    ],
)
def test_the_kit_catches_a_planted_bug(net: type[nn.Module], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_module(ClassificationTask(net(), lr=1e-2), BATCH, lr=0.1)


class Forgetful(ClassificationTask):
    """Does not hand its width on: its hyperparameters cannot rebuild it. Nor is its optimizer argument plain data."""

    def __init__(self, width: int = 4, **task: object) -> None:
        super().__init__(nn.Sequential(OrderedDict(a=nn.Linear(4, width), fc=nn.Linear(width, 10))), **task)


def test_the_kit_checks_hyperparameters() -> None:
    task = Forgetful(8)
    testing.check_hyperparameters(task, BATCH)
    task.hparams["width"] = 5
    with pytest.raises(AssertionError, match="another architecture"):
        testing.check_hyperparameters(task, BATCH)
    task.hparams["width"] = torch.tensor(8)
    with pytest.raises(AssertionError, match="not plain data"):
        testing.check_hyperparameters(task, BATCH)


def test_a_module_of_ones_own_skips_with_a_reason() -> None:
    report = check_module(Forgetful(16), BATCH, lr=0.03)
    assert report.pop("folder") == "skipped: Forgetful is not registered"
    assert set(report.values()) == {"ok"}


@pytest.mark.parametrize("skip", [{"exprot": "typo"}, {"export": ""}])
def test_the_kit_refuses_a_wrong_skip(skip: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"no such check|say why"):
        check_module(Forgetful(), BATCH, skip=skip)

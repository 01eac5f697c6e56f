"""Every registered model against a table of its settings, written down from its paper by hand: a number of parameters does not tell
the heads of an attention, a dropout, an activation, or the optimizer.
"""

from typing import Any

import pytest

import zoo
from zoo import registry

ADAM = {"optimizer": "Adam", "betas": [0.5, 0.999], "lr": 2e-4}  # arXiv:1511.06434, section 4
WGAN_GP = {  # arXiv:1704.00028, algorithm 1
    "loss": "wasserstein",
    "gradient_penalty": 10.0,
    "weight_clip": None,
    "n_critic": 5,
    "optimizer": "Adam",
    "betas": [0.0, 0.9],
    "lr": 1e-4,
}
MINIMAX = {"n_critic": 1, "gradient_penalty": None, "weight_clip": None}  # arXiv:1406.2661, algorithm 1 with k = 1
DCGAN = {
    "output": "sigmoid",
    "latent_dim": 100,
    "width": 128,
    "smallest": 4,
    "norm": "batch",
}  # arXiv:1511.06434, figure 1
GOOGLENET = {"width": 64, "aux_logits": True, "aux_weight": 0.3, "dropout_aux": 0.7}  # arXiv:1409.4842, section 5
VIT = {"image_size": 224, "dropout": 0.0}
VIT_B = {**VIT, "num_layers": 12, "hidden_dim": 768, "mlp_dim": 3072, "num_heads": 12}  # arXiv:2010.11929, table 1
VIT_L = {**VIT, "num_layers": 24, "hidden_dim": 1024, "mlp_dim": 4096, "num_heads": 16}
VIT_H = {**VIT, "num_layers": 32, "hidden_dim": 1280, "mlp_dim": 5120, "num_heads": 16}
GPT2 = {  # Radford et al. 2019, section 2.3, and the authors' code; the published config files
    "vocab_size": 50257,
    "max_length": 1024,
    "positions": "learned",
    "norm": "layer",
    "norm_eps": 1e-5,
    "feed_forward": "gelu_tanh",
    "hidden_dim": None,
    "num_kv_heads": None,
    "qk_norm": False,
    "tied": True,
    "bias": True,
    "dropout": 0.1,
}
ONE_LAYER = {"num_layers": 1, "bidirectional": False, "dropout": 0.0, "initial_state": "zero", "form": "many_to_one"}
NO_DROPOUT = {"activation": "relu", "dropout": 0.0}

MODELS: dict[str, dict[str, Any]] = {
    "alexnet": {"width": 64, "norm": "none", "activation": "relu", "dropout": 0.5},
    "autoencoder_conv": {"output": "sigmoid", "corruption": "none", "loss": "mse", "bottleneck": "identity"},
    "autoencoder_denoising": {"output": "sigmoid", "corruption": "masking", "loss": "mse"},  # Vincent et al. 2008
    # arXiv:1502.04681, section 2.1: the target is reversed
    **{
        f"autoencoder_{cell}": {"cell": cell, "order": "reversed", "num_layers": 1, "output": "linear", "loss": "mse"}
        for cell in ("lstm", "gru")
    },
    "autoencoder_linear": {"widths": [], "output": "linear", "corruption": "none", "loss": "mse"},
    "autoencoder_mlp": {"output": "sigmoid", "corruption": "none", "loss": "mse", "bottleneck": "identity"},
    # arXiv:1507.06228, table 1 ("Highway 2"), and the authors' Caffe definition
    "conv_highway19": {"blocks": (4, 5, 5), "width": 32, "gate_bias": -2.0, "norm": "none", "activation": "relu"},
    "cvae_mlp": {"conditional": True, "likelihood": "bernoulli", "output": "sigmoid", "beta": 1.0},
    "dcgan": {
        **DCGAN,
        **ADAM,
        **MINIMAX,
        "loss": "non_saturating",
        "conditional": False,
        "discriminator_norm": "batch",
    },
    "dcgan_conditional": {**DCGAN, **ADAM, **MINIMAX, "loss": "non_saturating", "conditional": True},
    # arXiv:1608.06993, table 1: growth rate 32, of DenseNet-161 48
    **{
        f"densenet{depth}": {"blocks": blocks, "growth_rate": 48 if depth == 161 else 32, "norm": "batch", **NO_DROPOUT}
        for depth, blocks in (
            (121, [6, 12, 24, 16]),
            (161, [6, 12, 36, 24]),
            (169, [6, 12, 32, 32]),
            (201, [6, 12, 48, 32]),
        )
    },
    # table 2: DenseNet-BC
    **{
        f"densenet_bc{depth}": {"depth": depth, "growth_rate": k, "norm": "batch", **NO_DROPOUT}
        for depth, k in ((100, 12), (190, 40), (250, 24))
    },
    # arXiv:1411.4038, section 4
    **{f"fcn{v}_vgg16": {"encoder": "vgg16", "variant": v, "num_classes": 21} for v in ("32s", "16s", "8s")},
    "fcn8s_resnet50": {"encoder": "resnet50", "variant": "8s"},
    "gan_mlp": {**ADAM, "lr": 1e-3, **MINIMAX, "loss": "non_saturating", "norm": "none", "conditional": False},
    "gan_mlp_conditional": {
        **ADAM,
        "lr": 1e-3,
        **MINIMAX,
        "loss": "non_saturating",
        "norm": "batch",
        "conditional": True,
    },
    "glm_bernoulli": {"family": "bernoulli"},
    "glm_categorical": {"family": "categorical", "num_outputs": 3},
    "glm_gaussian": {"family": "gaussian"},
    "glm_poisson": {"family": "poisson"},
    # torchvision: batch norm, 3x3 in the third branch, dropout 0.2; Caffe's bvlc_googlenet and the paper: 40% and 70%
    "googlenet": {**GOOGLENET, "module": "reduced", "branch5x5": False, "norm": "batch", "dropout": 0.2},
    "googlenet_naive": {**GOOGLENET, "module": "naive", "branch5x5": True, "norm": "batch", "dropout": 0.2},
    "fcn_series": {"width": 128, "kernel_sizes": (8, 5, 3)},  # arXiv:1611.06455, section 2.2
    # no paper's sizes: a layer; the normalization of Kim et al. 2022
    **{
        f"{name}_forecaster": {"cell": cell, "num_layers": 1, "dropout": 0.0, "normalization": "window"}
        for name, cell in (("rnn", "rnn_tanh"), ("lstm", "lstm"), ("gru", "gru"))
    },
    "googlenet_published": {**GOOGLENET, "module": "reduced", "branch5x5": True, "norm": "none", "dropout": 0.4},
    # arXiv:1505.00387, section 3.1: 50 blocks wide
    **{
        f"highway{depth}": {"depth": depth, "width": 50, "gate_bias": bias, **NO_DROPOUT}
        for depth, bias in ((10, -1.0), (20, -2.0), (50, -3.0), (100, -4.0))
    },
    **{
        f"{name}_{kind}": {"cell": cell, **ONE_LAYER}
        for name, cell in (("rnn", "rnn_tanh"), ("lstm", "lstm"), ("gru", "gru"))
        for kind in ("classifier", "regressor")
    },
    # table 2; heads of 64
    "gpt2": {**GPT2, "num_layers": 12, "width": 768, "num_heads": 12},
    "gpt2_medium": {**GPT2, "num_layers": 24, "width": 1024, "num_heads": 16},
    "gpt2_large": {**GPT2, "num_layers": 36, "width": 1280, "num_heads": 20},
    "gpt2_xl": {**GPT2, "num_layers": 48, "width": 1600, "num_heads": 25},
    "llama_7b": {  # arXiv:2302.13971, section 2 and table 2; the published params.json
        "vocab_size": 32000,
        "num_layers": 32,
        "width": 4096,
        "num_heads": 32,
        "num_kv_heads": None,
        "hidden_dim": 11008,
        "max_length": None,
        "positions": "rotary",
        "rotary_base": 10000.0,
        "norm": "rms",
        "norm_eps": 1e-6,
        "feed_forward": "swiglu",
        "qk_norm": False,
        "tied": False,
        "bias": False,
        "dropout": 0.0,
    },
    "lenet5": {"variant": "published", "width": 6, "in_channels": 1},  # LeCun et al. 1998, fig. 2
    "lenet5_relu": {"variant": "relu", "width": 6, "in_channels": 3},
    "linear_regression": {"loss": "mse", "bias": True},
    "logistic_regression": {"mode": "binary", "l2": 0.0, "bias": True},
    "lsgan_mlp": {**ADAM, "lr": 1e-3, **MINIMAX, "loss": "least_squares"},  # arXiv:1611.04076, eq. 8
    "max_likelihood_gumbel": {"family": "Gumbel", "size": 1},
    "mlp": {"widths": (512, 512), "activation": "relu", "skip": "none", "norm": "none", "dropout": 0.0},
    "mlp_maxout": {"widths": (512, 512), "activation": "maxout", "pieces": 2},
    "mlp_regression": {"activation": "relu", "output_activation": "identity", "loss": "mse"},
    # arXiv:1704.04861, table 6
    **{
        name: {"width": width, "norm": "batch", **NO_DROPOUT}
        for name, width in (
            ("mobilenet_v1", 1.0),
            ("mobilenet_v1_75", 0.75),
            ("mobilenet_v1_50", 0.5),
            ("mobilenet_v1_25", 0.25),
        )
    },
    "random_features": {"num_features": 400, "ridge": 0.0},
    "perceptron": {"rule": "perceptron"},
    "perceptron_hinge": {"rule": "hinge"},
    # arXiv:1603.05027: ResNet-110 of basic units, 164 and 1001 of bottlenecks (tables 1, 2 and 3)
    "preresnet110": {"depth": 110, "block": "basic", "width": 16, "norm": "batch", **NO_DROPOUT},
    "preresnet164": {"depth": 164, "block": "bottleneck", "width": 16, "norm": "batch", **NO_DROPOUT},
    "preresnet1001": {"depth": 1001, "block": "bottleneck", "width": 16, "norm": "batch", **NO_DROPOUT},
    # arXiv:1512.03385, table 1
    **{
        f"resnet{depth}": {"depth": depth, "width": 64, "norm": "batch", **NO_DROPOUT}
        for depth in (18, 34, 50, 101, 152)
    },
    # section 4.2 and table 6; the plain nets of fig. 6
    **{
        f"{kind}{depth}": {"depth": depth, "width": 16, "shortcut": shortcut, "norm": "batch", **NO_DROPOUT}
        for kind, shortcut in (("resnet", "identity"), ("plain", "none"))
        for depth in (20, 32, 44, 56, 110)
    },
    # no paper's sizes: a layer without dropout, for texts of minutes; attention with the score and the encoder of arXiv:1409.0473
    **{
        f"{name}_seq2seq": {
            "cell": cell,
            "width": 256,
            "num_layers": 1,
            "dropout": 0.0,
            "feed_context": False,
            "input_feeding": False,
            "teacher_forcing": 1.0,
            "label_smoothing": 0.0,
            "attention": attention,
            "bidirectional": attention is not None,
        }
        for name, cell, attention in (
            ("rnn", "rnn_tanh", None),
            ("lstm", "lstm", None),
            ("gru", "gru", None),
            ("gru_attention", "gru", "additive"),
        )
    },
    # arXiv:1411.4555, section 4.3.1: embeddings and state of 512; arXiv:1502.03044. The encoder is a later one
    **{
        f"{name}_captioner": {
            "encoder": "resnet50",
            "encoder_args": None,
            "stage": -1,
            "cell": "lstm",
            "width": 512,
            "embedding_dim": None,
            "attention": attention,
            "gate": True,
            "positions": False,
            "dropout": 0.0,
            "attention_penalty": 0.0,
            "label_smoothing": 0.0,
            "teacher_forcing": 1.0,
        }
        for name, attention in (("lstm", None), ("attention", "additive"))
    },
    # no paper's sizes: a layer without dropout, for texts of a megabyte
    **{
        f"{name}_lm": {
            "cell": cell,
            "width": 256,
            "num_layers": 1,
            "dropout": 0.0,
            "tied": False,
            "initial_state": "zero",
        }
        for name, cell in (("rnn", "rnn_tanh"), ("lstm", "lstm"), ("gru", "gru"))
    },
    "softmax_regression": {"temperature": 1.0, "bias": True},
    # arXiv:1706.03762, table 3 and section 5; the rates are D^-0.5 4000^-0.5
    **{
        f"transformer_{name}": {
            "width": width,
            "num_heads": heads,
            "hidden_dim": 4 * width,
            "dropout": dropout,
            "num_layers": 6,
            "positions": "sinusoidal",
            "norm": "layer",
            "norm_first": False,
            "feed_forward": "relu",
            "tied": "all",
            "attention_dropout": 0.0,
            "num_kv_heads": None,
            "qk_norm": False,
            "source_vocab_size": 37000,
            "optimizer": "Adam",
            "optimizer_args": {"betas": [0.9, 0.98], "eps": 1e-9},
            "label_smoothing": 0.1,
            "lr": lr,
            "vocab_size": 37000,
        }
        for name, width, heads, dropout, lr in (("base", 512, 8, 0.1, 7e-4), ("big", 1024, 16, 0.3, 5e-4))
    },
    # no paper's sizes
    "transformer_seq2seq": {"width": 256, "num_layers": 3, "num_heads": 8, "dropout": 0.1, "norm_first": False},
    "transformer_captioner": {
        "encoder": "resnet50",
        "stage": -1,
        "width": 256,
        "num_layers": 2,
        "encoder_layers": 1,
        "num_heads": 4,
        "hidden_dim": None,
        "dropout": 0.1,
        "norm_first": True,
        "attention_penalty": 0.0,
    },
    "transformer_classifier": {"width": 128, "num_layers": 2, "num_heads": 4, "dropout": 0.1, "pooling": "mean"},
    "unet": {"encoder": "plain", "skip": "concat", "norm": "batch", "activation": "relu"},
    "unet_noskip": {"encoder": "plain", "skip": "none", "norm": "batch"},
    "unet_resnet34": {"encoder": "resnet34", "skip": "concat", "norm": "batch"},
    "unet_vgg16": {"encoder": "vgg16", "skip": "concat", "norm": "batch"},
    "vae_conv": {"conditional": False, "likelihood": "bernoulli", "output": "sigmoid", "beta": 1.0, "kl_warmup": 0.0},
    "vae_mlp": {"conditional": False, "likelihood": "bernoulli", "output": "sigmoid", "beta": 1.0, "kl_warmup": 0.0},
    # arXiv:1409.1556, table 1, and section 3.1 for the dropout
    **{
        f"vgg{depth}{suffix}": {"depth": depth, "width": 64, "norm": norm, "activation": "relu", "dropout": 0.5}
        for depth in (11, 13, 16, 19)
        for suffix, norm in (("", "none"), ("_bn", "batch"))
    },
    # no paper's sizes: four layers of the GPT-2 form
    "transformer_lm": {
        "num_layers": 4,
        "width": 128,
        "num_heads": 4,
        "positions": "learned",
        "norm": "layer",
        "dropout": 0.0,
    },
    # no paper's sizes
    **{
        f"hybrid_{encoder}": {
            "encoder": encoder,
            "stage": -1,
            "width": 128,
            "num_layers": 2,
            "num_heads": 4,
            "dropout": 0.1,
            "pooling": "class_token",
            "positions": "sinusoidal",
        }
        for encoder in ("resnet18", "resnet20")
    },
    # arXiv:2010.11929, section 4.1 and table 1: "R50+ViT-B/32"
    "hybrid_vit_b_32_resnet50": {
        "encoder": "resnet50",
        "stage": -1,
        "num_layers": 12,
        "num_heads": 12,
        "width": 768,
        "hidden_dim": 3072,
        "pooling": "class_token",
        "positions": "learned",
        "image_size": 224,
        "num_classes": 1000,
    },
    "vit_b_16": {**VIT_B, "patch_size": 16},
    "vit_b_32": {**VIT_B, "patch_size": 32},
    "vit_h_14": {**VIT_H, "patch_size": 14},
    "vit_l_16": {**VIT_L, "patch_size": 16},
    "vit_l_32": {**VIT_L, "patch_size": 32},
    "wgan_gp_dcgan": {**WGAN_GP, **DCGAN, "discriminator_norm": "layer"},
    "wgan_gp_mlp": WGAN_GP,
    "wgan_mlp": {  # arXiv:1701.07875, algorithm 1
        "loss": "wasserstein",
        "weight_clip": 0.01,
        "gradient_penalty": None,
        "n_critic": 5,
        "optimizer": "RMSprop",
        "lr": 5e-5,
    },
}


@pytest.mark.parametrize("name", zoo.list_models())
def test_a_model_has_the_settings_of_its_paper(name: str) -> None:
    assert name in MODELS, f"{name} is registered without its settings: add a row to MODELS"
    entry = registry.get(name)
    known = {p.name: p.default for p in registry.arguments_of(entry.cls).values()} | entry.preset
    known |= known["optimizer_args"] or {}
    assert {key: known[key] for key in MODELS[name]} == MODELS[name]

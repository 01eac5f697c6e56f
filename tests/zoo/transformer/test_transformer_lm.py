"""Transformer language models against the library transformers, and step by step against the whole pass."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kit import quiet_trainer
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import zoo
from datamodules import TextDataModule
from zoo import decoding
from zoo.testing import check_module
from zoo.transformer import TransformerLanguageModel, TransformerLM

SMALL: dict[str, Any] = {"vocab_size": 11, "width": 16, "num_layers": 2, "num_heads": 4, "max_length": 24}
MODERN: dict[str, Any] = {
    "num_kv_heads": 2,
    "positions": "rotary",
    "norm": "rms",
    "feed_forward": "swiglu",
    "qk_norm": True,
    "tied": False,
    "bias": False,
}
FORMS: dict[str, dict[str, Any]] = {
    "gpt2": {"feed_forward": "gelu_tanh"},
    "modern": MODERN,
    "sinusoidal": {"positions": "sinusoidal", "feed_forward": "relu2", "num_kv_heads": 1},
}


def tokens(rows: int = 3, length: int = 9, size: int = 11) -> Tensor:
    return torch.randint(size, (rows, length), generator=torch.Generator().manual_seed(0))


def drawn(net: Any, std: float = 0.3) -> Any:
    """The same in float64 and evaluation mode, with no parameter at a special value."""
    generator = torch.Generator().manual_seed(1)
    for p in net.double().parameters():
        p.data.normal_(std=std, generator=generator)
    return net.eval()


@pytest.fixture(params=FORMS)
def net(request: pytest.FixtureRequest) -> Any:
    return drawn(TransformerLM(**SMALL, **FORMS[request.param]))


# Sizes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gpt2", 124_439_808),
        ("gpt2_medium", 354_823_168),
        ("gpt2_large", 774_030_080),
        ("gpt2_xl", 1_557_611_200),
        ("llama_7b", 6_738_415_616),
    ],
)
def test_published_parameter_counts(name: str, count: int) -> None:
    with torch.device("meta"):
        net = zoo.create_model(name).net
    assert sum(p.numel() for p in net.parameters()) == count


def test_fresh_weights_are_drawn_as_in_gpt2() -> None:
    torch.manual_seed(0)
    net = TransformerLM(500, width=128, num_layers=8, num_heads=4)
    for layer in net.layers:
        for weight in (layer.self_attn.in_proj_weight, layer.linear1.weight):
            assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.05)
        for weight in (layer.self_attn.out_proj.weight, layer.linear2.weight):
            assert float(weight.detach().std()) == pytest.approx(0.02 / math.sqrt(16), rel=0.05)
    for weight in (net.embedding.weight, net.positions.weight):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert not any(p.any() for name, p in net.named_parameters() if name.endswith("bias"))
    assert all((p == 1).all() for name, p in net.named_parameters() if "norm" in name and name.endswith("weight"))
    untied = TransformerLM(500, width=128, num_layers=1, num_heads=4, tied=False)
    assert float(untied.fc.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("form", FORMS)
def test_a_fresh_model_is_near_ln_v(form: str) -> None:
    torch.manual_seed(0)
    task = TransformerLanguageModel(50, width=64, max_length=24, **FORMS[form])
    x = tokens(20, 20, 50)
    loss = float(task.training_losses((x, x.flip(0)))[0].detach())
    assert loss == pytest.approx(task.expected_initial_loss(), rel=0.05)


# Equality with transformers ---------------------------------------------------------------------------------------------


def theirs(kind: str, **config: Any) -> Any:
    """A tiny random model of the library, with its own attention in Python."""
    import transformers

    common = {"attn_implementation": "eager", "bos_token_id": 0, "eos_token_id": 0}
    if kind == "gpt2":
        sizes = {"vocab_size": 19, "n_positions": 12, "n_embd": 8, "n_layer": 3, "n_head": 2}
        model: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**sizes, **common, **config}))
    else:
        sizes = {
            "vocab_size": 19,
            "hidden_size": 16,
            "intermediate_size": 28,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
        }
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **common, **config}))
    generator = torch.Generator().manual_seed(2)
    for name, p in model.named_parameters():
        p.data.normal_(mean=float("norm" in name or "ln_" in name), std=0.3, generator=generator)
    return model.eval()


class Exact:
    """torch, where float32 means float64."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def in_float64(model: Any) -> Iterator[None]:
    """Make Llama's code, which computes norms, angles and weights in float32 whatever its weights are, compute in float64."""
    from transformers.models.llama import modeling_llama

    rotary = model.model.rotary_emb
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_llama, "torch", Exact())
        patch.setattr(Tensor, "float", Tensor.double)
        patch.setattr(rotary, "inv_freq", rotary.compute_default_rope_parameters(model.config)[0])
        yield


VARIANTS = [
    ("gpt2", {}),
    ("gpt2", {"n_inner": 20, "activation_function": "gelu", "layer_norm_epsilon": 1e-3}),
    ("gpt2", {"tie_word_embeddings": False, "activation_function": "relu"}),
    ("llama", {"num_key_value_heads": 4}),
    ("llama", {"num_key_value_heads": 2, "rms_norm_eps": 1e-3}),
    ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
]


@pytest.mark.filterwarnings("ignore:.*was not checked for damage")
@pytest.mark.parametrize(("kind", "config"), VARIANTS)
def test_logits_are_those_of_transformers(kind: str, config: dict[str, Any], tmp_path: Path) -> None:
    """In float32 to 1e-5, and in float64 to 1e-10, step by step too; read from the folder that the library writes."""
    other, x = theirs(kind, **config), tokens(2, 12, 19)
    other.save_pretrained(tmp_path)
    model = zoo.create_model("transformer_lm", weights=tmp_path)
    with torch.no_grad():
        wanted = other(x).logits
        assert wanted.std() > 0.3
        torch.testing.assert_close(model(x), wanted, rtol=0, atol=1e-5)
        model, other = model.double(), other.double()
        if kind == "llama":
            with in_float64(other):
                wanted = other(x).logits
        else:
            wanted = other(x).logits
        torch.testing.assert_close(model(x), wanted, rtol=0, atol=1e-10)
        state, steps = model.net.init_state(2), []
        for t in range(12):
            logits, state = model.net.step(x[:, t], state)
            steps.append(logits)
        torch.testing.assert_close(torch.stack(steps, dim=1), wanted, rtol=0, atol=1e-10)


def test_normalized_queries_and_keys_are_those_of_qwen3() -> None:
    """The only form of which no file is read: its weights are copied here."""
    import transformers
    from transformers.models.qwen3 import modeling_qwen3

    sizes = {
        "vocab_size": 19,
        "hidden_size": 16,
        "intermediate_size": 28,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "attn_implementation": "eager",
    }
    other: Any = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
    ours = drawn(
        TransformerLM(**{**SMALL, **MODERN, "vocab_size": 19, "hidden_dim": 28, "norm_eps": 1e-6})
    ).float()  # Qwen3's eps
    w, copied = ours.state_dict(), {}
    names = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm", "self_attn.out_proj": "self_attn.o_proj"}
    names |= {"linear1": "mlp.up_proj", "gate": "mlp.gate_proj", "linear2": "mlp.down_proj"}
    names |= {"self_attn.q_norm": "self_attn.q_norm", "self_attn.k_norm": "self_attn.k_norm"}
    for i in range(2):
        copied |= {f"model.layers.{i}.{b}.weight": w[f"layers.{i}.{a}.weight"] for a, b in names.items()}
        for part, value in zip("qkv", w[f"layers.{i}.self_attn.in_proj_weight"].split([16, 8, 8]), strict=True):
            copied[f"model.layers.{i}.self_attn.{part}_proj.weight"] = value
    copied |= {"model.embed_tokens.weight": w["embedding.weight"], "model.norm.weight": w["norm.weight"]}
    other.load_state_dict({**copied, "lm_head.weight": w["fc.weight"]}, strict=True)
    assert modeling_qwen3.Qwen3RMSNorm is type(other.model.norm)
    x = tokens(2, 12, 19)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), other(x).logits, rtol=0, atol=1e-5)


# What a token sees ------------------------------------------------------------------------------------------------------


def test_sinusoidal_positions_are_added_to_scaled_embeddings() -> None:
    net, x = drawn(TransformerLM(**SMALL, positions="sinusoidal")), tokens()
    seen: list[Tensor] = []
    net.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net(x)
    angles = torch.arange(9.0).double()[:, None] / 10000 ** (torch.arange(0, 16, 2).double() / 16)
    wanted = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
    torch.testing.assert_close(seen[0], net.embedding.weight[x] * 4.0 + wanted, rtol=0, atol=1e-12)


def test_the_future_changes_nothing(net: Any) -> None:
    x = tokens()
    before, gradients = net(x), {}
    for t in range(1, 9):
        changed = x.clone()
        changed[:, t:] = (changed[:, t:] + 1) % 11
        after = net(changed)
        assert torch.equal(before[:, :t], after[:, :t]) or (before[:, :t] - after[:, :t]).abs().max() < 1e-12
        assert not torch.allclose(before[:, t], after[:, t])
    hidden = net.embedding(x).detach().requires_grad_()
    net.embedding.register_forward_hook(lambda module, args, output: hidden)
    (gradients["x"],) = torch.autograd.grad(net(x)[:, 4].sum(), hidden)
    assert gradients["x"][:, :5].abs().amax(dim=2).min() > 0
    assert not gradients["x"][:, 5:].any()


def test_attention_weights_are_rows_over_the_past(net: Any) -> None:
    x = tokens()
    weights = net.attention_weights(x)
    assert [w.shape for w in weights] == [(3, 4, 9, 9)] * 2
    for w in weights:
        torch.testing.assert_close(w.sum(3), torch.ones(3, 4, 9, dtype=torch.float64))
        assert not w.triu(1).any()
        assert w.tril().std() > 0.01


def test_padding_and_steps_meet_the_contract() -> None:
    for form in FORMS.values():
        task = TransformerLanguageModel(**SMALL, **form)
        task.vocabulary = {"kind": "characters", "tokens": [*"abcdefghij", "<pad>"], "padding": 10}
        x, y = tokens(4, size=10), tokens(4, size=10).flip(0)
        x[1, 4:], y[1, 4:], x[2, 6:], y[2, 6:] = 10, 10, 10, 10
        report = check_module(task, (x, y), only=["padding", "causality", "incremental", "accumulation"])
        assert set(report.values()) == {"ok"}


def test_torchs_attention_is_called_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, Any, float]] = []

    def recorded(*args: Any, **kwargs: Any) -> Tensor:
        assert len(args) == 3
        seen.append((kwargs.get("attn_mask"), kwargs["is_causal"], kwargs["dropout_p"]))
        return scaled_dot_product_attention(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    net, x = TransformerLM(**SMALL, dropout=0.25), tokens()
    net(x)
    assert seen == [(None, True, 0.25)] * 2
    seen.clear()
    net.eval()(x)
    assert seen == [(None, True, 0.0)] * 2
    seen.clear()
    state = net.prefill(x, net.init_state(3))
    assert seen == [(None, True, 0.0)] * 2
    seen.clear()
    net.step(x[:, 0], state)
    assert seen == [(None, False, 0.0)] * 2


# Writing ----------------------------------------------------------------------------------------------------------------


class Recomputed(nn.Module):
    """The same net without a cache: its state is all tokens."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.cat([state, x_t[:, None]], dim=1)
        return self.net(state)[:, -1], state

    def reorder_state(self, state: Tensor, index: Tensor) -> Tensor:
        return state[index]


@pytest.mark.parametrize("way", ["greedy", "beam", "sample"])
def test_a_cache_changes_neither_tokens_nor_scores(net: Any, way: str) -> None:
    start, empty = torch.tensor([3, 0, 7]), torch.zeros(3, 0, dtype=torch.long)
    rules: dict[str, Any] = {"end": 1, "alpha": 1.0}
    call: Any = {
        "greedy": decoding.greedy,
        "beam": lambda *args, **kwargs: decoding.beam_search(*args, beam=4, best=3, **kwargs),
        "sample": lambda *args, **kwargs: decoding.sample(*args, seed=5, **kwargs),
    }[way]
    found = call(net, net.init_state(3), start, 20, **rules)
    wanted = call(Recomputed(net), empty, start, 20, **rules)
    assert torch.equal(found.tokens, wanted.tokens)
    assert torch.equal(found.lengths, wanted.lengths)
    torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=1e-10)
    assert found.tokens.unique().numel() > 1


def test_a_step_leaves_its_state_as_it_is(net: Any) -> None:
    x = tokens()
    with torch.no_grad():
        state = net.prefill(x[:, :4], net.init_state(3))
        held = copy.deepcopy(state)
        first = [net.step(x[:, 4], state)[0] for _ in range(2)]
    assert torch.equal(*first)
    for one, other in zip(state, held, strict=True):
        assert torch.equal(one.tokens.keys, other.tokens.keys)
        assert torch.equal(one.tokens.values, other.tokens.values)
    torch.testing.assert_close(first[0], net(x)[:, 4], rtol=0, atol=1e-12)


LETTERS = {"kind": "characters", "tokens": ["<pad>", "<end>", *"abcdefgh", "\n"], "padding": 0, "end": 1}


def writer(**options: Any) -> Any:
    task = TransformerLanguageModel(**{**SMALL, **options})
    drawn(task.net)
    task.vocabulary = LETTERS
    return task.double()


class Slow(nn.Module):
    """Without a way to read a prompt at once."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net, self.max_length = net, net.max_length
        self.init_state, self.step = net.init_state, net.step

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_a_prompt_is_read_at_once_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task, seen = writer(), []
    monkeypatch.setattr(
        task.net, "prefill", lambda x, state: seen.append(x.tolist()) or type(task.net).prefill(task.net, x, state)
    )
    steps = []
    monkeypatch.setattr(
        task.net, "step", lambda x, state: steps.append(len(x)) or type(task.net).step(task.net, x, state)
    )
    texts = task.sample(4, prompt="abc", tokens=5, top_k=1)
    assert seen == [[[1, 2, 3]]]
    assert set(steps) == {4}
    assert len(steps) <= 5
    assert len(set(texts)) == 1
    assert texts[0].startswith("abc")
    assert "".join(task.stream(prompt="abc", tokens=5, top_k=1)) == texts[0]
    slow = writer()
    slow.net = Slow(slow.net)
    assert slow.sample(1, prompt="abc", tokens=5, top_k=1) == texts[:1]


def test_a_text_goes_on_as_without_reading_at_once() -> None:
    task, slow = writer(), writer()
    slow.net = Slow(slow.net)
    texts = ["abcdef", "ba", "hhhhh"]
    found, wanted = (one.predict_step(one.batch_of(texts)) for one in (task, slow))
    assert found["continuation"] == wanted["continuation"]
    torch.testing.assert_close(found["log_probability"], wanted["log_probability"])
    x = torch.tensor([[1, 2, 3, 4], [1, 5, 0, 0]])
    assert task.render((x, x))["text"].startswith("abc|")


def test_texts_end_where_positions_do() -> None:
    task = writer(max_length=8)
    assert len(task.sample(1, prompt="abcdefg", top_k=1)[0]) <= 8
    assert max(len(text) for text in task.sample(20, prompt="ab")) == 8
    for options in ({"prompt": "ab", "tokens": 7}, {"prompt": "abcdefgh"}):
        with pytest.raises(ValueError, match="would have 9 tokens, and the net reads 8 at most"):
            task.sample(1, **options)
    for text in ("abcdefgh", "abc", "a"):
        assert len(text + task.predict_step(task.batch_of([text]))["continuation"][0]) <= 8
    mixed = task.predict_step(task.batch_of(["abcdefgh", "ab"]))["continuation"]
    assert mixed[0] == ""
    assert mixed[1] == task.predict_step(task.batch_of(["ab"]))["continuation"][0]
    with pytest.raises(ValueError, match="would have 9 tokens, and the net reads 8 at most"):
        task.batch_of(["abcdefgha"])
    x = torch.full((1, 8), 2)
    assert "|" in task.render((x, x))["text"]
    assert TransformerLanguageModel(**{**SMALL, "max_length": 8}).example_inputs(2)[0].shape == (2, 8)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
def test_a_longer_text_than_the_positions_is_refused(positions: Any) -> None:
    net = TransformerLM(**{**SMALL, "max_length": 6}, positions=positions)
    net(tokens(length=6))
    with pytest.raises(ValueError, match="a text of 7 tokens is longer than the 6 positions of the net"):
        net(tokens(length=7))
    state = net.prefill(tokens(length=6), net.init_state(3))
    with pytest.raises(ValueError, match="a text of 7 tokens"):
        net.step(tokens()[:, 0], state)


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary"])
def test_without_a_limit_any_length_is_read(positions: Any) -> None:
    task = writer(max_length=None, positions=positions)
    assert task.net(tokens(length=300)).isfinite().all()
    assert 24 < max(len(text) for text in task.sample(20, seed=2)) <= 200


# Training ---------------------------------------------------------------------------------------------------------------


def test_tied_weights_stay_one(tmp_path: Path) -> None:
    task = TransformerLanguageModel(**SMALL, lr=0.1)
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(task, datamodule=TextDataModule("abcdefghijk" * 30, context=4, batch_size=2))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    task.save_pretrained(tmp_path / "folder")
    for twin in (
        task,
        copy.deepcopy(task),
        zoo.load(tmp_path / "folder"),
        zoo.load(tmp_path / "model.ckpt"),
        zoo.create_model("transformer_lm", weights=tmp_path / "folder"),
    ):
        assert twin.net.fc.weight is twin.net.embedding.weight
        torch.testing.assert_close(twin.net.fc.weight, task.net.fc.weight)


def test_layer_groups() -> None:
    for form in FORMS.values():
        task = TransformerLanguageModel(**SMALL, **form)
        groups = [["embedding", "positions", "dropout"], ["layers.0"], ["layers.1"], ["norm", "fc"]]
        assert task.layer_groups() == groups
        task.freeze("layers.1")
        free = {name.partition(".")[0] for name, p in task.net.named_parameters() if p.requires_grad}
        assert free == {"layers", "norm", "embedding" if task.net.fc.weight is task.net.embedding.weight else "fc"}


def test_values_are_dropped_in_training_alone() -> None:
    net, x = TransformerLM(**SMALL, dropout=0.25), tokens()
    assert {m.p for m in net.modules() if isinstance(m, nn.Dropout)} == {0.25}
    assert {layer.self_attn.dropout for layer in net.layers} == {0.25}
    assert not torch.equal(net(x), net(x))
    assert torch.equal(net.eval()(x), net(x))
    seen: list[Tensor] = []
    net.dropout.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    net(x)
    torch.testing.assert_close(seen[0], net.embedding.weight[x] + net.positions.weight[:9])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "3 heads do not divide a width of 16"),
        ({"num_kv_heads": 3}, "3 heads of keys and values cannot be shared by 4 heads"),
        ({"width": 12, "positions": "rotary"}, r"the size of a head \(width / num_heads\) must be even, got 3"),
        ({"max_length": None}, "set max_length"),
        ({"num_layers": 0}, "num_layers must be 1 or more, got 0"),
        ({"hidden_dim": 0}, "hidden_dim must be 1 or more, got 0"),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\), got 1.0"),
        ({"vocab_size": 1}, "vocab_size must be 2 or more, got 1"),
        ({"positions": "none"}, "positions must be one of sinusoidal, learned, rotary, got 'none'"),
        ({"norm": "batch"}, "norm must be one of layer, rms, got 'batch'"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerLanguageModel(**{**SMALL, **options})

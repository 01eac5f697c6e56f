"""Language models in the hub's layouts: files and folders as the library transformers writes them, tiny and random."""

import json
from pathlib import Path
from typing import Any

import hub_kit
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import zoo

pytestmark = pytest.mark.filterwarnings("ignore:.*was not checked for damage")

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog"] * 4
X = torch.randint(300, (2, 10), generator=torch.Generator().manual_seed(0))
SIZES = {"vocab_size": 300, "num_layers": 2, "width": 8, "num_heads": 2, "max_length": 32}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    yield from hub_kit.serve(tmp_path, monkeypatch)


def gpt2(**config: Any) -> Any:
    import transformers

    sizes = {"vocab_size": 300, "n_positions": 32, "n_embd": 8, "n_layer": 2, "n_head": 2}
    ends = {"bos_token_id": 299, "eos_token_id": 299}
    torch.manual_seed(1)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**sizes, **ends, **config})).eval()
    for p in model.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return model


def llama(**config: Any) -> Any:
    import transformers

    sizes = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(1)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **heads, **config})).eval()


def tokenizer(size: int = 300) -> Any:
    """A byte-level one, as GPT-2's: its last token ends a text."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=size - 1, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXTS * 3, trainer)
    pieces = made.get_vocab_size()
    made.add_special_tokens([f"<|{i}|>" for i in range(pieces, size - 1)] + ["<|endoftext|>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>")


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(X).logits if hasattr(model(X), "logits") else model(X)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository of the hub on this machine."""
    gpt2().save_pretrained(tmp_path / "hub")
    tokenizer().save_pretrained(tmp_path / "hub")
    return tmp_path / "hub"


# Files ------------------------------------------------------------------------------------------------------------------


def variants(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The forms in which GPT-2's tensors are published."""
    bare = {key.removeprefix("transformer."): tensor for key, tensor in state.items()}
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 32, 32).tril() for i in range(2)}
    older = {f"h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(2)}
    return {
        "as it is": state,
        "without the prefix": bare,
        "with buffers": {**bare, **masks, **older},
        "with the head": {**state, "lm_head.weight": state["transformer.wte.weight"].clone()},
    }


@pytest.mark.parametrize("form", ["as it is", "without the prefix", "with buffers", "with the head"])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_file_of_gpt2(form: str, suffix: str, folder: Path, tmp_path: Path) -> None:
    state, path = variants(load_file(folder / "model.safetensors"))[form], tmp_path / f"model.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    model = zoo.create_model("gpt2", weights=path, **SIZES)
    torch.testing.assert_close(logits(model), logits(gpt2()), rtol=0, atol=1e-5)
    assert model.load_report.complete or form != "as it is"
    assert not model.load_report.missing
    assert not model.load_report.unexpected
    assert model.net.fc.weight is model.net.embedding.weight
    assert model.vocabulary is None
    untied = {"tied": False, **SIZES}
    if form == "with the head":
        assert torch.equal(zoo.create_model("gpt2", weights=path, **untied)(X), model(X))
    else:
        with pytest.raises(ValueError, match=r"1 tensors are missing \(fc.weight\)"):
            zoo.create_model("gpt2", weights=path, **untied)


def test_a_file_of_other_sizes_is_refused(folder: Path, tmp_path: Path) -> None:
    file = folder / "model.safetensors"
    for options, message in (
        ({}, r"embedding.weight is \(300, 8\) there and \(50257, 768\) here"),
        ({**SIZES, "max_length": 64}, r"positions.weight is \(32, 8\) there and \(64, 8\) here"),
        ({**SIZES, "num_layers": 3}, r"12 tensors are missing \(layers.2.self_attn.in_proj_weight\)"),
        ({**SIZES, "num_layers": 1}, r"12 tensors are unknown here \(layers.1.self_attn"),
        ({**SIZES, "num_kv_heads": 1}, r"in_proj_weight is \(24, 8\) there and \(16, 8\) here"),
    ):
        with pytest.raises(ValueError, match=message):
            zoo.create_model("gpt2", weights=file, **options)


def test_a_file_of_llama(tmp_path: Path) -> None:
    other = llama()
    other.save_pretrained(tmp_path)
    sizes = {"vocab_size": 300, "num_layers": 2, "width": 16, "num_heads": 4, "num_kv_heads": 2, "hidden_dim": 20}
    model = zoo.create_model("llama_7b", weights=tmp_path / "model.safetensors", **sizes)
    torch.testing.assert_close(logits(model), logits(other), rtol=0, atol=1e-5)
    assert model.load_report.complete
    state = load_file(tmp_path / "model.safetensors")
    bare = {key.removeprefix("model."): tensor for key, tensor in state.items()}
    bare["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)  # a buffer of older files
    save_file(bare, tmp_path / "bare.safetensors")
    again = zoo.create_model("llama_7b", weights=tmp_path / "bare.safetensors", **sizes)
    assert torch.equal(again(X), model(X))
    del state["model.layers.1.self_attn.k_proj.weight"]
    save_file(state, tmp_path / "damaged.safetensors")
    with pytest.raises(ValueError, match=r"1 tensors are missing \(layers.1.self_attn.in_proj_weight\)"):
        zoo.create_model("llama_7b", weights=tmp_path / "damaged.safetensors", **sizes)


# Folders ----------------------------------------------------------------------------------------------------------------


def test_a_folder_brings_its_sizes_and_its_tokenizer(folder: Path) -> None:
    theirs = tokenizer()
    for model in (zoo.create_model("transformer_lm", weights=folder), zoo.load(folder)):
        torch.testing.assert_close(logits(model), logits(gpt2()), rtol=0, atol=1e-5)
        assert {name: model.hparams[name] for name in SIZES} == SIZES
        assert model.hparams["feed_forward"] == "gelu_tanh"
        assert not model.training
        text = "the cat and the dog"
        assert model.tokenizer.encode(text) == theirs(text)["input_ids"]
        assert model.tokenizer.decode(theirs(text)["input_ids"]) == text
        assert model.tokenizer.end == 299
        assert model.tokenizer.tokens[299] == "<|endoftext|>"
        assert model.tokenizer.encode("<|endoftext|>") != [299]  # a text that names it does not mean it


def test_it_writes_what_transformers_writes(folder: Path) -> None:
    """Greedy, and by a beam: the same tokens after a prompt that begins after the end token."""
    model, other, theirs = zoo.load(folder), gpt2(), tokenizer()
    given = torch.tensor([[299, *theirs("the cat")["input_ids"]]])
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 299}
    (wanted,) = other.generate(given, attention_mask=torch.ones_like(given), **settings).tolist()
    new = wanted[given.shape[1] :]
    new = new[: new.index(299)] if 299 in new else new
    assert model.sample(1, prompt="the cat", tokens=12, top_k=1) == [f"the cat{theirs.decode(new)}"]
    with torch.no_grad():
        found = model.predict_step(model.batch_of(["the cat"]))
    log_probs = torch.log_softmax(other(given).logits[0].detach(), -1)
    wanted_score = sum(float(log_probs[t, token]) for t, token in enumerate(given[0, 1:].tolist()))
    assert float(found["log_probability"]) == pytest.approx(wanted_score, abs=1e-4)


def test_it_becomes_a_folder_of_ours(folder: Path, tmp_path: Path) -> None:
    model = zoo.load(folder)
    model.save_pretrained(tmp_path / "ours")
    again = zoo.load(tmp_path / "ours")
    assert torch.equal(again(X), model(X))
    assert again.vocabulary == model.vocabulary
    assert again.sample(1, prompt="the", seed=3, tokens=5) == model.sample(1, prompt="the", seed=3, tokens=5)


def test_a_folder_of_gpt2_with_settings_of_its_own(tmp_path: Path) -> None:
    theirs = gpt2(layer_norm_epsilon=1e-2, n_inner=12, activation_function="relu", resid_pdrop=0.3)
    theirs.save_pretrained(tmp_path / "hub")
    model = zoo.load(tmp_path / "hub")
    torch.testing.assert_close(logits(model), logits(theirs), rtol=0, atol=1e-5)
    assert [model.hparams[name] for name in ("norm_eps", "hidden_dim", "dropout")] == [1e-2, 12, 0.3]


@pytest.mark.parametrize("large", [False, True])
def test_a_folder_of_llama(large: bool, tmp_path: Path) -> None:
    other = llama(
        rms_norm_eps=1e-2, rope_parameters={"rope_type": "default", "rope_theta": 50.0}, num_key_value_heads=4
    )
    other.save_pretrained(tmp_path, max_shard_size="10KB" if large else "1GB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == large
    model = zoo.load(tmp_path)
    torch.testing.assert_close(logits(model), logits(other), rtol=0, atol=1e-5)
    assert (model.hparams["norm_eps"], model.hparams["rotary_base"]) == (1e-2, 50.0)
    assert (model.hparams["num_kv_heads"], model.vocabulary) == (None, None)
    if large:
        next(tmp_path.glob("model-00002*")).unlink()
        with pytest.raises(FileNotFoundError, match=r"has no model-00002.*, which model.safetensors.index.json names"):
            zoo.load(tmp_path)


def test_an_early_config_names_no_activation(folder: Path) -> None:
    """It is then that of GPT-2, as in transformers."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if key != "activation_function"}))
    torch.testing.assert_close(logits(zoo.load(folder)), logits(gpt2()), rtol=0, atol=1e-5)


def test_a_preset_that_is_another_net_is_refused(folder: Path, tmp_path: Path) -> None:
    """With the sizes that differ, and what no shape of a tensor tells."""
    with pytest.raises(ValueError, match=r"is a net with .*, and gpt2 has .*: take 'transformer_lm'"):
        zoo.create_model("gpt2", weights=folder)
    assert zoo.create_model("gpt2", weights=folder, **SIZES).tokenizer.size == 300
    llama(rms_norm_eps=1e-5).save_pretrained(tmp_path / "llama")
    sizes = {"vocab_size": 300, "num_layers": 2, "width": 16, "num_heads": 4, "hidden_dim": 20}
    with pytest.raises(ValueError, match="is a net with norm_eps=1e-05, and llama_7b has 1e-06: take 'transformer_lm'"):
        zoo.create_model("llama_7b", weights=tmp_path / "llama", **sizes)
    model = zoo.create_model("llama_7b", weights=tmp_path / "llama", **sizes, norm_eps=1e-5)
    assert model.hparams["num_kv_heads"] == 2


def test_a_repository_of_the_hub(hub: dict[str, dict[str, bytes]], folder: Path) -> None:
    hub["someone/tiny-gpt2"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub["someone/tiny-gpt2"]["pytorch_model.bin"] = b"not wanted"
    model = zoo.create_model("transformer_lm", weights="someone/tiny-gpt2")
    torch.testing.assert_close(logits(model), logits(gpt2()), rtol=0, atol=1e-5)
    assert model.tokenizer.size == 300
    assert torch.equal(zoo.load("someone/tiny-gpt2")(X), model(X))


# What cannot be read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (
            gpt2,
            {"scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx is True, which zoo.TransformerLM",
        ),
        (gpt2, {"scale_attn_weights": False}, "scale_attn_weights is False, which zoo.TransformerLM does not have"),
        (gpt2, {"activation_function": "tanh"}, "activation_function must be one of gelu_new, .*, got 'tanh'"),
        (gpt2, {"n_layer": None}, "num_layers must be int, got None"),
        (gpt2, {"n_head": 3}, "3 heads do not divide a width of 8"),
        (
            llama,
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
            "rope_type must be 'default', got 'linear'",
        ),
        (
            llama,
            {"rope_scaling": {"type": "dynamic"}, "rope_parameters": None},
            "rope_type must be 'default', got 'dynamic'",
        ),
        (
            llama,  # as transformers reads them, scaling comes before the parameters that it is beside
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_type must be 'default', got 'linear'",
        ),
        (llama, {"head_dim": 8}, "head_dim must be hidden_size / num_attention_heads, 4, got 8"),
        (llama, {"hidden_act": "gelu"}, "hidden_act must be 'silu', got 'gelu'"),
        (llama, {"attention_bias": True}, "attention_bias is True and mlp_bias is not"),
    ],
)
def test_a_net_that_is_none_of_ours_is_refused(make: Any, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as error:
        zoo.load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_damaged_folders_are_refused(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in config.items() if k != "n_embd"}))
    with pytest.raises(ValueError, match="has no 'n_embd': it is no config of a gpt2 that transformers wrote"):
        zoo.load(folder)
    path.write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-50])
    with pytest.raises(ValueError, match="is damaged or cut off"):
        zoo.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors: save the model with transformers"):
        zoo.load(folder)
    path.write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(FileNotFoundError, match="so it is no folder that save_pretrained wrote"):
        zoo.load(folder)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model": {"type": "Unigram", "vocab": []}}, "it is no byte-level BPE"),
        ({"pre_tokenizer": {"type": "Metaspace"}, "decoder": None}, "it is no byte-level BPE"),
        ({"added_tokens": []}, "it has 2.. tokens, and the net 300"),
    ],
)
def test_a_tokenizer_that_is_none_of_ours_is_left_aside(change: dict[str, Any], why: str, folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.warns(UserWarning, match=f"is left aside, so the model can neither read nor write text: {why}"):
        model = zoo.load(folder)
    assert model.vocabulary is None

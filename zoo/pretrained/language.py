"""Language models in the layouts of the Hugging Face hub: GPT-2's and Llama's files, as ``transformers`` writes them."""

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.pretrained.files import read_tensors, warn_unchecked
from zoo.pretrained.schema import read_json

CONFIG, WEIGHTS, INDEX, TOKENIZER = "config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"
END = "<|endoftext|>"
_GPT2 = {
    "attn.c_attn.weight": "self_attn.in_proj_weight",
    "attn.c_attn.bias": "self_attn.in_proj_bias",
    "attn.c_proj": "self_attn.out_proj",
    "mlp.c_fc": "linear1",
    "mlp.c_proj": "linear2",
    "ln_1": "norm1",
    "ln_2": "norm2",
    "transformer.wte": "embedding",
    "transformer.wpe": "positions",
    "transformer.ln_f": "norm",
    "lm_head": "fc",
}
_LLAMA = {
    "self_attn.o_proj": "self_attn.out_proj",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "linear1",
    "mlp.down_proj": "linear2",
    "input_layernorm": "norm1",
    "post_attention_layernorm": "norm2",
    "model.embed_tokens": "embedding",
    "model.norm": "norm",
    "lm_head": "fc",
}
_BUFFERS = re.compile(r"\.attn\.(bias|masked_bias)$|rotary_emb\.inv_freq$")  # masks and angles, which are computed
_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of GPT-2's or Llama's layout as :class:`zoo.transformer.TransformerLM` has them; others as they are.

    Names may have the prefix of the whole model ("transformer.", "model."), or, of the part below the head, none. GPT-2's linear
    layers are stored transposed. Llama's queries, keys and values become one matrix.
    """
    if any(key.endswith("h.0.attn.c_attn.weight") for key in state):
        top, names = "transformer", _GPT2
    elif any(key.endswith("layers.0.self_attn.q_proj.weight") for key in state):
        top, names = "model", _LLAMA
    else:
        return dict(state)
    whole = {k if k.startswith((f"{top}.", "lm_head.")) else f"{top}.{k}": t for k, t in state.items()}
    whole = {key: tensor for key, tensor in whole.items() if not _BUFFERS.search(key)}
    if top == "model":
        whole = _stacked(whole)
    found: dict[str, Tensor] = {}
    for key, tensor in whole.items():
        name, is_linear = key, top == "transformer" and ".c_" in key and tensor.ndim == 2
        for theirs, ours in names.items():
            name = re.sub(rf"(^|\.){re.escape(theirs)}(?=\.|$)", rf"\g<1>{ours}", name)
        name = re.sub(r"^(transformer\.h|model\.layers)\.", "layers.", name)
        found[name] = tensor.t().contiguous() if is_linear else tensor  # (in, out) -> (out, in)
    return found


def _stacked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of each layer as one matrix (and bias), as ``nn.MultiheadAttention`` has them."""
    found = {key: tensor for key, tensor in state.items() if not re.search(r"\.[qkv]_proj\.", key)}
    for key in state:
        if ".q_proj." in key:
            parts = [state[name] for part in "qkv" if (name := key.replace(".q_proj.", f".{part}_proj.")) in state]
            if len(parts) == 3 and len({part.shape[1:] for part in parts}) == 1:
                found[key.replace("q_proj.", "in_proj_")] = torch.cat(parts)
            else:  # damaged: the name that is left is refused as unknown
                found[key] = state[key]
    return found


def is_layout(folder: Path) -> bool:
    """Whether a folder holds a language model of the hub: its config says so, and none of lightning-zoo's own entries is in it."""
    path = folder / CONFIG
    if not path.is_file():
        return False
    try:
        config = read_json(path)
    except ValueError:
        return False
    return "model" not in config and config.get("model_type") in ("gpt2", "llama")


def read_layout(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any] | None]:
    """Read a folder of the hub.

    Returns:
        Tensors of the net; arguments of :class:`zoo.TransformerLanguageModel`; the vocabulary, None if there is none to be read.

    Raises:
        FileNotFoundError: There are no weights.
        ValueError: A file is damaged, or the config asks for what the net does not have.
    """
    path = folder / CONFIG
    config = read_json(path)
    try:
        arguments = (_of_gpt2 if config["model_type"] == "gpt2" else _of_llama)(config)
    except KeyError as error:
        raise ValueError(
            f"{path} has no {error}: it is no config of a {config['model_type']} that transformers wrote"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    state: dict[str, Tensor] = {}
    for file in _files(folder):
        state |= read_tensors(file)
    warn_unchecked(folder / WEIGHTS, "the format has no checksums; a folder that save_pretrained wrote has one")
    return renamed(state), arguments, _vocabulary(folder, config, arguments["vocab_size"])


def _files(folder: Path) -> list[Path]:
    """The files of the weights: one, or those that the index of a large model names."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}: save the model with transformers' save_pretrained")
    shards = read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ValueError(f"{folder / INDEX} names no files: copy or download it again")
    files = [folder / name for name in sorted(set(shards.values()))]
    for file in files:
        if file.parent != folder or not file.is_file():
            raise FileNotFoundError(f"{folder} has no {file.name}, which {INDEX} names: copy or download it again")
    return files


def _of_gpt2(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the net that a GPT-2 config describes."""
    wanted = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise ValueError(f"{name} is {config[name]}, which zoo.TransformerLM does not have")
    if (activation := config.get("activation_function", "gelu_new")) not in _ACTIVATIONS:
        raise ValueError(f"activation_function must be one of {', '.join(_ACTIVATIONS)}, got {activation!r}")
    return {
        "vocab_size": config["vocab_size"],
        "width": config["n_embd"],
        "num_layers": config["n_layer"],
        "num_heads": config["n_head"],
        "num_kv_heads": None,
        "hidden_dim": config.get("n_inner"),
        "max_length": config["n_positions"],
        "positions": "learned",
        "norm": "layer",
        "feed_forward": _ACTIVATIONS[activation],
        "qk_norm": False,
        "tied": config.get("tie_word_embeddings", True),
        "bias": True,
        "dropout": config.get("resid_pdrop", 0.1),
        "norm_eps": config["layer_norm_epsilon"],
    }


def _of_llama(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the net that a Llama config describes."""
    heads, width, biased = config["num_attention_heads"], config["hidden_size"], config.get("attention_bias", False)
    # transformers takes rope_scaling, which older versions wrote, before rope_parameters
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if (kind := rope.get("rope_type", rope.get("type", "default"))) != "default":
        raise ValueError(
            f"rope_type must be 'default', got {kind!r}: zoo.TransformerLM does not scale rotary positions"
        )
    if config.get("head_dim") not in (None, width // heads):
        raise ValueError(
            f"head_dim must be hidden_size / num_attention_heads, {width // heads}, got {config['head_dim']}"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act must be 'silu', got {config['hidden_act']!r}")
    if config.get("mlp_bias", False) != biased:
        raise ValueError(f"attention_bias is {biased} and mlp_bias is not: zoo.TransformerLM has one switch for both")
    kv_heads = config.get("num_key_value_heads")
    return {
        "vocab_size": config["vocab_size"],
        "width": width,
        "num_layers": config["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": None if kv_heads == heads else kv_heads,
        "hidden_dim": config["intermediate_size"],
        "max_length": None,
        "positions": "rotary",
        "norm": "rms",
        "feed_forward": "swiglu",
        "qk_norm": False,
        "tied": config.get("tie_word_embeddings", False),
        "bias": biased,
        "dropout": 0.0,
        "norm_eps": config["rms_norm_eps"],
        "rotary_base": rope.get("rope_theta", config.get("rope_theta", 10000.0)),
    }


def _vocabulary(folder: Path, config: Mapping[str, Any], size: int) -> dict[str, Any] | None:
    """The vocabulary of a folder's tokenizer, see :class:`zoo.blocks.Vocabulary`; None if there is none that it can be."""
    path = folder / TOKENIZER
    if not path.is_file():
        return None
    content = read_json(path)
    model, added = content.get("model"), content.get("added_tokens")
    indices = dict(model["vocab"]) if isinstance(model, dict) and isinstance(model.get("vocab"), dict) else {}
    indices |= {token["content"]: token["id"] for token in added or [] if isinstance(token, dict)}
    tokens = sorted(indices, key=lambda token: indices[token])
    reason = None
    splits = json.dumps([content.get("pre_tokenizer"), content.get("decoder")])
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or '"ByteLevel"' not in splits:
        reason = "it is no byte-level BPE"
    elif [indices[token] for token in tokens] != list(range(size)):
        reason = f"it has {len(tokens)} tokens, and the net {size}"
    if reason is not None:
        warnings.warn(f"{path} is left aside, so the model can neither read nor write text: {reason}", stacklevel=2)
        return None
    end = config.get("eos_token_id")
    end = indices.get(END, end if isinstance(end, int) and 0 <= end < size else None)
    return {
        "kind": "bpe",
        "tokens": tokens,
        "padding": None,
        "end": end,
        "tokenizer": path.read_text(encoding="utf-8"),
    }

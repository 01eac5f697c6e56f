"""Suggestions for misspelled words."""

import difflib
import re
from collections.abc import Iterable

# name -> what other libraries and people call it
OTHER_NAMES = {
    "lr": "learning_rate learningrate eta step_size",
    "weight_decay": "wd l2 l2_penalty",
    "optimizer_args": "momentum betas nesterov dampening",
    "optimizer": "optim optimiser",
    "max_epochs": "epochs epoch num_epochs n_epochs",
    "epochs": "epoch num_epochs n_epochs max_epochs",
    "max_steps": "steps num_steps max_iter iterations",
    "batch_size": "batch bs batchsize train_batch_size",
    "num_workers": "workers",
    "seed_everything": "seed random_seed random_state",
    "split_seed": "seed random_state",
    "devices": "gpus num_gpus num_processes processes",
    "accelerator": "device",
    "gradient_clip_val": "clip grad_clip clip_grad max_grad_norm",
    "accumulate_grad_batches": "accumulate gradient_accumulation_steps",
    "val_fraction": "validation_split validation_fraction val_split",
    "test_fraction": "test_split test_size",
    "num_classes": "classes n_classes",
    "in_channels": "channels num_channels",
    "width": "hidden hidden_size",
    "widths": "hidden hidden_size layers",
    "depth": "layers num_layers",
    "size": "image_size img_size",
    "weights": "pretrained",
    "root": "path data_dir folder",
    "config": "recipe",
    "ckpt": "checkpoint model_path ckpt_path",
    "resume": "continue ckpt checkpoint ckpt_path",
    "runs": "output_dir log_dir save_dir",
    "output": "out",
    "count": "n num num_samples",
    "top": "topk top_k",
    "fit": "train run",
    "test": "eval evaluate",
    "validate": "val",
    "predict": "infer inference classify",
    "sample": "generate",
    "recipes": "list ls",
}


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is closest to ``word``; None without a close one.

    Case, ``-`` for ``_`` and leading dashes are ignored. A word may be the last part of a known one (``lr`` of ``model.lr``,
    ``lenet_digits`` of ``cnn/lenet_digits``) or any other, or another library's name for it (``learning_rate`` for ``lr``).
    """
    words = {_plain(name): name for name in reversed([*known])}
    tails = {_tail(plain): words[plain] for plain in words}
    word = _plain(word)
    if word in words:
        return words[word]
    if _tail(word) in tails:
        return tails[_tail(word)]
    for name, others in OTHER_NAMES.items():
        if name in tails and _tail(word) in others.split():
            return tails[name]
    # a long prefix in common ("trainer.") does not make options alike
    for candidates, tried, alike in ((words, word, 0.85 if "." in word else 0.6), (tails, _tail(word), 0.6)):
        if close := difflib.get_close_matches(tried, candidates, n=1, cutoff=alike):
            return candidates[close[0]]
    containing = [plain for plain in words if len(word) > 3 and word in plain]
    return words[min(containing, key=len)] if containing else None


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` with the closest known word, or an empty string, see :func:`closest`.

    Example:
        >>> suggest("lenet_digit", ["cnn/lenet_digits", "linear/mlp_xor"])
        ", did you mean 'cnn/lenet_digits'?"
        >>> suggest("--learning-rate", ["--model.lr", "--data.batch_size"])
        ", did you mean '--model.lr'?"
    """
    name = closest(str(word), known)
    return "" if name is None else f", did you mean {name!r}?"


def _plain(word: str) -> str:
    return word.lstrip("-").lower().replace("-", "_")


def _tail(word: str) -> str:
    return re.split(r"[/.]", word)[-1]

"""``zoo export``: a run's best model as a file, and what is refused."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from cli_kit import Zoo, assert_one_line


def test_the_best_model_of_a_run_as_onnx(zoo: Zoo, trained: Path) -> None:
    result = zoo("export", trained, "-o", "out/digits.onnx")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("out/digits.onnx: SoftmaxRegressionClassifier, ")
    state = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    w, b, mean, std = (state[name].double().numpy() for name in ("net.fc.weight", "net.fc.bias", "mean", "std"))
    x = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    logits = ((x.astype(np.float64) - mean) / std).reshape(5, -1) @ w.T + b
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    session = onnxruntime.InferenceSession("out/digits.onnx")
    np.testing.assert_allclose(session.run(["probabilities"], {"x": x})[0], p, atol=1e-6)
    assert '"9"' in session.get_modelmeta().custom_metadata_map["class_names"]


@pytest.mark.parametrize(("format", "name"), [("torch-export", "model.pt2"), ("safetensors", "model.safetensors")])
def test_other_formats_have_default_names(zoo: Zoo, format: str, name: str) -> None:
    result = zoo("export", "lenet5_digits", "--format", format)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"{name}: LeNetClassifier, 0.")
    assert Path(name).stat().st_size > 60_000 * 4


def test_what_is_refused(zoo: Zoo, trained: Path) -> None:
    assert_one_line(zoo("export", trained, "--format", "onx"), "format must be one of onnx", "onnx")
    assert_one_line(zoo("export", trained, "-o", "model.pb"), "model.pb", ".onnx (onnx), .pt2")
    assert_one_line(zoo("export", trained, "-o", "."), "is a folder")
    assert_one_line(zoo("export", "nothing.ckpt"), "no such checkpoint or folder: nothing.ckpt")
    assert_one_line(zoo("export"), "MODEL")
    assert not list(Path().glob("model*"))

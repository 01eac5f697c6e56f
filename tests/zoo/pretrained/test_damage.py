"""Damage of files is noticed: every flipped bit of a tensor, a write that was cut off, two files that do not belong together."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.pretrained import folder as folders

ARGUMENTS: dict[str, Any] = {"in_features": 6, "widths": [4]}


def make(**arguments: Any) -> zoo.Model:
    return zoo.create_model("mlp_regression", **ARGUMENTS, **arguments)


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def bits_of(path: Path, count: int) -> list[int]:
    """The first, the last, and others anywhere in a file."""
    last = 8 * path.stat().st_size - 1
    return [0, last, *random.Random(0).sample(range(1, last), count)]


def test_every_flipped_bit_of_the_tensors_is_noticed(tmp_path: Path) -> None:
    folder = make().save_pretrained(tmp_path / "model")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for bit in bits_of(path, 60):
        flip(path, bit)
        for use in (zoo.load, lambda folder: make(weights=folder)):
            with pytest.raises(
                ValueError, match=r"model\.safetensors is damaged: its sha256 is \w{64}, expected \w{64}: copy"
            ):
                use(folder)
        path.write_bytes(whole)
    zoo.load(folder)


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin"])
def test_flipped_bits_of_a_file_of_weights_are_noticed(tmp_path: Path, suffix: str) -> None:
    path, model = tmp_path / f"net.{suffix}", make()
    torch.save(model.net.state_dict(), path)
    whole = path.read_bytes()
    start = whole.index(model.net.state_dict()["layers.0.linear.weight"].numpy().tobytes())
    for bit in range(8 * start, 8 * (start + 96), 31):
        flip(path, bit)
        torch.load(path)  # torch takes it silently
        with pytest.raises(ValueError, match=rf"net\.{suffix} is damaged: .* does not match its checksum"):
            make(weights=path)
        path.write_bytes(whole)
    for bit in bits_of(
        path, 100
    ):  # padding, names and times of the archive are no tensors: whatever loads has equal tensors
        flip(path, bit)
        try:
            loaded = make(weights=path).net.state_dict()
        except ValueError as error:
            assert f"net.{suffix}" in str(error)  # noqa: PT017
        else:
            assert all(torch.equal(loaded[name], tensor) for name, tensor in model.net.state_dict().items())
        path.write_bytes(whole)


def test_files_without_a_checksum_say_so(tmp_path: Path) -> None:
    folder, model = tmp_path / "model", make()
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["sha256"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.warns(
        UserWarning, match=r"model\.safetensors was not checked for damage: config\.json has no sha256 of it"
    ):
        zoo.load(folder)
    torch.save(model.net.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.warns(UserWarning, match=r"old\.pth was not checked for damage: the format before torch 1\.6 has no"):
        make(weights=tmp_path / "old.pth")


def test_huge_files_can_be_mapped_without_reading_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, model = tmp_path / "model", make()
    model.save_pretrained(folder)
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    torch.save({**checkpoint, "zoo": {"model": "mlp_regression"}}, tmp_path / "model.ckpt")

    def read(*args: Any) -> None:
        raise AssertionError("the file is read")

    monkeypatch.setattr("zoo.pretrained.files.sha256", read)
    monkeypatch.setattr("zoo.pretrained.files._check_sums", read)
    for path in (folder, tmp_path / "model.ckpt"):
        assert zoo.load(path, verify=False).load_report.complete
        with pytest.raises(AssertionError, match="is read"):
            zoo.load(path)


@pytest.mark.parametrize("step", range(4))
def test_config_and_tensors_never_disagree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """A kill before any step of the replacement leaves the old model, the new one, or no config; never one's with the other's."""
    folder = tmp_path / "model"
    old = make(lr=0.25)
    old.save_pretrained(folder)
    seen = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if folder in (Path(args[0]).parent,) and len(seen) == step:
                shutil.copytree(folder, tmp_path / "killed")
            seen.append(args)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "replace", watched(os.replace))
    monkeypatch.setattr(Path, "unlink", watched(Path.unlink))
    new = make(lr=0.5)
    new.save_pretrained(folder)
    monkeypatch.undo()
    assert len(seen) == 4
    if step == 0:
        found = zoo.load(tmp_path / "killed")
        assert found.hparams["lr"] == 0.25
        assert torch.equal(
            found.net.state_dict()["layers.0.linear.weight"], old.net.state_dict()["layers.0.linear.weight"]
        )
    else:
        with pytest.raises(
            FileNotFoundError, match=r"has no config\.json: writing it was cut off, save the model again"
        ):
            zoo.load(tmp_path / "killed")
    assert torch.equal(
        zoo.load(folder).net.state_dict()["layers.0.linear.weight"], new.net.state_dict()["layers.0.linear.weight"]
    )


def test_a_failed_write_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(lr=0.25).save_pretrained(tmp_path / "model")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("save_file", "_card"):
        with monkeypatch.context() as patch:
            patch.setattr(folders, name, full)
            with pytest.raises(OSError, match="No space left"):
                make(lr=0.5).save_pretrained(folder)
        assert zoo.load(folder).hparams["lr"] == 0.25
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]

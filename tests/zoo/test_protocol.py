"""The protocols of modules: the zoo's tasks meet them, a module of one's own may, and callbacks ask for nothing more."""

import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch import LightningModule
from torch import nn

import callbacks
import zoo
from zoo.protocol import Decodable, Incremental, TrainableModule, ZooModule

ROOT = Path(__file__).parents[2]
OPTIONAL = {
    "layer_groups",
    "group_of",
    "frozen",
    "freeze",
    "render",
    "monitor",
    "class_names",
    "expected_initial_loss",
    "example_inputs",
}


def members(protocol: type) -> set[str]:
    bases = [base for base in protocol.__mro__ if getattr(base, "_is_protocol", False)]
    return {name for base in bases for name in vars(base) if not name.startswith("_")}


@pytest.mark.parametrize("name", ["lenet5", "mlp_regression", "unet", "vae_mlp", "gan_mlp", "autoencoder_linear"])
def test_tasks_meet_the_protocol(name: str) -> None:
    assert isinstance(zoo.create_model(name), ZooModule)


def test_any_lightning_module_has_what_is_required() -> None:
    assert isinstance(LightningModule(), TrainableModule)
    assert not isinstance(nn.Linear(1, 1), TrainableModule)
    assert not isinstance(LightningModule(), ZooModule)
    assert members(ZooModule) - members(TrainableModule) == OPTIONAL


@pytest.mark.parametrize("member", sorted(OPTIONAL))
def test_each_member_is_asked_for(member: str) -> None:
    offered = {name: None if name == "class_names" else (lambda self: 0) for name in OPTIONAL}
    full, short = (type("Own", (LightningModule,), o) for o in (offered, {k: offered[k] for k in OPTIONAL - {member}}))
    assert isinstance(full(), ZooModule)
    assert isinstance(short(), ZooModule) == hasattr(LightningModule, member)


def test_callbacks_ask_for_nothing_more() -> None:
    asked = members(callbacks.Freezable) | members(callbacks.Renderable)
    assert asked <= members(ZooModule)
    assert members(callbacks.Sampleable) == {"sample"}
    documented = zoo.protocol.__doc__ or ""
    for name in asked | {"sample"}:
        assert f"``{name}" in documented, f"zoo/protocol.py does not tell of {name}"


def test_a_stepwise_net() -> None:
    class Net(nn.Module):
        def init_state(self, batch_size: int) -> None: ...
        def step(self, x_t: object, state: object) -> tuple[object, object]:
            return x_t, state

    assert isinstance(Net(), Incremental)
    assert not isinstance(nn.GRU(1, 1), Incremental)
    assert not isinstance(Net(), Decodable)


def test_a_decodable_net() -> None:
    """Three methods, and no more, are what decoding asks for."""

    class Net(nn.Module):
        def init_state(self, batch_size: int) -> None: ...
        def step(self, x_t: object, state: object) -> tuple[object, object]:
            return x_t, state

        def reorder_state(self, state: object, index: object) -> object:
            return state

    assert isinstance(Net(), Decodable)
    assert members(Decodable) == {"init_state", "step", "reorder_state"}


USER_FILE = """
import callbacks, zoo
from lightning.pytorch import LightningModule

def tasks(task: zoo.Task, sampled: zoo.GAN, own: LightningModule) -> None:
    a: zoo.ZooModule = task
    b: callbacks.Freezable = task
    c: callbacks.Renderable = task
    d: callbacks.Sampleable = sampled
    e: zoo.TrainableModule = own
    f: callbacks.Freezable = a
    g: zoo.ZooModule = own
"""


@pytest.mark.slow
def test_a_type_checker_agrees(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER_FILE)
    command = [sys.executable, "-m", "mypy", "--config-file", "", "--ignore-missing-imports", str(tmp_path / "user.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    errors = [line.partition("user.py:")[2] for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1, done.stdout
    assert errors[0].startswith("12: error: Incompatible types in assignment")

"""What a task has beside its net: through a folder and a checkpoint, in the optimizer, in freezing and in ``weights=``."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import quiet_trainer
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo import registry
from zoo.tasks import ClassificationTask

X, Y = torch.linspace(-1, 1, 8 * 6).view(8, 6), torch.arange(8)
LATER = ("projector", "teacher", "temperature", "center", "seen", "used")  # what Distillation has beside its net


class Encoder(nn.Module):
    """Has a table, in the state dict or not, and a matrix that is never trained."""

    def __init__(self, width: int, persistent: bool = False) -> None:
        super().__init__()
        self.register_buffer("table", torch.linspace(0, 1, 6).square(), persistent=persistent)
        self.fixed = nn.Parameter(torch.rand(6, 6), requires_grad=False)
        self.body = nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.Tanh())
        self.fc = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body((x + self.table) @ self.fixed))


class Distillation(zoo.Task):
    """A net, a projector and a temperature are trained towards a teacher that is only kept."""

    trained_parts = ("net", "projector", "temperature")

    def __init__(self, width: int = 5, **task: Any) -> None:
        super().__init__(Encoder(width), **task)

    def build_parts(self) -> None:
        self.projector = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)
        self.temperature = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("center", torch.full((4,), 1 / 3, dtype=torch.float64))
        self.register_buffer("seen", torch.tensor(2**40 + 1))
        self.register_buffer("used", torch.tensor([True, False]))

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int]:
        x = self.standardize(batch[0])
        wanted = (self.teacher(x) - self.center).float()
        loss = (self.net(x) - wanted).square().mean() + (self.projector(self.net(x)) / self.temperature).square().mean()
        return loss, {"loss": loss}, len(x)


class PersistentDistillation(Distillation):
    """One that can be built on the meta device: all its tensors are in the state dict."""

    def __init__(self, width: int = 5, **task: Any) -> None:
        super(Distillation, self).__init__(Encoder(width, persistent=True), **task)


class DistillationSetLater(Distillation):
    """The same, with its parts set after the parent's constructor, as people write it."""

    def __init__(self, width: int = 5, **task: Any) -> None:
        super().__init__(width, **task)
        super().build_parts()

    def build_parts(self) -> None: ...


CLASSES = {
    "distillation": Distillation,
    "persistent_distillation": PersistentDistillation,
    "distillation_set_later": DistillationSetLater,
}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    for name, cls in CLASSES.items():
        zoo.register(name, cls)


@pytest.fixture(params=CLASSES)
def task(request: pytest.FixtureRequest) -> Any:
    return fitted(zoo.create_model(request.param, lr=0.01))


def fit(task: Any) -> Any:
    data = DataLoader(TensorDataset(X, Y), 4)
    trainer = quiet_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(task, data, data)
    return trainer


def fitted(task: Any) -> Any:
    """Train it, so that nothing has the value that the constructor gives it."""
    for name, buffer in task.teacher.named_buffers():
        if buffer.is_floating_point() and name != "table":
            buffer.add_(0.25)
    task.center.mul_(torch.pi)
    task.seen.add_(1)
    task.used.logical_not_()
    fit(task)
    return task


def by_folder(task: Any, folder: Path) -> Any:
    return zoo.load(task.save_pretrained(folder / "model"))


def by_checkpoint(task: Any, folder: Path) -> Any:
    task.trainer.save_checkpoint(folder / "model.ckpt")
    return zoo.load(folder / "model.ckpt")


def by_lightning(task: Any, folder: Path) -> Any:
    task.trainer.save_checkpoint(folder / "model.ckpt")
    return type(task).load_from_checkpoint(folder / "model.ckpt", weights_only=True)


WAYS = pytest.mark.parametrize("way", [by_folder, by_checkpoint, by_lightning])


def everything(model: Any) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def own_values(model: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in everything(model).items()}


# Saved and loaded ------------------------------------------------------------------------------------------------------


@WAYS
def test_all_comes_back_with_values_types_and_gradients(way: Callable, task: Any, tmp_path: Path) -> None:
    again = way(task, tmp_path)
    assert type(again) is type(task)
    wanted, got = everything(task), everything(again)
    assert {"net.table", "teacher.fc.weight", "projector.0.bias", "temperature", *LATER[3:]} <= wanted.keys()
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(got[name], value), name
        assert got[name].dtype == value.dtype, name
        assert got[name].requires_grad == value.requires_grad, name
    assert {got[name].dtype for name in LATER[3:]} == {torch.float64, torch.int64, torch.bool}
    assert not again.net.fixed.requires_grad
    assert not any(p.requires_grad for p in again.teacher.parameters())
    assert torch.equal(again.eval().net(X), task.eval().net(X))
    fit(again.train())


def test_a_folder_holds_the_state_dict_and_plain_data(task: Any, tmp_path: Path) -> None:
    folder = task.save_pretrained(tmp_path / "model")
    with safe_open(folder / "model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    state = task.state_dict()
    assert ("net.table" in state) == isinstance(task, PersistentDistillation)
    assert stored.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(stored[name], value), name
        assert stored[name].dtype == value.dtype, name
    config = json.loads((folder / "config.json").read_text())
    assert config["hparams"] == dict(task.hparams)
    assert not {"mean", "std", "center", "temperature"} & config.keys()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("path", Path("data"), r"hparams\.extra\.path holds plain data .*, got a PosixPath"),
        ("levels", [1, {2}], r"hparams\.extra\.levels\[1\] holds plain data .*, got a set"),
        ("rate", torch.tensor(0.1), r"hparams\.extra\.rate holds plain data .*, got a Tensor"),
        ("names", {3: "cat"}, r"hparams\.extra\.names holds plain data, its keys must be text, got 3: write '3'"),
    ],
)
def test_what_is_no_plain_data_is_refused_before_anything_is_written(
    name: str, value: Any, message: str, task: Any, tmp_path: Path
) -> None:
    task.hparams["extra"] = {name: value}
    with pytest.raises(TypeError, match=message):
        task.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_state_that_is_no_tensor_is_refused(task: Any, tmp_path: Path) -> None:
    class Counting(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"steps": 3}

        def set_extra_state(self, state: Any) -> None: ...

    task.projector = Counting(4, 3)
    with pytest.raises(TypeError, match=r"tensors only, got a dict for 'projector\._extra_state': keep it as a buffer"):
        task.save_pretrained(tmp_path / "model")


def test_values_that_are_computed_while_a_model_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual ways to make them, none of which works without values: attributes, lists of tensors, numbers, arrays."""

    class Computed(nn.Linear):
        def __init__(self, kind: str) -> None:
            super().__init__(6, 4)
            rates = torch.linspace(0, 0.3, 4)
            made: dict[str, Callable[[], Any]] = {
                "attribute": lambda: rates,
                "list": lambda: [rates, {"twice": 2 * rates}],
                "numbers": rates.tolist,
                "array": rates.numpy,
                "branch": lambda: 1.0 if rates[1] > 0 else 0.0,
            }
            self.rates = made[kind]()

    class Task(zoo.Task):
        def __init__(self, kind: str, **task: Any) -> None:
            super().__init__(Computed(kind), **task)

    zoo.register("computed", Task)
    for kind in ("attribute", "list", "numbers", "array", "branch"):
        task = Task(kind)
        path = task.save_pretrained(tmp_path / kind)
        before = torch.get_rng_state()
        again = zoo.load(path)
        assert torch.equal(torch.get_rng_state(), before)
        assert str(again.net.rates) == str(task.net.rates)
        created = zoo.create_model("computed", weights=path, kind=kind)
        for model in (again, created):
            assert torch.equal(model.net.weight, task.net.weight)
            assert str(model.net.rates) == str(task.net.rates)


@pytest.mark.parametrize(("name", "times"), [("persistent_distillation", 1), ("distillation", 2)])
def test_a_model_is_built_for_real_only_where_that_is_needed(
    name: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = CLASSES[name]().save_pretrained(tmp_path / "m")
    devices = []
    original = Encoder.__init__

    def recorded(self: Encoder, *args: Any, **kwargs: Any) -> None:
        devices.append(torch.get_default_device().type)
        original(self, *args, **kwargs)

    monkeypatch.setattr(Encoder, "__init__", recorded)
    for load in (zoo.load, lambda path: zoo.create_model(name, weights=path)):
        devices.clear()
        load(path)
        assert devices == ["meta", "cpu"][:times]


# Trained ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_every_trained_part_is_in_the_optimizer_once_and_changes(layer_decay: float) -> None:
    task: Any = Distillation(lr=0.01, weight_decay=0.1, layer_decay=layer_decay)
    before = own_values(task)
    (optimizer,) = fit(task).optimizers
    held = [p for group in optimizer.param_groups for p in group["params"]]
    names = {id(p): name for name, p in task.named_parameters()}
    assert sorted(names[id(p)] for p in held) == sorted(n for n in names.values() if not n.startswith("teacher."))
    places = {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    assert places["projector.0.weight"]["weight_decay"] == 0.1
    assert places["temperature"]["weight_decay"] == places["projector.0.bias"]["weight_decay"] == 0
    rates = [places[name]["lr"] for name in ("net.body.0.weight", "net.fc.weight", "projector.0.weight", "temperature")]
    assert rates == pytest.approx([0.01 * layer_decay, 0.01, 0.01, 0.01])
    changed = {name for name, p in task.named_parameters() if not torch.equal(p, before[name])}
    trained = {"temperature", "projector.0.weight", "projector.0.bias", "net.fc.weight", "net.fc.bias"}
    assert trained | {"net.body.0.weight", "net.body.1.weight", "net.body.1.bias"} <= changed
    assert not any(name.startswith("teacher.") or name == "net.fixed" for name in changed)


def test_trained_parts_are_the_layer_groups_above_the_nets() -> None:
    task: Any = Distillation(lr=0.01)
    groups = [["fixed", "body.0", "body.1", "body.2"], ["fc"], ["projector"], ["temperature"]]
    assert task.layer_groups() == groups
    assert [task.group_of(name) for name in ("all", "head", "projector", "projector.0", "temperature")] == [
        0,
        1,
        2,
        2,
        3,
    ]
    with pytest.raises(ValueError, match=r"'projector\.1' lies inside the layer group 'projector'"):
        task.group_of("projector.1")
    for below, frozen, free in (
        ("head", 1, {"net", "projector", "temperature"}),
        ("projector", 2, {"projector", "temperature"}),
        ("temperature", 3, {"temperature"}),
        (None, 4, set()),
    ):
        task.freeze(below).train()
        assert task.frozen == frozen
        assert {name.split(".")[0] for name, p in task.named_parameters() if p.requires_grad} == free
        assert (task.net.body[1].training, task.projector[1].training) == (False, frozen < 3)


@pytest.mark.parametrize("way", [by_checkpoint, by_lightning])
def test_a_frozen_part_stays_to_the_bit_and_frozen(way: Callable, tmp_path: Path) -> None:
    task: Any = Distillation(lr=0.01).freeze("temperature")
    before = own_values(task)
    fit(task)
    changed = {name for name, value in everything(task).items() if not torch.equal(value, before[name])}
    assert changed - {"teacher.body.1.running_mean", "teacher.body.1.running_var"} == {
        "temperature", "teacher.body.1.num_batches_tracked",
    }  # fmt: skip
    again = way(task, tmp_path)
    assert again.frozen == 3
    assert [name for name, p in again.named_parameters() if p.requires_grad] == ["temperature"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            ("net",),
            r"^temperature and 2 more would never be trained: .*; add 'temperature' to trained_parts of Distillation",
        ),
        (("net", "temperature"), r"^projector\.0\.weight and 1 more would .*; add 'projector' to trained_parts"),
        (
            ("net", "projector"),
            r"^temperature would never be trained: no optimizer has it; add 'temperature' .* or set requires_grad_\(False\)",
        ),
    ],
)
def test_a_parameter_that_no_optimizer_has_is_refused_before_the_first_step(
    parts: tuple[str, ...], message: str
) -> None:
    task: Any = Distillation()
    task.trained_parts = parts
    before = own_values(task)
    with pytest.raises(ValueError, match=message):
        fit(task)
    assert all(torch.equal(value, before[name]) for name, value in everything(task).items())
    for part in {"projector", "temperature"} - set(parts):
        getattr(task, part).requires_grad_(False)
    fit(task)


def test_a_layer_that_an_own_optimizer_forgets_is_refused() -> None:
    class Forgetful(Distillation):
        def configure_optimizers(self) -> Any:
            kept = [p for name, p in self.named_parameters() if name != "net.fc.bias"]
            return torch.optim.SGD(kept, 0.01)

    with pytest.raises(ValueError, match=r"^net\.fc\.bias would never .*; give it to one in configure_optimizers"):
        fit(Forgetful())


# Weights ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "ckpt"])
@pytest.mark.parametrize("build", ["create_model", "constructor"])
def test_weights_reach_every_part(kind: str, build: str, task: Any, tmp_path: Path) -> None:
    path = task.save_pretrained(tmp_path / "m") if kind == "folder" else tmp_path / "m.ckpt"
    if kind == "ckpt":
        task.trainer.save_checkpoint(path)
    if build == "constructor":
        if isinstance(task, DistillationSetLater):
            with pytest.raises(
                ValueError, match=r"has weights of 'projector', which .* not have yet .*build_parts\(\)"
            ):
                type(task)(weights=str(path))
            return
        twin = type(task)(weights=str(path))
    else:
        twin = zoo.create_model(registry.name_of(task), weights=path)
    assert twin.load_report.complete
    assert {"projector.0.weight", "temperature", "teacher.fc.weight", "seen"} <= set(twin.load_report.loaded)
    for name, value in everything(task).items():
        assert torch.equal(everything(twin)[name], value), name
    assert not any(p.requires_grad for p in twin.teacher.parameters())
    fit(twin)


@pytest.mark.parametrize("name", CLASSES)
def test_parts_that_the_weights_do_not_have_are_fresh(name: str, tmp_path: Path) -> None:
    net = Encoder(5, persistent=name == "persistent_distillation")
    torch.save(net.state_dict(), tmp_path / "net.pth")
    models = [zoo.create_model(name, weights=tmp_path / "net.pth"), CLASSES[name](weights=str(tmp_path / "net.pth"))]
    for model in models:
        assert torch.equal(model.net.fc.weight, net.fc.weight)
        assert not any(value.is_meta for value in everything(model).values())
        assert model.temperature.item() == 0.5
        assert (model.seen.item(), model.used.tolist()) == (2**40 + 1, [True, False])
        assert model.projector[0].weight.std() > 0.1
    report = models[0].load_report
    assert {"temperature", "projector.0.weight", "projector.0.bias", "teacher.fc.weight"} <= set(report.missing)
    assert not torch.equal(models[0].projector[0].weight, models[1].projector[0].weight)
    fit(models[0])


def test_a_part_of_another_size_is_fresh_and_one_that_is_unknown_is_reported(tmp_path: Path) -> None:
    class Wide(Distillation):
        def build_parts(self) -> None:
            super().build_parts()
            self.projector = nn.Linear(4, 3)
            self.temperature = nn.Parameter(torch.ones(2))

    zoo.register("wide", Wide)
    path = Distillation().save_pretrained(tmp_path / "m")
    report = zoo.create_model("wide", weights=path).load_report
    assert report is not None
    assert report.reinitialized == ["temperature"]
    assert report.missing == ["projector.weight", "projector.bias"]
    assert report.unexpected == ["projector.0.bias", "projector.0.weight"]


def test_the_net_of_such_a_task_starts_a_classifier(tmp_path: Path) -> None:
    source: Any = fitted(Distillation())
    path = source.save_pretrained(tmp_path / "m")
    task: Any = ClassificationTask(Encoder(5), 4, weights=str(path))
    assert torch.equal(task.net.fc.weight, source.net.fc.weight)
    assert "projector.0.weight" in task.load_report.unexpected
    assert task.load_report.missing == []

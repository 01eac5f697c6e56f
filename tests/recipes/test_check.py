"""``zoo check``: each check finds what is planted, and nothing where nothing is; what is written, exit codes, bad input."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cli_kit import Zoo, assert_one_line
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import LRSchedule
from datamodules.label_noise import plant
from recipes.cli.check import checks, data, plan, training
from recipes.cli.check.labels import suspects
from recipes.cli.check.rows import Row, table, verdict
from recipes.cli.check.start import Start
from zoo.tasks import ClassificationTask


def start_of(module: Any, *batches: Any, **known: Any) -> Start:
    """The first steps of a module, with no run behind them."""
    return Start(known.pop("data", None), False, 1, module=module.train(), batches=[*batches], **known)


def batch_of(count: int = 16, features: int = 4, classes: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(count, features), torch.arange(count) % classes


def net(*middle: nn.Module, features: int = 4, width: int = 32, classes: int = 3) -> ClassificationTask:
    layers = nn.Sequential(nn.Linear(features, width), nn.Tanh(), *middle, nn.Linear(width, classes))
    return ClassificationTask(layers, classes)


# The model ----------------------------------------------------------------------------------------------------------


def test_the_initial_loss_is_that_of_guessing() -> None:
    model = net()
    nn.init.zeros_(model.net[-1].weight)
    nn.init.zeros_(model.net[-1].bias)
    row = training.check_initial_loss(start_of(model, batch_of(), batch_of()))
    assert (row.status, row.more) == ("pass", {"loss": pytest.approx(math.log(3)), "expected": math.log(3)})


@pytest.mark.parametrize(("bias", "status"), [(30.0, "fail"), (3.0, "warn")])
def test_a_net_that_is_sure_before_it_is_trained(bias: float, status: str) -> None:
    model = net()
    with torch.no_grad():
        model.net[-1].bias[0] += bias  # of three classes, two are guessed wrong: about 2/3 of the bias
    row = training.check_initial_loss(start_of(model, batch_of()))
    assert row.status == status
    assert "expected 1.099" in row.detail
    assert row.cure


def test_a_net_that_knows_the_answers_before_it_is_trained() -> None:
    y = torch.arange(16) % 3
    x = 5 * nn.functional.one_hot(y, 3).float()
    row = training.check_initial_loss(start_of(ClassificationTask(nn.Identity(), 3), (x, y)))
    assert (row.status, row.more) == ("warn", {"loss": pytest.approx(0.0134, abs=1e-3), "expected": math.log(3)})


def test_losses_without_a_known_value_and_loaded_weights_say_why() -> None:
    model = net()
    model.expected_initial_loss = lambda: None
    assert "no known value" in training.check_initial_loss(start_of(model, batch_of())).detail
    start = start_of(net(), batch_of())
    start.loaded = True
    assert "loaded" in training.check_initial_loss(start).detail


def test_weight_decay_is_added_to_the_loss() -> None:
    assert training.check_regularization(start_of(net(), batch_of())).status == "n/a"
    row = training.check_regularization(start_of(net(), batch_of(), decay=0.25))
    assert (row.status, row.more) == ("pass", {"weight decay": 0.25})
    assert training.check_regularization(start_of(net(), batch_of(), decay=15.0)).status == "warn"
    decoupled = start_of(net(), batch_of(), decay=15.0, decay_is_in_the_loss=False)
    assert training.check_regularization(decoupled).status == "pass"
    assert training.check_regularization(start_of(net(), batch_of(), decay=-0.1)).status == "fail"


def test_penalties_are_added_to_the_loss() -> None:
    layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    model = ClassificationTask(layers, 3, penalties={"l1": 0.01, "activity_l2": {"weight": 0.1, "layers": "1"}})
    x, y = batch_of()
    row = training.check_regularization(start_of(model, (x, y)))
    weights = sum(p.abs().sum().item() for p in (layers[0].weight, layers[2].weight))
    activity = layers[:2](x).square().sum().item() / 2 / len(x)
    assert row.more == {
        "penalty_l1": pytest.approx(0.01 * weights),
        "penalty_activity_l2": pytest.approx(0.1 * activity),
    }
    assert row.status == "pass"


def test_a_small_batch_is_learned_by_heart() -> None:
    row = training.check_small_batch(start_of(net(), batch_of()))
    assert row.status == "pass", row
    assert row.detail.startswith("8 examples: loss ")


class Blind(nn.Module):
    """Sees nothing of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0


def test_a_net_that_does_not_see_its_input_learns_nothing_by_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_RATES", (3e-3, 3e-2))
    row = training.check_small_batch(start_of(net(Blind()), batch_of()))
    assert row.status == "fail"
    assert row.detail.count("200 steps at a rate of") == 2


def test_too_few_parameters_and_no_time_are_not_held_against_a_net() -> None:
    few = ClassificationTask(nn.Linear(4, 3), 3)
    assert "15 trained numbers" in training.check_small_batch(start_of(few, batch_of())).detail
    row = training.check_small_batch(start_of(net(), batch_of()), seconds=0.0)
    assert (row.status, "takes too long" in row.detail) == ("n/a", True)


def test_dropout_does_not_keep_a_batch_from_being_learned() -> None:
    model = net(nn.Dropout(0.95))
    assert training.check_small_batch(start_of(model, batch_of())).status == "pass"
    assert model.net[2].p == 0.95  # the module itself stays as it is


class Lazy(nn.Module):
    """Holds a layer that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_parameter_without_a_gradient_is_named() -> None:
    row = training.check_every_gradient(start_of(net(Lazy()), batch_of()))
    assert (row.status, row.detail.partition(" gets")[0]) == ("fail", "net.2.unused.weight")
    assert training.check_every_gradient(start_of(net(), batch_of())).detail == "all 4 trained parameters get one"
    assert training.check_every_gradient(start_of(net().requires_grad_(False), batch_of())).status == "fail"


def test_units_that_never_answer_are_named_and_a_last_layer_of_zeros_is_not() -> None:
    dead = net(nn.Linear(32, 32), nn.ReLU())
    nn.init.constant_(dead.net[2].bias, -100)
    row = training.check_every_gradient(start_of(dead, batch_of()))
    assert (row.status, row.more) == (
        "warn",
        {"zero": ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias", "net.4.weight"]},
    )
    zeroed = net()
    nn.init.zeros_(zeroed.net[-1].weight)
    assert training.check_every_gradient(start_of(zeroed, batch_of())).status == "pass"


class Mixer(nn.Module):
    """Subtracts the mean of the batch, in evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_examples_that_see_each_other_are_found() -> None:
    assert training.check_leak(start_of(net(Mixer()), batch_of())).status == "fail"
    assert training.check_leak(start_of(net(nn.BatchNorm1d(32)), batch_of())).status == "pass"


class Twice(torch.autograd.Function):
    """The identity, with a gradient that is twice as large as it should be."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


class Wrong(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Twice.apply(x)


def test_a_wrong_backward_pass_is_found_and_the_worst_parameter_named() -> None:
    row = training.check_finite_differences(start_of(net(Wrong()), batch_of()))
    assert row.status == "fail"
    assert row.more is not None
    assert row.more["worst"].startswith("net.0.")  # the last layer's gradient is right
    assert row.more["error"] == pytest.approx(0.5, abs=1e-3)


def test_gradients_of_nets_with_kinks_dropout_and_batch_norm_are_right() -> None:
    model = net(nn.Linear(32, 32), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(32))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    row = training.check_finite_differences(start_of(model, batch_of()))
    assert row.status == "pass", row
    assert row.detail.startswith("all 8 parameters")
    assert row.more is not None
    assert row.more["error"] < 1e-4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert next(model.parameters()).dtype == torch.float32


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.calls


def test_a_loss_that_is_another_one_each_time_has_no_finite_differences() -> None:
    row = training.check_finite_differences(start_of(net(Noisy()), batch_of()))
    assert (row.status, "differs from call to call" in row.detail) == ("n/a", True)


def test_random_numbers_are_left_as_they_were() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(3)
    start = start_of(net(nn.Dropout(0.5)), batch_of())
    torch.manual_seed(3)
    for check in checks.OF_THE_MODEL.values():
        check(start)
    assert torch.equal(torch.rand(3), wanted)


# The data -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "shift", "status"),
    [(1.0, 0.0, "pass"), (60.0, 120.0, "warn"), (0.01, 0.0, "warn"), (math.nan, 0.0, "fail"), (0.0, 3.0, "fail")],
)
def test_inputs_are_near_0_and_1(scale: float, shift: float, status: str) -> None:
    x, y = batch_of(64)
    row = data.check_inputs(start_of(net(), (x * scale + shift, y)))
    assert row.status == status, row


def test_inputs_are_looked_at_as_the_net_gets_them() -> None:
    x, y = batch_of(256)
    model = net().set_standardization([120.0], [60.0])
    row = data.check_inputs(start_of(model, (x * 60 + 120, y)))
    assert row.status == "pass"
    assert row.more == {"mean": pytest.approx(0, abs=0.1), "std": pytest.approx(1, abs=0.1)}
    assert "tokens" in data.check_inputs(start_of(model, (torch.ones(4, 3, dtype=torch.long), y))).detail


def test_one_column_in_other_units_is_named() -> None:
    x, y = batch_of(64)
    x[:, 2] *= 1000
    row = data.check_inputs(start_of(net(), (x, y)))
    assert (row.status, "column 2" in row.detail) == ("warn", True)


@pytest.mark.parametrize(
    ("counts", "status"), [([50, 50], "pass"), ([10, 100], "pass"), ([9, 100], "warn"), ([0, 100], "fail")]
)
def test_balance_of_classes(counts: list[int], status: str) -> None:
    row = data.check_balance(
        start_of(net(), data=SimpleNamespace(class_counts=counts, class_names=["cat", "dog"])), None
    )
    assert row.status == status
    assert status == "pass" or "'cat'" in row.detail


def loader(x: Tensor, y: Tensor | None = None) -> DataLoader:
    return DataLoader(TensorDataset(x, torch.zeros(len(x), dtype=torch.long) if y is None else y), batch_size=8)


def splits(train: Tensor, val: Tensor) -> tuple[data.Split, data.Split]:
    both = data.read(loader(train), "train"), data.read(loader(val), "val")
    assert both[0] is not None
    assert both[1] is not None
    return both


def test_examples_in_both_parts_are_counted_and_named() -> None:
    train, val = torch.randn(300, 8), torch.randn(100, 8)
    assert data.check_overlap(*splits(train, val)).status == "pass"
    val[7] = train[123]
    row = data.check_overlap(*splits(train, val))
    assert (row.status, row.more) == ("warn", {"pairs": [["7", "123"]], "share": 0.01})
    val[10:14] = train[:4]
    row = data.check_overlap(*splits(train, val))
    assert (row.status, row.detail.partition(",")[0]) == ("fail", "5 inputs (5.0%) are in both")


def test_inputs_of_which_there_are_few_are_no_mistake_of_the_split() -> None:
    few = torch.randint(2, (400, 7))  # 128 different ones
    row = data.check_overlap(*splits(few[:300], few[300:]))
    assert (row.status, "repeat an input of their own part" in row.detail) == ("warn", True)


def test_images_that_are_almost_the_same_are_found() -> None:
    images = torch.rand(400, 3, 20, 20)
    train, val = images[:300], images[300:].clone()
    start = start_of(net(), data=None)
    assert data.check_near_duplicates(start, *splits(train, val)).status == "pass"
    val[5] = train[42]  # the same to the bit: that is the other row's
    assert data.check_near_duplicates(start, *splits(train, val)).status == "pass"
    val[5] = (train[42] * 0.98 + 0.01 * torch.rand_like(train[42])).clamp(0, 1)
    row = data.check_near_duplicates(start, *splits(train, val))
    assert (row.status, row.more) == ("warn", {"pairs": [["5", "42"]], "share": 0.01})


def test_near_duplicates_of_tokens_points_and_windows_say_why_not() -> None:
    start = start_of(net(), data=None)
    tokens = torch.randint(9, (50, 6))
    assert "token" in data.check_near_duplicates(start, *splits(tokens, tokens)).detail
    points = torch.randn(50, 2)
    assert "by chance" in data.check_near_duplicates(start, *splits(points, points)).detail
    start.data = SimpleNamespace(kind="forecasting")
    assert "windows" in data.check_near_duplicates(start, *splits(points, points)).detail


def test_no_validation_is_a_warning_and_a_stream_is_not_read() -> None:
    start = start_of(net(), val=None)
    row = data.why_no_overlap(start, None, None)
    assert row is not None
    assert (row.status, "val_fraction" in row.cure) == ("warn", True)
    assert data.read(DataLoader(Stream()), "train") is None


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Any:
        return iter([])


def test_planted_labels_are_found_and_the_right_ones_are_not() -> None:
    y = torch.arange(300) % 3
    x = 6 * nn.functional.one_hot(y, 3).float() + torch.randn(300, 3)
    noisy, planted = plant(y, 0.05, seed=0, num_classes=3)
    assert int(planted.sum()) == 15
    margins, doubted, accuracy = suspects(x, noisy)
    found = doubted & planted.numpy()
    assert found.sum() >= 8
    assert (doubted & ~planted.numpy()).sum() <= 1
    assert planted.numpy()[margins.argsort()[:15]].sum() >= 13
    assert (margins[~planted.numpy()] > 0.5).mean() > 0.9  # of a label that is right, over the best of the others
    assert accuracy == pytest.approx(0.95, abs=0.03)
    assert suspects(x, y)[1].sum() <= 1


def test_the_row_of_labels_names_the_most_doubted_examples() -> None:
    y = torch.arange(300) % 3
    x = 6 * nn.functional.one_hot(y, 3).float() + torch.randn(300, 3)
    noisy, planted = plant(y, 0.05, seed=0, num_classes=3)
    split = data.read(loader(x, noisy), "train")
    start = start_of(net(), data=SimpleNamespace(num_classes=3))
    row = checks.check_labels(start, split)
    assert row.status == "warn"
    assert row.more is not None
    named = {int(name) for name in row.more["examples"]}
    assert len(named) >= 8
    assert named <= set(planted.nonzero()[:, 0].tolist())
    assert checks.check_labels(start, data.read(loader(x, y), "train")).status == "pass"
    assert "too few" in checks.check_labels(start, data.read(loader(torch.randn(300, 3), y), "train")).detail
    assert checks.check_labels(start, None).status == "n/a"


# The plan -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (LRSchedule("cosine", warmup=0.1), ""),
        (LRSchedule("cosine", warmup=0.6), "warm-up takes 60% of the run"),
        (LRSchedule("linear", warmup=70), "warm-up takes 70% of the run"),
        (LRSchedule("step", milestones=[50]), ""),
        (LRSchedule("step", milestones=[50, 100]), "milestone 100 is never reached in 100 steps"),
        (LRSchedule("step", milestones=[10], interval="epoch"), "milestone 10 is never reached in 10 epochs"),
        (LRSchedule("plateau", patience=9), ""),
        (LRSchedule("plateau", patience=10), "plateau waits for 10 validations, and there are 10"),
    ],
)
def test_schedules_are_held_against_the_real_length(schedule: LRSchedule, words: str) -> None:
    start = start_of(net(), schedules=[schedule], steps=100, epochs=10, epoch_batches=10, validations=10)
    row = plan.check_schedule(start)
    assert row.status == ("warn" if words else "pass")
    assert words in row.detail


@pytest.mark.parametrize(("planned", "status"), [(100, "pass"), (10, "warn"), (1000, "warn")])
def test_schedulers_of_torch_are_held_against_it_too(planned: int, status: str) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=planned)
    config = SimpleNamespace(scheduler=scheduler, interval="step", frequency=1)
    row = plan.check_schedule(start_of(net(), schedulers=[config], steps=100, epochs=10, epoch_batches=10))
    assert row.status == status


def test_time_and_disk_are_estimated() -> None:
    start = start_of(
        net(),
        steps=100,
        epochs=10,
        epoch_batches=10,
        seconds=[9.0, 2.0, 4.0],
        val_seconds=[1.0],
        val_batches=5,
        validations=10,
    )
    start.state_bytes = 2**20
    time, _, disk = plan.estimate(start)
    assert time.more == {"seconds": 10 * 10 * 3.0 + 10 * 5 * 1.0}  # the first batch does not count
    assert disk.more == {"bytes": 3 * 2**20}


def test_a_run_of_days_and_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    start = start_of(net(), steps=10**6, epochs=10, epoch_batches=10**5, seconds=[1.0], state_bytes=2**20)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=5 * 2**20))
    time, _, disk = plan.estimate(start)
    assert (time.status, disk.status) == ("warn", "warn")
    assert "11.6 days" in time.detail
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2 * 2**20))
    assert plan.estimate(start)[2].status == "fail"


def test_the_table_and_its_verdict() -> None:
    rows = [Row("a", "pass", "good"), Row("b", "n/a", "no"), Row("c", "warn", "odd", "do this")]
    assert verdict(rows) == "warn"
    assert verdict(rows[:2]) == "pass"
    assert verdict([*rows, Row("d", "fail", "bad")]) == "fail"
    assert table(rows).splitlines()[-1].strip() == "cure: do this"


# The command --------------------------------------------------------------------------------------------------------

MINE = """
import torch
from torch import nn
import zoo
from datamodules import DataModule, Examples

class Net(nn.Module):
    def __init__(self, in_features, num_classes, leaks, wrong):
        super().__init__()
        self.leaks = leaks
        self.layers = nn.Sequential(nn.Linear(in_features, 64), nn.Tanh(), nn.Linear(64 + wrong, num_classes))
    def forward(self, x):
        x = self.layers(x)
        return x - x.mean(0) if self.leaks else x

class Mine(zoo.tasks.ClassificationTask):
    def __init__(self, in_features: int = 6, num_classes: int = 2, leaks: bool = False, wrong: int = 0):
        super().__init__(Net(in_features, num_classes, leaks, wrong), num_classes)

zoo.register("mine", Mine)

class MyData(DataModule):
    input_shape = (6,)
    class_names = ["no", "yes"]
    kind = "classification"
    def __init__(self, count: int = 200, features: int = 6, val_fraction: float = 0.2, batch_size: int = 32):
        super().__init__(batch_size=batch_size, val_fraction=val_fraction)
        self.count, self.features = count, features
    def examples(self, part):
        y = torch.arange(self.count) % 2
        x = torch.randn(self.count, self.features, generator=torch.Generator().manual_seed(0))
        return Examples(x + 2 * y[:, None] - 1, y)
    def describe(self, train):
        self.mean, self.std = train.x.mean(0), train.x.std(0)
"""
RECIPE = """
model: {class_path: mine.Mine}
data: {class_path: mine.MyData}
trainer: {max_epochs: 5}
"""


@pytest.fixture
def mine(tmp_cwd: Path) -> Path:
    Path("mine.py").write_text(MINE)
    Path("mine.yaml").write_text(RECIPE)
    return tmp_cwd


def test_your_own_model_and_data_are_checked_and_nothing_is_left(zoo: Zoo, mine: Path) -> None:
    before = sorted(mine.iterdir())
    result = zoo("check", "-c", "mine.yaml", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert {path for path in mine.iterdir() if path.name != "__pycache__"} == set(before)
    assert (found["recipe"], found["model"], found["verdict"]) == ("mine", "Mine", "pass")
    status = {row["check"]: row["status"] for row in found["checks"]}
    assert len(status) == len(found["checks"]) == 16
    assert status.pop("regularization") == "n/a"
    assert set(status.values()) == {"pass"}
    assert "25 steps (5 epochs of 5 batches)" in next(
        row["detail"] for row in found["checks"] if row["check"] == "schedule"
    )


def test_a_check_that_fails_exits_with_2_and_says_the_cure(zoo: Zoo, mine: Path) -> None:
    result = zoo("check", "mine.yaml", "--model.leaks=true", "--data.val_fraction=0")
    assert result.code == 2
    assert result.err == ""
    assert "fail  leak across batch" in result.out
    assert "warn  overlap             no validation" in result.out
    assert "cure: hold some out" in result.out
    assert "1 fail" in result.out.splitlines()[-1]


def test_data_that_do_not_fit_are_one_line(zoo: Zoo, mine: Path) -> None:
    assert_one_line(zoo("check", "mine.yaml", "--model.wrong=1"), "Net cannot take the data's input", "65x2")
    assert_one_line(zoo("check", "mine.yaml", "--data.features=5"), "5 channels", "6")
    assert_one_line(zoo("check", "mine.yaml", "--model.in_features=9"), "in_features", "contradicts the data")
    Path("no_data.yaml").write_text("model: {class_path: mine.Mine}\n")
    assert_one_line(zoo("check", "no_data.yaml"), "no data section")


STOCK = """
import torch
from lightning.pytorch import LightningModule
from torch import nn

class Stock(LightningModule):
    def __init__(self, inputs: int = 6):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 2))
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss
    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=500)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
"""


def test_a_lightning_module_of_your_own_needs_nothing_of_the_zoo(zoo: Zoo, mine: Path) -> None:
    Path("stock.py").write_text(STOCK)
    Path("stock.yaml").write_text(RECIPE.replace("mine.Mine", "stock.Stock"))
    result = zoo("check", "stock.yaml", "--json")
    assert result.code == 0, result.out + result.err
    rows = {row["check"]: row for row in json.loads(result.out)["checks"]}
    assert {name for name, row in rows.items() if row["status"] == "n/a"} == {"initial loss"}
    assert {name for name, row in rows.items() if row["status"] == "warn"} == {"schedule"}
    assert "OneCycleLR is made for 500 steps, the run has 25" in rows["schedule"]["detail"]
    wrong = zoo("check", "stock.yaml", "--model.inputs=7")
    assert_one_line(wrong, "the model cannot take a validation batch", "(32, 6)", "7x64")
    alone = zoo("check", "stock.yaml", "--model.inputs=7", "--data.val_fraction=0")
    assert_one_line(alone, "the model cannot take a training batch")


def test_a_warm_up_that_does_not_end_is_a_row(zoo: Zoo, mine: Path) -> None:
    Path("late.yaml").write_text(
        RECIPE.replace("5}", "5, callbacks: [{class_path: callbacks.LRSchedule, init_args: {warmup: 1000}}]}")
    )
    result = zoo("check", "late.yaml")
    assert result.code == 2
    assert "fail  schedule            warmup of 1000 steps does not end within the run of 25" in result.out


def test_a_batch_that_grows_makes_fewer_steps(zoo: Zoo) -> None:
    growth = ["--trainer.callbacks+=callbacks.BatchSizeSchedule", "--trainer.callbacks.milestones=[0.5]"]
    result = zoo("check", "linear/softmax_digits", "--trainer.max_epochs=4", *growth, "--json")
    assert result.code == 0, result.err
    (row,) = [row for row in json.loads(result.out)["checks"] if row["check"] == "schedule"]
    assert "60 steps (4 epochs of 20 batches)" in row["detail"]

"""Distillation: its losses against formulas in float64, its teacher, its files, and its runs."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Patterns, SaveOnce, assert_reloads, quiet_trainer, same_weights
from lightning.pytorch import seed_everything
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, kl_divergence

import zoo
from callbacks import EMA, MaxNorm, RandomState
from zoo.blocks.skeleton import at_most
from zoo.losses import feature_losses, soft_losses
from zoo.tasks import ClassificationTask, DistillationTask
from zoo.testing import check_accumulation, check_module, check_processes

LAYERS = {"features": {"layer1": "layer2", "fc": "fc"}, "feature_weight": 0.7}
SLIM: dict[str, Any] = {"net": "resnet20", "num_classes": 3, "in_channels": 1, "net_args": {"depth": 8, "width": 4}}


def teacher_in(folder: Path, seed: int = 0, **arguments: Any) -> str:
    """A model of 6 x 6 images of "abc" whose probabilities differ."""
    torch.manual_seed(seed)
    model = zoo.create_model("resnet20", **{"depth": 8, "width": 6, "in_channels": 1, "num_classes": 3, **arguments})
    if model.hparams["mode"] == "binary":
        model.class_names = ["a", "b"]
    else:
        model.class_names = list("abc")
    model.input_shape = (1, 6, 6)
    model.set_standardization([0.375], [0.25])
    with torch.no_grad():
        model.net.fc.weight.mul_(8)
        for name, buffer in model.net.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return str(model.save_pretrained(folder))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return teacher_in(tmp_path_factory.mktemp("teacher") / "model")


def images(count: int = 7) -> Tensor:
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def student(teacher: str | None, **arguments: Any) -> DistillationTask:
    torch.manual_seed(3)
    task = DistillationTask(**{**SLIM, "teacher": teacher, **arguments})
    return task.set_standardization([0.5], [0.5])


# Losses -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 2.5])
def test_the_soft_loss_is_the_divergence_and_its_gradient_the_difference_of_probabilities(temperature: float) -> None:
    g = torch.Generator().manual_seed(0)
    logits, target = (3 * torch.randn(5, 4, dtype=torch.float64, generator=g) for _ in range(2))
    logits.requires_grad_()
    q, p = (torch.softmax(x.detach() / temperature, 1) for x in (logits, target))
    losses = soft_losses(logits, target, temperature)
    torch.testing.assert_close(losses, (p * (p / q).log()).sum(1), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    torch.testing.assert_close(gradient, (q - p) / temperature, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        losses, kl_divergence(Categorical(logits=target / temperature), Categorical(logits=logits / temperature))
    )
    alone = soft_losses(logits, target, temperature, independent=True)
    bernoulli = kl_divergence(Bernoulli(logits=target / temperature), Bernoulli(logits=logits / temperature))
    torch.testing.assert_close(alone, bernoulli, rtol=1e-9, atol=1e-12)
    assert losses.shape == (5,)
    assert alone.shape == (5, 4)


def test_high_temperatures_match_logits() -> None:
    """T^2 times the loss is half the variance of the difference of logits, divided by K (Hinton et al., section 2.1)."""
    logits, target = torch.tensor([[1.0, -2.0, 0.5]]).double(), torch.tensor([[0.0, 3.0, 1.0]]).double()
    difference = logits - target
    expected = (difference - difference.mean()).square().sum() / 6
    assert 1e6 * soft_losses(logits, target, 1e3).item() == pytest.approx(expected.item(), rel=1e-2)


def test_equal_and_large_logits_lose_nothing() -> None:
    logits = torch.tensor([[300.0, -300.0, 2.0]])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        loss = soft_losses(logits.to(dtype), logits.to(dtype), 0.5)
        assert loss.dtype == torch.float32
        assert loss.item() == 0
        assert soft_losses(logits.to(dtype), logits.to(dtype), 0.5, independent=True).abs().sum() == 0
    assert soft_losses(logits, logits.flip(1), 0.5).isfinite().all()


def test_features_are_compared_by_a_mean_of_squares() -> None:
    one = torch.arange(12.0).view(2, 3, 2, 1)
    assert feature_losses(one, torch.zeros_like(one)).tolist() == pytest.approx([55 / 6, 451 / 6])
    assert feature_losses(torch.full((1, 1, 1, 1), 300.0).half(), torch.zeros(1, 1, 1, 1).half()).tolist() == [90000.0]


def by_hand(task: DistillationTask, path: str, batch: Any, temperature: float, alpha: float) -> dict[str, Tensor]:
    """The terms, from the nets alone: each with its own standardization, the teacher in evaluation mode."""
    x, y, weight = batch
    its = zoo.load(path).double()
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda layer, inputs, output: kept.__setitem__(name, output)

    hooks = [task.net.layer1.register_forward_hook(keep("a")), task.net.fc.register_forward_hook(keep("b"))]
    hooks += [its.net.layer2.register_forward_hook(keep("c")), its.net.fc.register_forward_hook(keep("d"))]
    logits = task.net((x - 0.5) / 0.5)
    with torch.no_grad():
        target = its.net((x - 0.375) / 0.25)
    for hook in hooks:
        hook.remove()
    mean = lambda losses: (losses * weight).sum() / weight.sum()  # noqa: E731
    hard = -logits.log_softmax(1)[torch.arange(len(y)), y]
    p, q = (target / temperature).softmax(1), (logits / temperature).softmax(1)
    # layer1 is (4, 6, 6), layer2 (12, 3, 3): the student's map is averaged to 3 x 3, then mapped from 4 channels to 12
    small = kept["a"].unflatten(3, (3, 2)).unflatten(2, (3, 2)).mean(dim=(3, 5))
    projector = task.projectors["1"]
    mapped = torch.einsum("bchw,dc->bdhw", small, projector.weight[:, :, 0, 0]) + projector.bias[:, None, None]
    pairs = (mapped - kept["c"]).square().mean(dim=(1, 2, 3)), (kept["b"] - kept["d"]).square().mean(dim=1)
    terms = {"loss": mean(hard), "soft_loss": mean((p * (p / q).log()).sum(1)), "feature_loss": mean(sum(pairs) / 2)}  # type: ignore[arg-type]
    total = (1 - alpha) * terms["loss"] + alpha * temperature**2 * terms["soft_loss"] + 0.7 * terms["feature_loss"]
    return {**terms, "total": total}


def test_the_loss_and_its_gradient_are_those_of_the_formula(teacher: str) -> None:
    task = student(teacher, temperature=2.5, alpha=0.3, **LAYERS).double()
    assert task.hparams["feature_channels"] == {"layer1": [4, 12], "fc": [3, 3]}
    assert [*task.projectors] == ["1"]  # fc needs none
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0, 1.0, 3.0]).double()
    batch = images().double(), torch.arange(7) % 3, weight
    loss, means, count = task.training_losses(batch)
    expected = by_hand(task, teacher, batch, 2.5, 0.3)
    assert count == 8.5
    assert {*means} == {"loss", "acc", "soft_loss", "feature_loss"}
    assert expected["soft_loss"] > 0.1  # or it would not tell
    for name in ("loss", "soft_loss", "feature_loss"):
        assert means[name].item() == pytest.approx(expected[name].item(), rel=1e-9), name
    assert loss.item() == pytest.approx(expected["total"].item(), rel=1e-9)
    parameters = [*task.parameters()]
    for got, wanted in zip(*(torch.autograd.grad(x, parameters) for x in (loss, expected["total"])), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("mode", "classes"), [("binary", 2), ("multilabel", 3)])
def test_other_modes_imitate_each_output_by_itself(tmp_path: Path, mode: str, classes: int) -> None:
    path = teacher_in(tmp_path / "model", mode=mode, num_classes=classes)
    task = student(path, mode=mode, num_classes=classes, temperature=3.0, alpha=0.4).double()
    x = images().double()
    y = (torch.arange(7) % 2) if mode == "binary" else (torch.arange(21).view(7, 3) % 2)
    loss, means, count = task.training_losses((x, y))
    with torch.no_grad():
        target, logits = zoo.load(path).double()(x), task(x)
    its, mine = (Bernoulli(logits=z / 3) for z in (target, logits))
    soft = kl_divergence(its, mine).mean().item()  # equally many outputs an example
    hard = nn.functional.binary_cross_entropy_with_logits(logits, y.double().view(logits.shape)).item()
    assert [means["soft_loss"].item(), means["loss"].item()] == pytest.approx([soft, hard], rel=1e-9)
    assert loss.item() == pytest.approx(0.6 * hard + 0.4 * 9 * soft, rel=1e-9)
    assert count == 7
    weight = torch.ones(7).double() if mode == "binary" else torch.rand(7, 3).double()
    weight[:2] = 0
    _, means, count = task.training_losses((x, y, weight))
    expected = (kl_divergence(its, mine).view(weight.shape) * weight).sum() / weight.sum()
    assert means["soft_loss"].item() == pytest.approx(expected.item(), rel=1e-9)
    assert count == weight.sum()


def test_a_student_that_is_its_teacher_has_no_soft_loss(teacher: str) -> None:
    task = student(
        teacher, net_args={"depth": 8, "width": 6}, alpha=1.0, features={"layer2": "layer2"}, feature_weight=1
    )
    assert task.trained_parts == ("net",)
    task.load_state_dict({k: v for k, v in zoo.load(teacher).state_dict().items() if k != "class_weight"}, strict=False)
    loss, means, _ = task.eval().training_losses((images(), torch.arange(7) % 3))
    assert [loss.item(), means["soft_loss"].item(), means["feature_loss"].item()] == [0, 0, 0]
    assert means["loss"] > 0


def test_terms_without_weight_are_left_out_and_the_labels_remain(teacher: str) -> None:
    """The teacher is not even asked."""
    batch = images(), torch.arange(7) % 3
    task = student(teacher, alpha=0.0)
    task._teacher.forward = None
    loss, means, _ = task.training_losses(batch)
    assert {*means} == {"loss", "acc"}
    assert loss is means["loss"]
    task = student(teacher, alpha=0.0, features={"layer1": "layer1"}, feature_weight=0.5)
    assert "soft_loss" not in task.training_losses(batch)[1]
    plain = student(teacher, features={"layer1": "layer1"})  # of weight 0
    assert plain.trained_parts == ("net",)


def test_vectors_and_layers_that_are_used_twice(tmp_path: Path) -> None:
    """A vector is a map of one pixel, to which a map is averaged; of a layer that is used twice the last output counts."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat, self.first, self.act, self.fc = nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.act(self.first(self.act(self.flat(x)))))

    path, net = teacher_in(tmp_path / "model"), Twice()
    task = DistillationTask(net, 3, path, features={"act": "layer3"}, feature_weight=1.0)
    assert task.hparams["feature_channels"] == {"act": [5, 24]}
    x = images()
    means = task.training_losses((x, torch.arange(7) % 3))[1]
    its = zoo.load(path)
    with torch.no_grad():
        mine = net.act(net.first(net.act(x.flatten(1))))  # mean 0 and deviation 1: as it is
        projected = mine @ task.projectors["0"].weight[:, :, 0, 0].T + task.projectors["0"].bias
        target = its.net.features(its.standardize(x))[-1].mean(dim=(-2, -1))
    assert means["feature_loss"].item() == pytest.approx((projected - target).square().mean().item(), rel=1e-5)


# The teacher ------------------------------------------------------------------------------------------------------------


def test_the_teacher_stays_as_it_is_and_is_no_part_of_the_model(teacher: str) -> None:
    task = student(teacher, **LAYERS, penalties={"l2": 1e-3})
    its = task._teacher
    before = copy.deepcopy(its.state_dict())
    trainer = quiet_trainer(RandomState(), EMA(0.9), MaxNorm(1.0), max_epochs=1)
    trainer.fit(task.train(), datamodule=Patterns())
    assert all(torch.equal(value, before[name]) for name, value in its.state_dict().items())
    assert task.net.training
    assert not any(part.training for part in its.modules())
    assert not any(p.requires_grad or p.grad is not None for p in its.parameters())
    held = {id(p) for o in trainer.optimizers for group in o.param_groups for p in group["params"]}
    assert held == {id(p) for p in task.parameters()}
    assert not held & {id(p) for p in its.parameters()}
    parts = {name.partition(".")[0] for name in task.state_dict()}
    assert parts == {"net", "projectors", "mean", "std", "class_weight"}
    assert sum(p.numel() for p in task.parameters()) == sum(p.numel() for p in task.net.parameters()) + 4 * 12 + 12


def test_the_teacher_goes_where_the_student_goes(teacher: str) -> None:
    task = student(teacher)
    digest = task._digest
    assert task.double()._teacher.net.fc.weight.dtype == torch.float64
    assert copy.deepcopy(task)._teacher.net.fc.weight.data_ptr() != task._teacher.net.fc.weight.data_ptr()
    assert task._digest == digest


def test_loading_a_teacher_draws_nothing(teacher: str) -> None:
    """So the same seed gives the same student with and without."""
    task = student(teacher)
    torch.manual_seed(3)
    assert same_weights(task.net, ClassificationTask(**SLIM).net)  # type: ignore[arg-type]
    state = torch.get_rng_state()
    torch.manual_seed(3)
    ClassificationTask(**SLIM)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_folder_is_its_best_checkpoint(teacher: str, tmp_path: Path) -> None:
    task = student(teacher)
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1)
    trainer.fit(task, datamodule=Patterns())
    checkpoints = tmp_path / "run" / "checkpoints"
    trainer.save_checkpoint(checkpoints / "last.ckpt")
    assert student(str(tmp_path / "run"))._digest not in (None, task._digest)  # a student teaches, too
    shutil.copyfile(checkpoints / "last.ckpt", checkpoints / "best.ckpt")
    (checkpoints / "last.ckpt").write_bytes(b"")
    assert student(str(tmp_path / "run"))._teacher._teacher is None


# Files ------------------------------------------------------------------------------------------------------------------


def test_files_hold_the_student_and_want_no_teacher(tmp_path: Path) -> None:
    path = teacher_in(tmp_path / "teacher")
    task = student(path, **LAYERS).eval()
    shutil.rmtree(path)
    assert_reloads(task, images(), tmp_path)
    loaded = zoo.load(tmp_path / "model.ckpt")
    assert loaded.load_report.complete  # type: ignore[union-attr]
    assert "teacher" not in loaded.hparams
    with pytest.raises(
        ValueError, match=r"has no teacher to learn from, as files of a student hold none: give teacher="
    ):
        quiet_trainer(max_epochs=1).fit(loaded, datamodule=Patterns())
    (result,) = quiet_trainer().test(loaded, datamodule=Patterns(), verbose=False)
    assert {*result} == {"test/loss", "test/acc", "test/f1"}
    plain = zoo.create_model("resnet20", weights=tmp_path / "folder", depth=8, width=4, in_channels=1, num_classes=3)
    torch.testing.assert_close(plain(images()), task(images()))


def test_the_name_in_its_files_is_taken_and_no_model_to_list(tmp_path: Path) -> None:
    """A class of one's own may register a student by its own name."""
    task = student(None)
    assert zoo.registry.name_of(task) == "distillation_task"
    assert "distillation_task" not in zoo.list_models()
    with pytest.raises(
        ValueError, match="the model name 'distillation_task' is taken by DistillationTask: choose another"
    ):
        zoo.register("distillation_task", ClassificationTask, net="resnet20")
    assert zoo.registry.name_of(DistillationTask(nn.Linear(2, 3), 3)) is None  # nobody could build its net


def test_a_loaded_student_learns_again_with_a_teacher(teacher: str, tmp_path: Path) -> None:
    task = student(teacher, **LAYERS)
    folder = task.save_pretrained(tmp_path / "folder")
    again = zoo.load(folder, teacher=teacher)
    assert same_weights(again, task)
    batch = images(), torch.arange(7) % 3
    assert torch.equal(again.train().training_losses(batch)[0], task.train().training_losses(batch)[0])
    other = teacher_in(tmp_path / "other", width=5)
    with pytest.raises(ValueError, match=r"feature_channels is .*'layer1': \[4, 12\].*have .*'layer1': \[4, 10\]"):
        zoo.load(folder, teacher=other)


def test_the_bound_of_a_file_does_not_count_its_teacher() -> None:
    """What is built on the way from another file is counted there."""
    tensors = [torch.zeros(1)]
    with at_most(tensors):
        with at_most([torch.zeros(1)] * 300):
            nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(2000)])
        with pytest.raises(ValueError, match=r"more than 1,004 tensors; the file has 1 tensors"):
            nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(2000)])


# Runs -------------------------------------------------------------------------------------------------------------------


def fit(task: ClassificationTask, *callbacks: Any, seed: int = 5, ckpt: Path | None = None, **options: Any) -> Any:
    seed_everything(seed, verbose=False)
    trainer = quiet_trainer(RandomState(), *callbacks, **{"max_epochs": 2, **options})
    trainer.fit(task, datamodule=Patterns(shift=1), ckpt_path=ckpt, weights_only=True)
    return trainer


def test_without_its_terms_it_is_the_classifier_to_the_bit(teacher: str) -> None:
    arguments = {**SLIM, "net_args": {**SLIM["net_args"], "dropout": 0.2}, "label_smoothing": 0.1}
    torch.manual_seed(3)
    plain = ClassificationTask(**arguments)
    torch.manual_seed(3)
    task = DistillationTask(**arguments, teacher=teacher, alpha=0.0)
    values = [fit(each).callback_metrics for each in (plain, task)]
    assert same_weights(plain, task)
    assert values[0] == values[1]
    torch.manual_seed(3)
    taught = DistillationTask(**arguments, teacher=teacher)
    values.append(fit(taught).callback_metrics)
    assert not same_weights(plain, taught)  # or it would not tell
    assert {*values[2]} - {*values[0]} == {"train/soft_loss", "train/soft_loss_step"}


def test_it_learns_what_its_teacher_knows(teacher: str) -> None:
    """Without a label: the student ends nearer to its teacher's probabilities than a net that knows nothing."""
    task = student(teacher, alpha=1.0, temperature=1.0, lr=0.02)
    history = [fit(task, max_epochs=n).callback_metrics["train/soft_loss"].item() for n in (1, 15)]
    assert history[1] < 0.2 * history[0]


def test_a_stopped_run_goes_on_to_the_bit(teacher: str, tmp_path: Path) -> None:
    path, arguments = tmp_path / "mid.ckpt", {**LAYERS, "net_args": {**SLIM["net_args"], "dropout": 0.2}}
    whole = student(teacher, **arguments)
    fit(whole, SaveOnce(path, 8))  # of five batches an epoch
    resumed = student(teacher, **arguments)
    fit(resumed, ckpt=path, seed=6)
    assert same_weights(resumed, whole)
    moved = shutil.copytree(teacher, tmp_path / "moved")
    fit(moved_student := student(str(moved), **arguments), ckpt=path, seed=6)  # the same tensors in another place
    assert same_weights(moved_student, whole)
    other = student(teacher_in(tmp_path / "other", seed=1), **arguments)
    with pytest.raises(
        ValueError, match=r"began with another teacher than .*other: .* was \w{16}, here it is \w{16}: "
    ):
        fit(other, ckpt=path)
    (result,) = quiet_trainer().test(other, datamodule=Patterns(), ckpt_path=path, verbose=False, weights_only=True)
    assert "test/acc" in result  # an evaluation has no teacher


@pytest.mark.parametrize("cut", ["accumulated", "ranks"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_cut_batches_make_the_same_steps(teacher: str, cut: str) -> None:
    task = student(teacher, net_args={**SLIM["net_args"], "norm": "none"}, **LAYERS)
    batch = images(9), torch.arange(9) % 3, torch.tensor([1.0, 0, 2, 1, 0.5, 1, 1, 3, 1])
    {"accumulated": check_accumulation, "ranks": check_processes}[cut](task, batch)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_contract(teacher: str) -> None:
    """The labels are those that the teacher gives, so that all terms can be learned by heart."""
    x = images(8)
    with torch.no_grad():
        y = zoo.load(teacher)(x).argmax(dim=1)
    task = student(
        teacher, alpha=0.5, features={"layer3": "layer3"}, feature_weight=0.02, net_args={"depth": 8, "width": 8}
    )
    assert set(check_module(task, (x, y), lr=0.02).values()) == {"ok"}


# Bad input --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"temperature": -1.0}, "temperature must be above 0, got -1.0"),
        ({"alpha": 1.5}, r"alpha is the share of the soft loss, in \[0, 1\], got 1.5"),
        ({"alpha": -0.1}, r"alpha .* got -0.1"),
        ({"feature_weight": -1.0, "features": {"fc": "fc"}}, "feature_weight must be 0 or more, got -1.0"),
        ({"feature_weight": 1.0}, r"feature_weight 1.0 needs features: name a layer of the student"),
        (
            {"num_classes": 4},
            r"it knows 3 classes \(multiclass: a, b, c\), the student has 4 \(multiclass\)",
        ),
        ({"mode": "multilabel"}, r"3 classes \(multiclass: a, b, c\), the student has 3 \(multilabel\)"),
        (
            {"features": {"layer9": "fc"}, "feature_weight": 1.0},
            r"the student's CIFARResNet has no layer 'layer9', did you mean 'layer3'",
        ),
        (
            {"features": {"fc": "fcc"}, "feature_weight": 1.0},
            r"the teacher's CIFARResNet has no layer 'fcc', did you mean 'fc'",
        ),
    ],
)
def test_arguments_out_of_their_range(teacher: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        student(teacher, **arguments)


class Idle(nn.Module):
    """Has a layer that it does not use, and one whose output is no map."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.tokens, self.fc = nn.Linear(2, 2), nn.Flatten(2), nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.tokens(x)[:, 0])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("idle", "Idle does not use its layer 'idle': name one that it does"),
        ("tokens", r"output of 'tokens' of Idle must be \(B, C, H, W\) or \(B, C\), got of shape \(1, 1, 36\)"),
    ],
)
def test_layers_without_a_map(teacher: str, layer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationTask(Idle(), 3, teacher, features={layer: "fc"}, feature_weight=1.0)


def test_a_student_that_cannot_take_the_teachers_input(teacher: str) -> None:
    with pytest.raises(ValueError, match=r"LeNet cannot take the teacher's input of shape \(1, 6, 6\): "):
        student(teacher, net="lenet5", net_args={}, features={"conv2": "fc"}, feature_weight=1.0)


def test_teachers_that_cannot_teach(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="the teacher cannot be loaded: there is no checkpoint or folder no_such"
    ):
        student("no_such_teacher")
    regressor = zoo.create_model("mlp_regression", widths=[4]).save_pretrained(tmp_path / "regressor")
    with pytest.raises(ValueError, match=r"teacher must be a classifier, got MLPRegressor from .*regressor"):
        student(str(regressor))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"names": list("acb")},
            r"it knows the classes a, c, b, the data have a, b, c: give a teacher that was trained",
        ),
        ({"shape": (1, 8, 8)}, r"it knows inputs of shape \(1, 8, 8\), the data have \(1, 6, 6\): give a teacher"),
        ({"shape": (3, 6, 6), "in_channels": 3}, r"it knows inputs of shape \(3, 6, 6\), the data have \(1, 6, 6\)"),
    ],
)
def test_a_teacher_of_other_data(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    channels = arguments.get("in_channels", 1)
    model = zoo.create_model("resnet20", depth=8, width=4, in_channels=channels, num_classes=3)
    model.class_names, model.input_shape = arguments.get("names", list("abc")), arguments.get("shape", (1, 6, 6))
    with pytest.raises(ValueError, match=message):
        fit(student(str(model.save_pretrained(tmp_path / "model"))))


def test_a_teacher_of_another_form_of_output_is_refused(teacher: str) -> None:
    task = student(teacher)
    task._teacher.net.reset_head(0)
    with pytest.raises(ValueError, match=r"the teacher gives \(7, 24\) for a batch, the student \(7, 3\)"):
        task.training_losses((images(), torch.arange(7) % 3))


def test_weights_of_a_student_are_those_of_its_net(teacher: str) -> None:
    with pytest.raises(ValueError, match=r"^lenet5 has no weights 'lenet5_digist', did you mean 'lenet5_digits'"):
        student(None, net="lenet5", net_args={}, num_classes=10, weights="lenet5_digist")
    task = student(None, net="lenet5", net_args={}, num_classes=10, weights="lenet5_digits")
    assert torch.equal(task.net.fc3.weight, zoo.load("lenet5_digits").net.fc3.weight)

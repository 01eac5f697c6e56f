"""Optimizers by name, their groups, and Newton's method."""

from typing import Any

import pytest
import torch
from torch import nn

import zoo
from zoo.optim.optimizers import Newton, build_optimizer, optimizer_class, parameter_groups

NAMES = [n for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, torch.optim.Optimizer)]
NAMES.remove("Optimizer")
DENSE = [name for name in NAMES if name not in ("SparseAdam", "Muon")]


@pytest.mark.parametrize("name", [*DENSE, "Lion", "Newton"])
def test_every_torch_optimizer_lowers_the_loss(name: str) -> None:
    net, x = nn.Linear(3, 1), torch.rand(20, 3)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    lr = {"Newton": 1.0, "LBFGS": 1.0, "Adadelta": 10.0, "Adafactor": 0.5, "RAdam": 0.2}.get(name, 0.05)
    optimizer = build_optimizer(net, name, lr, 0.0, {}, decay_norm_and_bias=False)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        return loss

    first = closure().item()
    for _ in range(100):
        optimizer.step(closure)
    assert closure().item() < 0.3 * first


def test_the_curriculums_optimizers_have_their_options() -> None:
    for name, options in [
        ("SGD", {}),
        ("SGD", {"momentum": 0.9}),
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("Adam", {"amsgrad": True}),
        ("LBFGS", {"line_search_fn": "strong_wolfe"}),
    ]:
        task = zoo.create_model("softmax_regression", optimizer=name, optimizer_args=options)
        assert task.configure_optimizers().defaults.items() >= options.items()


def test_newton_solves_least_squares_in_one_step() -> None:
    x, y = torch.rand(30, 4, dtype=torch.float64), torch.rand(30, 2, dtype=torch.float64)
    net = nn.Linear(4, 2).double()
    optimizer = Newton(net.parameters(), damping=0.0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    ones = torch.cat([x, torch.ones(30, 1)], 1)
    solution = torch.linalg.lstsq(ones, y).solution
    torch.testing.assert_close(net.weight.data, solution[:4].T, atol=1e-8, rtol=0)
    torch.testing.assert_close(net.bias.data, solution[4], atol=1e-8, rtol=0)


def test_a_damped_newton_step_of_a_quadratic_is_the_formula() -> None:
    """p - lr (H + damping I)^-1 g, of a Hessian that is not diagonal."""
    hessian, start = torch.tensor([[3.0, 1.0], [1.0, 2.0]]).double(), torch.tensor([4.0, -1.0]).double()
    p = nn.Parameter(start.clone())
    optimizer = Newton([p], lr=0.25, damping=0.5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = p @ hessian @ p / 2
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx((start @ hessian @ start / 2).item())
    damped = hessian + 0.5 * torch.eye(2)
    torch.testing.assert_close(p.data, start - 0.25 * torch.linalg.inv(damped) @ hessian @ start)


def test_norms_and_biases_get_no_weight_decay() -> None:
    net = zoo.create_model("resnet20", width=2).net
    decay, no_decay = parameter_groups(net, 1e-3, 0.1, decay_norm_and_bias=False)
    assert (decay["name"], decay["weight_decay"]) == ("decay", 0.1)
    assert (no_decay["name"], no_decay["weight_decay"]) == ("no_decay", 0.0)
    names = {id(p): name for name, p in net.named_parameters()}
    assert all(".weight" in names[id(p)] and "bn" not in names[id(p)] for p in decay["params"])
    assert all("bias" in names[id(p)] or "bn" in names[id(p)] for p in no_decay["params"])
    assert len(decay["params"]) + len(no_decay["params"]) == len(names)
    assert [g["name"] for g in parameter_groups(net, 1e-3, 0.1, decay_norm_and_bias=True)] == ["all"]


def test_embeddings_get_no_weight_decay_unless_asked() -> None:
    net = nn.ModuleDict({"e": nn.Embedding(5, 3), "bag": nn.EmbeddingBag(5, 3), "fc": nn.Linear(3, 2)})
    words = nn.ModuleDict({"e": nn.Embedding(4, 2), "fc": nn.Linear(2, 2)})
    others = {"words": words, "scale": nn.Parameter(torch.ones(())), "token": nn.Parameter(torch.ones(1, 3))}
    decay, no_decay = parameter_groups(net, 1e-3, 0.1, decay_norm_and_bias=False, others=others)
    assert [id(p) for p in decay["params"]] == [id(p) for p in (net["fc"].weight, words["fc"].weight, others["token"])]
    assert len(no_decay["params"]) == 6
    (group,) = parameter_groups(net, 1e-3, 0.1, decay_norm_and_bias=True, others=others)
    assert (group["weight_decay"], len(group["params"])) == (0.1, 9)


@pytest.mark.parametrize(("name", "positions"), [("transformer_lm", 1), ("transformer_seq2seq", 2)])
def test_of_transformers_only_the_matrices_of_layers_get_weight_decay(name: str, positions: int) -> None:
    sizes: dict[str, Any] = {"vocab_size": 7, "width": 8, "num_layers": 2, "num_heads": 2, "qk_norm": True}
    net = zoo.create_model(name, positions="learned", **sizes).net
    decay, no_decay = parameter_groups(net, 1e-3, 0.1, decay_norm_and_bias=False)
    names = {id(p): key for key, p in net.named_parameters()}
    matrices = ("in_proj_weight", "out_proj.weight", "linear1.weight", "linear2.weight", "fc.weight")
    assert all(names[id(p)].endswith(matrices) for p in decay["params"])
    assert sum(names[id(p)].endswith("positions.weight") for p in no_decay["params"]) == positions


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"optimizer": "adamw"}, ValueError, "unknown optimizer 'adamw', did you mean 'AdamW'"),
        ({"optimizer": "Adamm"}, ValueError, "did you mean 'Adam"),
        ({"optimizer": "no.such.Thing"}, ValueError, "cannot be imported"),
        ({"optimizer": "os.path.join"}, ValueError, "no torch.optim.Optimizer class"),
        ({"lr": 0.0}, ValueError, "lr must be above 0, got 0.0"),
        ({"lr": float("nan")}, ValueError, "lr must be a finite number, got nan"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be 0 or above"),
        ({"optimizer": "LBFGS", "weight_decay": 0.1}, ValueError, "LBFGS has no weight decay"),
        (
            {"optimizer_args": {"momentun": 0.9}, "optimizer": "SGD"},
            TypeError,
            "no argument 'momentun', did you mean 'momentum'",
        ),
        ({"optimizer_args": {"lr": 0.9}}, TypeError, "give lr to the task itself"),
    ],
)
def test_bad_arguments(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        zoo.create_model("softmax_regression", **arguments)


def test_an_optimizer_of_ones_own() -> None:
    assert optimizer_class("zoo.optim.optimizers.Newton") is Newton
    with pytest.raises(ValueError, match="one parameter group"):
        Newton([{"params": [nn.Parameter(torch.ones(1))]}, {"params": [nn.Parameter(torch.ones(1))]}])


def test_layer_decay_gives_each_layer_group_its_rate() -> None:
    task = zoo.create_model("resnet18", width=2, lr=1.0, layer_decay=0.5, weight_decay=0.1)
    groups = task.configure_optimizers().param_groups
    assert [g["name"] for g in groups[:3]] == ["0/decay", "0/no_decay", "1/decay"]
    assert [g["lr"] for g in groups] == [
        rate for k in range(5, -1, -1) for rate in [0.5**k] * 2
    ]  # stem, 4 stages, head
    assert sum(len(g["params"]) for g in groups) == len(list(task.net.parameters()))
    with pytest.raises(ValueError, match=r"layer_decay must lie in \(0, 1\], got 0"):
        zoo.create_model("lenet5", layer_decay=0)


# Tried when a task is built ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SparseAdam", "optimizer SparseAdam cannot train SoftmaxRegression.*; take Adam$"),
        ("Muon", "optimizer Muon .* 2D parameters .*; take MuonAdamW$"),
    ],
)
def test_a_name_that_cannot_train_the_net_is_refused_when_the_task_is_built(
    name: str, message: str, device: str
) -> None:
    with torch.device(device), pytest.raises(ValueError, match=message):
        zoo.create_model("softmax_regression", optimizer=name)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", [*DENSE, "Lion", "Newton"])
def test_a_name_that_can_is_not(name: str, device: str) -> None:
    with torch.device(device):
        zoo.create_model("lenet5", optimizer=name)


def test_a_kernel_of_another_device_is_not_refused_when_the_task_is_built() -> None:
    assert zoo.create_model("softmax_regression", optimizer="Adam", optimizer_args={"capturable": True})


def test_one_group_is_not_several() -> None:
    with pytest.raises(ValueError, match="LBFGS doesn't support per-parameter options"):
        zoo.create_model("lenet5", optimizer="LBFGS", layer_decay=0.5)


class Words(nn.Module):
    def __init__(self, sparse: bool = True) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(7, 3, sparse=sparse, mode="sum")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.words(x.long())


def test_sparse_gradients_are_tried_as_such() -> None:
    assert zoo.ClassificationTask(Words(), 3, optimizer="SparseAdam")
    with pytest.raises(ValueError, match=r"Adam cannot train Words: .* sparse gradients"):
        zoo.ClassificationTask(Words(), 3, optimizer="Adam")
    with pytest.raises(ValueError, match="SparseAdam cannot train Words"):
        zoo.ClassificationTask(Words(sparse=False), 3, optimizer="SparseAdam")


class Counting(torch.optim.SGD):
    """An optimizer of one's own, which notes its steps."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        Counting.steps += 1
        return super().step(closure)


def test_an_optimizer_of_ones_own_is_not_tried() -> None:
    zoo.create_model("softmax_regression", optimizer=f"{__name__}.Counting")
    assert Counting.steps == 0


def test_trying_changes_nothing() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    weights, random = [p.detach().clone() for p in net.parameters()], torch.get_rng_state()
    for name in ("AdamW", "MuonAdamW", "Newton"):
        zoo.ClassificationTask(net, 2, optimizer=name, lr=0.5)
    assert all(torch.equal(p, w) and p.grad is None for p, w in zip(net.parameters(), weights, strict=True))
    assert torch.equal(torch.get_rng_state(), random)

"""Truncated backpropagation through time: gradients against loops written out, states that are carried, cut, kept and shared."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Memory, SaveOnce, quiet_trainer
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import EMA, GradNorm, RandomState
from datamodules import Segment, TextDataModule
from zoo.recurrent import RecurrentLanguageModel
from zoo.tasks import LanguageModelTask

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

V, LANES = 5, 4
CELLS = ("rnn_tanh", "lstm", "gru")


def lanes(length: int, seed: int = 0) -> Tensor:
    """Tokens of the lanes, one more than are read: ``(LANES, length + 1)``."""
    return torch.randint(V, (LANES, length + 1), generator=torch.Generator().manual_seed(seed))


def segments(text: Tensor, size: int) -> list[tuple[Segment, Tensor]]:
    """The lanes cut into segments; in the second, row 1 starts again."""
    found = []
    for i, t in enumerate(range(0, text.shape[1] - 1, size)):
        part = text[:, t : t + size + 1]
        starts = torch.full((LANES,), i == 0) | (torch.arange(LANES) == 1) & (i == 1)
        found.append((Segment(part[:, :-1], starts), part[:, 1:]))
    return found


def model(cell: str = "gru", **options: Any) -> RecurrentLanguageModel:
    torch.manual_seed(3)
    return RecurrentLanguageModel(V, cell, width=6, num_layers=2, **options).double()  # type: ignore[arg-type]


class Batches(LightningDataModule):
    """Given batches, one after another."""

    order = "lanes"

    def __init__(self, train: list[Any], val: list[Any] | None = None) -> None:
        super().__init__()
        self.train, self.val = train, val or []

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return DataLoader(self.val, batch_size=None) if self.val else []  # type: ignore[arg-type]


class Gradients(Callback):
    """Keeps the gradients of every step, and sets the state of the row after it."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.kept.append({name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None})


def fitted(task: LanguageModelTask, data: LightningDataModule, *callbacks: Callback, **options: Any) -> Trainer:
    """The trainer after a fit."""
    if not getattr(data, "val", True):
        options["limit_val_batches"] = 0
    trainer = quiet_trainer(*callbacks, **{"max_epochs": 1, **options})
    trainer.fit(task, datamodule=data)
    return trainer


# The gradient -----------------------------------------------------------------------------------------------------------


def written_out(task: RecurrentLanguageModel, batches: list[tuple[Segment, Tensor]]) -> list[dict[str, Tensor]]:
    """Gradients of each segment by cells of torch in a loop over all steps; states are cut between segments."""
    net, cell = task.net, task.net.recurrent.cell
    cells: list[Any] = []
    for layer in net.recurrent.layers:
        kind = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn_tanh": nn.RNNCell}[cell]
        one = kind(layer.input_size, layer.hidden_size).double()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(one, name, getattr(layer, f"{name}_l0"))  # the parameters themselves
        cells.append(one)
    zero = torch.zeros(LANES, 6, dtype=torch.float64)
    states: list[Any] = [(zero, zero) if cell == "lstm" else zero for _ in cells]
    found = []
    for (tokens, starts), y in batches:
        alive = (~starts)[:, None].double()
        for i, state in enumerate(states):
            parts = [part.detach() * alive for part in (state if cell == "lstm" else (state,))]
            states[i] = tuple(parts) if cell == "lstm" else parts[0]
        losses = []
        for t in range(tokens.shape[1]):
            x = net.embedding.weight[tokens[:, t]]
            for i, one in enumerate(cells):
                states[i] = one(x, states[i])
                x = states[i][0] if cell == "lstm" else states[i]
            logits = x @ net.fc.weight.T + net.fc.bias
            losses.append(logits.logsumexp(dim=1) - logits[torch.arange(LANES), y[:, t]])
        names, parameters = zip(*task.named_parameters(), strict=True)
        loss = torch.stack(losses).mean()
        found.append(dict(zip(names, torch.autograd.grad(loss, parameters), strict=True)))
    return found


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("size", [12, 4, 1])
def test_the_gradient_is_that_of_the_loop_cut_between_segments(cell: str, size: int) -> None:
    """With one segment for the whole text it is full backpropagation through time."""
    task, batches, keep = model(cell, optimizer="SGD", lr=1e-30), segments(lanes(12), size), Gradients()
    wanted = written_out(copy.deepcopy(task), batches)
    fitted(task, Batches(batches), keep)
    assert len(keep.kept) == len(wanted) == 12 // size
    for got, expected in zip(keep.kept, wanted, strict=True):
        assert got.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(got[name], gradient, rtol=1e-9, atol=1e-12)
    if size < 12:  # what was read before matters
        alone = written_out(task, [(batches[1][0]._replace(starts=torch.ones(LANES, dtype=torch.bool)), batches[1][1])])
        assert max((alone[0][name] - wanted[1][name]).abs().max() for name in alone[0]) > 1e-4


def test_a_learned_first_state_gets_a_gradient_from_rows_that_start() -> None:
    batches, keep = segments(lanes(9), 3), Gradients()
    fitted(model(initial_state="learned", lr=1e-30), Batches(batches), keep)
    sizes = [float(gradients["net.recurrent.initial.0"].abs().max()) for gradients in keep.kept]
    assert min(sizes[:2]) > 1e-5  # all rows, row 1
    assert sizes[2] == 0


def test_memory_does_not_grow_with_the_text() -> None:
    """Every segment keeps as much for its backward pass, and what is carried has no past."""
    kept: list[int] = []

    class Watched(RecurrentLanguageModel):
        def training_losses(self, batch: Any) -> Any:
            sizes = [0]

            def pack(x: Tensor) -> Tensor:
                sizes[0] += x.numel()
                return x

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
                found = super().training_losses(batch)
            kept.append(sizes[0])
            return found

        def on_train_batch_end(self, *args: Any) -> None:
            assert all(state.grad_fn is None and not state.requires_grad for state in self._after)

    fitted(Watched(V, "lstm", width=6), Batches(segments(lanes(40), 4)))
    assert len(kept) == 10
    assert len(set(kept)) == 1


@pytest.mark.parametrize("how", ["norm", "value"])
def test_gradients_are_clipped_as_everywhere(how: str) -> None:
    class Watched(RecurrentLanguageModel):
        def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
            super().configure_gradient_clipping(*args, **kwargs)
            kept.append({name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None})

    kept: list[dict[str, Tensor]] = []
    torch.manual_seed(3)
    task = Watched(V, "gru", width=6, num_layers=2, optimizer="SGD", lr=1e-30).double()
    batches, logs = segments(lanes(12), 4), Memory()
    wanted = written_out(copy.deepcopy(task), batches)
    norms = [float(torch.stack([g.square().sum() for g in step.values()]).sum().sqrt()) for step in wanted]
    options = {"gradient_clip_val": 0.02, "gradient_clip_algorithm": how, "logger": logs}
    fitted(task, Batches(batches), GradNorm(every_n_steps=1), **options)
    for got, expected, norm in zip(kept, wanted, norms, strict=True):
        for name, gradient in expected.items():
            clipped = gradient * min(1, 0.02 / norm) if how == "norm" else gradient.clamp(-0.02, 0.02)
            torch.testing.assert_close(got[name], clipped, rtol=1e-4, atol=1e-9)
    assert min(norms) > 0.05
    assert [value for _, value in logs.values("grad_norm")] == pytest.approx(norms, rel=1e-5)


def test_an_optimizer_that_looks_several_times_starts_from_the_same_state() -> None:
    """With steps of no length, it sees the same loss each time."""
    seen: list[float] = []

    class Watched(RecurrentLanguageModel):
        def training_losses(self, batch: Any) -> Any:
            found = super().training_losses(batch)
            seen.append(found[0].item())
            return found

    exact = {"max_iter": 3, "tolerance_grad": 0.0, "tolerance_change": 0.0}
    task = Watched(V, "gru", width=6, optimizer="LBFGS", lr=1e-30, optimizer_args=exact)
    fitted(task, Batches(segments(lanes(8), 4)))
    assert len(seen) >= 4
    assert len(set(seen)) == 2  # one for each batch


def test_the_states_that_go_on_are_those_of_the_weights_not_of_sams_second_look() -> None:
    """With steps of no length, the second batch starts where that of a single look does."""
    losses = []
    for name, args in (("SGD", None), ("SAM", {"rho": 2.0})):
        logs = Memory()
        fitted(model(lr=1e-30, optimizer=name, optimizer_args=args), Batches(segments(lanes(8), 4)), logger=logs)
        losses.append(logs.values("train/loss_step"))
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]


# Validation -------------------------------------------------------------------------------------------------------------


def test_validation_starts_anew_and_leaves_the_training_as_it_is() -> None:
    batches, val = segments(lanes(24), 4), segments(lanes(9, seed=1), 3)
    with_val, without = model(lr=0.01), model(lr=0.01)
    logs = Memory()
    fitted(with_val, Batches(batches, val), val_check_interval=1, logger=logs)
    fitted(without, Batches(batches))
    for one, other in zip(with_val.parameters(), without.parameters(), strict=True):
        assert torch.equal(one, other)
    trainer = quiet_trainer()
    last = logs.values("val/loss")[-1][1]
    for _ in range(2):  # the states of the training do not matter
        (again,) = trainer.validate(with_val, datamodule=Batches([], val), verbose=False)
        assert again["val/loss"] == pytest.approx(last, rel=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_the_loss_of_evaluation_does_not_depend_on_the_length_of_segments(cell: str) -> None:
    task, text = model(cell), lanes(12)
    y, found = text[:, 1:], []
    with torch.no_grad():
        losses = nn.functional.cross_entropy(task(text[:, :-1]).transpose(1, 2), y)
    for size in (12, 5, 1):
        parts = [(x._replace(starts=x.starts & (i == 0)), y) for i, (x, y) in enumerate(segments(text, size))]
        (result,) = quiet_trainer().validate(task, datamodule=Batches([], parts), verbose=False)
        found.append(result["val/loss"])
    assert found == pytest.approx([float(losses)] * 3, rel=1e-6)


# Several processes, and runs that go on ---------------------------------------------------------------------------------

MIDDLE = 20  # step of the second epoch
TEXT = "the cat sat on the mat, and the rat sat on the cat; " * 12


def data(ranks: int = 1) -> TextDataModule:
    return TextDataModule(TEXT, context=7, order="lanes", batch_size=LANES // ranks, val_fraction=0.2, test_fraction=0)


def lm(**options: Any) -> RecurrentLanguageModel:
    torch.manual_seed(5)
    size = data().vocab_size
    return RecurrentLanguageModel(size, "lstm", width=8, num_layers=2, lr=0.01, **options).double()


class Keep(Callback):
    """Write each process's weights and states after the last step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        torch.save((pl_module.state_dict(), pl_module._after), self.folder / f"{trainer.global_rank}.pt")


def run(
    folder: Path, *callbacks: Callback, ranks: int = 1, ckpt: Path | None = None, net: Any = None, **options: Any
) -> Any:
    """Weights, and the states of all rows, after two epochs."""
    folder.mkdir(exist_ok=True)
    seed_everything(7, verbose=False)
    trainer = quiet_trainer(RandomState(), Keep(folder), *callbacks, ranks=ranks, **{"max_epochs": 2, **options})
    trainer.fit(lm(**(net or {})), datamodule=data(ranks), ckpt_path=ckpt, weights_only=True if ckpt else None)
    weights, states = zip(*(torch.load(folder / f"{rank}.pt") for rank in range(ranks)), strict=True)
    for other in weights[1:]:
        assert all(torch.equal(weights[0][name], other[name]) for name in other)
    rows = [torch.stack([state[part] for state in states], dim=2).flatten(1, 2) for part in range(2)]  # rank r: r::W
    return weights[0], rows


def gap(one: Any, other: Any) -> float:
    weights = max(float((one[0][name] - other[0][name]).abs().max()) for name in one[0])
    return max(weights, *(float((a - b).abs().max()) for a, b in zip(one[1], other[1], strict=True)))


@pytest.mark.filterwarnings("ignore:The checkpoint holds the random state of")
def test_two_processes_train_like_one_and_either_goes_on_where_the_other_stopped(tmp_path: Path) -> None:
    """Two epochs; the checkpoints are of the middle of an epoch."""
    saves = {ranks: SaveOnce(tmp_path / f"{ranks}.ckpt", MIDDLE) for ranks in (1, 2)}
    one = run(tmp_path / "one", saves[1])
    assert len(data_batches()) < MIDDLE < 2 * len(data_batches())
    two = run(tmp_path / "two", saves[2], ranks=2)
    assert gap(one, two) < 1e-9
    carried = [torch.load(tmp_path / f"{ranks}.ckpt", weights_only=True)["zoo"]["carried"] for ranks in (1, 2)]
    assert carried[0][0].shape == (2, LANES, 8)
    for a, b in zip(*carried, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    for ranks, other in ((1, 2), (2, 1)):
        found = run(tmp_path / f"from {other}", ranks=ranks, ckpt=tmp_path / f"{other}.ckpt")
        assert gap(one, found) < 1e-9


def data_batches() -> list[Any]:
    module = data()
    module.setup("fit")
    return list(module.train_dataloader())


def test_two_processes_draw_what_one_draws(tmp_path: Path) -> None:
    """Dropout of embeddings, between the layers and of outputs, and first states."""
    net = {"dropout": 0.3, "initial_state": "random"}
    one = run(tmp_path / "one", net=net)
    assert gap(one, run(tmp_path / "two", net=net, ranks=2)) < 1e-9
    assert gap(one, run(tmp_path / "none")) > 1e-3


def test_a_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", SaveOnce(tmp_path / "middle.ckpt", MIDDLE))
    assert gap(whole, run(tmp_path / "rest", ckpt=tmp_path / "middle.ckpt")) == 0
    content = torch.load(tmp_path / "middle.ckpt", weights_only=True)
    assert not any("carried" in name or "after" in name for name in content["state_dict"])
    torch.save({**content, "zoo": {**content["zoo"], "carried": None}}, tmp_path / "lost.ckpt")
    with pytest.raises(ValueError, match="4 of 4 rows of a batch go on from the batch before, of which 0 are known"):
        run(tmp_path / "lost", ckpt=tmp_path / "lost.ckpt")


def test_rows_that_processes_cannot_divide_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "a", SaveOnce(tmp_path / "a.ckpt", 3), max_steps=3)
    task = lm()
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    content["zoo"]["carried"] = tuple(state[:, :3] for state in content["zoo"]["carried"])
    torch.save(content, tmp_path / "three.ckpt")
    with pytest.raises(Exception, match="goes on in 3 rows, which 2 processes cannot divide"):  # of the process
        quiet_trainer(ranks=2, max_epochs=2).fit(task, datamodule=data(2), ckpt_path=tmp_path / "three.ckpt")
    with pytest.raises(ValueError, match="4 of 4 rows of a batch go on from the batch before, of which 3 are known"):
        quiet_trainer(max_epochs=2).fit(task, datamodule=data(), ckpt_path=tmp_path / "three.ckpt")


def test_a_second_fit_starts_anew() -> None:
    task, batches = model(), segments(lanes(8), 4)
    fitted(task, Batches(batches))
    with pytest.raises(ValueError, match="3 of 4 rows of a batch go on from the batch before, of which 0 are known"):
        fitted(task, Batches(batches[1:]))


# What does not go together ----------------------------------------------------------------------------------------------


def test_gradients_are_not_accumulated_over_a_text_that_goes_on() -> None:
    message = "accumulate_grad_batches is 2, but batches continue each other, and the gradient is cut between them: set it to 1"
    with pytest.raises(ValueError, match=message):
        fitted(lm(), data(), accumulate_grad_batches=2)
    unnamed = Batches(segments(lanes(8), 4))
    unnamed.order = "any"  # it does not say so: the first batch does
    with pytest.raises(ValueError, match=message):
        fitted(model(), unnamed, GradientAccumulationScheduler({0: 2}))
    free = Batches([(x.tokens, y) for x, y in unnamed.train])
    free.order = "shuffled"
    assert fitted(model(), free, accumulate_grad_batches=2).global_step == 1


def test_a_net_that_cannot_go_on_is_refused() -> None:
    net = nn.Sequential(nn.Embedding(V, 4), nn.Linear(4, V))
    with pytest.raises(TypeError, match=r"Sequential cannot go on from a state: define read\(tokens, state\)"):
        fitted(LanguageModelTask(net, V), Batches(segments(lanes(8), 4)))


def test_averages_and_frozen_layers_go_with_it() -> None:
    batches, val = segments(lanes(16), 4), segments(lanes(8, seed=1), 4)
    task = model(lr=0.1).freeze(1)
    before = copy.deepcopy(task.state_dict())
    fitted(task, Batches(batches, val), EMA(decay=0.9), max_epochs=2)
    changed = {name for name, value in task.state_dict().items() if not torch.equal(value, before[name])}
    assert "net.embedding.weight" not in changed
    assert {"net.fc.weight", "net.recurrent.layers.1.weight_hh_l0"} <= changed

"""What runs on a GPU, on one that is not there (or, by ``make test-gpu``, on one that is): no tensor is left on the CPU, the
results are the CPU's, and no training step waits for the device."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from device_kit import CUDA, gpu, on_gpu, real, to_gpu
from kit import Patterns, PatternTask, SaveEverywhere, quiet_trainer, same_weights
from lightning.pytorch import Callback, seed_everything

import zoo
from callbacks import EMA, GradNorm, LRSchedule, MagnitudePruning, RandomState, Samples, WrongExamples
from zoo.decoding import beam_search, greedy, sample
from zoo.internals import tree_leaves, tree_map

sys.path.insert(0, str(Path(__file__).parent / "zoo"))
from test_contract import CASES, FIRST_OF_CLASS

# Times that a step does wait: series of several lengths have as many steps as are true, which the batch norms count; the first
# batch of a variational autoencoder is looked at.
WAITS = {"fcn_series": 1, "cvae_mlp": 1, "vae_mlp": 1, "vae_conv": 1}


def step(model: zoo.Task, batch: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss of a batch, and all gradients."""
    torch.manual_seed(0)
    loss = model.training_losses(batch)[0]
    loss.backward()
    return loss.detach().cpu(), [p.grad.cpu() for p in model.parameters() if p.grad is not None]


def scores(model: zoo.Task, batch: Any) -> dict[str, torch.Tensor]:
    """All metrics of one batch."""
    model._start_evaluation()
    with torch.no_grad():
        model.eval().update_metrics(model.metrics, batch)
    return {name: metric.compute().cpu() for name, metric in model.metrics.items()}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in {*FIRST_OF_CLASS} - {"googlenet"} else pytest.mark.slow)
        for n in zoo.list_models()
    ],
)
def test_a_step_on_the_gpu_is_that_of_the_cpu(name: str) -> None:
    arguments, batch, _ = CASES[name]
    model = zoo.create_model(name, **arguments)
    if model.hparams.get("max_length", 0) is None:
        model.hparams["max_length"] = 3  # of a text that it writes
    twin = copy.deepcopy(model)
    with gpu() as device:
        twin.to("cuda")
        there = to_gpu(batch)
        left = [n for n, x in (*twin.named_parameters(), *twin.named_buffers()) if x.device.type != "cuda"]
        assert not left
        device.waits.clear()
        torch.manual_seed(0)
        loss = twin.training_losses(there)[0]
        loss.backward()
        assert sum(device.waits.values()) == WAITS.get(name, 0), device.waits
        assert loss.device == CUDA
        gradients = [p.grad.cpu() for p in twin.parameters() if p.grad is not None]
        loss, found = loss.detach().cpu(), scores(twin, there)
    if not real():  # whose dropout and noise would be others
        torch.testing.assert_close((loss, gradients), step(model, batch), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found, scores(model, batch), rtol=1e-3, atol=1e-4, equal_nan=True)
    assert loss.isfinite()


class Waits(Callback):
    """Where each training step has waited, from the end of its batch's transfer on."""

    def __init__(self, device: Any) -> None:
        self.device, self.seen = device, []

    def on_train_batch_start(self, *_: Any) -> None:
        self.device.waits.clear()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen.append(dict(self.device.waits))


def fit(folder: Path, epochs: int = 2, ckpt: Path | None = None, *more: Callback, **options: Any) -> PatternTask:
    """A fit with all that may happen in one: augmentation, accumulation, clipping, an average of the weights, pruning, pictures."""
    seed_everything(5, verbose=False)
    task = PatternTask(norm=False)  # behind one, a bias has a gradient of rounding errors alone
    ours = [RandomState(), LRSchedule(), EMA(0.5), GradNorm(), Samples(every_n_epochs=2), WrongExamples()]
    trainer = quiet_trainer(
        *ours,
        MagnitudePruning(0.5),
        *more,
        max_epochs=epochs,
        default_root_dir=folder,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        log_every_n_steps=100,
        **options,
    )
    trainer.fit(task, datamodule=Patterns(shift=1, mixup=0.2), ckpt_path=ckpt, weights_only=True)
    trainer.test(task, datamodule=Patterns(), verbose=False)
    return task


def test_a_fit_on_the_gpu_is_that_of_the_cpu(tmp_path: Path) -> None:
    """Saved in the middle and gone on with, too; and only labels, rows, pictures and checkpoints wait for the device."""
    here = fit(tmp_path / "cpu")
    with gpu() as device:
        waits = Waits(device)
        there = fit(tmp_path / "gpu", 2, None, waits, SaveEverywhere(tmp_path), **on_gpu())
        again = fit(tmp_path / "again", 2, tmp_path / "step-2.ckpt", **on_gpu())
        assert all(x.device.type == "cpu" for x in there.state_dict().values())  # as the trainer leaves a model
        same = same_weights(there, again)
    per_epoch = len(waits.seen) // 2
    assert all(sum(seen.values()) == 1 for seen in waits.seen[:per_epoch])  # labels are looked at in the first epoch
    assert not any(waits.seen[per_epoch:]), waits.seen
    if not real():  # whose dropout draws others
        assert same
        torch.testing.assert_close(dict(there.state_dict()), dict(here.state_dict()), rtol=1e-4, atol=1e-6)
    assert (there.state_dict()["net.10.weight"] == 0).float().mean() > 0.4
    files = sorted(p.relative_to(tmp_path / "cpu") for p in (tmp_path / "cpu").rglob("*.*"))
    assert files == sorted(p.relative_to(tmp_path / "gpu") for p in (tmp_path / "gpu").rglob("*.*"))


@pytest.mark.parametrize("name", ["gan_mlp", "gru_lm", "transformer_lm", "gru_attention_seq2seq"])
def test_texts_and_samples_of_the_gpu_are_those_of_the_cpu(name: str) -> None:
    arguments, batch, _ = CASES[name]
    model = zoo.create_model(name, **arguments).eval()

    def made(batch: Any) -> Any:
        if name == "gan_mlp":
            return model.sample(2, seed=1)
        if name.endswith("_lm"):
            start = batch[0][:, 0]
            state = model.net.init_state(len(start))
            options = {"max_length": 4, "end": 1}
            return (
                greedy(model.net, state, start, **options),
                sample(model.net, state, start, seed=1, top_k=3, **options),
                beam_search(model.net, state, start, beam=2, prefix=[3], no_repeat_ngram=2, **options),
            )
        return [model.predict_step(batch, 0, beam=b, max_length=4) for b in (None, 2)]

    with torch.no_grad():
        here = made(batch)
        with gpu():
            model.to("cuda")
            there = tree_map(lambda x: x.cpu() if isinstance(x, torch.Tensor) else x, made(to_gpu(batch)))
    numbers, texts = (
        [[x for x in tree_leaves(m) if isinstance(x, kind)] for m in (there, here)] for kind in (torch.Tensor, str)
    )
    torch.testing.assert_close(*numbers)
    assert texts[0] == texts[1]


@pytest.mark.parametrize("soft", [False, True])
def test_labels_are_looked_at_once(soft: bool) -> None:
    with gpu() as device:
        model = zoo.create_model("lenet5").to("cuda")
        y = torch.full((8, 10), 0.1).to("cuda") if soft else torch.arange(8).to("cuda")
        device.waits.clear()
        model._mode.check(y, training=True)
        assert sum(device.waits.values()) == 1


def test_a_gpu_that_is_not_there_refuses_what_one_refuses() -> None:
    near, index = torch.ones(3), torch.tensor([0, 2])
    with gpu() as device:
        far = near.to("cuda")
        device.waits.clear()
        assert far.device == CUDA
        for wrong in (
            lambda: far + near,
            lambda: torch.cat([far, near]),
            lambda: near.mul_(far),
            lambda: near[index.to("cuda")],
        ):
            with pytest.raises((RuntimeError, ValueError), match=r"same device|on the cpu|different"):
                wrong()
        with pytest.raises(TypeError, match="numpy"):
            far.numpy()
        with pytest.raises((RuntimeError, ValueError), match=r"'cuda' device type|generator"):
            torch.rand(2, device="cuda", generator=torch.Generator())
        assert (far + torch.tensor(1.0)).tolist() == [2, 2, 2]  # one number may come from anywhere
        assert (
            torch.rand(2, device="cuda").device == torch.zeros_like(far).device == far.new_tensor([1.0]).device == CUDA
        )


@pytest.mark.parametrize(
    ("look", "times"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: bool(x[0] > 0), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: torch.ones(3).to(x), 1),
        (lambda x: torch.ones(3).to("cuda", non_blocking=True), 0),
        (lambda x: x.where(x > 0, 1.0).cumsum(0).to(torch.float64).to("cuda"), 0),
    ],
)
def test_waiting_is_seen(look: Any, times: int) -> None:
    with gpu() as device:
        x = torch.ones(3, device="cuda")
        device.waits.clear()
        look(x)
        assert sum(device.waits.values()) == times


if real():  # what no other device can stand for

    @pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
    def test_mixed_precision(precision: str, tmp_path: Path) -> None:
        task = fit(tmp_path, precision=precision, **on_gpu())
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in task.parameters())

    def test_a_compiled_net_gives_the_same() -> None:
        arguments, batch, _ = CASES["lenet5"]
        model = zoo.create_model("lenet5", **arguments).to("cuda").eval()
        x = to_gpu(batch)[0]
        with torch.no_grad():
            wanted = model(x)
            model.net.compile()
            torch.testing.assert_close(model(x), wanted, rtol=1e-3, atol=1e-4)

    def test_an_exported_program_runs_there(tmp_path: Path) -> None:
        from torch.export.passes import move_to_device_pass

        arguments, batch, _ = CASES["lenet5"]
        model = zoo.create_model("lenet5", **arguments).eval()
        program = torch.export.load(zoo.export(model, tmp_path / "model.pt2"))
        given = move_to_device_pass(program, "cuda").module()(to_gpu(batch)[0])
        wanted = model.outputs(batch[0])
        torch.testing.assert_close(tree_map(torch.Tensor.cpu, dict(given)), wanted, rtol=1e-3, atol=1e-4)

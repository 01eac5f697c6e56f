"""The recurrent language model: numbers of parameters, equality with torch's layers, tied weights, and texts step by step."""

import copy
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import quiet_trainer
from torch import Tensor, nn

import zoo
from datamodules import TextDataModule
from zoo.recurrent import RecurrentLanguageModel, RecurrentLM
from zoo.testing import check_module

TIED: dict[str, Any] = {
    "same width": {"tied": True},
    "projection": {"tied": True, "embedding_dim": 5, "projection": True},
}
CELLS = {"rnn_tanh": (nn.RNN, 1), "lstm": (nn.LSTM, 4), "gru": (nn.GRU, 3)}


def tokens(rows: int = 4, length: int = 7, size: int = 11) -> Tensor:
    return torch.randint(size, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("cell", CELLS)
def test_parameters(cell: Any) -> None:
    """Embedding V E; of each gate W (inputs + W) and torch's two biases; output W V + V."""
    gates, v, e, w = CELLS[cell][1], 11, 5, 8
    with torch.device("meta"):
        net = RecurrentLM(v, cell, width=w, num_layers=2, embedding_dim=e)
    layers = gates * (w * (e + w) + 2 * w) + gates * (w * (w + w) + 2 * w)
    assert sum(p.numel() for p in net.parameters()) == v * e + layers + w * v + v
    with torch.device("meta"):
        net = RecurrentLM(v, cell, width=w, embedding_dim=e, tied=True, projection=True)
    one = gates * (w * (e + w) + 2 * w)
    assert sum(p.numel() for p in net.parameters()) == v * e + one + (w * e + e) + v


@pytest.mark.parametrize("cell", CELLS)
def test_it_is_torchs_layers_between_embedding_and_output(cell: Any) -> None:
    net, x = RecurrentLM(11, cell, width=8, num_layers=2, embedding_dim=5, projection=True).double(), tokens()
    layers = CELLS[cell][0](5, 8, num_layers=2, batch_first=True).double()
    for i, layer in enumerate(net.recurrent.layers):
        for name, value in layer.named_parameters():
            getattr(layers, name.replace("_l0", f"_l{i}")).data.copy_(value)
    outputs, state = layers(net.embedding.weight[x])
    wanted = (outputs @ net.projection.weight.T + net.projection.bias) @ net.fc.weight.T + net.fc.bias
    torch.testing.assert_close(net(x), wanted)
    logits, carried = net.read(x[:, :4], net.init_state(4))
    more, last = net.read(x[:, 4:], carried)
    torch.testing.assert_close(torch.cat([logits, more], dim=1), wanted)
    torch.testing.assert_close(last, state)
    swapped = net.reorder_state(carried, torch.tensor([2, 0, 0, 1]))
    torch.testing.assert_close(net.step(x[[2, 0, 0, 1], 4], swapped)[0], wanted[[2, 0, 0, 1], 4])


@pytest.mark.parametrize("which", TIED)
def test_tied_weights_stay_one(which: str, tmp_path: Path) -> None:
    task, other = (RecurrentLanguageModel(11, "gru", width=8, lr=0.1, **TIED[which]) for _ in range(2))
    batch = tokens(), tokens()
    check_module(task, batch, only=["gradients", "hyperparameters", "checkpoint", "folder"])
    task.save_pretrained(tmp_path / "folder")
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    data = TextDataModule("abcdefghijk" * 30, context=4, batch_size=2)
    trainer.fit(other, datamodule=data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    twins = {
        "fitted": other,
        "copied": copy.deepcopy(task),
        "folder": zoo.load(tmp_path / "folder"),
        "checkpoint": zoo.load(tmp_path / "model.ckpt"),
        "lightning": RecurrentLanguageModel.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True),
        "weights": RecurrentLanguageModel(11, "gru", width=8, weights=str(tmp_path / "folder"), **TIED[which]),
        "cast": copy.deepcopy(task).double(),
    }
    for name, twin in twins.items():
        net = twin.net
        assert net.fc.weight is net.embedding.weight, name
        before = net.embedding.weight.detach().clone()
        optimizer = twin.configure_optimizers()
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert held.count(id(net.fc.weight)) == 1, name
        twin.train().training_losses(batch)[0].backward()
        optimizer.step()
        assert not torch.equal(before, net.fc.weight), name
        assert net.fc.weight is net.embedding.weight, name


def test_the_gradient_of_a_tied_matrix_is_the_sum_of_both() -> None:
    task = RecurrentLanguageModel(11, "gru", width=8, tied=True).double()
    free = copy.deepcopy(task)
    free.net.fc.weight = nn.Parameter(task.net.fc.weight.detach().clone())
    for one in (task, free):
        one.training_losses((tokens(), tokens()))[0].backward()
    both = free.net.fc.weight.grad + free.net.embedding.weight.grad
    torch.testing.assert_close(task.net.fc.weight.grad, both)


@pytest.mark.parametrize("options", [{}, {"tied": True}, {"embedding_dim": 16, "projection": True, "tied": True}])
def test_a_fresh_model_is_near_ln_v(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    task, x = RecurrentLanguageModel(50, "lstm", width=64, **options), tokens(20, 20, 50)
    loss = float(task.training_losses((x, x.flip(0)))[0].detach())
    assert loss == pytest.approx(task.expected_initial_loss(), rel=0.05)


def test_dropout_is_between_the_parts() -> None:
    """In training alone; with everything dropped but scale the state still goes on."""
    torch.manual_seed(0)
    task, x = RecurrentLanguageModel(11, "gru", width=64, num_layers=2, dropout=0.5), tokens()
    assert not torch.equal(task(x), task(x))
    task.eval()
    assert torch.equal(task(x), task(x))
    single = RecurrentLanguageModel(11, "gru", width=64, dropout=0.5)
    assert not torch.equal(single(x), single(x))  # with one layer, too


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tied": True, "embedding_dim": 4}, "embedding_dim must be the width 8, got 4: set projection=True"),
        ({"embedding_dim": 0}, "embedding_dim must be 1 or more, got 0"),
        ({"dropout": 1.0}, r"dropout is a probability in \[0, 1\), got 1.0"),
        ({"vocab_size": 1}, "vocab_size must be 2 or more, got 1"),
        ({"cell": "elman"}, "cell must be one of rnn_tanh, rnn_relu, lstm, gru, got 'elman'"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecurrentLanguageModel(**{"vocab_size": 11, "width": 8, **options})


def test_padding_and_steps_meet_the_contract() -> None:
    task = RecurrentLanguageModel(11, "lstm", width=8, num_layers=2)
    task.vocabulary = {"kind": "characters", "tokens": [*"abcdefghij", "<pad>"], "padding": 10}
    x, y = tokens(4, size=10), tokens(4, size=10).flip(0)
    x[1, 4:], y[1, 4:], x[2, 6:], y[2, 6:] = 10, 10, 10, 10
    report = check_module(task, (x, y), only=["padding", "causality", "incremental", "accumulation"])
    assert set(report.values()) == {"ok"}


def test_one_step_is_exported() -> None:
    """The graph of a step takes any number of texts, and the states that it gives."""

    class Step(nn.Module):
        def __init__(self, net: RecurrentLM) -> None:
            super().__init__()
            self.net = net

        def forward(self, x_t: Tensor, state: Any) -> Any:
            return self.net.step(x_t, state)

    net = RecurrentLM(11, "lstm", width=8).eval()
    x, auto = tokens(5), torch.export.Dim.AUTO
    dynamic = {"x_t": {0: auto}, "state": ({1: auto}, {1: auto})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nn.LSTM's list of its weights
        program = torch.export.export(Step(net), (x[:, 0], net.init_state(5)), dynamic_shapes=dynamic).module()
    with torch.no_grad():
        state, steps = net.init_state(2), []
        for t in range(x.shape[1]):
            logits, state = program(x[:2, t], state)
            steps.append(logits)
        torch.testing.assert_close(torch.stack(steps, dim=1), net(x[:2]))


def test_it_learns_a_text_by_heart() -> None:
    """A text of eleven letters in a row has nothing to guess."""
    torch.manual_seed(0)
    task = RecurrentLanguageModel(11, "gru", width=24, lr=0.03)
    data = TextDataModule("abcdefghijk" * 60, context=11, batch_size=8, order="lanes")
    quiet_trainer(max_epochs=12, limit_val_batches=0).fit(task, datamodule=data)
    (result,) = quiet_trainer().test(task, datamodule=data, verbose=False)
    assert result["test/bpc"] < 0.05
    assert result["test/acc"] == 1
    assert task.eval().sample(1, prompt="abc", tokens=12)[0] == "abcdefghijkabcd"
    found = task.predict_step(task.batch_of(["defg", "gfed"]))
    assert found["log_probability"][0] > found["log_probability"][1] + 5
    assert found["continuation"][0].startswith("hijkabcdefghijk")


@pytest.mark.parametrize(("order", "context", "rows"), [("shuffled", 13, 4), ("lanes", 13, 7), ("lanes", 400, 3)])
def test_evaluation_is_that_of_the_text_read_by_hand(order: Any, context: int, rows: int) -> None:
    """Each target once: of windows that begin anew, the last one as long as the others; of lanes that are read to their end."""
    text = "It is a truth, universally àcknowledged:\n" * 30
    data = TextDataModule(text, context=context, order=order, batch_size=rows, test_fraction=0.35)
    task = RecurrentLanguageModel(data.vocab_size, "lstm", width=6, num_layers=2, initial_state="learned").double()
    for p in task.net.parameters():
        nn.init.normal_(p)
    data.setup("test")
    task.vocabulary = dict(data.vocabulary)
    (result,) = quiet_trainer().test(task, datamodule=data, verbose=False)
    read = torch.tensor(task.tokenizer.encode(text[-math.ceil(0.35 * len(text)) :]))
    count = len(read) - 1
    if order == "shuffled":
        pieces = [(min(i, count - context), context, i - min(i, count - context)) for i in range(0, count, context)]
    else:
        sizes = [count // rows + (lane >= rows - count % rows) for lane in range(rows)]
        pieces = [(sum(sizes[:lane]), size, 0) for lane, size in enumerate(sizes)]
    nats = 0.0
    for begin, length, known in pieces:
        log_probs = task(read[None, begin : begin + length])[0].log_softmax(dim=1).detach()
        targets = read[begin + 1 : begin + length + 1]
        nats -= float(log_probs.gather(1, targets[:, None])[known:].sum())
    spelled = task.tokenizer.decode(read[1:].tolist())
    assert result["test/loss"] == pytest.approx(nats / count, rel=1e-6)
    assert result["test/bpc"] == pytest.approx(nats / math.log(2) / len(spelled), rel=1e-6)
    assert result["test/bpb"] == pytest.approx(nats / math.log(2) / len(spelled.encode()), rel=1e-6)


def test_a_text_goes_on_after_all_that_was_read() -> None:
    """Tokens that do not count, because another window has them, are read as all others; those after the end are not."""
    torch.manual_seed(0)
    task = RecurrentLanguageModel(11, "gru", width=8)
    for p in task.net.parameters():
        nn.init.normal_(p)  # far from the uniform distribution: what was read matters
    task.vocabulary = {"kind": "characters", "tokens": list("abcdefghijk")}
    text, weight = tokens(6, 9), torch.ones(6, 8)
    x, y = text[:, :-1], text[:, 1:]
    whole, shorter = (task.predict_step(batch)["continuation"] for batch in ((x, y), (x[:, :6], y[:, :6])))
    weight[:, :3] = 0
    assert task.predict_step((x, y, weight))["continuation"] == whole
    weight[:, 6:] = 0
    assert task.predict_step((x, y, weight))["continuation"] == shorter

"""``zoo lottery``: what each net starts from and keeps, its table, its picture and its errors."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_kit import Zoo, assert_one_line
from lightning.pytorch import Trainer, seed_everything
from PIL import Image

from datamodules import DigitsDataModule
from recipes.cli.studies import lottery_ticket as lottery

pytestmark = pytest.mark.filterwarnings("ignore:GPU available")
SIZES = {"net.layers.0.linear.weight": 64 * 300, "net.layers.1.linear.weight": 300 * 100, "net.fc.weight": 1000}


@pytest.fixture
def pictures() -> None:
    """They are looked at."""


def pruned(rounds: int) -> dict[str, int]:
    """Numbers of weights, by hand."""
    return {name: round(size * (1 - (0.9 if "fc" in name else 0.8) ** rounds)) for name, size in SIZES.items()}


def zeros(weights: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: int((weights[name] == 0).sum()) for name in SIZES}


def moved(weights: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """As if trained: other numbers, zeros stay."""
    g = torch.Generator().manual_seed(seed)
    return {n: w + torch.randn(w.shape, generator=g) * (w != 0) * 0.1 for n, w in weights.items()}


@pytest.mark.parametrize("rewind", [0, 7])
def test_what_each_net_starts_from(rewind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[tuple[dict[str, torch.Tensor], int, int, int]] = []
    rewound: dict[str, torch.Tensor] = {}

    def fit(task: Any, seed: int, rounds: int, made: int, *callbacks: Any) -> float:
        weights = lottery._weights(task)
        starts.append((weights, seed, rounds, made))
        if callbacks and rewind:
            rewound.update(moved(weights, 99))
            trainer = type("At", (), {"global_step": rewind})()
            task.load_state_dict({**task.state_dict(), **rewound})
            callbacks[0].on_train_batch_end(trainer, task)
        elif callbacks:
            rewound.update(weights)
        task.load_state_dict({**task.state_dict(), **moved(lottery._weights(task), len(starts))})
        return len(starts) / 100

    monkeypatch.setattr(lottery, "_fit", fit)
    rows = list(lottery.compare(4, rewind, 1))
    dense, *rest = starts
    assert zeros(dense[0]) == dict.fromkeys(SIZES, 0)
    # dense, three tickets, three controls, a ticket, three controls
    assert [rounds for _, _, rounds, _ in starts] == [0, 1, 2, 3, 3, 3, 3, 4, 4, 4, 4]
    assert [made for *_, made in rest] == [0 if i in (3, 7) else rewind for i in range(10)]
    assert [(row.rounds, sorted(row.accuracies)) for row in rows] == [
        (0, ["ticket"]),
        *((n, sorted(lottery.METHODS)) for n in (3, 4)),
    ]
    for weights, _, rounds, _ in rest:
        assert zeros(weights) == pruned(rounds)
    ticket, fresh, random, one_shot = (weights for weights, *_ in starts[3:7])
    for name in SIZES:
        for net in (ticket, random, one_shot):
            kept = net[name] != 0
            assert torch.equal(net[name][kept], rewound[name][kept])
        assert torch.equal(fresh[name] == 0, ticket[name] == 0)
        assert (fresh[name] == dense[0][name])[fresh[name] != 0].float().mean() < 0.01
        masks = [net[name] == 0 for net in (ticket, random, one_shot)]
        assert not any(torch.equal(masks[i], masks[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    trained = moved(rewound, 1)  # the dense net; the first ticket's mask, and the masks of one-shot
    for name, count in pruned(1).items():
        order = np.sort(trained[name].abs().numpy().ravel())
        assert torch.equal(starts[1][0][name] == 0, trained[name].abs() < order[count])
    for name, count in pruned(3).items():
        order = np.sort(trained[name].abs().numpy().ravel())
        assert torch.equal(one_shot[name] == 0, trained[name].abs() < order[count])
    assert rows[1].left == pytest.approx(1 - sum(pruned(3).values()) / sum(SIZES.values()))


def test_zeros_stay_zero_and_the_weights_of_a_step_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lottery, "EPOCHS", 1)
    monkeypatch.setattr(lottery, "STEPS", 24)
    chain = lottery.Chain(3)
    lottery._train_dense(chain, 5)
    seed_everything(3, verbose=False)
    task = lottery.net(3)
    seed_everything(3, verbose=False)
    options: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing"), False)
    trainer = Trainer(accelerator="cpu", max_steps=5, enable_model_summary=False, **options)
    trainer.fit(task, datamodule=DigitsDataModule(batch_size=60, val_fraction=0))
    assert all(torch.equal(value, chain.rewound[name]) for name, value in lottery._weights(task).items())
    mask = lottery.smallest(chain.dense, 6)
    lottery._train_ticket(chain, mask, 6, 5)
    assert zeros(chain.trained) == pruned(6)
    for name, where in mask.items():
        assert torch.equal(chain.trained[name] == 0, where)
        assert (chain.trained[name] != chain.rewound[name])[~where].float().mean() > 0.5


def test_the_table_and_the_picture(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lottery, "_fit", lambda task, seed, *_: 0.9 + seed / 100)
    result = zoo("lottery", "--rounds", "4", "--seeds", "3")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert (
        lines[0] == "LeNet-300-100 on the digits, set back to step 0 of 480; test accuracy, mean (range) over 3 seeds"
    )
    assert re.split(r"\s{2,}", lines[2].strip()) == ["rounds", "weights left", *lottery.METHODS]
    assert re.split(r"\s{2,}", lines[4].strip()) == ["0", "100.0%", "0.910 (0.900-0.920)"]
    left = [1 - sum(pruned(n).values()) / 50200 for n in (3, 4)]
    assert [re.split(r"\s{2,}", text.strip()) for text in lines[5:7]] == [
        [str(n), f"{share:.1%}", *["0.910 (0.900-0.920)"] * 4] for n, share in zip((3, 4), left, strict=True)
    ]
    with Image.open(lottery.PICTURE) as picture:
        assert picture.size == (900, 552)
    assert [path.name for path in Path().iterdir()] == ["lottery_ticket.png"]


@pytest.mark.slow
def test_a_ticket_of_four_percent_learns_what_its_controls_do_not(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lottery, "_EVERY", 15)
    result = zoo("lottery", "--rounds", "15", "--seeds", "1")
    assert (result.code, result.err) == (0, "")
    *_, dense, last, _, _ = result.out.splitlines()
    whole, ticket, fresh, random, one_shot = (float(text) for text in re.findall(r"(0\.\d+) \(", dense + last))
    assert min(whole, ticket) > 0.95
    assert ticket - 0.02 > max(fresh, one_shot) > min(fresh, one_shot) > random


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rounds", "0"), "--rounds must be in 1..25, got 0"),
        (("--rounds", "26"), "--rounds must be in 1..25, got 26"),
        (("--rewind", "480"), "--rewind is a step of the dense training in 0..479, got 480"),
        (("--rewind", "-1"), "in 0..479, got -1"),
        (("--seeds", "0"), "--seeds must be 1 or more, got 0"),
    ],
)
def test_bad_options(zoo: Zoo, options: tuple[str, ...], message: str) -> None:
    assert_one_line(zoo("lottery", *options), message)

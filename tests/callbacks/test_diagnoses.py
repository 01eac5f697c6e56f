"""The rules of the diagnoses, on records that are written by hand: each finds its own and leaves alone what is nearly so."""

import copy
import math
from typing import Any

import pytest

from callbacks.diagnoses import NAMES, PATIENCE, RULES, Record, Row, Validation, diagnose


def healthy(rows: int = 40, epochs: float = 4.0) -> Record:
    """A record of a run that learns, half of it done."""
    record = Record(start_loss=2.4, expected_loss=2.3, share_done=0.6, overlap=0.0, shift=0.1, spread=0.9)
    record.gains = {"conv1.weight": 0.6, "conv2.weight": 0.6, "fc1.weight": 1.0, "fc2.weight": 1.4}
    for i in range(rows):
        record.rows.append(
            Row(
                step=i + 1,
                epoch=epochs * (i + 1) / rows,
                loss=2.4 * math.exp(-i / 15),
                lr=1e-3,
                update=2e-3,
                gradients=dict.fromkeys(record.gains, 0.01),
                dead={"conv1.relu": 0.2},
                saturated={"fc1.tanh": 0.1, "fc2.sigmoid": 0.2},
            )
        )
    for i in range(8):
        loss = 2.0 * math.exp(-i / 3)
        numbers = {
            "sample_diversity": 0.8,
            "active_share": 1.0,
            "attention_movement": 0.5,
            "forced_accuracy": 0.9,
            "written_accuracy": 0.8,
        }
        record.validations.append(Validation(i + 1, epochs * (i + 1) / 8, loss, 1.1 * loss, loss, numbers))
    return record


def names(record: Record) -> list[str]:
    return [diagnosis.name for diagnosis in diagnose(record)]


def test_nothing_is_said_of_a_healthy_run_nor_of_none() -> None:
    assert names(healthy()) == []
    assert names(Record()) == []
    for rows in range(1, 40):
        record = healthy()
        record.rows = record.rows[:rows]
        assert names(record) == []


def rows(record: Record, last: int | None = None, **values: Any) -> None:
    """Give the last rows, or all, other values."""
    for row in record.rows if last is None else record.rows[-last:]:
        for name, value in values.items():
            setattr(row, name, copy.deepcopy(value))


def losses(record: Record, first: float, last: float) -> None:
    count = len(record.rows)
    for i, row in enumerate(record.rows):
        row.loss = first + (last - first) * i / (count - 1)


def validations(record: Record, last: int = 8, **values: Any) -> None:
    for validation in record.validations[-last:]:
        for name, value in values.items():
            if name in validation.numbers:
                validation.numbers[name] = value
            else:
                setattr(validation, name, value)


def overfitted(val: float, train: float, last: int = 5, unit: float = 1.0) -> Record:
    """A record whose last validations are as given, where the best was 1.0 with 0.9 in training."""
    record = healthy()
    validations(record, val_loss=unit, train_loss=0.9 * unit, seen_loss=0.9 * unit)
    validations(record, last, val_loss=val * unit, train_loss=train * unit, seen_loss=train * unit)
    return record


def with_(change: Any, *arguments: Any, **values: Any) -> Record:
    record = healthy()
    change(record, *arguments, **values)
    return record


def gains(record: Record, value: float, count: int = 4, loss: float = 2.35) -> None:
    losses(record, 2.4, loss)
    for name in list(record.gains)[:count]:
        record.gains[name] = value


def field(record: Record, **values: Any) -> None:
    for name, value in values.items():
        setattr(record, name, value)


def flat(record: Record, loss: float, update: float, **values: Any) -> None:
    losses(record, 2.4, loss)
    rows(record, update=update)
    field(record, **values)


def settle(record: Record, loss: float, share_done: float = 0.6, update: float = 1e-3) -> None:
    """Let the second half of the rows have one loss."""
    rows(record, 20, loss=loss, update=update)
    record.share_done = share_done


def jump(record: Record, loss: float, update: float) -> None:
    record.rows[2].loss, record.rows[2].update = loss, update


def vanish(record: Record, ratio: float) -> None:
    rows(record, gradients={"a": 0.01 * ratio, "b": 0.01, "c": 0.01, "d": 0.01})


FOUND: list[tuple[str, Record]] = [
    ("not finite", with_(field, not_finite="the loss is not finite")),
    ("loss exploded", with_(rows, 1, loss=7.3)),
    ("vanishing gradients", with_(vanish, 0.5e-4)),
    ("dying ReLU", with_(rows, 10, dead={"conv1.relu": 0.1, "conv2.relu": 1.0})),
    ("dying ReLU", with_(rows, 10, dead={"conv1.relu": 0.5, "conv2.relu": 0.72})),
    ("saturation", with_(rows, 10, saturated={"fc1.tanh": 0.85, "fc2.sigmoid": 0.2})),
    ("saturation", with_(rows, saturated={"fc1.tanh": 0.1, "fc2.sigmoid": 0.85})),
    ("rate too high", with_(jump, 3.7, 0.2)),
    ("rate too low", with_(flat, 2.3, 1e-5)),
    ("plateau from initialization", with_(gains, 0.01, 3)),
    ("plateau from initialization", with_(gains, 30.0, 3)),
    ("plateau from initialization", with_(flat, 2.35, 1e-3, twins=["conv1.weight"], share_done=0.2)),
    ("underfit", with_(settle, 1.7)),
    ("overfit", overfitted(1.3, 0.4)),
    ("validation too easy", with_(field, overlap=0.06, repeats=0.02)),
    ("validation too easy", with_(validations, 3, val_loss=0.3, seen_loss=0.8)),
    ("distribution mismatch", with_(field, shift=0.6)),
    ("distribution mismatch", with_(field, spread=2.6)),
    ("distribution mismatch", with_(field, spread=0.3)),
    ("mode collapse", with_(validations, 3, sample_diversity=0.2)),
    ("posterior collapse", with_(validations, 3, active_share=0.1)),
    ("attention does not move", with_(validations, 3, attention_movement=0.01)),
    ("teacher-forcing gap", with_(validations, 3, written_accuracy=0.5)),
]


NEARLY: list[tuple[str, Record]] = [
    ("loss exploded", with_(rows, 1, loss=7.1)),
    ("loss exploded", with_(field, start_loss=-1.0, expected_loss=None)),
    ("loss exploded", with_(field, start_loss=0.3)),  # a trained net that begins with another part
    ("vanishing gradients", with_(vanish, 2e-4)),
    ("vanishing gradients", with_(vanish, 0.0)),
    ("dying ReLU", with_(rows, 9, dead={"conv1.relu": 0.2, "conv2.relu": 1.0})),
    ("dying ReLU", with_(rows, 10, dead={"conv1.relu": 0.2, "conv2.relu": 0.97})),
    ("saturation", with_(rows, 9, saturated={"fc1.tanh": 0.85})),
    ("saturation", with_(rows, 10, saturated={"fc1.tanh": 0.75})),
    ("saturation", with_(rows, 10, saturated={"fc2.sigmoid": 0.9})),
    ("rate too high", with_(jump, 3.7, 0.1)),
    ("rate too high", with_(jump, 3.4, 0.2)),
    ("rate too low", with_(flat, 2.3, 3e-5)),
    ("rate too low", with_(flat, 2.0, 1e-5)),
    ("rate too low", with_(flat, 2.3, 1e-5, twins=["conv1.weight"])),
    ("plateau from initialization", with_(gains, 0.01, 2)),
    ("plateau from initialization", with_(gains, 0.01, 3, loss=2.1)),
    ("underfit", with_(settle, 1.65)),
    ("underfit", with_(flat, 1.7, 1e-3)),  # still falls
    ("underfit", with_(settle, 1.7, share_done=0.4)),
    ("underfit", with_(settle, 1.7, update=1e-6)),
    ("overfit", overfitted(1.2, 0.4)),
    ("overfit", overfitted(1.3, 0.5)),
    ("overfit", overfitted(1.3, 0.4, last=4)),
    ("overfit", overfitted(1.3, 0.4, unit=0.2)),  # both are near 0
    ("validation too easy", with_(field, overlap=0.04)),
    ("validation too easy", with_(field, overlap=0.06, repeats=0.04)),
    ("validation too easy", with_(validations, 2, val_loss=0.3, seen_loss=0.8)),
    ("validation too easy", with_(validations, 3, val_loss=0.35, seen_loss=0.8)),
    ("validation too easy", with_(validations, 3, val_loss=0.03, seen_loss=0.2)),
    ("distribution mismatch", with_(field, shift=0.4, spread=2.4)),
    ("mode collapse", with_(validations, 2, sample_diversity=0.2)),
    ("posterior collapse", with_(validations, 2, active_share=0.0)),
    ("attention does not move", with_(validations, 2, attention_movement=0.0)),
    ("teacher-forcing gap", with_(validations, 2, written_accuracy=0.5)),
    ("teacher-forcing gap", with_(validations, 3, forced_accuracy=0.49, written_accuracy=0.1)),
]


@pytest.mark.parametrize(("name", "record"), FOUND, ids=[name for name, _ in FOUND])
def test_a_rule_finds_its_own(name: str, record: Record) -> None:
    assert name in names(record)
    (found,) = [diagnosis for diagnosis in diagnose(record) if diagnosis.name == name]
    assert (found.epoch, found.step) == (4, 40)
    assert str(found) == f"{name} (epoch 4, step 40): {found.evidence}. {RULES[name][1]}."


@pytest.mark.parametrize(("name", "record"), NEARLY, ids=[name for name, _ in NEARLY])
def test_a_rule_leaves_alone_what_is_nearly_so(name: str, record: Record) -> None:
    assert name not in names(record)


def test_every_rule_is_tried() -> None:
    assert {name for name, _ in FOUND} == set(NAMES)


def test_losses_above_zero_alone_are_compared() -> None:
    """A bound may be negative; a smoothed target has a floor that no net gets below."""
    record = with_(flat, 2.3, 1e-5)
    record.loss_floor = 1.0
    assert "rate too low" in names(record)
    losses(record, 2.4, 2.0)  # of the 1.4 above the floor, 0.4 are gone
    assert "rate too low" not in names(record)
    easy = with_(validations, 3, val_loss=0.3, seen_loss=0.8)
    easy.loss_floor = 0.2
    assert "validation too easy" not in names(easy)


def test_a_decayed_rate_is_not_too_low() -> None:
    record = with_(flat, 2.3, 1e-5)
    rows(record, 10, lr=1e-5)
    assert "rate too low" not in names(record)


@pytest.mark.parametrize(("name", "record"), FOUND, ids=[name for name, _ in FOUND])
def test_the_first_epoch_is_left_alone_but_for_what_cannot_get_better(name: str, record: Record) -> None:
    record = copy.deepcopy(record)
    record.share_done = 0.2
    rows(record, epoch=0.9)
    said = name in ("not finite", "loss exploded", "distribution mismatch") or record.overlap > 0
    assert names(record) == [name] * said


@pytest.mark.parametrize(
    "name", ["mode collapse", "posterior collapse", "attention does not move", "teacher-forcing gap"]
)
def test_a_model_gets_time_to_find_out(name: str) -> None:
    (record,) = [record for found, record in FOUND if found == name]
    record = copy.deepcopy(record)
    record.share_done = PATIENCE - 0.01
    assert name not in names(record)
    record.share_done = math.nan  # a run without end
    assert name in names(record)


def test_names_can_be_chosen() -> None:
    record = with_(field, shift=0.6, not_finite="the batch has values that are not finite")
    assert [d.name for d in diagnose(record, ("distribution mismatch", "overfit"))] == ["distribution mismatch"]

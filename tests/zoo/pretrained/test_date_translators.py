"""What the bundled translators of dates have learned: bounds that a net which only fits its loss would miss.

Attention goes to year, month and day in the order in which the source has them, and beam search writes nothing worse than the most
probable token at each step, of dates that the nets can read and of damaged ones, of which they are unsure.
"""

import random
import re
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from datamodules.dates import read_rows
from zoo.decoding import beam_search
from zoo.metrics import BLEU

NAMES = ["dates_gru", "dates_transformer"]
FIELDS = {"year": slice(0, 4), "month": slice(5, 7), "day": slice(8, 10)}  # the digits of 2021-03-03
DIGITS = [0, 1, 2, 3, 5, 6, 8, 9]
COUNT = 400  # dates whose attention is looked at


@cache
def model(name: str) -> Any:
    return zoo.load(name)


@cache
def dates() -> list[tuple[str, str, str]]:
    """Locale, written date and ISO date of the test part, the locales mixed."""
    rows = [row[1:] for row in read_rows() if row[0] == "test"]
    return random.Random(0).sample(rows, len(rows))


def damaged(text: str) -> str:
    """A text without a quarter of its characters."""
    draws = random.Random(text)
    return "".join(letter for letter in text if draws.random() > 0.25) or text


def order_of(locale: str, text: str) -> tuple[str, ...]:
    """The fields in the order in which a written date has them."""
    if re.match(r"\d{4}", text):
        return "year", "month", "day"
    return ("month", "day", "year") if locale == "en_US" else ("day", "month", "year")


@cache
def attention(name: str) -> Tensor:
    """Attention of dates of the test part, as each character of the ISO date and the end is written: ``(N, 11, S)``."""
    end = model(name).tokenizer.end
    read = model(name).batch_of([text for _, text, _ in dates()[:COUNT]])
    given = torch.tensor([[end, *model(name).tokenizer.encode(iso)] for _, _, iso in dates()[:COUNT]])
    with torch.inference_mode():
        weights: Tensor = model(name).attention(zoo.SentencePair(read, given))
    return weights


@pytest.mark.parametrize("name", NAMES)
def test_dates_that_were_never_seen(name: str) -> None:
    """A part of them; test_bundled.py has all."""
    rows = dates()[:COUNT]
    written = model(name).predict_step(model(name).batch_of([text for _, text, _ in rows]))["text"]
    wrong = [(text, said) for said, (_, text, iso) in zip(written, rows, strict=True) if said != iso]
    assert len(wrong) <= COUNT // 100, wrong


@pytest.mark.parametrize("name", NAMES)
def test_attention_goes_through_a_date_as_it_is_written(name: str) -> None:
    """The mean position that is looked at while a field is written, of the three fields."""
    weights = attention(name)
    place = weights @ torch.arange(weights.shape[2], dtype=weights.dtype)  # (N, T, S) -> (N, T)
    means = {field: place[:, digits].mean(dim=1) for field, digits in FIELDS.items()}
    found: dict[str, list[bool]] = {field: [] for field in FIELDS}
    for i, (locale, text, _) in enumerate(dates()[:COUNT]):
        order = order_of(locale, text)
        one, two, three = (means[field][i] for field in order)
        found[order[0]].append(bool(one < two < three))
    shares = {first: sum(right) / len(right) for first, right in found.items()}
    assert min(map(len, found.values())) > 25
    assert shares["year"] >= 0.98  # as in ISO: attention never goes back
    assert min(shares.values()) >= 0.93


def test_attention_never_goes_back_where_the_source_has_the_same_digits() -> None:
    """The most attended position of each digit, of dates such as 2021/03/03: the digits are copied one after another."""
    numbers = [i for i, (_, text, _) in enumerate(dates()[:COUNT]) if re.fullmatch(r"\d{4}\D+\d\d\D+\d\d\.?", text)]
    places = attention("dates_gru")[numbers][:, DIGITS].argmax(dim=2)  # (N, T, S) -> (N, 8)
    assert len(numbers) > 25
    assert (places.diff(dim=1) >= 0).all(dim=1).float().mean() >= 0.9


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("harder", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_beam_finds_nothing_worse_than_the_most_probable_tokens(name: str, harder: bool, count: int) -> None:
    rows = dates()[:count]
    batch = model(name).batch_of([damaged(text) if harder else text for _, text, _ in rows])
    one, four = (model(name).predict_step(batch, beam=beam) for beam in (1, 4))
    gain = four["scores"][:, 0] - one["scores"][:, 0]
    assert (gain >= 0).all()
    plain = beam_search(**model(name)._arguments(*model(name)._start(batch)), beam=4)
    assert (plain.scores[:, 0] >= one["scores"][:, 0] - 1e-6).float().mean() >= 0.99
    if harder:
        assert (gain > 1e-3).sum() >= count // 200  # there is something to find
    bleu = [BLEU(), BLEU()]
    for metric, made in zip(bleu, (one, four), strict=True):
        metric.update(made["text"], [iso for *_, iso in rows])
    greedily, beam = (float(metric.compute()) for metric in bleu)
    assert harder or beam >= greedily >= 0.99

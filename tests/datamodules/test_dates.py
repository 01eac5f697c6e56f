"""The bundled dates: what was written once is what the generator writes, unambiguous, with unseen dates to test."""

import hashlib
import importlib.util
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from datamodules import DatesDataModule
from datamodules.dates import FILE, read_rows


@pytest.fixture(scope="module")
def data() -> DatesDataModule:
    made = DatesDataModule()
    made.setup()
    return made


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str, str, str]]:
    return read_rows()


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("make_dates", FILE.with_name("make_dates.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_is_the_one_that_was_measured(rows: Any, data: DatesDataModule) -> None:
    content = "".join("\t".join(row) + "\n" for row in rows)
    digest = hashlib.sha256(content.encode()).hexdigest()
    note = FILE.with_name("dates.md").read_text()
    assert digest == re.findall(r"SHA-256 of the lines: (\w+)", note)[0]
    assert "UNICODE LICENSE V3" in note  # it must appear with the data
    assert data.data_identity == "fingerprint c16f09aa4818790e (16000 train / 1000 val)"
    assert FILE.stat().st_size < 150_000


def test_no_date_of_one_part_is_in_another_and_all_years_and_locales_are_seen(rows: Any) -> None:
    parts = {name: [row for row in rows if row[0] == name] for name in ("train", "val", "test")}
    assert {name: len(part) for name, part in parts.items()} == {"train": 16000, "val": 1000, "test": 1000}
    dates = {name: {iso for *_, iso in part} for name, part in parts.items()}
    assert sum(map(len, dates.values())) == len(set().union(*dates.values())) == 18000
    for name in ("val", "test"):
        assert {iso[:4] for iso in dates[name]} <= {iso[:4] for iso in dates["train"]}
        assert {locale for _, locale, *_ in parts[name]} == {locale for _, locale, *_ in parts["train"]}


def test_what_is_written_means_one_date_and_names_its_numbers(rows: Any) -> None:
    known: dict[str, str] = {}
    for _, _, text, iso in rows:
        assert known.setdefault(text, iso) == iso
        day = date.fromisoformat(iso)
        assert 1950 <= day.year <= 2049
        assert text.split() == text.split(" ")  # plain spaces, one at a time
        numbers = [int(number) for number in re.findall(r"\d+", text)]
        assert day.day in numbers
        assert day.year in numbers or day.year % 100 in numbers
        assert not re.search(r"\d[/-]\d+[/-]\d{4}", text)  # read in another order elsewhere


def test_the_first_sentences_that_anyone_would_try_can_be_read(data: DatesDataModule) -> None:
    known = set(data.source_vocabulary["tokens"])
    for text in ("3 March 2021", "March 3, 2021", "3. März 2021", "mercredi 3 mars 2021", "Sep 9, 1999", "2021-03-03"):
        assert set(text) <= known
    assert set(data.vocabulary["tokens"]) == {"<pad>", "<end>", "-", *"0123456789"}
    assert data.input_shape == (39, 11)


def test_the_parts_of_the_file_are_those_of_training(rows: Any, data: DatesDataModule) -> None:
    names = data.source_vocabulary["tokens"]
    for part in ("train", "val", "test"):
        texts = ["".join(names[k] for k in row if k > 1) for row in data._parts[part].x.tolist()]
        assert texts == [text for name, _, text, _ in rows if name == part]


@pytest.mark.slow
def test_the_generator_writes_the_file_again() -> None:
    made = generator()
    assert made.table() == "".join("\t".join(row) + "\n" for row in read_rows())


@pytest.mark.slow
def test_no_two_dates_of_all_years_are_ever_written_alike() -> None:
    made = generator()
    known: dict[str, date] = {}
    for locale, forms in made.FORMATS.items():
        for form in forms:
            for day in made.days():
                text = made.written(day, locale, form)
                assert known.setdefault(text, day) == day, text
    assert len(known) == 1478982
    assert Path(made.FILE) == FILE

"""Metrics of texts against sacrebleu, against numbers worked out by hand, and over batches and processes."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import torch
from kit import quiet_trainer
from lightning import LightningModule
from torch.utils.data import DataLoader, DistributedSampler

from zoo.metrics import BLEU, CHRF, ExactMatch, text_metrics
from zoo.metrics.texts import words

CORPORA = {
    "sentences": (
        [
            "The cat sat on the mat.",
            "There is a dog in the big garden, isn't there?",
            "He paid $1,000.50 in 1999-2000.",
        ],
        ["The cat is on the mat.", "There is a big dog in the garden, isn't it?", "He paid $1,000.50 in 1999--2000."],
    ),
    "equal": (
        ["One two three four five.", "Six seven eight nine."],
        ["One two three four five.", "Six seven eight nine."],
    ),
    "longer than their references": (["a b c d e f g h", "a b c d x"], ["a b c d e", "a b c d"]),
    "shorter than their references": (["a b c d", "e f g h"], ["a b c d e f g", "e f g h i j"]),
    "no longest n-gram": (["a b c", "d e"], ["a b c", "d f"]),  # nothing has four words
    "one text with four": (["a b", "a b c d"], ["a b", "a b c d"]),
    "no n-gram of four agrees": (["a b c x d e f y", "g"], ["a b c z d e f w", "g"]),
    "no n-gram of two agrees": (["a x b y c z d w"], ["b a d c w1 w2 w3 w4"]),
    "nothing agrees": (["p q r s t"], ["a b c d e"]),
    "a word again and again": (["the the the the the the the"], ["the cat is on the mat"]),
    "an empty prediction": (["", "a b c d e"], ["x y z", "a b c d e"]),
    "an empty reference": (["x y", "a b c d e"], ["", "a b c d e"]),
    "nothing written": (["", ""], ["a b", "c"]),
    "all empty": ([""], [""]),
    "dates": (["2021-03-03", "1999-12-31", "2004-02-29"], ["2021-03-03", "1999-12-13", "2014-02-28"]),
    "unicode": (
        [
            "Der Hund läuft über die Straße \u2013 schnell!",
            "東京は大きい 都市 です。",
            "Он пришёл в 10,5 часов…",
            "café",
        ],
        [
            "Ein Hund läuft über eine Straße \u2013 schnell!",
            "東京は 大きい 都市です。",
            "Он пришел в 10.5 часов…",
            "cafe\u0301",
        ],
    ),
    "marks and white space": (
        [
            "  &quot;A&amp;B&quot; &lt;ok&gt;  \t x\u00a0y <skipped> z \n",
            "line-\nbreak and\nmore (a/b) [c] {d} ~e~ `f`",
        ],
        ['"A&B" <ok> x y z', "linebreak and more ( a / b ) [ c ] { d } ~ e ~ ` f `"],
    ),
}


@pytest.mark.parametrize("name", CORPORA)
def test_bleu_and_chrf_are_sacrebleus(name: str) -> None:
    texts, references = CORPORA[name]
    for order in (1, 2, 3, 4):
        bleu = BLEU(order)
        bleu.update(texts, references)
        wanted = sacrebleu.BLEU(max_ngram_order=order).corpus_score(texts, [references]).score / 100
        assert float(bleu.compute()) == pytest.approx(wanted, rel=1e-6, abs=1e-12), order
    chrf = CHRF()
    chrf.update(texts, references)
    assert float(chrf.compute()) == pytest.approx(
        sacrebleu.CHRF().corpus_score(texts, [references]).score / 100, rel=1e-6
    )


def test_the_scores_are_of_all_texts_together() -> None:
    """Not means over texts, which would be 1/2."""
    for metric, wanted in ((BLEU(1), 4 / 12), (CHRF(), (4 / 12 + 3 / 10 + 2 / 8 + 1 / 6 + 0 + 0) / 6)):
        metric.update(["a b c d", "p q r s t u v w"], ["a b c d", "1 2 3 4 5 6 7 8"])
        assert float(metric.compute()) == pytest.approx(wanted)
    for metric in (BLEU(), CHRF()):  # so that the comparison above compares something
        metric.update(*CORPORA["sentences"])
        assert 0.4 < float(metric.compute()) < 0.9


def test_the_best_of_several_references_counts() -> None:
    texts = ["the cat sat on a mat", "a dog dog runs", "so short a text", "a"]
    references = [
        ["the cat is on the mat", "a cat sat on a mat today"],
        ["the dog ran away", "dogs run", "a dog runs"],  # no reference has the dog twice
        ["so very short a text it is", "short"],  # three words more or less: the shorter counts
        ["a text of which all but one word is missing", "a text of which nearly all of the words are missing"],
    ]
    streams = [[row[i] if i < len(row) else None for row in references] for i in range(3)]  # texts shorter than these
    for metric, oracle in ((BLEU(), sacrebleu.BLEU()), (CHRF(), sacrebleu.CHRF())):
        metric.update(texts, references)
        assert float(metric.compute()) == pytest.approx(oracle.corpus_score(texts, streams).score / 100, rel=1e-6)
    exact = ExactMatch()
    exact.update(["b", "c"], [["a", "b"], ["a"]])
    assert float(exact.compute()) == 0.5


def test_bleu_by_hand() -> None:
    """Papineni's example: seven times "the", two of which the reference has; then smoothed where nothing agrees."""
    bleu = BLEU(1)
    bleu.update(["the the the the the the the"], ["the cat is on the mat"])
    assert float(bleu.compute()) == pytest.approx(2 / 7)
    bleu = BLEU(3)
    bleu.update(["a c b"], ["a b c d"])
    precision = 3 / 3 * (1 / 2 / 2) * (1 / 4 / 1)  # no pair agrees: half of one of two; no triple: a fourth of the one
    assert float(bleu.compute()) == pytest.approx(math.exp(1 - 4 / 3) * precision ** (1 / 3))


def test_exact_match_is_by_characters() -> None:
    exact = ExactMatch()
    exact.update(["a", "a ", "A", "", "é"], ["a", "a", "a", "", "e\u0301"])
    assert float(exact.compute()) == pytest.approx(2 / 5)


def test_words_are_separated_as_in_wmt() -> None:
    assert words("Hello, world.") == ["Hello", ",", "world", "."]
    assert words("2021-03-03") == ["2021", "-", "03", "-", "03"]
    assert words("well-known 3.5% of 1,000") == ["well-known", "3.5", "%", "of", "1,000"]


def test_without_texts_there_is_no_score() -> None:
    for metric in text_metrics().values():
        metric.update([], [])
        assert metric.compute().isnan()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got 2 texts and 1 references"):
        BLEU().update(["a", "b"], ["a"])
    with pytest.raises(TypeError, match=r"got a single text: put it into a list"):
        ExactMatch().update("a", "a")
    with pytest.raises(ValueError, match=r"text 2 has no reference"):
        CHRF().update(["a", "b"], ["a", []])
    with pytest.raises(ValueError, match=r"order must be 1 or more, got 0"):
        BLEU(0)


def test_counts_stay_exact_where_float32_would_not() -> None:
    """2 ** 24 + 1 texts are one more than 2 ** 24."""
    exact = ExactMatch()
    exact.counts, exact.texts = exact.counts + 2**24, exact.texts + 2**24
    exact.update(["a"], ["a"])
    assert (int(exact.counts), int(exact.texts)) == (2**24 + 1, 2**24 + 1)
    assert all(
        state.dtype == torch.long for metric in text_metrics().values() for state in metric.metric_state.values()
    )


TEXTS, REFERENCES = ([text for corpus in CORPORA.values() for text in corpus[part]] for part in (0, 1))


class Judged(LightningModule):
    """Compare texts, and write what rank ``rank`` computes into a file."""

    def __init__(self, path: Path, rank: int = 0, batch_size: int = 5) -> None:
        super().__init__()
        self.path, self.rank, self.batch_size = path, rank, batch_size
        self.judges = torch.nn.ModuleDict(text_metrics())

    def test_dataloader(self) -> Any:
        pairs = list(zip(TEXTS, REFERENCES, strict=True))[:30]
        ranks, rank = self.trainer.world_size, self.global_rank
        return DataLoader(pairs, self.batch_size, sampler=DistributedSampler(pairs, ranks, rank, shuffle=False))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        for judge in self.judges.values():
            judge.update(*batch)

    def on_test_epoch_end(self) -> None:
        found = {name: float(judge.compute()) for name, judge in self.judges.items()}
        if self.global_rank == self.rank:
            self.path.write_text(json.dumps(found))


def test_two_processes_find_exactly_what_one_finds(tmp_path: Path) -> None:
    found = []
    for ranks, rank, batch_size in ((1, 0, 30), (1, 0, 7), (2, 1, 5)):
        module = Judged(tmp_path / f"{len(found)}.json", rank, batch_size)
        quiet_trainer(ranks=ranks, default_root_dir=tmp_path).test(module, verbose=False)
        found.append(json.loads(module.path.read_text()))
    assert found[0] == found[1] == found[2]
    assert 0 < found[0]["bleu4"] < found[0]["bleu1"] < 1

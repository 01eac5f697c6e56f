"""Your own text files: encodings, vocabularies, blocks of parts; training resumes and is shared by processes."""

import gzip
import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import BatchRecorder, assert_resumes, quiet_trainer, record_batches, same_batches
from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules import AustenDataModule, Segment, TextDataModule, TextFileDataModule
from datamodules.texts import encode, read_texts, size_of, vocabulary_of
from zoo.blocks.vocabulary import Vocabulary

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

TEXT = "The cat sat on the mat.\nThe dog lay on the log.\n" * 12
WORDS = "Zürich and Genève, naïve façade: 5 € for a café, «oui» 🙂\n"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def written(content: bytes, name: str = "text.txt") -> str:
    Path(name).write_bytes(content)
    return name


# Reading ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tmp_cwd")
@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("aé\nb\n".encode(), "utf-8"),
        ("\ufeffaé\r\nb\r\n".encode(), "utf-8"),
        ("aé\rb\r".encode(), "utf-8"),
        (b"a\xe9\r\nb\n", "latin-1"),
        ("aé\r\nb\n".encode("utf-16"), "utf-16"),
    ],
)
def test_marks_line_ends_and_encodings(content: bytes, encoding: str) -> None:
    assert read_texts(written(content), encoding) == "aé\nb\n"


@pytest.mark.usefixtures("tmp_cwd")
def test_several_files_are_one_text() -> None:
    names = [written(content, name) for name, content in (("b.txt", b"one"), ("a.txt", b"two\n"), ("c.txt", b"three"))]
    assert read_texts(names) == "one\ntwo\nthree"


@pytest.mark.usefixtures("tmp_cwd")
@pytest.mark.parametrize(
    ("content", "encoding", "words"),
    [
        (b"", "utf-8", ["text.txt is empty"]),
        (b"\xef\xbb\xbf \r\n", "utf-8", ["text.txt is empty"]),
        (b"one\ntwo \xe9", "utf-8", ["text.txt, byte 8 (line 2): 0xe9 is not valid utf-8", "latin-1"]),
        ("one\nab".encode("utf-16-le"), "utf-8", ["byte 1 (line 1): 0x00 is a null character in utf-8", "utf-16"]),
        (b"abc", "utf-16-le", ["byte 2", "is not valid utf-16-le"]),
        (b"abc", "utf-9", ["encoding must be one of Python's, such as utf-8 or latin-1, got 'utf-9'"]),
    ],
)
def test_what_is_no_text_in_this_encoding_is_refused(content: bytes, encoding: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        TextFileDataModule(written(content), encoding)
    for word in words:
        assert word in str(error.value)


@pytest.mark.usefixtures("tmp_cwd")
def test_a_missing_file_is_refused() -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.txt is not a file: give the path of a text file"):
        TextFileDataModule("none.txt")
    with pytest.raises(ValueError, match="path must name one text file or more"):
        TextFileDataModule([])


# Vocabularies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe"])
def test_a_model_reads_and_writes_the_same_tokens(kind: Any, padded: bool) -> None:
    text = TEXT + WORDS + "<pad>"
    vocabulary = vocabulary_of(kind, [text], [TEXT], 270, padded)
    model = Vocabulary(vocabulary)
    (tokens,) = (part.tolist() for part in encode([text], vocabulary))
    assert tokens == model.encode(text)
    assert model.decode(tokens) == text
    assert model.size == size_of(vocabulary)
    assert model.padding == (model.size - 1 if padded else None)
    assert not padded or max(tokens) < model.size - 1


def test_characters_are_those_of_the_whole_text_in_their_order() -> None:
    data = TextDataModule("bca" * 20 + "z", context=4)
    assert data.vocabulary == {
        "kind": "characters",
        "tokens": ["a", "b", "c", "z"],
        "padding": None,
        "end": None,
        "tokenizer": None,
    }
    assert data.vocab_size == 4
    assert data.num_classes is None
    assert data.class_names is None


def test_bpe_joins_the_most_frequent_pair_of_the_training_part_alone() -> None:
    """ "ab" is the only pair of the training part; in the rest there are many of "yz"."""
    text = "ab " * 20 + "yz" * 60
    data = TextDataModule(text, tokenizer="bpe", vocab_size=258, context=4, val_fraction=0.0, test_fraction=0.7)
    tokens = data.vocabulary["tokens"]
    assert len(tokens) == data.vocab_size == 258
    assert tokens[256] == "ab"
    assert not any("yz" in token for token in tokens)
    data.setup("test")
    assert len(data._tokens["test"]) > 100  # a token each letter


def test_bytes_are_those_of_utf_8() -> None:
    data = TextDataModule(WORDS * 5, tokenizer="bytes", context=4, val_fraction=0.0, test_fraction=0.0)
    assert data.vocab_size == 256
    assert bytes(data._tokens["train"].tolist()).decode() == WORDS * 5


def test_a_character_that_the_vocabulary_lacks_is_named_with_its_place() -> None:
    vocabulary = vocabulary_of("characters", ["abc\n"], [], padded=True)
    with pytest.raises(ValueError, match=r"character 'd' \(line 2, column 3\) is not one of the 4 characters"):
        encode(["a", "abc\nabdd"], vocabulary)


def test_more_than_256_tokens_keep_their_numbers() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(300)) * 2
    data = TextDataModule(text, context=4, val_fraction=0.0, test_fraction=0.0)
    assert data._tokens["train"].tolist() == [*range(300)] * 2


def test_the_library_of_bpe_is_asked_for_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match=r'needs the library tokenizers: pip install "lightning-zoo\[text\]"'):
        TextDataModule(TEXT, tokenizer="bpe")


# Parts ------------------------------------------------------------------------------------------------------------------


def decoded(data: TextDataModule, tokens: torch.Tensor) -> str:
    return "".join(data.vocabulary["tokens"][k] for k in tokens.tolist())


def test_parts_are_contiguous_blocks() -> None:
    data = TextDataModule(TEXT, context=8, batch_size=4, val_fraction=0.25, test_fraction=0.2)
    data.setup()
    n = len(TEXT)
    test, rest = -(-n // 5), n - -(-n // 5)
    val = -(-rest // 4)
    expected = {"train": TEXT[: rest - val], "val": TEXT[rest - val : rest], "test": TEXT[n - test :]}
    for part, text in expected.items():
        assert decoded(data, data._parts[part].tokens) == text
    assert (
        data.data_identity
        == f"fingerprint {data.fingerprint} ({rest - val} train / {val} val tokens, windows of 8, shuffled)"
    )
    for part, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        shown = sorted(
            (int(y[i, j]) for _, y, *w in loader for i, j in (w[0] if w else torch.ones_like(y)).nonzero().tolist())
        )
        assert shown == sorted(data._parts[part].tokens[1:].tolist())


def test_the_test_part_and_the_files_of_a_part_do_not_change_with_the_order() -> None:
    one, two = (TextDataModule(TEXT, context=8, order=order, batch_size=2) for order in ("shuffled", "lanes"))
    for data in (one, two):
        data.setup()
    assert one.fingerprint == two.fingerprint
    assert one.data_identity != two.data_identity


def test_without_validation_or_test() -> None:
    data = TextDataModule(TEXT, context=8, batch_size=4, val_fraction=0.0, test_fraction=0.0)
    assert not data.has_test
    seen = record_batches(data).seen
    assert len(seen["train"]) == 17  # 575 targets: 71 windows, one of which is left out, in batches of 4
    assert not seen["val"]
    with pytest.raises(ValueError, match="there is no test part: give test_fraction > 0"):
        data.setup("test")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text": ""}, "the text is empty"),
        (
            {"text": "abcdefgh", "context": 9},
            "the training part of the text has 6 tokens, fewer than one window of context=9",
        ),
        ({"text": "abcdefgh", "context": 2}, "the val part of the text has 1 token and needs 2 or more"),
        ({"context": 0}, "context must be an integer >= 1, got 0"),
        ({"order": "random"}, 'order must be "shuffled" or "lanes", got \'random\''),
        ({"tokenizer": "words"}, 'tokenizer must be "characters", "bytes" or "bpe", got \'words\''),
        ({"vocab_size": 300}, "vocab_size is for tokenizer=\"bpe\", got 300 for 'characters'"),
        ({"tokenizer": "bpe", "vocab_size": 257}, "vocab_size must be an integer in 258"),
        ({"test_fraction": 1.0}, "test_fraction must be a share of the text in [0, 1), got 1.0"),
        ({"val_fraction": -0.1}, "val_fraction must be a share"),
    ],
)
def test_bad_arguments(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:
        TextDataModule(**{"text": TEXT, **options})
    assert words in str(error.value)


def test_a_text_too_short_for_the_lanes_is_refused_at_the_start_of_fit() -> None:
    data = TextDataModule(TEXT, context=60, order="lanes", batch_size=9)
    with pytest.raises(
        ValueError, match=r"too few for 9 lanes \(batch_size x processes\), each of one window of context=60"
    ):
        record_batches(data)


# Training ---------------------------------------------------------------------------------------------------------------


def make(order: Any, **options: Any) -> TextDataModule:
    return TextDataModule(TEXT, context=8, order=order, **{"batch_size": 4, **options})


@pytest.mark.parametrize("order", ["shuffled", "lanes"])
def test_epochs_differ_and_a_run_repeats(order: Any) -> None:
    one, two = (record_batches(make(order), max_epochs=2).seen["train"] for _ in range(2))
    assert same_batches(one, two)
    half = len(one) // 2
    assert not same_batches(one[:half], one[half:])
    assert all(isinstance(x, Segment) == (order == "lanes") for x, *_ in one)


@pytest.mark.parametrize("step", [3, 14])
@pytest.mark.parametrize("order", ["shuffled", "lanes"])
def test_a_run_resumes_in_mid_epoch(order: Any, step: int, tmp_path: Path) -> None:
    assert_resumes(tmp_path, lambda: make(order), step, max_epochs=2)


class WriteBatches(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, BatchRecorder)
        seen = [[tuple(x), *rest] for part in ("train", "val") for x, *rest in pl_module.seen[part]]
        torch.save(seen, self.folder / f"{trainer.global_rank}.pt")


def test_two_ranks_have_the_lanes_of_one_process(tmp_path: Path) -> None:
    recorder = record_batches(make("lanes"), max_epochs=2)
    one = [batch for part in ("train", "val") for batch in recorder.seen[part]]
    record_batches(make("lanes", batch_size=2), WriteBatches(tmp_path), ranks=2, max_epochs=2)
    for r in (0, 1):
        parts = torch.load(tmp_path / f"{r}.pt")
        assert len(parts) == len(one)
        for (mine, y, *weight), (x, all_y, *all_weight) in zip(parts, one, strict=True):
            assert torch.equal(mine[0], x.tokens[r::2])
            assert torch.equal(mine[1], x.starts[r::2])
            assert torch.equal(y, all_y[r::2])
            counts = weight[0] if weight else torch.ones_like(y).float()
            assert torch.equal(counts, all_weight[0][r::2] if all_weight else torch.ones_like(counts))


def test_another_batch_size_after_setup_makes_other_lanes() -> None:
    data = make("lanes")
    data.setup("fit")
    data.batch_size = 2
    first, second = list(data.train_dataloader())[:2]
    assert first[0].tokens.shape == (2, 8)
    assert torch.equal(second[0].tokens[:, :1], first[1][:, -1:])


def test_workers_change_nothing() -> None:
    none, two = (record_batches(make("lanes", num_workers=n)).seen for n in (0, 2))
    assert same_batches(none["train"], two["train"])
    assert same_batches(none["val"], two["val"])


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_overfitting_takes_the_first_segments() -> None:
    seen = record_batches(make("lanes"), max_epochs=2, overfit_batches=1).seen["train"]
    assert [len(y) for _, y in seen] == [4, 4]
    assert all(x.starts.all() for x, _ in seen)


def test_other_windows_are_refused_when_a_run_is_resumed(tmp_path: Path) -> None:
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(BatchRecorder(), datamodule=make("lanes"))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(
        ValueError, match=r"saved on other data: .*windows of 8, lanes\), now it is .*windows of 8, shuffled\)"
    ):
        quiet_trainer(max_epochs=2).fit(BatchRecorder(), datamodule=make("shuffled"), ckpt_path=tmp_path / "x.ckpt")


# The novel --------------------------------------------------------------------------------------------------------------


def test_the_novel_is_the_one_of_its_note() -> None:
    folder = Path(__file__).parents[2] / "datamodules/bundled"
    text = gzip.decompress((folder / "persuasion.txt.gz").read_bytes())
    note = (folder / "persuasion.md").read_text()
    assert hashlib.sha256(text).hexdigest() in note
    assert f"{len(text):,} characters" in note
    assert f"{len(text.splitlines()):,} lines" in note
    assert text.isascii()
    assert b"\r" not in text
    assert text.startswith(b"Persuasion\n")
    assert b"Gutenberg" not in text


def test_the_novel_and_its_split_are_the_same_everywhere() -> None:
    data = AustenDataModule()
    data.setup("fit")
    assert (data.vocab_size, data.input_shape) == (75, (64,))
    assert (
        data.data_identity == "fingerprint cb738c7985f295bc (378151 train / 42017 val tokens, windows of 64, shuffled)"
    )

"""Multi30k, on a tiny tree in its real formats; nothing is downloaded, but checked as if it were."""

import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from datamodules import Multi30kDataModule, multi30k

WORDS = {"de": ("Zwei Hunde", "Ein Mann"), "en": ("Two dogs", "A man"), "fr": ("Deux chiens", "Un homme")}
COUNTS = {"train": 40, "val": 6, "test_2016_flickr": 5, "test_2018_flickr": 3}


def sentences(stem: str, language: str) -> list[str]:
    return [f"{WORDS[language][i % 2]} {stem} {i}." for i in range(COUNTS[stem])]


def content(stem: str, language: str) -> bytes:
    return "".join(f"{line}\n" for line in sentences(stem, language)).encode()


def tree(root: Path, form: str = "gz") -> None:
    """Write the files as they are, compressed, or in the archives of WMT 2016."""
    root.mkdir(exist_ok=True)
    if form == "tar.gz":
        archives = (("training", "train"), ("validation", "val"), ("mmt16_task1_test", "test_2016_flickr"))
        for archive, stem in archives:
            with tarfile.open(root / f"{archive}.tar.gz", "w:gz") as file:
                for language in ("en", "de"):
                    for name, data in ((f"._{stem}", b"\x00"), (stem, content(stem, language))):  # macOS adds the first
                        info = tarfile.TarInfo(f"./{name.replace('_2016_flickr', '')}.{language}")
                        info.size = len(data)
                        file.addfile(info, io.BytesIO(data))
        return
    for stem in COUNTS:
        for language in WORDS:
            data = content(stem, language)
            name = f"{stem}.{language}" + (".gz" if form == "gz" else "")
            (root / name).write_bytes(gzip.compress(data) if form == "gz" else data)


def made(root: Path, **options: Any) -> Multi30kDataModule:
    return Multi30kDataModule(str(root), **{"tokenizer": "characters", "download": False, "batch_size": 4, **options})


def texts_of(data: Multi30kDataModule, part: str) -> list[tuple[str, str]]:
    rows = data._parts[part]
    sides = ((rows.x, data.source_vocabulary["tokens"]), (rows.y, data.vocabulary["tokens"]))
    texts = [["".join(names[k] for k in row if k > 1) for row in tokens.tolist()] for tokens, names in sides]
    return list(zip(*texts, strict=True))


@pytest.mark.parametrize("form", ["plain", "gz", "tar.gz"])
def test_parts_are_the_official_ones_in_any_form(tmp_path: Path, form: str) -> None:
    tree(tmp_path, form)
    data = made(tmp_path)
    data.setup()
    for part, stem in (("train", "train"), ("val", "val"), ("test", "test_2016_flickr")):
        wanted = zip(sentences(stem, "de"), sentences(stem, "en"), strict=True)
        assert texts_of(data, part) == list(wanted)


def test_languages_and_test_sets(tmp_path: Path) -> None:
    tree(tmp_path)
    data = made(tmp_path, source="en", target="fr", test_set="2018_flickr")
    data.setup()
    wanted = zip(sentences("test_2018_flickr", "en"), sentences("test_2018_flickr", "fr"), strict=True)
    assert texts_of(data, "test") == list(wanted)


def test_bpe_is_the_default_and_each_language_has_its_own(tmp_path: Path) -> None:
    tree(tmp_path)
    data = made(tmp_path, tokenizer="bpe")
    assert [v["kind"] for v in (data.source_vocabulary, data.vocabulary)] == ["bpe", "bpe"]
    for vocabulary, word in ((data.source_vocabulary, "Hunde"), (data.vocabulary, "dogs")):
        assert f"Ġ{word}" in vocabulary["tokens"]
    assert "Ġval" not in data.vocabulary["tokens"]
    small = made(tmp_path, tokenizer="bpe", vocab_size=270)
    assert (small.source_vocab_size, small.vocab_size) == (270, 270)


def test_missing_files_are_downloaded_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def download(url: str, root: Path, filename: str, md5: str) -> None:
        name = url.rpartition("/")[2].removesuffix(".gz")
        fetched.append(name)
        assert md5 == multi30k.MD5[name]
        assert len(md5) == len(hashlib.md5(b"").hexdigest())
        assert "c40b37b2" in url  # a fixed commit
        assert not (Path(root) / f"{name}.gz").exists()
        (Path(root) / filename).write_bytes(gzip.compress(content(*name.split("."))))

    tree(tmp_path)
    for language in ("de", "en"):
        (tmp_path / f"val.{language}.gz").unlink()
    monkeypatch.setattr(multi30k, "download_url", download)
    data = made(tmp_path, download=True)
    assert data.vocab_size > 10  # before a Trainer calls prepare_data()
    data.prepare_data()
    data.setup("fit")
    assert fetched == ["val.de", "val.en"]
    assert len(data._parts["val"]) == 6
    assert not list(tmp_path.glob("*.part"))


def test_without_network_the_file_and_the_cure_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(FileNotFoundError, match=r"train\.de\.gz does not exist and could not be downloaded .*unreach"):
        made(tmp_path, download=True).prepare_data()
    with pytest.raises(FileNotFoundError, match=r"train\.de\.gz does not exist: call prepare_data"):
        made(tmp_path).setup("fit")
    assert not list(tmp_path.iterdir())


def test_damaged_files_are_named(tmp_path: Path) -> None:
    tree(tmp_path)
    whole = (tmp_path / "val.en.gz").read_bytes()
    (tmp_path / "val.en.gz").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"val\.en\.gz is damaged .*: delete it"):
        made(tmp_path).setup("fit")
    (tmp_path / "val.en.gz").write_bytes(gzip.compress(content("train", "en")))
    with pytest.raises(ValueError, match=r"val\.de\.gz has 6 lines, but .*val\.en\.gz has 40"):
        made(tmp_path).setup("fit")
    (tmp_path / "archives").mkdir()
    tree(tmp_path / "archives", "tar.gz")
    with pytest.raises(ValueError, match=r"training\.tar\.gz is damaged .*it holds no train\.fr"):
        made(tmp_path / "archives", target="fr").setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "it"}, "source must be one of de, en, fr, cs, got 'it'"),
        ({"target": "de"}, "source and target must be different languages, got 'de' for both"),
        ({"test_set": "2019"}, "test_set must be one of 2016_flickr"),
        ({"target": "cs", "test_set": "2017_flickr"}, r"there is no test_2017_flickr\.cs"),
        ({"vocab_size": 500}, 'vocab_size is for tokenizer="bpe"'),
    ],
)
def test_bad_arguments(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(tmp_path, **options)

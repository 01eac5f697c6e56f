"""Multi30k: descriptions of photographs in English, translated into German, French and Czech."""

import gzip
import os
import tarfile
import zlib
from pathlib import Path
from typing import Any, Literal, get_args

from torchvision.datasets.utils import download_url
from typing_extensions import override

from datamodules.pairs import Pairs, TextPairDataModule
from datamodules.sentence_pairs import paired
from datamodules.texts import Tokenization, decoded

Language = Literal["de", "en", "fr", "cs"]
TestSet = Literal["2016_flickr", "2017_flickr", "2017_mscoco", "2018_flickr"]
# The authors' repository at a fixed commit.
URL = "https://raw.githubusercontent.com/multi30k/dataset/c40b37b23d6387214f8ab37335b5a8672b9745f2/data/task1/raw/{}.gz"
# fmt: off
MD5 = {  # of the compressed files; those of 2016 and 2017, as torchtext had them, too
    "train.cs": "d9a5fc268917725a2b0efce3a0cc8607",
    "train.de": "81ff90b99829c0cd4b1b587d394afd39",
    "train.en": "0065d13af80720a55ca8153d126e6627",
    "train.fr": "6cb767741dcad3931f966fefbc05203f",
    "val.cs": "83cdc082f646b769095615384cf5c0ca",
    "val.de": "6e0e229eb049e3fc99a1ef02fb2d5f91",
    "val.en": "2b69aa9253948ac9f67e94917272dd40",
    "val.fr": "93fc564584b7e5ba410c761ea5a1c682",
    "test_2016_flickr.cs": "3104872229daa1bef3b401d44dd2220b",
    "test_2016_flickr.de": "efd67d314d98489b716b145475101932",
    "test_2016_flickr.en": "ff2c0fcb4893a13bd73414306bc250ae",
    "test_2016_flickr.fr": "08dc7cd4a662f31718412de95ca9bfe3",
    "test_2017_flickr.de": "6a8d5c87f6ae19e3d35681aa6fd16571",
    "test_2017_flickr.en": "005396bac545d880abe6f00bbb7dbbb4",
    "test_2017_flickr.fr": "cb09af7d2b501f9112f2d6a59fa1360d",
    "test_2017_mscoco.de": "e8cd6ec2bc8a11fc846fa48a46e3d0bb",
    "test_2017_mscoco.en": "a7b684e0edbef1d4a23660c8e8e743fd",
    "test_2017_mscoco.fr": "4995d10954a804d3cdfd907b9fd093e8",
    "test_2018_flickr.cs": "4c6b6490e58107b2e397c5e3e1690abc",
    "test_2018_flickr.de": "87e00327083dd69feaa029a8f7c1a047",
    "test_2018_flickr.en": "a152878809942757a55ce087073486b8",
    "test_2018_flickr.fr": "a64563e986438ed731a6713027c36bfd",
}
# fmt: on
_ARCHIVES = {
    "train": "training.tar.gz",
    "val": "validation.tar.gz",
    "test_2016_flickr": "mmt16_task1_test.tar.gz",
}  # of WMT 2016


class Multi30kDataModule(TextPairDataModule):
    """Multi30k (Elliott et al. 2016, arXiv:1605.00459): 29,000 sentences to train, 1,014 to validate, 1,000 to test.

    Source: https://github.com/multi30k/dataset (2.4 MB for four languages), checked by MD5 sums. The sentences describe photographs
    of Flickr30k, which are for non-commercial research and education. French is of Elliott et al. 2017 (arXiv:1710.07177), Czech of
    Barrault et al. 2018.

    A file is read from ``root`` as ``train.de``, ``train.de.gz``, or out of the archives of WMT 2016 (``training.tar.gz``,
    ``validation.tar.gz``, ``mmt16_task1_test.tar.gz``), in this order.

    Args:
        root: Folder of the files; those that exist are not downloaded again.
        source: Language to translate from.
        target: Language to translate into.
        test_set: Sentences of the test part. Those of 2018 are 1,071, of Ambiguous COCO ("2017_mscoco") 461; of 2017 there is no
            Czech.
        download: Whether to download missing files; False never uses the network. A model needs the size of the vocabulary, so that
            ``zoo`` downloads them before it builds one.
        tokenizer: See :class:`~datamodules.TextPairDataModule`.
        vocab_size: Most tokens of BPE of each language, >= 258 (default 8000); None for other tokenizers.
        **texts: Other arguments of :class:`~datamodules.TextPairDataModule`. Both fractions have no effect, as all parts are
            given.

    Raises:
        FileNotFoundError: A file does not exist and cannot be downloaded.
        ValueError: A file is damaged, or an argument is out of its range.

    Example:
        >>> Multi30kDataModule(source="en", target="fr", tokenizer="characters").kind
        'translation'
    """

    def __init__(
        self,
        root: str = "data/multi30k",
        source: Language = "de",
        target: Language = "en",
        test_set: TestSet = "2016_flickr",
        download: bool = True,
        tokenizer: Tokenization = "bpe",
        vocab_size: int | None = None,
        **texts: Any,
    ) -> None:
        size = 8000 if tokenizer == "bpe" and vocab_size is None else vocab_size
        super().__init__(tokenizer=tokenizer, vocab_size=size, **texts)
        for name, language in (("source", source), ("target", target)):
            if language not in get_args(Language):
                raise ValueError(f"{name} must be one of {', '.join(get_args(Language))}, got {language!r}")
        if source == target:
            raise ValueError(f"source and target must be different languages, got {source!r} for both")
        if test_set not in get_args(TestSet):
            raise ValueError(f"test_set must be one of {', '.join(get_args(TestSet))}, got {test_set!r}")
        self.root = Path(root).expanduser()
        self.languages = source, target
        self.download = download
        self._stems = {"train": "train", "val": "val", "test": f"test_{test_set}"}
        for name in self._names():
            if name not in MD5:
                raise ValueError(
                    f"there is no {name}: the test sentences of 2017 are not in Czech, give another test_set"
                )

    def _names(self) -> list[str]:
        return [f"{stem}.{language}" for stem in self._stems.values() for language in self.languages]

    @override
    def prepare_data(self) -> None:
        if not self.download:
            return
        for name in self._names():
            if self._file(name) is None:
                self._fetch(name)

    def _fetch(self, name: str) -> None:
        file = self.root / f"{name}.gz"
        half = file.with_name(
            f"{file.name}.{os.getpid()}.part"
        )  # one that is killed leaves no half of a file under its name
        try:
            download_url(URL.format(name), self.root, half.name, MD5[name])
            half.replace(file)
        except (OSError, RuntimeError) as error:
            line = " ".join(str(error).split())[:300] or type(error).__name__
            raise FileNotFoundError(
                f"{file.absolute()} does not exist and could not be downloaded ({line}): connect to the network, or copy it there "
                "from a machine that has it"
            ) from error
        finally:
            half.unlink(missing_ok=True)

    @override
    def texts(self) -> dict[str, Pairs]:
        self.prepare_data()
        return {
            part: paired(*zip(*(self._read(f"{stem}.{language}") for language in self.languages), strict=True))
            for part, stem in self._stems.items()
        }

    def _file(self, name: str) -> Path | None:
        """Return the file that holds the sentences of a name, such as "train.de"; None if there is none."""
        stem = name.rpartition(".")[0]
        files = [name, f"{name}.gz", *([_ARCHIVES[stem]] if stem in _ARCHIVES else [])]
        return next((self.root / file for file in files if (self.root / file).is_file()), None)

    def _read(self, name: str) -> tuple[str, str]:
        """Return the name of a file, and the text that it holds."""
        file = self._file(name)
        if file is None:
            raise FileNotFoundError(
                f"{(self.root / name).absolute()}.gz does not exist: call prepare_data() with download=True, as a Trainer does, or "
                "copy it there from a machine that has it"
            )
        try:
            if file.name.endswith(".tar.gz"):
                shown, content = f"{file}: {name}", _member(file, name.replace("test_2016_flickr", "test"))
            else:
                shown, content = str(file), file.read_bytes()
                content = gzip.decompress(content) if file.suffix == ".gz" else content
        except (EOFError, OSError, KeyError, tarfile.TarError, zlib.error) as error:
            line = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{file.absolute()} is damaged ({line}): delete it, and download it again") from error
        return shown, decoded(content, "utf-8", str(file))


def _member(archive: Path, name: str) -> bytes:
    """Return the content of a file in an archive, in whichever of its folders."""
    with tarfile.open(archive) as content:
        member = next((member for member in content.getmembers() if Path(member.name).name == name), None)
        file = None if member is None else content.extractfile(member)
        if file is None:
            raise KeyError(f"it holds no {name}")
        return file.read()

"""``--logger package.Class``: any tracker that has a class of Lightning's ``Logger``."""

import json
from pathlib import Path
from typing import Any

import pytest
from cli_kit import RECIPE, SHORT, Zoo, assert_one_line

from recipes.cli.errors import UserError
from recipes.cli.run.loggers import class_of

RUN = Path("runs", RECIPE, "version_0")
TRACKER = """
import json
from pathlib import Path
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from callbacks.writing import checked, log

class Tracker(Logger):
    name = version = None
    def __init__(self, save_dir):
        super().__init__()
        self.path = Path(save_dir, "tracked.jsonl")
    def write(self, kind, value, step):
        with self.path.open("a") as file:
            file.write(json.dumps([kind, value, step]) + "\\n")
    def log_hyperparams(self, params, *args): self.write("hparams", sorted(params), None)
    def log_metrics(self, metrics, step=None): self.write("metrics", metrics, step)
    def log_image(self, key, images, step=None): self.write("image", [key, [list(image.size) for image in images]], step)

class Plain(Tracker):
    log_image = None

class Breaks(Tracker):
    def log_image(self, key, images, step=None): raise OSError("no room for pictures")

class Full(Tracker):
    def log_text(self, key, columns, data, step=None): self.write("text", [key, columns, data], step)
    def log_table(self, key, columns, data, step=None): self.write("table", [key, columns, data], step)
    def finalize(self, status): self.write("end", status, None)

class Needy(Tracker):
    def __init__(self, save_dir, url): ...

class Refuses(Tracker):
    def __init__(self, save_dir): raise ValueError("no account")

class NoLogger: ...

class Shows(Callback):
    def __init__(self, breaks: int = 99):
        self.breaks = breaks
    def on_train_batch_end(self, trainer, *args):
        for name, value in (("table", [["word", "count"], ["be", 1], ["or", "-"]]), ("text", "to be\\nor not")):
            for logger in trainer.loggers:
                log(logger, name, checked(name, value), trainer.global_step)
        if trainer.global_step == self.breaks:
            raise RuntimeError("the net is broken")
"""


@pytest.fixture
def tracker(tmp_cwd: Path) -> str:
    """The name of a file of loggers in the current folder."""
    name = f"trackers_{tmp_cwd.name}"
    Path(f"{name}.py").write_text(TRACKER)
    return name


def tracked(run: Path) -> list[Any]:
    return [json.loads(line) for line in (run / "tracked.jsonl").read_text().splitlines()]


def test_a_logger_of_ones_own_gets_metrics_and_pictures_and_is_remembered(zoo: Zoo, tracker: str) -> None:
    added = ("--trainer.max_epochs=1", "--trainer.callbacks=callbacks.Samples", f"--logger={tracker}.Tracker")
    result = zoo("fit", RECIPE, *SHORT, *added)
    assert result.code == 0, result.err
    sent = tracked(RUN)
    metrics = [(value, step) for kind, value, step in sent if kind == "metrics"]
    assert [step for value, step in metrics if "train/loss_step" in value] == [0, 1, 2]
    assert any("test/acc" in value for value, _ in metrics)
    images = [(*value, step) for kind, value, step in sent if kind == "image"]
    assert [(key, step) for key, _, step in images] == [("samples/examples", 2), ("samples/confusion", 2)]
    assert f"#   logger  {tracker}.Tracker" in (RUN / "config.yaml").read_text()
    assert zoo("fit", "--resume", RUN, "--trainer.max_epochs=2").code == 0
    steps = [step for kind, value, step in tracked(RUN) if kind == "metrics" and "train/loss_step" in value]
    assert steps == [0, 1, 2, 3, 4, 5]


@pytest.mark.filterwarnings("default:Samples could not show")
@pytest.mark.parametrize("name", ["Plain", "Breaks"])
def test_a_logger_that_takes_no_pictures_or_fails_at_them_stops_neither_run_nor_files(
    zoo: Zoo, tracker: str, name: str
) -> None:
    added = ("--trainer.max_epochs=1", "--trainer.callbacks=callbacks.Samples", f"--logger={tracker}.{name}")
    result = zoo("fit", RECIPE, *SHORT, *added)
    assert result.code == 0, result.err
    assert ("no room for pictures" in result.err) == (name == "Breaks")
    files = {path.name for path in (RUN / "samples").iterdir()}
    assert files == {"epoch_0001_examples.png", "epoch_0001_confusion.png"}


@pytest.mark.parametrize(("breaks", "code", "ends"), [(2, 1, ["failed"]), (99, 0, ["success", "success"])])
def test_it_gets_texts_and_tables_and_how_the_run_has_ended(
    zoo: Zoo, tracker: str, breaks: int, code: int, ends: list[str]
) -> None:
    added = (f"--trainer.callbacks={tracker}.Shows", f"--trainer.callbacks.breaks={breaks}", f"--logger={tracker}.Full")
    assert zoo("fit", RECIPE, *SHORT, "--trainer.max_epochs=1", *added).code == code
    sent = tracked(RUN)
    steps = [1, 2, 3][: breaks if breaks < 3 else 3]
    table, text = ["table", ["word", "count"], [["be", 1], ["or", "-"]]], ["text", ["text"], [["to be\nor not"]]]
    assert [(value, step) for kind, value, step in sent if kind == "table"] == [(table, step) for step in steps]
    assert [(value, step) for kind, value, step in sent if kind == "text"] == [(text, step) for step in steps]
    assert [value for kind, value, _ in sent if kind == "end"] == ends  # of the fit, and of the test


@pytest.mark.slow
def test_runs_of_a_group_use_it_too(zoo: Zoo, tracker: str) -> None:
    result = zoo("fit", RECIPE, *SHORT, "--trainer.max_epochs=1", "--seeds=2", f"--logger={tracker}.Tracker")
    assert result.code == 0, result.err
    assert all(tracked(Path("runs", RECIPE, "seeds_0", f"seed_{i}")) for i in (0, 1))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("FILE.Trackr", ["has no 'Trackr'", "did you mean 'Tracker'?"]),
        ("FILE.NoLogger", ["is no class of lightning.pytorch.loggers.Logger"]),
        ("FILE.Needy", ["needs url", "below it", "save_dir"]),
        ("FILE.Refuses", ["cannot be built: ValueError: no account"]),
        ("no_such_package.Tracker", ["there is no module 'no_such_package'"]),
        ("lightning.pytorch.loggers.CSVLoger", ["has no 'CSVLoger'", "did you mean 'CSVLogger'?"]),
        ("lightning.pytorch.loggers.Logger", ["is abstract"]),
        ("FILE", ["--logger must be one of", "package.Class"]),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_made(zoo: Zoo, tracker: str, name: str, words: list[str]) -> None:
    assert_one_line(zoo("fit", RECIPE, *SHORT, f"--logger={name.replace('FILE', tracker)}"), *words)
    assert not Path("runs").exists()


def test_a_wrong_name_is_refused_before_the_runs_of_a_group_are_made(zoo: Zoo, tracker: str) -> None:
    result = zoo("fit", RECIPE, *SHORT, "--seeds=2", f"--logger={tracker}.Trackr")
    assert_one_line(result, "has no 'Trackr'", "did you mean 'Tracker'?")
    assert not Path("runs").exists()


def test_a_file_that_cannot_be_imported_says_why(tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_cwd)
    name = f"needs_{tmp_cwd.name}"
    Path(f"{name}.py").write_text("import no_such_tracker")
    with pytest.raises(UserError, match="cannot be imported: No module named 'no_such_tracker'"):
        class_of(f"{name}.Tracker")
    Path(f"{name}_2.py").write_text("1 / 0")
    with pytest.raises(UserError, match="cannot be imported: ZeroDivisionError"):
        class_of(f"{name}_2.Tracker")

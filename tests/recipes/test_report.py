"""``report.html``, which every run leaves: it opens by itself, and shows everything that the run folder has."""

import base64
import csv
import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from cli_kit import RECIPE, SHORT, Zoo
from page_kit import Page, assert_harmless

import zoo as package
from datamodules import DigitsDataModule
from recipes.cli.pages.curves import MOST_POINTS, Curve, drawn, read_curves
from recipes.cli.pages.report import write_report
from recipes.cli.run.confusion import confusion

RUN = Path("runs", RECIPE, "version_0")
EVIL = "<script>alert(1)</script>\"'&"


def report(run: Path) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


def remade(run: Path) -> Page:
    """The report of a folder as it is now."""
    (run / "report.html").unlink(missing_ok=True)
    assert write_report(run) == ""
    return report(run)


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# The whole of it -----------------------------------------------------------------------------------------------------------


def test_a_report_needs_nothing_but_itself(trained: Path) -> None:
    page = report(trained)
    assert_harmless(page)
    (policy,) = (value for value in page.all_of("content") if "default-src" in value)
    for content, kind in ((page.scripts[0], "script-src"), (page.styles[0], "style-src")):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy  # else the browser would not run it
    assert "connect-src 'none'" in policy


def test_every_picture_is_in_the_report(trained: Path) -> None:
    files = [*trained.rglob("*.png")]
    assert len(files) == 3  # the curves, and two pictures of the last epoch
    assert sorted(report(trained).pictures) == sorted(path.read_bytes() for path in files)


def test_every_number_is_in_the_report(trained: Path) -> None:
    page, rows = report(trained), rows_of(trained)
    logged = {
        (name, int(row["step"]), value)
        for row in rows
        for name, value in row.items()
        if value and name[:5] in ("train", "val/l")
    }
    assert len(logged) == 18
    assert logged <= page.points
    results = json.loads((trained / "results.json").read_text())
    for name, value in results["metrics"].items():
        assert f"{name} {value:.4f}" in page.text
        assert str(value) in page.all_of("title")
    assert f"best val/loss {results['best']['value']:.4f}" in page.text


def test_a_report_tells_how_the_run_was_made(trained: Path) -> None:
    page = report(trained)
    record = json.loads((trained / "run.json").read_text())
    assert f"{RECIPE}/version_0 done" in page.text
    assert f"zoo fit -c {RECIPE} --trainer.max_epochs=2" in page.text
    for name, value in record["environment"].items():
        assert f"{name} {value}" in page.text
    assert "expected test/acc >= 0.965: not compared" in page.text
    config = (trained / "config.yaml").read_text()
    assert " ".join(config.split()) in page.text
    assert " ".join((trained / "log.txt").read_text().split()[:30]) in page.text


def test_what_was_changed_from_the_recipe(trained: Path) -> None:
    source = (trained / "report.html").read_text()
    page = report(trained)
    recipe = yaml.safe_load((Path(package.__file__).parents[1] / f"recipes/{RECIPE}.yaml").read_text())
    assert f"trainer.max_epochs {recipe['trainer']['max_epochs']} 2" in page.text
    assert "trainer.limit_train_batches (not given) 3" in page.text
    assert "<mark>  max_epochs: 2</mark>" in source
    assert "<mark>  limit_train_batches: 3</mark>" in source
    assert source.count("<mark>") == 2


@pytest.mark.parametrize(
    ("error", "state", "told"),
    [
        ("RuntimeError('the <b>sky</b>\\nfell')", "failed", "RuntimeError: the <b>sky</b> fell"),
        ("KeyboardInterrupt", "stopped", "by Ctrl-C"),
    ],
)
def test_a_run_that_failed_or_was_stopped_leaves_a_report(
    zoo: Zoo, tmp_cwd: Path, error: str, state: str, told: str
) -> None:
    name = f"report_{tmp_cwd.name}".replace("-", "_")
    Path(f"{name}.py").write_text(
        "import os\nfrom lightning.pytorch import Callback\nclass Break(Callback):\n"
        "    def on_train_batch_start(self, trainer, module, batch, index):\n"
        f"        if trainer.global_step == 2: {'os.kill(os.getpid(), 2)' if state == 'stopped' else f'raise {error}'}\n"
    )
    assert zoo("fit", RECIPE, "--trainer.max_epochs=1", *SHORT, f"--trainer.callbacks+={name}.Break").code in (1, 130)
    page = report(RUN)
    assert_harmless(page)
    assert f"{RECIPE}/version_0 {state}" in page.text
    assert told in page.text
    assert {(row["step"], row["train/loss_step"]) for row in rows_of(RUN) if row["train/loss_step"]} <= {
        (str(step), value) for name, step, value in page.points if name == "train/loss_step"
    }


def test_a_report_that_cannot_be_written_is_a_warning(zoo: Zoo, trained: Path) -> None:
    (trained / "report.html").unlink()
    (trained / "report.html").mkdir()
    result = zoo("fit", "--resume", trained, "--trainer.max_epochs=3")
    assert result.code == 0
    assert result.err.count("\n") == 1
    assert result.err.startswith(f"warning: {trained / 'report.html'} could not be written: ")
    assert json.loads((trained / "run.json").read_text())["state"] == "done"


def test_a_resumed_run_has_a_new_report(zoo: Zoo, trained: Path) -> None:
    assert zoo("fit", "--resume", trained, "--trainer.max_epochs=3").code == 0
    page = report(trained)
    assert f"zoo fit --resume {trained} --trainer.max_epochs=3" in page.text
    assert ("val/loss", 8, rows_of(trained)[8]["val/loss"]) in page.points


def test_a_run_that_has_not_ended_tells_its_best_so_far(trained: Path) -> None:
    (trained / "results.json").unlink()
    values = [(float(row["val/loss"]), row["step"]) for row in rows_of(trained) if row["val/loss"]]
    page = remade(trained)
    best, step = min(values)
    assert f"best val/loss {best:.4f}" in page.text
    assert f"best val/loss: {best}, step {step}" in page.text


# Text of others ------------------------------------------------------------------------------------------------------------


def test_no_text_is_taken_for_html(trained: Path) -> None:
    before = remade(trained)
    header, _, body = (trained / "config.yaml").read_text().partition("seed_everything")
    (trained / "config.yaml").write_text(f"# {EVIL}\n{header}seed_everything{body}\nmodel2: {json.dumps(EVIL)}\n")
    change_json(trained / "run.json", state="failed", message=EVIL, commands=[EVIL], environment={EVIL: EVIL})
    counts = json.loads((trained / "confusion.json").read_text())
    change_json(trained / "confusion.json", names=[EVIL, *counts["names"][1:]])
    rows = (trained / "metrics.csv").read_text().splitlines()
    rows[0] = rows[0].replace("val/f1", '"val/</script><script>""alert"')
    (trained / "metrics.csv").write_text("\n".join(rows) + "\n")
    (trained / "log.txt").write_text(EVIL + "\0\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"))
    (trained / "samples" / f"epoch_0001_{EVIL.replace('/', '')}.txt").write_text(EVIL)
    (trained / "samples" / "epoch_0002_t.csv").write_text(f'"{EVIL.replace(chr(34), "")}",b\n1,2\n')
    diagnosis = {"name": EVIL, "evidence": EVIL, "cure": EVIL, "epoch": EVIL, "step": EVIL}
    (trained / "diagnoses.json").write_text(json.dumps([diagnosis]))
    page = remade(trained)
    assert_harmless(page)
    assert page.text.count(EVIL) >= 12
    assert len(page.data) == len(before.data)
    assert 'val/</script><script>"alert' in {name for name, _, _ in page.points}


# Numbers that are not finite, and many of them -------------------------------------------------------------------------------


def test_values_that_are_not_finite_are_told(trained: Path) -> None:
    lines = (trained / "metrics.csv").read_text().splitlines()
    at = lines[0].split(",").index("train/loss_step")
    for i, bad in ((2, "nan"), (4, "inf")):
        cells = lines[i].split(",")
        cells[at] = bad
        lines[i] = ",".join(cells)
    (trained / "metrics.csv").write_text("\n".join(lines) + "\n")
    change_json(trained / "results.json", metrics={"test/acc": math.nan})
    page = remade(trained)
    assert {("train/loss_step", 1, "nan"), ("train/loss_step", 3, "inf")} <= page.points
    assert "train/loss_step: 2 values are not finite: nan at step 1, inf at step 3" in page.text
    assert "test/acc nan" in page.text
    numbers = [value for name in ("points", "cx", "cy", "d", "y", "x1", "y1") for value in page.all_of(name)]
    assert numbers
    assert not [value for value in numbers if "nan" in value or "inf" in value]


@pytest.mark.parametrize("values", [["nan"] * 3, ["1e308", "-1e308", "0"], ["0"], ["1e-320", "1", "2"]])
def test_odd_values_are_drawn(trained: Path, values: list[str]) -> None:
    rows = "".join(f"{i},0,{value}\n" for i, value in enumerate(values))
    (trained / "metrics.csv").write_text(f"step,epoch,train/loss\n{rows}")
    page = remade(trained)
    assert page.points == {("train/loss", i, value) for i, value in enumerate(values)}


def test_many_values_are_drawn_by_their_extremes() -> None:
    count = 200_000
    rng = np.random.default_rng(0)
    values = rng.normal(size=count)
    values[77_777] = 1e6
    curve = Curve("a", [*range(0, 3 * count, 3)], ["0"] * count, values.tolist(), [""] * count)
    kept = drawn(curve)
    assert len(kept) <= MOST_POINTS
    assert kept == sorted(set(kept))
    assert {0, count - 1, 77_777} <= {*kept}
    columns = np.arange(count) * 200 // (count - 1)  # of a picture of 200 pixels, all of which it would cover
    some = np.asarray(kept)
    for column in range(200):
        whole, seen = values[columns == column], values[some[columns[some] == column]]
        assert seen.max() <= whole.max()
        assert seen.min() >= whole.min()
    parts = np.minimum(np.arange(count) * 3 * 300 // (3 * (count - 1)), 299)
    for part in range(300):
        whole, seen = values[parts == part], values[some[parts[some] == part]]
        assert (whole.min(), whole.max(), whole[0], whole[-1]) == (seen.min(), seen.max(), seen[0], seen[-1])


def test_no_value_that_is_not_finite_is_lost_among_many() -> None:
    values = [0.0] * 5000
    values[1242] = math.nan  # neither the first nor the last of its part
    curve = Curve("a", [*range(5000)], ["0"] * 5000, values, ["0"] * 5000)
    assert 1242 in drawn(curve)


def test_a_file_that_is_being_written_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert read_curves(path) == ({}, 0)
    path.write_text(
        "step,epoch,a,b\n0,0,1,\n1,0,2\nx,0,1,2\n2,0,oops,4\n3,1,5,\n1,1,7,\n4,1,6"
    )  # the last is being written
    curves, damaged = read_curves(path)
    assert (curves["a"].steps, curves["a"].texts, curves["a"].epochs) == ([0, 3], ["1", "5"], ["0", "1"])
    assert (curves["b"].steps, curves["b"].values) == ([2], [4.0])
    assert damaged == 4
    path.write_bytes(b"\0\xff" * 100 + b"\n")
    assert read_curves(path) == ({}, 1)


# Confusion -----------------------------------------------------------------------------------------------------------------


def test_the_confusion_matrix_is_that_of_the_test_data(trained: Path) -> None:
    found = json.loads((trained / "confusion.json").read_text())
    model = package.load(trained / "checkpoints/best.ckpt").eval()
    data = DigitsDataModule()
    data.prepare_data()
    data.setup("test")
    expected = np.zeros((10, 10), int)
    with torch.no_grad():
        for images, y, *_ in data.test_dataloader():
            x = images.float() / 255
            np.add.at(expected, (y.numpy(), model(x).argmax(1).numpy()), 1)
    found_counts = np.diag(found["right"])
    for i, j, n in found["pairs"]:
        found_counts[i, j] = n
    assert (found_counts == expected).all()
    assert (found["true"], found["predicted"]) == (expected.sum(1).tolist(), expected.sum(0).tolist())
    assert (found["part"], found["unit"], found["names"]) == ("test", "examples", list("0123456789"))
    text = report(trained).text
    for i, row in enumerate(expected):
        assert " ".join(map(str, [i, *row])) in text
    assert f"{expected.trace() / expected.sum():.2%} right of {expected.sum()} examples on the test data" in text


def test_a_thousand_classes_are_told_by_the_pairs_that_were_confused(trained: Path) -> None:
    counts = 40 * torch.eye(1000, dtype=torch.long)
    counts[7, 8], counts[7, 7], counts[500, 3], counts[9] = 30, 10, 2, 0
    content = {"part": "test", "unit": "examples", "names": [f"class {i}" for i in range(1000)], **confusion(counts)}
    assert content["pairs"] == [[7, 8, 30], [500, 3, 2]]
    (trained / "confusion.json").write_text(json.dumps(content))
    page = remade(trained)
    assert "class 7 class 8 30 75.0% class 500 class 3 2 4.8%" in page.text
    assert "2 pairs of 1,000 classes were confused, 32 times; 1 classes do not occur" in page.text
    assert (
        "worst classes class number right share predicted class 7 40 10 25.0% 10 class 500 42 40 95.2% 40" in page.text
    )
    assert page.text.count("class 999 40 40") == 1
    assert page.tags.count("td") < 7000  # no grid of a million cells


def test_confusion_of_labels_and_pairs_left_out(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.tensor([[[5, 1], [2, 3]], [[8, 0], [0, 3]]])
    content = {"part": "val", "unit": "examples", "names": ["a", "b"], **confusion(labels)}
    (trained / "confusion.json").write_text(json.dumps(content))
    text = remade(trained).text
    assert "label right: yes missed false alarm right: no a 3 2 1 5 b 3 0 0 8" in text
    assert "86.36% right of 22 answers on the validation data" in text
    monkeypatch.setattr("recipes.cli.run.confusion._PAIRS", 1)
    found = confusion(torch.tensor([[1, 2, 3], [0, 0, 0], [4, 5, 0]]))
    assert (found["pairs"], found["further"]) == ([[2, 1, 5]], 9)


# Folders as they should not be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["run.json", "results.json", "diagnoses.json", "confusion.json", "metrics.csv", "log.txt"]
)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b"\0\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_is_noted_and_the_rest_is_shown(trained: Path, name: str, content: bytes) -> None:
    (trained / name).write_bytes(content)
    page = remade(trained)
    assert_harmless(page)
    assert len(page.pictures) == 3
    assert RECIPE in page.text
    if name in ("results.json", "diagnoses.json", "confusion.json") and content != b"[]":
        assert f"{name} is damaged" in page.text


def test_a_folder_in_place_of_each_file_and_a_recipe_that_is_gone(trained: Path) -> None:
    text = (trained / "config.yaml").read_text().replace(RECIPE, "mine/gone")
    (trained / "config.yaml").write_text(text)
    for name in ("run.json", "results.json", "confusion.json", "metrics.csv", "log.txt", "curves.png"):
        (trained / name).unlink()
        (trained / name).mkdir()
    shutil.rmtree(trained / "samples")
    (trained / "samples").write_text("")
    page = remade(trained)
    assert "mine/gone/version_0" in page.text
    assert "trainer.max_epochs 2" in page.text


def test_samples_of_many_epochs_are_spread(trained: Path) -> None:
    shutil.rmtree(trained / "samples")
    (trained / "samples").mkdir()
    for epoch in range(1, 101):
        (trained / f"samples/epoch_{epoch:04d}_text.txt").write_text(f"written {epoch}!")
    text = remade(trained).text
    shown = [epoch for epoch in range(1, 101) if f"written {epoch}!" in text]
    assert (shown[0], shown[-1], len(shown)) == (1, 100, 12)
    assert np.diff(shown).max() <= 10
    assert "88 further ones are in samples/" in text


def test_too_many_pictures_leave_out_the_old_ones(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = sorted(trained.glob("samples/*.png"))
    assert len(newest) == 2
    for path in newest:
        path.with_name(path.name.replace("0002", "0001")).write_bytes(path.read_bytes()[:-1] + b"\0")
    newest.append(trained / "curves.png")
    monkeypatch.setattr("recipes.cli.pages.report._PICTURE_BYTES", sum(path.stat().st_size for path in newest))
    page = remade(trained)
    assert sorted(page.pictures) == sorted(path.read_bytes() for path in newest)
    assert page.text.count("1 further one is in samples/") == 2


def test_tables_beside_the_run_are_shown(trained: Path) -> None:
    rows = "".join(f"file{i}.png,cat,dog\n" for i in range(80))
    (trained / "wrong_examples.csv").write_text(f"file,true,predicted\n{rows}")
    text = remade(trained).text
    assert "wrong_examples.csv file true predicted file0.png cat dog file1.png" in text
    assert "file49.png" in text
    assert "file50.png" not in text
    assert "further rows are in wrong_examples.csv" in text

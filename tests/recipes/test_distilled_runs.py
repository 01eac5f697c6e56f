"""Distillation on the command line: a student is tested, predicts and is resumed; what its teacher must be."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from cli_kit import SHORT, Zoo, assert_one_line

import zoo as package
from recipes.cli.studies import distillation

FEATURES = ("--model.features={layer1: layer3}", "--model.feature_weight=0.5")
RUN = ("-c", "cnn/distill_digits", "--trainer.callbacks=[]", *SHORT)
FOLDER = Path("runs/cnn/distill_digits/version_0")


@pytest.fixture
def teacher(tmp_cwd: Path) -> Path:
    """A copy of the bundled one, which can be lost."""
    return package.load("resnet20_digits").save_pretrained(tmp_cwd / "teacher")


def test_a_run_ends_in_the_student_alone(zoo: Zoo, teacher: Path) -> None:
    result = zoo(
        "fit", *RUN, "--model.teacher", teacher, *FEATURES, "--trainer.max_epochs=1",
        "--trainer.callbacks+=callbacks.ModelFolder",
    )  # fmt: skip
    assert result.code == 0, result.err
    shutil.rmtree(teacher)
    tested = zoo("test", "--ckpt", FOLDER)
    assert tested.code == 0, tested.err
    accuracy = re.search(r"test/acc +(\d\.\d+)", result.out)
    assert accuracy
    assert accuracy[1] in tested.out
    for path in (FOLDER / "checkpoints" / "best.ckpt", FOLDER / "model"):
        model = package.load(path)
        assert type(model) is package.DistillationTask
        assert sum(p.numel() for p in model.net.parameters()) == 4934
    assert zoo("export", FOLDER, "--output", "student.onnx").code == 0
    resumed = zoo("fit", "--resume", FOLDER, "--trainer.max_epochs=2")
    assert_one_line(resumed, "the teacher cannot be loaded: there is no", str(teacher))


def test_a_run_is_resumed_with_the_teacher_that_it_began_with(zoo: Zoo, teacher: Path) -> None:
    options = (*RUN, "--model.teacher", teacher, *FEATURES)
    assert zoo("fit", *options, "--trainer.max_epochs=2").code == 0
    assert zoo("fit", *options, "--trainer.max_epochs=1").code == 0
    second = FOLDER.with_name("version_1")
    other = package.load("resnet20_digits")
    with torch.no_grad():
        other.net.fc.bias[0] += 1
    other.save_pretrained("other")
    refused = zoo("fit", "--resume", second, "--trainer.max_epochs=2", "--model.teacher=other")
    assert_one_line(refused, "the run began with another teacher than other", started=True)
    shutil.move(teacher, "moved")
    result = zoo("fit", "--resume", second, "--trainer.max_epochs=2", "--model.teacher=moved")
    assert result.code == 0, result.err
    one, two = (package.load(folder / "checkpoints" / "last.ckpt").state_dict() for folder in (FOLDER, second))
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.teacher=null"], ["has no teacher to learn from", "--model.teacher"]),
        (["--model.teacher=resnet20_digist"], ["did you mean 'resnet20_digits'"]),
        (["--model.teacher=lenet5_digits"], ["it knows inputs of shape (1, 32, 32), the data have (1, 8, 8)"]),
        (["--model.teacher=unet_shapes"], ["teacher must be a classifier, got UNetSegmenter"]),
        (["--model.temperature=0"], ["temperature must be above 0, got 0.0"]),
        (["--data=datamodules.IrisDataModule"], ["it knows 10 classes", "the student has 3"]),
    ],
)
def test_what_cannot_be_is_one_line(zoo: Zoo, options: list[str], words: list[str]) -> None:
    assert_one_line(zoo("fit", *RUN, *options), *words, started=True)


@pytest.mark.slow
def test_a_short_study(tmp_path: Path) -> None:
    """Every student is trained; one without labels knows much of what its teacher knows."""
    few = distillation.with_few_labels(tmp_path, 10, 30, 3, (0,))
    assert [*few] == ["teacher", "alone", "logits, no labels"]
    assert few["teacher"][0] > 0.8
    assert few["logits, no labels"][0] > 0.5
    every = distillation.with_all_labels(tmp_path / "0", 2, (0,))
    assert [*every] == ["alone", "logits", "features", "both"]
    assert len({values[0] for values in every.values()}) > 1
    assert min(values[0] for values in every.values()) > 0.3


def test_the_table_counts_the_seeds_on_which_a_student_is_better_than_a_net_alone() -> None:
    table = distillation.table({"alone": [0.5, 0.75], "logits": [0.625, 0.75]}, (0, 1)).splitlines()
    assert table[2].split() == ["alone", "0.6250", "0.5000-0.7500", "0.5000", "0.7500"]
    assert table[3].split() == ["logits", "0.6875", "0.6250-0.7500", "0.6250", "0.7500", "1", "of", "2"]


def test_students_of_a_seed_see_the_same_images() -> None:
    (one, labels), (two, _), (other, _) = (distillation.digits(2, 5, seed).read("train") for seed in (0, 0, 1))
    assert labels.bincount().tolist() == [2] * 10
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert len(distillation.digits(None, 5, 0).read("train")[0]) == 1437
    assert torch.equal(*(distillation.digits(n, 5, 0).read("test")[0] for n in (2, None)))

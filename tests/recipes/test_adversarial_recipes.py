"""GANs on the command line: values from the data, contradictions, schedules per optimizer."""

import pytest
from cli_kit import Zoo, assert_one_line

FIT = ("fit", "-c", "gan/dcgan_digits", "--trainer.max_epochs=1", "--model.width=4", "--model.num_judged=50")


def test_a_schedule_for_each_optimizer(zoo: Zoo) -> None:
    callbacks = "[{class_path: callbacks.LRSchedule, init_args: {schedule: linear, optimizer: 0}}, "
    callbacks += "{class_path: callbacks.LRSchedule, init_args: {schedule: exponential, gamma: 0.9, optimizer: 1}}]"
    result = zoo(*FIT, "--trainer.limit_train_batches=3", f"--trainer.callbacks={callbacks}")
    assert (result.code, result.err) == (0, "")
    assert "3 steps" in result.out


def test_the_metrics_of_the_recipe(zoo: Zoo) -> None:
    result = zoo(*FIT, "--trainer.limit_train_batches=3", "--trainer.check_val_every_n_epoch=1")
    assert (result.code, result.err) == (0, "")
    for name in ("test/judged_acc", "test/frechet", "test/copy_ratio", "best val/frechet"):
        assert name in result.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.latent_dim=0"], ["latent_dim must be 1 or more, got 0"]),
        (["--model.input_shape=[1,28,28]"], ["--model.input_shape [1, 28, 28] contradicts the data", "[1, 8, 8]"]),
        (["--model.num_classes=4"], ["--model.num_classes 4 contradicts the data"]),
        (["--model.smallest=8"], ["larger than smallest=8, got 8x8"]),
        (["--model.judge=nobody"], ["nobody"]),
        (["--model.gradient_penalty=10"], ["gradient_penalty is for loss='wasserstein'"]),
        (["--trainer.gradient_clip_val=1"], ["gradient clipping is not supported for manual optimization"]),
        (["--trainer.accumulate_grad_batches=2"], ["accumul"]),
    ],
)
def test_bad_input(zoo: Zoo, options: list[str], words: list[str]) -> None:
    assert_one_line(zoo(*FIT, *options), *words, started=True)

"""Fits of captioners: several processes, accumulated batches, runs that go on, frozen encoders, and those with weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kit import Memory, SaveOnce, quiet_trainer
from lightning.pytorch import Callback, seed_everything
from torch import Tensor

import zoo
from callbacks import LayerFreezing, RandomState
from datamodules.captions import Captioned, Pictures, TextCaptionDataModule

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

SAMPLED: dict[str, Any] = {"teacher_forcing": 0.9, "forcing_schedule": "inverse_sigmoid", "forcing_steps": 8.0}
HELD: dict[str, Any] = {"attention_penalty": 0.3, "label_smoothing": 0.1}
MIDDLE = 8  # step of the second epoch
COLORS = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1), "white": (0, 1, 2)}


class Fields(TextCaptionDataModule):
    """Fields of one color, with one to three captions; 41 images for training, four that validate and five of the test."""

    def captioned(self) -> dict[str, Captioned]:
        g = torch.Generator().manual_seed(0)
        images, captions = torch.randint(60, (52, 3, 16, 20), generator=g, dtype=torch.uint8), []
        for i, image in enumerate(images):
            name = [*COLORS][i % 5]
            image[list(COLORS[name])] += 180
            captions.append([f"a {name} field", name, f"all is {name} in here"][: 1 + i % 3])
        return {"train": Captioned(Pictures(images), captions)}


def data(batch_size: int = 8, **options: Any) -> Fields:
    sizes = {"size": [16, 20], "val_fraction": 0.1, "test_fraction": 0.1}
    return Fields(**sizes, batch_size=batch_size, drop_last=False, **options)


def model(**options: Any) -> zoo.RecurrentCaptioning:
    torch.manual_seed(3)
    arguments: dict[str, Any] = {"encoder": "lenet5_relu", "vocab_size": data().vocab_size, "width": 8, "lr": 0.02}
    return zoo.RecurrentCaptioning(**{**arguments, "attention": "additive", **options}).double()


class Keep(Callback):
    """Write each process's weights after the last step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        torch.save((pl_module.state_dict(), trainer.callback_metrics), self.folder / f"{trainer.global_rank}.pt")


def run(
    folder: Path, *callbacks: Callback, ranks: int = 1, ckpt: Path | None = None, **options: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights after two epochs, and what was logged of training and validation."""
    folder.mkdir(exist_ok=True)
    seed_everything(7, verbose=False)
    trainer = quiet_trainer(RandomState(), Keep(folder), *callbacks, ranks=ranks, max_epochs=2, logger=Memory())
    resumed = {"ckpt_path": ckpt, "weights_only": True if ckpt else None}
    trainer.fit(model(**options), datamodule=data(8 // ranks), **resumed)
    kept = [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]
    for other, _ in kept[1:]:
        assert all(torch.equal(kept[0][0][name], other[name]) for name in other)
    return kept[0]


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_images_have_unequal_numbers_of_captions_and_batches_are_cut_unevenly() -> None:
    module = data()
    module.setup("fit")
    assert len(module._parts["train"]) % 8 not in (0, 2)
    (x, y) = next(iter(module.train_dataloader()))
    assert x.caption.shape == y.shape
    assert set((y[:, :, 0] != 0).sum(dim=1).tolist()) == {1, 2, 3}


@pytest.mark.parametrize("options", [{}, {**SAMPLED, **HELD}, {"attention": None, "teacher_forcing": 0.0}])
def test_two_processes_train_and_judge_as_one(tmp_path: Path, options: dict[str, Any]) -> None:
    """Batches of the processes have other numbers of captions and other lengths; all metrics are equal."""
    (one, logged), (two, others) = (run(tmp_path / f"{ranks}", ranks=ranks, **options) for ranks in (1, 2))
    assert gap(one, two) < 1e-9
    names = {"loss", "perplexity", "acc", "exact", "bleu1", "bleu2", "bleu3", "bleu4", "ciderd"}
    assert {name for name in logged if name.startswith("val/")} == {f"val/{name}" for name in names}
    trained = {"train/loss", "train/penalty"} if "attention_penalty" in options else {"train/loss"}
    assert {name for name in logged if name.startswith("train/") and not name.endswith("_step")} == trained
    for name in (*trained, *(f"val/{name}" for name in names)):
        assert float(logged[name]) == pytest.approx(float(others[name]), rel=1e-6), name
    assert gap(one, run(tmp_path / "again", **{**options, "teacher_forcing": 0.3})[0]) > 1e-4


@pytest.mark.parametrize("options", [{}, {**SAMPLED, **HELD}])
def test_accumulated_batches_train_as_whole_ones(options: dict[str, Any]) -> None:
    """A step's batches have different numbers of tokens."""
    ends = []
    for cut in (1, 2):
        seed_everything(7, verbose=False)
        task = model(**options)
        trainer = quiet_trainer(max_epochs=2, accumulate_grad_batches=cut, limit_val_batches=0)
        trainer.fit(task, datamodule=data(8 // cut))
        ends.append(task.state_dict())
    assert gap(*ends) < 1e-9


def test_a_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    """In the middle of an epoch: the ratio is that of the step, and the draws are those that would have come."""
    options = {**SAMPLED, **HELD, "dropout": 0.3}
    whole, _ = run(tmp_path / "whole", SaveOnce(tmp_path / "middle.ckpt", MIDDLE), **options)
    assert gap(whole, run(tmp_path / "rest", ckpt=tmp_path / "middle.ckpt", **options)[0]) == 0
    content = torch.load(tmp_path / "middle.ckpt", weights_only=True)
    assert 6 < content["global_step"] < 12
    assert content["zoo"]["vocabulary"] == data().vocabulary
    assert (content["zoo"]["caption_length"], content["zoo"]["input_shape"]) == (data().caption_length, [3, 16, 20])
    other = data(tokenizer="characters")
    task, resumed = model(vocab_size=other.vocab_size), {"ckpt_path": tmp_path / "middle.ckpt", "weights_only": True}
    with pytest.raises(ValueError, match="the checkpoint has another vocabulary than the data"):
        quiet_trainer(max_epochs=2).fit(task, datamodule=other, **resumed)


# Encoders ---------------------------------------------------------------------------------------------------------------


def with_norms(**options: Any) -> zoo.RecurrentCaptioning:
    small = {"encoder": "resnet20", "encoder_args": {"depth": 8, "width": 4}}
    return model(**{**small, **options})


def test_a_frozen_encoder_keeps_weights_and_norms_while_the_decoder_learns() -> None:
    """Frozen by a callback below the first layer of the decoder, as encoders of segmenters are."""
    task = with_norms()
    groups = task.layer_groups()
    first = next(group[0] for group in groups if not group[0].startswith("encoder."))
    assert groups[-1] == ["fc"]
    before = {name: value.clone() for name, value in task.net.state_dict().items()}
    quiet_trainer(LayerFreezing(first), max_epochs=1, limit_val_batches=0).fit(task, datamodule=data())
    moved = {name for name, value in task.net.state_dict().items() if not torch.equal(value, before[name])}
    assert any("running_mean" in name for name in before)
    decoder = {name for name in before if not name.startswith("encoder.")}
    assert moved == decoder


def test_a_trained_encoder_comes_with_its_weights_and_their_standardization(tmp_path: Path) -> None:
    source = zoo.load("resnet20_digits")
    task = zoo.RecurrentCaptioning(
        encoder="resnet20", encoder_weights="resnet20_digits", in_channels=1, vocab_size=7, width=8
    )
    for key, value in task.net.encoder.net.state_dict().items():
        assert torch.equal(value, source.net.state_dict()[key]), key
    assert torch.equal(task.mean, source.mean)
    assert "encoder_weights" not in task.hparams
    task.save_pretrained(tmp_path / "model")
    twin = zoo.load(tmp_path / "model")
    (x,) = task.eval().example_inputs(2)
    x = x._replace(image=torch.rand_like(x.image))
    assert torch.equal(twin.eval()(x), task(x))
    assert torch.equal(twin.predict_step(x)["tokens"], task.predict_step(x)["tokens"])
    plain = with_norms()
    assert not plain.standardized
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(plain, datamodule=(module := data()))
    torch.testing.assert_close(plain.mean, torch.as_tensor(module.mean, dtype=torch.float64))


def test_weights_bring_words_along_and_data_with_others_are_refused(tmp_path: Path) -> None:
    task = model()
    quiet_trainer(max_epochs=1, limit_val_batches=0).fit(task, datamodule=data())
    task.save_pretrained(tmp_path / "model")
    arguments = {**task.hparams, "weights": str(tmp_path / "model")}
    twin = zoo.RecurrentCaptioning(**arguments)
    assert (twin.vocabulary, twin.caption_length) == (task.vocabulary, data().caption_length)
    assert twin.longest() == 2 * data().caption_length
    images = torch.rand(5, 3, 16, 20, dtype=torch.float64)
    assert twin.double().eval().predict_step(images)["text"] == task.eval().predict_step(images)["text"]

    class Others(Fields):
        def captioned(self) -> dict[str, Captioned]:
            pictures, captions = super().captioned()["train"]
            return {
                "train": Captioned(pictures, [[text.replace("red", "pink") for text in texts] for texts in captions])
            }

    other = Others(size=[16, 20], batch_size=8)
    for verb in ("fit", "test"):
        with pytest.raises(ValueError, match="the model has another vocabulary than the data"):
            getattr(quiet_trainer(max_epochs=1), verb)(twin, datamodule=other)


def test_images_of_other_channels_are_refused_before_work_is_lost() -> None:
    task = model(in_channels=1)
    with pytest.raises(
        ValueError, match=r"RecurrentCaptioner cannot take the data's input of shape \(3, 16, 20\): .*LeNet takes"
    ):
        quiet_trainer(max_epochs=1).fit(task, datamodule=data())
    task = model()
    task.vocabulary = dict(data().vocabulary)
    with pytest.raises(ValueError, match=r"images of shape \(B, 3, H, W\), got \(2, 1, 16, 20\): set in_channels=1"):
        task.predict_step(torch.rand(2, 1, 16, 20, dtype=torch.float64), max_length=3)

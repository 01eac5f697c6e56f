"""Tables whose numbers float32 cannot hold: timestamps as features and targets, through fit, test, predict and files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import quiet_trainer

import zoo
from datamodules import ArrayDataModule
from zoo.drawing import figures
from zoo.linear.linear_regression import fit_closed_form

RNG = np.random.default_rng(0)
TIME = 1_700_000_000_000 + 1000.0 * RNG.permutation(200)  # float32 has steps of 131072 there
SLOPE = RNG.normal(size=200)
TARGET = 1_700_000_000 + 3 * SLOPE + 0.25 * RNG.normal(size=200)  # float32 has steps of 128 there
Z = (TIME - TIME.mean()) / TIME.std()


def targets(**table: Any) -> ArrayDataModule:
    """All 200 rows train; the first 40 of them test."""
    parts = {"x_test": SLOPE[:40, None], "y_test": TARGET[:40]}
    return ArrayDataModule(
        SLOPE[:, None], TARGET, kind="regression", val_fraction=0.0, batch_size=200, **parts, **table
    )


def least_squares() -> np.ndarray:
    """Predictions of the 200 rows, in float64, as distances from 1.7e9."""
    ones = np.c_[SLOPE, np.ones(200)]
    return ones @ np.linalg.lstsq(ones, TARGET - 1.7e9, rcond=None)[0]


def test_a_batch_has_the_type_that_holds_it() -> None:
    data = ArrayDataModule(TIME[:, None], TARGET, kind="regression")
    data.setup("fit")
    x, y = data._parts["train"][0]
    assert {x.dtype, y.dtype, data.mean.dtype, data.std.dtype, data.target_mean.dtype} == {torch.float64}
    data = ArrayDataModule(TIME[:, None] - 1.7e12, TARGET, kind="regression")
    data.setup("fit")
    assert [part.dtype for part in data._parts["train"][0]] == [torch.float32, torch.float64]
    assert (data.mean.dtype, data.target_mean.dtype) == (torch.float32, torch.float64)


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (2000 + np.arange(40.0), torch.float32),  # years
        (16_777_216 + np.arange(40.0) % 2, torch.float64),  # from there, odd numbers are missing
        (np.full(40, 16_777_217.0), torch.float64),  # a constant: what differs from it must not be far away
        (np.full(40, 5.5), torch.float32),
        (np.r_[np.zeros(39), 1e30], torch.float32),  # an outlier
        (1e-44 * np.arange(40.0), torch.float64),  # the deviation is 0 in float32
    ],
)
def test_float64_only_where_float32_loses_digits(column: np.ndarray, dtype: torch.dtype) -> None:
    data = ArrayDataModule(column[:, None], np.arange(40) % 2, test_fraction=0.0, val_fraction=0.0)
    data.setup("fit")
    assert data._parts["train"].x.dtype == dtype
    model = zoo.create_model("mlp", in_features=1, num_classes=2).set_standardization(data.mean, data.std)
    z = model.standardize(data._parts["train"].x)
    assert z.dtype == torch.float32
    wanted = (column - column.mean()) / (column.std() or 1.0)
    np.testing.assert_allclose(z[:, 0].numpy(), wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_classes_that_a_timestamp_tells_apart(precision: Any) -> None:
    data = ArrayDataModule(
        TIME[:, None], (np.median(TIME) < TIME).astype(int), batch_size=80, test_fraction=0.2, val_fraction=0.0
    )
    model = zoo.create_model("logistic_regression", in_features=1, lr=1.0)
    trainer = quiet_trainer(max_epochs=30, precision=precision)
    trainer.fit(model, datamodule=data)
    (results,) = trainer.test(model, datamodule=data, verbose=False)
    assert results["test/acc"] >= 0.97


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_metrics_and_predictions_of_a_large_target(precision: Any, tmp_path: Path) -> None:
    """Against least squares of numpy in float64."""
    data, model = targets(), zoo.create_model("linear_regression", in_features=1, optimizer="Newton", lr=1.0)
    trainer = quiet_trainer(max_epochs=3, precision=precision)
    trainer.fit(model, datamodule=data)
    (results,) = trainer.test(model, datamodule=data, verbose=False)
    guess = least_squares()
    residuals = guess[:40] - (TARGET[:40] - 1.7e9)
    assert results["test/rmse"] == pytest.approx((residuals**2).mean() ** 0.5, rel=1e-3)
    assert results["test/mae"] == pytest.approx(abs(residuals).mean(), rel=1e-3)
    assert results["test/r2"] == pytest.approx(1 - (residuals**2).sum() / TARGET[:40].var() / 40, rel=1e-4)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    model.save_pretrained(tmp_path / "folder")
    x = torch.from_numpy(SLOPE[:, None])
    started = zoo.create_model("linear_regression", in_features=1, weights=str(tmp_path / "folder"))
    for again in (model, zoo.load(tmp_path / "model.ckpt"), zoo.load(tmp_path / "folder"), started):
        value = again.eval().predict_step(x)["value"].detach()
        assert value.dtype == torch.float64
        np.testing.assert_allclose(value.numpy() - 1.7e9, guess, atol=2e-3)
        assert again.target_mean.dtype == torch.float64
        assert precision == "64-true" or again.net.fc.weight.dtype == torch.float32


def test_the_closed_form_of_a_large_column_and_a_large_target() -> None:
    x, y = np.c_[TIME, SLOPE], TARGET + TIME / 1e6
    data = ArrayDataModule(x, y, kind="regression", val_fraction=0.0, test_fraction=0.0, batch_size=64)
    model = zoo.create_model("linear_regression", in_features=2, lr=1e-9)
    quiet_trainer(max_epochs=1).fit(model, datamodule=data)  # takes the statistics
    fit_closed_form(model, [data._parts["train"][list(range(i, i + 50))] for i in range(0, 200, 50)])
    ones = np.c_[Z, SLOPE, np.ones(200)]
    guess = ones @ np.linalg.lstsq(ones, y - y.mean(), rcond=None)[0]
    value = model.predict_step(torch.from_numpy(x))["value"].detach().numpy()
    np.testing.assert_allclose(value - y.mean(), guess, atol=1e-3)


@pytest.mark.parametrize("cast", ["half", "bfloat16", "float", "double"])
def test_statistics_keep_their_digits_when_the_model_is_cast(cast: str, tmp_path: Path) -> None:
    model = zoo.create_model("linear_regression", in_features=1)
    model.set_standardization([TIME.mean()], [TIME.std()])
    cast_model = getattr(model, cast)()
    assert cast_model.mean.tolist() == [TIME.mean()]
    z = cast_model.standardize(torch.from_numpy(TIME[:, None]))
    assert z.dtype == cast_model.net.fc.weight.dtype
    np.testing.assert_allclose(z.double()[:, 0].numpy(), Z, atol=0.02)


def test_what_float32_holds_is_cast_as_ever() -> None:
    model = zoo.create_model("linear_regression", in_features=1).set_standardization(np.array([0.1]), np.array([0.3]))
    assert model.mean.dtype == torch.float32
    assert model.double().float().mean.dtype == torch.float32
    assert model.half().mean.dtype == torch.float16


@pytest.mark.parametrize("name", ["autoencoder_linear", "vae_mlp", "gan_mlp", "mlp_regression"])
def test_every_reader_of_rows_takes_a_timestamp(name: str) -> None:
    x = np.c_[TIME, SLOPE]
    data = ArrayDataModule(x, SLOPE, kind="regression", batch_size=50, test_fraction=0.2)
    more: dict[str, Any] = {
        "autoencoder_linear": {"input_shape": (2,), "latent_dim": 1},
        "vae_mlp": {"input_shape": (2,), "latent_dim": 1, "likelihood": "gaussian", "output": "linear", "widths": [4]},
        "gan_mlp": {"input_shape": (2,), "latent_dim": 1},
        "mlp_regression": {"in_features": 2, "widths": [4]},
    }[name]
    model = zoo.create_model(name, **more)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)
    if model.samples == "row":
        made = model.sample(50)[:, 0].double()  # in units of the data: near them, and not all the same
        assert (made - TIME.mean()).abs().max() < 20 * TIME.std()
        assert made.std() > 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            targets(),
            r"target_mean 1699999999\.\d+ with the deviation 3\.1232 \(column 1\) needs float64, and batches on cpu",
        ),
        (
            ArrayDataModule(np.c_[SLOPE, TIME], SLOPE, kind="regression"),
            r"mean 17000000\d+\.?\d* with the deviation [\d.]+ \(column 2\) needs float64.* train with trainer.precision=32-true",
        ),
    ],
)
def test_half_precision_is_refused_before_training(data: ArrayDataModule, message: str) -> None:
    model = zoo.create_model("linear_regression", in_features=data.input_shape[0])
    with pytest.raises(ValueError, match=message):
        quiet_trainer(max_epochs=1, precision="bf16-true").fit(model, datamodule=data)


@pytest.mark.parametrize(
    ("name", "what", "data"),
    [
        ("glm_gaussian", "targets", targets()),
        ("max_likelihood_gumbel", "columns", ArrayDataModule(TIME[:, None], SLOPE, kind="regression")),
    ],
)
def test_models_of_the_numbers_as_they_are(name: str, what: str, data: ArrayDataModule) -> None:
    sizes = {"in_features": 1} if name == "glm_gaussian" else {}
    message = f"learns {what} as they are, and float32 cannot hold them .*trainer.precision=64-true"
    with pytest.raises(ValueError, match=message):
        quiet_trainer(max_epochs=1).fit(zoo.create_model(name, **sizes), datamodule=data)
    quiet_trainer(max_epochs=1, precision="64-true").fit(zoo.create_model(name, **sizes), datamodule=data)


def test_pictures_of_a_large_target_are_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.create_model("linear_regression", in_features=1)
    quiet_trainer(max_epochs=1).fit(model, datamodule=targets())
    monkeypatch.setattr(figures, "to_image", lambda figure: figure.axes[0].collections[0].get_offsets())
    x, y = torch.from_numpy(SLOPE[:, None]), torch.from_numpy(TARGET)
    shown = model.render((x, y))
    np.testing.assert_allclose(shown["scatter"], np.c_[TARGET, model.predict_step(x)["value"].detach()], rtol=1e-12)
    np.testing.assert_allclose(shown["curve"], np.c_[SLOPE, TARGET], rtol=1e-12)

"""The bundled tables: names and numbers are scikit-learn's, and what simple models reach on their splits."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.linear_model import LogisticRegression

from datamodules import BreastCancerDataModule, DiabetesDataModule, IrisDataModule, WineDataModule

CASES = [
    (IrisDataModule, datasets.load_iris, (108, 12, 30)),
    (WineDataModule, datasets.load_wine, (127, 15, 36)),
    (BreastCancerDataModule, datasets.load_breast_cancer, (409, 46, 114)),
    (DiabetesDataModule, lambda: datasets.load_diabetes(scaled=False), (317, 36, 89)),
]


@pytest.mark.parametrize(("cls", "load", "sizes"), CASES)
def test_names_sizes_and_rows(cls: Any, load: Any, sizes: tuple[int, ...]) -> None:
    data, bunch = cls(), load()
    data.setup()
    assert data.feature_names == list(bunch.feature_names)
    if cls is not DiabetesDataModule:
        assert data.class_names == bunch.target_names.tolist()
    parts = [data._parts[name] for name in ("train", "val", "test")]
    assert tuple(len(part) for part in parts) == sizes
    y = torch.cat([part.y.view(len(part), -1) for part in parts]).float()
    found = torch.cat([torch.cat([part.x for part in parts]), y], 1).numpy()
    wanted = np.c_[bunch.data, bunch.target].astype(np.float32)
    assert np.array_equal(found[np.lexsort(found.T)], wanted[np.lexsort(wanted.T)])


def test_diabetes_is_in_its_own_units() -> None:
    data = DiabetesDataModule()
    data.setup("fit")
    assert data._parts["train"].x[:, 0].max() == 79  # years
    assert 25 <= data._parts["train"].y.min() < data._parts["train"].y.max() <= 346
    torch.testing.assert_close(data.target_mean, data._parts["train"].y.mean(0))


@pytest.mark.parametrize(
    ("cls", "bound"), [(IrisDataModule, 0.93), (WineDataModule, 0.94), (BreastCancerDataModule, 0.96)]
)
def test_logistic_regression_on_the_test_part(cls: Any, bound: float) -> None:
    """Standardized by the datamodule's own numbers; rows with other rows' targets would be at chance."""
    data = cls(val_fraction=0.0)
    data.setup()
    train, test = data._parts["train"], data._parts["test"]
    x, x_test = (((part.x - data.mean) / data.std).numpy() for part in (train, test))
    assert LogisticRegression().fit(x, train.y.numpy()).score(x_test, test.y.numpy()) >= bound

"""Small real tables that come with scikit-learn."""

from typing import Any, ClassVar

import numpy as np
from sklearn import datasets
from typing_extensions import override

from datamodules.arrays import TableDataModule


class BundledTable(TableDataModule):
    """A table of scikit-learn, without an official test part (see ``test_fraction``). A subclass names its loader."""

    loader: ClassVar[str]
    loader_args: ClassVar[dict[str, Any]] = {}

    @override
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        return getattr(datasets, self.loader)(return_X_y=True, **self.loader_args)


class IrisDataModule(BundledTable):
    """150 iris flowers of 3 species by 4 lengths in cm (Fisher 1936; UCI "Iris", CC BY 4.0; bundled with scikit-learn).

    scikit-learn's copy is Fisher's: two rows of UCI's file differ from it.

    Args: See :class:`~datamodules.TableDataModule`.

    Example:
        >>> data = IrisDataModule()
        >>> data.setup("fit")
        >>> data.class_names, data.input_shape, sum(data.class_counts)
        (['setosa', 'versicolor', 'virginica'], (4,), 108)
    """

    loader = "load_iris"
    class_names = ["setosa", "versicolor", "virginica"]
    feature_names = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]


class WineDataModule(BundledTable):
    """178 wines of 3 cultivars by 13 chemical measurements (Aeberhard, Forina 1991; UCI "Wine", CC BY 4.0; with scikit-learn).

    Args: See :class:`~datamodules.TableDataModule`.

    Example:
        >>> WineDataModule().input_shape
        (13,)
    """

    loader = "load_wine"
    class_names = ["class_0", "class_1", "class_2"]
    feature_names = [
        *("alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids"),
        *(
            "nonflavanoid_phenols",
            "proanthocyanins",
            "color_intensity",
            "hue",
            "od280/od315_of_diluted_wines",
            "proline",
        ),
    ]


class BreastCancerDataModule(BundledTable):
    """569 breast masses, malignant or benign, by 30 shape measurements of their cell nuclei.

    Wolberg, Mangasarian, Street, Street 1993; UCI "Breast Cancer Wisconsin (Diagnostic)", CC BY 4.0; bundled with scikit-learn.

    Args: See :class:`~datamodules.TableDataModule`.

    Example:
        >>> data = BreastCancerDataModule()
        >>> data.class_names, data.input_shape
        (['malignant', 'benign'], (30,))
    """

    loader = "load_breast_cancer"
    class_names = ["malignant", "benign"]
    feature_names = [
        pattern.format(name)
        for pattern in ("mean {}", "{} error", "worst {}")
        for name in (
            *("radius", "texture", "perimeter", "area", "smoothness"),
            *("compactness", "concavity", "concave points", "symmetry", "fractal dimension"),
        )
    ]


class DiabetesDataModule(BundledTable):
    """442 diabetes patients: the progression of the disease within a year (25..346) from 10 measurements, in their own units.

    Efron, Hastie, Johnstone, Tibshirani 2004, "Least Angle Regression"; no license is given; bundled with scikit-learn.

    Args: See :class:`~datamodules.TableDataModule`.

    Example:
        >>> data = DiabetesDataModule()
        >>> data.input_shape, data.num_classes, data.num_outputs
        ((10,), None, 1)
    """

    loader = "load_diabetes"
    loader_args = {"scaled": False}
    kind = "regression"
    feature_names = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
    target_names = ["disease progression"]

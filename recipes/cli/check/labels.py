"""Likely label errors: examples of which a linear probe that has not seen them is sure that they are of another class.

The probe's out-of-fold probabilities are compared with each class's own: Northcutt, Jiang and Chuang 2021, "Confident Learning:
Estimating Uncertainty in Dataset Labels", arXiv:1911.00068, sections 3.1 (thresholds) and 3.2 (ranking by margin).
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from numpy import ndarray

MOST = 5_000  # examples that the probe is fitted on
_FOLDS = 5
_COMPONENTS = 64  # of the inputs, so that the probe is quick
TRUSTED = 0.6  # accuracy of the probe from which on its doubts mean something
_SEED = 0


def suspects(x: Tensor, y: Tensor) -> tuple["ndarray", "ndarray", float]:
    """Return how much each label is doubted.

    Args:
        x: Numbers, ``(N, D)``.
        y: Classes, int64 ``(N,)``, each of at least 5 examples.

    Returns:
        The margin of each example, ``(N,)``: the probability of its label less that of the most likely other class, by a probe
        that was fitted without it; the lower, the more likely is an error. Whether it is a likely error, bool ``(N,)``: another
        class is more likely than its own, and at least as likely as it is for its own examples on average.
        The probe's accuracy on examples that it has not seen.
    """
    import numpy as np
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    inputs, labels = x.double().numpy(), y.numpy()
    classes, labels = np.unique(labels, return_inverse=True)
    reduce: list[Any] = [PCA(_COMPONENTS, random_state=_SEED)] if inputs.shape[1] > _COMPONENTS else []
    probe = make_pipeline(StandardScaler(), *reduce, LogisticRegression(C=0.1, max_iter=300))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=_SEED)
    p = cross_val_predict(probe, inputs, labels, cv=folds, method="predict_proba")
    each = np.arange(len(labels))
    own = p[each, labels]
    others = p.copy()
    others[each, labels] = -1
    other = others.argmax(1)
    threshold = np.array([own[labels == k].mean() for k in range(len(classes))])  # (K,)
    doubted = (p[each, other] >= threshold[other]) & (p[each, other] > own)
    return own - p[each, other], doubted, float((p.argmax(1) == labels).mean())

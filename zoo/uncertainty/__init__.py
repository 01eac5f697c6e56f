"""How far the probabilities of a classifier can be trusted: temperature, ensembles, Monte Carlo dropout, conformal sets."""

from zoo.uncertainty.conformal import conformal_scores, conformal_sets, conformal_threshold
from zoo.uncertainty.dropout import MCDropout, has_dropout
from zoo.uncertainty.ensemble import DeepEnsemble
from zoo.uncertainty.mixture import mixture
from zoo.uncertainty.temperature import fit_temperature

__all__ = [
    "DeepEnsemble",
    "MCDropout",
    "conformal_scores",
    "conformal_sets",
    "conformal_threshold",
    "fit_temperature",
    "has_dropout",
    "mixture",
]

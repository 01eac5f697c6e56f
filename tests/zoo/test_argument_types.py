"""Types of a model's arguments are checked before a net is built from them."""

import copy
import math
from typing import Any

import pytest

import zoo


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"lr": None}, TypeError, "lr must be a finite number, got None"),
        ({"lr": True}, TypeError, "lr must be a finite number, got True"),
        ({"lr": "0.1"}, TypeError, "lr must be a finite number, got '0.1'"),
        ({"lr": math.inf}, ValueError, "lr must be a finite number, got inf"),
        ({"weight_decay": math.nan}, ValueError, "weight_decay must be a finite number, got nan"),
        ({"optimizer": None}, TypeError, "optimizer must be a text, got None"),
        ({"num_classes": 2.0}, TypeError, "num_classes must be an integer, got 2.0"),
        ({"num_classes": -1}, ValueError, "num_classes must be 0 or more, got -1"),
        ({"in_features": 0}, ValueError, "in_features must be 1 or more, got 0"),
        ({"in_features": True}, TypeError, "in_features must be an integer, got True"),
        ({"widths": 8}, TypeError, "widths must be a list of values, each an integer, got 8"),
        ({"widths": [8, 2.5]}, TypeError, r"widths must be a list of values, each an integer, got \[8, 2.5\]"),
        ({"decay_norm_and_bias": 1}, TypeError, "decay_norm_and_bias must be True or False, got 1"),
        ({"optimizer_args": [1]}, TypeError, r"optimizer_args must be a dict or None, got \[1\]"),
    ],
)
def test_a_wrong_type_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        zoo.MLPClassifier(**arguments)


def test_right_types_pass_by_name_and_by_position() -> None:
    model = zoo.MLPClassifier(4, 3, widths=(8,), lr=1, weights=None, optimizer_args={"eps": 1e-6})
    assert model.hparams["lr"] == 1
    with pytest.raises(TypeError, match="in_features must be an integer, got '4'"):
        zoo.MLPClassifier("4")  # type: ignore[arg-type]
    assert type(copy.deepcopy(model)) is zoo.MLPClassifier

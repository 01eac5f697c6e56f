"""The reliability diagram, by value: bars, gaps and shares."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.drawing import figures, reliability_diagram

NAN = float("nan")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn. Nothing may import pyplot, which needs a display."""
    kept: list[Any] = []
    original = figures.to_image

    def keep(figure: Any) -> Tensor:
        kept.append(figure)
        return original(figure)

    monkeypatch.setattr(figures, "to_image", keep)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    return kept


def bars(axes: Any) -> list[list[tuple[float, float, float, float]]]:
    """Left, bottom, width and height of each bar, by their kind."""
    sets = [[(b.get_x(), b.get_y(), b.get_width(), b.get_height()) for b in kind] for kind in axes.containers]
    return [[tuple(round(float(v), 6) for v in bar) for bar in kind] for kind in sets]  # type: ignore[misc]


def test_bars_are_accuracy_gap_and_share_of_filled_bins(drawn: list[Any]) -> None:
    count, accuracy, confidence = torch.tensor([0, 1, 0, 3]), [NAN, 0.75, NAN, 0.5], [NAN, 0.25, NAN, 0.875]
    image = reliability_diagram([count], [torch.tensor(accuracy)], [torch.tensor(confidence)], ["one"])
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    above, below = drawn[0].axes
    right, gap = bars(above)
    assert right == [(0.25, 0.0, 0.25, 0.75), (0.75, 0.0, 0.25, 0.5)]
    assert gap == [(0.325, 0.25, 0.1, 0.5), (0.825, 0.5, 0.1, 0.375)]
    assert bars(below) == [
        [(0.0, 0.0, 0.25, 0.0), (0.25, 0.0, 0.25, 0.25), (0.5, 0.0, 0.25, 0.0), (0.75, 0.0, 0.25, 0.75)]
    ]
    assert [line.get_xydata().tolist() for line in above.lines] == [[[0.0, 0.0], [1.0, 1.0]]]
    assert above.get_title() == "one"


def test_a_panel_a_model_three_side_by_side(drawn: list[Any]) -> None:
    parts = [torch.full((5,), 2), torch.full((5,), 0.5), torch.full((5,), 0.6)]
    one, four = (reliability_diagram(*([part] * n for part in parts), [*"abcd"[:n]]) for n in (1, 4))
    assert (four.shape[1] / one.shape[1], four.shape[2] / one.shape[2]) == pytest.approx((2, 3), abs=0.02)
    assert [axes.get_title() for axes in drawn[1].axes] == ["a", "", "b", "", "c", "", "d", ""]
    empty = reliability_diagram([torch.zeros(5)], [torch.full((5,), NAN)], [torch.full((5,), NAN)], ["none"])
    assert empty.float().std() > 0

"""Pictures of predictions, by value: pixels of the examples, counts, points, decision boundaries."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from kit import quiet_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from zoo.drawing import figures, palette
from zoo.drawing.tiles import GAP, HEADER, LINE, TILE
from zoo.tasks import ClassificationTask, RegressionTask, Task

RED, WHITE = [198, 40, 40], [255, 255, 255]


class Constant(nn.Module):
    """Returns the same output whatever the input."""

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Tensor) -> Tensor:
        return self.out[: len(x)]


def classifier(predicted: list[int], names: list[str], **options: Any) -> ClassificationTask:
    logits = 5 * nn.functional.one_hot(torch.tensor(predicted), len(names)).float()
    task = ClassificationTask(Constant(logits), len(names), **options)
    task.class_names = names
    return task


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn. Nothing may import pyplot, which needs a display."""
    kept: list[Any] = []
    original = figures.to_image

    def keep(figure: Any) -> Tensor:
        kept.append(figure)
        image = original(figure)
        assert image.dtype == torch.uint8
        assert image.shape[0] == 3
        _assert_nothing_is_cut(figure)
        return image

    monkeypatch.setattr(figures, "to_image", keep)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    return kept


def _assert_nothing_is_cut(figure: Any) -> None:
    from matplotlib.text import Text

    width, height = figure.canvas.get_width_height()
    ticks = [label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels()]
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible() and text not in ticks:
            box = text.get_window_extent()
            assert box.x0 >= 0, text
            assert box.y0 >= 0, text
            assert box.x1 <= width, text
            assert box.y1 <= height, text
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= width + 1
        assert box.y1 <= height + 1


def texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_a_task_renders_nothing_by_default() -> None:
    assert Task(nn.Linear(1, 1)).render((torch.zeros(2, 1), torch.zeros(2))) == {}


@pytest.mark.parametrize("channels", [1, 3])
def test_the_grid_holds_the_pixels_of_the_examples(channels: int, drawn: list[Any]) -> None:
    x = torch.randint(0, 256, (11, channels, 8, 16)) / 255
    y = torch.arange(11) % 3
    predicted = y.clone()
    predicted[10] = 0
    picture = classifier(predicted.tolist(), ["cat", "dog", "$bi_{rd$"]).render((x, y))["examples"]
    height, width = 64, 128
    for i, image in enumerate(x):
        top = HEADER + (i // 8) * (height + 2 * LINE + GAP)
        left = GAP + (i % 8) * (width + GAP)
        shown = picture[:, top : top + height, left : left + width]
        wanted = (image * 255).round().byte().expand(3, -1, -1).repeat_interleave(8, 1).repeat_interleave(8, 2)
        assert torch.equal(shown, wanted), i
        frame = picture[:, top - 2, left - 2].tolist()
        assert frame == (RED if i == 10 else WHITE), i
    written = texts(drawn[0])
    names = [["cat", "dog", "$bi_{rd$"][k] for k in y]
    assert written[1:22:2] == names  # below: true
    assert written[0:22:2] == [*names[:10], "cat"]  # predicted
    assert written[22] == "predicted, below it true  ·  1 of 11 wrong"
    colors = [text.get_color() for text in drawn[0].texts[0:22:2]]
    assert [i for i, color in enumerate(colors) if color == figures.WRONG] == [10]


def test_large_images_shrink_and_long_names_are_shortened(drawn: list[Any]) -> None:
    x = torch.zeros(1, 3, 600, 300)
    x[:, 0, :300] = 1.0  # the upper half red
    name = "great white shark, man-eater, Carcharodon carcharias"
    picture = classifier([0], [name, "b"]).render((x, torch.tensor([0])))["examples"]
    assert picture.shape[1:] == (HEADER + 256 + 2 * LINE + GAP, 5 * TILE)
    assert picture[:, HEADER + 20, 60].tolist() == [255, 0, 0]
    assert picture[:, HEADER + 236, 60].tolist() == [0, 0, 0]
    assert texts(drawn[0])[0] == "great white shark…"


def test_only_images_make_a_grid() -> None:
    for shape in ((4, 9), (4, 5, 8, 8), (4, 3, 8)):
        assert set(classifier([0] * 4, ["a", "b"]).render((torch.zeros(shape), torch.zeros(4).long()))) == {"confusion"}


def test_the_confusion_of_the_batch(drawn: list[Any]) -> None:
    names = ["cat", "dog", "a name that is far too long to stand here"]
    task = classifier([0, 0, 1, 1, 2, 0], names)
    task.render((torch.zeros(6, 4), torch.tensor([0, 0, 0, 1, 2, 2])))
    (axes,) = drawn[0].axes
    counts = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert counts == {(0, 0): "2", (0, 1): "1", (1, 1): "1", (2, 2): "1", (2, 0): "1"}  # (true, predicted)
    share = [[2 / 3, 1 / 3, 0], [0, 1, 0], [0.5, 0, 0.5]]
    assert np.allclose(axes.images[0].get_array(), share)
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")
    labels = ["cat", "dog", "a name that is far too …"]
    assert [label.get_text() for label in axes.get_xticklabels()] == labels
    assert [label.get_text() for label in axes.get_yticklabels()] == labels
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first class on top
    assert drawn[0].get_suptitle() == "66.67% right of 6 examples shown"


def test_the_confusion_of_the_last_evaluation_is_preferred(drawn: list[Any]) -> None:
    task = classifier([0, 0, 1], ["a", "b"])
    y = torch.tensor([0, 1, 1])
    trainer = quiet_trainer()
    trainer.validate(task, DataLoader(TensorDataset(torch.zeros(3, 4), y), 3), verbose=False)
    task.render((torch.zeros(1, 4), y[:1]))
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["1", "1", "1"]
    assert drawn[0].get_suptitle() == "66.67% right of 3 examples"


@pytest.mark.parametrize(("count", "named", "counted"), [(2, 1, 1), (30, 1, 1), (31, 1, 0), (100, 1, 0), (101, 0, 0)])
def test_names_and_counts_are_written_while_they_can_be_read(
    count: int, named: bool, counted: bool, drawn: list[Any]
) -> None:
    y = torch.arange(2 * count) % count
    predicted = y.clone()
    predicted[-1] = predicted[-3] = 0
    names = [f"class number {k}" for k in range(count)]
    shown = classifier(predicted.tolist(), names).render((torch.zeros(len(y), 4), y))
    (axes,) = drawn[0].axes
    assert bool(axes.texts) == counted
    assert ([label.get_text() for label in axes.get_yticklabels()] == names) == named
    if named:
        assert set(shown) == {"confusion"}
    else:
        wrong = [["class number 98", "class number 0", 1], ["class number 100", "class number 0", 1]]
        assert shown["mistakes"] == [["true", "predicted", "count"], *wrong]


def test_a_thousand_classes(drawn: list[Any]) -> None:
    y = torch.arange(1000)
    shown = classifier([*range(1, 1000), 0], [f"n{k}" for k in range(1000)]).render((torch.zeros(1000, 4), y))
    assert shown["confusion"].shape[1] > 1000  # a pixel a class
    assert len(shown["mistakes"]) == 51
    assert shown["mistakes"][1] == ["n0", "n1", 1]


def test_multilabel(drawn: list[Any]) -> None:
    logits = torch.tensor([[5.0, 5.0, -5.0], [5.0, -5.0, -5.0], [-5.0, -5.0, -5.0]])
    y = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    task = ClassificationTask(Constant(logits), 3, "multilabel")
    task.class_names = ["sky", "sea", "sun"]
    assert set(task.render((torch.zeros(3, 2), y))) == {"confusion"}
    (axes,) = drawn[0].axes
    columns = ["right: yes", "missed", "false alarm", "right: no"]
    assert [label.get_text() for label in axes.get_xticklabels()] == columns
    assert [label.get_text() for label in axes.get_yticklabels()] == task.class_names
    assert np.allclose(axes.images[0].get_array(), np.array([[1, 0, 1, 1], [1, 1, 0, 1], [0, 0, 0, 3]]) / 3)
    assert drawn[0].get_suptitle() == "77.78% right of 9 answers shown"
    task.render((torch.zeros(3, 1, 8, 8), y))
    written = texts(drawn[1])[:6]
    assert written == ["sky, sea", "sky, sea", "sky", "sea", "none", "none"]


def region(figure: Any, x: float, y: float) -> np.ndarray:
    """Return the color of the plane at a point."""
    (image,) = figure.axes[0].images
    left, right, bottom, top = image.get_extent()
    pixels = image.get_array()
    assert image.origin == "lower"
    return pixels[int((y - bottom) / (top - bottom) * len(pixels)), int((x - left) / (right - left) * len(pixels[0]))]


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_decision_regions(threshold: float, drawn: list[Any]) -> None:
    """One logit x0 + 2 x1: positive from the line where it is logit(threshold)."""
    task = ClassificationTask(nn.Linear(2, 1), mode="binary", num_classes=2, threshold=threshold)
    task.net.weight.data, task.net.bias.data = torch.tensor([[1.0, 2.0]]), torch.zeros(1)
    task.class_names = ["no", "$y_{es$"]
    x = torch.tensor([[-4.0, -10.0], [4.0, 7.0], [-4.0, 4.0], [4.0, -3.0]])
    y = torch.tensor([0, 1, 0, 0])
    task.render((x, y))
    figure = drawn[0]
    border = float(torch.tensor(threshold).logit())
    blue, orange = palette(2).numpy() / 255

    def nearer(color: np.ndarray) -> int:
        strength = 1 - color  # white plus a share of the class's color
        return int(
            ((strength @ (1 - orange)) / np.linalg.norm(1 - orange))
            > ((strength @ (1 - blue)) / np.linalg.norm(1 - blue))
        )

    for at in (-3.0, 0.0, 3.0):  # x1 on the line, and a little to each side of it
        on_line = (border - at) / 2
        assert nearer(region(figure, at, on_line - 0.1)) == 0
        assert nearer(region(figure, at, on_line + 0.1)) == 1
    no, yes, wrong = figure.axes[0].collections
    assert [part.get_label() for part in (no, yes, wrong)] == ["no", "$y_{es$", "wrong"]
    assert no.get_offsets().tolist() == x[[0, 2, 3]].tolist()
    assert yes.get_offsets().tolist() == x[[1]].tolist()
    assert wrong.get_offsets().tolist() == x[[2]].tolist()  # a "no" at logit 4; (4, -3) has -2
    assert figure.axes[0].get_title() == "1 of 4 wrong"


def test_the_confidence_that_is_drawn_is_a_half_at_the_threshold() -> None:
    """And linear on both sides: 0.1 of 0.8 is an eighth of a half."""
    task = ClassificationTask(nn.Identity(), mode="binary", num_classes=2, threshold=0.8)
    p = torch.tensor([[0.1], [0.4], [0.8], [0.9], [0.999]])
    bent = task._confidence(p.logit())
    torch.testing.assert_close(bent[:, 1], torch.tensor([0.0625, 0.25, 0.5, 0.75, 0.9975]))
    torch.testing.assert_close(bent.sum(dim=1), torch.ones(5))


def test_predicted_against_true_in_the_targets_unit(drawn: list[Any]) -> None:
    task = RegressionTask(nn.Linear(3, 2), num_outputs=2)
    task.target_mean, task.target_std = torch.tensor([100.0, 0.0]), torch.tensor([10.0, 1.0])
    x, y = torch.randn(6, 3), torch.randn(6, 2) * 10
    assert set(task.render((x, y))) == {"scatter"}
    assert len(drawn[0].axes) == 2
    for k, axes in enumerate(drawn[0].axes):
        wanted = torch.stack([y[:, k], task(x)[:, k].detach()], dim=1)
        torch.testing.assert_close(torch.tensor(axes.collections[0].get_offsets().tolist()), wanted)
        (diagonal,) = axes.lines
        assert (diagonal.get_xdata() == diagonal.get_ydata()).all()
        assert axes.get_xlim() == axes.get_ylim()
        rmse = (wanted[:, 0] - wanted[:, 1]).square().mean().sqrt().item()
        assert axes.get_title() == f"output {k}  ·  rmse {rmse:.4g}"


def test_the_curve_over_one_input(drawn: list[Any]) -> None:
    task = RegressionTask(nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)))
    task.target_mean, task.target_std = torch.tensor([50.0]), torch.tensor([3.0])
    task.mean, task.std = torch.tensor([2.0]), torch.tensor([4.0])
    x, y = torch.rand(20, 1) * 8, torch.rand(20)
    assert set(task.render((x, y))) == {"scatter", "curve"}
    (axes,) = drawn[1].axes
    across, curve = (torch.as_tensor(part, dtype=torch.float32) for part in axes.lines[0].get_data())
    assert across[0] < x.min()
    assert across[-1] > x.max()
    torch.testing.assert_close(curve, task(across[:, None]).squeeze(1).detach())
    torch.testing.assert_close(torch.tensor(axes.collections[0].get_offsets().tolist()), torch.stack([x[:, 0], y], 1))


def test_one_example_is_enough(drawn: list[Any]) -> None:
    RegressionTask(nn.Linear(1, 1)).render((torch.ones(1, 1), torch.ones(1, 1)))
    ClassificationTask(nn.Linear(2, 2), 2).render((torch.ones(1, 2), torch.zeros(1).long()))
    assert len(drawn) == 4


def test_windows_of_series(drawn: list[Any]) -> None:
    """A panel for each window and target; what nobody knows is not drawn, and no error counts it."""
    context, truth = torch.randn(5, 7, 2), torch.randn(5, 3, 2)
    truth[0, 1, 0] = torch.nan
    forecast, naive = truth + 0.5, truth.nan_to_num() - torch.tensor([1.0, 2.0])
    figures.forecasts(context, truth, forecast.nan_to_num(9.0), naive, ["a", "$b$"])
    axes = drawn[0].axes
    assert len(axes) == 8  # four windows, the first and the last among them
    assert [ax.get_ylabel() for ax in axes] == ["a", "$b$"] * 4
    assert axes[0].get_title() == "mae 0.5, naive 1"
    assert axes[7].get_title() == "mae 0.5, naive 2"
    lines = {line.get_label(): line for line in axes[0].lines}
    assert lines["context"].get_ydata().tolist() == pytest.approx(context[0, :, 0].tolist())
    assert lines["true"].get_ydata().tolist() == pytest.approx(
        torch.cat([context[0, -1:, 0], truth[0, :, 0]]).tolist(), nan_ok=True
    )
    assert lines["forecast"].get_xdata().tolist() == [0, 1, 2, 3]
    assert lines["forecast"].get_ydata()[2] == 9
    figures.forecasts(context[:1, :, :1], truth[:1, :, :1], truth[:1, :, :1], truth[:1, :, :1], ["a"])
    assert len(drawn[1].axes) == 1


def test_attention_maps(drawn: list[Any]) -> None:
    """Sources across, targets down, cells of one size, what is written readable in any script, colors of one scale."""
    torch.manual_seed(0)
    sources = [
        [*list("3 Mär\n"), "<end>"],
        ["ein", "Satz", "$x$", "_", "e", "\u0301"],
        list("abcdefghijklmnopqrstuvwxyz" * 2),
    ]
    targets = [list("2021"), ["a", "sentence", "猫" * 20], list("z") * 3]
    weights = [torch.rand(len(t), len(s)).softmax(dim=1) for s, t in zip(sources, targets, strict=True)]
    image = figures.attention_maps(weights, sources, targets, ["one", "$two$", "x" * 200])
    *panels, scale = drawn[0].axes
    for axes, part in zip(panels, weights, strict=True):
        (shown,) = axes.images
        assert np.array_equal(shown.get_array(), part.double().numpy())
        assert shown.get_clim() == (0, pytest.approx(max(w.max().item() for w in weights)))
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["3", "␣", "M", "ä", "r", "\\n", "<end>"]
    assert [label.get_rotation() for label in panels[0].get_xticklabels()] == [0] * 6 + [90]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == list("2021")
    assert [label.get_text() for label in panels[1].get_xticklabels()][-2:] == ["e", "\u25cc\u0301"]
    assert panels[1].get_yticklabels()[2].get_text().endswith("…")
    assert panels[0].yaxis_inverted()  # the first token of the target is on top
    boxes = [axes.get_window_extent() for axes in panels]
    cells = [(box.width / w.shape[1], box.height / w.shape[0]) for box, w in zip(boxes, weights, strict=True)]
    assert all(width == pytest.approx(height) == pytest.approx(cells[0][0]) for width, height in cells)
    assert boxes[0].y1 == pytest.approx(boxes[1].y1)  # beside each other, the long one below
    assert boxes[0].x1 < panels[1].get_tightbbox().x0
    assert boxes[2].width <= 9.01 * 120  # inches, however long a text is
    assert weights[0].max() < max(w.max() for w in weights)
    assert boxes[2].y1 < min(boxes[0].y0, boxes[1].y0)
    assert all(not one.overlaps(two) for one in boxes for two in [scale.get_window_extent()])
    assert texts(drawn[0])[:2] == ["one", "$two$"]
    x, y = (round(n) for n in panels[0].transData.transform((weights[0][0].argmax().item(), 0)))
    pixels = image[0, image.shape[1] - 1 - y, :]
    assert pixels[x] == pixels[round(boxes[0].x0) + 2 : round(boxes[0].x1) - 2].min()  # the darkest of its row


def test_attention_maps_of_long_texts(drawn: list[Any]) -> None:
    figures.attention_maps([torch.eye(120)[:101], torch.ones(1, 1)], [["a"] * 120, ["b"]], [["c"] * 101, ["d"]])
    first, second, _ = drawn[0].axes
    assert [label.get_text() for label in first.get_xticklabels()] == [str(n) for n in range(0, 120, 10)]
    assert [label.get_text() for label in second.get_xticklabels()] == ["b"]


def test_attention_that_fits_no_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the weights of example 2 must .* \(1, 2\), got \(2, 1\)"):
        figures.attention_maps([torch.ones(1, 1), torch.ones(2, 1)], [["a"], ["a", "b"]], [["a"], ["b"]])
    with pytest.raises(ValueError, match=r"nothing to draw"):
        figures.attention_maps([], [], [])

"""Checks of series: causality, padding, and going through them step by step. Axis 1 is time, of captions ``(B, R, T)`` the last."""

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.testing.frozen_draws import FrozenDraws
from zoo.testing.parts import (
    NotApplicable,
    batched,
    captions_of,
    cast,
    gap_of,
    inputs_of,
    is_series,
    lengths_of,
    loss_of,
    map_tensors,
    num_examples,
    outputs_of,
    series_of,
    size_of,
    stepwise_part,
    tensors_of,
)

_ADDED = 2  # padded steps


def check_causality(module: Any, batch: Any) -> None:
    """Outputs before a time do not see the input from that time on (``module.causal``), in float64."""
    module, batch = module.double().cpu(), cast(batch, torch.float64)
    inputs = inputs_of(module, batch)
    field = module.causal if isinstance(module.causal, str) else None
    parts: Any = inputs if field is None else getattr(inputs[0], field)
    captions = captions_of(inputs) is not None
    parts = _time_first(parts) if captions else parts
    length = min(lengths_of(parts))
    assert length > 1, f"causality needs series of two steps or more, got {length}"

    def outputs(inputs: Any) -> Tensor:
        made = outputs_of(module, *inputs)
        return series_of([_time_first(x) for x in made] if captions else made, length)

    before = outputs(inputs)
    for t in sorted({1, length // 2, length - 1} - {0}):
        changed = map_tensors(partial(_with_other_future, length=length, t=t), parts)
        changed = _time_first(changed) if captions else changed
        changed = changed if field is None else (inputs[0]._replace(**{field: changed}), *inputs[1:])
        after = outputs(changed)
        gap = gap_of(before[:, :t], after[:, :t])
        assert gap <= 1e-10 * size_of(before), (
            f"outputs before step {t} see the input from step {t} on: they change by {gap:.1e}"
        )


def _time_first(x: Tensor) -> Tensor:
    """Swap the axes of captions and of time: ``(B, R, T, ...)`` -> ``(B, T, R, ...)``, and back."""
    return x.transpose(1, 2) if x.ndim > 2 else x


def _with_other_future(x: Tensor, length: int, t: int) -> Tensor:
    """Each series of the length goes on as another one does: ``(B, T, ...)``."""
    if not is_series(x, {length}):
        return x
    changed = torch.cat([x[:, :t], x.roll(1, 0)[:, t:]], dim=1)
    assert not torch.equal(changed, x), (
        f"causality needs series that differ from step {t} on; all of the batch are equal"
    )
    return changed


def check_padding(module: Any, batch: Any) -> None:
    """Padded steps at the end of all series change neither outputs of real steps, nor the loss, nor a gradient, in float64.

    Nor do captions of padding alone, one more of each image.
    """
    module, batch = module.double().cpu(), cast(batch, torch.float64)
    inputs = inputs_of(module, batch)
    if len(tensors_of(inputs)) == 1 and tensors_of(inputs)[0].is_floating_point():
        raise NotApplicable("series of numbers without lengths are not padded: give a batch whose lengths differ")
    longer = _padded(module, batch)
    before, after = (outputs_of(module, *inputs_of(module, b)) for b in (batch, longer))
    for short, long in zip(before, after, strict=True):
        if captions_of(inputs) is not None:
            real = long[:, : short.shape[1], : short.shape[2]]  # (B, R, T, ...)
        else:
            real = long if long.shape == short.shape else long[:, : short.shape[1]]
        assert real.shape == short.shape, (
            f"{_ADDED} padded steps change the output's shape from {tuple(short.shape)} to {tuple(long.shape)}"
        )
        assert (gap := gap_of(short, real)) <= 1e-10 * size_of(short), (
            f"padding changes outputs of real steps by {gap:.1e}"
        )
    (loss, wanted), (padded_loss, got) = (_loss_and_gradients(module, b) for b in (batch, longer))
    assert gap_of(loss, padded_loss) <= 1e-10 * size_of(loss), (
        f"padding changes the loss from {loss:.6f} to {padded_loss:.6f}: it counts padded steps"
    )
    largest = max(gradient.abs().max().item() for gradient in wanted.values())
    for name, gradient in wanted.items():
        gap = gap_of(gradient, got[name])
        assert gap <= 1e-10 * largest, f"padding changes the gradient of {name} by {gap:.1e}"


def _padded(module: Any, batch: Any) -> Any:
    """A batch with longer series, which are all parts whose axis 1 is as long as that of one of the input's: padded input, padded
    targets of weight 0."""
    inputs, padding = inputs_of(module, batch), module.padding
    lengths, captions = lengths_of(inputs), captions_of(inputs)
    values = [padding, getattr(module, "target_padding", padding), 0]

    def longer(x: Tensor, value: float) -> Tensor:
        if captions is not None:
            return F.pad(x, (0, _ADDED, 0, 1), value=value) if x.shape == captions.shape else x
        if not is_series(x, lengths):
            return x
        return torch.cat([x, x.new_full((len(x), _ADDED, *x.shape[2:]), value)], dim=1)

    if type(batch) not in (tuple, list):
        return map_tensors(partial(longer, value=padding), batch)
    return type(batch)(map_tensors(partial(longer, value=values[min(i, 2)]), part) for i, part in enumerate(batch))


def _loss_and_gradients(module: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """In training mode; in evaluation mode if torch draws inside an operation, where nobody can freeze it."""
    module.train()
    module.zero_grad()
    with FrozenDraws(watch=True) as draws:
        loss = loss_of(module, batch)
    if draws.missed:
        module.eval()
        loss = loss_of(module, batch)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def _at(x: Tensor, lengths: set[int], t: int) -> Tensor:
    """One step of a series; what is no series, such as one number an example, as it is."""
    return x[:, t] if is_series(x, lengths) else x


def check_incremental(module: Any, batch: Any) -> None:
    """Going through a series step by step gives what the forward pass gives: to 1e-10 in float64, to 1e-5 in float32.

    A net that has ``encode`` goes through the targets of pairs, from what it gives for the sources, or through the captions of
    images, each from a copy of its image's state. If there is a ``reorder_state``, the rows that it gives go on as those that were
    asked for.
    """
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        twin = copy.deepcopy(module).cpu().to(dtype)
        x = inputs_of(twin, cast(batch, dtype))[0]
        owner = stepwise_part(twin)
        if owner is not twin and hasattr(twin, "standardize"):
            x = twin.standardize(x)
        outputs, captions = outputs_of(owner, x), captions_of((x,))
        count, pairs = num_examples(x), hasattr(owner, "encode")
        series = x.target if pairs and captions is None else x
        steps = []
        with torch.no_grad():
            if captions is not None:  # each is a row
                rows = torch.arange(count).repeat_interleave(captions.shape[1])
                state = owner.reorder_state(owner.encode(x.image), rows)
                series, outputs, count = captions.flatten(0, 1), [y.flatten(0, 1) for y in outputs], len(rows)
            else:
                state = owner.encode(x.source) if pairs else owner.init_state(count)
            lengths = lengths_of(series)
            length = min(lengths)
            wanted = series_of(outputs, length)
            for t in range(length):
                x_t = map_tensors(partial(_at, lengths=lengths, t=t), series)
                if t == length - 1 and hasattr(owner, "reorder_state"):
                    _check_reordering(owner, x_t, state, count, tolerance)
                output, state = owner.step(x_t, state)
                steps += [series_of([part.unsqueeze(1) for part in batched(output, count)], 1)]
        got = torch.cat(steps, dim=1)
        assert got.shape == wanted.shape, (
            f"step by step gives {tuple(got.shape)}, the forward pass {tuple(wanted.shape)} (examples, steps, numbers)"
        )
        gaps = (got - wanted).abs().flatten(2).amax(dim=(0, 2))
        wrong = (~(gaps <= tolerance * size_of(wanted))).nonzero().flatten().tolist()
        assert not wrong, (
            f"step {wrong[0]} differs from the forward pass by {gaps[wrong[0]].item():.1e} in {str(dtype).removeprefix('torch.')}"
        )


def _check_reordering(owner: Any, x_t: Any, state: Any, count: int, tolerance: float) -> None:
    """Rows that are repeated and left out go on as they would have."""
    index = torch.tensor([count - 1, 0, 0, 1 % count, count - 1])
    output, _ = owner.step(x_t, state)
    wanted = series_of([part.unsqueeze(1) for part in batched(output, count)], 1)[index]
    reordered = owner.reorder_state(state, index)
    output, _ = owner.step(map_tensors(lambda x: x[index] if len(x) == count else x, x_t), reordered)
    got = series_of([part.unsqueeze(1) for part in batched(output, len(index))], 1)
    assert (gap := gap_of(got, wanted)) <= tolerance * size_of(wanted), (
        "row n of reorder_state(state, index) does not go on as row index[n] of the state, which step must not change: outputs "
        f"differ by {gap:.1e}"
    )

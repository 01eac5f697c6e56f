"""Checks of the model on its first batches: loss, gradients, examples that see each other. Each is made of a copy."""

import copy
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from typing import cast as cast_to

import torch
from torch import Tensor, nn

from recipes.cli.check.rows import Row, not_applicable
from recipes.cli.check.start import Start
from zoo.testing import NotApplicable, check_gradients, check_independence, check_memorization
from zoo.testing.parts import cast, loss_of, num_examples, select

_SMALL = 8  # examples that are learned by heart
_RATES = (3e-3, 3e-2, 3e-4)  # of Adam, one after the other until one does it
_SECONDS = 15.0  # for learning by heart, and for the gradient check half of it
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_OUTWEIGHS = 10  # times the loss, that weight decay adds
_EPS = 1e-5  # of the central difference
_SMALLEST, _ROUNDING = 1e-4, 1e-6  # gradients below: a share of the largest one, and what float64 rounds away
_WRONG = 1e-3  # relative difference of a gradient that is wrong


def _seeded(function: Callable[[], Any]) -> Any:
    """Call a function with the same random numbers each time, and leave the generators as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return function()


def check_steps(start: Start) -> Row:
    """The first steps are made, and their loss is finite."""
    count = len(start.seconds)
    if start.error:
        cure = "lower the learning rate, clip gradients (trainer.gradient_clip_val), look at the row of the inputs"
        return Row("first steps", "fail", f"step {count + 1} fails: {start.error}", cure)
    if any(not math.isfinite(loss) for loss in start.losses):
        first = next(i for i, loss in enumerate(start.losses) if not math.isfinite(loss))
        cure = "lower the learning rate, clip gradients (trainer.gradient_clip_val), look at the row of the inputs"
        return Row("first steps", "fail", f"the loss of step {first + 1} is {start.losses[first]}", cure)
    losses = f", loss {start.losses[0]:.4g} -> {start.losses[-1]:.4g}" if start.losses else ""
    return Row("first steps", "pass", f"{count} made{losses}")


def _fresh_loss(start: Start) -> float:
    """Return the mean training loss of the fresh module on the first batches.

    Raises:
        NotApplicable: It gives no loss without a trainer.
    """
    twin, losses = start.twin(), list[float]()
    for batch in map(start.batch, range(len(start.batches))):
        try:
            losses.append(_seeded(partial(loss_of, twin, batch)).item())
        except ValueError:
            if losses:  # batches of one long text go on where the one before has ended, and the first one suffices
                break
            raise
    return sum(losses) / len(losses)


def check_initial_loss(start: Start) -> Row:
    """A fresh net knows nothing: its loss is that of guessing."""
    name = "initial loss"
    try:
        loss = _fresh_loss(start)
    except NotApplicable as reason:
        return not_applicable(name, str(reason))
    if not math.isfinite(loss):
        return Row(name, "fail", f"{loss}", "look at the row of the inputs, and at the initialization (model.init)")
    expected = start.module.expected_initial_loss() if hasattr(start.module, "expected_initial_loss") else None
    if start.loaded:
        return not_applicable(name, f"{loss:.4g}; the weights are loaded, so nothing tells what to expect")
    if not expected:
        return not_applicable(name, f"{loss:.4g}; a fresh net of this loss has no known value (expected_initial_loss)")
    ratio, more = loss / expected, {"loss": loss, "expected": expected}
    detail = f"{loss:.4g}, expected {expected:.4g}"
    if ratio > 3:
        cure = "a smaller initialization of the last layer (model.init), standardized inputs, labels in the right range"
        return Row(name, "fail", f"{detail}: a fresh net is sure of what is wrong", cure, more)
    if ratio > 1.5:
        cure = "a smaller initialization of the last layer (model.init), standardized inputs"
        return Row(name, "warn", f"{detail}: a fresh net is sure of what is wrong", cure, more)
    if ratio < 0.5:
        cure = "look whether the input holds the target, and at the class balance"
        return Row(name, "warn", f"{detail}: a fresh net cannot know that much", cure, more)
    return Row(name, "pass", detail, more=more)


def check_regularization(start: Start) -> Row:
    """What regularizes raises the loss, and does not outweigh it."""
    name = "regularization"
    try:
        loss = _fresh_loss(start)
        twin = start.twin()
        losses = getattr(twin, "penalized_losses", getattr(twin, "training_losses", None))
        means = {} if losses is None else _seeded(partial(losses, start.batch()))[1]
    except NotApplicable as reason:
        return not_applicable(name, str(reason))
    terms = {"weight decay": start.decay} if start.decay is not None else {}
    terms |= {key: float(value.detach()) for key, value in means.items() if key == "kl" or "penalty" in key}
    floor = float(start.module.loss_floor()) if hasattr(start.module, "loss_floor") else 0.0
    smooths = (getattr(start.module, "hparams", None) or {}).get("label_smoothing")
    terms |= {"label smoothing": floor} if smooths else {}
    if not terms:
        return not_applicable(name, "nothing adds to the loss: no weight decay, no penalty, no label smoothing")
    detail = ", ".join(f"{key} {value:+.3g}" for key, value in terms.items()) + f" to a loss of {loss:.4g}"
    if start.decay is not None and not start.decay_is_in_the_loss:
        detail += " (decay is decoupled: it shrinks the weights, not by way of the gradient)"
    if wrong := [key for key, value in terms.items() if not value >= 0]:
        return Row(name, "fail", detail, f"{wrong[0]} lowers the loss: a regularizer must be at least 0", terms)
    if start.decay_is_in_the_loss and terms.get("weight decay", 0.0) > _OUTWEIGHS * abs(loss):
        return Row(name, "warn", f"{detail}: weight decay outweighs the data", "lower model.weight_decay", terms)
    return Row(name, "pass", detail, more=terms)


class _OutOfTime(Exception):
    pass


def _without_dropout(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, _DROPOUTS):
            part.p = 0.0


def _watched(twin: Any, seconds: float) -> list[float]:
    """Let a module note its losses, and stop when the time is over."""
    method = "training_losses" if hasattr(twin, "training_losses") else "training_step"
    original, losses, end = getattr(twin, method), list[float](), time.monotonic() + seconds

    def noting(*args: Any, **kwargs: Any) -> Any:
        if time.monotonic() > end:
            raise _OutOfTime
        result = original(*args, **kwargs)
        loss = result[0] if method == "training_losses" else result
        loss = loss.get("loss") if isinstance(loss, dict) else loss
        losses.append(float(cast_to(Any, loss).detach()))
        return result

    vars(twin)[method] = noting
    return losses


def check_small_batch(start: Start, seconds: float = _SECONDS) -> Row:
    """A net that can learn anything learns a few examples by heart."""
    name = "small batch"
    module, batch = start.module, select(start.batch(), slice(_SMALL))
    if not getattr(module, "automatic_optimization", True):
        return not_applicable(name, "trained by hand, as by two nets against each other: no single loss that falls")
    count = num_examples(batch)
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    if trained < 10 * count:
        return not_applicable(name, f"{trained} trained numbers cannot learn {count} examples by heart")
    end, tried = time.monotonic() + seconds, list[str]()
    fell = known = False
    for rate in _RATES:
        twin = start.twin()
        _without_dropout(twin)
        losses = _watched(twin, end - time.monotonic())
        try:
            _seeded(partial(check_memorization, twin, batch, rate))
            return Row(
                name, "pass", f"{count} examples: loss {losses[0]:.4g} -> {losses[-1]:.3g} in {len(losses)} steps"
            )
        except NotApplicable as reason:
            return not_applicable(name, str(reason))
        except _OutOfTime:
            if losses:
                tried.append(f"{losses[0]:.4g} -> {losses[-1]:.3g} in {len(losses)} steps at a rate of {rate:g}")
                fell |= losses[-1] < 0.9 * losses[0]
            break
        except AssertionError:
            if losses[0] <= 1e-12:
                return not_applicable(name, "the loss of a fresh net is 0 already")
            tried.append(f"{losses[0]:.4g} -> {losses[-1]:.3g} in {len(losses)} steps at a rate of {rate:g}")
            fell |= losses[-1] < losses[0] - 0.02 * abs(losses[0])
    else:
        known = getattr(module, "expected_initial_loss", lambda: None)() is not None
    detail = f"{count} examples: loss {'; '.join(tried)}"
    cure = (
        "look whether inputs and targets belong together, at the loss, at parts that get no gradient; or widen the net"
    )
    if not tried:
        return not_applicable(name, f"a step takes too long for {seconds:g} s: try a smaller model or batch")
    if known:
        return Row(name, "fail", detail, cure)
    if not fell:
        return Row(name, "warn" if time.monotonic() > end else "fail", detail, cure)
    why = (
        f"the {seconds:g} s are over"
        if time.monotonic() > end
        else "this loss has no known lowest value, so 0 is not asked"
    )
    return not_applicable(name, f"{detail}: it falls; {why}")


def check_every_gradient(start: Start) -> Row:
    """Every trained parameter gets a gradient."""
    name, twin = "gradients", start.twin()
    trained = [key for key, p in twin.named_parameters() if p.requires_grad]
    if not trained:
        return Row(name, "fail", "no parameter is trained", "unfreeze a part: requires_grad_(True)")
    try:
        _seeded(lambda: check_gradients(twin, start.batch()))
    except NotApplicable as reason:
        return not_applicable(name, str(reason))
    except AssertionError as error:
        cure = "use it in the loss, or freeze it: requires_grad_(False); if not finite: standardize, lower the scale of its input"
        return Row(name, "fail", str(error), cure)
    dead = [key for key in _without_gradient(twin) if key in _without_gradient(_after_steps(start))]
    if dead:
        more = f" and {len(dead) - 1} more" if len(dead) > 1 else ""
        cure = "units that never answer (dead ReLU): another initialization, a lower bias, standardized inputs"
        return Row(
            name, "warn", f"the gradient of {dead[0]}{more} is exactly 0, also after 3 steps", cure, {"zero": dead}
        )
    return Row(name, "pass", f"all {len(trained)} trained parameters get one")


def _without_gradient(module: Any) -> list[str]:
    return [key for key, p in module.named_parameters() if p.requires_grad and p.grad is not None and not p.grad.any()]


def _after_steps(start: Start) -> Any:
    """Return a copy after three small steps, with gradients: a last layer that begins at 0 passes none in the first one."""
    twin = start.twin()
    optimizer = torch.optim.Adam([p for p in twin.parameters() if p.requires_grad], lr=1e-3)
    for step in range(4):
        optimizer.zero_grad()
        _seeded(lambda: loss_of(twin, start.batch()).backward())
        if step < 3:
            optimizer.step()
    return twin


def check_leak(start: Start) -> Row:
    """In evaluation no example sees another one of its batch."""
    name, batch = "leak across batch", start.batch()
    if num_examples(batch) < 2:
        return not_applicable(name, "a batch has one example")
    try:
        _seeded(lambda: check_independence(start.twin(), batch))
    except NotApplicable as reason:
        return not_applicable(name, str(reason))
    except AssertionError as error:
        if "no part of the output" in str(error):
            return not_applicable(name, str(error))
        cure = "an operation mixes axis 0: a view or mean over the wrong axis, a norm of the batch in evaluation"
        return Row(name, "fail", str(error), cure)
    return Row(name, "pass", "the output of an example is the same whatever the others are")


# Finite differences -----------------------------------------------------------------------------------------------------


def check_finite_differences(start: Start, seconds: float = _SECONDS / 2) -> Row:
    """The gradient is the derivative of the loss: central differences in float64 on a few examples."""
    name = "gradient check"
    if not getattr(start.module, "automatic_optimization", True):
        return not_applicable(name, "trained by hand: each of its losses moves a part of the parameters")
    try:
        twin = copy.deepcopy(start.module).cpu().double()
        batch = cast(select(start.batches[0], slice(4)), torch.float64)
        loss = lambda: _seeded(lambda: loss_of(twin, batch))  # noqa: E731
        first = loss()
        repeated = loss()
        if not torch.equal(first, repeated):
            first, repeated = loss(), loss()  # the first may set a state, such as an average
        if not torch.equal(first, repeated):
            return not_applicable(name, "the loss of the same batch differs from call to call")
        loss().backward()
    except NotApplicable as reason:
        return not_applicable(name, str(reason))
    except (RuntimeError, TypeError, ValueError) as error:
        return not_applicable(name, f"it does not run in float64 on four examples: {error}"[:200])
    named = [(key, p) for key, p in twin.named_parameters() if p.requires_grad and p.grad is not None]
    if not named:
        return not_applicable(name, "no parameter gets a gradient")
    scale = max(p.grad.abs().max().item() for _, p in named)
    order = torch.randperm(len(named), generator=torch.Generator().manual_seed(0)).tolist()
    end, errors = time.monotonic() + seconds, dict[str, float]()
    for i in order:
        key, parameter = named[i]
        errors[key] = _worst_error(parameter, loss, scale)
        if time.monotonic() > end:
            break
    worst = max(errors, key=lambda key: errors[key])
    of = f"{len(errors)} of {len(named)}" if len(errors) < len(named) else f"all {len(named)}"
    detail = f"{of} parameters, largest relative error {errors[worst]:.1e} in {worst}"
    more = {"worst": worst, "error": errors[worst]}
    if not errors[worst] <= _WRONG:
        cure = "the backward pass is not the loss's: a custom backward, a detach() or .data within the loss"
        return Row(name, "fail", detail, cure, more)
    return Row(name, "pass", detail, more=more)


def _worst_error(parameter: Tensor, loss: Callable[[], Tensor], scale: float) -> float:
    """Return the relative error of a parameter's largest gradient, and of one that is drawn."""
    gradient = parameter.grad
    assert gradient is not None
    drawn = int(torch.randint(parameter.numel(), (), generator=torch.Generator().manual_seed(0)))
    worst = 0.0
    for index in {int(gradient.abs().argmax()), drawn}:
        where = torch.unravel_index(torch.tensor(index), parameter.shape)
        error = math.inf
        for eps in (
            _EPS,
            _EPS / 10,
            _EPS / 100,
        ):  # a kink between two points (ReLU, max pooling) goes away, a bug stays
            error = min(error, _error(parameter, where, loss, gradient[where].item(), scale, eps))
            if error <= _WRONG:
                break
        worst = max(worst, error)
    return worst


def _error(
    parameter: Tensor, where: Any, loss: Callable[[], Tensor], analytic: float, scale: float, eps: float
) -> float:
    value, losses = parameter[where].item(), []
    for point in (value + eps, value - eps, value):
        with torch.no_grad():
            parameter[where] = point
        losses.append(loss().item() if point != value else 0.0)
    numeric = (losses[0] - losses[1]) / (2 * eps)
    return abs(numeric - analytic) / max(abs(numeric), abs(analytic), _SMALLEST * scale, _ROUNDING)

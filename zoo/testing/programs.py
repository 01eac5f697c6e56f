"""Checks of what PyTorch makes of a module: an exported program, and a compiled module."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from zoo.internals import reset_compiler
from zoo.testing.parts import (
    NotApplicable,
    batched,
    captions_of,
    gap_of,
    inputs_of,
    is_series,
    lengths_of,
    map_tensors,
    num_examples,
    outputs_of,
    row_of,
    select,
)


def check_export(module: Any, batch: Any, tolerance: float = 1e-5) -> None:
    """``torch.export`` with a dynamic batch: equal outputs at two batch sizes."""
    inputs = inputs_of(module, batch)
    cases = {f"batch size {num_examples(inputs)}": inputs, "batch size 3": select(inputs, slice(3))}
    _check_program(module, cases, set(), tolerance)


def check_export_length(module: Any, batch: Any, tolerance: float = 1e-5) -> None:
    """``torch.export`` of series with a dynamic batch and length: equal outputs at two lengths; of captions at two numbers, too.

    Raises:
        NotApplicable: A layer whose length torch.export fixes.
    """
    recurrent = next((type(m).__name__ for m in module.modules() if isinstance(m, nn.RNNBase)), None)
    if recurrent is not None:
        raise NotApplicable(f"torch.export unrolls nn.{recurrent} over the time steps of its example")
    inputs = inputs_of(module, batch)
    if (captions := captions_of(inputs)) is not None:
        length = captions.shape[2]
        assert length > 2, f"lengths are compared of captions of 3 tokens or more, got {length}"
        cases = {f"length {length}": inputs}
        for name, part in ((f"length {length - 1}", captions[..., :-1]), ("one caption an image", captions[:, :1])):
            cases[name] = (inputs[0]._replace(caption=part), *inputs[1:])
        _check_program(module, cases, set(), tolerance)
        return
    lengths = lengths_of(inputs)
    assert min(lengths) > 2, f"lengths are compared of series of 3 steps or more, got {min(lengths)}"
    shorter = map_tensors(lambda x: _shorter(x, lengths), inputs)
    cases = {f"length {min(lengths)}": inputs, f"length {min(lengths) - 1}": shorter}
    _check_program(module, cases, lengths, tolerance)


def _check_program(module: Any, cases: dict[str, Any], lengths: set[int], tolerance: float) -> None:
    """Export with the first of several inputs, and compare the outputs of all."""
    wanted = {name: row_of(outputs_of(module, *inputs)) for name, inputs in cases.items()}
    auto, example = torch.export.Dim.AUTO, next(iter(cases.values()))
    dynamic: Any = map_tensors(lambda x: {0: auto, 1: auto} if is_series(x, lengths) else {0: auto}, example)
    if captions_of(example) is not None:
        dynamic = (dynamic[0]._replace(caption=dict.fromkeys(range(3), auto)), *dynamic[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, example, dynamic_shapes=dynamic).module()
    for name, inputs in cases.items():
        try:
            got = row_of(batched(program(*inputs), num_examples(inputs)))
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"the exported program does not take {name}: {error}") from error
        assert got.shape == wanted[name].shape, f"the exported program gives another shape at {name}"
        assert (gap := gap_of(got, wanted[name])) <= tolerance, f"the exported program differs by {gap:.1e} at {name}"


def _shorter(x: Tensor, lengths: set[int]) -> Tensor:
    """A series without its last step; numbers of steps ``(B,)`` that are then too large, lowered."""
    if is_series(x, lengths):
        return x[:, :-1]
    return x.clamp(max=max(lengths) - 1) if x.ndim == 1 and not x.is_floating_point() else x


def check_compile(module: Any, batch: Any) -> None:
    """Compiling in place changes neither keys nor outputs (the eager backend: what is checked is the capture, not the code)."""
    inputs = inputs_of(module, batch)
    keys, wanted = list(module.state_dict()), row_of(outputs_of(module, *inputs))
    net = getattr(module, "net", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (net if isinstance(net, nn.Module) else module).compile(backend="eager")
        got = row_of(outputs_of(module, *inputs))
    reset_compiler()
    assert list(module.state_dict()) == keys, "compiling in place changed the state-dict keys"
    assert gap_of(got, wanted) <= 1e-5, "the compiled net has other outputs"

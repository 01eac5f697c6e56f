"""Loading a state dict, and a report of what became of each tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from zoo.internals import own_tensors


@dataclass
class LoadReport:
    """What became of each tensor, by state-dict key.

    Attributes:
        loaded: Loaded as they are.
        adapted: Loaded with a changed shape (a first convolution for another number of image channels).
        reinitialized: In the file with a shape that does not fit; they keep the fresh values of the module.
        missing: In the module, not in the file; they keep the fresh values of the module.
        unexpected: In the file, not in the module.
    """

    loaded: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    reinitialized: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all tensors of the file and of the module were loaded as they are."""
        return not (self.adapted or self.reinitialized or self.missing or self.unexpected)

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded"]
        for name in ("adapted", "reinitialized", "missing", "unexpected"):
            keys = getattr(self, name)
            if keys:
                more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
                lines.append(f"{name}: {', '.join(keys[:5])}{more}")
        return "; ".join(lines)


def load_weights(
    module: nn.Module, state: Mapping[str, Tensor], strict: bool = True, assign: bool = False
) -> LoadReport:
    """Load a state dict into a module, and report what became of each tensor.

    Args:
        module: Receives the weights; it is not changed if an error is raised.
        state: Tensors by key.
        strict: Whether everything must be loaded as it is.
        assign: Whether the tensors themselves are taken, not copied, as a module on the meta device needs.

    Raises:
        ValueError: With ``strict``, a tensor is missing, unexpected, or of another shape; or no tensor fits.
    """
    wanted = module.state_dict()
    report, taken = compare(wanted, state, tied(module))
    if strict and not report.complete:
        shapes = [
            f"{k} is {tuple(state[k].shape)}, wanted {tuple(wanted[k].shape)}"
            for k in report.adapted + report.reinitialized
        ]
        detail = f" ({'; '.join(shapes[:3])})" if shapes else ""
        raise ValueError(
            f"the weights do not fit {type(module).__name__}: {report}{detail}; strict=False takes what fits and reports the rest"
        )
    if not taken:
        raise ValueError(
            f"no tensor of the file fits {type(module).__name__} ({report}): give weights of this architecture"
        )
    put(module, taken, assign)
    return report


def compare(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], tied: list[list[str]]
) -> tuple[LoadReport, dict[str, Tensor]]:
    """Return what would become of each tensor, and the tensors to load.

    Args:
        wanted: State dict of the module.
        state: Tensors by key.
        tied: Groups of names of one parameter of the module; the file may hold it under any of them.
    """
    twins = {name: group for group in tied for name in group}
    report, taken = LoadReport(), {}
    for key, target in wanted.items():
        if key not in state:
            if not any(twin in state for twin in twins.get(key, [])):
                report.missing.append(key)
        elif state[key].shape == target.shape:
            report.loaded.append(key)
            taken[key] = state[key]
        elif (adapted := _other_channels(state[key], target)) is not None:
            report.adapted.append(key)
            taken[key] = adapted
        else:
            report.reinitialized.append(key)
    report.unexpected = [key for key in state if key not in wanted]
    return report, taken


def tied(module: nn.Module) -> list[list[str]]:
    """Return the names of each parameter that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def put(module: nn.Module, state: Mapping[str, Tensor], assign: bool) -> None:
    """Load tensors that fit. Ties are kept; what stays on the meta device is drawn by its module's ``reset_parameters``.

    Args:
        module: Receives the tensors.
        state: Tensors by key.
        assign: Whether the tensors themselves are taken, not copied.

    Raises:
        ValueError: A tensor is on the meta device and not in ``state``, and its module has no ``reset_parameters``.
    """
    groups = tied(module)
    if assign:  # in the precision of the module
        dtypes = {name: t.dtype for name, t in module.state_dict().items()}
        state = {name: t.to(dtypes[name]) for name, t in state.items()}
    module.load_state_dict(state, strict=False, assign=assign)
    _tie(module, groups, state)
    for name, part in module.named_modules():
        own = own_tensors(part)
        if not any(t.is_meta for t in own.values()):
            continue
        if not hasattr(part, "reset_parameters"):
            raise ValueError(
                f"the weights have no {next(k for k, t in own.items() if t.is_meta)!r} of {name or 'the model'} "
                f"({type(part).__name__}), which has no reset_parameters() to draw it: give weights that have it, or define that "
                "method"
            )
        kept = {k: t.detach() for k, t in own.items() if not t.is_meta}
        part.to_empty(device="cpu", recurse=False)
        part.reset_parameters()
        for k, t in kept.items():
            getattr(part, k).data = t
    _tie(module, groups, state)


def _tie(module: nn.Module, groups: list[list[str]], state: Mapping[str, Tensor]) -> None:
    """Tie the parameters of each group again, to the one that was loaded."""
    for names in groups:
        first = module.get_parameter(next((name for name in names if name in state), names[0]))
        for name in names:
            path, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(path), leaf, first)


def _other_channels(weight: Tensor, target: Tensor) -> Tensor | None:
    """Adapt the weight of a convolution to another number of image channels; None if it is no first convolution.

    The result is the mean over the channels, scaled so that the response to gray images stays the same. A first convolution has,
    before or after, at most four channels.
    """
    if (
        weight.ndim != 4
        or target.ndim != 4
        or weight.shape[0] != target.shape[0]
        or weight.shape[2:] != target.shape[2:]
    ):
        return None
    old, new = weight.shape[1], target.shape[1]
    if min(old, new) > 4 or max(old, new) > 16:
        return None
    mean = weight.float().mean(dim=1, keepdim=True) * (old / new)
    return mean.expand(-1, new, -1, -1).to(weight.dtype).contiguous()

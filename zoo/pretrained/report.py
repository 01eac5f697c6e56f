"""Loading a state dict, and the report of what became of every tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from zoo.internals import own_tensors


@dataclass
class LoadReport:
    """What became of every tensor, by its state-dict key.

    Attributes:
        loaded: taken as they are.
        adapted: taken with a changed shape (a first convolution for another number of image channels).
        reinitialized: in the file, but with a shape that does not fit: they keep the module's fresh values.
        missing: wanted by the module, not in the file: they keep the module's fresh values.
        unexpected: in the file, not wanted by the module.
    """

    loaded: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    reinitialized: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every tensor of both sides was loaded as it is."""
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
    """Load a state dict into a module and tell what became of every tensor.

    Args:
        module: receives the weights; unchanged if the load is refused.
        state: tensors by key.
        strict: refuse everything but a complete load.
        assign: take the tensors themselves in place of copying them (a module built on the meta device needs it).

    Returns:
        The report.

    Raises:
        ValueError: ``strict``, and a tensor is missing, unexpected, or of another shape; or nothing fits at all.
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
        raise ValueError(f"no tensor of the file fits {type(module).__name__}: {report}")
    put(module, taken, assign)
    return report


def compare(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], tied: list[list[str]]
) -> tuple[LoadReport, dict[str, Tensor]]:
    """What would become of every tensor, and those to load, nothing done yet.

    Args:
        wanted: a module's state dict.
        state: tensors by key.
        tied: names of one and the same parameter of the module: the file may hold it under one of them.
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
    """The names of each parameter that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def put(module: nn.Module, state: Mapping[str, Tensor], assign: bool) -> None:
    """Load tensors that fit, by copying or by taking themselves; ties hold, and nothing stays on the meta device.

    Raises:
        ValueError: a tensor is not in ``state``, is on the meta device, and its module cannot draw it (``reset_parameters``).
    """
    groups = tied(module)
    if assign:  # the module's precision, not the file's
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
                f"{name} ({type(part).__name__}) lacks weights and has no reset_parameters to draw them by"
            )
        kept = {k: t.detach() for k, t in own.items() if not t.is_meta}
        part.to_empty(device="cpu", recurse=False)
        part.reset_parameters()
        for k, t in kept.items():
            getattr(part, k).data = t
    _tie(module, groups, state)


def _tie(module: nn.Module, groups: list[list[str]], state: Mapping[str, Tensor]) -> None:
    """Make the parameters of each group one again: the one that was loaded."""
    for names in groups:
        first = module.get_parameter(next((name for name in names if name in state), names[0]))
        for name in names:
            path, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(path), leaf, first)


def _other_channels(weight: Tensor, target: Tensor) -> Tensor | None:
    """A convolution's weight for another number of image channels: the channels' mean, scaled to keep the response to grey.

    Only a first convolution is adapted, that is one that sees (or saw) at most four channels.
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

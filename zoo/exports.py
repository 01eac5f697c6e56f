"""A trained model as a file for other programs: ONNX, a program of ``torch.export``, or its tensors."""

import importlib.util
import inspect
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zoo.blocks.modes import evaluating
from zoo.internals import sizes_of_one_are_sizes, tree_flatten, tree_leaves, tree_map, tree_unflatten
from zoo.model import Model
from zoo.registry import name_of
from zoo.spelling import suggest
from zoo.version import zoo_version
from zoo.writing import replacing

Format = Literal["onnx", "torch-export", "safetensors"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}
_ONNX_LIMIT = 2**31 - 2**20  # bytes of weights: protobuf reads no more than 2 GiB
_Outputs = list[Tensor]


def export(model: Model, path: str | Path, format: Format | None = None) -> Path:
    """Write a model as one file that needs no lightning-zoo: a graph with everything in it, or its tensors.

    - "onnx" (``.onnx``), for onnxruntime and others; wants ``pip install 'lightning-zoo[export]'``. Names of inputs and outputs
      are in the file, all else that is known of them in its ``metadata_props``.
    - "torch-export" (``.pt2``): ``torch.export.load(path).module()`` needs torch alone. The metadata are the extra file
      ``metadata.json``.
    - "safetensors": exactly ``state_dict()``, with metadata and hyperparameters; ``weights=`` takes it.

    A graph takes what the model takes, in units of the data (images: floats in [0, 1]; columns as they are, encoded as the
    metadata's ``preparation`` tells): standardization is in it. It gives :meth:`Model.outputs`: probabilities of classes,
    predictions in the target's own unit, reconstructions or samples in units of the data. The size of the batch is free, and of
    segmenters height and width are, too. Before the file takes its place, its outputs are compared with the model's at two batch
    sizes, and of segmenters at two image sizes.

    Args:
        model: Any model, with or without a trainer; it is left as it is.
        path: The file, which is replaced if it exists; its folder is created.
        format: Its format; None: by the suffix.

    Returns:
        The path.

    Raises:
        ValueError: An unknown format or suffix, a model that cannot be exported (the message says why), or outputs that differ;
            no file is written.
        ImportError: What ONNX needs is not installed.

    Example:
        >>> import tempfile, zoo
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = export(zoo.create_model("lenet5"), f"{folder}/lenet5.pt2")
        ...     torch.export.load(path).module()(torch.rand(3, 1, 32, 32))["probabilities"].shape
        torch.Size([3, 10])
    """
    path = Path(path)
    kind = check_format(path, format)
    if kind == "onnx":
        _check_onnx(model)
    if model.mean.device.type != "cpu":
        model = deepcopy(model).to("cpu")
    with evaluating(model):
        if kind == "safetensors":
            _write_tensors(model, path)
        else:
            _write_graph(model, path, kind)
    return path


def check_format(path: Path, format: Format | None) -> Format:
    """Return the format of a file: the one that is given, or that of its suffix.

    Raises:
        ValueError: There is no such format, the suffix stands for none or for another one, or the path is a folder.
    """
    if format is not None and format not in SUFFIXES:
        raise ValueError(f"format must be one of {', '.join(SUFFIXES)}, got {format!r}{suggest(format, SUFFIXES)}")
    if path.is_dir():
        example = path / f"model{SUFFIXES[format or 'onnx']}"
        raise ValueError(f"{path} is a folder: give the name of a file, such as {example}")
    by_suffix = next((kind for kind, suffix in SUFFIXES.items() if path.suffix.lower() == suffix), None)
    if (kind := format or by_suffix) is None or by_suffix not in (None, kind):
        known = ", ".join(f"{suffix} ({kind})" for kind, suffix in SUFFIXES.items() if format in (None, kind))
        raise ValueError(f"{path} is not the name of a file of {format or 'a known format'}: let it end in {known}")
    return kind


def _check_onnx(model: Model) -> None:
    """Refuse what is known to fail before anything is computed."""
    if missing := [n for n in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(n) is None]:
        raise ImportError(f"ONNX needs {', '.join(missing)}: pip install 'lightning-zoo[export]'")
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if size > _ONNX_LIMIT:
        raise ValueError(
            f"an ONNX file holds 2 GiB, and the weights of this {type(model.net).__name__} are {size / 2**30:.1f} GiB: take the "
            "format torch-export, which has no limit"
        )


# Tensors ------------------------------------------------------------------------------------------------------------


def _write_tensors(model: Model, path: Path) -> None:
    # each name of a shared tensor has a copy of its own: safetensors refuses shared memory
    tensors = {k: t.detach().contiguous().clone() for k, t in model.state_dict().items()}
    metadata = {"format": "pt", **_as_text({**_about(model), "hparams": dict(model.hparams)})}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
        written = load_file(temporary)
        if wrong := [k for k, t in tensors.items() if not torch.equal(_bytes(written[k]), _bytes(t))]:
            raise ValueError(f"{path} would not hold what the model does, {wrong[0]} differs: write it to another disk")
        del written  # it is mapped from the file, which Windows would not replace


def _bytes(t: Tensor) -> Tensor:
    return t.reshape(-1).view(torch.uint8)  # nan is equal to itself


# Graphs -------------------------------------------------------------------------------------------------------------


class _Graph(nn.Module):
    """What is traced: the model's outputs, for the tensors that its input is made of, each by itself."""

    def __init__(self, model: Model, example: tuple[Any, ...]) -> None:
        super().__init__()
        self.model, self.parts = model, tree_flatten(example)[1]

    def forward(self, *tensors: Any) -> dict[str, Any]:
        return self.model.outputs(*tree_unflatten(tensors, self.parts))


def _write_graph(model: Model, path: Path, kind: str) -> None:
    cases, wanted, dense = _cases(model), {}, _is_dense(model)
    for name, inputs in cases.items():
        wanted[name], again = (_tensors(model.outputs(*inputs)) for _ in range(2))
        if not all(torch.equal(a, b) for a, b in zip(wanted[name], again, strict=True)):
            raise ValueError(
                f"{type(model).__name__} cannot be exported: its outputs for one input differ from time to time, or are nan"
            )
    example = _inputs(model, 2)
    names = _names(model, example), list(_named(model.outputs(*example)))
    axes = tuple(_axes(model, x) for x in _tensors(example))
    metadata = {**_about(model), "inputs": _describe(model, names[0], example)}
    metadata["outputs"] = [{"name": name, "meaning": model.output_meaning} for name in names[1]]
    program = _traced(model, _inputs(model, 2, tuple(2 * n for n in model.example_shape[1:])) if dense else example)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        if kind == "onnx":
            run = _write_onnx(model, program, temporary, names, axes, metadata)
        else:
            run = _write_program(program, temporary, metadata)
        _compare(run, cases, wanted, f"{type(model).__name__} as {kind}")


def _traced(model: Model, example: tuple[Any, ...]) -> Any:
    auto = torch.export.Dim.AUTO
    graph, tensors = _Graph(model, example), tuple(tree_leaves(example))
    dynamic = tuple(dict.fromkeys(_axes(model, x), auto) for x in tensors)
    with _quiet(), _explaining(model, "exported"):
        if _is_dense(model):  # a small image leaves maps of one cell
            with suppress(Exception), sizes_of_one_are_sizes():  # of few nets torch cannot solve the sizes so
                return torch.export.export(graph, tensors, dynamic_shapes=(dynamic,))
        return torch.export.export(graph, tensors, dynamic_shapes=(dynamic,))


def _write_program(program: Any, path: Path, metadata: dict[str, Any]) -> Callable[..., _Outputs]:
    with _quiet():
        with path.open("wb") as file:
            torch.export.save(program, file, extra_files={"metadata.json": json.dumps(metadata, ensure_ascii=False)})
        with path.open("rb") as file:
            module = torch.export.load(file).module()
    return lambda *inputs: _tensors(module(*tree_leaves(inputs)))


def _write_onnx(
    model: Model,
    program: Any,
    path: Path,
    names: tuple[list[str], list[str]],
    axes: tuple[dict[int, str], ...],
    metadata: dict[str, Any],
) -> Callable[..., _Outputs]:
    import onnxruntime

    with _quiet(), _explaining(model, "written as ONNX"):
        written: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=names[0],
            output_names=names[1],
            dynamic_shapes=axes,
        )
    written.model.metadata_props.update(_as_text(metadata))
    with _quiet():
        written.save(path, external_data=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    taken = {node.name for node in session.get_inputs()}

    def run(*inputs: Any) -> _Outputs:
        arrays = zip(names[0], (x.numpy() for x in _tensors(inputs)), strict=True)
        return [torch.as_tensor(y) for y in session.run(None, {name: x for name, x in arrays if name in taken})]

    return run


def _compare(run: Callable[..., _Outputs], cases: dict[str, Any], wanted: dict[str, _Outputs], what: str) -> None:
    """Compare a file's outputs with the model's."""
    for name, inputs in cases.items():
        try:
            outputs = run(*inputs)
        except Exception as error:  # of another library
            raise ValueError(f"{what} does not take {name}: {_first_line(error)}") from error
        for i, (got, right) in enumerate(zip(outputs, wanted[name], strict=True)):
            if got.shape != right.shape:
                raise ValueError(f"{what} gives {tuple(got.shape)} at {name}, the model {tuple(right.shape)}")
            gaps = (_columns(got) - _columns(right)).abs().amax(dim=0)
            wrong = ~(gaps <= _tolerances([outputs[i] for outputs in wanted.values()]))
            if wrong.any():
                raise ValueError(f"{what} differs from the model by {float(gaps[wrong].max()):.2g} at {name}")


def _columns(y: Tensor) -> Tensor:
    """Numbers by output or channel, which may have different units: ``(B, K, ...)`` -> ``(N, K)``."""
    return (y.movedim(1, -1).flatten(0, -2) if y.ndim > 1 else y.unsqueeze(1)).double()


def _tolerances(parts: _Outputs) -> Tensor:
    """Largest differences of each column: a share of its spread, the last digits of its type; of probabilities, 1e-5."""
    columns = torch.cat([_columns(y) for y in parts])  # (N, K)
    spread, size = columns.amax(dim=0) - columns.amin(dim=0), columns.abs().amax(dim=0)
    precision = torch.finfo(parts[0].dtype).eps if parts[0].is_floating_point() else 0.0
    within = bool((columns >= 0).all() and (columns <= 1).all())
    return 1e-4 * spread + 16 * precision * size + (1e-5 * size.max() if within else 0.0)


# Inputs and outputs ---------------------------------------------------------------------------------------------------


def _is_dense(model: Model) -> bool:
    return model.makes == "mask"


def _axes(model: Model, x: Tensor) -> dict[int, str]:
    """Names of the axes that have no fixed size."""
    return {0: "batch", 2: "height", 3: "width"} if _is_dense(model) and x.ndim == 4 else {0: "batch"}


def _cases(model: Model) -> dict[str, tuple[Any, ...]]:
    """Inputs of two batch sizes, and for dense nets of two image sizes."""
    cases = {"batch size 1": _inputs(model, 1), "batch size 3": _inputs(model, 3)}
    if _is_dense(model):
        height, width = (side + side // share + 1 for side, share in zip(model.example_shape[1:], (2, 4), strict=True))
        cases[f"images of {height}x{width}"] = _inputs(model, 2, (height, width))
    return cases


def _inputs(model: Model, batch_size: int, size: tuple[int, ...] | None = None) -> tuple[Any, ...]:
    """Random inputs of the form of ``example_inputs``: floats in [0, 1], columns up to a deviation above their mean."""
    generator = torch.Generator().manual_seed(batch_size)

    def fill(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if not x.is_floating_point():  # classes or tokens; lengths stay
            sizes = (model.num_classes, model.vocab_size, model.source_vocab_size)
            drawn = torch.randint(min((n for n in sizes if n), default=1), x.shape, generator=generator).to(x.dtype)
            if x.ndim == (2 if model.reads == "text" else 3) and "text" in (model.reads, model.makes):
                padding = getattr(model, "padding", None)
                return (
                    drawn if padding is None else x.where(drawn == padding, drawn)
                )  # the example's token pads nothing
            return x if x.any() else drawn
        shape = (*x.shape[:2], *size) if size is not None and x.ndim == 4 else x.shape
        return torch.rand(shape, generator=generator, dtype=torch.promote_types(x.dtype, model.mean.dtype))

    first, *rest = tree_map(fill, model.example_inputs(batch_size))
    rows = {"row": 2, "series": 3}.get(model.reads or "")  # axes of columns in units of the data
    if isinstance(first, Tensor) and first.ndim == rows and first.shape[-1] == model.mean.numel():
        first = first * model.std + model.mean
    return first, *rest


def _named(outputs: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors by name; of a part of several tensors they are numbered."""
    named: dict[str, Tensor] = {}
    for name, part in outputs.items():
        tensors = _tensors(part)
        named |= {name: tensors[0]} if len(tensors) == 1 else {f"{name}_{i}": t for i, t in enumerate(tensors)}
    return named


def _tensors(value: Any) -> _Outputs:
    return [x for x in tree_leaves(value) if isinstance(x, Tensor)]


def _names(model: Model, example: tuple[Any, ...]) -> list[str]:
    """Names of all input tensors: those of the arguments of ``forward``, or of the fields of a NamedTuple."""
    names: list[str] = []
    for argument, part in zip(inspect.signature(model.forward).parameters, example, strict=False):
        names += getattr(part, "_fields", None) or _named({argument: part})
    return names


def _describe(model: Model, names: list[str], example: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Name, type, shape and meaning of each input."""
    described = []
    for name, x in zip(names, _tensors(example), strict=True):
        axes = _axes(model, x)
        shape = [axes.get(i, n) for i, n in enumerate(x.shape)]
        described.append({"name": name, "dtype": str(x.dtype).removeprefix("torch."), "shape": shape})
        described[-1]["meaning"] = _meaning(model, name, x)
    return described


def _meaning(model: Model, name: str, x: Tensor) -> str:
    if name == "z":
        return "noise, standard normal"
    if name == "y" and not x.is_floating_point():
        return f"the class of each example, 0..{(model.num_classes or 1) - 1}"
    if x.is_floating_point() and x.ndim == 4:
        return f"{ {1: 'gray ', 3: 'RGB '}.get(x.shape[1], '') }images, values in [0, 1], not standardized"
    return "columns in units of the data, not standardized" if x.is_floating_point() else "numbers of tokens or classes"


# Metadata and messages ------------------------------------------------------------------------------------------------


def _about(model: Model) -> dict[str, Any]:
    return {
        "model": name_of(model) or type(model).__name__,
        "written_by": f"lightning-zoo {zoo_version()}, torch {torch.__version__}",
        **model.data_description(),
    }


def _as_text(metadata: dict[str, Any]) -> dict[str, str]:
    """Texts as they are, all else as JSON."""
    return {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in metadata.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back the warnings and the log of torch's exporters: what matters is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _explaining(model: Model, what: str) -> Iterator[None]:
    """Turn what torch raises into one line that says why."""
    try:
        yield
    except Exception as error:  # of many types, most of them private
        inner: BaseException = error
        while (cause := inner.__cause__ or inner.__context__) is not None:
            inner = cause
        reason = _first_line(inner)
        if match := re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(inner)):
            reason = f"ONNX has nothing for torch's {match[1]}; the format torch-export has"
        elif type(inner).__module__.startswith("sympy"):  # such as pooling that rounds up
            reason = f"torch.export cannot follow the sizes of its maps for images of any size ({reason})"
        elif "data-dependent" in str(inner):
            reason = f"its forward pass depends on the values of its input, and a graph has no branches ({reason})"
        raise ValueError(f"{type(model).__name__} cannot be {what}: {reason}") from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

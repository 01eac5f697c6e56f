"""``zoo sample``: samples of a generative model, as a picture, as rows of numbers, or as texts that appear as they are written."""

import argparse
import csv
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from recipes.cli.console import Console, NoCaches, captured_logs
from recipes.cli.errors import INTERRUPTED, OK, UserError
from recipes.cli.run.options import Parser
from recipes.cli.verbs.named_model import MODEL_HELP, find_model, load_model
from recipes.cli.verbs.predict import read_images
from zoo.spelling import suggest

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Model

HELP = f"""zoo sample MODEL [options]: sample from a generative model: a grid of images, points, rows of numbers, or texts.

  MODEL               {MODEL_HELP}
  -n, --count N       number of samples (default: 64, of texts that appear as they are written 1)
  -o, --output FILE   a PNG file, a CSV file for models of tables, or a text file for models that make texts
                      (default: samples.png, samples.csv, samples.txt)
  --label K           class of all samples for a conditional model: its name or index (default: all classes in turn)
  --seed S            seed of the noise (default: 0)
  --latent-grid [N]   instead: decode a grid of two-dimensional codes, N x N images (default: 16)
  --interpolate A B   instead: decode N codes on the line between those of two images (default: 8)
  --OPTION VALUE      an option of the model's own: `zoo sample MODEL --help` lists them
  --debug             show the traceback of any error

Of a language model:
  --prompt TEXT       what the texts begin with
  --tokens N          the most tokens (characters, say) that follow it (default: 200, or what the model can still read)
  --temperature T     above 0: below 1 what is probable becomes more probable
  --top-k K           draw from the K most probable tokens alone
  --top-p P           draw from the fewest tokens whose probabilities reach P together, in (0, 1]
  --min-p P           draw from tokens at least P times as probable as the most probable one, in [0, 1)
Without -o a text appears as it is written; Ctrl-C ends it, and what is there is kept.

Examples:
  zoo sample runs/gan/dcgan_digits/version_0 -n 100 -o digits.png
  zoo sample runs/autoencoder/vae2_digits/version_0 --latent-grid
  zoo sample best.ckpt --interpolate three.png eight.png -n 12
  zoo sample best.ckpt --prompt "It was" --temperature 0.8 --top-k 40 -n 5 --tokens 300
"""


def run(args: list[str]) -> int:
    """Run the verb ``sample``."""
    parser = Parser("zoo sample")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("-n", "--count", type=int)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path)
    parser.add_argument("--label")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latent-grid", nargs="?", type=int, const=16, metavar="N")
    parser.add_argument("--interpolate", nargs=2, type=Path, metavar=("A", "B"))
    options, own = parser.parse_known_args(args)
    options.own = own  # for the model to parse
    _check(options)
    word = find_model(options.model)
    with NoCaches():
        import lightning.pytorch  # noqa: F401 (sets up its log, which is captured from then on)
    with captured_logs(Console()):
        model = load_model(word)
        if model.samples in ("text", "episode"):
            return _texts(model, options)
        samples, columns = _samples(model, options)
    path = _write(model, samples, columns, options.output)
    kind = "images" if samples.ndim == 4 else "points" if path.suffix == ".png" else "rows"
    print(f"{path}: {len(samples)} {kind} from {type(model).__name__}")
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.latent_grid is not None and options.interpolate is not None:
        raise UserError("--latent-grid and --interpolate exclude each other: give one of them")
    if options.latent_grid is not None and options.latent_grid < 2:
        raise UserError(f"--latent-grid N must be 2 or more, got {options.latent_grid}")
    if options.latent_grid is not None and options.count is not None:
        raise UserError("--latent-grid N draws N x N images: leave -n out")
    least = 2 if options.interpolate else 1
    if options.count is not None and options.count < least:
        raise UserError(f"-n must be {least} or more, got {options.count}")
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed must be an integer in 0..2**63-1, got {options.seed}")
    for path in options.interpolate or []:
        if not path.is_file():
            raise UserError(f"no such image: {path}")
    output = options.output
    if output is not None and (output.is_dir() or output.suffix.lower() not in (".png", ".csv", ".txt")):
        raise UserError(
            f"-o {output}: give the name of a file that ends in .png, in .csv for rows of numbers, or in .txt for texts"
        )


def _samples(model: "Model", options: argparse.Namespace) -> tuple[Any, int | None]:
    """Return samples, ``(N, ...)`` in units of the data or a list of texts, and the number of columns of their grid."""
    from recipes.cli.verbs.pictures import class_index

    task: Any = model
    name, known = type(model).__name__, model.sample_options
    label = None if options.label is None else class_index(model, options.label)
    own = _own_options(model, options.own)
    if options.interpolate:
        return _interpolation(task, options.interpolate, label, options.count or 8), options.count or 8
    if model.samples is None:
        cure = "; --interpolate A.png B.png interpolates between two images" if "interpolate" in known else ""
        raise UserError(
            f"{name} cannot generate examples: zoo sample is for models such as zoo.VAE, zoo.DCGAN and "
            f"zoo.RecurrentLanguageModel{cure}"
        )
    if options.latent_grid:
        if "latent_grid" not in known:
            raise UserError(f"{name} has no latent grid: that is for models such as zoo.VAE with latent_dim=2")
        return task.latent_grid(options.latent_grid, label), options.latent_grid
    if label is None and "label" in known:
        return task.sample(options.count or 64, None, options.seed), int(task.net.num_classes)
    more = {} if label is None else {"y": label}
    return task.sample(options.count or 64, seed=options.seed, **more, **own), None


def print_more_help(args: Sequence[str]) -> None:
    """Print the options of the model's own, if one is given with ``--help``."""
    words = [arg for arg in args if not arg.startswith("-")]
    if not words:
        return
    word = find_model(words[0])
    with NoCaches():
        import lightning.pytorch  # noqa: F401 (sets up its log, which is captured from then on)
    with captured_logs(Console()):
        task: Any = load_model(word)
    own = _parameters_of(task)
    rows = [
        (f"--{name.replace('_', '-')}", "default: " + ("none" if p.default in (None, "") else str(p.default)))
        for name, p in own.items()
    ]
    more = [f"--{name.replace('_', '-')}" for name in task.sample_options if name not in own]
    if task.samples is None and not more:
        print(f"\n{type(task).__name__} makes no samples.")
    else:
        print(f"\nOptions of {words[0]}, a {type(task).__name__}:")
        print(
            "\n".join(f"  {name:<19} {text}".rstrip() for name, text in [*rows, *((name, "") for name in more)])
            or "  none"
        )


def _parameters_of(task: Any) -> dict[str, inspect.Parameter]:
    """Return the arguments of ``sample`` that are options of the model's own."""
    parameters = {} if task.samples is None else inspect.signature(task.sample, eval_str=True).parameters
    return {name: parameters[name] for name in task.sample_options if name in parameters}


def _own_options(task: Any, args: Sequence[str]) -> dict[str, Any]:
    """Parse options of the model's own: those of ``sample_options`` that ``sample`` takes, by the types of its arguments.

    Raises:
        UserError: The model has no such option, or the value has another type.
    """
    own = _parameters_of(task)
    parser = Parser("zoo sample")
    for name in own:
        kind = next((t for t in (float, int, str) if t in (own[name].annotation, *get_args(own[name].annotation))), str)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=own[name].default)
    known = vars(parser.parse_args([])).keys()
    options, rest = parser.parse_known_args(list(args))
    if rest:
        more = [f"--{name.replace('_', '-')}" for name in known]
        raise UserError(
            f"{type(task).__name__} has no option {rest[0]}{suggest(rest[0], more)}"
            + (f"; it has {', '.join(more)}" if more else "")
        )
    return vars(options)


def _texts(model: "Model", options: argparse.Namespace) -> int:
    """Print texts, write them to a file, and return the exit code.

    Without ``-o`` those of a model with ``stream`` appear as they are written, and Ctrl-C leaves what is there.
    """
    from recipes.cli.verbs.pictures import writing

    task: Any = model
    path = options.output or Path("samples.txt")
    if path.suffix.lower() != ".txt":
        raise UserError(f"-o {path}: the model makes texts: give a .txt file")
    others = (options.output, options.label, options.latent_grid, options.interpolate)
    live = hasattr(task, "stream") and all(option is None for option in others)
    texts: list[str] = []
    code = OK
    if live:
        code = _stream(task, options, texts)
    else:
        texts += map(str, _samples(model, options)[0])
        print("\n\n".join(texts) + "\n")
    with writing(path):
        path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    print(f"{path}: {len(texts)} {model.samples}{'s' * (len(texts) != 1)} from {type(model).__name__}")
    return code


def _stream(task: Any, options: argparse.Namespace, texts: list[str]) -> int:
    """Print texts as they are written, add them to ``texts``, and return the exit code."""
    own = _own_options(task, options.own)
    count = options.count or 1
    for index in range(count):
        pieces = task.stream(seed=options.seed, index=index, **own)
        if count > 1:
            print(f"--- {index + 1} of {count}")
        texts.append("")
        try:
            for piece in pieces:
                texts[-1] += piece
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            print("\n")
            return INTERRUPTED
        print("\n")
    return OK


def _interpolation(task: Any, ends: list[Path], label: int | None, steps: int) -> "Tensor":
    """Interpolate between the codes of two images: ``(steps, C, H, W)``."""
    import torch

    name = type(task).__name__
    if "interpolate" not in task.sample_options or task.reads != "image":
        raise UserError(f"--interpolate needs a model that encodes images, such as zoo.VAE, and {name} does not")
    if label is None and "label" in task.predict_options:
        raise UserError(f"{name} is conditional: give the class of the images with --label")
    x = read_images(ends, task).to(task.device)
    y = None if label is None else torch.full((1,), label, device=task.device)
    return task.interpolate(x[:1], x[1:], steps, y)[0]


def _write(model: "Model", samples: "Tensor", columns: int | None, output: Path | None) -> Path:
    """Write the samples and return the path."""
    from recipes.cli.verbs.pictures import as_image, writing
    from zoo.drawing.images import are_images, clouds, image_wall

    shape = tuple(samples.shape[1:])
    path = output or Path("samples.png" if are_images(samples) or shape == (2,) else "samples.csv")
    rows = path.suffix.lower() == ".csv"
    if rows and samples.ndim != 2:
        raise UserError(
            f"-o {path}: a CSV file is for rows of numbers, not for samples of shape {shape}: give a .png file"
        )
    if not (rows or are_images(samples) or shape == (2,)):
        raise UserError(
            f"-o {path}: samples of shape {shape} are neither images nor points of the plane: give a .csv file"
        )
    with writing(path):
        if rows:
            _write_rows(model, samples, path)
        else:
            picture = image_wall(samples, columns) if are_images(samples) else clouds(None, samples)
            as_image(picture).save(path, "PNG")
    return path


def _write_rows(model: "Model", samples: "Tensor", path: Path) -> None:
    columns = [column["name"] for column in (model.preparation or {}).get("columns") or []]
    names = columns if len(columns) == samples.shape[1] else [f"x{i}" for i in range(samples.shape[1])]
    digits = 7 if samples.element_size() <= 4 else 15
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([f"{value:.{digits}g}" for value in row] for row in samples.tolist())

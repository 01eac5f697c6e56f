"""``zoo examples``: copy small inputs for the bundled models into a folder. Imports no torch."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import datamodules
from recipes.cli.errors import UserError
from recipes.cli.run.options import Parser

HELP = """zoo examples [DIR] [--overwrite]: copy small example inputs, and show what to try with each.

  DIR          where they go; it is created (default: examples)
  --overwrite  replace files of the same names that are there already
  --debug      show the traceback of any error

Examples:
  zoo examples
  zoo examples inputs
"""
BUNDLED = Path(datamodules.__file__).parent / "bundled"  # examples.md there says where each file is from


@dataclass(frozen=True)
class Example:
    """Files of one kind.

    Args:
        files: Their names in ``datamodules/bundled``.
        what: What they hold.
        commands: What can be done with them, without training but for ``zoo finetune``; a name of a file stands for its path.
    """

    files: tuple[str, ...]
    what: str
    commands: tuple[str, ...]


EXAMPLES = (
    Example(
        ("three.png", "eight.png"),
        "handwritten digits, 8 x 8 pixels",
        (
            "zoo predict lenet5_digits three.png eight.png --top 3",
            "zoo predict vae_digits three.png -o reconstructions",
            "zoo sample vae_digits --interpolate three.png eight.png -o between.png",
        ),
    ),
    Example(
        ("shapes1.png", "shapes2.png"),
        "drawn shapes, to be told apart pixel by pixel",
        ("zoo predict unet_shapes shapes1.png shapes2.png -o masks",),
    ),
    Example(
        ("scene.png",),
        "drawn shapes, to be told in words",
        ("zoo predict captioner_shapes scene.png --beam 4 --attention words.png",),
    ),
    Example(
        ("dates.txt",),
        "dates as they are written in twelve locales, each with the answer behind a tab",
        ("zoo predict dates_gru dates.txt", "zoo predict dates_transformer dates.txt --attention looks.png"),
    ),
    Example(
        ("sentences.txt",),
        "sentences, the first as a novel of 1817 might have it",
        ("zoo predict char_lm sentences.txt",),
    ),
    Example(
        ("co2.csv",),
        "carbon dioxide in the air, a month a row",
        ("zoo predict co2_gru co2.csv -o forecast.csv",),
    ),
    Example(("signals.csv",), "ten series of 40 numbers, one a row", ("zoo predict mnist1d_fcn signals.csv",)),
    Example(
        ("iris.csv",),
        "a table: four lengths of 150 flowers, and their species",
        ("zoo finetune iris.csv --target species",),
    ),
)


def run(args: list[str]) -> int:
    """Run the verb ``examples``."""
    parser = Parser("zoo examples")
    parser.add_argument("folder", nargs="?", default="examples", metavar="DIR")
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args(args)
    folder = Path(options.folder)
    names = [name for example in EXAMPLES for name in example.files]
    copied = copy(names, folder, options.overwrite)
    there = len(names) - len(copied)
    print(f"{len(copied)} files in {folder}" + (f", where {there} were already" if there else ""))
    for example in EXAMPLES:
        print(f"\n{', '.join(example.files)}: {example.what}")
        print(*(f"  {line}" for line in commands(example, folder)), sep="\n")
    return 0


def copy(names: list[str], folder: Path, overwrite: bool = False) -> list[str]:
    """Copy bundled files into a folder, and return the names of those that were not there.

    Args:
        names: Names of files in ``datamodules/bundled``.
        folder: Created if it does not exist.
        overwrite: Whether files of the same names and other content are replaced.

    Raises:
        UserError: There is such a file, or the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give a folder for the examples")
    contents = {name: (BUNDLED / name).read_bytes() for name in names}
    here = [name for name in names if os.path.lexists(folder / name)]
    same = [name for name in here if (folder / name).is_file() and (folder / name).read_bytes() == contents[name]]
    if not overwrite and (others := [name for name in here if name not in same]):
        raise UserError(
            f"{folder / others[0]} exists and is not the example: give another folder, or replace it with --overwrite"
        )
    new = [name for name in names if name not in same]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in new:
            (folder / name).write_bytes(contents[name])
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"cannot write {error.filename}: {error.strerror}; give another folder") from error
    return new


def commands(example: Example, folder: Path) -> list[str]:
    """Return the commands of an example with the paths of its files."""
    return [
        " ".join(shlex.quote(str(folder / word)) if word in example.files else word for word in command.split())
        for command in example.commands
    ]

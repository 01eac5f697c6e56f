"""YAML files and texts of the user's, checked for what PyYAML accepts in silence or fails on. Imports no torch."""

import re
from pathlib import Path
from typing import Any

import yaml

from recipes.cli.errors import UserError, one_line

_DEEPEST = 50  # levels of a YAML file; recipes have seven
_MOST_BYTES = 1_000_000
_RECIPE = "a recipe is a YAML file with the sections model, data and trainer"
_KINDS = {str: "text", list: "a list", int: "a number", float: "a number"}


def read_yaml(text: str, source: str) -> Any:
    """Return the content of a YAML text.

    Args:
        text: The text.
        source: What it is, for messages: the name of a file or an option.

    Raises:
        UserError: It is not valid YAML, has a key twice, or is nested too deeply.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _check_node(node, source)
        return None if node is None else loader.construct_document(node)
    except RecursionError:
        raise UserError(f"{source} is nested too deeply: at most {_DEEPEST} levels") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-45
        raise UserError(f"{source} is not valid YAML: {one_line(_problem(error))}") from None


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the sections of a recipe. Errors show nothing of the file's content: it may be any file.

    Raises:
        UserError: The file cannot be read, or is no recipe.
    """
    content = _read_file(path, _RECIPE)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {_KINDS.get(type(content), type(content).__name__)}: {_RECIPE}")
    if not all(re.fullmatch(r"[A-Za-z_][\w.]*", str(key)) for key in content):
        raise UserError(f"{path} has a key that is no section: {_RECIPE}")
    return content


def check_section(path: Path, option: str) -> None:
    """Check a file that is the value of an option such as ``--data``, which takes a class or such a file.

    Raises:
        UserError: It is not a YAML file that holds a mapping or a list.
    """
    wanted = f"{option} takes a class path, or a YAML file with a class_path and its init_args"
    content = _read_file(path, wanted)
    if not isinstance(content, dict | list):
        raise UserError(f"{path} holds {_KINDS.get(type(content), type(content).__name__)}: {wanted}")


def _read_file(path: Path, wanted: str) -> Any:
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise UserError(f"{path} has {size / 1e6:.1f} MB: {wanted}")
    try:
        content = read_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file: {wanted}") from None
    if content is None:
        raise UserError(f"{path} is empty: {wanted}")
    return content


def _problem(error: Exception) -> str:
    """Return the problem and its line, without the excerpt of the text."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"{problem[:60]} in line {mark.line + 1}" if mark and problem else str(error)[:60]


def _check_node(root: yaml.Node | None, source: str) -> None:
    levels: list[tuple[yaml.Node, int]] = [] if root is None else [(root, 1)]
    while levels:
        node, depth = levels.pop()
        if depth > _DEEPEST:
            raise UserError(f"{source} is nested too deeply: at most {_DEEPEST} levels")
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode):
                    if key.value in lines:
                        where = f"in lines {lines[key.value]} and {line}"
                        raise UserError(f"{source} has the key {key.value[:60]!r} twice, {where}: keep one")
                    lines[key.value] = line
                levels.append((value, depth + 1))
        elif isinstance(node, yaml.SequenceNode):
            levels += [(value, depth + 1) for value in node.value]

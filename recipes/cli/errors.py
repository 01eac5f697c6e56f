"""From exceptions to one line and an exit code. Imports no torch."""

import errno
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module

from zoo.spelling import suggest

OK, BUG, USER, MACHINE, INTERRUPTED, TERMINATED = 0, 1, 2, 75, 130, 143

# raised by components for bad input; any other exception is a bug and keeps its traceback
_INPUT_ERRORS = (ValueError, TypeError, KeyError, OSError, ImportError)
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class UserError(Exception):
    """An error that the user can fix: printed as one line, exit code 2."""


class MachineError(Exception):
    """A lack of resources such as disk space: printed as one line, exit code 75."""


class Crash(Exception):
    """A failure during training: its cause keeps its traceback, exit code 1."""


def causes(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an exception and its chain of causes and contexts."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__  # type: ignore[assignment]


def disk_full(error: BaseException) -> OSError | None:
    """Return the first "no space left" error (or quota, file size limit) among the causes, preferably one with a file name."""
    errors = [e for e in causes(error) if isinstance(e, OSError) and e.errno in _DISK_FULL][::-1]
    return next((e for e in errors if e.filename), errors[0] if errors else None)


def explain(error: Exception) -> tuple[int, str | None]:
    """Return the exit code and the line to print; None in place of the line means a bug, whose traceback is to be shown."""
    if isinstance(error, MachineError):
        return MACHINE, one_line(str(error))
    full = disk_full(error)
    if full is not None:
        return MACHINE, f"cannot write {full.filename or 'a file'}: {full.strerror}; free some space and try again"
    if isinstance(error, UserError):
        return USER, one_line(str(error))
    if isinstance(error, _INPUT_ERRORS) or type(error).__name__ == "MisconfigurationException":
        return USER, one_line(message(error))
    return BUG, None


def message(error: Exception) -> str:
    """Return the text of an exception without what Python and worker processes wrap around it."""
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}"
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])  # str(KeyError) is its repr, in quotes
    text = str(error) or type(error).__name__
    return text.strip().splitlines()[-1].partition(": ")[2] if _IN_WORKER.match(text) else text


_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker")  # the worker's whole traceback follows


def one_line(text: str) -> str:
    """Replace every run of whitespace by one space."""
    return re.sub(r"\s+", " ", text).strip()


def unwrap(error: BaseException) -> BaseException:
    """Return the exception of the component itself, without those that jsonargparse wraps around it."""
    return next((e for e in causes(error) if not _WRAPPER.match(str(e))), error)


# jsonargparse's errors ----------------------------------------------------------------------------------------------

_WRAPPER = re.compile(
    r"\s*(- )?(Does not validate against|Expected a path but|Parser key|Not a valid subclass|Problem with given class)"
)
_NOISE = {"<class 'NoneType'>": "null"}


def reduce_parse_error(text: str, options: Iterable[str], arguments_of: Callable[[str], Iterable[str]]) -> str:
    """Return the innermost useful sentence of a parser's error.

    Args:
        text: jsonargparse's message, a tree of several lines.
        options: Known options ("--trainer.max_epochs" ...), for suggestions.
        arguments_of: Returns the constructor arguments of a class path.
    """
    given = re.search(r"(?m)^\s*Given value: (?!NestedArg|Namespace|[\[{])(.*)$", text)
    text = re.sub(r"(?m)^\s*Given value( type)?:.*$", "", text)
    if match := re.search(r"unrecognized arguments: (\S+)", text):
        word = match[1].partition("=")[0]
        what = f"unknown option {word}" if word.startswith("-") else f"unexpected argument {word!r}"
        return what + suggest(word, options)
    first, problem, *rest = re.split(r"(Problem with given class_path)", text, maxsplit=2) + [""] * 2
    text = first + problem + (rest[0] if rest else "")  # the others: jsonargparse tries the base class too
    keys = re.findall(r'Parser key "([^"]+)"', text)
    owner = re.search(r"class_path '([^']+)'", text)
    where = ".".join(keys) if len(keys) < 2 or not owner else f"{keys[0]}.{keys[-1]}"
    if match := re.search(r"Option '([^']+)' is not accepted", text):
        name = match[1].removeprefix("init_args.").removeprefix("dict_kwargs.")
        if owner is None:
            return _unknown_key(name, options)
        return f"{owner[1]} has no argument {name!r}" + suggest(name, arguments_of(owner[1]))
    if match := re.search(r"Group '([^']+)' does not accept option '([^']+)'", text):
        return _unknown_key(f"{match[1]}.{match[2]}", options)
    if match := re.search(r"the following arguments are required: (.*)", text):
        names = match[1].strip()
        if owner:
            return f"{owner[1]} requires a value for {names}"
        return f"no value for {names}: give a recipe (-c NAME; `zoo recipes` lists them)"
    if owner and re.search(r"has no attribute '[^']+'|No module named '[^']+'", text):
        return f"{where} is {owner[1]}, which cannot be imported" + _closest_class(owner[1])
    if match := re.search(r"Import path(?: \S+)? does not correspond to a subclass of (\w+)", text):
        named = re.search(r"Import path (\S+) does", text)
        return f"{where} must be a {match[1]}, got {named[1] if named else given[1] if given else 'something else'}"
    if match := re.search(r"Expected a dot import path string: (\S+)", text):
        return f"{where} must be a class path such as zoo.LeNetClassifier, got {match[1]}"
    if match := re.search(r"[Pp]roblems? parsing config:? *(.*)", text, flags=re.DOTALL):
        return f"the recipe is not valid YAML: {one_line(match[1])}"
    expected = list(
        dict.fromkeys(re.findall(r"Expected an? (.+?)(?:\. Got value: (.*?))?\s*$", text, flags=re.MULTILINE))
    )
    expected = [pair for pair in expected if pair[0] not in _NOISE] or expected
    if expected and where:
        value = next((value for _, value in expected if value), given[1] if given else "")
        return _wrong_type(where, [kind for kind, _ in expected], value)
    return one_line(text)


def _unknown_key(key: str, options: Iterable[str]) -> str:
    known = {option.removeprefix("--") for option in options}
    roots = {option.partition(".")[0] for option in known}
    key = key if key.partition(".")[0] in roots else key.partition(".")[0]
    return f"unknown key {key!r} in the recipe" + suggest(key, known if "." in key else roots)


def _closest_class(class_path: str) -> str:
    module, _, name = class_path.rpartition(".")
    try:
        return suggest(name, dir(import_module(module)))
    except (ImportError, ValueError):
        return f": no module {module!r}"


def _wrong_type(where: str, kinds: list[str], value: str) -> str:
    names = []
    for kind in kinds:
        kind = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)
        literal = re.fullmatch(r"typing\.Literal\[(.*)\]", kind)
        names.append(f"one of {literal[1]}" if literal else kind)
    return f"{where} must be {' or '.join(names)}" + (f", got {value}" if value else "")

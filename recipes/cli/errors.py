"""What went wrong, in one line and an exit code. Imports no torch."""

import errno
import re
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module

from zoo.spelling import suggest

OK, BUG, USER, MACHINE, INTERRUPTED, TERMINATED = 0, 1, 2, 75, 130, 143

# what components raise when their input is to blame; other exceptions are bugs and keep their traceback
_USERS_FAULT = (ValueError, TypeError, KeyError, OSError, ImportError)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class UserError(Exception):
    """Something the user can put right: printed as one line, exit code 2."""


class MachineError(Exception):
    """Something the machine lacks, disk space for one: printed as one line, exit code 75."""


class Crash(Exception):
    """A failure inside training: its cause keeps its traceback, exit code 1."""


def chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__  # type: ignore[assignment]


def disk_full(error: BaseException) -> OSError | None:
    """The first error "no space left" (quota, file size limit) among what an exception came from, one that names its file."""
    found = [e for e in chain(error) if isinstance(e, OSError) and e.errno in _FULL][::-1]
    return next((e for e in found if e.filename), found[0] if found else None)


def explain(error: Exception) -> tuple[int, str | None]:
    """Exit code and the one line of an exception; no line means: a bug, show the traceback."""
    if isinstance(error, MachineError):
        return MACHINE, one_line(str(error))
    full = disk_full(error)
    if full is not None:
        return MACHINE, f"cannot write {full.filename or 'a file'}: {full.strerror}; make room and try again"
    if isinstance(error, UserError):
        return USER, one_line(str(error))
    if isinstance(error, _USERS_FAULT) or type(error).__name__ == "MisconfigurationException":
        return USER, one_line(message(error))
    return BUG, None


def message(error: Exception) -> str:
    """What an exception says, without what Python and worker processes wrap around it."""
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}"
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])  # str(KeyError) is its repr, in quotes
    text = str(error) or type(error).__name__
    return text.strip().splitlines()[-1].partition(": ")[2] if _IN_WORKER.match(text) else text


_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker")  # what follows is the worker's whole traceback


def one_line(text: str) -> str:
    """The text with every run of blanks and line ends as one blank."""
    return re.sub(r"\s+", " ", text).strip()


def unwrap(error: BaseException) -> BaseException:
    """What a component raised while it was built, without what jsonargparse wraps around it."""
    return next((e for e in chain(error) if not _WRAPPED.match(str(e))), error)


# jsonargparse's errors ----------------------------------------------------------------------------------------------

_WRAPPED = re.compile(
    r"\s*(- )?(Does not validate against|Expected a path but|Parser key|Not a valid subclass|Problem with given class)"
)
_NOISE = {"<class 'NoneType'>": "null"}


def reduce_parse_error(text: str, options: Iterable[str], arguments_of: Callable[[str], Iterable[str]]) -> str:
    """The innermost useful sentence of a parser's error.

    Args:
        text: jsonargparse's message, a tree of several lines.
        options: the known options ("--trainer.max_epochs" ...), for the suggestion.
        arguments_of: gives the constructor arguments of a class path.
    """
    given = re.search(r"(?m)^\s*Given value: (?!NestedArg|Namespace|[\[{])(.*)$", text)
    text = re.sub(r"(?m)^\s*Given value( type)?:.*$", "", text)
    if found := re.search(r"unrecognized arguments: (\S+)", text):
        word = found[1].partition("=")[0]
        what = f"unknown option {word}" if word.startswith("-") else f"unexpected argument {word!r}"
        return what + suggest(word, options)
    first, problem, *rest = re.split(r"(Problem with given class_path)", text, maxsplit=2) + [""] * 2
    text = first + problem + (rest[0] if rest else "")  # the others: jsonargparse tries the base class too
    keys = re.findall(r'Parser key "([^"]+)"', text)
    owner = re.search(r"class_path '([^']+)'", text)
    where = ".".join(keys) if len(keys) < 2 or not owner else f"{keys[0]}.{keys[-1]}"
    if found := re.search(r"Option '([^']+)' is not accepted", text):
        name = found[1].removeprefix("init_args.").removeprefix("dict_kwargs.")
        if owner is None:
            return _unknown_key(name, options)
        return f"{owner[1]} has no argument {name!r}" + suggest(name, arguments_of(owner[1]))
    if found := re.search(r"Group '([^']+)' does not accept option '([^']+)'", text):
        return _unknown_key(f"{found[1]}.{found[2]}", options)
    if found := re.search(r"the following arguments are required: (.*)", text):
        lacks = f"{owner[1]} wants a value for" if owner else "nothing is said about"
        cure = "" if owner else ": give a recipe (-c NAME; `zoo recipes` lists them)"
        return f"{lacks} {found[1].strip()}{cure}"
    if owner and re.search(r"has no attribute '[^']+'|No module named '[^']+'", text):
        return f"{where} names {owner[1]}, which cannot be imported" + _closest_class(owner[1])
    if found := re.search(r"Import path(?: \S+)? does not correspond to a subclass of (\w+)", text):
        named = re.search(r"Import path (\S+) does", text)
        return f"{where} must name a {found[1]}, got {named[1] if named else given[1] if given else 'something else'}"
    if found := re.search(r"Expected a dot import path string: (\S+)", text):
        return f"{where} must be a class path such as zoo.LeNetClassifier, got {found[1]}"
    if found := re.search(r"[Pp]roblems? parsing config:? *(.*)", text, flags=re.DOTALL):
        return f"the recipe is no valid YAML: {one_line(found[1])}"
    wanted = list(
        dict.fromkeys(re.findall(r"Expected an? (.+?)(?:\. Got value: (.*?))?\s*$", text, flags=re.MULTILINE))
    )
    wanted = [pair for pair in wanted if pair[0] not in _NOISE] or wanted
    if wanted and where:
        value = next((value for _, value in wanted if value), given[1] if given else "")
        return _wrong_type(where, [kind for kind, _ in wanted], value)
    return one_line(text)


def _unknown_key(key: str, options: Iterable[str]) -> str:
    """The sentence about a key of a recipe that no option has."""
    known = {option.removeprefix("--") for option in options}
    roots = {option.partition(".")[0] for option in known}
    key = key if key.partition(".")[0] in roots else key.partition(".")[0]
    return f"unknown key {key!r} in the recipe" + suggest(key, known if "." in key else roots)


def _closest_class(class_path: str) -> str:
    """The half sentence with the closest name in the module of a class path that cannot be imported."""
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
    return f"{where} wants {' or '.join(names)}" + (f", got {value}" if value else "")

"""jsonargparse's errors, trees of several lines, reduced to one sentence: the option, what is wanted, what came, the cure."""

import ast
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module

from recipes.cli.errors import causes, one_line
from zoo.spelling import closest, suggest

_WRAPPER = re.compile(
    r"\s*(- )?(Does not validate against|Expected a path but|Parser key|Not a valid subclass|Problem with given class)"
)
_NO_SUBCLASS = re.compile(r"Import path(?: (\S+))? does not correspond to a subclass of (\w+)")
_NESTED = re.compile(
    r"Parser key \"(\w+)\":\s+Does not validate against any of the Union subtypes\s+Subtypes: \[<class 'str'>.*?"
    r"- Problem with given class_path '([^']+)':\n(.*?)\n\s*Given value type",
    flags=re.DOTALL,
)
_REFUSED = re.compile(
    r"- Expected a <class 'str'>\n\s*- (.*?)\n\s*Given value type:[^\n]*\n\s*Given value: Namespace\(class_path='([^']+)'",
    flags=re.DOTALL,
)
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "dict": "a mapping {name: value, ...}",
    "list": "a list [value, ...]",
    "tuple": "a list [value, ...]",
    "Sequence": "a list [value, ...]",
    "timedelta": "a duration",
}
# option -> package and an example of its classes
_CLASSES = {
    "model": ("zoo", "zoo.LeNetClassifier"),
    "data": ("datamodules", "datamodules.DigitsDataModule"),
    "trainer.callbacks": ("callbacks", "callbacks.LRSchedule"),
}

_BASES = {
    f"{package}{name}"
    for package in ("lightning.", "lightning.pytorch.")
    for name in ("LightningModule", "LightningDataModule", "Callback")
}


def unwrap(error: BaseException) -> BaseException:
    """Return the exception of the component itself, without those that jsonargparse wraps around it."""
    for cause in causes(error):
        if match := _REFUSED.search(str(cause)):  # of a class in place of a name, jsonargparse keeps the message alone
            return ValueError(f"{match[2]}: {match[1]}")
        if not _WRAPPER.match(str(cause)):
            return cause
    return error


def reduce_parse_error(
    text: str, args: Sequence[str], options: Callable[[], Iterable[str]], arguments_of: Callable[[str], list[str]]
) -> str:
    """Return the innermost useful sentence of a parser's error.

    Args:
        text: jsonargparse's message, a tree of several lines.
        args: The command line.
        options: Returns the known options ("--trainer.max_epochs" ...), for suggestions.
        arguments_of: Returns the constructor arguments of a class path.
    """
    if match := re.search(r"unrecognized arguments: (\S+)", text):
        return _unknown(match[1].partition("=")[0], args, options())
    if match := re.search(r"argument (--\S+): expected one argument", text):
        return _without_value(match[1], args)
    if match := re.fullmatch(r"the following arguments are required: (.*)", text.strip()):
        return f"no value for {match[1]}: give a recipe (-c NAME; `zoo recipes` lists them)"
    if match := re.search(r'Invalid option "([^"]+)" for --print_config', text):
        return f"--print_config takes no value, or comments, skip_default or skip_unset, got {match[1]}"
    if match := re.search(r"[Pp]roblems? parsing config:? *(.*)", text, flags=re.DOTALL):
        return f"the recipe is not valid YAML: {one_line(match[1])}"
    first, problem, *rest = re.split(r"(Problem with given class_path)", text, maxsplit=2) + [""] * 2
    text = first + problem + (rest[0] if rest else "")  # the others: jsonargparse tries the base class too
    where, inner = _place(text)
    if nested := _NESTED.search("".join(rest)):  # a class in place of a name
        where, (key, inner) = f"{where.partition('.')[0]}.{nested[1]}", _place(nested[3])
        root = f"{where}.init_args"
        return _of_class(nested[2], f"{root}.{key}" if key else where, inner, text, arguments_of, root)
    owner = re.search(r"class_path '([^']+)'", text)
    if owner is not None:
        return _of_class(owner[1], where, inner, text, arguments_of)
    if match := re.search(r"Option '([^']+)' is not accepted", text):
        return _unknown_key(match[1].removeprefix("init_args."), options())
    if match := re.search(r"Group '([^']+)' does not accept option '([^']+)'", text):
        return _unknown_key(f"{match[1]}.{match[2]}", options())
    return _wrong_value(where, inner) or one_line(text)


def _place(text: str) -> tuple[str, str]:
    """Return the option that a message is about, and the message's innermost part."""
    keys = re.findall(r'Parser key "([^"]+)"', text)
    inner = re.split(r'Parser key "[^"]+":?', text)[-1]
    if not keys:
        return "", inner
    nested = len(keys) > 1 and not f"{keys[-1]}.".startswith(f"{keys[0]}.")
    return f"{keys[0]}.{keys[-1]}" if nested else keys[-1], inner


def _unknown(word: str, args: Sequence[str], options: Iterable[str]) -> str:
    if not word.startswith("-"):
        before = args[args.index(word) - 1] if word in args[1:] else ""
        what = f", and {before} is its value" if before and not before.startswith("-") else ""
        return f"unexpected argument {word!r}: an option takes one value{what}; leave {word!r} out"
    names = [*options]
    key = word.removeprefix("--").rstrip("+")
    hint = suggest(word.rstrip("+"), names)
    if not hint and "." in key:
        group = key.rpartition(".")[0]
        hint = "" if any(name.startswith(f"--{group}.") for name in names) else suggest(f"--{group}", names)
    return f"unknown option {word}{hint or ' (add --help for a list)'}"


def _without_value(option: str, args: Sequence[str]) -> str:
    """Name the option that has no value: jsonargparse names the whole class of which it is an argument."""
    following = [*args[1:], "--"]
    bare = [a for a, b in zip(args, following, strict=True) if a.startswith(option) and "=" not in a and b[:2] == "--"]
    name = bare[0] if bare else option
    return f"{name} needs a value: {name} VALUE"


def _of_class(
    owner: str, where: str, inner: str, text: str, arguments_of: Callable[[str], list[str]], root: str | None = None
) -> str:
    root = root or next((key for key in _CLASSES if f"{where}.".startswith(f"{key}.")), where)
    if match := re.search(r"Option '([^']+)' is not accepted", inner):
        name = match[1].removeprefix("init_args.").removeprefix("dict_kwargs.")
        if owner in _BASES:  # arguments without their class
            return f"{where} must have a class_path{_example(root)}, got {name!r} without one"
        known = arguments_of(owner)
        hint = suggest(name, known) or (f"; it has {', '.join(known)}" if known else ", it takes none")
        return f"{owner} has no argument {name!r}{hint}"
    if match := re.search(r"the following arguments are required: (.*)", inner):
        name = match[1].split(",")[0].strip()
        option = f"--{root}.{name}"
        return f"{owner} requires a value for {match[1].strip()}: give {option} VALUE"
    if re.search(r"has no attribute '[^']+'|No module named '[^']+'", inner):
        return f"{where} is {owner}, which cannot be imported{_closest_class(owner)}"
    if match := _NO_SUBCLASS.search(inner):
        return f"{where} must be a {match[2]}{_example(root)}, got {match[1] or owner}"
    key = f"{root}: {where.removeprefix(root + '.')} of {owner}" if root == "trainer.callbacks" else where
    return _wrong_value(key, inner) or f"{where}: {one_line(inner.lstrip(': '))}"


def _wrong_value(where: str, inner: str) -> str | None:
    """Return what is wanted and what came; None if the message does not say."""
    value = _given(inner)
    if named := _NO_SUBCLASS.search(inner):
        return f"{where} must be a {named[2]}{_example(where)}, got {named[1] or value}"
    if match := re.search(r"Expected a dot import path string: (\S+)", inner):
        return f"{where} must be a class path{_example(where)}, got {match[1]}{_meant(where, match[1])}"
    if "Unable to load config" in inner:
        return f"{where} must be a mapping {{option: value, ...}}, got {value or _loaded(inner)}"
    no_class = where in _CLASSES and "Not a valid subclass of" in inner
    if no_class or re.search(r"unhashable type|is not iterable|not subscriptable", inner):
        return f"{where} must be a class path{_example(where)}, got {value}"
    expected = re.findall(
        r"Expected an? (?!path but)(?!instantiatable)(.+?)(?:\. Got value: (.*?))?\s*$", inner, flags=re.M
    )
    pairs = [pair for pair in dict.fromkeys(expected) if "NoneType" not in pair[0]] or expected
    if not pairs or not where:
        return None
    value = value or next((_plain(value) for _, value in pairs if value), "")
    return f"{where} must be {_wanted([kind for kind, _ in pairs])}" + (f", got {value}" if value else "")


def _wanted(kinds: Iterable[str]) -> str:
    names: list[str] = []
    choices: list[str] = []
    for kind in kinds:
        kind = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)
        if literal := re.fullmatch(r"typing\.Literal\[(.*)\]", kind):
            choices += [choice.strip("'\"") for choice in literal[1].split(", ")]
        else:
            names.append(_KINDS.get(kind, "null" if kind == "NoneType" else kind))
    if choices:
        choices = list(dict.fromkeys(choices))
        names.append(f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0])
    return " or ".join(dict.fromkeys(names))


def _given(inner: str) -> str:
    """Return the value that was given, as the user wrote it."""
    match = re.search(r"(?m)(?:Got|^\s*Given) value: (.*)$", inner)
    text = match[1].strip() if match else ""
    if nested := re.search(r"NestedArg\(key='([^']*)', val=(.*)\)$", text):
        return _plain(nested[2])
    return "" if "Namespace(" in text else _plain(text)


def _loaded(inner: str) -> str:
    match = re.search(r"Unable to load config ['\"](.*?)['\"]", inner)
    return match[1] if match else "something else"


def _plain(text: str) -> str:
    """Return a value as YAML writes it: null for None, no quotes around a text."""
    text = re.sub(r"\bNone\b", "null", re.sub(r"\bTrue\b", "true", re.sub(r"\bFalse\b", "false", text)))
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
    return value if isinstance(value, str) else text


def _example(where: str) -> str:
    return f" such as {_CLASSES[where][1]}" if where in _CLASSES else ""


def _meant(where: str, word: str) -> str:
    """Return a suggestion for a class that is named without its package, or by a registered name."""
    package = _CLASSES.get(where, ("", ""))[0]
    if not package:
        return ""
    names = {name: f"{package}.{name}" for name in import_module(package).__all__ if name[0].isupper()}
    if package == "zoo":
        from zoo import list_models, registry

        if word in list_models():
            return f", did you mean '{names[registry.get(word).cls.__name__]}'?"
    name = closest(word, names)
    return f", did you mean {names[name]!r}?" if name else ""


def _unknown_key(key: str, options: Iterable[str]) -> str:
    known = {option.removeprefix("--") for option in options}
    roots = [root for root in dict.fromkeys(name.partition(".")[0] for name in known) if root in _ROOTS]
    if key.partition(".")[0] in roots:
        hint = suggest(key, sorted(name for name in known if name.startswith(f"{key.partition('.')[0]}.")))
    else:
        key = key.partition(".")[0]
        hint = suggest(key, roots)
    return f"unknown key {key!r} in the recipe{hint or '; its keys are ' + ', '.join(_ROOTS)}"


_ROOTS = ("model", "data", "trainer", "seed_everything")


def _closest_class(class_path: str) -> str:
    module, _, name = class_path.rpartition(".")
    try:
        loaded = import_module(module)
    except (ImportError, ValueError) as error:
        missing = getattr(error, "name", None)
        if missing in (None, module) or module.startswith(f"{missing}."):
            known = suggest(module, ("zoo", "datamodules", "callbacks"))
            return f": no module {module!r}{known or ' in the current folder or installed'}"
        return f": {error}"
    names = [n for n in dir(loaded) if n[0].isupper()]
    return suggest(name, names) or f": {module} has no {name!r}"

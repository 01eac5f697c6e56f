"""``report.html`` of a run: one file that needs neither a network nor the other files of the run. Imports no torch."""

import base64
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from recipes.cli import catalog
from recipes.cli.errors import message, one_line
from recipes.cli.many.comparison import number
from recipes.cli.pages.content import Content, Sample, read_content, read_table, read_text
from recipes.cli.pages.html import element, facts, fold, page, section, table, text
from recipes.cli.pages.plot import pictures
from recipes.cli.run.folder import CONFIG, REPORT
from recipes.cli.run.record import Record, State
from recipes.cli.run.verdict import verdict
from recipes.cli.yaml_files import read_recipe
from zoo.writing import replacing

_EPOCHS = 12  # of which samples are in a report: the first, the last and some between
_PICTURE_BYTES = 24_000_000  # of all pictures in a report
_GRID = 30  # classes up to which a confusion matrix is shown as such
_WORST = 30  # classes or pairs in a table

Source = Callable[[Path], str | None]  # the address of a picture; None to leave it out


def write_report(folder: Path) -> str:
    """Write ``report.html`` into a run folder, as its ``run.json`` says that it ended.

    Returns:
        What went wrong, in one line; "" if nothing did: no report is worth a run.
    """
    try:
        if not (folder / CONFIG).is_file():  # removed, since it had not begun
            return ""
        content = read_content(folder)
        record = content.record or Record(state="stopped")
        title = _name(folder, content.recipe.name if content.recipe else folder.parent.name)
        body = body_of(content, title, record.state, record.message, _Embedded())
        with replacing(folder / REPORT) as temporary:
            temporary.write_text(page(title, body), encoding="utf-8")
    except Exception as error:
        return f"{folder / REPORT} could not be written: {one_line(message(error))}"
    return ""


def _name(folder: Path, recipe: str) -> str:
    """Return the name of a run: its recipe and its path below the recipe's folder.

    Example:
        >>> _name(Path("/a/runs/cnn/lenet_digits/seeds_0/seed_1"), "cnn/lenet_digits")
        'cnn/lenet_digits/seeds_0/seed_1'
    """
    names = folder.resolve().parts[-4:]  # at most a study, a trial and a seed
    below = names[1 + names.index(last) :] if (last := recipe.rpartition("/")[2]) in names[:-1] else names[-1:]
    return "/".join([recipe, *below])


class _Embedded:
    """Pictures as part of the page, until they are too many."""

    def __init__(self) -> None:
        self.left = _PICTURE_BYTES

    def __call__(self, path: Path) -> str | None:
        try:
            size = path.stat().st_size
            if size > self.left:
                return None
            content = path.read_bytes()
        except OSError:
            return None
        self.left -= size
        return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def body_of(content: Content, title: str, state: State, told: str, source: Source, above: str = "") -> str:
    """Return the HTML of a run.

    Args:
        content: What its folder holds.
        title: Its name.
        state: The state that it is in.
        told: How it was stopped, or its error.
        source: Where pictures are.
        above: HTML above the title.
    """
    sections = [
        section("Diagnoses", _diagnoses(content), "diagnoses"),
        section("Results", _results(content), "results"),
        section("Curves", _curves(content, source), "curves"),
        section("Confusion", _confusion(content.confusion), "confusion"),
        section("Samples", _samples(content, source), "samples"),
        section("Further files", _files(content, source), "files"),
        section("Configuration", _config(content), "configuration"),
        section("Commands and environment", _environment(content), "environment"),
        section(
            "Log", fold("the end of log.txt", f"<pre>{text(content.log)}</pre>", "log") if content.log else "", "log"
        ),
    ]
    return f"{above}{_head(content, title, state, told)}{''.join(sections)}"


def _head(content: Content, title: str, state: State, told: str) -> str:
    recipe, record = content.recipe, content.record
    lines = [f'<h1>{text(title).replace("/", "/<wbr>")} <span class="state {state}">{state}</span></h1>']
    if recipe is not None and recipe.summary:
        lines.append(element("p", text(recipe.summary), class_="note"))
    if told:
        lines.append(element("p", text(told), class_=f"message {state}"))
    if record is not None and record.started:
        end = f", ended {text(moment(record.ended))}" if record.ended and state != "running" else ""
        lines.append(element("p", f"started {text(moment(record.started))}{end}", class_="note"))
    if state == "running" and content.curves:
        newest = max(content.curves.values(), key=lambda curve: curve.steps[-1])
        lines.append(element("p", f"at step {newest.steps[-1]:,}, epoch {text(newest.epochs[-1])}", class_="note"))
    lines += [element("p", text(note), class_="note failed") for note in content.notes]
    return "\n".join(lines)


def moment(iso: str) -> str:
    """Return a moment as a text, in UTC.

    Example:
        >>> moment("2026-01-31T12:30:05+00:00")
        '2026-01-31 12:30:05 UTC'
    """
    try:
        return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError):
        return iso


def duration(seconds: float) -> str:
    """Return a duration as a text.

    Example:
        >>> duration(7.25), duration(75), duration(3 * 3600 + 120)
        ('7.2 s', '1 min 15 s', '3 h 2 min')
    """
    if not math.isfinite(seconds) or seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _diagnoses(content: Content) -> str:
    parts = [
        f'<div class="message stopped"><b>{text(each["name"])}</b> <span class="note">epoch {text(each["epoch"])}, step '
        f"{text(each['step'])}</span><p>{text(each['evidence'])}.</p><p>{text(each['cure'])}.</p></div>"
        for each in content.diagnoses
    ]
    return "\n".join(parts)


def _results(content: Content) -> str:
    rows: list[tuple[str, str]] = []
    results, record, recipe = content.results, content.record, content.recipe
    if best := _best(content):
        rows.append((f"best {best[0]}", _value(best[1])))
    if results is not None:
        rows += [(name, _value(value)) for name, value in results["metrics"].items()]
        if recipe is not None and recipe.bound:
            changed = [key for key in recipe.changed.split(", ") if key]
            rows.append(("expected", text(verdict(recipe, results["metrics"], changed))))
        rows += [(name, text(results[name])) for name in ("epochs", "steps") if name in results]
    else:
        rows += [
            (curve.name, _value(curve.values[-1])) for curve in content.curves.values() if curve.name[:4] == "test"
        ]
        if recipe is not None and recipe.expect:
            rows.append(("expected", f"{text(recipe.expect)}: not measured"))
    if record is not None and record.seconds:
        rows.append(("time", text(duration(record.seconds))))
    return facts(rows)


def _value(value: Any) -> str:
    """Return a number with four digits, and all of them where the pointer rests."""
    try:
        return f'<span title="{text(value)}">{text(number(float(value)))}</span>'
    except (TypeError, ValueError):
        return text(value)


def _curves(content: Content, source: Source) -> str:
    drawn = pictures(content.curves, _best(content))
    whole = [path for path in content.pictures if path.name == "curves.png"]
    return drawn + fold(
        "the same as a picture, by epochs, with the learning rate (curves.png)",
        _strip("", [(p.name, _picture(p, source)) for p in whole]),
        "curves.png",
    )


def _best(content: Content) -> tuple[str, float] | None:
    """Return the name and the best value of what decides which epoch is the best, of a run that goes on so far."""
    if content.results is not None:
        best = content.results["best"]
        return (str(best["name"]), float(best["value"])) if best else None
    monitor = content.record.monitor if content.record else []
    if len(monitor) == 2 and monitor[0] in content.curves and (finite := content.curves[monitor[0]].finite()):
        return monitor[0], (min if monitor[1] == "min" else max)(finite)
    return None


# Confusion -----------------------------------------------------------------------------------------------------------------


def _confusion(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    part = {"test": "the test data", "val": "the validation data"}.get(found.get("part", ""), "the data")
    names, unit = found["names"], str(found.get("unit", "examples"))
    if "labels" in found:
        rows = [
            (name, right, missed, false, no)
            for name, ((no, false), (missed, right)) in zip(names, found["labels"], strict=True)
        ]
        total = sum(sum(row[1:]) for row in rows)
        share = sum(row[1] + row[4] for row in rows) / max(total, 1)
        head = ("label", "right: yes", "missed", "false alarm", "right: no")
        shown = sorted(rows, key=lambda row: -row[2] - row[3])
        first = table(head, shown[:_GRID])
        more = fold(f"all {len(rows)} labels", table(head, rows), "labels") if len(rows) > _GRID else ""
        return element("p", f"{share:.2%} right of {total:,} answers on {part}") + first + more
    right, total = sum(found["right"]), sum(found["true"])
    said = element("p", f"{right / max(total, 1):.2%} right of {total:,} {text(unit)} on {part}")
    if len(names) <= _GRID:
        return said + _matrix(found)
    return said + _worst(found)


def _matrix(found: Mapping[str, Any]) -> str:
    names = found["names"]
    counts = {(i, i): n for i, n in enumerate(found["right"])} | {(i, j): n for i, j, n in found["pairs"]}
    rows = []
    for i, name in enumerate(names):
        cells = []
        for j in range(len(names)):
            n = counts.get((i, j), 0)
            level = math.ceil(7 * n / max(found["true"][i], 1)) if n else 0
            kind = f"h{min(level, 7)}" if level else "zero"
            cells.append(f'<td class="{kind}" title="{text(name)} taken for {text(names[j])}">{n}</td>')
        rows.append(f"<tr><th>{text(name)}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>{text(name)}</th>" for name in names)
    note = element("p", "rows: true, columns: predicted; shades: share of the row", class_="note")
    return f'<div class="wide"><table class="confusion"><tr><th></th>{head}</tr>{"".join(rows)}</table></div>{note}'


def _worst(found: Mapping[str, Any]) -> str:
    names = found["names"]
    pairs = [(names[i], names[j], n, f"{n / max(found['true'][i], 1):.1%}") for i, j, n in found["pairs"][:_WORST]]
    classes = [
        (name, true, right, f"{right / true:.1%}", predicted)
        for name, true, right, predicted in zip(names, found["true"], found["right"], found["predicted"], strict=True)
        if true
    ]
    classes.sort(key=lambda row: row[2] / row[1])
    head = ("class", "number", "right", "share", "predicted")
    wrong = sum(n for _, _, n in found["pairs"]) + found["further"]
    absent = len(names) - len(classes)
    note = f"{len(found['pairs']):,} pairs of {len(names):,} classes were confused, {wrong:,} times" + (
        f"; {absent:,} classes do not occur" if absent else ""
    )
    return (
        element("p", text(note), class_="note")
        + element("h3", "most often confused")
        + table(("true", "predicted", "count", "of the class"), pairs)
        + element("h3", "worst classes")
        + table(head, classes[:_WORST])
        + fold(f"all {len(classes):,} classes that occur, the worst first", table(head, classes), "classes")
    )


# Samples and files ----------------------------------------------------------------------------------------------------------


def _samples(content: Content, source: Source) -> str:
    names: dict[str, list[Sample]] = {}
    for sample in content.samples:
        names.setdefault(sample.name, []).append(sample)
    chosen = {name: _spread(samples) for name, samples in names.items()}
    # the newest first, of each name in turn: what is left out when there are too many is old
    order = sorted((s for samples in chosen.values() for s in samples), key=lambda s: -s.epoch)
    shown = {sample: html for sample in order if (html := _file(sample.path, source))}
    parts = []
    for name, samples in names.items():
        pieces = [(f"epoch {s.epoch}", shown[s]) for s in reversed(chosen[name]) if s in shown]
        left = len(samples) - len(pieces)
        note = f"{left} further one{'s are' if left > 1 else ' is'} in samples/" if left else ""
        parts.append(element("h3", text(name)) + _strip(name, pieces))
        parts.append(element("p", note, class_="note") if note else "")
    return "".join(parts)


def _spread(samples: list[Sample]) -> list[Sample]:
    """Return at most ``_EPOCHS`` samples, evenly spread, the first and the last among them."""
    if len(samples) <= _EPOCHS:
        return samples
    return [samples[round(i * (len(samples) - 1) / (_EPOCHS - 1))] for i in range(_EPOCHS)]


def _strip(name: str, pieces: Iterable[tuple[str, str]]) -> str:
    figures = "".join(
        f"<figure>{html}<figcaption>{text(caption)}</figcaption></figure>" for caption, html in pieces if html
    )
    return f'<div class="strip" data-name="{text(name)}">{figures}</div>' if figures else ""


def _file(path: Path, source: Source) -> str:
    """Return a picture, a text or a table as HTML; "" if it is left out."""
    try:
        if path.suffix == ".png":
            return _picture(path, source)
        if path.suffix == ".txt":
            content, more = read_text(path)
            return f"<pre>{text(content)}{chr(0x2026) if more else ''}</pre>"
        rows, more = read_table(path)
        note = element("p", f"further rows are in {text(path.name)}", class_="note") if more else ""
        return table(rows[0], rows[1:]) + note if rows else ""
    except (OSError, ValueError):
        return ""


def _picture(path: Path, source: Source) -> str:
    address = source(path)
    return (
        "" if address is None else f'<img class="picture" src="{text(address)}" alt="{text(path.name)}" loading="lazy">'
    )


def _files(content: Content, source: Source) -> str:
    paths = [path for path in content.pictures if path.name != "curves.png"] + content.tables
    return "".join(
        element("h3", text(path.name)) + _strip(path.name, [("", html)])
        for path in paths
        if (html := _file(path, source))
    )


# Configuration and environment ------------------------------------------------------------------------------------------------


def _config(content: Content) -> str:
    if not content.config:
        return ""
    recipe = content.recipe
    changed = [key for key in recipe.changed.split(", ") if key] if recipe else []
    changes = _changes(recipe.name if recipe else "", content.settings, changed)
    rows = "".join(
        f"<tr><th>{text(key)}</th><td>{_shown(old)}</td><td>{_shown(new)}</td></tr>"
        for key, (old, new) in changes.items()
    )
    seed = content.settings.get("seed_everything")
    said = [("seed", text(seed))] if seed is not None else []
    if recipe is not None:
        said += [(name, text(value)) for name, value in (("data", recipe.data), ("fold", recipe.fold)) if value]
    if rows:
        head = element("h3", "changed from the recipe") + (
            '<div class="wide"><table class="facts changes"><tr><th>option</th><th>recipe</th><th>this run</th></tr>'
            f"{rows}</table></div>"
        )
    else:
        head = element("p", "nothing was changed from the recipe", class_="note") if recipe and recipe.bound else ""
    lines = _lines_of(content.config, [*changes])
    marked = [
        f"<mark>{text(line)}</mark>" if i in lines else text(line) for i, line in enumerate(content.config.splitlines())
    ]
    whole = fold("config.yaml, all values", f'<pre class="config">{chr(10).join(marked)}</pre>', "config")
    return facts(said) + head + whole


def _shown(value: Any) -> str:
    """Return a value of a configuration as HTML; lists of classes with their arguments as YAML."""
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        return f"<pre>{text(yaml.safe_dump(value, sort_keys=False).strip())}</pre>"
    return text(value)


_DEFAULT = "(not given)"


def _changes(name: str, settings: Mapping[str, Any], recorded: list[str]) -> dict[str, tuple[Any, Any]]:
    """Return the options that are not the recipe's, with its value and the run's.

    Args:
        name: Of the recipe; one that is not shipped is not known any more, and what was recorded remains.
        settings: Values of the run.
        recorded: Options that the run has recorded as changed.
    """
    values = _flat(settings)
    own = next((recipe.path for recipe in catalog.shipped() if recipe.name == name), None)
    if own is None:
        return {key: ("", values.get(key, "")) for key in recorded}
    given = _flat(read_recipe(own))
    changes = {
        key: (given.get(key, _DEFAULT), values.get(key, settings.get(key, "")))
        for key in dict.fromkeys([*given, *recorded])
        if key in recorded or (key in values and not _same(values[key], given[key]))
    }
    return {
        key: pair for key, pair in changes.items() if not any(k != key and key.startswith(f"{k}.") for k in changes)
    }


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a configuration by option: of ``model: {class_path: Net, init_args: {lr: 1}}``, model and model.lr."""
    values: dict[str, Any] = {}
    if "class_path" in content:
        values[prefix] = content["class_path"]
        content = content.get("init_args") or {}
    for key, value in content.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        values |= _flat(value, name) if isinstance(value, Mapping) and value else {name: value}
    return values


def _same(value: Any, given: Any) -> bool:
    """Return whether a value is the recipe's, to which the run has added the defaults of what it leaves out."""
    if isinstance(given, list) and isinstance(value, list):
        return len(given) == len(value) and all(map(_same, value, given))
    if isinstance(given, Mapping) and isinstance(value, Mapping):
        return all(key in value and _same(value[key], given[key]) for key in given)
    return bool(value == given)


def _lines_of(config: str, keys: list[str]) -> set[int]:
    """Return the lines of a configuration, from 0, that belong to options."""
    lines: set[int] = set()

    def walk(node: yaml.Node, name: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            inner = (
                name if key.value in ("init_args", "class_path") else f"{name}.{key.value}" if name else str(key.value)
            )
            if inner in keys and key.value != "init_args":
                last = value.end_mark.line - (value.end_mark.column == 0 and value.end_mark.line > key.start_mark.line)
                lines.update(range(key.start_mark.line, max(last, key.start_mark.line) + 1))
            walk(value, inner)

    try:
        root = yaml.compose(config, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return lines
    if root is not None:
        walk(root, "")
    return lines


def _environment(content: Content) -> str:
    record = content.record
    if record is None:
        return ""
    commands = "".join(f"<pre>{text(command)}</pre>" for command in record.commands)
    rows = [(name, text(value)) for name, value in record.environment.items()]
    rows += [(name, text(value)) for name, value in (("host", record.host), ("SLURM job", record.slurm_job)) if value]
    return commands + facts(rows)

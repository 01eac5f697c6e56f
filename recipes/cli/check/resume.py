"""``zoo check --resume``: a run that is stopped and resumed from its file ends with the bits of one that is not."""

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.cli.check.one_run import Part, Recorded, RunFailed, make, read, settings_of
from recipes.cli.check.recorder import Record
from recipes.cli.check.rows import Row, not_applicable
from recipes.cli.errors import UserError
from recipes.cli.run.folder import METRICS
from recipes.cli.run.loggers import read_rows

_STEPS = 4  # optimizer steps of an epoch
_SECONDS = 20.0  # of the batches of a run, after which it ends before it has two epochs
_NAMED = 6  # differences that are named

# in the order in which one leads to the next; those of the first line are attributes of the user's objects
_ATTRIBUTES = ("model", "callback", "data")
_BITS = ("examples", "generator", "weight", "optimizer", "schedule", "loss")


@dataclass(frozen=True, order=True)
class Difference:
    """What two runs differ in.

    Args:
        kind: One of a :class:`Record`, or "row", of ``metrics.csv``.
        name: Which one.
        batch: Number of the batch, from 0; -1 for the end of the run.
        values: Of both runs, as they are shown; empty texts if there is nothing short to show.
    """

    kind: str
    name: str
    batch: int = -1
    values: tuple[str, str] = ("", "")

    @property
    def key(self) -> tuple[str, str]:
        """What differs, wherever it does."""
        return self.kind, self.name


def prove(words: list[str], overrides: list[str], configs: list[Path]) -> list[Row]:
    """Train a few steps without a stop, then with one in mid-epoch and one at the end of an epoch, and compare bit for bit.

    Args:
        words: The recipe as it was given, as arguments of ``zoo fit``.
        overrides: Further options.
        configs: The recipe's files.

    Raises:
        UserError: The recipe cannot be trained, or saves nothing.
    """
    folder = Path(tempfile.mkdtemp(prefix="zoo_check_"))
    try:
        return _Proof(words, overrides, configs, folder).rows()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Proof:
    def __init__(self, words: list[str], overrides: list[str], configs: list[Path], folder: Path) -> None:
        self.folder = folder
        try:
            args = [*(f"--config={path}" for path in configs), *overrides]
            settings = settings_of(args, overrides, folder / "settings")
        except RunFailed as error:
            raise UserError(str(error)) from None
        trainer = settings["trainer"]
        if trainer.get("fast_dev_run") or trainer.get("enable_checkpointing") is False:
            raise UserError(
                "nothing is saved with trainer.fast_dev_run or trainer.enable_checkpointing=false, so nothing can be resumed: "
                "leave it out"
            )
        seed = settings.get("seed_everything")
        self.per_epoch = _STEPS * int(trainer.get("accumulate_grad_batches") or 1)
        self.args = [*words, *overrides, "--trainer.log_every_n_steps=1"]
        self.args += ["--seed_everything=0"] if seed is None or isinstance(seed, bool) else []
        limit = trainer.get("limit_val_batches")
        self.args += ["--trainer.limit_val_batches=2"] if not isinstance(limit, int) or limit > 2 else []
        self.forked = trainer.get("devices") not in (1, "1", None) and trainer.get("strategy") in ("auto", "ddp")
        # the others of ddp's processes would be started with this command again
        self.args += ["--trainer.strategy=ddp_fork"] if self.forked else []
        limit = trainer.get("limit_train_batches")
        self.short = min(self.per_epoch, limit) if isinstance(limit, int) and limit else self.per_epoch
        self.data = str((settings.get("data") or {}).get("class_path", "the data"))
        self.runs = 0
        self.noise: set[tuple[str, str]] | None = None  # in what two runs without a stop differ

    # The runs -------------------------------------------------------------------------------------------------------

    def _new(self) -> Path:
        self.runs += 1
        return self.folder / f"run_{self.runs}"

    def _run(self, stop: int | None, batches: int | None, at: int | None = None) -> Recorded:
        """Make a run that ends after the batch ``stop``; it is stopped after the batch ``at`` and resumed."""
        folder = self._new()
        begin = [*self.args, "--runs", str(folder)]
        part = Part(begin, folder / "first", stop if at is None else at, batches, _SECONDS)
        make(part)
        parts = [part.folder]
        (run,) = (path.parent for path in folder.rglob("config.yaml"))
        if at is not None:
            parts.append(folder / "second")
            make(Part(["--resume", str(run), "--runs", str(folder)], parts[1], stop, batches, _SECONDS))
        return read(parts, [{**row} for row in read_rows(run / METRICS)[1]])

    def _uninterrupted(self) -> tuple[Recorded, str]:
        """Return a run of two short epochs, or if it refuses them, one of a part of an epoch; and why it is that."""
        whole, limit = self.args, f"--trainer.limit_train_batches={self.short}"
        self.args = [*whole, limit]
        try:
            return self._run(None, None), ""
        except RunFailed as refused:
            self.args = whole
            try:
                return self._run(None, 2 * self.per_epoch), str(refused)
            except RunFailed as failed:
                raise UserError(f"the run fails before it can be stopped: {failed}") from None

    # The rows -------------------------------------------------------------------------------------------------------

    def rows(self) -> list[Row]:
        whole, refused = self._uninterrupted()
        last = max(whole.steps)
        steps, epochs = whole.steps[last], len(set(whole.epochs.values()))
        processes = f", {len(whole.records)} processes" if len(whole.records) > 1 else ""
        begun = f"{epochs} epoch{'s' * (epochs > 1)}"
        detail = f"{steps} optimizer steps, {last + 1} batches, {begun}{processes}; compared with all that follows"
        rows = [Row("uninterrupted", "pass", detail, more={"steps": steps, "batches": last + 1, "epochs": epochs})]
        within = [b for b in whole.steps if b + 1 in whole.steps and whole.epochs[b] == whole.epochs[b + 1]]
        stepped = [b for b in within if whole.steps[b] > whole.steps.get(b - 1, 0)]
        middle = stepped[min(1, len(stepped) - 1)] if stepped else None
        ends = [b for b in whole.steps if b + 1 in whole.steps and whole.epochs[b] != whole.epochs[b + 1]]
        if middle is None:
            rows.append(not_applicable("mid-epoch", "an epoch has one step"))
        else:
            rows.append(self._stopped("mid-epoch", whole, middle))
        if ends:
            rows.append(self._stopped("end of an epoch", whole, ends[0]))
        else:
            why = f"it cannot have short epochs: {refused}" if refused else f"not reached within {last + 1} batches"
            rows.append(not_applicable("end of an epoch", why))
        if self.noise is not None:
            rows.append(self._repeated(whole))
        return rows

    def _stopped(self, name: str, whole: Recorded, at: int) -> Row:
        last = max(whole.steps)
        where = f"stopped after step {whole.steps[at]} (batch {at + 1}), resumed to step {whole.steps[last]}"
        more: dict[str, Any] = {"stopped_at": whole.steps[at]}
        try:
            resumed = self._run(last, None, at)
        except RunFailed as error:
            cure = "what is saved must be taken by what is loaded: on_save_checkpoint, state_dict against their counterparts"
            return Row(name, "fail", f"{where}: {error}", cure, {**more, "differences": [str(error)]})
        found = differences(whole, resumed)
        if found and self.noise is None:
            again = self._run(last, None)
            self._again = again
            self.noise = {difference.key for difference in every_difference(whole, again)}
        left = [difference for difference in found if difference.key not in (self.noise or set())]
        bits = [difference for difference in left if difference.kind not in (*_ATTRIBUTES, "row")]
        if not left:
            what = "the same bits" if not found else "the same bits, but for what differs without a stop, too"
            return Row(name, "pass", f"{where}: {what}", more={**more, "differences": []})
        texts = [described(difference, self.data) for difference in left]
        named = "; ".join(texts[:_NAMED]) + (f"; and {len(texts) - _NAMED} more" if len(texts) > _NAMED else "")
        more["differences"] = texts
        if not bits:
            return Row(name, "warn", f"{where}: the same bits, but these differ: {named}", cure_of(left), more)
        return Row(name, "fail", f"{where}: {named}", cure_of(left), more)

    def _repeated(self, whole: Recorded) -> Row:
        found = [difference for difference in differences(whole, self._again) if difference.kind in _BITS]
        if not found:
            return Row(
                "run twice", "pass", "two runs without a stop are the same: the stop is what makes the difference"
            )
        text = "; ".join(described(difference, self.data) for difference in found[:_NAMED])
        how = (
            "--trainer.deterministic=true (or warn) names or replaces such kernels; draw only from generators that "
            "seed_everything sets"
        )
        return Row("run twice", "fail", f"two runs without a stop differ already: {text}", how, {"differences": [text]})


# Comparing --------------------------------------------------------------------------------------------------------------


def _compared(one: Record, two: Record, kinds: Iterable[str], batch: int) -> list[Difference]:
    found = []
    for kind in kinds:
        first, second = one.get(kind, {}), two.get(kind, {})
        for name in [*first, *(name for name in second if name not in first)]:
            here, there = first.get(name), second.get(name)
            if here != there:
                shown = ("", "")
                if isinstance(here, tuple) and isinstance(there, tuple):
                    shown = (here[1], there[1])
                found.append(Difference(kind, name, batch, shown))
    return found


def every_difference(whole: Recorded, other: Recorded) -> list[Difference]:
    """Return all that two runs differ in, in the order of the batches, then the rows, then what was saved last."""
    found = []
    for rank, records in enumerate(whole.records):
        there = other.records[rank] if rank < len(other.records) else {}
        for batch in sorted(records.keys() | there.keys()):
            found += _compared(records.get(batch, {}), there.get(batch, {}), (*_ATTRIBUTES, *_BITS), batch)
    found.sort(key=lambda difference: difference.batch)
    found += _of_rows(whole.rows, other.rows)
    for one, two in zip(whole.end, other.end, strict=False):
        found += _compared(one, two, (*_BITS, "saved"), -1)
    return found


def differences(whole: Recorded, other: Recorded) -> list[Difference]:
    """Return the most telling differences: of the first batch that has any, of the rows, and of the end if there are no others.

    An attribute that differs counts where a bit of the training does, or if it still does at the last batch.
    """
    found = every_difference(whole, other)
    bits = [difference for difference in found if difference.kind not in _ATTRIBUTES]
    last = max(whole.steps)
    attributes = [difference for difference in found if difference.kind in _ATTRIBUTES]
    if not bits:
        return _once(difference for difference in attributes if difference.batch == last)
    first = min((difference.batch for difference in bits if difference.batch >= 0), default=last)
    causes = [difference for difference in attributes if difference.batch <= first]
    lasting = {difference.key for difference in attributes if difference.batch == last}
    # what is the same again later was only not set yet
    causes = [difference for difference in causes if difference.key in lasting]
    effects = [difference for difference in bits if difference.batch == first]
    rows = [difference for difference in bits if difference.kind == "row"][:2]
    ends = [difference for difference in bits if difference.batch < 0 and difference.kind != "row"]
    return _once([*causes, *effects, *rows, *([] if effects else ends)])


def _once(found: Iterable[Difference]) -> list[Difference]:
    return list({difference.key: difference for difference in reversed([*found])}.values())[::-1]


def _of_rows(one: Sequence[dict[str, str]], two: Sequence[dict[str, str]]) -> list[Difference]:
    found = []
    for first, second in zip(one, two, strict=False):
        names = [*first, *(name for name in second if name not in first)]
        for name in names:
            here, there = first.get(name) or "", second.get(name) or ""
            if here != there:
                found.append(
                    Difference(
                        "row", name, -1, (f"{here or 'nothing'} at step {first.get('step')}", there or "nothing")
                    )
                )
    if len(one) != len(two):
        found.append(Difference("row", "number of rows", -1, (str(len(one)), str(len(two)))))
    return found


# In the user's terms ----------------------------------------------------------------------------------------------------


def described(difference: Difference, data: str) -> str:
    """Return a difference in the user's terms."""
    name, batch = difference.name, difference.batch
    when = f"at batch {batch + 1}" if batch >= 0 else "at the end"
    values = f" ({difference.values[0]}, resumed {difference.values[1]})" if any(difference.values) else ""
    of, _, attribute = name.partition(".")
    saved, _, rest = name.partition(".")
    texts = {
        "examples": f"the examples of batch {batch + 1}",
        "generator": f"{name}'s global generator {when}",
        "weight": f"{name} {when}",
        "optimizer": f"the optimizer's {name} {when}",
        "schedule": f"the optimizer's {name} {when}",
        "loss": f"the loss of batch {batch + 1}",
        "model": f"{name} of your model {when}{values}",
        "callback": f"{attribute} of your callback {of} {when}{values}",
        "data": f"{name} of your {data.rpartition('.')[2]} {when}{values}",
        "row": f"{name} in {METRICS}{values}",
        "saved": f"{rest or saved} of the {saved} in the checkpoint" if rest else f"{saved} in the checkpoint",
    }
    return texts[difference.kind]


def cure_of(found: Sequence[Difference]) -> str:
    """Return what to do about the first cause that is known."""
    kinds = {difference.kind for difference in found}
    of = next((difference.name.partition(".")[0] for difference in found if difference.kind == "callback"), "")
    cures = {
        "callback": f"save it: your callback {of} needs state_dict and load_state_dict that hold it",
        "data": (
            "save it in state_dict and load_state_dict of your data, or let the order be a function of seed, epoch and batch, as "
            "that of a datamodules.DataModule is"
        ),
        "model": (
            "save it: register_buffer for a tensor, on_save_checkpoint and on_load_checkpoint for all else (a generator's state, "
            "too); or draw from the global generators, which are saved"
        ),
        "examples": (
            "the loader begins otherwise: a DataLoader of one's own starts its epoch again, and its shuffle draws anew; give the "
            "data as a datamodules.DataModule, which resumes in mid-epoch"
        ),
        "generator": "something draws from it before the first batch of the resumed run: a hook or a loader that starts",
    }
    for kind, text in cures.items():
        if kind in kinds:
            return text
    if kinds <= {"loss", "row", "weight", "optimizer", "saved", "schedule"}:
        first = {difference.kind for difference in found if difference.batch >= 0}
        if "weight" in first or "optimizer" in first or "schedule" in first:
            return "what is loaded is changed before the first batch: in on_load_checkpoint, setup, on_fit_start or on_train_start"
        if "loss" in first:
            return (
                "examples, weights and global generators are the same: the step uses something that no file holds, such as a "
                "generator or a counter of a module of Python's"
            )
    if kinds == {"row"}:
        return (
            "a mean over an epoch that self.log(..., on_epoch=True) keeps is in no checkpoint: log steps, give the value after the "
            "epoch from a state of your own that is saved, or build on zoo.Task, whose means are exact"
        )
    return "what is saved comes from a state that no file holds: save it with the checkpoint"

"""What goes wrong in training: each pathology as a rule over what was recorded of a run, with its evidence and its cure.

The rules are functions of a :class:`Record` alone. Their thresholds were set on planted faults of one seed and on healthy runs of
the bundled recipes, and judged on the faults of another: docs/diagnostics.md.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

SAMPLES = 10  # rows that a rule looks back on
PATIENCE = 0.3  # share of the run after which a model should have found out what it is for
LATER = 3  # validations in a row that must agree
WORSE = 5  # validations in a row that must be worse than the best


@dataclass(frozen=True)
class Diagnosis:
    """A pathology that was found.

    Args:
        name: One of :data:`NAMES`.
        evidence: The numbers that tell.
        cure: What to try.
        epoch, step: When it was found.
    """

    name: str
    evidence: str
    cure: str
    epoch: int
    step: int

    def __str__(self) -> str:
        return f"{self.name} (epoch {self.epoch}, step {self.step}): {self.evidence}. {self.cure}."


@dataclass
class Row:
    """What was measured at one step.

    Args:
        step: Optimizer steps done.
        epoch: Epochs done, with a fraction.
        loss: Mean loss of the batches since the row before.
        lr: Largest learning rate.
        update: Norm of the update over that of the weights; the largest of several optimizers.
        gradients: Root mean square of the gradient of each weight (matrices, filters), in the order of the net.
        dead: Share of the dead units of each layer with ReLU.
        saturated: Share of the saturated values of each layer with tanh or sigmoid.
    """

    step: int
    epoch: float
    loss: float
    lr: float = 0.0
    update: float = math.nan
    gradients: dict[str, float] = field(default_factory=dict)
    dead: dict[str, float] = field(default_factory=dict)
    saturated: dict[str, float] = field(default_factory=dict)


@dataclass
class Validation:
    """What was measured at one validation.

    Args:
        step: Optimizer steps done.
        epoch: Epochs done, with a fraction.
        train_loss: Mean loss of the training batches since the validation before.
        val_loss: Loss of validation, nan if there is none.
        seen_loss: Loss of the last training batches in evaluation mode, nan if it is not known.
        numbers: What the module's ``diagnostic_numbers`` gave.
    """

    step: int
    epoch: float
    train_loss: float = math.nan
    val_loss: float = math.nan
    seen_loss: float = math.nan
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass
class Record:
    """What is known of a run so far.

    Args:
        rows, validations: What was measured.
        start_loss: Loss of the first batch.
        expected_loss: Loss of a fresh net that knows nothing, None where there is no such number.
        loss_floor: Smallest loss that a perfect net can reach.
        share_done: Share of the run that is done; nan if it has no end.
        gains: Of each weight at the start: root mean square times the square root of the number of incoming values; about 1.
        twins: Weights at the start of which all units are the same.
        overlap: Share of validation inputs that were seen in training; nan before it is known.
        repeats: Share of the training inputs that repeat another.
        shift: Distance of the means of validation inputs from those of training, in deviations; nan before it is known.
        spread: Variance of validation inputs over that of training inputs.
        not_finite: Where a value was first not finite, "" as long as all are.
    """

    rows: list[Row] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)
    start_loss: float = math.nan
    expected_loss: float | None = None
    loss_floor: float = 0.0
    share_done: float = math.nan
    gains: dict[str, float] = field(default_factory=dict)
    twins: list[str] = field(default_factory=list)
    overlap: float = math.nan
    repeats: float = 0.0
    shift: float = math.nan
    spread: float = math.nan
    not_finite: str = ""

    @property
    def first_loss(self) -> float:
        """The loss at the beginning: of the first batch, or the expected one if that is larger."""
        return max(self.start_loss, self.expected_loss or 0.0)

    @property
    def is_settled(self) -> bool:
        """Whether the first epoch is over, or much of a run that has only few, and there is something to look back on."""
        return len(self.rows) > SAMPLES and (self.rows[-1].epoch >= 1 or self.share_done >= PATIENCE)

    @property
    def recent(self) -> list[Row]:
        return self.rows[-SAMPLES:]

    @property
    def recent_loss(self) -> float:
        return median(row.loss for row in self.recent)

    @property
    def recent_update(self) -> float:
        known = [row.update for row in self.recent if math.isfinite(row.update)]
        return median(known) if known else math.nan

    @property
    def rate_is_full(self) -> bool:
        """Whether the learning rate neither warms up nor has decayed by much."""
        most = max(row.lr for row in self.rows)
        return min(row.lr for row in self.recent) >= 0.3 * most

    @property
    def compared(self) -> list[Validation]:
        """Validations of which the losses of training and validation are known."""
        return [v for v in self.validations if math.isfinite(v.train_loss) and math.isfinite(v.val_loss)]

    def last_numbers(self, name: str, count: int = LATER) -> list[float]:
        """Return a number of the module's own at the last validations; none if there were fewer, or it is early."""
        found = [v.numbers[name] for v in self.validations if name in v.numbers]
        early = not self.is_settled or self.share_done < PATIENCE  # many begin so
        return found[-count:] if len(found) >= count and not early else []


def _not_finite(record: Record) -> str | None:
    return record.not_finite or None


def _exploded(record: Record) -> str | None:
    if not record.rows or not record.first_loss > 0:
        return None
    now = record.rows[-1].loss
    if not now > 3 * record.first_loss:
        return None
    return f"the loss is {now:.4g}, above three times that of the start, {record.first_loss:.4g}"


def _vanishing(record: Record) -> str | None:
    if not record.is_settled:
        return None
    names = list(record.rows[-1].gradients)
    if len(names) < 4:
        return None
    quarter = max(1, len(names) // 4)
    ratios = []
    for row in record.recent:
        if list(row.gradients) != names:
            return None
        values = list(row.gradients.values())
        top = max(values[-quarter:])
        if top == 0 or not math.isfinite(top):
            return None
        ratios.append(max(values[:quarter]) / top)
    if not 0 < median(ratios) < 1e-4:  # exactly 0: units are dead, or another path is not used
        return None
    return f"gradients of {names[0]} are {median(ratios):.1e} of those of {names[-1]}"


def _dying(record: Record) -> str | None:
    if not record.is_settled:
        return None
    layers = {name: min(row.dead.get(name, 0.0) for row in record.recent) for name in record.rows[-1].dead}
    if not layers:
        return None
    worst = max(layers, key=lambda name: layers[name])
    mean = sum(layers.values()) / len(layers)
    if layers[worst] < 0.99 and mean < 0.6:
        return None
    many = f", on average {mean:.0%} of those of a layer" if mean >= 0.6 else ""
    return f"{layers[worst]:.0%} of the units of {worst}{many} are 0 for all examples of every batch that was looked at"


def _saturated(record: Record) -> str | None:
    if not record.is_settled:
        return None
    began = record.rows[0].saturated
    layers = {
        name: min(row.saturated.get(name, 0.0) for row in record.recent)
        for name in record.rows[-1].saturated
        if not name.endswith(".sigmoid") or began.get(name, 0.0) > 0.5  # a gate learns to close
    }
    if not layers:
        return None
    worst = max(layers, key=lambda name: layers[name])
    if layers[worst] < 0.8:
        return None
    return f"{layers[worst]:.0%} of the values of {worst} are where the function is flat"


def _too_high(record: Record) -> str | None:
    if not record.is_settled or _has_bad_gains(record):
        return None
    update = max((row.update for row in record.rows if math.isfinite(row.update)), default=0.0)
    loss = max(row.loss for row in record.rows)
    if update < 0.15 or not loss > 1.5 * record.first_loss > 0:
        return None
    return (
        f"an update changed the weights by {update:.1e} of their norm (about 1e-3 is healthy), and the loss rose from "
        f"{record.first_loss:.4g} to {loss:.4g}"
    )


def _is_flat(record: Record, share: float) -> bool:
    start = record.first_loss - record.loss_floor
    return start > 0 and record.recent_loss - record.loss_floor > (1 - share) * start


def _has_bad_gains(record: Record) -> bool:
    odd = [gain for gain in record.gains.values() if not 0.05 < gain < 20]
    return bool(record.twins) or len(odd) > len(record.gains) / 2


def _too_low(record: Record) -> str | None:
    if not record.is_settled or _has_bad_gains(record) or not record.rate_is_full:
        return None
    if not record.recent_update <= 2e-5 or not _is_flat(record, 0.1):
        return None
    return (
        f"an update changes the weights by {record.recent_update:.1e} of their norm (about 1e-3 is healthy), and the loss has come "
        f"from {record.first_loss:.4g} to {record.recent_loss:.4g} only"
    )


def _plateau(record: Record) -> str | None:
    if not record.is_settled or not _has_bad_gains(record) or not _is_flat(record, 0.05):
        return None
    odd = [f"{name} ({gain:.2g})" for name, gain in record.gains.items() if not 0.05 < gain < 20]
    why = (
        f"all units of {record.twins[0]} started the same"
        if record.twins
        else f"the scale of {odd[0]} was not near 1 at the start"
    )
    return f"the loss stays at {record.recent_loss:.4g} ({record.first_loss:.4g} at the start), and {why}"


def _underfit(record: Record) -> str | None:
    if len(record.rows) < 3 * SAMPLES or not record.is_settled or not record.share_done >= 0.5:
        return None
    if not record.recent_update >= 1e-5:  # the rate is what is wrong, or has decayed
        return None
    start = record.first_loss - record.loss_floor
    third = record.rows[-len(record.rows) // 3 :]
    half = len(third) // 2
    before, now = (median(row.loss for row in part) for part in (third[:half], third[half:]))
    if not start > 0 or now - record.loss_floor < 0.7 * start or before - now > 0.02 * before:
        return None
    return f"the training loss has settled at {now:.4g}, {(now - record.loss_floor) / start:.0%} of that of the start"


def _overfit(record: Record) -> str | None:
    known = record.compared
    if len(known) <= WORSE or not record.is_settled:
        return None
    best = min(range(len(known)), key=lambda i: known[i].val_loss)
    then, later, now = known[best], known[best + 1 :][-WORSE:], known[-1]
    if len(later) < WORSE or then.val_loss <= 0:
        return None
    risen = min(v.val_loss for v in later) - then.val_loss
    if risen < max(0.25 * then.val_loss, 0.05 * record.first_loss) or now.train_loss > 0.5 * then.train_loss:
        return None
    return (
        f"val/loss was best in epoch {math.ceil(then.epoch)} ({then.val_loss:.4g}) and is {now.val_loss:.4g} now, while that of "
        f"training fell from {then.train_loss:.4g} to {now.train_loss:.4g}"
    )


def _too_easy(record: Record) -> str | None:
    if record.overlap >= 0.05 and record.overlap > 2 * record.repeats:
        return f"{record.overlap:.0%} of the validation inputs are inputs of training, to the bit"
    known = record.validations[-LATER:]
    if (
        len(known) < LATER
        or not record.is_settled
        or record.loss_floor > 0
        or not all(v.val_loss < 0.4 * v.seen_loss for v in known)
    ):
        return None
    now = known[-1]
    if now.seen_loss - now.val_loss < 0.1 * record.first_loss:  # both are near 0
        return None
    return (
        f"val/loss is {now.val_loss:.4g} and the loss of training batches, without dropout, {now.seen_loss:.4g}, for {LATER} "
        "validations in a row"
    )


def _mismatch(record: Record) -> str | None:
    if record.shift > 0.5:
        return f"the means of validation inputs are {record.shift:.2g} deviations from those of training inputs"
    if math.isfinite(record.spread) and not 0.4 < record.spread < 2.5:
        return f"the variance of validation inputs is {record.spread:.2g} times that of training inputs"
    return None


def _mode_collapse(record: Record) -> str | None:
    values = record.last_numbers("sample_diversity")
    if not values or max(values) > 0.3:
        return None
    return f"samples differ by {values[-1]:.0%} of what real examples differ by, for {LATER} validations in a row"


def _posterior_collapse(record: Record) -> str | None:
    values = record.last_numbers("active_share")
    if not values or max(values) > 0.1:
        return None
    return f"{values[-1]:.0%} of the numbers of the code depend on the input, for {LATER} validations in a row"


def _still_attention(record: Record) -> str | None:
    values = record.last_numbers("attention_movement")
    if not values or max(values) > 0.02:
        return None
    return f"attention moves by {values[-1]:.1%} of its weight from step to step, for {LATER} validations in a row"


def _forcing_gap(record: Record) -> str | None:
    forced, written = (record.last_numbers(name) for name in ("forced_accuracy", "written_accuracy"))
    if not forced or not written:
        return None
    if not all(f > 0.5 and f - w > 0.3 for f, w in zip(forced, written, strict=True)):
        return None
    return (
        f"{forced[-1]:.0%} of the tokens are right where the true ones are read, {written[-1]:.0%} where the model reads its own, "
        f"for {LATER} validations in a row"
    )


# name -> rule, cure
RULES: dict[str, tuple[Callable[[Record], str | None], str]] = {
    "not finite": (_not_finite, "Lower the learning rate, clip the gradient, or look for such values in the data"),
    "loss exploded": (_exploded, "Lower the learning rate, add a warm-up, or clip the gradient"),
    "vanishing gradients": (
        _vanishing,
        "Take ReLU for sigmoid and tanh, Kaiming or Xavier initialization, normalization, or residual connections",
    ),
    "dying ReLU": (
        _dying,
        "Lower the learning rate, take a leaky ReLU, start biases at 0 or above, or add normalization",
    ),
    "saturation": (_saturated, "Initialize with smaller weights (Xavier), standardize the input, or take ReLU"),
    "rate too high": (_too_high, "Lower the learning rate by a factor of 3 to 10 (zoo fit --find-lr)"),
    "rate too low": (_too_low, "Raise the learning rate by a factor of 10 (zoo fit --find-lr)"),
    "plateau from initialization": (
        _plateau,
        "Initialize with random weights of the right scale: init='kaiming' or 'xavier'",
    ),
    "underfit": (_underfit, "Take a larger or more fitting net, train longer, or regularize less"),
    "overfit": (
        _overfit,
        "Keep the best checkpoint and stop there, take more data or augmentation, dropout, weight decay, or a smaller net",
    ),
    "validation too easy": (
        _too_easy,
        "Look for training examples in the validation part (zoo check), and at how it was chosen: its number says too much",
    ),
    "distribution mismatch": (
        _mismatch,
        "Split at random, and read, scale and crop both parts alike; or collect training data like those of validation",
    ),
    "mode collapse": (
        _mode_collapse,
        "Take loss='wasserstein' with gradient_penalty, a lower rate of the generator, or a larger batch",
    ),
    "posterior collapse": (_posterior_collapse, "Warm the kl up (kl_warmup), lower beta, or take a weaker decoder"),
    "attention does not move": (
        _still_attention,
        "Raise the learning rate of its layers, look at its initialization, or at whether the decoder can do without",
    ),
    "teacher-forcing gap": (
        _forcing_gap,
        "Train with scheduled sampling (teacher_forcing, forcing_schedule), or longer",
    ),
}
NAMES = tuple(RULES)
OF_VALIDATION = ("overfit", "validation too easy", "distribution mismatch", *NAMES[-4:])


def diagnose(record: Record, names: tuple[str, ...] = NAMES) -> list[Diagnosis]:
    """Return what is wrong now, of the pathologies with these names."""
    step, epoch = (record.rows[-1].step, record.rows[-1].epoch) if record.rows else (0, 0.0)
    found = []
    for name in names:
        rule, cure = RULES[name]
        if (evidence := rule(record)) is not None:
            found.append(Diagnosis(name, evidence, cure, math.ceil(epoch), step))
    return found

"""Distillation: a small net learns from the labels and from a larger one, its teacher.

Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531; features: Romero et al. 2015, "FitNets: Hints
for Thin Deep Nets", arXiv:1412.6550.

Deviations from the papers: features are learned together with the labels, not in a stage of their own before them, through a 1x1
convolution on maps that are averaged to the smaller size of the two (FitNets' regressor is a convolution that shrinks the student's
map), and their loss is a mean, not half a sum.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn

from zoo.blocks.modes import evaluating
from zoo.create import load
from zoo.internals import apply_to, is_fitting
from zoo.losses.distillation import feature_losses, soft_losses
from zoo.losses.means import weighted_mean
from zoo.model import real_device
from zoo.registry import register_task
from zoo.spelling import suggest
from zoo.tasks.classification import ClassificationArguments, ClassificationTask


class DistillationArguments(ClassificationArguments, total=False):
    """Arguments of :class:`DistillationTask` but the net and ``num_classes``."""

    teacher: str | None
    temperature: float
    alpha: float
    features: dict[str, str] | None
    feature_weight: float
    feature_channels: dict[str, list[int]] | None


class DistillationTask(ClassificationTask):
    """Train a net, the student, as a classifier that also imitates a trained one, its teacher.

    The loss is ``(1 - alpha) * loss + alpha * T^2 * soft_loss + feature_weight * feature_loss``, each logged by its name:

    - ``loss``: that of :class:`zoo.ClassificationTask`, with its class weights, label smoothing and auxiliary heads;
    - ``soft_loss``: the divergence from the teacher's probabilities to the student's, in nats, both of logits divided by T; of
      binary and multi-label models that of each output by itself, the mean over labels;
    - ``feature_loss``: the mean squared difference between outputs of the teacher's layers and of the student's, which a 1x1
      convolution maps to the teacher's channels where there are more or less of them. Maps are averaged to the smaller height and
      width of the two before; a vector is a map of one pixel. Of several pairs the mean counts.

    All are means over examples, with the weights of the batch. Terms of weight 0 are neither computed nor logged. The model is the
    student: evaluation, ``monitor``, predictions and files are as of :class:`zoo.ClassificationTask`.

    The teacher is no part of the model: not in its files, parameters, averages or penalties. It gets the same batch as the student,
    standardized with its own mean and deviation, in evaluation mode and without gradients. A model that is loaded has none; to fit
    it again, give one: ``zoo.load(path, teacher=...)``. A run that is resumed must have the teacher that it began with.

    Args:
        net: The student; see :class:`zoo.ClassificationTask`.
        num_classes: Number of classes K.
        teacher: What :func:`zoo.load` takes (a bundled name, a folder, a checkpoint), or a run folder, for its best checkpoint. A
            classifier of the same classes, trained on inputs of the same shape.
        temperature: T, > 0. The higher, the more the teacher's small probabilities count.
        alpha: Share of the soft loss, in [0, 1].
        features: Layer of the student -> layer of the teacher whose output it imitates, named as in ``net.named_modules()``; the
            outputs are ``(B, C, H, W)`` or ``(B, C)``, of a layer that is used several times the last one.
        feature_weight: Weight of the features' loss, >= 0; it needs ``features``.
        feature_channels: Channels of the student's and of the teacher's layer, by the student's layer; the teacher fills them in.
        net_args, in_channels, preprocessing: See :class:`zoo.ClassificationTask`.
        task: Further arguments of :class:`zoo.ClassificationTask`.

    Shape:
        batch: as of :class:`zoo.ClassificationTask`.

    Raises:
        FileNotFoundError: There is no such teacher.
        ValueError: An argument out of its range, a teacher of other classes, or a layer that does not exist or has no such output.

    Example:
        >>> task = DistillationTask("lenet5", teacher="lenet5_digits", in_channels=1, net_args={"width": 3})
        >>> _, means, count = task.training_losses((torch.rand(2, 1, 32, 32), torch.tensor([3, 8])))
        >>> sorted(means), count
        (['acc', 'loss', 'soft_loss'], 2)
    """

    other_sources = ("teacher",)
    training_sources = ("teacher",)
    training_arguments = (
        *ClassificationTask.training_arguments,
        *("temperature", "alpha", "features", "feature_weight", "feature_channels"),
    )
    filled_arguments = (*ClassificationTask.filled_arguments, "feature_channels")
    _teacher: Any = None
    _digest: str | None = None  # of the teacher's tensors

    def __init__(
        self,
        net: str | nn.Module,
        num_classes: int = 10,
        teacher: str | None = None,
        temperature: float = 4.0,
        alpha: float = 0.9,
        features: dict[str, str] | None = None,
        feature_weight: float = 0.0,
        feature_channels: dict[str, list[int]] | None = None,
        net_args: dict[str, Any] | None = None,
        in_channels: int | None = None,
        preprocessing: dict[str, Any] | None = None,
        **task: Unpack[ClassificationArguments],
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is the share of the soft loss, in [0, 1], got {alpha}")
        if not feature_weight >= 0:
            raise ValueError(f"feature_weight must be 0 or more, got {feature_weight}")
        if feature_weight and not features:
            raise ValueError(
                f"feature_weight {feature_weight} needs features: name a layer of the student and the layer of the teacher that it "
                "imitates, such as features={'conv2': 'layer3'}"
            )
        if teacher is not None:
            with real_device():  # the student may be built on the meta device, for weights to come
                self._take_teacher(teacher, num_classes, task.get("mode", "multiclass"))
        super().__init__(
            net,
            num_classes,
            net_args=net_args,
            in_channels=in_channels,
            preprocessing=preprocessing,
            **task,
        )
        self.teacher = teacher

    # The teacher ----------------------------------------------------------------------------------------------------

    def _take_teacher(self, name: str, num_classes: int, mode: str) -> None:
        """Load the teacher, which is no submodule."""
        try:
            teacher: Any = load(_model_in(name))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"the teacher cannot be loaded: {error}") from error
        if not isinstance(teacher, ClassificationTask):
            raise ValueError(f"teacher must be a classifier, got {type(teacher).__name__} from {name}")  # noqa: TRY004 (of a str)
        what = f"the teacher {name} cannot teach this student: it knows"
        if (teacher.num_classes, teacher.mode) != (num_classes, mode):
            raise ValueError(
                f"{what} {teacher.num_classes} classes ({teacher.mode}: {_some(teacher.label_names)}), the student has "
                f"{num_classes} ({mode})"
            )
        # set past nn.Module, whose constructor has not run yet and which would make a part of it
        self.__dict__.update(_teacher=teacher.requires_grad_(False), _digest=_digest_of(teacher.state_dict()))

    def _needed_teacher(self) -> ClassificationTask:
        """Return the teacher.

        Raises:
            ValueError: There is none.
        """
        if self._teacher is None:
            raise ValueError(
                f"{type(self).__name__} has no teacher to learn from, as files of a student hold none: give teacher=... (on the "
                "command line --model.teacher), a run folder, a checkpoint, a folder that save_pretrained wrote or a bundled name"
            )
        teacher: ClassificationTask = self._teacher
        return teacher

    def _check_teacher(self) -> None:
        """Compare the teacher with the data.

        Raises:
            ValueError: No teacher, or one of other classes, or of inputs of another shape.
        """
        teacher = self._needed_teacher()
        what = f"the teacher {self.teacher} cannot teach about these data: it knows"
        if None not in (teacher.class_names, self.class_names) and teacher.class_names != self.class_names:
            raise ValueError(
                f"{what} the classes {_some(teacher.label_names)}, the data have {_some(self.label_names)}: give a teacher that "
                "was trained on the same classes, in the same order"
            )
        if None not in (teacher.input_shape, self.input_shape) and teacher.input_shape != self.input_shape:
            raise ValueError(
                f"{what} inputs of shape {teacher.input_shape}, the data have {self.input_shape}: give a teacher that was trained "
                "on inputs of the data's shape"
            )

    def setup(self, stage: str) -> None:
        """Compare the teacher with the data too, before a fit."""
        super().setup(stage)
        if stage == "fit":
            self._check_teacher()

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move and cast the teacher with the student."""
        super()._apply(fn, recurse)
        if self._teacher is not None:
            apply_to(self._teacher, fn)
        return self

    # Features -------------------------------------------------------------------------------------------------------

    @property
    def _pairs(self) -> list[tuple[str, str]]:
        """Layers of the student and of the teacher, whatever the order in which they were given."""
        return sorted(self.hparams["features"].items()) if self.hparams["feature_weight"] else []

    def build_parts(self) -> None:
        """Build the projectors, a 1x1 convolution for each pair of layers with different channels."""
        super().build_parts()
        if not self._pairs:
            return
        for layer, _ in self._pairs:
            _check_layer(self.net, layer, "student")
        channels = self.hparams["feature_channels"]
        if self._teacher is not None:
            measured = self._measured_channels()
            if channels not in (None, measured):
                raise ValueError(
                    f"feature_channels is {channels}, the layers of this student and its teacher have {measured}: leave it out, or "
                    "give the teacher that it was trained with"
                )
            channels = self.hparams["feature_channels"] = measured
        projectors = nn.ModuleDict()
        for i, (layer, _) in enumerate(self._pairs):
            sizes = (channels or {}).get(layer, ())
            if len(sizes) == 2 and min(sizes) > 0 and sizes[0] != sizes[1]:
                projectors[str(i)] = nn.Conv2d(sizes[0], sizes[1], 1)
        if projectors:
            self.projectors = projectors
            self.trained_parts = ("net", "projectors")

    def _measured_channels(self) -> dict[str, list[int]]:
        """Run one example of zeros through both nets."""
        teacher = self._needed_teacher()
        for _, layer in self._pairs:
            _check_layer(teacher.net, layer, "teacher")
        shape, sizes = teacher.example_shape, []
        for net, layers in ((self.net, [a for a, _ in self._pairs]), (teacher.net, [b for _, b in self._pairs])):
            like = next(net.parameters())
            try:
                with evaluating(net), _outputs_of(net, layers) as outputs:
                    net(torch.zeros(1, *shape, device=like.device, dtype=like.dtype))
            except (RuntimeError, IndexError, ValueError) as error:
                raise ValueError(
                    f"{type(net).__name__} cannot take the teacher's input of shape {shape}: {error}"
                ) from error
            sizes.append([_as_map(outputs.get(layer), layer, net).shape[1] for layer in layers])
        return {layer: [mine, its] for (layer, _), mine, its in zip(self._pairs, *sizes, strict=True)}

    def _feature_losses(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over the pairs of layers, of each example ``(B,)``."""
        losses = []
        for i, (mine, its) in enumerate(self._pairs):
            maps = _as_map(student.get(mine), mine, self.net), _as_map(teacher.get(its), its, self._teacher.net)
            size = min(x.shape[2] for x in maps), min(x.shape[3] for x in maps)
            small, target = (nn.functional.adaptive_avg_pool2d(x, size) for x in maps)  # (B, C, H, W)
            project = dict(getattr(self, "projectors", {})).get(str(i), nn.Identity())
            losses.append(feature_losses(project(small), target))
        return torch.stack(losses).mean(dim=0)

    # Training -------------------------------------------------------------------------------------------------------

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        """Return the loss, and the means that are logged: those of :class:`zoo.ClassificationTask`, and the two losses above."""
        teacher, h = self._needed_teacher(), self.hparams
        x, _, *rest = batch
        weight = rest[0] if rest else None
        with _outputs_of(self.net, [a for a, _ in self._pairs]) as features:
            logits, auxiliary = self._outputs(x)
        loss, means, count = self.label_losses(logits, auxiliary, batch)
        if not (h["alpha"] or h["feature_weight"]):
            return loss, means, count
        with torch.no_grad(), _outputs_of(teacher.net, [b for _, b in self._pairs]) as targets:
            wanted = teacher(x)
            wanted = wanted[0] if isinstance(wanted, tuple) else wanted
        if wanted.shape != logits.shape:
            raise ValueError(f"the teacher gives {tuple(wanted.shape)} for a batch, the student {tuple(logits.shape)}")
        if h["alpha"]:
            losses = soft_losses(logits, wanted, h["temperature"], independent=self.mode != "multiclass")
            losses = losses.squeeze(1) if self.mode == "binary" else losses
            means["soft_loss"], _ = weighted_mean(losses, weight)
            loss = (1 - h["alpha"]) * loss + h["alpha"] * h["temperature"] ** 2 * means["soft_loss"]
        if h["feature_weight"]:
            rows = None if weight is None else weight.flatten(1).mean(dim=1) if weight.ndim > 1 else weight
            means["feature_loss"], _ = weighted_mean(self._feature_losses(features, targets), rows)
            loss = loss + h["feature_weight"] * means["feature_loss"]
        return loss, means, count

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the digest of the teacher's tensors."""
        super().on_save_checkpoint(checkpoint)
        if self._digest is not None:
            checkpoint["zoo"]["teacher"] = self._digest

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to resume a run with another teacher than it began with."""
        began = (checkpoint.get("zoo") or {}).get("teacher")
        if is_fitting(self) and began not in (None, self._digest):
            raise ValueError(
                f"the run began with another teacher than {self.teacher}: the digest of its tensors was {began[:16]}, here it is "
                f"{str(self._digest)[:16]}: give that teacher (--model.teacher), or start a new run"
            )
        super().on_load_checkpoint(checkpoint)


register_task("distillation_task", DistillationTask)


def _model_in(name: str) -> str:
    """Return the best checkpoint of a run folder; any other name as it is."""
    checkpoints = Path(name).expanduser() / "checkpoints"
    found = [checkpoints / file for file in ("best.ckpt", "last.ckpt") if (checkpoints / file).is_file()]
    return str(found[0]) if found and not (checkpoints.parent / "config.json").is_file() else name


def _digest_of(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 of tensors with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _some(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")


def _check_layer(net: nn.Module, layer: str, whose: str) -> None:
    known = [name for name, _ in net.named_modules() if name]
    if layer not in known:
        raise ValueError(
            f"features: the {whose}'s {type(net).__name__} has no layer {layer!r}{suggest(layer, known)}; the first are "
            f"{', '.join(known[:5])}"
        )


def _as_map(output: Any, layer: str, net: nn.Module) -> Tensor:
    """Return an output as a map ``(B, C, H, W)``; a vector ``(B, C)`` has one pixel."""
    if output is None:
        raise ValueError(f"features: {type(net).__name__} does not use its layer {layer!r}: name one that it does")
    if not isinstance(output, Tensor) or output.ndim not in (2, 4):
        what = f"of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ValueError(
            f"features: the output of {layer!r} of {type(net).__name__} must be (B, C, H, W) or (B, C), got {what}: name another "
            "layer"
        )
    return output if output.ndim == 4 else output[:, :, None, None]


@contextmanager
def _outputs_of(net: nn.Module, layers: list[str]) -> Iterator[dict[str, Any]]:
    """Keep the last output of each layer."""
    outputs: dict[str, Any] = {}

    def keeper(name: str) -> Any:
        return lambda layer, inputs, output: outputs.__setitem__(name, output)

    handles = [net.get_submodule(name).register_forward_hook(keeper(name)) for name in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()

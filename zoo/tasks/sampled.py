"""Tasks whose nets make examples from noise, and how these samples are judged."""

from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from zoo.blocks.modes import evaluating
from zoo.create import load
from zoo.drawing import images
from zoo.metrics.samples import FrechetDistance, Shares, entropy, mode_of, num_reached, share_within
from zoo.model import Makes, Reads
from zoo.tasks.base import TaskArguments, input_of
from zoo.tasks.generative import GenerativeTask, Output

SIGMAS = 4  # a sample within so many standard deviations of a center is of high quality
_CHUNK = 512  # samples made at once
JUDGED_SEED = 1  # seed of the samples that are judged; those that are shown have 0


class SampledArguments(TaskArguments, total=False):
    """Arguments of :class:`SampledTask` but the net."""

    judge: str | None
    num_judged: int
    output: Output


class SampledTask(GenerativeTask):
    """A task whose net makes examples from noise; each evaluation makes ``num_judged`` of always the same noise and judges them.

    - Data with known ``centers`` and ``sigma`` (a mixture of Gaussians): ``high_quality``, the share of samples within 4 sigma of a
      center; ``modes``, the number of centers that get at least a tenth of their fair share of all samples, within 4 sigma.
    - With a ``judge``, a classifier of the same data: ``frechet``, the Frechet distance between its pooled features of the real
      examples of the evaluation and of the samples, which decides which checkpoint is best; ``judged_acc``, the share of samples
      that it assigns to the class they were made for (conditional models: all classes equally often), else ``classes``, the
      number of classes with at least a tenth of their fair share of samples, and ``class_entropy``, in nats, of their shares.

    The metrics do not depend on the number of processes. The judge is no part of the model, nor of its checkpoints: give it to
    ``zoo.load`` too.

    Args:
        net: ``(z, y)`` -> examples, as :class:`zoo.blocks.Adversaries`, with ``latent_dim`` and ``num_classes`` (0:
            unconditional, y is None).
        judge: What :func:`zoo.load` takes: a bundled name, a folder, a checkpoint; a convolutional classifier. None: no judge.
        num_judged: Number of samples made for each evaluation, >= 2.
        output: See :class:`~zoo.tasks.generative.GenerativeTask`.
        task: Arguments of :class:`zoo.Task`.

    Raises:
        ValueError: An argument out of its range, or a judge that cannot judge these data.
    """

    other_sources = ("judge",)
    _judge: Any = None
    _centers: Tensor | None = None
    _sigma = 0.0

    def __init__(
        self,
        net: nn.Module,
        judge: str | None = None,
        num_judged: int = 2500,
        output: Output = "linear",
        **task: Unpack[TaskArguments],
    ) -> None:
        if num_judged < 2:
            raise ValueError(f"num_judged must be 2 or more, got {num_judged}")
        super().__init__(net, output=output, **task)
        self.judge = judge

    @property
    def reads(self) -> Reads:
        return "nothing"

    @property
    def samples(self) -> Makes:
        return self.data_kind

    @property
    def sample_options(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("label",) if self.conditional else ()

    # The forward pass -----------------------------------------------------------------------------------------------

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return examples in units of the data, of noise ``(B, latent_dim)`` and, if the net is conditional, classes ``(B,)``."""
        return self.to_data(self.net(z, y) if self.conditional else self.net(z))

    output_meaning = "new examples (B, ...), in units of the data, a function of the noise"

    def outputs(self, z: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Return ``samples``, in units of the data, of noise ``(B, latent_dim)``."""
        return {"samples": self(z, y)}

    def forward_args(self, batch: Any) -> tuple[Any, ...]:
        """Return fixed noise for as many examples, and their classes if the net is conditional."""
        z = self.noise(len(batch[0]))
        return (z, batch[1]) if self.conditional else (z,)

    def statistics_args(self, batch: Any, number: int) -> tuple[Any, ...]:
        """Return what :meth:`forward` takes for the statistics of batch norms: as :meth:`forward_args`, with other noise for each
        number of a batch, and other noise than samples have ("standing statistics": Brock et al. 2019, arXiv:1809.11096).
        """
        _, *classes = self.forward_args(batch)
        return (self.noise(len(batch[0]), seed=2**31 + number), *classes)

    def example_inputs(self, batch_size: int = 1) -> tuple[Any, ...]:
        z = torch.zeros(batch_size, self.net.latent_dim, device=self.mean.device, dtype=self.net_dtype)
        classes = torch.zeros(batch_size, dtype=torch.long, device=self.mean.device)
        return (z, classes) if self.conditional else (z,)

    def noise(self, count: int, seed: int = 0) -> Tensor:
        """Return standard normal noise ``(count, latent_dim)``, a function of the seed."""
        drawn = torch.randn(count, self.net.latent_dim, generator=torch.Generator().manual_seed(seed))
        return drawn.to(self.mean.device, self.net_dtype)

    def sample(self, count: int, y: int | Tensor | None = None, seed: int = 0) -> Tensor:
        """Return examples of noise that is a function of the seed, made in evaluation mode: ``(count, *input_shape)``.

        Args:
            count: Number of examples, >= 1.
            y: Conditional nets: the class of all, or of each ``(count,)``; None takes all classes in turn.
            seed: Seed of the noise.

        Raises:
            ValueError: No example, classes for an unconditional net, or a class that does not exist.
        """
        if count < 1:
            raise ValueError(f"count must be 1 or more, got {count}")
        return self._make(self.noise(count, seed), self.classes(count, y))

    def interpolate(self, z0: Tensor, z1: Tensor, steps: int = 8, y: int | Tensor | None = None) -> Tensor:
        """Return examples along the great circle between noises: ``(B, latent_dim)`` twice -> ``(B, steps, *input_shape)``.

        Normal noise lies near a sphere, which a straight line would leave (White 2016, arXiv:1609.04468).
        """
        cosine = nn.functional.cosine_similarity(z0, z1, dim=1).clamp(-1 + 1e-6, 1 - 1e-6)
        angle = cosine.acos()[:, None, None]  # (B, 1, 1)
        t = torch.linspace(0, 1, steps, device=z0.device, dtype=z0.dtype)[None, :, None]
        path = (((1 - t) * angle).sin() * z0[:, None] + (t * angle).sin() * z1[:, None]) / angle.sin()
        classes = self.classes(len(z0), y)
        each = None if classes is None else classes.repeat_interleave(steps)
        return self._make(path.flatten(0, 1), each).unflatten(0, (-1, steps))

    def _make(self, z: Tensor, y: Tensor | None) -> Tensor:
        with evaluating(self):
            chunks = range(0, max(len(z), 1), _CHUNK)
            return torch.cat([self(z[i : i + _CHUNK], None if y is None else y[i : i + _CHUNK]) for i in chunks])

    def render(self, batch: Any) -> dict[str, Any]:
        """Return ``samples`` of always the same noise and ``interpolation``; of a conditional net a row a class; or points of the
        plane over those of the batch."""
        x = input_of(batch)
        if x.shape[1:] == (2,):
            return {"samples": images.clouds(x, self.sample(2000))}
        if not images.are_images(x):
            return {}
        if self.conditional:
            rows = torch.arange(min(self.net.num_classes, 20)).repeat_interleave(8)
            return {"samples": images.image_wall(self.sample(len(rows), rows), columns=8)}
        start, end = self.noise(8, seed=2).chunk(2)
        return {
            "samples": images.image_wall(self.sample(64)),
            "interpolation": images.image_wall(self.interpolate(start, end).flatten(0, 1), columns=8),
        }

    # Evaluation -----------------------------------------------------------------------------------------------------

    @property
    def monitor(self) -> tuple[str, str] | None:  # type: ignore[override]
        """The judge's distance; None without a judge: then no checkpoint is better than the last."""
        return ("val/frechet", "min") if self.judge else None

    def setup(self, stage: str) -> None:
        """Copy the centers from the data, and load the judge, where there is something to judge."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        self._centers, self._sigma = getattr(data, "centers", None), getattr(data, "sigma", 0.0)
        if self.judge and self._judge is None and stage != "predict":
            judge: Any = load(self.judge).requires_grad_(False)
            check_judge(judge, self.judge, self.input_shape)
            self.__dict__["_judge"] = judge  # no submodule

    def build_metrics(self) -> dict[str, Metric]:
        """Return the metrics listed above; none where there is nothing to judge by."""
        metrics: dict[str, Metric] = {}
        if self._centers is not None:
            metrics["modes"] = Shares(len(self._centers), num_reached)
            metrics["high_quality"] = Shares(len(self._centers), share_within)
        if self._judge is not None:
            self._judge.to(self.device)
            metrics["frechet"] = FrechetDistance(self._judge.net.num_features)
            metrics["judged_acc"] = MeanMetric()
            metrics["classes"] = Shares(self._judge.num_classes, num_reached)
            metrics["class_entropy"] = Shares(self._judge.num_classes, entropy)
            for name in ("classes", "class_entropy") if self.conditional else ("judged_acc",):
                del metrics[name]
        return metrics

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        """Add real examples; those of weight 0 do not count."""
        if "frechet" in metrics:
            x, _, *rest = batch
            metrics["frechet"].update(self._look(x if not rest else x[rest[0] > 0])[0], real=True)

    def _look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The judge's pooled features ``(B, D)`` and labels ``(B,)``."""
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            x = self._judge.standardize(x.float())
            return self._judge.net.features(x)[-1].mean(dim=(-2, -1)), self._judge.net(x).argmax(dim=1)

    def _end_evaluation(self, stage: str) -> None:
        if self.metrics:
            self._add_samples(self.metrics)
        super()._end_evaluation(stage)

    def _add_samples(self, metrics: dict[str, Metric]) -> None:
        count, rank, ranks = self.hparams["num_judged"], self.global_rank, self.trainer.world_size
        y = self.classes(count, None)
        y = None if y is None else y[rank::ranks]
        x = self._make(self.noise(count, JUDGED_SEED)[rank::ranks], y)
        if self._centers is not None:
            modes = mode_of(x, self._centers.to(x.device), SIGMAS * self._sigma)
            metrics["modes"].update(modes)
            metrics["high_quality"].update(modes)
        for part in range(0, len(x), 500) if self._judge is not None else ():
            features, labels = self._look(x[part : part + 500])
            metrics["frechet"].update(features, real=False)
            if y is not None:
                metrics["judged_acc"].update((labels == y[part : part + 500]).float())
            else:
                metrics["classes"].update(labels)
                metrics["class_entropy"].update(labels)


def check_judge(judge: Any, name: str, shape: tuple[int, ...] | None) -> None:
    """Refuse a model that cannot judge examples of this shape.

    Raises:
        ValueError: No convolutional classifier, or one of other examples.
    """
    if not hasattr(judge.net, "features") or getattr(judge, "num_classes", None) is None:
        raise ValueError(
            f"judge must be a convolutional classifier, whose features are compared, got {type(judge).__name__} from {name}"
        )
    if shape is not None and judge.input_shape is not None and shape != judge.input_shape:
        raise ValueError(
            f"the judge {name} knows examples of shape {judge.input_shape}, the data have {shape}: give a judge that was trained "
            f"on these data"
        )

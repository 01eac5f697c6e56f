"""Tasks whose nets make examples from noise, and how these samples are judged."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from zoo.tasks.gallery import render_samples
from zoo.tasks.generative import GenerativeTask, at_rest
from zoo.tasks.quality import FrechetDistance, Shares, entropy, found, mode_of, within

SIGMAS = 4  # a sample within so many standard deviations of a center is of high quality
_CHUNK = 512  # samples made at once
JUDGED_SEED = 1  # of the samples that are judged; those that are shown have 0


class SampledTask(GenerativeTask):
    """A task whose net makes examples from noise; each evaluation makes ``num_judged`` of always the same noise and judges them.

    - Data with known ``centers`` and ``sigma`` (a mixture of Gaussians): ``high_quality``, the share of samples within 4 sigma of a
      center; ``modes``, the number of centers that get at least a tenth of their fair share of all samples, within 4 sigma.
    - With a ``judge``, a classifier of the same data: ``frechet``, the Frechet distance between its pooled features of the real
      examples of the evaluation and of the samples, which decides which checkpoint is best; ``judged_acc``, the share of samples
      that it gives the class they were asked for (conditional models: all classes equally often), else ``classes``, the number it
      sees in at least a tenth of their fair share of samples, and ``class_entropy``, in nats, of what it sees.

    The metrics do not depend on how many processes evaluate. The judge is no part of the model, nor of its checkpoints.

    Args:
        net: ``(z, y)`` -> examples, as :class:`zoo.blocks.Adversaries`, with ``latent_dim`` and ``num_classes`` (0:
            unconditional, y is None).
        judge: what :func:`zoo.load` takes: a bundled name, a folder, a checkpoint; a convolutional classifier. None: no judge.
        num_judged: samples made for each evaluation, >= 2.
        task: arguments of :class:`zoo.tasks.generative.GenerativeTask`.

    Raises:
        ValueError: an argument out of its range, or a judge that cannot judge these data.
    """

    _judge: Any = None
    _centers: Tensor | None = None
    _sigma = 0.0

    def __init__(self, net: nn.Module, judge: str | None = None, num_judged: int = 2500, **task: Any) -> None:
        if num_judged < 2:
            raise ValueError(f"num_judged must be 2 or more, got {num_judged}")
        super().__init__(net, **task)

    # The forward pass -----------------------------------------------------------------------------------------------

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Examples in units of the data from noise ``(B, latent_dim)`` and, if the net is conditional, classes ``(B,)``."""
        return self.to_data(self.net(z, y) if self.conditional else self.net(z))

    def forward_args(self, batch: Any) -> tuple[Any, ...]:
        """Fixed noise for as many examples, and their classes if the net is conditional."""
        z = self.noise(len(batch[0]))
        return (z, batch[1]) if self.conditional else (z,)

    def noise(self, count: int, seed: int = 0) -> Tensor:
        """Standard normal noise ``(count, latent_dim)`` that is a function of the seed."""
        drawn = torch.randn(count, self.net.latent_dim, generator=torch.Generator().manual_seed(seed))
        return drawn.to(self.mean)

    def sample(self, count: int, y: int | Tensor | None = None, seed: int = 0) -> Tensor:
        """Examples from noise that is a function of the seed, in evaluation mode: ``(count, *input_shape)``.

        Args:
            count: examples, >= 1.
            y: conditional nets: the class of all, or ``(count,)`` classes; None takes all classes in turn.
            seed: of the noise.

        Raises:
            ValueError: no example, classes for a net that knows none, or other than it knows.
        """
        if count < 1:
            raise ValueError(f"count must be 1 or more, got {count}")
        return self._make(self.noise(count, seed), self.classes(count, y))

    def interpolate(self, z0: Tensor, z1: Tensor, steps: int = 8, y: int | Tensor | None = None) -> Tensor:
        """Examples along the great circle from one noise to another: ``(B, latent_dim)`` twice -> ``(B, steps, *input_shape)``.

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
        with at_rest(self):
            chunks = range(0, max(len(z), 1), _CHUNK)
            return torch.cat([self(z[i : i + _CHUNK], None if y is None else y[i : i + _CHUNK]) for i in chunks])

    def render(self, batch: Any) -> dict[str, Any]:
        """``samples``, of always the same noise: images, of a conditional net a row a class; or points over those of the batch."""
        return render_samples(self, batch if isinstance(batch, Tensor) else batch[0])

    # Evaluation -----------------------------------------------------------------------------------------------------

    @property
    def monitor(self) -> tuple[str, str] | None:  # type: ignore[override]
        """The judge's distance; without a judge no checkpoint is better than the last."""
        return ("val/frechet", "min") if self.hparams["judge"] else None

    def setup(self, stage: str) -> None:
        """Take the centers from the data, and find the judge, where there is something to judge."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        self._centers, self._sigma = getattr(data, "centers", None), getattr(data, "sigma", 0.0)
        if self.hparams["judge"] and self._judge is None and stage != "predict":
            from zoo.pretrained import load

            judge = load(self.hparams["judge"]).eval().requires_grad_(False)
            check_judge(judge, self.hparams["judge"], self.input_shape)
            self.__dict__["_judge"] = judge  # no submodule

    def build_metrics(self) -> dict[str, Metric]:
        """As the class says; none where there is nothing to judge by."""
        metrics: dict[str, Metric] = {}
        if self._centers is not None:
            metrics["modes"] = Shares(len(self._centers), found)
            metrics["high_quality"] = Shares(len(self._centers), within)
        if self._judge is not None:
            self._judge.to(self.device)
            metrics["frechet"] = FrechetDistance(self._judge.net.num_features)
            metrics["judged_acc"] = MeanMetric()
            metrics["classes"] = Shares(self._judge.num_classes, found)
            metrics["class_entropy"] = Shares(self._judge.num_classes, entropy)
            for name in ("classes", "class_entropy") if self.conditional else ("judged_acc",):
                del metrics[name]
        return metrics

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        """Add real examples; rows of weight 0 count nowhere."""
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
    """Refuse what cannot judge examples of this shape.

    Raises:
        ValueError: no convolutional classifier, or one of other examples.
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

"""What is worth looking at in an autoencoder: reconstructions, samples, the plane of its codes, ways between examples."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zoo.tasks import gallery

if TYPE_CHECKING:
    from zoo.tasks.generative import CodingTask
    from zoo.tasks.reconstruction import ReconstructionTask
    from zoo.tasks.variational import VariationalTask

_COLUMNS, _SIDE, _STEPS, _WAYS = 16, 16, 12, 6  # pairs, places of the plane, steps of a way, ways


def render_reconstruction(task: "ReconstructionTask", batch: Any) -> dict[str, Any]:
    """``reconstructions`` (below the input, a denoiser's corrupted one between); of two numbers ``codes`` and ``latent_grid``."""
    x, y = batch[0], batch[1]
    seen = task.corrupt(x)
    found: dict[str, Any] = {}
    if gallery.are_images(x):
        shown = [x, seen, task.reconstruct(seen)] if task.denoises else [x, task.reconstruct(x)]
        found["reconstructions"] = gallery.image_rows([rows[:_COLUMNS] for rows in shown])
    return found | _plane(task, x, y, lambda codes: task.latent_grid(_SIDE, codes)) | _ways(task, x, y)


def render_variational(task: "VariationalTask", batch: Any) -> dict[str, Any]:
    """``reconstructions``, ``samples`` of always the same codes, ``interpolation``; of 2-D codes ``codes``, ``latent_grid``."""
    x, y = batch[0], batch[1]
    if not gallery.are_images(x):
        return {"samples": gallery.clouds(x, task.sample(512))} if x.shape[1:] == (2,) else {}
    made = task.reconstruct(x[:_COLUMNS], y[:_COLUMNS])
    columns = task.net.num_classes if task.conditional else 8
    found = {
        "reconstructions": gallery.image_rows([x[:_COLUMNS], made]),
        "samples": gallery.image_wall(task.sample(8 * columns), columns),
    }
    return found | _plane(task, x, y, lambda _: task.latent_grid(_SIDE)) | _ways(task, x, y)


def _plane(task: "CodingTask", x: Tensor, y: Tensor, grid: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The codes of the examples, and what the places between them stand for."""
    if task.net.latent_dim != 2:
        return {}
    codes = task.encode(x, y)
    found = {"codes": gallery.codes(codes, y, task.class_names)}
    if gallery.are_images(x) and not task.conditional:
        found["latent_grid"] = gallery.image_wall(grid(codes), columns=_SIDE)
    return found


def _ways(task: "CodingTask", x: Tensor, y: Tensor) -> dict[str, Any]:
    """Each row from one example to another; where the net is told the class, it is that of the first."""
    count = min(_WAYS, len(x) // 2)
    if not gallery.are_images(x) or count == 0:
        return {}
    ways = task.interpolate(x[:count], x[count : 2 * count], _STEPS, y[:count] if task.conditional else None)
    return {"interpolation": gallery.image_wall(ways.flatten(0, 1), columns=_STEPS)}

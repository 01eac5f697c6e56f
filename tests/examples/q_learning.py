"""Q-learning in a 4x4 gridworld: Watkins 1989, "Learning from Delayed Rewards", with the target net of Mnih et al. 2015 (DQN).

There is no dataset: the data only give cells to begin games in, without end, and the task plays them. ``zoo fit -c grid.yaml``
trains it, ``zoo sample runs/grid/version_0 -n 1`` plays a game. This is ``grid.yaml``::

    seed_everything: 0
    model: {class_path: q_learning.QLearning, init_args: {lr: 1.0e-2}}
    data: {class_path: q_learning.GridworldDataModule}
    trainer: {max_epochs: -1, max_steps: 400, val_check_interval: 100, callbacks: [{class_path: callbacks.Samples}]}
"""

import copy
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Sampler
from torchmetrics import MeanMetric, Metric

import zoo
from datamodules import DataModule, Examples
from datamodules.samplers import generator_for
from zoo.losses import counted, weighted_mean
from zoo.tasks import Task, TaskArguments

MAP = """\
. . . .
. # # #
. . . .
# # # G"""
GRID = MAP.split()
SIDE, CELLS, GOAL = 4, 16, GRID.index("G")
ACTIONS = {"up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}  # rows down, columns to the right


def outcomes() -> Tensor:
    """Return the cell that each action leads to, ``(16, 4)``; who runs into a wall or out of the grid stays."""
    table = torch.arange(CELLS)[:, None].repeat(1, len(ACTIONS))
    for cell, sign in enumerate(GRID):
        for k, (down, right) in enumerate(ACTIONS.values()):
            row, column = cell // SIDE + down, cell % SIDE + right
            if sign != "#" and 0 <= row < SIDE and 0 <= column < SIDE and GRID[row * SIDE + column] != "#":
                table[cell, k] = row * SIDE + column
    return table


def distances() -> Tensor:
    """Return the least number of steps from each cell to the goal, ``(16,)``; 16 where there is no way."""
    steps = torch.full((CELLS,), CELLS)
    steps[GOAL] = 0
    for _ in range(CELLS):
        steps = torch.minimum(steps, 1 + steps[outcomes()].amin(dim=1))  # a step more than from the best neighbor
    return steps


# Data -------------------------------------------------------------------------------------------------------------------


class Starts(Sampler[int]):
    """Indices of the cells where games begin, without end: a function of the arguments, so that a run resumes exactly."""

    def __init__(self, count: int, batch_size: int, *, seed: int, epoch: int, start: int, num_replicas: int, rank: int):
        self.count, self.global_batch, self.key, self.start = count, batch_size * num_replicas, (seed, epoch), start
        self.share = slice(rank, None, num_replicas)

    def __iter__(self) -> Iterator[int]:
        batch = self.start
        while True:
            draws = torch.randint(self.count, (self.global_batch,), generator=generator_for(*self.key, batch, 1))
            yield from draws[self.share].tolist()
            batch += 1


class GridworldDataModule(DataModule):
    """Cells of the grid to begin games in; a batch is ``(cell, distance)``, the distance to the goal being for the test only.

    There is no epoch: give the trainer ``max_epochs=-1`` and ``max_steps``. Training begins games in some of the cells,
    validation in the others, the test in all.

    Args:
        batch_size: Number of games played at once.
    """

    input_shape = ()  # a cell is one number

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__(batch_size=batch_size, val_fraction=0.25)

    def examples(self, part: Literal["train", "test"]) -> Examples:
        cells = torch.tensor([cell for cell, sign in enumerate(GRID) if sign == "."])
        return Examples(cells, distances()[cells])

    def make_sampler(self, dataset: Examples, **position: int) -> Sampler[int]:
        return Starts(len(dataset), self.batch_size, **position)


# The net ----------------------------------------------------------------------------------------------------------------


class QNet(nn.Module):
    """Two dense layers over the cell as a one-hot vector.

    Args:
        width: Size of the hidden layer.

    Shape:
        int64 ``(B,)`` -> the value of each action ``(B, 4)``.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.fc1 = nn.Linear(CELLS, width)
        self.fc2 = nn.Linear(width, len(ACTIONS))

    def forward(self, cell: Tensor) -> Tensor:
        one_hot = F.one_hot(cell, CELLS).to(self.fc1.weight.dtype)  # (B,) -> (B, 16)
        return self.fc2(F.relu(self.fc1(one_hot)))


# The task ---------------------------------------------------------------------------------------------------------------


class Steps(NamedTuple):
    """What was played, ``(B, T)`` each, a row a game; ``counts`` is 1.0 for a step that was made, 0.0 after the goal."""

    cell: Tensor
    action: Tensor
    reached: Tensor
    counts: Tensor


class QLearning(Task):
    """:class:`QNet`, trained by the games that it plays itself: a step costs 1, and the goal ends a game.

    In each training step the model plays ``horizon`` steps from the given cells, of which a share ``epsilon`` at random, and
    learns that an action is worth -1 plus the best that the target net expects of the cell it leads to. Evaluation logs
    ``regret``, the steps a game takes more than it has to (a game is given up after 16), and ``solved``, the share of games that
    take the shortest path.

    Args:
        width: See :class:`QNet`.
        epsilon: Share of random actions in training, in [0, 1].
        horizon: Number of steps played from each cell, >= 1.
        target_every: Number of optimizer steps after which the target net becomes a copy of the net, >= 1.
        task: Arguments of :class:`zoo.Task`.

    Shape:
        batch: ``(cell, distance)`` or ``(cell, distance, weight)``, ``(B,)`` each.

    Raises:
        ValueError: An argument out of its range.
    """

    outcomes: Tensor
    reads = "nothing"
    samples = "episode"
    sample_options = ("epsilon",)
    monitor = ("val/regret", "min")

    def __init__(
        self,
        width: int = 64,
        epsilon: float = 0.5,
        horizon: int = 4,
        target_every: int = 10,
        **task: Unpack[TaskArguments],
    ) -> None:
        if not (0 <= epsilon <= 1 and horizon >= 1 and target_every >= 1):
            raise ValueError(
                f"epsilon must be in [0, 1], horizon and target_every 1 or more, got {epsilon}, {horizon}, {target_every}"
            )
        super().__init__(QNet(width), **task)

    def build_parts(self) -> None:
        self.target = copy.deepcopy(self.net).requires_grad_(
            False
        )  # kept and saved, not trained: no part of trained_parts

    def register_task_buffers(self) -> None:
        super().register_task_buffers()
        self.register_buffer("outcomes", outcomes())

    def example_inputs(self, batch_size: int = 1) -> tuple[Tensor]:
        return (torch.zeros(batch_size, dtype=torch.long, device=self.device),)

    @torch.no_grad()
    def play(self, cell: Tensor, steps: int, epsilon: float, generator: torch.Generator | None = None) -> Steps:
        """Play from the cells ``(B,)``, a share ``epsilon`` of the actions at random."""
        played = []
        for _ in range(steps):
            counts = (cell != GOAL).float()
            action = self(cell).argmax(dim=1)
            if epsilon:
                random = torch.rand(len(cell), 2, generator=generator, device=cell.device)
                action = torch.where(random[:, 0] < epsilon, (random[:, 1] * len(ACTIONS)).long(), action)
            reached = torch.where(cell == GOAL, cell, self.outcomes[cell, action])
            played.append(Steps(cell, action, reached, counts))
            cell = reached
        return Steps(*(torch.stack(part, dim=1) for part in zip(*played, strict=True)))

    def training_losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], int | Tensor]:
        cell, _, *weight = batch
        steps = self.play(cell, self.hparams["horizon"], self.hparams["epsilon"])
        counts = steps.counts * weight[0][:, None] if weight else steps.counts
        value = self(steps.cell.flatten()).gather(1, steps.action.flatten()[:, None])  # (B T, 4) -> (B T, 1)
        with torch.no_grad():
            future = self.target(steps.reached.flatten()).amax(dim=1) * (steps.reached.flatten() != GOAL)
        losses = F.smooth_l1_loss(value.squeeze(1), future - 1, reduction="none").view_as(counts)
        loss, count = weighted_mean(losses, counts)
        return loss, {"loss": loss}, count

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.trainer.global_step % self.hparams["target_every"] == 0:
            self.target.load_state_dict(self.net.state_dict())

    def build_metrics(self) -> dict[str, Metric]:
        return {"regret": MeanMetric(), "solved": MeanMetric()}

    def update_metrics(self, metrics: dict[str, Metric], batch: Any) -> None:
        cell, distance, *weight = batch
        taken = self.play(cell, CELLS, epsilon=0.0).counts.sum(dim=1)
        regret = taken - distance
        metrics["regret"].update(counted(regret, *weight))
        metrics["solved"].update(counted((regret == 0).float(), *weight))

    def render(self, batch: Any) -> dict[str, Any]:
        best = self(torch.arange(CELLS, device=self.device)).argmax(dim=1).tolist()
        signs = ["↑→↓←"[action] if sign == "." else sign for action, sign in zip(best, GRID, strict=True)]
        return {"policy": "\n".join(" ".join(signs[k : k + SIDE]) for k in range(0, CELLS, SIDE))}

    def sample(self, count: int, seed: int = 0, epsilon: float = 0.0) -> list[str]:
        """Play games from the upper left cell, and return what was done in each.

        Args:
            count: Number of games.
            seed: Seed of the random actions.
            epsilon: Share of random actions, in [0, 1].
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        steps = self.play(torch.zeros(count, dtype=torch.long, device=self.device), CELLS, epsilon, generator)
        names, lengths = list(ACTIONS), steps.counts.sum(dim=1).long().tolist()
        games = zip(lengths, steps.action.tolist(), strict=True)
        return [f"{length} steps: {' '.join(names[k] for k in actions[:length])}" for length, actions in games]


zoo.register("q_learning", QLearning)
